"""What a method needs before it can plan: a sequence of stages, each done once and kept with its hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figureground.recipe import digest
from figureground.shards.writer import replace_text

COPIES = "references"
"""Folder among the stages with copies of what the recipe names, which cost nothing to make again."""


def has_work(root: Path) -> bool:
    """Whether stages hold anything that would have to be worked for again: files but for copies and locks."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return any(path.parts[0] != COPIES and not path.name.startswith(".") for path in files)


def run_stage(root: Path, name: str, inputs: Any, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Runs a stage unless it is finished, and returns its facts.

    Args:
        root: The dataset's `_figureground/stages` directory.
        name: Of the stage; it owns `root/name`.
        inputs: JSON-able; whatever decides the stage's outcome. Finished with other inputs, it runs again.
        work: Does the stage in its directory, where it may find what a killed run left, and returns facts
            about it, JSON-able. The finished stage's marker is written after it returns.
    """
    folder = root / name
    marker, inputs_hash = folder / "done.json", digest(inputs)
    if marker.exists():
        done = json.loads(marker.read_text())
        if done["inputs"] == inputs_hash:
            return done["facts"]
    folder.mkdir(parents=True, exist_ok=True)
    facts = work(folder)
    replace_text(marker, json.dumps({"inputs": inputs_hash, "facts": facts}, indent=2, ensure_ascii=False) + "\n")
    return facts
