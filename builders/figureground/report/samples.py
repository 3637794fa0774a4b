"""Writes what the page shows of each image and each reject: thumbnails, columns to filter and sort by, and details.

Images pass once, shard by shard, so memory holds a few numbers and the key of each, and a few images at a time.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from figureground.annotation.population import VERIFIED, Population
from figureground.core import signals
from figureground.core.batches import batched
from figureground.core.errors import FiguregroundError, join_names, plural
from figureground.core.files import parse_json
from figureground.core.prefetch import compute_ahead
from figureground.core.progress import Progress
from figureground.core.text import printable
from figureground.methods.panels.panel import Panel
from figureground.recipe.sample import Reject
from figureground.report.contents import Contents, ShownShard
from figureground.report.facts import flatten
from figureground.report.people import AnswerCounts
from figureground.report.scores import count_votes, read_tables
from figureground.report.scripts import encode_column, write_script
from figureground.report.thumbnails import SUFFIXES, Thumbnail, encode_picture, write_thumbnail
from figureground.shards.samples import Dropped, Stored

CHUNK = 100
"""Number of images whose details one script holds."""
MAX_FULL = 2000
"""Number of images that are written at full size by default, with guide, mask and panels."""

_SHOWN_ALREADY = (
    "key", "prompt", "split", "labels", "foreground", "background", "foreground_name", "background_name",
)  # fmt: skip

DrawGuide = Callable[[dict[str, Any]], Image.Image | None]
"""Redraws the guide of a sample from its parsed provenance; returns None if it has none."""
DrawPanels = Callable[[Mapping[str, Any]], list[Panel]]
"""Draws a sample's panels from its parsed provenance."""

_Cell = tuple[str, int, int]
_Pairs = list[tuple[str, str]]


class WriteResult(NamedTuple):
    """Outcome of writing the samples, for the page."""

    full: int
    """Number of images with full size, guide, mask and panels."""
    notes: list[str]
    """Problems: files that couldn't be read or shown."""


class Choice:
    """Chooses at most a number of images while they pass: equally many of each cell, evenly spaced within it.

    Args:
        sizes: Number of images of each cell.
        most: Number of images to choose; None: all.
    """

    def __init__(self, sizes: Mapping[_Cell, int], most: int | None):
        self._sizes = sizes
        self._quota = dict(sizes) if most is None else _quotas(sizes, most)
        self._passed: Counter[_Cell] = Counter()

    def take(self, cell: _Cell) -> bool:
        """Return whether the next image, of this cell, is chosen."""
        position, size, quota = self._passed[cell], self._sizes.get(cell, 0), self._quota.get(cell, 0)
        self._passed[cell] += 1
        return bool(size) and (position + 1) * quota // size > position * quota // size


