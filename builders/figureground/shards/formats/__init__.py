"""Formats that shards are written in, one module each."""
