"""What else a dataset teaches besides its labels: dependence, leaks, duplicates, and distance from photographs."""
