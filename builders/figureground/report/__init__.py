"""Sheets of a dataset's images."""
