"""What a recipe says of the model that finds objects: its name, taken apart without opening anything."""

from __future__ import annotations

from pathlib import Path

from figureground.core.errors import FiguregroundError
from figureground.models.bundled import SEGMENTER
from figureground.models.weights import fingerprint_files

POCKET = "pocket"
"""The name of the bundled one."""
BOXES, MASKS = "grounding-dino:", "+sam:"
"""Before the name of a detector, and between it and the name of the model that cuts out what it found."""


def models_of(name: str) -> list[str]:
    """The models that a segmenter is made of: one, or of `grounding-dino:A+sam:B` A and B.

    Raises:
        FiguregroundError: One of the two isn't named.
    """
    if not name.startswith(BOXES):
        return [name]
    detector, _, masker = name.removeprefix(BOXES).partition(MASKS)
    if not detector or not masker:
        raise FiguregroundError(
            f"segmenter {name!r}: give both models, as in '{BOXES}ID_OR_DIRECTORY{MASKS}ID_OR_DIRECTORY'."
        )
    return [detector, masker]


def called(name: str) -> str:
    """The segmenter without places: a directory by its own name, which a dataset may publish."""
    short = [Path(each).resolve().name if (each := _place(model)) else model for model in models_of(name)]
    return f"{BOXES}{short[0]}{MASKS}{short[1]}" if len(short) == 2 else short[0]


def contents_of(name: str) -> list[str]:
    """What decides what is found: `sha256:…` over the files of the bundled one and of directories, the id of others."""
    found = []
    for model in models_of(name):
        place = SEGMENTER if model == POCKET else _place(model)
        found.append(fingerprint_files(place) if place is not None and place.is_dir() else model)
    return found


def _place(model: str) -> Path | None:
    path = Path(model).expanduser()
    return path if model != POCKET and path.is_dir() else None
