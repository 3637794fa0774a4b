"""Accuracies by group are those that were drawn, and gaps weigh classes alike."""

import numpy as np
import pytest
from colour_datasets import make_coloured

from figureground.data.images import DatasetImages
from figureground.data.objects import iterate_identities
from figureground.evaluation.accuracy import compare_accuracy, measure_by_group, measure_consistency
from figureground.evaluation.predict import Predictions

RIGHT = {
    ("bird", "grass"): [1, 1, 1, 1], ("bird", "snow"): [1, 0],
    ("cat", "grass"): [1, 1, 0, 0], ("cat", "snow"): [0, 0, 0],
}  # fmt: skip


def answers(label, correct, judged=None):
    label, correct = np.array(label), np.array(correct, bool)
    judged = np.ones(len(label), bool) if judged is None else np.array(judged, bool)
    return Predictions(label, judged, np.where(correct, label, 9), correct * 1.0, correct)


def groups(tmp_path):
    drawn = [("train", f, b, i, f) for (f, b), right in RIGHT.items() for i in range(len(right))]
    images = DatasetImages.open(make_coloured(tmp_path, drawn))
    return images, [bool(r) for right in RIGHT.values() for r in right]


def test_accuracy_by_foreground_background_cell_and_the_worst_group(tmp_path):
    images, right = groups(tmp_path)
    report = measure_by_group(images, answers(images.label, right))
    assert report["accuracy"]["value"] == pytest.approx(7 / 13)
    assert report["accuracy"]["samples"] == 13
    values = {axis: {n: (some["value"], some["samples"]) for n, some in report[f"by_{axis}"].items()}
              for axis in ("split", "foreground", "background")}  # fmt: skip
    assert values == {
        "split": {"train": (pytest.approx(7 / 13), 13)},
        "foreground": {"bird": (pytest.approx(5 / 6), 6), "cat": (pytest.approx(2 / 7), 7)},
        "background": {"grass": (0.75, 8), "snow": (0.2, 5)},
    }
    assert [(cell["foreground"], cell["background"], cell["value"], cell["samples"]) for cell in report["by_cell"]] == [
        ("bird", "grass", 1, 4), ("bird", "snow", 0.5, 2), ("cat", "grass", 0.5, 4), ("cat", "snow", 0, 3),
    ]  # fmt: skip
    assert report["worst_group"] == report["by_cell"][3]
    for estimate in (report["accuracy"], *report["by_foreground"].values(), *report["by_background"].values()):
        assert estimate["low"] < estimate["value"] < estimate["high"]
    assert report == measure_by_group(images, answers(images.label, right))


def test_samples_that_were_not_judged_count_for_nothing(tmp_path):
    images, right = groups(tmp_path)
    report = measure_by_group(images, answers(images.label, right, images.foreground == 0))
    assert list(report["by_foreground"]) == ["bird"]
    assert report["accuracy"]["samples"] == 6
    assert len(report["by_cell"]) == 2


def test_a_drop_counts_each_shared_class_alike():
    here = answers([0] * 10 + [1] * 2 + [2] * 4, [1] * 5 + [0] * 5 + [1, 1] + [0] * 4)
    there = answers([0] * 4 + [1] * 40, [1, 1, 1, 0] + [1] * 40)
    comparison = compare_accuracy(here, there)
    assert comparison["classes"] == 2
    assert comparison["accuracy"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert comparison["references"]["value"] == pytest.approx((0.75 + 1) / 2)
    assert comparison["drop"]["value"] == pytest.approx(0.125)
    assert comparison["drop"]["low"] < 0 < 0.125 < comparison["drop"]["high"]


def test_without_references_there_is_an_accuracy_and_no_drop():
    comparison = compare_accuracy(answers([0, 0, 1], [1, 0, 1]))
    assert (comparison["classes"], comparison["accuracy"]["value"]) == (2, 0.75)
    assert "drop" not in comparison
    assert compare_accuracy(answers([0], [1]), answers([1], [1])) == {"classes": 0}


def test_objects_are_followed_over_their_backgrounds():
    keys = [f"train-{f:04d}-{b:02d}-{i:05d}" for f in (0, 1) for i in (0, 1) for b in (0, 1, 2)]
    # Objects: always right; right on two of three; always the same wrong class; judged on one background alone.
    right = [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    judged = [1] * 9 + [1, 0, 0]
    outcomes = np.array([-1, -1, -1, -1, -1, 7, 4, 4, 4, -1, -1, -1])
    consistency = measure_consistency(keys, outcomes, answers([0] * 6 + [1] * 6, right, judged))
    assert consistency["objects"] == 3
    assert consistency["alike"]["value"] == pytest.approx(2 / 3)
    assert consistency["right"]["value"] == pytest.approx(1 / 3)
    assert measure_consistency(keys[:1], outcomes[:1], answers([0], [1])) is None


def test_settings_of_a_copy_are_those_of_what_it_was_made_from():
    source = {"builder": "d3s", "config": "pocket", "identity": {"match": "foreground"}}
    assert list(iterate_identities(source)) == [("pocket", {"match": "foreground"})]
    copy = {"builder": "curate", "identity": {}, "sources": [source, {"builder": "merge", "sources": [source]}]}
    assert list(iterate_identities(copy)) == [("pocket", {"match": "foreground"})] * 2
