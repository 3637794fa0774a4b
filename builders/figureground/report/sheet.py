"""Preview sheet and report of a dataset: `preview.png` and `report.html`.

Both are made from the finished shards in the dataset directory alone, whether or not the build is finished.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import io
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image, ImageDraw, ImageFont

from figureground.core.errors import FiguregroundError, counted, listed
from figureground.core.files import FileError, parse_json, read_object, replace_bytes
from figureground.core.fonts import Font, font_for, to_ascii
from figureground.core.owned import encode_png, refuse_strangers
from figureground.core.pages import render_page
from figureground.core.shapes import check_shape
from figureground.shards.card import CARD, PREVIEW, license_of, one_foreground_each, public
from figureground.shards.directory import refuse_strange
from figureground.shards.formats.format import folders, opened_formats
from figureground.shards.index import INDEX, writing_beside
from figureground.shards.markers import formats_of, markers
from figureground.shards.reader import ShardReader
from figureground.shards.shard import MARKERS, PRIVATE
from figureground.shards.stages import COPIES
from figureground.sources.images import UnreadableImage, list_images, open_stored, read_image

REPORT = "report.html"
MOST_DOWN = 20
"""Maximum number of foregrounds in a preview; of more, evenly spaced ones are drawn."""
MOST_ACROSS = 20
"""Maximum number of backgrounds in a preview."""
EXAMPLES = 24
"""Number of examples in a report, each beside its guide."""
REFERENCES = 4
"""Number of references, and of results beside them, that a report shows per class."""
SMALLEST_CELL, LARGEST_CELL = 96, 128
"""Edge of an image in the preview, in pixels."""

DrawGuide = Callable[[dict[str, Any]], Image.Image | None]
"""Redraws the guide of a sample from its parsed provenance; returns None if it has none."""

T = TypeVar("T")
Labels = tuple[int, int]
"""Foreground and background label."""


class Shard(NamedTuple):
    """A finished shard: its samples, and the facts from its marker."""

    reader: ShardReader
    split: str
    part: int
    of: int
    """Planned number of shards of the split in this part."""
    samples: int
    cells: dict[Labels, int]
    """Number of samples of each cell."""
    rejects: dict[str, int]
    """Number of planned images that were rejected, by reason."""


class Example(NamedTuple):
    """One sample as stored in a shard."""

    image: bytes
    """Encoded image: JPEG, WebP or PNG."""
    prompt: str
    key: str
    provenance: dict[str, Any]

    @property
    def labels(self) -> Labels:
        return self.provenance["labels"]["foreground"], self.provenance["labels"]["background"]


class Contents(NamedTuple):
    """Contents of a dataset directory, without its images."""

    splits: dict[str, list[Shard]]
    """Finished shards by split, in order; splits in planned order if known, else training first."""
    foregrounds: dict[int, str]
    """Name of each label; for tars, only of labels that occur."""
    backgrounds: dict[int, str]
    """Name of each label; for tars, only of labels that occur."""
    finished: bool
    """Whether the index lists exactly the existing shards."""

    @property
    def shards(self) -> list[Shard]:
        return [shard for some in self.splits.values() for shard in some]

    def one_foreground_each(self) -> dict[str, int]:
        """Return the foreground of each split if every split has a single one, else an empty dict."""
        return one_foreground_each(
            {
                split: {"samples": sum(s.samples for s in some), "cells": [cell for s in some for cell in s.cells]}
                for split, some in self.splits.items()
            }
        )

    @property
    def progress(self) -> str | None:
        """Progress of an unfinished build, such as `3 of 12 shards`; None if it is finished."""
        if self.finished:
            return None
        # Splits without a finished shard are unknown here.
        planned = {(shard.split, shard.part): shard.of for shard in self.shards}
        return f"{len(self.shards)} of {sum(planned.values())} shards"


def write_sheet(
    directory: Path, out: Path | None = None, draw_guide: DrawGuide | None = None, splits: Sequence[str] = ()
) -> list[Path]:
    """Write `preview.png` (foregrounds down, backgrounds across) and `report.html`.

    Args:
        directory: A dataset directory, finished or not.
        out: Output directory; `directory` itself by default.
        draw_guide: Draws a sample's guide; without it the report shows only results.
        splits: Split names in planned order; for a finished dataset the index provides them.

    Returns:
        The two files.

    Raises:
        FiguregroundError: The directory doesn't exist or has no finished shard, or a file with one of the two names
            wasn't written by figureground.
    """
    directory = Path(directory)
    contents = read_contents(directory, splits)
    out = directory if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)

    preview, report = out / PREVIEW, out / REPORT
    refuse_strangers(preview, report)
    sheet = draw_preview(contents)
    files = {preview: encode_png(sheet), report: write_report(directory, contents, sheet, draw_guide).encode()}
    with writing_beside(directory) if out == directory else contextlib.nullcontext():
        for path, data in files.items():
            replace_bytes(path, data, root=out)
    return [preview, report]


def license_note(directory: Path) -> str | None:
    """Return a note if the card's licence is unknown; None if it is set or there is no card.

    Raises:
        ShardError: The card can't be read.
    """
    if not (directory / CARD).exists() or license_of(directory):
        return None
    return f"license unknown: set `license:` in the header of {directory / CARD} before you publish; it is kept."


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


# Reading


def read_contents(directory: Path, planned: Sequence[str] = ()) -> Contents:
    """Read markers and class names, but no images.

    Args:
        planned: Split names in planned order, for a dataset that has no index yet.

    Raises:
        FiguregroundError: The directory doesn't exist or has no finished shard.
    """
    if not directory.is_dir():
        raise FiguregroundError(f"{directory}: the directory doesn't exist; build a dataset into it first.")
    refuse_strange(directory)
    done = markers(directory)
    shards = [_shard(directory, name, marker) for name, marker in done.items()]
    if not shards:
        raise FiguregroundError(
            f"{directory}: no shard is finished: {MARKERS}/ has no marker. "
            "Give the --out of a build, or wait until its first shard is finished."
        )
    path = directory / INDEX
    index: dict[str, Any] = {"shards": [], "splits": planned}
    if path.exists():
        index = read_object(path, root=directory)
        try:
            check_shape(index, {"splits": dict, "shards": [{"shard": str}]})
        except ValueError as error:
            raise FileError(path, f"{error}. Build again: it is rewritten") from None
    order = {split: place for place, split in enumerate(index["splits"])}
    splits: dict[str, list[Shard]] = {}
    for shard in sorted(shards, key=lambda s: (order.get(s.split, len(order)), s.split != "train", s.split)):
        splits.setdefault(shard.split, []).append(shard)
    foregrounds, backgrounds = _names(shards)
    return Contents(splits, foregrounds, backgrounds, {shard["shard"] for shard in index["shards"]} == set(done))


def _shard(directory: Path, name: str, marker: Mapping[str, Any]) -> Shard:
    known = opened_formats()
    for kind in formats_of(marker):
        reader = ShardReader(directory, marker, known[kind])
        if reader.path.exists():
            cells = {(foreground, background): count for foreground, background, count in marker["cells"]}
            return Shard(
                reader, marker["split"], marker.get("part", 0), marker["of"], marker["samples"], cells,
                marker["rejects"],
            )  # fmt: skip
    raise FiguregroundError(
        f"{directory}: shard {name} has a marker, but is in none of {listed(f'{each}/' for each in folders())}. "
        f"Restore it, or delete {MARKERS}/{name}.json and build again."
    )


def _names(shards: Sequence[Shard]) -> tuple[dict[int, str], dict[int, str]]:
    """Return the names of the foreground and background labels."""
    if (columns := shards[0].reader.schema()) is not None:
        return dict(enumerate(columns.foregrounds)), dict(enumerate(columns.backgrounds))
    foregrounds: dict[int, str] = {}
    backgrounds: dict[int, str] = {}
    for shard in shards:
        new = {cell for cell in shard.cells if cell[0] not in foregrounds or cell[1] not in backgrounds}
        for row in shard.reader.columns_of((), ("provenance",)) if new else ():
            provenance = parse_json(row["provenance"], "provenance")
            foregrounds[provenance["labels"]["foreground"]] = provenance["foreground"]
            backgrounds[provenance["labels"]["background"]] = provenance["background"]
    return dict(sorted(foregrounds.items())), dict(sorted(backgrounds.items()))


def _labels(shard: Shard) -> list[Labels]:
    """Return the labels of each sample of a shard, in order."""
    return [(row["foreground"], row["background"]) for row in shard.reader.columns_of(texts=())]


def _examples(shard: Shard, rows: Iterable[int]) -> Iterator[Example]:
    """Yield the samples at `rows`, in the shard's order."""
    for some in shard.reader.samples(sorted(rows)):
        yield Example(some.image, some.prompt, some.key, parse_json(some.provenance, f"{some.key}: its provenance"))


