"""Parses the name of a recipe's segmenter, without opening any model."""

from __future__ import annotations

from pathlib import Path

from figureground.core.errors import FiguregroundError
from figureground.models.bundled import SEGMENTER
from figureground.models.weights import fingerprint_files

POCKET = "pocket"
"""Name of the bundled segmenter."""
BOXES, MASKS = "grounding-dino:", "+sam:"
"""Prefix of a detector's name, and separator between it and the model that segments its detections."""


def models_of(name: str) -> list[str]:
    """Return the models of a segmenter: one, or A and B for `grounding-dino:A+sam:B`.

    Raises:
        FiguregroundError: One of the two models is missing.
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
    """Return a segmenter's name fit for publication: directories are reduced to their own name."""
    short = [Path(each).resolve().name if (each := _place(model)) else model for model in models_of(name)]
    return f"{BOXES}{short[0]}{MASKS}{short[1]}" if len(short) == 2 else short[0]


def contents_of(name: str) -> list[str]:
    """Return each model's identity: `sha256:…` over the files of a directory or the bundled model, else the id."""
    found = []
    for model in models_of(name):
        place = SEGMENTER if model == POCKET else _place(model)
        found.append(fingerprint_files(place) if place is not None and place.is_dir() else model)
    return found


def _place(model: str) -> Path | None:
    path = Path(model).expanduser()
    return path if model != POCKET and path.is_dir() else None
