"""The content of a dataset's card: YAML that describes files, splits and labels to `load_dataset`, and Markdown."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
import numpy as np

from figureground.core import errors as errors_module
from figureground.core import local_paths as paths_module
from figureground.core import text as text_module
from figureground.core.errors import plural
from figureground.core.files import replace_text
from figureground.core.local_paths import strip_local_paths
from figureground.core.resources import find_resource
from figureground.core.text import code, fence, markdown, printable
from figureground.core.version import VERSION
from figureground.recipe import table as table_module
from figureground.recipe.document import MARKS
from figureground.recipe.formats import FORMATS
from figureground.recipe.table import cramers_v
from figureground.shards import card_context as context_module
from figureground.shards import card_file as file_module
from figureground.shards.card_context import CardContext
from figureground.shards.card_file import BEGIN, END, UNKNOWN_LICENSE
from figureground.shards.columns import Columns
from figureground.shards.formats.format import Format, find_loadable
from figureground.shards.shard import PRIVATE, ShardError
from figureground.sources.provenance import NOT_STATED, Credit, format_credits

if TYPE_CHECKING:
    from datasets import Features

PREVIEW = "preview.png"
ATTRIBUTION = f"{PRIVATE}/attribution.csv"
"""Credits for the images that generation starts from."""

REJECTS = "rejects"
"""The config of published rejects."""

MAX_CREDITS = 20
"""Above this number, credits are listed only in `ATTRIBUTION`."""

MAX_FOREGROUNDS = 40
"""Above this number of foreground classes, the card shows only the totals of each background."""

QUESTION_TEXTS = {
    "foreground": "foreground is right", "background": "background is right", "label": "label is right",
    "class": "class isn't shown", "feature": "feature is shown",
}  # fmt: skip
"""Texts of the questions that people were asked about labels."""

TAGS = ("figureground", "spurious-correlations", "distribution-shift", "synthetic")

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_SHARD_FILE = re.compile(r"(?P<before>.*?(?P<part>-e\d+)?)-\d+-of-\d+(?P<suffix>\.\w+)")
_URL_SAFE = "/:?#@!$&'*+,;=%~._-"
_LINK = re.compile(r"https?://[^\s<>\"]+")


@functools.cache
def identify_renderer(formats: tuple[str, ...]) -> str:
    """Identify the code that renders the card of a dataset in these formats: the package's version, and a hash of the
    templates and the modules.
    """
    format_modules = [sys.modules[FORMATS[name].__module__] for name in formats]
    modules = (
        sys.modules[__name__], context_module, file_module, paths_module, text_module, errors_module, table_module,
        *format_modules,
    )  # fmt: skip
    templates = sorted(find_resource("templates").glob("*.md.jinja"))
    content = b"".join(path.read_bytes() for path in (*templates, *(Path(module.__file__ or "") for module in modules)))
    return f"{VERSION} {hashlib.sha256(content).hexdigest()[:16]}"


def hash_text(text: str) -> str:
    """SHA-256 of the generated part of a card."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_attribution(directory: Path, facts: CardContext) -> None:
    """Write the credits next to the data, or remove those of an earlier build."""
    path = directory / ATTRIBUTION
    if facts.credits:
        text = format_credits(Credit(**_strip_paths_in_credit(credit)) for credit in facts.credits)
        replace_text(path, text, root=directory)
    else:
        path.unlink(missing_ok=True)


def describe(
    columns: Columns, index: Mapping[str, Any], facts: CardContext, *, formats: Sequence[str], image_format: str
) -> dict[str, Any]:
    """Return the card's YAML: the files of each split, their columns with label names, and search tags.

    It points at the first format that `load_dataset` reads. Without one, no files are listed. A split without samples
    is left out because `load_dataset` refuses it. Published rejects are a separate config.
    """
    kind = find_loadable(formats)
    return {
        "pretty_name": facts.title,
        "license": UNKNOWN_LICENSE,
        "task_categories": ["image-classification"],
        "tags": [*TAGS, facts.builder],
        "size_categories": [next((name for most, name in _SIZES if index["samples"] < most), "n>10M")],
        **(_describe_loading(kind, columns, index, image_format) if kind is not None else {}),
    }


