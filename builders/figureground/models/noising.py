"""The noise that training adds to latents, how its levels are drawn, and what a denoiser predicts of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from figureground.core.errors import FiguregroundError, suggest_or_list

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""Predictions of denoisers of DDPM's noise levels."""


class Noising(ABC):
    """Noisy latents z = a x₀ + b ε, with a and b given by a level of noise. Levels are (n,), latents (n, c, h, w)."""

    prediction_type: str
    """`epsilon`, `v_prediction`, `sample` or `flow`."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw levels on the CPU."""

    @abstractmethod
    def time(self, levels: Tensor) -> Tensor:
        """Return the timesteps of levels, as the denoiser is told them."""

    @abstractmethod
    def alphas_bar(self, levels: Tensor) -> Tensor:
        """Return the signal's share of the variance, a² / (a² + b²), 0 to 1: ᾱ_t of DDPM."""

    @abstractmethod
    def add(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return noisy latents."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return what the denoiser should predict."""

    @abstractmethod
    def estimate_clean(self, noisy: Tensor, prediction: Tensor, levels: Tensor) -> Tensor:
        """Estimate clean latents in one step from a prediction; float32."""


class Diffusion(Noising):
    """DDPM's noise: x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε (Ho et al. 2020, equation 4). Levels are timesteps, all as likely.

    Args:
        alphas_bar: ᾱ_t of all timesteps, (timesteps,), float32 on the device of the latents.
        prediction_type: `epsilon` or `v_prediction`.
    """

    def __init__(self, alphas_bar: Tensor, prediction_type: str):
        self._alphas_bar, self.prediction_type = alphas_bar, prediction_type

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self._alphas_bar), (count,), generator=generator)

    def time(self, levels: Tensor) -> Tensor:
        return levels

    def alphas_bar(self, levels: Tensor) -> Tensor:
        return self._alphas_bar[levels]

    def add(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        a = self._alphas_bar[levels].view(-1, 1, 1, 1)
        return a.sqrt() * clean + (1 - a).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return ε, or v = √ᾱ_t ε − √(1 − ᾱ_t) x₀ (Salimans and Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        a = self._alphas_bar[levels].view(-1, 1, 1, 1)
        return a.sqrt() * noise - (1 - a).sqrt() * clean

    def estimate_clean(self, noisy: Tensor, prediction: Tensor, levels: Tensor) -> Tensor:
        return estimate_clean(noisy, prediction, self._alphas_bar[levels], self.prediction_type)


class Flow(Noising):
    """Flow matching (Lipman et al. 2023, arXiv 2210.02747): z = (1 − σ) x₀ + σ ε, v = ε − x₀. Levels are σ, 0 to 1.

    Args:
        shift: s of the schedule, which moves σ towards noise: σ = s u / (1 + (s − 1) u).
        timesteps: Timestep of σ = 1.
        levels: Distribution of u: `logit-normal`, of mean 0 and deviation 1 (Esser et al. 2024, arXiv 2403.03206,
            section 3.1), or `uniform`.
    """

    prediction_type = "flow"

    def __init__(self, shift: float, timesteps: int, levels: str = "logit-normal"):
        self._shift, self._timesteps, self._levels = shift, timesteps, levels

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        if self._levels == "uniform":
            u = torch.rand(count, generator=generator)
        else:
            u = torch.randn(count, generator=generator).sigmoid()
        return self._shift * u / (1 + (self._shift - 1) * u)

    def time(self, levels: Tensor) -> Tensor:
        return levels * self._timesteps

    def alphas_bar(self, levels: Tensor) -> Tensor:
        signal = (1 - levels).square()
        return signal / (signal + levels.square())

    def add(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        sigma = levels.view(-1, 1, 1, 1)
        return (1 - sigma) * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        return noise - clean

    def estimate_clean(self, noisy: Tensor, prediction: Tensor, levels: Tensor) -> Tensor:
        return noisy.float() - levels.view(-1, 1, 1, 1) * prediction.float()


def estimate_clean(noisy: Tensor, prediction: Tensor, alphas_bar: Tensor, prediction_type: str) -> Tensor:
    """Estimate clean latents of DDPM's noise in one step from the model's prediction.

    With x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, x̂_0 is (x_t − √(1 − ᾱ_t) ε̂) / √ᾱ_t for ε-prediction (Ho et al. 2020,
    equation 15) and √ᾱ_t x_t − √(1 − ᾱ_t) v̂ for v-prediction (Salimans and Ho 2022, appendix D).

    Args:
        noisy: x_t, (n, c, h, w).
        prediction: The model's output, of the same shape.
        alphas_bar: ᾱ_t of each sample's timestep, (n,), in 0..1; above 0 for `epsilon`.
        prediction_type: From the scheduler's config: `epsilon`, `v_prediction` or `sample`.

    Returns:
        (n, c, h, w), float32.

    Raises:
        FiguregroundError: The prediction type is unknown.
    """
    if prediction_type not in PREDICTIONS:
        hint = suggest_or_list(prediction_type, PREDICTIONS)
        raise FiguregroundError(f"The scheduler's prediction_type {prediction_type!r} is unknown{hint}")
    noisy, prediction = noisy.float(), prediction.float()
    alphas_bar = alphas_bar.to(noisy).view(-1, *[1] * (noisy.ndim - 1))
    signal, noise = alphas_bar.sqrt(), (1 - alphas_bar).sqrt()
    if prediction_type == "epsilon":
        return (noisy - noise * prediction) / signal
    if prediction_type == "v_prediction":
        return signal * noisy - noise * prediction
    return prediction
