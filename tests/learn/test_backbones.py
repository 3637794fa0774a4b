"""A backbone's head is kept for the classes that it knows by name, in the data's order, and made anew for others."""

import pytest
import torch
from tiny_classifiers import LABELS, make_classifier

from figureground.learn.backbones import open_backbone
from figureground.learn.settings import Training

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
def test_a_head_for_other_classes_is_made_anew_and_said_so(folder, classes):
    own, _ = logits(folder, tuple(LABELS.values()))
    anew, backbone = logits(folder, classes)
    assert anew.shape == own.shape
    assert not any(torch.allclose(anew[:, i], own[:, j]) for i in range(4) for j in range(4))
    assert "other names" in backbone.notes[0]
    assert "hen" in backbone.notes[0]


def test_a_head_without_names_stands_for_no_class(tmp_path):
    nameless = make_classifier(tmp_path / "nameless", labels={i: f"LABEL_{i}" for i in range(4)})
    assert "LABEL_0" in logits(nameless, tuple(LABELS.values()))[1].notes[0]
