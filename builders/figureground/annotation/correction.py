"""The true share of right labels, corrected for annotators' errors.

If annotators say *yes* to a share `sensitivity` of right labels and *no* to a share `specificity` of wrong ones, a
share p of right labels looks like q = p × sensitivity + (1 − p) × (1 − specificity), so p = (q + specificity − 1) /
(sensitivity + specificity − 1) (Rogan and Gladen 1978). Both rates are unknown. They are estimated from gold items,
whose answers are known, and from overlap: how often annotators contradict each other about the same image. That is a
model with two latent classes (Dawid and Skene 1979; Hui and Walter 1980), in which annotators err independently of each
other once it is given whether the label is right. Errors that annotators share, on images that are hard for everybody,
look like agreement; only gold items reveal them.

Each annotator has a sensitivity; the specificity is shared, because few labels are wrong. The estimate has the highest
likelihood; with gold items alone it is Rogan and Gladen's. The interval is that of the profile likelihood of p: for
each p the error rates are fitted anew, so their uncertainty widens the interval. It is multiplied by Jeffreys' prior,
√(p(1 − p)), as in the intervals of shares that Brown, Cai and DasGupta (2001) recommend: with few gold items and little
overlap, too many lower ends would otherwise lie above a share near 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from figureground.core.intervals import LEVEL, Interval, student_quantile

MISSING = -1
"""An image that an annotator didn't answer."""
MIN_GOLD = 10
"""Minimum number of gold answers about right labels. With fewer, and with fewer images than `MIN_OVERLAP`, nothing is
corrected."""
MIN_OVERLAP = 20
"""Images with two answers or more."""

_EDGE = 1e-9
_MIN_RATE = 0.5
_CONVERGED = 1e-6
_STEPS = 200
_GRID = 33
_FAR = 6.0
"""Loss of log-likelihood beyond which a share doesn't matter; at a level of 0.95 the interval ends at 1.92."""
_NORMAL_QUANTILE = student_quantile(LEVEL, math.inf)
"""Two-sided, of the standard normal distribution."""


@dataclass(frozen=True)
class Gold:
    """Answers to items whose labels are known to be right or wrong, by annotator."""

    right: np.ndarray
    """int64 (annotators, 2): answers *no* and *yes* to right labels."""
    wrong: np.ndarray
    """int64 (annotators, 2): answers *no* and *yes* to wrong labels."""

    @classmethod
    def empty(cls, annotators: int) -> Gold:
        return cls(np.zeros((annotators, 2), np.int64), np.zeros((annotators, 2), np.int64))


@dataclass(frozen=True)
class CorrectedShare:
    """The true share of right labels, and the error rates that it was corrected by."""

    interval: Interval
    sensitivity: np.ndarray
    """float64 (annotators,): share of right labels that each calls right."""
    specificity: float
    """Share of wrong labels that annotators call wrong."""
    posterior: np.ndarray
    """float64 (images,): probability that each image's label is right, given its answers."""


def explain_unidentified(answers: np.ndarray, gold: Gold) -> str | None:
    """Return why error rates can't be estimated, or None if they can.

    Args:
        answers: int (images, annotators): 1 for *yes*, 0 for *no*, or `MISSING`.
    """
    overlap = int(((answers != MISSING).sum(1) >= 2).sum())
    if overlap < MIN_OVERLAP and gold.right.sum() < MIN_GOLD:
        return (
            f"{overlap} images with two answers and {int(gold.right.sum())} answers to gold items with right labels; "
            f"needs {MIN_OVERLAP} or {MIN_GOLD}"
        )
    return None


