"""Differences between two JSON values, field by field, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return the differences of two JSON values, one line per field: `strength: 0.9, now 0.5`. Hashes come last."""
    found = _differences(old, new, name)
    found.sort(key=lambda each: _is_hash(each[1]) or _is_hash(each[2]))
    return [f"{field}: {_short(before)}, now {_short(after)}" for field, before, after in found]


def _differences(old: Any, new: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            each
            for part in dict.fromkeys([*old, *new])
            for each in _differences(old.get(part), new.get(part), f"{name}.{part}" if name else str(part))
        ]
    return [] if old == new else [(name, old, new)]


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(sha256:)?[0-9a-f]{32,}", value) is not None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
