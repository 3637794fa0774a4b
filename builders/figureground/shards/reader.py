"""Reads shards back, sample by sample, so that both formats say the same of a sample."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from figureground.errors import FiguregroundError
from figureground.images import IMAGE_FORMATS
from figureground.sample import Guide, Spec
from figureground.shards.index import INDEX
from figureground.shards.writer import Columns, Encoded

PROMPT = "prompt.txt"
_OWN = ("foreground", "background", "prompt", "key", "provenance", "image")


@dataclass(frozen=True, slots=True)
class Stored:
    """A sample as it lies in a shard: bytes and labels, nothing decoded."""

    key: str
    image: bytes
    """The encoded picture."""
    prompt: str
    provenance: str
    """JSON, as it was written."""
    labels: dict[str, int]
    """`foreground`, `background`, and the further label columns."""
    texts: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    """PNG, by column."""

    def spec(self) -> Spec:
        """The Spec that it was made from, as far as its provenance tells."""
        said: dict[str, Any] = json.loads(self.provenance)
        guide = Guide.from_json(said["guide"]) if said.get("guide") else None
        return Spec(
            self.key, said["split"], self.labels["foreground"], self.labels["background"],
            said.get("foreground_name", said["foreground"]), said.get("background_name", said["background"]),
            self.prompt, said.get("seed", 0), guide, (said.get("concept") or {}).get("name"),
        )  # fmt: skip

    def encoded(self) -> Encoded:
        """The same sample, ready to be written again."""
        further = {name: label for name, label in self.labels.items() if name not in _OWN}
        return Encoded(self.spec(), self.image, self.provenance, further, self.texts, self.pictures)


def saved_index(directory: Path) -> dict[str, Any]:
    """What `_figureground/index.json` says.

    Raises:
        FiguregroundError: There is none, so nothing was built here or a build isn't finished; or it can't be read, or
            lacks what this release writes.
    """
    path = directory / INDEX
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FiguregroundError(
            f"{directory} holds no finished dataset: there is no {INDEX}. Build one into it, or finish the build "
            "with the command that began it."
        ) from None
    except (OSError, ValueError) as error:
        raise FiguregroundError(f"{path} can't be read: {error}. Build again: it is written anew.") from None
    if not {"columns", "formats", "image_format", "card"} <= set(index):
        raise FiguregroundError(
            f"{path} was written by an older release. Give the command that made the dataset again: it is written anew."
        )
    return index


def dataset_columns(directory: Path) -> Columns:
    """The columns of a finished dataset.

    Raises:
        FiguregroundError: As `saved_index`.
    """
    return Columns.from_json(saved_index(directory)["columns"])


def read_parquet(path: Path, rows: Sequence[int] | None = None) -> Iterator[Stored]:
    """The samples of a Parquet shard in order, or those in certain rows; other row groups stay unread."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            wanted = None if rows is None else [row - start for row in rows if start <= row < stop]
            if wanted is None or wanted:
                table = file.read_row_group(group)
                for row in (table if wanted is None else table.take(wanted)).to_pylist():
                    yield from_row(row)
            start = stop


def from_row(row: dict[str, Any]) -> Stored:
    """The sample in a row of a Parquet shard."""
    rest = {name: value for name, value in row.items() if name not in _OWN}
    return Stored(
        row["key"], row["image"]["bytes"], row["prompt"], row["provenance"],
        labels={"foreground": row["foreground"], "background": row["background"],
                **{name: value for name, value in rest.items() if isinstance(value, int)}},
        texts={name: value for name, value in rest.items() if isinstance(value, str)},
        pictures={name: value["bytes"] for name, value in rest.items() if isinstance(value, dict)},
    )  # fmt: skip


def read_tar(path: Path, rows: Sequence[int] | None = None) -> Iterator[Stored]:
    """The samples of a tar shard in order, or those in certain rows."""
    wanted = None if rows is None else set(rows)
    for row, (key, members) in enumerate(tar_members(path)):
        if wanted is None or row in wanted:
            yield from_members(key, members)


def tar_members(path: Path | BinaryIO, only: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of each sample: runs of members whose names are the same up to the first dot.

    Members go by the rest of their names, such as `foreground.cls`; others than `only` are passed over unread.

    Raises:
        FiguregroundError: A sample has two members of one name.
        tarfile.TarError: The file is cut within a member, or no tar.
    """
    key: str | None = None
    members: dict[str, bytes] = {}
    named, opened = (path, None) if isinstance(path, Path) else (None, path)
    with tarfile.open(named, "r:", fileobj=opened) as tar:
        for member in tar:
            if not member.isfile():
                continue
            name, _, end = member.name.partition(".")
            if key is not None and name != key:
                yield key, members
                members = {}
            key = name
            if end in members:
                raise FiguregroundError(f"the member {member.name} comes twice in one sample")
            if only is None or end in only:
                data = tar.extractfile(member)
                assert data is not None
                members[end] = data.read()
    if key is not None:
        yield key, members


def from_members(key: str, members: dict[str, bytes]) -> Stored:
    """The sample that members of a tar make up, by the names that `tar_members` gives them.

    Raises:
        FiguregroundError: One that every sample has is missing.
    """
    image = next((members[name] for name in IMAGE_FORMATS if name in members), None)
    lacking = [name for name in (PROMPT, "json") if name not in members]
    if image is None or lacking:
        raise FiguregroundError(f"the sample {key} has no {lacking[0] if lacking else 'image'}")
    return Stored(
        key, image, members[PROMPT].decode(), members["json"].decode(),
        labels={name.removesuffix(".cls"): int(data) for name, data in members.items() if name.endswith(".cls")},
        texts={
            name.removesuffix(".txt"): data.decode()
            for name, data in members.items() if name.endswith(".txt") and name != PROMPT
        },
        pictures={name.removesuffix(".png"): data for name, data in members.items() if name.endswith(".png")},
    )  # fmt: skip