def correct_share(
    answers: np.ndarray,
    gold: Gold,
    weights: np.ndarray | None = None,
    *,
    unlabelled: float = 1.0,
) -> CorrectedShare:
    """Return the true share of right labels, with the interval of its profile likelihood.

    Args:
        answers: int (images, annotators): 1 for *yes*, 0 for *no*, or `MISSING`; each image has an answer.
        gold: Answers to gold items, which are not among the images.
        weights: float (images,): share of the population that each image stands for; default: all equal.
        unlabelled: Share of the population that has no answer, 0 to 1. It narrows the part of the interval that is due
            to sampling images.
    """
    scale = _scale_weights(len(answers), weights)
    patterns, pattern_of = np.unique(answers, axis=0, return_inverse=True)
    pattern_of = pattern_of.reshape(-1)
    model = _Model.from_patterns(patterns, np.bincount(pattern_of, weights=scale), gold)
    grid, rates = np.linspace(0, 1, _GRID), None
    for _ in range(3):  # each time as far as the likelihood matters
        likelihood, rates = model.profile(grid, rates)
        near = np.flatnonzero(likelihood > likelihood.max() - _FAR)
        finer = np.linspace(grid[max(0, near[0] - 1)], grid[min(len(grid) - 1, near[-1] + 1)], _GRID)
        nearest = np.abs(grid[:, None] - finer).argmin(0)
        profiled, grid, rates = grid, finer, rates[:, nearest]
    share = _find_peak(profiled, likelihood)
    _, rates_at_peak = model.profile(np.array([share]))
    low, high = _find_interval_ends(profiled, likelihood, _NORMAL_QUANTILE)
    interval = Interval(share, min(low, share), max(high, share))
    interval = _narrow_interval(interval, float(scale.sum()), unlabelled)
    posterior = model.posterior(np.array([share]), rates_at_peak)[pattern_of, 0]
    return CorrectedShare(interval, rates_at_peak[:-1, 0], float(rates_at_peak[-1, 0]), posterior)


def _scale_weights(n: int, weights: np.ndarray | None) -> np.ndarray:
    """Return the weight of each image in the likelihood; they add up to Kish's effective number of images."""
    if weights is None:
        return np.ones(n)
    weights = np.asarray(weights, np.float64) / np.sum(weights)
    return weights / float((weights**2).sum())


def _find_peak(shares: np.ndarray, likelihood: np.ndarray) -> float:
    """Return where the likelihood is largest: the vertex of the parabola through the largest value's neighbours."""
    best = int(likelihood.argmax())
    if not 0 < best < len(shares) - 1 or not np.isfinite(likelihood[best - 1 : best + 2]).all():
        return float(shares[best])
    left, middle, right = likelihood[best - 1 : best + 2]
    bend = left - 2 * middle + right
    return float(shares[best] + (shares[1] - shares[0]) * (0.5 * (left - right) / bend if bend < 0 else 0.0))


def _find_interval_ends(shares: np.ndarray, likelihood: np.ndarray, quantile: float) -> tuple[float, float]:
    """Return where twice the log-likelihood with Jeffreys' prior falls below its maximum by the quantile squared.

    Its signed root is nearly linear in the share, so it is interpolated. An end is 0 or 1 if these have a likelihood
    within the bound without the prior, which excludes them.
    """
    with np.errstate(divide="ignore"):
        penalised = likelihood + 0.5 * (np.log(shares) + np.log1p(-shares))
    best = int(penalised.argmax())
    root = np.sqrt(np.maximum(0, 2 * (penalised[best] - penalised)))
    root = np.minimum(root, 2 * quantile)  # finite, at 0 and 1 too
    low = np.interp(quantile, np.maximum.accumulate(root[best::-1]), shares[best::-1])
    high = np.interp(quantile, np.maximum.accumulate(root[best:]), shares[best:])
    inside = 2 * (likelihood.max() - likelihood) <= quantile**2
    if shares[0] == 0 and inside[0]:
        low = 0.0
    if shares[-1] == 1 and inside[-1]:
        high = 1.0
    return float(low), float(high)


def _narrow_interval(interval: Interval, n: float, unlabelled: float) -> Interval:
    """Return an interval less the sampling variance of images that are labelled: p(1 − p)/n times their share."""
    value, low, high = interval
    total = ((high - low) / (2 * _NORMAL_QUANTILE)) ** 2
    remaining = max(0.0, 1 - value * (1 - value) / n * (1 - unlabelled) / total) if total > 0 else 0.0
    return Interval(value, value - math.sqrt(remaining) * (value - low), value + math.sqrt(remaining) * (high - value))


