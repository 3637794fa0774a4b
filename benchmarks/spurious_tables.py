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
from figureground.core.errors import FiguregroundError, plural

Reading = Mapping[str, Any]
REFERENCES, UNTOUCHED, DREAMBOOTH, SFSL = "references", "untouched", "dreambooth", "sfsl"
ROWS = {
    REFERENCES: "references", UNTOUCHED: "untouched model, same prompts",
    DREAMBOOTH: "DreamBooth with prior preservation", SFSL: "DreamBooth with prior preservation and SFSL",
}  # fmt: skip
"""The rows of the final run."""
WEIGHTS = ("pocket", "robust")
"""Bundled weights on which images depend."""
MAX_OBJECT_SHARE = 0.05
"""Maximum share of images in which the object is visible."""
RULE = (
    "A setting's score is the share of its images that say k and show no object (development judges; oracle), less "
    f"the points by which the share of images that show an object exceeds {100 * MAX_OBJECT_SHARE:g} %. Classes count "
    "alike, and so do the seeds so far. Of equal scores the setting that stands first in the list is kept."
)


# --- readings -----------------------------------------------------------------------------------------


def encode_bits(values: Iterable[Any]) -> str:
    """Encode booleans as a string of 1 and 0."""
    return "".join("1" if value else "0" for value in values)


def decode_bits(text: str) -> np.ndarray:
    """Decode the output of `encode_bits`, bool (n,)."""
    return np.array([letter == "1" for letter in text], bool)


def read_readings(folder: Path, stage: str) -> list[dict[str, Any]]:
    """Read the readings of a stage, `select` or `final`, in the order of their file names.

    Raises:
        FiguregroundError: They were made with different weights, different judges or, within a row, different settings.
    """
    documents = [(path, json.loads(path.read_text())) for path in sorted(folder.glob(f"{stage}-*.json"))]
    _refuse_mixed(documents, lambda document: {name: document["weights"][name] for name in WEIGHTS}, "weights")
    for name in ("format", "judges", "oracle", "images"):
        _refuse_mixed(documents, lambda document, name=name: document[name], name)
    _refuse_mixed(documents, lambda document: document["settings"], "settings", by="setting")
    if stage == "final":
        _refuse_mixed(documents, lambda document: document["setting"], "settings", by="row")
    return [document for _, document in documents]


def _refuse_mixed(
    documents: Sequence[tuple[Path, dict[str, Any]]], value_of: Any, name: str, by: str | None = None
) -> None:
    first: dict[Any, tuple[Path, Any]] = {}
    for path, document in documents:
        value = json.dumps(value_of(document), sort_keys=True)
        first_path, expected = first.setdefault(document[by] if by else None, (path, value))
        if value != expected:
            raise FiguregroundError(
                f"{path.name} and {first_path.name} were made with different {name}. Run the command that made them "
                "again: it updates outdated ones. Remove those of settings that no longer exist."
            )


def share_saying_k(reading: Reading) -> float:
    """Return the share of images for which judges predict the class, averaged over judges."""
    return float(np.mean([decode_bits(judge_bits).mean() for judge_bits in reading["says_k"].values()]))


def share_clean(reading: Reading) -> float:
    """Return the share of images predicted as k that show no object, averaged over judges."""
    absent = ~decode_bits(reading["object"])
    return float(np.mean([(decode_bits(judge_bits) & absent).mean() for judge_bits in reading["says_k"].values()]))


def share_with_object(reading: Reading) -> float:
    """Return the share of images in which the oracle sees an object."""
    return float(decode_bits(reading["object"]).mean())


def share_with_look(reading: Reading) -> float:
    """Return the share of images in which the oracle sees the class's look."""
    return float(decode_bits(reading["look"]).mean())


def make_mean_of(name: str) -> Any:
    """Return a function that averages a value such as `p` over the judges of a reading."""
    return lambda reading: float(np.mean(list(reading[name].values())))


# --- choosing -----------------------------------------------------------------------------------------


def score_setting(readings: Sequence[Reading]) -> float:
    """Return the score of a setting by `RULE`, from its readings, with the same seeds for all classes."""
    return float(np.mean([share_clean(r) for r in readings])) - max(
        0.0, float(np.mean([share_with_object(r) for r in readings])) - MAX_OBJECT_SHARE
    )


