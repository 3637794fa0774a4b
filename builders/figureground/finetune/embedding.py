"""Training steps of textual inversion (Gal et al. 2022, arXiv 2208.01618): the vectors of a token, and their optimizer.

Vectors keep the length of the noun's embedding: after each step they are projected back onto that sphere, so there is
no weight decay. Without this, a vector on the pocket model grew to five times the length of its noun's, unlike any
ordinary embedding. Of two seeds, one then drew slightly better, the other slightly worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from figureground.core.seeding import make_generator
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.denoiser import Denoiser, tokenize
from figureground.finetune.inversion_settings import PLACE, Inversion
from figureground.finetune.latents import Posteriors
from figureground.finetune.objective import min_snr_weights
from figureground.finetune.tokens import add_rows, token_names
from figureground.finetune.training import pick_in_turn
from figureground.recipe.sample import derive_seed
from figureground.training.curves import GRADIENT


class InpaintingInputs(NamedTuple):
    """Extra inputs of an inpainting denoiser: the region to paint, and the masked image around it."""

    regions: Tensor
    """1 where the image is hidden and 0 elsewhere, (images, 1 or 2 with the mirrored one, 1, height, width)."""
    surroundings: Posteriors
    """Posteriors of the images, grey where they are hidden."""

    def take(self, rows: Tensor, mirrored: Tensor, noise: Tensor) -> Tensor:
        """Return the channels of some images, (n, 1 + latent channels, height, width); arguments as in `Posteriors`."""
        variant = mirrored.long() if self.regions.shape[1] == 2 else torch.zeros_like(rows)
        return torch.cat([self.regions[rows, variant], self.surroundings.sample(rows, mirrored, noise)], dim=1)


class TokenTraining:
    """The mutable state of learning a token: its vectors, and their optimizer.

    No random state is kept between steps: images, templates, noise and noise levels follow from the seed and the step
    number alone.

    Args:
        checkpoint: None of its parameters may require gradients. The token is added to its tokenizers and text
            encoders.
        images: Encoded images.
        masks: Share of each latent pixel in the loss, (images, 1 or 2, 1, height, width); None is all.
        size: Edge in pixels.
        dtype: Compute dtype: float32, or bfloat16 by autocast.
        inpainting: For an inpainting checkpoint, the inputs that define the region to paint; None for others.
    """

    curve_names = ("total", "denoising", GRADIENT)

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Inversion,
        noun: str,
        token: str,
        images: Posteriors,
        masks: Tensor | None,
        size: int,
        dtype: torch.dtype,
        inpainting: InpaintingInputs | None = None,
    ):
        self.settings = settings
        self._images, self._masks, self._dtype, self._inpainting = images, masks, dtype, inpainting
        pipeline = checkpoint.text_to_image
        self._device = pipeline.device
        self._noising = checkpoint.family.noising(pipeline.scheduler, size // checkpoint.factor, self._device)
        self._denoiser = Denoiser(checkpoint, size)
        names = token_names(token, settings.vectors)
        self.vectors: list[nn.Parameter] = []
        """(vectors, width) for each text encoder, float32."""
        self.noun_embeddings: list[Tensor] = []
        """Initial value of the vectors for each text encoder, (width,)."""
        self._norms: list[Tensor] = []
        for tokenizer, encoder in zip(checkpoint.tokenizers, checkpoint.text_encoders, strict=True):
            pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(noun))
            piece_vectors = encoder.get_input_embeddings().weight[pieces].detach().float()
            norm = piece_vectors.norm(dim=1).mean()
            initial = piece_vectors.mean(0) * (norm / piece_vectors.mean(0).norm())
            rows = initial.expand(settings.vectors, -1).contiguous()
            first_id = add_rows(tokenizer, encoder, names, rows)[0]
            vectors = nn.Parameter(rows.clone())
            for table in _find_embedding_tables(encoder):
                table.register_forward_hook(_make_substitution_hook(vectors, first_id))
            self.vectors.append(vectors)
            self.noun_embeddings.append(initial)
            self._norms.append(norm)
        self._optimizer = torch.optim.Adam(self.vectors, lr=settings.learning_rate, fused=True)
        if settings.gradient_checkpointing:
            self._denoiser.network.enable_gradient_checkpointing()
        # All tokenizers have the same names, so one expands prompts for all.
        texts = [
            checkpoint.family.expand_words(text.replace(PLACE, token), checkpoint.tokenizers[0])
            for text in settings.templates
        ]
        ids, padding = tokenize(checkpoint.tokenizers, texts)
        self._ids, self._padding = [i.to(self._device) for i in ids], [m.to(self._device) for m in padding]

    def step(self, number: int) -> Tensor:
        """Run the step with that number, from 0; return the values of `curve_names`, on the device."""
        self._denoiser.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * (1 - number / self.settings.max_train_steps)
        total, denoising = self._compute_losses(number)
        total.backward()
        gradient = torch.stack([v.grad.norm() for v in self.vectors if v.grad is not None]).norm()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for vectors, norm in zip(self.vectors, self._norms, strict=True):
                vectors.mul_(norm / vectors.norm(dim=1, keepdim=True))
        return torch.stack([total.detach(), denoising.detach(), gradient])

    def _compute_losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the mean squared error, with and without min-SNR weights."""
        settings, device, n = self.settings, self._device, self.settings.batch_size
        generator = make_generator(derive_seed(settings.seed, "step", str(step)))
        shape = (n, *self._images.mean.shape[2:])
        mirrored = (torch.rand(n, generator=generator) < 0.5).to(device)
        posterior_noise = torch.randn(shape, generator=generator).to(device)
        noise = torch.randn(shape, generator=generator).to(device)
        levels = self._noising.draw(n, generator).to(device)
        templates = torch.randint(len(settings.templates), (n,), generator=generator)
        image_rows = [pick_in_turn(len(self._images), step * n + i, settings.seed, "pictures") for i in range(n)]
        rows = torch.tensor(image_rows, device=device)
        clean = self._images.sample(rows, mirrored, posterior_noise)
        model_input = self._noising.add(clean, noise, levels)
        if self._inpainting is not None:
            surroundings_noise = torch.randn(shape, generator=generator).to(device)
            model_input = torch.cat([model_input, self._inpainting.take(rows, mirrored, surroundings_noise)], dim=1)
        target = self._noising.target(clean, noise, levels)
        used, template_rows = (indices.to(device) for indices in templates.unique(return_inverse=True))
        ids, padding = [i[used] for i in self._ids], [m[used] for m in self._padding]
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            prediction = self._denoiser(
                model_input, self._noising.time(levels), ids, padding, template_rows, None
            ).float()
        error = (prediction - target).square().mean(1, keepdim=True)
        if self._masks is not None:
            masks = self._masks[rows, mirrored.long() if self._masks.shape[1] == 2 else torch.zeros_like(rows)]
            sample_losses = (error * masks).sum((1, 2, 3)) / masks.sum((1, 2, 3))
        else:
            sample_losses = error.mean((1, 2, 3))
        alphas_bar, prediction_type = self._noising.alphas_bar(levels), self._noising.prediction_type
        weights = min_snr_weights(alphas_bar, settings.min_snr_gamma, prediction_type)
        return (weights * sample_losses).mean(), sample_losses.mean()

    def copy_vectors(self) -> list[Tensor]:
        """Return the current vectors, (vectors, width) for each text encoder, float32 on the CPU."""
        return [vectors.detach().float().cpu().clone() for vectors in self.vectors]

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of the last step, for reports."""
        return {"learning_rate": self._optimizer.param_groups[0]["lr"]}

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, for `restore`."""
        return {"vectors": [v.detach() for v in self.vectors], "optimizer": self._optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for vectors, value in zip(self.vectors, state["vectors"], strict=True):
                vectors.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])


def _find_embedding_tables(encoder: nn.Module) -> list[nn.Module]:
    """Return the embedding tables that read a text encoder's tokens: a T5's stack has one of its own, tied to it."""
    weight = encoder.get_input_embeddings().weight  # type: ignore[operator]  # for mypy, a Tensor or a Module
    return [module for module in encoder.modules() if getattr(module, "weight", None) is weight]


def _make_substitution_hook(vectors: Tensor, first_id: int) -> Any:
    """Return a hook that replaces rows of an embedding table by trained ones, so that no other row can change."""

    def substitute(table: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        ids = inputs[0]
        is_token = (ids >= first_id) & (ids < first_id + len(vectors))
        return torch.where(
            is_token[..., None], vectors[(ids - first_id).clamp(0, len(vectors) - 1)].to(output.dtype), output
        )

    return substitute
