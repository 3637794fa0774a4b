"""Training on small pocketbirds: every method, what is written, going on after a kill, and what is refused."""

import csv
import dataclasses
import errno
import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
import transformers
from commands import run, start, wait_for
from safetensors.numpy import load_file
from tiny_classifiers import make_classifier
from tiny_datasets import make_dataset
from tiny_layouts import TABLE, make_folders, make_table

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.layouts import read_groups
from figureground.learn.classifier_errors import run_classifier
from figureground.learn.inference import mean_cross_entropy
from figureground.learn.preflight import refuse_unfit_data
from figureground.learn.settings import TWO_STAGE, Training
from figureground.learn.training import train
from figureground.learn.training_data import gather
from figureground.learn.way import WAYS
from figureground.shards.shard import Shard
from figureground.vision.classifiers import open_classifier


@pytest.fixture(scope="module")
def bare(images, tmp_path_factory):
    """The same without attributes."""
    out = tmp_path_factory.mktemp("bare") / "birds"
    shutil.copytree(images, out)
    lines = (out / "metadata.csv").read_text().splitlines()
    (out / "metadata.csv").write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in lines))
    return out


def tiny(method="erm", **changes):
    return Training(method, **{"epochs": 1, **({"first_epochs": 1} if method == "jtt" else {}), **changes})


def fit(settings, data, out, **options):
    return train(settings, data, out, **{"seeds": 1, "device": "cpu", "show_progress": False, **options})


@pytest.mark.parametrize("method", [name for name in WAYS.names() if name != TWO_STAGE])
def test_each_method_reports_and_leaves_a_classifier_that_opens(method, images, tmp_path):
    report = fit(tiny(method), images, tmp_path / "out")
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["selection"] == "worst group"
    assert report["images"] == {"train": 40, "added": 0, "validation": 8, "test": 8}
    result = report["seeds"][0]["test"]
    assert [each["images"] for each in result["groups"]] == [2, 2, 2, 2]
    assert [each["train"] for each in result["groups"]] == [19, 1, 1, 19]
    assert result["average"] == sum(each["correct"] for each in result["groups"]) / 8
    assert result["worst"] == min(each["accuracy"] for each in result["groups"])
    assert all(each["low"] < each["high"] for each in result["groups"])
    assert "its 95 % interval" in (tmp_path / "out" / "report.txt").read_text()
    classifier = open_classifier(str(tmp_path / "out" / f"{method}-seed-0"))
    assert classifier.labels == ("mug", "umbrella")
    confusion = json.loads((tmp_path / "out" / "confusion.json").read_text())
    assert np.sum(confusion["seeds"]["0"]) == 8
    test = read_groups(images).of_split(2)
    drawn = [draw() for _, draw in test.read(np.arange(8))]
    assert (classifier.read(drawn).logits.argmax(1).numpy() == test.y).mean() == result["average"]
    assert not list((tmp_path / "out").glob("*.pt"))
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("method", ["erm", "reweight", "jtt"])
def test_without_attributes_the_worst_class_chooses_and_is_reported(method, bare, tmp_path):
    report = fit(tiny(method), bare, tmp_path / "out")
    assert report["selection"] == "worst class"
    assert report["over_seeds"]["reweighted"] == {"mean": None, "std": None}
    assert [each["name"] for each in report["seeds"][0]["test"]["groups"]] == ["mug", "umbrella"]
    assert "worst class" in (tmp_path / "out" / "report.txt").read_text()
    assert "precision" not in report["seeds"][0].get("jtt", {})


