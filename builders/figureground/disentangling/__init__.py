"""Features in which foreground and background are apart: separators, probes, and the task with a broken correlation."""
