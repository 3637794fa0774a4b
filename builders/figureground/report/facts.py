"""Nested settings and provenance as names and short values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from figureground.core.errors import join_names


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested values as dotted names and short texts."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", join_names(value)
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
