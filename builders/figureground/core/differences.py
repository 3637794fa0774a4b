"""Differences between two JSON values, field by field, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def describe_differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return the differences of two JSON values, one line per field: `strength: 0.9, now 0.5`. Hashes come last."""
    changes = _find_differences(old, new, name)
    changes.sort(key=lambda change: _is_hash(change[1]) or _is_hash(change[2]))
    return [f"{field}: {_shorten(before)}, now {_shorten(after)}" for field, before, after in changes]


def _find_differences(old: Any, new: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            change
            for key in dict.fromkeys([*old, *new])
            for change in _find_differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if old == new else [(name, old, new)]


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(sha256:)?[0-9a-f]{32,}", value) is not None


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
