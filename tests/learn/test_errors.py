"""Errors of ERM: folds, who judges whom, going on after a kill, classifiers that are given, and refusals."""

import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest
from commands import ENVIRONMENT, wait_for
from forked_commands import Forked
from safetensors.numpy import load_file
from tiny_classifiers import make_classifier, refuse_more_than
from tiny_layouts import TABLE, make_image, make_table

from figureground.core.errors import FiguregroundError, OutOfMemory, RecipeError
from figureground.core.hashing import digest
from figureground.data.layouts import read_groups
from figureground.learn.accuracy import accuracy_by_group
from figureground.learn.classifier_errors import find_classifier_errors, match_classes
from figureground.learn.errors import Errors, find_lowest_loss, read_errors, save_errors
from figureground.learn.find_errors import cross_fit, fit_early_stopped, fit_fold, import_fold, make_folds
from figureground.learn.settings import Training
from figureground.vision.classifiers import open_classifier


@pytest.fixture(scope="module")
def crossed(images, tmp_path_factory):
    """Three folds of one epoch: the folder, and what came of it."""
    out = tmp_path_factory.mktemp("crossed") / "errors"
    return out, fit(images, out)


def fit(data, out, folds=3, **changes):
    settings = Training(**{"method": "erm", "epochs": 1, **changes})
    return cross_fit(read_groups(data), settings, folds, 0, out, device="cpu", show_progress=False)


def bits(folder):
    return load_file(folder / "model.safetensors")


def same_bits(one, two):
    one, two = bits(one), bits(two)
    return all((one[key] == two[key]).all() for key in one)


def equal(one: Errors, two: Errors):
    names = ("y", "predicted", "probability", "fold")
    return one.keys == two.keys and all((getattr(one, name) == getattr(two, name)).all() for name in names)


def test_folds_are_of_one_size_in_images_and_in_images_of_each_class():
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [31, 7, 11]))
    fold = make_folds(y, 4, 0)
    assert fold.dtype == np.int64
    assert np.ptp(np.bincount(fold, minlength=4)) <= 1
    for label in range(3):
        assert np.ptp(np.bincount(fold[y == label], minlength=4)) <= 1
    assert (make_folds(y, 4, 0) == fold).all()
    assert (make_folds(y, 4, 1) != fold).any()


def test_each_image_is_judged_by_the_classifier_that_was_trained_without_it(crossed, images):
    out, errors = crossed
    train = read_groups(images).of_split(0)
    assert errors.keys == train.keys
    assert (errors.fold == make_folds(train.y, 3, 0)).all()
    assert (errors.predicted == errors.probability.argmax(1)).all()
    assert (errors.wrong == (errors.predicted != train.y)).all()
    drawn = [draw() for _, draw in train.read(np.arange(len(train)))]
    for i, model in enumerate(errors.models):
        classifier = open_classifier(str(model))
        assert classifier.labels == ("mug", "umbrella")
        held = np.flatnonzero(errors.fold == i)
        logits = classifier.read([drawn[row] for row in held]).logits
        assert np.allclose(logits.double().softmax(1), errors.probability[held], atol=1e-5)
        marker = json.loads((out / f"fold-{i}.json").read_text())
        others = [key for key, fold in zip(train.keys, errors.fold, strict=True) if fold != i]
        assert marker["trained_on"] == {"images": len(others), "keys_sha256": digest(others)}
        assert marker["judged"] == {"images": len(held), "wrong": int(errors.wrong[held].sum())}


def test_a_fold_s_classifier_is_the_same_whatever_is_in_the_images_that_are_held_out(crossed, images, tmp_path):
    shutil.copytree(images, tmp_path / "birds")
    out, errors = crossed
    for key, fold in zip(errors.keys, errors.fold, strict=True):
        if fold == 0:
            make_image(tmp_path / "birds" / key, (16, 16))
    fit(tmp_path / "birds", tmp_path / "out")
    assert same_bits(out / "fold-0", tmp_path / "out" / "fold-0")
    assert not same_bits(out / "fold-1", tmp_path / "out" / "fold-1")


