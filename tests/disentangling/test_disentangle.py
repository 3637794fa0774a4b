"""Runs of every method on a small drawn set: what is reported, saved, reopened, resumed, compared and refused."""

import csv
import json
import shutil
import signal
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from commands import start, wait_for
from drawn_datasets import make_drawn
from packages import install
from PIL import Image
from safetensors.torch import load_file
from tiny_layouts import make_table
from tiny_separations import BACKGROUNDS, FOREGROUNDS, tiny

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.images import DatasetImages
from figureground.disentangling.learner import SeparationLearner
from figureground.disentangling.model import Disentangled
from figureground.disentangling.preflight import read_request
from figureground.disentangling.reporting import CROSSINGS
from figureground.disentangling.separator import SEPARATORS
from figureground.disentangling.settings import Disentangling
from figureground.evaluation.evaluating import evaluate
from figureground.vision.classifiers import open_classifier

METHODS = [
    pytest.param(name, marks=[pytest.mark.skipif(name == "leace" and not find_spec("concept_erasure"), reason="extra")])
    for name in SEPARATORS.names()
]


def images_of(drawn, count=6):
    return [draw() for _, draw in DatasetImages.open(drawn).read(np.arange(count))]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_reports_and_leaves_a_model_with_the_same_features(method, finished, drawn, tmp_path):
    out = finished(method)
    report = json.loads((out / "report.json").read_text())
    assert report["images"] == {"features": 32, "probes": 24, "test": 16, "photographs": 0}
    (seed,) = report["seeds"]
    assert list(report["over_seeds"]["probes"]) == list(CROSSINGS)
    trained = SEPARATORS[method].TRAINED
    assert seed["steps"] == ({"model": 6} if trained else {})
    assert seed["widths"] == ([14, 2] if trained else [16, 16])
    assert seed["task"]["images"] == {"heads": 12, "correlated": 8, "anti_correlated": 8}
    assert set(seed["task"]["parts"]) == {"foreground", "background", "all"}
    assert "broken correlation" in (out / "report.txt").read_text()
    assert (out / "report.png").stat().st_size > 5000
    assert not list((out).rglob("*.pt"))
    model = Disentangled.from_pretrained(out / f"{method}-seed-0")
    assert (model.foregrounds, model.backgrounds) == (FOREGROUNDS, BACKGROUNDS)
    images = images_of(drawn)
    foreground, background = model.features(images)
    assert [foreground.shape[1], background.shape[1]] == seed["widths"]
    model.save_pretrained(tmp_path / "again")
    again = Disentangled.from_pretrained(tmp_path / "again")
    pixels = torch.from_numpy(np.stack([np.asarray(image).transpose(2, 0, 1) for image in images]))
    for one, two, three in zip((foreground, background), again.features(images), again.features(pixels), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    opened = open_classifier(str(tmp_path / "again"))
    assert opened.labels == FOREGROUNDS
    assert torch.allclose(opened.read(images).features, foreground, atol=1e-5)


def test_evaluate_takes_a_saved_model_as_a_classifier_of_the_foreground(finished, drawn, tmp_path):
    folder = finished("none") / "none-seed-0"
    done = evaluate(drawn, [str(folder)], out=tmp_path / "told", device="cpu",
                    show_progress=False)  # fmt: skip
    (found,) = done.predictions.values()
    model = Disentangled.from_pretrained(folder)
    images = images_of(drawn, len(found.predicted))
    logits = model.heads.foreground(model.features(images)[0])
    assert (logits.argmax(1).numpy() == found.predicted).all()


def test_random_weights_are_pretrained_before_their_features_are_frozen(run, tmp_path):
    report = run("none", backbone="pocket", pretrain_steps=3, batch_size=8)
    assert report["seeds"][0]["steps"] == {"pretraining": 3}
    curve = list(csv.DictReader((tmp_path / "run" / "seed-0" / "pretraining" / "curves.csv").open()))
    assert list(curve[0]) == ["step", "foreground", "background"]
    with pytest.raises(RecipeError, match=r"pretrain_steps.*pocket.*--fine-tune.*figureground train"):
        run("none", "other", backbone="pocket", pretrain_steps=0)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("method", ["wasserstein", "none"])
def test_a_backbone_is_fine_tuned_for_equally_many_steps(method, run, backbone, tmp_path):
    report = run(method, fine_tune=True, **tiny(method, hidden=None) if method != "none" else tiny(method))
    assert sum(report["seeds"][0]["steps"].values()) == 6
    before = load_file(backbone / "model.safetensors")
    after = load_file(tmp_path / "run" / f"{method}-seed-0" / "backbone" / "model.safetensors")
    changed = {name for name in before if name in after and not torch.equal(before[name], after[name])}
    assert any("convolution.weight" in name for name in changed)


def test_frozen_features_are_extracted_once_and_those_of_damaged_files_again(finished, run, tmp_path):
    shutil.copytree(finished("hsic"), tmp_path / "run")
    first = json.loads((tmp_path / "run" / "report.json").read_text())
    (kept,) = (tmp_path / "run").glob("features-*.safetensors")
    written = kept.stat().st_mtime_ns
    second = run("hsic", seeds=2, **tiny("hsic"))
    assert kept.stat().st_mtime_ns == written
    assert second["seeds"][0] == first["seeds"][0]
    assert second["seeds"][1]["features_sha256"] == first["seeds"][0]["features_sha256"]
    kept.write_bytes(kept.read_bytes()[:-8] + b"damaged!")
    third = run("hsic", seeds=3, **tiny("hsic"))
    assert third["seeds"][2]["features_sha256"] == first["seeds"][0]["features_sha256"]
    assert kept.stat().st_mtime_ns > written


def command(drawn, backbone, *settings):
    return [
        "disentangle", str(drawn), "--method", "wasserstein", "--backbone", str(backbone), "--seeds", "1", "--device",
        "cpu", "--label-steps", "2", "--batch-size", "8", "--critic-steps", "1", "--critic-hidden", "8", *settings,
    ]  # fmt: skip


def assert_same_runs(one, two):
    for name in ("separation.safetensors", "backbone/model.safetensors"):
        first, second = (load_file(folder / "wasserstein-seed-0" / name) for folder in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    curves = [(folder / "seed-0" / "separation" / "curves.csv").read_text() for folder in (one, two)]
    assert curves[0] == curves[1]
    assert curves[0].startswith("step,foreground,background,wasserstein_foreground,wasserstein_background,critics\n")
    reports = [json.loads((folder / "seed-0.json").read_text()) for folder in (one, two)]
    assert reports[0]["probes"] == reports[1]["probes"]


def test_a_run_stopped_by_a_signal_goes_on_and_ends_with_the_same_bits(drawn, backbone, tmp_path):
    given = command(drawn, backbone, "--max-train-steps", "320", "--hidden", "8")
    process = start(*given, "--out", str(tmp_path / "stopped"))
    wait_for(lambda: (tmp_path / "stopped" / "seed-0" / "separation" / "state.pt").exists(), process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert "is saved in" in errors
    assert main([*given, "--out", str(tmp_path / "stopped")]) == 0
    assert main([*given, "--out", str(tmp_path / "whole")]) == 0
    assert_same_runs(tmp_path / "stopped", tmp_path / "whole")


def test_a_fine_tuning_that_broke_off_goes_on_from_its_saved_state(drawn, backbone, tmp_path, monkeypatch):
    given = command(drawn, backbone, "--max-train-steps", "12", "--fine-tune")
    assert main([*given, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr("figureground.disentangling.training.SAVED_EVERY", 5)
    step = SeparationLearner.step

    def break_at_seven(self, number):
        if number == 7:
            raise RuntimeError("broken off")
        return step(self, number)

    monkeypatch.setattr(SeparationLearner, "step", break_at_seven)
    with pytest.raises(RuntimeError, match="broken off"):
        main([*given, "--out", str(tmp_path / "broken"), "--debug"])
    monkeypatch.setattr(SeparationLearner, "step", step)
    assert main([*given, "--out", str(tmp_path / "broken")]) == 0
    assert_same_runs(tmp_path / "broken", tmp_path / "whole")


BRITTLE = """
import torch

from figureground.disentangling.penalty import Penalty
from figureground.disentangling.separator import TrainedSeparator


class Broken(Penalty):
    curve_names = ("brittle_foreground", "brittle_background")
    critic_steps = 1

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch, generator):
        return torch.stack([self.weight * part.sum() for part in (batch.foreground, batch.background)])

    def critic_loss(self, batch, generator):
        return (self.weight - 1).sqrt()  # NaN


class Brittle(TrainedSeparator):
    NAME = "brittle"
    TEXT = "a critic that breaks"
    OWN = {"penalty": 1.0, "foreground_share": 0.5, "hidden": 8, "label_steps": None}

    def penalty(self, settings, shape, seed):
        return Broken()
"""


def test_a_critic_that_is_not_a_number_stops_the_run_and_the_last_good_state_stays(run, tmp_path, monkeypatch):
    (tmp_path / "brittleseparator.py").write_text(BRITTLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("figureground.disentangling.training.SAVED_EVERY", 10)
    SEPARATORS.add("brittle", "brittleseparator:Brittle")
    try:
        with pytest.raises(FiguregroundError, match=r"critics.* nan at step 13\..*Step 10 of 40 is saved.*--critic"):
            run("brittle", max_train_steps=40, label_steps=12, batch_size=8)
    finally:
        SEPARATORS.remove("brittle")
    state = torch.load(tmp_path / "run" / "seed-0" / "separation" / "state.pt", weights_only=True)
    assert state["step"] == 10
    tensors = [value for part in ("module0", "module1", "penalty") for value in state[part].values()]
    assert all(torch.isfinite(value).all() for value in tensors)


def test_photographs_enter_the_foreground_and_are_refused_where_nothing_is_trained(finished, run, tmp_path):
    rng = np.random.default_rng(0)
    for name in FOREGROUNDS:
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photographs" / name / f"{i}.png")
    photographs = tmp_path / "photographs"
    report = run("hsic", photographs=photographs, **tiny("hsic"))
    assert report["images"]["photographs"] == 6
    with_them, without = (
        next(csv.DictReader((out / "seed-0" / "separation" / "curves.csv").open()))
        for out in (tmp_path / "run", finished("hsic"))
    )
    assert with_them["foreground"] != without["foreground"]
    assert with_them["background"] == without["background"]  # in the first step, before weights differ
    with pytest.raises(RecipeError, match="photographs: none trains nothing"):
        run("none", "refused", photographs=photographs)
    (photographs / "car" / "0.png").write_bytes(b"no image")
    with pytest.raises(FiguregroundError, match=r"car/0\.png"):
        run("hsic", "damaged", photographs=photographs, **tiny("hsic"))


def test_photographs_that_test_the_features_are_refused(run, tmp_path):
    """Otherwise the accuracy of the probes is that on images that trained the features."""
    make_table(tmp_path / "data", [(f"{y}{a}{i}.png", i % 3, f"y{y}", f"a{a}") for y in (0, 1) for a in (0, 1)
                                   for i in range(6)])  # fmt: skip
    for y in (0, 1):
        (tmp_path / "photographs" / f"y{y}").mkdir(parents=True)
        for i in (0, 2):  # one of train, one of test
            shutil.copy(tmp_path / "data" / f"{y}0{i}.png", tmp_path / "photographs" / f"y{y}" / f"{i}.png")
    with pytest.raises(RecipeError, match="2 files with the bytes of an image of data that trains the probes"):
        run("hsic", data=tmp_path / "data", photographs=tmp_path / "photographs", **tiny("hsic"))


SEPARATOR = """
from figureground.disentangling.separator import Eraser

class Mean(Eraser):
    \"\"\"Both parts are constant.\"\"\"

    NAME = "mean"
    TEXT = "constant features"
    OWN = {"keep": 0.0}

    def erase(self, features, label, classes, settings, seed):
        keep = settings.options["keep"]
        import torch
        d = features.shape[1]
        return keep * torch.eye(d, dtype=features.dtype), features.mean(0), {"classes": classes}
"""


def test_an_entry_point_adds_a_separator_with_settings_of_its_own(drawn, backbone, tmp_path, monkeypatch, capsys):
    install(tmp_path / "site", "meanseparator", SEPARATOR, "separators", "mean = meanseparator:Mean")
    monkeypatch.syspath_prepend(tmp_path / "site")
    SEPARATORS.reload_entry_points()
    try:
        command = ["disentangle", str(drawn), "--method", "mean", "--backbone", str(backbone), "--seeds", "1"]
        command += ["--device", "cpu", "--out", str(tmp_path / "out")]
        assert main([*command, "--option", "keep=0"]) == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["settings"]["options"] == {"keep": 0}
        assert report["seeds"][0]["mean"] == {"foreground": {"classes": 2}, "background": {"classes": 2}}
        found = report["over_seeds"]["probes"]["background from foreground"]
        assert found["accuracy"]["mlp"]["mean"] == found["majority"]
        capsys.readouterr()
        assert main([*command, "--option", "kep=1"]) == 2
        assert "did you mean 'keep'" in capsys.readouterr().err
        assert main([*command, "--penalty", "1"]) == 2
        assert "penalty: mean doesn't use it" in capsys.readouterr().err
    finally:
        SEPARATORS.reload_entry_points()
        sys.modules.pop("meanseparator", None)


def test_runs_are_compared_in_a_table_and_a_chart_and_runs_on_other_data_refused(finished, run, tmp_path, capsys):
    run("hsic", "strong", **tiny("hsic", penalty=5.0))
    runs = [str(tmp_path / "strong"), str(finished("none")), str(finished("hsic"))]
    assert main(["disentangle", "--compare", *runs, "--out", str(tmp_path / "table.md")]) == 0
    output = capsys.readouterr().out
    table = json.loads((tmp_path / "table.json").read_text())
    rows = [(each["method"], each["penalty"]) for each in table["runs"]]
    assert rows == [("hsic", 1.0), ("hsic", 5.0), ("none", None)]
    text = (tmp_path / "table.md").read_text()
    assert "hsic, λ = 5" in text
    assert "| none | 1 |" in output
    assert table["notes"] == []
    assert (tmp_path / "table.png").stat().st_size > 5000
    assert main(["disentangle", "--compare", *runs, "--out", str(tmp_path / "table")]) == 0  # its own files

    run("hsic", "slow", **tiny("hsic", learning_rate=1e-5), seeds=[3])
    assert main(["disentangle", "--compare", *runs, str(tmp_path / "slow"), "--out", str(tmp_path / "differing")]) == 0
    notes = json.loads((tmp_path / "differing.json").read_text())["notes"]
    assert [note.split(" (")[0] for note in notes] == [
        "The runs differ in seeds", "The runs of hsic differ in learning_rate",
    ]  # fmt: skip
    assert "1e-05 in slow" in notes[1]
    assert "differ in seeds" in (tmp_path / "differing.md").read_text()

    other = make_drawn(
        tmp_path / "other", foregrounds=FOREGROUNDS, backgrounds=BACKGROUNDS, size=16, mask=False, seed=1
    )
    run("none", "elsewhere", data=other)
    capsys.readouterr()
    for arguments, named in (
        ([runs[0], str(tmp_path / "elsewhere")], "elsewhere (other) differs"),
        ([runs[0], str(tmp_path)], "report.json"),
        ([runs[0], runs[0]], "twice"),
    ):
        assert main(["disentangle", "--compare", *arguments, "--out", str(tmp_path / "no")]) in (1, 2)
        assert named in capsys.readouterr().err
    (tmp_path / "mine.md").write_text("mine")
    assert main(["disentangle", "--compare", *runs, "--out", str(tmp_path / "mine")]) == 1
    assert (tmp_path / "mine.md").read_text() == "mine"
    assert not (tmp_path / "mine.json").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "hsc"}, "method.*'hsc'.*hsic"),
        ({"method": "leace", "penalty": 1.0}, "penalty: leace doesn't use it; only wasserstein, adversarial, hsic"),
        ({"method": "hsic", "critic_steps": 2}, "critic_steps: hsic"),
        ({"method": "hsic", "foreground_share": 1.0}, "foreground_share"),
        ({"method": "hsic", "label_steps": 9, "max_train_steps": 9}, "label_steps: 9"),
        ({"method": "hsic", "fine_tune": True, "pretrain_steps": 9}, "pretrain_steps.*max_train_steps"),
        ({"method": "hsic", "batch_size": 2}, "batch_size: 2"),
        ({"method": "hsic", "penalties": 2}, "penalties.*penalty"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, named):
    with pytest.raises(RecipeError, match=named):
        Disentangling(**settings)


def test_a_backbone_with_too_few_features_to_cut_is_refused(run, tmp_path):
    with pytest.raises(FiguregroundError, match=r"16 pooled features.*foreground_share"):
        run("hsic", foreground_share=0.99, **tiny("hsic"))
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_bad_input_of_the_command_is_refused_before_torch_is_needed(drawn, tmp_path, capsys):
    given = ["disentangle", str(drawn), "--out", str(tmp_path / "out")]
    for arguments, named in (
        (["disentangle", "--out", "x"], "DIR"),
        (given, "--method"),
        ([*given, "--method", "hsic", "--compare", "a"], "--compare"),
        ([*given, "--method", "hsic", "--pairing", "car"], "CLASS=BACKGROUND"),
        ([*given, "--method", "hsic", "--pairing", "cart=grass"], "'cart'"),
        ([*given, "--method", "hsic", "--backbone", "./nowhere"], "./nowhere"),
        ([*given, "--method", "hsic", "--features-split", "train"], "--probes-split"),
        (["disentangle", str(drawn), "--method", "hsic", "--out", str(drawn / "run")], "inside DIR"),
        (["disentangle", str(tmp_path), "--method", "hsic", "--out", str(tmp_path.parent / "o")], "layout"),
    ):
        assert main(arguments) in (1, 2), arguments
        assert named in capsys.readouterr().err, arguments
    assert not (tmp_path / "out").exists()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "letter.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else \(letter.txt\)"):
        read_request(Disentangling("hsic"), drawn, kept)


def test_a_run_of_other_settings_in_the_same_directory_is_refused_with_the_difference(finished, run, tmp_path):
    shutil.copytree(finished("none"), tmp_path / "run")
    with pytest.raises(FiguregroundError, match=r"holds another run:\n  batch_size: 8, now 32"):
        run("none", **tiny("none", batch_size=32))


def test_what_is_no_saved_model_is_refused_and_a_damaged_one_named(finished, run, backbone, tmp_path):
    with pytest.raises(FiguregroundError, match=r"model_type.*'resnet'"):
        Disentangled.from_pretrained(backbone)
    folder, again = tmp_path / "none-seed-0", finished("none") / "none-seed-0"
    shutil.copytree(again, folder)
    (folder / "separation.safetensors").write_bytes(b"no")
    with pytest.raises(FiguregroundError, match="none-seed-0 is damaged"):
        open_classifier(str(folder))
    with pytest.raises(RecipeError, match=r"backbone.*none-seed-0 is not a transformers model"):
        run("none", "second", backbone=str(again))


def test_dependent_labels_are_noted(run, tmp_path):
    counts = {("car", "grass"): 8, ("mug", "night"): 8}
    data = make_drawn(
        tmp_path / "biased", foregrounds=FOREGROUNDS, backgrounds=BACKGROUNDS, size=16, mask=False,
        splits={"train": 1, "validation": 1, "test": 1}, per_cell=lambda split, f, b: counts.get((f, b), 2),
    )  # fmt: skip
    assert any("Cramér's V 0.60" in note for note in run("none", data=data)["notes"])
