"""Sections of an audit that need no model: labels, duplicates, reuse. Each returns its report and its findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from figureground.auditing.dependence import Dependence, dependence
from figureground.auditing.duplicates import Alike, groups_alike, reuse
from figureground.auditing.findings import LEVEL, MOST_KEYS, Finding
from figureground.auditing.probe import TooFew
from figureground.auditing.samples import Samples
from figureground.checking import similar
from figureground.core.errors import counted, listed

MOST_GROUPS = 200
"""Maximum number of small groups, or of groups of near-duplicates, in the report."""
NAMED = 3
"""Maximum number of examples in a sentence."""

Section = tuple[dict[str, Any], list[Finding], list[float]]
"""Report, JSON; candidates for findings; p-values of all tests."""


def of_labels(samples: Samples, small: int) -> Section:
    """Report the dependence of the labels in each split, and the groups with fewer than `small` images."""
    report: dict[str, Any] = {}
    findings, tests = [], []
    for at, split in enumerate(samples.splits):
        rows = np.flatnonzero(samples.split == at)
        foreground, background = samples.foreground[rows], samples.background[rows]
        shape = len(samples.foregrounds), len(samples.backgrounds)
        counts = np.bincount(foreground * shape[1] + background, minlength=shape[0] * shape[1]).reshape(shape)
        told: dict[str, Any] = {"images": len(rows), "small_groups": _small_groups(samples, counts, small)}
        report[split] = told
        try:
            found = dependence(foreground, background, samples.objects[rows], shape)
        except TooFew as reason:
            told["reason"] = f"Not measured: {reason}."
            continue
        tests.append(found.p)
        told |= {"cramers_v": found.v._asdict(), "chance": found.chance, "p": found.p}
        findings.append(_dependent(samples, split, rows, found))
    return report, findings, tests


def _small_groups(samples: Samples, counts: np.ndarray, small: int) -> dict[str, Any]:
    """Return the number of cells with fewer than `small` images, and the smallest; labels must occur elsewhere."""
    cells = [
        (int(counts[f, b]), f, b)
        for f in np.flatnonzero(counts.sum(1)) for b in np.flatnonzero(counts.sum(0)) if counts[f, b] < small
    ]  # fmt: skip
    smallest = [
        {"foreground": samples.foregrounds[f], "background": samples.backgrounds[b], "images": n}
        for n, f, b in sorted(cells)[:MOST_GROUPS]
    ]
    return {"count": len(cells), "smallest": smallest}


def _dependent(samples: Samples, split: str, rows: np.ndarray, found: Dependence) -> Finding:
    deviation = found.counts - found.expected
    likely = np.argsort(found.cell_p.ravel() - 1e-9 * np.abs(deviation).ravel(), kind="stable")
    cells = [divmod(int(cell), found.counts.shape[1]) for cell in likely[:NAMED]]
    cells = [cell for i, cell in enumerate(cells) if i == 0 or found.cell_p[cell] <= LEVEL / 2]
    said = [
        f"{samples.foregrounds[f]} on {samples.backgrounds[b]}, {counted(int(found.counts[f, b]), 'image')} instead of "
        f"{found.expected[f, b]:.1f}"
        for f, b in cells
    ]
    f, b = cells[0]
    own = rows[(samples.foreground[rows] == f) & (samples.background[rows] == b)]
    others = rows[(samples.foreground[rows] == f) & (samples.background[rows] != b)]
    v = found.v
    return Finding(
        "dependence",
        f"In {split}, foreground and background depend on each other: Cramér's V is {v.value:.2f} ({v.low:.2f} to "
        f"{v.high:.2f}; independent labels would give {found.chance:.2f} by chance). Furthest from independence: "
        f"{'; '.join(said)}.",
        effect=v.value, classes=(samples.foregrounds[f], samples.backgrounds[b]), keys=_keys(samples, own),
        beside=_keys(samples, others, MOST_KEYS // 2), p=found.p,
        numbers={"split": split, "cramers_v": v._asdict(),
                 "cells": [{"foreground": samples.foregrounds[f], "background": samples.backgrounds[b],
                            "images": int(found.counts[f, b]), "expected": float(found.expected[f, b])}
                           for f, b in cells]},
    )  # fmt: skip


def of_duplicates(samples: Samples, hashes: Sequence[bytes] | None) -> Section:
    """Report near-duplicates within and across splits. They are facts, so no test is made."""
    how = {"method": "perceptual hash", "bits": similar.BITS, "at_most": similar.NEAR}
    if hashes is None:
        missing = "Not measured: imagehash is missing (pip install 'figureground[check]')."
        return {**how, "reason": missing}, [], []
    groups = groups_alike(hashes)
    across = [group for group in groups if len(np.unique(samples.split[list(group.rows)])) > 1]
    within = [group for group in groups if len(np.unique(samples.split[list(group.rows)])) == 1]
    report: dict[str, Any] = dict(how)
    findings = []
    for name, some in (("across_splits", across), ("within_splits", within)):
        report[name] = {
            "groups": len(some), "images": sum(len(group.rows) for group in some),
            "examples": [{"keys": [samples.keys[row] for row in group.rows[:MOST_KEYS]], "bits": group.bits}
                         for group in some[:MOST_GROUPS]],
        }  # fmt: skip
        if some:
            findings.append(_alike(samples, some, name == "across_splits"))
    return report, findings, []


def _alike(samples: Samples, groups: Sequence[Alike], across: bool) -> Finding:
    rows = [row for group in groups for row in group.rows]
    classes = sorted({samples.foregrounds[samples.foreground[row]] for row in rows})
    such = "; ".join(
        f"{' and '.join(samples.keys[row] for row in group.rows[:NAMED])} ({group.bits} bits apart)"
        for group in groups[:NAMED]
    )
    where = "in different splits" if across else "within a split"
    why = "memorisation passes for generalisation" if across else "they count twice"
    smallest = min(int((samples.split == at).sum()) for at in np.unique(samples.split[rows]))
    return Finding(
        "near_duplicates",
        f"{counted(len(rows), 'image')} of {listed(classes, NAMED)} look alike {where}, so that {why}: {such}.",
        effect=min(1.0, len(rows) / (2 if across else 1) / smallest), classes=tuple(classes),
        keys=_keys(samples, np.array(rows)), numbers={"groups": len(groups), "images": len(rows), "across": across},
    )  # fmt: skip


def of_reuse(samples: Samples) -> Section:
    """Report how often cut-outs and scenes are used, and name those that several splits use."""
    report: dict[str, Any] = {}
    findings = []
    for name, noun, ids in (("cutouts", "cut-out", samples.cutouts), ("scenes", "scene", samples.templates)):
        found = reuse(ids, samples.split)
        if found is None:
            report[name] = {"reason": f"Not measured: no image was made from a {noun}."}
            continue
        shared = [
            {"id": id, "images": len(rows), "splits": _splits(samples, np.array(rows))}
            for id, rows in list(found.shared.items())[:MOST_GROUPS]
        ]
        report[name] = {
            "sources": found.sources, "images": found.images, "most": found.most, "shared": len(found.shared),
            "shared_by_splits": shared,
        }  # fmt: skip
        if found.shared:
            findings.append(_shared(samples, name, noun, found.shared))
    return report, findings, []


def _shared(samples: Samples, name: str, noun: str, shared: dict[str, tuple[int, ...]]) -> Finding:
    rows = np.array([row for some in shared.values() for row in some])
    if name == "cutouts":
        classes = [samples.foregrounds[k] for k in np.unique(samples.foreground[rows])]
    else:
        classes = [samples.backgrounds[k] for k in np.unique(samples.background[rows])]
    such = listed([id.partition("@")[0] for id in shared], NAMED)
    parts = [
        int((samples.split[rows] == at).sum()) / int((samples.split == at).sum())
        for at in np.unique(samples.split[rows])
    ]
    return Finding(
        "reuse",
        f"{counted(len(shared), noun)} of {listed(classes, NAMED)} {'is' if len(shared) == 1 else 'are'} used in "
        f"{' and in '.join(_splits(samples, rows))}, so these splits aren't independent: {such}.",
        effect=min(parts), classes=tuple(classes), keys=_one_each(samples, shared),
        numbers={"what": name, "shared": len(shared)},
    )  # fmt: skip


def _splits(samples: Samples, rows: np.ndarray) -> list[str]:
    return [samples.splits[at] for at in np.unique(samples.split[rows])]


def _one_each(samples: Samples, shared: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return keys that show shared sources: for each, one image of each split."""
    rows: list[int] = []
    for some in shared.values():
        _, first = np.unique(samples.split[list(some)], return_index=True)
        rows += [some[i] for i in first]
    return _keys(samples, np.array(rows, np.int64))


def _keys(samples: Samples, rows: np.ndarray, most: int = MOST_KEYS) -> tuple[str, ...]:
    return tuple(samples.keys[row] for row in rows[:most])
