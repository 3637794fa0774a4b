"""Clusters of a classifier's errors: images of a class with similar features (SCGS, arXiv 2412.19457)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, plural, suggest_or_list
from figureground.core.extras import explain_missing
from figureground.recipe.sample import derive_seed

if TYPE_CHECKING:
    from figureground.data.groups import GroupedImages
    from figureground.learn.errors import Errors
    from figureground.vision.classifiers import Classifier

METHODS = ("k-means", "gaussian-mixture")
MIN_SILHOUETTE = 0.05
"""Minimum silhouette for dividing the images; below it they stay in one cluster."""
STARTS = 10
"""Number of random starts of k-means or of the mixture; the best is kept."""
DIMENSIONS = 16
"""Maximum number of dimensions to which features are reduced."""
MIN_VARIANCE = 1e-3
"""Minimum variance of a mixture component in each dimension, so that none collapses to a point."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Points assigned to clusters, the largest cluster first."""

    labels: np.ndarray
    """int64 (n,): the cluster of each point, from 0. Clusters of equal size are ordered by their earliest point."""
    k: int
    """Number of clusters."""
    silhouettes: dict[int, float]
    """Mean silhouette (Rousseeuw 1987), −1 to 1, for each k tried. Empty if k was given or there were too few
    points."""
    distance: np.ndarray
    """float64 (n,): distance of each point to its cluster's mean, after standardising and PCA."""

    @property
    def sizes(self) -> np.ndarray:
        """Number of points per cluster, int64 (k,)."""
        return np.bincount(self.labels, minlength=self.k)

    def members(self, label: int) -> np.ndarray:
        """Return a cluster's rows, int64, nearest to its centre first."""
        rows = np.flatnonzero(self.labels == label)
        return rows[np.argsort(self.distance[rows], kind="stable")]


@dataclass(frozen=True, eq=False)
class ClassErrors:
    """Errors on the images of a class."""

    y: int
    name: str
    rows: np.ndarray
    """int64 (m,): rows of the errors in the training split."""
    clusters: Clusters | None
    """Clusters of these rows; None if there are no errors."""