@dataclass(frozen=True)
class _Model:
    """Likelihood of answers and gold items, maximised over error rates for many shares at once."""

    yes: np.ndarray
    """float64 (patterns, annotators): answers *yes*."""
    no: np.ndarray
    weight: np.ndarray
    """float64 (patterns,): images with each pattern of answers."""
    right: np.ndarray
    """float64 (annotators, 2): gold items with right labels, answered *no* and *yes*."""
    wrong: np.ndarray
    """float64 (2,): gold items with wrong labels, answered *no* and *yes*."""

    @classmethod
    def from_patterns(cls, patterns: np.ndarray, weight: np.ndarray, gold: Gold) -> _Model:
        yes, no = (patterns == 1).astype(np.float64), (patterns == 0).astype(np.float64)
        return cls(yes, no, weight, gold.right.astype(np.float64), gold.wrong.sum(0).astype(np.float64))

    def profile(self, shares: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Maximise the likelihood for each share by expectation and maximisation (Dawid and Skene 1979).

        Where little is known of the wrong labels, its steps are short, so they are extrapolated (SQUAREM, Varadhan and
        Roland 2008, scheme S3), unless that lowers the likelihood.

        Args:
            shares: float (grid,).
            start: float (annotators + 1, grid): rates to begin with.

        Returns:
            float64 (grid,): log-likelihoods. float64 (annotators + 1, grid): sensitivities, and last the specificity;
            at least 0.5, so that *right* and *wrong* can't change places.
        """
        rates = np.full((self.yes.shape[1] + 1, len(shares)), 0.9) if start is None else start
        for _ in range(_STEPS):
            once, likelihood_before = self._step(shares, rates)
            twice, _ = self._step(shares, once)
            step, bend = once - rates, twice - 2 * once + rates
            length = -np.sqrt((step**2).sum(0) / np.maximum((bend**2).sum(0), 1e-300))
            extrapolated = np.clip(rates - 2 * length * step + length**2 * bend, _MIN_RATE, 1 - _EDGE)
            extrapolated_next, extrapolated_likelihood = self._step(shares, extrapolated)
            plain_next, likelihood = self._step(shares, twice)
            better = extrapolated_likelihood >= likelihood
            rates = np.where(better, extrapolated_next, plain_next)
            likelihood = np.maximum(extrapolated_likelihood, likelihood)
            if not (likelihood - likelihood_before > _CONVERGED).any():
                break
        return self._expect(shares, rates)[1], rates

    def _step(self, shares: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rates after one step, and the log-likelihood before it."""
        posterior, likelihood = self._expect(shares, rates)
        right_weight = posterior * self.weight[:, None]
        wrong_weight = self.weight[:, None] - right_weight
        sensitivity = _fit_rate(
            self.yes.T @ right_weight, self.no.T @ right_weight, self.right[:, 1:], self.right[:, :1]
        )
        hits, misses = self.no.sum(1) @ wrong_weight, self.yes.sum(1) @ wrong_weight
        specificity = _fit_rate(hits[None], misses[None], self.wrong[0], self.wrong[1])
        return np.concatenate([sensitivity, specificity]), likelihood

    def posterior(self, shares: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """float64 (patterns, grid): probability that the label of an image with each pattern is right."""
        return self._expect(shares, rates)[0]

    def _expect(self, shares: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the posterior, (patterns, grid), and the log-likelihood, (grid,)."""
        log_hit, log_miss = np.log(rates), np.log1p(-rates)
        with np.errstate(divide="ignore"):
            right = np.log(shares) + self.yes @ log_hit[:-1] + self.no @ log_miss[:-1]
            wrong = np.log1p(-shares) + np.outer(self.no.sum(1), log_hit[-1]) + np.outer(self.yes.sum(1), log_miss[-1])
        either = np.logaddexp(right, wrong)
        gold = self.right[:, 1] @ log_hit[:-1] + self.right[:, 0] @ log_miss[:-1]
        gold = gold + self.wrong[0] * log_hit[-1] + self.wrong[1] * log_miss[-1]
        return np.exp(right - either), self.weight @ either + gold


def _fit_rate(hits: np.ndarray, misses: np.ndarray, gold_hits: Any, gold_misses: Any) -> np.ndarray:
    """Return the rates that fit best, (rates, grid), from 0.5 to just below 1; 0.9 where nothing is known."""
    hits, misses = hits + gold_hits, misses + gold_misses
    total = hits + misses
    rate = np.where(total > 0, hits / np.where(total > 0, total, 1), 0.9)
    return np.clip(rate, _MIN_RATE, 1 - _EDGE)
