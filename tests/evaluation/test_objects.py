"""Which images show one object, by what their provenance says."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from colour_datasets import make_coloured

from figureground.core.errors import FiguregroundError
from figureground.data.images import DatasetImages
from figureground.data.objects import ObjectNames, hash_to_number, identify_scene, is_matched

KEYS = ("train-0000-00-00001", "train-0000-03-00001")


def pasted(cutout, template=None):
    return {"guide": {"kind": "paste", "cutout": cutout, "template": template}}


OWN = ObjectNames({"sha256": "own"})
MATCHED = {"sha256": "matched", "identity": {"match": "foreground"}}


def test_a_cutout_is_one_object_by_its_content_in_every_dataset():
    assert OWN.identify(KEYS[0], pasted("bird/1.png@abc")) == "abc"
    assert ObjectNames(MATCHED).identify("x", pasted("birds/copy.png@abc")) == "abc"
    assert OWN.identify(KEYS[0], pasted("bird/1.png@abd")) == "abd"
    assert identify_scene(pasted("a@b", "grass/2.jpg@def")) == "def"
    assert identify_scene(pasted("a@b")) is identify_scene({}) is None


@pytest.mark.parametrize("source", ["train/001.png", "train/001.png@2x.png"])
def test_a_source_that_was_repainted_several_times_is_one_object(source):
    """The name of a source may contain an @, which is no beginning of a hash."""
    provenance = {"guide": {"kind": "inpaint", "cutout": source, "template": None}}
    assert OWN.identify(KEYS[0], provenance) == OWN.identify("other", provenance) == source


def test_without_a_guide_only_matched_sets_share_an_object_over_backgrounds():
    one, other = (ObjectNames(MATCHED).identify(key, {"guide": None}) for key in KEYS)
    assert one == other
    one, other = (OWN.identify(key, {}) for key in KEYS)
    assert (one, other) == (f"own/{KEYS[0]}", f"own/{KEYS[1]}")


def test_merged_samples_have_the_objects_that_they_had_before():
    merge = {"sha256": "merge", "builder": "merge", "sources": [MATCHED, {"sha256": "other"}]}
    copy = {"sha256": "copy", "builder": "curate", "sources": [merge]}
    assert not is_matched(merge)
    assert not is_matched(copy)  # curating a merge doesn't bring the old keys back
    for recipe in (merge, copy):
        names = ObjectNames(recipe)
        one, other = ({"merged_from": {"recipe": "matched", "key": key}} for key in KEYS)
        before = [ObjectNames(MATCHED).identify(key, {}) for key in KEYS]
        assert [names.identify("train-0000-00-00007", one), names.identify("train-0000-00-00009", other)] == before
        assert names.identify("train-0000-00-00001", {"merged_from": {"recipe": "other", "key": KEYS[0]}}) != before[0]
        twice = {"merged_from": {"recipe": "merge", "key": "train-0000-00-00007", **one}}
        assert names.identify("train-0000-00-00020", twice) == before[0]


def test_numbers_of_names_are_the_same_everywhere():
    assert hash_to_number("abc") == 0xBA7816BF8F01CFEA >> 1  # the first bytes of SHA-256
    assert hash_to_number("abc") != hash_to_number("abd")


def test_a_dataset_whose_provenance_is_damaged_is_named(tmp_path):
    drawn = [("train", "bird", "grass", i, "bird") for i in range(2)]
    directory = make_coloured(tmp_path / "set", drawn)
    assert len(np.unique(DatasetImages.open(directory).objects)) == 2
    (path,) = (directory / "data").glob("*.parquet")
    table = pq.read_table(path)
    at = table.column_names.index("provenance")
    pq.write_table(table.set_column(at, "provenance", pa.array(["[" * 100_000, "{}"])), path)
    with pytest.raises(FiguregroundError, match=r"set: the provenance of train-0000-00-00000 isn't a JSON object"):
        DatasetImages.open(directory)