@pytest.mark.parametrize("method", ["groupdro", "dfr"])
def test_methods_that_need_attributes_say_so(method, bare, tmp_path):
    with pytest.raises(FiguregroundError, match=f"{method} needs .*attribute.*birds .*erm, reweight, jtt"):
        fit(tiny(method), bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_seed_gives_the_same_bits_and_workers_change_none(images, tmp_path):
    for name, workers in (("one", 1), ("two", 3)):
        fit(tiny(), images, tmp_path / name, workers=workers)
    one, two = (load_file(tmp_path / name / "erm-seed-0" / "model.safetensors") for name in ("one", "two"))
    assert all((one[key] == two[key]).all() for key in one)


def test_more_seeds_are_added_without_training_the_finished_ones_again(images, tmp_path):
    fit(tiny(), images, tmp_path / "out")
    model = tmp_path / "out" / "erm-seed-0" / "model.safetensors"
    before = model.stat().st_mtime_ns
    report = fit(tiny(), images, tmp_path / "out", seeds=2)
    assert model.stat().st_mtime_ns == before
    assert [each["seed"] for each in report["seeds"]] == [0, 1]
    assert report["over_seeds"]["worst"]["std"] is not None
    rows = list(csv.DictReader((tmp_path / "out" / "curves.csv").open()))
    assert [(row["seed"], row["epoch"]) for row in rows] == [("0", "1"), ("1", "1")]
    with pytest.raises(FiguregroundError, match=r"holds another training:\n  epochs: 1, now 2\n"):
        fit(tiny(epochs=2), images, tmp_path / "out")


def test_curves_hold_the_loss_on_validation_and_what_was_trained_without_it_still_takes_further_seeds(images, tmp_path):
    fit(tiny(epochs=2), images, tmp_path / "out")
    marker = tmp_path / "out" / "seed-0.json"
    kept = json.loads(marker.read_text())
    curve = list(csv.DictReader((tmp_path / "out" / "curves.csv").open()))
    assert list(curve[0])[3:] == ["training_loss", "validation_loss", "validation_average", "validation_worst_group"]
    losses = [each["validation_loss"] for each in kept["curve"]]
    assert [float(row["validation_loss"]) for row in curve] == pytest.approx(losses, rel=1e-4)
    assert all(0.05 < loss < 20 for loss in losses)
    for each in kept["curve"]:
        del each["validation_loss"]
    marker.write_text(json.dumps(kept))
    fit(tiny(epochs=2), images, tmp_path / "out", seeds=2)
    validation_losses = [row["validation_loss"] for row in csv.DictReader((tmp_path / "out" / "curves.csv").open())]
    assert validation_losses[:2] == ["", ""]
    assert all(validation_losses[2:])


def test_mean_cross_entropy_is_that_of_the_softmax():
    logits = np.array([[0.0, math.log(3)], [2.0, 2.0]], np.float32)
    assert mean_cross_entropy(logits, np.array([1, 0])) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_seeds_may_be_named_and_give_what_they_give_among_others(images, tmp_path):
    report = fit(tiny(), images, tmp_path / "named", seeds=[3, 1])
    assert [each["seed"] for each in report["seeds"]] == [3, 1]
    assert report["over_seeds"]["seeds"] == 2
    assert sorted(path.name for path in (tmp_path / "named").glob("erm-*")) == ["erm-seed-1", "erm-seed-3"]
    counted = fit(tiny(), images, tmp_path / "counted", seeds=2)
    one, two = (load_file(tmp_path / name / "erm-seed-1" / "model.safetensors") for name in ("named", "counted"))
    assert all((one[key] == two[key]).all() for key in one)
    assert report["seeds"][1]["test"] == counted["seeds"][1]["test"]
    assert [each["seed"] for each in fit(tiny(), images, tmp_path / "named", seeds=2)["seeds"]] == [0, 1]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([0, -1], "seeds: -1 is not a whole number of 0 or more"), ([2, 2], "seeds: 2 is named twice"),
        ([], "seeds: 0 is not"), ([1.0], "seeds: 1.0 is not"), (True, "seeds: True is not"), (0, "seeds: 0 is not"),
    ],
)  # fmt: skip
def test_seeds_that_cant_be_used_are_named(seeds, message, images, tmp_path):
    with pytest.raises(RecipeError, match=message):
        fit(tiny(), images, tmp_path / "out", seeds=seeds)
    assert not (tmp_path / "out").exists()


