"""Settings as a run shows them: JSON without directories and secrets."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

_SECRET = re.compile(r"api_?key|passw|secret|credential|access_?token", re.IGNORECASE)


def sanitise(value: Any) -> Any:
    """Return a value as JSON-able data that names no place: of paths and URLs, only the last part is left.

    Entries of mappings whose names say that they are secret are left out. Text is a path if it is absolute, begins
    with `~`, `./` or `../`, or has a slash and exists.
    """
    if isinstance(value, Mapping):
        return {str(name): sanitise(entry) for name, entry in value.items() if not _SECRET.search(str(name))}
    if isinstance(value, list | tuple | set | frozenset):
        return [sanitise(entry) for entry in value]
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    return _strip_location(str(value))


def _strip_location(text: str) -> str:
    if re.match(r"[A-Za-z][\w+.-]*://", text):
        return PurePath(urlsplit(text).path).name
    if text.startswith(("/", "~", "./", "../")) or ("/" in text and os.path.exists(text)):
        return PurePath(text).name
    return text
