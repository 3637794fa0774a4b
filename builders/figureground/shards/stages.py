"""What a method needs before it can plan: a sequence of stages, each done once and kept with its hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import read_object, replace_text
from figureground.core.hashing import digest

COPIES = "references"
"""Folder among the stages with copies of what the recipe names, which cost nothing to make again."""
DONE = "done.json"
"""The marker of a finished stage, in its folder."""


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

    Raises:
        FiguregroundError: Its marker is damaged.
    """
    folder, inputs_hash = root / name, digest(inputs)
    done = read_marker(folder)
    if done is not None and done["inputs"] == inputs_hash:
        return done["facts"]
    folder.mkdir(parents=True, exist_ok=True)
    facts = work(folder)
    text = json.dumps({"inputs": inputs_hash, "facts": facts}, indent=2, ensure_ascii=False)
    replace_text(folder / DONE, text + "\n")
    return facts


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What the marker of a stage says, `inputs` and `facts`; None where the stage isn't done.

    Raises:
        FiguregroundError: It is damaged.
    """
    path = folder / DONE
    if not path.exists():
        return None
    try:
        done = read_object(path)
        return {"inputs": done["inputs"], "facts": done["facts"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). {again(folder)}") from None


def again(folder: Path) -> str:
    """What to do where a file of a finished stage is damaged."""
    return f"Remove {folder} and give the same command again: that stage alone is done anew."
