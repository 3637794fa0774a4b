"""Draws the preview of a dataset: foregrounds down, backgrounds across."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from figureground.core.fonts import Font, choose_font, to_ascii
from figureground.report.contents import (
    Contents,
    Example,
    Labels,
    Shard,
    choose_evenly,
    read_examples,
    read_sample_labels,
)
from figureground.sources.images import open_stored

MAX_DOWN = 20
"""Maximum number of foregrounds in a preview; of more, evenly spaced ones are drawn."""
MAX_ACROSS = 20
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
    splits = {split: shards for split, shards in contents.splits.items() if any(shard.samples for shard in shards)}
    splits = splits or contents.splits
    first_split, shards = next(iter(splits.items()))
    single_foreground = contents.one_foreground_each()
    all_rows = [
        _Row(split, label, f"{split} ({contents.foregrounds[label]})") for split, label in single_foreground.items()
    ]
    all_rows = all_rows or [
        _Row(first_split, label, contents.foregrounds[label]) for label in _choose_labels(contents, shards, 0)
    ]
    backgrounds = _choose_labels(contents, contents.shards if single_foreground else shards, 1)
    down, across = choose_evenly(all_rows, MAX_DOWN), choose_evenly(backgrounds, MAX_ACROSS)
    images = {
        (split, *example.labels): fit(open_rgb(example.image))
        for split in dict.fromkeys(row.split for row in down)
        for example in _read_first_of_each(
            splits[split], {(row.foreground, b) for row in down if row.split == split for b in across}
        )
    }
    edge = max((max(image.size) for image in images.values()), default=SMALLEST_CELL)

    names = [row.name for row in down], [contents.backgrounds[label] for label in across]
    font, all_letters = choose_font("".join([*names[0], *names[1]]), 16)
    small = ImageFont.load_default(size=13)
    drawn_names = names if all_letters else [[to_ascii(name) for name in name_list] for name_list in names]
    rows = [_wrap(name, font, _NAME_WIDTH, lines=3) for name in drawn_names[0]]
    columns = [_wrap(name, font, edge, lines=2) for name in drawn_names[1]]
    note = "one image per cell" if single_foreground else f"{first_split}, one image per cell"
    rows_in_all = len(all_rows) if single_foreground else len(contents.foregrounds)
    for num_drawn, num_available, num_total, noun in (
        (len(down), len(all_rows), rows_in_all, "splits" if single_foreground else "foregrounds"),
        (len(across), len(backgrounds), len(contents.backgrounds), "backgrounds"),
    ):
        note += f"; {num_drawn} of {num_available} {noun}, evenly chosen" if num_drawn < num_available else ""
        note += (
            f"; {num_total - num_available} of {num_total} {noun} without images" if num_available < num_total else ""
        )
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


def _choose_labels(contents: Contents, shards: Sequence[Shard], axis: int) -> list[int]:
    """Return the foregrounds (axis 0) or backgrounds (axis 1) to draw; once finished, only those with samples."""
    names = (contents.foregrounds, contents.backgrounds)[axis]
    present = {cell[axis] for shard in shards for cell, count in shard.cells.items() if count}
    return [label for label in names if label in present] if contents.finished and present else list(names)


def _read_first_of_each(shards: Sequence[Shard], cells: set[Labels]) -> Iterator[Example]:
    """Yield the first sample of each cell that has one, skipping shards that can add none."""
    missing = set(cells)
    for shard in shards:
        if missing.isdisjoint(shard.cells):
            continue
        rows: dict[Labels, int] = {}
        for row, labels in enumerate(read_sample_labels(shard)):
            if labels in missing:
                rows.setdefault(labels, row)
        missing -= set(rows)
        yield from read_examples(shard, rows.values())


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
    wrapped: list[str] = []
    for word in text.split():
        if wrapped and (len(wrapped) == lines or font.getlength(f"{wrapped[-1]} {word}") <= width):
            wrapped[-1] += f" {word}"
        else:
            wrapped.append(word)
    return [_truncate(line, font, width) for line in wrapped or [""]]


def _truncate(text: str, font: Font, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
