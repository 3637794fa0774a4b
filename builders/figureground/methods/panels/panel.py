"""Panels of the report: pictures and facts with which a method shows how it made a sample or a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from PIL import Image

from figureground.core.errors import printable
from figureground.shards.shard import STAGES
from figureground.shards.stages import DONE
from figureground.sources.images import UnreadableImage

Draw = Callable[[], Image.Image]
"""Draws a picture, RGB or L. Raises Missing or UnreadableImage."""


class Picture(NamedTuple):
    """A picture in a panel."""

    title: str
    image: Image.Image
    """RGB or L, in its own size."""


class Panel(NamedTuple):
    """Pictures and facts under one title."""

    title: str
    pictures: tuple[Picture, ...]
    facts: tuple[tuple[str, str], ...]
    """Names and values, plain text, without paths of this machine."""


class Missing(Exception):
    """Raised for an input of a panel that is missing or has changed; its message names it relative to its root."""


def draw_panel(title: str, draws: Mapping[str, Draw], facts: Iterable[tuple[str, str]]) -> Panel:
    """Return a panel with the pictures that can be drawn; further facts say why the others are missing.

    Args:
        title: Title of the panel.
        draws: Draws each picture, by title.
        facts: Names and values.
    """
    pictures, missing = [], []
    for name, draw in draws.items():
        try:
            pictures.append(Picture(name, draw()))
        except Missing as error:
            missing.append((name, f"missing: {error}"))
        except UnreadableImage as error:
            file = f"{printable(error.path.parent.name)}/{printable(error.path.name)}"
            missing.append((name, f"missing: {file}: {error.reason}"))
    return Panel(title, tuple(pictures), (*facts, *missing))


def missing_stage_fact(name: str) -> tuple[str, str]:
    """Return the fact that a stage is missing."""
    return f"stage {name}", f"missing: {missing_stage_error(name)}"


def missing_stage_error(name: str) -> Missing:
    """Return the error for a stage that is missing."""
    return Missing(f"{STAGES}/{name}/{DONE} is gone, damaged or of another recipe")
