"""Panels of SCGS: what misled the classifier in a sample's source, and the clusters of its errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from figureground.core.errors import plural
from figureground.methods.panels.drawing import overlay_map, tint
from figureground.methods.panels.maps import ATTENTION_MAPS, read_map, row_name, share_inside
from figureground.methods.panels.panel import Draw, Missing, Panel, draw_panel, missing_stage_error, missing_stage_fact
from figureground.methods.panels.repaint import (
    JOBS,
    MASKS,
    SavedPredictions,
    format_counts,
    format_shares,
    group_of,
    masked_share,
    read_predictions,
    read_region,
    read_source,
    read_stage,
    source_facts,
)
from figureground.shards.shard import STAGES

if TYPE_CHECKING:
    from figureground.methods.scgs import SCGS

ERRORS, CLUSTERS = "errors", "clusters"
"""Stages with the classifier's predictions and with the clusters of its errors."""
MEMBERS = 6
"""Images shown of each cluster, those nearest to its centre."""
MAX_CLUSTERS = 24
"""Maximum number of clusters shown, the largest of them."""


class Cluster(NamedTuple):
    """A cluster of a class's errors."""

    label: int
    """The class."""
    number: int
    of: int
    """Number of the class's clusters."""
    rows: Sequence[int]
    """Rows in the training split, nearest to the centre first."""


def sample_panels(method: SCGS, directory: Path, provenance: Mapping[str, Any]) -> list[Panel]:
    """Return the panels of a sample."""
    key = str(provenance.get("source", ""))
    source = cache(partial(read_source, method, key))
    region = cache(partial(read_region, method, directory, key))
    attention = cache(partial(_read_attention, method, directory, key))
    draws: dict[str, Draw] = {
        "source": source,
        "attention": lambda: overlay_map(source(), attention()),
        "region": lambda: tint(source(), region()),
        "mask": region,
    }
    if provenance.get("mask") != "attention":
        del draws["attention"]
    panel = draw_panel("Source and repainted region", draws, _sample_facts(method, directory, provenance))
    images = {picture.title: picture.image for picture in panel.pictures}
    facts = [*panel.facts]
    if "mask" in images:
        facts.append(("area of the region", f"{masked_share(images['mask']):.1%} of the image"))
    if {"attention", "mask"} <= images.keys():
        inside = share_inside(attention(), images["mask"])
        facts.append(("attention inside the region", f"{inside:.1%}"))
    return [
        panel._replace(facts=tuple(facts)),
        Panel("Cluster of errors", (), tuple(_cluster_facts(method, directory, provenance))),
    ]


def _read_attention(method: SCGS, directory: Path, key: str) -> Image.Image:
    """Return the attention map of a source, L; see `read_map`.

    Raises:
        Missing: The stage is missing, the source is none of it, or it recorded no maps.
        UnreadableImage: The file is missing or damaged.
    """
    if read_stage(method, directory, MASKS) is None:
        raise missing_stage_error(MASKS)
    if key not in method.rows:
        raise Missing(f"{key} is not in the training split of {method.data.name}")
    return read_map(directory / STAGES / MASKS / ATTENTION_MAPS, row_name(method.rows[key]))


