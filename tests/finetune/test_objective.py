"""The objective: noise levels, min-SNR weights of single samples, and how the parts add up."""

import pytest
import torch

from figureground.core.errors import FiguregroundError
from figureground.finetune.objective import (
    Weights,
    add_noise,
    check_prediction,
    curve_names,
    losses,
    min_snr_weights,
    target,
)
from figureground.finetune.similarity import estimate_clean

ALPHAS = torch.tensor([0.999, 0.9, 0.5, 0.1, 0.004])


def draw(n=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, 3, 3, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_is_what_the_clean_latent_is_estimated_from(kind):
    clean, noise, _ = draw()
    noisy = add_noise(clean, noise, ALPHAS)
    estimated = estimate_clean(noisy, target(clean, noise, ALPHAS, kind), ALPHAS, kind)
    torch.testing.assert_close(estimated, clean, rtol=1e-3, atol=1e-3)


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
    noisy, wanted = add_noise(clean, noise, ALPHAS), target(clean, noise, ALPHAS, kind)
    weights = Weights(prior=0.5, sfsl=0.0, min_snr_gamma=5.0)
    found = losses(prediction, noisy, wanted, ALPHAS, 2, weights, kind, None, lambda latents: latents)
    errors = [float((p - w).square().mean()) for p, w in zip(prediction, wanted, strict=True)]
    each = [w * e for w, e in zip(min_snr_weights(ALPHAS, 5.0, kind).tolist(), errors, strict=True)]
    dreambooth, prior = sum(each[:2]) / 2, 0.5 * sum(each[2:]) / 3
    expected = [dreambooth + prior, sum(errors[:2]) / 2, dreambooth, sum(errors[2:]) / 3, prior]
    assert curve_names(weights) == ["total", "dreambooth", "dreambooth_weighted", "prior", "prior_weighted"]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


class Halves:
    """Stands where SFSL stands: it has a weight for each noise level, and reads pixels."""

    def weight(self, alphas_bar):
        return (alphas_bar > 0.5).float()

    def __call__(self, pixels, alphas_bar):
        self.read = len(pixels)
        return self.weight(alphas_bar) * pixels.mean((1, 2, 3))


def test_sfsl_counts_for_references_alone_and_decodes_only_what_counts():
    clean, noise, prediction = draw()
    noisy, wanted = add_noise(clean, noise, ALPHAS), target(clean, noise, ALPHAS, "epsilon")
    similarity, weights = Halves(), Weights(prior=1.0, sfsl=0.25, min_snr_gamma=None)
    prediction.requires_grad_()
    found = losses(prediction, noisy, wanted, ALPHAS, 3, weights, "epsilon", similarity, lambda latents: latents)
    values = dict(zip(curve_names(weights), found.tolist(), strict=True))
    assert similarity.read == 2
    seen = estimate_clean(noisy, prediction.detach(), ALPHAS, "epsilon")[:2].mean((1, 2, 3))
    assert values["sfsl"] == pytest.approx(float(seen.sum()) / 3, rel=1e-4)
    assert values["sfsl_weighted"] == pytest.approx(0.25 * values["sfsl"])
    parts = [values[f"{part}_weighted"] for part in ("dreambooth", "prior", "sfsl")]
    assert values["total"] == pytest.approx(sum(parts), rel=1e-5)
    found[5].backward()
    assert [bool(g.abs().sum() > 0) for g in prediction.grad] == [True, True, False, False, False]


def test_other_kinds_of_prediction_are_refused_by_name():
    with pytest.raises(FiguregroundError, match=r"predicts 'sample'; .* epsilon and v_prediction"):
        check_prediction("sample")
