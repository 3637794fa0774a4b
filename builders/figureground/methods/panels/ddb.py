"""Panels of DDB: the object that was repainted in a sample's source, its scores, and what pruning drops."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, plural
from figureground.core.files import MAX_JSON_BYTES, FileError, read_text
from figureground.methods.panels.drawing import colour, draw_histogram, tint
from figureground.methods.panels.maps import ATTRIBUTION_MAPS, read_map
from figureground.methods.panels.panel import Draw, Missing, Panel, draw_panel, missing_stage_fact
from figureground.methods.panels.repaint import (
    JOBS,
    format_shares,
    masked_share,
    read_region,
    read_source,
    read_stage,
    source_facts,
)
from figureground.recipe.sample import parse_labels
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import SCORES, STAGES
from figureground.sources.images import open_stored

if TYPE_CHECKING:
    from figureground.methods.ddb import DDB

SOURCES = "sources"
"""Stage that chooses the images of the lowest loss."""
PRUNING_SCORES = ("probability", "attribution_ratio")
"""Scores that pruning compares with thresholds."""
SHOWN = 12
"""Maximum number of dropped images shown."""
HIGHEST_RATIO = 4.0
"""Upper end of the histogram of attribution ratios, unless a threshold is higher; the last bar holds higher ones."""


class Score(NamedTuple):
    """Scores of an image; see `ddb.SCORE_COLUMNS`."""

    probability: float
    attribution: float
    area: float
    attribution_ratio: float
    predicted: str


def sample_panels(method: DDB, directory: Path, provenance: Mapping[str, Any]) -> list[Panel]:
    """Return the panels of a sample."""
    key = str(provenance.get("source", ""))
    source = cache(partial(read_source, method, key))
    region = cache(partial(read_region, method, directory, key))
    draws: dict[str, Draw] = {"source": source, "region": lambda: tint(source(), region()), "mask": region}
    facts = [
        *source_facts(provenance),
        ("painted class", str(provenance.get("foreground", "unknown"))),
        ("scene", "the source's own"),
        ("found by", str(provenance.get("segmenter", "unknown"))),
        *([("learned word", str(provenance["token"]))] if "token" in provenance else []),
        *_loss_facts(method, directory, key),
    ]
    panel = draw_panel("Source and repainted object", draws, facts)
    masks = [picture.image for picture in panel.pictures if picture.title == "mask"]
    area = [("area of the region", f"{masked_share(mask):.1%} of the image") for mask in masks]
    return [
        panel._replace(facts=(*panel.facts, *area)),
        _pruning_panel(method, directory, provenance),
    ]


def _pruning_panel(method: DDB, directory: Path, provenance: Mapping[str, Any]) -> Panel:
    """Return the scores of a sample, and where in the image the painted class's logit comes from."""
    key = str(provenance.get("key", ""))
    facts = _score_facts(method, directory, provenance)
    if facts[0][0] == "scores":  # nothing has been scored yet
        return Panel("Pruning", (), tuple(facts))

    def attribution() -> Image.Image:
        return colour(read_map(directory / STAGES / ATTRIBUTION_MAPS, key))

    return draw_panel("Pruning", {"attribution": attribution}, facts)


def _loss_facts(method: DDB, directory: Path, key: str) -> list[tuple[str, str]]:
    """Return the source's loss and its place among the sources of its class."""
    facts, row = read_stage(method, directory, SOURCES), method.rows.get(key)
    if facts is None:
        return [missing_stage_fact(SOURCES)]
    for label, rows in facts["rows"].items():
        if row in rows:
            position = rows.index(row)
            loss, count = facts["losses"][label][position], plural(len(rows), "source")
            text = f"{loss:.3g}, place {position + 1} of the class's {count}"
            return [("loss of the source", text)]
    return []


