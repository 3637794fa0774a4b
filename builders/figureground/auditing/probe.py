"""Linear probes, cross-validated by object, against chance.

A probe is a ridge regression on the one-hot labels (Hoerl and Kennard 1970), in closed form. Its predictions are linear
in the labels, so that a permutation test costs one matrix product a permutation.

Chance is what the same probe reaches when the objects exchange their labels. Images of one object stay together, both
in the folds and in the permutations, because they aren't independent. Each class is tested by itself; the p-values are
those of the single-step max-T procedure (Westfall and Young 1993), which keeps the chance of any false claim among all
classes at the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from figureground.core import intervals
from figureground.core.intervals import Interval
from figureground.evaluation.metrics import roc_auc
from figureground.recipe.sample import derive_seed

FOLDS = 5
MIN_OBJECTS = 5
"""Minimum number of objects of a class, one a fold; classes with fewer are left out."""
MIN_IMAGES = 20
"""Minimum number of images in all."""
MAX_IMAGES, MAX_OF_ANY = 4_000, 20_000
"""Maximum number of images: 4,000, or 20 a class up to 20,000; of more, a random part is used."""
MAX_COMPONENTS = 64
"""Maximum number of principal components on which a probe is fitted."""
PERMUTATIONS = 999

_MAX_LABELS_AT_ONCE = 2**22
"""Number of permuted labels (images × classes × permutations) that are computed at once; 32 MiB."""


class TooFew(Exception):
    """Raised instead of a number when there are too few images; the message says what is lacking."""


@dataclass(frozen=True)
class Probe:
    """Result of a probe."""

    rows: np.ndarray
    """int64 (n,): positions of the images used."""
    classes: np.ndarray
    """int64 (k,): labels of the classes used, ascending."""
    class_index: np.ndarray
    """int64 (n,): each image's class, as a position in `classes`."""
    scores: np.ndarray
    """float64 (n, k): cross-validated score of each class; higher is more likely."""
    accuracy: Interval
    """Cross-validated balanced accuracy: the mean of the classes' shares of right predictions."""
    chance: float
    """Mean balanced accuracy over the permutations."""
    auc: np.ndarray
    """float64 (k,): area under the ROC curve of each class against all others."""
    class_p: np.ndarray
    """float64 (k,): p-value of each class, adjusted for the number of classes."""
    left_out: tuple[int, ...]
    """Labels of classes with too few objects."""

    @property
    def p(self) -> float:
        """P-value of the hypothesis that no class can be predicted."""
        return float(self.class_p.min())


