"""Join datasets into one: classes are unified by name, keys are renumbered, provenance is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, UsageError, counted, listed
from figureground.core.files import parse_json
from figureground.core.names import RULE, same_names
from figureground.curation import copying
from figureground.curation.scores import read_scores
from figureground.recipe import document as recipes
from figureground.recipe import sample as samples
from figureground.recipe.sample import Reject, Spec
from figureground.running.directory import claim_directory, describe_progress
from figureground.shards import index
from figureground.shards.card import CardContext
from figureground.shards.columns import Columns
from figureground.shards.finished import FinishedDataset, refuse_overlap
from figureground.shards.samples import Encoded
from figureground.shards.shard import RECIPE, Shard
from figureground.sources.images import open_stored

SHUFFLE = "The dataset was merged from several, and each shard comes from one of them: shuffle shards when you train."

Cell = tuple[str, int, int]
"""Split, foreground, background."""


class MergeError(FiguregroundError):
    """Datasets can't be merged."""


def merge(directories: Sequence[Path], out: Path, *, show_progress: bool = True) -> Path:
    """Join finished datasets into a new one, or resume the merge.

    Splits and classes of the same name become one. Labels follow the order of the first dataset, then the classes that
    the others add. Keys are renumbered. A sample's provenance is kept, and gains `merged_from` with the source
    dataset, its recipe hash and the original key. Shards of the datasets are interleaved, so the first few cover all of
    them. Samples stay in their shards, so training should shuffle the shards.

    All images are read twice: first to search for conflicts, then to copy the shards.

    Args:
        directories: Two or more finished datasets; they aren't changed.
        out: Directory of the new dataset: new, or one where the same merge was started.
        show_progress: Whether to show a progress bar and notes.

    Returns:
        `out`.

    Raises:
        UsageError: Fewer than two datasets are given, or one of them twice.
        MergeError: Format versions, columns, image formats or sizes differ; a class has two spellings (see
            `core.names`); two datasets share an image; or a cut-out, scene or photograph is used in different
            splits by two datasets.
        FiguregroundError: A dataset isn't finished or is damaged, or `out` holds something else.
    """
    directories, out = [Path(directory) for directory in directories], Path(out)
    refuse_overlap(out, directories)
    sources = _open(directories)
    columns, labels = _unified(sources)
    formats = tuple(kind for kind in sources[0].formats if all(kind in source.formats for source in sources))
    if not formats:
        raise MergeError(
            "The datasets have no format in common: "
            + ", ".join(f"{source.name} has {' and '.join(source.formats)}" for source in sources)
        )
    left_out = {kind for source in sources for kind in source.formats} - set(formats)
    if left_out:
        copying.say(f"only {' and '.join(formats)}: not all datasets have {listed(left_out)}.", show_progress)
    for source in sources:
        if names := list(read_scores(source.directory)):
            copying.say(f"scores of {source.name} ({listed(names)}) aren't copied, because keys change.", show_progress)
    _compare(sources, show_progress)

    parts = _turns(sources)
    first = _first_numbers(parts, sources, labels)
    total = sum(source.samples for source in sources)
    step = {"did": "merge", "from": [source.told() for source in sources], "samples": total}
    marked = [source for source in sources if recipes.is_marked(source.recipe)]
    if 0 < len(marked) < len(sources):
        unmarked = listed(source.name for source in sources if source not in marked)
        copying.say(f"images of {unmarked} don't state that they are generated; the others do.", show_progress)
    recipe = copying.recipe_of("merge", {}, step, sources)

    def results(shard: Shard) -> Iterator[Encoded | Reject]:
        source, part = parts[shard]
        source.verify(part)
        numbers = Counter(first[shard])
        new = _renumbered(labels[source.name], numbers)
        for reject in source.rejects(part):
            yield Reject(new(reject.spec), reject.reason)
        for stored in source.stored(part):
            old = stored.encoded()
            spec = new(old.spec)
            yield dataclasses.replace(old, spec=spec, provenance=_provenance(old.provenance, spec, source))

    shards = list(parts)
    with claim_directory(out, recipe, lambda: describe_progress(out, shards)):
        copying.write_shards(
            out, recipe, shards, results, columns, formats=formats, image_format=sources[0].image_format,
            version=sources[0].version, show_progress=show_progress,
        )  # fmt: skip
        index.finish(
            out, shards, columns, _together([source.index["card"]["recipe"] for source in sources], sources),
            _facts(sources, recipe["lineage"]), formats=formats, image_format=sources[0].image_format,
            sha256=recipe["sha256"],
        )  # fmt: skip
    return out


