"""Preview sheet and HTML report of a dataset."""
