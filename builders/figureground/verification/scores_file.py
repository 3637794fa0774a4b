"""The scores file, `_figureground/scores/verify.parquet`: one row per image, in the dataset's order.

Columns: `key`; `image`, the beginning of the SHA-256 of the encoded image that the scores belong to; `blur`,
`brightness`, `safety`; and for each scorer NAME and column of labels WHAT, `NAME_WHAT_p`, `_margin`, `_rank` and
`_top`. The schema's metadata, under `figureground verify`, is JSON: `version`, `dataset` (its identity), `scorers` and
`quality` (by name: `kind`, `id`, `fingerprint`, `version`, `columns`, `left_out`, `unreadable`, and facts of the kind).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import check_regular, replace_bytes, safe_join
from figureground.shards.shard import SCORES
from figureground.verification.scorer import Kind

FILE = f"{SCORES}/verify.parquet"
METADATA_KEY = b"figureground verify"
VERSION = 1
KEY, IMAGE = "key", "image"


@dataclass
class SavedScores:
    """Contents of a scores file."""

    keys: list[str] = field(default_factory=list)
    image_hashes: list[str] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    scorers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of each scorer, by name."""
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of the further measurements: `quality`, `safety`."""
    dataset: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return the facts of scorers and measurements, by name."""
        return {**self.scorers, **self.quality}

    def align(self, keys: Sequence[str], image_hashes: Sequence[str]) -> None:
        """Put rows into the order of `keys`; rows of other keys or images are dropped, missing ones are empty."""
        rows = {pair: row for row, pair in enumerate(zip(self.keys, self.image_hashes, strict=True))}
        order = [rows.get(pair) for pair in zip(keys, image_hashes, strict=True)]
        for name, values in self.columns.items():
            self.columns[name] = [None if row is None else values[row] for row in order]
        self.keys, self.image_hashes = list(keys), list(image_hashes)


def read_saved(directory: Path) -> SavedScores:
    """Read a dataset's scores file; empty if there is none.

    Raises:
        FiguregroundError: The file can't be read, or `verify` didn't write it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = safe_join(directory, FILE)
    if not path.exists():
        return SavedScores()
    check_regular(path, root=directory)
    try:
        table = pq.read_table(path, partitioning=None)
        metadata = json.loads((table.schema.metadata or {})[METADATA_KEY])
        if metadata["version"] != VERSION:
            raise FiguregroundError(f"{path} has the version {metadata['version']}, which this release can't read.")
        kinds = {field.name: _find_kind(field.type) for field in table.schema if field.name not in (KEY, IMAGE)}
        columns = {name: table[name].to_pylist() for name in kinds}
        return SavedScores(
            table[KEY].to_pylist(), table[IMAGE].to_pylist(), columns, kinds, metadata["scorers"], metadata["quality"],
            metadata["dataset"],
        )  # fmt: skip
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(
            f"{path} can't be used: it is damaged, or `figureground verify` didn't write it ({type(error).__name__}). "
            "Rename or remove it."
        ) from None


def write_saved(directory: Path, saved: SavedScores) -> Path:
    """Write the scores file atomically; return its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: Mapping[Kind, Any] = {"float": pa.float64(), "int": pa.int32(), "text": pa.string()}
    arrays = {KEY: pa.array(saved.keys, pa.string()), IMAGE: pa.array(saved.image_hashes, pa.string())}
    arrays |= {name: pa.array(values, types[saved.kinds[name]]) for name, values in saved.columns.items()}
    metadata = {"version": VERSION, "dataset": saved.dataset, "scorers": saved.scorers, "quality": saved.quality}
    table = pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(metadata, ensure_ascii=False).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    path = directory / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, buffer.getvalue(), root=directory)
    return path


def _find_kind(type: Any) -> Kind:
    import pyarrow as pa

    if pa.types.is_floating(type):
        return "float"
    return "int" if pa.types.is_integer(type) else "text"
