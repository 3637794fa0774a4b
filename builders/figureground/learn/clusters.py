"""Clusters of what a classifier gets wrong: images of a class that look alike to it (SCGS, arXiv 2412.19457)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, counted, nearest_or_all
from figureground.recipe.sample import derive_seed

if TYPE_CHECKING:
    from figureground.data.groups import GroupedImages
    from figureground.learn.errors import Errors
    from figureground.vision.classifiers import Classifier

METHODS = ("k-means", "gaussian-mixture")
LEAST_SILHOUETTE = 0.05
"""Below it, no way to divide the images is better than to leave them together."""
STARTS = 10
"""Of k-means or of the mixture, from other centres; the best is kept."""
DIMENSIONS = 16
"""To which features are reduced, at most."""
LEAST_VARIANCE = 1e-3
"""Of a component of the mixture in each dimension, so that none shrinks to one point."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Points in clusters, the largest first."""

    labels: np.ndarray
    """int64 (n,): the cluster of each point, from 0; of two of one size the one with the earlier point comes first."""
    k: int
    """How many there are."""
    silhouettes: dict[int, float]
    """By the k that was tried: the mean silhouette (Rousseeuw 1987), −1 to 1. Empty where k was given, or there were
    too few points."""
    distance: np.ndarray
    """float64 (n,): of each point to the mean of its cluster, after standardising and PCA."""

    @property
    def sizes(self) -> np.ndarray:
        """int64 (k,): points of each."""
        return np.bincount(self.labels, minlength=self.k)

    def members(self, label: int) -> np.ndarray:
        """Rows of a cluster, int64, the nearest to its centre first."""
        rows = np.flatnonzero(self.labels == label)
        return rows[np.argsort(self.distance[rows], kind="stable")]


@dataclass(frozen=True, eq=False)
class ClassErrors:
    """What is got wrong of a class."""

    y: int
    name: str
    rows: np.ndarray
    """int64 (m,): rows of the errors in the training split."""
    clusters: Clusters | None
    """Of these rows; None where there is no error."""