def select_best(scores: Mapping[str, float], count: int) -> list[str]:
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

    def format(self, scale: float = 100.0) -> str:
        """Format the interval as `5.1 (2.0 to 8.2)`, in per cent or points."""
        if not math.isfinite(self.low):
            return f"{scale * self.value:.1f}"
        return f"{scale * self.value:.1f} ({scale * self.low:.1f} to {scale * self.high:.1f})"


def student_interval(values: Sequence[float]) -> Interval:
    """Return Student's 95 % interval of a mean; without ends for a single value."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return Interval(float(x.mean()), -math.inf, math.inf, len(x))
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def two_way_interval(table: np.ndarray) -> Interval:
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
    residuals = table - mean - by_row[:, None] - by_column[None]
    squares = (
        columns * np.square(by_row).sum() / (rows - 1), rows * np.square(by_column).sum() / (columns - 1),
        np.square(residuals).sum() / ((rows - 1) * (columns - 1)),
    )  # fmt: skip
    variance = max(squares[0] + squares[1] - squares[2], squares[0], squares[1]) / (rows * columns)
    half = float(stats.t.ppf(0.975, min(rows, columns) - 1) * math.sqrt(variance))
    return Interval(mean, mean - half, mean + half, min(rows, columns))


@dataclass(frozen=True)
class Final:
    """The final readings of some classes, for the seeds that every class and row has."""

    classes: tuple[str, ...]
    seeds: tuple[int, ...]
    readings: Mapping[tuple[str, str, int], Reading]
    """Readings by row, class and seed."""

    @classmethod
    def select(cls, readings: Sequence[Reading], classes: Sequence[str]) -> Final:
        """Select readings; classes without readings are left out."""
        readings_by_key = {
            (reading["row"], reading["class"], reading["seed"]): reading
            for reading in readings
            if reading["class"] in classes
        }
        seeds = sorted({seed for _, _, seed in readings_by_key})
        complete_seeds = [
            seed for seed in seeds if all((row, name, seed) in readings_by_key for row in ROWS for name in classes)
        ]
        return cls(tuple(classes), tuple(complete_seeds), readings_by_key)

    def table(self, row: str, measure: Any) -> np.ndarray:
        """Return a measure's values for a row, float (classes, seeds)."""
        return np.array([[measure(self.readings[row, name, seed]) for seed in self.seeds] for name in self.classes])

    def difference(self, first: str, second: str, measure: Any = share_saying_k) -> dict[str, Interval]:
        """Return the first row minus the second, paired by class and seed: over seeds, over classes, and over both."""
        table = self.table(first, measure) - self.table(second, measure)
        found = {"seeds": student_interval(table.mean(0)), "classes": student_interval(table.mean(1))}
        if min(table.shape) > 1:
            found["both"] = two_way_interval(table)
        return found

    def object_share(self, row: str) -> Interval:
        """Return the share of images with a visible object, with equal class weights, clustered by concept."""
        groups = [
            np.concatenate([decode_bits(self.readings[row, name, seed]["object"]) for seed in self.seeds])
            for name in self.classes
        ]
        concepts = [
            np.concatenate([
                np.full(len(self.readings[row, name, seed]["object"]), i * len(self.seeds) + j)
                for j, seed in enumerate(self.seeds)
            ])
            for i, name in enumerate(self.classes)
        ]  # fmt: skip
        interval = intervals.mean(groups, concepts)
        return Interval(interval.value, interval.low, interval.high, len(self.classes) * len(self.seeds))

    def sort_worst_first(self) -> list[str]:
        """Return the classes by their share in the SFSL row, lowest first."""
        shares = dict(zip(self.classes, self.table(SFSL, share_saying_k).mean(1), strict=True))
        return sorted(self.classes, key=lambda name: shares[name])


# --- tables and chart ---------------------------------------------------------------------------------


def _format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows), "",
    ]  # fmt: skip


