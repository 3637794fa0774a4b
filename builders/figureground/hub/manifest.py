"""Selection of a finished dataset's files to publish, in upload order, with their hashes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.files import open_regular, read_object
from figureground.core.hashing import content_hash
from figureground.core.local_paths import strip_local_paths
from figureground.methods.registry import METHODS
from figureground.recipe import document as recipes
from figureground.recipe.formats import FORMATS
from figureground.recipe.settings import Names, find_marks
from figureground.shards import card, croissant
from figureground.shards.card_file import CARD
from figureground.shards.directory import find_added_files, find_score_files
from figureground.shards.finished import FinishedDataset, read_finished_index
from figureground.shards.formats.format import find_loadable, sort_formats
from figureground.shards.index import INDEX, rewrite_descriptions
from figureground.shards.markers import formats_of, markers, to_text
from figureground.shards.shard import LABELS, MARKERS, NUMERICS, RECIPE, Shard

TOP_LEVEL = (CARD, croissant.CROISSANT, card.PREVIEW)
"""Published files at the top of the directory."""

DESCRIPTIONS = (RECIPE, INDEX, NUMERICS, card.ATTRIBUTION, LABELS)
"""Published files below `_figureground`, besides markers and scores. `stages` isn't published: a build needs its
contents, such as fine-tuned weights, only while it runs, and the recipe's hashes identify them."""


@dataclass(frozen=True)
class PublishedFile:
    """A file to publish."""

    path: str
    """Path in the repository."""
    file: Path
    known_sha256: str | None = None
    """SHA-256 from a marker, if there is one."""

    @cached_property
    def size(self) -> int:
        return self.file.stat().st_size

    @cached_property
    def sha256(self) -> str:
        return self.known_sha256 or content_hash(self.file)

    @cached_property
    def blob(self) -> str:
        """Git blob id."""
        with open_regular(self.file) as file:
            return hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % self.size)).hexdigest()

    @property
    def upload_rank(self) -> int:
        """Rank in the upload order: the recipe first, since it identifies the repository; the card last."""
        return {RECIPE: 0, INDEX: 2, croissant.CROISSANT: 2, CARD: 3}.get(self.path, 1)


def select_files(directory: Path, formats: Sequence[str] | None, scratch: Path) -> list[PublishedFile]:
    """Return the files of a finished dataset to publish, in upload order.

    Included are shards, rejects, markers, index, recipe, card, Croissant, scores, images of the card, and files such as
    `LICENSE…` and `ATTRIBUTION…`. Excluded are `report.html` and its folder, which `figureground show` draws from
    the rest, the scratch of stages, locks, temporary files, and all other files.

    Args:
        formats: Formats to publish; None means all. With fewer than all, card, index, Croissant and markers are
            rewritten to list only the published files.
        scratch: An empty directory for rewritten files; it must exist as long as the items.

    Raises:
        RecipeError: The dataset lacks a requested format, or `load_dataset` reads none of them.
        FiguregroundError: The dataset isn't finished.
    """
    available = tuple(sort_formats(open_finished(directory).formats))
    chosen = tuple(sort_formats(available if formats is None else formats))
    if missing := sorted(set(formats or ()) - set(available)):
        raise RecipeError("--formats", f"{directory} has no {join_names(missing)}; it holds {' and '.join(available)}.")
    if not chosen:
        raise RecipeError("--formats", f"no format given; choose from {' and '.join(available)}, or omit the flag.")
    if find_loadable(chosen) is None:
        loadable = join_names(name for name, kind in FORMATS.items() if kind.LOADABLE)
        raise RecipeError(
            "--formats",
            f"load_dataset, and so the Hub, can't read {' and '.join(chosen)}. A published dataset needs one of: "
            f"{loadable}.",
        )
    recipe = scratch / "recipe.json"
    recipe.write_text(_make_public_recipe(directory, chosen), encoding="utf-8")
    if chosen != available:
        directory = _copy_in_formats(directory, chosen, scratch / "dataset")
    items = {item.path: item for item in _iterate_items(directory)}
    items[RECIPE] = PublishedFile(RECIPE, recipe)
    # Copy files that a user may still edit, so that their current state is sent.
    for path in (CARD, croissant.CROISSANT, INDEX):
        if path in items:
            items[path] = PublishedFile(path, Path(shutil.copy(items[path].file, scratch / Path(path).name)))
    return sorted(items.values(), key=lambda item: (item.upload_rank, item.path))


