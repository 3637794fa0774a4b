"""Paths on this machine, which nothing published may contain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

_MODEL = r"(?P<prefix>(clip|clipseg|grounding-dino|onnx|timm:local-dir):)?"
"""Prefix of a model's name, which a path may follow."""
_LOCAL_PATH = re.compile(_MODEL + r"(?P<path>((file:|[A-Za-z]:)?[\\/~]|\.\.[\\/]).*)", re.DOTALL)


def strip_local_paths(value: Any) -> Any:
    """Return a setting fit for publication: paths on this machine are reduced to their last part."""
    if isinstance(value, Mapping):
        return {str(key): strip_local_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strip_local_paths(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and (match := _LOCAL_PATH.fullmatch(value)):
        return (match["prefix"] or "") + PureWindowsPath(match["path"]).name
    return value
