"""Four biases of a classifier, as defined by ForAug (Nauen et al. 2025, arXiv 2503.09399), on a set's own objects.

Objects are cut out with their masks and put on backgrounds of the same set, whose own object is filled in from around
it. ForAug fills with a generative model; the fill here is smooth, and the same for everything that is compared.

- Background robustness: A(all) / A(same), accuracies with a background from any image and from an image of the same
  class. 1 if the background doesn't matter.
- Foreground focus: (importance of the object / importance of the image) / (area of the object / area of the image),
  with importance the absolute attribution by Integrated Gradients for the image's class, on the images as they are.
  1 if attention is spread evenly, more if it is on the object.
- Centre bias: 1 − (min A(corner) + min A(side)) / (2 A(centre)), accuracies with the object in one of 3 × 3 places.
  0 if the place doesn't matter. Objects are at most half an edge long, and seen whole.
- Size bias: A(f) / A(1), accuracies with objects f times as large, in their own place on the same background, of the
  images in which an object of that size fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from figureground.auditing.compositions import compose, fill_smoothly
from figureground.auditing.findings import MAX_KEYS, Finding, Section
from figureground.auditing.measuring import ImageScan
from figureground.auditing.regions import Box
from figureground.auditing.samples import Samples
from figureground.auditing.transfer import sign_test
from figureground.core import intervals, signals
from figureground.core.errors import FiguregroundError
from figureground.core.extras import hint, is_installed
from figureground.core.progress import Progress
from figureground.recipe.sample import derive_seed

if TYPE_CHECKING:
    from figureground.evaluation.counterparts import Counterparts
    from figureground.vision.classifiers import Classifier

MAX_OBJECTS = 400
"""Maximum number of images whose objects are used."""
MAX_ATTRIBUTED = 64
"""Maximum number of images of which attributions are computed."""
MIN_OBJECTS = 20
"""Minimum number of usable images."""
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Sizes of objects, relative to their own."""
SIDE = 0.5
"""Longest side of an object in the nine places, relative to the image's shorter edge."""
MAX_SIDE = 0.95
"""Longest side of an enlarged object, relative to the image's shorter edge; larger ones don't fit."""
PLACES = {
    f"{y} {x}".replace("middle middle", "centre"): ((i + 0.5) / 3, (j + 0.5) / 3)
    for j, y in enumerate(("top", "middle", "bottom")) for i, x in enumerate(("left", "middle", "right"))
}  # fmt: skip
CENTRE = "centre"
CORNERS = tuple(name for name in PLACES if "middle" not in name and name != CENTRE)
SIDES = tuple(name for name in PLACES if "middle" in name)


@dataclass(frozen=True)
class Part:
    """An object to compose, and the background left without it."""

    row: int
    image: Image.Image
    mask: np.ndarray
    box: Box
    background: Image.Image


def measure_biases(
    samples: Samples, scan: ImageScan, classifier: Classifier, counterparts: Counterparts, *, show_progress: bool = True
) -> Section:
    """Measure the biases of a classifier.

    Args:
        classifier: On the device to use.
        counterparts: The classifier's classes for the foreground labels.
    """
    rng = np.random.default_rng(derive_seed(0, "audit", "biases"))
    has_class = np.array([bool(group) for group in counterparts.groups])
    rows = [
        row for row in range(len(samples.keys))
        if has_class[samples.foreground[row]] and (box := scan.boxes[row]) is not None and box.side >= 4
    ]  # fmt: skip
    if len(rows) < MIN_OBJECTS:
        known = f"{len(rows)} images with a mask and a class that the classifier knows"
        return Section({"reason": f"Not measured: {known} are fewer than {MIN_OBJECTS}."})
    if len(rows) > MAX_OBJECTS:
        rows = sorted(rng.choice(rows, MAX_OBJECTS, replace=False).tolist())
    parts = _cut_parts(samples, scan, rows)
    label = samples.foreground[[part.row for part in parts]]
    objects = samples.objects[[part.row for part in parts]]
    same, others = _choose_partners(label, objects, rng)
    usable = np.flatnonzero(same >= 0)
    if len(usable) < MIN_OBJECTS:
        return Section({"reason": "Not measured: too few images have another object of the same class."})
    compositions = _Compositions(classifier, counterparts, show_progress)
    for i in usable.tolist():
        compositions.add_all(parts[i], parts[same[i]].background, parts[others[i]].background, label[i])
    answers = _Answers(
        classifier.name, compositions.classify_all(), objects[usable], [samples.keys[parts[i].row] for i in usable],
        {name: np.array(rows, np.int64) for name, rows in compositions.fitting.items()},
    )  # fmt: skip
    report = {
        "images": len(usable),
        "objects": len(np.unique(answers.objects)),
        "background_robustness": _measure_background_robustness(answers),
        "centre_bias": _measure_centre_bias(answers),
        "size_bias": _measure_size_bias(answers),
        "foreground_focus": _measure_focus(classifier, counterparts, [parts[i] for i in usable], label[usable], rng),
    }
    return Section(report, answers.findings, answers.p_values)


