"""What a dataset should have follows from its markers and its index."""

from itertools import islice

import pytest

from figureground.checking.completeness import find_completeness
from figureground.shards.shard import Shard


def shard(index, of, split="train", part=0):
    return Shard(split, index, of, 10, part)


def test_a_complete_dataset_lacks_nothing():
    shards = [shard(0, 2), shard(1, 2), shard(0, 1, "validation"), shard(0, 1, part=1)]
    found = find_completeness(shards, [each.name for each in shards])
    assert (found.total, found.num_missing, list(found.iterate_missing())) == (4, 0, [])
    assert not found.contradictory
    assert not any(found.is_missing(each.name) for each in shards)


def test_the_rest_of_a_run_is_missing_whether_the_index_lists_it_or_not():
    found = find_completeness([shard(1, 3), shard(0, 2, part=1)], [shard(0, 3).name])
    names = [shard(0, 3).name, shard(2, 3).name, shard(1, 2, part=1).name]
    assert list(found.iterate_missing()) == names
    assert (found.total, found.num_missing, found.unplaced) == (5, 3, frozenset())
    assert all(map(found.is_missing, names))
    assert not found.is_missing(shard(0, 4).name)
    assert not found.is_missing("notes")


@pytest.mark.parametrize("name", ["validation-00000-of-00001", "train-00000-of-00009", "train", "train-00009-of-00003"])
def test_what_only_the_index_lists_is_missing_after_the_runs(name):
    found = find_completeness([shard(0, 2)], [shard(0, 2).name, name])
    assert found.unplaced == {name}
    assert list(found.iterate_missing()) == [shard(1, 2).name, name]
    assert found.is_missing(name)
    assert (found.total, found.num_missing) == (3, 2)


def test_markers_that_count_differently_contradict_each_other_and_say_nothing_of_what_is_missing():
    found = find_completeness([shard(0, 5), shard(1, 3), shard(0, 1, "validation")], [])
    assert found.contradictory == {("train", 0): [3, 5]}
    assert (found.total, found.num_missing) == (1, 0)


def test_millions_of_missing_shards_are_counted_and_not_listed():
    found = find_completeness([shard(1, 10**15)], [])
    assert found.num_missing == 10**15 - 1
    assert list(islice(found.iterate_missing(), 2)) == [shard(0, 10**15).name, shard(2, 10**15).name]
