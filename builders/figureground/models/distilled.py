"""Recognises checkpoints distilled to a few steps by their names and files. Needs no torch."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from figureground.core.errors import FiguregroundError
from figureground.models.family import recognise
from figureground.models.parts import read_mapping
from figureground.models.weights import local_directory
from figureground.sources.provenance import find_cached_snapshot

_DISTILLED = re.compile(r"(?<![a-z])(turbo|lightning|lcm|hyper|tcd|pcm|dmd2?|flash|schnell)(?![a-z])", re.IGNORECASE)
FEW_STEPS, LITTLE_GUIDANCE = 8, 2.0
"""Approximate maximum steps and guidance that distilled checkpoints are made for."""


def checkpoint_notes(
    checkpoint: str, revision: str | None, steps: int, guidance: float, config: str | None = None
) -> list[str]:
    """Return notes on likely mistakes in how a checkpoint is used; empty if it isn't on this machine.

    Args:
        checkpoint: `pocket`, a directory, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        steps, guidance: See `distilled_note`.
        config: The recipe's `checkpoint_config`.
    """
    folder: Path | None = None
    with contextlib.suppress(FiguregroundError, OSError):
        folder = local_directory(checkpoint, config) or find_cached_snapshot(checkpoint, revision)
    note = distilled_note(folder, checkpoint, steps, guidance) if folder is not None else None
    return [note] if note else []


def distilled_note(folder: Path, checkpoint: str, steps: int, guidance: float) -> str | None:
    """Return a note if a checkpoint was distilled to few steps and a recipe asks for more; else None.

    Turbo (Sauer et al. 2023, arXiv 2311.17042), Lightning (Lin et al. 2024, arXiv 2402.13929), LCM (Luo et al. 2023,
    arXiv 2310.04378) and others draw in 1 to 8 steps with guidance off or nearly so; with 50 steps and guidance 5
    their images are burnt.

    Args:
        folder: The checkpoint's directory.
        checkpoint: Its name in the recipe.
        steps: Denoising steps per image.
        guidance: The recipe's guidance scale.
    """
    index, denoiser, part = read_mapping(folder / "model_index.json"), {}, ""
    with contextlib.suppress(FiguregroundError):  # opening reports an unknown family
        part = recognise(index.get("_class_name"), checkpoint).DENOISER
        denoiser = read_mapping(folder / part / "config.json")
    origins = (content.get("_name_or_path") for content in (index, denoiser))
    names = [Path(checkpoint).name, *(Path(name).name for name in origins if isinstance(name, str))]
    word = next((match[0] for name in names if (match := _DISTILLED.search(name))), None)
    if denoiser.get("time_cond_proj_dim") is not None:  # guidance is an input of the denoiser, as in LCM
        evidence = f"time_cond_proj_dim in its {part}/config.json"
    elif index.get("is_distilled") is True:
        evidence = "is_distilled in its model_index.json"
    elif word:
        evidence = f"{word!r} in its name"
    else:
        return None
    if steps <= FEW_STEPS and guidance <= LITTLE_GUIDANCE:
        return None
    return (
        f"The checkpoint seems to be distilled ({evidence}): such checkpoints are made for 1 to {FEW_STEPS} steps and "
        f"a guidance_scale of at most {LITTLE_GUIDANCE:g}. The recipe asks for {steps} steps per image and "
        f"guidance_scale {guidance:g}."
    )
