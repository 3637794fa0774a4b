"""The bundled feature network: small, right, smooth in its pixels, and trained as it says."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

from figureground.models.bundled import ROBUST
from figureground.pocket import biased, robust, world


@pytest.fixture(scope="module")
def bundled():
    return AutoModelForImageClassification.from_pretrained(ROBUST).eval()


@pytest.fixture(scope="module")
def held_out():
    images, labels = biased.draw_many(200, world.generator("test robust, held out", 0))
    return torch.from_numpy(images).float().div(255), torch.from_numpy(labels)


def test_it_is_at_most_two_megabytes_in_three_files():
    files = list(ROBUST.iterdir())
    assert {path.name for path in files} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert sum(path.stat().st_size for path in files) <= 2_000_000


def test_it_opens_in_float32_and_knows_the_classes_in_order(bundled):
    assert bundled.dtype == torch.float32
    assert [bundled.config.id2label[i] for i in range(len(world.FOREGROUNDS))] == list(world.FOREGROUNDS)
    assert bundled.config.label2id["umbrella"] == world.FOREGROUNDS.index("umbrella")


def test_it_is_right_on_images_that_it_never_saw(bundled, held_out):
    assert robust.measure_accuracy(bundled, *held_out) > 0.8


def test_an_attack_within_its_ball_moves_it_little(bundled, held_out):
    pixels, labels = held_out
    torch.manual_seed(0)
    moved = robust.attack(bundled, pixels, labels)
    assert robust.measure_accuracy(bundled, moved, labels) > 0.5


def test_its_gradient_in_pixels_is_finite_and_not_nothing(bundled, held_out):
    pixels = held_out[0][:8].clone().requires_grad_(True)
    robust.compute_logits(bundled, pixels)[:, 0].sum().backward()
    assert torch.isfinite(pixels.grad).all()
    assert (pixels.grad.flatten(1).norm(dim=1) > 1e-4).all()


def test_an_attack_stays_in_its_ball_and_among_images_and_raises_the_loss(held_out):
    torch.manual_seed(0)
    model, (pixels, labels) = robust.build().eval(), (held_out[0][:16], held_out[1][:16])
    moved = robust.attack(model, pixels, labels, epsilon=0.5, steps=3)
    distance = (moved - pixels).flatten(1).norm(dim=1)
    assert (distance <= 0.5 + 1e-4).all()
    assert (distance > 0.3).all()
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not moved.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    before, after = (F.cross_entropy(robust.compute_logits(model, x), labels) for x in (pixels, moved))
    assert after > before


def test_norms_are_renewed_to_what_the_weights_at_hand_give(held_out):
    model = robust.build()
    first = model.resnet.embedder.embedder
    robust.recompute_norms(model, held_out[0][:64])
    seen = first.convolution((held_out[0][:64] - robust.MEAN) / robust.STD)
    torch.testing.assert_close(first.normalization.running_mean, seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert not model.training
    assert first.normalization.momentum == 0.1


def test_what_is_saved_opens_as_it_was_and_tells_no_path(tmp_path):
    model = robust.build().eval()
    robust.save(model, tmp_path / "half", torch.float16)
    opened = AutoModelForImageClassification.from_pretrained(tmp_path / "half").eval()
    x = torch.rand(2, 3, world.SIZE, world.SIZE)
    with torch.no_grad():
        torch.testing.assert_close(
            robust.compute_logits(opened, x), robust.compute_logits(model, x), rtol=0.02, atol=0.02
        )
    assert model.dtype == torch.float32
    assert str(tmp_path) not in (tmp_path / "half" / "config.json").read_text()
    config = json.loads((tmp_path / "half" / "preprocessor_config.json").read_text())
    assert config["size"] == {"height": world.SIZE, "width": world.SIZE}
    assert config["image_mean"] == [robust.MEAN] * 3


@pytest.mark.slow
def test_training_goes_on_where_it_was_stopped(tmp_path):
    settings = replace(robust.SETTINGS, steps=4, batch=8, save_seconds=0.0)
    robust.train(tmp_path, "cpu", 0, replace(settings, steps=2), pool=32, held_out=16)
    model = robust.train(tmp_path, "cpu", 0, settings, pool=32, held_out=16)
    lines = (tmp_path / "robust.csv").read_text().splitlines()
    assert lines[0] == "step,loss,right,clean,attacked"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
