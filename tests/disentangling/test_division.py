"""Which images train features, train probes, and test: derived from splits, or by photograph within one."""

import shutil

import numpy as np
import pytest
from drawn_datasets import make_drawn
from PIL import Image
from tiny_datasets import make_dataset

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.disentangling.data import open_data
from figureground.disentangling.division import assign, divide
from figureground.pocket import birds
from figureground.recipe.table import read_pairing
from figureground.shards.columns import Columns

SIZE = 16


def make(folder, splits, **options):
    return open_data(make_drawn(folder, splits=splits, per_cell=options.pop("per_cell", lambda s, f, b: splits[s]),
                                size=SIZE, mask=False, **options))  # fmt: skip


def divided(data, given=None, **options):
    return assign(data, given or {}, read_pairing(None, data.foregrounds, data.backgrounds), **options)


def parts_of(division):
    return [division.features, division.probes, division.test]


def test_three_splits_are_the_three_parts(tmp_path):
    data = make(tmp_path / "it", {"train": 3, "validation": 2, "test": 1})
    found = divided(data)
    assert [len(rows) for rows in parts_of(found)] == [27, 18, 9]
    assert (data.images.split[found.probes] == 1).all()
    assert found.notes == ()
    own = data.foreground[found.heads] == data.background[found.heads]
    assert own.all()
    assert (len(found.heads), len(found.correlated), len(found.anti_correlated)) == (6, 3, 6)


def test_two_splits_divide_the_training_split_by_cell_and_test_on_the_other(tmp_path):
    data = make(tmp_path / "it", {"train": 4, "validation": 2})
    found = divided(data)
    assert [len(rows) for rows in parts_of(found)] == [18, 18, 18]
    for rows in (found.features, found.probes):
        assert (np.bincount(data.cell[rows], minlength=9) == 2).all()
        assert (data.images.split[rows] == 0).all()
    assert not set(found.features) & set(found.probes)


def test_one_split_is_divided_in_a_half_and_two_quarters(tmp_path):
    found = divided(make(tmp_path / "it", {"train": 8}))
    assert [len(rows) for rows in parts_of(found)] == [36, 18, 18]


def test_images_of_one_photograph_stay_on_one_side(tmp_path):
    # three images of each cell share a cut-out with those of other backgrounds
    data = make(
        tmp_path / "it", {"train": 12},
        cutout=lambda drawn: f"{drawn.foreground}/{drawn.number // 3}.png@{drawn.foreground}{drawn.number // 3}",
    )  # fmt: skip
    found = divided(data)
    sides = [set(data.objects[rows].tolist()) for rows in parts_of(found)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert found.notes == ()
    # one scene a background connects all that is on it, so that scenes are shared, and it is said
    data = make(tmp_path / "few", {"train": 12}, scene=lambda drawn: f"{drawn.background}.png@{drawn.background}")
    found = divided(data)
    assert any("scene" in note for note in found.notes)


def test_components_of_shared_objects_and_scenes_are_not_cut():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 200, 600)
    objects, scenes = pairs, pairs // 2
    side, together = divide(np.arange(600) % 6, objects, scenes, (0.5, 0.5), 0)
    assert together
    for numbers in (objects, scenes):
        assert not set(numbers[side == 0]) & set(numbers[side == 1])
    assert abs((side == 0).mean() - 0.5) < 0.05
    other, _ = divide(np.arange(600) % 6, objects, scenes, (0.5, 0.5), 1)
    again, _ = divide(np.arange(600) % 6, objects, scenes, (0.5, 0.5), 0)
    assert (again == side).all()
    assert (other != side).any()


def test_the_split_pair_is_the_task_and_nothing_else(tmp_path):
    def per_cell(split, foreground, background):
        own = ("car", "cat", "mug").index(foreground) == ("grass", "sand", "snow").index(background)
        return {"train": 8, "correlated": 6 * own, "anti_correlated": 2 * (not own)}[split]

    data = make(tmp_path / "it", {"train": 8, "correlated": 0, "anti_correlated": 0}, per_cell=per_cell)
    found = divided(data)
    assert [len(rows) for rows in parts_of(found)] == [36, 18, 18]
    assert (data.images.split[np.concatenate(parts_of(found))] == 0).all()
    assert (len(found.heads), len(found.correlated), len(found.anti_correlated)) == (9, 9, 12)
    assert not set(found.heads) & set(found.correlated)


