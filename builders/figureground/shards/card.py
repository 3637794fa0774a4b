"""The dataset card: a README.md whose YAML tells `load_dataset` of files, splits and labels."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import yaml

from figureground import __version__
from figureground.core.errors import listed
from figureground.core.files import FileError, read_text, replace_changed, replace_text
from figureground.core.resources import resource
from figureground.core.text import code, fence, markdown, printable, steers
from figureground.core.yaml_documents import safe_load
from figureground.recipe.table import cramers_v
from figureground.shards.writer import Columns, Shard, ShardError
from figureground.sources.provenance import NOT_STATED, Credit, credits_csv

BEGIN = "<!-- figureground: begin generated -->"
END = "<!-- figureground: end generated -->"
_MARKS = (BEGIN, END)
CARD = "README.md"
PREVIEW = "preview.png"
ATTRIBUTION = "_figureground/attribution.csv"
"""Who made the images that images start from."""

UNKNOWN_LICENSE = "unknown"
REJECTS = "rejects"
"""The config of published rejects."""

OURS = ("configs", "dataset_info", "size_categories")
"""What of the YAML is written anew each time; all else that is there is the user's."""

MOST_CREDITS = 20
"""More credits than this stand in `ATTRIBUTION` alone."""

MOST_FOREGROUNDS = 40
"""With more foreground classes than this the card shows totals of each background only."""

TAGS = ("figureground", "spurious-correlations", "distribution-shift", "synthetic")

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_HEADER = re.compile(r"\A\s*^---[ \t]*\n(?P<yaml>.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_ABSOLUTE = re.compile(r"((file:|[A-Za-z]:)?[\\/~]|\.\.[\\/]).*", re.DOTALL)
_NUMBERED = re.compile(r"(?P<before>.*-)(?P<number>\d+)(?P<after>-of-\d+\.tar)")
_SHARD_FILE = re.compile(r"(?P<before>.*?(?P<part>-e\d+)?)-\d+-of-\d+(?P<suffix>\.\w+)")
_URL_SAFE = "/:?#@!$&'*+,;=%~._-"
_LINK = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True)
class CardContext:
    """What a card says beside the recipe and the counts."""

    title: str
    builder: str
    """Name of the method, `d3s`."""
    summary: str
    """What is in the images and how they were made, in a few sentences of Markdown."""
    citation: str
    """BibTeX."""
    numerics: Mapping[str, Any] = field(default_factory=dict)
    """Device kind, dtype, batch size, versions of libraries."""
    limits: Sequence[str] = ()
    """What may be wrong with the images; one sentence each."""
    uses: Sequence[str] = ()
    """What the dataset is meant for."""
    misuses: Sequence[str] = ()
    """What it shouldn't be used for."""
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    """Whose weights drew the images: a `sources.Weights` as a mapping."""
    sources: Sequence[Mapping[str, Any]] = ()
    """The directories that images start from: each a `sources.Source` as a mapping."""
    credits: Sequence[Mapping[str, str]] = ()
    """Who made their images: each a `sources.Credit` as a mapping."""
    lineage: Sequence[Mapping[str, Any]] = ()
    """Of a dataset made from others, what was done, a mapping each step: `did` (`curate`, `extend` or `merge`),
    `from` (a dataset or several: `name`, `sha256`, `samples`), and whatever else tells of the step, such as
    `rule`, `kept`, `dropped`."""
    concepts: Sequence[Mapping[str, Any]] = ()
    """What a diffusion model was taught before it drew: of each concept `class`, `noun`, `feature`, `references`,
    `identifier`, `kind`, `sha256` and `losses`."""


def write(directory: Path, header: Mapping[str, Any], body: str) -> None:
    """Writes README.md, and keeps what a person wrote into one that is there: see `merge`.

    Args:
        header: As `describe` returns it.
        body: As `render` returns it.

    Raises:
        ShardError: The README.md that is there can't be taken apart.
    """
    path = directory / CARD
    text = f"---\n{dump(header)}---\n{body}"
    if path.exists():
        text = rewrite(_read(path), header, body)
    replace_changed(path, text, root=directory)


