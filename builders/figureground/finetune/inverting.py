"""How a token is learned by textual inversion: every setting, checked once at the door. Needs no torch."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from figureground.core.errors import RecipeError, nearest
from figureground.finetune.settings import DTYPES, unfilled
from figureground.recipe.fields import check_number

TOKEN = re.compile(r"<[a-z0-9]+(?:[-_][a-z0-9]+)*>")
"""What a token looks like. Angle brackets keep it apart from words: it would be found within them too."""
PLACE = "{token}"
"""Where a template has the token."""
TEMPLATES = (
    "a photo of a {token}", "a picture of a {token}", "a photo of one {token}", "a {token}", "the {token}",
    "a photograph showing a {token}", "an image with a {token}", "a {token}, seen from nearby",
    "a {token}, seen from afar", "a snapshot of the {token}", "a plain photo of the {token}", "here is a {token}",
)  # fmt: skip
"""Captions that say nothing of an image but that the token is in it."""


@dataclass(frozen=True)
class Inversion:
    """Every setting of a textual inversion.

    The defaults are for Stable Diffusion 1.5 at 512 pixels, near those of Gal et al. (2022, arXiv 2208.01618): they
    train for 5,000 steps, and were not tried here on a real checkpoint.

    Raises:
        RecipeError: A value that can't be used, naming its field.
    """

    checkpoint: str
    """`pocket`, a directory in diffusers' layout, or a Hub id: what the token is learned for."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    vectors: int = 1
    """Embedding vectors that the token stands for; each takes one of the 77 places of a prompt."""
    templates: tuple[str, ...] = TEMPLATES
    """What images are called while the token is learned; `{token}` is its place."""
    masked: bool = False
    """Whether the loss is taken inside masks, so that the object is learned and not what is behind it."""
    size: int | None = None
    """Edge in pixels; none is the checkpoint's own."""
    flip: bool = False
    """Whether images are also shown mirrored."""
    steps: int = 3000
    """Steps of the optimizer."""
    batch_size: int = 4
    """Images a step."""
    learning_rate: float = 2e-3
    """At the first step; it falls to 0 along a line."""
    min_snr_gamma: float | None = None
    """Min-SNR weighting of each sample's loss (Hang et al. 2023, arXiv 2303.09556), 5 as a rule; none is off."""
    gradient_checkpointing: bool = False
    """Whether activations are computed twice to save memory."""
    dtype: str = "auto"
    """What is computed in: float32 or bfloat16 (the vectors are float32); auto is bfloat16 where CUDA has it."""
    save_seconds: float = 600.0
    """Seconds between saves of the whole state, from which a killed run goes on."""
    seed: int = 0
    """Everything random comes from it."""

    EXECUTION: ClassVar[tuple[str, ...]] = ("gradient_checkpointing", "save_seconds")
    """Fields that change nothing of what is learned."""

    def __post_init__(self) -> None:
        for name, (least, most, whole) in _NUMBERS.items():
            check_number(name, getattr(self, name), least, most, whole, name in _OPTIONAL)
        for name in ("masked", "flip", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise RecipeError(name, f"{getattr(self, name)!r} is not true or false.")
        for name in ("checkpoint", "revision"):
            value = getattr(self, name)
            if not (value is None and name == "revision") and not (isinstance(value, str) and value.strip()):
                raise RecipeError(name, f"{value!r} is not a text.")
        if self.dtype not in DTYPES:
            raise RecipeError(
                "dtype", f"{self.dtype!r} is not one of {', '.join(DTYPES)}{nearest(str(self.dtype), DTYPES)}"
            )
        self._check_templates()

    def _check_templates(self) -> None:
        given = self.templates
        if not isinstance(given, tuple) or not given or not all(isinstance(text, str) for text in given):
            raise RecipeError("templates", f"{given!r} is not a list of texts.")
        for text in given:
            if PLACE not in text:
                raise RecipeError("templates", f"{text!r} doesn't hold {PLACE}, the place of the token.")
            if stray := unfilled(text, [PLACE]):
                raise RecipeError("templates", f"nothing fills {stray!r} in {text!r}; known is {PLACE}.")

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


_NUMBERS: dict[str, tuple[float, float, bool]] = {
    "vectors": (1, 75, True), "size": (8, 16384, True), "steps": (1, 10_000_000, True), "batch_size": (1, 4096, True),
    "learning_rate": (1e-9, 1, False), "min_snr_gamma": (1e-9, 1e6, False), "save_seconds": (0, 1e9, False),
    "seed": (0, 2**63 - 1, True),
}  # fmt: skip
"""Numeric fields: the least, the most, and whether they are whole."""
_OPTIONAL = ("size", "min_snr_gamma")


POCKET = Inversion(
    "pocket", templates=("a photo of a {token}", "a picture of a {token}", "a {token}"), masked=True, steps=200,
    batch_size=4, learning_rate=0.01, min_snr_gamma=5.0, save_seconds=30.0, dtype="float32",
)  # fmt: skip
"""For the pocket model. Masked, for from whole images of one scene a word learns that scene too."""


def settings_for(checkpoint: str, **changes: Any) -> Inversion:
    """The settings for a checkpoint: `POCKET` for the pocket model, else the usual; with what differs.

    Raises:
        RecipeError: A value that can't be used.
    """
    if checkpoint == POCKET.checkpoint:
        return dataclasses.replace(POCKET, **changes)
    return Inversion(checkpoint, **changes)


def check_token(token: str) -> None:
    """Raises RecipeError for a token that isn't in angle brackets, or isn't in lower case, as prompts are read."""
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise RecipeError(
            "token",
            f"{token!r} is not of the form '<mug>': small letters or digits in angle brackets, parts joined by - or _.",
        )
