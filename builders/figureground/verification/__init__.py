"""Models' scores of a dataset's labels."""
