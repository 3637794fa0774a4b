"""The page `report.html`: what it says without its scripts, and the places that these fill."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from figureground.core.data_urls import to_data_url
from figureground.core.errors import plural
from figureground.core.files import read_object
from figureground.core.local_paths import strip_local_paths
from figureground.core.pages import render_page
from figureground.report.answers import read_labels
from figureground.report.contents import Contents, Example, Labels, ShownShard, choose_evenly, read_examples
from figureground.report.facts import flatten
from figureground.report.preview import LARGEST_CELL, MAX_DOWN, fit, open_rgb
from figureground.report.samples import WriteResult
from figureground.report.thumbnails import encode_picture
from figureground.shards.shard import NUMERICS, RECIPE, STAGES
from figureground.shards.stages import COPIES
from figureground.sources.images import UnreadableImage, list_images, read_image

REFERENCES = 4
"""Number of references, and of results beside them, that a report shows per class."""


def render_report(
    directory: Path,
    contents: Contents,
    sheet: Image.Image,
    write_result: WriteResult,
    overview: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the page as HTML.

    Args:
        sheet: The preview.
        write_result: What `write_samples` returned.
        overview: The method's panels of the whole dataset, as `samples.save_panels` returns them.
    """
    rejects: Counter[str] = Counter()
    for shard in contents.shards:
        rejects.update(shard.rejects)
    samples = sum(shard.samples for shard in contents.shards)
    labels = read_labels(directory)
    return render_page(
        "report.html.jinja",
        {"percent": lambda share: "undefined" if share is None else f"{100 * share:.1f} %"},
        name=directory.resolve().name,
        progress=contents.progress,
        samples=samples,
        shards=len(contents.shards),
        full=write_result.full,
        preview=_encode_image(sheet),
        tables=_make_tables(contents),
        rejects=sorted(rejects.items()),
        settings=[*_read_settings(directory / RECIPE), *_read_settings(directory / NUMERICS, "numerics")],
        references=list(_pair_references(directory, contents)),
        overview=overview,
        labels=labels,
        notes=[*write_result.notes, *labels.notes],
    )


def _choose_examples(shards: Sequence[ShownShard], most: int) -> list[Example]:
    """Return at most `most` samples of the shards, evenly spaced."""
    ends = list(itertools.accumulate(shard.samples for shard in shards))
    rows: dict[Path, list[int]] = {}
    for position in choose_evenly(range(min(ends[-1] if ends else 0, sys.maxsize)), most):
        shard = bisect.bisect_right(ends, position)
        rows.setdefault(shards[shard].reader.path, []).append(position - (ends[shard - 1] if shard else 0))
    return [
        example
        for shard in shards
        if (path := shard.reader.path) in rows
        for example in read_examples(shard, rows[path])
    ]


def _pair_references(directory: Path, contents: Contents) -> Iterator[dict[str, Any]]:
    """Yield, for each class with saved references, some references and some results, for the template."""
    copies = directory / STAGES / COPIES
    single_foreground = contents.one_foreground_each()
    for split in choose_evenly([split for split in contents.splits if (copies / split).is_dir()], MAX_DOWN):
        references = []
        for path in choose_evenly(list_images(copies / split), REFERENCES):
            with contextlib.suppress(UnreadableImage):
                references.append(_encode_image(fit(read_image(path, max_edge=LARGEST_CELL))))
        results = [
            _encode_image(fit(open_rgb(example.image)))
            for example in _choose_examples(contents.splits[split], REFERENCES)
        ]
        if references:
            noun = contents.foregrounds[single_foreground[split]] if split in single_foreground else None
            yield {"split": split, "noun": noun, "references": references, "results": results}


def _make_tables(contents: Contents) -> list[dict[str, Any]]:
    """Return a table for each split, or a single one if every split is a class with a single foreground."""
    tables = [_make_table(contents, split) for split in contents.splits]
    single_foreground = contents.one_foreground_each()
    if not single_foreground:
        return tables
    rows = [
        {
            "name": f"{split} ({contents.foregrounds[single_foreground[split]]})", "counts": table["sums"],
            "sum": table["sum"], "split": split, "foreground": single_foreground[split],
        }
        for split, table in zip(contents.splits, tables, strict=True)
        if split in single_foreground
    ]  # fmt: skip
    return [
        {
            "split": plural(len(rows), "split"),
            "backgrounds": tables[0]["backgrounds"],
            "rows": rows,
            "sums": [sum(column) for column in zip(*(table["sums"] for table in tables), strict=True)],
            "sum": sum(table["sum"] for table in tables),
            "most": max(table["most"] for table in tables),
        }
    ]


def _make_table(contents: Contents, split: str) -> dict[str, Any]:
    """Return the sample counts of each cell of a split, with sums, for the template."""
    counts: Counter[Labels] = Counter()
    for shard in contents.splits[split]:
        counts.update(shard.cells)
    most = max(counts.values(), default=0)
    rows = []
    for foreground, name in contents.foregrounds.items():
        row = [counts[foreground, background] for background in contents.backgrounds]
        rows.append({"name": name, "counts": row, "sum": sum(row), "split": split, "foreground": foreground})
    return {
        "split": split,
        "backgrounds": list(contents.backgrounds.items()),
        "rows": rows,
        "sums": [sum(counts[f, b] for f in contents.foregrounds) for b in contents.backgrounds],
        "sum": counts.total(),
        "most": most,
    }


def _read_settings(path: Path, name: str = "recipe") -> list[tuple[str, list[tuple[str, str]]]]:
    """Return a JSON file's settings in titled groups of names and values: one for the file, one for each section."""
    if not path.exists():
        return []
    groups = _split_sections(strip_local_paths(read_object(path)), name)
    return [(title, list(flatten(group))) for title, group in groups if group]


def _split_sections(document: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a file's own settings, its sections, each step of its lineage, and the recipes of its sources."""
    parts = {part: document.pop(part) for part in ("identity", "execution") if isinstance(document.get(part), dict)}
    steps, sources = document.pop("lineage", []), document.pop("sources", [])
    yield name, document
    for part, section in parts.items():
        yield f"{name}: {part}", section
    for number, step in enumerate(steps, 1):
        yield f"{name}: step {number}", step
    for source in sources:
        yield from _split_sections(source, f"{name} of {source.pop('name')}")


def _encode_image(image: Image.Image) -> str:
    """Return a drawn image as a data URL; lossless if it is small."""
    return to_data_url(encode_picture(image.convert("RGB")), "image/webp")
