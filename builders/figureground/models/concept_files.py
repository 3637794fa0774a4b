"""Reads and verifies fine-tuned concepts on disk, without torch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import read_json
from figureground.core.hashing import content_hash
from figureground.models.weights import check_files, fingerprint

CONCEPT = "concept.json"
"""Written last: its presence marks a finished concept."""
CHECKPOINT = "checkpoint"
"""Whole checkpoint in diffusers' layout, if all weights were trained."""
LORA = "lora.safetensors"
"""Adapters for `load_lora_weights`, if only adapters were trained."""
FORMAT = 1
_ADVICE = "Remove {folder}, and run the command that made it again."


@dataclass(frozen=True)
class Concept:
    """A finished concept: a checkpoint, or adapters for one, that have learned the meaning of [V]."""

    folder: Path
    label: str
    """The class that classifiers predict for the references."""
    noun: str
    """The noun for what the references actually show, in prompts."""
    identifier: str
    """The word [V] in prompts."""
    checkpoint: str
    """Base checkpoint: `pocket`, a Hub id, or a directory relative to the working directory."""
    revision: str | None
    kind: str
    """`checkpoint` or `lora`."""
    sha256: str
    """SHA-256 of the weights, including the base; independent of location."""
    facts: dict[str, Any]
    """Contents of `concept.json`."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def read_concept(folder: Path) -> Concept:
    """Read a finished concept and verify the hash of its weights.

    Raises:
        FiguregroundError: The concept is missing, unfinished, or its files have changed.
    """
    path = folder / CONCEPT
    if not path.is_file():
        if not folder.is_dir():
            raise FiguregroundError(f"concept {folder}: no such directory.")
        raise FiguregroundError(f"concept {folder} isn't finished: run the command that fine-tunes it again.")
    try:
        facts = read_json(path)
        base, kind, sha256 = facts["base"], facts["kind"], facts["sha256"]
        concept = Concept(
            folder, facts["label"], facts["noun"], facts["identifier"], _resolve_base(base, folder),
            base["revision"], kind, sha256, facts,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(
            f"concept {folder}: its {CONCEPT} is damaged ({error}). {_ADVICE.format(folder=folder)}"
        ) from None
    if facts["format"] != FORMAT:
        raise FiguregroundError(f"concept {folder}: its format is {facts['format']}, but this version reads {FORMAT}.")
    if hash_weights(folder, kind, base["fingerprint"]) != sha256:
        raise FiguregroundError(
            f"concept {folder}: its weights don't match the hash in {CONCEPT}. {_ADVICE.format(folder=folder)}"
        )
    return concept


def hash_weights(folder: Path, kind: str, base: str) -> str:
    """Return the SHA-256 of a concept's weights; `base` is the fingerprint of the checkpoint that adapters extend.

    Raises:
        FiguregroundError: Files are missing or truncated.
    """
    if kind == "lora":
        if not (folder / LORA).is_file():
            raise FiguregroundError(f"concept {folder} has no {LORA}. {_ADVICE.format(folder=folder)}")
        return hashlib.sha256(f"{base}\n{content_hash(folder / LORA)}".encode()).hexdigest()
    try:
        check_files(folder / CHECKPOINT, str(folder / CHECKPOINT))
    except FiguregroundError as error:
        problem = str(error).split(". ")[0]
        raise FiguregroundError(f"concept {folder} is damaged: {problem}. {_ADVICE.format(folder=folder)}") from None
    return fingerprint(str((folder / CHECKPOINT).resolve()), None).removeprefix("sha256:")


def _resolve_base(base: dict[str, Any], folder: Path) -> str:
    """Return the base checkpoint; a directory is stored relative to the concept."""
    return base["checkpoint"] if base["place"] is None else os.path.normpath(folder / base["place"])
