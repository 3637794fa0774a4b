"""Runs a method: its directory, its processes, its worker."""
