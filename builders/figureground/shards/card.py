"""The dataset card: a README.md whose YAML tells `load_dataset` of files, splits and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import jinja2
import yaml

from figureground.resources import resource
from figureground.shards.writer import FORMATS, Columns, Shard, ShardError, replace_text

BEGIN = "<!-- figureground: begin generated -->"
END = "<!-- figureground: end generated -->"
PREVIEW = "preview.png"

MOST_FOREGROUNDS = 40
"""With more foreground classes than this the card shows totals of each background only."""

TAGS = ("figureground", "spurious-correlations", "distribution-shift", "synthetic")

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_HEADER = re.compile(r"\A---\n(?P<yaml>.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_ABSOLUTE = re.compile(r"((file:|[A-Za-z]:)?[\\/~]|\.\.[\\/]).*", re.DOTALL)


@dataclass(frozen=True)
class Facts:
    """What a card says beside the recipe and the counts."""

    title: str
    builder: str
    """Name of the method, `d3s`."""
    summary: str
    """What is in the pictures and how they were made, in a few sentences of Markdown."""
    citation: str
    """BibTeX."""
    numerics: Mapping[str, Any] = field(default_factory=dict)
    """Device kind, dtype, batch size, versions of libraries."""
    limits: Sequence[str] = ()
    """What the pictures shouldn't be used for, or what may be wrong with them; one sentence each."""


def write(
    directory: Path,
    columns: Columns,
    index: Mapping[str, Any],
    recipe: Mapping[str, Any],
    facts: Facts,
    *,
    formats: Sequence[str] = FORMATS,
    image_format: str = "jpg",
) -> None:
    """Writes README.md, and keeps what a person wrote into one that is there: see `merge`.

    Raises:
        ShardError: The README.md that is there can't be taken apart.
    """
    path = directory / "README.md"
    header = describe(columns, index, facts, formats=formats, image_format=image_format)
    preview = PREVIEW if (directory / PREVIEW).exists() else None
    body = render(columns, index, recipe, facts, formats=formats, image_format=image_format, preview=preview)
    if path.exists():
        header, body = merge(path.read_text(encoding="utf-8-sig"), header, body)
    text = f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)}---\n{body}"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        replace_text(path, text)


def describe(
    columns: Columns, index: Mapping[str, Any], facts: Facts, *, formats: Sequence[str], image_format: str
) -> dict[str, Any]:
    """The card's YAML: where the files of each split lie, their columns with label names, and search tags.

    It points at Parquet, or at the tars where there is none. A split without any sample is left out, for
    `load_dataset` refuses one.
    """
    kind = "parquet" if "parquet" in formats else "webdataset"
    features = columns.features() if kind == "parquet" else columns.tar_features(image_format)
    splits = {name: split for name, split in index["splits"].items() if split["samples"]}
    size = sum(split["bytes"][kind] for split in splits.values())
    return {
        "pretty_name": facts.title,
        "license": "unknown",
        "task_categories": ["image-classification"],
        "tags": [*TAGS, facts.builder],
        "size_categories": [next((name for most, name in _SIZES if index["samples"] < most), "n>10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": _pattern(name, kind)} for name in splits],
            }
        ],
        "dataset_info": {
            "features": features._to_yaml_list(),
            "splits": [
                {"name": name, "num_bytes": split["bytes"][kind], "num_examples": split["samples"]}
                for name, split in splits.items()
            ],
            "download_size": size,
            "dataset_size": size,
        },
    }


def _pattern(split: str, kind: str) -> str:
    path = PurePosixPath(Shard(split, 0, 1, 0).path(kind))
    return f"{path.parent}/{split}-*{path.suffix}"


