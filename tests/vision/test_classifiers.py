"""Classifiers of many families open, judge, and give the features that their logits are made of."""

import json
import sys

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_classifiers import FAMILIES, LABELS, make_classifier
from torch import nn

from figureground.core.errors import FiguregroundError
from figureground.finetune.similarity import SimilarityLoss
from figureground.models.needs import refuse_absent_classifier
from figureground.vision.classifiers import Classifier, imagenet_nouns, open_classifier
from figureground.vision.preprocessing import imagenet_preprocessing

WITHOUT_FEATURES = ("deit with teacher",)


@pytest.fixture
def resnet(tmp_path):
    return make_classifier(tmp_path / "resnet")


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITHOUT_FEATURES])
def test_logits_are_features_times_weight_plus_bias_in_every_family(tmp_path, family):
    opened = open_classifier(str(make_classifier(tmp_path / family, family)))
    logits, features = opened(torch.rand(3, 3, 40, 50))
    assert logits.shape == (3, 4)
    assert features.shape == (3, opened.weight.shape[1])
    assert torch.allclose(features @ opened.weight.T + opened.bias, logits, rtol=1e-4, atol=1e-5)
    assert opened.bias.shape == (4,)


def test_the_reading_is_the_models_own(tmp_path):
    folder = make_classifier(tmp_path / "it", "vit", t.ViTImageProcessorPil(size={"height": 32, "width": 32}))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    network = t.AutoModelForImageClassification.from_pretrained(folder)
    expected = network(torch.tensor(np.stack(t.ViTImageProcessorPil.from_pretrained(folder)(image)["pixel_values"])))
    assert torch.allclose(open_classifier(str(folder)).read([image]).logits, expected.logits, atol=1e-5)


def test_two_heads_can_judge_but_are_no_feature_network(tmp_path):
    opened = open_classifier(str(make_classifier(tmp_path / "deit", "deit with teacher")))
    assert opened(torch.rand(2, 3, 32, 32)).logits.shape == (2, 4)
    assert opened(torch.rand(2, 3, 32, 32)).features.shape == (2, 0)
    for use in (opened.require_features, lambda: SimilarityLoss(opened, 1, torch.rand(3, 3, 32, 32))):
        with pytest.raises(FiguregroundError, match="'deit' can judge images"):
            use()


def test_pixels_get_gradients_and_weights_do_not(resnet):
    opened = open_classifier(str(resnet))
    pixels = torch.rand(2, 3, 64, 64, requires_grad=True)
    opened(pixels).features.sum().backward()
    assert (pixels.grad.abs().sum((1, 2, 3)) > 0).all()
    assert not any(p.requires_grad for p in opened.parameters())


def test_batch_statistics_stay_as_they_are_in_whatever_is_trained_around(resnet):
    opened = open_classifier(str(resnet))
    around = nn.ModuleList([opened]).train()
    before = {name: tensor.clone() for name, tensor in opened.state_dict().items()}
    around[0](torch.rand(4, 3, 32, 32))
    assert not any(module.training for module in opened.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in opened.state_dict().items())


def test_autocast_around_changes_nothing(resnet):
    opened = open_classifier(str(resnet))
    pixels = torch.rand(2, 3, 40, 40)
    expected = opened(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        found = opened(pixels)
    assert torch.equal(found.features, expected.features)
    assert found.logits.dtype == torch.float32


def test_images_of_different_sizes_are_read_as_they_would_be_alone(resnet):
    opened = open_classifier(str(resnet))
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for h, w in ((32, 32), (50, 20), (99, 98))]
    together = opened.read(images)
    alone = torch.cat([opened.read([image]).logits for image in images])
    assert torch.allclose(together.logits, alone, atol=1e-5)