@functools.cache
def renderer() -> str:
    """Names what renders cards: the package's version and a hash of the template."""
    template = resource("templates/card.md.jinja").read_bytes()
    return f"{__version__} {hashlib.sha256(template).hexdigest()[:16]}"


def hash_text(text: str) -> str:
    """SHA-256 of the generated part of a card."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_attribution(directory: Path, facts: CardContext) -> None:
    """Writes the credits beside the data, or removes those of an earlier build."""
    path = directory / ATTRIBUTION
    if facts.credits:
        text = credits_csv(Credit(**_public_credit(credit)) for credit in facts.credits)
        replace_text(path, text, root=directory)
    else:
        path.unlink(missing_ok=True)


def refuse_unreadable(directory: Path) -> None:
    """Make sure, before anything is drawn, that the card that is there can be written anew.

    Raises:
        ShardError: As `write`.
    """
    path = directory / CARD
    if path.exists():
        generated_part(_header(_read(path))[2])


def license_of(directory: Path) -> str | None:
    """The licence that the card's YAML names; None when there is no card, or none is set, or it is unknown.

    Of several, all; of one that is called `other`, its `license_link`, or else its `license_name`.

    Raises:
        ShardError: As `write`.
    """
    path = directory / CARD
    header = _header(_read(path))[0] if path.exists() else {}
    license = header.get("license")
    if not license or license == UNKNOWN_LICENSE:
        return None
    if license == "other":
        license = header.get("license_link") or header.get("license_name") or license
    return ", ".join(map(str, license)) if isinstance(license, list) else str(license)


def describe(
    columns: Columns, index: Mapping[str, Any], facts: CardContext, *, formats: Sequence[str], image_format: str
) -> dict[str, Any]:
    """The card's YAML: where the files of each split lie, their columns with label names, and search tags.

    It points at Parquet, or at the tars where there is none. A split without any sample is left out, for
    `load_dataset` refuses one. Rejects that are published are a config of their own.
    """
    kind = "parquet" if "parquet" in formats else "webdataset"
    features = columns.features() if kind == "parquet" else columns.tar_features(image_format)
    splits = {name: split for name, split in index["splits"].items() if split["samples"]}
    # What takes space once it is loaded is known of Parquet alone; a tar's size is a guess at it.
    loaded = {name: split["bytes"][kind] for name, split in splits.items()}
    if kind == "parquet":
        loaded = {name: split.get("arrow_bytes", loaded[name]) for name, split in splits.items()}
    configs: list[dict[str, Any]] = [
        {
            "config_name": "default",
            "data_files": [{"split": name, "path": _one_or_all(globs(index, name, kind))} for name in splits],
        }
    ]
    rejects = {name: some for name, some in index.get("published_rejects", {}).items() if some["samples"]}
    if rejects:
        configs[0]["default"] = True
        files = [{"split": name, "path": _one_or_all(_globs(some["files"]))} for name, some in rejects.items()]
        configs.append({"config_name": REJECTS, "data_files": files})
    return {
        "pretty_name": facts.title,
        "license": UNKNOWN_LICENSE,
        "task_categories": ["image-classification"],
        "tags": [*TAGS, facts.builder],
        "size_categories": [next((name for most, name in _SIZES if index["samples"] < most), "n>10M")],
        "configs": configs,
        "dataset_info": {
            "features": features._to_yaml_list(),
            "splits": [
                {"name": name, "num_bytes": loaded[name], "num_examples": split["samples"]}
                for name, split in splits.items()
            ],
            "download_size": sum(split["bytes"][kind] for split in splits.values()),
            "dataset_size": sum(loaded.values()),
        },
    }


def globs(index: Mapping[str, Any], split: str, kind: str) -> list[str]:
    """What matches all files of a split in one format, and no others.

    Each part has its own: an extension that isn't finished is not announced. Names of splits hold no `-`, so
    that those of `train` never match `train_2`.
    """
    folder = PurePosixPath(Shard(split, 0, 1, 0).path(kind)).parent.as_posix()
    shards = (shard for shard in index["shards"] if shard["split"] == split)
    return _globs(path for shard in shards for path in shard["files"] if path.startswith(f"{folder}/"))


def _globs(files: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for file in files:
        name = _SHARD_FILE.fullmatch(file)
        if name is None:
            raise ShardError(f"{file} is not called like a shard's file.")
        found[f"{name['before']}-{'*' if name['part'] else '[0-9]*'}{name['suffix']}"] = None
    return list(found)


def _one_or_all(patterns: list[str]) -> str | list[str]:
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
    """The card's Markdown, from `templates/card.md.jinja`: a heading, and what is generated between two marks."""
    template = resource("templates/card.md.jinja")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(cell=markdown, code=_code, url=_url, said=_said, fence=fence)
    kept = {name: split for name, split in index["splits"].items() if split["samples"]}
    numerics = dict(public(facts.numerics))
    credits = [_public_credit(credit) for credit in facts.credits]
    text = environment.from_string(template.read_text(encoding="utf-8")).render(
        begin=BEGIN,
        end=END,
        facts=facts,
        index=index,
        columns=columns,
        split=next(iter(kept), None),
        held_out=next((name for name in kept if name != next(iter(kept))), next(iter(kept), None)),
        empty=[name for name in index["splits"] if name not in kept],
        urls={name: _braced(tar["url"] for tar in index.get("shardlists", {}).get(name, ())) for name in kept},
        tables={name: _table(columns, split["cells"]) for name, split in kept.items()},
        dependence={name: cramers_v(_counts(columns, split["cells"])) for name, split in kept.items()},
        most=MOST_FOREGROUNDS,
        formats=formats,
        names=_names(columns, formats, image_format),
        image_format=image_format,
        recipe={name: value for name, value in public(recipe).items() if name != "lineage"},
        mixed=numerics.pop("mixed", []),
        versions=numerics.pop("versions", {}),
        numerics=numerics,
        preview=preview,
        rejects=index.get("published_rejects", {}),
        not_stated=NOT_STATED,
        sources=public(facts.sources),
        lineage=public(facts.lineage),
        concepts=public(facts.concepts),
        losses=list(dict.fromkeys(name for concept in facts.concepts for name in concept["losses"])),
        alone=one_foreground_each(index["splits"]),
        credits=credits,
        credited_under=sorted(Counter(credit["license"] or NOT_STATED for credit in credits).items()),
        most_credits=MOST_CREDITS,
        attribution=ATTRIBUTION,
    )
    return _only_marks_of_its_own(text)


