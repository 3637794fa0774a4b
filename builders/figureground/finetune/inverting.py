"""How a token is learned by textual inversion: every setting, checked once at the door. Needs no torch."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from figureground.core.errors import RecipeError
from figureground.finetune.settings import unfilled
from figureground.recipe.settings import EXECUTION, Names, Text, settings

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


@settings(frozen=True)
class Inversion:
    """Every setting of a textual inversion.

    The defaults are for Stable Diffusion 1.5 at 512 pixels, near those of Gal et al. (2022, arXiv 2208.01618): they
    train for 5,000 steps, and were not tried here on a real checkpoint.

    Raises:
        RecipeError: A value that can't be used, naming its field.
    """

    checkpoint: Annotated[Text, Names("directory")]
    """`pocket`, a directory in diffusers' layout, or a Hub id: what the token is learned for."""
    revision: Text | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    vectors: Annotated[int, Field(ge=1, le=75)] = 1
    """Embedding vectors that the token stands for; each takes one of the 77 places of a prompt."""
    templates: Annotated[tuple[str, ...], Strict(False)] = TEMPLATES
    """What images are called while the token is learned; `{token}` is its place."""
    masked: bool = False
    """Whether the loss is taken inside masks, so that the object is learned and not what is behind it."""
    size: Annotated[int, Field(ge=8, le=16384)] | None = None
    """Edge in pixels; none is the checkpoint's own."""
    flip: bool = False
    """Whether images are also shown mirrored."""
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 3000
    """Steps of the optimizer."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Images a step."""
    learning_rate: Annotated[float, Field(ge=1e-9, le=1)] = 2e-3
    """At the first step; it falls to 0 along a line."""
    min_snr_gamma: Annotated[float, Field(ge=1e-9, le=1e6)] | None = None
    """Min-SNR weighting of each sample's loss (Hang et al. 2023, arXiv 2303.09556), 5 as a rule; none is off."""
    gradient_checkpointing: Annotated[bool, EXECUTION] = False
    """Whether activations are computed twice to save memory."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What is computed in: float32 or bfloat16 (the vectors are float32); auto is bfloat16 where CUDA has it."""
    save_seconds: Annotated[Annotated[float, Field(ge=0, le=1e9)], EXECUTION] = 600.0
    """Seconds between saves of the whole state, from which a killed run goes on."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Everything random comes from it."""

    def __post_init__(self) -> None:
        self._check_templates()

    def _check_templates(self) -> None:
        given = self.templates
        if not given:
            raise RecipeError("templates", "the list is empty; give one caption or more.")
        for text in given:
            if PLACE not in text:
                raise RecipeError("templates", f"{text!r} doesn't hold {PLACE}, the place of the token.")
            if stray := unfilled(text, [PLACE]):
                raise RecipeError("templates", f"nothing fills {stray!r} in {text!r}; known is {PLACE}.")

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


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
