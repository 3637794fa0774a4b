"""Checks of a finished dataset: its files, shards and card."""
