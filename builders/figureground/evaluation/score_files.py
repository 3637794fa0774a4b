"""Scores files of `evaluate --save-scores`: one of each classifier, which rules of `curate` can refer to."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_bytes
from figureground.core.local_paths import strip_local_paths
from figureground.core.locks import lock
from figureground.data.images import DatasetImages
from figureground.evaluation.running import MADE_BY
from figureground.shards.claims import STAGES_LOCK, remove_locks
from figureground.shards.index import rewrite_croissant
from figureground.shards.shard import SCORES

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions
    from figureground.vision.classifiers import Classifier

_KEY = MADE_BY.encode()
"""Metadata key of scores files that `evaluate` wrote and may overwrite."""


def choose_score_files(directory: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the path of each classifier's scores file, named so that a `curate` rule can refer to it.

    Raises:
        FiguregroundError: A scores file of that name exists that `evaluate` didn't write.
    """
    import pyarrow.parquet as pq

    paths: dict[str, Path] = {}
    for name in names:
        stem = re.sub(r"\W+", "_", name).strip("_") or "classifier"
        stem = stem if stem.isidentifier() else f"c_{stem}"
        path = directory / SCORES / f"{_make_unique_stem(stem, paths)}.parquet"
        existing = path if path.exists() else path.with_suffix(".csv")
        if existing.exists():
            try:
                is_ours = existing.suffix == ".parquet" and _KEY in (pq.read_schema(existing).metadata or {})
            except (OSError, ValueError):
                is_ours = False
            if not is_ours:
                raise FiguregroundError(
                    f"--save-scores: {SCORES}/{existing.name} wasn't written by this command. Rename or remove it."
                )
        paths[name] = path
    return paths


def write_score_files(
    directory: Path,
    paths: Mapping[str, Path],
    images: DatasetImages,
    classifiers: Mapping[str, Classifier],
    predictions: Mapping[str, Predictions],
) -> None:
    """Write each classifier's scores, and describe them in the dataset's `croissant.json`.

    Args:
        directory: The dataset.
        paths: From `choose_score_files`, by classifier.
        images: All images of the dataset, or of some of its splits.
        classifiers, predictions: By classifier; the predictions for `images`.
    """
    # Lock, because files are read and rewritten: another evaluation may be adding other splits.
    with lock(directory / STAGES_LOCK, wait=True):
        for name, path in paths.items():
            _write_scores(path, images, classifiers[name], predictions[name])
    remove_locks(directory)
    rewrite_croissant(directory)


def _make_unique_stem(stem: str, paths: Mapping[str, Path]) -> str:
    # On the file systems of macOS and Windows, `Net.parquet` and `net.parquet` are one file.
    while any(path.stem.casefold() == stem.casefold() for path in paths.values()):
        stem += "_"
    return stem


def _write_scores(path: Path, images: DatasetImages, classifier: Classifier, predictions: Predictions) -> None:
    """Write key, predicted class, probability of the label, and correctness of each judged sample.

    Earlier rows of the same classifier for other splits are kept.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = np.flatnonzero(predictions.judged)
    table = pa.table(
        {
            "key": [images.keys[row] for row in rows],
            "predicted": [classifier.labels[k] for k in predictions.predicted[rows]],
            "p": predictions.p[rows],
            "correct": predictions.correct[rows],
        }
    )
    made_by = {_KEY: json.dumps(strip_local_paths(classifier.facts)).encode()}
    if path.exists() and (earlier := pq.read_table(path)).schema.metadata[_KEY] == made_by[_KEY]:
        is_other = pc.invert(pc.is_in(earlier["key"], pa.array(images.keys)))
        table = pa.concat_tables([earlier.filter(is_other).cast(table.schema), table])
    table = table.replace_schema_metadata(made_by)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    replace_bytes(path, buffer.getvalue())
