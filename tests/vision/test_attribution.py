"""Integrated Gradients add up, know what is cropped, and lie on the object; shares compare with areas."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from figureground.core.errors import FiguregroundError
from figureground.pocket import world
from figureground.vision.attribution import Shares, integrate, map_to_square, share_inside
from figureground.vision.classifiers import Classifier, open_classifier
from figureground.vision.preprocessing import Preprocessing, to_pixels

AS_IT_IS = Preprocessing(None, None, "bilinear", None, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(scope="module")
def pocket():
    return open_classifier("pocket")


@pytest.fixture(scope="module")
def scenes():
    """Images without props, their classes and the true masks of their objects, 0 to 1."""
    rng = world.generator("test attribution")
    drawn = [world.render(world.FOREGROUNDS[i], world.BACKGROUNDS[int(rng.integers(10))], None, rng) for i in range(10)]
    return [s.image for s in drawn], list(range(10)), [np.asarray(s.foreground) / 255 for s in drawn]


@pytest.fixture(scope="module")
def shares(pocket, scenes):
    images, targets, masks = scenes
    return share_inside(pocket, images, masks, targets, steps=8)


def seen_by(pocket, **changes) -> Classifier:
    """The pocket classifier with another geometry."""
    fields = {"size": None, "longest": None, "filter": "bilinear", "crop": None, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return Classifier(pocket.network, Preprocessing(**{**fields, **changes}), pocket.labels, "it", {}, edge=64)


def linear(weights: torch.Tensor) -> Classifier:
    """One logit that is linear in pixels, with weights (3, h, w); and another that is always 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(weights.numel(), 2))
    network[1].weight.data = torch.stack([weights.flatten(), torch.zeros(weights.numel())])
    network[1].bias.data.zero_()
    return Classifier(network, AS_IT_IS, ("a", "b"), "it", {}, edge=weights.shape[1])


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_attributions_sum_to_the_difference_of_the_logits(pocket, scenes):
    images, targets = scenes[0][:4], scenes[1][:4]
    pixels = torch.stack([to_pixels(image) for image in images])
    begin = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    seen = ((each - 0.5) / 0.5 for each in (pixels, begin))  # the pocket's preprocessing
    signed = integrate(pocket, *seen, targets, 64, 32)
    with torch.no_grad():
        difference = (pocket(pixels).logits - pocket(begin).logits)[range(4), targets].double()
    assert (difference.abs() > 1).all()
    assert torch.allclose(signed.sum((1, 2, 3)), difference, rtol=0.05, atol=0.1)


def test_of_a_linear_logit_they_are_weights_times_the_way_from_the_baseline():
    generator = torch.Generator().manual_seed(0)
    weights, (pixels, begin) = torch.randn(3, 8, 8, generator=generator), torch.rand(2, 3, 8, 8, generator=generator)
    (signed,) = integrate(linear(weights), pixels[None], begin[None], [0], 3, 32)
    assert signed.dtype == torch.float64
    assert torch.allclose(signed, (weights * (pixels - begin)).double(), atol=1e-5)


def test_batches_of_any_size_give_the_same(pocket, scenes, shares):
    images, targets, masks = scenes
    again = share_inside(pocket, images[:3], masks[:3], targets[:3], steps=8, batch_size=2)
    assert np.allclose(again.attribution, shares.attribution[:3], atol=1e-4)


def test_they_are_taken_where_gradients_are_off(pocket, scenes, shares):
    with torch.inference_mode():
        again = share_inside(pocket, scenes[0][:1], scenes[2][:1], scenes[1][:1], steps=8)
    assert np.allclose(again.attribution, shares.attribution[:1], atol=1e-5)


# Shares


def test_most_of_the_true_class_lies_in_the_object(shares):
    assert isinstance(shares, Shares)
    assert shares.attribution.dtype == shares.area.dtype == np.float64
    assert (shares.attribution > 2 * shares.area).all()
    assert shares.attribution.mean() > 0.5


def test_a_mask_and_the_rest_share_everything(pocket, scenes, shares):
    images, targets, masks = scenes
    rest = share_inside(pocket, images[:3], [1 - mask for mask in masks[:3]], targets[:3], steps=8)
    assert np.allclose(shares.attribution[:3] + rest.attribution, 1, atol=1e-5)
    assert np.allclose(shares.area[:3] + rest.area, 1, atol=1e-6)
    everything = [np.ones((64, 64), bool), np.zeros((64, 64), bool)]
    whole = share_inside(pocket, images[:2], everything, targets[:2], steps=2)
    assert np.allclose(whole.attribution, [1, 0])
    assert np.allclose(whole.area, [1, 0])


