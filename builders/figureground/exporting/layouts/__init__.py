"""Layouts of exported datasets, one module each."""
