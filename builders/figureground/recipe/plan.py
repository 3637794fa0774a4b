"""Plan of a dataset's images and shards, computed without weights or pixels.

Images are numbered cell by cell. A seeded permutation, computed index by index, decides their order. So every shard
mixes all cells, and a shard can be planned without the others in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from figureground.core.errors import RecipeError
from figureground.recipe.sample import Guide, Spec, derive_seed, make_key
from figureground.recipe.table import Counts, largest_remainder

DrawGuide = Callable[[str, int, int, int], Guide | None]
"""Decides an image's guide from its split, foreground, background and number in its cell."""
WritePrompt = Callable[[str, int, int, int], str]
"""Decides an image's prompt from the same."""


def no_guide(split: str, foreground: int, background: int, number: int) -> None:
    """Return None, for images without a guide, such as those that start from noise alone."""


MAX_SHARDS = 1_000_000
"""Largest number of shards in a dataset."""


class Permutation:
    """A seeded order of 0 … n-1.

    Up to `LISTED` numbers, it is a list sorted by random 64-bit numbers, so every order is equally likely. Beyond
    that, it is an eight-round Feistel network with cycle walking, which needs no list. With few bits, Feistel networks
    favour some positions, so small orders are listed.

    Args:
        n: Number of elements.
        seed: The recipe's seed.
        name: Name of the order; each name has its own order.
    """

    LISTED = 4096
    ROUNDS = 8

    def __init__(self, n: int, seed: int, name: str):
        self.n = n
        self._list: np.ndarray | None = None
        stem = f"{seed}\x1f{name}"
        if n <= self.LISTED:
            digest = hashlib.shake_256(f"{stem}\x1flist".encode()).digest(8 * n)
            # Position breaks ties between 64-bit numbers, which occur in one of 10 ** 12 orders.
            self._list = np.argsort(np.frombuffer(digest, "<u8"), kind="stable").astype(np.uint16)
            return
        self._half = (n - 1).bit_length() // 2 + (n - 1).bit_length() % 2
        self._low = (1 << self._half) - 1
        self._keys = [hashlib.sha256(f"{stem}\x1f{r}".encode()).digest()[:8] for r in range(self.ROUNDS)]

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.n:
            raise IndexError(index)
        if self._list is not None:
            return int(self._list[index])
        while True:
            left, right = index >> self._half, index & self._low
            for round_key in self._keys:
                mixed = hashlib.blake2b(right.to_bytes(8, "big"), digest_size=8, key=round_key).digest()
                left, right = right, left ^ (int.from_bytes(mixed, "big") & self._low)
            index = left << self._half | right
            if index < self.n:
                return index


@dataclass(frozen=True)
class PlannedShard:
    """A range of images that are rendered and written together."""

    split: str
    index: int
    of: int
    start: int
    """Position of its first image in the order of its split and part."""
    count: int
    part: int = 0
    """0 for the first plan, n for the images of the n-th extension."""


