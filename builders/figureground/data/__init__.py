"""Labelled data sets that people have: what their files, folders and tables say."""