def test_images_that_stay_of_different_sizes_are_read_too(tmp_path):
    folder = make_classifier(tmp_path / "it", processor=t.ViTImageProcessorPil(do_resize=False))
    images = [Image.new("RGB", size, "red") for size in ((32, 48), (64, 32))]
    assert open_classifier(str(folder)).read(images).logits.shape == (2, 4)


def test_a_checkpoint_in_half_precision_opens_in_full(resnet):
    weights = resnet / "model.safetensors"
    halved = {n: w.half() if w.is_floating_point() else w for n, w in load_file(weights).items()}
    save_file(halved, weights, {"format": "pt"})
    opened = open_classifier(str(resnet))
    assert {p.dtype for p in opened.parameters()} == {torch.float32}


# Labels


def test_classes_are_found_however_they_are_written(resnet):
    opened = open_classifier(str(resnet))
    assert opened.labels == tuple(LABELS.values())
    for name in ("great white shark", "Great_White_Shark", "great-white-shark", "white shark", "man eater", LABELS[2]):
        assert opened.index(name) == 2
    assert opened.index("Hummingbird") == 1


def test_an_unknown_class_is_an_error_that_names_near_ones(resnet):
    opened = open_classifier(str(resnet))
    assert opened.index_or_none("humming bird") is None
    with pytest.raises(FiguregroundError, match="no class 'humingbird'; similar: 'hummingbird'"):
        opened.index("humingbird")
    with pytest.raises(FiguregroundError, match="'great white shark'"):
        opened.index("shark")
    with pytest.raises(FiguregroundError, match="it has hen, hummingbird"):
        opened.index("zzz")


def test_a_name_of_its_own_beats_a_synonym_and_two_alike_are_refused(tmp_path):
    labels = {0: "Cardigan, Welsh corgi", 1: "cardigan", 2: "maillot", 3: "maillot"}
    opened = open_classifier(str(make_classifier(tmp_path / "it", labels=labels)))
    assert opened.index("cardigan") == 1
    assert opened.index("welsh corgi") == 0
    with pytest.raises(FiguregroundError, match="may be any of 'maillot' \\(logit 2\\), 'maillot' \\(logit 3\\)"):
        opened.index("maillot")
    assert opened.index_or_none("maillot") is None


def test_names_that_differ_in_a_symbol_are_different_classes(tmp_path):
    labels = {0: "C++", 1: "blood, A+", 2: "blood, A-", 3: "mallard ♂"}
    opened = open_classifier(str(make_classifier(tmp_path / "it", labels=labels)))
    assert [opened.index(name) for name in ("c++", "a+", "Mallard_♂", "C ++")] == [0, 1, 3, 0]
    assert [opened.index_or_none(name) for name in ("C#", "C", "mallard ♀", "blood")] == [None] * 4
    labels = {0: "a-b", 1: "a_b", 2: "a.b"}
    opened = open_classifier(str(make_classifier(tmp_path / "alike", labels=labels)))
    assert [opened.index(name) for name in ("a-b", "a_b", "a.b")] == [0, 1, 2]
    assert opened.index_or_none("a b") is None


def test_imagenets_wordnet_ids_and_names_are_known_where_the_order_is_imagenets(tmp_path):
    names = [aliases[-1] for _, aliases in imagenet_nouns()]
    labels = {i: f"{name}, Latin {name}" for i, name in enumerate(names)}
    opened = open_classifier(str(make_classifier(tmp_path / "it", labels=labels)))
    assert opened.index("n01833805") == opened.index("hummingbird") == 94
    assert opened.index("crane (n03126707)") == 517
    shuffled = {i: labels[(i + 1) % 1000] for i in labels}
    other = open_classifier(str(make_classifier(tmp_path / "other", labels=shuffled)))
    assert other.index("hummingbird") == 93
    assert other.index_or_none("n01833805") is None


# What is told of it


