"""Masks in files: where they lie, what their values say, and which are refused."""

import numpy as np
import pytest
from PIL import Image

from figureground.sources.companions import describe_shared
from figureground.sources.images import UnreadableImage, read_image
from figureground.sources.mask import find_bright, find_mask, mask_values, read_mask, to_shares


def test_a_mask_lies_beside_its_image(tmp_path):
    image = tmp_path / "rex.the.dog.jpg"
    assert find_mask(image) is None
    (tmp_path / "rex.the.dog.mask.png").touch()
    assert find_mask(image) == tmp_path / "rex.the.dog.mask.png"


@pytest.mark.parametrize("suffix", [".mask.PNG", ".Mask.PNG", ".MASK.PNG"])
def test_a_mask_is_found_in_either_case(suffix, tmp_path):
    mask = tmp_path / f"DSC1{suffix}"
    mask.touch()
    assert find_mask(tmp_path / "DSC1.JPG") == mask
    problem = describe_shared([tmp_path / "DSC1.JPG", tmp_path / "DSC1.png"], ".mask.png", "mask")
    assert f"DSC1{suffix} of DSC1.JPG, DSC1.png" in problem


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_a_mask_is_the_same_in_every_mode(mode, tmp_path):
    mask = Image.new("L", (6, 4))
    mask.paste(255, (0, 0, 2, 4))
    mask.convert(mode).save(tmp_path / "mask.png")
    values = read_mask(tmp_path / "mask.png", tmp_path / "mask.png", (60, 40))
    assert values.dtype == np.uint8
    assert np.array_equal(values, np.asarray(mask))


