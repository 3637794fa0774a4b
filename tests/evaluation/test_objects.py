"""Which images show one object, by what their provenance says."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from colour_datasets import make_coloured

from figureground.core.errors import FiguregroundError
from figureground.data.images import DatasetImages
from figureground.data.objects import hash_to_number, identify_object, identify_scene

KEYS = ("train-0000-00-00001", "train-0000-03-00001")


def pasted(cutout, template=None):
    return {"guide": {"kind": "paste", "cutout": cutout, "template": template}}


def test_a_cutout_is_one_object_by_its_content_in_every_dataset():
    assert identify_object(KEYS[0], pasted("bird/1.png@abc"), False) == identify_object(
        "x", pasted("birds/copy.png@abc"), True
    )
    assert identify_object(KEYS[0], pasted("bird/1.png@abc"), False) != identify_object(
        KEYS[0], pasted("bird/1.png@abd"), False
    )
    assert identify_scene(pasted("a@b", "grass/2.jpg@def")) == "def"
    assert identify_scene(pasted("a@b")) is identify_scene({}) is None


def test_a_source_that_was_repainted_several_times_is_one_object():
    source = {"guide": {"kind": "inpaint", "cutout": "train/001.png", "template": None}}
    assert identify_object(KEYS[0], source, False) == identify_object("other", source, False) == "train/001.png"


def test_without_a_guide_only_matched_sets_share_an_object_over_backgrounds():
    one, other = (identify_object(key, {"guide": None}, True) for key in KEYS)
    assert one == other
    one, other = (identify_object(key, {}, False) for key in KEYS)
    assert (one, other) == KEYS


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
