"""The errors of classifiers on training images: the record, and its files."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_bytes, replace_text

CSV, ARRAYS = "errors.csv", "errors.npz"
"""A human-readable table, and the full arrays."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Predictions of a classifier (or one per fold) for each training image, in split order."""

    keys: tuple[str, ...]
    """Names of the images."""
    y: np.ndarray
    """int64 (n,): the class."""
    predicted: np.ndarray
    """int64 (n,): the most likely class."""
    probability: np.ndarray
    """float64 (n, classes): probability of each class, 0 to 1, for the whole image without augmentation."""
    fold: np.ndarray
    """int64 (n,): the fold in which an image was held out; 0 if one classifier judged all."""
    models: tuple[Path, ...]
    """Folder of each fold's classifier, for `open_classifier`; empty if the classifier was given."""

    @property
    def wrong(self) -> np.ndarray:
        """bool (n,): whether the most likely class differs from y."""
        return self.predicted != self.y

    @property
    def loss(self) -> np.ndarray:
        """float64 (n,): cross-entropy of the true class, 0 or more."""
        is_true_class = np.arange(self.probability.shape[1]) == self.y[:, None]
        true_probability = self.probability[is_true_class]
        other_probability = np.where(is_true_class, 0.0, self.probability).sum(axis=1)
        # For near-certain images log p would round to 0; the other probabilities still distinguish them.
        small_loss = -np.log1p(-np.minimum(other_probability, 0.5))
        return np.where(
            true_probability > 0.5, small_loss, -np.log(np.maximum(true_probability, np.finfo(np.float64).tiny))
        )


def find_lowest_loss(errors: Errors, y: int, k: int) -> np.ndarray:
    """Return the rows, int64, of a class's k images with the lowest loss, lowest first; ties are ordered by key.

    Only correctly predicted images count, so there may be fewer than k.
    """
    rows = np.flatnonzero((errors.y == y) & ~errors.wrong)
    loss = errors.loss
    return np.array(sorted(rows.tolist(), key=lambda row: (loss[row], errors.keys[row]))[:k], np.int64)


# On disk


def save_errors(errors: Errors, classes: Sequence[str], folder: Path) -> None:
    """Write `errors.csv` and `errors.npz`. Classifiers' folders, which are in the same folder, are stored by name.

    Args:
        classes: Names of the classes, for the table.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("key", "class", "predicted", "wrong", "probability", "loss", "fold"))
    for i, loss in enumerate(errors.loss.tolist()):
        y, predicted = int(errors.y[i]), int(errors.predicted[i])
        probability = f"{errors.probability[i, y]:.6g}"
        writer.writerow((errors.keys[i], classes[y], classes[predicted], int(y != predicted), probability,
                         f"{loss:.6g}", int(errors.fold[i])))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / CSV, buffer.getvalue())
    write_arrays(folder / ARRAYS, keys=np.array(errors.keys, str), y=errors.y, predicted=errors.predicted,
                  probability=errors.probability, fold=errors.fold,
                  models=np.array([model.name for model in errors.models], str))  # fmt: skip


def read_errors(folder: Path) -> Errors:
    """Read the output of `save_errors`.

    Raises:
        FiguregroundError: The files are missing or damaged.
    """
    if not (folder / ARRAYS).is_file():
        raise FiguregroundError(
            f"{folder} holds no {ARRAYS}: the errors weren't determined, or not completely. Remove {folder} to start "
            "over."
        )
    arrays = read_arrays(folder / ARRAYS, ("keys", "y", "predicted", "probability", "fold", "models"))
    models = tuple(folder / name for name in arrays["models"].tolist())
    return Errors(tuple(arrays["keys"].tolist()), arrays["y"], arrays["predicted"], arrays["probability"],
                  arrays["fold"], models)  # fmt: skip


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays by name as one npz file, atomically."""
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    replace_bytes(path, data.getvalue())


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read arrays by name from the output of `write_arrays`.

    Raises:
        FiguregroundError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Remove {path.parent} to start over.") from None
