"""Checks and opens third-party models."""
