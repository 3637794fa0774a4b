"""Licences and credits of the user's directories and checkpoints: LICENSE files, ATTRIBUTION.csv, model cards."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from figureground.core.documents import parse_yaml
from figureground.core.errors import FiguregroundError, plural
from figureground.core.files import open_regular
from figureground.core.tables import TextTable, decode
from figureground.sources.licence_terms import output_terms

COLUMNS: dict[str, tuple[str, ...]] = {
    "file": ("file", "filename", "file name", "path", "image", "picture", "name", "id"),
    "author": ("author", "authors", "creator", "artist", "photographer", "credit", "attribution", "owner"),
    "license": ("license", "licence", "license name", "licence name", "license id", "rights"),
    "source": ("source", "url", "link", "source url", "original url", "page", "landing url"),
    "title": ("title", "caption", "description"),
}
"""Columns read from ATTRIBUTION.csv, with accepted names; case, `_` and `-` are ignored."""

NOT_STATED = "not stated"

_LICENSE_FILE = re.compile(r"(LICEN[CS]E|COPYING)([-_.].*)?(?<!\.csv)(?<!\.tsv)", re.IGNORECASE)
_MAX_LENGTH = 120
_MAX_BYTES = 2**20
_FORMULA_STARTS = ("=", "+", "-", "@")
"""First characters of cells that a spreadsheet would run as a formula."""
_LICENSE_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"SPDX-License-Identifier:\s*(?P<name>[\w.+-]+)", ""),
    (r"\bCC0[ -]1\.0\b|CC0 1\.0 Universal", "CC0-1.0"),
    (r"\bCC[ -](?P<kind>BY(?:-NC)?(?:-SA|-ND)?)[ -](?P<version>\d\.\d)\b", ""),
    (r"Apache License\s+Version 2\.0", "Apache-2.0"),
    (
        r"\AMIT License\b"
        r"|Permission is hereby granted, free of charge, to any person obtaining a copy(?!\s+of the Font)",
        "MIT",
    ),
)
_LONG_NAMES = {"Attribution": "BY", "NonCommercial": "NC", "ShareAlike": "SA", "NoDerivatives": "ND"}


@dataclass(frozen=True)
class Credit:
    """Credit for a source image, from an ATTRIBUTION.csv; missing values are empty."""

    file: str
    """`folder/name`, relative to the directory of the images."""
    author: str = ""
    license: str = ""
    source: str = ""
    title: str = ""


@dataclass(frozen=True)
class Source:
    """A directory of images that generation starts from."""

    what: str
    """`cutouts`, `scenes` or `photographs`."""
    name: str
    """The last part of the directory's path, or `pocket`."""
    images: int
    splits: Sequence[str] = ()
    """Splits that use it; empty if all splits share it."""
    skipped: int = 0
    """Number of files that aren't used."""
    license: str = NOT_STATED
    license_file: str = ""
    credited: int = 0
    """Number of images listed in ATTRIBUTION.csv."""
    problem: str = ""
    """Reason why ATTRIBUTION.csv, or some of its rows, can't be used, without a full stop."""


@dataclass(frozen=True)
class Weights:
    """The checkpoint that drew a dataset, in a form fit for publication."""

    name: str
    revision: str = ""
    license: str = NOT_STATED
    link: str = ""
    """URL of the licence, if the checkpoint states one."""

    def terms(self) -> dict[str, str]:
        """Return what the licence says about the images: `terms`, a sentence, and `terms_link`, a URL or empty."""
        license = "" if self.license == NOT_STATED else self.license
        text, link = output_terms(license, self.link)
        return {"terms": text, "terms_link": link}


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
    """Read licence and credits of the images used from a directory. Faulty files never stop a build.

    Args:
        what: `cutouts`, `scenes` or `photographs`.
        directory: Directory with the images, in folders.
        images: The files that are used, all below the directory.
        name: Name of the directory on the card; default: the last part of its path.
        splits: Splits that use it.
        skipped: Number of files that aren't used.
        license_in: Directory of its LICENSE; default: the directory itself.
    """
    files = sorted({path.relative_to(directory).as_posix() for path in images})
    credit_of, problem = read_credits(directory)
    name_counts = Counter(
        name.rpartition("/")[2] for name in map(_normalise, files) if "/" not in name or name not in credit_of
    )
    credit_by_name = {
        key: credit for key, credit in credit_of.items() if "/" not in key and name_counts[key] == 1
    }  # a bare name of several images says nothing about either
    credits = []
    for file in files:
        credit = credit_of.get(_normalise(file)) or credit_by_name.get(_normalise(file).rpartition("/")[2])
        if credit is not None:
            credits.append(Credit(file, *astuple(credit)[1:]))
    license, license_file = read_license(license_in or directory)
    name = name or directory.resolve().name
    return (
        Source(what, name, len(files), tuple(splits), skipped, license, license_file, len(credits), problem),
        credits,
    )


# Licences


def read_license(directory: Path) -> tuple[str, str]:
    """Return the licence in a LICENSE, LICENCE or COPYING file, and the file's name; else `not stated` and ''."""
    try:
        files = sorted(p for p in directory.iterdir() if p.is_file() and _LICENSE_FILE.fullmatch(p.name))
    except OSError:
        return NOT_STATED, ""
    for path in files:
        if name := detect_license(_read_head(path)[:20_000]):
            return name, path.name
    return NOT_STATED, ""


