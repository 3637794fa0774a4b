"""What occurs twice in a dataset: keys, images, and inputs of several splits; and near-duplicates between splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from figureground.checking import similar
from figureground.checking.shard import ShardContents
from figureground.checking.wording import MAX_NAMED, advise_rebuild
from figureground.core.errors import join_names, plural
from figureground.core.extras import hint
from figureground.shards.shard import Shard


def find_repeated_keys(contents: Sequence[ShardContents]) -> Iterator[str]:
    """Yield a finding for each two shards that have keys in common."""
    keys = _Digests(contents, [shard_contents.keys for shard_contents in contents])
    repeated: dict[tuple[Shard, Shard], list[str]] = {}
    for first_position, position in keys.find_equal():
        repeated.setdefault((keys.shard(first_position), keys.shard(position)), []).append(keys.key(first_position))
    for (first, second), names in repeated.items():
        subject = f"The key {names[0]} occurs" if len(names) == 1 else f"{len(names)} keys occur"
        examples = f": {join_names(names, MAX_NAMED)}" if len(names) > 1 else ""
        yield f"{subject} twice, in {first.name} and in {second.name}{examples}. {advise_rebuild(second)}"


def find_shared_sources(contents: Sequence[ShardContents]) -> Iterator[str]:
    """Yield a finding for cut-outs, scenes and photographs, matched by content, that several splits use."""
    by_content: dict[str, dict[str, str]] = {}
    for shard_contents in contents:
        for content, id in shard_contents.sources.items():
            by_content.setdefault(content, {}).setdefault(shard_contents.shard.split, id)
    shared: dict[tuple[str, ...], list[str]] = {}
    for ids in by_content.values():
        if len(ids) > 1:
            shared.setdefault(tuple(sorted(ids)), []).append(" = ".join(sorted(set(ids.values()))))
    for splits, names in sorted(shared.items()):
        yield (
            f"{len(names)} cut-outs, scenes or photographs are used in {' and in '.join(splits)}, so the splits "
            f"aren't independent: {join_names(sorted(names), MAX_NAMED)}. Give each split its own."
        )


def find_equal_images(contents: Sequence[ShardContents]) -> tuple[list[str], list[str]]:
    """Return what to say of images with the same pixels: findings across splits, notes within one."""
    images = _Digests(contents, [shard_contents.images for shard_contents in contents])
    within = 0
    across: dict[tuple[str, str], list[str]] = {}
    for first, second in images.find_equal():
        splits = images.shard(first).split, images.shard(second).split
        if splits[0] == splits[1]:
            within += 1
        else:
            across.setdefault(splits, []).append(f"{images.key(first)} and {images.key(second)}")
    findings = [
        f"{plural(len(pairs), 'image')} of {b} {'has' if len(pairs) == 1 else 'have'} the same pixels as one of {a}: "
        f"{join_names(pairs, MAX_NAMED)}. "
        "Remove them from one of the two splits with `figureground curate`."
        for (a, b), pairs in across.items()
    ]
    notes = [f"{within} images have the same pixels as another image of their split."] if within else []
    return findings, notes


def describe_similar(contents: Sequence[ShardContents]) -> list[str]:
    """Return notes with the number of near-duplicates for each pair of splits; none for a single split."""
    splits = list(dict.fromkeys(shard_contents.shard.split for shard_contents in contents))
    if len(splits) < 2:
        return []
    if not similar.can_hash():
        return [f"Near-duplicates between splits weren't searched: imagehash is missing ({hint('imagehash')})."]
    digests = {}
    for split in splits:
        split_contents = [shard_contents for shard_contents in contents if shard_contents.shard.split == split]
        digests[split] = _Digests(split_contents, [shard_contents.hashes for shard_contents in split_contents])
    method = f"perceptual hash, at most {similar.NEAR} of {similar.BITS} bits apart"
    lines = []
    for a, b in combinations(splits, 2):
        matches, nearest, bits = similar.find_nearest(digests[a].values, digests[b].values)
        if not len(matches):
            continue
        pairs = [
            f"{digests[b].key(int(matches[i]))} and {digests[a].key(int(nearest[i]))} ({bits[i]} bits)"
            for i in np.argsort(bits, kind="stable")[:MAX_NAMED]
        ]
        lines.append(
            f"{len(matches):,} of {len(digests[b].values):,} images of {b} look like one of {a} ({method}), "
            f"such as {', '.join(pairs)}."
        )
    return lines or [f"No image looks like one of another split ({method})."]


class _Digests:
    """Concatenated digests of several shards, with the shard and key of each position."""

    def __init__(self, contents: Sequence[ShardContents], values: Sequence[np.ndarray]) -> None:
        self._contents = contents
        self.values = np.concatenate(values) if values else np.empty((0, 2), np.uint64)
        self._ends = np.cumsum([len(value) for value in values])

    def _locate(self, position: int) -> tuple[ShardContents, int]:
        shard = int(np.searchsorted(self._ends, position, "right"))
        return self._contents[shard], position - (int(self._ends[shard - 1]) if shard else 0)

    def shard(self, position: int) -> Shard:
        return self._locate(position)[0].shard

    def key(self, position: int) -> str:
        contents, row = self._locate(position)
        return contents.key(row)

    def find_equal(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of positions with equal digests: the first occurrence and each later one."""
        order = np.lexsort((np.arange(len(self.values)), self.values[:, 1], self.values[:, 0]))
        ordered = self.values[order]
        same = np.concatenate([[False], (ordered[1:] == ordered[:-1]).all(axis=1)])[: len(ordered)]
        first = 0
        for place in np.flatnonzero(same):
            if not same[place - 1]:
                first = int(place) - 1
            yield int(order[first]), int(order[place])
