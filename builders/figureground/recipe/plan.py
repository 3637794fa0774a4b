"""Which images a dataset has, in which shard: pure, cheap, made without weights and without pixels.

Images are numbered cell by cell; a seeded permutation, computed index by index, decides their order, so
every shard mixes all cells and shard i needs no other shard in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from figureground.core.errors import RecipeError
from figureground.recipe.sample import Guide, Spec, derive_seed, key
from figureground.recipe.table import Counts, largest_remainder

DrawGuide = Callable[[str, int, int, int], Guide | None]
"""Decides an image's guide from its split, foreground, background and number in its cell."""
WritePrompt = Callable[[str, int, int, int], str]
"""Decides an image's prompt from the same."""


MOST_SHARDS = 1_000_000
"""Most shards of a dataset: a billion images, of the usual 1,000 a shard."""


class Permutation:
    """A seeded order of 0 … n-1.

    Up to `LISTED` it is a list, sorted by random 64-bit numbers: every order is as likely as any other. Beyond, it
    needs no list: an eight-round Feistel network, walked until in range (cycle walking). On few bits such networks
    prefer some positions to others, which is why small orders are listed.

    Args:
        n: How many numbers.
        seed: The recipe's.
        name: What is ordered; each name has an order of its own.
    """

    LISTED = 4096
    ROUNDS = 8

    def __init__(self, n: int, seed: int, name: str):
        self.n = n
        self._list: np.ndarray | None = None
        stem = f"{seed}\x1f{name}"
        if n <= self.LISTED:
            drawn = hashlib.shake_256(f"{stem}\x1flist".encode()).digest(8 * n)
            # A tie of two of 64-bit numbers is settled by position, in one case of 10 ** 12.
            self._list = np.argsort(np.frombuffer(drawn, "<u8"), kind="stable").astype(np.uint16)
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
    """A run of images that are rendered and written together."""

    split: str
    index: int
    of: int
    start: int
    """Position of its first image in the order of its split and part."""
    count: int
    part: int = 0
    """0 for what was planned first, n for what the n-th extension adds."""


@dataclass(frozen=True)
class Plan:
    """All images of a dataset, each computed when asked for.

    Attributes:
        counts: Images a cell, by split, in the order of the splits; extensions included.
        limit: Most images in all, taken from the splits in proportion; None for no limit. Not with extensions.
        earlier: What `counts` was before each extension, the first first. Each extension adds images behind
            those that a cell has, in shards of its own, so that earlier ones stay as they are.
        concepts: Name of the concept that draws a split, by split; all others are drawn by the checkpoint itself.
    """

    counts: Mapping[str, Counts]
    foregrounds: Sequence[str]
    backgrounds: Sequence[str]
    seed: int
    shard_size: int
    limit: int | None
    draw_guide: DrawGuide
    write_prompt: WritePrompt
    match_foreground: bool = False
    earlier: Sequence[Mapping[str, Counts]] = ()
    concepts: Mapping[str, str] = field(default_factory=dict)
    _orders: dict[tuple[str, int], tuple[Permutation, np.ndarray]] = field(default_factory=dict, repr=False)

    def totals(self) -> dict[str, int]:
        """Images by split."""
        full = {split: int(counts.sum()) for split, counts in self.counts.items()}
        if self.limit is None or self.limit >= sum(full.values()):
            return full
        shares = largest_remainder(np.array(list(full.values()), float), self.limit)
        return dict(zip(full, shares.tolist(), strict=True))

    def shards(self) -> list[PlannedShard]:
        """Every shard, split by split and part by part, of equal size but for the last of a part.

        Raises:
            RecipeError: There are more than `MOST_SHARDS`.
        """
        made: list[PlannedShard] = []
        for split, total in self.totals().items():
            for part in range(len(self.earlier) + 1):
                images = int(self._added(split, part).sum()) if self.earlier else total
                of = -(-images // self.shard_size)
                if len(made) + of > MOST_SHARDS:
                    raise RecipeError(
                        "shard_size",
                        f"{images:,} images of {split} in shards of {self.shard_size:,} are too many files: a dataset "
                        f"has at most {MOST_SHARDS:,} shards. Give larger shards, or fewer images a cell.",
                    )
                for index in range(of):
                    start = index * self.shard_size
                    made.append(PlannedShard(split, index, of, start, min(self.shard_size, images - start), part))
        return made

    def specs(self, shard: PlannedShard) -> Iterator[Spec]:
        """The images of one shard, in order."""
        for position in range(shard.start, shard.start + shard.count):
            yield self.spec(shard.split, position, shard.part)

    def spec(self, split: str, position: int, part: int = 0) -> Spec:
        """The image at a position of the order of a split's part."""
        order, ends = self._order(split, part)
        number = order[position]
        cell = int(np.searchsorted(ends, number, side="right"))
        f, b = divmod(cell, len(self.backgrounds))
        i = number - (int(ends[cell - 1]) if cell else 0)
        if part:
            i += int(self.earlier[part - 1][split][f, b])
        noise = f"{split}-{f:04d}-{i:05d}" if self.match_foreground else key(split, f, b, i)
        return Spec(
            key=key(split, f, b, i),
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
        """Images a cell that will really be made, the limit included."""
        total = self.totals()[split]
        if total == int(self.counts[split].sum()):
            return self.counts[split]
        order, ends = self._order(split, 0)
        made = np.zeros(self.counts[split].size, np.int64)
        for position in range(total):
            made[np.searchsorted(ends, order[position], side="right")] += 1
        return made.reshape(self.counts[split].shape)

    def _added(self, split: str, part: int) -> Counts:
        """Images a cell that a part adds."""
        upto = [*self.earlier, self.counts][part][split]
        return upto - self.earlier[part - 1][split] if part else upto

    def _order(self, split: str, part: int) -> tuple[Permutation, np.ndarray]:
        if (split, part) not in self._orders:
            ends = np.cumsum(self._added(split, part).ravel())
            name = f"{split}\x1f{part}" if part else split
            self._orders[split, part] = (Permutation(int(ends[-1]) if len(ends) else 0, self.seed, name), ends)
        return self._orders[split, part]


def pick(seed: int, parts: Sequence[str], count: int, i: int) -> int:
    """The i-th of `count` things, in an order of its own for each `parts`: all once before any twice."""
    turn, place = divmod(i, count)
    return _order_of(count, seed, "\x1f".join([*parts, str(turn)]))[place]


@lru_cache(maxsize=1024)
def _order_of(count: int, seed: int, name: str) -> Permutation:
    return Permutation(count, seed, name)
