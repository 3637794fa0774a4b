"""The state of an unfinished training, and its curves."""
