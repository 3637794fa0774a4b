"""Rows of trainings, side by side on the same data."""
