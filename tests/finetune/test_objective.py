"""The objective: noise levels, min-SNR weights of single samples, and how the parts add up."""

import pytest
import torch

from figureground.core.errors import FiguregroundError
from figureground.finetune.objective import (
    LossWeights,
    check_prediction,
    compute_losses,
    curve_names,
    min_snr_weights,
)
from figureground.models.noising import Diffusion, Flow

ALPHAS = torch.tensor([0.999, 0.9, 0.5, 0.1, 0.004])
TIMES = torch.arange(5)
SIGMAS = torch.tensor([0.01, 0.25, 0.5, 0.8, 0.99])


def draw(n=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, 3, 3, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_is_what_the_clean_latent_is_estimated_from(kind):
    clean, noise, _ = draw()
    noising = Diffusion(ALPHAS, kind)
    noisy = noising.add(clean, noise, TIMES)
    estimated = noising.estimate_clean(noisy, noising.target(clean, noise, TIMES), TIMES)
    torch.testing.assert_close(estimated, clean, rtol=1e-3, atol=1e-3)


def test_the_clean_latent_is_the_noisy_one_less_its_noise_times_the_exact_velocity():
    clean, noise, _ = draw()
    flow = Flow(3.0, 1000)
    noisy, velocity = flow.add(clean, noise, SIGMAS), flow.target(clean, noise, SIGMAS)
    torch.testing.assert_close(velocity, noise - clean)
    torch.testing.assert_close(flow.estimate_clean(noisy, velocity, SIGMAS), clean, rtol=1e-5, atol=1e-5)
    half = flow.estimate_clean(noisy.bfloat16(), velocity.bfloat16(), SIGMAS)
    assert half.dtype == torch.float32
    pure = flow.add(clean, noise, torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]))
    assert torch.equal(pure, torch.cat([clean[:2], noise[2:]]))


def test_the_share_of_the_signal_is_that_of_ddpm_at_the_same_ratio_of_signal_and_noise():
    ratio = (1 - SIGMAS) / SIGMAS
    same = ratio.square() / (1 + ratio.square())
    torch.testing.assert_close(Flow(3.0, 1000).alphas_bar(SIGMAS), same)
    assert Flow(3.0, 1000).alphas_bar(torch.tensor([0.0, 1.0])).tolist() == [1, 0]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("levels", ["logit-normal", "uniform"])
def test_levels_of_flow_matching_are_drawn_as_asked_and_shifted_towards_noise(shift, levels):
    drawn = Flow(shift, 1000, levels).draw(4000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    middle, outer = shift / (1 + shift), [0.25, 0.75] if levels == "uniform" else [0.3375, 0.6625]
    quartiles = [shift * u / (1 + (shift - 1) * u) for u in outer]
    found = drawn.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    assert found == pytest.approx([quartiles[0], middle, quartiles[1]], abs=0.02)


def test_min_snr_weights_are_those_of_the_paper():
    snr = ALPHAS / (1 - ALPHAS)
    clipped = torch.minimum(snr, torch.tensor(5.0))
    torch.testing.assert_close(min_snr_weights(ALPHAS, 5.0, "epsilon"), clipped / snr)
    torch.testing.assert_close(min_snr_weights(ALPHAS, 5.0, "v_prediction"), clipped / (snr + 1))
    assert min_snr_weights(ALPHAS, None, "epsilon").tolist() == [1] * 5
    at_the_end = torch.tensor([0.0])  # a zero-terminal-SNR schedule
    assert min_snr_weights(at_the_end, 5.0, "epsilon").tolist() == [1]
    assert min_snr_weights(at_the_end, 5.0, "v_prediction").tolist() == [1]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_each_sample_is_weighted_by_its_own_noise_level_with_prior_preservation_too(kind):
    clean, noise, prediction = draw()
    noising = Diffusion(ALPHAS, kind)
    noisy, target = noising.add(clean, noise, TIMES), noising.target(clean, noise, TIMES)
    weights = LossWeights(prior=0.5, sfsl=0.0, min_snr_gamma=5.0)
    losses = compute_losses(prediction, noisy, target, TIMES, 2, weights, noising, None, lambda latents: latents)
    errors = [float((p - w).square().mean()) for p, w in zip(prediction, target, strict=True)]
    each = [w * e for w, e in zip(min_snr_weights(ALPHAS, 5.0, kind).tolist(), errors, strict=True)]
    dreambooth, prior = sum(each[:2]) / 2, 0.5 * sum(each[2:]) / 3
    expected = [dreambooth + prior, sum(errors[:2]) / 2, dreambooth, sum(errors[2:]) / 3, prior]
    assert curve_names(weights) == ["total", "dreambooth", "dreambooth_weighted", "prior", "prior_weighted"]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


class Halves:
    """Stands where SFSL stands: it has a weight for each noise level, and reads pixels."""

    def weight(self, alphas_bar):
        return (alphas_bar > 0.5).float()

    def __call__(self, pixels, alphas_bar):
        self.read = len(pixels)
        return self.weight(alphas_bar) * pixels.mean((1, 2, 3))


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_sfsl_counts_for_references_alone_and_decodes_only_what_counts(kind):
    clean, noise, prediction = draw()
    noising, levels = (Flow(3.0, 1000), SIGMAS) if kind == "flow" else (Diffusion(ALPHAS, kind), TIMES)
    noisy, target = noising.add(clean, noise, levels), noising.target(clean, noise, levels)
    similarity, weights = Halves(), LossWeights(prior=1.0, sfsl=0.25, min_snr_gamma=None)
    prediction.requires_grad_()
    losses = compute_losses(prediction, noisy, target, levels, 3, weights, noising, similarity, lambda latents: latents)
    values = dict(zip(curve_names(weights), losses.tolist(), strict=True))
    assert similarity.read == 2
    seen = noising.estimate_clean(noisy, prediction.detach(), levels)[:2].mean((1, 2, 3))
    assert values["sfsl"] == pytest.approx(float(seen.sum()) / 3, rel=1e-4)
    assert values["sfsl_weighted"] == pytest.approx(0.25 * values["sfsl"])
    parts = [values[f"{part}_weighted"] for part in ("dreambooth", "prior", "sfsl")]
    assert values["total"] == pytest.approx(sum(parts), rel=1e-5)
    losses[5].backward()
    assert [bool(g.abs().sum() > 0) for g in prediction.grad] == [True, True, False, False, False]


def test_other_kinds_of_prediction_are_refused_by_name():
    with pytest.raises(FiguregroundError, match=r"predicts 'sample'; .* epsilon, v_prediction, flow"):
        check_prediction("sample")
