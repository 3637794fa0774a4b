"""The comparison on small pocketbirds: what it reports, going on after a kill, and what is refused at the door."""

import csv
import json
import os
import shutil
import signal
import statistics

import pytest
from commands import ENVIRONMENT, wait_for
from forked_commands import Forked
from repaint_datasets import EASY, SIZES, rows
from tiny_layouts import make_folders

from figureground.cli.main import main
from figureground.comparison.comparing import compare, parse_overrides
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.data.layouts import read_groups
from figureground.pocket import birds

TRUE = {"paste": {"masks": "true", "count_per_class": 6}, "jtt": {"first_epochs": 1}}


def run(data, methods, out, seeds=2, overrides=TRUE, **options):
    names = methods.split(",")
    used = {part for name in names for part in name.split("+")}
    own = {name: fields for name, fields in overrides.items() if name in used}
    settings = {"epochs": 1, **options.pop("training", {})}
    return compare(
        data, names, seeds, out, training=settings, overrides=own, device="cpu", show_progress=False, **options
    )


@pytest.fixture(scope="module")
def compared(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "out"
    return run(images, "erm,jtt,paste+reweight", out), out


def times(out):
    """When each classifier and each made image was written."""
    made = [*out.glob("train/*/*/model.safetensors"), *out.glob("*/train/*.png")]
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in made}


def test_a_row_a_method_with_mean_and_deviation_over_the_seeds(compared):
    report, out = compared
    assert report == json.loads((out / "comparison.json").read_text())
    assert [row["method"] for row in report["rows"]] == ["erm", "jtt", "paste+reweight"]
    assert report["selection"] == "worst group"
    assert report["seeds"] == [0, 1]
    for row in report["rows"]:
        for name in ("average", "reweighted", "worst"):
            values = [seed[name] for seed in row["seeds"]]
            assert row[name]["mean"] == pytest.approx(statistics.mean(values))
            assert row[name]["std"] == pytest.approx(statistics.stdev(values))
        assert [each["name"] for each in row["groups"]] == [f"{y} × {a}" for y in birds.OBJECTS for a in birds.SCENES]
        assert [each["train"] for each in row["groups"]] == [19, 1, 1, 19]
    erm, jtt, paste = report["rows"]
    assert (erm["added"]["mean"], erm["precision"]["mean"], erm["generator"]) == (None, None, None)
    assert jtt["recall"]["mean"] is not None
    assert (paste["added"]["mean"], paste["generator"], paste["training"]) == (12, "paste", "reweight")
    assert not list(out.glob(".*"))


def test_rows_take_equally_many_steps_and_the_tables_tell_them(compared):
    report, out = compared
    assert [row["steps"]["main"] for row in report["rows"]] == [{"mean": 2, "std": 0}] * 3  # 40 images, 32 a batch
    assert report["rows"][1]["steps"]["first"]["mean"] == 2
    text = (out / "comparison.txt").read_text()
    assert "2 + 2" in text.split("by group")[0]
    assert not any("different numbers of optimiser steps" in note for note in report["notes"])


def test_rows_of_unequal_steps_are_named(images, tmp_path):
    report = run(images, "erm,paste", tmp_path / "out", seeds=1, training={"add_steps": True},
                 overrides={"paste": {"masks": "true", "count_per_class": 20}})  # fmt: skip
    assert [row["steps"]["main"]["mean"] for row in report["rows"]] == [2, 3]
    assert any("steps (erm 2, paste 3)" in note for note in report["notes"])


def test_settings_of_added_images_without_effect_are_named(images, tmp_path):
    report = run(images, "erm", tmp_path / "out", seeds=1, training={"add_steps": True, "add_weight": 2.0})
    assert any("add_weight and add_steps have no effect: no row adds images" in note for note in report["notes"])


def test_it_reports_what_training_found(compared, images):
    report, out = compared
    trained = json.loads((out / "train" / "erm" / "report.json").read_text())
    assert [seed["worst"] for seed in report["rows"][0]["seeds"]] == [s["test"]["worst"] for s in trained["seeds"]]
    assert report["rows"][0]["worst"] == trained["over_seeds"]["worst"]


