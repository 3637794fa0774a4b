"""Records of a build: a Spec before an image is rendered, then a Sample or a Reject."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

IMAGE_FORMATS = ("jpg", "webp", "png")
"""File formats of images."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the canvas; right and bottom are exclusive."""


@dataclass(frozen=True, slots=True)
class Guide:
    """The image that generation starts from, as ids and numbers without pixels."""

    kind: Literal["paste", "photograph", "inpaint"]
    """`paste`: a cut-out on a scene. `photograph`: the whole source image. `inpaint`: the source image, with a
    masked region to repaint."""
    cutout: str
    """Id of the cut-out or photograph: `{class folder}/{file name}@{content hash}`; for `inpaint`, the key of the
    source image."""
    template: str | None = None
    """Id of the scene, in the same form."""
    box: Box | None = None
    """Box into which the cut-out is pasted."""
    flip: bool = False
    """Whether the cut-out is mirrored."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Guide:
        """Return the guide saved in provenance or by `Spec.to_json`."""
        return cls(**{**saved, "box": tuple(saved["box"]) if saved["box"] else None})


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything that decides one image. Small, serialisable as JSON, made without weights."""

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
    """Seed of the image's own generator, 0 to 2**63 - 1."""
    guide: Guide | None = None
    concept: str | None = None
    """Name of the fine-tuned concept that draws it; None for the recipe's checkpoint itself."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Spec:
        """Return the Spec saved by `to_json`."""
        return cls(**{**saved, "guide": Guide.from_json(saved["guide"]) if saved["guide"] else None})

    def to_json(self) -> dict[str, Any]:
        saved = dataclasses.asdict(self)
        if self.concept is None:  # keeps the records of other methods as in earlier releases
            del saved["concept"]
        return saved


@dataclass(slots=True)
class Sample:
    """A rendered Spec."""

    spec: Spec
    image: Image.Image
    """RGB."""
    guide: Image.Image | None = None
    """RGB, the guide of the generation; kept if the recipe's `keep` names it."""
    mask: Image.Image | None = None
    """L, the foreground of the guide; for an inpainted sample, the repainted region, in whole latent pixels."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A planned Spec whose image was rejected."""

    spec: Spec
    reason: str
    """`non-finite`, `flat` or `safety-flagged`."""


def make_key(split: str, foreground: int, background: int, i: int) -> str:
    """Return the key of the i-th image of a cell."""
    return f"{split}-{foreground:04d}-{background:02d}-{i:05d}"


def parse_labels(key: str) -> tuple[int, int] | None:
    """Return foreground and background label in a key that `make_key` made; None for another text."""
    parts = key.rsplit("-", 3)
    numbers = parts[1:]
    if len(numbers) != 3 or not all(part.isascii() and part.isdecimal() for part in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def derive_seed(seed: int, *parts: str) -> int:
    """Return a number from 0 to 2**63 - 1 that depends only on the recipe's seed and `parts`."""
    digest = hashlib.sha256("\x1f".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
