"""The sample of images that people look at: its size for a wanted interval, and a stratified random choice.

Images are drawn from each cell (split, foreground, background) in proportion to its size, by the order of a hash of
their key, so a larger sample of the same dataset contains the smaller one, and no answer is lost by asking for more.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from figureground.annotation.answers import ANNOTATIONS, REFERENCE
from figureground.annotation.questions import ReviewItem
from figureground.core.errors import RecipeError, UsageError, join_names, suggest_or_list
from figureground.core.files import FileError, leads_outside, read_object, replace_text
from figureground.core.intervals import LEVEL, wilson
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import STAGES
from figureground.shards.stages import COPIES
from figureground.sources.images import list_folders, list_images

SAMPLE = f"{ANNOTATIONS}/sample.json"
MARGIN, EXPECTED = 0.03, 0.95
"""Defaults: half the interval's width, and the share of right labels that is expected."""
GROUPS = ("dataset", "split", "foreground", "background", "cell")
"""Subject of each interval."""
REFERENCE_SHARE = 0.5
"""Maximum number of references, as a share of the number of generated images that they are mixed with."""

Cell = tuple[str, int, int]
"""Split, foreground, background."""


@dataclass(frozen=True)
class Wanted:
    """Settings of a sample."""

    images: int | None = None
    """Number of images; None: as many as the interval needs."""
    margin: float = MARGIN
    per: str = "dataset"
    expected: float = EXPECTED
    overlap: float = 0.2
    """Share of the images that every annotator is asked about; each other one is asked of one annotator."""
    splits: tuple[str, ...] = ()
    """Splits to sample from; empty: all."""
    seed: int = 0

    def check(self, dataset: FinishedDataset) -> None:
        """Refuse values that no sample can have.

        Raises:
            UsageError: A value is out of range, or a split doesn't exist; names the option.
        """
        if self.images is not None and self.images < 1:
            raise RecipeError("--images", f"must be at least 1, not {self.images}.")
        for name, value, low, high in (
            ("--margin", self.margin, 0.001, 0.5), ("--expected", self.expected, 0.5, 1.0),
            ("--overlap", self.overlap, 0.0, 1.0),
        ):  # fmt: skip
            if not low <= value <= high:
                raise RecipeError(name, f"must be from {low:g} to {high:g}, not {value:g}.")
        if self.per not in GROUPS:
            raise RecipeError("--per", f"can be {join_names(GROUPS)}, not {self.per!r}.")
        for split in self.splits:
            if split not in dataset.index["splits"]:
                raise RecipeError(
                    "--split", f"there is no split {split!r}{suggest_or_list(split, dataset.index['splits'])}"
                )


@dataclass(frozen=True)
class ReviewSample:
    """The images to look at, in the order in which they are shown."""

    settings: Wanted
    keys: tuple[str, ...]

    @property
    def num_generated(self) -> int:
        """Number of its images that belong to the dataset."""
        return sum(not key.startswith(REFERENCE) for key in self.keys)

    def is_shared(self, key: str) -> bool:
        """Whether every annotator is asked about an image."""
        return _random_rank("overlap", self.settings.seed, key) < self.settings.overlap


def find_sample_size(margin: float, expected: float, population: int) -> int:
    """Return the smallest sample whose 95 % Wilson interval of a share is at most `margin` wide to its wider side.

    The sample is drawn without replacement: a sample of n of N images counts as n (N − 1) / (N − n) (Cochran 1977,
    section 2.6).

    Args:
        margin: Half the width, such as 0.03.
        expected: The share that is expected, such as 0.95. At 0.5 the size suffices for any share.
        population: Number of images, N.
    """

    def suffices(n: int) -> bool:
        if n >= population:
            return True
        value, low, high = wilson(expected, n * (population - 1) / (population - n), LEVEL)
        return max(value - low, high - value) <= margin

    low, high = 1, max(1, population)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return low


def allocate(total: int, sizes: Mapping[Cell, int]) -> dict[Cell, int]:
    """Divide a sample among cells in proportion to their sizes.

    Images are given out one by one (Webster's method), so a larger sample has at least as many of each cell. Each cell
    gets at least one if there is one for each, the largest cells first, and none gets more than it has.
    """
    allocated = dict.fromkeys(sorted(cell for cell, size in sizes.items() if size), 0)
    queue = [(-math.inf, -sizes[cell], cell) for cell in allocated]
    heapq.heapify(queue)
    for _ in range(min(total, sum(sizes.values()))):
        _, _, cell = heapq.heappop(queue)
        allocated[cell] += 1
        if allocated[cell] < sizes[cell]:
            heapq.heappush(queue, (-sizes[cell] / (2 * allocated[cell] + 1), 0, cell))
    return allocated


def plan(settings: Wanted, sizes: Mapping[Cell, int]) -> dict[Cell, int]:
    """Return the number of images to draw from each cell."""
    if settings.images is not None:
        return allocate(settings.images, sizes)
    groups: dict[Any, dict[Cell, int]] = {}
    for cell, size in sizes.items():
        split, foreground, background = cell
        group_of = {"dataset": (), "split": split, "foreground": foreground, "background": background, "cell": cell}
        groups.setdefault(group_of[settings.per], {})[cell] = size
    allocated: dict[Cell, int] = {}
    for group in groups.values():
        allocated |= allocate(find_sample_size(settings.margin, settings.expected, sum(group.values())), group)
    return allocated


def count_cells(dataset: FinishedDataset, splits: Sequence[str] = ()) -> dict[Cell, int]:
    """Return the number of images in each cell that has any."""
    counts: dict[Cell, int] = {}
    for split, split_entry in dataset.index["splits"].items():
        if not splits or split in splits:
            counts |= {(split, f, b): count for f, b, count in split_entry["cells"] if count}
    return counts