def test_a_preprocessing_that_cant_be_saved_is_refused_before_training(images, tmp_path):
    flipped = transformers.MobileViTImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_flip_channel_order=True
    )
    directory = make_classifier(tmp_path / "flipped", processor=flipped)
    with pytest.raises(FiguregroundError, match="backbone 'flipped': its preprocessing can't be written"):
        fit(tiny(backbone=str(directory)), images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_datasets_of_this_package_are_trained_on_and_what_comes_of_it_evaluates(tmp_path, capsys):
    shards = (Shard("train", 0, 1, 12), Shard("validation", 0, 1, 6), Shard("test", 0, 1, 6))
    data, more = (make_dataset(tmp_path / n, shards=shards, seed=s) for n, s in (("data", 0), ("more", 1)))
    report = fit(tiny(), data, tmp_path / "out", add=[more])
    assert report["classes"] == ["bird", "cat"]
    assert report["attributes"] == ["grass", "night", "snow"]
    assert report["images"] == {"train": 12, "added": 12, "validation": 6, "test": 6}
    model = tmp_path / "out" / "erm-seed-0"
    evaluated = ["evaluate", str(data), "--classifier", str(model), "--split", "test", "--device", "cpu"]
    assert main([*evaluated, "--out", str(tmp_path / "evaluated")]) == 0
    evaluation = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    (classifier,) = evaluation["classifiers"].values()
    assert classifier["accuracy"]["value"] == report["seeds"][0]["test"]["average"]


def test_a_backbone_of_other_classes_gets_a_new_head(images, tmp_path):
    directory = make_classifier(tmp_path / "four")
    report = fit(tiny(backbone=str(directory), augment=False), images, tmp_path / "out")
    assert report["notes"] == ["The backbone four has 4 classes and the data have 2: its last layer was replaced."]
    assert open_classifier(str(tmp_path / "out" / "erm-seed-0")).labels == ("mug", "umbrella")
    assert str(tmp_path) not in (tmp_path / "out" / "training.json").read_text()
    report = fit(tiny(backbone=str(directory), from_scratch=True), images, tmp_path / "scratch")
    assert report["notes"] == []


def test_added_images_join_training_by_the_names_of_their_classes(images, tmp_path):
    make_folders(tmp_path / "more", {"train/Umbrella": 2, "train/mug": 1, "val/mug": 1, "test/mug": 1})
    training_data = gather(read_groups(images), [read_groups(tmp_path / "more")])
    assert training_data.train.y[-3:].tolist() in ([1, 1, 0], [0, 1, 1])
    assert training_data.added.sum() == 3
    assert training_data.train.group is not None
    assert (training_data.train.group[-3:] == -1).all()
    assert "3 training images are added; 2 images of other splits are left out" in training_data.notes[0]
    report = fit(tiny(add_weight=0.5), images, tmp_path / "out", add=[tmp_path / "more"])
    assert report["images"]["added"] == 3
    with pytest.raises(FiguregroundError, match=r"groupdro .*3 added images have none"):
        fit(tiny("groupdro"), images, tmp_path / "dro", add=[tmp_path / "more"])


def test_added_images_add_no_steps_unless_that_is_asked_for(images, tmp_path):
    make_folders(tmp_path / "more", {"train/umbrella": 30, "train/mug": 30, "val/mug": 1, "test/mug": 1})
    alone = fit(tiny(epochs=2), images, tmp_path / "alone")
    added = fit(tiny(epochs=2), images, tmp_path / "added", add=[tmp_path / "more"])
    longer = fit(tiny(epochs=2, add_steps=True), images, tmp_path / "longer", add=[tmp_path / "more"])
    assert [report["seeds"][0]["steps"] for report in (alone, added, longer)] == [{"main": 4}, {"main": 4}, {"main": 8}]
    assert not any("add_steps" in note for note in added["notes"])
    assert "add_steps" in longer["notes"][-1]
    curve = list(csv.DictReader((tmp_path / "longer" / "curves.csv").open()))
    assert [(row["epoch"], row["steps"]) for row in curve] == [("1", "4"), ("2", "8")]
    with pytest.raises(FiguregroundError, match="add_steps: false, now true"):
        fit(tiny(epochs=2, add_steps=True), images, tmp_path / "added", add=[tmp_path / "more"])


def test_reports_tell_the_steps_of_both_stages(images, tmp_path):
    jtt = fit(tiny("jtt", epochs=3), images, tmp_path / "jtt")["seeds"][0]
    assert jtt["steps"] == {"first": 2, "main": 6}
    table = (tmp_path / "jtt" / "report.txt").read_text()
    (line,) = (line for line in table.splitlines() if line.startswith("steps"))
    assert line.split() == ["steps:", "first", "model", "+", "training", "2", "+", "6"]
    dfr = fit(tiny("dfr", draws=2, inverse_strength=1.0), images, tmp_path / "dfr")["seeds"][0]
    assert dfr["steps"]["main"] == 2
    assert dfr["steps"]["refit"] == dfr["dfr"]["steps"] > 0


def test_validation_accuracy_of_dfr_is_that_of_the_refitted_network(images, tmp_path):
    seed = fit(tiny("dfr", draws=2, inverse_strength=1.0), images, tmp_path / "dfr")["seeds"][0]
    validation = read_groups(images).of_split(1)
    classifier = open_classifier(str(tmp_path / "dfr" / seed["model"]))
    predicted = run_classifier(classifier, validation, show_progress=False).logits.numpy().argmax(axis=1)
    assert seed["validation"]["average"] == pytest.approx((predicted == validation.y).mean())
    erm = fit(tiny(), images, tmp_path / "erm")["seeds"][0]
    assert seed["dfr"]["validation_before"] == erm["validation"]


def test_added_classes_that_the_data_lack_are_refused(images, tmp_path):
    make_folders(tmp_path / "more", {"train/umbrela": 2, "train/mug": 1})
    with pytest.raises(RecipeError, match=r"'umbrela', .*birds, did you mean 'umbrella'"):
        gather(read_groups(images), [read_groups(tmp_path / "more")])
    with pytest.raises(RecipeError, match="birds is the dataset itself"):
        gather(read_groups(images), [read_groups(images)])


def test_added_images_that_are_validation_or_test_images_are_refused(images, tmp_path):
    copy = shutil.copytree(images, tmp_path / "copy")
    data = read_groups(images)
    rows = [(key, 0, int(y)) for key, y in zip(data.keys, data.y, strict=True)]
    table = copy / "all.csv"
    table.write_text("filename,split,y\n" + "".join(f"{name},{split},{data.classes[y]}\n" for name, split, y in rows))
    leaked = int((data.split > 0).sum())
    with pytest.raises(RecipeError, match=rf"^add: {leaked} training images of all .*are also validation or test"):
        gather(data, [read_groups(table)])


def test_groups_without_validation_images_are_noted_because_they_choose_no_epoch(images, tmp_path):
    copy, data = shutil.copytree(images, tmp_path / "copy"), read_groups(images)
    table = copy / "metadata.csv"
    head, *lines = table.read_text().splitlines()
    kept = [line for line in lines if not (line.startswith("validation") and line.endswith("mug,water"))]
    assert len(kept) == len(lines) - data.counts(1)[0, 1] < len(lines)
    table.write_text("\n".join([head, *kept]) + "\n")
    (note,) = gather(read_groups(copy)).notes
    assert note.startswith("validation has no image of mug × water: its worst group is computed over the 3 groups")


def test_copies_of_training_images_in_validation_or_test_are_noted(images, tmp_path):
    data = read_groups(images)
    assert gather(data).notes == ()
    copy = shutil.copytree(images, tmp_path / "copy")
    trained, tested = (data.keys[np.flatnonzero(data.split == number)[0]] for number in (0, 2))
    shutil.copyfile(copy / trained, copy / tested)
    (note,) = gather(read_groups(copy)).notes
    assert note.startswith("1 training image of copy is also in test under other names")


def test_added_datasets_that_show_sources_of_validation_or_test_images_are_noted(tmp_path):
    shards = (Shard("train", 0, 1, 6), Shard("validation", 0, 1, 6), Shard("test", 0, 1, 6))
    data = read_groups(make_dataset(tmp_path / "data", shards=shards))

    def notes(name, **options):
        return gather(data, [read_groups(make_dataset(tmp_path / name, shards=shards[:1], seed=1, **options))]).notes

    assert notes("same") == ()  # sources of training images may be used again
    (note,) = notes("leaking", cutouts=lambda spec: f"bird/x.png@test{spec.foreground}")
    assert note.startswith(
        "Training images of leaking show 2 sources (cut-outs or scenes) of validation or test images"
    )


def test_dfr_needs_validation_images_of_occurring_classes_only(tmp_path):
    make_table(tmp_path, [row for row in TABLE if row[1] != 1 or row[2] == 0])
    groups = read_groups(tmp_path)
    with pytest.raises(FiguregroundError, match="dfr fits the last layer to validation images"):
        refuse_unfit_data(tiny("dfr"), groups, gather(groups))
    absent = dataclasses.replace(groups, classes=(*groups.classes, "absent"))
    full = dataclasses.replace(absent, split=np.arange(len(groups)) % 3)
    refuse_unfit_data(tiny("dfr"), full, gather(full))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ermm"}, "did you mean 'erm'"),
        ({"upweight": 5.0}, "upweight: erm .*jtt"),
        ({"epochs": 0}, "epochs: 0 is not a whole number"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0 is not a number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not a number"),
        ({"add_weight": -1.0}, "add_weight: -1.0"),
        ({"method": "jtt", "first_epochs": 3, "epochs": 2}, "3 is more than epochs, which is 2"),
    ],
)
def test_settings_that_cant_be_used_are_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        Training(**{"method": "erm", **changes})


