"""Cut-outs and scenes: which belong together, which split may use them, and what a composite looks like."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from figureground.core.hashing import content_hash
from figureground.pocket import world
from figureground.pocket.templates import draw_templates
from figureground.sources.guide import (
    ImagePool,
    PoolItem,
    _apportion,
    check_disjoint,
    compose,
    read_square,
    sample_box,
    split_bank,
)
from figureground.sources.images import UnreadableImage, pixel_hash, read_image

SHIPPED = Path(__file__).parents[2] / "templates" / "pocket"
RED, BLUE, GREY = (230, 20, 20), (20, 30, 220), (120, 120, 120)


def draw(path: Path, color: tuple[int, ...] = RED, size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(path)
    return path


def bank_of(directory: Path, counts: dict[str, int]) -> ImagePool:
    """Images of different content, as many a class as `counts` says."""
    for c, (name, count) in enumerate(counts.items()):
        for i in range(count):
            draw(directory / name / f"{i}.png", (10 * c + 1, i // 250, i % 250))
    return ImagePool.read(directory, list(counts), "cutouts")


def contents(bank: ImagePool) -> set[str]:
    return {item.pixels for items in bank.items.values() for item in items}


# --- banks ------------------------------------------------------------------------------------------


def test_bank_lists_each_class_with_ids_that_name_folder_file_and_content(tmp_path: Path) -> None:
    path = draw(tmp_path / "cat" / "rex.png")
    draw(tmp_path / "dog" / "ada.png", BLUE)
    bank = ImagePool.read(tmp_path, ["dog", "cat"], "cutouts")
    assert list(bank.items) == ["dog", "cat"]
    (item,) = bank.items["cat"]
    assert item.id == f"cat/rex.png@{pixel_hash(read_image(path))[:12]}"
    assert item.sha256 == content_hash(path)
    assert bank.find(item.id) is item
    with pytest.raises(ValueError, match=r"cutouts: image 'cat/rex\.png@0'"):
        bank.find("cat/rex.png@0")


def test_folders_are_found_by_name_or_alias_in_any_spelling(tmp_path: Path) -> None:
    for folder in ("crane", "N01440764", "Great_White_Shark", "caf\u0065\u0301"):
        draw(tmp_path / folder / "a.png", (len(folder), 0, 0))
    aliases = {"tench": ["n01440764"]}
    bank = ImagePool.read(tmp_path, ["crane", "tench", "great white shark", "caf\u00e9"], "cutouts", aliases)
    folders = [items[0].path.parent.name for items in bank.items.values()]
    assert folders == ["crane", "N01440764", "Great_White_Shark", "caf\u0065\u0301"]


def test_a_name_may_be_a_folder_below_a_folder(tmp_path: Path) -> None:
    for cell in ("bird/forest", "bird/snow", "cat/forest"):
        draw(tmp_path / cell / "a.png", (len(cell), ord(cell[0]), 0))
    bank = ImagePool.read(tmp_path, ["bird/forest", "cat/forest"], "photographs")
    ids = [items[0].id.partition("@")[0] for items in bank.items.values()]
    assert ids == ["bird/forest/a.png", "cat/forest/a.png"]


def test_all_missing_folders_are_counted_in_one_error(tmp_path: Path) -> None:
    draw(tmp_path / "class 0" / "a.png")
    names = [f"class {i}" for i in range(9)]
    aliases = {"class 1": ["class 1", "n00000001"]}
    with pytest.raises(ValueError, match="cutouts: 8 of 9 classes have no folder") as caught:
        ImagePool.read(tmp_path, names, "cutouts", aliases)
    message = str(caught.value)
    assert "'class 1', 'class 2', 'class 3', 'class 4', 'class 5' and 3 more" in message
    assert "as an example: class 1/ or n00000001/ (" in message
    assert "Folders found: class 0." in message


def test_all_classes_without_a_readable_image_are_counted_in_one_error(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"2 of 3 classes .* 'dog' \(in dog/\), 'owl'.*a\.jpg: the file is empty"):
        ImagePool.read(tmp_path, ["cat", "dog", "owl"], "cutouts")


def test_a_missing_directory_and_ambiguous_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scenes: no such directory: .*nowhere"):
        ImagePool.read(tmp_path / "nowhere", ["snow"], "scenes")
    draw(tmp_path / "Snow_Field" / "a.png")
    draw(tmp_path / "snow field" / "a.png", BLUE)
    with pytest.raises(ValueError, match=r"'SNOW FIELD' has more than one folder: .*Snow_Field and .*snow field"):
        ImagePool.read(tmp_path, ["SNOW FIELD"], "scenes")
    with pytest.raises(ValueError, match=r"'snow field' has more than one folder"):
        ImagePool.read(tmp_path, ["snow field"], "scenes")
    shutil.rmtree(tmp_path / "Snow_Field")
    with pytest.raises(ValueError, match="matches both 'a' and 'b'"):
        ImagePool.read(tmp_path, ["a", "b"], "scenes", {"a": ["snow field"], "b": ["snow field"]})


def test_unreadable_files_are_skipped_and_listed_with_the_reason(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "b.jpg").touch()
    (tmp_path / "cat" / "c.webp").write_text("hello")
    bank = ImagePool.read(tmp_path, ["cat"], "cutouts")
    assert len(bank.items["cat"]) == 1
    assert [(path.name, reason.split(",")[0]) for path, reason in bank.skipped] == [
        ("b.jpg", "the file is empty (0 bytes)"),
        ("c.webp", "not an image"),
    ]


def test_the_same_content_twice_in_a_class_counts_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        draw(tmp_path / "cat" / name)
    draw(tmp_path / "cat" / "c.png", BLUE)
    bank = ImagePool.read(tmp_path, ["cat"], "cutouts")
    assert {item.path.name for item in bank.items["cat"]} == {"a.png", "c.png"}


def test_the_same_pixels_with_another_mask_are_reported_and_a_masked_file_is_kept(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        draw(tmp_path / "dog" / f"{name}.png")
    for name, box in (("b", (0, 0, 8, 8)), ("c", (8, 8, 16, 16))):
        mask = Image.new("L", (16, 16))
        mask.paste(255, box)
        mask.save(tmp_path / "dog" / f"{name}.mask.png")
    bank = ImagePool.read(tmp_path, ["dog"], "cutouts")
    assert [item.path.name for item in bank.items["dog"]] == ["b.png"]
    assert sorted(path.name for path, _ in bank.skipped) == ["a.png", "c.png"]
    assert all(reason.startswith("it has the pixels of b.png, but another mask") for _, reason in bank.skipped)


def other_bytes(path: Path, way: str) -> Path:
    """The same pixels in another file."""
    image = read_image(path, "RGBA")
    if way == "turned":  # stored on its side, and turned upright by EXIF
        turned, exif = image.convert("RGB").transpose(Image.Transpose.ROTATE_90), Image.Exif()
        exif[0x0112] = 6
        copy = path.with_name("turned.png")
        turned.save(copy, exif=exif)
    elif way == "metadata":
        copy = path.with_name("metadata.jpg")
        data = path.read_bytes()
        copy.write_bytes(data[:2] + b"\xff\xfe\x00\x07hello" + data[2:])  # a comment
    else:
        copy = path.with_name(f"copy.{way}")
        image.convert("RGB").save(copy, lossless=True)
    assert content_hash(copy) != content_hash(path)
    return copy


@pytest.mark.parametrize("way", ["metadata", "png", "webp", "turned"])
def test_the_same_pixels_in_other_bytes_are_one_source(tmp_path: Path, way: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 120, 3), np.uint8)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    path = tmp_path / "train" / "cat" / "a.jpg"
    Image.fromarray(pixels).save(path, quality=90)
    copy = other_bytes(path, way)
    draw(path.with_name("other.png"), BLUE)
    assert len(ImagePool.read(tmp_path / "train", ["cat"], "cutouts").items["cat"]) == 2

    shared = tmp_path / "validation" / "cat" / copy.name
    shared.parent.mkdir(parents=True)
    copy.rename(shared)
    banks = {split: ImagePool.read(tmp_path / split, ["cat"], "cutouts") for split in ("train", "validation")}
    with pytest.raises(ValueError, match="1 images are used by two splits"):
        check_disjoint(banks)
    (id,) = [item.id for item in banks["validation"].items["cat"]]
    assert id.rpartition("@")[2] in {item.id.rpartition("@")[2] for item in banks["train"].items["cat"]}


def test_two_classes_share_a_source_by_its_pixels_and_it_stays_in_one_split(tmp_path: Path) -> None:
    bank_of(tmp_path, {"cat": 5, "dog": 5})
    path = draw(tmp_path / "cat" / "shared.png", (9, 9, 9))
    Image.open(path).save(tmp_path / "dog" / "renamed.webp", lossless=True)
    parts = split_bank(ImagePool.read(tmp_path, ["cat", "dog"], "cutouts"), {"train": 0.5, "validation": 0.5})
    assert contents(parts["train"]).isdisjoint(contents(parts["validation"]))


def test_colours_under_transparent_pixels_do_not_make_another_source() -> None:
    seen, unseen = (Image.new("RGBA", (4, 4), (*color, 0)) for color in (RED, BLUE))
    for image in (seen, unseen):
        image.putpixel((1, 1), (1, 2, 3, 255))
    assert pixel_hash(seen) == pixel_hash(unseen)
    assert pixel_hash(seen) != pixel_hash(Image.new("RGBA", (4, 4), (1, 2, 3, 255)))
    assert pixel_hash(Image.new("RGB", (2, 8))) != pixel_hash(Image.new("RGB", (8, 2)))


@pytest.mark.parametrize(
    ("n", "shares", "parts"), [(10, [0.7, 0.2, 0.1], [7, 2, 1]), (30, [0.9, 0.1], [27, 3]), (5, [0.9, 0.1], [4, 1])]
)
def test_shares_of_splits_are_exact_in_decimal(n: int, shares: list[float], parts: list[int]) -> None:
    assert _apportion(n, shares) == parts


def test_order_and_digest_do_not_depend_on_where_the_directory_lies(tmp_path: Path) -> None:
    here = bank_of(tmp_path / "here", {"cat": 6, "dog": 4})
    there = bank_of(tmp_path / "far" / "away", {"cat": 6, "dog": 4})
    assert here.digest == there.digest
    assert [item.id for item in here.items["cat"]] == [item.id for item in there.items["cat"]]


def test_digest_changes_with_content_name_mask_and_number(tmp_path: Path) -> None:
    def digest() -> str:
        return ImagePool.read(tmp_path, ["cat"], "cutouts").digest

    image = draw(tmp_path / "cat" / "a.png")
    digests = [digest()]
    draw(image, BLUE)
    digests.append(digest())
    image.rename(tmp_path / "cat" / "b.png")
    digests.append(digest())
    draw(tmp_path / "cat" / "b.mask.png", (255, 255, 255))
    digests.append(digest())
    draw(tmp_path / "cat" / "c.png", GREY)
    digests.append(digest())
    assert len(set(digests)) == len(digests)


# --- splits -----------------------------------------------------------------------------------------


def test_splits_share_no_content_and_follow_the_shares(tmp_path: Path) -> None:
    bank = bank_of(tmp_path, {"cat": 12, "dog": 18, "owl": 2})
    parts = split_bank(bank, {"train": 10, "validation": 2})
    counts = {split: [len(items) for items in part.items.values()] for split, part in parts.items()}
    assert counts == {"train": [10, 15, 1], "validation": [2, 3, 1]}
    assert not contents(parts["train"]) & contents(parts["validation"])
    assert contents(parts["train"]) | contents(parts["validation"]) == contents(bank)
    check_disjoint(parts)


def test_split_depends_on_contents_alone(tmp_path: Path) -> None:
    one = split_bank(bank_of(tmp_path / "a", {"cat": 9, "dog": 9}), {"train": 2, "validation": 1})
    for path in sorted((tmp_path / "a" / "cat").iterdir()):
        path.rename(path.with_name(f"renamed {path.name}"))
    two = split_bank(ImagePool.read(tmp_path / "a", ["dog", "cat"], "cutouts"), {"train": 4, "validation": 2})
    assert contents(one["validation"]) == contents(two["validation"])


def test_a_image_that_two_classes_share_goes_to_one_split(tmp_path: Path) -> None:
    bank_of(tmp_path, {"cat": 4, "dog": 4})
    for i in range(3):
        for name in ("cat", "dog"):
            draw(tmp_path / name / f"both {i}.png", (200, 200, i))
    parts = split_bank(ImagePool.read(tmp_path, ["cat", "dog"], "cutouts"), {"train": 5, "validation": 2})
    assert not contents(parts["train"]) & contents(parts["validation"])
    assert [len(items) for items in parts["train"].items.values()] == [5, 5]
    assert [len(items) for items in parts["validation"].items.values()] == [2, 2]


def test_random_banks_split_without_overlap_and_without_empty_classes() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        shared = [f"{rng.integers(1 << 60):064x}" for _ in range(4)]
        items = {}
        for name in "abcdef":
            own = [f"{rng.integers(1 << 60):064x}" for _ in range(rng.integers(4, 9))]
            own += [sha for sha in shared if rng.random() < 0.4]
            items[name] = tuple(PoolItem(f"{name}/{sha}@{sha[:12]}", Path(sha), sha, sha) for sha in sorted(own))
        parts = split_bank(ImagePool("cutouts", items), {"train": 6, "validation": 2, "test": 1})
        seen = [contents(part) for part in parts.values()]
        assert sum(map(len, seen)) == len(set.union(*seen)) == len(contents(ImagePool("cutouts", items)))
        assert all(part.items[name] for part in parts.values() for name in items)


def test_too_few_images_to_split_are_refused_with_the_alternative(tmp_path: Path) -> None:
    bank = bank_of(tmp_path, {"cat": 5, "dog": 1, "owl": 1})
    with pytest.raises(ValueError, match="2 of 3 classes have too few") as caught:
        split_bank(bank, {"train": 10, "validation": 2})
    message = str(caught.value)
    assert "'dog' (1), 'owl' (1)" in message
    assert "at least 2" in message
    assert "cutouts: {train: DIR, validation: DIR}" in message


@pytest.mark.parametrize("share", [0, -1, float("nan"), float("inf")])
def test_a_share_that_is_not_positive_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split 'validation' must be a positive number"):
        split_bank(bank_of(tmp_path, {"cat": 3}), {"train": 1, "validation": share})


def test_directories_of_two_splits_that_share_a_image_are_refused(tmp_path: Path) -> None:
    banks = {}
    for split, color in (("train", RED), ("validation", BLUE)):
        draw(tmp_path / split / "cat" / "own.png", color)
        draw(tmp_path / split / "cat" / f"{split}.png", GREY)
        banks[split] = ImagePool.read(tmp_path / split, ["cat"], "cutouts")
    with pytest.raises(ValueError, match="cutouts: 1 images are used by two splits") as caught:
        check_disjoint(banks)
    message = str(caught.value)
    assert str(tmp_path / "train" / "cat" / "train.png") in message
    assert str(tmp_path / "validation" / "cat" / "validation.png") in message
    assert "own.png" not in message


# --- boxes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["uniform", "ground"])
@pytest.mark.parametrize(("size", "scale"), [(64, (0.3, 0.6)), (512, (0.4, 0.4)), (7, (0.01, 1.0)), (64, (1.0, 1.0))])
def test_boxes_lie_inside_the_canvas(position: str, size: int, scale: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(3000):
        left, top, right, bottom = sample_box(rng, size, scale, position)
        assert 0 <= left < right <= size
        assert 0 <= top < bottom <= size
        assert right - left == bottom - top
        assert scale[0] * size - 1 <= right - left <= max(1, scale[1] * size + 1)


def test_uniform_boxes_reach_every_edge_and_ground_boxes_stand_low() -> None:
    rng = np.random.default_rng(2)
    boxes = np.array([sample_box(rng, 64, (0.5, 0.5), "uniform") for _ in range(4000)])
    assert (boxes[:, :2].min(0) == 0).all()
    assert (boxes[:, 2:].max(0) == 64).all()
    counts = np.bincount(boxes[:, 0], minlength=33)
    assert counts.min() > 70  # 4000 / 33 = 121 expected at each of the 33 places.
    assert counts.max() < 180
    bottoms = np.array([sample_box(rng, 100, (0.2, 0.5), "ground")[3] for _ in range(4000)])
    assert (bottoms.min(), bottoms.max()) == (78, 98)


def test_recipes_that_differ_in_position_or_scale_leave_the_generator_alike() -> None:
    after = []
    for scale, position in (((0.4, 0.4), "uniform"), ((0.2, 0.9), "ground")):
        rng = np.random.default_rng(3)
        sample_box(rng, 64, scale, position)
        after.append(rng.random())
    assert after[0] == after[1]


@pytest.mark.parametrize("scale", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_a_scale_that_is_no_range_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"range within \(0, 1\]"):
        sample_box(np.random.default_rng(0), 64, scale, "uniform")


def test_an_unknown_position_is_refused() -> None:
    with pytest.raises(ValueError, match="'uniform' or 'ground', not 'sky'"):
        sample_box(np.random.default_rng(0), 64, (0.4, 0.4), "sky")


# --- composites -------------------------------------------------------------------------------------


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Wider than high; its centre square is grey, the rest blue."""
    image = Image.new("RGB", (300, 100), BLUE)
    image.paste(GREY, (100, 0, 200, 100))
    image.save(tmp_path / "template.png")
    return tmp_path / "template.png"


