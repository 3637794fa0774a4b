"""Exporting finished datasets as files, in the layouts that other people's code reads."""