def test_facts_follow_the_content_and_name_no_path(resnet, tmp_path):
    first = open_classifier(str(resnet)).facts
    assert first["name"] == "resnet"
    assert first["architecture"] == "ResNetForImageClassification"
    assert first["classes"] == 4
    assert first["robust"] is None
    assert str(tmp_path) not in json.dumps(first)
    moved = resnet.rename(tmp_path / "moved")
    assert open_classifier(str(moved)).facts["sha256"] == first["sha256"]
    processor = moved / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace("0.5", "0.4"))
    assert open_classifier(str(moved)).facts["sha256"] != first["sha256"]


def test_a_config_may_say_that_it_is_robust(resnet):
    config = resnet / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "robust": True}))
    assert open_classifier(str(resnet)).facts["robust"] is True


# What can't be opened


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", "file or directory './nowhere'"),
        ("weights.pth", "file or directory 'weights.pth'"),
        ("resnet50", "Give 'pocket', a transformers directory"),
        ("nobody/nothing", "not in this machine's cache and the Hub can't be reached"),
    ],
)
def test_absent_parts_are_reported(name, words):
    with pytest.raises(FiguregroundError, match=words):
        open_classifier(name)


def test_a_revision_is_for_the_hub(resnet):
    with pytest.raises(FiguregroundError, match="only to Hub ids"):
        open_classifier(str(resnet), revision="main")


def test_a_pickle_is_never_opened(resnet):
    torch.save(load_file(resnet / "model.safetensors"), resnet / "pytorch_model.bin")
    (resnet / "model.safetensors").unlink()
    with pytest.raises(FiguregroundError, match=r"only as a pickle \(pytorch_model.bin\).*use_safetensors=False"):
        open_classifier(str(resnet))


def test_damage_is_reported(resnet):
    weights, config = resnet / "model.safetensors", resnet / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(FiguregroundError, match="'resnet' doesn't open"):
        open_classifier(str(resnet))
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FiguregroundError, match="git lfs pull"):
        open_classifier(str(resnet))
    weights.unlink()
    with pytest.raises(FiguregroundError, match="missing"):
        open_classifier(str(resnet))
    weights.write_bytes(whole)
    config.write_text("{")
    with pytest.raises(FiguregroundError, match="'resnet' doesn't open"):
        open_classifier(str(resnet))
    config.unlink()
    with pytest.raises(FiguregroundError, match=r"not a transformers directory: .*config\.json"):
        open_classifier(str(resnet))


def test_what_is_no_classifier_is_refused(tmp_path):
    text = t.CLIPTextModel(t.CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, vocab_size=9))
    text.save_pretrained(tmp_path / "text")
    with pytest.raises(FiguregroundError, match="'text' is not an image classifier"):
        open_classifier(str(tmp_path / "text"))
    backbone = t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    backbone.save_pretrained(tmp_path / "backbone")
    with pytest.raises(FiguregroundError, match=r"its weights lack classifier\.1\.bias"):
        open_classifier(str(tmp_path / "backbone"))


