"""Analysis of the readings of `spurious.py`: scores of settings, intervals, tables and the chart, from JSON alone.

A *reading* is one JSON document: the predictions of judges and oracle for the images of one row, class and seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import stats

from figureground.core import intervals
from figureground.core.charts import draw_charts
from figureground.core.errors import FiguregroundError, counted

Reading = Mapping[str, Any]
REFERENCES, UNTOUCHED, DREAMBOOTH, SFSL = "references", "untouched", "dreambooth", "sfsl"
ROWS = {
    REFERENCES: "references", UNTOUCHED: "untouched model, same prompts",
    DREAMBOOTH: "DreamBooth with prior preservation", SFSL: "DreamBooth with prior preservation and SFSL",
}  # fmt: skip
"""The rows of the final run."""
WEIGHTS = ("pocket", "robust")
"""Bundled weights on which images depend."""
MOST_OBJECT = 0.05
"""Maximum share of images in which the object is visible."""
RULE = (
    "A setting's score is the share of its images that say k and show no object (development judges; oracle), less "
    f"the points by which the share of images that show an object exceeds {100 * MOST_OBJECT:g} %. Classes count "
    "alike, and so do the seeds so far. Of equal scores the setting that stands first in the list is kept."
)


# --- readings -----------------------------------------------------------------------------------------


def bits(values: Iterable[Any]) -> str:
    """Encode booleans as a string of 1 and 0."""
    return "".join("1" if value else "0" for value in values)


def answers(text: str) -> np.ndarray:
    """Decode the output of `bits`, bool (n,)."""
    return np.array([letter == "1" for letter in text], bool)


def read_all(folder: Path, stage: str) -> list[dict[str, Any]]:
    """Read the readings of a stage, `select` or `final`, in the order of their file names.

    Raises:
        FiguregroundError: They were made with different weights, different judges or, within a row, different settings.
    """
    found = [(path, json.loads(path.read_text())) for path in sorted(folder.glob(f"{stage}-*.json"))]
    _refuse_mixed(found, lambda each: {name: each["weights"][name] for name in WEIGHTS}, "weights")
    for name in ("format", "judges", "oracle", "images"):
        _refuse_mixed(found, lambda each, name=name: each[name], name)
    _refuse_mixed(found, lambda each: each["settings"], "settings", by="setting")
    if stage == "final":
        _refuse_mixed(found, lambda each: each["setting"], "settings", by="row")
    return [each for _, each in found]


def _refuse_mixed(found: Sequence[tuple[Path, dict[str, Any]]], what: Any, name: str, by: str | None = None) -> None:
    first: dict[Any, tuple[Path, Any]] = {}
    for path, each in found:
        value = json.dumps(what(each), sort_keys=True)
        other, expected = first.setdefault(each[by] if by else None, (path, value))
        if value != expected:
            raise FiguregroundError(
                f"{path.name} and {other.name} were made with different {name}. Run the command that made them again: "
                "it updates outdated ones. Remove those of settings that no longer exist."
            )


def says_k(reading: Reading) -> float:
    """Return the share of images for which judges predict the class, averaged over judges."""
    return float(np.mean([answers(each).mean() for each in reading["says_k"].values()]))


def clean(reading: Reading) -> float:
    """Return the share of images predicted as k that show no object, averaged over judges."""
    absent = ~answers(reading["object"])
    return float(np.mean([(answers(each) & absent).mean() for each in reading["says_k"].values()]))


def shows_object(reading: Reading) -> float:
    """Return the share of images in which the oracle sees an object."""
    return float(answers(reading["object"]).mean())


def shows_look(reading: Reading) -> float:
    """Return the share of images in which the oracle sees the class's look."""
    return float(answers(reading["look"]).mean())


def mean_of(name: str) -> Any:
    """Return a function that averages a value such as `p` over the judges of a reading."""
    return lambda reading: float(np.mean(list(reading[name].values())))


# --- choosing -----------------------------------------------------------------------------------------


def score(readings: Sequence[Reading]) -> float:
    """Return the score of a setting by `RULE`, from its readings, with the same seeds for all classes."""
    return float(np.mean([clean(r) for r in readings])) - max(
        0.0, float(np.mean([shows_object(r) for r in readings])) - MOST_OBJECT
    )