def disc(size: int, margin: int) -> Image.Image:
    """An antialiased disc as a mask, its lower half a little narrower towards the left."""
    big = Image.new("L", (size * 4, size * 4), 0)
    ImageDraw.Draw(big).ellipse([margin * 4, margin * 4, (size - margin) * 4 - 1, (size - margin) * 4 - 1], fill=255)
    return big.reduce(4)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_a_photograph_is_cropped_to_its_centre(template: Path) -> None:
    image = read_square(template, 32)
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert image.getcolors() == [(1024, GREY)]


def test_alpha_is_the_mask_and_the_object_stands_on_the_bottom_of_the_box(tmp_path: Path, template: Path) -> None:
    cutout = Image.new("RGBA", (100, 100), (0, 255, 0, 0))
    cutout.paste((*RED, 255), (40, 10, 60, 90))  # 20 wide and 80 high: fits a box of 40 as 10 by 40.
    cutout.save(tmp_path / "cutout.png")
    image, mask = compose(tmp_path / "cutout.png", template, (10, 20, 50, 60), False, 64)
    assert (image.mode, image.size, mask.mode, mask.size) == ("RGB", (64, 64), "L", (64, 64))
    assert mask.getbbox() == (25, 20, 35, 60)
    inside = pixels(mask) == 255
    assert inside.sum() == 400
    assert (pixels(image)[inside] == RED).all()
    assert (pixels(image)[~inside] == GREY).all()


