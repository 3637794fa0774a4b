"""Severity axes: datasets that differ in one setting, and the point at which classifiers fail along them."""

import json
import re

import numpy as np
import pytest
from colour_datasets import make_coloured, make_coloured_classifier, make_folders
from commands import TINY, run
from tiny_checkpoints import make_checkpoint

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.evaluation.evaluating import evaluate
from figureground.evaluation.evaluating_severity import evaluate_severity
from figureground.evaluation.severity import failure_point, first_wrong
from figureground.evaluation.severity_page import summarise
from figureground.methods.d3s import D3S
from figureground.recipe.severity import Axis, list_points, load_axes, read_axes, save_axes
from figureground.shards.finished import FinishedDataset
from figureground.sources.guide import sample_box


def test_the_failure_point_lies_between_the_datasets_around_it():
    assert failure_point([1, 0.8, 0.4], 0.5) == pytest.approx(1.75)
    assert failure_point([1, 0.5, 0.5], 0.5) is None
    assert failure_point([0.4, 1], 0.5) == 0
    assert failure_point([1, 0.4, 0.9, 0.1], 0.5) == pytest.approx(5 / 6)


def test_images_that_are_right_at_first_are_followed_to_their_first_error():
    right = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 1, 1], [1, 0, 1, 1, 1]], bool)
    assert first_wrong(right) == {"images": 4, "share": [0.25, 0.25], "never": 0.5}
    assert first_wrong(np.zeros((2, 3), bool)) is None


def test_axes_are_presets_or_values_and_nonsense_is_refused():
    scale, strength = read_axes(["scale", "strength=0.2,0.5"])
    assert (scale.field, scale.values[0]) == ("cutout_scale", max(scale.values))
    assert strength == Axis("strength", "strength", (0.2, 0.5))
    assert list_points([scale, strength])["strength-1"] == {"cutout_scale": scale.values[0], "strength": 0.5}
    assert len(list_points([scale, strength])) == len(scale.values) + 1
    for given in (["size"], ["scale", "scale"], ["scale=0.5"], ["scale=0.5,0.5"], ["scale=0.5,x"]):
        with pytest.raises(UsageError, match=given[0].partition("=")[0]):
            read_axes(given)


