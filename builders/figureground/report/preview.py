"""Draws the preview of a dataset: foregrounds down, backgrounds across."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from figureground.core.fonts import Font, font_for, to_ascii
from figureground.report.contents import Contents, Example, Labels, Shard, evenly, examples_of, labels_of
from figureground.sources.images import open_stored

MOST_DOWN = 20
"""Maximum number of foregrounds in a preview; of more, evenly spaced ones are drawn."""
MOST_ACROSS = 20
"""Maximum number of backgrounds in a preview."""
SMALLEST_CELL, LARGEST_CELL = 96, 128
"""Edge of an image in the preview, in pixels."""

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
        (split, *example.labels): fit(open_rgb(example.image))
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
        for row, labels in enumerate(labels_of(shard)):
            if labels in missing:
                rows.setdefault(labels, row)
        missing -= set(rows)
        yield from examples_of(shard, rows.values())


def open_rgb(image: bytes) -> Image.Image:
    """Decode a stored image as RGB."""
    return open_stored(image).convert("RGB")


def fit(image: Image.Image) -> Image.Image:
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
