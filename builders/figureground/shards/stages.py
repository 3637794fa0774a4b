"""Preparatory stages of a method, each run once and stored with a hash of its inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import read_object, replace_text
from figureground.core.hashing import digest
from figureground.shards.home import home_of
from figureground.shards.shard import STAGES

COPIES = "references"
"""Stage folder with copies of the recipe's inputs, which are cheap to make again."""
DONE = "done.json"
"""Marker file of a finished stage, in its folder."""


def find_dataset(root: Path) -> Path:
    """Return the directory of the dataset whose stages are in `root`."""
    return root.parents[STAGES.count("/")]


def has_work(root: Path) -> bool:
    """Whether stages contain results that cost work: any files except copies and locks."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return any(path.parts[0] != COPIES and not path.name.startswith(".") for path in files)


def run_stage(root: Path, name: str, inputs: Any, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Run a stage unless it is finished, and return its facts.

    Args:
        root: The dataset's `_figureground/stages` directory.
        name: Name of the stage, which owns `root/name`.
        inputs: Everything that decides the stage's outcome, JSON-able. If they changed, the stage runs again.
        work: Runs the stage in its directory, which may hold files of a killed run, and returns facts about it,
            JSON-able. The marker is written after it returns.

    Raises:
        FiguregroundError: The marker is damaged.
    """
    folder, inputs_hash = root / name, digest(inputs)
    marker = read_marker(folder)
    if marker is not None and marker["inputs"] == inputs_hash:
        return marker["facts"]
    folder.mkdir(parents=True, exist_ok=True)
    facts = work(folder)
    text = json.dumps({"inputs": inputs_hash, "facts": facts}, indent=2, ensure_ascii=False)
    replace_text(folder / DONE, text + "\n")
    home_of(find_dataset(root)).store_stage(name)
    return facts


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Read the marker of a stage, `inputs` and `facts`; return None if the stage isn't finished.

    Raises:
        FiguregroundError: The marker is damaged.
    """
    path = folder / DONE
    if not path.exists():
        return None
    try:
        marker = read_object(path)
        return {"inputs": marker["inputs"], "facts": marker["facts"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). {advise_rerun(folder)}") from None


def read_finished_facts(folder: Path, inputs_hash: str) -> dict[str, Any] | None:
    """Return the facts of a finished stage, or None if it isn't finished, is damaged, or had other inputs.

    Facts are cached until the marker changes; callers must not change them.

    Args:
        folder: The stage's folder.
        inputs_hash: `digest` of the inputs that `run_stage` was given.
    """
    try:
        status = (folder / DONE).stat()
        marker = _read_cached(folder, status.st_mtime_ns, status.st_size)
    except (OSError, FiguregroundError):
        return None
    return marker["facts"] if marker is not None and marker["inputs"] == inputs_hash else None


@lru_cache(maxsize=8)
def _read_cached(folder: Path, modified: int, size: int) -> dict[str, Any] | None:
    """Read a marker; its time of modification and size are part of the cache's key."""
    return read_marker(folder)


def advise_rerun(folder: Path) -> str:
    """Return the advice for a damaged file of a finished stage."""
    return f"Remove {folder} and run the same command again: only that stage is repeated."