def open_finished(directory: Path) -> FinishedDataset:
    """Return a dataset whose shards are all finished, and which has a card.

    Raises:
        FiguregroundError: The build isn't finished, or the directory isn't a dataset.
    """
    read_finished_index(directory)
    for path in (RECIPE, CARD):
        if not (directory / path).exists():
            raise FiguregroundError(f"{directory} has no {path}. Rerun the build's command: it resumes.")
    return FinishedDataset(directory)


def _iterate_items(directory: Path) -> Iterator[PublishedFile]:
    """Yield the published files: those listed in markers, and known names. The directory is never walked."""
    for marker in markers(directory).values():
        marker_path = Shard.from_marker(marker).path("marker")
        yield PublishedFile(marker_path, directory / marker_path)
        for path, file in marker["files"].items():
            yield PublishedFile(path, directory / path, file["sha256"])
    fixed_paths = [directory / path for path in (*TOP_LEVEL, *DESCRIPTIONS)]
    for path in [*fixed_paths, *find_added_files(directory), *find_score_files(directory)]:
        if path.is_file():
            yield PublishedFile(path.relative_to(directory).as_posix(), path)


def _make_public_recipe(directory: Path, formats: Sequence[str]) -> str:
    """Return the recipe as JSON, without local paths and with the published formats."""
    recipe = read_object(directory / RECIPE, root=directory)
    paths = None
    if recipe["builder"] in METHODS:
        method = METHODS[recipe["builder"]]
        paths = find_marks(type(method.CONFIGS[method.DEFAULT]), Names)
    for section in (recipe["identity"], recipe["execution"]):
        section |= {name: strip_local_paths(value) for name, value in section.items() if paths is None or name in paths}
    if "formats" in recipe["execution"]:
        recipe["execution"]["formats"] = list(formats)
    recipe = recipes.seal(recipe) if recipes.SEAL in recipe else recipe
    return json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"


def _copy_in_formats(directory: Path, formats: Sequence[str], out: Path) -> Path:
    """Create the dataset in fewer formats: links to its files, with card, index and markers for those formats only."""
    (out / MARKERS).mkdir(parents=True)
    for marker in markers(directory).values():
        reduced = _reduce_marker(marker, formats)
        (out / Shard.from_marker(marker).path("marker")).write_text(to_text(reduced), encoding="utf-8")
        for path in reduced["files"]:
            _link(directory / path, out / path)
    for item in list(_iterate_items(directory)):
        if (
            item.known_sha256 is None
            and not item.path.startswith(MARKERS)
            and item.path not in (INDEX, CARD, croissant.CROISSANT)
        ):
            _link(item.file, out / item.path)
    shutil.copy(directory / CARD, out / CARD)
    index = open_finished(directory).index
    card_content = dict(index["card"])
    if "formats" in card_content.get("recipe", {}):
        card_content["recipe"] = {**card_content["recipe"], "formats": list(formats)}
    (out / INDEX).write_text(to_text({**index, "formats": list(formats), "card": card_content}), encoding="utf-8")
    rewrite_descriptions(out)
    return out


def _reduce_marker(marker: Mapping[str, Any], formats: Sequence[str]) -> dict[str, Any]:
    shard = Shard.from_marker(marker)
    dropped = {shard.path(kind) for kind in formats_of(marker) if kind not in formats}
    kind = find_loadable(formats)
    if kind is None or not kind.PUBLISHES_REJECTS:  # all configs of a repository must share a format
        dropped.add(shard.path("published_rejects"))
    return {**marker, "files": {path: file for path, file in marker["files"].items() if path not in dropped}}


def _link(file: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(file.absolute())