def test_a_wide_object_is_fitted_by_its_width_and_rests_on_the_bottom(tmp_path: Path, template: Path) -> None:
    cutout = Image.new("RGBA", (100, 100))
    cutout.paste((*RED, 255), (10, 0, 90, 20))
    cutout.save(tmp_path / "cutout.png")
    _, mask = compose(tmp_path / "cutout.png", template, (0, 0, 40, 40), False, 64)
    assert mask.getbbox() == (0, 30, 40, 40)


MASKS = {
    "grey": lambda mask: mask,
    "rgb": lambda mask: mask.convert("RGB"),
    "white with alpha": lambda mask: Image.merge("LA", [Image.new("L", mask.size, 255), mask]),
    "one bit": lambda mask: mask.convert("1", dither=Image.Dither.NONE),
    "zeros and ones": lambda mask: mask.point([0] * 128 + [1] * 128),
    "palette": lambda mask: mask.point([0] * 128 + [1] * 128).convert("RGB").quantize(2),
    "16 bits": lambda mask: Image.fromarray(np.asarray(mask).astype(np.uint16) * 257),
    "half the size": lambda mask: mask.reduce(2),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_file_beside_the_image_cuts_it_out(kind: str, tmp_path: Path, template: Path) -> None:
    photo = Image.new("RGB", (80, 80), BLUE)
    photo.paste(RED, (18, 18, 62, 62))
    photo.save(tmp_path / "rex.png")
    MASKS[kind](disc(80, 20)).save(tmp_path / "rex.mask.png")
    image, mask = compose(tmp_path / "rex.png", template, (12, 12, 52, 52), False, 64)
    assert mask.getbbox() == (12, 12, 52, 52)
    cover = pixels(mask)
    # A disc fills pi / 4 of its square; a small mask's rim is softer and reaches further out.
    assert (0.68 if kind == "half the size" else 0.74) < (cover / 255).sum() / 1600 < 0.83
    assert np.abs(pixels(image)[cover == 255] - RED).max() <= 1
    assert (pixels(image)[cover == 0] == GREY).all()


def test_a_mask_follows_the_exif_rotation_of_its_photograph(tmp_path: Path, template: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (80, 60), BLUE)
    stored.paste(RED, (60, 0, 80, 60))  # Upright: 60 wide, 80 high, its lowest quarter red.
    stored.save(tmp_path / "rex.jpg", exif=exif, quality=95)
    mask = Image.new("L", (80, 60), 0)  # drawn on the pixels as they are stored
    mask.paste(255, (62, 0, 80, 60))
    mask.save(tmp_path / "rex.mask.png")
    image, cover = compose(tmp_path / "rex.jpg", template, (0, 0, 60, 60), False, 64)
    assert cover.getbbox() == (0, 42, 60, 60)
    assert np.abs(pixels(image)[pixels(cover) == 255] - RED).max() < 40


def test_a_mask_that_may_be_of_two_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    draw(tmp_path / "dog" / "rex.png", RED)
    draw(tmp_path / "dog" / "rex.jpg", BLUE)
    assert len(ImagePool.read(tmp_path, ["dog"], "cutouts").items["dog"]) == 2
    draw(tmp_path / "dog" / "rex.mask.png", (255, 255, 255))
    with pytest.raises(ValueError, match=r"cutouts: .*dog/rex\.mask\.png of rex\.jpg, rex\.png"):
        ImagePool.read(tmp_path, ["dog"], "cutouts")


def test_a_mask_of_another_shape_than_its_image_is_refused(tmp_path: Path, template: Path) -> None:
    draw(tmp_path / "rex.png", RED, (80, 60))
    draw(tmp_path / "rex.mask.png", (255, 255, 255), (60, 80))
    with pytest.raises(UnreadableImage, match=r"rex\.mask\.png: .* 60 by 80 pixels.* 80 by 60"):
        compose(tmp_path / "rex.png", template, (0, 0, 40, 40), False, 64)


def test_an_empty_mask_is_refused(tmp_path: Path, template: Path) -> None:
    draw(tmp_path / "clear.png", (*RED, 3))
    with pytest.raises(UnreadableImage, match=r"clear\.png: its alpha channel is empty"):
        compose(tmp_path / "clear.png", template, (0, 0, 40, 40), False, 64)
    draw(tmp_path / "rex.png")
    draw(tmp_path / "rex.mask.png", (0, 0, 0))
    with pytest.raises(UnreadableImage, match=r"rex\.png: its mask rex\.mask\.png is empty"):
        compose(tmp_path / "rex.png", template, (0, 0, 40, 40), False, 64)


@pytest.mark.parametrize("color", [RED, (*RED, 255)], ids=["no alpha", "alpha that is opaque everywhere"])
def test_without_a_mask_the_centre_square_fills_the_box(color: tuple[int, ...], tmp_path: Path, template: Path) -> None:
    photo = Image.new("RGBA" if len(color) == 4 else "RGB", (120, 60), (*BLUE, 255) if len(color) == 4 else BLUE)
    photo.paste(color, (30, 0, 90, 60))
    photo.save(tmp_path / "photo.png")
    for paste in ("mask", "square"):
        image, mask = compose(tmp_path / "photo.png", template, (4, 8, 44, 48), False, 64, paste)
        expected = np.zeros((64, 64), int)
        expected[8:48, 4:44] = 255
        assert (pixels(mask) == expected).all()
        assert (pixels(image)[expected == 255] == RED).all()
        assert (pixels(image)[expected == 0] == GREY).all()


def test_square_ignores_a_mask_file_but_lets_the_template_show_through_alpha(tmp_path: Path, template: Path) -> None:
    draw(tmp_path / "rex.png")
    draw(tmp_path / "rex.mask.png", (0, 0, 0))
    _, mask = compose(tmp_path / "rex.png", template, (0, 0, 40, 40), False, 64, "square")
    assert mask.getbbox() == (0, 0, 40, 40)
    half = Image.new("RGBA", (40, 40), (0, 255, 0, 0))
    half.paste((*RED, 255), (0, 0, 20, 20))
    half.save(tmp_path / "half.png")
    image, mask = compose(tmp_path / "half.png", template, (0, 0, 40, 40), False, 64, "square")
    assert mask.getbbox() == (0, 0, 20, 20)
    assert image.getpixel((10, 10)) == RED
    assert image.getpixel((30, 30)) == GREY


def test_flip_mirrors_object_and_mask(tmp_path: Path, template: Path) -> None:
    cutout = Image.new("RGBA", (40, 40))
    cutout.paste((*RED, 255), (0, 0, 40, 20))
    cutout.paste((*BLUE, 255), (0, 20, 10, 40))
    cutout.save(tmp_path / "cutout.png")
    box = (12, 12, 52, 52)
    image, mask = compose(tmp_path / "cutout.png", template, box, False, 64)
    flipped, flipped_mask = compose(tmp_path / "cutout.png", template, box, True, 64)
    assert image.getpixel((14, 50)) == BLUE
    assert flipped.getpixel((49, 50)) == BLUE
    assert (pixels(flipped_mask) == pixels(mask)[:, ::-1]).all()
    assert (pixels(flipped) == pixels(image)[:, ::-1]).all()


@pytest.fixture(params=[(0, 0, 0), (255, 255, 255), (0, 255, 0)], ids=["black", "white", "green"])
def hidden(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    """The colour that lies under a cut-out's transparent pixels, where nobody sees it."""
    return request.param


@pytest.mark.parametrize("edge", [20, 40, 61])
def test_the_rim_of_an_object_is_no_darker_lighter_or_greener_than_both_sides(
    hidden: tuple[int, int, int], edge: int, tmp_path: Path, template: Path
) -> None:
    color = (200, 90, 60)
    mask = disc(90, 10)
    cutout = Image.new("RGBA", (90, 90), (*hidden, 0))
    cutout.paste((*color, 255), mask=mask.point(lambda v: 255 if v else 0))
    cutout.putalpha(mask)
    cutout.save(tmp_path / "cutout.png")
    image, _ = compose(tmp_path / "cutout.png", template, (1, 1, 1 + edge, 1 + edge), False, 64)
    low, high = np.minimum(color, GREY), np.maximum(color, GREY)
    assert (pixels(image) >= low - 2).all()
    assert (pixels(image) <= high + 2).all()


def test_an_unknown_way_to_paste_is_refused(template: Path) -> None:
    with pytest.raises(ValueError, match="'mask' or 'square', not 'blend'"):
        compose(template, template, (0, 0, 8, 8), False, 64, "blend")


# --- the shipped templates --------------------------------------------------------------------------


def test_shipped_templates_read_and_split_as_a_users_photographs_do() -> None:
    for folder, names in (("cutouts", world.FOREGROUNDS), ("backgrounds", world.BACKGROUNDS)):
        bank = ImagePool.read(SHIPPED / folder, names, folder)
        assert {len(items) for items in bank.items.values()} == {15}
        assert bank.skipped == []
        check_disjoint(split_bank(bank, {"train": 4, "validation": 1}))
    cells = [f"{name}/{scene}" for name in world.FOREGROUNDS for scene in world.BACKGROUNDS]
    split_bank(ImagePool.read(SHIPPED / "photographs", cells, "photographs"), {"train": 2, "validation": 1})
    cats = ImagePool.read(SHIPPED / "cutouts", ["cat"], "cutouts")
    snows = ImagePool.read(SHIPPED / "backgrounds", ["snow"], "scenes")
    _, mask = compose(cats.items["cat"][0].path, snows.items["snow"][0].path, (10, 20, 50, 60), False, 64)
    assert 0.2 < pixels(mask).sum() / 255 / 1600 < 0.9  # A cat's shape, neither nothing nor the whole square.


def test_shipped_templates_are_what_the_world_draws(tmp_path: Path) -> None:
    draw_templates(tmp_path, cutouts=2, backgrounds=1, photographs=1)
    drawn = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(drawn) == 20 + 10 + 100 + 1
    for path in drawn:
        if path.suffix == ".png":
            assert (pixels(Image.open(tmp_path / path)) == pixels(Image.open(SHIPPED / path))).all(), path
        else:
            assert (tmp_path / path).read_bytes() == (SHIPPED / path).read_bytes()


def test_guides_need_no_torch() -> None:
    code = "import sys, figureground.sources.guide, figureground.pocket.templates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