def cluster(
    features: np.ndarray,
    *,
    method: str = "k-means",
    k: int | None = None,
    most: int = 6,
    seed: int,
) -> Clusters:
    """Standardises features, reduces them by PCA, and finds clusters; the same on any number of threads.

    Args:
        features: float (n, d), n 1 or more.
        method: One of `METHODS`; the mixture's covariances are diagonal. A mixture may end with fewer than k.
        k: How many; None takes the one of the largest silhouette from 2 to `most`, of equal ones the smallest, with two
            points a cluster at least on average. It takes 1 where no silhouette is above `LEAST_SILHOUETTE`.
        most: The largest k that is tried.

    Raises:
        FiguregroundError: scikit-learn is missing; there is no point, fewer that differ than k, or features that are no
            finite numbers.
        RecipeError: A setting that can't be used.
    """
    if method not in METHODS:
        raise RecipeError("method", f"there is no {method!r}{nearest_or_all(method, METHODS)}")
    for name, value in (("k", 1 if k is None else k), ("most", most)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError(name, f"{value!r} is not a whole number from 1.")
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise ValueError(f"Features of shape {features.shape} are not (n, d).")
    n = len(features)
    if not n:
        raise FiguregroundError("There is no image to cluster.")
    if not np.isfinite(features).all():
        raise FiguregroundError("Features to be clustered hold NaN or infinity: the classifier is damaged.")
    distinct = len(np.unique(features, axis=0))
    if k is not None and k > distinct:
        alike = "" if distinct == n else f", of which {distinct:,} differ,"
        raise FiguregroundError(f"{counted(n, 'image')}{alike} can't make {k} clusters. Lower k, or leave it out.")
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a warning could say of too many clusters, the silhouette says
        points = _reduce(features, derive_seed(seed, "pca") % 2**32)
        if k is not None:
            return _ordered(_fit(points, method, k, seed), {}, points)
        from sklearn.metrics import silhouette_score

        fitted = {1: np.zeros(n, np.int64)}
        silhouettes: dict[int, float] = {}
        for tried in range(2, min(most, n // 2, distinct - 1) + 1):
            labels = _fit(points, method, tried, seed)
            if len(np.unique(labels)) > 1:
                fitted[tried], silhouettes[tried] = labels, float(silhouette_score(points, labels))
        best = max(silhouettes, key=silhouettes.__getitem__, default=1)
        chosen = best if silhouettes.get(best, -1.0) > LEAST_SILHOUETTE else 1
        return _ordered(fitted[chosen], silhouettes, points)


def _one_thread() -> Any:
    """Sums are split up by threads, and round as they are split."""
    try:
        import sklearn  # noqa: F401  # asked for here, once, before any work
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise FiguregroundError("Clusters need scikit-learn: pip install 'figureground[mitigate]'.") from error
    return threadpool_limits(1)


def _reduce(features: np.ndarray, seed: int) -> np.ndarray:
    """Standardised features in the directions in which they vary most, float64 (n, at most `DIMENSIONS`)."""
    from sklearn.decomposition import PCA

    std = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(std > 1e-8, std, 1.0)
    return PCA(min(DIMENSIONS, *scaled.shape), random_state=seed).fit_transform(scaled)


def _fit(points: np.ndarray, method: str, k: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    state = derive_seed(seed, method, str(k)) % 2**32
    if method == "k-means":
        return KMeans(k, n_init=STARTS, random_state=state).fit_predict(points)
    mixture = GaussianMixture(
        k, covariance_type="diag", n_init=STARTS, reg_covar=LEAST_VARIANCE, random_state=state, max_iter=300
    )
    return mixture.fit_predict(points)


def _ordered(labels: np.ndarray, silhouettes: dict[int, float], points: np.ndarray) -> Clusters:
    """Numbers clusters by their size."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    ordered = np.argsort(order)[inverse].astype(np.int64)
    centres = np.stack([points[ordered == label].mean(axis=0) for label in range(len(order))])
    return Clusters(ordered, len(order), silhouettes, np.linalg.norm(points - centres[ordered], axis=1))


def standardise_by_fold(features: np.ndarray, fold: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Make features comparable that come from one classifier per fold.

    Each fold's classifier has feature means and scales of its own, which would make clusters say which fold an image
    was in. So the mean over the images of a fold and class is subtracted, and each fold is divided by its deviation
    within classes. Means over a fold's other images wouldn't do: errors lie elsewhere than these in each network.

    The price: with few errors in a fold and class, what they have in common is subtracted too. So a kind of error that
    occurs in one fold alone isn't found.

    Args:
        features: float (n, d), each row from the classifier of its own fold. The classifiers start from the same
            weights, so that a feature means about the same in all of them.
        fold: int (n,).
        y: int (n,): the class of each image.

    Returns:
        float64 (n, d).
    """
    centred = np.array(features, np.float64)
    for part in np.unique(fold):
        mine = fold == part
        for label in np.unique(y[mine]):
            rows = mine & (y == label)
            centred[rows] -= centred[rows].mean(axis=0)
        std = np.sqrt((centred[mine] ** 2).mean(axis=0))
        centred[mine] /= np.where(std > 1e-8, std, 1.0)
    return centred


# Of a classifier


def held_out_features(
    errors: Errors, rows: np.ndarray, train: GroupedImages, open_fold: Callable[[int], Classifier], *,
    show_progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """Read features of training images, each from the classifier that was not trained on it.

    A classifier that was trained on an image represents it otherwise than one that wasn't, so clusters of one
    classifier's features would separate its own fold from the others.

    Args:
        rows: int64 (n,), of the training split, ascending.
        train: The training split.
        open_fold: Opens the classifier of a fold, on the device where it shall work. One is open at a time.

    Returns:
        float32 (n, d), in the order of `rows`; see `standardise_by_fold` before comparing them across folds.

    Raises:
        FiguregroundError, Stopped: As `features_of` does.
    """
    found: np.ndarray | None = None
    for fold in np.unique(errors.fold[rows]).tolist():
        mine = errors.fold[rows] == fold
        part = features_of(open_fold(fold), train.select(rows[mine]), show_progress=show_progress)
        if found is None:
            found = np.empty((len(rows), part.shape[1]), np.float32)
        found[mine] = part
    return np.empty((0, 1), np.float32) if found is None else found


def features_of(classifier: Classifier, images: GroupedImages, *, show_progress: bool = True) -> np.ndarray:
    """Features of images before the last linear layer, float32 (n, d), in their order.

    Args:
        classifier: On the device where it shall work.

    Raises:
        FiguregroundError: The classifier's logits aren't one linear layer's, an image can't be decoded, or a feature
            is no finite number.
        Stopped: A signal asked for it.
    """
    from figureground.learn.errors import read_images

    classifier.need_features()
    return read_images(classifier, images, show_progress=show_progress).features.numpy()


def cluster_errors(
    errors: Errors,
    features: np.ndarray,
    classes: Sequence[str],
    *,
    method: str = "k-means",
    k: int | None = None,
    most: int = 6,
    seed: int,
) -> tuple[ClassErrors, ...]:
    """Clusters what is got wrong, class by class: one entry a class, also of those of which nothing is.

    Args:
        features: float (m, d), of the images that are got wrong, in their order, as `held_out_features` reads them.
            Where there are several folds, they are standardised by fold here.
        classes: Names of the classes.
        method, k, most, seed: As `cluster` takes them; of a class with fewer errors that differ than k, as
            many clusters are made as there are of these.

    Raises:
        FiguregroundError: Nothing is got wrong, or what `cluster` raises; the class is named.
        RecipeError: As `cluster` raises it.
    """
    rows = np.flatnonzero(errors.wrong)
    if len(features) != len(rows):
        raise ValueError(f"There are {len(features)} rows of features and {len(rows)} errors.")
    if not len(rows):
        raise FiguregroundError(
            f"no errors to cluster: all {counted(len(errors.keys), 'training image')} are predicted right. Judge "
            "them by cross-fitting, or by a classifier that stops earlier (fewer epochs)."
        )

    if len(np.unique(errors.fold)) > 1:
        features = standardise_by_fold(features, errors.fold[rows], errors.y[rows])

    def by_class() -> Iterator[ClassErrors]:
        for y, name in enumerate(classes):
            own = errors.y[rows] == y
            if not own.any():
                yield ClassErrors(y, name, rows[own], None)
                continue
            # Of some class there may be few errors; those of others need not wait for that.
            most_own = None if k is None else min(k, len(np.unique(features[own], axis=0)))
            try:
                found = cluster(features[own], method=method, k=most_own, most=most, seed=seed)
            except RecipeError:
                raise
            except FiguregroundError as error:
                raise FiguregroundError(f"errors of the class {name}: {error}") from None
            yield ClassErrors(y, name, rows[own], found)

    return tuple(by_class())