def test_the_attribute_and_the_test_split_are_not_used(crossed, images, tmp_path):
    shutil.copytree(images, tmp_path / "birds")
    lines = (tmp_path / "birds" / "metadata.csv").read_text().splitlines()
    bare = [line.rsplit(",", 1)[0] for line in lines if not line.startswith("test/")]
    (tmp_path / "birds" / "metadata.csv").write_text("\n".join(bare) + "\n")
    assert equal(fit(tmp_path / "birds", tmp_path / "out"), crossed[1])
    assert (tmp_path / "out" / "training.json").read_text() == (crossed[0] / "training.json").read_text()


def test_the_worst_class_of_validation_chooses_the_epoch(images, tmp_path):
    fit(images, tmp_path / "out", folds=2, epochs=3)
    validation = read_groups(images).of_split(1)
    drawn = [draw() for _, draw in validation.read(np.arange(len(validation)))]
    for i in range(2):
        marker = json.loads((tmp_path / "out" / f"fold-{i}.json").read_text())
        best = max(marker["curve"], key=lambda each: (each["worst"], each["average"]))
        assert marker["epoch"] == best["epoch"]
        predicted = open_classifier(str(tmp_path / "out" / f"fold-{i}")).read(drawn).logits.argmax(1).numpy()
        assert accuracy_by_group(predicted == validation.y, validation.y, 2).min() == best["worst"]


def test_what_is_saved_is_read_back_and_says_no_path(crossed):
    out, errors = crossed
    again = read_errors(out)
    assert equal(again, errors)
    assert again.models == errors.models == tuple(out / f"fold-{i}" for i in range(3))
    rows = list(csv.DictReader((out / "errors.csv").open()))
    assert [row["key"] for row in rows] == list(errors.keys)
    assert [row["wrong"] for row in rows] == [str(int(wrong)) for wrong in errors.wrong]
    assert {row["class"] for row in rows} == {"mug", "umbrella"}
    assert np.allclose([float(row["loss"]) for row in rows], errors.loss, rtol=1e-4)
    for path in out.rglob("*"):
        assert not path.is_file() or str(out).encode() not in path.read_bytes()
    assert not list(out.rglob(".*"))
    assert not list(out.glob("*.pt"))


def test_a_finished_fold_is_not_trained_again_and_other_settings_are_refused(crossed, images, tmp_path):
    shutil.copytree(crossed[0], tmp_path / "out")
    for name in ("errors.npz", "fold-2.json"):
        (tmp_path / "out" / name).unlink()
    models = [tmp_path / "out" / f"fold-{i}" / "model.safetensors" for i in range(3)]
    before = [path.stat().st_ino for path in models]
    assert equal(fit(images, tmp_path / "out"), crossed[1])
    assert [path.stat().st_ino == old for path, old in zip(models, before, strict=True)] == [True, True, False]
    with pytest.raises(FiguregroundError, match=r"holds another training:\n  folds: 3, now 2\n"):
        fit(images, tmp_path / "out", folds=2)


