"""Scorers, one a module."""
