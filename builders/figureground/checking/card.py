"""Check a dataset's descriptions, README.md and croissant.json, against its shards.

Only generated parts are checked. The licence, the language, the tags and all text outside the generated marks belong
to the user.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jinja2
from PIL import Image

from figureground.checking.wording import MAKE_READABLE, REWRITE
from figureground.core.errors import FiguregroundError, join_names
from figureground.core.files import FileError, open_regular, read_object, read_text, safe_join
from figureground.core.shapes import Optional, check_shape
from figureground.shards.card import PREVIEW, features, hash_text, identify_renderer, render
from figureground.shards.card_context import CardContext
from figureground.shards.card_file import BEGIN, CARD, END, UNKNOWN_LICENSE, find_generated_part, parse_card
from figureground.shards.columns import Columns
from figureground.shards.croissant import CROISSANT
from figureground.shards.formats.format import Format, find_loadable, list_folders
from figureground.shards.index import INDEX
from figureground.shards.markers import formats_of
from figureground.shards.shard import PUBLISHED_REJECTS, Shard, ShardError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def check_card(
    directory: Path,
    columns: Columns,
    summary: Mapping[str, Any],
    markers: Mapping[Shard, Mapping[str, Any]],
    index: Mapping[str, Any],
    image_format: str,
) -> tuple[list[str], list[str]]:
    """Check README.md: configs, features, splits, sizes, and its generated text.

    Args:
        directory: The dataset's directory.
        columns: Columns of its samples.
        summary: Result of `index.summarise` for its markers.
        markers: All markers, by shard.
        index: The dataset's saved index.
        image_format: File format of the images: jpg, webp or png.

    Returns:
        Findings and notes.
    """
    try:
        text = read_text(directory / CARD, root=directory, encoding="utf-8-sig")
    except FileError as error:
        return [f"{CARD}: {error.reason}, so the files aren't described. {REWRITE}."], []
    except FileNotFoundError:
        return [f"{CARD}: missing, so the files aren't described. {REWRITE}."], []
    except OSError as error:
        return [f"{CARD}: it can't be read ({error.strerror}), so the files aren't described. {MAKE_READABLE}."], []
    try:
        header, _, body = parse_card(text)
    except ShardError as error:
        return [f"{error} {REWRITE}."], []
    findings: list[str] = []
    files = _group_files(markers)
    kind = find_loadable({name for marker in markers.values() for name in formats_of(marker)})
    samples = {split: counts["samples"] for split, counts in summary["splits"].items() if counts["samples"]}
    try:
        if kind is not None:
            findings += _check_configs(directory, header.get("configs"), files, samples, kind)
            findings += _check_dataset_info(
                directory, header.get("dataset_info"), columns, files, markers, image_format, kind
            )
        findings += _check_size(header.get("size_categories"), summary["samples"])
    # `datasets` raises any of these for a header that it can't read.
    except (TypeError, AttributeError, KeyError, ValueError, NotImplementedError) as error:
        findings.append(f"its configs and dataset_info aren't in the form that the Hub reads ({error!r})")
    notes = []
    if header.get("license") in (None, UNKNOWN_LICENSE):
        notes.append(f"{CARD}: the license is unknown. Set it in the header before you publish; it is kept.")
    other_findings = list(_check_shown_images(directory, body))
    part = None
    try:
        part = find_generated_part(body)
    except ShardError as error:
        other_findings.append(str(error))
    if part is not None:
        try:
            findings += [line] if (line := _check_generated(body[slice(*part)], columns, summary, index)) else []
        except (AttributeError, LookupError, TypeError, ValueError, FiguregroundError, jinja2.TemplateError):
            findings.append(f"{INDEX} doesn't hold what the generated text was made from")
    elif BEGIN not in body and END not in body:
        notes.append(
            f"{CARD}: it has no generated part, because its marks were removed; rewriting the card restores them."
        )
    return [
        *(f"{CARD}: {line}. {REWRITE}, and your own text in it is kept." for line in findings),
        *other_findings,
    ], notes


# --- images shown in the card -----------------------------------------------------------------------

_IMAGE = re.compile(
    r"""!\[[^\]]*\]\(\s*(?:<(?P<angled>[^>\n]*)>|(?P<plain>[^\s()]+))"""
    r"""|<img\b[^>]*?\bsrc\s*=\s*["'](?P<src>[^"'\n]+)"""
)
_FENCED = re.compile(r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)", re.DOTALL | re.MULTILINE)
_EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:|//|/|#", re.IGNORECASE)


def _check_shown_images(directory: Path, body: str) -> Iterator[str]:
    """Yield a finding for each unreadable image of the dataset that the card shows; always check the preview."""
    names = {PREVIEW} if os.path.lexists(directory / PREVIEW) else set()
    for match in _IMAGE.finditer(_FENCED.sub("", body)):
        target = match["angled"] or match["plain"] or match["src"]
        if target and not _EXTERNAL.match(target):
            names.add(unquote(re.split(r"[?#]", target)[0]))
    for name in sorted(names):
        problem = _find_image_problem(directory, name)
        if problem:
            remedy = (
                f"Delete it and run `figureground show {directory}`: it is redrawn"
                if name == PREVIEW
                else "Restore it, or remove it from the card"
            )
            yield f"{name}: the card shows it, but {problem}. {remedy}."


def _find_image_problem(directory: Path, name: str) -> str | None:
    """Return the reason why an image can't be shown, or None if it can."""
    try:
        with open_regular(safe_join(directory, name), root=directory) as file:
            if Path(name).suffix.lower() in Image.registered_extensions():
                with Image.open(file) as image:
                    image.load()
            elif not file.read(1):  # a format unknown to Pillow, such as SVG
                return "it is empty"
    except FileNotFoundError:
        return "it is missing"
    except FileError as error:
        return error.reason
    except Exception as error:  # Pillow raises many kinds for damaged files
        return f"it can't be opened ({error})"
    return None


# --- the YAML header --------------------------------------------------------------------------------


def _group_files(markers: Mapping[Shard, Mapping[str, Any]]) -> dict[str, dict[str, set[str]]]:
    """Return the files listed in markers, by kind (data, webdataset, rejects) and split."""
    files: dict[str, dict[str, set[str]]] = {}
    for shard, marker in markers.items():
        for path in marker["files"]:
            if not path.startswith("_"):
                files.setdefault(path.split("/")[0], {}).setdefault(shard.split, set()).add(path)
    return files


def _check_configs(
    directory: Path,
    configs: Any,
    files: Mapping[str, Mapping[str, set[str]]],
    samples: Mapping[str, int],
    kind: Format,
) -> Iterator[str]:
    """Check that each split's patterns match exactly the files of the split, all of one kind.

    Args:
        kind: The format that `load_dataset` reads.
    """
    if not isinstance(configs, list) or not configs:
        yield "it has no configs, so `load_dataset` can't tell the splits apart"
        return
    names = [config["config_name"] for config in configs]
    if "default" not in names and kind.FOLDER in files:
        yield f"its configs are {join_names(names)}; none is named default"
    if "rejects" in files and "rejects" not in names:
        yield "it has no config for the published rejects"
    for config in configs:
        name, entries = config["config_name"], config["data_files"]
        matched: dict[str, set[str]] = {}
        for entry in entries:
            patterns = [entry["path"]] if isinstance(entry["path"], str) else entry["path"]
            matched.setdefault(entry["split"], set()).update(
                path for pattern in patterns for path in _match_files(directory, pattern)
            )
        folder = next((path.split("/")[0] for paths in matched.values() for path in paths), kind.FOLDER)
        rejects = folder == "rejects"
        expected = {s: paths for s, paths in files.get(folder, {}).items() if rejects or s in samples}
        if folder not in files:
            yield f"the config {name} lists files that no shard has ({join_names(entry['path'] for entry in entries)})"
            continue
        if set(matched) != set(expected):
            yield f"the config {name} has the splits {join_names(matched)}; the data has {join_names(expected)}"
        for split in sorted(set(matched) & set(expected)):
            if matched[split] != expected[split]:
                missing, extra = sorted(expected[split] - matched[split]), sorted(matched[split] - expected[split])
                problem = f"miss {join_names(missing, 3)}" if missing else f"also match {join_names(extra, 3)}"
                yield f"the config {name}, split {split}: its data_files {problem}"


def _match_files(directory: Path, pattern: str) -> set[str]:
    """Return the files that a pattern matches, as `load_dataset` would resolve it."""
    paths = (path.relative_to(directory) for path in directory.glob(pattern) if path.is_file())
    return {path.as_posix() for path in paths if not any(part.startswith((".", "_")) for part in path.parts)}


def _check_dataset_info(
    directory: Path,
    info: Any,
    columns: Columns,
    files: Mapping[str, Mapping[str, set[str]]],
    markers: Mapping[Shard, Mapping[str, Any]],
    image_format: str,
    kind: Format,
) -> Iterator[str]:
    """Check the features and split sizes of every config.

    Args:
        kind: The format that `load_dataset` reads.
    """
    from datasets import Features

    infos = info if isinstance(info, list) else [info]
    if not all(isinstance(config_info, dict) for config_info in infos):
        yield "it has no dataset_info, so labels have no names"
        return
    for config_info in infos:
        name = config_info.get("config_name", "default")
        prefix = "" if name == "default" else f"config {name}: "
        if name == "default":
            folder, expected = kind.FOLDER, features(kind, columns, image_format)
        elif "rejects" in files:
            import pyarrow.parquet as pq

            folder = "rejects"
            first = min(path for paths in files[folder].values() for path in paths)
            try:
                expected = Features.from_arrow_schema(pq.read_schema(directory / first))
            except Exception:  # a damaged file is reported elsewhere
                continue
        else:
            yield f"dataset_info lists a config {name} that the data doesn't have"
            continue
        declared = Features._from_yaml_list(config_info.get("features") or [])
        yield from (f"{prefix}{line}" for line in _compare_features(declared, expected))
        yield from (f"{prefix}{line}" for line in _check_splits(directory, config_info, folder, markers))


def _compare_features(declared: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    if set(declared) != set(expected):
        missing, extra = sorted(set(expected) - set(declared)), sorted(set(declared) - set(expected))
        problem = f"lack {join_names(missing)}" if missing else f"include {join_names(extra)}, which the data lacks"
        yield f"its features {problem}"
    for name in (name for name in expected if name in declared and declared[name] != expected[name]):
        declared_names, expected_names = (
            getattr(feature, "names", None) for feature in (declared[name], expected[name])
        )
        if declared_names and expected_names:
            label = next(
                (i for i, pair in enumerate(zip(declared_names, expected_names, strict=False)) if pair[0] != pair[1]),
                None,
            )
            if label is None:
                yield f"its feature {name} has {len(declared_names)} class names; the data has {len(expected_names)}"
            else:
                yield (
                    f"its feature {name} names label {label} {declared_names[label]!r}; in the data it is "
                    f"{expected_names[label]!r}"
                )
        else:
            yield f"its feature {name} is {declared[name]!r}; in the data it is {expected[name]!r}"


def _check_splits(
    directory: Path, info: Mapping[str, Any], folder: str, markers: Mapping[Shard, Mapping[str, Any]]
) -> Iterator[str]:
    """Check num_examples, num_bytes and download_size."""
    examples: dict[str, int] = {}
    stored: dict[str, int] = {}
    loaded: dict[str, int] = {}
    for shard, marker in markers.items():
        for path, file in marker["files"].items():
            if path.split("/")[0] == folder:
                rows = _count_rows(directory / path) if folder == "rejects" else marker["samples"]
                examples[shard.split] = examples.get(shard.split, 0) + rows
                stored[shard.split] = stored.get(shard.split, 0) + file["bytes"]
                loaded[shard.split] = loaded.get(shard.split, 0) + marker.get("arrow_bytes", 0)
    declared = {split["name"]: split for split in info.get("splits") or []}
    expected = [split for split in examples if examples[split]]
    if set(declared) != set(expected):
        yield f"dataset_info has the splits {join_names(declared)}; the data has {join_names(expected)}"
    for split in (split for split in expected if split in declared):
        if declared[split].get("num_examples") != examples[split]:
            num_examples = declared[split].get("num_examples")
            yield f"dataset_info gives split {split} {num_examples} examples; the data has {examples[split]}"
        num_bytes = declared[split].get("num_bytes")
        if folder != "rejects" and num_bytes not in (None, stored[split], loaded[split]):
            yield f"dataset_info gives split {split} {num_bytes} num_bytes, which doesn't fit the data"
    sizes = sum(stored[split] for split in expected)
    if folder != "rejects" and info.get("download_size") not in (None, sizes):
        yield f"dataset_info gives a download_size of {info['download_size']} bytes; the files have {sizes}"


def _count_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except Exception:  # a damaged file is reported elsewhere
        return 0


def _check_size(categories: Any, samples: int) -> Iterator[str]:
    categories = [categories] if isinstance(categories, str) else categories
    if categories and not any(_covers(str(category), samples) for category in categories):
        yield f"its size_categories {join_names(categories)} don't cover {samples} images"


def _covers(category: str, samples: int) -> bool:
    """Whether a category such as `1K<n<10K` contains a number, bounds included."""
    match = re.fullmatch(r"(?:(\d+)([KMBT]?)<)?n(?:([<>])(\d+)([KMBT]?))?", category)
    if match is None:
        return False
    low = int(match[1] or 0) * _UNITS[match[2] or ""]
    bound = int(match[4] or 0) * _UNITS[match[5] or ""]
    return low <= samples and (not match[3] or (samples <= bound if match[3] == "<" else samples >= bound))


# --- the generated text -----------------------------------------------------------------------------


def _check_generated(text: str, columns: Columns, summary: Mapping[str, Any], index: Mapping[str, Any]) -> str | None:
    """Describe the first difference between the generated text and the data; None if there is none.

    Text that this version of the package wrote is rendered again. Otherwise its hash is compared with the one in the
    index, because an older text is not a fault.
    """
    saved = index.get("card", {})
    if saved.get("renderer") != identify_renderer(tuple(index["formats"])):
        if saved.get("text") in (None, hash_text(text)):
            return None
        return f"its generated text isn't the one that {INDEX} was written with"
    document = render(
        columns, {**index, **summary}, saved["recipe"], CardContext(**saved["facts"]), formats=index["formats"],
        image_format=index["image_format"], preview=PREVIEW if f"]({PREVIEW})" in text else None,
    )  # fmt: skip
    begin, end = find_generated_part(document) or (0, len(document))
    actual, expected = text.splitlines(), document[begin:end].splitlines()
    if actual == expected:
        return None
    for number, (actual_line, expected_line) in enumerate(itertools.zip_longest(actual, expected, fillvalue=""), 1):
        if actual_line != expected_line:
            return (
                f"its generated text differs from the data, first in line {number}: {_quote(actual_line)} instead of "
                f"{_quote(expected_line)}"
            )
    return None


def _quote(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


# --- Croissant --------------------------------------------------------------------------------------


def check_croissant(directory: Path, markers: Mapping[Shard, Mapping[str, Any]]) -> list[str]:
    """Check hashes and sizes of the files listed in croissant.json, if it exists."""
    path = directory / CROISSANT
    if not path.exists():
        return []
    try:
        listing = read_object(path, root=directory)["distribution"]
        check_shape(listing, [{"@type": str, "contentUrl": Optional(str)}], "distribution")
    except FileError as error:
        return [f"{CROISSANT}: {error.reason}. {REWRITE}."]
    except OSError as error:
        return [f"{CROISSANT}: it can't be read ({error.strerror}). {MAKE_READABLE}."]
    except (ValueError, KeyError) as error:
        why = "distribution is missing" if isinstance(error, KeyError) else error
        return [f"{CROISSANT}: it can't be read ({why}). {REWRITE}."]
    files = [entry for entry in listing if entry["@type"].endswith("FileObject") and "contentUrl" in entry]
    known = {path: file for marker in markers.values() for path, file in marker["files"].items()}
    findings = []
    for entry in files:
        name = next((path for path in known if entry["contentUrl"].endswith(path)), None)
        if name is None:
            if entry["contentUrl"].startswith(tuple(f"{folder}/" for folder in (*list_folders(), PUBLISHED_REJECTS))):
                findings.append(f"{CROISSANT}: it lists {entry['contentUrl']}, which no marker lists. {REWRITE}.")
            continue
        size = re.match(r"\d{1,19}", str(entry.get("contentSize", known[name]["bytes"])))
        if entry.get("sha256", known[name]["sha256"]) != known[name]["sha256"]:
            findings.append(f"{CROISSANT}: its SHA-256 of {name} differs from the marker's. {REWRITE}.")
        elif not size or int(size[0]) != known[name]["bytes"]:
            findings.append(f"{CROISSANT}: its contentSize of {name} differs from the marker's. {REWRITE}.")
    return findings