def test_folds_that_were_trained_apart_are_taken_as_they_are(crossed, images, tmp_path):
    groups, settings, out = read_groups(images), Training("erm", epochs=1), tmp_path / "out"
    for number in (0, 2):
        fit_fold(groups, settings, 3, 0, tmp_path / str(number), number, device="cpu", show_progress=False)
        import_fold(tmp_path / str(number), out, number)
    before = [(out / f"fold-{i}" / "model.safetensors").stat().st_ino for i in (0, 2)]
    assert equal(fit(images, out), crossed[1])
    assert [(out / f"fold-{i}" / "model.safetensors").stat().st_ino for i in (0, 2)] == before
    assert all(same_bits(crossed[0] / f"fold-{i}", out / f"fold-{i}") for i in range(3))
    (tmp_path / "2" / "fold-2.npz").unlink()
    with pytest.raises(FiguregroundError, match=r"fold-2.npz is missing"):
        import_fold(tmp_path / "2", tmp_path / "other", 2)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same_to_the_bit(images, tmp_path):
    script = (
        "import sys; from pathlib import Path; from figureground.learn.find_errors import cross_fit\n"
        "from figureground.data.layouts import read_groups; from figureground.learn.settings import Training\n"
        "cross_fit(read_groups(sys.argv[1]), Training('erm', epochs=8), 2, 0, Path(sys.argv[2]), device='cpu')\n"
    )
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert Forked([images, whole], script, env=ENVIRONMENT).wait() == 0
    process = Forked([images, out], script, env=ENVIRONMENT)
    try:
        wait_for(lambda: (out / "fold-1.pt").exists(), process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (out / "fold-0.json").exists()
    assert not (out / "fold-1.json").exists()
    before = (out / "fold-0" / "model.safetensors").stat().st_ino
    assert Forked([images, out], script, env=ENVIRONMENT).wait() == 0
    assert (out / "fold-0" / "model.safetensors").stat().st_ino == before
    assert all(same_bits(whole / f"fold-{i}", out / f"fold-{i}") for i in range(2))
    assert (whole / "errors.npz").read_bytes() == (out / "errors.npz").read_bytes()
    assert (whole / "errors.csv").read_bytes() == (out / "errors.csv").read_bytes()


def test_an_early_stopped_classifier_judges_what_it_was_trained_on(images, tmp_path):
    groups, settings = read_groups(images), Training("erm", epochs=4)
    errors = fit_early_stopped(groups, settings, 2, 0, tmp_path, device="cpu", show_progress=False)
    marker = json.loads((tmp_path / "early-stopped.json").read_text())
    assert [each["epoch"] for each in marker["curve"]] == [1, 2]
    assert marker["epoch"] == 2
    assert marker["trained_on"]["images"] == marker["judged"]["images"] == 40
    assert errors.models == (tmp_path / "early-stopped",)
    assert not errors.fold.any()
    given = find_classifier_errors(groups, open_classifier(str(errors.models[0])), groups.classes, show_progress=False)
    assert given.models == ()
    assert np.allclose(given.probability, errors.probability, atol=1e-5)


def test_a_given_classifier_s_classes_are_matched_by_name(images, tmp_path):
    groups = read_groups(images)
    classifier = open_classifier(str(make_classifier(tmp_path / "other", labels={0: "Umbrella", 1: "mug"})))
    errors = find_classifier_errors(groups, classifier, groups.classes, show_progress=False)
    train = groups.of_split(0)
    logits = classifier.read([draw() for _, draw in train.read(np.arange(len(train)))]).logits
    assert np.allclose(errors.probability, logits.double().softmax(1).flip(1), atol=1e-5)
    assert (errors.predicted == 1 - logits.argmax(1).numpy()).all()
    assert errors.keys == train.keys
    renamed = find_classifier_errors(groups, classifier, ("umbrella", "mug"), show_progress=False)
    assert (renamed.probability == errors.probability[:, ::-1]).all()


@pytest.mark.parametrize("most", [3, 0])
def test_a_given_classifier_whose_batches_do_not_fit_reads_parts_of_them(images, tmp_path, most):
    groups = read_groups(images)
    classifier = open_classifier(str(make_classifier(tmp_path / "other", labels={0: "mug", 1: "umbrella"})))
    expected = find_classifier_errors(groups, classifier, groups.classes, show_progress=False)
    refuse_more_than(classifier, most, RuntimeError("[alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"))
    if most:
        errors = find_classifier_errors(groups, classifier, groups.classes, show_progress=False)
        assert np.allclose(errors.probability, expected.probability, atol=1e-6)
    else:
        with pytest.raises(OutOfMemory, match=r"^The classifier other and one image of .* px don't fit"):
            find_classifier_errors(groups, classifier, groups.classes, show_progress=False)


def test_the_very_same_names_are_told_apart_where_matching_would_be_loose(tmp_path):
    classifier = open_classifier(str(make_classifier(tmp_path / "alike", labels={0: "a_b", 1: "A b"})))
    assert match_classes(classifier, ("A b", "a_b")) == [1, 0]


def test_a_classifier_of_other_classes_is_refused_with_both_named(images, tmp_path):
    groups = read_groups(images)
    four = open_classifier(str(make_classifier(tmp_path / "four")))
    with pytest.raises(FiguregroundError, match=r"four has 4 classes \(hen, .*the data have 2 \(mug, umbrella"):
        find_classifier_errors(groups, four, groups.classes)
    other = open_classifier(str(make_classifier(tmp_path / "other", labels={0: "cup", 1: "umbrella"})))
    with pytest.raises(FiguregroundError, match=r"other has 2 classes \(cup, umbrella\)"):
        find_classifier_errors(groups, other, groups.classes)
    with pytest.raises(FiguregroundError, match=r"2 classes \(mug, umbrella\), .*3 names"):
        find_classifier_errors(groups, other, ("cup", "mug", "umbrella"))


def made(probability, y, keys=None):
    probability = np.array(probability)
    n = len(probability)
    return Errors(
        tuple(keys or map(str, range(n))), np.array(y), probability.argmax(1), probability, np.zeros(n, np.int64), ()
    )


def test_losses_tell_images_apart_that_are_nearly_certain():
    errors = made([[0.25, 0.75], [0.25, 0.75], [1.0, 1e-30], [1.0, 1e-20], [0.0, 1.0]], [1, 0, 0, 0, 0])
    assert np.allclose(errors.loss[:2], [-np.log(0.75), -np.log(0.25)])
    assert np.allclose(errors.loss[2:4], [1e-30, 1e-20], rtol=1e-6, atol=0)
    assert 700 < errors.loss[4] < np.inf
    assert errors.wrong.tolist() == [False, True, False, False, True]


def test_the_lowest_losses_of_a_class_are_of_images_that_are_predicted_right():
    errors = made(
        [[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.3, 0.7], [0.1, 0.9], [0.99, 0.01]], [0, 0, 0, 0, 1, 1], "edcbaf"
    )
    assert find_lowest_loss(errors, 0, 2).tolist() == [2, 0]  # of equal losses, c before e
    assert find_lowest_loss(errors, 0, 9).tolist() == [2, 0, 1]
    assert find_lowest_loss(errors, 1, 9).tolist() == [4]
    assert find_lowest_loss(errors, 0, 2).dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds: 1 is not a whole number from 2 to 100"),
        ({"folds": 21}, r"folds: birds has fewer than 21 training images of mug \(20\), umbrella \(20\)"),
        ({"method": "reweight"}, "method: .*not with reweight"),
    ],
)
def test_settings_that_cant_be_used_are_named_before_anything_is_made(changes, message, images, tmp_path):
    with pytest.raises(RecipeError, match=message):
        fit(images, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_data_and_folders_that_cant_be_used_are_refused(images, tmp_path):
    make_table(tmp_path / "unvalidated", [row for row in TABLE if row[1] != 1])
    with pytest.raises(FiguregroundError, match="no image in the split validation"):
        fit(tmp_path / "unvalidated", tmp_path / "out")
    make_table(tmp_path / "one", [row for row in TABLE if row[1] or not row[2]])
    with pytest.raises(FiguregroundError, match="all its training images are of one class, '0'"):
        fit(tmp_path / "one", tmp_path / "out")
    with pytest.raises(RecipeError, match="epochs: 3 is not a whole number from 1 to 2"):
        fit_early_stopped(read_groups(images), Training("erm", epochs=2), 3, 0, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else \(thesis.txt\)"):
        fit(images, tmp_path / "mine")


def test_missing_and_damaged_files_are_named(crossed, tmp_path):
    with pytest.raises(FiguregroundError, match=r"holds no errors\.npz"):
        read_errors(tmp_path)
    save_errors(crossed[1], ("mug", "umbrella"), tmp_path)
    path = tmp_path / "errors.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FiguregroundError, match=r"errors\.npz is damaged"):
        read_errors(tmp_path)