@pytest.mark.parametrize(("dtype", "void"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_map_of_classes_with_a_border_is_refused_and_a_soft_mask_isnt(dtype, void, tmp_path):
    path = tmp_path / "mask.png"
    values = np.zeros((16, 24), dtype)
    values[2:12, 2:12], values[3:11, 3:11] = void, 12
    Image.fromarray(values).save(path)
    with pytest.raises(UnreadableImage, match=rf"its values \(12, and {void} for borders\) look like numbers"):
        read_mask(path, path, (24, 16))
    soft = values.copy()
    soft[0] = np.linspace(0, void, 24)
    stray = np.where(values == 12, void, 0).astype(dtype)
    stray[0, 0] = 1
    for mask in (soft, stray):
        Image.fromarray(mask).save(path)
        assert read_mask(path, path, (24, 16)).max() == 255


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("highest", [1, 100, 40000])
def test_deep_masks_count_beside_their_highest_value(dtype, highest, tmp_path):
    values = np.zeros((4, 6), dtype)
    values[:, :2] = highest
    values[:, 2] = highest * 0.6 if dtype == np.float32 or highest > 1 else 0
    path = tmp_path / "mask.tif"
    Image.fromarray(values).save(path)
    found = read_mask(path, path, (6, 4))
    assert (found[:, :2] == 255).all()
    assert (found[:, 3:] == 0).all()
    assert found[0, 2] in (0, 153)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_map_of_numbered_objects_is_refused(dtype, tmp_path):
    """Otherwise objects with low numbers would be dark, and vanish."""
    values = np.zeros((4, 6), dtype)
    values[:, :2], values[:, 4:] = 1, 3
    path = tmp_path / "mask.png"
    Image.fromarray(values).save(path)
    with pytest.raises(UnreadableImage, match=r"values \(1 to 3\)"):
        read_mask(path, path, (6, 4))


def test_a_map_in_a_coloured_palette_is_refused(tmp_path):
    """In maps like those of Pascal VOC, the outline is brighter than the object."""
    mask = Image.new("P", (6, 4))
    mask.putpalette([0, 0, 0, 64, 0, 0, 224, 224, 192])
    mask.paste(2, (0, 0, 4, 4))
    mask.paste(1, (1, 1, 3, 3))
    mask.save(tmp_path / "mask.png")
    with pytest.raises(UnreadableImage, match="2 colours besides black"):
        read_mask(tmp_path / "mask.png", tmp_path / "mask.png", (6, 4))


def test_a_map_in_colours_is_refused_and_an_object_in_one_colour_is_taken(tmp_path):
    mask = Image.new("RGB", (6, 4))
    mask.paste("red", (0, 0, 2, 4))
    mask.save(tmp_path / "mask.png")
    values = read_mask(tmp_path / "mask.png", tmp_path / "mask.png", (6, 4))
    assert (values[:, :2] == 255).all()
    assert (values[:, 2:] == 0).all()
    mask.paste((0, 0, 120), (4, 0, 6, 4))
    mask.save(tmp_path / "mask.png")
    with pytest.raises(UnreadableImage, match="2 colours besides black"):
        read_mask(tmp_path / "mask.png", tmp_path / "mask.png", (6, 4))


def test_shades_of_one_colour_and_what_is_below_transparent_pixels_are_no_map_of_classes(tmp_path):
    path = tmp_path / "mask.png"
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = np.linspace(0, 250, 6)
    Image.fromarray(red).save(path)
    assert np.array_equal(read_mask(path, path, (6, 4)), red[..., 0])
    mask = Image.new("RGBA", (6, 4), (0, 0, 250, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 2, 4))
    mask.save(path)
    assert (read_mask(path, path, (6, 4))[:, :2] == 255).all()


def test_a_soft_mask_may_be_faint_or_in_a_grey_palette(tmp_path):
    mask = Image.fromarray(np.tile(np.linspace(0, 200, 6).astype(np.uint8), (4, 1)))
    for mode in ("L", "P"):
        mask.convert(mode).save(tmp_path / "mask.png")
        assert np.array_equal(read_mask(tmp_path / "mask.png", tmp_path / "mask.png", (6, 4)), np.asarray(mask))


def test_what_is_transparent_is_no_part_of_the_object():
    mask = Image.new("RGBA", (2, 1), "white")
    mask.putpixel((1, 0), (255, 255, 255, 0))
    assert mask_values(mask).tolist() == [[255, 0]]


@pytest.mark.parametrize(("highest", "half"), [(1, 1), (2, 1), (254, 127), (255, 128)])
def test_values_count_beside_the_highest(highest, half):
    values = np.array([[0, half - 1, half, highest]], np.uint8)
    assert find_bright(values).tolist() == [[False, False, True, True]]
    assert np.asarray(to_shares(values))[0].tolist() == [round(v * (255 / highest)) for v in values[0].tolist()]


def test_a_black_mask_stays_black():
    black = np.zeros((2, 3), np.uint8)
    assert not find_bright(black).any()
    assert to_shares(black).getbbox() is None
    assert to_shares(black).size == (3, 2)


@pytest.mark.parametrize("size", [(100, 100), (200, 200), (104, 100), (100, 104)])
def test_a_mask_may_be_of_another_size_than_its_image(size, tmp_path):
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", tmp_path / "mask.png", (50, 50)).shape == size[::-1]


@pytest.mark.parametrize("size", [(106, 100), (100, 106), (200, 100)])
def test_a_mask_of_another_shape_is_refused(size, tmp_path):
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    message = rf"{size[0]} by {size[1]} pixels, .* 50 by 50: they must have the same"
    with pytest.raises(UnreadableImage, match=message):
        read_mask(tmp_path / "mask.png", tmp_path / "mask.png", (50, 50))


def save_turned(path, image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(6, 4), (4, 4)])
def test_a_mask_is_turned_as_its_photograph_is(orientation, size, tmp_path):
    stored = Image.new("L", size)
    stored.paste(255, (0, 0, 2, 1))
    save_turned(tmp_path / "rex.jpg", Image.merge("RGB", [stored] * 3), orientation)
    stored.save(tmp_path / "rex.mask.png")
    image = read_image(tmp_path / "rex.jpg")
    values = read_mask(tmp_path / "rex.mask.png", tmp_path / "rex.jpg", image.size)
    assert np.array_equal(values > 128, np.asarray(image.convert("L")) > 128)
    # One that says its own orientation is turned by that alone.
    upright = Image.fromarray(values)
    save_turned(tmp_path / "rex.mask.png", upright, 1)
    assert np.array_equal(read_mask(tmp_path / "rex.mask.png", tmp_path / "rex.jpg", image.size), values)
    save_turned(tmp_path / "rex.mask.png", stored, orientation)
    assert np.array_equal(read_mask(tmp_path / "rex.mask.png", tmp_path / "rex.jpg", image.size), values)


def test_a_mask_that_fits_only_the_upright_photograph_is_not_turned(tmp_path):
    save_turned(tmp_path / "rex.jpg", Image.new("RGB", (60, 40)), 6)
    drawn = Image.new("L", (40, 60))
    drawn.paste(255, (0, 0, 40, 20))
    drawn.save(tmp_path / "rex.mask.png")
    values = read_mask(tmp_path / "rex.mask.png", tmp_path / "rex.jpg", (40, 60))
    assert np.array_equal(values, np.asarray(drawn))


def test_a_mask_that_fits_neither_way_is_refused(tmp_path):
    save_turned(tmp_path / "rex.jpg", Image.new("RGB", (60, 40)), 6)
    Image.new("L", (40, 40), 255).save(tmp_path / "rex.mask.png")
    with pytest.raises(UnreadableImage, match=r"rex\.mask\.png.* 40 by 40 .* 40 by 60"):
        read_mask(tmp_path / "rex.mask.png", tmp_path / "rex.jpg", (40, 60))


def test_companions_of_two_images_are_named(tmp_path):
    for name in ("rex.jpg", "rex.png", "max.jpg", "max.png", "bo.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "rex.mask.png").touch()
    (tmp_path / "bo.mask.png").touch()
    message = describe_shared([*tmp_path.glob("*.jpg"), *tmp_path.glob("???.png")], ".mask.png", "mask")
    assert message
    assert "rex.mask.png of rex.jpg, rex.png" in message
    assert "max.mask" not in message
    assert "bo.mask" not in message
