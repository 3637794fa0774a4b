"""A directory of fine-tuned concepts shared by several builds, identified by their inputs without torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from figureground.core.files import read_json
from figureground.core.hashing import digest
from figureground.core.locks import lock
from figureground.models.concept_files import CONCEPT
from figureground.recipe.document import FORMAT

INPUTS = "finetuning.json"
"""File in which a fine-tuning records, before its first step, everything that determines its result."""
PRIORS = "prior-images"
"""Folder of prior images; those of one noun are shared by all concepts with that noun."""


class ConceptStore:
    """Concepts by name, each in a folder; concepts with the same name but other inputs get a suffix."""

    def __init__(self, directory: Path):
        self.directory = directory

    def choose_folder(self, name: str, inputs: Mapping[str, Any]) -> Path:
        """Return the folder of a concept, which may not exist yet.

        Args:
            name: The concept's name.
            inputs: Everything that determines it, with the keys of its `finetuning.json`; keys that are missing there
                aren't compared.
        """
        folder = self.directory / name
        if _is_free(folder) or _has_inputs(folder, inputs):
            return folder
        return self.directory / f"{name}-{_hash_inputs(inputs)}"

    def find(self, name: str, inputs: Mapping[str, Any]) -> Path | None:
        """Return the folder of a finished concept with exactly these inputs, or None."""
        folder = self.choose_folder(name, inputs)
        return folder if (folder / CONCEPT).is_file() and _has_inputs(folder, inputs) else None

    def prior_folder(self, name: str, inputs: Mapping[str, Any]) -> Path:
        """Return the folder of the prior images for a noun."""
        return self.directory / PRIORS / f"{name}-{_hash_inputs(inputs)}"

    @contextlib.contextmanager
    def lock_name(self, name: str) -> Iterator[None]:
        """Lock a concept's name, so that no other build makes it meanwhile; wait for the lock if necessary."""
        path = self.directory / f".{name}.lock"
        with lock(path, wait=True):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


def _hash_inputs(inputs: Mapping[str, Any]) -> str:
    return digest({"format": FORMAT, **inputs})[:8]


def _is_free(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


def _has_inputs(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a folder's concept, finished or not, has the same inputs."""
    try:
        recorded = read_json(folder / INPUTS)
    except (OSError, ValueError):
        return False
    expected = json.loads(json.dumps(dict(inputs)))
    if not isinstance(recorded, dict) or recorded.get("format") != FORMAT:  # trained with other noise
        return False
    return all(recorded[name] == expected[name] for name in expected if name in recorded)
