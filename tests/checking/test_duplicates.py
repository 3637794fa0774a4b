"""What occurs twice is named once, with the shards or the images that have it."""

import numpy as np

from figureground.checking.duplicates import (
    describe_similar,
    find_equal_images,
    find_repeated_keys,
    find_shared_sources,
)
from figureground.checking.shard import ShardContents
from figureground.shards.shard import Shard


def digests(*values):
    return np.array([[value, value] for value in values], np.uint64).reshape(len(values), 2)


def contents(split, names, images=(), sources=None, index=0):
    """Return contents of a shard whose keys have the digests 1, 2, ... of their letters."""
    keys = digests(*(ord(name) for name in names))
    shard = Shard(split, index, 2, max(1, len(names)))
    text = "\n".join(names).encode()
    return ShardContents(shard, keys=keys, images=digests(*images), names=text, sources=sources or {})


def test_a_key_in_two_shards_is_named_and_many_are_counted():
    one = list(find_repeated_keys([contents("train", "ab"), contents("train", "bc", index=1)]))
    assert len(one) == 1
    assert one[0].startswith("The key b occurs twice, in train-00000-of-00002 and in train-00001-of-00002. Delete ")
    many = list(find_repeated_keys([contents("train", "abcde"), contents("train", "abcde", index=1)]))
    assert len(many) == 1
    assert "5 keys occur twice, in train-00000-of-00002 and in train-00001-of-00002: a, b, c" in many[0]
    assert not list(find_repeated_keys([contents("train", "ab"), contents("train", "cd", index=1)]))
    assert not list(find_repeated_keys([]))


def test_equal_images_are_a_fault_across_splits_and_a_remark_within_one():
    findings, notes = find_equal_images([contents("train", "abc", (1, 2, 1)), contents("test", "de", (2, 3))])
    assert findings == [
        "1 image of test has the same pixels as one of train: b and d. Remove them from one of the two splits with "
        "`figureground curate`."
    ]
    assert notes == ["1 images have the same pixels as another image of their split."]
    assert find_equal_images([contents("train", "ab", (1, 2))]) == ([], [])


def test_inputs_of_several_splits_are_matched_by_content():
    train = contents("train", "a", sources={"x": "beach/1.jpg", "y": "beach/2.jpg"})
    again = contents("train", "b", sources={"x": "beach/1.jpg"}, index=1)
    test = contents("test", "c", sources={"x": "copy/1.jpg", "z": "beach/3.jpg"})
    assert list(find_shared_sources([train, again])) == []
    (line,) = find_shared_sources([train, again, test])
    assert line.startswith("1 cut-outs, scenes or photographs are used in test and in train, ")
    assert "beach/1.jpg = copy/1.jpg" in line


def test_near_duplicates_are_searched_only_between_splits():
    assert describe_similar([contents("train", "a"), contents("train", "b", index=1)]) == []
    (line,) = describe_similar([contents("train", "a"), contents("test", "b")])
    assert line.startswith(("No image looks like one of another split", "Near-duplicates between splits weren't"))
