"""Remedies and limits that the lines of a check have in common."""

from __future__ import annotations

from figureground.shards.shard import Shard

RERUN = "rerun the command that made the dataset"
REWRITE = "Rerun the command that made the dataset: it is rewritten"
"""Remedy for a damaged index, card or Croissant file."""
MAKE_READABLE = "Change its permissions or repair its disk, and check again"
"""Remedy for a file that may be whole, but can't be read."""
MAX_NAMED = 3
"""Number of examples (pairs, keys or shards) that a line names."""


def advise_rebuild(shard: Shard) -> str:
    """Return the remedy for a damaged shard, as a sentence."""
    return f"Delete {shard.path('marker')} and {RERUN}: the shard is rebuilt."