def draw(dataset: FinishedDataset, settings: Wanted, references: Sequence[str] = ()) -> ReviewSample:
    """Draw a sample, and references to mix in.

    Raises:
        UsageError: See `Wanted.check`; or the splits have no image.
    """
    settings.check(dataset)
    quotas = plan(settings, count_cells(dataset, settings.splits))
    if not quotas:
        raise UsageError(f"{dataset.directory}: the splits {join_names(settings.splits)} have no image to review.")
    best: dict[Cell, list[tuple[float, str]]] = {cell: [] for cell in quotas}
    for shard in dataset.shards:
        if settings.splits and shard.split not in settings.splits:
            continue
        for row in dataset.rows(shard):
            cell, rank = (
                (shard.split, row["foreground"], row["background"]),
                _random_rank("image", settings.seed, row["key"]),
            )
            if len(heap := best[cell]) < quotas[cell]:
                heapq.heappush(heap, (-rank, row["key"]))
            elif heap and -rank > heap[0][0]:
                heapq.heapreplace(heap, (-rank, row["key"]))
    keys = [key for heap in best.values() for _, key in heap]
    ordered_references = sorted(references, key=lambda key: _random_rank("image", settings.seed, key))
    keys += ordered_references[: math.ceil(len(keys) * REFERENCE_SHARE)]
    return ReviewSample(settings, tuple(shuffle_keys(keys, settings.seed)))


def shuffle_keys(keys: Iterable[str], seed: int) -> list[str]:
    """Return keys in the order in which people are asked about them, which is random."""
    return sorted(keys, key=lambda key: _random_rank("turn", seed, key))


def _random_rank(purpose: str, seed: int, key: str) -> float:
    """Return a number from 0 to 1 that depends on a key as if it were random."""
    return int.from_bytes(blake2b(f"{purpose}\0{seed}\0{key}".encode(), digest_size=7).digest()) / 2**56


def find_items(dataset: FinishedDataset, keys: Sequence[str]) -> dict[str, ReviewItem]:
    """Return images of the dataset, and references, by key; keys that exist nowhere are left out."""
    requested, items = set(keys), dict(_reference_items(dataset, keys))
    for number, shard in enumerate(dataset.shards):
        if len(items) == len(requested):
            break
        for row, record in enumerate(dataset.rows(shard)):
            if record["key"] in requested:
                labels = {name: names[record[name]] for name, names in dataset.names.items()}
                labels |= {name: record[name] for name in dataset.columns.texts}
                items[record["key"]] = ReviewItem(record["key"], shard.split, labels, number, row)
    return items


# References


def reference_folder(dataset: FinishedDataset) -> Path:
    """Return the directory of the references that the concepts of a spurious set were learned from."""
    return dataset.directory / STAGES / COPIES


def reference_keys(dataset: FinishedDataset) -> list[str]:
    """Return the keys of the references that can be mixed in; only class-wise spurious sets have any."""
    folder = reference_folder(dataset)
    if "spurious_for" not in dataset.columns.labels or not folder.is_dir() or leads_outside(folder, dataset.directory):
        return []
    return [
        f"{REFERENCE}{path.relative_to(folder).as_posix()}"
        for each in list_folders(folder) if each.name in dataset.index["splits"] and not leads_outside(each, folder)
        for path in list_images(each) if not leads_outside(path, folder)
    ]  # fmt: skip


def _reference_items(dataset: FinishedDataset, keys: Sequence[str]) -> Iterator[tuple[str, ReviewItem]]:
    """Yield references with the labels of the images that were made from them."""
    requested = [key for key in keys if key.startswith(REFERENCE)]
    available = set(reference_keys(dataset)) if requested else set()
    labels: dict[str, dict[str, str]] = {}
    for key in requested:
        if key not in available:
            continue
        split = key.removeprefix(REFERENCE).split("/")[0]
        if split not in labels:
            labels[split] = _read_split_labels(dataset, split)
        yield key, ReviewItem(key, split, labels[split])


def _read_split_labels(dataset: FinishedDataset, split: str) -> dict[str, str]:
    """Return class and feature of a split of a class-wise spurious set, which all of its images share."""
    for shard in dataset.shards:
        if shard.split == split:
            for row in dataset.rows(shard):
                names = dataset.names["spurious_for"]
                return {"spurious_for": names[row["spurious_for"]], "feature": row["feature"]}
    return {}


# The sample on disk


def save(dataset: FinishedDataset, sample: ReviewSample) -> None:
    """Write a sample to `_figureground/annotations/sample.json`."""
    document = {
        "version": 1, "dataset": dataset.identity(), "wanted": asdict(sample.settings), "keys": list(sample.keys),
    }  # fmt: skip
    replace_text(dataset.directory / SAMPLE, json.dumps(document, indent=1) + "\n", root=dataset.directory)


def load(dataset: FinishedDataset) -> ReviewSample | None:
    """Return the sample that was saved; None if there is none.

    Raises:
        FileError: It is damaged, or is about another dataset.
    """
    path = dataset.directory / SAMPLE
    try:
        document = read_object(path, root=dataset.directory)
    except FileNotFoundError:
        return None
    if document.get("dataset") != dataset.identity():
        raise FileError(
            path, "it is about another dataset, or about this one before its images changed. Move the folder "
            f"{ANNOTATIONS} away",
        )  # fmt: skip
    try:
        settings = document["wanted"]
        return ReviewSample(
            Wanted(**{**settings, "splits": tuple(settings["splits"])}), tuple(map(str, document["keys"]))
        )
    except (KeyError, TypeError):
        raise FileError(path, "it is damaged. Remove it; the same options draw the same sample again") from None
