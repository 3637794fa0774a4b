"""The command `figureground components` draws what activates a class's components."""

import json

import commands
import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_classifiers import fit_components_of, make_classifier

from figureground.cli.main import main
from figureground.core import fonts
from figureground.core.errors import FiguregroundError
from figureground.vision.classifiers import open_classifier
from figureground.vision.components import draw
from figureground.vision.neural_pca import read_components


def make_color_classifier(out):
    """A classifier whose three features are how red, green and blue an image is, after nothing else."""
    make_classifier(out, "resnet", t.ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False))
    config = t.ResNetConfig(
        embedding_size=3, hidden_sizes=[3], depths=[1], layer_type="basic", id2label={0: "hen", 1: "hummingbird"}
    )
    network = t.ResNetForImageClassification(config)
    weights = network.state_dict()
    for name, tensor in weights.items():
        if name.endswith("convolution.weight"):
            tensor.zero_()
            if "embedder" in name:  # the centre of the 7 × 7 passes each colour on
                tensor[range(3), range(3), 3, 3] = 1
    weights["classifier.1.weight"][:] = torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 0.5]])
    network.load_state_dict(weights)
    network.save_pretrained(out)
    return out


@pytest.fixture
def classifier(tmp_path):
    return make_color_classifier(tmp_path / "colors")


@pytest.fixture
def images(tmp_path):
    """Ten greys that are more or less red, and a few things that are no images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(10):
        Image.new("RGB", (40 + i, 30), (40 + 20 * i, 60 + i % 3, 90)).save(folder / f"red {i}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def arguments(classifier, images, out, *more: str) -> list[str]:
    return [
        "components", "--classifier", str(classifier), "--class", "hummingbird", "--images", str(images),
        "--out", str(out), "--device", "cpu", *more,
    ]  # fmt: skip


@pytest.fixture
def run(capfd):
    """Run the command in this process; return exit code, output and errors."""

    def run(*given) -> tuple[int, str, str]:
        code = main(arguments(*given))
        return code, *capfd.readouterr()

    return run


@pytest.mark.slow
def test_the_command_runs_from_a_shell_and_says_nothing_but_its_result(classifier, images, tmp_path):
    code, output, errors = commands.run(*arguments(classifier, images, tmp_path / "out", "--count", "2"))
    assert code == 0, errors
    assert output.startswith(f"{tmp_path / 'out'}: 2 components")
    assert [line for line in errors.replace("\r", "\n").splitlines() if line and "reading" not in line] == []


def test_the_first_component_is_what_varies_and_its_images_are_the_most_activating(run, classifier, images, tmp_path):
    out = tmp_path / "out"
    code, output, errors = run(classifier, images, out, "--count", "2", "--top", "4")
    assert code == 0, errors
    assert "2 components of 'hummingbird' from 10 images, 100% of them predicted as such" in output
    assert "1 file left out: broken.jpg" in output
    table = json.loads((out / "components.json").read_text())
    first = table["components"][0]
    assert [image["file"] for image in first["images"]] == [f"red {i}.png" for i in (9, 8, 7, 6)]
    assert first["share_of_variance"] > 0.99
    assert first["mean_alpha"] == pytest.approx(np.mean([image["alpha"] for image in first["images"]]))
    # Red alone varies much, from 40 to 220 of 255, and w_k doubles it; the mean is 130.
    assert first["images"][0]["alpha"] == pytest.approx(2 * 90 / 255, rel=0.05)
    assert list(table["unreadable"]) == ["broken.jpg"]
    assert (table["class"], table["label"], table["images"]) == ("hummingbird", 1, 10)
    assert str(tmp_path) not in json.dumps(table)
    sheet = Image.open(out / "components.png")
    assert sheet.width > 4 * 128
    red = np.asarray(sheet.convert("RGB"), float)[80:135, 170 + 20 : 170 + 100].mean((0, 1))
    assert red == pytest.approx([220, 60, 90], abs=3)  # the reddest image comes first
    assert sorted(p.name for p in out.iterdir()) == ["components.json", "components.png", "components.safetensors"]
    opened = open_classifier(str(classifier))
    written, fitted = read_components(out / "components.safetensors", opened), fit_components_of(opened, 1, images, 2)
    assert torch.allclose(written.vectors, fitted.vectors)


def test_a_class_name_without_a_font_for_its_letters_is_drawn_in_ascii_rather_than_as_boxes(images, monkeypatch):
    def draw_sheet(name):
        numbers = {"component": 0, "share_of_variance": 0.9, "mean_alpha": 0.1, "deviation_of_alpha": 1.0}
        row = {**numbers, "images": [{"file": "red 0.png", "alpha": 0.1, "p": 0.5}]}
        table = {"class": name, "classifier": {"name": "colors"}, "components": [row]}
        return draw(table, [images / "red 0.png"], [[0]]).tobytes()

    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", ("no such font.ttf",))
    assert draw_sheet("鸟") == draw_sheet("?") != draw_sheet("hen")


def test_an_earlier_result_is_replaced_and_other_files_are_not(run, classifier, images, tmp_path):
    out = tmp_path / "out"
    assert run(classifier, images, out, "--count", "2")[0] == 0
    assert run(classifier, images, out, "--count", "1")[0] == 0
    assert len(json.loads((out / "components.json").read_text())["components"]) == 1
    other = tmp_path / "other"
    other.mkdir()
    (other / "components.png").write_text("mine")
    code, _, errors = run(classifier, images, other, "--count", "1")
    assert code == 1
    assert "components.png that isn't an earlier result" in errors
    assert (other / "components.png").read_text() == "mine"
    assert len(list(other.iterdir())) == 1


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--count", "4"), 2, "--count: give a number from 1 to 3"),
        (("--top", "0"), 2, "--top: 0"),
        (("--class", "rocket"), 1, "has no class 'rocket'"),
        (("--images", "nowhere"), 2, "'nowhere'"),
        (("--device", "tpu"), 2, "device: 'tpu' is unknown"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_an_error_and_writes_nothing(run, classifier, images, tmp_path, more, code, words):
    found, _, errors = run(classifier, images, tmp_path / "out", "--count", "2", *more)
    assert (found, words in errors) == (code, True), errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_one_image_is_too_few_and_unreadable_ones_are_named(classifier, tmp_path):
    (tmp_path / "few").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "few" / "one.png")
    (tmp_path / "few" / "two.png").write_bytes(b"")
    with pytest.raises(FiguregroundError, match=r"has 1 image that can be read.*two\.png: the file is empty"):
        fit_components_of(open_classifier(str(classifier)), 1, tmp_path / "few")


def test_alike_images_are_refused(classifier, tmp_path):
    (tmp_path / "alike").mkdir()
    for i in range(3):
        Image.new("RGB", (9, 9), "teal").save(tmp_path / "alike" / f"{i}.png")
    with pytest.raises(FiguregroundError, match="all equal"):
        fit_components_of(open_classifier(str(classifier)), 1, tmp_path / "alike")


def test_damaged_weights_are_reported_before_any_image_is_read(run, classifier, images, tmp_path):
    weights = load_file(classifier / "model.safetensors")
    weights["classifier.1.bias"][0] = float("nan")
    save_file(weights, classifier / "model.safetensors", {"format": "pt"})
    code, _, errors = run(classifier, images, tmp_path / "out")
    assert (code, "NaN or infinity (classifier.1.bias)" in errors) == (1, True)
