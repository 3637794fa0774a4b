"""Masks in files: where they lie, what their values say, and which are refused."""

import numpy as np
import pytest
from PIL import Image

from figureground.images import UnreadableImage
from figureground.mask import mask_beside, mask_values, read_mask, to_shares, where_bright


def test_a_mask_lies_beside_its_picture(tmp_path):
    picture = tmp_path / "rex.the.dog.jpg"
    assert mask_beside(picture) is None
    (tmp_path / "rex.the.dog.mask.png").touch()
    assert mask_beside(picture) == tmp_path / "rex.the.dog.mask.png"


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_a_mask_is_the_same_in_every_mode(mode, tmp_path):
    mask = Image.new("L", (6, 4))
    mask.paste(255, (0, 0, 2, 4))
    mask.convert(mode).save(tmp_path / "mask.png")
    values = read_mask(tmp_path / "mask.png", (60, 40))
    assert values.dtype == np.uint8
    assert np.array_equal(values, np.asarray(mask))


def test_what_is_transparent_is_no_part_of_the_object():
    mask = Image.new("RGBA", (2, 1), "white")
    mask.putpixel((1, 0), (255, 255, 255, 0))
    assert mask_values(mask).tolist() == [[255, 0]]


@pytest.mark.parametrize(("highest", "half"), [(1, 1), (2, 1), (254, 127), (255, 128)])
def test_values_count_beside_the_highest(highest, half):
    values = np.array([[0, half - 1, half, highest]], np.uint8)
    assert where_bright(values).tolist() == [[False, False, True, True]]
    assert np.asarray(to_shares(values))[0].tolist() == [round(v * (255 / highest)) for v in values[0].tolist()]


def test_a_black_mask_stays_black():
    black = np.zeros((2, 3), np.uint8)
    assert not where_bright(black).any()
    assert to_shares(black).getbbox() is None
    assert to_shares(black).size == (3, 2)


@pytest.mark.parametrize("size", [(100, 100), (200, 200), (104, 100), (100, 104)])
def test_a_mask_may_be_of_another_size_than_its_picture(size, tmp_path):
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (50, 50)).shape == size[::-1]


@pytest.mark.parametrize("size", [(106, 100), (100, 106), (200, 100)])
def test_a_mask_of_another_shape_is_refused(size, tmp_path):
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    said = rf"the mask is {size[0]} by {size[1]} pixels and its picture, upright, 50 by 50: they must have the same"
    with pytest.raises(UnreadableImage, match=said):
        read_mask(tmp_path / "mask.png", (50, 50))