def _describe_loading(kind: Format, columns: Columns, index: Mapping[str, Any], image_format: str) -> dict[str, Any]:
    """Return what `load_dataset` reads in the card's YAML: files, features and sizes."""
    splits = {name: split for name, split in index["splits"].items() if split["samples"]}
    # The size once loaded is known for tables only; another file's size is an estimate.
    loaded = {name: split["bytes"][kind.NAME] for name, split in splits.items()}
    if kind.COLUMNAR:
        loaded = {name: split.get("arrow_bytes", loaded[name]) for name, split in splits.items()}
    configs: list[dict[str, Any]] = [
        {
            "config_name": "default",
            "data_files": [
                {"split": name, "path": _unwrap_single(make_split_globs(index, name, kind))} for name in splits
            ],
        }
    ]
    rejects = {name: split for name, split in index.get("published_rejects", {}).items() if split["samples"]}
    if rejects:
        configs[0]["default"] = True
        files = [
            {"split": name, "path": _unwrap_single(_make_globs(split["files"]))} for name, split in rejects.items()
        ]
        configs.append({"config_name": REJECTS, "data_files": files})
    return {
        "configs": configs,
        "dataset_info": {
            "features": _describe_features(kind, columns, image_format),
            "splits": [
                {"name": name, "num_bytes": loaded[name], "num_examples": split["samples"]}
                for name, split in splits.items()
            ],
            "download_size": sum(split["bytes"][kind.NAME] for split in splits.values()),
            "dataset_size": sum(loaded.values()),
        },
    }


def features(kind: Format, columns: Columns, image_format: str) -> Features:
    """Return the columns as `load_dataset` shows them for a format, with the names of the classes."""
    from datasets import Features

    names = kind.names(columns, image_format)
    return Features({names[name]: feature for name, feature in columns.features().items() if name in names})


def _describe_features(kind: Format, columns: Columns, image_format: str) -> list[dict[str, Any]]:
    """Return the columns as `datasets` writes them in a card, which needs no `datasets`."""
    names, classes = kind.names(columns, image_format), columns.classes
    entries: list[dict[str, Any]] = []
    for name in columns.names:
        dtype: Any = "image" if name in ("image", *columns.images) else "string"
        if name in classes:
            dtype = {"class_label": {"names": {str(i): class_name for i, class_name in enumerate(classes[name])}}}
        if name in names:
            entries.append({"name": names[name], "dtype": dtype})
    return entries


def make_split_globs(index: Mapping[str, Any], split: str, kind: Format) -> list[str]:
    """Return glob patterns that match exactly the files of a split in one format.

    Each part has its own pattern, so that an unfinished extension is not announced. Split names contain no `-`, so
    the pattern of `train` never matches `train_2`.
    """
    return _make_globs(list_split_files(index, split, kind))


def list_split_files(index: Mapping[str, Any], split: str, kind: Format) -> list[str]:
    """Return the files of a split in one format, in order, as paths in the dataset."""
    shards = (shard for shard in index["shards"] if shard["split"] == split)
    return [path for shard in shards for path in shard["files"] if path.startswith(f"{kind.FOLDER}/")]


def _make_globs(files: Iterable[str]) -> list[str]:
    patterns: dict[str, None] = {}
    for file in files:
        match = _SHARD_FILE.fullmatch(file)
        if match is None:
            raise ShardError(f"{file} is not named like a shard's file.")
        patterns[f"{match['before']}-{'*' if match['part'] else '[0-9]*'}{match['suffix']}"] = None
    return list(patterns)


def _unwrap_single(patterns: list[str]) -> str | list[str]:
    return patterns[0] if len(patterns) == 1 else patterns


def render(
    columns: Columns,
    index: Mapping[str, Any],
    recipe: Mapping[str, Any],
    facts: CardContext,
    *,
    formats: Sequence[str],
    image_format: str,
    preview: str | None = None,
) -> str:
    """Render the card's Markdown from `templates/card.md.jinja`: a heading, and a generated part between two marks."""
    template = find_resource("templates/card.md.jinja")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(
        cell=markdown,
        code=_format_code,
        url=_format_link,
        lineage=_format_lineage_value,
        fence=fence,
        share=_format_share,
        plural=plural,
    )
    nonempty = {name: split for name, split in index["splits"].items() if split["samples"]}
    numerics = dict(strip_local_paths(facts.numerics))
    credits = [_strip_paths_in_credit(credit) for credit in facts.credits]
    kind, first = find_loadable(formats), next(iter(nonempty), None)
    shard_formats = [FORMATS[name]() for name in formats]
    text = environment.from_string(template.read_text(encoding="utf-8")).render(
        begin=BEGIN,
        end=END,
        facts=facts,
        index=index,
        columns=columns,
        split=first,
        held_out=next((name for name in nonempty if name != first), first),
        empty=[name for name in index["splits"] if name not in nonempty],
        tables={name: _tabulate_cells(columns, split["cells"]) for name, split in nonempty.items()},
        dependence={name: cramers_v(_count_cells(columns, split["cells"])) for name, split in nonempty.items()},
        most=MAX_FOREGROUNDS,
        loadable=kind is not None,
        titles=[shard_format.TITLE for shard_format in shard_formats],
        note=kind.note() if kind is not None else "",
        names=(kind.names(columns, image_format) if kind is not None else {name: name for name in columns.names}),
        sections=[
            shard_format.section(columns, image_format, first, list_split_files(index, first, shard_format))
            for shard_format in shard_formats
            if first
        ],
        recipe={name: value for name, value in strip_local_paths(recipe).items() if name not in ("lineage", MARKS)},
        # A merge of marked and unmarked images has one value for each source.
        marks=recipe.get(MARKS) if isinstance(recipe.get(MARKS), str) else None,
        mixed=numerics.pop("mixed", []),
        versions=numerics.pop("versions", {}),
        numerics=numerics,
        preview=preview,
        rejects=index.get("published_rejects", {}),
        not_stated=NOT_STATED,
        sources=strip_local_paths(facts.sources),
        lineage=strip_local_paths(facts.lineage),
        concepts=strip_local_paths(facts.concepts),
        question_texts=QUESTION_TEXTS,
        losses=list(dict.fromkeys(name for concept in facts.concepts for name in concept["losses"])),
        class_splits=find_class_splits(index["splits"]),
        credits=credits,
        credited_under=sorted(Counter(credit["license"] or NOT_STATED for credit in credits).items()),
        most_credits=MAX_CREDITS,
        attribution=ATTRIBUTION,
    )
    return _escape_inner_marks(text)


