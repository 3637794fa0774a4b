"""Audit of what a dataset teaches besides its labels: dependence, leaks, duplicates, distance from photographs."""
