"""Text summary of an audit: the command's output."""

from __future__ import annotations

from typing import Any

from figureground.core.errors import plural

_NAMED = 3


def summarise(report: dict[str, Any]) -> str:
    """Return the findings, worst first, then what couldn't be measured and which groups are small."""
    dataset, tests = report["dataset"], report["tests"]
    splits = ", ".join(f"{split} {n:,}" for split, n in dataset["splits"].items())
    lines = [f"{dataset['name']}: {plural(dataset['samples'], 'image')} ({splits})", ""]
    findings = report["findings"]
    if findings:
        lines += [f"{i}. {finding['text']}" for i, finding in enumerate(findings, 1)]
    else:
        lines.append(f"No finding beyond chance in {plural(tests['count'], 'test')}.")
    lines += ["", *list_notes(report)] if list_notes(report) else []
    return "\n".join(lines)


def list_notes(report: dict[str, Any]) -> list[str]:
    """Return what couldn't be measured, and the groups that are small."""
    lines = []
    for split, labels in report["labels"].items():
        small, count = labels["small_groups"]["smallest"], labels["small_groups"]["count"]
        if count:
            examples = ", ".join(
                f"{group['foreground']} on {group['background']} ({group['images']})" for group in small[:_NAMED]
            )
            ellipsis = ", …" if count > _NAMED else ""
            subject = "cell has" if count == 1 else "cells have"
            lines.append(f"In {split}, {count:,} {subject} fewer than {report['small']} images: {examples}{ellipsis}.")
    return lines + _list_reasons(report)


_TITLES = {
    "labels": "dependence of labels", "regions": "leaks of regions", "whole_image": "appearance of whole images",
    "duplicates": "near-duplicates", "reuse": "reuse", "references": "references", "biases": "biases",
}  # fmt: skip
"""Subject of each section."""


def _list_reasons(report: dict[str, Any]) -> list[str]:
    """Return the reasons for what wasn't measured, each with its places."""
    places_by_reason: dict[str, list[str]] = {}

    def walk(value: Any, place: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("reason"), str):
                places_by_reason.setdefault(value["reason"], []).append(", ".join(place).replace("_", " "))
            for name, item in value.items():
                walk(item, (*place, str(name)))

    for section, title in _TITLES.items():
        walk(report.get(section), (title,))
    return [f"{reason.removesuffix('.')} ({'; '.join(places)})." for reason, places in places_by_reason.items()]
