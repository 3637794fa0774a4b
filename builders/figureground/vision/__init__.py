"""Classifiers that look at images: as judges, and as networks whose features a loss or an analysis compares."""