def _score_facts(method: DDB, directory: Path, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    try:
        score = read_scores(directory).get(str(provenance.get("key")))
    except Missing as error:
        return [("scores", f"missing: {error}")]
    if score is None:
        return [("scores", f"missing: {SCORES}/ddb.csv has no row of this image")]
    name = str(provenance.get("foreground", ""))
    facts = [
        (f"probability of {name}", f"{score.probability:.3f}{_format_threshold(method, 'probability', name)}"),
        ("predicted as", score.predicted),
        ("attribution inside the region", f"{score.attribution:.1%}, on {score.area:.1%} of the image"),
        ("attribution ratio", f"{score.attribution_ratio:.3g}{_format_threshold(method, 'attribution_ratio', name)}"),
    ]
    failed = find_failed_scores(method, score, name)
    return [*facts, ("pruning", f"drops it: low {' and '.join(failed)}" if failed else "keeps it")]


def _format_threshold(method: DDB, score: str, name: str) -> str:
    threshold = method.threshold(score, name)
    return " (no threshold)" if threshold is None else f" (threshold {threshold:g})"


def find_failed_scores(method: DDB, score: Score, name: str) -> list[str]:
    """Return the scores, in words, that are below the thresholds of a painted class; empty if the image is kept."""
    thresholds = {column: method.threshold(column, name) for column in PRUNING_SCORES}
    return [
        column.replace("_", " ")
        for column, threshold in thresholds.items()
        if threshold is not None and not getattr(score, column) >= threshold
    ]


def read_scores(directory: Path) -> dict[str, Score]:
    """Return the scores by key; callers must not change them.

    Raises:
        Missing: The file is missing or damaged.
    """
    path = directory / SCORES / "ddb.csv"
    try:
        status = path.stat()
        return _read_unchanged(path, status.st_mtime_ns, status.st_size)
    except FileNotFoundError:
        raise Missing(f"{SCORES}/ddb.csv is not there; a build writes it after its last image") from None
    except (OSError, FileError) as error:
        reason = error.reason if isinstance(error, FileError) else error.strerror
        raise Missing(f"{SCORES}/ddb.csv: {reason}") from None


@lru_cache(maxsize=2)
def _read_unchanged(path: Path, modified: int, size: int) -> dict[str, Score]:
    """Read scores; the file's time of modification and size are part of the cache's key."""
    scores = {}
    try:
        for row in csv.DictReader(io.StringIO(read_text(path, max_bytes=MAX_JSON_BYTES))):
            probability, attribution, area, ratio = (float(row[name]) for name in Score._fields[:-1])
            scores[row["key"]] = Score(probability, attribution, area, ratio, row["predicted"])
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(path, f"it holds no scores ({type(error).__name__}: {error})") from None
    return scores


# The overview


def overview(method: DDB, directory: Path) -> list[Panel]:
    """Return what pruning drops, and some of the dropped images."""
    try:
        scores = read_scores(directory)
    except Missing as error:
        return [Panel("What pruning drops", (), (("scores", f"missing: {error}"),))]
    foregrounds, backgrounds = method.data.classes, method.backgrounds()
    names = {}
    for key in scores:
        labels = parse_labels(key)
        if labels and labels[0] < len(foregrounds) and labels[1] < len(backgrounds):
            names[key] = (foregrounds[labels[0]], backgrounds[labels[1]])
    failed_scores = {key: find_failed_scores(method, scores[key], name) for key, (name, _) in names.items()}
    dropped = [key for key, reason in failed_scores.items() if reason]
    facts = [("rule", method.pruning_rule()), ("dropped", _format_share(len(dropped), len(names)))]
    facts += [
        (f"low {reason}", plural(n, "image"))
        for reason, n in Counter(w for key in dropped for w in failed_scores[key]).items()
    ]
    classes = {key: name for key, (name, _) in names.items()}
    facts += [
        (f"dropped of {name}", n)
        for name, n in format_shares((classes[key] for key in dropped), list(classes.values()))
    ]
    if len(backgrounds) > 1:
        groups = {key: f"{name} × {scene}" for key, (name, scene) in names.items()}
        all_groups = list(groups.values())
        facts += [
            (f"dropped of {name}", share) for name, share in format_shares((groups[key] for key in dropped), all_groups)
        ]
    facts += _left_out_facts(method, directory)
    draws: dict[str, Draw] = {
        f"{column.replace('_', ' ')}: kept in blue, dropped in orange": partial(
            _draw_distribution, method, column, [getattr(scores[key], column) for key in names],
            [column.replace("_", " ") in failed_scores[key] for key in names],
        )
        for column in PRUNING_SCORES
        if names
    }  # fmt: skip
    panels = [draw_panel("What pruning drops", draws, facts)]
    return [*panels, _dropped_panel(directory, dropped, scores, classes)] if dropped else panels


def _format_share(n: int, total: int) -> str:
    return f"{n:,} of {plural(total, 'image')} ({n / max(1, total):.1%})"


def _left_out_facts(method: DDB, directory: Path) -> list[tuple[str, str]]:
    """Return how many sources had no usable mask, by class."""
    jobs = read_stage(method, directory, JOBS)
    if jobs is None:
        return [missing_stage_fact(JOBS)]
    return [
        (f"sources left out of {name}", ", ".join(f"{n:,} ({reason})" for reason, n in reasons.items()))
        for name, reasons in jobs["told"]["dropped"].items()
    ]


def _draw_distribution(method: DDB, score: str, values: Sequence[float], dropped: Sequence[bool]) -> Image.Image:
    """Draw the distribution of a score with the thresholds of all classes."""
    limits = [method.threshold(score, name) for name in method.data.classes]
    thresholds = [threshold for threshold in limits if threshold is not None]
    finite = [value if math.isfinite(value) else HIGHEST_RATIO for value in values]
    if score == "probability":
        return draw_histogram(finite, dropped, thresholds, 1.0)
    upper = min(HIGHEST_RATIO, math.ceil(max(finite)))
    return draw_histogram(finite, dropped, thresholds, max(1.0, upper, *(1.25 * threshold for threshold in thresholds)))


def _dropped_panel(
    directory: Path, dropped: Sequence[str], scores: Mapping[str, Score], classes: Mapping[str, str]
) -> Panel:
    """Return a panel of dropped images, evenly chosen by the probability of their class."""
    ordered = sorted(dropped, key=lambda key: (scores[key].probability, key))
    positions = np.unique(np.linspace(0, len(ordered) - 1, min(SHOWN, len(ordered))).round().astype(int))
    chosen = [ordered[position] for position in positions.tolist()]
    images = read_images(directory, chosen)

    def draw(key: str) -> Image.Image:
        if key not in images:
            raise Missing("the image is not in the dataset, or its shard can't be read")
        return images[key]

    draws = {
        f"{key}, {classes[key]}: probability {scores[key].probability:.3f}, ratio {scores[key].attribution_ratio:.3g}":
        partial(draw, key)
        for key in chosen
    }  # fmt: skip
    return draw_panel("Images that pruning drops", draws, [("shown", f"{len(chosen)} of {len(dropped):,}")])


def read_images(directory: Path, keys: Sequence[str]) -> dict[str, Image.Image]:
    """Return images of a finished dataset by key, RGB, without those that can't be read."""
    requested, images = set(keys), {}
    try:
        dataset = FinishedDataset(directory)
        for shard in dataset.shards:
            reader = dataset.reader(shard)
            rows = [i for i, row in enumerate(reader.columns_of((), ("key",))) if row["key"] in requested]
            for stored in reader.samples(rows) if rows else ():
                images[stored.key] = open_stored(stored.image).convert("RGB")
            if len(images) == len(requested):
                break
    except (FiguregroundError, OSError, ValueError):
        pass
    return images
