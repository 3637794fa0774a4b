"""Opens a dataset directory for one recipe, refuses other contents, and restores it after early failures."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from figureground.core.disk import explain_disk_error, find_first_missing
from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural
from figureground.core.files import MAX_JSON_BYTES, read_text, replace_text
from figureground.core.locks import lock
from figureground.core.numerics import create_once
from figureground.core.shapes import is_count
from figureground.recipe import document as recipes
from figureground.recipe.formats import FORMATS
from figureground.running import disk
from figureground.shards import card_file, journal
from figureground.shards.claims import clean_stale
from figureground.shards.directory import refuse_unsafe_entries
from figureground.shards.home import home_of
from figureground.shards.markers import find_missing_shards, formats_of, markers
from figureground.shards.shard import PRIVATE, RECIPE, Shard

Settled = TypeVar("Settled")


@contextmanager
def claim_directory(out: Path, recipe: Mapping[str, Any], describe: Callable[[], str]) -> Iterator[None]:
    """Claim a directory for a recipe, or check that it already belongs to it, for the duration of a build.

    A failure before the first shard is finished leaves the directory unchanged.

    Args:
        recipe: The recipe as saved, with `sha256`.
        describe: Describes the progress of a stopped build.

    Raises:
        FiguregroundError: The directory holds something else or another recipe, or can't be written.
    """
    created, existing, is_claimed = find_first_missing(out), disk.list_existing(out), False
    try:
        _claim(out, recipe)
        is_claimed = True
        clean_stale(out)
        yield
    except BaseException as error:
        if is_claimed or isinstance(error, OSError):
            home_of(out).withdraw()
            disk.withdraw(out, created, existing, failed=isinstance(error, Exception))
        if is_claimed and isinstance(error, KeyboardInterrupt):
            error.add_note(f"{describe()} The same command resumes from there.")
        elif isinstance(error, OSError) and (problem := explain_disk_error(error, out)):
            raise FiguregroundError(f"{problem} {describe()}" if disk.has_rendered(out) else problem) from error
        raise


def refuse_older(out: Path) -> None:
    """Refuse a directory whose dataset has another format version; called before any work there.

    Raises:
        FiguregroundError: See `recipe.document.read_saved_recipe` and `recipe.document.refuse_older`.
    """
    try:
        exists = (out / RECIPE).exists()
    except OSError:
        return  # `claim_directory` reports it
    if exists and (saved := recipes.read_saved_recipe(out / RECIPE))["builder"] not in recipes.COPIES:
        recipes.refuse_older(saved, out, "build")


def read_shard_size(out: Path) -> int | None:
    """Return the shard size in a dataset's recipe; None if there is no dataset."""
    try:
        size = recipes.read_saved_recipe(out / RECIPE)["identity"].get("shard_size")
    except FiguregroundError:
        return None  # `claim_directory` reports a recipe that can't be read
    return size if is_count(size) and size > 0 else None


def marks_images(out: Path) -> bool:
    """Return whether images built into a directory are to state that they are generated.

    They are, unless images there don't: then those that are added don't either, so that all are alike.
    """
    try:
        saved = recipes.read_saved_recipe(out / RECIPE)
    except FiguregroundError:
        return True  # there is none, or `claim_directory` reports it
    return recipes.is_marked(saved) or not markers(out)


def _claim(out: Path, recipe: Mapping[str, Any]) -> None:
    refuse_unsafe_entries(out)
    card_file.refuse_unreadable(out)
    saved = out / RECIPE
    if not saved.exists():
        if out.exists() and not out.is_dir():
            raise FiguregroundError(f"--out {out} is a file; give a directory.")
        for parent in out.absolute().parents:
            if (parent / RECIPE).exists():
                raise FiguregroundError(f"--out {out} lies in the dataset {parent}. Give a directory outside it.")
        names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        if set(names) - {PRIVATE}:
            raise FiguregroundError(
                f"--out {out} holds something else ({join_names(names, 3)}) and was left as it is. Give a new "
                "directory."
            )
        saved.parent.mkdir(parents=True, exist_ok=True)
        with home_of(out).settling():
            settle_recipe(out, recipe)
    else:
        _refuse_other_recipe(out, recipe)


def refuse_uninstalled(formats: Collection[str]) -> None:
    """Refuse formats whose libraries aren't installed.

    Raises:
        RecipeError: A module is missing; names it and the formats that need none.
        FiguregroundError: A format of another package can't be imported.
    """
    for kind in formats:
        if missing_modules := [name for name in FORMATS[kind].NEEDS if importlib.util.find_spec(name) is None]:
            alternatives = [name for name, format in FORMATS.items() if not format.NEEDS]
            raise RecipeError(
                "formats",
                f"{kind} needs {' and '.join(missing_modules)}, which this Python lacks. Install them, or give "
                f"--set 'formats=[{', '.join(alternatives)}]'.",
            )


