"""SFSL: exact where it can be checked, with gradients from a classifier's features to a UNet's weights."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from tiny_checkpoints import KINDS, make_checkpoint
from tiny_classifiers import make_classifier

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.finetune.latents import to_pixels
from figureground.finetune.similarity import (
    DISTANCES,
    FEATURES,
    WEIGHTINGS,
    SimilarityLoss,
    compute_head_direction,
    compute_image_direction,
    decode,
    read_features,
)
from figureground.models.noising import estimate_clean
from figureground.pocket import biased, world
from figureground.vision.classifiers import open_classifier
from figureground.vision.neural_pca import fit_components, weight_features

LABEL = 1


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return open_classifier(str(make_classifier(tmp_path_factory.mktemp("it") / "convnext", "convnext")))


@pytest.fixture(scope="module")
def components(classifier):
    with torch.no_grad():
        features = classifier(random(24, seed=7)).features
    return fit_components(weight_features(features, classifier.weight[LABEL]), LABEL)


@pytest.fixture(params=["kl", "tiny"])
def vae(request):
    torch.manual_seed(0)
    if request.param == "tiny":
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )  # fmt: skip
    else:
        vae = small_vae()
    return vae.requires_grad_(False).eval()


def small_vae(**options):
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, **options,
    ).eval()  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Images (n, 3, 32, 32), or whatever else, in 0..1."""
    shape = shape if len(shape) > 1 else (*shape, 3, 32, 32)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def to_image(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())


# The estimate


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_clean_latent_is_found_exactly_where_the_prediction_is_true(prediction_type):
    clean, noise = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    alphas_bar = torch.tensor([0.999, 0.7, 0.3, 0.05, 0.004])
    a = alphas_bar.view(-1, 1, 1, 1)
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    true = {"epsilon": noise, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean, "sample": clean}
    found = estimate_clean(noisy, true[prediction_type], alphas_bar, prediction_type)
    assert torch.allclose(found, clean, atol=1e-4)
    halved = estimate_clean(noisy.half(), true[prediction_type].half(), alphas_bar, prediction_type)
    assert halved.dtype == torch.float32


def test_an_unknown_prediction_is_refused():
    with pytest.raises(FiguregroundError, match="'v-prediction' is unknown, did you mean 'v_prediction'"):
        estimate_clean(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.ones(1), "v-prediction")


# The decoder


def test_pixels_are_those_of_the_autoencoder(vae):
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        expected = vae.decode(latents / vae.config.scaling_factor).sample
        pixels = decode(vae, latents, checkpointing=False)
    assert pixels.shape == (2, 3, 16, 16)
    assert torch.allclose(pixels, (expected / 2 + 0.5).clamp(0, 1), atol=1e-6)