def _quotas(sizes: Mapping[_Cell, int], most: int) -> dict[_Cell, int]:
    """Return how many images of each cell are chosen, as equally as their sizes allow."""
    quotas = {}
    remaining = most
    by_size = sorted(sizes.items(), key=lambda item: item[1])
    for position, (cell, size) in enumerate(by_size):
        quotas[cell] = min(size, -(-remaining // (len(by_size) - position)))
        remaining -= quotas[cell]
    return quotas


@dataclass
class _Table:
    """Columns of all images, then of all rejects."""

    keys: list[str] = field(default_factory=list)
    split: array[int] = field(default_factory=lambda: array("q"))
    foreground: array[int] = field(default_factory=lambda: array("q"))
    background: array[int] = field(default_factory=lambda: array("q"))
    reason: array[int] = field(default_factory=lambda: array("q"))
    """0 for images, else the number of a reject reason."""
    thumbnail: array[int] = field(default_factory=lambda: array("q"))
    """Suffix of the thumbnail; see `SUFFIXES`."""
    people: array[int] = field(default_factory=lambda: array("q"))

    def add(self, key: str, split: int, labels: tuple[int, int], thumbnail: int, reason: int, people: int) -> None:
        self.keys.append(key)
        self.split.append(split)
        self.foreground.append(labels[0])
        self.background.append(labels[1])
        self.reason.append(reason)
        self.thumbnail.append(thumbnail)
        self.people.append(people)


def write_samples(
    folder: Path,
    directory: Path,
    contents: Contents,
    draw_guide: DrawGuide | None = None,
    draw_panels: DrawPanels | None = None,
    full: int | None = None,
) -> WriteResult:
    """Write thumbnails, pictures, columns and details of all images and rejects.

    Args:
        folder: The folder of the report, which exists.
        directory: The dataset.
        draw_guide: Draws the guides of images that don't keep theirs.
        draw_panels: Draws panels.
        full: Number of images at full size, with guide, mask and panels; None: all.

    Raises:
        FiguregroundError: A shard can't be read.
        OSError: A file can't be written.
    """
    return _Writer(folder, directory, contents, draw_guide, draw_panels, full).write()


class _Writer:
    def __init__(
        self,
        folder: Path,
        directory: Path,
        contents: Contents,
        draw_guide: DrawGuide | None,
        draw_panels: DrawPanels | None,
        full: int | None,
    ):
        self._folder, self._directory, self._contents = folder, directory, contents
        self._draw_guide, self._draw_panels = draw_guide, draw_panels
        sizes: Counter[_Cell] = Counter()
        for shard in contents.shards:
            sizes.update({(shard.split, *cell): count for cell, count in shard.cells.items()})
        self._choice = Choice(sizes, full)
        self._full = 0
        self._splits = list(contents.splits)
        self._foregrounds, self._backgrounds = dict(contents.foregrounds), dict(contents.backgrounds)
        self._reasons: list[str] = []
        self._blocks: list[list[Any]] = []
        self._table = _Table()
        self._unreadable: list[str] = []
        self._tables, self._notes = read_tables(directory)
        self._answers = self._read_answers()

    def write(self) -> WriteResult:
        shards = self._contents.shards
        with Progress(sum(shard.samples for shard in shards), desc="report", unit="image") as progress:
            for shard in shards:
                for count in self._add_images(shard):
                    progress.update(count)
                    signals.check()
        images = len(self._table.keys)
        for shard in shards:
            self._add_rejects(shard)
        self._write_columns(images)
        if self._unreadable:
            self._notes.append(
                f"{plural(len(self._unreadable), 'image')} can't be read: {join_names(self._unreadable, 3)}. "
                "figureground check DIR says more."
            )
        return WriteResult(self._full, self._notes)

    def _read_answers(self) -> AnswerCounts:
        try:
            return AnswerCounts.read(self._directory)
        except FiguregroundError as error:
            self._notes.append(f"{error} No answers are shown.")
            return AnswerCounts()

    # --- images ---------------------------------------------------------------------------------

    def _add_images(self, shard: ShownShard) -> Iterator[int]:
        """Write the images of a shard; yield the number of each chunk's."""
        name = shard.reader.shard.name
        thumbnails = self._make_folder(f"thumbnails/{name}")
        first = len(self._table.keys)
        numbered = enumerate(shard.reader.samples())
        jobs = (
            ((row, stored), partial(write_thumbnail, thumbnails / str(row), stored.image)) for row, stored in numbered
        )
        for number, chunk in enumerate(batched(compute_ahead(jobs), CHUNK)):
            keys = [stored.key for (_, stored), _ in chunk]
            scores = [table.take(keys) for table in self._tables]
            rows = []
            for position, ((row, stored), thumbnail) in enumerate(chunk):
                image_scores = [pair for table in scores for pair in table[position]]
                rows.append(self._add_image(shard, row, stored, thumbnail, image_scores))
            self._write_details(f"details/{name}/{number}", rows)
            yield len(chunk)
        self._blocks.append([name, first, len(self._table.keys) - first, ""])

    def _add_image(
        self, shard: ShownShard, row: int, stored: Stored, thumbnail: Thumbnail, scores: Sequence[tuple[str, Any]]
    ) -> dict[str, Any]:
        labels = stored.labels["foreground"], stored.labels["background"]
        if not thumbnail.suffix:
            self._unreadable.append(stored.key)
        self._table.add(
            stored.key, self._splits.index(shard.split), labels, thumbnail.suffix, 0, self._answers.state(stored.key)
        )
        provenance = parse_json(stored.provenance, f"{stored.key}: its provenance")
        details: dict[str, Any] = {
            "key": _clean_text(stored.key),
            "prompt": _clean_text(stored.prompt),
            "facts": _list_facts(_select_facts(provenance)),
            "scores": [(_clean_text(name), _clean_value(value)) for name, value in scores],
            "people": self._answers.describe(stored.key),
        }
        if self._choice.take((shard.split, *labels)):
            self._full += 1
            details |= self._write_pictures(shard.reader.shard.name, row, stored, provenance, thumbnail)
        return details

    def _write_pictures(
        self, name: str, row: int, stored: Stored, provenance: dict[str, Any], thumbnail: Thumbnail
    ) -> dict[str, Any]:
        """Write an image at full size, its guide, mask and panels; return their titles and paths in the report."""
        base = f"images/{name}/{row}"
        self._make_folder(f"images/{name}")
        entry: dict[str, Any] = {"full": None, "pictures": [], "panels": []}
        if thumbnail.is_original:
            entry["full"] = f"thumbnails/{name}/{row}.{SUFFIXES[thumbnail.suffix]}"
        elif thumbnail.stored_suffix:
            entry["full"] = self._save(f"{base}.{SUFFIXES[thumbnail.stored_suffix]}", stored.image)
        if "guide" in stored.images:
            entry["pictures"].append(("guide", self._save(f"{base}-guide.png", stored.images["guide"])))
        elif self._draw_guide and (guide := self._draw_guide(provenance)) is not None:
            entry["pictures"].append(("guide", self._save(f"{base}-guide.webp", encode_picture(guide))))
        if "mask" in stored.images:
            entry["pictures"].append(("mask", self._save(f"{base}-mask.png", stored.images["mask"])))
        entry["panels"] = save_panels(self._folder, base, self._make_panels(provenance))
        return entry

    def _make_panels(self, provenance: dict[str, Any]) -> list[Panel]:
        """Return a sample's panels; after one that can't be drawn there are no more, and a note says why."""
        try:
            return self._draw_panels(provenance) if self._draw_panels else []
        except (FiguregroundError, OSError, ValueError) as error:
            self._notes.append(f"Panels are missing from {printable(provenance.get('key', 'an image'))} on: {error}")
            self._draw_panels = None
            return []

    def _save(self, path: str, data: bytes) -> str:
        (self._folder / path).write_bytes(data)
        return path

    def _make_folder(self, path: str) -> Path:
        folder = self._folder / path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write_details(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write the details of a chunk; facts that all its images share are written once."""
        shared = [fact for fact in rows[0]["facts"] if all(fact in row["facts"] for row in rows)]
        shared_facts = set(shared)
        for row in rows:
            row["facts"] = [fact for fact in row["facts"] if fact not in shared_facts]
        write_script(self._folder, name, {"shared": shared, "rows": rows})

    # --- rejects --------------------------------------------------------------------------------

    def _add_rejects(self, shard: ShownShard) -> None:
        if not shard.rejects:
            return
        name, first, schema = shard.reader.shard.name, len(self._table.keys), shard.reader.schema()
        self._make_folder(f"thumbnails/{name}")
        for number, chunk in enumerate(batched(enumerate(shard.reader.rejects(schema)), CHUNK)):
            rows = [self._add_reject(shard, name, row, reject) for row, reject in chunk]
            self._write_details(f"details/{name}/r{number}", rows)
            signals.check()
        self._blocks.append([name, first, len(self._table.keys) - first, "r"])

    def _add_reject(self, shard: ShownShard, name: str, row: int, reject: Reject) -> dict[str, Any]:
        spec, reason = reject.spec, _clean_text(reject.reason)
        if reason not in self._reasons:
            self._reasons.append(reason)
        self._foregrounds.setdefault(spec.foreground, spec.foreground_name)
        self._backgrounds.setdefault(spec.background, spec.background_name)
        suffix = 0
        facts = _list_facts(_select_facts(spec.to_json()))
        if isinstance(reject, Dropped):
            suffix = write_thumbnail(self._folder / f"thumbnails/{name}/r{row}", reject.encoded.image).suffix
            facts = _list_facts(_select_facts(parse_json(reject.encoded.provenance, f"{spec.key}: its provenance")))
        self._table.add(
            spec.key, self._splits.index(shard.split), (spec.foreground, spec.background), suffix,
            self._reasons.index(reason) + 1, 0,
        )  # fmt: skip
        return {
            "key": _clean_text(spec.key), "prompt": _clean_text(spec.prompt), "facts": [("reason", reason), *facts],
            "scores": [], "people": [],
        }  # fmt: skip

    # --- columns --------------------------------------------------------------------------------

    def _write_columns(self, images: int) -> None:
        table, total = self._table, len(self._table.keys)
        labels = {
            name: encode_column(np.array(getattr(table, name), np.int64))
            for name in ("split", "foreground", "background", "reason", "thumbnail", "people")
        }
        votes, scorers = self._count_votes(images)
        labels["votes"] = encode_column(np.concatenate([votes, np.zeros(total - images, np.int64)]))
        write_script(self._folder, "data/labels", labels)
        write_script(self._folder, "data/keys", [_clean_text(key) for key in table.keys])
        scores: list[dict[str, Any]] = []
        for score_table in self._tables:
            if note := score_table.describe_unknown_keys():
                self._notes.append(note)
            for name, values in score_table.columns().items():
                file = f"data/score-{len(scores)}"
                write_script(
                    self._folder, file, encode_column(np.concatenate([values, _missing_values(total - images)]))
                )
                finite = values[np.isfinite(values)]
                bounds = [float(finite.min()), float(finite.max())] if len(finite) else [0.0, 0.0]
                scores.append({"name": _clean_text(name), "file": file, "low": bounds[0], "high": bounds[1]})
        write_script(
            self._folder, "data/index",
            {
                "images": images, "total": total, "chunk": CHUNK, "full": self._full,
                "splits": [_clean_text(name) for name in self._splits],
                "foregrounds": _name_labels(self._foregrounds), "backgrounds": _name_labels(self._backgrounds),
                "reasons": self._reasons, "blocks": self._blocks, "suffixes": SUFFIXES,
                "scores": scores, "scorers": scorers, "people": bool(self._answers),
            },
        )  # fmt: skip

    def _count_votes(self, images: int) -> tuple[np.ndarray, int]:
        """Return the votes of the scorers of `verify` for each image, and the number of scorers; see `count_votes`."""
        table = self._table
        if any(each.path == VERIFIED for each in self._tables):
            labels = (np.array(each[:images], np.int64) for each in (table.split, table.foreground, table.background))
            try:
                return count_votes(self._directory, Population(table.keys[:images], self._splits, (), (), *labels))
            except FiguregroundError as error:
                self._notes.append(f"{error} No votes are shown.")
        return np.zeros(images, np.int64), 0


def save_panels(folder: Path, base: str, panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Write the pictures of panels; return the panels with the paths of these in the report.

    Args:
        folder: The folder of the report.
        base: Beginning of the paths of the pictures, in a folder below it that exists.
    """
    entries = []
    for number, panel in enumerate(panels):
        pictures = []
        for position, picture in enumerate(panel.pictures):
            path = f"{base}-panel{number}-{position}.webp"
            (folder / path).write_bytes(encode_picture(picture.image))
            pictures.append((_clean_text(picture.title), path))
        facts = [(_clean_text(name), _clean_text(value)) for name, value in panel.facts]
        entries.append({"title": _clean_text(panel.title), "pictures": pictures, "facts": facts})
    return entries


def _list_facts(fields: Mapping[str, Any]) -> _Pairs:
    return [(_clean_text(name), _clean_text(value)) for name, value in flatten(fields)]


def _select_facts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a provenance or a spec that the page doesn't show beside the image already."""
    return {name: value for name, value in fields.items() if name not in _SHOWN_ALREADY}


def _clean_text(text: object) -> str:
    """Return text without characters that control how it is shown."""
    return printable(text, lines=True)


def _clean_value(value: Any) -> str | float | int | bool:
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else json.dumps(value)
    return value if isinstance(value, bool | int) else _clean_text(value)


def _missing_values(count: int) -> np.ndarray:
    return np.full(count, np.nan, np.float32)


def _name_labels(names: Mapping[int, str]) -> list[tuple[int, str]]:
    """Return labels with their names, in order; equal names get their number, so that a link means one of them."""
    clean_names = {label: _clean_text(name) for label, name in sorted(names.items())}
    counts = Counter(clean_names.values())
    return [(label, name if counts[name] == 1 else f"{name} ({label})") for label, name in clean_names.items()]
