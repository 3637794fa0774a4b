"""Join datasets into one: classes are unified by name, keys are renumbered, provenance is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, UsageError, join_names, plural
from figureground.core.files import parse_json
from figureground.core.names import RULE, find_same_names
from figureground.curation import copying
from figureground.curation.scores import read_scores
from figureground.data.objects import find_content_hash
from figureground.recipe import document as recipes
from figureground.recipe import sample as samples
from figureground.recipe.sample import Reject, Spec
from figureground.running.directory import claim_directory, describe_progress
from figureground.shards import index
from figureground.shards.card_context import CardContext
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
    sources = _open_sources(directories)
    columns, labels = _unify_columns(sources)
    formats = tuple(kind for kind in sources[0].formats if all(kind in source.formats for source in sources))
    if not formats:
        raise MergeError(
            "The datasets have no format in common: "
            + ", ".join(f"{source.name} has {' and '.join(source.formats)}" for source in sources)
        )
    dropped_formats = {kind for source in sources for kind in source.formats} - set(formats)
    if dropped_formats:
        copying.print_note(
            f"only {' and '.join(formats)}: not all datasets have {join_names(dropped_formats)}.", show_progress
        )
    for source in sources:
        if names := list(read_scores(source.directory)):
            copying.print_note(
                f"scores of {source.name} ({join_names(names)}) aren't copied, because keys change.", show_progress
            )
    _refuse_shared(sources, show_progress)

    parts = _interleave_shards(sources)
    first = _count_earlier(parts, labels)
    total = sum(source.samples for source in sources)
    step = {"did": "merge", "from": [source.lineage_entry() for source in sources], "samples": total}
    marked = [source for source in sources if recipes.is_marked(source.recipe)]
    if 0 < len(marked) < len(sources):
        unmarked = join_names(source.name for source in sources if source not in marked)
        copying.print_note(f"images of {unmarked} don't state that they are generated; the others do.", show_progress)
    recipe = copying.make_recipe("merge", {}, step, sources)

    def results(shard: Shard) -> Iterator[Encoded | Reject]:
        source, part = parts[shard]
        source.verify(part)
        numbers = Counter(first[shard])
        renumber = _make_renumbering(labels[source.name], numbers)
        for reject in source.rejects(part):
            yield Reject(renumber(reject.spec), reject.reason)
        for stored in source.stored(part):
            encoded = stored.encoded()
            spec = renumber(encoded.spec)
            yield dataclasses.replace(
                encoded, spec=spec, provenance=_extend_provenance(encoded.provenance, spec, source)
            )

    shards = list(parts)
    with claim_directory(out, recipe, lambda: describe_progress(out, shards)):
        copying.write_shards(
            out, recipe, shards, results, columns, formats=formats, image_format=sources[0].image_format,
            version=sources[0].version, show_progress=show_progress,
        )  # fmt: skip
        index.finish(
            out, shards, columns, _merge_settings([source.index["card"]["recipe"] for source in sources], sources),
            _merge_facts(sources, recipe["lineage"]), formats=formats, image_format=sources[0].image_format,
            sha256=recipe["sha256"],
        )  # fmt: skip
    return out


def _open_sources(directories: Sequence[Path]) -> list[FinishedDataset]:
    """Open the datasets under unique names."""
    if len(directories) < 2:
        raise UsageError("merge: give two or more datasets.")
    sources: list[FinishedDataset] = []
    for directory in directories:
        base = directory.resolve().name
        used_names = {source.name for source in sources}
        numbered = (base if n == 1 else f"{base}-{n}" for n in range(1, len(directories) + 1))
        source = FinishedDataset(directory, next(name for name in numbered if name not in used_names))
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
    first = sources[0]
    for other in sources[1:]:
        if other.version != first.version:
            older, newer = sorted((first, other), key=lambda source: source.version)
            raise MergeError(
                f"{older.directory} has format {older.version} and {newer.directory} has format {newer.version}, so "
                "source images shared between their splits can't be detected. Rebuild "
                f"{older.directory} with --recipe {older.directory / RECIPE}, and merge the result."
            )


# Conflicts


def _unify_columns(sources: Sequence[FinishedDataset]) -> tuple[Columns, dict[str, tuple[list[int], list[int]]]]:
    """Return the new dataset's columns, and by source the new labels of its foregrounds and its backgrounds.

    Raises:
        MergeError: Columns or image formats differ, or class names are nearly the same.
    """
    first = sources[0]
    for other in sources[1:]:
        first_columns, other_columns = (
            {
                "further labels": {name: list(names) for name, names in source.columns.labels.items()},
                "texts": list(source.columns.texts), "guide": source.columns.guide, "mask": source.columns.mask,
                "image format": source.image_format,
            }
            for source in (first, other)
        )  # fmt: skip
        differing = [
            f"{name}: {first_columns[name]} and {other_columns[name]}"
            for name in first_columns
            if first_columns[name] != other_columns[name]
        ]
        if differing:
            raise MergeError(
                f"{first.name} and {other.name} have different columns, so they can't be merged:\n  "
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
    return dataclasses.replace(first.columns, foregrounds=foregrounds, backgrounds=backgrounds), labels


def _refuse_near_names(what: str, sources: Sequence[FinishedDataset]) -> None:
    """Raise MergeError if two datasets spell a name differently, unless one dataset has both spellings."""
    owners = {name: source for source in reversed(sources) for name in source.names[what]}
    near = [
        f"{one!r} in {owners[one].name} and {other!r} in {owners[other].name}"
        for one, other in find_same_names(name for source in sources for name in source.names[what])
        if not any({one, other} <= set(source.names[what]) for source in sources)
    ]
    if near:
        raise MergeError(
            f"{plural(len(near), f'{what} name')} in two spellings: {'; '.join(near[:5])}. {RULE}. Rebuild one of "
            "the datasets with the other's names."
        )


def _refuse_shared(sources: Sequence[FinishedDataset], show_progress: bool) -> None:
    """Check every image and guide: sizes must match, and no image or source may be shared against the rules of `merge`.

    Raises:
        MergeError: See `merge`.
    """
    images: dict[bytes, tuple[int, str]] = {}
    duplicates: list[str] = []
    uses: dict[str, list[set[str]]] = defaultdict(lambda: [set() for _ in sources])
    sizes: list[Counter[tuple[int, int]]] = [Counter() for _ in sources]
    for n, source in enumerate(sources):
        for shard in copying.read_all(source, show_progress):
            for stored in source.stored(shard):
                image_hash = hashlib.sha256(stored.image).digest()[:16]
                owner, key = images.setdefault(image_hash, (n, stored.key))
                if owner != n:
                    duplicates.append(f"{key} of {sources[owner].name} is {stored.key} of {source.name}")
                sizes[n][open_stored(stored.image).size] += 1
                for content in _content_hashes(parse_json(stored.provenance, f"{stored.key}: its provenance")):
                    uses[content][n].add(shard.split)
    for n, source in enumerate(sources[1:], 1):
        if set(sizes[n]) != set(sizes[0]):
            raise MergeError(
                f"{sources[0].name} has images of {_format_sizes(sizes[0])} and {source.name} of "
                f"{_format_sizes(sizes[n])}, so a classifier could tell the datasets apart. Rebuild one of them with "
                "the other's size."
            )
    if duplicates:
        raise MergeError(
            f"{len(duplicates):,} images are in two datasets: {'; '.join(duplicates[:3])}. Remove them from one of the "
            "datasets with figureground curate, or build one with another seed."
        )
    leaks = [
        f"{content} ({_format_splits(splits, sources)})" for content, splits in sorted(uses.items()) if _is_leak(splits)
    ]
    if leaks:
        raise MergeError(
            f"{len(leaks):,} cut-outs, scenes or photographs are used in different splits by two datasets, so "
            f"training would leak into validation: {'; '.join(leaks[:3])}. Build the datasets with separate "
            "directories for each split."
        )


def _content_hashes(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield the content hashes of the cut-out and scene that a sample starts from."""
    guide = provenance.get("guide") or {}
    for part in ("cutout", "template"):
        if content := find_content_hash(guide, part):
            yield content


