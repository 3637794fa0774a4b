"""Shards as tars, which `webdataset` streams and `wids` reads at random."""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import jinja2

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.files import FileError, open_regular
from figureground.core.resources import find_resource
from figureground.recipe.sample import IMAGE_FORMATS
from figureground.shards.columns import Columns
from figureground.shards.drafts import Draft
from figureground.shards.formats.format import TEXTS, Format, Reading, Writer
from figureground.shards.problems import shorten_error
from figureground.shards.samples import Encoded, Stored

PROMPT = "prompt.txt"
MAX_MEMBER = 2**28
"""Largest tar member that is read, bytes. A PNG of 8,192 by 8,192 pixels is smaller."""

_NUMBERED = re.compile(r"(?P<before>.*-)(?P<number>\d+)(?P<after>-of-\d+\.tar)")


class Tar(Format):
    """A tar per shard: `{key}.jpg`, `{key}.foreground.cls`, `{key}.prompt.txt`, `{key}.json` and so on."""

    NAME = "webdataset"
    TITLE = "tar"
    FOLDER = "webdataset"
    SUFFIX = ".tar"
    MIME = "application/x-tar"
    LOADABLE = True
    IN_SHARDLISTS = True
    HASHED_WHILE_READ = True

    def write(self, draft: Draft, columns: Columns, image_format: str) -> _TarWriter:
        return _TarWriter(draft, image_format)

    def read(self, path: Path, rows: Collection[int] | None = None) -> Iterator[Stored]:
        selected = None if rows is None else set(rows)
        for row, (key, members) in enumerate(read_members(path)):
            if selected is None or row in selected:
                yield from_members(key, members)

    def columns_of(
        self, path: Path, labels: Sequence[str] = ("foreground", "background"), texts: Sequence[str] = TEXTS
    ) -> Iterator[dict[str, Any]]:
        member_names = {name: "json" if name == "provenance" else f"{name}.txt" for name in texts if name != "key"}
        for key, members in read_members(path, [*(f"{name}.cls" for name in labels), *member_names.values()]):
            yield {
                **({"key": key} if "key" in texts else {}),
                **{name: int(members[f"{name}.cls"]) for name in labels},
                **{name: members[member].decode() for name, member in member_names.items()},
            }

    def check(self, reading: Reading) -> Iterator[Stored | None]:
        columns, problems, where = reading.columns, reading.problems, reading.where
        expected = {"json", reading.image_format, *self.names(columns, reading.image_format).values()} - {"__key__"}
        try:
            for key, members in read_members(reading.file):
                if set(members) != expected:
                    missing, extra = sorted(expected - set(members)), sorted(set(members) - expected)
                    problem = f"lacks {join_names(missing)}" if missing else f"also has {join_names(extra)}"
                    problems.add(where, "its members don't match the dataset", key, problem)
                try:
                    yield from_members(key, members) if expected <= set(members) else None
                except ValueError as error:
                    problems.add(where, "a member can't be read", key, shorten_error(error))
                    yield None
        except (OSError, tarfile.TarError, FiguregroundError, ValueError) as error:
            problems.lines.append(f"{where}: it can't be read to its end ({shorten_error(error)}).")

    def names(self, columns: Columns, image_format: str) -> dict[str, str]:
        """Return the tar's member for each column.

        `json` is left out because older releases of datasets can't read a declaration of its type.
        """
        return {
            "image": image_format,
            "prompt": PROMPT,
            "key": "__key__",
            **{name: f"{name}.cls" for name in ("foreground", "background", *columns.labels)},
            **{name: f"{name}.txt" for name in columns.texts},
            **{name: f"{name}.png" for name in columns.images},
        }

    def note(self) -> str:
        return (
            "There are only tar files, so columns are named after the tars' members. Only `webdataset` reads `json`, "
            "the provenance\nof each image."
        )

    def section(self, columns: Columns, image_format: str, split: str, files: Sequence[str]) -> str:
        template = find_resource("templates/webdataset.md.jinja").read_text(encoding="utf-8")
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
        )
        return environment.from_string(template).render(image_format=image_format, split=split, urls=_brace_urls(files))


