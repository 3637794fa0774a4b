"""Backbones: which head they get, what their random weights depend on, and that they open again once saved."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_classifiers import LABELS, make_classifier
from torch import nn
from transformers import AutoModelForImageClassification, CLIPImageProcessorPil, ViTImageProcessorPil

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.disentangling.settings import Disentangling
from figureground.learn.backbones import STATE, check_saving, find_last_layer, open_backbone, save_backbone
from figureground.learn.settings import Training
from figureground.recipe.settings import describe_fields, field_names
from figureground.vision.classifiers import open_classifier

PIXELS = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_classifier(tmp_path_factory.mktemp("backbone") / "four")


def logits(folder, classes, edge=32):
    backbone = open_backbone(Training("erm", backbone=str(folder)), classes, edge, 0)
    backbone.network.eval()
    with torch.no_grad():
        return backbone.logits(backbone.prepare(PIXELS, CPU)), backbone


def test_a_head_in_another_order_is_put_into_that_of_the_data_by_name(folder):
    own, first = logits(folder, tuple(LABELS.values()))
    assert first.notes == ()
    order = (2, 0, 3, 1)
    mapped, backbone = logits(folder, ("man-eater", "hen", "Crane", "hummingbird"))
    assert torch.allclose(mapped, own[:, order])
    assert "order" in backbone.notes[0]
    assert backbone.network.config.id2label == dict(enumerate(("man-eater", "hen", "Crane", "hummingbird")))


@pytest.mark.parametrize("classes", [("a", "b", "c", "d"), ("hen", "crane", "hummingbird", "duck")])
def test_a_head_for_other_classes_is_made_anew_with_a_note(folder, classes):
    own, _ = logits(folder, tuple(LABELS.values()))
    anew, backbone = logits(folder, classes)
    assert anew.shape == own.shape
    assert not any(torch.allclose(anew[:, i], own[:, j]) for i in range(4) for j in range(4))
    assert "other names" in backbone.notes[0]
    assert "hen" in backbone.notes[0]


def test_a_head_without_names_stands_for_no_class(tmp_path):
    nameless = make_classifier(tmp_path / "nameless", labels={i: f"LABEL_{i}" for i in range(4)})
    assert "LABEL_0" in logits(nameless, tuple(LABELS.values()))[1].notes[0]


def test_a_head_for_another_number_of_classes_is_made_anew_with_a_note(folder):
    anew, backbone = logits(folder, ("hen", "crane"))
    assert anew.shape == (3, 2)
    assert "4 classes" in backbone.notes[0]
    assert backbone.network.num_labels == 2
    assert backbone.classes == ("hen", "crane")


def test_the_last_layer_is_found_by_its_weights_wherever_it_lies():
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4, bias=False)))
    parent, name = find_last_layer(network, network[1][1].weight.detach())
    assert parent is network[1]
    assert getattr(parent, name) is network[1][1]
    with pytest.raises(ValueError, match="linear"):
        find_last_layer(network, network[1][1].weight.clone())


# Random weights


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items() if value.is_floating_point()}


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], value) for name, value in other.items())


@pytest.mark.parametrize("kind", ["pocket", "from scratch", "another head"])
def test_random_weights_depend_on_the_seed_alone(folder, kind):
    own = {} if kind == "pocket" else {"backbone": str(folder), "from_scratch": kind == "from scratch"}
    settings = Training("erm", **own)

    def opened(seed):
        return weights(open_backbone(settings, ("a", "b"), 32, seed).network)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = opened(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, opened(0))
    assert not same(first, opened(1))


def test_from_scratch_nothing_is_left_of_the_weights_but_their_shapes(folder):
    own = open_backbone(Training("erm", backbone=str(folder)), tuple(LABELS.values()), 32, 0)
    anew = open_backbone(Training("erm", backbone=str(folder), from_scratch=True), ("a", "b", "c"), 32, 0)
    assert (own.pretrained, anew.pretrained) == (True, False)
    assert own.facts == anew.facts
    assert anew.notes == ()
    assert anew.network.config.id2label == {0: "a", 1: "b", 2: "c"}
    theirs, mine = ({n: p for n, p in each.network.named_parameters() if "convolution" in n} for each in (own, anew))
    assert len(theirs) > 3
    assert not any(torch.equal(theirs[name], value) for name, value in mine.items())
    assert [value.shape for value in theirs.values()] == [value.shape for value in mine.values()]


def test_all_weights_of_an_opened_backbone_are_trained(folder):
    backbone = open_backbone(Training("erm", backbone=str(folder)), ("hen", "crane"), 32, 0)
    flags = [weight.requires_grad for weight in backbone.network.parameters()]
    assert len(flags) > 10
    assert all(flags)


# The size of the input


@pytest.mark.parametrize(("edge", "size"), [(16, 16), (64, 64), (90, 64)])
def test_the_pocket_backbone_sees_images_in_their_size_up_to_64_pixels(edge, size):
    backbone = open_backbone(Training("erm"), ("a", "b", "c"), edge, 0)
    assert (backbone.name, backbone.pretrained, backbone.size) == ("pocket", False, (size, size))
    assert backbone.facts["size"] == [size, size]
    prepared = backbone.prepare(torch.full((2, 3, edge, edge), 255, dtype=torch.uint8), CPU)
    assert prepared.shape == (2, 3, size, size)
    assert torch.allclose(prepared, torch.ones(()))
    assert backbone.logits(prepared).shape == (2, 3)


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        (ViTImageProcessorPil(size={"height": 32, "width": 24}), (32, 24)),
        (ViTImageProcessorPil(size={"shortest_edge": 40}), (40, 40)),
        (ViTImageProcessorPil(do_resize=False), (224, 224)),
        (CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 24}), (32, 24)),
    ],
    ids=["both edges", "the shorter one", "none", "a crop"],
)
def test_every_image_comes_out_in_one_size_and_the_saved_backbone_keeps_it(processor, size, tmp_path):
    backbone = open_backbone(
        Training("erm", backbone=str(make_classifier(tmp_path / "it", processor=processor))), ("a", "b"), 48, 0
    )
    assert (backbone.size, backbone.facts["size"]) == (size, list(size))
    for height, width in ((48, 30), (30, 48)):
        pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        assert backbone.prepare(pixels, CPU).shape == (1, 3, *size)
    check_saving(backbone)
    save_backbone(backbone, tmp_path / "saved")
    assert open_classifier(str(tmp_path / "saved")).preprocessing == backbone.preprocessing


def test_pixels_of_the_right_size_are_only_normalised(folder):
    backbone = open_backbone(Training("erm", backbone=str(folder)), ("a", "b"), 32, 0)
    assert torch.equal(backbone.normalise(PIXELS, CPU), backbone.prepare(PIXELS, CPU))
    larger = PIXELS.repeat(1, 1, 2, 2)
    assert torch.equal(backbone.normalise(larger, CPU), backbone.normalise(PIXELS, CPU).repeat(1, 1, 2, 2))


# What is refused


def test_a_file_and_a_revision_of_the_pocket_backbone_are_refused_by_setting(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(RecipeError, match=r"^backbone: .*weights\.safetensors is a file"):
        open_backbone(Training("erm", backbone=str(tmp_path / "weights.safetensors")), ("a", "b"), 32, 0)
    with pytest.raises(RecipeError, match=r"^revision: "):
        open_backbone(Training("erm", revision="main"), ("a", "b"), 32, 0)


def test_a_backbone_without_one_last_layer_keeps_its_own_classes_and_takes_no_others(tmp_path):
    it = make_classifier(tmp_path / "it", "deit with teacher")
    assert logits(it, tuple(LABELS.values()))[1].notes == ()
    for classes in (tuple(LABELS.values())[::-1], ("a", "b")):
        with pytest.raises(FiguregroundError, match=r"^classifier 'it' "):
            logits(it, classes)


# Saving


@pytest.fixture
def trained(folder):
    """A backbone of other classes whose head has changed since it was opened."""
    backbone = open_backbone(Training("erm", backbone=str(folder)), ("a", "b"), 32, 0)
    with torch.no_grad():
        backbone.network.classifier[1].bias.copy_(torch.tensor([0.5, -0.5]))
    backbone.network.eval()
    return backbone


def test_a_saved_backbone_judges_as_it_did_and_names_no_place(trained, folder, tmp_path):
    save_backbone(trained, tmp_path / "new" / "model")
    files = sorted(path.name for path in (tmp_path / "new" / "model").iterdir())
    assert files == ["config.json", "model.safetensors", "preprocessor_config.json"]
    config = (tmp_path / "new" / "model" / "config.json").read_text()
    assert not [place for place in (folder, tmp_path) if str(place) in config]
    opened = open_classifier(str(tmp_path / "new" / "model"))
    assert opened.labels == ("a", "b")
    with torch.no_grad():
        expected = trained.logits(trained.prepare(PIXELS, CPU))
        assert torch.allclose(opened(PIXELS / 255).logits, expected, atol=1e-5)
    network = AutoModelForImageClassification.from_pretrained(tmp_path / "new" / "model")
    assert torch.equal(network.classifier[1].bias, torch.tensor([0.5, -0.5]))


def test_saving_replaces_what_a_killed_run_left(trained, tmp_path):
    for name in ("model", ".model.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").touch()
    save_backbone(trained, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "left").exists()
    open_classifier(str(tmp_path / "model"))


def test_a_preprocessing_that_cannot_be_written_is_refused_before_training(tmp_path):
    from transformers import MobileViTImageProcessor

    processor = MobileViTImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    it = make_classifier(tmp_path / "it", processor=processor)
    backbone = open_backbone(Training("erm", backbone=str(it)), ("a", "b"), 32, 0)
    with pytest.raises(FiguregroundError, match=r"^backbone 'it': "):
        check_saving(backbone)
    check_saving(open_backbone(Training("erm"), ("a", "b"), 32, 0))


# timm, which is optional

TIMM = """
from torch import nn