def best(scores: Mapping[str, float], count: int) -> list[str]:
    """Return the settings with the highest scores, best first; ties keep their order."""
    return sorted(scores, key=lambda name: -scores[name])[:count]


# --- statistics ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of seeds or classes of the interval."""

    def shown(self, scale: float = 100.0) -> str:
        """Format the interval as `5.1 (2.0 to 8.2)`, in per cent or points."""
        if not math.isfinite(self.low):
            return f"{scale * self.value:.1f}"
        return f"{scale * self.value:.1f} ({scale * self.low:.1f} to {scale * self.high:.1f})"


def student(values: Sequence[float]) -> Interval:
    """Return Student's 95 % interval of a mean; without ends for a single value."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return Interval(float(x.mean()), -math.inf, math.inf, len(x))
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def two_way(table: np.ndarray) -> Interval:
    """Return the 95 % interval of a table's mean, where both rows (classes) and columns (seeds) are samples.

    The variance of the mean is (MS_rows + MS_columns − MS_residual) / (rows · columns), from the mean squares of a
    two-way layout without replication, and at least that of each way alone. Student's t has the degrees of freedom of
    the shorter side.

    Args:
        table: float (rows, columns), both 2 or more.
    """
    rows, columns = table.shape
    mean = float(table.mean())
    by_row, by_column = table.mean(1) - mean, table.mean(0) - mean
    rest = table - mean - by_row[:, None] - by_column[None]
    squares = (
        columns * np.square(by_row).sum() / (rows - 1), rows * np.square(by_column).sum() / (columns - 1),
        np.square(rest).sum() / ((rows - 1) * (columns - 1)),
    )  # fmt: skip
    variance = max(squares[0] + squares[1] - squares[2], squares[0], squares[1]) / (rows * columns)
    half = float(stats.t.ppf(0.975, min(rows, columns) - 1) * math.sqrt(variance))
    return Interval(mean, mean - half, mean + half, min(rows, columns))


@dataclass(frozen=True)
class Final:
    """The final readings of some classes, for the seeds that every class and row has."""

    classes: tuple[str, ...]
    seeds: tuple[int, ...]
    by: Mapping[tuple[str, str, int], Reading]
    """Readings by row, class and seed."""

    @classmethod
    def of(cls, readings: Sequence[Reading], classes: Sequence[str]) -> Final:
        """Select readings; classes without readings are left out."""
        by = {(r["row"], r["class"], r["seed"]): r for r in readings if r["class"] in classes}
        seeds = sorted({seed for _, _, seed in by})
        whole = [s for s in seeds if all((row, name, s) in by for row in ROWS for name in classes)]
        return cls(tuple(classes), tuple(whole), by)

    def table(self, row: str, measure: Any) -> np.ndarray:
        """Return a measure's values for a row, float (classes, seeds)."""
        return np.array([[measure(self.by[row, name, seed]) for seed in self.seeds] for name in self.classes])

    def difference(self, first: str, second: str, measure: Any = says_k) -> dict[str, Interval]:
        """Return the first row minus the second, paired by class and seed: over seeds, over classes, and over both."""
        table = self.table(first, measure) - self.table(second, measure)
        found = {"seeds": student(table.mean(0)), "classes": student(table.mean(1))}
        if min(table.shape) > 1:
            found["both"] = two_way(table)
        return found

    def object_share(self, row: str) -> Interval:
        """Return the share of images with a visible object, with equal class weights, clustered by concept."""
        groups = [
            np.concatenate([answers(self.by[row, name, seed]["object"]) for seed in self.seeds])
            for name in self.classes
        ]
        concepts = [
            np.concatenate([
                np.full(len(self.by[row, name, seed]["object"]), i * len(self.seeds) + j)
                for j, seed in enumerate(self.seeds)
            ])
            for i, name in enumerate(self.classes)
        ]  # fmt: skip
        found = intervals.mean(groups, concepts)
        return Interval(found.value, found.low, found.high, len(self.classes) * len(self.seeds))

    def worst_first(self) -> list[str]:
        """Return the classes by their share in the SFSL row, lowest first."""
        shares = dict(zip(self.classes, self.table(SFSL, says_k).mean(1), strict=True))
        return sorted(self.classes, key=lambda name: shares[name])