def _is_leak(splits: Sequence[set[str]]) -> bool:
    """Whether a source occurs in different splits of two datasets."""
    return any(a and b and len(a | b) > 1 for i, a in enumerate(splits) for b in splits[:i])


def _format_splits(splits: Sequence[set[str]], sources: Sequence[FinishedDataset]) -> str:
    return ", ".join(
        f"{' and '.join(sorted(names))} of {source.name}"
        for names, source in zip(splits, sources, strict=True)
        if names
    )


def _format_sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    return join_names((f"{width}×{height}" for width, height in sorted(sizes)), 3) or "no size"


# The new dataset


def _interleave_shards(sources: Sequence[FinishedDataset]) -> dict[Shard, tuple[FinishedDataset, Shard]]:
    """Return the new dataset's shards with the source shard of each, evenly interleaved within a split."""
    by_split: dict[str, list[tuple[float, int, FinishedDataset, Shard]]] = {}
    for n, source in enumerate(sources):
        for split in dict.fromkeys(shard.split for shard in source.shards):
            split_shards = [shard for shard in source.shards if shard.split == split]
            turns = [((i + 0.5) / len(split_shards), n, source, shard) for i, shard in enumerate(split_shards)]
            by_split.setdefault(split, []).extend(turns)
    return {
        Shard(split, i, len(turns), shard.count): (source, shard)
        for split, turns in by_split.items()
        for i, (_, _, source, shard) in enumerate(sorted(turns, key=lambda turn: turn[:2]))
    }


