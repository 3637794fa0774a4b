"""Grad-CAM++ agrees with the paper's formula, finds the object, fits any image and any family of networks."""

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from tiny_classifiers import FAMILIES, make_classifier
from torch import nn
from torch.nn import functional as F

from figureground.core.errors import FiguregroundError
from figureground.pocket import world
from figureground.vision.attention import (
    Layer,
    compute_attention,
    find_knee,
    find_layer,
    mask_by_knee,
    mask_by_quantile,
)
from figureground.vision.classifiers import Classifier, open_classifier
from figureground.vision.preprocessing import Preprocessing

AS_IT_IS = Preprocessing(None, None, "bilinear", None, (0.0,) * 3, (1.0,) * 3)


class RedAndGreen(nn.Module):
    """Two features, the red and the green of 2 × 2 pixels, and a logit that is linear in them."""

    def __init__(self, gradients: list):
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        self.head = nn.Linear(8, len(gradients))
        self.features.weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, :, None, None]
        self.head.weight.data = torch.tensor(gradients, dtype=torch.float32).flatten(1)

    def forward(self, pixels):
        return self.head(self.features(pixels).flatten(1))


@pytest.fixture(scope="module")
def pocket():
    return open_classifier("pocket")


@pytest.fixture(scope="module")
def scenes():
    """Images without props, their classes and the true masks of their objects, 0 to 1."""
    rng = world.generator("test attention")
    drawn = [
        world.render(world.FOREGROUNDS[i % 10], world.BACKGROUNDS[int(rng.integers(10))], None, rng) for i in range(40)
    ]
    masks = [np.asarray(scene.foreground) / 255 for scene in drawn]
    return [scene.image for scene in drawn], [i % 10 for i in range(40)], masks


@pytest.fixture(scope="module")
def attended(pocket, scenes):
    return compute_attention(pocket, scenes[0], scenes[1])


def seen_by(pocket, **changes) -> Classifier:
    """The pocket classifier with another geometry."""
    fields = {"size": None, "longest": None, "filter": "bilinear", "crop": None, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return Classifier(pocket.network, Preprocessing(**{**fields, **changes}), pocket.labels, "it", {}, edge=64)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


# The formula


def test_a_map_is_the_one_computed_by_hand():
    # Red: ΣA = 2, so α = 1/(2 + 2·1) and 1/(2 + 2·2) where g is 1 and 2, and w = 1/4·1 + 1/6·2 = 7/12.
    # Green: ΣA = 1, so α = 1/(2 + 1·3) where g is 3, and w = 3/5.
    speaking = [[[1, -1], [0, 2]], [[0, 0], [3, 0]]]
    silent = [[[-1, -1], [-1, -1]], [[0, 0], [0, 0]]]
    classifier = Classifier(RedAndGreen([speaking, silent]), AS_IT_IS, ("a", "b"), "it", {}, edge=2)
    image = Image.fromarray(np.array([[[255, 0, 9], [0, 255, 0]], [[255, 0, 0], [0, 0, 99]]], np.uint8))
    first, second = compute_attention(classifier, [image, image], [0, 1])
    assert np.allclose(first, np.array([[7 / 12, 3 / 5], [7 / 12, 0]]) / (3 / 5), atol=1e-6)
    assert first.dtype == np.float32
    assert not second.any()


def test_features_of_a_negative_sum_give_a_finite_map():
    network = RedAndGreen([[[[1, 1], [1, 1]], [[1, 0], [0, 0]]], [[[0, 0]] * 2] * 2])
    network.features.weight.data[0] *= -0.5  # at g = 1 the paper's α would be 1 / (2 - 0.5 · 4)
    classifier = Classifier(network, AS_IT_IS, ("a", "b"), "it", {}, edge=2)
    (attention,) = compute_attention(classifier, [Image.new("RGB", (2, 2), (255, 255, 0))], [0])
    assert not attention.any()  # -0.5 · 4 · 1/2 from red, and 1/6 from green


def test_a_map_that_is_not_finite_is_refused():
    class Root(RedAndGreen):
        """Its gradient is infinite where the green is 0."""

        def forward(self, pixels):
            return self.head(self.features(pixels).sqrt().flatten(1))

    classifier = Classifier(Root([[[[1, 1], [1, 1]]] * 2]), AS_IT_IS, ("only",), "it", {}, edge=2)
    images = [Image.new("RGB", (2, 2), color) for color in ("white", "red")]
    with pytest.raises(FiguregroundError, match=r"'it', image 1, class 'only'.*'features' holds NaN or infinity"):
        compute_attention(classifier, images, [0, 0])


# What it finds


def test_attention_of_the_true_class_lies_on_the_object(attended, scenes):
    assert len(attended) == len(scenes[2]) == 40
    area = np.array([mask.mean() for mask in scenes[2]])
    inside = np.array([(a * mask).sum() / a.sum() for a, mask in zip(attended, scenes[2], strict=True)])
    assert (inside > area).all()
    assert inside.mean() > 2.5 * area.mean()
    assert np.mean([mask.flat[a.argmax()] > 0.5 for a, mask in zip(attended, scenes[2], strict=True)]) > 0.7


def test_maps_are_scaled_to_1_and_have_the_images_size(pocket):
    images = [noise(64, 64), noise(100, 37), noise(20, 30), noise(64, 64, 1)]
    maps = compute_attention(pocket, images, [0, 1, 2, 3])
    assert [a.shape for a in maps] == [(64, 64), (37, 100), (30, 20), (64, 64)]
    for attention in maps:
        assert attention.dtype == np.float32
        assert attention.min() >= 0
        assert attention.max() in (0, 1)


def test_a_batch_gives_what_images_give_one_by_one(pocket, attended, scenes):
    for size in (1, 3):
        again = compute_attention(pocket, scenes[0][:7], scenes[1][:7], size)
        assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(again, attended[:7], strict=True))
    free = seen_by(pocket)  # each image is seen in its own size
    images = [noise(64, 96), noise(96, 64), noise(64, 96, 1)]
    together = compute_attention(free, images, [0, 1, 2])
    assert len(together) == 3
    for i, image in enumerate(images):
        assert np.allclose(together[i], compute_attention(free, [image], [i])[0], atol=1e-4)