# The preview

_PAPER, _INK, _FAINT, _EMPTY = "#ffffff", "#222222", "#777777", "#f2f2f2"
_MARGIN, _GAP, _LINE = 16, 4, 19
_NAME_WIDTH = 160


class _Row(NamedTuple):
    """A row of the preview: a foreground of a split."""

    split: str
    foreground: int
    name: str


def draw_preview(contents: Contents) -> Image.Image:
    """Draw one image of each cell of the first split, foregrounds down, backgrounds across; RGB.

    If every split is a class with a single foreground, the splits are the rows.
    """
    filled = {split: some for split, some in contents.splits.items() if any(shard.samples for shard in some)}
    filled = filled or contents.splits
    first, shards = next(iter(filled.items()))
    alone = contents.one_foreground_each()
    every = [_Row(split, label, f"{split} ({contents.foregrounds[label]})") for split, label in alone.items()]
    every = every or [_Row(first, label, contents.foregrounds[label]) for label in _drawn(contents, shards, 0)]
    backgrounds = _drawn(contents, contents.shards if alone else shards, 1)
    down, across = evenly(every, MOST_DOWN), evenly(backgrounds, MOST_ACROSS)
    images = {
        (split, *example.labels): _fit(_open(example.image))
        for split in dict.fromkeys(row.split for row in down)
        for example in _first_of_each(
            filled[split], {(row.foreground, b) for row in down if row.split == split for b in across}
        )
    }
    edge = max((max(image.size) for image in images.values()), default=SMALLEST_CELL)

    names = [row.name for row in down], [contents.backgrounds[label] for label in across]
    font, all_letters = font_for("".join([*names[0], *names[1]]), 16)
    small = ImageFont.load_default(size=13)
    drawn = names if all_letters else [[to_ascii(name) for name in some] for some in names]
    rows = [_wrap(name, font, _NAME_WIDTH, lines=3) for name in drawn[0]]
    columns = [_wrap(name, font, edge, lines=2) for name in drawn[1]]
    note = "one image per cell" if alone else f"{first}, one image per cell"
    rows_in_all = len(every) if alone else len(contents.foregrounds)
    for shown, of, total, what in (
        (len(down), len(every), rows_in_all, "splits" if alone else "foregrounds"),
        (len(across), len(backgrounds), len(contents.backgrounds), "backgrounds"),
    ):
        note += f"; {shown} of {of} {what}, evenly chosen" if shown < of else ""
        note += f"; {total - of} of {total} {what} without images" if of < total else ""
    note += f"; unfinished: {contents.progress}" if contents.progress else ""

    step = edge + _GAP
    left = _MARGIN + 12 + math.ceil(max(font.getlength(line) for name in rows for line in name))
    top = _MARGIN + 8 + _LINE * max(len(name) for name in columns)
    right = left + max(step * len(across) - _GAP, math.ceil(small.getlength(note)))
    bottom = top + step * len(down)
    sheet = Image.new("RGB", (right + _MARGIN, bottom + 12 + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(columns):
        for k, line in enumerate(reversed(name)):
            draw.text((left + j * step + edge / 2, top - 8 - _LINE * k), line, _INK, font, anchor="ms")
    for i, name in enumerate(rows):
        for k, line in enumerate(name):
            y = top + i * step + edge / 2 + _LINE * (k - (len(name) - 1) / 2)
            draw.text((left - 12, y), line, _INK, font, anchor="rm")
    for i, row in enumerate(down):
        for j, background in enumerate(across):
            x, y = left + j * step, top + i * step
            if (image := images.get((row.split, row.foreground, background))) is None:
                draw.rectangle((x, y, x + edge - 1, y + edge - 1), _EMPTY)
            else:
                sheet.paste(image, (x + (edge - image.width) // 2, y + (edge - image.height) // 2))
    draw.text((left, bottom + 6), note, _FAINT, small, anchor="lt")
    return sheet


def _drawn(contents: Contents, shards: Sequence[Shard], axis: int) -> list[int]:
    """Return the foregrounds (axis 0) or backgrounds (axis 1) to draw; once finished, only those with samples."""
    names = (contents.foregrounds, contents.backgrounds)[axis]
    there = {cell[axis] for shard in shards for cell, count in shard.cells.items() if count}
    return [label for label in names if label in there] if contents.finished and there else list(names)


def _first_of_each(shards: Sequence[Shard], cells: set[Labels]) -> Iterator[Example]:
    """Yield the first sample of each cell that has one, skipping shards that can add none."""
    missing = set(cells)
    for shard in shards:
        if missing.isdisjoint(shard.cells):
            continue
        rows: dict[Labels, int] = {}
        for row, labels in enumerate(_labels(shard)):
            if labels in missing:
                rows.setdefault(labels, row)
        missing -= set(rows)
        yield from _examples(shard, rows.values())


def _open(image: bytes) -> Image.Image:
    return open_stored(image).convert("RGB")


def _fit(image: Image.Image) -> Image.Image:
    """Scale an image to the cell size: enlarge a small one by a whole factor, reduce a large one."""
    edge = max(image.size)
    if edge > LARGEST_CELL:
        share = LARGEST_CELL / edge
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        return image.resize(size, Image.Resampling.LANCZOS)
    times = math.ceil(SMALLEST_CELL / edge)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _wrap(text: str, font: Font, width: float, lines: int) -> list[str]:
    """Break a name between words into lines that fit; cut longer lines with an ellipsis."""
    broken: list[str] = []
    for word in text.split():
        if broken and (len(broken) == lines or font.getlength(f"{broken[-1]} {word}") <= width):
            broken[-1] += f" {word}"
        else:
            broken.append(word)
    return [_cut(line, font, width) for line in broken or [""]]


def _cut(text: str, font: Font, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


# The report


def write_report(directory: Path, contents: Contents, sheet: Image.Image, draw_guide: DrawGuide | None) -> str:
    """Return a self-contained HTML page: counts, settings, rejects, and examples beside their guides."""
    own = directory / "_figureground"
    rejects: Counter[str] = Counter()
    for shard in contents.shards:
        rejects.update(shard.rejects)
    return render_page(
        "report.html.jinja",
        {},
        name=directory.resolve().name,
        progress=contents.progress,
        samples=sum(shard.samples for shard in contents.shards),
        shards=len(contents.shards),
        preview=_inline(sheet),
        tables=_tables(contents),
        rejects=sorted(rejects.items()),
        settings=[*_settings(own / "recipe.json"), *_settings(own / "numerics.json", "numerics")],
        examples=[_card(example, draw_guide) for example in _choose(contents.shards, EXAMPLES)],
        references=list(_beside_references(directory, contents)),
    )


def _choose(shards: Sequence[Shard], most: int) -> list[Example]:
    """Return at most `most` samples of the shards, evenly spaced."""
    ends = list(itertools.accumulate(shard.samples for shard in shards))
    rows: dict[Path, list[int]] = {}
    for place in evenly(range(min(ends[-1] if ends else 0, sys.maxsize)), most):
        shard = bisect.bisect_right(ends, place)
        rows.setdefault(shards[shard].reader.path, []).append(place - (ends[shard - 1] if shard else 0))
    return [some for shard in shards if (path := shard.reader.path) in rows for some in _examples(shard, rows[path])]


def _beside_references(directory: Path, contents: Contents) -> Iterator[dict[str, Any]]:
    """Yield, for each class with saved references, some references and some results, for the template."""
    copies = directory / PRIVATE / "stages" / COPIES
    alone = contents.one_foreground_each()
    for split in evenly([split for split in contents.splits if (copies / split).is_dir()], MOST_DOWN):
        references = []
        for path in evenly(list_images(copies / split), REFERENCES):
            with contextlib.suppress(UnreadableImage):
                references.append(_inline(_fit(read_image(path, max_edge=LARGEST_CELL))))
        results = [_inline(_fit(_open(example.image))) for example in _choose(contents.splits[split], REFERENCES)]
        if references:
            noun = contents.foregrounds[alone[split]] if split in alone else None
            yield {"split": split, "noun": noun, "references": references, "results": results}


def _tables(contents: Contents) -> list[dict[str, Any]]:
    """Return a table for each split, or a single one if every split is a class with a single foreground."""
    tables = [_table(contents, split) for split in contents.splits]
    alone = contents.one_foreground_each()
    if not alone:
        return tables
    rows = [
        {"name": f"{split} ({contents.foregrounds[alone[split]]})", "counts": table["sums"], "sum": table["sum"]}
        for split, table in zip(contents.splits, tables, strict=True)
        if split in alone
    ]
    return [
        {
            "split": counted(len(rows), "split"),
            "backgrounds": tables[0]["backgrounds"],
            "rows": rows,
            "sums": [sum(column) for column in zip(*(table["sums"] for table in tables), strict=True)],
            "sum": sum(table["sum"] for table in tables),
            "most": max(table["most"] for table in tables),
        }
    ]


def _table(contents: Contents, split: str) -> dict[str, Any]:
    """Return the sample counts of each cell of a split, with sums, for the template."""
    counts: Counter[Labels] = Counter()
    for shard in contents.splits[split]:
        counts.update(shard.cells)
    most = max(counts.values(), default=0)
    rows = []
    for foreground, name in contents.foregrounds.items():
        row = [counts[foreground, background] for background in contents.backgrounds]
        rows.append({"name": name, "counts": row, "sum": sum(row)})
    return {
        "split": split,
        "backgrounds": list(contents.backgrounds.values()),
        "rows": rows,
        "sums": [sum(counts[f, b] for f in contents.foregrounds) for b in contents.backgrounds],
        "sum": counts.total(),
        "most": most,
    }


def _settings(path: Path, name: str = "recipe") -> list[tuple[str, list[tuple[str, str]]]]:
    """Return a JSON file's settings in titled groups of names and values: one for the file, one for each section."""
    if not path.exists():
        return []
    groups = _groups(public(read_object(path)), name)
    return [(title, list(_flat(group))) for title, group in groups if group]


def _groups(said: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a file's own settings, its sections, each step of its lineage, and the recipes of its sources."""
    parts = {part: said.pop(part) for part in ("identity", "execution") if isinstance(said.get(part), dict)}
    steps, sources = said.pop("lineage", []), said.pop("sources", [])
    yield name, said
    for part, section in parts.items():
        yield f"{name}: {part}", section
    for number, step in enumerate(steps, 1):
        yield f"{name}: step {number}", step
    for source in sources:
        yield from _groups(source, f"{name} of {source.pop('name')}")


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as dotted names and short values."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, list):
            yield f"{above}{name}", listed(value)
        else:
            yield f"{above}{name}", value if isinstance(value, str) else json.dumps(value)


def _card(example: Example, draw_guide: DrawGuide | None) -> dict[str, Any]:
    """Return an example for the template."""
    guide = draw_guide(example.provenance) if draw_guide else None
    return {
        "guide": None if guide is None else _inline(guide),
        "image": _data_url(example.image),
        "small": max(open_stored(example.image).size) < SMALLEST_CELL,
        "foreground": example.provenance["foreground"],
        "background": example.provenance["background"],
        "spurious_for": example.provenance.get("spurious_for"),
        "prompt": example.prompt,
        "key": example.key,
    }


def _inline(image: Image.Image) -> str:
    """Return a drawn image as a data URL; lossless if it is small."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=90, method=4, lossless=max(image.size) <= LARGEST_CELL)
    return _data_url(buffer.getvalue())


def _data_url(image: bytes) -> str:
    kind = Image.MIME[open_stored(image).format or "PNG"]
    return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"