def _count_earlier(
    parts: Mapping[Shard, tuple[FinishedDataset, Shard]], labels: Mapping[str, tuple[list[int], list[int]]]
) -> dict[Shard, dict[Cell, int]]:
    """Return, for each shard and cell, the number of images in earlier shards: the first number of its keys."""
    totals: Counter[Cell] = Counter()
    first = {}
    for shard, (source, part) in parts.items():
        cells: Counter[Cell] = Counter()
        renumber = _make_renumbering(labels[source.name], cells)
        for reject in source.rejects(part):
            renumber(reject.spec)
        foregrounds, backgrounds = labels[source.name]
        for foreground, background, count in source.marker(part)["cells"]:
            cells[shard.split, foregrounds[foreground], backgrounds[background]] += count
        first[shard] = {cell: totals[cell] for cell in cells}
        totals.update(cells)
    return first


def _make_renumbering(labels: tuple[list[int], list[int]], numbers: Counter[Cell]) -> Callable[[Spec], Spec]:
    """Return a function that gives a Spec the new dataset's labels and the next free key of its cell."""

    def renumber(spec: Spec) -> Spec:
        foreground, background = labels[0][spec.foreground], labels[1][spec.background]
        cell = (spec.split, foreground, background)
        key = samples.make_key(*cell, numbers[cell])
        numbers[cell] += 1
        return dataclasses.replace(spec, key=key, foreground=foreground, background=background)

    return renumber


def _extend_provenance(text: str, spec: Spec, source: FinishedDataset) -> str:
    """Return a sample's provenance with its new key and labels, and its origin under `merged_from`."""
    provenance = parse_json(text, f"{spec.key}: its provenance")
    earlier_merge = {"merged_from": provenance["merged_from"]} if "merged_from" in provenance else {}
    provenance["merged_from"] = {
        "dataset": source.name, "recipe": source.recipe["sha256"], "key": provenance["key"], **earlier_merge,
    }  # fmt: skip
    provenance["labels"] = {**provenance["labels"], "foreground": spec.foreground, "background": spec.background}
    provenance["key"] = spec.key
    return json.dumps(provenance, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _merge_settings(
    settings_by_source: Sequence[Mapping[str, Any]], sources: Sequence[FinishedDataset]
) -> dict[str, Any]:
    """Merge settings of all datasets: one value where they agree, else one per dataset, by its name."""
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for settings in settings_by_source for name in settings):
        values = [settings.get(name) for settings in settings_by_source]
        all_equal = all(value == values[0] for value in values)
        merged[name] = (
            values[0] if all_equal else {source.name: value for source, value in zip(sources, values, strict=True)}
        )  # fmt: skip
    return merged


def _merge_facts(sources: Sequence[FinishedDataset], lineage: Sequence[Mapping[str, Any]]) -> CardContext:
    """Combine the card contexts of the datasets, without duplicates."""
    contexts = [source.facts for source in sources]

    def all_of(name: str) -> list[Any]:
        items: list[Any] = []
        for context in contexts:
            items += [item for item in getattr(context, name) if item not in items]
        return items

    numerics = [dict(context.numerics) for context in contexts]
    mixed_numerics = [entry for settings in numerics for entry in settings.pop("mixed", [])]
    versions = [dict(settings.pop("versions", {})) for settings in numerics]
    checkpoints = [context.checkpoint for context in contexts if context.checkpoint]
    checkpoint_fields = dict.fromkeys(name for checkpoint in checkpoints for name in checkpoint)
    return dataclasses.replace(
        contexts[0],
        title=" + ".join(dict.fromkeys(context.title for context in contexts)),
        builder=" + ".join(dict.fromkeys(context.builder for context in contexts)),
        summary="\n\n".join(dict.fromkeys(context.summary for context in contexts)),
        citation="\n\n".join(dict.fromkeys(context.citation for context in contexts)),
        numerics={
            **_merge_settings(numerics, sources),
            **({"versions": _merge_settings(versions, sources)} if any(versions) else {}),
            "mixed": mixed_numerics,
        },
        limits=list(dict.fromkeys([*all_of("limits"), SHUFFLE])),
        uses=all_of("uses"),
        misuses=all_of("misuses"),
        concepts=all_of("concepts"),
        checkpoint={
            name: " and ".join(
                dict.fromkeys(str(checkpoint[name]) for checkpoint in checkpoints if checkpoint.get(name))
            )
            for name in checkpoint_fields
        },
        sources=all_of("sources"),
        credits=all_of("credits"),
        lineage=list(lineage),
    )