def _escape_inner_marks(text: str) -> str:
    """Escape marks in generated Markdown, except those on the first and last line of the generated part."""
    before, _, rest = text.partition(f"{BEGIN}\n")
    inner, _, after = rest.rpartition(f"\n{END}")
    inner = printable(inner, lines=True).replace(BEGIN, f"&lt;{BEGIN[1:]}").replace(END, f"&lt;{END[1:]}")
    return f"{before}{BEGIN}\n{inner}\n{END}{after}"


def find_class_splits(splits: Mapping[str, Any]) -> dict[str, int]:
    """Return the foreground of each split if splits are classes: one foreground each, and not all the same one.

    Args:
        splits: Splits of the index: `samples`, and `cells` of (foreground, background, samples).
    """
    foregrounds_by_split = {
        name: {cell[0] for cell in split["cells"]} for name, split in splits.items() if split["samples"]
    }
    if any(len(foregrounds) != 1 for foregrounds in foregrounds_by_split.values()):
        return {}
    class_splits = {name: foregrounds.pop() for name, foregrounds in foregrounds_by_split.items()}
    return class_splits if len(class_splits) > 2 or len(set(class_splits.values())) > 1 else {}


def _count_cells(columns: Columns, cells: Sequence[Sequence[int]]) -> np.ndarray:
    counts = np.zeros((len(columns.foregrounds), len(columns.backgrounds)), np.int64)
    for foreground, background, count in cells:
        counts[foreground, background] = count
    return counts


def _tabulate_cells(columns: Columns, cells: Sequence[Sequence[int]]) -> list[tuple[str, list[int]]]:
    """Return rows of foreground and counts by background, or only the row of totals if there are too many."""
    counts = _count_cells(columns, cells)
    rows = list(zip(columns.foregrounds, counts.tolist(), strict=True))
    return [*(rows if len(rows) <= MAX_FOREGROUNDS else []), ("all", counts.sum(0).tolist())]


def _format_code(value: object) -> str:
    """Format a setting's value as code in a Markdown table, truncated if long."""
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _format_link(value: str, text: str) -> str:
    """Format a value as a link if it is an http(s) URL, else as text."""
    if not _LINK.fullmatch(value):
        return markdown(value)
    return f"[{markdown(text)}]({quote(value, safe=_URL_SAFE)})"


def _format_lineage_value(value: Any) -> str:
    """Format a value of a lineage step: datasets with their names, numbers with commas, all else as code."""
    if isinstance(value, Mapping) and "name" in value:
        details = [f"recipe `{str(value['sha256'])[:12]}`"] if value.get("sha256") else []
        details += [f"{value['samples']:,} samples"] if isinstance(value.get("samples"), int) else []
        rest = {key: item for key, item in value.items() if key not in ("name", "sha256", "samples")}
        details += [f"{key.replace('_', ' ')} {_format_lineage_value(item)}" for key, item in rest.items()]
        return _format_code(value["name"]) + (f" ({', '.join(details)})" if details else "")
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "; ".join(map(_format_lineage_value, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _format_code(value)


def _format_share(share: Mapping[str, float]) -> str:
    """Format a share and its interval as percentages; empty without one."""
    if not share:
        return ""
    return f"{100 * share['value']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def _strip_paths_in_credit(credit: Mapping[str, str]) -> dict[str, str]:
    return {**credit, "source": strip_local_paths(credit["source"])}
