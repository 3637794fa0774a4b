"""Reads labelled data sets from files, folders and tables."""
