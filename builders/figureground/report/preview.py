"""Draws the preview of a dataset: foregrounds down, backgrounds across."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from figureground.core.fonts import Font, choose_font, fit_text, to_ascii
from figureground.report.contents import (
    Contents,
    Example,
    Labels,
    ShownShard,
    choose_evenly,
    read_examples,
    read_sample_labels,
)
from figureground.sources.images import fit_size, open_stored

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


class _Grid(NamedTuple):
    """The cells of a preview."""

    rows: list[_Row]
    columns: dict[int, str]
    """Names of the backgrounds, by label, in order."""
    note: str
    """What the cells show, and which ones are left out."""


_Images = dict[tuple[str, int, int], Image.Image]
"""Images by split, foreground and background, fitted to a cell."""


def draw_preview(contents: Contents) -> Image.Image:
    """Draw one image of each cell of the first split, foregrounds down, backgrounds across; RGB.

    If every split is a class with a single foreground, the splits are the rows.
    """
    grid = _choose_cells(contents)
    return _draw(grid, _read_images(contents, grid))


def _choose_cells(contents: Contents) -> _Grid:
    first_split, shards = next(iter(_non_empty_splits(contents).items()))
    single_foreground = contents.one_foreground_each()
    if single_foreground:
        all_rows = [
            _Row(split, label, f"{split} ({contents.foregrounds[label]})") for split, label in single_foreground.items()
        ]
        rows_in_all, noun, note = len(all_rows), "splits", "one image per cell"
    else:
        all_rows = [
            _Row(first_split, label, contents.foregrounds[label]) for label in _choose_labels(contents, shards, 0)
        ]
        rows_in_all, noun, note = len(contents.foregrounds), "foregrounds", f"{first_split}, one image per cell"
    backgrounds = _choose_labels(contents, contents.shards if single_foreground else shards, 1)
    rows, across = choose_evenly(all_rows, MAX_DOWN), choose_evenly(backgrounds, MAX_ACROSS)
    note += _describe_choice(len(rows), len(all_rows), rows_in_all, noun)
    note += _describe_choice(len(across), len(backgrounds), len(contents.backgrounds), "backgrounds")
    note += f"; unfinished: {contents.progress}" if contents.progress else ""
    return _Grid(rows, {label: contents.backgrounds[label] for label in across}, note)


def _non_empty_splits(contents: Contents) -> dict[str, list[ShownShard]]:
    """Return the splits with samples; all of them if none has any."""
    splits = {split: shards for split, shards in contents.splits.items() if any(shard.samples for shard in shards)}
    return splits or contents.splits


def _describe_choice(drawn: int, available: int, total: int, noun: str) -> str:
    chosen = f"; {drawn} of {available} {noun}, evenly chosen" if drawn < available else ""
    return chosen + (f"; {total - available} of {total} {noun} without images" if available < total else "")


def _read_images(contents: Contents, grid: _Grid) -> _Images:
    foregrounds: dict[str, list[int]] = {}
    for row in grid.rows:
        foregrounds.setdefault(row.split, []).append(row.foreground)
    return {
        (split, *example.labels): fit(open_rgb(example.image))
        for split, in_split in foregrounds.items()
        for example in _read_first_of_each(
            contents.splits[split], {(foreground, b) for foreground in in_split for b in grid.columns}
        )
    }


def _draw(grid: _Grid, images: _Images) -> Image.Image:
    edge = max((max(image.size) for image in images.values()), default=SMALLEST_CELL)
    font, all_letters = choose_font("".join([*(row.name for row in grid.rows), *grid.columns.values()]), 16)
    small = ImageFont.load_default(size=13)

    def wrap(name: str, width: float, lines: int) -> list[str]:
        return _wrap(name if all_letters else to_ascii(name), font, width, lines)

    rows = [wrap(row.name, _NAME_WIDTH, 3) for row in grid.rows]
    columns = [wrap(name, edge, 2) for name in grid.columns.values()]
    step = edge + _GAP
    left = _MARGIN + 12 + math.ceil(max(font.getlength(line) for name in rows for line in name))
    top = _MARGIN + 8 + _LINE * max(len(name) for name in columns)
    right = left + max(step * len(columns) - _GAP, math.ceil(small.getlength(grid.note)))
    bottom = top + step * len(rows)
    sheet = Image.new("RGB", (right + _MARGIN, bottom + 12 + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(columns):
        for k, line in enumerate(reversed(name)):
            draw.text((left + j * step + edge / 2, top - 8 - _LINE * k), line, _INK, font, anchor="ms")
    for i, name in enumerate(rows):
        for k, line in enumerate(name):
            y = top + i * step + edge / 2 + _LINE * (k - (len(name) - 1) / 2)
            draw.text((left - 12, y), line, _INK, font, anchor="rm")
    for i, row in enumerate(grid.rows):
        for j, background in enumerate(grid.columns):
            image = images.get((row.split, row.foreground, background))
            _draw_cell(sheet, (left + j * step, top + i * step), edge, image)
    draw.text((left, bottom + 6), grid.note, _FAINT, small, anchor="lt")
    return sheet


def _draw_cell(sheet: Image.Image, corner: tuple[int, int], edge: int, image: Image.Image | None) -> None:
    x, y = corner
    if image is None:
        ImageDraw.Draw(sheet).rectangle((x, y, x + edge - 1, y + edge - 1), _EMPTY)
    else:
        sheet.paste(image, (x + (edge - image.width) // 2, y + (edge - image.height) // 2))


def _choose_labels(contents: Contents, shards: Sequence[ShownShard], axis: int) -> list[int]:
    """Return the foregrounds (axis 0) or backgrounds (axis 1) to draw; once finished, only those with samples."""
    names = (contents.foregrounds, contents.backgrounds)[axis]
    present = {cell[axis] for shard in shards for cell, count in shard.cells.items() if count}
    return [label for label in names if label in present] if contents.finished and present else list(names)


def _read_first_of_each(shards: Sequence[ShownShard], cells: set[Labels]) -> Iterator[Example]:
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
        return image.resize(fit_size(image.size, LARGEST_CELL), Image.Resampling.LANCZOS)
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
    return [fit_text(line, font, width) for line in wrapped or [""]]