def detect_license(text: str) -> str:
    """Return the name of a licence text: the SPDX name of a well-known one, or of each, else its first line."""
    names: dict[str, int] = {}
    for pattern, name in _LICENSE_PATTERNS:
        for match in re.finditer(pattern, text):
            found = name or (f"CC-{match['kind']}-{match['version']}" if "kind" in match.groupdict() else match["name"])
            names.setdefault(found.replace(" ", "-"), match.start())
    if names:
        return _shorten(", ".join(sorted(names, key=names.__getitem__)))
    match_of_name = re.search(
        r"(?P<kinds>Attribution[A-Za-z-]*)\s+(?P<version>\d\.\d)\s+(International|Unported|Generic)", text
    )
    if match_of_name:
        kinds = [_LONG_NAMES.get(kind, kind) for kind in match_of_name["kinds"].split("-")]
        return f"CC-{'-'.join(kinds)}-{match_of_name['version']}"
    first = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    return _shorten(first)


def read_weights_license(folder: Path) -> tuple[str, str]:
    """Return a checkpoint's licence and its URL, from the YAML of README.md or from LICENSE; else `not stated`.

    Other contents of these files, and errors in them, are ignored.
    """
    match = re.match(r"\s*---[ \t]*\n(.*?)^---", _read_head(folder / "README.md"), re.DOTALL | re.MULTILINE)
    header = match[1] if match else ""
    try:
        loaded = parse_yaml(header)
    except (yaml.YAMLError, ValueError, RecursionError):  # the errors may be in other fields
        loaded = dict(re.findall(r"^(license\w*):[ \t]*[\"']?([\w.:/-]+)[\"']?[ \t]*$", header, re.MULTILINE))
    metadata: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {}
    stated = metadata.get("license")
    licenses = stated if isinstance(stated, list) else [stated]
    name = ", ".join(_shorten(license) for license in licenses if isinstance(license, str) and license.strip())
    if name:
        own_name, link = metadata.get("license_name"), metadata.get("license_link")
        if name == "other" and isinstance(own_name, str) and own_name.strip():
            name = own_name
        return _shorten(name), link if isinstance(link, str) and link.startswith(("https://", "http://")) else ""
    return read_license(folder)[0], ""


def read_weights(checkpoint: str, revision: str | None) -> Weights:
    """Return what is known locally about a checkpoint's licence; download nothing, and a missing licence is no error.

    Args:
        checkpoint: `pocket`, a directory in diffusers' layout, a single file, or a Hub id.
        revision: The loaded version: a commit, or a hash of the content.
    """
    if checkpoint == "pocket":
        return Weights("pocket (shipped with figureground)", revision or "", "Apache-2.0")
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return Weights(folder.resolve().name, revision or "", *read_weights_license(folder))
    if folder.is_file() or checkpoint.count("/") != 1 or checkpoint.startswith((".", "/", "~")):
        return Weights(folder.name, revision or "")
    snapshot = find_cached_snapshot(checkpoint, revision)
    return Weights(checkpoint, revision or "", *(read_weights_license(snapshot) if snapshot else ()))


def find_cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """Return the directory of a Hub checkpoint in this machine's cache; None if it isn't cached."""
    from huggingface_hub import try_to_load_from_cache

    # Checkpoints differ in which of these files they have; all are in one folder.
    for name in ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "model_index.json"):
        path = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


# Attribution


def read_credits(directory: Path) -> tuple[dict[str, Credit], str]:
    """Read the credits in a directory's ATTRIBUTION.csv, by the image's relative path or its bare name.

    Reads the columns in `COLUMNS`, separated by commas, semicolons or tabs.

    Returns:
        The credits, and the reason why an existing file, or some of its rows, can't be used, else an empty string.
        A file that is credited in several ways has no credit.
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
    column_of = {}
    for name, spellings in COLUMNS.items():
        positions = [header.index(spelling) for spelling in spellings if spelling in header]
        if positions:
            column_of[name] = positions[0]
    if "file" not in column_of:
        columns = ", ".join(header) or "none"
        return {}, f"ATTRIBUTION.csv has no column 'file' (its columns: {columns})"
    credits: dict[str, Credit] = {}
    ambiguous: set[str] = set()
    for row in rows:
        values = {name: _from_cell(" ".join(row[i].split())) for name, i in column_of.items() if i < len(row)}
        if values.get("file"):
            file, credit = _normalise(values["file"]), Credit(**values)
            if credits.setdefault(file, credit) != credit:
                ambiguous.add(file)
    for file in ambiguous:
        del credits[file]
    problem = "" if not ambiguous else (
        f"ATTRIBUTION.csv credits {plural(len(ambiguous), 'file')} in several ways, such as {min(ambiguous)!r}, so "
        "their credits are left out: give each image one row, with its path folder/file"
    )  # fmt: skip
    return credits, problem


def _normalise(file: str) -> str:
    """Normalise a path for comparison: `/` between folders, Unicode NFC, no leading `./`."""
    return unicodedata.normalize("NFC", file.strip().replace("\\", "/")).removeprefix("./").strip("/")


def format_credits(credits: Iterable[Credit]) -> str:
    """Format credits as a CSV with the columns that `read_credits` reads.

    A cell that a spreadsheet would run as a formula gets a leading apostrophe, which `read_credits` removes.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in fields(Credit)])
    writer.writerows([_to_cell(value) for value in astuple(credit)] for credit in credits)
    return text.getvalue()


def _to_cell(value: str) -> str:
    return f"'{value}" if value.lstrip("'").startswith(_FORMULA_STARTS) else value


def _from_cell(value: str) -> str:
    return value[1:] if value.startswith("'") and value.lstrip("'").startswith(_FORMULA_STARTS) else value


def _read_head(path: Path) -> str:
    """Return the first MiB of a text file, with line ends as `\\n`; empty if it can't be read."""
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES)
        return decode(data, path.name, lenient=True, is_complete=len(data) < _MAX_BYTES).replace("\r\n", "\n")
    except (OSError, FiguregroundError):
        return ""


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH].rstrip()}…"
