"""Families of diffusion models: what they share, and the registry that other packages extend. Needs no torch.

A family says how its checkpoints are recognised, which parts they have and how these are opened, how prompts become
inputs of the denoiser, and what fine-tuning changes. Everything else that handles checkpoints asks the family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from figureground.core.errors import FiguregroundError, listed
from figureground.core.registry import Registry, subclasses

if TYPE_CHECKING:
    from torch import Tensor


class Embedding(NamedTuple):
    """Prompt embeddings for a denoiser."""

    hidden: Tensor
    """(n, tokens, width)."""
    pooled: Tensor | None
    """(n, width), for families whose denoiser takes it."""

    def take(self, rows: Tensor) -> Embedding:
        return Embedding(self.hidden[rows], None if self.pooled is None else self.pooled[rows])


class Size(NamedTuple):
    """Sizes of a kind of checkpoint, in numbers of weights."""

    whole: int
    trained: int
    """The parts in `Family.ADAPTED`."""
    rank: int
    """Adapters on all layers in `Family.ADAPTED`, per rank."""


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
    DENOISER: ClassVar[str]
    """The part that denoises, such as `unet`."""
    TEXTS: ClassVar[Mapping[str, str]]
    """Its text encoders in order, each with its tokenizer."""
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]]
    """Parts that fine-tuning changes: the denoiser and text encoders, each with the layers that get adapters."""
    TOKEN_KEYS: ClassVar[tuple[str, ...]] = ()
    """Tensor names of a learned token's vectors in a file, one a text encoder; if empty, the name is the token."""
    HAS_SAFETY_CHECKER: ClassVar[bool] = False
    """Whether its pipelines may have a safety checker."""
    LEAVES_WEIGHTS_UNUSED: ClassVar[bool] = False
    """Whether a prediction uses only some weights of the text encoders, so that others get no gradient."""

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts with weights."""
        return (self.DENOISER, "vae", *self.TEXTS)

    # --- files, without torch -------------------------------------------------------------------

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

    # --- opening --------------------------------------------------------------------------------

    @abstractmethod
    def pipelines(self) -> tuple[Any, Any, Any]:
        """Return the pipeline classes for text-to-image, image-to-image and inpainting."""

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

    @abstractmethod
    def sibling_options(self, pipeline: Any) -> dict[str, Any]:
        """Return how the other pipelines are made from the text-to-image pipeline, beyond its components."""

    @abstractmethod
    def takes_mask(self, pipeline: Any) -> bool:
        """Return whether the denoiser was made for inpainting: it also takes a mask and a masked image."""

    # --- drawing with pipelines -----------------------------------------------------------------

    @abstractmethod
    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Encode a prompt; return what its pipelines take instead of it, by argument.

        Arguments whose names begin with `negative` hold the negative prompt.

        Args:
            known: The negative prompt's embeddings, if they were computed before.
        """

    @abstractmethod
    def guidance_options(self, guidance_scale: float, eta: float) -> dict[str, Any]:
        """Return the arguments of a pipeline's call that guide sampling."""

    # --- training -------------------------------------------------------------------------------

    @abstractmethod
    def embed(self, encoders: Sequence[Any], ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Embedding:
        """Encode prompts for the denoiser, with gradients, as its pipelines do.

        Args:
            encoders: The text encoders.
            ids: Token ids (n, tokens) for each text encoder.
            masks: For each text encoder, 1 where a token isn't padding.
        """

    @abstractmethod
    def predict(self, denoiser: Any, noisy: Tensor, time: Tensor, embedding: Embedding, size: int) -> Tensor:
        """Return the denoiser's prediction, (n, channels, height, width).

        Args:
            noisy: Latents with noise.
            time: (n,) timesteps.
            embedding: That of each latent's prompt.
            size: Edge of the images in pixels.
        """


FAMILIES: Registry[type[Family]] = Registry(
    "figureground.families", "model family",
    {
        "sd": "figureground.models.families.sd:StableDiffusion",
        "sdxl": "figureground.models.families.sdxl:StableDiffusionXL",
    },
    subclasses(Family, "NAME"),
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
    known = {}
    for name, kind in FAMILIES.items():
        known[name] = (*kind.PIPELINES, *kind.INPAINTING) if inpaint else kind.PIPELINES
        if pipeline in known[name]:
            return kind()
    families = listed(f"{name} ({listed(classes)})" for name, classes in known.items())
    raise FiguregroundError(f"{what} is a {pipeline}; supported are the families {families}.")
