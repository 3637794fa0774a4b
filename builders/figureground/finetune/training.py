"""Training steps of a fine-tuning: random draws, the step itself, weight averages, and a state for exact resumption.

No random state is kept between steps: the images, their noise and their noise levels follow from the seed and the step
number alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from figureground.core.errors import RecipeError
from figureground.core.extras import require
from figureground.core.seeding import make_generator, seed_default_generators
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.denoiser import Denoiser, tokenize
from figureground.finetune.latents import Posteriors
from figureground.finetune.objective import LossWeights, compute_losses, curve_names
from figureground.finetune.settings import Finetuning
from figureground.finetune.similarity import SimilarityLoss, decode
from figureground.models.family_records import Embedding
from figureground.recipe.sample import derive_seed
from figureground.training.curves import GRADIENT
from figureground.training.processes import Processes, keep_gradients_local


@dataclass(frozen=True)
class FinetuneData:
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


class FinetuneState:
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
        data: FinetuneData,
        similarity: Similarity | None,
        processes: Processes,
        size: int,
        dtype: torch.dtype,
    ):
        self.settings, self.processes = settings, processes
        self._data, self._similarity, self._dtype = data, similarity, dtype
        pipeline = checkpoint.text_to_image
        edge = size // checkpoint.factor
        self._noising = checkpoint.family.noising(pipeline.scheduler, edge, processes.device, settings.noise_levels)
        self._weights = LossWeights(
            settings.prior_weight if data.prior is not None else 0.0,
            settings.sfsl_weight if similarity is not None else 0.0,
            settings.min_snr_gamma,
        )
        self.curve_names = [*curve_names(self._weights), GRADIENT]
        self._denoiser = Denoiser(checkpoint, size)
        groups = enable_trained_parameters(self._denoiser, settings)
        self.trained_parameters: dict[str, nn.Parameter] = {n: p for group in groups.values() for n, p in group.items()}
        """Trained parameters by name, in float32."""
        self._parameters = list(self.trained_parameters.values())
        self._parts = list(groups)
        self._optimizer = _make_optimizer(groups, settings)
        self._averages = [p.detach().clone() for p in self._parameters] if settings.ema else []
        self._best_values: list[Tensor] = []
        if settings.gradient_checkpointing:
            self._denoiser.network.enable_gradient_checkpointing()
            for encoder in self._denoiser.text_encoders if "text_encoder" in groups else ():
                _checkpoint_gradients(encoder)
        self._tokenize_prompts(checkpoint.tokenizers)
        self._model = processes.wrap_model(self._denoiser, has_unused=checkpoint.family.LEAVES_WEIGHTS_UNUSED)

    def _tokenize_prompts(self, tokenizers: Sequence[Any]) -> None:
        """Tokenise each prompt once, and encode it once if text encoders aren't trained."""
        texts = list(dict.fromkeys([*self._data.captions, self._data.prior_prompt]))
        device = self.processes.device
        ids, masks = tokenize(tokenizers, texts)
        self._ids, self._masks = [i.to(device) for i in ids], [m.to(device) for m in masks]
        self._caption_rows = torch.tensor([texts.index(text) for text in self._data.captions])
        self._prior_row = texts.index(self._data.prior_prompt)
        self._embedding: Embedding | None = None
        if not any(p.requires_grad for p in self._denoiser.text_encoders.parameters()):
            with torch.no_grad(), self._autocast():
                self._embedding = self._denoiser.embed(self._ids, self._masks)

    def list_trained_parts(self) -> list[str]:
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
        passes = []
        for i in range(settings.gradient_accumulation_steps):
            with keep_gradients_local(self._model, local=i + 1 < settings.gradient_accumulation_steps):
                values = self._run_pass(number, i)
                (values[0] / settings.gradient_accumulation_steps).backward()
            passes.append(values.detach())
        norm = nn.utils.clip_grad_norm_(self._parameters, settings.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._averages:
            decay = min(settings.ema, (1 + number) / (10 + number))
            torch._foreach_lerp_(self._averages, [p.detach() for p in self._parameters], 1 - decay)
        return torch.cat([self.processes.mean(torch.stack(passes).mean(0)), norm.detach()[None]])

    def _run_pass(self, step: int, part: int) -> Tensor:
        inputs = self._draw_inputs(step, part)
        noisy = self._noising.add(inputs.clean, inputs.noise, inputs.levels)
        target = self._noising.target(inputs.clean, inputs.noise, inputs.levels)
        time = self._noising.time(inputs.levels)
        used, prompt_rows = (
            _to_device(indices, noisy.device) for indices in inputs.prompts.unique(return_inverse=True)
        )
        ids, masks = [i[used] for i in self._ids], [m[used] for m in self._masks]
        embedding = None if self._embedding is None else self._embedding.take(used)
        with self._autocast():
            prediction = self._model(noisy, time, ids, masks, prompt_rows, embedding).float()
        return compute_losses(
            prediction, noisy, target, inputs.levels, self.settings.batch_size, self._weights, self._noising,
            self._similarity.loss if self._similarity else None, self._decode,
        )  # fmt: skip

    def _decode(self, latents: Tensor) -> Tensor:
        assert self._similarity is not None
        return decode(self._similarity.vae, latents, checkpointing=True)

    def _draw_inputs(self, step: int, part: int) -> _PassInputs:
        """Return this process's share of a draw that is the same in all processes.

        Two processes are thus equivalent to one with twice the batch.
        """
        settings = self.settings
        n = settings.batch_size * self.processes.count
        generator = make_generator(derive_seed(settings.seed, "step", str(step), str(part)))
        first = (step * settings.gradient_accumulation_steps + part) * n
        draws = [self._draw_images("references", self._data.references, first, n, generator)]
        prompts = [self._caption_rows[draws[0][3]]]
        if self._weights.prior and self._data.prior is not None:
            draws.append(self._draw_images("prior", self._data.prior, first, n, generator))
            prompts.append(torch.full((settings.batch_size,), self._prior_row))
        clean, noise, levels = (torch.cat(parts) for parts in list(zip(*draws, strict=True))[:3])
        return _PassInputs(clean, noise, levels, torch.cat(prompts))

    def _draw_images(
        self, name: str, images: Posteriors, first: int, n: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return this process's share of latents, noise, its levels and image numbers."""
        device, share = self.processes.device, self.processes.share
        shape = (n, *images.mean.shape[2:])
        mirrored = torch.rand(n, generator=generator) < 0.5
        posterior_noise = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        levels = self._noising.draw(n, generator)
        rows = share(torch.tensor([pick_in_turn(len(images), first + i, self.settings.seed, name) for i in range(n)]))
        clean = images.sample(*(_to_device(each, device) for each in (rows, share(mirrored), share(posterior_noise))))
        return clean, _to_device(share(noise), device), _to_device(share(levels), device), rows

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates of the last step, for reports: one, or one for each trained part."""
        groups = self._optimizer.param_groups
        rates = {part: float(group["lr"]) for part, group in zip(self._parts, groups, strict=True)}
        if len(set(rates.values())) == 1:
            return {"learning_rate": next(iter(rates.values()))}
        return {f"learning_rate_{part}": rate for part, rate in rates.items()}

    # Averages

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the network into evaluation mode, with its averaged weights if averages are kept."""
        before = self._swap(self._averages)
        self._denoiser.eval()
        try:
            yield
        finally:
            self._swap(before)

    # The best weights

    def keep_best(self) -> None:
        """Keep a copy of the current weights (averaged, if averages are kept) on the CPU."""
        self._best_values = [p.detach().to("cpu", copy=True) for p in self._averages or self._parameters]

    @contextlib.contextmanager
    def final_weights(self) -> Iterator[None]:
        """Give the network its final weights: the best, if any were kept, otherwise those of `averaged_weights`."""
        if not self._best_values:
            with self.averaged_weights():
                yield
            return
        before = self._swap(self._best_values)
        self._denoiser.eval()
        try:
            yield
        finally:
            self._swap(before)

    def _swap(self, values: Sequence[Tensor]) -> list[Tensor]:
        if not values:
            return []
        with torch.no_grad():
            before = [p.detach().clone() for p in self._parameters]
            torch._foreach_copy_([p.detach() for p in self._parameters], list(values))
        return before

    # State

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, tensors and plain values, for `restore`."""
        return {
            "weights": {name: p.detach() for name, p in self.trained_parameters.items()},
            "averages": dict(zip(self.trained_parameters, self._averages, strict=True)) if self._averages else {},
            "best": dict(zip(self.trained_parameters, self._best_values, strict=True)) if self._best_values else {},
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, value in state["weights"].items():
                self.trained_parameters[name].copy_(value)
            for average, value in zip(self._averages, state["averages"].values(), strict=True):
                average.copy_(value)
        self._best_values = [value.to("cpu", copy=True) for value in state.get("best", {}).values()]
        self._optimizer.load_state_dict(state["optimizer"])


@dataclass(frozen=True)
class _PassInputs:
    """Inputs of one forward pass: references first, then prior images."""

    clean: Tensor
    noise: Tensor
    levels: Tensor
    prompts: Tensor


def _to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting for its pending work."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def enable_trained_parameters(denoiser: Denoiser, settings: Finetuning) -> dict[str, dict[str, nn.Parameter]]:
    """Add adapters if requested, and enable gradients for exactly the trained parameters.

    Returns:
        Parameters by the denoiser's part, such as `unet`, and `text_encoder`, then by name.
    """
    denoiser.requires_grad_(False)
    rank = settings.lora_rank
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for part, networks in denoiser.parts().items():
        if settings.learning_rate_of(part) == 0:
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


def _make_optimizer(groups: Mapping[str, Mapping[str, nn.Parameter]], settings: Finetuning) -> torch.optim.Optimizer:
    parameter_groups = [
        {
            "params": list(group.values()),
            "lr": settings.learning_rate_of(part),
            "full_rate": settings.learning_rate_of(part),
        }
        for part, group in groups.items()
    ]
    if settings.eight_bit_adam:
        require("bitsandbytes", "eight_bit_adam", otherwise="or leave --eight-bit-adam out")
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameter_groups, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(parameter_groups, weight_decay=settings.weight_decay, fused=True)


def pick_in_turn(n: int, position: int, seed: int, name: str) -> int:
    """Return the image (of n) at a position of a stream of passes over all images, each in another order."""
    epoch, offset = divmod(position, n)
    return _draw_order(n, epoch, seed, name)[offset]


@lru_cache(maxsize=8)
def _draw_order(n: int, epoch: int, seed: int, name: str) -> tuple[int, ...]:
    generator = make_generator(derive_seed(seed, "order", name, str(epoch)))
    return tuple(torch.randperm(n, generator=generator).tolist())