def _open(directories: Sequence[Path]) -> list[FinishedDataset]:
    """Open the datasets under unique names."""
    if len(directories) < 2:
        raise UsageError("merge: give two or more datasets.")
    sources: list[FinishedDataset] = []
    for directory in directories:
        base = directory.resolve().name
        taken = {source.name for source in sources}
        numbered = (base if n == 1 else f"{base}-{n}" for n in range(1, len(directories) + 1))
        source = FinishedDataset(directory, next(name for name in numbered if name not in taken))
        for other in sources:
            if other.identity() == source.identity():
                raise UsageError(f"merge: {other.directory} and {directory} are the same dataset. Give it once.")
        sources.append(source)
    _refuse_versions(sources)
    return sources


def _refuse_versions(sources: Sequence[FinishedDataset]) -> None:
    """Refuse datasets of different format versions, because their source images can't be compared.

    Ids of cut-outs, scenes and photographs contain a hash: of the file's bytes in format 1, of its pixels since. So
    an image in the training split of one dataset and the validation split of another would not be detected.
    """
    one = sources[0]
    for other in sources[1:]:
        if other.version != one.version:
            older, newer = sorted((one, other), key=lambda source: source.version)
            raise MergeError(
                f"{older.directory} has format {older.version} and {newer.directory} has format {newer.version}, so "
                "source images shared between their splits can't be detected. Rebuild "
                f"{older.directory} with --recipe {older.directory / RECIPE}, and merge the result."
            )


# Conflicts


def _unified(sources: Sequence[FinishedDataset]) -> tuple[Columns, dict[str, tuple[list[int], list[int]]]]:
    """Return the new dataset's columns, and by source the new labels of its foregrounds and its backgrounds.

    Raises:
        MergeError: Columns or image formats differ, or class names are nearly the same.
    """
    one = sources[0]
    for other in sources[1:]:
        mine, theirs = (
            {
                "further labels": {name: list(names) for name, names in each.columns.labels.items()},
                "texts": list(each.columns.texts), "guide": each.columns.guide, "mask": each.columns.mask,
                "image format": each.image_format,
            }
            for each in (one, other)
        )  # fmt: skip
        differing = [f"{name}: {mine[name]} and {theirs[name]}" for name in mine if mine[name] != theirs[name]]
        if differing:
            raise MergeError(
                f"{one.name} and {other.name} have different columns, so they can't be merged:\n  "
                + "\n  ".join(differing)
            )
    for what in ("foreground", "background"):
        _refuse_near_names(what, sources)
    foregrounds = list(dict.fromkeys(name for source in sources for name in source.columns.foregrounds))
    backgrounds = list(dict.fromkeys(name for source in sources for name in source.columns.backgrounds))
    labels = {
        source.name: (
            [foregrounds.index(name) for name in source.columns.foregrounds],
            [backgrounds.index(name) for name in source.columns.backgrounds],
        )
        for source in sources
    }
    return dataclasses.replace(one.columns, foregrounds=foregrounds, backgrounds=backgrounds), labels


def _refuse_near_names(what: str, sources: Sequence[FinishedDataset]) -> None:
    """Raise MergeError if two datasets spell a name differently, unless one dataset has both spellings."""
    owners = {name: source for source in reversed(sources) for name in source.names[what]}
    near = [
        f"{one!r} in {owners[one].name} and {other!r} in {owners[other].name}"
        for one, other in same_names(name for source in sources for name in source.names[what])
        if not any({one, other} <= set(source.names[what]) for source in sources)
    ]
    if near:
        raise MergeError(
            f"{counted(len(near), f'{what} name')} in two spellings: {'; '.join(near[:5])}. {RULE}. Rebuild one of "
            "the datasets with the other's names."
        )