def cluster(
    features: np.ndarray,
    *,
    method: str = "k-means",
    k: int | None = None,
    most: int = 6,
    seed: int,
) -> Clusters:
    """Standardise features, reduce them by PCA, and cluster them; the result doesn't depend on the number of threads.

    Args:
        features: float (n, d), n 1 or more.
        method: One of `METHODS`; the mixture's covariances are diagonal. A mixture may end with fewer than k clusters.
        k: Number of clusters. None takes the k from 2 to `most` with the largest silhouette (ties: the smallest k),
            with at least two points per cluster on average. It takes 1 if no silhouette exceeds `MIN_SILHOUETTE`.
        most: The largest k to try.

    Raises:
        FiguregroundError: scikit-learn is missing; there are no points, or fewer distinct points than k; or features
            aren't finite.
        RecipeError: A setting is invalid.
    """
    if method not in METHODS:
        raise RecipeError("method", f"there is no {method!r}{suggest_or_list(method, METHODS)}")
    for name, value in (("k", 1 if k is None else k), ("most", most)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError(name, f"{value!r} is not a whole number from 1.")
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise ValueError(f"Features of shape {features.shape} are not (n, d).")
    n = len(features)
    if not n:
        raise FiguregroundError("No images to cluster.")
    if not np.isfinite(features).all():
        raise FiguregroundError("Features to cluster hold NaN or infinity: the classifier is damaged.")
    distinct = len(np.unique(features, axis=0))
    if k is not None and k > distinct:
        distinct_note = "" if distinct == n else f", of which {distinct:,} differ,"
        raise FiguregroundError(
            f"{plural(n, 'image')}{distinct_note} can't make {k} clusters. Lower k, or leave it out."
        )
    with _limit_threads(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the silhouette already accounts for too many clusters
        points = _reduce(features, derive_seed(seed, "pca") % 2**32)
        if k is not None:
            return _sort_by_size(_fit(points, method, k, seed), {}, points)
        from sklearn.metrics import silhouette_score

        labels_by_k = {1: np.zeros(n, np.int64)}
        silhouettes: dict[int, float] = {}
        for candidate in range(2, min(most, n // 2, distinct - 1) + 1):
            labels = _fit(points, method, candidate, seed)
            if len(np.unique(labels)) > 1:
                labels_by_k[candidate], silhouettes[candidate] = labels, float(silhouette_score(points, labels))
        best_k = max(silhouettes, key=silhouettes.__getitem__, default=1)
        chosen_k = best_k if silhouettes.get(best_k, -1.0) > MIN_SILHOUETTE else 1
        return _sort_by_size(labels_by_k[chosen_k], silhouettes, points)


def _limit_threads() -> Any:
    """Limit computation to one thread, because the rounding of sums depends on how threads split them."""
    try:
        import sklearn  # noqa: F401  # checked once here, before any work
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise explain_missing("sklearn", "clustering", error) from error
    return threadpool_limits(1)


def _reduce(features: np.ndarray, seed: int) -> np.ndarray:
    """Return standardised features projected onto their principal components, float64 (n, at most `DIMENSIONS`)."""
    from sklearn.decomposition import PCA

    std = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(std > 1e-8, std, 1.0)
    return PCA(min(DIMENSIONS, *scaled.shape), random_state=seed).fit_transform(scaled)


def _fit(points: np.ndarray, method: str, k: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    random_state = derive_seed(seed, method, str(k)) % 2**32
    if method == "k-means":
        return KMeans(k, n_init=STARTS, random_state=random_state).fit_predict(points)
    mixture = GaussianMixture(
        k, covariance_type="diag", n_init=STARTS, reg_covar=MIN_VARIANCE, random_state=random_state, max_iter=300
    )
    return mixture.fit_predict(points)


def _sort_by_size(labels: np.ndarray, silhouettes: dict[int, float], points: np.ndarray) -> Clusters:
    """Number clusters by descending size."""
    _, first_rows, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first_rows, -counts))
    sorted_labels = np.argsort(order)[inverse].astype(np.int64)
    centres = np.stack([points[sorted_labels == label].mean(axis=0) for label in range(len(order))])
    return Clusters(sorted_labels, len(order), silhouettes, np.linalg.norm(points - centres[sorted_labels], axis=1))


def standardise_by_fold(features: np.ndarray, fold: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Make features from one classifier per fold comparable.

    Each fold's classifier has its own feature means and scales, so clusters would otherwise reflect the folds. So the
    mean over the images of a fold and class is subtracted, and each fold is divided by its within-class deviation.
    Means over a fold's other images wouldn't work, because errors have other features than correct predictions.

    The drawback: with few errors in a fold and class, their common features are subtracted too. So a kind of error
    that occurs in only one fold isn't found.

    Args:
        features: float (n, d), each row from the classifier of its own fold. The classifiers start from the same
            weights, so a feature has about the same meaning in all of them.
        fold: int (n,).
        y: int (n,): the class of each image.

    Returns:
        float64 (n, d).
    """
    centred = np.array(features, np.float64)
    for number in np.unique(fold):
        in_fold = fold == number
        for label in np.unique(y[in_fold]):
            rows = in_fold & (y == label)
            centred[rows] -= centred[rows].mean(axis=0)
        std = np.sqrt((centred[in_fold] ** 2).mean(axis=0))
        centred[in_fold] /= np.where(std > 1e-8, std, 1.0)
    return centred


# Features and errors of a classifier


def compute_held_out_features(
    errors: Errors, rows: np.ndarray, train: GroupedImages, open_fold: Callable[[int], Classifier], *,
    show_progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """Compute features of training images, each with the classifier that was not trained on it.

    A classifier represents the images that it was trained on differently from others. So clusters of one classifier's
    features would separate its own fold from the others.

    Args:
        rows: int64 (n,), ascending rows of the training split.
        train: The training split.
        open_fold: Opens a fold's classifier on the device to use. One is open at a time.

    Returns:
        float32 (n, d), in the order of `rows`; see `standardise_by_fold` before comparing them across folds.

    Raises:
        FiguregroundError, Stopped: As in `compute_features`.
    """
    combined: np.ndarray | None = None
    for fold in np.unique(errors.fold[rows]).tolist():
        in_fold = errors.fold[rows] == fold
        fold_features = compute_features(open_fold(fold), train.select(rows[in_fold]), show_progress=show_progress)
        if combined is None:
            combined = np.empty((len(rows), fold_features.shape[1]), np.float32)
        combined[in_fold] = fold_features
    return np.empty((0, 1), np.float32) if combined is None else combined


def compute_features(classifier: Classifier, images: GroupedImages, *, show_progress: bool = True) -> np.ndarray:
    """Return features of images before the last linear layer, float32 (n, d), in image order.

    Args:
        classifier: On the device to use.

    Raises:
        FiguregroundError: The classifier's logits aren't the output of one linear layer, an image can't be decoded,
            or a feature isn't finite.
        Stopped: A signal requested a stop.
    """
    from figureground.learn.classifier_errors import run_classifier

    classifier.require_features()
    return run_classifier(classifier, images, show_progress=show_progress).features.numpy()


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
    """Cluster the errors of each class; one entry per class, including classes without errors.

    Args:
        features: float (m, d), of the misclassified images in order, as `compute_held_out_features` returns them. With
            several folds, they are standardised by fold here.
        classes: Names of the classes.
        method, k, most, seed: As for `cluster`. A class with fewer than k distinct errors gets one cluster per
            distinct error.

    Raises:
        FiguregroundError: There are no errors, or as in `cluster`, naming the class.
        RecipeError: As in `cluster`.
    """
    rows = np.flatnonzero(errors.wrong)
    if len(features) != len(rows):
        raise ValueError(f"There are {len(features)} rows of features and {len(rows)} errors.")
    if not len(rows):
        raise FiguregroundError(
            f"no errors to cluster: all {plural(len(errors.keys), 'training image')} are predicted correctly. Use "
            "cross-fitting, or a classifier that stops earlier (fewer epochs)."
        )

    if len(np.unique(errors.fold)) > 1:
        features = standardise_by_fold(features, errors.fold[rows], errors.y[rows])

    def cluster_classes() -> Iterator[ClassErrors]:
        for y, name in enumerate(classes):
            in_class = errors.y[rows] == y
            if not in_class.any():
                yield ClassErrors(y, name, rows[in_class], None)
                continue
            # One class with few errors must not stop the clustering of others.
            class_k = None if k is None else min(k, len(np.unique(features[in_class], axis=0)))
            try:
                clusters = cluster(features[in_class], method=method, k=class_k, most=most, seed=seed)
            except RecipeError:
                raise
            except FiguregroundError as error:
                raise FiguregroundError(f"errors of the class {name}: {error}") from None
            yield ClassErrors(y, name, rows[in_class], clusters)

    return tuple(cluster_classes())
