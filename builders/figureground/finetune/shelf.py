"""A directory of fine-tuned concepts that several builds share: which of them is made of what, told without torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from figureground.core.files import read_json
from figureground.core.hashing import digest
from figureground.core.locks import lock
from figureground.models.concepts import CONCEPT
from figureground.recipe.document import FORMAT

INPUTS = "finetuning.json"
"""What a fine-tuning says, before its first step, of all that decides its outcome."""
PRIORS = "prior-images"
"""Where images for prior preservation lie: those of one noun serve all concepts that have it."""


class Shelf:
    """Concepts by name, each in a folder; one that is made of other things stands beside, with a suffix."""

    def __init__(self, directory: Path):
        self.directory = directory

    def place(self, name: str, made_of: Mapping[str, Any]) -> Path:
        """The folder of a concept, there or to be made.

        Args:
            name: Of the concept.
            made_of: All that decides it, in the words of its `finetuning.json`; what that file doesn't know of isn't
                compared.
        """
        plain = self.directory / name
        if _free(plain) or _same(plain, made_of):
            return plain
        return self.directory / f"{name}-{_digest(made_of)}"

    def find(self, name: str, made_of: Mapping[str, Any]) -> Path | None:
        """The folder of a finished concept that is made of just this, or None."""
        folder = self.place(name, made_of)
        return folder if (folder / CONCEPT).is_file() and _same(folder, made_of) else None

    def priors(self, name: str, drawn_from: Mapping[str, Any]) -> Path:
        """The folder of the prior images for a noun."""
        return self.directory / PRIORS / f"{name}-{_digest(drawn_from)}"

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Within, no other build makes a concept of this name here; until then, this waits."""
        path = self.directory / f".{name}.lock"
        with lock(path, wait=True):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


def _digest(said: Mapping[str, Any]) -> str:
    return digest({"format": FORMAT, **said})[:8]


def _free(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


def _same(folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether what lies in a folder, finished or not, is made of the same."""
    try:
        theirs = read_json(folder / INPUTS)
    except (OSError, ValueError):
        return False
    mine = json.loads(json.dumps(dict(made_of)))
    if not isinstance(theirs, dict) or theirs.get("format") != FORMAT:  # learned with other noise
        return False
    return all(theirs[name] == mine[name] for name in mine if name in theirs)
