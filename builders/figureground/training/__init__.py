"""State and loss curves of unfinished trainings."""
