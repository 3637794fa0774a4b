"""The fine-tuning objective: DreamBooth, prior preservation and SFSL, each sample weighted by its noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from figureground.core.errors import FiguregroundError, join_names
from figureground.finetune.similarity import SimilarityLoss
from figureground.models.noising import Noising

PREDICTIONS = ("epsilon", "v_prediction", "flow")


def check_prediction(prediction_type: str) -> None:
    """Raise FiguregroundError for a prediction type that isn't supported for training."""
    if prediction_type not in PREDICTIONS:
        raise FiguregroundError(
            f"the checkpoint predicts {prediction_type!r}; fine-tuning supports {join_names(PREDICTIONS)}."
        )


def min_snr_weights(alphas_bar: Tensor, gamma: float | None, prediction_type: str) -> Tensor:
    """Return the weight of each sample's squared error, (n,), by Min-SNR-γ (Hang et al. 2023, arXiv 2303.09556).

    It is min(SNR, γ) / SNR for ε-prediction and min(SNR, γ) / (SNR + 1) for v-prediction, with SNR = ᾱ_t / (1 − ᾱ_t);
    1 if γ is None, as it always is for flow matching. At SNR 0, the last step of a zero-terminal-SNR schedule, both are
    1 as in the authors' code. The formula for v would give 0, so pure noise, where sampling begins, would never be
    trained.
    """
    if gamma is None:
        return torch.ones_like(alphas_bar)
    snr = alphas_bar / (1 - alphas_bar)
    if prediction_type == "epsilon":
        return torch.clamp(gamma / snr, max=1.0)  # at SNR 0, where γ / SNR is infinite, it is 1
    return torch.where(snr > 0, torch.clamp(snr, max=gamma) / (snr + 1), 1.0)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objective's parts."""

    prior: float
    sfsl: float
    min_snr_gamma: float | None


def curve_names(weights: LossWeights) -> list[str]:
    """Name the values of `compute_losses`, in order: each part unweighted, and weighted as in the total."""
    parts = ["dreambooth", *(["prior"] if weights.prior else []), *(["sfsl"] if weights.sfsl else [])]
    return ["total", *(name for part in parts for name in (part, f"{part}_weighted"))]


def compute_losses(
    prediction: Tensor,
    noisy: Tensor,
    target: Tensor,
    levels: Tensor,
    references: int,
    weights: LossWeights,
    noising: Noising,
    similarity: SimilarityLoss | None,
    decode: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the parts of the objective, (curves,); the first, the total, is minimised.

    total = mean over references of w_i |error_i|² + prior · mean over prior images of w_i |error_i|² + sfsl · mean
    over references of SFSL_i, with w_i each sample's own min-SNR weight.

    Args:
        prediction: (n, c, h, w), float32; the first `references` samples are references, the others prior images.
        noisy: The noisy latents of the prediction.
        target: The prediction target.
        levels: Each sample's level of noise, (n,); see `Noising`.
        similarity: SFSL, if its weight isn't 0.
        decode: Decodes latents to pixels, 0..1, with gradients.
    """
    alphas_bar = noising.alphas_bar(levels)
    error = (prediction - target).square().mean((1, 2, 3))
    weighted = min_snr_weights(alphas_bar, weights.min_snr_gamma, noising.prediction_type) * error
    total = weighted[:references].mean()
    values = [error[:references].mean(), total]
    if weights.prior:
        prior = weights.prior * weighted[references:].mean()
        values += [error[references:].mean(), prior]
        total = total + prior
    if similarity is not None:
        reference_rows = slice(0, references)
        clean = noising.estimate_clean(noisy[reference_rows], prediction[reference_rows], levels[reference_rows])
        is_weighted = similarity.weight(alphas_bar[reference_rows]) > 0  # the others needn't be decoded
        distances = clean.new_zeros(references)
        if is_weighted.any():
            distances[is_weighted] = similarity(decode(clean[is_weighted]), alphas_bar[reference_rows][is_weighted])
        values += [distances.mean(), weights.sfsl * distances.mean()]
        total = total + weights.sfsl * distances.mean()
    return torch.stack([total, *values])