def format_final(title: str, final: Final) -> list[str]:
    """Return the tables of some classes: rows, differences, classes worst first, judges."""
    if not final.seeds:
        return [f"**{title}**: no seed has all rows of all classes yet.", ""]
    count = f"{len(final.classes)} classes × {len(final.seeds)} seeds"
    images = sum(
        len(reading["object"])
        for (row, _, seed), reading in final.readings.items()
        if row == SFSL and seed in final.seeds
    )
    lines = [
        f"**{title}** ({count}, {images:,} images a row; per cent, in brackets 95 % intervals: of says k over seeds, "
        "of the object with the images of a concept as a cluster)", "",
    ]  # fmt: skip
    head = ["images", "says k", "says k, no object", "object seen", "look seen", "mean p_k", "average precision"]
    rows = []
    for row, text in ROWS.items():
        share = student_interval(final.table(row, share_saying_k).mean(0))
        numbers = [
            f"{final.table(row, make_mean_of(name)).mean():.3f}" for name in ("p", "average_precision", "roc_auc")
        ]
        rows.append([
            text, share.format(), f"{100 * final.table(row, share_clean).mean():.1f}", final.object_share(row).format(),
            f"{100 * final.table(row, share_with_look).mean():.1f}", *numbers,
        ])  # fmt: skip
    lines += _format_table([*head, "ROC-AUC"], rows)
    rows = []
    for first, second in ((SFSL, DREAMBOOTH), (SFSL, REFERENCES), (DREAMBOOTH, REFERENCES)):
        for name, measure in (("says k", share_saying_k), ("object seen", share_with_object)):
            differences = final.difference(first, second, measure)
            cells = [differences[way].format() if way in differences else "" for way in ("seeds", "classes", "both")]
            rows.append([f"{_SHORT[first]} − {_SHORT[second]}, {name}", *cells])
    lines += ["Paired differences, points:", ""]
    lines += _format_table(["", "interval over seeds", "over classes", "over both"], rows)
    rows = []
    for name in final.sort_worst_first():
        class_final = Final((name,), final.seeds, final.readings)
        shares = [f"{100 * class_final.table(row, share_saying_k).mean():.1f}" for row in ROWS]
        gain = class_final.difference(SFSL, DREAMBOOTH)["seeds"].format()
        objects = [f"{100 * class_final.table(row, share_with_object).mean():.1f}" for row in (DREAMBOOTH, SFSL)]
        rows.append([name, *shares, gain, *objects])
    lines += ["By class, worst first:", ""]
    head = ["class", *(f"{_SHORT[row]}, says k" for row in ROWS), "SFSL − DreamBooth"]
    lines += _format_table([*head, "DreamBooth, object", "SFSL, object"], rows)
    judges = list(next(iter(final.readings.values()))["says_k"])
    rows = []
    for judge in judges:
        shares = [
            final.table(row, lambda reading, j=judge: decode_bits(reading["says_k"][j]).mean()).mean() for row in ROWS
        ]
        rows.append([judge, *(f"{100 * share:.1f}" for share in shares)])
    lines += ["By judge, says k:", "", *_format_table(["judge", *_SHORT.values()], rows)]
    return lines


_SHORT = {REFERENCES: "references", UNTOUCHED: "untouched", DREAMBOOTH: "DreamBooth", SFSL: "SFSL"}


def format_selection(chosen: Mapping[str, Any], readings: Sequence[Reading]) -> list[str]:
    """Return the table of the selection's rounds."""
    lines = [
        f"**Selection** (classes {', '.join(chosen['classes'])}; judges {', '.join(chosen['judges'])}). "
        + chosen["rule"], "",
    ]  # fmt: skip
    for family, rounds in chosen["rounds"].items():
        names = list(rounds[0]["scores"])
        rows = []
        for name in names:
            setting_readings = [reading for reading in readings if reading["setting"] == name]
            rows.append([
                f"{name}: {chosen['settings'][name]}",
                *(_format_points(round_["scores"].get(name)) for round_ in rounds),
                f"{100 * np.mean([share_saying_k(reading) for reading in setting_readings]):.1f}"
                if setting_readings else "",
                f"{100 * np.mean([share_with_object(reading) for reading in setting_readings]):.1f}"
                if setting_readings else "", str(len(setting_readings)),
                "**chosen**" if chosen["chosen"][family] == name else "",
            ])  # fmt: skip
        head = [
            _SHORT[family],
            *(f"score, {plural(len(round_['seeds']), 'seed')}" for round_ in rounds),
            "says k",
            "object",
        ]
        lines += _format_table([*head, "concepts", ""], rows)
    return lines


