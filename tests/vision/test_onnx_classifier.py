"""Classifiers in ONNX files judge images as the files beside them say, and are refused where gradients are needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_datasets import COLOURS, image, make_coloured, make_folders
from onnx import helper
from PIL import Image
from tiny_onnx import save, save_salient

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.vision.attention import compute_attention
from figureground.vision.attribution import share_inside
from figureground.vision.classifiers import open_classifier
from figureground.vision.onnx_classifier import open_parts

EDGE = 32
MEANS = np.array(list(COLOURS.values()), np.float32) / 255
WEIGHT, BIAS = 40 * MEANS.T, -20 * (MEANS**2).sum(1)
"""Logits of the mean colour, which are highest for the nearest of the three colours."""
PLAIN = {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": EDGE}


def make(
    path: Path, batch: int | str = "n", edge: int | str = EDGE, softmax: bool = False, last_axis: bool = False
) -> Path:
    """A network of three classes that reads the image's mean colour."""
    nodes = [
        *([helper.make_node("Transpose", ["pixels"], ["first"], perm=[0, 3, 1, 2])] if last_axis else []),
        helper.make_node("GlobalAveragePool", ["first" if last_axis else "pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["sums" if softmax else "logits"]),
        *([helper.make_node("Softmax", ["sums"], ["logits"])] if softmax else []),
    ]
    shape = [batch, edge, edge, 3] if last_axis else [batch, 3, edge, edge]
    weights = {"weight": WEIGHT.astype(np.float32), "bias": BIAS.astype(np.float32)}
    return save(path, nodes, {"pixels": shape}, {"logits": [batch, 3]}, weights)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = make(tmp_path / "colours.onnx")
    path.with_suffix(".json").write_text(json.dumps(PLAIN))
    path.with_suffix(".txt").write_text("\n".join(COLOURS) + "\n")
    return path


def test_images_are_judged_as_the_files_beside_it_say(network: Path) -> None:
    opened = open_classifier(f"onnx:{network}")
    assert (opened.name, opened.labels) == ("colours.onnx", tuple(COLOURS))
    logits, features = opened.read([image(name) for name in COLOURS])
    assert logits.argmax(1).tolist() == [0, 1, 2]
    assert features.shape == (3, 0)
    colour = np.asarray(image("bird"))[0, 0] / 255
    assert np.allclose(logits[0].numpy(), colour @ WEIGHT + BIAS, atol=1e-3)
    assert str(network.parent) not in json.dumps(opened.facts)


def test_settings_change_what_the_network_sees_and_its_identity(network: Path) -> None:
    before = open_classifier(f"onnx:{network}")
    settings = {**PLAIN, "channels": "BGR", "crop": EDGE, "resize": 64, "interpolation": "box"}
    network.with_suffix(".json").write_text(json.dumps(settings))
    after = open_classifier(f"onnx:{network}")
    assert after.facts["sha256"] != before.facts["sha256"]
    framed = Image.new("RGB", (64, 64), COLOURS["bird"])
    framed.paste(COLOURS["cat"][::-1], (16, 16, 48, 48))  # what the centre crop keeps, in the other order of channels
    assert before.read([framed]).logits.argmax() == 0
    assert after.read([framed]).logits.argmax() == 1


@pytest.mark.parametrize("layout", [{"batch": 1}, {"batch": 2}, {"last_axis": True}, {"edge": "side"}])
def test_exports_of_other_layouts_give_the_same_logits(network: Path, tmp_path: Path, layout: dict) -> None:
    images = [image(name, seed) for name in COLOURS for seed in range(3)]
    expected = open_classifier(f"onnx:{network}").read(images).logits
    other = make(tmp_path / "other.onnx", **layout)
    other.with_suffix(".json").write_text(json.dumps({**PLAIN, "crop": EDGE}))
    assert torch.allclose(open_classifier(f"onnx:{other}").read(images).logits, expected, atol=1e-3)


def test_probabilities_are_recognised_and_stay_what_they_are(network: Path, tmp_path: Path) -> None:
    expected = open_classifier(f"onnx:{network}").read([image("cat")]).logits.softmax(1)
    path = make(tmp_path / "soft.onnx", softmax=True)
    path.with_suffix(".json").write_text(json.dumps(PLAIN))
    assert torch.allclose(open_classifier(f"onnx:{path}").read([image("cat")]).logits.softmax(1), expected, atol=1e-5)


def test_without_files_beside_it_preprocessing_is_imagenets_and_classes_are_numbers(tmp_path: Path) -> None:
    opened = open_classifier(f"onnx:{make(tmp_path / 'bare.onnx')}")
    assert opened.labels == ("0", "1", "2")
    assert (opened.preprocessing.size, opened.preprocessing.crop) == (37, (EDGE, EDGE))
    assert opened.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    assert open_parts(make(tmp_path / "free.onnx", edge="side"), "it").edge == 224


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": 3}, "size"),
        ({"crop": 0}, "crop"),
        ({"crop": 16}, "crop"),
        ({"crop": 32, "resize": 16}, "resize"),
        ({"resize": 16}, "resize: it is 16, less than"),
        ({"mean": [0.5]}, "mean"),
        ({"std": [0, 1, 1]}, "std"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"channels": "GRB"}, "channels"),
        ({"labels": "bird"}, "labels"),
        ({"labels": ["bird", "cat"]}, "3 numbers per image but has 2 labels"),
        ({"output": "scores"}, "scores"),
        ([], "not a JSON object"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(network: Path, settings: object, named: str) -> None:
    network.with_suffix(".json").write_text(json.dumps(settings))
    with pytest.raises(FiguregroundError, match=named):
        open_classifier(f"onnx:{network}")


def test_an_empty_line_among_the_labels_is_named(network: Path) -> None:
    network.with_suffix(".txt").write_text("bird\n\nmug\n")
    with pytest.raises(FiguregroundError, match=r"colours\.txt: line 2"):
        open_classifier(f"onnx:{network}")


def test_a_network_that_is_no_classifier_is_refused_by_its_inputs_and_outputs(tmp_path: Path) -> None:
    salient = save_salient(tmp_path / "salient.onnx")
    with pytest.raises(FiguregroundError, match=r"isn't an image classifier: it takes image .*64 × 64.* and gives d0"):
        open_classifier(f"onnx:{salient}")
    flat = save(tmp_path / "flat.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}, {})
    with pytest.raises(FiguregroundError, match=r"isn't an image classifier: it takes x \(float32, \? × 8\)"):
        open_classifier(f"onnx:{flat}")


def test_attention_attribution_and_features_are_refused_by_the_classifiers_name(network: Path) -> None:
    opened = open_classifier(f"onnx:{network}")
    shown, mask = image("bird"), np.ones((32, 32), bool)
    uses = (
        opened.require_features, lambda: compute_attention(opened, [shown], [0]),
        lambda: share_inside(opened, [shown], [mask], [0]),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(FiguregroundError, match=r"'colours\.onnx'.*no gradients and no features"):
            use()


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (["components", "--class", "bird", "--images", "photos/bird", "--out", "out"], "--classifier"),
        (["build", "scgs", "--data", "photos", "--out", "out"], "classifier"),
        (["build", "ddb", "--data", "photos", "--out", "out"], "classifier"),
        (["train", "erm", "--data", "photos", "--out", "out"], "backbone"),
    ],
)
def test_commands_that_need_gradients_refuse_it_before_any_work(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: list[str], field: str,
) -> None:  # fmt: skip
    make_folders(tmp_path / "photos", {"bird": 3, "cat": 3})
    monkeypatch.chdir(tmp_path)
    flag = f"--{field.lstrip('-')}"
    assert main([*command, flag, f"onnx:{network}"]) == 1
    assert f"{field}: 'onnx:{network}' gives no gradients" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluate_takes_it_and_labels_by_number(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_coloured(tmp_path / "set", [("train", name, "grass", i, name) for name in COLOURS for i in range(2)])
    assert main(["evaluate", str(dataset), "--classifier", f"onnx:{network}"]) == 0
    assert "colours.onnx: accuracy 100.0%" in capsys.readouterr().out
    network.with_suffix(".txt").unlink()
    table = tmp_path / "labels.csv"
    table.write_text("label,classifier_label\n" + "".join(f"{name},{i}\n" for i, name in enumerate(COLOURS)))
    assert main(["evaluate", str(dataset), "--classifier", f"onnx:{network}", "--labels", str(table)]) == 0
    report = json.loads((dataset / "_evaluation" / "evaluation.json").read_text())
    assert report["classifiers"]["colours.onnx"]["accuracy"]["value"] == 1


def test_a_file_that_is_not_there_is_named_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_coloured(tmp_path / "set", [("train", "bird", "grass", 0, "bird")])
    assert main(["evaluate", str(dataset), "--classifier", f"onnx:{tmp_path}/none.onnx"]) == 1
    assert "none.onnx" in capsys.readouterr().err