def _compare(sources: Sequence[FinishedDataset], show_progress: bool) -> None:
    """Check every image and guide: sizes must match, and no image or source may be shared against the rules of `merge`.

    Raises:
        MergeError: See `merge`.
    """
    images: dict[bytes, tuple[int, str]] = {}
    same: list[str] = []
    uses: dict[str, list[set[str]]] = defaultdict(lambda: [set() for _ in sources])
    sizes: list[Counter[tuple[int, int]]] = [Counter() for _ in sources]
    for n, source in enumerate(sources):
        for shard in copying.read_all(source, show_progress):
            for stored in source.stored(shard):
                digest = hashlib.sha256(stored.image).digest()[:16]
                owner, key = images.setdefault(digest, (n, stored.key))
                if owner != n:
                    same.append(f"{key} of {sources[owner].name} is {stored.key} of {source.name}")
                sizes[n][open_stored(stored.image).size] += 1
                for content in _contents(parse_json(stored.provenance, f"{stored.key}: its provenance")):
                    uses[content][n].add(shard.split)
    for n, source in enumerate(sources[1:], 1):
        if set(sizes[n]) != set(sizes[0]):
            raise MergeError(
                f"{sources[0].name} has images of {_sizes(sizes[0])} and {source.name} of {_sizes(sizes[n])}, so a "
                "classifier could tell the datasets apart. Rebuild one of them with the other's size."
            )
    if same:
        raise MergeError(
            f"{len(same):,} images are in two datasets: {'; '.join(same[:3])}. Remove them from one of the datasets "
            "with figureground curate, or build one with another seed."
        )
    leaks = [f"{content} ({_where(splits, sources)})" for content, splits in sorted(uses.items()) if _leaks(splits)]
    if leaks:
        raise MergeError(
            f"{len(leaks):,} cut-outs, scenes or photographs are used in different splits by two datasets, so "
            f"training would leak into validation: {'; '.join(leaks[:3])}. Build the datasets with separate "
            "directories for each split."
        )


