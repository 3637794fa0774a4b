"""Rules that choose an epoch, training in stages, and counts of steps, on small pocketbirds."""

import csv
import json

import numpy as np
import pytest
import torch
from tiny_layouts import make_folders

from figureground.comparison.comparing import compare
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.layouts import read_groups
from figureground.learn.backbones import open_backbone
from figureground.learn.epochs import Epoch, Stage, score_epoch
from figureground.learn.find_errors import fit_early_stopped
from figureground.learn.fit import Fit
from figureground.learn.objective import WeightedMean
from figureground.learn.settings import IN_TRAINING, IN_VALIDATION, MASKS, RULES, Training
from figureground.learn.training import train
from figureground.learn.training_data import gather


def fit(settings, data, out, **options):
    return train(settings, data, out, **{"seeds": 1, "device": "cpu", "show_progress": False, **options})


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Images to add: 6 mugs and 5 umbrellas, of no known attribute."""
    folders = {"train/mug": 6, "train/umbrella": 5, "val/mug": 1, "test/mug": 1}
    return make_folders(tmp_path_factory.mktemp("data") / "more", folders)


def epoch(number, average, worst, worst_class):
    return Epoch(number, 2 * number, 0.5, average, worst, 0.6, worst_class)


def test_each_rule_chooses_by_its_own_accuracy_and_groups_decide_only_for_theirs():
    curve = [
        epoch(1, average=0.80, worst=0.75, worst_class=0.70), epoch(2, average=0.90, worst=0.40, worst_class=0.75),
        epoch(3, average=0.85, worst=0.50, worst_class=0.82), epoch(4, average=0.90, worst=0.60, worst_class=0.75),
    ]  # fmt: skip
    chosen = {rule: max(curve, key=lambda each: score_epoch(rule, each)).epoch for rule in RULES}
    # Epochs 2 and 4 differ by a group alone, which a rule without groups doesn't see: it takes the first of them.
    assert chosen == {"worst-group": 1, "worst-class": 3, "average": 2, "last": 4}
    with pytest.raises(ValueError, match="Epoch 5"):
        score_epoch("average", Epoch(5, 10, 0.5, None, None))


def test_several_rules_report_the_epoch_of_each_and_the_first_is_kept(images, tmp_path):
    settings = Training("erm", epochs=4, select="average,last,worst-group")
    report = fit(settings, images, tmp_path / "out")
    (seed,) = report["seeds"]
    assert report["selection"] == "average"
    assert report["uses"] == []
    assert list(seed["selected"]) == ["average", "last", "worst-group"]
    assert seed["selected"]["last"]["epoch"] == 4
    assert seed["selected"]["average"] == {name: seed[name] for name in ("epoch", "validation", "test")}
    curve = json.loads((tmp_path / "out" / "seed-0.json").read_text())["curve"]
    for rule, name in (("average", "average"), ("worst-group", "worst")):
        best = max(each[name] for each in curve)
        assert seed["selected"][rule]["validation"][name] == best
    text = (tmp_path / "out" / "report.txt").read_text()
    assert "epochs chosen by the average of validation" in text
    assert "worst group, epoch by last epoch" in text
    alone = fit(Training("erm", epochs=4, select="last"), images, tmp_path / "last")
    assert alone["seeds"][0]["test"] == seed["selected"]["last"]["test"]
    assert "the last epoch is taken" in (tmp_path / "last" / "report.txt").read_text()


def test_validation_is_judged_every_so_many_epochs_and_after_the_last(images, tmp_path):
    often = fit(Training("erm", epochs=5), images, tmp_path / "often")
    seldom = fit(Training("erm", epochs=5, validate_every=2), images, tmp_path / "seldom")
    assert seldom["seeds"][0]["epoch"] in (2, 4, 5)
    one, two = (list(csv.DictReader((tmp_path / n / "curves.csv").open())) for n in ("often", "seldom"))
    assert [row["validation_average"] != "" for row in two] == [False, True, False, True, True]
    assert [row["training_loss"] for row in one] == [row["training_loss"] for row in two], "it changes no training"
    assert one[4]["validation_loss"] == two[4]["validation_loss"]
    assert often["uses"] == seldom["uses"] == [IN_VALIDATION]


def test_worst_group_needs_attributes_and_rules_without_them_refuse_dfr(more, tmp_path):
    with pytest.raises(RecipeError, match=r"select: more .*worst-class, average or last"):
        fit(Training("erm", epochs=1, select="worst-group"), more, tmp_path / "out")
    for rule in ("average", "worst-class"):
        with pytest.raises(RecipeError, match=f"select: dfr .*'{rule}'.*leave dfr"):
            Training("dfr", select=rule)
    assert Training("dfr", select="last").uses(True) == [IN_VALIDATION]
    with pytest.raises(RecipeError, match="select: dfr takes only one rule"):
        Training("dfr", select="worst-group,last")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": "avrage"}, "select: there is no 'avrage', did you mean 'average'"),
        ({"select": "last,last"}, "select: 'last' is named twice"),
        ({"validate_every": 0}, "validate_every: 0 is not a whole number"),
        ({"first_share": 0.5}, "first_share: erm .*two-stage"),
        ({"method": "two-stage", "epochs": 1}, "epochs: two-stage needs 2 or more"),
        ({"method": "two-stage", "add_weight": 2.0}, "add_weight: two-stage "),
        ({"method": "jtt", "epochs": 2, "count_first": True}, "count_first: first_epochs takes all 2 epochs"),
        ({"method": "jtt", "count_first": 1}, "count_first: 1 is not true or false"),
    ],
)
def test_settings_that_cant_be_used_are_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        Training(**{"method": "erm", **changes})


def test_errors_are_chosen_without_groups(images, tmp_path):
    with pytest.raises(RecipeError, match=r"select: .*attributes"):
        fit_early_stopped(read_groups(images), Training("erm", select="worst-group"), 1, 0, tmp_path / "out")


def test_settings_of_before_are_the_same_training(images, tmp_path):
    assert not {"select", "validate_every", "count_first"} & set(Training("jtt").to_json())
    assert Training("jtt", select="last", count_first=True).to_json()["count_first"] is True
    fit(Training("erm", epochs=1), images, tmp_path / "out")
    with pytest.raises(FiguregroundError, match="select"):
        fit(Training("erm", epochs=1, select="last"), images, tmp_path / "out")


# Stages


def two_stage(images, more, state, epochs=4):
    """A training in stages, of 2 epochs each, that stops after so many; the network is the last epoch's."""
    training_data = gather(read_groups(images), [read_groups(more)])
    settings = Training("two-stage", epochs=4, select="last")
    real = np.flatnonzero(~training_data.added)
    backbone = open_backbone(settings, training_data.classes, 16, 0)
    return Fit(
        backbone=backbone, training_data=training_data, settings=settings, seed=0, purpose="main",
        objective=WeightedMean(np.ones(len(training_data.train)), torch.device("cpu")), epochs=epochs, rules=("last",),
        device=torch.device("cpu"), workers=1, file=state, made_with={"seed": 0}, show_progress=False,
        stages=(Stage(np.flatnonzero(training_data.added), 2), Stage(real, 2)),
    )  # fmt: skip


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stop_in_and_between_stages_changes_no_bit(stop, images, more, tmp_path):
    whole, resumed = two_stage(images, more, tmp_path / "whole.pt"), None
    assert whole.run() == 4
    stopped = two_stage(images, more, tmp_path / "state.pt", epochs=stop)
    if stop > 2:
        assert stopped.run() == stop
    else:
        with pytest.raises(KeyError):  # no epoch of the second stage has been seen, so there is none to choose
            stopped.run()
    resumed = two_stage(images, more, tmp_path / "state.pt")
    assert resumed.run() == 4
    assert resumed.curve == whole.curve
    one, two = (each.backbone.network.state_dict() for each in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_stages_share_the_steps_and_are_reported(images, more, tmp_path):
    settings = Training("two-stage", epochs=5, first_share=0.4)
    report = fit(settings, images, tmp_path / "out", add=[more])
    (seed,) = report["seeds"]
    assert seed["steps"] == {"added": 4, "main": 6}  # 2 and 3 epochs of 2 steps
    assert seed["budget"] == 10
    assert seed["epoch"] > 2
    assert "2 epochs on added images, then 3 on real ones" in report["notes"][-1]
    text = (tmp_path / "out" / "report.txt").read_text()
    assert "steps: added images + training" in text
    assert "4 + 6" in text
    with pytest.raises(RecipeError, match=r"add: two-stage .*--add DIR"):
        fit(settings, images, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_first_stage_learns_from_added_images_alone(images, more, tmp_path):
    training_data = gather(read_groups(images), [read_groups(more)])
    staged = two_stage(images, more, tmp_path / "state.pt")
    added = np.flatnonzero(training_data.added)
    seen = [set(staged._draw_rows(epoch).tolist()) for epoch in range(4)]
    assert seen[0] == seen[1] == set(added.tolist())  # an epoch has 40 images, and 11 are added
    assert seen[2] == seen[3] == set(range(40))


def test_the_first_model_of_jtt_can_count(images, tmp_path):
    settings = Training("jtt", epochs=3, first_epochs=1, count_first=True)
    (seed,) = fit(settings, images, tmp_path / "out")["seeds"]
    assert seed["steps"] == {"first": 2, "main": 4}
    assert seed["budget"] == 6
    (uncounted,) = fit(Training("jtt", epochs=3, first_epochs=1), images, tmp_path / "not")["seeds"]
    assert (uncounted["steps"], uncounted["budget"]) == ({"first": 2, "main": 6}, 6)


# Comparisons


def test_a_comparison_says_what_each_row_uses_and_counts_all_steps(images, tmp_path):
    report = compare(
        images, ["erm", "reweight", "jtt", "paste", "paste+two-stage"], 1, tmp_path / "out",
        training={"epochs": 2, "select": "average", "validate_every": 2}, device="cpu", show_progress=False,
        overrides={
            "jtt": {"first_epochs": 1, "count_first": True}, "paste": {"masks": "true", "count_per_class": 3},
        },
    )  # fmt: skip
    rows = {row["method"]: row for row in report["rows"]}
    uses = {name: row["uses"] for name, row in rows.items()}
    assert uses == {"erm": [], "reweight": [IN_TRAINING], "jtt": [], "paste": [MASKS], "paste+two-stage": [MASKS]}
    assert {row["budget"]["mean"] for row in rows.values()} == {4}
    assert rows["jtt"]["steps"] == {"first": {"mean": 2, "std": None}, "main": {"mean": 2, "std": None}}
    notes = "\n".join(report["notes"])
    assert "different numbers of optimiser steps" not in notes
    assert "both models together take as many" in notes
    text = (tmp_path / "out" / "comparison.txt").read_text()
    assert "epochs chosen by the average of validation" in text
    assert "worst group" in text.split("\n\n")[1]
    (row,) = (line for line in text.splitlines() if line.startswith("reweight ") and "training" in line)
    assert row.endswith(IN_TRAINING)


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        (["erm", "two-stage"], {}, "'two-stage' .*ddb.two-stage"),
        (["erm", "dfr"], {"training": {"select": "average"}}, "select: dfr "),
        (["erm", "jtt"], {"overrides": {"jtt": {"select": "last"}}}, "erm by worst group, jtt by last epoch"),
    ],
)
def test_rows_that_cant_be_compared_are_refused(methods, options, message, images, tmp_path):
    with pytest.raises(RecipeError, match=message):
        compare(images, methods, 1, tmp_path / "out", device="cpu", show_progress=False, **options)
    assert not (tmp_path / "out").exists()
