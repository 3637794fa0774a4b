"""Wasserstein dependence of features and labels, estimated by critics (Kattakinda et al. 2022, equations 9 and 10).

The dependence of a part of the features and the other label is the Wasserstein-1 distance of their joint distribution
and the product of their marginals. In Kantorovich's dual form it is the largest difference of the means of a
1-Lipschitz function of [features; code of the label]. The code is a fixed random Gaussian vector for each label. The
critic is kept near 1-Lipschitz by a gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from figureground.core.seeding import make_generator
from figureground.disentangling.penalty import Batch, Penalty, make_network
from figureground.disentangling.separator import Shape
from figureground.recipe.sample import derive_seed


def estimate_distance(critic: nn.Module, joint: Tensor, product: Tensor) -> Tensor:
    """Return the critic's estimate of the Wasserstein distance: the difference of its means, a scalar.

    Args:
        joint, product: Samples of the two distributions, (n, d) and (m, d).
    """
    difference: Tensor = critic(joint).mean() - critic(product).mean()
    return difference


def gradient_penalty(critic: nn.Module, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean of (‖∇ critic‖ − 1)² at random points between pairs of samples, a scalar.

    Args:
        first, second: Samples, (n, d) each; pairs are drawn at random.
        generator: On the CPU.
    """
    order = torch.randperm(len(second), generator=generator).to(second.device)
    share = torch.rand(len(first), 1, generator=generator).to(first)
    points = (share * first + (1 - share) * second[order]).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


class Transport(Penalty):
    """The two Wasserstein dependences, each with a critic of its own.

    Args:
        shape: Sizes of the parts and numbers of labels.
        hidden: Units of each hidden layer of a critic.
        code_size: Length of the code of a label.
        gradient_weight: Weight of the gradient penalty.
        normalise: Whether features get zero mean and unit variance over the batch first.
        seed: Of codes and initial weights.
    """

    codes_of_foreground: Tensor
    codes_of_background: Tensor
    curve_names: ClassVar[tuple[str, str]] = ("wasserstein_foreground", "wasserstein_background")

    def __init__(
        self, shape: Shape, *, hidden: int, code_size: int, gradient_weight: float, normalise: bool, critic_steps: int,
        critic_learning_rate: float, seed: int,
    ):  # fmt: skip
        super().__init__()
        self.critic_steps, self.critic_learning_rate = critic_steps, critic_learning_rate
        self._gradient_weight, self._normalise = gradient_weight, normalise
        self.critics = nn.ModuleList(
            make_network(width + code_size, hidden, 1, seed, part)
            for width, part in zip(shape.widths, ("foreground", "background"), strict=True)
        )
        for part, count in zip(("foreground", "background"), reversed(shape.classes), strict=True):
            generator = make_generator(derive_seed(seed, "codes", part))
            self.register_buffer(f"codes_of_{part}", torch.randn(count, code_size, generator=generator))

    def _draw_samples(self, batch: Batch, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """Return, for each part, samples of the joint distribution and of the product of the marginals."""
        samples = []
        codes = (self.codes_of_foreground, self.codes_of_background)
        for (features, label), part_codes in zip(batch.sides(), codes, strict=True):
            if self._normalise:
                features = (features - features.mean(0)) / (features.std(0, correction=0) + 1e-6)
            code = part_codes[label]
            order = torch.randperm(len(label), generator=generator).to(label.device)
            samples.append((torch.cat([features, code], 1), torch.cat([features, code[order]], 1)))
        return samples

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        pairs = zip(self.critics, self._draw_samples(batch, generator), strict=True)
        return torch.stack([estimate_distance(critic, joint, product) for critic, (joint, product) in pairs])

    def critic_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        loss = batch.foreground.new_zeros(())
        for critic, (joint, product) in zip(self.critics, self._draw_samples(batch, generator), strict=True):
            loss = loss - estimate_distance(critic, joint, product)
            loss = loss + self._gradient_weight * gradient_penalty(critic, joint, product, generator)
        return loss
