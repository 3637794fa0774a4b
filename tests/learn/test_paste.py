"""The paste baseline: what is in the images, what the table says, going on after a stop, and what is refused."""

import csv
import hashlib
import json
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from tiny_classifiers import make_classifier
from tiny_layouts import make_folders, make_table, write_csv

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.layouts import read_groups
from figureground.learn.paste import AttentionMasks, TrueMasks, compose, paste
from figureground.vision.classifiers import open_classifier

RED, BLUE = (200, 30, 30), (20, 40, 220)


def make_flat(folder, attributes=("grass", "water"), masked=slice(0, 5), sizes=((10, 8), (20, 20)), count=3):
    """Images of one colour a class, red and blue; the mask of each is its left half, or as said."""
    rows = []
    for y, (name, colour, size) in enumerate(zip(("cat", "dog"), (RED, BLUE), sizes, strict=True)):
        for i in range(count):
            file = f"train/{name}{i}.png"
            rows.append((file, 0, name, *([attributes[y]] if attributes else [])))
            (folder / "train").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, colour).save(folder / file)
            mask = np.zeros((size[1], size[0]), np.uint8)
            mask[:, masked if size[0] == 10 else slice(0, size[0] // 2)] = 255
            Image.fromarray(mask).save((folder / file).with_suffix(".mask.png"))
    write_csv(folder / "metadata.csv", "filename,split,y" + (",a" if attributes else ""), rows)
    return read_groups(folder)


@pytest.fixture(scope="module")
def images(images):
    return read_groups(images)


def make(groups, out, count=4, seed=0, masks=None):
    return paste(groups, masks or TrueMasks(), count, seed, out, show_progress=False)


def hashes(out):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((out / "train").iterdir())}


class LeftHalf:
    """Masks of the left four columns."""

    facts: ClassVar = {"masks": "half"}

    def __call__(self, groups, rows):
        for row, draw in groups.read(rows):
            mask = np.zeros(draw().size[::-1], bool)
            mask[:, :4] = True
            yield row, mask


class Stops(TrueMasks):
    """Masks that come to an end too soon, as in a process that is killed."""

    def __init__(self, after):
        self.after = after

    def __call__(self, groups, rows):
        for i, each in enumerate(super().__call__(groups, rows)):
            if i == self.after:
                raise KeyboardInterrupt
            yield each


def test_the_object_stands_on_a_scene_of_another_class_at_its_place(tmp_path):
    out = make(make_flat(tmp_path / "data"), tmp_path / "out", count=1)
    cat = np.asarray(Image.open(out / "train" / "0000-00000.png"))
    assert cat.shape == (8, 10, 3)
    assert (cat[:, :4] == RED).all()
    assert (cat[:, 6:] == BLUE).all()
    assert ((cat[:, 4:6] != RED) & (cat[:, 4:6] != BLUE)).all()  # the edge fades by a pixel to either side
    dog = np.asarray(Image.open(out / "train" / "0001-00000.png"))
    assert dog.shape == (20, 20, 3)
    assert (dog[:, :9] == BLUE).all()
    assert (dog[:, 11:] == RED).all()


def test_scenes_of_another_shape_are_cropped_about_their_centre():
    scene = Image.new("RGB", (30, 10), "white")
    scene.paste("black", (10, 0, 20, 10))
    mask = np.zeros((20, 20), bool)
    mask[0, 0] = True
    done = np.asarray(compose(Image.new("RGB", (20, 20), "red"), scene, mask))
    assert (done[5:, 3:-3] == 0).all()
    with pytest.raises(FiguregroundError, match=r"rex: its mask has 5 by 4 pixels, .* 20 by 20"):
        compose(Image.new("RGB", (20, 20)), scene, np.ones((4, 5), bool), "rex")


def test_a_result_has_the_class_of_its_object_and_the_attribute_of_its_scene(tmp_path):
    out = make(make_flat(tmp_path / "data"), tmp_path / "out", count=5)
    groups = read_groups(out)
    assert groups.layout == "table"
    assert groups.counts(0).tolist() == [[0, 5], [5, 0]]
    assert groups.classes == ("cat", "dog")
    assert groups.attributes == ("grass", "water")


def test_without_attributes_the_table_says_none(tmp_path):
    out = make(make_flat(tmp_path / "data", attributes=None), tmp_path / "out")
    assert (out / "metadata.csv").read_text().splitlines()[0] == "filename,split,y"
    assert read_groups(out).attributes is None


def test_numbers_with_gaps_become_names_that_match_the_data(tmp_path):
    from figureground.learn.training_data import gather

    rows = [(f"{s}/{y}{a}{i}.png", n, y, a) for n, s in enumerate(("train", "val", "test"))
            for y, a in ((0, 0), (0, 2), (1, 2), (1, 1)) for i in range(1 if n or a < 2 else 3)]  # fmt: skip
    make_table(tmp_path / "data", rows)
    data = read_groups(tmp_path / "data")

    found = next(
        read_groups(out) for seed in range(50)
        if "_2" in (out := make(data, tmp_path / str(seed), 1, seed, LeftHalf()), (out / "metadata.csv").read_text())[1]
    )  # fmt: skip
    assert set(found.attributes) <= {"_0", "_1", "_2"}
    training_data = gather(data, [found])
    assert (training_data.train.group[training_data.added] >= 0).all()


@pytest.mark.parametrize("names", [("1", "2", "10"), ("1984", "dune"), ("0", "1"), ("1e3", "cat")])
def test_folders_named_like_numbers_give_a_table_that_is_read_and_matches(names, tmp_path):
    from figureground.learn.training_data import gather

    make_folders(tmp_path / "data", {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in names})
    data = read_groups(tmp_path / "data")
    found = read_groups(make(data, tmp_path / "out", 2, 0, LeftHalf()))
    training_data = gather(data, [found])
    assert np.bincount(training_data.train.y[training_data.added]).tolist() == [2] * len(names)


def test_the_same_seed_gives_the_same_bytes_and_another_others(images, tmp_path):
    one, two, other = (make(images, tmp_path / name, seed=seed) for name, seed in (("1", 0), ("2", 0), ("3", 1)))
    assert hashes(one) == hashes(two) != hashes(other)
    more = make(images, tmp_path / "more", count=6)
    assert hashes(one).items() <= hashes(more).items()


def test_objects_are_taken_in_turn(images, tmp_path):
    requested = []

    class Watched(TrueMasks):
        def __call__(self, groups, rows):
            requested.extend(groups.keys[row] for row in rows)
            return super().__call__(groups, rows)

    make(images, tmp_path / "out", count=30, masks=Watched())
    assert sorted(requested) == sorted(images.of_split(0).keys)  # 20 of each class: each is taken, and none first twice


def test_a_stopped_run_writes_what_is_missing(images, tmp_path):
    whole, out = make(images, tmp_path / "whole"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        make(images, out, masks=Stops(3))
    there = {p.name: p.stat().st_mtime_ns for p in (out / "train").iterdir()}
    assert len(there) == 3
    assert not (out / "metadata.csv").exists()
    (out / "train" / ".0000-00009.png.1234.tmp").write_bytes(b"half")
    make(images, out)
    assert hashes(out) == hashes(whole)
    assert there.items() <= {p.name: p.stat().st_mtime_ns for p in (out / "train").iterdir()}.items()
    assert (out / "metadata.csv").read_text() == (whole / "metadata.csv").read_text()
    assert not list(out.glob(".*"))


def test_what_is_finished_is_left_as_it_is(images, tmp_path):
    out = make(images, tmp_path / "out")
    record = json.loads((out / "paste.json").read_text())
    assert record["done"] is True
    assert record["images"] == 8
    make(images, out, masks=Stops(0))  # asks for no mask
    with pytest.raises(FiguregroundError, match=r"holds other pasted images:\n  seed: 0, now 1\n"):
        make(images, out, seed=1)


def test_a_directory_of_something_else_is_left_as_it_is(images, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else \(thesis.txt\)"):
        make(images, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("masked", "coverage"), [(slice(0, 0), "nothing"), (slice(0, 10), "everything")])
def test_masks_of_nothing_or_everything_are_passed_over(masked, coverage, tmp_path):
    data = make_flat(tmp_path / "data", masked=masked)
    with pytest.raises(FiguregroundError, match=f"of 3 training images of 'cat' .*covers {coverage}"):
        make(data, tmp_path / "out")
    mask = np.zeros((8, 10), np.uint8)
    mask[:, :5] = 255
    Image.fromarray(mask).save(tmp_path / "data" / "train" / "cat1.mask.png")
    out = make(read_groups(tmp_path / "data"), tmp_path / "again")
    assert set(json.loads((out / "paste.json").read_text())["passed_over"].values()) == {coverage}
    assert len(read_groups(out)) == 8


def test_what_classifiers_attend_to_is_as_large_as_the_quantile_says(images, tmp_path):
    labels = {0: "umbrella", 1: "mug"}
    classifier = open_classifier(str(make_classifier(tmp_path / "two", labels=labels)))
    train = images.of_split(0)
    for row, mask in AttentionMasks(classifier, 0.75)(train, np.array([0, 3, 39])):
        assert row in (0, 3, 39)
        assert mask.shape == (16, 16)
        assert mask.mean() <= 0.26
    out = make(images, tmp_path / "out", masks=AttentionMasks(classifier))
    assert len(read_groups(out)) == 8
    inputs = json.loads((out / "paste.json").read_text())["inputs"]
    assert inputs["quantile"] == 0.8
    assert len(inputs["classifier"]) == 64
    stranger = open_classifier(str(make_classifier(tmp_path / "four")))
    with pytest.raises(FiguregroundError, match="classifier 'four' has no class 'mug'"):
        make(images, tmp_path / "no", masks=AttentionMasks(stranger))


def test_numbers_that_cant_be_used_and_one_class_alone_are_refused(images, tmp_path):
    with pytest.raises(RecipeError, match="count_per_class: 0 is not a whole number from 1"):
        make(images, tmp_path / "out", count=0)
    with pytest.raises(RecipeError, match="seed: -1"):
        make(images, tmp_path / "out", seed=-1)
    rows = list(csv.reader((make_table(tmp_path / "one")).open()))
    write_csv(
        tmp_path / "one" / "metadata.csv", "filename,split,y,a", [r for r in rows[1:] if r[2] == "0" or r[1] != "0"]
    )
    with pytest.raises(FiguregroundError, match="all its training images are of one class"):
        make(read_groups(tmp_path / "one"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
