"""Classifiers that look at pictures: as judges, and as networks whose features a loss or an analysis compares."""
