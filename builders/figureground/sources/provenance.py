"""What the user's directories say of their images' rights: LICENSE files, ATTRIBUTION.csv, a checkpoint's licence."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from figureground.core.documents import parse_yaml
from figureground.core.errors import FiguregroundError
from figureground.core.files import open_regular
from figureground.core.tables import TextTable, decode

COLUMNS: dict[str, tuple[str, ...]] = {
    "file": ("file", "filename", "file name", "path", "image", "image", "name", "id"),
    "author": ("author", "authors", "creator", "artist", "photographer", "credit", "attribution", "owner"),
    "license": ("license", "licence", "license name", "licence name", "license id", "rights"),
    "source": ("source", "url", "link", "source url", "original url", "page", "landing url"),
    "title": ("title", "caption", "description"),
}
"""What is read of ATTRIBUTION.csv, and what each column may be called: capitals, `_` and `-` don't matter."""

NOT_STATED = "not stated"

_LICENSES = ("LICENSE", "LICENCE", "COPYING")
_LONGEST = 120
_MOST = 2**20
_FORMULA = ("=", "+", "-", "@")
"""How a cell begins that a spreadsheet would run."""
_KNOWN: tuple[tuple[str, str], ...] = (
    (r"SPDX-License-Identifier:\s*(?P<name>[\w.+-]+)", ""),
    (r"\bCC0[ -]1\.0\b|CC0 1\.0 Universal", "CC0-1.0"),
    (r"\bCC[ -](?P<kind>BY(?:-NC)?(?:-SA|-ND)?)[ -](?P<version>\d\.\d)\b", ""),
    (r"Apache License\s+Version 2\.0", "Apache-2.0"),
    (r"\AMIT License\b|Permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
)
_LONG_NAMES = {"Attribution": "BY", "NonCommercial": "NC", "ShareAlike": "SA", "NoDerivatives": "ND"}


@dataclass(frozen=True)
class Credit:
    """Who made an image that images start from, as an ATTRIBUTION.csv says; empty where it doesn't."""

    file: str
    """`folder/name` in the directory of the images."""
    author: str = ""
    license: str = ""
    source: str = ""
    title: str = ""


@dataclass(frozen=True)
class Source:
    """A directory of images that images start from."""

    what: str
    """`cutouts`, `templates` or `photographs`."""
    name: str
    """The last part of the directory's path, or `pocket`."""
    images: int
    splits: Sequence[str] = ()
    """The splits that it is for; none when all share it."""
    skipped: int = 0
    """Files that can't be read."""
    license: str = NOT_STATED
    license_file: str = ""
    credited: int = 0
    """How many of the images ATTRIBUTION.csv names."""
    problem: str = ""
    """Why ATTRIBUTION.csv wasn't read."""


@dataclass(frozen=True)
class Weights:
    """The checkpoint that drew a dataset, as others may know of it."""

    name: str
    revision: str = ""
    license: str = NOT_STATED
    link: str = ""
    """Where the licence can be read, when the checkpoint says so."""


def read_source(
    what: str,
    directory: Path,
    images: Iterable[Path],
    *,
    name: str | None = None,
    splits: Sequence[str] = (),
    skipped: int = 0,
    license_in: Path | None = None,
) -> tuple[Source, list[Credit]]:
    """Reads what a directory says of the images that are used of it. Nothing that it says can stop a build.

    Args:
        what: `cutouts`, `templates` or `photographs`.
        directory: Holds the images, in folders.
        images: The files that are used, all of them below the directory.
        name: What the card calls the directory; the last part of its path unless said otherwise.
        splits: The splits that it is for.
        skipped: How many of its files can't be read.
        license_in: Where its LICENSE lies, if not in itself.
    """
    used = sorted({path.relative_to(directory).as_posix() for path in images})
    known, problem = read_credits(directory)
    by_name = {key.rpartition("/")[2]: credit for key, credit in known.items() if "/" not in key}
    credits = []
    for file in used:
        credit = known.get(_same(file)) or by_name.get(_same(file).rpartition("/")[2])
        if credit is not None:
            credits.append(Credit(file, *astuple(credit)[1:]))
    license, license_file = read_license(license_in or directory)
    name = name or directory.resolve().name
    return (
        Source(what, name, len(used), tuple(splits), skipped, license, license_file, len(credits), problem),
        credits,
    )


# Licences


def read_license(directory: Path) -> tuple[str, str]:
    """A LICENSE, LICENCE or COPYING file's licence and the file's name; `not stated` and no name without one."""
    try:
        files = sorted(p for p in directory.iterdir() if p.is_file() and p.name.upper().startswith(_LICENSES))
    except OSError:
        return NOT_STATED, ""
    for path in files:
        if name := license_name(_head(path)[:20_000]):
            return name, path.name
    return NOT_STATED, ""


def license_name(text: str) -> str:
    """What a licence's text is called: an SPDX name where it is a well-known one, else its first line."""
    for pattern, name in _KNOWN:
        found = re.search(pattern, text)
        if found and (name or "kind" in found.groupdict()):
            return name or f"CC-{found['kind']}-{found['version']}"
        if found:
            return found["name"]
    long = re.search(r"(?P<kinds>Attribution[A-Za-z-]*)\s+(?P<version>\d\.\d)\s+(International|Unported|Generic)", text)
    if long:
        kinds = [_LONG_NAMES.get(kind, kind) for kind in long["kinds"].split("-")]
        return f"CC-{'-'.join(kinds)}-{long['version']}"
    first = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    return _one_line(first)


def weights_license(folder: Path) -> tuple[str, str]:
    """A checkpoint's licence and a link to it, from its README.md's YAML or its LICENSE; `not stated` else.

    Whatever else these files hold, and whatever is wrong with them, is passed over.
    """
    match = re.match(r"\s*---[ \t]*\n(.*?)^---", _head(folder / "README.md"), re.DOTALL | re.MULTILINE)
    header = match[1] if match else ""
    try:
        loaded = parse_yaml(header)
    except (yaml.YAMLError, ValueError, RecursionError):  # only its other fields may be wrong
        loaded = dict(re.findall(r"^(license\w*):[ \t]*[\"']?([\w.:/-]+)[\"']?[ \t]*$", header, re.MULTILINE))
    said: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {}
    licenses = said.get("license")
    each = licenses if isinstance(licenses, list) else [licenses]
    name = ", ".join(_one_line(one) for one in each if isinstance(one, str) and one.strip())
    if name:
        called, link = said.get("license_name"), said.get("license_link")
        if name == "other" and isinstance(called, str) and called.strip():
            name = called
        return _one_line(name), link if isinstance(link, str) and link.startswith(("https://", "http://")) else ""
    return read_license(folder)[0], ""


def read_weights(checkpoint: str, revision: str | None) -> Weights:
    """What is known here of a checkpoint's licence; nothing is downloaded, and nothing is no error.

    Args:
        checkpoint: `pocket`, a directory in diffusers' layout, or a Hub id.
        revision: What was loaded of it: a commit, or a hash of its content.
    """
    if checkpoint == "pocket":
        return Weights("pocket (shipped with figureground)", revision or "", "Apache-2.0")
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return Weights(folder.resolve().name, revision or "", *weights_license(folder))
    if checkpoint.count("/") != 1 or checkpoint.startswith((".", "/", "~")):
        return Weights(folder.name, revision or "")
    snapshot = cached_snapshot(checkpoint, revision)
    return Weights(checkpoint, revision or "", *(weights_license(snapshot) if snapshot else ()))


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """Where a checkpoint of the Hub lies in this machine's cache; None where it doesn't."""
    from huggingface_hub import try_to_load_from_cache

    # Which files a checkpoint brings along differs; all of them lie in one folder.
    for name in ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "model_index.json"):
        found = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


