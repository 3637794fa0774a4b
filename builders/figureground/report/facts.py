"""Nested settings and provenance as names and short values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from figureground.core.errors import listed


def flat(said: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested values as dotted names and short texts."""
    for name, value in said.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{above}{name}", listed(value)
        else:
            yield f"{above}{name}", value if isinstance(value, str) else json.dumps(value)
