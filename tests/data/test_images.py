"""Images come with the labels of datasets and of folders, whatever the format and whatever the folders are called."""

import numpy as np
import pytest
from colour_datasets import COLOURS, image, make_coloured, make_folders

from figureground.core.errors import FiguregroundError
from figureground.data.images import DatasetImages, FolderImages, open_images

DRAWN = [("train", name, ground, i, name) for i in range(2) for name in ("bird", "cat") for ground in ("grass", "snow")]
DRAWN += [("validation", "cat", "snow", 0, "cat")]


def test_samples_of_all_shards_come_in_order_from_parquet_and_from_tars(tmp_path):
    both = [
        DatasetImages.open(make_coloured(tmp_path / name, DRAWN, formats=(name,))) for name in ("parquet", "webdataset")
    ]
    for images in both:
        assert images.labels == ("bird", "cat")
        assert images.splits == ("train", "validation")
        assert [(images.splits[s], f, b) for s, f, b in zip(
            images.split, images.foreground, images.background, strict=True
        )] == [(split, f == "cat", b == "snow") for split, f, b, _, _ in DRAWN]  # fmt: skip
        assert (images.label == images.foreground).all()
        for row, draw in images.read([1, 3, 8]):
            assert draw().tobytes() == image(DRAWN[row][4], DRAWN[row][3]).tobytes()
    assert both[0].keys == both[1].keys


def test_one_split_alone(tmp_path):
    directory = make_coloured(tmp_path, DRAWN)
    images = DatasetImages.open(directory, splits=["validation"])
    assert images.keys == ["validation-0001-01-00000"]
    assert [row for row, _ in images.read([0])] == [0]
    with pytest.raises(FiguregroundError, match=r"no split 'validatoin', did you mean 'validation'\?"):
        DatasetImages.open(directory, splits=["validatoin"])


def test_labels_of_another_list_and_those_that_it_lacks(tmp_path):
    images = DatasetImages.open(make_coloured(tmp_path, DRAWN), ["Cat", "mug"])
    assert set(images.label[images.foreground == 1]) == {0}
    assert set(images.label[images.foreground == 0]) == {-1}
    assert images.unknown == ["bird"]


def test_folders_are_found_by_name_wordnet_id_number_and_slug(tmp_path):
    labels = ["tench", "great white shark", "potter's wheel", "crane (n02012849)"]
    counts = {"n01440764": 1, "spurious_class_2_x_dim_5": 2, "potters_wheel": 3, "n02012849": 1, "sofa": 1}
    images = FolderImages(make_folders(tmp_path, counts, dict.fromkeys(counts, "bird")), labels)
    assert np.bincount(images.label).tolist() == [1, 2, 3, 1]
    assert images.unknown == ["sofa"]


def test_files_that_are_no_images_are_passed_over_and_images_of_any_name_read(tmp_path):
    make_folders(tmp_path, {"bird": 2})
    (tmp_path / "bird" / "notes.txt").write_text("mine")
    (tmp_path / "loose.png").write_bytes(b"")
    images = FolderImages(tmp_path, ["bird"])
    assert images.keys == ["bird/0.png", "bird/1.png"]
    assert [draw().size for _, draw in images.read([0, 1])] == [(40, 30), (40, 31)]


def test_copies_of_a_photograph_are_one_object(tmp_path):
    """Otherwise, a photograph that is there ten times would narrow an interval like ten photographs."""
    make_folders(tmp_path, {"bird": 2, "cat": 1})
    data = (tmp_path / "bird" / "0.png").read_bytes()
    (tmp_path / "bird" / "copy.png").write_bytes(data)
    (tmp_path / "cat" / "copy.png").write_bytes(data)
    (tmp_path / "cat" / "other.png").write_bytes(data[:-1] + b"x")  # as large
    images = FolderImages(tmp_path, ["bird", "cat"])
    assert images.keys == [
        "bird/0.png", "bird/1.png", "bird/copy.png", "cat/0.png", "cat/copy.png", "cat/other.png",
    ]  # fmt: skip
    assert len(np.unique(images.objects)) == 4
    assert images.objects[0] == images.objects[2] == images.objects[4]
    again = FolderImages(tmp_path, ["bird", "cat"])
    assert (again.objects == images.objects).all()


def test_of_one_class_images_may_lie_in_the_directory_itself(tmp_path):
    make_folders(tmp_path, {"cat": 2})
    images = FolderImages(tmp_path / "cat", ["bird", "cat"], ["cat"])
    assert images.label.tolist() == [1, 1]
    with pytest.raises(FiguregroundError, match=r"no folder .*\. Its folders: none"):
        FolderImages(tmp_path / "cat", ["bird", "cat"], ["bird", "cat"])


def test_directories_without_what_is_needed_are_errors(tmp_path):
    make_folders(tmp_path / "photos", {"cat": 1})
    (tmp_path / "empty" / "bird").mkdir(parents=True)
    for name, reason in (
        ("nowhere", "no such directory"),
        ("photos", "Its folders: cat; the classes: bird"),
        ("empty", "the folders of bird contain no image"),
    ):
        with pytest.raises(FiguregroundError, match=reason):
            open_images(tmp_path / name, ["bird"], ["bird"])
    other = make_coloured(tmp_path / "set", [("train", "mug", "grass", 0, "mug")])
    with pytest.raises(FiguregroundError, match=r"none of .* classes\. Its classes: mug"):
        open_images(other, list(COLOURS), ["bird"])
    with pytest.raises(FiguregroundError, match="no finished dataset"):
        DatasetImages.open(tmp_path / "photos")
