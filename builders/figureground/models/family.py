"""Families of diffusion models: what they share, and the registry that other packages extend. Needs no torch.

A family says how its checkpoints are recognised, which parts they have and how these are opened, how prompts become
inputs of the denoiser, and what fine-tuning changes. Everything else that handles checkpoints asks the family.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.registry import Registry, check_subclass
from figureground.core.shares import strength_of, whole_part
from figureground.models.family_records import Embedding, Pipelines, Route, SingleFile, Size, Start
from figureground.models.parts import pixels_a_latent, read_token_limit
from figureground.models.schedules import check_own_scheduler, check_schedule

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from figureground.models.noising import Noising

ROUTE_NAMES: Final[Mapping[Route, str]] = {
    "text": "text-to-image (method d3s with guide=none)",
    "image": "image-to-image (method d3s)",
    "inpaint": "inpainting (methods scgs and ddb)",
    "edit": "editing by an instruction (method d3s with edit=true, as in its config edit)",
}
OWN: Final = "own"
"""The sampler that is a checkpoint's own, with its own settings."""


class Family(ABC):
    """A family of diffusion models. One that changes little of Stable Diffusion inherits from `families.sd`.

    Every checkpoint has an autoencoder, `vae`, and a `scheduler`. The functions without torch read files; all others
    take opened parts and pipelines of diffusers.
    """

    NAME: ClassVar[str]
    """Its name, also in provenance."""
    PIPELINES: ClassVar[tuple[str, ...]]
    """Pipeline classes in `model_index.json` that its checkpoints are recognised by."""
    INPAINTING: ClassVar[tuple[str, ...]] = ()
    """Pipeline classes of its checkpoints that were made for inpainting."""
    ROUTES: ClassVar[tuple[Route, ...]] = ("text", "image", "inpaint")
    """How its checkpoints draw."""
    DENOISER: ClassVar[str]
    """The part that denoises, such as `unet`."""
    TEXTS: ClassVar[Mapping[str, str]]
    """Its text encoders in order, each with its tokenizer."""
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]]
    """Parts that fine-tuning changes: the denoiser and text encoders, each with the layers that get adapters."""
    TOKEN_KEYS: ClassVar[tuple[str, ...]] = ()
    """Tensor names of a learned token's vectors in a file, one a text encoder; if empty, the name is the token. A
    checkpoint without its last text encoder doesn't use the last one."""
    HAS_SAFETY_CHECKER: ClassVar[bool] = False
    """Whether its pipelines may have a safety checker."""
    ADAPTERS_ONLY: ClassVar[bool] = False
    """Whether fine-tuning trains adapters alone, because all weights, their gradients and averages need too much
    memory."""
    LEAVES_WEIGHTS_UNUSED: ClassVar[bool] = False
    """Whether a prediction uses only some weights of the text encoders, so that others get no gradient."""
    SCHEDULER: ClassVar[str] = "ddim"
    """The sampler of recipes that name none; `own` is the checkpoint's own."""
    HALF: ClassVar[str] = "float16"
    """The dtype `auto` on CUDA: float16, or bfloat16 for networks whose values overflow in float16."""
    PATCH: ClassVar[int] = 1
    """Latent pixels along the edge of a patch that the denoiser takes as one."""
    MASK_CELL: ClassVar[int] = 1
    """Latent pixels along the edge of the cells that its inpainting pipeline averages a mask in."""
    GUIDES_IN_ONE_BATCH: ClassVar[bool] = False
    """Whether its pipelines guide by evaluating the denoiser on one batch with every image twice, first with the
    negative prompt; only then can guidance be left out in some steps (`guidance_interval`)."""
    TOKENS: ClassVar[Mapping[str, int]] = {}
    """Tokens that pipelines let a text encoder read, by part; for others, its configuration says it."""
    TRUE_GUIDANCE: ClassVar[bool] = False
    """Whether `guidance_scale` is an input of the denoiser, and its pipelines take `true_cfg_scale` for classifier-free
    guidance besides."""
    SEES_REFERENCE: ClassVar[bool] = False
    """Whether the text encoder reads the reference with the instruction."""

    SINGLE_FILE: ClassVar[SingleFile | None] = None
    """How its checkpoints lie in a single file; None if such files aren't supported."""

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts with weights."""
        return (self.DENOISER, "vae", *self.TEXTS)

    # --- files, without torch -------------------------------------------------------------------

    def variant(self, index: Mapping[str, Any]) -> Family:
        """Return the family as it is for one checkpoint: itself, unless its checkpoints differ in how they are used.

        Args:
            index: Output of `weights.read_index`.
        """
        return self

    def check_route(self, route: Route, what: str) -> None:
        """Raise FiguregroundError if the family doesn't draw that way; names the ways that it does.

        Args:
            what: The checkpoint's name in errors.
        """
        if route in self.ROUTES:
            return
        supporting = [name for name, kind in FAMILIES.items() if route in kind.ROUTES]
        raise FiguregroundError(
            f"{what} is of the family {self.NAME}, which doesn't support {ROUTE_NAMES[route]}, only "
            f"{join_names(ROUTE_NAMES[each] for each in self.ROUTES)}. Use it for one of these, or give a checkpoint "
            f"of {' or '.join(supporting)}."
        )

    @abstractmethod
    def check_denoiser(
        self,
        denoiser: Mapping[str, Any],
        vae: Mapping[str, Any],
        texts: Mapping[str, Mapping[str, Any]],
        what: str,
        inpaint: bool,
    ) -> None:
        """Refuse a denoiser that doesn't fit the autoencoder or the text encoders, by their configurations.

        Args:
            texts: Configurations of the text encoders, by part.
            what: The checkpoint's name in errors.
            inpaint: Whether the denoiser may also take a mask and a masked image.

        Raises:
            FiguregroundError: Two parts don't fit; names both and their sizes.
        """

    @abstractmethod
    def native_size(self, folder: Path) -> int:
        """Return the edge of the images that a checkpoint was trained on, in pixels.

        Raises:
            OSError, ValueError, KeyError, TypeError: Its configurations don't tell.
        """

    def estimate_size(self, name: str) -> Size | None:
        """Return the size of a checkpoint that isn't on this machine, by its name in lower case; None if unknown."""
        return None

    def edge_multiple(self, folder: Path) -> int:
        """Return the pixels of which an image's edge must be a multiple: whole patches, and diffusers' 8 pixels.

        Raises:
            OSError, ValueError: The autoencoder's configuration can't be read.
        """
        return math.lcm(self.pixels_a_latent(folder) * self.PATCH, 8)

    def pixels_a_latent(self, folder: Path) -> int:
        """Return the image pixels along the edge of a latent pixel, by the autoencoder's configuration.

        Raises:
            OSError, ValueError: It can't be read.
        """
        return pixels_a_latent(folder)

    def tokens_read(self, folder: Path, encoder: str) -> int | None:
        """Return how many tokens of a prompt a text encoder reads; None if nothing says it."""
        return self.TOKENS.get(encoder) or read_token_limit(folder, encoder)

    def check_schedule(
        self, config: Mapping[str, Any], kind: str, sampler: str, what: str, steps: int | None = None
    ) -> None:
        """Refuse a sampler that can't express a checkpoint's noise levels; see `schedules.check_schedule`.

        Args:
            steps: Denoising steps; None skips their check.
        """
        if sampler == OWN:
            check_own_scheduler(config, kind, steps, what)
        else:
            check_schedule(config, kind, sampler, what)

    def check_sampling(
        self, what: str, eta: float, negative_prompt: str, true_cfg_scale: float | None = None,
        interval: Sequence[float] | None = None, guidance_scale: float | None = None,
    ) -> None:  # fmt: skip
        """Raise RecipeError for a setting in `ignored`, for `true_cfg_scale` where `guidance_scale` is the same, for an
        interval of guidance that the family can't have, or for a negative prompt without guidance.

        Args:
            what: The checkpoint's name in errors.
            interval: The setting `guidance_interval`.
            guidance_scale: None skips the check of the negative prompt.
        """
        if true_cfg_scale is not None and not self.TRUE_GUIDANCE:
            supporting = join_names(name for name, kind in FAMILIES.items() if kind.TRUE_GUIDANCE)
            raise RecipeError(
                "true_cfg_scale",
                f"{what} is of the family {self.NAME}, which takes no such scale besides guidance_scale; {supporting} "
                "do. Leave it out.",
            )
        for field, reason in self.ignored(eta, negative_prompt, true_cfg_scale).items():
            raise RecipeError(field, f"{what}: {reason}")
        if negative_prompt and guidance_scale is not None and self.free_scale(guidance_scale, true_cfg_scale) <= 1:
            raise RecipeError(
                "negative_prompt",
                f"{what}: it has no effect, because guidance_scale {guidance_scale:g} turns guidance off. Leave "
                "it out, or give a guidance_scale above 1.",
            )
        if interval is not None and not self.GUIDES_IN_ONE_BATCH:
            supporting = join_names(name for name, kind in FAMILIES.items() if kind.GUIDES_IN_ONE_BATCH)
            raise RecipeError(
                "guidance_interval",
                f"{what} is of the family {self.NAME}, which can't leave guidance out in some steps; {supporting} "
                "can. Leave it out.",
            )

    def ignored(self, eta: float, negative_prompt: str, true_cfg_scale: float | None = None) -> dict[str, str]:
        """Return the sampling settings that the family's pipelines would ignore, each with the reason in a sentence."""
        return {}

    def start(self, strength: float, steps: int) -> Start:
        """Return where drawing on a guide starts, in exact arithmetic: 0.58 of 50 steps are 29.

        Args:
            strength: Share of the steps, 0 to 1, as a recipe says it.
            steps: All denoising steps.
        """
        run_steps = whole_part(steps, strength)  # the pipelines round down, in floating point
        return Start(self.strength_of(run_steps, steps), run_steps)

    def strength_of(self, run: int, steps: int) -> float:
        """Return a strength with which the pipelines run exactly `run` of `steps` steps."""
        return strength_of(run, steps)

    def free_scale(self, guidance_scale: float, true_cfg_scale: float | None = None) -> float:
        """Return the scale of classifier-free guidance, which is off at 1 or less."""
        return guidance_scale

    def evaluations(self, guidance_scale: float, true_cfg_scale: float | None = None) -> int:
        """Return how often the denoiser is evaluated in a step."""
        return 2 if self.free_scale(guidance_scale, true_cfg_scale) > 1 else 1

    # --- opening --------------------------------------------------------------------------------

    @abstractmethod
    def pipelines(self) -> Pipelines:
        """Return the pipeline classes."""

    @abstractmethod
    def network_classes(self) -> dict[str, Any]:
        """Return the classes of the parts with weights, by their names in `model_index.json`."""

    @abstractmethod
    def open_tokenizers(self, folder: Path, what: str) -> list[Any]:
        """Open the tokenizers of a checkpoint's directory, limited to the tokens that their text encoders read."""

    @abstractmethod
    def pipeline_options(self, index: Mapping[str, Any], safety: str) -> dict[str, Any]:
        """Return how the text-to-image pipeline is opened, beyond its networks.

        Args:
            index: Output of `weights.read_index`.
            safety: `off`, or `reject` to keep a safety checker.
        """

    def open_others(self, folder: Path, what: str) -> dict[str, Any]:
        """Open the parts without weights that pipelines need besides tokenizers and scheduler, by their names."""
        return {}

    def convert_part(
        self, part: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], network: Any
    ) -> dict[str, Tensor]:
        """Return the weights of a part under diffusers' and transformers' names, for families with `SINGLE_FILE`.

        Args:
            part: The part, such as `unet`.
            tensors: The part's tensors in a single file, with their whole names.
            config: The part's configuration.
            network: The part, whose weights are still to be filled in.

        Raises:
            KeyError: A tensor is missing; names it.
        """
        raise NotImplementedError(f"{self.NAME} has no single files")

    def sibling_options(self, pipeline: Any) -> dict[str, Any]:
        """Return how the other pipelines are made from the text-to-image pipeline, beyond its components."""
        return {}

    def prediction_type(self, scheduler: Mapping[str, Any]) -> str:
        """Return what the denoiser predicts, by its scheduler's configuration."""
        return str(scheduler.get("prediction_type", "epsilon"))

    @abstractmethod
    def takes_mask(self, pipeline: Any) -> bool:
        """Return whether the denoiser was made for inpainting: it also takes a mask and a masked image."""

    # --- drawing with pipelines -----------------------------------------------------------------

    def count_tokens(self, tokenizer: Any, prompt: str) -> int:
        """Return a prompt's number of tokens for a text encoder, with those that its pipelines add."""
        return len(tokenizer(prompt).input_ids)

    @abstractmethod
    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Encode a prompt; return a row of what its pipelines take instead of it, by argument.

        Arguments whose names begin with `negative` hold the negative prompt.

        Args:
            guidance_scale: That of classifier-free guidance, `free_scale`.
            known: The negative prompt's embeddings, if they were computed before.
        """

    def encode_instruction(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, reference: Image.Image
    ) -> dict[str, Tensor]:
        """Like `encode_prompt`, with the reference that the instruction is for, RGB; only if it `SEES_REFERENCE`."""
        raise NotImplementedError(f"{self.NAME} reads instructions without their reference")

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """Return the arguments of a batch from rows of `encode_prompt`, all with the same arguments."""
        import torch

        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    @abstractmethod
    def guidance_options(self, guidance_scale: float, eta: float) -> dict[str, Any]:
        """Return the arguments of a pipeline's call that guide sampling."""

    def image_size(self, size: int) -> dict[str, Any]:
        """Return the arguments with which an image-to-image pipeline is told the size of images, in pixels.

        Pipelines without them take it from the guide.
        """
        return {"height": size, "width": size}

    def inpaint_options(self, size: int) -> dict[str, Any]:
        """Return the arguments with which an inpainting pipeline is told the size of images, in pixels."""
        return {"height": size, "width": size}

    def reference_options(self, references: Sequence[Image.Image], size: int) -> dict[str, Any]:
        """Return the arguments with which an editing pipeline is told the size of images and their references.

        Args:
            references: One an image, RGB, size × size pixels.
            size: Edge of the images in pixels.
        """
        raise NotImplementedError(f"{self.NAME} doesn't edit")

    def set_timesteps(self, scheduler: Any, steps: int, edge: int) -> None:
        """Set a scheduler's steps as the pipelines do.

        Args:
            edge: Edge of the images in latent pixels.
        """
        scheduler.set_timesteps(steps)

    def add_noise(self, scheduler: Any, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Mix latents with noise as at a timestep, (1,)."""
        return scheduler.add_noise(latents, noise, time)

    def expand_words(self, prompt: str, tokenizer: Any) -> str:
        """Return a prompt in which the name of a learned word of several vectors is followed by those of the others."""
        from diffusers.loaders import TextualInversionLoaderMixin

        return str(TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer))

    def draw(self, pipeline: Any, **settings: Any) -> Any:
        """Call a pipeline; return its output, with images as float arrays (n, height, width, 3) in 0..1."""
        return pipeline(**settings, output_type="np")

    # --- training -------------------------------------------------------------------------------

    def check_training(self, what: str, settings: Mapping[str, Any] | None = None) -> None:
        """Check that checkpoints of this family can be trained, and with these settings.

        Args:
            what: The checkpoint's name in errors.
            settings: Settings of fine-tuning or of textual inversion, by field; None checks none.

        Raises:
            FiguregroundError: Nothing here trains checkpoints of this family.
            RecipeError: A setting is in `unsuited`.
        """
        if not self.ADAPTED:
            raise FiguregroundError(
                f"{what} is of the family {self.NAME}, which can't be trained: fine-tuning and learned words are "
                f"supported for {join_names(name for name, kind in FAMILIES.items() if kind.ADAPTED)}."
            )
        for field, reason in self.unsuited(settings or {}).items():
            raise RecipeError(field, f"{what}: {reason}")

    def unsuited(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings of a training that the family doesn't support, each with the reason in a sentence."""
        reasons = {}
        if settings.get("scheduler") == OWN:
            reasons["scheduler"] = "it needs a sampler with DDPM's noise levels. Use ddim."
        if settings.get("noise_levels") not in (None, "uniform"):
            reasons["noise_levels"] = "DDPM's noise levels are equally likely in training. Leave it out."
        return reasons

    def noising(self, scheduler: Any, edge: int, device: torch.device, levels: str | None = None) -> Noising:
        """Return the noise that training adds to latents, and what the denoiser predicts of it.

        Args:
            scheduler: The opened checkpoint's.
            edge: Edge of the images in latent pixels.
            device: That of the latents.
            levels: Distribution of noise levels, `logit-normal` or `uniform`; None for the family's usual one.
        """
        import torch

        from figureground.models.noising import Diffusion

        alphas_bar = scheduler.alphas_cumprod.to(device, torch.float32)
        return Diffusion(alphas_bar, self.prediction_type(scheduler.config))

    def embed(self, encoders: Sequence[Any], ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Embedding:
        """Encode prompts for the denoiser, with gradients, as its pipelines do.

        Args:
            encoders: The text encoders.
            ids: Token ids (n, tokens) for each text encoder.
            masks: For each text encoder, 1 where a token isn't padding.
        """
        raise NotImplementedError(f"{self.NAME} has no training")

    def predict(self, denoiser: Any, noisy: Tensor, time: Tensor, embedding: Embedding, size: int) -> Tensor:
        """Return the denoiser's prediction, (n, channels, height, width).

        Args:
            noisy: Latents with noise.
            time: (n,) timesteps.
            embedding: That of each latent's prompt.
            size: Edge of the images in pixels.
        """
        raise NotImplementedError(f"{self.NAME} has no training")


FAMILIES: Registry[type[Family]] = Registry(
    "figureground.families", "model family",
    {
        "sd": "figureground.models.families.sd:StableDiffusion",
        "sdxl": "figureground.models.families.sdxl:StableDiffusionXL",
        "sd3": "figureground.models.families.sd3:StableDiffusion3",
        "flux": "figureground.models.families.flux:Flux",
        "flux-fill": "figureground.models.families.flux:FluxFill",
        "flux-kontext": "figureground.models.families.flux:FluxKontext",
        "flux2-klein": "figureground.models.families.flux2:Flux2Klein",
        "z-image": "figureground.models.families.z_image:ZImage",
        "qwen-image": "figureground.models.families.qwen_image:QwenImage",
        "qwen-image-edit": "figureground.models.families.qwen_image_edit:QwenImageEdit",
        "qwen-image-edit-plus": "figureground.models.families.qwen_image_edit:QwenImageEditPlus",
    },
    check_subclass(Family, "NAME"),
)  # fmt: skip
"""Model families. Another package adds a `Family` with an entry point in `figureground.families`."""


def recognise(pipeline: object, what: str, inpaint: bool = True) -> Family:
    """Return the family of a checkpoint.

    Args:
        pipeline: The pipeline class, as `model_index.json` names it.
        what: The checkpoint's name in errors.
        inpaint: Whether checkpoints made for inpainting are accepted too.

    Raises:
        FiguregroundError: No family accepts it; names the known families and their pipeline classes.
    """
    classes_by_family = {}
    for name, kind in FAMILIES.items():
        classes_by_family[name] = (*kind.PIPELINES, *kind.INPAINTING) if inpaint else kind.PIPELINES
        if pipeline in classes_by_family[name]:
            return kind()
    families = join_names(f"{name} ({join_names(classes)})" for name, classes in classes_by_family.items() if classes)
    hint = "Another package can add one (docs/models.md)."
    if any(pipeline in kind.INPAINTING for _, kind in FAMILIES.items()):
        hint = "A checkpoint that was made for inpainting only repaints regions, as the method scgs does."
    raise FiguregroundError(f"{what} is a {pipeline}; supported are the families {families}. {hint}")