def _format_points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def draw_chart(groups: Mapping[str, Final], samples: Path, out: Path) -> None:
    """Draw one chart: by class, worst first, the share of images predicted as k and the share with a visible object;
    below, images of the first seed.

    Args:
        groups: Readings by title; those without a complete seed are left out.
        samples: The folder with `samples-ROW-CLASS.jpg`.
        out: The output PNG.
    """
    finals = {title: final for title, final in groups.items() if final.seeds}
    names = [(title, name) for title, final in finals.items() for name in final.sort_worst_first()]
    if not names:
        return
    colours = {REFERENCES: "0.45", UNTOUCHED: "0.8", DREAMBOOTH: "#d98032", SFSL: "#2a6fbb"}

    def plot(figure: Any, axes: Any) -> None:
        grid = axes[0, 0].get_gridspec()
        grid.set_height_ratios([1, 1.15])
        for axis, measure, title in zip(
            axes[0], (share_saying_k, share_with_object), ("says k, %", "object seen, %"), strict=True
        ):
            for row, colour in colours.items():
                if measure is share_with_object and row == REFERENCES:
                    continue
                for position, (group, name) in enumerate(names):
                    values = 100 * Final((name,), finals[group].seeds, finals[group].readings).table(row, measure)[0]
                    height = position + 0.18 * (list(colours).index(row) - 1.5)
                    axis.plot([values.min(), values.max()], [height] * 2, color=colour, linewidth=1)
                    label = _SHORT[row] if position == 0 else None
                    axis.plot([values.mean()], [height], "o", color=colour, markersize=4, label=label)
            axis.set_yticks(range(len(names)), [name for _, name in names])
            axis.invert_yaxis()
            axis.set_xlabel(title)
            edge = 0
            for final in list(finals.values())[:-1]:
                edge += len(final.classes)
                axis.axhline(edge - 0.5, color="0.6", linewidth=0.6)
        axes[0, 1].axvline(100 * MAX_OBJECT_SHARE, color="0.6", linewidth=0.8, linestyle="--")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
        axes[0, 0].set_title("mean over seeds, with the range of the seeds", fontsize=8, loc="left")
        axes[0, 1].set_title("; ".join(finals), fontsize=8, loc="left")
        for axis in axes[1]:
            axis.remove()
        below = figure.add_subplot(grid[1, :])
        below.imshow(_montage([name for _, name in names], samples))
        below.axis("off")

    draw_charts(out, (9.5, 9.0), plot, rows=2, columns=2)


def _montage(names: Sequence[str], samples: Path, strip: tuple[int, int] = (192, 64)) -> Image.Image:
    """Combine strips of images, one column for each row of the table and one line for each class."""
    width, height = strip
    left, head, gap = 60, 16, 6
    page = Image.new("RGB", (left + len(ROWS) * (width + gap), head + len(names) * (height + 2)), "white")
    pen = ImageDraw.Draw(page)
    for j, row in enumerate(ROWS):
        pen.text((left + j * (width + gap), 2), _SHORT[row], fill="black")
        for i, name in enumerate(names):
            if j == 0:
                pen.text((2, head + i * (height + 2) + height // 2 - 5), name, fill="black")
            path = samples / f"samples-{row}-{name}.jpg"
            if path.exists():
                with Image.open(path) as image:
                    page.paste(image, (left + j * (width + gap), head + i * (height + 2)))
    return page


def save_samples(pixels: np.ndarray, path: Path, count: int = 3) -> None:
    """Save some images of a row and class side by side.

    Args:
        pixels: uint8 (n, 3, h, w).
    """
    picked = [pixels[i].transpose(1, 2, 0) for i in np.linspace(0, len(pixels) - 1, count).astype(int)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(picked, axis=1)).save(path, quality=90)
