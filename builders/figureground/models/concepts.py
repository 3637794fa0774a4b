"""Fine-tuned concepts on disk: what a finished one is, read and verified without torch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import read_json
from figureground.models.weights import check_files, fingerprint
from figureground.sources.images import content_hash

CONCEPT = "concept.json"
"""Written last: a directory that has it holds a finished concept."""
CHECKPOINT = "checkpoint"
"""A whole checkpoint in diffusers' layout, where all weights were trained."""
LORA = "lora.safetensors"
"""Adapters that `load_lora_weights` reads, where those were trained."""
FORMAT = 1
_AGAIN = "Remove {folder}, and give the command that made it again."


@dataclass(frozen=True)
class Concept:
    """A finished concept: a checkpoint, or adapters for one, that know what [V] stands for."""

    folder: Path
    label: str
    """The class that the references make classifiers say."""
    noun: str
    """What the references truly show."""
    identifier: str
    """The word [V] of prompts."""
    checkpoint: str
    """What it was learned on top of: `pocket`, a Hub id, or a directory as seen from the working directory."""
    revision: str | None
    kind: str
    """`checkpoint` or `lora`."""
    sha256: str
    """Of the weights, those of the base included: the same concept wherever it lies."""
    facts: dict[str, Any]
    """All that `concept.json` says."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def read_concept(folder: Path) -> Concept:
    """Reads a finished concept and compares its weights with what it says of them.

    Raises:
        FiguregroundError: There is none, it isn't finished, or its files aren't what they were.
    """
    path = folder / CONCEPT
    if not path.is_file():
        if not folder.is_dir():
            raise FiguregroundError(f"concept {folder}: there is no such directory.")
        raise FiguregroundError(f"concept {folder} isn't finished: give the command that fine-tunes it again.")
    try:
        facts = read_json(path)
        base, kind, sha256 = facts["base"], facts["kind"], facts["sha256"]
        made = Concept(
            folder, facts["label"], facts["noun"], facts["identifier"], _seen_from_here(base, folder),
            base["revision"], kind, sha256, facts,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(
            f"concept {folder}: its {CONCEPT} is damaged ({error}). {_AGAIN.format(folder=folder)}"
        ) from None
    if facts["format"] != FORMAT:
        raise FiguregroundError(f"concept {folder}: its format is {facts['format']}, and this version reads {FORMAT}.")
    if hash_weights(folder, kind, base["fingerprint"]) != sha256:
        raise FiguregroundError(
            f"concept {folder}: its weights aren't those that {CONCEPT} says. {_AGAIN.format(folder=folder)}"
        )
    return made


def hash_weights(folder: Path, kind: str, base: str) -> str:
    """SHA-256 of a concept's weights; `base` is the fingerprint of the checkpoint that adapters are for.

    Raises:
        FiguregroundError: Files are missing or cut short.
    """
    if kind == "lora":
        if not (folder / LORA).is_file():
            raise FiguregroundError(f"concept {folder} has no {LORA}. {_AGAIN.format(folder=folder)}")
        return hashlib.sha256(f"{base}\n{content_hash(folder / LORA)}".encode()).hexdigest()
    try:
        check_files(folder / CHECKPOINT, str(folder / CHECKPOINT))
    except FiguregroundError as error:
        said = str(error).split(". ")[0]
        raise FiguregroundError(f"concept {folder} is damaged: {said}. {_AGAIN.format(folder=folder)}") from None
    return fingerprint(str((folder / CHECKPOINT).resolve()), None).removeprefix("sha256:")


def _seen_from_here(base: dict[str, Any], folder: Path) -> str:
    """A base that is a directory is kept relative to the concept."""
    return base["checkpoint"] if base["place"] is None else os.path.normpath(folder / base["place"])
