"""Panels of SCGS: what misled the classifier in a sample's source, and the clusters of its errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from figureground.core.errors import counted
from figureground.methods.panels.drawing import heat, tint
from figureground.methods.panels.maps import ATTENTION_MAPS, read_map, row_name, share_inside
from figureground.methods.panels.panel import Draw, Missing, Panel, draw_panel, lost_stage, no_stage
from figureground.methods.panels.repaint import (
    JOBS,
    MASKS,
    Judged,
    group_of,
    read_judged,
    read_region,
    read_source,
    read_stage,
    share_of,
    shares,
    source_facts,
    stages_of,
    told,
)

if TYPE_CHECKING:
    from figureground.methods.scgs import SCGS

ERRORS, CLUSTERS = "errors", "clusters"
"""Stages with the classifier's predictions and with the clusters of its errors."""
MEMBERS = 6
"""Images shown of each cluster, those nearest to its centre."""
MOST_CLUSTERS = 24
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
    attention = cache(partial(_attention, method, directory, key))
    draws: dict[str, Draw] = {
        "source": source,
        "attention": lambda: heat(source(), attention()),
        "region": lambda: tint(source(), region()),
        "mask": region,
    }
    if provenance.get("mask") != "attention":
        del draws["attention"]
    panel = draw_panel("Source and repainted region", draws, _facts(method, directory, provenance))
    there = {picture.title: picture.image for picture in panel.pictures}
    facts = [*panel.facts]
    if "mask" in there:
        facts.append(("area of the region", f"{share_of(there['mask']):.1%} of the image"))
    if {"attention", "mask"} <= there.keys():
        inside = share_inside(attention(), there["mask"])
        facts.append(("attention inside the region", f"{inside:.1%}"))
    return [
        panel._replace(facts=tuple(facts)),
        Panel("Cluster of errors", (), tuple(_cluster_facts(method, directory, provenance))),
    ]


def _attention(method: SCGS, directory: Path, key: str) -> Image.Image:
    """Return the attention map of a source, L; see `read_map`.

    Raises:
        Missing: The stage is missing, the source is none of it, or it recorded no maps.
        UnreadableImage: The file is missing or damaged.
    """
    if read_stage(method, directory, MASKS) is None:
        raise no_stage(MASKS)
    if key not in method.rows:
        raise Missing(f"{key} is not in the training split of {method.data.name}")
    return read_map(stages_of(directory) / MASKS / ATTENTION_MAPS, row_name(method.rows[key]))


def _facts(method: SCGS, directory: Path, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [*source_facts(provenance), ("predicted as", str(provenance.get("predicted", "unknown")))]
    row = method.rows.get(str(provenance.get("source", "")))
    judged = read_judged(method, directory, ERRORS)
    if judged is None:
        facts.append(lost_stage(ERRORS))
    elif row is not None:
        facts.append(("probability of the prediction", f"{judged.probability[row]:.3f}"))
    region = {"attended": "the region", "complement": "all but the region"}
    how = str(provenance.get("mask", "unknown"))
    cut = "" if how != "attention" else f", cut by {method.config.threshold}"
    if how == "attention" and method.config.threshold == "quantile":
        cut += f" {method.config.quantile:g}"
    facts.append(("repainted", f"{region.get(str(provenance.get('repaint')), 'unknown')}: {how}{cut}"))
    if "scene" in provenance:
        facts.append(("scene of the prompt", str(provenance["scene"])))
    return facts


def _cluster_facts(method: SCGS, directory: Path, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    clusters = read_clusters(method, directory)
    if clusters is None:
        return [("cluster", str(provenance.get("cluster", "unknown"))), lost_stage(CLUSTERS)]
    row = method.rows.get(str(provenance.get("source", "")))
    for each in clusters:
        if row in each.rows:
            place = each.rows.index(row) + 1
            own = [("place of the source", f"{place} of {len(each.rows)}, by distance from the centre")]
            return [*_describe(method, each, read_judged(method, directory, ERRORS)), *own]
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


def _describe(method: SCGS, cluster: Cluster, judged: Judged | None) -> list[tuple[str, str]]:
    classes, rows = method.data.classes, list(cluster.rows)
    facts = [
        ("cluster", f"{cluster.number} of class {classes[cluster.label]}, which has {cluster.of}"),
        ("size", counted(len(rows), "error")),
    ]
    if judged is None:
        facts.append(lost_stage(ERRORS))
    else:
        facts.append(("predicted as", told(Counter(classes[label] for label in judged.predicted[rows].tolist()))))
    if method.train.a is not None:
        facts.append(("groups", told(Counter(group_of(method, row) for row in rows))))
    return facts


# The overview


def overview(method: SCGS, directory: Path) -> list[Panel]:
    """Return the error set, and the largest clusters."""
    clusters = read_clusters(method, directory)
    judged = read_judged(method, directory, ERRORS)
    jobs = read_stage(method, directory, JOBS)
    facts = _error_set(method, judged, jobs)
    if clusters is None:
        return [Panel("Errors of the classifier", (), (*facts, lost_stage(CLUSTERS)))]
    shown = sorted(clusters, key=lambda each: (-len(each.rows), each.label, each.number))[:MOST_CLUSTERS]
    count = counted(len(clusters), "cluster")
    facts.append(("clusters", count if len(shown) == len(clusters) else f"{count}, of which {len(shown)} are shown"))
    panels = [
        _cluster_panel(method, each, judged, jobs) for each in sorted(shown, key=lambda each: (each.label, each.number))
    ]
    return [Panel("Errors of the classifier", (), tuple(facts)), *panels]


def _error_set(method: SCGS, judged: Judged | None, jobs: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if judged is None:
        facts.append(lost_stage(ERRORS))
    else:
        wrong = np.flatnonzero(judged.predicted != judged.y).tolist()
        every = range(len(judged.y))
        facts.append(
            ("errors", f"{len(wrong):,} of {counted(len(every), 'training image')} ({len(wrong) / len(every):.1%})")
        )
        groups = [group_of(method, row) for row in every]
        facts += [(f"errors in {name}", n) for name, n in shares((groups[row] for row in wrong), groups)]
    if jobs is None:
        return [*facts, lost_stage(JOBS)]
    said = jobs["told"]
    for name in ("precision", "recall"):
        if (value := said["error_set"].get(name)) is not None:
            facts.append((f"{name} for groups against the bias", f"{value:.1%}"))
    for name, reasons in said["dropped"].items():
        facts.append((f"left out of {name}", ", ".join(f"{n:,} ({reason})" for reason, n in reasons.items())))
    return facts


def _cluster_panel(method: SCGS, cluster: Cluster, judged: Judged | None, jobs: Mapping[str, Any] | None) -> Panel:
    classes, keys = method.data.classes, method.train.keys
    facts = _describe(method, cluster, judged)[1:]
    if jobs is not None:
        mine = {keys[row] for row in cluster.rows}
        made = Counter(job["source"] for job in jobs["jobs"] if job["source"] in mine)
        facts.append(("images to make", f"{made.total():,} from {counted(len(made), 'source')}"))
    draws: dict[str, Draw] = {}
    for row in cluster.rows[:MEMBERS]:
        said = "" if judged is None else f", predicted as {classes[int(judged.predicted[row])]}"
        draws[f"{keys[row]}{said}"] = partial(read_source, method, keys[row])
    return draw_panel(f"Cluster {cluster.number} of class {classes[cluster.label]}", draws, facts)
