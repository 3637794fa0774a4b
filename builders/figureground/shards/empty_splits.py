"""Checks for datasets, splits and extensions of which every image was rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from figureground.core.errors import FiguregroundError, plural

REMEDIES = {
    "safety-flagged": "If they are harmless, build in a new directory without the safety checker: --set safety=off.",
    "non-finite": "Use a dtype that overflows less easily: --set dtype=float32.",
    "flat": "Images of one color mean that the checkpoint doesn't fit its settings, such as size, scheduler or "
    "guidance_scale, or that it is damaged.",
}
"""Advice by reject reason, for when all images were rejected."""


class NothingLeft(FiguregroundError):
    """Raised when every image was rejected."""


def describe_rejects(rejects: Mapping[str, int]) -> str:
    """Return reject reasons with their counts, most frequent first: `3 flat, 1 non-finite`."""
    return ", ".join(f"{n:,} {reason}" for reason, n in Counter(rejects).most_common())


def advise(rejects: Mapping[str, int]) -> str:
    """Return advice for the given reject reasons, one sentence each."""
    return " ".join(REMEDIES[reason] for reason, _ in Counter(rejects).most_common() if reason in REMEDIES)


def explain_empty(index: Mapping[str, Any]) -> str | None:
    """Describe an index, or a sum of markers, that has no sample; None if it has samples."""
    if index["samples"]:
        return None
    return f"no image is left: all {index['planned']:,} were rejected ({describe_rejects(index['rejects'])})."


def describe_empty_splits(index: Mapping[str, Any]) -> list[str]:
    """Return one sentence per split of which every image was rejected."""
    return [
        f"the split {name!r} is empty: {_phrase_all(split['planned'])} rejected ({describe_rejects(split['rejects'])})."
        for name, split in index["splits"].items()
        if split["planned"] and not split["samples"]
    ]


def describe_empty_extension(index: Mapping[str, Any]) -> str | None:
    """Describe the last extension if every image in it was rejected, else None."""
    last = max((shard["part"] for shard in index["shards"]), default=0)
    added = [shard for shard in index["shards"] if shard["part"] == last]
    if not last or any(shard["samples"] for shard in added):
        return None
    rejects = _sum_rejects(added)
    return f"extension {last} added nothing: {_phrase_all(rejects.total())} rejected ({describe_rejects(rejects)})."


def refuse_empty(index: Mapping[str, Any], where: str) -> None:
    """Raise NothingLeft if an index has no sample.

    Args:
        where: The dataset's directory, for the error.
    """
    if problem := explain_empty(index):
        raise NothingLeft(
            f"{where}: {problem} No index and no card are written. {advise(index['rejects'])} "
            "Build in a new directory.",
        )


def refuse_empty_parts(index: Mapping[str, Any], where: str) -> None:
    """Raise NothingLeft if a split or the last extension has no sample, although the rest is a valid dataset.

    Args:
        where: The dataset's directory, for the error.
    """
    extension = describe_empty_extension(index)
    problems = [*describe_empty_splits(index), *([extension] if extension else [])]
    if problems:
        advice = advise(index["rejects"])
        raise NothingLeft(
            f"{where} is finished, but {' '.join(problems)} load_dataset can't read a split without images. {advice} "
            "Build in a new directory, or leave the split out of the recipe."
        )


def _phrase_all(planned: int) -> str:
    return f"its only {plural(planned, 'image')} was" if planned == 1 else f"all {plural(planned, 'image')} were"


def _sum_rejects(shards: Sequence[Mapping[str, Any]]) -> Counter[str]:
    rejects: Counter[str] = Counter()
    for shard in shards:
        rejects.update(shard["rejects"])
    return rejects
