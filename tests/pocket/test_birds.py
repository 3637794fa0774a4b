"""pocketbirds: objects come with scenes in training and don't in validation and test, and their masks are true."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from figureground.errors import FiguregroundError, RecipeError
from figureground.learn.layouts import read_groups
from figureground.pocket import birds, world


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return birds.write(tmp_path_factory.mktemp("birds") / "pocketbirds", 200, 40, 40, size=32, show_progress=False)


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


def test_the_usual_sizes_have_19_of_20_pictures_in_their_own_scene():
    assert birds.counts(birds.TRAIN, birds.PAIRED_SHARE).tolist() == [[285, 15], [15, 285]]
    assert birds.counts(birds.TEST, 0.5).tolist() == [[200, 200], [200, 200]]
    assert (birds.TRAIN, birds.VALIDATION, birds.TEST, birds.PAIRED_SHARE) == (600, 400, 800, 0.95)
    for total in range(9):
        assert birds.counts(total, 0.9).sum() == total


def test_masks_cover_the_object_and_nothing_else(directory):
    groups = read_groups(directory)
    masks = dict(groups.read_masks(range(0, len(groups), 40)))
    for row, draw in groups.read(list(masks)):
        mask, pixels = masks[row](), np.asarray(draw())
        _, y, scene = (groups.keys[row].split("/")[0], groups.classes[groups.y[row]], groups.attributes[groups.a[row]])
        number = int(groups.keys[row].rpartition("-")[2].removesuffix(".png"))
        bird = birds.Bird(groups.keys[row].partition("/")[0], int(groups.y[row]), int(groups.a[row]), number)
        drawn = birds.draw(bird, 0, 32)
        assert bird.file == groups.keys[row]
        assert (y, scene) == (birds.OBJECTS[bird.y], birds.SCENES[bird.a])
        assert (np.asarray(drawn.picture) == pixels).all()
        assert (mask == (np.asarray(drawn.foreground) >= 128)).all()
        assert 0.02 < mask.mean() < 0.2
        share = np.asarray(drawn.foreground) / 255
        assert share[~mask].max() < 0.51


def test_no_two_pictures_are_the_same_drawing(directory):
    files = [path for path in directory.rglob("*.png") if not path.name.endswith(".mask.png")]
    assert len({Image.open(path).tobytes() for path in files}) == len(files) == 280


def test_the_same_call_gives_the_same_bytes_and_another_seed_others(tmp_path):
    one, again, other = (birds.write(tmp_path / name, 8, 4, 4, seed=seed, size=16, show_progress=False)
                         for name, seed in (("one", 0), ("again", 0), ("other", 1)))  # fmt: skip
    assert hashes(one) == hashes(again)
    assert set(hashes(one)) == set(hashes(other))
    changed = [name for name, found in hashes(one).items() if found != hashes(other)[name]]
    assert len([name for name in changed if ".mask" not in name]) == 17 - 1


def test_more_pictures_leave_the_first_as_they_are(directory, tmp_path):
    few = hashes(birds.write(tmp_path / "few", 40, 8, 8, size=32, show_progress=False))
    many = hashes(directory)
    assert all(many[name] == found for name, found in few.items() if name != birds.TABLE)


def test_the_object_is_in_view_and_props_stand_beside_some():
    scenes = [birds.draw(birds.Bird("train", i % 2, i // 2 % 2, i), size=32) for i in range(80)]
    props = [np.asarray(scene.prop).max() > 0 for scene in scenes]
    assert 0.4 < np.mean(props) < 0.8
    border = np.ones((32, 32), bool)
    border[1:-1, 1:-1] = False
    touching = [(np.asarray(scene.foreground)[border] > 128).any() for scene in scenes]
    assert np.mean(touching) < 0.1
    assert {scene.picture.size for scene in scenes} == {(32, 32)}
    assert set(birds.OBJECTS) <= set(world.FOREGROUNDS)
    assert set(birds.SCENES) <= set(world.BACKGROUNDS)


def test_a_stopped_run_is_begun_again_and_a_finished_one_is_left_alone(tmp_path):
    whole = birds.write(tmp_path / "whole", 4, 4, 4, size=16, show_progress=False)
    stopped = tmp_path / "stopped"
    (stopped / "train").mkdir(parents=True)
    (stopped / "train" / "mug-grass-00000.png").write_bytes(b"half")
    assert hashes(birds.write(stopped, 4, 4, 4, size=16, show_progress=False)) == hashes(whole)
    with pytest.raises(FiguregroundError, match=r"holds a metadata\.csv already\. Give another directory"):
        birds.write(whole, 4, 4, 4, size=16)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train": -1}, "train: -1 is below 0"),
        ({"paired_share": 1.5}, "paired_share: 1.5 is not a number from 0 to 1"),
        ({"size": 4}, "size: 4 is below 8"),
        ({"seed": -2}, "seed: -2 is below 0"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(tmp_path, values, said):
    with pytest.raises(RecipeError, match=said):
        birds.write(tmp_path / "birds", **values)
    assert not (tmp_path / "birds").exists()


def test_the_command_writes_it(tmp_path):
    out = tmp_path / "birds"
    command = [sys.executable, "-m", "figureground.pocket.birds", str(out), "--train", "8", "--validation", "4"]
    done = subprocess.run([*command, "--test", "4", "--size", "16"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    assert len(read_groups(out)) == 16
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "holds a metadata.csv already" in again.stderr
