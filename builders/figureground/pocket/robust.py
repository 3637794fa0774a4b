"""Training of the bundled feature network: a small, adversarially robust ResNet on the biased pocket world.

Features of robust networks align with human perception, and their pixel gradients show recognisable content (Santurkar
et al. 2019, arXiv 1906.09453), which the spurious-feature similarity loss needs. Training follows Madry et al. (2018,
arXiv 1706.06083): each batch is first perturbed within an l2 ball to increase the loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

from figureground.pocket import biased, world
from figureground.pocket.fitting import FitSettings, fit

SETTINGS = FitSettings(steps=2_400, batch=64, learning_rate=3e-3, warmup=200, ema=0.995, weight_decay=5e-4)
POOL = 24_000
EPSILON = 1.0
"""Radius of the ball: l2 norm over an image's pixels, which are in 0..1."""
ATTACK_STEPS = 3
RAMP = 0.3
"""Share of training in which the radius grows to its maximum, so that the network learns before full attacks."""
MEAN = STD = 0.5
"""Mean and standard deviation for normalising pixels."""
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": world.SIZE, "width": world.SIZE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN] * 3,
    "image_std": [STD] * 3,
}


def build() -> ResNetForImageClassification:
    """Return an untrained network with 160 features and 0.9 M parameters."""
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 96, 160], depths=[1, 1, 1, 1], layer_type="basic",
            id2label=dict(enumerate(world.FOREGROUNDS)), label2id={k: i for i, k in enumerate(world.FOREGROUNDS)},
        )
    )  # fmt: skip


def save(model: PreTrainedModel, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a classifier of 64 px images as a transformers directory.

    Weights are stored in `dtype`; the opened network computes in float32 unless another dtype is requested.
    """
    out.mkdir(parents=True, exist_ok=True)
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to("cpu", dtype).save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config.pop("_name_or_path", None)  # don't publish a local path
    config["dtype"] = "float32"  # otherwise it opens in its storage dtype, which is slow on a CPU
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


def compute_logits(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return logits (n, classes), float32, of pixels (n, 3, SIZE, SIZE) in 0..1."""
    return model((pixels - MEAN) / STD).logits.float()


def attack(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor = EPSILON,
    steps: int = ATTACK_STEPS,
) -> torch.Tensor:
    """Run projected gradient ascent on the cross-entropy (Madry et al. 2018) from a random point of the l2 ball.

    Takes and returns pixels (n, 3, h, w) in 0..1, at most `epsilon` from the original.
    """

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    def project(x: torch.Tensor) -> torch.Tensor:
        return x * (epsilon / norm(x)).clamp_max(1.0)

    noise = torch.randn_like(pixels)
    radius = epsilon * torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
    perturbed = (pixels + noise / norm(noise) * radius).clamp(0, 1)
    for _ in range(steps):
        perturbed.requires_grad_(True)
        loss = F.cross_entropy(compute_logits(model, perturbed), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, perturbed)
        with torch.no_grad():
            step = gradient.float() / norm(gradient.float()) * (2 * epsilon / steps)
            perturbed = (pixels + project(perturbed + step - pixels)).clamp(0, 1)
    return perturbed.detach()


def batches(
    seed: int, step: int, settings: FitSettings, pool: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield randomly mirrored pixels in 0..1 and labels from a pool of biased drawings, and the radius of the ball."""
    images, labels = biased.draw_many(pool, world.generator("train robust", seed))
    rng = world.generator("robust order", seed + 1000 * step)
    while True:
        rows = rng.choice(pool, settings.batch, replace=False)
        x = torch.from_numpy(images[rows]).float().div_(255)
        mirrored = torch.from_numpy(rng.random(len(x)) < 0.5).view(-1, 1, 1, 1)
        epsilon = EPSILON * min(1.0, step / (RAMP * settings.steps))
        step += 1
        yield torch.where(mirrored, x.flip(3), x), torch.from_numpy(labels[rows]), torch.tensor(epsilon)


@torch.no_grad()
def recompute_norms(model: nn.Module, pixels: torch.Tensor) -> None:
    """Set the running means and variances of `model` to those of its own activations on `pixels`.

    The statistics stored with averaged weights belong to the unaveraged network.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain mean over the batches
    model.train()
    for part in pixels.split(128):
        compute_logits(model, part)
    model.eval()
    for module in norms:
        module.momentum = 0.1


def measure_accuracy(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of correctly classified images, with pixels in 0..1."""
    with torch.no_grad():
        predicted = torch.cat([compute_logits(model, part).argmax(1) for part in pixels.split(128)])
    return float((predicted == labels).float().mean())


def train(
    work: Path, device: str, seed: int, settings: FitSettings = SETTINGS, pool: int = POOL, held_out: int = 512
) -> PreTrainedModel:
    """Train to the end, resuming an earlier run if there is one, and return the averaged network.

    Args:
        pool: Number of images to train on.
        held_out: Number of other images for the norms, and again for the accuracy at each save.
    """
    torch.manual_seed(seed)
    model = build()

    def draw_held_out(purpose: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = biased.draw_many(held_out, world.generator(purpose, seed))
        return torch.from_numpy(images).float().div_(255).to(device), torch.from_numpy(labels).to(device)

    norm_data, evaluation_data = draw_held_out("robust norms"), draw_held_out("watch robust")

    def objective(
        network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        pixels, labels, epsilon = batch
        network.eval()  # so that the attack doesn't change the norms' statistics
        perturbed = attack(network, pixels, labels, epsilon)
        network.train()
        outputs = compute_logits(network, perturbed)
        return {"loss": F.cross_entropy(outputs, labels), "right": (outputs.argmax(1) == labels).float().mean()}

    def evaluate(network: nn.Module) -> dict[str, float]:
        recompute_norms(network, norm_data[0])
        pixels, labels = evaluation_data
        return {
            "clean": measure_accuracy(network, pixels, labels),
            "attacked": measure_accuracy(network, attack(network, pixels, labels), labels),
        }

    fitted: PreTrainedModel = fit(
        "robust", model, objective, lambda step: batches(seed, step, settings, pool), settings, work, device, evaluate
    )
    return fitted