def _only_marks_of_its_own(text: str) -> str:
    """Generated Markdown in which nothing but the first and the last line of the generated part is a mark."""
    before, _, rest = text.partition(f"{BEGIN}\n")
    inner, _, after = rest.rpartition(f"\n{END}")
    inner = printable(inner, lines=True).replace(BEGIN, f"&lt;{BEGIN[1:]}").replace(END, f"&lt;{END[1:]}")
    return f"{before}{BEGIN}\n{inner}\n{END}{after}"


def one_foreground_each(splits: Mapping[str, Any]) -> dict[str, int]:
    """The foreground of each split, where splits are classes: each has one alone, and they aren't two of the same.

    Args:
        splits: As the index has them: `samples`, and `cells` of (foreground, background, samples).
    """
    found = {name: {cell[0] for cell in split["cells"]} for name, split in splits.items() if split["samples"]}
    if any(len(foregrounds) != 1 for foregrounds in found.values()):
        return {}
    alone = {name: foregrounds.pop() for name, foregrounds in found.items()}
    return alone if len(alone) > 2 or len(set(alone.values())) > 1 else {}


def _names(columns: Columns, formats: Sequence[str], image_format: str) -> dict[str, str]:
    """What `load_dataset` calls a column."""
    if "parquet" in formats:
        return {name: name for name in ("image", "foreground", "background")}
    return {"image": image_format, "foreground": "foreground.cls", "background": "background.cls"}


