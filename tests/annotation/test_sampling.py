import dataclasses
import math
import random
from collections import Counter

import pytest

from figureground.annotation.sampling import (
    SAMPLE,
    ReviewSample,
    Wanted,
    allocate,
    count_cells,
    draw,
    find_items,
    find_sample_size,
    load,
    plan,
    reference_keys,
    save,
)
from figureground.core.errors import RecipeError
from figureground.core.files import FileError
from figureground.core.intervals import wilson
from figureground.shards.finished import FinishedDataset

CELLS = {
    ("train", f, b): size
    for (f, b), size in zip([(f, b) for f in range(3) for b in range(2)], (90, 5, 40, 0, 200, 1), strict=True)
}


@pytest.mark.parametrize(("margin", "expected"), [(0.03, 0.95), (0.02, 0.9), (0.05, 0.5), (0.1, 1.0)])
def test_the_size_is_the_smallest_whose_interval_is_narrow_enough(margin, expected):
    def widest(n: int) -> float:
        value, low, high = wilson(expected, n)
        return max(value - low, high - value)

    size = find_sample_size(margin, expected, 10**9)
    assert widest(size) <= margin < widest(size - 1)


def test_a_share_of_a_half_needs_about_what_the_textbook_says():
    textbook = 0.25 * (1.96 / 0.03) ** 2
    assert math.isclose(find_sample_size(0.03, 0.5, 10**9), textbook, rel_tol=0.01)


def test_small_populations_need_fewer():
    assert find_sample_size(0.03, 0.95, 10**6) > find_sample_size(0.03, 0.95, 500) > find_sample_size(0.03, 0.95, 100)
    assert find_sample_size(0.001, 0.5, 40) == 40


@pytest.mark.parametrize("total", [1, 3, 5, 6, 50, 335, 336, 1000])
def test_an_allocation_is_proportional_and_possible(total):
    given = allocate(total, CELLS)
    assert sum(given.values()) == min(total, 336)
    assert all(0 <= given[cell] <= CELLS[cell] for cell in given)
    if total >= 5:
        assert min(given.values()) >= 1  # every cell that has an image is looked at
    if total == 50:
        assert given["train", 2, 0] == pytest.approx(50 * 200 / 336, abs=1.5)


def test_a_larger_allocation_has_at_least_as_many_of_each_cell():
    rng = random.Random(0)
    for _ in range(20):
        sizes = {("train", 0, i): rng.randrange(60) for i in range(6)}
        before = allocate(0, sizes)
        for total in range(1, sum(sizes.values()) + 2):
            given = allocate(total, sizes)
            assert all(given[cell] >= count for cell, count in before.items())
            before = given


def test_an_interval_for_each_group_needs_a_sample_of_each():
    given = plan(Wanted(per="foreground"), CELLS)
    for f in range(3):
        group = [cell for cell in CELLS if cell[1] == f]
        assert sum(given.get(cell, 0) for cell in group) == find_sample_size(
            0.03, 0.95, sum(CELLS[cell] for cell in group)
        )


def test_a_larger_sample_contains_the_smaller_one(directory):
    dataset = FinishedDataset(directory)
    small, large = draw(dataset, Wanted(images=7)), draw(dataset, Wanted(images=15))
    assert len(small.keys) == 7
    assert set(small.keys) < set(large.keys)
    assert [key for key in large.keys if key in small.keys] == list(small.keys)  # the order stays


def test_the_sample_is_stratified(directory):
    dataset = FinishedDataset(directory)
    found = find_items(dataset, draw(dataset, Wanted(images=11)).keys).values()
    counts = Counter((item.split, item.labels["foreground"], item.labels["background"]) for item in found)
    names = dataset.columns
    for (split, f, b), size in count_cells(dataset).items():
        assert abs(counts[split, names.foregrounds[f], names.backgrounds[b]] - size / 2) <= 1


def test_a_split_can_be_sampled_alone_and_seeds_differ(directory):
    dataset = FinishedDataset(directory)
    assert {
        item.split for item in find_items(dataset, draw(dataset, Wanted(splits=("validation",))).keys).values()
    } == {"validation"}
    assert draw(dataset, Wanted(images=7)).keys != draw(dataset, Wanted(images=7, seed=1)).keys


def test_items_know_labels_and_places(directory):
    dataset = FinishedDataset(directory)
    for key, item in find_items(dataset, draw(dataset, Wanted(images=9)).keys).items():
        stored = next(iter(dataset.stored(dataset.shards[item.shard], [item.row])))
        assert stored.key == key
        assert item.labels["foreground"] == dataset.columns.foregrounds[stored.labels["foreground"]]


def test_the_shared_images_are_about_as_many_as_asked():
    sample = ReviewSample(Wanted(overlap=0.3), ())
    shared = {key for key in map(str, range(2000)) if sample.is_shared(key)}
    assert 500 < len(shared) < 700
    more = dataclasses.replace(sample, settings=Wanted(overlap=0.5))
    assert all(more.is_shared(key) for key in shared)
    assert not any(ReviewSample(Wanted(overlap=0), ()).is_shared(key) for key in shared)
    assert all(ReviewSample(Wanted(overlap=1), ()).is_shared(key) for key in map(str, range(500)))


def test_references_are_mixed_in_at_random_places(spurious):
    dataset = FinishedDataset(spurious)
    assert len(reference_keys(dataset)) == 10
    sample = draw(dataset, Wanted(), reference_keys(dataset))
    kinds = [key.startswith("reference:") for key in sample.keys]
    assert (sum(kinds), sample.num_generated) == (8, 16)  # no more than half as many as generated images
    assert True in kinds[:12]
    assert True in kinds[12:]
    found = find_items(dataset, sample.keys)
    assert {(i.labels["spurious_for"], i.labels["feature"]) for i in found.values() if i.is_reference} == {
        ("bird", "what goes with a bird"), ("cat", "what goes with a cat"),
    }  # fmt: skip


def test_only_references_of_this_dataset_are_read(spurious, tmp_path):
    folder = spurious / "_figureground" / "stages" / "references"
    outside = tmp_path / "secret.png"
    outside.write_bytes((folder / "bird" / "000.jpg").read_bytes())
    dataset = FinishedDataset(spurious)  # refuses such links itself; this one comes later
    (folder / "bird" / "leak.png").symlink_to(outside)
    assert len(reference_keys(dataset)) == 10
    assert find_items(dataset, ["reference:bird/leak.png", "reference:../../index.json"]) == {}


def test_the_saved_sample_is_that_of_its_dataset(directory):
    dataset = FinishedDataset(directory)
    assert load(dataset) is None
    sample = draw(dataset, Wanted(images=5, splits=("train",)))
    save(dataset, sample)
    assert load(dataset) == sample
    text = (directory / SAMPLE).read_text()
    (directory / SAMPLE).write_text(text.replace(dataset.identity()["shards"], "0" * 64))
    with pytest.raises(FileError, match="another dataset"):
        load(dataset)
    (directory / SAMPLE).write_text(text.replace('"keys"', '"kings"'))
    with pytest.raises(FileError, match="damaged"):
        load(dataset)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (Wanted(images=0), "--images"), (Wanted(margin=0), "--margin"), (Wanted(expected=2), "--expected"),
        (Wanted(overlap=-1), "--overlap"), (Wanted(per="colour"), "--per"), (Wanted(splits=("tests",)), "--split"),
        (Wanted(margin=float("nan")), "--margin"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_are_refused(settings, field, directory):
    with pytest.raises(RecipeError) as error:
        draw(FinishedDataset(directory), settings)
    assert error.value.field == field