def create_model(name, pretrained, num_classes):
    if name != "tiny":
        raise RuntimeError(f"Unknown model ({name})\\nand more")
    assert not pretrained
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""
CONFIG = {
    "input_size": (3, 32, 32), "crop_pct": 0.8, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3,
}  # fmt: skip


@pytest.fixture
def timm(tmp_path, monkeypatch):
    """A stand-in with timm's interface: timm itself needs torchvision."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(TIMM)
    (tmp_path / "timm" / "data.py").write_text(f"def resolve_model_data_config(model): return {CONFIG!r}")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("timm", "timm.data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("timm", "timm.data"):
        sys.modules.pop(name, None)


def scratch(name):
    return open_backbone(Training("erm", backbone=name, from_scratch=True), ("a", "b", "c"), 48, 0)


@pytest.mark.usefixtures("timm")
def test_a_timm_network_is_made_for_the_classes_and_saved_as_its_state(tmp_path):
    backbone = scratch("timm:tiny")
    assert (backbone.name, backbone.size, backbone.pretrained) == ("timm:tiny", (32, 32), False)
    assert backbone.facts == {"name": "timm:tiny", "size": [32, 32]}
    assert backbone.logits(backbone.prepare(PIXELS, CPU)).shape == (3, 3)
    assert same(weights(backbone.network), weights(scratch("timm:tiny").network))
    check_saving(backbone)
    save_backbone(backbone, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [STATE, "timm.json"]
    assert json.loads((tmp_path / "model" / "timm.json").read_text()) == {
        "name": "timm:tiny", "classes": ["a", "b", "c"],
    }  # fmt: skip
    assert same(load_file(tmp_path / "model" / STATE), weights(backbone.network))


@pytest.mark.usefixtures("timm")
def test_a_name_that_timm_does_not_know_is_reported_in_a_line():
    with pytest.raises(FiguregroundError, match=r"^backbone 'timm:huge' .*Unknown model \(huge\)$"):
        scratch("timm:huge")


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FiguregroundError, match=r"^backbone 'timm:tiny' .*figureground\[timm\]"):
        scratch("timm:tiny")


@pytest.mark.parametrize("kind", [Training, Disentangling])
def test_the_settings_of_the_backbone_come_between_the_method_and_its_own(kind):
    assert field_names(kind)[:4] == ["method", "backbone", "revision", "from_scratch"]
    assert list(kind("none" if kind is Disentangling else "erm").to_json())[:4] == field_names(kind)[:4]
    texts = describe_fields(kind)
    assert "none means `pocket`" in texts["backbone"]
    assert ("separator" in texts["method"]) == (kind is Disentangling)