def _braced(urls: Iterable[str]) -> list[str]:
    """The files of a split as `webdataset` is told of them: consecutive numbers in braces."""
    runs: list[tuple[str, list[str], str]] = []
    for url in urls:
        found = _NUMBERED.fullmatch(url)
        if found is None:
            runs.append((url, [], ""))
            continue
        before, number, after = found["before"], found["number"], found["after"]
        last = runs[-1] if runs else ("", [], "")
        follows = last[1] and len(last[1][-1]) == len(number) and int(last[1][-1]) + 1 == int(number)
        if follows and (last[0], last[2]) == (before, after):
            last[1].append(number)
        else:
            runs.append((before, [number], after))
    return [
        f"{before}{{{numbers[0]}..{numbers[-1]}}}{after}" if len(numbers) > 1 else f"{before}{''.join(numbers)}{after}"
        for before, numbers, after in runs
    ]


def _counts(columns: Columns, cells: Sequence[Sequence[int]]) -> np.ndarray:
    counts = np.zeros((len(columns.foregrounds), len(columns.backgrounds)), np.int64)
    for foreground, background, count in cells:
        counts[foreground, background] = count
    return counts


def _table(columns: Columns, cells: Sequence[Sequence[int]]) -> list[tuple[str, list[int]]]:
    """Rows of foreground and counts by background, or the row of totals alone when there are too many."""
    counts = _counts(columns, cells)
    rows = list(zip(columns.foregrounds, counts.tolist(), strict=True))
    return [*(rows if len(rows) <= MOST_FOREGROUNDS else []), ("all", counts.sum(0).tolist())]


def _code(value: object) -> str:
    """A setting's value as code in a Markdown table, cut when it is long."""
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _url(value: str, text: str) -> str:
    """A link, if the value is one that a browser opens; else the value as text."""
    if not _LINK.fullmatch(value):
        return markdown(value)
    return f"[{markdown(text)}]({quote(value, safe=_URL_SAFE)})"


