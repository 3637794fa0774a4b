"""Comparison of training methods on the same data."""
