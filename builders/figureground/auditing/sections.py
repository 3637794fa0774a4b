"""Sections of an audit that need no model: labels, duplicates, reuse. Each returns its report and its findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from figureground.auditing.dependence import Dependence, measure_dependence
from figureground.auditing.duplicates import DuplicateGroup, count_reuse, find_duplicates
from figureground.auditing.findings import LEVEL, MAX_KEYS, Finding, Section
from figureground.auditing.probe import TooFew
from figureground.auditing.samples import Samples
from figureground.checking import similar
from figureground.core.errors import join_names, plural
from figureground.core.extras import hint

MAX_GROUPS = 200
"""Maximum number of small groups, or of groups of near-duplicates, in the report."""
NAMED = 3
"""Maximum number of examples in a sentence."""


def report_labels(samples: Samples, small: int) -> Section:
    """Report the dependence of the labels in each split, and the groups with fewer than `small` images."""
    report: dict[str, Any] = {}
    findings, tests = [], []
    for number, split in enumerate(samples.splits):
        rows = np.flatnonzero(samples.split == number)
        foreground, background = samples.foreground[rows], samples.background[rows]
        shape = len(samples.foregrounds), len(samples.backgrounds)
        counts = np.bincount(foreground * shape[1] + background, minlength=shape[0] * shape[1]).reshape(shape)
        summary: dict[str, Any] = {"images": len(rows), "small_groups": _small_groups(samples, counts, small)}
        report[split] = summary
        try:
            result = measure_dependence(foreground, background, samples.objects[rows], shape)
        except TooFew as reason:
            summary["reason"] = f"Not measured: {reason}."
            continue
        tests.append(result.p)
        summary |= {"cramers_v": result.v._asdict(), "chance": result.chance, "p": result.p}
        findings.append(_describe_dependence(samples, split, rows, result))
    return Section(report, findings, tests)


def _small_groups(samples: Samples, counts: np.ndarray, small: int) -> dict[str, Any]:
    """Return the number of cells with fewer than `small` images, and the smallest; labels must occur elsewhere."""
    cells = [
        (int(counts[f, b]), f, b)
        for f in np.flatnonzero(counts.sum(1)) for b in np.flatnonzero(counts.sum(0)) if counts[f, b] < small
    ]  # fmt: skip
    smallest = [
        {"foreground": samples.foregrounds[f], "background": samples.backgrounds[b], "images": n}
        for n, f, b in sorted(cells)[:MAX_GROUPS]
    ]
    return {"count": len(cells), "smallest": smallest}


def _describe_dependence(samples: Samples, split: str, rows: np.ndarray, dependence: Dependence) -> Finding:
    deviation = dependence.counts - dependence.expected
    order = np.argsort(dependence.cell_p.ravel() - 1e-9 * np.abs(deviation).ravel(), kind="stable")
    cells = [divmod(int(cell), dependence.counts.shape[1]) for cell in order[:NAMED]]
    cells = [cell for i, cell in enumerate(cells) if i == 0 or dependence.cell_p[cell] <= LEVEL / 2]
    examples = [
        f"{samples.foregrounds[f]} on {samples.backgrounds[b]}, {plural(int(dependence.counts[f, b]), 'image')} "
        f"instead of {dependence.expected[f, b]:.1f}"
        for f, b in cells
    ]
    f, b = cells[0]
    own = rows[(samples.foreground[rows] == f) & (samples.background[rows] == b)]
    others = rows[(samples.foreground[rows] == f) & (samples.background[rows] != b)]
    v = dependence.v
    return Finding(
        "dependence",
        f"In {split}, foreground and background depend on each other: Cramér's V is {v.value:.2f} ({v.low:.2f} to "
        f"{v.high:.2f}; independent labels would give {dependence.chance:.2f} by chance). Furthest from independence: "
        f"{'; '.join(examples)}.",
        effect=v.value, classes=(samples.foregrounds[f], samples.backgrounds[b]), keys=_list_keys(samples, own),
        beside=_list_keys(samples, others, MAX_KEYS // 2), p=dependence.p,
        numbers={"split": split, "cramers_v": v._asdict(),
                 "cells": [{"foreground": samples.foregrounds[f], "background": samples.backgrounds[b],
                            "images": int(dependence.counts[f, b]), "expected": float(dependence.expected[f, b])}
                           for f, b in cells]},
    )  # fmt: skip


def report_duplicates(samples: Samples, hashes: Sequence[bytes] | None) -> Section:
    """Report near-duplicates within and across splits. They are facts, so no test is made."""
    method = {"method": "perceptual hash", "bits": similar.BITS, "at_most": similar.NEAR}
    if hashes is None:
        missing = f"Not measured: imagehash is missing ({hint('imagehash')})."
        return Section({**method, "reason": missing})
    groups = find_duplicates(hashes)
    across = [group for group in groups if len(np.unique(samples.split[list(group.rows)])) > 1]
    within = [group for group in groups if len(np.unique(samples.split[list(group.rows)])) == 1]
    report: dict[str, Any] = dict(method)
    findings = []
    for name, selected in (("across_splits", across), ("within_splits", within)):
        report[name] = {
            "groups": len(selected), "images": sum(len(group.rows) for group in selected),
            "examples": [{"keys": [samples.keys[row] for row in group.rows[:MAX_KEYS]], "bits": group.bits}
                         for group in selected[:MAX_GROUPS]],
        }  # fmt: skip
        if selected:
            findings.append(_describe_duplicates(samples, selected, name == "across_splits"))
    return Section(report, findings)


def _describe_duplicates(samples: Samples, groups: Sequence[DuplicateGroup], across: bool) -> Finding:
    rows = [row for group in groups for row in group.rows]
    classes = sorted({samples.foregrounds[samples.foreground[row]] for row in rows})
    examples = "; ".join(
        f"{' and '.join(samples.keys[row] for row in group.rows[:NAMED])} ({group.bits} bits apart)"
        for group in groups[:NAMED]
    )
    where = "in different splits" if across else "within a split"
    why = "memorisation passes for generalisation" if across else "they count twice"
    smallest = min(int((samples.split == number).sum()) for number in np.unique(samples.split[rows]))
    return Finding(
        "near_duplicates",
        f"{plural(len(rows), 'image')} of {join_names(classes, NAMED)} look alike {where}, so that {why}: {examples}.",
        effect=min(1.0, len(rows) / (2 if across else 1) / smallest), classes=tuple(classes),
        keys=_list_keys(samples, np.array(rows)),
        numbers={"groups": len(groups), "images": len(rows), "across": across},
    )  # fmt: skip


def report_reuse(samples: Samples) -> Section:
    """Report how often cut-outs and scenes are used, and name those that several splits use."""
    report: dict[str, Any] = {}
    findings = []
    for name, noun, ids in (("cutouts", "cut-out", samples.cutouts), ("scenes", "scene", samples.templates)):
        result = count_reuse(ids, samples.split)
        if result is None:
            report[name] = {"reason": f"Not measured: no image was made from a {noun}."}
            continue
        shared = [
            {"id": id, "images": len(rows), "splits": _name_splits(samples, np.array(rows))}
            for id, rows in list(result.shared.items())[:MAX_GROUPS]
        ]
        report[name] = {
            "sources": result.sources, "images": result.images, "most": result.most, "shared": len(result.shared),
            "shared_by_splits": shared,
        }  # fmt: skip
        if result.shared:
            findings.append(_describe_reuse(samples, name, noun, result.shared))
    return Section(report, findings)


def _describe_reuse(samples: Samples, name: str, noun: str, shared: dict[str, tuple[int, ...]]) -> Finding:
    rows = np.array([row for images in shared.values() for row in images])
    if name == "cutouts":
        classes = [samples.foregrounds[k] for k in np.unique(samples.foreground[rows])]
    else:
        classes = [samples.backgrounds[k] for k in np.unique(samples.background[rows])]
    examples = join_names([id.partition("@")[0] for id in shared], NAMED)
    split_shares = [
        int((samples.split[rows] == number).sum()) / int((samples.split == number).sum())
        for number in np.unique(samples.split[rows])
    ]
    return Finding(
        "reuse",
        f"{plural(len(shared), noun)} of {join_names(classes, NAMED)} {'is' if len(shared) == 1 else 'are'} used in "
        f"{' and in '.join(_name_splits(samples, rows))}, so these splits aren't independent: {examples}.",
        effect=min(split_shares), classes=tuple(classes), keys=_choose_examples(samples, shared),
        numbers={"what": name, "shared": len(shared)},
    )  # fmt: skip


def _name_splits(samples: Samples, rows: np.ndarray) -> list[str]:
    return [samples.splits[number] for number in np.unique(samples.split[rows])]


def _choose_examples(samples: Samples, shared: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return keys that show shared sources: for each, one image of each split."""
    rows: list[int] = []
    for images in shared.values():
        _, first = np.unique(samples.split[list(images)], return_index=True)
        rows += [images[i] for i in first]
    return _list_keys(samples, np.array(rows, np.int64))


def _list_keys(samples: Samples, rows: np.ndarray, limit: int = MAX_KEYS) -> tuple[str, ...]:
    return tuple(samples.keys[row] for row in rows[:limit])
