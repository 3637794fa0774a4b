"""Checks device names without torch."""

from __future__ import annotations

import re

from figureground.core.errors import RecipeError

_NAMES = re.compile(r"auto|cpu|(cuda|mps)(:\d{1,4})?")


def check_device(name: str, field: str = "device") -> None:
    """Raise RecipeError unless `name` is `auto` or a torch device: cpu, cuda, cuda:1, mps."""
    if not _NAMES.fullmatch(name):
        raise RecipeError(field, f"{name!r} is unknown; give auto, cpu, cuda, cuda:1 or mps.")
