"""What each sample's provenance says of how it was drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.render import Sampling, find_checkpoint_start
from figureground.models.family import OWN
from figureground.recipe.sample import Guide, Spec
from figureground.running.opened_model import OpenedModel

if TYPE_CHECKING:
    from figureground.methods.base import Method

PROVENANCE_NAMES = {"num_inference_steps": "steps"}
"""Fields of the recipe that have another name in a sample's provenance, which is part of the dataset's format."""


def make_provenance(method: Method, model: OpenedModel) -> Callable[[Spec], dict[str, Any]]:
    """Return a function that returns the provenance of a spec's sample, JSON-able."""
    common = {
        **model.checkpoint.facts,
        **{PROVENANCE_NAMES.get(name, name): value for name, value in method.provenance_settings().items()},
        "device": model.numerics["device"],
        "dtype": model.numerics["dtype"],
        "versions": model.numerics["versions"],
    }
    start_provenance = _make_start_provenance(model.checkpoint, model.sampling)

    def provenance(spec: Spec) -> dict[str, Any]:
        return {
            "foreground_name": spec.foreground_name, "background_name": spec.background_name, "seed": spec.seed,
            "guide": dataclasses.asdict(spec.guide) if spec.guide else None, **common,
            **(start_provenance(spec.guide) if spec.guide else {}), **method.provenance(spec),
        }  # fmt: skip

    return provenance


def _make_start_provenance(checkpoint: Checkpoint, sampling: Sampling) -> Callable[[Guide], dict[str, Any]]:
    """Return a function that returns what provenance says of where drawing on a guide started.

    That is nothing for `strength` with DDPM's noise levels, whose records stay as in earlier releases. An edited image
    doesn't start from its guide.
    """
    if sampling.edit:
        return lambda guide: {"route": "edit"}
    if sampling.noise is None and checkpoint.family.SCHEDULER != OWN:
        return lambda guide: {}
    start = find_checkpoint_start(checkpoint, sampling)
    noise = 0.0 if start.noise is None else round(start.noise, 6)

    def start_provenance(guide: Guide) -> dict[str, Any]:
        # Repainting with all steps starts from noise alone.
        from_noise = guide.kind == "inpaint" and start.steps >= sampling.num_inference_steps
        return {"noise_at_start": 1.0 if from_noise else noise, "steps_run": start.steps}

    return start_provenance
