"""Settings of learning a token by textual inversion. Needs no torch."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from figureground.core.errors import RecipeError
from figureground.recipe.prompts import find_unfilled
from figureground.recipe.settings import EXECUTION, Names, Text, settings

TOKEN = re.compile(r"<[a-z0-9]+(?:[-_][a-z0-9]+)*>")
"""Pattern of tokens. Without angle brackets, a token would also be found inside other words."""
PLACE = "{token}"
"""Placeholder of the token in templates."""
TEMPLATES = (
    "a photo of a {token}", "a picture of a {token}", "a photo of one {token}", "a {token}", "the {token}",
    "a photograph showing a {token}", "an image with a {token}", "a {token}, seen from nearby",
    "a {token}, seen from afar", "a snapshot of the {token}", "a plain photo of the {token}", "here is a {token}",
)  # fmt: skip
"""Captions that describe nothing of an image except the token."""


@settings(frozen=True)
class Inversion:
    """Settings of a textual inversion.

    The defaults are for Stable Diffusion 1.5 at 512 pixels, near those of Gal et al. (2022, arXiv 2208.01618), who
    train for 5,000 steps. They haven't been tested here on a real checkpoint.

    Raises:
        RecipeError: A value is invalid; the error names its field.
    """

    checkpoint: Annotated[Text, Names("directory")]
    """Checkpoint that the token is learned for: `pocket`, a directory in diffusers' layout, or a Hub id."""
    revision: Text | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    vectors: Annotated[int, Field(ge=1, le=75)] = 1
    """Embedding vectors of the token; each takes one of a prompt's 77 positions."""
    templates: Annotated[tuple[str, ...], Strict(False)] = TEMPLATES
    """Captions used in training; `{token}` is the placeholder of the token."""
    masked: bool = False
    """Whether the loss is restricted to masks, so that the token learns the object and not its background."""
    size: Annotated[int, Field(ge=8, le=16384)] | None = None
    """Edge of the images in pixels; none means the checkpoint's own."""
    flip: bool = False
    """Whether mirrored copies of the images are also used."""
    max_train_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 3000
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Images per step."""
    learning_rate: Annotated[float, Field(ge=1e-9, le=1)] = 2e-3
    """Learning rate at the first step; it decays linearly to 0."""
    min_snr_gamma: Annotated[float, Field(ge=1e-9, le=1e6)] | None = None
    """γ of the Min-SNR weighting of each sample's loss (Hang et al. 2023, arXiv 2303.09556), usually 5; none turns it
    off."""
    gradient_checkpointing: Annotated[bool, EXECUTION] = False
    """Whether activations are recomputed in the backward pass, to save memory."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation: float32 or bfloat16 (the vectors stay float32); auto is bfloat16 if the GPU
    or CPU computes it natively, else float32."""
    save_seconds: Annotated[Annotated[float, Field(ge=0, le=1e9)], EXECUTION] = 600.0
    """Seconds between saves of the whole state, from which a stopped run resumes."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Seed for everything random."""

    def __post_init__(self) -> None:
        self._check_templates()

    def _check_templates(self) -> None:
        templates = self.templates
        if not templates:
            raise RecipeError("templates", "the list is empty; give one caption or more.")
        for text in templates:
            if PLACE not in text:
                raise RecipeError("templates", f"{text!r} lacks {PLACE}, the placeholder of the token.")
            if stray := find_unfilled(text, [PLACE]):
                raise RecipeError("templates", f"nothing fills {stray!r} in {text!r}; known is {PLACE}.")

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


POCKET = Inversion(
    "pocket", templates=("a photo of a {token}", "a picture of a {token}", "a {token}"), masked=True,
    max_train_steps=200,
    batch_size=4, learning_rate=0.01, min_snr_gamma=5.0, save_seconds=30.0, dtype="float32",
)  # fmt: skip
"""Settings for the pocket model. They use masks, because from whole images of one scene a word learns the scene,
too."""


def settings_for(checkpoint: str, **changes: Any) -> Inversion:
    """Return the settings for a checkpoint: `POCKET` for the pocket model, else the defaults; with `changes`.

    Raises:
        RecipeError: A value is invalid.
    """
    if checkpoint == POCKET.checkpoint:
        return dataclasses.replace(POCKET, **changes)
    return Inversion(checkpoint, **changes)


def check_token(token: str) -> None:
    """Raise RecipeError for a token that isn't lowercase or isn't in angle brackets. Prompts are read in lower case."""
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise RecipeError(
            "token",
            f"{token!r} is not of the form '<mug>': lowercase letters or digits in angle brackets, joined by - or _.",
        )