# --- tables and chart ---------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows), "",
    ]  # fmt: skip


def markdown_final(title: str, final: Final) -> list[str]:
    """Return the tables of some classes: rows, differences, classes worst first, judges."""
    if not final.seeds:
        return [f"**{title}**: no seed has all rows of all classes yet.", ""]
    count = f"{len(final.classes)} classes × {len(final.seeds)} seeds"
    images = sum(len(r["object"]) for (row, _, seed), r in final.by.items() if row == SFSL and seed in final.seeds)
    lines = [
        f"**{title}** ({count}, {images:,} images a row; per cent, in brackets 95 % intervals: of says k over seeds, "
        "of the object with the images of a concept as a cluster)", "",
    ]  # fmt: skip
    head = ["images", "says k", "says k, no object", "object seen", "look seen", "mean p_k", "average precision"]
    rows = []
    for row, text in ROWS.items():
        share = student(final.table(row, says_k).mean(0))
        numbers = [f"{final.table(row, mean_of(name)).mean():.3f}" for name in ("p", "average_precision", "roc_auc")]
        rows.append([
            text, share.shown(), f"{100 * final.table(row, clean).mean():.1f}", final.object_share(row).shown(),
            f"{100 * final.table(row, shows_look).mean():.1f}", *numbers,
        ])  # fmt: skip
    lines += _table([*head, "ROC-AUC"], rows)
    rows = []
    for first, second in ((SFSL, DREAMBOOTH), (SFSL, REFERENCES), (DREAMBOOTH, REFERENCES)):
        for name, measure in (("says k", says_k), ("object seen", shows_object)):
            found = final.difference(first, second, measure)
            shown = [found[over].shown() if over in found else "" for over in ("seeds", "classes", "both")]
            rows.append([f"{_SHORT[first]} − {_SHORT[second]}, {name}", *shown])
    lines += ["Paired differences, points:", ""]
    lines += _table(["", "interval over seeds", "over classes", "over both"], rows)
    rows = []
    for name in final.worst_first():
        one = Final((name,), final.seeds, final.by)
        shares = [f"{100 * one.table(row, says_k).mean():.1f}" for row in ROWS]
        gain = one.difference(SFSL, DREAMBOOTH)["seeds"].shown()
        objects = [f"{100 * one.table(row, shows_object).mean():.1f}" for row in (DREAMBOOTH, SFSL)]
        rows.append([name, *shares, gain, *objects])
    lines += ["By class, worst first:", ""]
    head = ["class", *(f"{_SHORT[row]}, says k" for row in ROWS), "SFSL − DreamBooth"]
    lines += _table([*head, "DreamBooth, object", "SFSL, object"], rows)
    judges = list(next(iter(final.by.values()))["says_k"])
    rows = []
    for judge in judges:
        shares = [final.table(row, lambda r, j=judge: answers(r["says_k"][j]).mean()).mean() for row in ROWS]
        rows.append([judge, *(f"{100 * share:.1f}" for share in shares)])
    lines += ["By judge, says k:", "", *_table(["judge", *_SHORT.values()], rows)]
    return lines


_SHORT = {REFERENCES: "references", UNTOUCHED: "untouched", DREAMBOOTH: "DreamBooth", SFSL: "SFSL"}