def test_where_images_are_added_each_seed_makes_its_own(compared):
    _, out = compared
    for seed in (0, 1):
        made = json.loads((out / f"paste-seed-{seed}" / "paste.json").read_text())
        assert made["inputs"]["seed"] == seed
        report = json.loads((out / "train" / f"paste+reweight-seed-{seed}" / "report.json").read_text())
        assert [each["seed"] for each in report["seeds"]] == [seed]
        assert report["content"]["add"] == [read_groups(out / f"paste-seed-{seed}").fingerprint]


def test_what_is_finished_is_never_done_again_and_methods_and_seeds_are_added(compared, images):
    first, out = compared
    before = times(out)
    assert run(images, "erm,jtt,paste+reweight", out) == first
    assert times(out) == before
    more = run(images, "reweight,erm", out, seeds=[0, 1, 2])
    assert before.items() <= times(out).items()
    assert [row["method"] for row in more["rows"]] == ["reweight", "erm"]
    assert [[seed["seed"] for seed in row["seeds"]] for row in more["rows"]] == [[0, 1, 2], [0, 1, 2]]
    assert more["rows"][1]["seeds"][:2] == first["rows"][0]["seeds"]


def test_rows_that_are_done_are_printed_before_what_failed(compared, images, tmp_path, capsys):
    out = shutil.copytree(compared[1], tmp_path / "out")
    (out / "paste-seed-1.json").write_text("{")
    command = ["compare", str(images), "--methods", "erm,paste+reweight", "--seeds", "2", "--out", str(out)]
    own = ["--set", "paste.masks=true", "--set", "paste.count_per_class=6"]
    assert main([*command, *own, "--epochs", "1", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "Not done yet: paste+reweight" in captured.out
    assert "\nerm " in captured.out
    assert "paste+reweight: " in captured.err.splitlines()[-1]
    assert "paste-seed-1.json is damaged" in captured.err


def test_paste_looks_at_what_erm_of_the_same_seed_attends_to(images, tmp_path):
    report = run(images, "paste", tmp_path / "out", seeds=[3], overrides={"paste": {"count_per_class": 3}})
    assert (tmp_path / "out" / "train" / "erm" / "erm-seed-3").is_dir()
    inputs = json.loads((tmp_path / "out" / "paste-seed-3" / "paste.json").read_text())["inputs"]
    assert inputs["masks"] == "attended"
    assert "20%" in report["notes"][1]
    assert any("one seed" in note for note in report["notes"])
    assert any("mug × grass, has 2 images" in note and "(34.2 to 100.0)" in note for note in report["notes"])
    assert report["rows"][0]["worst"]["std"] is None


def test_without_attributes_the_worst_class_stands_for_the_worst_group(tmp_path):
    data = make_folders(
        tmp_path / "data", {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "ab"}
    )
    report = run(data, "erm,reweight", tmp_path / "out")
    assert report["selection"] == "worst class"
    text = (tmp_path / "out" / "comparison.txt").read_text()
    assert "worst class" in text
    assert "group" not in text
    assert "re-weighted" not in text
    with pytest.raises(FiguregroundError, match=r"dfr needs .*attribute"):
        run(data, "erm,dfr", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ("erm", {"seeds": 0}, "seeds: 0 is not a whole number"),
        ("erm", {"seeds": [1, 1]}, "seeds: 1 is named twice"),
        ("erm", {"training": {"epoch": 3}}, "epoch: .*, did you mean 'epochs'"),
        ("erm", {"training": {"upweight": 3.0}}, "upweight: .*jtt.upweight"),
        ("jtt", {"overrides": {}}, "first_epochs: 2 is more than epochs, which is 1"),
        ("jtt", {"overrides": {"jtt": {"upwait": 3}}}, "upwait: jtt has no such field, did you mean 'upweight'"),
        ("paste", {"overrides": {"paste": {"masks": "tru"}}}, "paste.masks: .*'tru', did you mean 'true'"),
        ("paste", {"overrides": {"paste": {"quantile": 1}}}, "paste.quantile: 1 is not a number between 0 and 1"),
        ("paste", {"overrides": {"paste": {"count_per_class": 0}}}, "paste.count_per_class: 0"),
        ("paste", {"overrides": {"paste": {"masks": "true", "quantile": 0.5}}}, "paste.quantile: .*masks=true"),
        ("erm", {"layout": "celeba"}, "layout celeba"),
    ],
)
def test_what_cant_be_used_is_reported_before_anything_is_done(methods, options, message, images, tmp_path):
    with pytest.raises(FiguregroundError, match=message):
        run(images, methods, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_overrides_of_what_is_not_compared_are_refused(images, tmp_path):
    with pytest.raises(RecipeError, match=r"jt: .*, did you mean 'jtt'"):
        compare(images, ["jtt"], 1, tmp_path / "out", overrides={"jt": {"upweight": 5}})
    assert parse_overrides(["jtt.upweight=5", "paste.masks=true"]) == {
        "jtt": {"upweight": 5},
        "paste": {"masks": "true"},
    }
    with pytest.raises(UsageError, match=r"write it as jtt.upweight=20"):
        parse_overrides(["upweight=5"])


@pytest.mark.parametrize("training", ["groupdro", "reweight"])
def test_images_of_unknown_attribute_cant_be_counted_by_groups(training, images, tmp_path):
    with pytest.raises(RecipeError, match=rf"scgs\+{training} .* {training} .*scgs\+jtt"):
        run(images, f"erm,scgs+{training}", tmp_path / "out", overrides={})
    assert not (tmp_path / "out").exists()


def test_other_settings_or_data_in_the_same_directory_are_refused(images, tmp_path):
    out = tmp_path / "out"
    run(images, "erm", out, seeds=1)
    with pytest.raises(FiguregroundError, match=r"holds another comparison:\n  erm.epochs: 1, now 2\n"):
        run(images, "erm,jtt", out, seeds=1, training={"epochs": 2})
    with pytest.raises(FiguregroundError, match="epochs"):
        run(images, "reweight,erm", out, seeds=1, training={"epochs": 2})
    other = birds.write(tmp_path / "other", 40, 8, 8, bias_aligned_share=0.95, size=16, seed=1, show_progress=False)
    with pytest.raises(FiguregroundError, match=r"holds another comparison:\n  data: "):
        run(other, "erm", out, seeds=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else \(thesis.txt\)"):
        run(images, "erm", tmp_path / "mine")
    assert str(tmp_path) not in (out / "compare.json").read_text()


PROGRAM = """
import sys
from figureground.comparison.comparing import compare
compare(sys.argv[1], ["erm", "paste"], 1, sys.argv[2], training={"epochs": 1}, device="cpu", show_progress=False,
        overrides={"paste": {"masks": "true", "count_per_class": 100}})
"""


def without_seconds(out):
    report = json.loads((out / "comparison.json").read_text())
    for seed in (seed for row in report["rows"] for seed in row["seeds"]):
        for record in (seed, seed["made"] or {}):
            record.pop("seconds", None)
    return report


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_ends_the_same(images, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    process = Forked([images, out], PROGRAM, env=ENVIRONMENT)
    try:
        wait_for((out / "paste-seed-0" / "train" / "0000-00005.png").exists, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "paste-seed-0.json").exists()
    assert [row["method"] for row in json.loads((out / "comparison.json").read_text())["rows"]] == ["erm"]
    before = times(out)
    for folder in (out, whole):
        run(images, "erm,paste", folder, 1, {"paste": {"masks": "true", "count_per_class": 100}})
    assert before.items() <= times(out).items()
    assert without_seconds(out) == without_seconds(whole)
    assert not list(out.glob(".*"))


def test_the_training_of_a_builder_s_classifier_is_a_mapping(images, tmp_path):
    with pytest.raises(RecipeError, match=r"scgs.training: 5 is not a mapping; write scgs.training.epochs=5"):
        run(images, "scgs", tmp_path / "out", overrides={"scgs": {"training": 5}})
    assert not (tmp_path / "out").exists()


MADE = {
    "ddb": {
        **EASY,
        "training": {"epochs": 4},
        "prompt": "a {noun}",
        "min_probability": 0.45,
        "min_attribution_ratio": 0,
    },
    "scgs": {**SIZES, "folds": 2, "training": {"epochs": 1}, "per_class": 2},
}


@pytest.fixture(scope="module")
def generated(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("generated") / "out"
    return run(images, "ddb,scgs", out, 1, MADE), out


def test_images_are_made_pruned_and_added(generated):
    report, out = generated
    ddb, scgs = report["rows"]
    with (out / "ddb-seed-0" / "_figureground" / "scores" / "ddb.csv").open(newline="") as file:
        scores = {row["key"]: float(row["probability"]) for row in csv.DictReader(file)}
    kept = {key for key, probability in scores.items() if probability >= 0.45}
    assert {row["key"] for row in rows(out / "ddb-seed-0-pruned")} == kept
    made = ddb["seeds"][0]["made"]
    assert made["rule"] == "scores.ddb.probability >= 0.45 and scores.ddb.attribution_ratio >= 0"
    assert (made["images"], made["kept"]) == (len(scores), len(kept) / len(scores))
    assert (ddb["added"]["mean"], ddb["kept"]["mean"]) == (len(kept), made["kept"])
    assert scgs["added"]["mean"] == scgs["seeds"][0]["made"]["images"] == len(rows(out / "scgs-seed-0")) > 0
    assert scgs["kept"]["mean"] is None
    error_set = scgs["seeds"][0]["made"]["error_set"]
    assert scgs["source_precision"]["mean"] == error_set["precision"]
    assert scgs["source_recall"]["mean"] == error_set["recall"] is not None
    assert "SCGS recall" in (out / "comparison.txt").read_text()
    assert ddb["source_recall"]["mean"] is None
    assert json.loads((out / "compare.json").read_text())["generators"].keys() == {"ddb", "scgs"}


def test_images_that_were_pruned_by_other_thresholds_are_neither_taken_nor_lost(generated, images):
    report, out = generated
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    other = {**MADE, "ddb": {**MADE["ddb"], "min_probability": 0.6}}
    with pytest.raises(FiguregroundError, match=r"pruned by\n.*0.45.*\ninstead of\n.*0.6"):
        run(images, "ddb", out, 1, other)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == files
    assert run(images, "ddb,scgs", out, 1, MADE) == report
    marker = out / "ddb-seed-0.json"
    whole = marker.read_text()
    marker.write_text(whole[:20])
    with pytest.raises(FiguregroundError, match=r"ddb-seed-0.json is damaged .* Remove it"):
        run(images, "ddb", out, 1, MADE)
    marker.write_text(whole)


def test_a_rule_that_keeps_nothing_is_an_error_that_keeps_the_images(generated, images, tmp_path):
    report, out = generated[0], shutil.copytree(generated[1], tmp_path / "out")
    (out / "ddb-seed-0.json").unlink()
    shutil.rmtree(out / "ddb-seed-0-pruned")
    none = {"ddb": {**MADE["ddb"], "min_attribution_ratio": 1e9}}
    with pytest.raises(FiguregroundError, match=r"--set ddb\."):
        run(images, "ddb", out, 1, none)
    assert not (out / "ddb-seed-0.json").exists()
    assert not (out / "ddb-seed-0-pruned").exists()
    assert rows(out / "ddb-seed-0") == rows(generated[1] / "ddb-seed-0")
    assert run(images, "ddb", out, 1, MADE)["rows"][0]["kept"] == report["rows"][0]["kept"]


def test_a_marker_of_images_that_were_taken_away_is_not_believed(compared, images, tmp_path):
    out = shutil.copytree(compared[1], tmp_path / "out")
    shutil.rmtree(out / "paste-seed-0")
    report = run(images, "paste+jtt", out, 1)
    assert report["rows"][0]["added"]["mean"] == 12
    assert len(list((out / "paste-seed-0" / "train").glob("*.png"))) == 12
