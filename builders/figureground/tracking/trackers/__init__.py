"""Trackers, a module each; the packages that they use are imported when a run begins."""
