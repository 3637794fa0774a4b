"""Adds images to a finished dataset: the same recipe with more images per cell, in new shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.files import MAX_JSON_BYTES, read_text, replace_text
from figureground.core.hashing import digest
from figureground.core.locks import lock
from figureground.core.values import field_types
from figureground.methods.base import Method
from figureground.methods.registry import METHODS, method_class
from figureground.recipe import document as recipes
from figureground.shards import journal
from figureground.shards.claims import STAGES_LOCK, WORKING_LOCK, remove_locks
from figureground.shards.directory import refuse_unsafe_entries
from figureground.shards.markers import find_missing_shards
from figureground.shards.progress import forget_plan
from figureground.shards.shard import PRIVATE, RECIPE, as_shard


def extend(
    directory: Path, per_cell: Mapping[str, int], settings: Sequence[str] = (), show_progress: bool = True
) -> Path:
    """Add images to a finished dataset, or resume a stopped extension. Existing shards stay unchanged.

    Cut-outs and scenes stay in their splits, keys continue, and the numerics must be those of the first shards.
    The same call resumes a stopped extension. One that fails before it has rendered a batch restores the
    previous recipe, so the dataset stays finished.

    Args:
        directory: A dataset that `build` finished, or that an earlier `extend` left unfinished.
        per_cell: Images per cell in total, by split, or by scene for the method `spurious`. Names that it leaves out
            keep their number.
        settings: `KEY=VALUE` for fields that don't affect pixels, such as `workers=4`.
        show_progress: Whether to show progress on stderr.

    Returns:
        The directory.

    Raises:
        FiguregroundError: The directory contains no dataset, the dataset wasn't made by `build`, its build isn't
            finished, its format is older, its method can't extend, or its sources have changed.
        RecipeError: A split or scene is unknown, a number is smaller than the present one or adds no image, or a
            setting affects pixels.
        UsageError: A setting isn't written as `KEY=VALUE`.
    """
    directory = Path(directory)
    refuse_unsafe_entries(directory)
    saved = directory / RECIPE
    if not saved.exists():
        raise FiguregroundError(f"{directory} holds no dataset: {RECIPE} is missing. Build one first.")
    while True:
        old_text = read_text(saved, root=directory, max_bytes=MAX_JSON_BYTES)
        method, recipe = _plan(directory, recipes.read_saved_recipe(saved), per_cell, settings)
        if recipe is None:
            return method.build(directory, show_progress)
        new_text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
        with lock(directory / STAGES_LOCK, wait=True):
            # If another process has extended it since it was read, start over.
            if same := read_text(saved, root=directory, max_bytes=MAX_JSON_BYTES) == old_text:
                replace_text(saved, new_text)
        if same:
            return _build(method, directory, old_text, new_text, show_progress)


def _plan(
    directory: Path, saved: Mapping[str, Any], per_cell: Mapping[str, int], settings: Sequence[str]
) -> tuple[Method, dict[str, Any] | None]:
    """Return the method that builds the extension, and the larger recipe; None if that is saved already.

    Args:
        saved: The saved recipe.
    """
    if saved["builder"] not in METHODS:
        raise FiguregroundError(
            f"{directory} was made by {saved['builder']}, so no recipe can add images. Extend the datasets that it "
            f"was made from, and {saved['builder']} again."
        )
    recipes.refuse_older(saved, directory, "extend")
    kind = method_class(saved["builder"])
    config = kind.CONFIGS[kind.DEFAULT]
    execution, kinds = config.execution_names(), field_types(type(config))
    fields = recipes.resolve_paths(recipes.read_recipe(directory / RECIPE), type(config))
    fields = recipes.convert_fields(fields, kinds)
    new_fields = {**fields, **recipes.apply_settings({}, settings, fields, kinds)}
    identity = [name for name in new_fields if name not in execution and new_fields[name] != fields.get(name)]
    if identity:
        raise RecipeError(
            identity[0],
            f"extend keeps the recipe; only fields that affect no pixel can be set: {join_names(execution)}.",
        )
    method = kind.from_recipe(new_fields)
    _refuse_changed(method, saved, directory)
    steps = list(fields.get("extended", []))
    current: dict[str, int] = dict(steps[-1] if steps else method.per_cell())
    recipes.check_names(per_cell, current, f"{directory}")
    requested = {**current, **per_cell}
    if requested == current:
        if not steps:
            numbers = join_names(f"{split}={n}" for split, n in current.items())
            raise RecipeError("--per-cell", f"{directory} has {numbers} already.")
        return method, None
    if find_missing_shards(directory, [as_shard(s) for s in method.plan().shards()]):
        raise FiguregroundError(f"{directory} isn't finished. Repeat the command that started it, then extend.")
    new_fields["extended"] = [*steps, requested]
    extended_method = kind.from_recipe(new_fields)
    # The saved execution settings stay: this run's may not suit another machine, such as a device.
    extended_method.marks_images = recipes.is_marked(saved)
    return extended_method, {**extended_method.recipe(directory / PRIVATE), "execution": saved["execution"]}


def _build(method: Method, directory: Path, old_text: str, new_text: str, show_progress: bool) -> Path:
    """Build the images that a larger recipe adds; restore the recipe if that fails before any image is kept.

    Args:
        old_text: Text of the recipe before the extension.
        new_text: Text of the current recipe.
    """
    try:
        return method.build(directory, show_progress)
    except BaseException as error:
        _restore_recipe(method, directory, old_text, new_text, failed=isinstance(error, Exception))
        raise


def _restore_recipe(method: Method, directory: Path, old_text: str, new_text: str, failed: bool) -> None:
    """Restore the recipe of a dataset to which nothing was added, unless another process is working on it.

    Args:
        old_text, new_text: See `_build`.
        failed: Whether the extension failed by itself, rather than was stopped. Then rejects alone count as nothing.
    """
    saved = directory / RECIPE
    added = [shard for shard in map(as_shard, method.plan().shards()) if shard.part == len(method.config.extended)]
    with (
        suppress(OSError),
        lock(directory / STAGES_LOCK) as stages_idle,
        lock(directory / WORKING_LOCK) as workers_idle,
    ):
        is_unchanged = (
            read_text(saved, root=directory, max_bytes=MAX_JSON_BYTES) == new_text
        )  # otherwise another process has restored or extended it
        rendered, samples = journal.count_rendered(directory)
        is_empty = find_missing_shards(directory, added) == added and not (samples if failed else rendered)
        if stages_idle and workers_idle and is_unchanged and is_empty:
            replace_text(saved, old_text)
            forget_plan(directory)
            for shard in added:
                journal.remove_files(directory, shard.name)
    remove_locks(directory)


def _refuse_changed(method: Method, saved: Mapping[str, Any], directory: Path) -> None:
    """Raise FiguregroundError if inputs that the recipe names have changed since the build."""
    if digest(method.identity()) == saved["sha256"]:
        return
    current = json.loads(json.dumps(method.recipe(directory / PRIVATE)))
    raise FiguregroundError(
        f"{directory}: inputs of its recipe have changed since the build, so new images would not match the "
        "existing ones:\n  "
        + "\n  ".join(recipes.describe_recipe_differences(saved, current))
        + "\nRestore them, or build a new dataset."
    )