def check_formats(out: Path, formats: Collection[str], started: bool = False) -> None:
    """Refuse formats that differ from those of the first shards, or that can't be used.

    Args:
        started: Whether another process may be writing the first shards. Then their formats are those of the recipe
            that it saved. Known only under the stages' lock.

    Raises:
        RecipeError: The formats differ.
        FiguregroundError: A format of another package can't be imported.
    """
    for kind in formats:
        FORMATS[kind]
    finished = markers(out)
    if started and not finished:
        saved = recipes.read_saved_recipe(out / RECIPE)["execution"]["formats"]
        if set(saved) != set(formats):
            raise RecipeError(
                "formats",
                f"another process is building {out} as {' and '.join(saved)}, not as {' and '.join(formats)}. Give "
                "the same formats, or a new directory.",
            )
    for name, marker in finished.items():
        written = formats_of(marker)
        if set(written) != set(formats):
            raise RecipeError(
                "formats",
                f"{out} was begun as {' and '.join(written)} (shard {name}), not as {' and '.join(formats)}. Continue "
                f"with --set 'formats=[{', '.join(written)}]', or give a new directory.",
            )


def settle_recipe(out: Path, recipe: Mapping[str, Any]) -> None:
    """Save the recipe if none exists, and refuse a directory that holds another one.

    Call it under the stages' lock, before any other work there: another process may have removed, replaced or
    extended anything that was read before the lock.

    Raises:
        FiguregroundError: The directory holds another recipe.
    """
    create_once(out / RECIPE, _to_text(recipe))
    _refuse_other_recipe(out, recipe)


def record_execution(out: Path, recipe: Mapping[str, Any]) -> None:
    """Replace the saved execution settings with those of this recipe.

    Call it under the stages' lock, and only before the first shard: the saved settings then belong to a build that
    failed, for example because of a missing device.
    """
    text = _to_text(recipe)
    if read_text(out / RECIPE, root=out, max_bytes=MAX_JSON_BYTES) != text:
        replace_text(out / RECIPE, text)


def has_started(out: Path) -> bool:
    """Return whether a shard is finished or a process is rendering one; call it under the stages' lock."""
    return home_of(out).has_started()


@contextmanager
def join_work(out: Path, recipe: Mapping[str, Any], name: str, settle: Callable[[], Settled]) -> Iterator[Settled]:
    """Settle a recipe and more under the stages' lock, then hold a shared lock for the duration of the context.

    The shared lock is taken before the stages' lock is released, so no process sees the time between the two.

    Args:
        recipe: The recipe as saved, with `sha256`.
        name: The shared lock: `WORKING_LOCK` for processes that write shards, `PARTS_LOCK` for those that run stages.
        settle: Called under the stages' lock, after the recipe is settled.

    Yields:
        What `settle` returned.

    Raises:
        FiguregroundError: The directory now holds another recipe.
    """
    with ExitStack() as stack:
        with home_of(out).settling():
            settle_recipe(out, recipe)
            settled = settle()
            stack.enter_context(lock(out / name, wait=True, shared=True))
        yield settled


def _refuse_other_recipe(out: Path, recipe: Mapping[str, Any]) -> None:
    saved = recipes.read_saved_recipe(out / RECIPE)
    if saved["sha256"] == recipe["sha256"]:
        return
    saved_fields = {**saved["identity"], **saved["content"]}
    differences = recipes.describe_recipe_differences(saved, json.loads(json.dumps(recipe)))
    if differences and all(line.startswith("extended:") for line in differences):
        if not saved_fields.get("extended"):
            raise FiguregroundError(
                f"{out}: another process withdrew the failed extension. Run the same command again."
            )
        per_cell = " ".join(f"--per-cell {split}={n}" for split, n in saved_fields["extended"][-1].items())
        raise FiguregroundError(f"--out {out} was extended since. Continue with: figureground extend {out} {per_cell}")
    differences = differences or ["(the version of the recipe's format)"]
    raise FiguregroundError(
        f"--out {out} holds another recipe, and a directory can hold only one:\n  " + "\n  ".join(differences[:12])
        + "\nGive another directory, or the same recipe."
    )  # fmt: skip


def _to_text(recipe: Mapping[str, Any]) -> str:
    return json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"


def describe_progress(out: Path, shards: Sequence[Shard]) -> str:
    """Describe the progress of a stopped build."""
    rendered, _ = journal.count_rendered(out)
    partial = f", and so {'is' if rendered == 1 else 'are'} {plural(rendered, 'image')} of others" if rendered else ""
    return (
        f"{len(shards) - len(find_missing_shards(out, shards)):,} of {len(shards):,} shards are done and kept{partial}."
    )
