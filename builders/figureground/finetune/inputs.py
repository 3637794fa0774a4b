"""The recorded inputs of a concept: a run with other inputs is refused, and the differences are listed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.files import read_json, replace_text
from figureground.core.hashing import content_hash
from figureground.diffusion.checkpoint import download
from figureground.finetune import priors
from figureground.finetune.preflight import INPUTS
from figureground.finetune.settings import Finetuning, fingerprint_network
from figureground.finetune.training_images import TrainingImages
from figureground.models.concept_files import read_concept
from figureground.models.weights import check_files, fingerprint, local_directory, read_family
from figureground.recipe.document import FORMAT

PLACES = ("checkpoint", "feature_model", "tiny_autoencoder")
"""Settings that may name a file or a directory."""


def identify(
    noun: str,
    label: str,
    settings: Finetuning,
    references: TrainingImages,
    prior: Path | None,
    components: Path | None,
    class_folder: Path | None = None,
) -> dict[str, Any]:
    """Return everything that determines a concept, as JSON: contents instead of paths."""
    fields = settings.identity_fields()
    identity = {
        "format": FORMAT, "noun": noun, "label": label, **fields,
        **{name: _strip_directory(fields[name]) for name in PLACES},
        "checkpoint_content": fingerprint(settings.checkpoint, settings.revision),
        "feature_model_content": fingerprint_network(settings),
        "references": references.to_json()["used"],
    }  # fmt: skip
    if prior is not None and priors.has_own_images(prior):
        identity["prior"] = priors.hash_own_images(prior)["sha256"]
    if settings.needs_class_images and class_folder is not None and priors.has_own_images(class_folder):
        identity["class_images_content"] = priors.hash_own_images(class_folder)["sha256"]
    if components is not None and settings.sfsl_weight and fingerprint_network(settings) is not None:
        identity["components_content"] = content_hash(components) if components.is_file() else None
    return json.loads(json.dumps(identity))


def _strip_directory(name: str | None) -> str | None:
    """Return a name for storage; for a local file or directory, only its last part."""
    return Path(name).expanduser().resolve().name if name and Path(name).expanduser().exists() else name


def compare(out: Path, identity: dict[str, Any]) -> None:
    """Raise FiguregroundError if a directory's concept has other inputs."""
    try:
        recorded = read_json(out / INPUTS)
        changes = describe_differences(_key_references_by_file(recorded), _key_references_by_file(identity))
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{out / INPUTS} is damaged ({error}). Give another directory.") from None
    if changes:
        raise FiguregroundError(
            f"--out {out} holds a concept from other inputs:\n  " + "\n  ".join(changes[:12])
            + "\nGive another directory, or the same inputs again."
        )  # fmt: skip


def _key_references_by_file(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity with references keyed by file name, so that differences are reported by file."""
    return {**identity, "references": {each["file"]: each for each in identity["references"]}}


def remember(out: Path, identity: dict[str, Any]) -> None:
    """Write the inputs of a directory's concept."""
    replace_text(out / INPUTS, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")


def choose_size(settings: Finetuning, out: Path, finished: bool) -> int:
    """Return the edge in pixels of a concept's images: that of a finished concept, otherwise from `choose_edge`."""
    if finished and settings.size is None:  # avoids a download
        return int(read_concept(out).facts["size"])
    return choose_edge(settings.checkpoint, settings.revision, settings.size)


def choose_edge(checkpoint: str, revision: str | None, size: int | None, inpaint: bool = False) -> int:
    """Return the edge in pixels: `size`, or the checkpoint's own; with `inpaint`, inpainting checkpoints are accepted.

    Raises:
        RecipeError: The checkpoint doesn't specify its size.
        FiguregroundError: The checkpoint doesn't exist.
    """
    if size is not None:
        return size
    folder = local_directory(checkpoint) or download(checkpoint, revision)
    check_files(folder, checkpoint, inpaint)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return read_family(folder, checkpoint).native_size(folder)
    raise RecipeError("size", f"the checkpoint {checkpoint!r} doesn't specify its own; give --size.")
