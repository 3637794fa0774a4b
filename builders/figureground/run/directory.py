"""A dataset's directory: it holds one recipe, is refused where it is something else's, and is left as it was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from figureground import recipe as recipes
from figureground.errors import FiguregroundError, listed
from figureground.numerics import create_once
from figureground.run import disk
from figureground.shards import index, writer
from figureground.shards.writer import PRIVATE, RECIPE


@contextmanager
def opened(out: Path, recipe: Mapping[str, Any], kept: Callable[[], str]) -> Iterator[None]:
    """Makes a directory ours, or makes sure that it is, with this recipe; within, it is built.

    What fails before the first shard is done leaves the directory as it was.

    Args:
        recipe: As it is saved, with `sha256`.
        kept: Says how far a build came that was stopped.

    Raises:
        FiguregroundError: It holds something else or another recipe, or can't be written.
    """
    made, ours = disk.first_missing(out), False
    try:
        _open(out, recipe)
        ours = True
        writer.clean_stale(out)
        yield
    except BaseException as error:
        if ours or isinstance(error, OSError):
            disk.withdraw(out, made)
        if ours and isinstance(error, KeyboardInterrupt):
            error.add_note(f"{kept()} The same command goes on from there.")
        elif isinstance(error, OSError) and (trouble := disk.explain(error, out)):
            raise FiguregroundError(f"{trouble} {kept()}" if disk.has_shards(out) else trouble) from error
        raise


def _open(out: Path, recipe: Mapping[str, Any]) -> None:
    saved = out / RECIPE
    if not saved.exists():
        if out.exists() and not out.is_dir():
            raise FiguregroundError(f"--out {out} is a file; give a directory.")
        strangers = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        if set(strangers) - {PRIVATE}:
            raise FiguregroundError(
                f"--out {out} holds something else ({listed(strangers, 3)}) and was left as it is. "
                "Give a new directory."
            )
        saved.parent.mkdir(parents=True, exist_ok=True)
        with writer.lock(out / writer.STAGES_LOCK, wait=True):
            save_recipe(out, recipe)
    theirs = json.loads(saved.read_text(encoding="utf-8"))
    if theirs["sha256"] != recipe["sha256"]:
        both = (theirs, json.loads(json.dumps(recipe)))
        old, new = ({"builder": each["builder"], **each["identity"], **each["content"]} for each in both)
        if "extended" in old and recipes.differences({**old, "extended": None}, {**new, "extended": None}) == []:
            per_cell = " ".join(f"--per-cell {split}={n}" for split, n in old["extended"][-1].items())
            raise FiguregroundError(f"--out {out} was extended since. Go on with: figureground extend {out} {per_cell}")
        changed = recipes.differences(old, new) or ["(the version of the recipe's format)"]
        raise FiguregroundError(
            f"--out {out} holds another recipe, and a directory holds one:\n  " + "\n  ".join(changed[:12])
            + "\nGive another directory, or the same recipe again."
        )  # fmt: skip


def save_recipe(out: Path, recipe: Mapping[str, Any]) -> None:
    """Writes the recipe where there is none; called under the stages' lock."""
    create_once(out / RECIPE, json.dumps(recipe, indent=2, ensure_ascii=False) + "\n")


def shards_kept(out: Path, shards: Sequence[writer.Shard]) -> str:
    """How far a build came that was stopped."""
    return f"{len(shards) - len(index.missing(out, shards)):,} of {len(shards):,} shards are done and kept."
