"""Coverage of the intervals for shares of right labels, on simulated answers: `python benchmarks/trust.py`.

Everything here is simulated: a dataset whose truth is known, scorers that guess it, and annotators who err. No real
dataset was annotated.

- Coverage: how often the 95 % intervals contain their targets, over many annotation campaigns. The first target is the
  share of labels that the annotators would call right if they looked at every image. The second is the true share of
  right labels, with intervals corrected by error rates estimated from overlap and gold items. The coverage of the
  uncorrected interval is reported for comparison.
- Width of the intervals with and without scorers.
- Decrease of the share of wrong labels if images below a score are dropped.

A campaign draws 400 of 3,000 images in 20 cells, in proportion to the cells' sizes. A fifth of them is shown to all
three annotators and each other image to one of them. Each annotator also answers 40 gold items with right labels and 20
with wrong ones. Each annotator has two error rates, for right and for wrong labels, which deviate from the nominal rate
by at most half of it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from results import Row, make_parser, report

from figureground.annotation.correction import MISSING, Gold, correct_share
from figureground.annotation.inference import StratifiedLabels, share_of_people, share_with_scorers
from figureground.core.intervals import Interval, wilson
from figureground.core.progress import Progress

ERRORS = (0.02, 0.05, 0.1)
TARGET = (93.0, 97.0)
"""Target coverage of nominal 95 % intervals, in percent."""
THRESHOLDS = (0.5, 0.9)


@dataclass(frozen=True)
class Settings:
    """Settings of a simulated dataset, and of an annotation campaign on it."""

    campaigns: int = 2000
    stress: int = 500
    """Campaigns with errors that annotators share."""
    images: int = 3000
    foregrounds: int = 5
    backgrounds: int = 4
    right: float = 0.95
    """Share of right labels of a typical cell."""
    spread: float = 0.8
    """Standard deviation of the logits of cells' shares."""
    labels: int = 400
    annotators: int = 3
    overlap: float = 0.2
    gold_right: int = 40
    gold_wrong: int = 20
    uneven: float = 0.5
    """An annotator's error rate deviates from the nominal rate by at most this share of it."""
    seed: int = 0


@dataclass(frozen=True)
class World:
    """A dataset whose truth is known."""

    cells: np.ndarray
    """int64 (images,)"""
    right: np.ndarray
    """bool (images,): whether the label is right."""
    scores: np.ndarray
    """float64 (images,): a scorer's probability that the label is right."""

    @classmethod
    def draw(cls, settings: Settings, rng: np.random.Generator) -> World:
        number = settings.foregrounds * settings.backgrounds
        cells = np.sort(rng.integers(0, number, settings.images))
        logits = np.log(settings.right / (1 - settings.right)) + rng.normal(0, settings.spread, number)
        right = rng.random(settings.images) < 1 / (1 + np.exp(-logits[cells]))
        guess = np.where(right, 2.7, -1.35) + rng.normal(0, 1.2, settings.images)
        return cls(cells, right, 1 / (1 + np.exp(-guess)))


@dataclass(frozen=True)
class Campaign:
    """Answers of simulated annotators."""

    sample: StratifiedLabels
    answers: np.ndarray
    """int8 (labels, annotators)"""
    gold: Gold
    called_right: float
    """Share of all labels that the annotators would call right."""

    @classmethod
    def run(cls, settings: Settings, world: World, error: float, shared: float, rng: np.random.Generator) -> Campaign:
        """Simulate a campaign.

        Args:
            error: Annotators' nominal error rate.
            shared: Share of the errors that all annotators make together, on images that are hard for everybody.
        """
        people, images = settings.annotators, settings.images
        rates = error * (1 + settings.uneven * rng.uniform(-1, 1, (2, people)))
        rate = np.where(world.right[:, None], rates[0], rates[1])
        is_error = rng.random((images, people)) < rate * (1 - shared)
        is_error |= (rng.random(images) < error * shared)[:, None]
        calls = world.right[:, None] ^ is_error
        is_own = np.arange(people) == rng.integers(0, people, images)[:, None]
        is_asked = is_own | (rng.random(images) < settings.overlap)[:, None]
        values = (calls & is_asked).sum(1) / is_asked.sum(1)
        labelled = np.concatenate([
            rng.choice(cell_images, max(1, round(settings.labels * len(cell_images) / images)), replace=False)
            for cell_images in (np.flatnonzero(world.cells == cell) for cell in np.unique(world.cells))
        ])  # fmt: skip
        # Gold items are as hard as other images.
        wrong_answers = rng.binomial([[settings.gold_right], [settings.gold_wrong]], rates)
        gold = Gold(
            np.stack([wrong_answers[0], settings.gold_right - wrong_answers[0]], axis=1),
            np.stack([settings.gold_wrong - wrong_answers[1], wrong_answers[1]], axis=1),
        )
        sample = StratifiedLabels.from_population(values[labelled], labelled, world.cells, world.scores)
        answers = np.where(is_asked, calls, MISSING)[labelled].astype(np.int8)
        return cls(sample, answers, gold, float(values.mean()))