def _contents(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield the content hashes of the cut-out and scene that a sample starts from."""
    guide = provenance.get("guide") or {}
    for part in ("cutout", "template"):
        _, at, content = str(guide.get(part) or "").rpartition("@")
        if at and content:
            yield content


def _leaks(splits: Sequence[set[str]]) -> bool:
    """Whether a source occurs in different splits of two datasets."""
    return any(a and b and len(a | b) > 1 for i, a in enumerate(splits) for b in splits[:i])


def _where(splits: Sequence[set[str]], sources: Sequence[FinishedDataset]) -> str:
    return ", ".join(
        f"{' and '.join(sorted(some))} of {source.name}" for some, source in zip(splits, sources, strict=True) if some
    )


def _sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    return listed((f"{width}×{height}" for width, height in sorted(sizes)), 3) or "no size"


# The new dataset


def _turns(sources: Sequence[FinishedDataset]) -> dict[Shard, tuple[FinishedDataset, Shard]]:
    """Return the new dataset's shards with the source shard of each, evenly interleaved within a split."""
    by_split: dict[str, list[tuple[float, int, FinishedDataset, Shard]]] = {}
    for n, source in enumerate(sources):
        for split in dict.fromkeys(shard.split for shard in source.shards):
            mine = [shard for shard in source.shards if shard.split == split]
            turns = [((i + 0.5) / len(mine), n, source, shard) for i, shard in enumerate(mine)]
            by_split.setdefault(split, []).extend(turns)
    return {
        Shard(split, i, len(turns), shard.count): (source, shard)
        for split, turns in by_split.items()
        for i, (_, _, source, shard) in enumerate(sorted(turns, key=lambda turn: turn[:2]))
    }


def _first_numbers(
    parts: Mapping[Shard, tuple[FinishedDataset, Shard]],
    sources: Sequence[FinishedDataset],
    labels: Mapping[str, tuple[list[int], list[int]]],
) -> dict[Shard, dict[Cell, int]]:
    """Return, for each shard and cell, the number of images in earlier shards: the first number of its keys."""
    counted: Counter[Cell] = Counter()
    first = {}
    for shard, (source, part) in parts.items():
        cells: Counter[Cell] = Counter()
        new = _renumbered(labels[source.name], cells)
        for reject in source.rejects(part):
            new(reject.spec)
        foregrounds, backgrounds = labels[source.name]
        for foreground, background, count in source.marker(part)["cells"]:
            cells[shard.split, foregrounds[foreground], backgrounds[background]] += count
        first[shard] = {cell: counted[cell] for cell in cells}
        counted.update(cells)
    return first


def _renumbered(labels: tuple[list[int], list[int]], numbers: Counter[Cell]) -> Callable[[Spec], Spec]:
    """Return a function that gives a Spec the new dataset's labels and the next free key of its cell."""

    def new(spec: Spec) -> Spec:
        foreground, background = labels[0][spec.foreground], labels[1][spec.background]
        cell = (spec.split, foreground, background)
        key = samples.key(*cell, numbers[cell])
        numbers[cell] += 1
        return dataclasses.replace(spec, key=key, foreground=foreground, background=background)

    return new


def _provenance(text: str, spec: Spec, source: FinishedDataset) -> str:
    """Return a sample's provenance with its new key and labels, and its origin under `merged_from`."""
    said = parse_json(text, f"{spec.key}: its provenance")
    earlier = {"merged_from": said["merged_from"]} if "merged_from" in said else {}
    said["merged_from"] = {
        "dataset": source.name, "recipe": source.recipe["sha256"], "key": said["key"], **earlier,
    }  # fmt: skip
    said["labels"] = {**said["labels"], "foreground": spec.foreground, "background": spec.background}
    said["key"] = spec.key
    return json.dumps(said, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _together(each: Sequence[Mapping[str, Any]], sources: Sequence[FinishedDataset]) -> dict[str, Any]:
    """Merge settings of all datasets: one value where they agree, else one per dataset, by its name."""
    together: dict[str, Any] = {}
    for name in dict.fromkeys(name for settings in each for name in settings):
        values = [settings.get(name) for settings in each]
        alike = all(value == values[0] for value in values)
        together[name] = (
            values[0] if alike else {source.name: value for source, value in zip(sources, values, strict=True)}
        )  # fmt: skip
    return together


def _facts(sources: Sequence[FinishedDataset], lineage: Sequence[Mapping[str, Any]]) -> CardContext:
    """Combine the card contexts of the datasets, without duplicates."""
    facts = [source.facts for source in sources]

    def all_of(name: str) -> list[Any]:
        found: list[Any] = []
        for fact in facts:
            found += [item for item in getattr(fact, name) if item not in found]
        return found

    numerics = [dict(fact.numerics) for fact in facts]
    mixed = [other for some in numerics for other in some.pop("mixed", [])]
    versions = [dict(some.pop("versions", {})) for some in numerics]
    checkpoints = [fact.checkpoint for fact in facts if fact.checkpoint]
    named = dict.fromkeys(name for checkpoint in checkpoints for name in checkpoint)
    return dataclasses.replace(
        facts[0],
        title=" + ".join(dict.fromkeys(fact.title for fact in facts)),
        builder=" + ".join(dict.fromkeys(fact.builder for fact in facts)),
        summary="\n\n".join(dict.fromkeys(fact.summary for fact in facts)),
        citation="\n\n".join(dict.fromkeys(fact.citation for fact in facts)),
        numerics={
            **_together(numerics, sources),
            **({"versions": _together(versions, sources)} if any(versions) else {}),
            "mixed": mixed,
        },
        limits=list(dict.fromkeys([*all_of("limits"), SHUFFLE])),
        uses=all_of("uses"),
        misuses=all_of("misuses"),
        concepts=all_of("concepts"),
        checkpoint={
            name: " and ".join(dict.fromkeys(str(each[name]) for each in checkpoints if each.get(name)))
            for name in named
        },
        sources=all_of("sources"),
        credits=all_of("credits"),
        lineage=list(lineage),
    )