def test_an_autoencoders_own_mean_deviation_and_shift_are_used():
    vae = small_vae(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[0.5, 1.0, 2.0, 3.0], scaling_factor=0.5)
    latents = torch.randn(1, 4, 8, 8)
    mean, std = (torch.tensor(v).view(1, 4, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():
        expected = vae.decode(latents * std / 0.5 + mean).sample
        assert torch.allclose(decode(vae, latents, False), (expected / 2 + 0.5).clamp(0, 1), atol=1e-6)
        shifted = small_vae(shift_factor=0.7, scaling_factor=2.0)
        expected = shifted.decode(latents / 2 + 0.7).sample
        assert torch.allclose(decode(shifted, latents, False), (expected / 2 + 0.5).clamp(0, 1), atol=1e-6)


def test_checkpointing_keeps_less_and_changes_neither_pixels_nor_gradients(vae):
    latents = torch.randn(2, 4, 8, 8)
    found, kept = [], []
    for checkpointing in (False, True):
        given = latents.clone().requires_grad_()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            pixels = decode(vae, given, checkpointing)
        pixels.square().sum().backward()
        found.append((pixels.detach(), given.grad))
        kept.append(sum(saved))
        assert not vae.is_gradient_checkpointing
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)
    assert found[0][1].abs().sum() > 0
    assert kept[1] < kept[0] / 2


def test_an_autoencoder_in_float16_is_decoded_in_float32_and_autocast_does_not_reach_it(vae):
    latents = torch.randn(1, 4, 8, 8)
    halved = vae.half()
    expected = None
    for autocast in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pixels = decode(halved, latents, False)
        assert (pixels.dtype, halved.dtype) == (torch.float32, torch.float32)
        assert expected is None or torch.equal(pixels, expected)
        expected = pixels


def test_an_autoencoder_in_bfloat16_stays_as_it_is(vae):
    vae.to(torch.bfloat16)
    given = torch.randn(1, 4, 8, 8, requires_grad=True)
    pixels = decode(vae, given, True)
    pixels.sum().backward()
    assert (pixels.dtype, vae.dtype, given.grad.dtype) == (torch.float32, torch.bfloat16, torch.float32)


# The loss


def make_loss(classifier, components, references, **options):
    return SimilarityLoss(classifier, LABEL, references, components=components, leading=4, **options)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("features", FEATURES)
def test_a_lone_reference_is_at_no_distance_and_other_images_are(classifier, components, features, distance):
    reference = random(1)
    loss = make_loss(classifier, components, reference, features=features, distance=distance)
    ones = torch.ones(1)
    assert float(loss(reference, ones)) == pytest.approx(0, abs=1e-5)
    assert float(loss(random(1, seed=1), ones)) > 1e-4


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("features", FEATURES)
def test_pixels_that_follow_the_gradient_become_alike(classifier, components, features, distance):
    loss = make_loss(classifier, components, random(5, seed=1), features=features, distance=distance)
    pixels = random(2, seed=3).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.02)
    before = loss(pixels.detach(), torch.ones(2))
    for _ in range(40):
        optimizer.zero_grad()
        loss(pixels, torch.ones(2)).sum().backward()
        optimizer.step()
        pixels.data.clamp_(0, 1)
    assert (loss(pixels.detach(), torch.ones(2)) < 0.6 * before).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_distance_to_the_mean_stands_for_that_to_all_references(classifier, distance):
    """Up to one factor and one constant, whatever the image."""
    references, images = random(4, seed=1), random(6, seed=2)
    with torch.no_grad():
        loss = SimilarityLoss(classifier, LABEL, references, features="class-weighted", distance=distance)
        ours = loss.distance(images)
        read = [weight_features(classifier(x).features, classifier.weight[LABEL]) for x in (images, references)]
        if distance == "cosine":
            unit = [torch.nn.functional.normalize(x, dim=1) for x in read]
            mean_to_all = (1 - unit[0] @ unit[1].T).mean(1)
        else:
            mean_to_all = torch.cdist(*read).square().mean(1)
    design = torch.stack([ours, torch.ones(6)], 1).double()
    fitted = torch.linalg.lstsq(design, mean_to_all.double()[:, None]).solution
    assert torch.allclose((design @ fitted)[:, 0], mean_to_all.double(), atol=1e-6)
    assert fitted[0] > 0


def test_l2_does_not_depend_on_the_networks_scale_nor_cosine(tmp_path):
    references, images = random(4, seed=1), random(3, seed=2)
    network = open_classifier(str(make_classifier(tmp_path / "convnext", "convnext")))

    def measure(distance):
        loss = SimilarityLoss(network, LABEL, references, features="class-weighted", distance=distance)
        return loss.distance(images)

    with torch.no_grad():
        before = {distance: measure(distance) for distance in DISTANCES}
        network._last_layer.weight *= 50
        for distance, expected in before.items():
            assert (expected > 0).all()
            assert torch.allclose(measure(distance), expected, rtol=1e-3)


def test_timesteps_count_as_the_weighting_says(classifier, components):
    alphas_bar = torch.tensor([0.0, 0.2, 0.5, 0.51, 1.0])
    images = random(5, seed=2)
    expected = {"alpha-bar": alphas_bar, "threshold": torch.tensor([0, 0, 0, 1.0, 1.0]), "none": torch.ones(5)}
    assert set(expected) == set(WEIGHTINGS)
    for weighting, weights in expected.items():
        loss = make_loss(classifier, components, random(3), weighting=weighting)
        with torch.no_grad():
            assert torch.equal(loss.weight(alphas_bar), weights)
            assert torch.allclose(loss(images, alphas_bar), weights * loss.distance(images))


