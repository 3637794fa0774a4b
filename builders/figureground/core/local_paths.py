"""Paths on this machine, which nothing published may contain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

_LOCAL_PATH = re.compile(r"((file:|[A-Za-z]:)?[\\/~]|\.\.[\\/]).*", re.DOTALL)


def strip_local_paths(value: Any) -> Any:
    """Return a setting fit for publication: paths on this machine are reduced to their last part."""
    if isinstance(value, Mapping):
        return {str(key): strip_local_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strip_local_paths(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and _LOCAL_PATH.fullmatch(value):
        return PureWindowsPath(value).name
    return value