@dataclass(frozen=True)
class Plan:
    """All images of a dataset, each computed on demand.

    Attributes:
        counts: Images per cell, by split, in the order of the splits; extensions included.
        limit: Largest number of images in total, divided among the splits in proportion, at least one each if the limit
            permits; None for no limit. Can't be combined with extensions.
        shard_size: Images per shard; without it, there are totals and specs, but no shards.
        earlier: `counts` before each extension, the oldest first. Each extension numbers its images after a cell's
            existing ones and has its own shards, so earlier shards stay unchanged.
        concepts: Name of the concept that draws a split, by split; the checkpoint itself draws the others.
    """

    counts: Mapping[str, Counts]
    foregrounds: Sequence[str]
    backgrounds: Sequence[str]
    seed: int
    shard_size: int | None
    limit: int | None
    draw_guide: DrawGuide
    write_prompt: WritePrompt
    match_foreground: bool = False
    earlier: Sequence[Mapping[str, Counts]] = ()
    concepts: Mapping[str, str] = field(default_factory=dict)
    _orders: dict[tuple[str, int], tuple[Permutation, np.ndarray]] = field(default_factory=dict, repr=False)

    def totals(self) -> dict[str, int]:
        """Return the number of images by split."""
        totals = {split: int(counts.sum()) for split, counts in self.counts.items()}
        if self.limit is None or self.limit >= sum(totals.values()):
            return totals
        counts = np.array(list(totals.values()))
        shares = largest_remainder(counts.astype(float), self.limit)
        for row in np.flatnonzero((shares == 0) & (counts > 0)):  # `load_dataset` should find every split
            if shares.max() > 1:
                shares[shares.argmax()] -= 1
                shares[row] = 1
        return dict(zip(totals, shares.tolist(), strict=True))

    def shards(self) -> list[PlannedShard]:
        """Return all shards, split by split and part by part; all but the last of a part have equal size.

        Raises:
            RecipeError: There are more than `MAX_SHARDS`.
        """
        size = self.shard_size
        assert size is not None, "a method has chosen it"
        shards: list[PlannedShard] = []
        for split, total in self.totals().items():
            for part in range(len(self.earlier) + 1):
                images = int(self._count_added(split, part).sum()) if self.earlier else total
                shard_count = -(-images // size)
                if len(shards) + shard_count > MAX_SHARDS:
                    raise RecipeError(
                        "shard_size",
                        f"{images:,} images of {split} in shards of {size:,} are too many files: a dataset "
                        f"has at most {MAX_SHARDS:,} shards. Give larger shards, or fewer images per cell.",
                    )
                for index in range(shard_count):
                    start = index * size
                    shards.append(PlannedShard(split, index, shard_count, start, min(size, images - start), part))
        return shards

    def specs(self, shard: PlannedShard) -> Iterator[Spec]:
        """Yield the images of one shard, in order."""
        for position in range(shard.start, shard.start + shard.count):
            yield self.spec(shard.split, position, shard.part)

    def spec(self, split: str, position: int, part: int = 0) -> Spec:
        """Return the image at a position in the order of a split's part."""
        order, ends = self._find_order(split, part)
        number = order[position]
        cell = int(np.searchsorted(ends, number, side="right"))
        f, b = divmod(cell, len(self.backgrounds))
        i = number - (int(ends[cell - 1]) if cell else 0)
        if part:
            i += int(self.earlier[part - 1][split][f, b])
        noise = f"{split}-{f:04d}-{i:05d}" if self.match_foreground else make_key(split, f, b, i)
        return Spec(
            key=make_key(split, f, b, i),
            split=split,
            foreground=f,
            background=b,
            foreground_name=self.foregrounds[f],
            background_name=self.backgrounds[b],
            prompt=self.write_prompt(split, f, b, i),
            seed=derive_seed(self.seed, "noise", noise),
            guide=self.draw_guide(split, f, b, i),
            concept=self.concepts.get(split),
        )

    def cells(self, split: str) -> Counts:
        """Return the images per cell that will be made, after the limit."""
        total = self.totals()[split]
        if total == int(self.counts[split].sum()):
            return self.counts[split]
        order, ends = self._find_order(split, 0)
        counts = np.zeros(self.counts[split].size, np.int64)
        for position in range(total):
            counts[np.searchsorted(ends, order[position], side="right")] += 1
        return counts.reshape(self.counts[split].shape)

    def _count_added(self, split: str, part: int) -> Counts:
        """Return the images per cell that a part adds."""
        counts = [*self.earlier, self.counts][part][split]
        return counts - self.earlier[part - 1][split] if part else counts

    def _find_order(self, split: str, part: int) -> tuple[Permutation, np.ndarray]:
        if (split, part) not in self._orders:
            ends = np.cumsum(self._count_added(split, part).ravel())
            name = f"{split}\x1f{part}" if part else split
            self._orders[split, part] = (Permutation(int(ends[-1]) if len(ends) else 0, self.seed, name), ends)
        return self._orders[split, part]


def pick(seed: int, parts: Sequence[str], count: int, i: int) -> int:
    """Return the index of the i-th draw from `count` items: each item once before any repeats, in an order given by
    `seed` and `parts`."""
    round_number, position = divmod(i, count)
    return _cached_order(count, seed, "\x1f".join([*parts, str(round_number)]))[position]


@lru_cache(maxsize=1024)
def _cached_order(count: int, seed: int, name: str) -> Permutation:
    return Permutation(count, seed, name)