def main() -> None:
    parser = make_parser(__doc__, "trust")
    parser.add_argument("--campaigns", type=int, default=2000, metavar="N", help="campaigns per error rate (2000)")
    args = parser.parse_args()
    began = time.monotonic()
    settings = Settings(campaigns=args.campaigns)
    if args.quick:
        settings = dataclasses.replace(settings, campaigns=5, stress=5, images=600, labels=100)
    rows = [row for error in ERRORS for row in measure(settings, error)]
    rows += measure(settings, 0.05, shared=0.5)
    rows += measure_curation(settings)
    report("trust", args, rows, dataclasses.asdict(settings), began)


def measure(settings: Settings, error: float, shared: float = 0.0) -> list[Row]:
    """Return coverage and widths of the intervals over many campaigns."""
    number = settings.stress if shared else settings.campaigns
    title = f"{error:.0%} errors" + (f", {shared:.0%} of them shared" if shared else "")
    covered: dict[str, list[bool]] = {name: [] for name in ("people", "scorers", "corrected", "uncorrected")}
    widths: dict[str, list[float]] = {name: [] for name in ("people", "scorers", "corrected")}
    with Progress(number, unit="campaign", desc=title) as bar:
        for i in range(number):
            rng = np.random.default_rng([settings.seed, round(1000 * error), round(100 * shared), i])
            world = World.draw(settings, rng)
            campaign = Campaign.run(settings, world, error, shared, rng)
            sample, unlabelled = campaign.sample, 1 - len(campaign.answers) / settings.images
            intervals = {
                "people": share_of_people(sample).interval,
                "scorers": share_with_scorers(sample).interval,
                "corrected": correct_share(
                    campaign.answers, campaign.gold, sample.weights, unlabelled=unlabelled
                ).interval,
            }
            truth = float(world.right.mean())
            for name, interval in intervals.items():
                covered[name].append(covers(interval, truth if name == "corrected" else campaign.called_right))
                widths[name].append(100 * (interval.high - interval.low))
            covered["uncorrected"].append(covers(intervals["people"], truth))
            bar.update(1)
    target = (None, None) if shared else TARGET
    return [
        make_coverage_row(f"{title}: what people call right, people alone", covered["people"], TARGET),
        make_coverage_row(f"{title}: what people call right, with scorers", covered["scorers"], TARGET),
        make_coverage_row(f"{title}: the truth, corrected", covered["corrected"], target),
        make_coverage_row(f"{title}: the truth, uncorrected", covered["uncorrected"], (None, None)),
        make_width_row(f"{title}: width, people alone", widths["people"]),
        make_width_row(f"{title}: width, with scorers", widths["scorers"]),
        make_width_row(f"{title}: width, corrected", widths["corrected"]),
    ]


def covers(interval: Interval, target: float) -> bool:
    return interval.low <= target <= interval.high


def make_coverage_row(name: str, hits: Sequence[bool], target: tuple[float | None, float | None]) -> Row:
    """Return the share of intervals that contain their target, with its own interval (Wilson)."""
    value, low, high = (100 * share for share in wilson(float(np.mean(hits)), len(hits)))
    return Row(name, value, "%", low, high, *target)


def make_width_row(name: str, widths: Sequence[float]) -> Row:
    """Return the median width of intervals, with the range of the middle 95 %."""
    low, high = np.percentile(widths, [2.5, 97.5])
    return Row(name, float(np.median(widths)), "points", float(low), float(high))


def measure_curation(settings: Settings) -> list[Row]:
    """Return the share of wrong labels before and after dropping images below a score, in ten datasets."""
    worlds = [World.draw(settings, np.random.default_rng([settings.seed, 1, i])) for i in range(10)]
    rows = [make_spread_row("wrong labels", [100 * (1 - world.right.mean()) for world in worlds])]
    for threshold in THRESHOLDS:
        kept = [world.scores > threshold for world in worlds]
        wrong = [100 * (1 - world.right[keep].mean()) for world, keep in zip(worlds, kept, strict=True)]
        rows.append(make_spread_row(f"wrong labels among images with a score above {threshold}", wrong))
        rows.append(make_spread_row(f"images with a score above {threshold}", [100 * keep.mean() for keep in kept]))
    return rows


def make_spread_row(name: str, values: Sequence[float]) -> Row:
    return Row(name, float(np.median(values)), "%", float(min(values)), float(max(values)))


if __name__ == "__main__":
    main()
