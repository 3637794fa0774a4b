"""A trunk gives the pooled features of backbones of many families, and the same after it was saved and opened."""

import pytest
import torch
from tiny_classifiers import FAMILIES, make_classifier

from figureground.core.errors import FiguregroundError
from figureground.core.seeding import make_generator
from figureground.disentangling.trunk import Trunk, open_trunk
from figureground.learn.backbones import open_backbone
from figureground.learn.settings import Training
from figureground.vision.classifiers import open_classifier

WITHOUT_FEATURES = "deit with teacher"


def open_family(family, folder, classes=("a", "b", "c")):
    make_classifier(folder, family)
    return Trunk(open_backbone(Training("erm", backbone=str(folder)), classes, 32, 0))


@pytest.mark.parametrize("family", ["resnet", "regnet", "mobilenet_v2", "vit", "beit", "convnext", "swin"])
def test_features_are_the_input_of_the_last_layer_and_survive_saving(family, tmp_path):
    assert family in FAMILIES
    trunk = open_family(family, tmp_path / "it").eval()
    pixels = torch.rand(3, 3, 32, 32, generator=make_generator(0))
    prepared = trunk.backbone.preprocessing(pixels)
    with torch.no_grad():
        features = trunk(prepared)
    assert features.shape == (3, trunk.dimensions)
    assert torch.allclose(features, open_classifier(str(tmp_path / "it"))(pixels).features, atol=1e-5)
    before = trunk.fingerprint()
    trunk.save(tmp_path / "saved")
    assert trunk.fingerprint() == before
    again = open_trunk(tmp_path / "saved").eval()
    with torch.no_grad():
        assert torch.equal(again(prepared), features)
    assert open_classifier(str(tmp_path / "saved")).labels == ("a", "b", "c")


def test_gradients_reach_the_first_layer(tmp_path):
    trunk = open_family("resnet", tmp_path / "it").train()
    trunk(torch.rand(2, 3, 32, 32, generator=make_generator(0))).sum().backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_a_backbone_without_one_last_layer_is_refused(tmp_path):
    with pytest.raises(FiguregroundError, match="linear layer"):
        open_family(WITHOUT_FEATURES, tmp_path / "it")


def test_timm_backbones_are_saved_with_their_name(tmp_path):
    pytest.importorskip("timm")
    settings = Training("erm", backbone="timm:resnet10t", from_scratch=True)
    trunk = Trunk(open_backbone(settings, ("a", "b"), 32, 0)).eval()
    prepared = trunk.backbone.preprocessing(torch.rand(2, 3, 64, 64, generator=make_generator(0)))
    trunk.save(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(open_trunk(tmp_path / "saved").eval()(prepared), trunk(prepared))
