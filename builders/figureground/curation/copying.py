"""Write a dataset derived from others: resumable, and refused if the directory holds something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from figureground.core import signals, terminal
from figureground.core.files import MAX_JSON_BYTES, create_bytes, read_bytes, read_text
from figureground.core.hashing import digest
from figureground.core.local_paths import strip_local_paths
from figureground.core.locks import lock
from figureground.core.numerics import create_once, library_versions
from figureground.core.progress import Progress
from figureground.recipe import document as recipes
from figureground.recipe.sample import Reject
from figureground.running.directory import join_work
from figureground.shards.card_file import BEGIN, CARD, END, GENERATED_KEYS, rewrite
from figureground.shards.claims import INDEX_LOCK, WORKING_LOCK
from figureground.shards.columns import Columns
from figureground.shards.directory import find_added_files
from figureground.shards.filling import fill, track_results
from figureground.shards.finished import FinishedDataset
from figureground.shards.samples import Encoded
from figureground.shards.shard import Shard
from figureground.shards.writer import write_encoded
from figureground.sources import marks

Results = Callable[[Shard], Iterator[Encoded | Reject]]
"""Returns the samples and rejects that go into a shard."""


def make_recipe(
    command: str, identity: Mapping[str, Any], step: Mapping[str, Any], sources: Sequence[FinishedDataset]
) -> dict:
    """Return the recipe of a dataset derived from others: the step, and the recipes of its sources.

    Args:
        command: `curate` or `merge`.
        identity: Settings that determine the result, besides the sources.
        step: The entry for the lineage.
        sources: The datasets, all of one format version, which the copy keeps.
    """
    version = sources[0].version
    source_identities = {source.name: source.identity() for source in sources}
    full_identity = {"sources": source_identities, "order": list(source_identities), **identity}
    recipe = {
        "format": version,
        "builder": command,
        "figureground": library_versions()["figureground"],
        **({recipes.MARKS: marks.NAME} if all(recipes.is_marked(source.recipe) for source in sources) else {}),
        "identity": full_identity,
        "execution": {},
        "content": {},
        "sha256": digest({"format": version, "builder": command, **full_identity}),
        "lineage": [*(entry for source in sources for entry in source.facts.lineage), dict(step)],
        "sources": [{"name": source.name, **strip_local_paths(source.recipe)} for source in sources],
    }
    return recipes.seal(recipe)


def write_shards(
    out: Path,
    recipe: Mapping[str, Any],
    shards: Sequence[Shard],
    results: Results,
    columns: Columns,
    *,
    formats: Sequence[str],
    image_format: str,
    version: int,
    publish_rejects: bool = False,
    show_progress: bool = True,
) -> None:
    """Write every unfinished shard that no other process has claimed; return when all are finished.

    Args:
        version: Format version that the samples were drawn in.

    Raises:
        FiguregroundError: `out` now holds another recipe.
    """

    def write(shard: Shard, bar: Progress) -> None:
        write_encoded(
            out, shard, columns, track_results(results(shard), bar), formats=formats, image_format=image_format,
            publish_rejects=publish_rejects, version=version,
        )  # fmt: skip

    with join_work(out, recipe, WORKING_LOCK, lambda: None):
        fill(out, shards, write, show_progress)


def read_all(source: FinishedDataset, show_progress: bool) -> Iterator[Shard]:
    """Yield a dataset's shards for one pass, with a progress bar."""
    with Progress(source.samples, unit="image", desc=f"reading {source.directory}", show=show_progress) as bar:
        for shard in source.shards:
            signals.check()
            yield shard
            bar.update(source.marker(shard)["samples"])


def print_note(note: str, show_progress: bool) -> None:
    """Print a note to the terminal without disturbing a progress bar."""
    if show_progress:
        terminal.print_note(note)


def copy_files(source: FinishedDataset, out: Path) -> None:
    """Copy files such as LICENSE. Call it under the stages' lock, or another process may remove a draft."""
    for path in find_added_files(source.directory):
        with suppress(FileExistsError):
            data = read_bytes(path, root=source.directory, max_bytes=MAX_JSON_BYTES)
            create_bytes(out / path.name, data, root=out)


def copy_card_text(source: FinishedDataset, out: Path) -> None:
    """Copy user-written text of the card, before the copy's card is generated around it."""
    path = source.directory / CARD
    if not path.exists():
        return
    empty_fields: dict[str, Any] = {name: [] for name in GENERATED_KEYS}
    text = rewrite(read_text(path, root=source.directory, encoding="utf-8-sig"), empty_fields, f"{BEGIN}\n{END}\n")
    with lock(out / INDEX_LOCK, wait=True):  # else another process may take the draft for one of a killed process
        create_once(out / CARD, text)