def test_it_works_where_gradients_are_off_and_leaves_none_behind(pocket, attended, scenes):
    with torch.inference_mode():
        (attention,) = compute_attention(pocket, scenes[0][:1], scenes[1][:1])
    assert np.allclose(attention, attended[0], atol=1e-5)
    assert all(weight.grad is None for weight in pocket.network.parameters())
    assert not any(module._forward_hooks for module in pocket.network.modules())


# What was cropped away


def test_what_is_cropped_away_gets_0_and_the_rest_its_place(pocket, attended, scenes):
    wide = noise(128, 64)
    wide.paste(scenes[0][0], (32, 0))
    (attention,) = compute_attention(seen_by(pocket, size=64, crop=(64, 64)), [wide], scenes[1][:1])
    assert not attention[:, :32].any()
    assert not attention[:, 96:].any()
    assert np.allclose(attention[:, 32:96], attended[0], atol=1e-5)


def test_a_image_smaller_than_the_crop_gets_the_middle_of_the_map(pocket):
    small = noise(51, 40)
    padded = Image.new("RGB", (64, 64))
    padded.paste(small, (7, 12))  # of 13 lacking columns the odd one stands before
    (whole,) = compute_attention(pocket, [padded], [0])
    (attention,) = compute_attention(seen_by(pocket, crop=(64, 64)), [small], [0])
    inner = whole[12:52, 7:58]
    assert np.allclose(attention, inner / inner.max(), atol=1e-5)


def test_a_larger_image_is_attended_at_the_same_place(pocket, attended, scenes):
    large = [image.resize((192, 128)) for image in scenes[0][:10]]
    for a, b in zip(compute_attention(pocket, large, scenes[1][:10]), attended[:10], strict=True):
        again = np.asarray(Image.fromarray(a).resize((64, 64), Image.Resampling.BOX))
        assert np.corrcoef(again.ravel(), b.ravel())[0, 1] > 0.95


# Layers


