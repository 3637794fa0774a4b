"""Scores files of `evaluate --save-scores`: one of each classifier, which rules of `curate` can refer to."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    from figureground.evaluation.counterparts import Counterparts
    from figureground.evaluation.predict import Predictions
    from figureground.vision.classifiers import Classifier

_KEY = MADE_BY.encode()
"""Metadata key of scores files that `evaluate` wrote and may overwrite."""


@dataclass(frozen=True)
class ScoreFile:
    """A classifier's scores file."""

    path: Path
    identity: bytes
    """JSON of the classifier and of its classes for each label, which is stored in the file."""


def choose_score_files(
    directory: Path, classifiers: Mapping[str, Classifier], counterparts: Sequence[Counterparts]
) -> dict[str, ScoreFile]:
    """Return each classifier's scores file, named so that a `curate` rule can refer to it.

    Args:
        directory: The dataset.
        classifiers: By name.
        counterparts: The labels' counterparts among each classifier's classes, in the same order.

    Raises:
        FiguregroundError: A scores file of that name exists that `evaluate` didn't write, or wrote for another
            classifier or with another table of labels.
    """
    import pyarrow.parquet as pq

    files: dict[str, ScoreFile] = {}
    for (name, classifier), mapping in zip(classifiers.items(), counterparts, strict=True):
        stem = re.sub(r"\W+", "_", name).strip("_") or "classifier"
        stem = stem if stem.isidentifier() else f"c_{stem}"
        path = directory / SCORES / f"{_make_unique_stem(stem, files)}.parquet"
        identity = _identify(classifier, mapping)
        existing = path if path.exists() else path.with_suffix(".csv")
        if existing.exists():
            try:
                metadata = pq.read_schema(existing).metadata or {} if existing.suffix == ".parquet" else {}
            except (OSError, ValueError):
                metadata = {}
            if _KEY not in metadata:
                raise FiguregroundError(
                    f"--save-scores: {SCORES}/{existing.name} wasn't written by this command. Rename or remove it."
                )
            if metadata[_KEY] != identity:
                raise FiguregroundError(
                    f"--save-scores: {SCORES}/{existing.name} has the scores of another classifier called {name!r}, or "
                    "of this one with other options, such as --labels. Rename or remove it."
                )
        files[name] = ScoreFile(path, identity)
    return files


def _identify(classifier: Classifier, counterparts: Counterparts) -> bytes:
    """Return JSON of what makes scores comparable: the classifier, and its classes for each label."""
    classes = {
        label: [classifier.labels[k] for k in group]
        for label, group in zip(counterparts.labels, counterparts.groups, strict=True)
    }
    return json.dumps({"facts": strip_local_paths(classifier.facts), "classes": classes}).encode()


def write_score_files(
    directory: Path,
    files: Mapping[str, ScoreFile],
    images: DatasetImages,
    classifiers: Mapping[str, Classifier],
    predictions: Mapping[str, Predictions],
) -> None:
    """Write each classifier's scores, and describe them in the dataset's `croissant.json`.

    Args:
        directory: The dataset.
        files: From `choose_score_files`, by classifier.
        images: All images of the dataset, or of some of its splits.
        classifiers, predictions: By classifier; the predictions for `images`.
    """
    # Lock, because files are read and rewritten: another evaluation may be adding other splits.
    with lock(directory / STAGES_LOCK, wait=True):
        for name, file in files.items():
            _write_scores(file, images, classifiers[name], predictions[name])
    remove_locks(directory)
    rewrite_croissant(directory)


def _make_unique_stem(stem: str, files: Mapping[str, ScoreFile]) -> str:
    # On the file systems of macOS and Windows, `Net.parquet` and `net.parquet` are one file.
    while any(file.path.stem.casefold() == stem.casefold() for file in files.values()):
        stem += "_"
    return stem


def _write_scores(file: ScoreFile, images: DatasetImages, classifier: Classifier, predictions: Predictions) -> None:
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
    if file.path.exists() and (earlier := pq.read_table(file.path)).schema.metadata[_KEY] == file.identity:
        is_other = pc.invert(pc.is_in(earlier["key"], pa.array(images.keys)))
        table = pa.concat_tables([earlier.filter(is_other).cast(table.schema), table])
    table = table.replace_schema_metadata({_KEY: file.identity})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    replace_bytes(file.path, buffer.getvalue())
