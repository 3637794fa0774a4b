"""Adds images to a finished dataset: the same recipe with more images a cell, in shards of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError, listed
from figureground.core.files import MOST_JSON, read_text, replace_text
from figureground.core.hashing import digest
from figureground.core.locks import lock
from figureground.core.values import kinds_of
from figureground.methods.base import Method
from figureground.methods.registry import METHODS, method_class
from figureground.recipe import document as recipes
from figureground.shards import index, writer
from figureground.shards.directory import refuse_strange
from figureground.shards.writer import PRIVATE, RECIPE, as_shard


def extend(
    directory: Path, per_cell: Mapping[str, int], settings: Sequence[str] = (), show_progress: bool = True
) -> Path:
    """Builds what a larger number of images a cell adds; the shards that are there stay as they are.

    Cut-outs and templates stay with the split that they were in, keys go on counting, and the numerics are those
    of the first shards. Stopped, it goes on with the same call; failed before it has added a shard, it leaves the
    dataset as finished as it was.

    Args:
        directory: A dataset that `build` finished, or that an earlier `extend` left unfinished.
        per_cell: Images a cell in all, by split, or of the method `spurious` by scene; what it doesn't name stays.
        settings: `KEY=VALUE` for fields that decide no pixel, such as `workers=4`.

    Returns:
        The directory.

    Raises:
        FiguregroundError: Nothing was built there, or by other means than `build`; the build isn't finished; or its
            sources have changed.
        RecipeError: A split or scene that it doesn't have, fewer images than it has, or no more.
    """
    directory = Path(directory)
    refuse_strange(directory)
    saved = directory / RECIPE
    if not saved.exists():
        raise FiguregroundError(f"{directory} holds no dataset: there is no {RECIPE}. Build one first.")
    while True:
        before = read_text(saved, root=directory, most=MOST_JSON)
        method, recipe = _plan(directory, recipes.read_saved(saved), per_cell, settings)
        if recipe is None:
            return method.build(directory, show_progress)
        text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
        with lock(directory / writer.STAGES_LOCK, wait=True):
            # Another process may have extended it since it was read: then all of this is to be looked at again.
            if same := read_text(saved, root=directory, most=MOST_JSON) == before:
                replace_text(saved, text)
        if same:
            return _build(method, directory, before, text, show_progress)


def _plan(
    directory: Path, theirs: Mapping[str, Any], per_cell: Mapping[str, int], settings: Sequence[str]
) -> tuple[Method, dict[str, Any] | None]:
    """Return what builds the extension, and the larger recipe; None where that is saved already.

    Args:
        theirs: The saved recipe.
    """
    if theirs["builder"] not in METHODS:
        raise FiguregroundError(
            f"{directory} was made by {theirs['builder']}, so there is no recipe that could make more. Extend the "
            f"datasets that it was made from, and {theirs['builder']} again."
        )
    recipes.refuse_older(theirs, directory, "extend")
    kind = method_class(theirs["builder"])
    config = kind.CONFIGS[kind.DEFAULT]
    execution, kinds = config.execution_names(), kinds_of(type(config))
    fields = recipes.relocate(recipes.read_recipe(directory / RECIPE), type(config))
    fields = recipes.convert_fields(fields, kinds)
    now = {**fields, **recipes.apply_settings({}, settings, fields, kinds)}
    identity = [name for name in now if name not in execution and now[name] != fields.get(name)]
    if identity:
        raise RecipeError(
            identity[0], f"extend keeps the recipe; only fields that decide no pixel can be set: {listed(execution)}."
        )
    method = kind.from_recipe(now)
    _refuse_changed(method, theirs, directory)
    steps = list(fields.get("extended", []))
    reached: dict[str, int] = dict(steps[-1] if steps else method.per_cell())
    recipes.check_names(per_cell, reached, f"{directory}")
    wanted = {**reached, **per_cell}
    if wanted == reached:
        if not steps:
            has = listed(f"{split}={n}" for split, n in reached.items())
            raise RecipeError("--per-cell", f"{directory} has {has} already.")
        return method, None
    if index.missing(directory, [as_shard(s) for s in method.plan().shards()]):
        raise FiguregroundError(
            f"{directory} isn't finished. Give the command that began it again, and extend it then."
        )
    now["extended"] = [*steps, wanted]
    larger = kind.from_recipe(now)
    # Settings of this run alone, such as a device that may not be there, aren't those that the set was made with.
    return larger, {**larger.recipe(directory / PRIVATE), "execution": theirs["execution"]}


def _build(method: Method, directory: Path, before: str, text: str, show_progress: bool) -> Path:
    """Build what a larger recipe adds; one that fails before a shard is done is taken back.

    Args:
        before: The recipe before it was extended.
        text: The recipe as it is now.
    """
    try:
        return method.build(directory, show_progress)
    except BaseException:
        _take_back(method, directory, before, text)
        raise


def _take_back(method: Method, directory: Path, before: str, text: str) -> None:
    """Restore the recipe of a dataset to which nothing was added, unless another process is at work there."""
    saved = directory / RECIPE
    added = [shard for shard in map(as_shard, method.plan().shards()) if shard.part == len(method.config.extended)]
    with (
        suppress(OSError),
        lock(directory / writer.STAGES_LOCK) as alone,
        lock(directory / writer.WORKING_LOCK) as idle,
    ):
        ours = (
            read_text(saved, root=directory, most=MOST_JSON) == text
        )  # else another process has taken it back, or extended it
        if alone and idle and ours and index.missing(directory, added) == added:
            replace_text(saved, before)
    writer.remove_locks(directory)


def _refuse_changed(method: Method, saved: Mapping[str, Any], directory: Path) -> None:
    """Refuses to go on when what the recipe names is no longer what it was."""
    if digest(method.identity()) == saved["sha256"]:
        return
    mine = json.loads(json.dumps(method.recipe(directory / PRIVATE)))
    raise FiguregroundError(
        f"{directory}: what its recipe names has changed since it was built, so that more images would be of another "
        "kind:\n  " + "\n  ".join(recipes.recipe_differences(saved, mine)) + "\nBring it back, or build anew."
    )
