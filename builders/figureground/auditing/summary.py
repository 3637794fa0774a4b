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
        if small := told["small_groups"]:
            such = ", ".join(
                f"{each['foreground']} on {each['background']} ({each['images']})" for each in small[:_NAMED]
            )
            more = ", …" if len(small) > _NAMED else ""
            what = "cell has" if len(small) == 1 else "cells have"
            lines.append(f"In {split}, {len(small)} {what} fewer than {report['small']} images: {such}{more}.")
    return lines + _reasons(report)


def _reasons(report: dict[str, Any]) -> list[str]:
    """Return the reasons for what wasn't measured, each with its place."""
    titles = {
        "labels": "Dependence of labels in {}", "regions": "Leaks of {}", "whole_image": "Look of whole images by {}",
        "duplicates": "Near-duplicates", "reuse": "Reuse of {}", "references": "References, {}", "biases": "Biases, {}",
    }  # fmt: skip
    found: dict[str, list[str]] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("reason"), str):
                place = titles[path[0]].format(", ".join(path[1:])) if path[1:] else titles[path[0]].split(" {}")[0]
                found.setdefault(value["reason"], []).append(place.removesuffix(" of").removesuffix(","))
            for name, each in value.items():
                walk(each, (*path, str(name)))

    for section in titles:
        walk(report.get(section), (section,))
    return [f"{'; '.join(places)}: {reason[0].lower()}{reason[1:]}" for reason, places in found.items()]
