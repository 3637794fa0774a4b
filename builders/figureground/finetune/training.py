"""Training steps of a fine-tuning: random draws, the step itself, weight averages, and a state for exact resumption.

No random state is kept between steps: the images, their noise and their noise levels follow from the seed and the step
number alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.seeding import make_generator, seed_default_generators
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.denoiser import Denoiser, tokenize
from figureground.finetune.latents import Posteriors
from figureground.finetune.objective import Weights, curve_names, losses
from figureground.finetune.settings import Finetuning
from figureground.finetune.similarity import SimilarityLoss, decode
from figureground.models.family_records import Embedding
from figureground.recipe.sample import derive_seed
from figureground.training.curves import GRADIENT
from figureground.training.processes import Processes, keep_gradients_local


@dataclass(frozen=True)
class TrainingData:
    """Training data: encoded images and their captions."""

    references: Posteriors
    captions: tuple[str, ...]
    """One caption per reference."""
    prior: Posteriors | None
    prior_prompt: str


@dataclass(frozen=True)
class Similarity:
    """SFSL and the autoencoder that decodes images for it."""

    loss: SimilarityLoss
    vae: Any
    facts: dict[str, Any]
    """Description of the feature network for provenance."""


class Training:
    """The mutable state of a fine-tuning.

    Args:
        checkpoint: Opened in float32; with adapters, the base may be in a smaller dtype. Trained weights are changed in
            place.
        size: Edge in pixels.
        dtype: Compute dtype: float32, or bfloat16 by autocast.

    Raises:
        FiguregroundError: bitsandbytes was requested but isn't installed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Finetuning,
        material: TrainingData,
        similarity: Similarity | None,
        processes: Processes,
        size: int,
        dtype: torch.dtype,
    ):
        self.settings, self.processes = settings, processes
        self._material, self._similarity, self._dtype = material, similarity, dtype
        pipeline = checkpoint.text_to_image
        edge = size // checkpoint.factor
        self._noising = checkpoint.family.noising(pipeline.scheduler, edge, processes.device, settings.noise_levels)
        self._weights = Weights(
            settings.prior_weight if material.prior is not None else 0.0,
            settings.sfsl_weight if similarity is not None else 0.0,
            settings.min_snr_gamma,
        )
        self.curve_names = [*curve_names(self._weights), GRADIENT]
        self._denoiser = Denoiser(checkpoint, size)
        groups = choose_trained(self._denoiser, settings)
        self.trained: dict[str, nn.Parameter] = {n: p for group in groups.values() for n, p in group.items()}
        """Trained parameters by name, in float32."""
        self._values = list(self.trained.values())
        self._parts = list(groups)
        self._optimizer = _make_optimizer(groups, settings)
        self._averages = [p.detach().clone() for p in self._values] if settings.ema else []
        self._best: list[Tensor] = []
        if settings.gradient_checkpointing:
            self._denoiser.network.enable_gradient_checkpointing()
            for encoder in self._denoiser.text_encoders if "text_encoder" in groups else ():
                _checkpoint_gradients(encoder)
        self._read_prompts(checkpoint.tokenizers)
        self._model = processes.wrap_model(self._denoiser, has_unused=checkpoint.family.LEAVES_WEIGHTS_UNUSED)

    def _read_prompts(self, tokenizers: Sequence[Any]) -> None:
        """Tokenise each prompt once, and encode it once if text encoders aren't trained."""
        texts = list(dict.fromkeys([*self._material.captions, self._material.prior_prompt]))
        device = self.processes.device
        ids, masks = tokenize(tokenizers, texts)
        self._ids, self._masks = [i.to(device) for i in ids], [m.to(device) for m in masks]
        self._caption_rows = torch.tensor([texts.index(text) for text in self._material.captions])
        self._prior_row = texts.index(self._material.prior_prompt)
        self._embedding: Embedding | None = None
        if not any(p.requires_grad for p in self._denoiser.text_encoders.parameters()):
            with torch.no_grad(), self._autocast():
                self._embedding = self._denoiser.embed(self._ids, self._masks)

    def parts(self) -> list[str]:
        """Return the names of the trained parts of a pipeline."""
        networks = {name: network for part in self._denoiser.parts().values() for name, network in part.items()}
        return [name for name, network in networks.items() if any(p.requires_grad for p in network.parameters())]

    def _autocast(self) -> Any:
        return torch.autocast(self.processes.device.type, self._dtype, enabled=self._dtype != torch.float32)

    # One step

    def step(self, number: int) -> Tensor:
        """Run the step with that number, from 0; return the values of `curve_names`, on the device."""
        settings = self.settings
        self._denoiser.train()
        for group in self._optimizer.param_groups:
            group["lr"] = group["full_rate"] * min(1.0, (number + 1) / (settings.lr_warmup_steps + 1))
        each = []
        for i in range(settings.gradient_accumulation_steps):
            with keep_gradients_local(self._model, local=i + 1 < settings.gradient_accumulation_steps):
                values = self._pass(number, i)
                (values[0] / settings.gradient_accumulation_steps).backward()
            each.append(values.detach())
        norm = nn.utils.clip_grad_norm_(self._values, settings.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._averages:
            decay = min(settings.ema, (1 + number) / (10 + number))
            torch._foreach_lerp_(self._averages, [p.detach() for p in self._values], 1 - decay)
        return torch.cat([self.processes.mean(torch.stack(each).mean(0)), norm.detach()[None]])

    def _pass(self, step: int, part: int) -> Tensor:
        draw = self._draw(step, part)
        noisy = self._noising.add(draw.clean, draw.noise, draw.levels)
        wanted = self._noising.target(draw.clean, draw.noise, draw.levels)
        time = self._noising.time(draw.levels)
        used, rows = (_send(each, noisy.device) for each in draw.prompts.unique(return_inverse=True))
        ids, masks = [i[used] for i in self._ids], [m[used] for m in self._masks]
        embedding = None if self._embedding is None else self._embedding.take(used)
        with self._autocast():
            prediction = self._model(noisy, time, ids, masks, rows, embedding).float()
        return losses(
            prediction, noisy, wanted, draw.levels, self.settings.batch_size, self._weights, self._noising,
            self._similarity.loss if self._similarity else None, self._decode,
        )  # fmt: skip

    def _decode(self, latents: Tensor) -> Tensor:
        assert self._similarity is not None
        return decode(self._similarity.vae, latents, checkpointing=True)

    def _draw(self, step: int, part: int) -> _Draw:
        """Return this process's share of a draw that is the same in all processes.

        Two processes are thus equivalent to one with twice the batch.
        """
        settings = self.settings
        n = settings.batch_size * self.processes.count
        generator = make_generator(derive_seed(settings.seed, "step", str(step), str(part)))
        first = (step * settings.gradient_accumulation_steps + part) * n
        drawn = [self._draw_kind("references", self._material.references, first, n, generator)]
        prompts = [self._caption_rows[drawn[0][3]]]
        if self._weights.prior and self._material.prior is not None:
            drawn.append(self._draw_kind("prior", self._material.prior, first, n, generator))
            prompts.append(torch.full((settings.batch_size,), self._prior_row))
        clean, noise, levels = (torch.cat(parts) for parts in list(zip(*drawn, strict=True))[:3])
        return _Draw(clean, noise, levels, torch.cat(prompts))

    def _draw_kind(
        self, name: str, images: Posteriors, first: int, n: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return this process's share of latents, noise, its levels and image numbers."""
        device, share = self.processes.device, self.processes.share
        shape = (n, *images.mean.shape[2:])
        mirrored = torch.rand(n, generator=generator) < 0.5
        spread = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        levels = self._noising.draw(n, generator)
        rows = share(torch.tensor([in_turn(len(images), first + i, self.settings.seed, name) for i in range(n)]))
        clean = images.sample(*(_send(each, device) for each in (rows, share(mirrored), share(spread))))
        return clean, _send(share(noise), device), _send(share(levels), device), rows

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates of the last step, for reports: one, or one for each trained part."""
        groups = self._optimizer.param_groups
        rates = {part: float(group["lr"]) for part, group in zip(self._parts, groups, strict=True)}
        if len(set(rates.values())) == 1:
            return {"learning_rate": next(iter(rates.values()))}
        return {f"learning_rate_{part}": rate for part, rate in rates.items()}

    # Averages

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the network into evaluation mode, with its averaged weights if averages are kept."""
        kept = self._swap(self._averages)
        self._denoiser.eval()
        try:
            yield
        finally:
            self._swap(kept)

    # The best weights

    def keep_best(self) -> None:
        """Keep a copy of the current weights (averaged, if averages are kept) on the CPU."""
        self._best = [p.detach().to("cpu", copy=True) for p in self._averages or self._values]

    @contextlib.contextmanager
    def final(self) -> Iterator[None]:
        """Give the network its final weights: the best, if any were kept, otherwise those of `averaged`."""
        if not self._best:
            with self.averaged():
                yield
            return
        before = self._swap(self._best)
        self._denoiser.eval()
        try:
            yield
        finally:
            self._swap(before)

    def _swap(self, values: Sequence[Tensor]) -> list[Tensor]:
        if not values:
            return []
        with torch.no_grad():
            before = [p.detach().clone() for p in self._values]
            torch._foreach_copy_([p.detach() for p in self._values], list(values))
        return before

    # State

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, tensors and plain values, for `restore`."""
        return {
            "weights": {name: p.detach() for name, p in self.trained.items()},
            "averages": dict(zip(self.trained, self._averages, strict=True)) if self._averages else {},
            "best": dict(zip(self.trained, self._best, strict=True)) if self._best else {},
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, value in state["weights"].items():
                self.trained[name].copy_(value)
            for average, value in zip(self._averages, state["averages"].values(), strict=True):
                average.copy_(value)
        self._best = [value.to("cpu", copy=True) for value in state.get("best", {}).values()]
        self._optimizer.load_state_dict(state["optimizer"])


@dataclass(frozen=True)
class _Draw:
    """Inputs of one forward pass: references first, then prior images."""

    clean: Tensor
    noise: Tensor
    levels: Tensor
    prompts: Tensor


def _send(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting for its pending work."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def choose_trained(denoiser: Denoiser, settings: Finetuning) -> dict[str, dict[str, nn.Parameter]]:
    """Add adapters if requested, and enable gradients for exactly the trained parameters.

    Returns:
        Parameters by the denoiser's part, such as `unet`, and `text_encoder`, then by name.
    """
    denoiser.requires_grad_(False)
    rank = settings.lora_rank
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for part, networks in denoiser.parts().items():
        if settings.rate(part) == 0:
            continue
        for name, layers in denoiser.family.ADAPTED.items():
            if name not in networks:
                continue
            if rank is not None:
                _add_adapters(networks[name], layers, rank, settings.seed)
            else:
                networks[name].requires_grad_(True)
        prefix = "text_encoders." if part == "text_encoder" else f"{part}."
        groups[part] = {n: p for n, p in denoiser.named_parameters() if n.startswith(prefix) and p.requires_grad}
    if not groups:
        raise RecipeError(
            "learning_rate", "it is 0 for the denoiser and the text encoders, so nothing would be learned."
        )
    return groups


def _add_adapters(network: Any, layers: Sequence[str], rank: int, seed: int) -> None:
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        seed_default_generators(derive_seed(seed, "adapters"))
        adapters = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(layers))
        network.add_adapter(adapters)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _checkpoint_gradients(encoder: Any) -> None:
    old = encoder.gradient_checkpointing_enable  # its name in older transformers
    getattr(encoder, "activation_checkpointing_enable", old)({"use_reentrant": False})


def require_bitsandbytes() -> None:
    """Raise FiguregroundError if bitsandbytes isn't installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise FiguregroundError(
            "eight_bit_adam needs bitsandbytes: pip install bitsandbytes, or leave --eight-bit-adam out."
        )


def _make_optimizer(groups: Mapping[str, Mapping[str, nn.Parameter]], settings: Finetuning) -> torch.optim.Optimizer:
    given = [
        {"params": list(group.values()), "lr": settings.rate(part), "full_rate": settings.rate(part)}
        for part, group in groups.items()
    ]
    if settings.eight_bit_adam:
        require_bitsandbytes()
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(given, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(given, weight_decay=settings.weight_decay, fused=True)


def in_turn(n: int, position: int, seed: int, name: str) -> int:
    """Return the image (of n) at a position of a stream of passes over all images, each in another order."""
    turn, place = divmod(position, n)
    return _order(n, turn, seed, name)[place]


@lru_cache(maxsize=8)
def _order(n: int, turn: int, seed: int, name: str) -> tuple[int, ...]:
    generator = make_generator(derive_seed(seed, "order", name, str(turn)))
    return tuple(torch.randperm(n, generator=generator).tolist())