def test_data_of_another_layout_with_an_attribute_are_read(tmp_path):
    data = open_data(birds.write(tmp_path / "birds", 8, 4, 4, bias_aligned_share=0.5, size=16, show_progress=False))
    found = divided(data)
    assert [len(rows) for rows in parts_of(found)] == [8, 4, 4]
    assert data.backgrounds == ("grass", "water")


def test_copies_stay_on_one_side_and_copies_in_other_splits_are_noted(tmp_path):
    one_split = tmp_path / "one"
    one_split.mkdir()
    rows = ["filename,y,a"]
    for number, (label, background) in enumerate(4 * [(y, a) for y in ("bird", "car") for a in ("grass", "snow")]):
        Image.new("RGB", (SIZE, SIZE), (10 * number, 90, 200)).save(one_split / f"{number}.png")
        shutil.copyfile(one_split / f"{number}.png", one_split / f"again {number}.png")
        rows += [f"{name}.png,{label},{background}" for name in (f"{number}", f"again {number}")]
    (one_split / "images.csv").write_text("\n".join(rows))
    data = open_data(one_split)
    found = divided(data)
    assert found.notes == ()
    sides = [set(data.objects[rows].tolist()) for rows in parts_of(found)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 16

    splits = birds.write(tmp_path / "birds", 8, 4, 4, bias_aligned_share=0.5, size=16, show_progress=False)
    assert divided(open_data(splits)).notes == ()
    data = open_data(splits)
    training_image, test_image = (splits / data.images.keys[np.flatnonzero(data.images.split == n)[0]] for n in (0, 2))
    shutil.copyfile(training_image, test_image)
    (note,) = divided(open_data(splits)).notes
    assert "test (4), 1 show" in note


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"features": "train"}, "--probes-split"),
        ({"features": "train", "probes": "train", "test": "test"}, "--features-split.*'train'"),
        ({"features": "train", "probes": "val", "test": "test"}, "--probes-split.*'val'.*validation"),
    ],
)
def test_splits_that_are_unknown_or_used_twice_are_refused(tmp_path, given, named):
    data = make(tmp_path / "it", {"train": 1, "validation": 1, "test": 1})
    with pytest.raises(RecipeError, match=named):
        divided(data, given)


def test_a_constant_label_is_refused(tmp_path):
    with pytest.raises(FiguregroundError, match=r"it: all images have the background 'grass'"):
        divided(make(tmp_path / "it", {"train": 8}, backgrounds=("grass",)))
    with pytest.raises(FiguregroundError, match=r"foreground 'car'"):
        divided(make(tmp_path / "one", {"train": 8}, foregrounds=("car",)))


def test_a_split_without_a_cell_or_a_class_is_refused_by_name(tmp_path):
    def lacks(cells):
        return lambda split, f, b: 0 if split == "test" and (f, b) in cells else 2

    splits = {"train": 2, "validation": 2, "test": 2}
    data = make(tmp_path / "it", splits, per_cell=lacks({("car", "snow"), ("cat", "grass")}))
    with pytest.raises(
        FiguregroundError, match=r"test \(14\).*2 cells: car on snow, cat on grass.*--test-split.*--allow-empty"
    ):
        divided(data)
    assert any("car on snow" in note for note in divided(data, allow_empty=True).notes)
    data = make(tmp_path / "no", splits, per_cell=lacks({("car", b) for b in ("grass", "sand", "snow")}))
    with pytest.raises(FiguregroundError, match=r"test, none has the foreground car.*--test-split"):
        divided(data, allow_empty=True)


def test_a_set_without_known_backgrounds_is_refused(tmp_path):
    with pytest.raises(FiguregroundError, match="unknown"):
        open_data(make_dataset(tmp_path / "it", columns=Columns(("bird", "cat"), ("unknown",))))
    with pytest.raises(FiguregroundError, match="no such"):
        open_data(tmp_path / "nowhere")
