"""Text summary of an audit: the command's output."""

from __future__ import annotations

from typing import Any

from figureground.core.errors import counted

_NAMED = 3


def summarise(report: dict[str, Any]) -> str:
    """Return the findings, worst first, then what couldn't be measured and which groups are small."""
    dataset, tests = report["dataset"], report["tests"]
    splits = ", ".join(f"{split} {n:,}" for split, n in dataset["splits"].items())
    lines = [f"{dataset['name']}: {counted(dataset['samples'], 'image')} ({splits})", ""]
    found = report["findings"]
    if found:
        lines += [f"{i}. {finding['text']}" for i, finding in enumerate(found, 1)]
    else:
        lines.append(f"No finding beyond chance in {counted(tests['count'], 'test')}.")
    lines += ["", *notes(report)] if notes(report) else []
    return "\n".join(lines)


def notes(report: dict[str, Any]) -> list[str]:
    """Return what couldn't be measured, and the groups that are small."""
    lines = []
    for split, told in report["labels"].items():
        small, count = told["small_groups"]["smallest"], told["small_groups"]["count"]
        if count:
            such = ", ".join(
                f"{each['foreground']} on {each['background']} ({each['images']})" for each in small[:_NAMED]
            )
            more = ", …" if count > _NAMED else ""
            what = "cell has" if count == 1 else "cells have"
            lines.append(f"In {split}, {count:,} {what} fewer than {report['small']} images: {such}{more}.")
    return lines + _reasons(report)


_TITLES = {
    "labels": "dependence of labels", "regions": "leaks of regions", "whole_image": "appearance of whole images",
    "duplicates": "near-duplicates", "reuse": "reuse", "references": "references", "biases": "biases",
}  # fmt: skip
"""Subject of each section."""


def _reasons(report: dict[str, Any]) -> list[str]:
    """Return the reasons for what wasn't measured, each with its places."""
    found: dict[str, list[str]] = {}

    def walk(value: Any, place: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("reason"), str):
                found.setdefault(value["reason"], []).append(", ".join(place).replace("_", " "))
            for name, each in value.items():
                walk(each, (*place, str(name)))

    for section, title in _TITLES.items():
        walk(report.get(section), (title,))
    return [f"{reason.removesuffix('.')} ({'; '.join(places)})." for reason, places in found.items()]
