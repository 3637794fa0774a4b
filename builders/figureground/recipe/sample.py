"""The records that flow through a build: a Spec before any pixel exists, then a Sample or a Reject."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

IMAGE_FORMATS = ("jpg", "webp", "png")
"""What images are written as."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the canvas; right and bottom lie outside."""


@dataclass(frozen=True, slots=True)
class Guide:
    """The image that generation starts from, as ids and numbers; no pixels."""

    kind: Literal["paste", "photograph", "inpaint"]
    """`paste`: a cut-out on a template. `photograph`: the source image itself, whole. `inpaint`: the source image,
    of which the region of a mask is repainted."""
    cutout: str
    """Id of the cut-out, or of the photograph: `{class folder}/{file name}@{content hash}`; of `inpaint`, the key of
    the source image."""
    template: str | None = None
    """Id of the background template, in the same form."""
    box: Box | None = None
    """Where the cut-out is pasted."""
    flip: bool = False
    """Whether the cut-out is mirrored."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Guide:
        """The guide that provenance, or `Spec.to_json`, told of."""
        return cls(**{**saved, "box": tuple(saved["box"]) if saved["box"] else None})


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything that decides one image. Small, JSON-able, made without weights."""

    key: str
    """`{split}-{foreground:04d}-{background:02d}-{i:05d}`, unique in the dataset."""
    split: str
    foreground: int
    """Label: position in the list of foreground names."""
    background: int
    foreground_name: str
    background_name: str
    prompt: str
    seed: int
    """Seeds the image's own generator, 0 to 2**63 - 1."""
    guide: Guide | None = None
    concept: str | None = None
    """Name of the fine-tuned concept that draws it; None where the recipe's checkpoint itself does."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Spec:
        """The Spec that `to_json` told of."""
        return cls(**{**saved, "guide": Guide.from_json(saved["guide"]) if saved["guide"] else None})

    def to_json(self) -> dict[str, Any]:
        saved = dataclasses.asdict(self)
        if self.concept is None:  # so that what is saved of other methods stays as it was
            del saved["concept"]
        return saved


@dataclass(slots=True)
class Sample:
    """A rendered Spec."""

    spec: Spec
    image: Image.Image
    """RGB."""
    guide: Image.Image | None = None
    """RGB, what the generation started from; kept when a recipe asks for it."""
    mask: Image.Image | None = None
    """L, what of the guide is foreground; of an inpainted sample, what was repainted: whole latent pixels."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A planned Spec that gave no image worth keeping."""

    spec: Spec
    reason: str
    """`non-finite`, `flat` or `safety-flagged`."""


def key(split: str, foreground: int, background: int, i: int) -> str:
    """The name of the i-th image of a cell."""
    return f"{split}-{foreground:04d}-{background:02d}-{i:05d}"


def derive_seed(seed: int, *parts: str) -> int:
    """A number from 0 to 2**63 - 1 that depends on the recipe's seed and `parts` alone."""
    digest = hashlib.sha256("\x1f".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
