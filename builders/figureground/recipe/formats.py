"""Registry of the formats that shards are written in, of this package and of others.

A recipe names formats; their classes are above it, in `shards.formats`. A package adds one with an entry point in the
group `figureground.formats`, such as `mine = "mypackage.mine:Mine"`; a program adds one with `FORMATS.add`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from figureground.core.registry import Registry, check_subclass

if TYPE_CHECKING:
    from figureground.shards.formats.format import Format

FORMATS: Registry[type[Format]] = Registry(
    "figureground.formats", "format",
    {
        "parquet": "figureground.shards.formats.parquet:Parquet",
        "webdataset": "figureground.shards.formats.tar:Tar",
    },
    check_subclass("figureground.shards.formats.format:Format", "NAME"),
)  # fmt: skip
"""Where several formats would do, the first one is used."""

DEFAULT_FORMATS = ("parquet", "webdataset")
"""Formats that a shard is written in unless a recipe names others."""