# Of 32 pixels the last maps of most of these have 4 × 4 cells or fewer: then it is the last before the step to those.
LAYERS = {
    "resnet": Layer("resnet.encoder.stages.0", "channels first", (8, 8)),
    "regnet": Layer("regnet.encoder.stages.0", "channels first", (8, 8)),
    "mobilenet_v2": Layer("mobilenet_v2.layer.2.expand_1x1", "channels first", (8, 8)),
    "vit": Layer("vit.layers.0.layernorm_before", "tokens", (4, 4)),
    "deit": Layer("deit.layers.0.layernorm_before", "tokens", (4, 4)),
    "deit with teacher": Layer("deit.layers.0.layernorm_before", "tokens", (4, 4)),
    "beit": Layer("beit.layernorm", "tokens", (4, 4)),
    "dinov2": Layer("dinov2.layernorm", "tokens", (4, 4)),
    "convnext": Layer("convnext.encoder.stages.1.downsampling_layer.0", "channels first", (8, 8)),
    "convnextv2": Layer("convnextv2.encoder.stages.1.downsampling_layer.0", "channels first", (8, 8)),
    "swin": Layer("swin.encoder.layers.0.blocks.0", "tokens", (8, 8)),
    "poolformer": Layer("poolformer.encoder.block.0.0", "channels first", (8, 8)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_attended(family, tmp_path):
    classifier = open_classifier(str(make_classifier(tmp_path, family)))
    assert find_layer(classifier.network, (32, 32)) == LAYERS[family]
    maps = compute_attention(classifier, [noise(40, 50, i) for i in range(4)], [0, 1, 2, 3])
    assert [a.shape for a in maps] == [(50, 40)] * 4
    assert sum(a.max() == 1 for a in maps) >= 3


@pytest.mark.parametrize(
    ("config", "last", "layout"),
    [
        (t.ResNetConfig(embedding_size=8, depths=[1, 1], hidden_sizes=[8, 16]), "resnet.encoder.stages.1",
         "channels first"),
        (t.RegNetConfig(embedding_size=8, groups_width=8, depths=[1, 1], hidden_sizes=[8, 16]),
         "regnet.encoder.stages.1", "channels first"),
        (t.ConvNextConfig(depths=[1, 1], hidden_sizes=[8, 16], num_stages=2), "convnext.encoder.stages.1",
         "channels first"),
        (t.SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4), "swin.layernorm",
         "tokens"),
        (t.PoolFormerConfig(depths=[1, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2], padding=[2, 1],
                            num_encoder_blocks=2), "norm", "channels first"),
        (t.ViTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=64,
                     patch_size=8), "vit.layers.2.layernorm_before", "tokens"),
    ],
    ids=lambda value: value.model_type if isinstance(value, t.PreTrainedConfig) else "",
)  # fmt: skip
def test_the_layer_is_the_last_that_decides_at_positions(config, last, layout):
    torch.manual_seed(0)
    network = t.AutoModelForImageClassification.from_config(config).eval()
    assert find_layer(network, (64, 64)) == Layer(last, layout, (8, 8))


