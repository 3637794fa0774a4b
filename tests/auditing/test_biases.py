"""Biases of classifiers on a set's own objects, and the compositions that show them."""

import numpy as np
import pytest
from drawn_datasets import make_drawn
from PIL import Image

from figureground.auditing.auditing import audit
from figureground.auditing.biases import FACTORS, Part, _Answers, _Compositions, _measure_size_bias
from figureground.auditing.compositions import compose, fill_smoothly
from figureground.auditing.regions import Box, cover_object, cut_object, place_square, shrink_mask
from figureground.evaluation.counterparts import Counterparts
from figureground.vision.classifiers import open_classifier


def test_a_hole_is_filled_from_around_it():
    image = Image.new("RGB", (33, 20), (10, 200, 30))
    missing = np.zeros((20, 33), bool)
    missing[5:15, 8:25] = True
    damaged = Image.composite(Image.new("RGB", image.size, "red"), image, Image.fromarray(missing))
    assert np.abs(np.asarray(fill_smoothly(damaged, missing), int) - [10, 200, 30]).max() <= 1
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 33, 3), dtype=np.uint8))
    kept = np.asarray(fill_smoothly(noise, missing))
    assert (kept[~missing] == np.asarray(noise)[~missing]).all()


def test_an_object_is_put_where_and_as_large_as_asked():
    image, mask = Image.new("RGB", (40, 40), "red"), np.zeros((40, 40), bool)
    mask[10:20, 10:30] = True
    page = compose(image, mask, Box.around(mask), Image.new("RGB", (80, 80), "blue"), (0.0, 0.5), 0.25)
    red = np.asarray(page)[..., 0] > 128
    assert Box.around(red) == Box(0, 18, 10, 23) or Box.around(red) == Box(0, 17, 10, 22)


def test_regions_hide_what_they_should():
    image, mask = Image.new("RGB", (40, 40), "red"), np.zeros((40, 40), bool)
    mask[0:20, 10:30] = True
    assert Box.around(shrink_mask(mask)) == Box(11, 1, 29, 19)
    covered = place_square(Box.around(mask), 24, image.size)
    assert covered == Box(8, 0, 32, 24)
    seen = np.asarray(cover_object(image, covered))
    assert (seen[mask] == 128).all()
    assert (seen[30:] == (255, 0, 0)).all()
    alone = cut_object(
        Image.composite(Image.new("RGB", (40, 40), "blue"), image, Image.fromarray(mask)), mask, Box.around(mask)
    )
    assert np.asarray(alone)[5:-5, 5:-5].reshape(-1, 3).max(axis=0).tolist() == [0, 0, 255]
    assert Box.around(np.zeros((4, 4), bool)) is None


def test_an_enlarged_object_counts_only_where_it_fits():
    """Otherwise an object of nine tenths of the image would be called twice as large."""
    classifier = open_classifier("pocket")
    compositions = _Compositions(classifier, Counterparts(("cat",), ((0,),), len(classifier.labels)), False)
    background = Image.new("RGB", (64, 64), "blue")
    for edge in (20, 40, 58):  # 0.3, 0.6 and 0.9 of the image
        mask = np.zeros((64, 64), bool)
        mask[2 : 2 + edge, 3 : 3 + edge] = True
        part = Part(0, Image.new("RGB", (64, 64), "red"), mask, Box.around(mask), background)
        compositions.add_all(part, background, background, 0)
    right = compositions.classify_all()
    assert compositions.fitting == {"0.5": [0, 1, 2], "0.7": [0, 1, 2], "1": [0, 1, 2], "1.4": [0, 1], "2": [0]}
    assert {name: len(right[name]) for name in ("all", "0.5", "1.4", "2")} == {"all": 3, "0.5": 3, "1.4": 2, "2": 1}


def test_accuracies_of_two_sizes_are_those_of_the_same_images():
    n = 60
    small = np.arange(n) < 30  # fit twice as large, and are never recognised
    right = {"all": ~small, **{name: ~small for name in ("0.5", "0.7", "1.4")}, "2": np.zeros(30, bool)}
    everything = np.arange(n)
    fitting = {**{f"{factor:g}": everything for factor in FACTORS}, "2": np.flatnonzero(small)}
    answers = _Answers("it", right, everything, [str(i) for i in range(n)], fitting)
    sizes = _measure_size_bias(answers)
    assert sizes["value"] == {"0.5": 1.0, "0.7": 1.0, "1": 1.0, "1.4": 1.0, "2": None}  # 0 of 0
    assert sizes["images"]["2"] == 30
    assert answers.findings == []
    few = _Answers("it", {**right, "2": np.ones(3, bool)}, everything, [""] * n, {**fitting, "2": np.arange(3)})
    assert _measure_size_bias(few)["value"]["2"] is None


@pytest.mark.slow
def test_a_classifier_s_biases_are_measured(tmp_path):
    pytest.importorskip("captum")
    directory = make_drawn(tmp_path / "set", splits={"train": 3}, per_cell=lambda *cell: 3)
    result = audit(directory, classifiers=["pocket"], device="cpu", show_progress=False)
    biases = result.report["biases"]["pocket"]
    assert biases["images"] == 27
    assert 0.7 < biases["background_robustness"]["value"] < 1.3
    assert biases["size_bias"]["value"]["1"] == 1
    assert set(biases["size_bias"]["value"]) == {"0.5", "0.7", "1", "1.4", "2"}
    assert len(biases["centre_bias"]["places"]) == 9
    assert biases["foreground_focus"]["value"] > 1
    assert "pocket" in (result.out / "audit.html").read_text()


def test_without_masks_biases_are_not_measured(tmp_path):
    directory = make_drawn(tmp_path / "set", splits={"train": 1}, per_cell=lambda *cell: 1, mask=False)
    report = audit(directory, classifiers=["pocket"], device="cpu", show_progress=False).report
    assert "mask" in report["biases"]["reason"]