def test_the_share_is_what_the_formula_says():
    weights = torch.zeros(3, 8, 8)
    weights[:, :, :4], weights[:, :, 4:] = 1.0, -3.0
    weights[1, :, :4] = -1.0  # what channels say against each other counts as well
    # Half black, half white on either side, so that each pixel is as far from the mean colour.
    image = Image.fromarray(np.indices((8, 8)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
    mask = np.zeros((8, 8))
    mask[:, :4] = 1
    mask[:, 4:] = 0.5
    result = share_inside(linear(weights), [image], [mask], [0], steps=2)
    assert np.allclose(result.attribution, (1 + 0.5 * 3) / 4)
    assert np.allclose(result.area, 0.75)


def test_where_nothing_is_attributed_the_share_is_0():
    classifier = linear(torch.ones(3, 8, 8))
    result = share_inside(classifier, [noise(8, 8), Image.new("RGB", (8, 8), "red")], [np.ones((8, 8))] * 2, [1, 0])
    assert result.attribution.tolist() == [0, 0]
    assert result.area.tolist() == [1, 1]


def test_image_and_mask_are_resized_and_cropped_alike(pocket, scenes, shares):
    images, targets, masks = scenes
    classifier = seen_by(pocket, size=64, crop=(64, 64))
    wide, beside = [], []
    for image, mask in zip(images[:3], masks[:3], strict=True):
        # What is cropped away would count, and has the mean colour so that the baseline stays.
        mean = tuple(round(float(value)) for value in np.asarray(image).mean((0, 1)))
        page, inside = Image.new("RGB", (256, 128), mean), np.ones((128, 256))
        page.paste(image.resize((128, 128), Image.Resampling.NEAREST), (64, 0))
        inside[:, 64:192] = np.kron(mask, np.ones((2, 2)))
        wide.append(page)
        beside.append(inside)
    result = share_inside(classifier, wide, beside, targets[:3], steps=8)
    assert np.allclose(result.area, shares.area[:3], atol=0.02)
    assert np.allclose(result.attribution, shares.attribution[:3], atol=0.05)


def test_images_of_different_sizes_are_seen_in_their_own(pocket):
    classifier = seen_by(pocket)
    images = [noise(64, 64), noise(96, 64)]
    masks = [np.ones((64, 64)), np.eye(64, 96)]
    result = share_inside(classifier, images, masks, [0, 1], steps=2)
    alone = share_inside(classifier, images[1:], masks[1:], [1], steps=2)
    assert result.attribution[1] == pytest.approx(alone.attribution[0], abs=1e-5)


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"targets": [2]}, "2 .image 0."),
        ({"masks": []}, "masks: 0 for 1 images"),
        ({"masks": [np.ones((8, 9))]}, r"mask 0 has shape \(8, 9\), .* 8×8"),
        ({"masks": [np.full((8, 8), 255)]}, "mask 0 has values outside 0 to 1"),
        ({"masks": [np.full((8, 8), np.nan)]}, "mask 0 has values outside 0 to 1"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    given = {"images": [noise(8, 8)], "masks": [np.ones((8, 8))], "targets": [0], **changes}
    with pytest.raises(FiguregroundError, match=message):
        share_inside(linear(torch.ones(3, 8, 8)), **given)


def test_attributions_that_are_not_finite_are_refused():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 1)

        def forward(self, pixels):
            return self.head(pixels.mean((2, 3))) + (pixels - pixels).sqrt().mean((1, 2, 3), keepdim=False)[:, None]

    classifier = Classifier(Broken(), AS_IT_IS, ("only",), "it", {}, edge=8)
    with pytest.raises(FiguregroundError, match="'it', image 0, class 'only': attributions hold NaN"):
        share_inside(classifier, [noise(8, 8)], [np.ones((8, 8))], [0])


def test_without_captum_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(FiguregroundError, match=r"pip install 'figureground\[mitigate\]'"):
        share_inside(linear(torch.ones(3, 8, 8)), [noise(8, 8)], [np.ones((8, 8))], [0])


# Maps


def test_maps_are_those_whose_shares_are_reported(pocket, scenes, shares):
    images, targets, masks = scenes
    maps = {}
    share_inside(pocket, images[:3], masks[:3], targets[:3], steps=8, on_map=maps.__setitem__)
    assert sorted(maps) == [0, 1, 2]
    for i, values in maps.items():
        assert values.min() >= 0
        assert (values * masks[i]).sum() / values.sum() == pytest.approx(shares.attribution[i], abs=1e-4)


@pytest.mark.parametrize(("size", "crop", "edge"), [(16, (8, 8), 16), ((16, 16), (8, 8), 16), (8, (16, 16), 8)])
def test_maps_of_crops_lie_where_the_crop_was(pocket, size, crop, edge):
    preprocessing = seen_by(pocket, size=size, crop=crop).preprocessing
    values = np.zeros(crop)
    middle = slice(crop[0] // 2 - 2, crop[0] // 2 + 2)
    values[middle, middle] = 1
    found = map_to_square(values, preprocessing)
    assert found.shape == (edge, edge)
    assert found.sum() == 16
    assert (found[edge // 2 - 2 : edge // 2 + 2, edge // 2 - 2 : edge // 2 + 2] == 1).all()