def render(
    columns: Columns,
    index: Mapping[str, Any],
    recipe: Mapping[str, Any],
    facts: Facts,
    *,
    formats: Sequence[str],
    image_format: str,
    preview: str | None = None,
) -> str:
    """The card's Markdown, from `templates/card.md.jinja`: a heading, and what is generated between two marks."""
    template = resource("templates/card.md.jinja")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    environment.filters["code"] = _code
    kept = {name: split for name, split in index["splits"].items() if split["samples"]}
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        begin=BEGIN,
        end=END,
        facts=facts,
        index=index,
        columns=columns,
        split=next(iter(kept), None),
        empty=[name for name in index["splits"] if name not in kept],
        urls={name: _braced(name, split["shards"]) for name, split in kept.items()},
        tables={name: _table(columns, split["cells"]) for name, split in kept.items()},
        most=MOST_FOREGROUNDS,
        formats=formats,
        image_format=image_format,
        recipe=public(recipe),
        numerics=public(facts.numerics),
        preview=preview,
    )


def _braced(split: str, shards: int) -> str:
    if shards == 1:
        return Shard(split, 0, 1, 0).path("webdataset")
    return f"webdataset/{split}-{{00000..{shards - 1:05d}}}-of-{shards:05d}.tar"


def _table(columns: Columns, cells: Sequence[Sequence[int]]) -> list[tuple[str, list[int]]]:
    """Rows of foreground and counts by background, or the row of totals alone when there are too many."""
    counts = {(foreground, background): count for foreground, background, count in cells}
    grounds = range(len(columns.backgrounds))
    rows = [(name, [counts.get((f, b), 0) for b in grounds]) for f, name in enumerate(columns.foregrounds)]
    totals = [sum(row[b] for _, row in rows) for b in grounds]
    return [*(rows if len(rows) <= MOST_FOREGROUNDS else []), ("all", totals)]


def _cell(text: object) -> str:
    """Text that stays text, and in its cell, in a Markdown table."""
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(str(text).split()))


def _code(value: object) -> str:
    """A setting's value as code in a Markdown table, cut when it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{text[:200]}{'…' if len(text) > 200 else ''}`" if text else ""


def public(value: Any) -> Any:
    """A setting as others may read it: of a path on this machine only the last part is left."""
    if isinstance(value, Mapping):
        return {str(key): public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and _ABSOLUTE.fullmatch(value):
        return PureWindowsPath(value).name
    return value


def merge(existing: str, header: Mapping[str, Any], body: str) -> tuple[dict[str, Any], str]:
    """Joins a card that is there with what is generated anew.

    Of the YAML, `configs`, `dataset_info` and `size_categories` are ours; whatever else is there stays, a
    license or tags too. Of the Markdown, what stands between our two marks is ours; where there are none,
    our part is appended.

    Returns:
        The YAML and the Markdown.

    Raises:
        ShardError: YAML that can't be read, or one mark without the other.
    """
    match = _HEADER.match(existing)
    try:
        theirs = (yaml.safe_load(match["yaml"]) or {}) if match else {}
    except yaml.YAMLError as error:
        raise ShardError(f"README.md: its YAML header can't be read: {error}. Mend it, or delete the file.") from error
    if not isinstance(theirs, dict):
        raise ShardError("README.md: its YAML header is no mapping of keys to values. Mend it, or delete the file.")
    ours = {key: header[key] for key in ("configs", "dataset_info", "size_categories")}
    text = existing[match.end() :] if match else existing
    return {**header, **theirs, **ours}, _merge_text(text, body)


def _merge_text(text: str, body: str) -> str:
    generated = body[body.index(BEGIN) : body.index(END) + len(END)]
    if not text.strip():
        return body
    if BEGIN not in text and END not in text:
        return f"{text.rstrip()}\n\n{generated}\n"
    start, end = text.find(BEGIN), text.find(END)
    if not 0 <= start < end or text.count(BEGIN) > 1 or text.count(END) > 1:
        raise ShardError(
            f"README.md: what is generated stands between {BEGIN} and {END}, but these marks aren't there once each, "
            "in this order. Put them right, or delete the file."
        )
    return text[:start] + generated + text[end + len(END) :]
