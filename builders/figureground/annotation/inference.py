"""Shares of right labels in a dataset, from a stratified sample of answers: people alone, and people plus scorers.

What is estimated is the share that the same people would give if they looked at every image of the finite dataset, with
all their errors; `annotation.correction` estimates the true share. The sample is random within strata, such as cells.

With scorers, every image has a prediction, and people's answers correct its errors: prediction-powered inference
(Angelopoulos et al. 2023, arXiv 2301.09633), power-tuned as PPI++ (arXiv 2311.01453), whose weight λ of the predictions
minimises the variance. Here predictions are known for the whole finite population, the labelled images included, so
their mean has no error of its own, and the factor 1/(1 + n/N) of the paper's λ is 1; this is the difference estimator
of survey sampling (Särndal, Swensson and Wretman 1992, section 6.3). λ = 0 is people alone.

Intervals are Wilson's with an effective sample size, the number of independent yes-or-no answers of the same variance,
as in `core.intervals`, and become narrow as the sample nears the whole dataset. Small samples, and those without a
wrong label, get exact binomial intervals, as if from a dataset without end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from figureground.core.intervals import LEVEL, Interval, clopper_pearson, student_quantile, wilson

SMALL_SAMPLE = 30
"""Samples of fewer images get exact binomial intervals."""
MIN_LABELS = 1
"""Labels that each stratum needs; see `divide`."""
_MIN_FREEDOM = 10
"""Degrees of freedom from which the variance within strata is used."""


@dataclass(frozen=True)
class StratifiedLabels:
    """Labelled images of a population that is divided into strata, each with at least one labelled image."""

    values: np.ndarray
    """float64 (n,): share of right answers to each labelled image, 0 to 1."""
    strata: np.ndarray
    """int64 (n,): stratum of each labelled image."""
    sizes: np.ndarray
    """int64 (strata,): images of the population in each stratum."""
    predictions: np.ndarray | None = None
    """float64 (n,): predicted probability that the label is right, or None without scorers."""
    means: np.ndarray | None = None
    """float64 (strata,): mean prediction of all images in each stratum."""

    @classmethod
    def from_population(
        cls,
        values: np.ndarray,
        labelled: np.ndarray,
        strata: np.ndarray,
        predictions: np.ndarray | None = None,
    ) -> StratifiedLabels:
        """Divide the population into strata that have labels, and take what is needed of it.

        Args:
            values: float (n,): share of right answers to each labelled image.
            labelled: int (n,): positions of these images in the population.
            strata: int (N,) or (levels, N): parts of the population, the latter from coarse to fine; see `divide`.
            predictions: float (N,): prediction for each image of the population.

        Raises:
            ValueError: There is no label.
        """
        if not len(values):
            raise ValueError("A share needs at least one labelled image.")
        divided = divide(np.atleast_2d(strata), labelled)
        sizes = np.bincount(divided)
        means = None if predictions is None else np.bincount(divided, weights=predictions) / sizes
        own_predictions = None if predictions is None else np.asarray(predictions, np.float64)[labelled]
        return cls(np.asarray(values, np.float64), divided[labelled], sizes, own_predictions, means)

    @property
    def counts(self) -> np.ndarray:
        """int64 (strata,): labelled images in each stratum."""
        return np.bincount(self.strata, minlength=len(self.sizes))

    @property
    def weights(self) -> np.ndarray:
        """float64 (n,): share of the population that each labelled image stands for; they add up to 1."""
        return (self.sizes / self.sizes.sum() / self.counts)[self.strata]

    @property
    def effective_size(self) -> float:
        """Number of answers of equal weight with the same variance, if all values vary equally (Kish 1965)."""
        return 1 / float((self.weights**2).sum())


@dataclass(frozen=True)
class Share:
    """A share of right labels with its interval."""

    interval: Interval
    method: str
    """`wilson`, `exact`, or `known` if all images are labelled."""
    weight: float = 0.0
    """λ, the weight of the scorers' predictions, 0 to 1."""


def share_of_people(sample: StratifiedLabels) -> Share:
    """Return the share of right labels from people alone: the stratified mean of their answers."""
    value = _clip_rounding(float(sample.weights @ sample.values))
    if len(sample.values) < SMALL_SAMPLE or not 0 < value < 1:
        return _exact_share(sample, value)
    return _estimate_share(sample, sample.values, value, 0.0)