class _Answers:
    """Whether compositions were classified rightly, and the findings that follow.

    Args:
        classifier: Its name.
        right: By composition, bool (n,): whether each image was classified rightly. Those of another size have only
            the images in `fitting`.
        objects: The object of each image, int (n,).
        keys: The images' keys.
        fitting: By size relative to the object's own, the positions of the images in which it fits, int64 (m,).
    """

    def __init__(
        self, classifier: str, right: dict[str, np.ndarray], objects: np.ndarray, keys: list[str],
        fitting: dict[str, np.ndarray],
    ):  # fmt: skip
        self.classifier, self.right, self.objects, self._keys, self.fitting = classifier, right, objects, keys, fitting
        self.accuracy = {
            name: intervals.mean([answers], [objects[fitting[name]] if name in fitting else objects])
            for name, answers in right.items()
        }
        self.findings: list[Finding] = []
        self.p_values: list[float] = []

    def compare(
        self, name: str, text: str, better: np.ndarray, worse: np.ndarray, effect: float,
        rows: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Test whether one composition is classified better than another, and add a finding if the effect is above 0.

        Args:
            name: Name of the bias.
            text: The finding.
            better, worse: Shares of right answers for each image, float or bool (n,).
            effect: The difference of their accuracies.
            rows: Positions of the images; default: all.
        """
        rows = np.arange(len(self._keys)) if rows is None else rows
        p = sign_test(better, worse, self.objects[rows])
        self.p_values.append(p)
        if effect > 0:
            lost = [self._keys[row] for row, a, b in zip(rows.tolist(), better, worse, strict=True) if a > b]
            self.findings.append(
                Finding("bias", text, min(1.0, effect), keys=tuple(lost[:MAX_KEYS]), p=p, numbers={"bias": name})
            )


def _measure_background_robustness(answers: _Answers) -> dict[str, Any]:
    accuracy_all, accuracy_same = answers.accuracy["all"], answers.accuracy["same"]
    answers.compare(
        "background_robustness",
        f"{answers.classifier} relies on backgrounds: it classifies {100 * accuracy_same.value:.1f}% of objects "
        f"correctly on a background of their own class, and {100 * accuracy_all.value:.1f}% on any background.",
        answers.right["same"], answers.right["all"], accuracy_same.value - accuracy_all.value,
    )  # fmt: skip
    return {
        "value": accuracy_all.value / accuracy_same.value if accuracy_same.value else None,
        "all": accuracy_all._asdict(),
        "same": accuracy_same._asdict(),
    }


def _measure_centre_bias(answers: _Answers) -> dict[str, Any]:
    accuracy = answers.accuracy
    corner, side = (min(places, key=lambda place: accuracy[place].value) for places in (CORNERS, SIDES))
    middle = accuracy[CENTRE].value
    elsewhere = np.mean([answers.right[place] for place in (*CORNERS, *SIDES)], axis=0)
    answers.compare(
        "centre_bias",
        f"{answers.classifier} prefers the centre: it classifies {100 * middle:.1f}% of objects correctly there, "
        f"{100 * elsewhere.mean():.1f}% elsewhere, and {100 * accuracy[corner].value:.1f}% at the {corner}.",
        answers.right[CENTRE], elsewhere, middle - float(elsewhere.mean()),
    )  # fmt: skip
    return {
        "value": 1 - (accuracy[corner].value + accuracy[side].value) / (2 * middle) if middle else None,
        "places": {place: accuracy[place]._asdict() for place in PLACES},
    }


def _measure_size_bias(answers: _Answers) -> dict[str, Any]:
    report: dict[str, Any] = {"value": {}, "accuracy": {}, "images": {}}
    words = {"0.5": "half", "2": "twice"}
    for name, rows in answers.fitting.items():
        report["value"][name], report["accuracy"][name], report["images"][name] = None, None, len(rows)
        if len(rows) < MIN_OBJECTS:
            continue
        right_here, right_at_own = answers.right["all" if name == "1" else name], answers.right["all"][rows]
        here, at_own = float(right_here.mean()), float(right_at_own.mean())
        report["value"][name] = here / at_own if at_own else None
        report["accuracy"][name] = answers.accuracy["all" if name == "1" else name]._asdict()
        if name in words:
            answers.compare(
                "size_bias",
                f"{answers.classifier} depends on size: it classifies {100 * at_own:.1f}% of objects correctly at "
                f"their own size, {100 * here:.1f}% {words[name]} as large.",
                right_at_own, right_here, at_own - here, rows,
            )  # fmt: skip
    return report


def _cut_parts(samples: Samples, scan: ImageScan, rows: list[int]) -> list[Part]:
    parts = []
    for row, image, mask in samples.decode(rows):
        signals.check()
        box = scan.boxes[row]
        assert mask is not None
        assert box is not None
        if not mask.all():
            padded = np.pad(mask, 2)
            grown_mask = np.zeros_like(mask)
            for dy in range(5):
                for dx in range(5):
                    grown_mask |= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
            parts.append(
                Part(row, image, mask, box, fill_smoothly(image, grown_mask if not grown_mask.all() else mask))
            )
    return parts


def _choose_partners(label: np.ndarray, objects: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return for each image one of another object of its class, −1 if there is none, and one of any other object."""
    same, others = np.full(len(label), -1), np.full(len(label), -1)
    for i in range(len(label)):
        candidates = np.flatnonzero(objects != objects[i])
        same_class = candidates[label[candidates] == label[i]]
        if len(same_class):
            same[i], others[i] = rng.choice(same_class), rng.choice(candidates)
    return same, others


class _Compositions:
    """Compositions, classified in batches as they are drawn."""

    def __init__(self, classifier: Classifier, counterparts: Counterparts, show_progress: bool, batch_size: int = 64):
        self._classifier, self._members = classifier, counterparts.membership()
        self._size, self._bar = (
            batch_size,
            Progress(0, unit="image", desc=f"biases of {classifier.name}", show=show_progress),
        )
        self._waiting: list[tuple[str, Image.Image, int]] = []
        self._count = 0
        self.fitting: dict[str, list[int]] = {f"{factor:g}": [] for factor in FACTORS}
        """By size relative to the object's own, the positions of the images in which it fits."""
        self._right: dict[str, list[bool]] = {}

    def add_all(self, part: Part, same: Image.Image, other: Image.Image, label: int) -> None:
        """Compose an object in all ways that are compared.

        Args:
            same: Background of an image of the object's class.
            other: Background of a random image with another object.
            label: The object's class.
        """
        own_place = ((part.box.left + part.box.right) / 2 / part.image.width,
               (part.box.top + part.box.bottom) / 2 / part.image.height)  # fmt: skip
        side = part.box.side / min(part.image.size)
        self._add("same", part, same, own_place, side, label)
        self._add("all", part, other, own_place, side, label)
        for name, centre in PLACES.items():
            self._add(name, part, other, centre, min(side, SIDE), label)
        for factor in FACTORS:
            if factor > 1 and side * factor > MAX_SIDE:
                continue
            self.fitting[f"{factor:g}"].append(self._count)
            if factor != 1:
                self._add(f"{factor:g}", part, other, own_place, side * factor, label)
        self._count += 1

    def _add(
        self, name: str, part: Part, background: Image.Image, centre: tuple[float, float], side: float, label: int
    ) -> None:
        image = compose(part.image, part.mask, part.box, background, centre, min(1.0, side))
        self._waiting.append((name, image, label))
        if len(self._waiting) == self._size:
            self._classify_waiting()

    def classify_all(self) -> dict[str, np.ndarray]:
        """Return by name whether each image was classified rightly, bool (n,), in the order of `add_all`; for another
        size, those in `fitting`."""
        self._classify_waiting()
        self._bar.close()
        return {name: np.array(answers) for name, answers in self._right.items()}

    def _classify_waiting(self) -> None:
        import torch

        signals.check()
        if not self._waiting:
            return
        with torch.inference_mode():
            logits = self._classifier.read([image for _, image, _ in self._waiting]).logits.float().cpu().numpy()
        if not np.isfinite(logits).all():
            raise FiguregroundError(f"The classifier {self._classifier.name} returned non-finite logits.")
        for (name, _, label), best in zip(self._waiting, logits.argmax(axis=1), strict=True):
            self._right.setdefault(name, []).append(bool(self._members[label, best]))
        self._bar.update(len(self._waiting))
        self._waiting.clear()


def _measure_focus(
    classifier: Classifier, counterparts: Counterparts, parts: list[Part], label: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    if not is_installed("captum"):
        return {"reason": f"Not measured: captum is missing ({hint('captum')})."}
    from figureground.vision.attribution import share_inside

    chosen = sorted(rng.choice(len(parts), min(len(parts), MAX_ATTRIBUTED), replace=False).tolist())
    shares = share_inside(
        classifier, [parts[i].image for i in chosen], [parts[i].mask for i in chosen],
        [counterparts.groups[label[i]][0] for i in chosen], steps=16,
    )  # fmt: skip
    return {"value": float(shares.ratio.mean()), "images": len(chosen)}