def probe(
    x: np.ndarray,
    label: np.ndarray,
    objects: np.ndarray,
    *,
    nuisance: np.ndarray | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Probe:
    """Predict labels from features, and compare with chance.

    Args:
        x: Features, float (n, d), finite.
        label: int (n,), 0 or more; images with a negative label are left out.
        objects: int (n,): images with equal numbers show one object.
        nuisance: Another label, int (n,). What it explains of features and labels is subtracted from both, so that only
            what is predictable beyond it counts. Otherwise, labels that depend on each other would predict each other.
        permutations: Number of permutations; the smallest p-value is 1 / (permutations + 1).
        seed: Of folds and permutations.

    Raises:
        TooFew: There are too few images, objects or classes, or the nuisance determines the label.
        ValueError: A feature isn't finite.
    """
    if not np.isfinite(x).all():
        raise ValueError("Features must be finite.")
    rng = np.random.default_rng(derive_seed(seed, "audit", "probe"))
    rows, left_out = choose_rows(label, objects, rng)
    classes, class_index = np.unique(label[rows], return_inverse=True)
    _, objects = np.unique(objects[rows], return_inverse=True)
    x = project_components(x[rows])
    groups = None if nuisance is None else np.unique(nuisance[rows], return_inverse=True)[1]
    if groups is not None:
        x = _subtract_group_means(x, groups)
    if np.square(_make_targets(class_index, len(classes), groups)).sum() < 1e-6 * len(class_index):
        raise TooFew("one label determines the other, so nothing beyond it can be measured")
    solvers = _fit_solvers(x, assign_folds(objects, class_index, rng))
    scores = _predict(solvers, x, _make_targets(class_index, len(classes), groups))
    observed = _measure_separation(scores, _make_targets(class_index, len(classes), groups))
    correct = scores.argmax(axis=1) == class_index
    accuracy = intervals.mean(
        [correct[class_index == k] for k in range(len(classes))],
        [objects[class_index == k] for k in range(len(classes))],
    )
    null, chance = _permute_labels(solvers, x, class_index, objects, groups, len(classes), permutations, rng)
    mean, sd = null.mean(axis=0), np.maximum(null.std(axis=0, ddof=1), 1e-12)
    highest = ((null - mean) / sd).max(axis=1)
    z = (observed - mean) / sd
    class_p = (1 + (highest[:, None] >= z).sum(axis=0)) / (permutations + 1)
    auc = np.array([roc_auc(scores[class_index == k, k], scores[class_index != k, k]) for k in range(len(classes))])
    return Probe(rows, classes, class_index, scores, accuracy, chance, auc, class_p, left_out)


def choose_rows(label: np.ndarray, objects: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the rows that a probe uses, ascending, and the labels of the classes that have too few objects.

    Raises:
        TooFew: Fewer than two classes have enough objects, or there are too few images.
    """
    usable, left_out = [], []
    for k in np.unique(label[label >= 0]).tolist():
        class_rows = np.flatnonzero(label == k)
        if len(np.unique(objects[class_rows])) >= MIN_OBJECTS:
            usable.append(class_rows)
        else:
            left_out.append(k)
    if len(usable) < 2:
        raise TooFew(f"fewer than two classes have at least {MIN_OBJECTS} different objects")
    rows = np.concatenate(usable)
    if len(rows) < MIN_IMAGES:
        raise TooFew(f"{len(rows)} images are fewer than the {MIN_IMAGES} needed")
    if len(rows) > (limit := max_images(len(usable))):
        rows = rng.choice(rows, limit, replace=False)
    return np.sort(rows), tuple(left_out)


def max_images(classes: int) -> int:
    """Return the number of images that are used at most, for a number of classes."""
    return max(MAX_IMAGES, min(MAX_OF_ANY, 20 * classes))


def project_components(x: np.ndarray, most: int = MAX_COMPONENTS) -> np.ndarray:
    """Return standardised features, projected on their first principal components, float64 (n, at most `most`).

    Constant features are left out. The projection sees no label, so it may be fitted to all images.
    """
    x = np.asarray(x, np.float64)
    sd = x.std(axis=0)
    varies = sd > 1e-9 * np.maximum(1, np.abs(x).max(axis=0))
    x = (x[:, varies] - x[:, varies].mean(axis=0)) / sd[varies]
    if x.shape[1] <= most:
        return x
    values, vectors = np.linalg.eigh(x.T @ x if x.shape[1] <= len(x) else x @ x.T)
    if x.shape[1] <= len(x):
        return np.asarray(x @ vectors[:, ::-1][:, :most])
    return np.asarray(vectors[:, ::-1][:, :most] * np.sqrt(np.maximum(values[::-1][:most], 0)))


def assign_folds(objects: np.ndarray, class_index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each image's fold, int (n,), below `FOLDS`: the same for an object's images, with classes spread evenly.

    Args:
        objects: int (n,), 0 to the number of objects − 1.
        class_index: int (n,): each image's class.
    """
    _, first = np.unique(objects, return_index=True)
    order = np.lexsort((rng.random(len(first)), class_index[first]))
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[objects]


def ridge(x: np.ndarray) -> np.ndarray:
    """Return the matrix that maps the labels of images to weights: (X'X + λI)⁻¹X', float64 (d, n).

    λ is the mean eigenvalue of X'X, so that directions with less than average variance count little.
    """
    gram = x.T @ x
    weight = max(float(np.trace(gram)) / max(1, len(gram)), 1e-12)
    return np.asarray(np.linalg.solve(gram + weight * np.eye(len(gram)), x.T))


def _subtract_group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Subtract the mean of each group, (n, d)."""
    counts = np.bincount(groups)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, groups, values)
    return values - (sums / counts[:, None])[groups]


def _make_targets(class_index: np.ndarray, k: int, groups: np.ndarray | None) -> np.ndarray:
    """Return centred one-hot labels, float64 (n, k), with equal weight per class."""
    one_hot = np.zeros((len(class_index), k))
    one_hot[np.arange(len(class_index)), class_index] = 1
    centred = one_hot - one_hot.mean(axis=0) if groups is None else _subtract_group_means(one_hot, groups)
    return centred / np.sqrt(np.maximum(one_hot.mean(axis=0), 1e-12))


Solvers = list[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""For each fold: its rows, all other rows, and the matrix of `ridge` for these."""


def _fit_solvers(x: np.ndarray, fold: np.ndarray) -> Solvers:
    solvers = []
    for number in np.unique(fold):
        test, train = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        solvers.append((test, train, ridge(x[train])))
    return solvers


def _predict(solvers: Solvers, x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return cross-validated scores for any number of columns of targets, (n, columns)."""
    scores = np.empty_like(targets)
    for test, train, solver in solvers:
        scores[test] = x[test] @ (solver @ targets[train])
    return scores


def _measure_separation(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the regression slope of each column's scores on its targets: 0 at chance, up to 1."""
    return np.asarray((scores * targets).sum(axis=0) / np.maximum(np.square(targets).sum(axis=0), 1e-12))


def _permute_labels(
    solvers: Solvers, x: np.ndarray, class_index: np.ndarray, objects: np.ndarray, groups: np.ndarray | None, k: int,
    permutations: int, rng: np.random.Generator,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Return the separations under permuted labels, float64 (permutations, k), and the mean balanced accuracy."""
    separations, accuracies = np.empty((permutations, k)), np.empty(permutations)
    batch = max(1, _MAX_LABELS_AT_ONCE // (len(class_index) * k))
    shuffle = Shuffle(objects)
    for start in range(0, permutations, batch):
        stop = min(start + batch, permutations)
        labels = [class_index[shuffle(rng)] for _ in range(start, stop)]
        targets = np.concatenate([_make_targets(permuted, k, groups) for permuted in labels], axis=1)
        scores = _predict(solvers, x, targets)
        separations[start:stop] = _measure_separation(scores, targets).reshape(-1, k)
        for i, permuted in enumerate(labels):
            hits = scores[:, i * k : (i + 1) * k].argmax(axis=1) == permuted
            counts = np.bincount(permuted, minlength=k)
            accuracies[start + i] = (np.bincount(permuted, hits, minlength=k)[counts > 0] / counts[counts > 0]).mean()
    return separations, float(accuracies.mean())


class Shuffle:
    """Random exchanges of labels between objects: all labels of an object go to one other object, in random order.

    If that object has more images than labels arrive, the labels repeat; of too many, some are dropped.

    Args:
        objects: int (n,), 0 to the number of objects − 1.
    """

    def __init__(self, objects: np.ndarray):
        self.objects = objects
        self._sizes = np.bincount(objects)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._slots = np.argsort(objects, kind="stable")
        self._slot_object = objects[self._slots]
        self._rank = np.arange(len(objects)) - self._starts[self._slot_object]

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """Return the row whose label each row receives, int64 (n,)."""
        if len(self._sizes) == len(self.objects):
            return rng.permutation(len(self.objects))
        order = np.lexsort((rng.random(len(self.objects)), self.objects))
        donor = rng.permutation(len(self._sizes))[self._slot_object]
        source = np.empty(len(self.objects), np.int64)
        source[self._slots] = order[self._starts[donor] + self._rank % self._sizes[donor]]
        return source
