"""Test-beds: classes come with attributes in training and don't in validation and test, and masks are true."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.layouts import read_groups
from figureground.pocket import birds


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return birds.write(tmp_path_factory.mktemp("birds") / "pocketbirds", 200, 40, 40, bias_aligned_share=0.95, size=32,
                       show_progress=False)  # fmt: skip


@pytest.fixture(params=birds.BEDS)
def bed(request):
    return birds.BEDS[request.param]


def some(bed, count):
    """Planned images, of each group as many."""
    return [birds.PlannedImage("train", i % 2, i // 2 % 2, i) for i in range(count)]


def is_cut(mask):
    """Whether a masked object extends beyond the image: then some pixel at the border is fully covered."""
    shown = np.asarray(mask)
    return bool((np.concatenate([shown[0], shown[-1], shown[:, 0], shown[:, -1]]) == 255).any())


def hashes(directory):
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*")) if path.is_file()}  # fmt: skip


def test_the_table_reads_as_a_biased_training_split_and_balanced_others(directory):
    groups = read_groups(directory)
    assert (groups.name, groups.layout, groups.notes) == ("pocketbirds", "table", ())
    assert (groups.classes, groups.attributes) == (birds.OBJECTS, birds.SCENES)
    assert groups.counts(0).tolist() == [[95, 5], [5, 95]]
    assert groups.counts(1).tolist() == groups.counts(2).tolist() == [[10, 10], [10, 10]]
    assert groups.masked.all()


def test_beds_have_enough_validation_and_test_images_to_measure_a_group(bed):
    assert bed.name in birds.BEDS
    assert birds.count_groups(bed.validation, 0.5).min() >= 400
    assert birds.count_groups(bed.test, 0.5).min() >= 1000
    biased = birds.count_groups(bed.train, bed.bias_aligned_share)
    assert biased.sum() == bed.train
    assert biased[0, 1] == biased[1, 0] > 0
    assert biased[0, 0] == biased[1, 1] > 10 * biased[0, 1]


def test_counts_of_a_group_add_up_to_the_split():
    assert birds.count_groups(600, 0.95).tolist() == [[285, 15], [15, 285]]
    assert birds.count_groups(4000, 0.5).tolist() == [[1000, 1000], [1000, 1000]]
    for total in range(9):
        assert birds.count_groups(total, 0.9).sum() == total


def test_the_attribute_of_pocketlooks_is_the_look_of_one_prop_and_its_scenes_are_independent():
    bed = birds.BEDS["pocketlooks"]
    assert bed.looks is not None
    assert len({look.partition(":")[0] for look in bed.looks}) == 1
    directory_names = {bed.image_path(image) for image in some(bed, 4)}
    assert directory_names == {f"train/{y}-{a}-{i:05d}.png" for i, (a, y) in enumerate(
        (a, y) for a in bed.attributes for y in bed.objects)}  # fmt: skip
    colours = {}
    for image in some(bed, 40):
        scene = bed.draw(image)
        prop = np.asarray(scene.prop) == 255
        assert prop.any()
        colours.setdefault(image.a, []).append(np.asarray(scene.image)[prop].mean(0))
    # Blue paper, or red: the look alone decides which.
    blue, red = (np.array(colours[a]) for a in (0, 1))
    assert (red[:, 0] > red[:, 2]).all()
    assert (blue[:, 0] < blue[:, 2]).all()


def test_the_parts_that_are_named_are_those_that_are_drawn(bed):
    for image in some(bed, 40):
        parts, scene = bed.name_parts(image, seed=5), bed.draw(image, seed=5)
        assert parts.foreground == bed.objects[image.y]
        assert (parts.prop is not None) == np.asarray(scene.prop).any()
        if bed.looks is None:
            assert parts.background == bed.attributes[image.a]
        else:
            assert parts.prop == bed.looks[image.a]
    assert bed.looks is None or {bed.name_parts(image).background for image in some(bed, 80)} == set(bed.scenes)


def test_an_unbiased_bed_differs_from_the_biased_one_in_training_alone(tmp_path):
    biased, unbiased = (
        birds.write(
            tmp_path / str(share), 24, 8, 8, bed="pocketlooks", bias_aligned_share=share, size=16, show_progress=False
        )
        for share in (None, 0.5)
    )
    assert read_groups(unbiased).counts(0).tolist() == [[6, 6], [6, 6]]
    assert read_groups(biased).counts(0).tolist() == [[12, 0], [0, 12]]
    one, other = hashes(biased), hashes(unbiased)
    held_out = {name for name in one if not name.startswith("train") and name != birds.TABLE}
    assert len(held_out) == 32
    assert all(one[name] == other[name] for name in held_out)


def test_a_bed_of_ones_own_is_drawn_as_it_says(tmp_path):
    bed = dataclasses.replace(
        birds.BEDS["pocketlooks"], name="mine", objects=("cat", "snail"), attributes=("dots", "stripes"),
        looks=("lantern:1", "lantern:3"), scenes=("night",), train=12, validation=4, test=4, bias_aligned_share=1.0,
    )  # fmt: skip
    groups = read_groups(birds.write(tmp_path / "mine", bed=bed, size=16, show_progress=False))
    assert (groups.classes, groups.attributes) == (("cat", "snail"), ("dots", "stripes"))
    assert [groups.counts(split).sum() for split in range(3)] == [12, 4, 4]
    assert groups.counts(0).tolist() == [[6, 0], [0, 6]]


def test_masks_cover_the_object_and_nothing_else(directory):
    groups, bed = read_groups(directory), birds.BEDS["pocketbirds"]
    masks = dict(groups.read_masks(range(0, len(groups), 40)))
    for row, draw in groups.read(list(masks)):
        mask, pixels = masks[row](), np.asarray(draw())
        split, _, file = groups.keys[row].partition("/")
        image = birds.PlannedImage(split, int(groups.y[row]), int(groups.a[row]), int(file[-9:-4]))
        drawn = bed.draw(image, 0, 32)
        assert bed.image_path(image) == groups.keys[row]
        assert (np.asarray(drawn.image) == pixels).all()
        assert (mask == (np.asarray(drawn.foreground) >= 128)).all()
        assert 0.02 < mask.mean() < 0.2
        share = np.asarray(drawn.foreground) / 255
        assert share[~mask].max() < 0.51


def test_no_two_images_are_the_same_drawing(directory):
    files = [path for path in directory.rglob("*.png") if not path.name.endswith(".mask.png")]
    assert len({Image.open(path).tobytes() for path in files}) == len(files) == 280


def test_the_same_call_gives_the_same_bytes_and_another_seed_others(tmp_path):
    one, again, other = (birds.write(tmp_path / name, 8, 4, 4, seed=seed, size=16, show_progress=False)
                         for name, seed in (("one", 0), ("again", 0), ("other", 1)))  # fmt: skip
    assert hashes(one) == hashes(again)
    assert set(hashes(one)) == set(hashes(other))
    changed = [name for name, found in hashes(one).items() if found != hashes(other)[name]]
    assert len([name for name in changed if ".mask" not in name]) == 17 - 1


def test_more_images_leave_the_first_as_they_are(directory, tmp_path):
    few = hashes(birds.write(tmp_path / "few", 40, 8, 8, bias_aligned_share=0.9, size=32, show_progress=False))
    many = hashes(directory)
    assert all(many[name] == found for name, found in few.items() if name != birds.TABLE)


def test_object_and_prop_are_wholly_in_view(bed):
    scenes = [bed.draw(image) for image in some(bed, 160)]
    props = [scene for scene in scenes if np.asarray(scene.prop).any()]
    assert not any(is_cut(scene.foreground) for scene in scenes)
    assert not any(is_cut(scene.prop) for scene in props)
    share = 1 if bed.looks else bed.prop_share
    assert abs(len(props) / len(scenes) - share) < 0.15
    # The object hides little of the prop that stands beside it.
    assert np.median([np.asarray(scene.prop).mean() for scene in props]) > 2


def test_a_stopped_run_is_begun_again_and_a_finished_one_is_left_alone(tmp_path):
    whole = birds.write(tmp_path / "whole", 4, 4, 4, size=16, show_progress=False)
    stopped = tmp_path / "stopped"
    (stopped / "train").mkdir(parents=True)
    (stopped / "train" / "mug-grass-00000.png").write_bytes(b"half")
    assert hashes(birds.write(stopped, 4, 4, 4, size=16, show_progress=False)) == hashes(whole)
    with pytest.raises(FiguregroundError, match=r"holds a metadata\.csv already\. Give another directory"):
        birds.write(whole, 4, 4, 4, size=16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": -1}, "train: -1 is below 0"),
        ({"bias_aligned_share": 1.5}, "bias_aligned_share: 1.5 is not a number from 0 to 1"),
        ({"size": 4}, "size: 4 is below 8"),
        ({"seed": -2}, "seed: -2 is below 0"),
        ({"bed": "pocketbird"}, "bed: there is no 'pocketbird', did you mean 'pocketbirds'"),
        ({"bed": "waterbirds"}, "bed: there is no 'waterbirds'"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, values, message):
    with pytest.raises(RecipeError, match=message):
        birds.write(tmp_path / "birds", **values)
    assert not (tmp_path / "birds").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": ("mug", "dragon")}, "objects: there is no 'dragon'"),
        ({"objects": ("mug", "mug")}, "objects: mug, mug: name each once"),
        ({"looks": ("gift:0", "gift:7")}, "looks: there is no 'gift:7'"),
        ({"looks": ("gift:0", "kite:1")}, "looks: gift:0, kite:1 are looks of two props"),
        ({"looks": None}, "attributes: there is no 'blue'"),
        ({"objects": ("umbrella", "boat")}, "objects: umbrella, boat are not in alphabetical order"),
        ({"attributes": ("red", "blue")}, "attributes: red, blue are not in alphabetical order"),
        ({"looks": None, "attributes": ("snow", "rain")}, "scenes: they are the attribute here"),
        ({"scenes": ()}, "scenes: name one or more"),
        ({"scenes": ("beach",)}, "scenes: there is no 'beach'"),
        ({"prop_share": 2.0}, "prop_share: 2.0 is not a number from 0 to 1"),
        ({"radius": (0.3, 0.2)}, "radius: 0.3 to 0.2 is not a range above 0"),
        ({"prop_radius": (0.2, 0.3)}, "radius: an object of 0.22 and a prop of 0.3 don't fit"),
    ],
)
def test_a_bed_that_cannot_be_drawn_is_refused_with_the_field(changes, message):
    with pytest.raises(RecipeError, match=message):
        dataclasses.replace(birds.BEDS["pocketlooks"], **changes)


def test_the_command_writes_it(tmp_path):
    out = tmp_path / "birds"
    command = [sys.executable, "-m", "figureground.pocket.birds", str(out), "--train", "8", "--validation", "4"]
    done = subprocess.run([*command, "--test", "4", "--size", "16"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    assert len(read_groups(out)) == 16
    looks = [
        *command[:3],
        str(tmp_path / "looks"),
        "--bed",
        "pocketlooks",
        "--train",
        "4",
        "--bias-aligned-share",
        "0.5",
    ]
    subprocess.run([*looks, "--validation", "4", "--test", "4", "--size", "16"], check=True, capture_output=True)
    groups = read_groups(tmp_path / "looks")
    assert groups.attributes == birds.BEDS["pocketlooks"].attributes
    assert groups.counts(0).tolist() == [[1, 1], [1, 1]]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "holds a metadata.csv already" in again.stderr