def markdown_selection(chosen: Mapping[str, Any], readings: Sequence[Reading]) -> list[str]:
    """Return the table of the selection's rounds."""
    lines = [
        f"**Selection** (classes {', '.join(chosen['classes'])}; judges {', '.join(chosen['judges'])}). "
        + chosen["rule"], "",
    ]  # fmt: skip
    for family, rounds in chosen["rounds"].items():
        names = list(rounds[0]["scores"])
        rows = []
        for name in names:
            mine = [r for r in readings if r["setting"] == name]
            rows.append([
                f"{name}: {chosen['settings'][name]}", *(_points(each["scores"].get(name)) for each in rounds),
                f"{100 * np.mean([says_k(r) for r in mine]):.1f}" if mine else "",
                f"{100 * np.mean([shows_object(r) for r in mine]):.1f}" if mine else "", str(len(mine)),
                "**chosen**" if chosen["chosen"][family] == name else "",
            ])  # fmt: skip
        head = [
            _SHORT[family],
            *(f"score, {counted(len(each['seeds']), 'seed')}" for each in rounds),
            "says k",
            "object",
        ]
        lines += _table([*head, "concepts", ""], rows)
    return lines


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def draw_chart(groups: Mapping[str, Final], samples: Path, out: Path) -> None:
    """Draw one chart: by class, worst first, the share of images predicted as k and the share with a visible object;
    below, images of the first seed.

    Args:
        groups: Readings by title; those without a complete seed are left out.
        samples: The folder with `samples-ROW-CLASS.jpg`.
        out: The output PNG.
    """
    shown = {title: final for title, final in groups.items() if final.seeds}
    names = [(title, name) for title, final in shown.items() for name in final.worst_first()]
    if not names:
        return
    colours = {REFERENCES: "0.45", UNTOUCHED: "0.8", DREAMBOOTH: "#d98032", SFSL: "#2a6fbb"}

    def plot(figure: Any, axes: Any) -> None:
        grid = axes[0, 0].get_gridspec()
        grid.set_height_ratios([1, 1.15])
        for axis, measure, title in zip(axes[0], (says_k, shows_object), ("says k, %", "object seen, %"), strict=True):
            for row, colour in colours.items():
                if measure is shows_object and row == REFERENCES:
                    continue
                for at, (group, name) in enumerate(names):
                    values = 100 * Final((name,), shown[group].seeds, shown[group].by).table(row, measure)[0]
                    place = at + 0.18 * (list(colours).index(row) - 1.5)
                    axis.plot([values.min(), values.max()], [place] * 2, color=colour, linewidth=1)
                    label = _SHORT[row] if at == 0 else None
                    axis.plot([values.mean()], [place], "o", color=colour, markersize=4, label=label)
            axis.set_yticks(range(len(names)), [name for _, name in names])
            axis.invert_yaxis()
            axis.set_xlabel(title)
            edge = 0
            for final in list(shown.values())[:-1]:
                edge += len(final.classes)
                axis.axhline(edge - 0.5, color="0.6", linewidth=0.6)
        axes[0, 1].axvline(100 * MOST_OBJECT, color="0.6", linewidth=0.8, linestyle="--")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
        axes[0, 0].set_title("mean over seeds, with the range of the seeds", fontsize=8, loc="left")
        axes[0, 1].set_title("; ".join(shown), fontsize=8, loc="left")
        for axis in axes[1]:
            axis.remove()
        below = figure.add_subplot(grid[1, :])
        below.imshow(_montage([name for _, name in names], samples))
        below.axis("off")

    draw_charts(out, (9.5, 9.0), plot, down=2, across=2)


def _montage(names: Sequence[str], samples: Path, strip: tuple[int, int] = (192, 64)) -> Image.Image:
    """Combine strips of images, one column for each row of the table and one line for each class."""
    wide, high = strip
    left, head, gap = 60, 16, 6
    page = Image.new("RGB", (left + len(ROWS) * (wide + gap), head + len(names) * (high + 2)), "white")
    pen = ImageDraw.Draw(page)
    for j, row in enumerate(ROWS):
        pen.text((left + j * (wide + gap), 2), _SHORT[row], fill="black")
        for i, name in enumerate(names):
            if j == 0:
                pen.text((2, head + i * (high + 2) + high // 2 - 5), name, fill="black")
            path = samples / f"samples-{row}-{name}.jpg"
            if path.exists():
                with Image.open(path) as image:
                    page.paste(image, (left + j * (wide + gap), head + i * (high + 2)))
    return page


def save_samples(pixels: np.ndarray, path: Path, count: int = 3) -> None:
    """Save some images of a row and class side by side.

    Args:
        pixels: uint8 (n, 3, h, w).
    """
    picked = [pixels[i].transpose(1, 2, 0) for i in np.linspace(0, len(pixels) - 1, count).astype(int)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(picked, axis=1)).save(path, quality=90)
