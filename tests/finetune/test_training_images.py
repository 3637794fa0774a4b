"""Reference folders as people have them: other files, broken ones, the same image twice, captions."""

import shutil

import pytest
from PIL import Image
from tiny_references import make_references

from figureground.core.errors import FiguregroundError
from figureground.finetune.training_images import format_notes, read_training_images


@pytest.fixture
def folder(tmp_path):
    return make_references(tmp_path / "references")


def test_only_image_files_count_whatever_else_lies_there(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "empty").mkdir()
    found = read_training_images(folder, 32)
    assert [r.name for r in found.images] == ["00.png", "01.png", "02.png", "03.png"]
    assert {r.image.size for r in found.images} == {(32, 32)}
    assert format_notes(found.unused) == []
    (folder / "deeper").mkdir()
    shutil.copy(folder / "00.png", folder / "deeper" / "x.png")
    found = read_training_images(folder, 32)
    assert len(found.images) == 4
    (note,) = format_notes(found.unused)
    assert "deeper (a folder of 1 image" in note


def test_a_wide_image_becomes_the_square_around_its_centre(folder):
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("blue", (30, 0, 60, 30))
    wide.save(folder / "wide.png")
    used = {r.name: r.image for r in read_training_images(folder, 16).images}
    assert used["wide.png"].getcolors() == [(256, (0, 0, 255))]


def test_files_that_can_not_be_read_are_listed_with_reasons(folder):
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "directory.png").mkdir()
    found = read_training_images(folder, 32)
    assert len(found.images) == 4
    assert {path.name: reason for path, reason in found.unused.unreadable} == {
        "broken.jpg": "not an image, or in a format that can't be read",
        "directory.png": "a directory",
        "empty.png": "the file is empty (0 bytes)",
    }
    assert format_notes(found.unused)[0].startswith("3 items left out")


def test_a_image_given_twice_counts_once_and_is_named(folder):
    shutil.copy(folder / "01.png", folder / "again.png")
    Image.open(folder / "02.png").save(folder / "other.bmp")  # other bytes, the same pixels
    found = read_training_images(folder, 32)
    assert len(found.images) == 4
    assert found.unused.repeated == [
        (folder / "again.png", folder / "01.png"),
        (folder / "other.bmp", folder / "02.png"),
    ]
    assert "again.png is 01.png, other.bmp is 02.png" in format_notes(found.unused)[0]


def test_three_are_enough_and_two_are_not(tmp_path):
    assert len(read_training_images(make_references(tmp_path / "three", 3), 32).images) == 3
    two = make_references(tmp_path / "two", 2)
    (two / "third.png").write_bytes(b"")
    with pytest.raises(FiguregroundError, match=r"holds 2 images .* at least 3\. .*third\.png"):
        read_training_images(two, 32)
    with pytest.raises(FiguregroundError, match="it holds no image"):
        read_training_images(make_references(tmp_path / "none", 0), 32)
    with pytest.raises(FiguregroundError, match="there is no such directory"):
        read_training_images(tmp_path / "nowhere", 32)


def test_images_that_are_all_alike_are_an_error_that_says_so(tmp_path):
    folder = make_references(tmp_path, 1)
    for name in ("a.png", "b.png"):
        shutil.copy(folder / "00.png", folder / name)
    with pytest.raises(FiguregroundError, match=r"all 3 images show the same image \(00\.png, a\.png, b\.png\)"):
        read_training_images(folder, 32)


def test_a_text_beside_a_image_is_its_caption(folder):
    (folder / "01.txt").write_text("a {V} {noun}\n in the rain\n", encoding="utf-8-sig")
    (folder / "02.txt").write_text(" \n")
    assert [r.caption for r in read_training_images(folder, 32).images] == [
        None,
        "a {V} {noun} in the rain",
        None,
        None,
    ]
    (folder / "03.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(FiguregroundError, match=r"03\.txt is not text"):
        read_training_images(folder, 32)