def test_each_image_has_its_own_loss_whatever_stands_beside_it(classifier):
    loss = SimilarityLoss(classifier, LABEL, random(20))
    images = random(4, seed=5)
    with torch.no_grad():
        together = loss(images, torch.ones(4))
        alone = torch.cat([loss(image[None], torch.ones(1)) for image in images])
    assert together.shape == (4,)
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_class_decides_what_is_compared(classifier):
    references, image = random(3), random(1, seed=4)
    with torch.no_grad():
        losses = [
            SimilarityLoss(classifier, k, references, features="class-weighted")(image, torch.ones(1)) for k in range(4)
        ]
        plain = [SimilarityLoss(classifier, k, references, features="penultimate") for k in range(2)]
        assert len({round(float(loss), 9) for loss in losses}) == 4
        assert torch.equal(plain[0].distance(image), plain[1].distance(image))


def test_neural_pca_compares_shares_of_leading_components_only(classifier, components):
    references, image = random(3), random(1, seed=4)
    with torch.no_grad():
        loss = SimilarityLoss(
            classifier, LABEL, references, features="neural-pca", distance="l2", components=components, leading=2
        )
        alpha = [
            (
                weight_features(classifier(x).features, classifier.weight[LABEL])
                @ components.vectors.T
                * components.vectors.sum(1)
            )[:, :2]
            for x in (image, references)
        ]
        expected = (alpha[0] - alpha[1].mean(0)).square().sum() / alpha[1].square().sum(1).mean()
    assert float(loss.distance(image)) == pytest.approx(float(expected), rel=1e-4)


def test_without_the_classs_direction_it_counts_neither_for_an_image_nor_against_it(classifier):
    references, images = random(4, seed=1), random(3, seed=2)
    direction = compute_head_direction(classifier, LABEL)
    with torch.no_grad():
        read = classifier(images).features
        for distance in DISTANCES:
            loss = SimilarityLoss(classifier, LABEL, references, distance=distance)
            other = loss.remove_direction(direction)
            shares = [f - (f @ direction)[:, None] * direction for f in (read, classifier(references).features)]
            if distance == "cosine":
                target = torch.nn.functional.normalize(shares[1], dim=1).mean(0)
                expected = 1 - torch.nn.functional.cosine_similarity(shares[0], target[None], dim=1)
            else:
                expected = (shares[0] - shares[1].mean(0)).square().sum(1) / shares[1].square().sum(1).mean()
            assert torch.allclose(other.distance(images), expected, atol=1e-5)
            assert not torch.allclose(loss.distance(images), other.distance(images), atol=1e-5)


def test_directions_have_length_one_and_point_to_the_class(classifier):
    of_class, others = (read_features(classifier, [to_image(p) for p in random(5, seed=s)]) for s in (1, 2))
    direction = compute_image_direction(of_class, others)
    assert float(direction.norm()) == pytest.approx(1, abs=1e-5)
    assert float((of_class.mean(0) - others.mean(0)) @ direction) > 0
    with pytest.raises(FiguregroundError, match=r"on average the same.*--class-direction head"):
        compute_image_direction(others, others)
    head = compute_head_direction(classifier, LABEL)
    assert float(head.norm()) == pytest.approx(1, abs=1e-5)
    assert int((classifier.weight @ head).argmax()) == LABEL