class ChannelsLast(nn.Module):
    """Channels on the last axis up to the pooling, and a norm after it."""

    def __init__(self):
        super().__init__()
        self.stem, self.stage = nn.Conv2d(3, 16, 4, 4), nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, pixels):
        return self.head(self.norm(self.stage(self.stem(pixels).permute(0, 2, 3, 1)).mean((1, 2))))


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (64, 64)])
def test_channels_are_on_the_axis_that_is_none_of_the_images(size):
    grid = (size[0] // 4, size[1] // 4)
    expected = "channels first" if grid == (16, 16) else "channels last"  # 16 channels: either could be meant
    assert find_layer(ChannelsLast().eval(), size) == Layer("stage", expected, grid)


def test_a_map_too_coarse_to_say_where_gives_way_to_the_last_finer_one_that_all_goes_through(pocket):
    assert find_layer(pocket.network, (64, 64)).name == "resnet.encoder.stages.1"
    assert find_layer(pocket.network, (192, 192)).name == "resnet.encoder.stages.3"
    assert find_layer(pocket.network, (192, 192)).grid == (6, 6)


def test_tokens_lie_row_by_row_after_those_that_stand_for_no_patch():
    features = torch.rand(2, 5, 3, 4)
    tokens = torch.cat([torch.rand(2, 2, 5), features.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(Layer("it", "tokens", (3, 4)).positions(tokens), features)
    assert torch.equal(Layer("it", "channels last", (3, 4)).positions(features.permute(0, 2, 3, 1)), features)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return open_classifier(str(make_classifier(tmp_path_factory.mktemp("it") / "vit", "vit")))


def test_a_vits_map_has_one_value_a_patch_and_is_linear_between(vit):
    (attention,) = compute_attention(vit, [noise(32, 32)], [2])
    assert attention.max() == 1
    centers = attention.reshape(4, 8, 4, 8)[:, 3:5, :, 3:5].mean((1, 3))
    assert len(np.unique(centers.round(3))) > 8
    rebuilt = F.interpolate(torch.from_numpy(centers)[None, None], (32, 32), mode="bilinear")[0, 0]
    # Each of the four pixels around a patch's centre lies a sixteenth of the way to the neighbours.
    assert np.abs(rebuilt.numpy() - attention).max() < 0.1


# Errors


def test_what_cannot_be_attended_is_reported(pocket):
    image = noise(64, 64)
    with pytest.raises(FiguregroundError, match=r"10 \(image 1\) is not a class of classifier 'pocket'"):
        compute_attention(pocket, [image] * 2, [0, 10])
    with pytest.raises(FiguregroundError, match="2 for 1 images"):
        compute_attention(pocket, [image], [0, 1])
    with pytest.raises(FiguregroundError, match="batch_size is 0"):
        compute_attention(pocket, [image], [0], 0)


def test_a_network_without_positions_is_refused():
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), AS_IT_IS, ("a", "b"), "it", {}, edge=2)
    with pytest.raises(FiguregroundError, match=r"classifier 'it': .* no layer"):
        compute_attention(classifier, [noise(2, 2)], [0])


# Masks


def test_a_quantile_leaves_out_what_equals_it():
    attention = np.arange(10, dtype=np.float32).reshape(2, 5) / 9
    assert mask_by_quantile(attention, 0.8).ravel().nonzero()[0].tolist() == [8, 9]
    assert mask_by_quantile(attention, 0).sum() == 9
    assert not mask_by_quantile(np.ones((4, 4), np.float32), 0.5).any()
    sparse = np.zeros((4, 4), np.float32)
    sparse[1, 2] = 0.3
    assert mask_by_quantile(sparse, 0.5).ravel().nonzero()[0].tolist() == [6]


def test_a_quantiles_mask_has_at_most_its_share(attended):
    assert len(attended) == 40
    for attention in attended:
        for quantile in (0.5, 0.8, 0.95):
            mask = mask_by_quantile(attention, quantile)
            assert mask.dtype == bool
            assert mask.sum() <= np.ceil((1 - quantile) * mask.size)


@pytest.mark.parametrize("quantile", [-0.1, 1, float("nan")])
def test_a_quantile_out_of_range_is_refused(quantile):
    with pytest.raises(FiguregroundError, match=f"quantile: {quantile}"):
        mask_by_quantile(np.ones((2, 2)), quantile)


def test_a_map_with_nan_is_refused():
    with pytest.raises(FiguregroundError, match="NaN or infinity"):
        mask_by_quantile(np.array([[0, np.nan]]), 0.5)


def test_the_knees_mask_covers_the_object_rather_than_the_scene(pocket, scenes, attended):
    precision, recall, rise = [], [], []
    twenty = list(zip(scenes[0], scenes[1], attended, scenes[2], strict=True))[:20]
    assert len(twenty) == 20
    for image, target, attention, true in twenty:
        mask, curve = mask_by_knee(pocket, image, target, attention)
        assert mask.shape == (64, 64)
        assert curve.shape == (13, 2)
        row = find_knee(curve)
        assert mask.sum() == round(curve[row, 0] * 64 * 64)
        assert mask.all() or attention[mask].min() >= attention[~mask].max()
        precision.append((mask * true).sum() / mask.sum())
        recall.append((mask * true).sum() / true.sum())
        rise.append(curve[row, 1] - curve[0, 1])
    assert np.mean(precision) > 0.45
    assert np.mean(recall) > 0.6
    assert np.mean(rise) > 1


def test_the_curve_is_the_loss_of_images_with_their_mean_colour_in_the_mask(pocket, scenes, attended):
    image, target = scenes[0][3], scenes[1][3]
    _, curve = mask_by_knee(pocket, image, target, attended[3], (0.1, 0.3))
    assert curve[:, 0].tolist() == [0, 0.1, 0.3]
    pixels = np.asarray(image).astype(np.float32) / 255
    hidden = pixels.copy()
    hidden.reshape(-1, 3)[np.argsort(-attended[3].ravel(), kind="stable")[:410]] = pixels.mean((0, 1))
    both = torch.from_numpy(np.stack([pixels, hidden])).permute(0, 3, 1, 2)
    loss = F.cross_entropy(pocket(both).logits.detach(), torch.tensor([target] * 2), reduction="none")
    assert np.allclose(curve[:2, 1], loss.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("loss", "row"),
    [
        ([0, 0.8, 0.9, 0.95, 1], 1),  # rises at once
        ([0, 0.1, 0.9, 1, 1], 2),
        ([0, 0.6, 0.7, 0.1, 0.2], 1),  # what falls again counts as if it stayed
        ([0, 0.8, 0.9, 0.9, -0.1], 1),
        ([0, 0.1, 0.2, 0.4, 1], 4),  # still rises the fastest at its end
        ([0, 0.25, 0.5, 0.75, 1], 4),
        ([1, 1, 1, 1, 1], 0),
        ([1, 0.5, 0.4, 0.2, 0.9], 0),  # never above the whole image's
    ],
)
def test_the_knee_is_furthest_above_the_chord(loss, row):
    curve = np.stack([np.linspace(0, 0.6, 5), np.array(loss, np.float64)], 1)
    assert find_knee(curve) == row


def test_where_nothing_is_attended_nothing_is_hidden(pocket):
    mask, curve = mask_by_knee(pocket, noise(30, 20), 0, np.zeros((20, 30), np.float32))
    assert not mask.any()
    assert np.allclose(curve[:, 1], curve[0, 1], atol=1e-5)


def test_wrong_shares_and_maps_are_refused(pocket):
    image, attention = noise(30, 20), np.ones((20, 30), np.float32)
    for shares in ((), (0.2, 0.1), (0, 0.5), (0.5, 1.2)):
        with pytest.raises(FiguregroundError, match="shares: "):
            mask_by_knee(pocket, image, 0, attention, shares)
    with pytest.raises(FiguregroundError, match=r"30×20, .* 20×30"):
        mask_by_knee(pocket, image, 0, attention.T)
