"""What a classifier's name means: its kind, its identity, and kinds that other packages add."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_classifiers import make_classifier

from figureground.core.errors import FiguregroundError
from figureground.models.classifier_files import CLASSIFIERS, find_kind, fingerprint_classifier
from figureground.models.needs import missing_classifier, refuse_absent_classifier, refuse_featureless
from figureground.vision.classifiers import open_classifier


@pytest.fixture
def brightness():
    """Add the kind `brightness` to this process."""
    CLASSIFIERS.add("brightness", "example_classifier_kind:BrightnessKind")
    yield
    CLASSIFIERS.remove("brightness")


def test_a_name_tells_the_kind(tmp_path):
    (tmp_path / "robust.pt").touch()
    names = {
        "pocket": "pocket", "timm:resnet18": "timm", "onnx:net.onnx": "onnx", "clip:openai/clip": "clip",
        "microsoft/resnet-50": "transformers", "weights:robust.pt": "transformers",
        str(tmp_path): "transformers", str(tmp_path / "robust.pt"): "weights",
    }  # fmt: skip
    assert {name: find_kind(name)[0].KIND for name in names} == names


def test_the_identity_is_the_content_of_what_lies_here_and_else_id_and_revision(tmp_path):
    folder = make_classifier(tmp_path / "resnet")
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "config.json").write_text("{}")
    names = [str(folder), f"timm:local-dir:{saved}"]
    before = [fingerprint_classifier(name, None) for name in names]
    assert all(identity.startswith("sha256:") for identity in [*before, fingerprint_classifier("pocket", None)])
    for place in (folder, saved):
        save_file({"it": torch.ones(1)}, place / "model.safetensors")
    assert not set(before) & {fingerprint_classifier(name, None) for name in names}
    assert fingerprint_classifier("microsoft/resnet-50", "abc") == "microsoft/resnet-50@abc"
    assert fingerprint_classifier("timm:resnet18", None) == "timm:resnet18@main"


def test_a_zero_shot_classifier_is_refused_where_no_classes_are_given():
    with pytest.raises(FiguregroundError, match=r"--features: 'clip:pocket' is a zero-shot classifier"):
        refuse_featureless("--features", "clip:pocket")


def test_another_package_adds_a_kind_that_opens_judges_and_is_refused_where_features_are_needed(brightness):
    refuse_absent_classifier("--classifier", "brightness:0.5")
    assert missing_classifier("classifier", "brightness:0.5") == []
    opened = open_classifier("brightness:0.5")
    logits = opened.read([Image.new("RGB", (8, 8), colour) for colour in ("black", "white")]).logits
    assert [opened.labels[row] for row in logits.argmax(1)] == ["dark", "bright"]
    with pytest.raises(FiguregroundError, match=r"--classifier: 'brightness:x'"):
        refuse_absent_classifier("--classifier", "brightness:x")
    with pytest.raises(FiguregroundError, match=r"--features: 'brightness:0.5' gives no gradients"):
        refuse_featureless("--features", "brightness:0.5")
    with pytest.raises(FiguregroundError, match="revision"):
        open_classifier("brightness:0.5", revision="main")