def test_axes_of_a_run_that_failed_before_its_first_dataset_are_replaced_and_others_refused(tmp_path):
    for texts in (["scale=0.6,0.3"], ["scale=0.6,0.2"]):
        save_axes(tmp_path / "out", read_axes(texts))
    assert [axis.values for axis in load_axes(tmp_path / "out")] == [(0.6, 0.2)]
    (tmp_path / "out" / "mildest").mkdir()
    with pytest.raises(UsageError, match="other severity axes"):
        save_axes(tmp_path / "out", read_axes(["scale=0.6,0.3"]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "severity.json").write_text('{"mine": 1}')
    with pytest.raises(FiguregroundError, match=r"severity\.json"):
        save_axes(tmp_path / "mine", read_axes(["scale=0.6,0.3"]))


def test_a_position_is_a_distance_from_the_centre():
    far = []
    for seed in range(40):
        for share in (0.0, 0.5, 1.0):
            left, top, right, bottom = sample_box(np.random.default_rng(seed), 64, (0.25, 0.25), share)
            assert (right - left, bottom - top) == (16, 16)
            assert min(left, top) >= 0
            assert max(right, bottom) <= 64
            assert max(abs(left - 24), abs(top - 24)) == pytest.approx(24 * share, abs=1)
            far.append((share, left, top))
    assert {(left, top) for share, left, top in far if share == 0} == {(24, 24)}
    assert len({(left, top) for share, left, top in far if share == 1}) > 20
    assert D3S("pocket", position=0.5).config.position == 0.5
    with pytest.raises(RecipeError, match=r"position: 1.5 .*from 0 to 1"):
        D3S("pocket", position=1.5)


@pytest.fixture
def graded(tmp_path):
    """Birds and cats at three scales: at the second one of four birds is drawn as a cat, at the third all are."""
    directory = tmp_path / "graded"
    save_axes(directory, [Axis("scale", "cutout_scale", (0.6, 0.4, 0.2))])
    for folder, wrong in (("mildest", 0), ("scale-1", 1), ("scale-2", 4)):
        drawn = [
            ("train", name, "grass", i, "cat" if name == "bird" and i < wrong else name)
            for name in ("bird", "cat") for i in range(4)
        ]  # fmt: skip
        make_coloured(directory / folder, drawn)
    return directory


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return str(make_coloured_classifier(tmp_path_factory.mktemp("classifiers") / "colours"))


def test_accuracy_is_reported_by_severity_with_the_failure_point(graded, classifier, tmp_path, capsys):
    code = main(["evaluate", str(graded), "--classifier", classifier, "--device", "cpu"])
    output = capsys.readouterr().out
    assert code == 0
    report = json.loads((graded / "_evaluation" / "evaluation.json").read_text())
    result = report["classifiers"]["colours"]
    axis = result["axes"]["scale"]
    assert (report["kind"], result["reference"]["value"], result["half"]) == ("severity", 1, 0.5)
    assert [level["value"] for level in axis["accuracy"]] == [1, 0.875, 0.5]
    assert axis["failure"] is None  # half of the reference isn't below it
    assert axis["first_wrong"] == {"images": 8, "share": [0.125, 0.375], "never": 0.5}
    assert "failure point none" in output
    assert result["chance"] == pytest.approx(1 / 3)  # it has a third class
    assert "above chance" not in output
    page = (graded / "_evaluation" / "evaluation.html").read_text()
    assert len(re.findall(r"<svg class=\"plot\"", page)) == 1
    assert page.count('src="data:image/webp') == 4 * 3


def test_references_move_the_point_and_other_labels_or_missing_sets_are_named(graded, classifier, tmp_path):
    photos = make_folders(tmp_path / "photos", {"bird": 4, "cat": 4})
    strict = make_coloured_classifier(tmp_path / "strict", {"bird": "bird", "cat": "dog", "mug": "cat"})
    done = evaluate_severity(graded, [classifier, str(strict)], references=photos, show_progress=False)
    result = done.report["classifiers"]["strict"]
    assert (result["reference"]["value"], result["half"]) == (0.5, 0.25)
    assert result["axes"]["scale"]["failure"] == {
        "severity": pytest.approx(1 + 0.125 / 0.375),
        "value": pytest.approx(1 / 3),
    }
    text = summarise(done.report)
    assert "0.33 (severity 1.3)" in text
    assert "not above chance for strict (33.3%), so" in text  # two of its three classes occur
    with pytest.raises(UsageError, match="severity"):
        evaluate(graded, [classifier], show_progress=False)
    assert main(["evaluate", str(graded), "--classifier", classifier, "--save-scores"]) == 2
    (graded / "scale-2" / "_figureground" / "index.json").unlink()
    with pytest.raises(FiguregroundError, match="scale-2"):
        evaluate_severity(graded, [classifier], show_progress=False)
    (graded / "severity.json").write_text('{"made_by": "x", "axes": {"scale": {"field": "a", "values": [1]}}}')
    with pytest.raises(FiguregroundError, match=r"severity\.json"):
        load_axes(graded)


@pytest.mark.slow
def test_a_build_makes_sets_of_the_same_seeds_that_differ_in_one_setting(tmp_path):
    settings = {**TINY, "checkpoint": make_checkpoint("sd1", tmp_path / "checkpoint"), "per_cell": "{train: 1}"}
    settings["num_inference_steps"] = 4
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    out = tmp_path / "sev"
    command = ["build", "d3s", *sets, "--out", str(out), "--severity", "scale=0.6,0.3", "--severity", "strength=0.5,1"]
    code, output, err = run(*command)
    assert (code, err) == (0, "")
    assert "3 datasets" in output
    provenance = {}
    for folder in ("mildest", "scale-1", "strength-1"):
        source = FinishedDataset(out / folder)
        rows = [row for shard in source.shards for row in source.rows(shard)]
        provenance[folder] = {row["key"]: json.loads(row["provenance"]) for row in rows}
    mild = provenance["mildest"]
    assert len(mild) == 4
    for folder, edge in (("scale-1", 0.3), ("strength-1", 0.6)):
        assert provenance[folder].keys() == mild.keys()
        for key, facts in provenance[folder].items():
            assert (facts["seed"], facts["guide"]["cutout"]) == (mild[key]["seed"], mild[key]["guide"]["cutout"])
            left, _, right, _ = facts["guide"]["box"]
            assert right - left == round(edge * 32)
    assert provenance["strength-1"][key]["strength"] == 1

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert run(*command)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    code, _, err = run(*command[:-1], "strength=0.5,0.9")
    assert code == 2
    assert "severity.json" in err
    code, _, err = run("build", "spurious", "--out", str(tmp_path / "other"), "--severity", "scale")
    assert code == 2
    assert not (tmp_path / "other").exists()