class _TarWriter(Writer):
    def __init__(self, draft: Draft, image_format: str) -> None:
        from webdataset import TarWriter

        self._image_format = image_format
        # The default mtime is a float, which costs a kilobyte a member and makes bytes differ between runs.
        self._tar = TarWriter(draft.file, user="figureground", group="figureground", mtime=0, encoder=False)

    def add(self, sample: Encoded) -> None:
        spec = sample.spec
        labels = {"foreground": spec.foreground, "background": spec.background, **sample.labels}
        self._tar.write(
            {
                "__key__": spec.key,
                self._image_format: sample.image,
                "prompt.txt": spec.prompt.encode(),
                "json": sample.provenance.encode(),
                **{f"{name}.cls": str(label).encode("ascii") for name, label in labels.items()},
                **{f"{name}.txt": text.encode() for name, text in sample.texts.items()},
                **{f"{name}.png": image for name, image in sample.images.items()},
            }
        )

    def close(self) -> None:
        self._tar.close()


class _BoundedFile:
    """File wrapper for `tarfile`, which otherwise reads as many bytes at once as a header claims.

    A sparse file can hold that many bytes, mostly holes, at little cost on disk.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_MEMBER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes, so it isn't read")
        return self._file.read(size)


def read_members(path: Path | BinaryIO, only: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of each sample: runs of members whose names are equal up to the first dot.

    Members are keyed by the rest of their names, such as `foreground.cls`. With `only`, others are skipped unread.

    Raises:
        FiguregroundError: A sample has two members of one name, or a member is sparse or larger than `MAX_MEMBER`.
        tarfile.TarError: The file ends within a member, or isn't a tar.
    """
    key: str | None = None
    members: dict[str, bytes] = {}
    with (
        contextlib.nullcontext(path) if not isinstance(path, Path) else open_regular(path) as file,
        tarfile.open(fileobj=cast(Any, _BoundedFile(file)), mode="r:") as tar,
    ):
        for member in tar:
            if not member.isfile():
                continue
            name, _, suffix = member.name.partition(".")
            if key is not None and name != key:
                yield key, members
                members = {}
            key = name
            if suffix in members:
                raise FiguregroundError(f"the member {member.name} occurs twice in one sample")
            if only is None or suffix in only:
                if member.issparse() or member.size > MAX_MEMBER:
                    raise FileError(member.name, f"it is a member of {member.size:,} bytes, so it isn't read")
                data = tar.extractfile(member)
                assert data is not None
                members[suffix] = data.read()
    if key is not None:
        yield key, members


def from_members(key: str, members: dict[str, bytes]) -> Stored:
    """Return the sample that tar members from `read_members` form.

    Raises:
        FiguregroundError: The image, the prompt or the JSON is missing.
    """
    image = next((members[name] for name in IMAGE_FORMATS if name in members), None)
    missing = [name for name in (PROMPT, "json") if name not in members]
    if image is None or missing:
        raise FiguregroundError(f"the sample {key} has no {missing[0] if missing else 'image'}")
    return Stored(
        key, image, members[PROMPT].decode(), members["json"].decode(),
        labels={name.removesuffix(".cls"): int(data) for name, data in members.items() if name.endswith(".cls")},
        texts={
            name.removesuffix(".txt"): data.decode()
            for name, data in members.items() if name.endswith(".txt") and name != PROMPT
        },
        images={name.removesuffix(".png"): data for name, data in members.items() if name.endswith(".png")},
    )  # fmt: skip


def _brace_urls(urls: Iterable[str]) -> list[str]:
    """Return the files of a split in `webdataset` notation: consecutive numbers in braces."""
    runs: list[tuple[str, list[str], str]] = []
    for url in urls:
        match = _NUMBERED.fullmatch(url)
        if match is None:
            runs.append((url, [], ""))
            continue
        before, number, after = match["before"], match["number"], match["after"]
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