# Attribution


def read_credits(directory: Path) -> tuple[dict[str, Credit], str]:
    """The credits in a directory's ATTRIBUTION.csv, by the image's path in it, or by its bare name.

    Of its columns those in `COLUMNS` are read, separated by commas, semicolons or tabs.

    Returns:
        The credits, and why there are none although there is a file; empty else.
    """
    try:
        path = next((p for p in sorted(directory.iterdir()) if p.name.lower() == "attribution.csv"), None)
        if path is None:
            return {}, ""
        table = TextTable(path, lenient=True)
        header = [re.sub(r"[\s_-]+", " ", name).strip().casefold() for name in table.header]
        rows = [fields for _, fields in table]
    except (OSError, FiguregroundError) as error:
        return {}, f"ATTRIBUTION.csv can't be read: {error}"
    places = {}
    for name, spellings in COLUMNS.items():
        order = [header.index(spelling) for spelling in spellings if spelling in header]
        if order:
            places[name] = order[0]
    if "file" not in places:
        shown = ", ".join(header) or "none"
        return {}, f"ATTRIBUTION.csv has no column 'file' (its columns: {shown})"
    found = {}
    for row in rows:
        values = {name: _from_cell(" ".join(row[i].split())) for name, i in places.items() if i < len(row)}
        if values.get("file"):
            found[_same(values["file"])] = Credit(**values)
    return found, ""


def _same(file: str) -> str:
    """A path as it can be compared: `/` between folders, one coding of accents, and nothing about `.`."""
    return unicodedata.normalize("NFC", file.strip().replace("\\", "/")).removeprefix("./").strip("/")


def credits_csv(credits: Iterable[Credit]) -> str:
    """Credits as a CSV, in the columns that `read_credits` reads.

    A cell that a spreadsheet would run as a formula begins with an apostrophe, which `read_credits` takes off.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in fields(Credit)])
    writer.writerows([_to_cell(value) for value in astuple(credit)] for credit in credits)
    return text.getvalue()


def _to_cell(value: str) -> str:
    return f"'{value}" if value.lstrip("'").startswith(_FORMULA) else value


def _from_cell(value: str) -> str:
    return value[1:] if value.startswith("'") and value.lstrip("'").startswith(_FORMULA) else value


def _head(path: Path) -> str:
    """The first MiB of a text file of whatever program, in lines that end with `\\n`; empty if it can't be read."""
    try:
        with open_regular(path) as file:
            data = file.read(_MOST)
        return decode(data, path.name, lenient=True, whole=len(data) < _MOST).replace("\r\n", "\n")
    except (OSError, FiguregroundError):
        return ""


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rstrip()}…"
