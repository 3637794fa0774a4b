"""Tiny checkpoints."""

from shared_fixtures import checkpoints, sd1  # noqa: F401