def share_with_scorers(sample: StratifiedLabels) -> Share:
    """Return the share of right labels from people and scorers, by power-tuned prediction-powered inference.

    With fewer than `SMALL_SAMPLE` labels, or without a wrong or a right one, λ is 0 and the result that of people
    alone: the scorers' errors can't be estimated then.

    Raises:
        ValueError: The sample has no predictions.
    """
    if sample.predictions is None or sample.means is None:
        raise ValueError("Prediction-powered inference needs predictions.")
    people_value = _clip_rounding(float(sample.weights @ sample.values))
    if len(sample.values) < SMALL_SAMPLE or not 0 < people_value < 1:
        return _exact_share(sample, people_value)
    weight = tune(sample)
    residuals = sample.values - weight * sample.predictions
    shares = sample.sizes / sample.sizes.sum()
    value = weight * float(shares @ sample.means) + float(sample.weights @ residuals)
    if not 0 < value < 1:  # a prediction outside what answers can be
        return share_of_people(sample)
    return _estimate_share(sample, residuals, value, weight)


def tune(sample: StratifiedLabels) -> float:
    """Return the weight λ of the predictions, 0 to 1, that minimises the variance of the share (PPI++, section 6)."""
    assert sample.predictions is not None
    shared = _covariance(sample, sample.values, sample.predictions)
    own = _covariance(sample, sample.predictions, sample.predictions)
    return min(1.0, max(0.0, shared / own)) if own > 0 else 0.0


def _estimate_share(sample: StratifiedLabels, values: np.ndarray, value: float, weight: float) -> Share:
    variance = _covariance(sample, values, values)
    freedom = _count_freedom(sample) - (weight > 0)
    if (sample.counts == sample.sizes).all():
        return Share(Interval(value, value, value), "known")
    if variance <= 0:  # all answers within each stratum are equal
        return _exact_share(sample, value)
    n = value * (1 - value) / variance
    n *= (student_quantile(LEVEL, math.inf) / student_quantile(LEVEL, freedom)) ** 2
    return Share(wilson(value, n), "wilson", weight)


def _exact_share(sample: StratifiedLabels, value: float) -> Share:
    n = sample.effective_size
    return Share(clopper_pearson(value * n, n), "exact")


def _count_freedom(sample: StratifiedLabels) -> int:
    """Return the degrees of freedom of the variance within strata; of that of all labels, if strata have too few."""
    within = int((sample.counts - 1).sum())
    return within if within >= _MIN_FREEDOM else len(sample.values) - 1


def _covariance(sample: StratifiedLabels, first: np.ndarray, second: np.ndarray) -> float:
    """Return the covariance of two stratified means.

    Strata with one label get the mean variance of the others. If there are hardly any others, all strata get the
    variance of all labels, which is larger: it includes that between strata.
    """
    counts, sizes = sample.counts, sample.sizes
    shares, unsampled = sizes / sizes.sum(), 1 - counts / sizes
    freedom = int((counts - 1).sum())
    if freedom < _MIN_FREEDOM:
        products = (first - sample.weights @ first) * (second - sample.weights @ second)
        n = len(first)
        return float(sample.weights @ products) * n / (n - 1) * float((shares**2 / counts) @ unsampled)
    means = [np.bincount(sample.strata, weights=x, minlength=len(sizes)) / counts for x in (first, second)]
    products = (first - means[0][sample.strata]) * (second - means[1][sample.strata])
    within = np.bincount(sample.strata, weights=products, minlength=len(sizes))
    variances = np.where(counts > 1, within / np.maximum(counts - 1, 1), within.sum() / freedom)
    return float((shares**2 * unsampled / counts) @ variances)


def divide(levels: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Return the stratum of each image: the finest division in which each stratum has labels.

    A stratum is divided at the next level only if each of its parts has `MIN_LABELS` labels. Otherwise it stays whole,
    and all its labels count alike.

    Args:
        levels: int (levels, N): part of each image at each level, from coarse to fine; each level divides the parts of
            the one before.
        labelled: int (n,): positions of the labelled images.
    """
    strata = np.zeros(levels.shape[1], np.int64)
    final = np.zeros(1, bool)  # strata that stay as they are
    for level in levels:
        _, part = np.unique(np.stack([strata, level]), axis=1, return_inverse=True)
        parts = np.bincount(part[labelled], minlength=part.max() + 1)
        too_few = np.zeros(len(final), bool)
        np.logical_or.at(too_few, strata, parts[part] < MIN_LABELS)
        unchanged = (final | too_few)[strata]
        _, divided = np.unique(np.where(unchanged, strata, len(final) + part), return_inverse=True)
        next_final = np.zeros(divided.max() + 1, bool)
        next_final[divided] = unchanged
        strata, final = divided, next_final
    return strata


def _clip_rounding(value: float) -> float:
    """Return a share without the rounding of weights that add up to 1."""
    return 0.0 if value < 1e-12 else 1.0 if value > 1 - 1e-12 else value
