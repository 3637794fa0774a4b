"""Records in which families of diffusion models describe their checkpoints. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Route = Literal["text", "image", "inpaint", "edit"]
"""How an image is drawn: from noise, from a guide, by repainting the masked region of a guide, or by an instruction
that says what to change in a guide, the reference."""


class Embedding(NamedTuple):
    """Prompt embeddings for a denoiser."""

    hidden: Tensor
    """(n, tokens, width)."""
    pooled: Tensor | None
    """(n, width), for families whose denoiser takes it."""

    def take(self, rows: Tensor) -> Embedding:
        return Embedding(self.hidden[rows], None if self.pooled is None else self.pooled[rows])


class Pipelines(NamedTuple):
    """Pipeline classes of diffusers by route, None for a route that a family lacks; their parts are the same."""

    text: Any
    """The one that a checkpoint's parts are opened with, also for families without text-to-image."""
    image: Any
    inpaint: Any
    edit: Any = None


class Start(NamedTuple):
    """Where drawing on a guide starts."""

    strength: float
    """The strength that the pipeline is given."""
    steps: int
    """The steps that it runs with it."""
    noise: float | None = None
    """The share of noise there, if it was computed: noise / (signal + noise), 0 to 1."""


class Size(NamedTuple):
    """Sizes of a kind of checkpoint, in numbers of weights."""

    whole: int
    trained: int
    """The parts in `Family.ADAPTED`."""
    rank: int
    """Adapters on all layers in `Family.ADAPTED`, per rank."""


class SingleFile(NamedTuple):
    """How checkpoints of a family lie in one safetensors file, in the naming of their authors."""

    marks: tuple[tuple[str, ...], ...]
    """Beginnings of tensor names; a file of the family has, for each group, a tensor with one of them."""
    lacks: tuple[str, ...]
    """Beginnings of tensor names that no file of the family has."""
    parts: Mapping[str, tuple[str, ...]]
    """The parts that a file may hold, each with the beginnings that its tensors' names may have; the first counts that
    the file has."""
    sizes: Mapping[tuple[str, str], tuple[str, int]]
    """By part and entry of its configuration, the ending of a tensor's name and the axis with that size."""
    sources: Callable[[Mapping[str, tuple[int, ...]]], tuple[str, ...]]
    """From the shapes of a file's tensors, Hub ids of checkpoints that share its configuration; the usual one first."""