def test_code_from_a_checkpoint_is_never_run(resnet):
    config = resnet / "config.json"
    own = {**json.loads(config.read_text()), "model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}
    config.write_text(json.dumps(own))
    (resnet / "code.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    with pytest.raises(FiguregroundError, match=r"'resnet': its config\.json .*auto_map"):
        open_classifier(str(resnet))
    assert not (resnet / "ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(resnet, value):
    weights = load_file(resnet / "model.safetensors")
    weights["classifier.1.weight"][2, 3] = value
    save_file(weights, resnet / "model.safetensors", {"format": "pt"})
    with pytest.raises(FiguregroundError, match=r"NaN or infinity \(classifier\.1\.weight\)"):
        open_classifier(str(resnet))


def test_preprocessing_that_the_network_does_not_take_is_reported(tmp_path):
    folder = make_classifier(tmp_path / "it", "vit", t.ViTImageProcessorPil(size={"height": 48, "width": 48}))
    with pytest.raises(FiguregroundError, match="can't read the images"):
        open_classifier(str(folder))


def test_labels_and_logits_must_be_as_many():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    with pytest.raises(FiguregroundError, match="5 numbers per image but has 2 labels"):
        Classifier(network, imagenet_preprocessing(), ["a", "b"], "it", {})


def test_a_head_without_bias_has_a_bias_of_zeros():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    opened = Classifier(network, imagenet_preprocessing(), ["a", "b"], "it", {})
    assert torch.equal(opened.bias, torch.zeros(2))
    opened.require_features()


# timm, which is optional


def test_timm_is_imported_only_when_asked_for_and_named_where_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FiguregroundError, match=r"pip install 'figureground\[timm\]'"):
        open_classifier("timm:resnet18")


STAND_IN = """
import torch
from torch import nn
from . import data

class Net(nn.Module):
    num_classes = 3
    pretrained_cfg = {"architecture": "tiny", "label_names": ["hen", "car", "cup"]}
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.fc = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 3)
    def forward(self, x):
        assert x.shape[2:] == (24, 24)
        return self.fc(self.body(x).mean((2, 3)))

def create_model(name, pretrained):
    if not (name == "tiny" or name.startswith("local-dir:")) or not pretrained:
        raise RuntimeError("Unknown model (%s)" % name)
    return Net()
"""


@pytest.fixture
def timm(tmp_path, monkeypatch):
    """A stand-in with timm's interface: timm itself needs torchvision."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(STAND_IN)
    settings = {"input_size": (3, 24, 24), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    (tmp_path / "timm" / "data.py").write_text(f"def resolve_model_data_config(model): return {settings!r}")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("timm", "timm.data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("timm", "timm.data"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("timm")
def test_a_timm_name_opens_with_timms_preprocessing():
    opened = open_classifier("timm:tiny")
    assert (opened.name, opened.labels, opened.facts["architecture"]) == ("timm:tiny", ("hen", "car", "cup"), "tiny")
    logits, features = opened(torch.rand(2, 3, 60, 40))
    assert torch.allclose(features @ opened.weight.T + opened.bias, logits, atol=1e-5)
    assert opened.facts["sha256"] == open_classifier("timm:tiny").facts["sha256"]
    with pytest.raises(FiguregroundError, match=r"'timm:huge' doesn't open: Unknown model \(huge\)"):
        open_classifier("timm:huge")


@pytest.fixture
def saved_by_timm(tmp_path):
    """A directory as `timm.models.save_for_hf` writes it."""
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "tiny", "num_classes": 3}))
    save_file({"it": torch.zeros(1)}, folder / "model.safetensors")
    return folder


@pytest.mark.usefixtures("timm")
def test_a_directory_that_timm_saved_opens_and_its_path_stays_private(saved_by_timm):
    opened = open_classifier(f"timm:local-dir:{saved_by_timm}")
    assert (opened.name, opened.labels) == ("timm:saved", ("hen", "car", "cup"))
    assert str(saved_by_timm.parent) not in json.dumps(opened.facts)
    refuse_absent_classifier("--classifier", f"timm:local-dir:{saved_by_timm}")


@pytest.mark.usefixtures("timm")
def test_of_a_directory_of_timms_no_pickle_and_no_code_is_opened(saved_by_timm):
    name = f"timm:local-dir:{saved_by_timm}"
    config = saved_by_timm / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "code.Net"}}))
    with pytest.raises(FiguregroundError, match="auto_map"):
        open_classifier(name)
    config.write_text(json.dumps({"architecture": "tiny"}))
    (saved_by_timm / "model.safetensors").rename(saved_by_timm / "pytorch_model.bin")
    with pytest.raises(FiguregroundError, match=r"model\.safetensors is missing"):
        open_classifier(name)
    config.unlink()
    with pytest.raises(FiguregroundError, match=r"--classifier.*config\.json"):
        refuse_absent_classifier("--classifier", name)