@pytest.mark.parametrize(("name", "value"), [("add_weight", 2.0), ("add_steps", True)])
def test_settings_of_added_images_are_refused_where_none_are_added(images, tmp_path, name, value):
    """Otherwise a forgotten --add would only be seen in the number of added images."""
    with pytest.raises(RecipeError, match=rf"{name}: it has no effect, because no images are added.*--add"):
        fit(tiny(**{name: value}), images, tmp_path / "out")
    flags = ("--add-weight", "2") if name == "add_weight" else ("--add-steps",)
    assert main(["train", "erm", "--data", str(images), "--out", str(tmp_path / "out"), *flags]) == 2
    assert not (tmp_path / "out").exists()


def test_data_that_cant_be_trained_on_are_refused(tmp_path):
    make_table(tmp_path / "unvalidated", [row for row in TABLE if row[1] != 1])
    with pytest.raises(FiguregroundError, match="no image in the split validation"):
        gather(read_groups(tmp_path / "unvalidated"))
    make_table(tmp_path / "one", [row for row in TABLE if row[1] or not row[2]])
    with pytest.raises(FiguregroundError, match="all its training images are of one class, '0'"):
        gather(read_groups(tmp_path / "one"))


def test_a_directory_of_something_else_is_left_as_it_is(images, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else \(thesis.txt\)"):
        fit(tiny(), images, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_large_images_need_a_backbone_to_be_named(tmp_path):
    make_table(tmp_path / "data")
    from tiny_layouts import make_image

    for row in TABLE:
        make_image(tmp_path / "data" / row[0], (120, 100))
    with pytest.raises(RecipeError, match="backbone: name one, since the images have 120 px"):
        fit(tiny(), tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_losses_that_are_no_numbers_stop_it_and_the_epoch_is_named(images, tmp_path):
    with pytest.raises(FiguregroundError, match=r"in epoch 1 of seed 0\. Lower --learning-rate|no longer finite"):
        fit(tiny(learning_rate=10.0, weight_decay=100.0, epochs=30), images, tmp_path / "out")


def test_a_full_disk_is_explained_with_what_is_kept(images, tmp_path, monkeypatch):
    replace = os.replace

    def fail_for_the_result(source, target):
        if os.path.basename(target) == "seed-0.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_result)
    with pytest.raises(FiguregroundError, match=r"No space left on the disk of .*out\. .* 1 epoch of seed 0 are done"):
        fit(tiny(), images, tmp_path / "out")


def test_the_command_ends_with_2_for_wrong_use(images, tmp_path, capsys):
    common = ["--data", str(images), "--out", str(tmp_path / "out")]
    assert main(["train", "erm", *common, "--seeds", "0"]) == 2
    assert main(["train", "arm", *common]) == 2
    assert main(["train", "erm", *common, "--step-size", "0.1"]) == 2
    err = capsys.readouterr().err
    assert "seeds: 0 is not a whole number" in err
    assert "did you mean 'erm'" in err
    assert "step_size: erm " in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_killed_run_goes_on_and_ends_the_same_to_the_bit(sent, images, tmp_path):
    command = ["train", "groupdro", "--data", str(images), "--seeds", "1", "--epochs", "12", "--device", "cpu"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert run(*command, "--out", str(whole))[0] == 0
    process = start(*command, "--out", str(out))
    try:
        wait_for(lambda: (out / "seed-0.pt").exists(), process)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert not (out / "seed-0.json").exists()
    if sent == signal.SIGTERM:
        assert process.returncode == 143
        assert "of seed 0 are done and kept. The same command resumes from there." in err
        assert "Traceback" not in err
    assert run(*command, "--out", str(out))[0] == 0
    one, two = (load_file(each / "groupdro-seed-0" / "model.safetensors") for each in (whole, out))
    assert all((one[key] == two[key]).all() for key in one)
    assert (whole / "curves.csv").read_text() == (out / "curves.csv").read_text()