@pytest.mark.parametrize("name", ["bird", "boat", "mug"])
def test_in_the_pocket_world_drawing_the_object_gains_less_without_the_classs_direction(name):
    """A fooled network sees the object almost as it sees the feature."""
    network, rng = open_classifier("pocket"), np.random.default_rng(0)
    prop, look = biased.LOOK_BY_CLASS[name].split(":")
    others = [f"{prop}:{i}" for i in range(world.LOOKS) if i != int(look)]

    def draw(foreground, looks):
        drawn = [world.render(foreground, "grass", look, rng).image for look in looks]
        return torch.cat([to_pixels(image) for image in drawn]), read_features(network, drawn)

    references, _ = draw(None, [f"{prop}:{look}"] * 8)
    (noun, of_noun), (objects, of_objects) = draw(None, others * 2), draw(name, [None] * 8)
    loss = SimilarityLoss(network, network.index(name), references)
    with torch.no_grad():
        before = [float(loss.distance(x).mean()) for x in (objects, noun)]
        other = loss.remove_direction(compute_image_direction(of_objects, of_noun))
        after = [float(other.distance(x).mean()) for x in (objects, noun)]
    gained = [1 - by_object / by_noun for by_object, by_noun in (before, after)]
    assert gained[0] > 0.4  # the object is much nearer than another look of the noun
    assert gained[1] < gained[0] - 0.2


def test_options_that_cannot_be_used_are_refused(classifier, components, tmp_path):
    def loss(**options):
        return SimilarityLoss(classifier, LABEL, random(3), **options)

    with pytest.raises(RecipeError, match=r"features: 'neural_pca' is unknown, did you mean 'neural-pca'\?"):
        loss(features="neural_pca")
    with pytest.raises(RecipeError, match="distance: 'l1' is unknown"):
        loss(distance="l1")
    with pytest.raises(RecipeError, match="weighting: 'snr' is unknown"):
        loss(weighting="snr")
    with pytest.raises(RecipeError, match=r"needs the class's components.*figureground components"):
        loss(features="neural-pca")
    with pytest.raises(RecipeError, match=r"of class 1 with 16 features; needed .* class 2"):
        SimilarityLoss(classifier, 2, random(3), features="neural-pca", components=components)
    with pytest.raises(RecipeError, match=r"leading: 17 .* 16"):
        loss(features="neural-pca", components=components, leading=17)
    with pytest.raises(RecipeError, match="distance: a single component"):
        loss(features="neural-pca", components=components, leading=1)
    with pytest.raises(FiguregroundError, match="has 4 classes"):
        SimilarityLoss(classifier, 4, random(3))
    with pytest.raises(FiguregroundError, match="at least one reference"):
        SimilarityLoss(classifier, LABEL, random(3)[:0])
    with pytest.raises(FiguregroundError, match="NaN or infinity"):
        SimilarityLoss(classifier, LABEL, random(3) * float("nan"))


def test_features_that_are_all_zero_are_refused(tmp_path):
    dead = open_classifier(str(make_classifier(tmp_path / "it", "resnet")))
    dead._last_layer.weight[LABEL] = 0
    with pytest.raises(FiguregroundError, match="class-weighted features are all 0"):
        SimilarityLoss(dead, LABEL, random(3), features="class-weighted")


# All of it together


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_of_the_unet_through_decoder_and_classifier(tmp_path, classifier, kind):
    checkpoint = open_checkpoint(
        str(make_checkpoint(kind, tmp_path)), device=torch.device("cpu"), dtype=torch.float32
    ).text_to_image
    unet, vae = checkpoint.unet, checkpoint.vae.requires_grad_(False)
    loss = SimilarityLoss(classifier, LABEL, random(3))
    alphas_bar = checkpoint.scheduler.alphas_cumprod[[100, 400]]
    noisy, text = torch.randn(2, 4, 16, 16), torch.randn(2, 77, unet.config.cross_attention_dim)
    more = {}
    if kind == "sdxl":
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(2, 32), "time_ids": torch.zeros(2, 6)}
    prediction = unet(noisy, torch.tensor([100, 400]), text, **more).sample
    clean = estimate_clean(noisy, prediction, alphas_bar, checkpoint.scheduler.config.prediction_type)
    each = loss(decode(vae, clean, checkpointing=True), alphas_bar)
    assert each.shape == (2,)
    assert torch.isfinite(each).all()
    each.sum().backward()
    missing = [n for n, p in unet.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert missing == []
    reached = sum(bool(p.grad.abs().sum() > 0) for p in unet.parameters())
    assert reached > 0.95 * len(list(unet.parameters()))
    assert all(p.grad is None for p in [*vae.parameters(), *classifier.parameters()])