def _sample_facts(method: SCGS, directory: Path, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [*source_facts(provenance), ("predicted as", str(provenance.get("predicted", "unknown")))]
    row = method.rows.get(str(provenance.get("source", "")))
    predictions = read_predictions(method, directory, ERRORS)
    if predictions is None:
        facts.append(missing_stage_fact(ERRORS))
    elif row is not None:
        facts.append(("probability of the prediction", f"{predictions.probability[row]:.3f}"))
    region = {"attended": "the region", "complement": "all but the region"}
    mask = str(provenance.get("mask", "unknown"))
    threshold = "" if mask != "attention" else f", cut by {method.config.threshold}"
    if mask == "attention" and method.config.threshold == "quantile":
        threshold += f" {method.config.quantile:g}"
    facts.append(("repainted", f"{region.get(str(provenance.get('repaint')), 'unknown')}: {mask}{threshold}"))
    if "scene" in provenance:
        facts.append(("scene of the prompt", str(provenance["scene"])))
    return facts


def _cluster_facts(method: SCGS, directory: Path, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    clusters = read_clusters(method, directory)
    if clusters is None:
        return [("cluster", str(provenance.get("cluster", "unknown"))), missing_stage_fact(CLUSTERS)]
    row = method.rows.get(str(provenance.get("source", "")))
    for cluster in clusters:
        if row in cluster.rows:
            position = cluster.rows.index(row) + 1
            own = [("place of the source", f"{position} of {len(cluster.rows)}, by distance from the centre")]
            return [*_describe_cluster(method, cluster, read_predictions(method, directory, ERRORS)), *own]
    return [("cluster", "missing: the source is in none")]


def read_clusters(method: SCGS, directory: Path) -> list[Cluster] | None:
    """Return the clusters of all classes; None if their stage is missing."""
    facts = read_stage(method, directory, CLUSTERS)
    if facts is None:
        return None
    return [
        Cluster(int(label), number, len(each["rows"]), rows)
        for label, each in facts.items()
        for number, rows in enumerate(each["rows"])
    ]


def _describe_cluster(method: SCGS, cluster: Cluster, predictions: SavedPredictions | None) -> list[tuple[str, str]]:
    classes, rows = method.data.classes, list(cluster.rows)
    facts = [
        ("cluster", f"{cluster.number} of class {classes[cluster.label]}, which has {cluster.of}"),
        ("size", plural(len(rows), "error")),
    ]
    if predictions is None:
        facts.append(missing_stage_fact(ERRORS))
    else:
        facts.append(
            ("predicted as", format_counts(Counter(classes[label] for label in predictions.predicted[rows].tolist())))
        )
    if method.train.a is not None:
        facts.append(("groups", format_counts(Counter(group_of(method, row) for row in rows))))
    return facts


# The overview


def overview(method: SCGS, directory: Path) -> list[Panel]:
    """Return the error set, and the largest clusters."""
    clusters = read_clusters(method, directory)
    predictions = read_predictions(method, directory, ERRORS)
    jobs = read_stage(method, directory, JOBS)
    facts = _error_set_facts(method, predictions, jobs)
    if clusters is None:
        return [Panel("Errors of the classifier", (), (*facts, missing_stage_fact(CLUSTERS)))]
    largest = sorted(clusters, key=lambda cluster: (-len(cluster.rows), cluster.label, cluster.number))[:MAX_CLUSTERS]
    count = plural(len(clusters), "cluster")
    facts.append(
        ("clusters", count if len(largest) == len(clusters) else f"{count}, of which {len(largest)} are shown")
    )
    panels = [
        _cluster_panel(method, cluster, predictions, jobs)
        for cluster in sorted(largest, key=lambda cluster: (cluster.label, cluster.number))
    ]
    return [Panel("Errors of the classifier", (), tuple(facts)), *panels]


def _error_set_facts(
    method: SCGS, predictions: SavedPredictions | None, jobs: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if predictions is None:
        facts.append(missing_stage_fact(ERRORS))
    else:
        wrong = np.flatnonzero(predictions.predicted != predictions.y).tolist()
        rows = range(len(predictions.y))
        facts.append(
            ("errors", f"{len(wrong):,} of {plural(len(rows), 'training image')} ({len(wrong) / len(rows):.1%})")
        )
        groups = [group_of(method, row) for row in rows]
        facts += [(f"errors in {name}", n) for name, n in format_shares((groups[row] for row in wrong), groups)]
    if jobs is None:
        return [*facts, missing_stage_fact(JOBS)]
    summary = jobs["told"]
    for name in ("precision", "recall"):
        if (value := summary["error_set"].get(name)) is not None:
            facts.append((f"{name} for groups against the bias", f"{value:.1%}"))
    for name, reasons in summary["dropped"].items():
        facts.append((f"left out of {name}", ", ".join(f"{n:,} ({reason})" for reason, n in reasons.items())))
    return facts


def _cluster_panel(
    method: SCGS, cluster: Cluster, predictions: SavedPredictions | None, jobs: Mapping[str, Any] | None
) -> Panel:
    classes, keys = method.data.classes, method.train.keys
    facts = _describe_cluster(method, cluster, predictions)[1:]
    if jobs is not None:
        cluster_keys = {keys[row] for row in cluster.rows}
        sources = Counter(job["source"] for job in jobs["jobs"] if job["source"] in cluster_keys)
        facts.append(("images to make", f"{sources.total():,} from {plural(len(sources), 'source')}"))
    draws: dict[str, Draw] = {}
    for row in cluster.rows[:MEMBERS]:
        suffix = "" if predictions is None else f", predicted as {classes[int(predictions.predicted[row])]}"
        draws[f"{keys[row]}{suffix}"] = partial(read_source, method, keys[row])
    return draw_panel(f"Cluster {cluster.number} of class {classes[cluster.label]}", draws, facts)