def _said(value: Any) -> str:
    """A value of a lineage's step in words: datasets with their names, numbers with commas, all else as code."""
    if isinstance(value, Mapping) and "name" in value:
        more = [f"recipe `{str(value['sha256'])[:12]}`"] if value.get("sha256") else []
        more += [f"{value['samples']:,} samples"] if isinstance(value.get("samples"), int) else []
        rest = {key: item for key, item in value.items() if key not in ("name", "sha256", "samples")}
        more += [f"{key.replace('_', ' ')} {_said(item)}" for key, item in rest.items()]
        return _code(value["name"]) + (f" ({', '.join(more)})" if more else "")
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "; ".join(map(_said, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _code(value)


def _public_credit(credit: Mapping[str, str]) -> dict[str, str]:
    return {**credit, "source": public(credit["source"])}


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
    theirs, _, text = _header(existing)
    return {**header, **theirs, **{key: header[key] for key in OURS}}, _merge_text(text, body)


def rewrite(existing: str, header: Mapping[str, Any], body: str) -> str:
    """A card that is there with what `merge` changes; all else in its YAML stays as it is written, comments too.

    Raises:
        ShardError: As `merge`.
    """
    wanted, text = merge(existing, header, body)
    theirs, written, _ = _header(existing)
    return f"---\n{_merge_yaml(written, theirs, wanted)}---\n{text}"


def _read(path: Path) -> str:
    try:
        return read_text(path, root=path.parent, encoding="utf-8-sig")
    except FileError as error:
        raise ShardError(f"{path.name} can't be read: {error.reason}. Save it as UTF-8, or delete it.") from error


def _in_a_line(error: yaml.YAMLError) -> str:
    """What is wrong with YAML and where, counted from the header's first line, without the lines themselves."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{problem}{place}" if problem else " ".join(str(error).split())


def _header(existing: str) -> tuple[dict[Any, Any], str, str]:
    """A card's YAML, read and as it is written, and what follows it."""
    match = _HEADER.match(existing)
    if not match:
        return {}, "", existing
    try:
        theirs = safe_load(match["yaml"]) or {}
    except yaml.YAMLError as error:
        raise ShardError(
            f"README.md: its YAML header can't be read: {_in_a_line(error)}. Mend it, or delete the file."
        ) from error
    if not isinstance(theirs, dict):
        raise ShardError("README.md: its YAML header is no mapping of keys to values. Mend it, or delete the file.")
    return theirs, match["yaml"], existing[match.end() :]


def dump(values: Mapping[Any, Any]) -> str:
    """Values as YAML, in their own letters unless one of them would reorder the line or steer a terminal."""
    if not values:
        return ""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)
    return yaml.safe_dump(dict(values), sort_keys=False, width=120) if steers(text) else text


def _merge_yaml(written: str, theirs: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> str:
    """The lines of a header, of which only those are written anew that differ from what is wanted."""
    changed = {key: value for key, value in wanted.items() if key not in theirs or theirs[key] != value}
    text = _replace_keys(written, changed)
    try:
        if safe_load(text) == wanted:
            return text
    except yaml.YAMLError:
        pass
    return dump(wanted)  # written in another style, such as {a: 1}: the values stay, comments don't


def _replace_keys(written: str, changed: Mapping[Any, Any]) -> str:
    """YAML whose top-level keys have new values; those that it lacks are appended."""
    root = yaml.compose(written)
    keys = root.value if isinstance(root, yaml.MappingNode) else []
    starts = [key.start_mark.index for key, _ in keys]
    ends = [*starts, len(written)][1:]
    parts = [written[: starts[0]] if starts else written]
    for (key, _), start, end in zip(keys, starts, ends, strict=True):
        block = written[start:end]
        if key.value in changed:
            # Comments at the end of our lines and above the next key are the user's.
            own = re.sub(r"(?:^(?:#.*)?\n)+\Z", "", block, flags=re.MULTILINE)
            block = dump({key.value: changed[key.value]}) + block[len(own) :]
        parts.append(block)
    there = {key.value for key, _ in keys}
    text = "".join(parts)
    text += "\n" if text and not text.endswith("\n") else ""
    return text + dump({key: value for key, value in changed.items() if key not in there})


def generated_part(text: str) -> tuple[int, int] | None:
    """Find the generated part of a card: where its first mark begins and its last mark ends; None without marks.

    Marks are written on lines of their own. One that stands within a line is a setting's value or a class's name, as
    older releases wrote them, and is passed over.

    Raises:
        ShardError: A mark is missing or there more than once; the error says in which lines and how to mend it.
    """
    alone = {m: [f.start(1) for f in re.finditer(rf"^[ \t]*({re.escape(m)})[ \t]*\r?$", text, re.M)] for m in _MARKS}
    found = alone
    if not any(alone.values()):
        found = {mark: [f.start() for f in re.finditer(re.escape(mark), text)] for mark in _MARKS}
    if not any(found.values()):
        return None
    begins, ends = found[BEGIN], found[END]
    if len(begins) == len(ends) == 1 and begins[0] < ends[0]:
        return begins[0], ends[0] + len(END)
    lines = {mark: listed((text.count("\n", 0, place) + 1 for place in found[mark]), 5) for mark in _MARKS}
    raise ShardError(
        f"README.md: the generated part stands between the lines {BEGIN} and {END}, once each and in this order. Below "
        f"the header, the first is in line {lines[BEGIN] or '(none)'}, the second in line {lines[END] or '(none)'}. "
        "Delete the generated part with all its marks, or the whole file, and give the same command again: it is "
        "written anew."
    )


def _merge_text(text: str, body: str) -> str:
    found = generated_part(body)
    assert found is not None, "a card is rendered with its marks"
    generated = body[found[0] : found[1]]
    if not text.strip():
        return body
    theirs = generated_part(text)
    if theirs is None:
        return f"{text.rstrip()}\n\n{generated}\n"
    return text[: theirs[0]] + generated + text[theirs[1] :]
