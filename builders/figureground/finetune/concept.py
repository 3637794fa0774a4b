"""Writes the result of a fine-tuning in diffusers' format, and opens a finished concept for rendering."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from figureground.core.errors import FiguregroundError
from figureground.core.extras import require
from figureground.core.files import read_json
from figureground.diffusion.checkpoint import Checkpoint, open_checkpoint
from figureground.models.concept_files import CHECKPOINT, CONCEPT, LORA, Concept, hash_weights, read_concept
from figureground.models.headers import read_tensors
from figureground.models.opening import load_adapters
from figureground.models.weights import VARIANTS, check_files, fingerprint, list_weights, read_index

__all__ = ["CHECKPOINT", "CONCEPT", "LORA", "Concept", "hash_weights", "open_concept", "read_concept"]

COPIED_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
"""Suffixes of a checkpoint's files, excluding pickles and other formats."""
HALF_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
"""16-bit types of weights in safetensors files."""


def write_checkpoint(base: Path, trained_parts: Mapping[str, nn.Module], out: Path) -> None:
    """Write a copy of the checkpoint `base` with some parts replaced, atomically.

    Weights are stored in the base's dtype. The given parts are converted to it in place.

    Args:
        base: A checkpoint directory in diffusers' layout.
        trained_parts: Replacement parts by name, such as `unet`.
        out: Output directory; an existing one is replaced.

    Raises:
        FiguregroundError: The base is no longer a complete checkpoint.
    """
    variant = check_files(base, base.name)
    index = read_index(base, base.name)
    draft = out.with_name(f".{out.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for part, value in index.items():
            if part in trained_parts:
                _write_part(trained_parts[part], read_stored_dtype(base / part, variant), draft / part, variant)
            elif (base / part).is_dir() and value[0] is not None:
                _copy_part(base / part, draft / part, variant)
        shutil.copyfile(base / "model_index.json", draft / "model_index.json")
        for config in draft.rglob("*.json"):  # don't publish local paths
            content = read_json(config)
            if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
                config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_stored_dtype(part: Path, variant: str | None) -> torch.dtype:
    """Return the storage dtype of a checkpoint's part in a variant: float32, or a 16-bit type."""
    path = (list_weights(part, variant) or list_weights(part, None))[0]
    kinds = {tensor.dtype for tensor in read_tensors(path, str(path)).values()} - {"I64", "I32"}
    return HALF_DTYPES[kinds.pop()] if len(kinds) == 1 and kinds <= set(HALF_DTYPES) else torch.float32


def _write_part(part: nn.Module, dtype: torch.dtype, out: Path, variant: str | None) -> None:
    # For mypy, an unknown attribute of a module is a Tensor or a Module.
    part.to("cpu", dtype).save_pretrained(out, safe_serialization=True, variant=variant)  # type: ignore[operator]
    config = out / "config.json"
    content = read_json(config)
    if "dtype" in content:
        # Otherwise a text encoder opens in its storage dtype and other parts in float32, and on a CPU the first matrix
        # product fails.
        config.write_text(json.dumps({**content, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def _copy_part(part: Path, out: Path, variant: str | None) -> None:
    out.mkdir()
    # An untrained part, such as a safety checker, may exist only without the variant suffix.
    weight_files = list_weights(part, variant) or list_weights(part, None)
    for file in sorted(part.iterdir()):
        in_variant = any(f".{name}." in file.name for name in VARIANTS if name) == (variant is not None)
        is_index = ".safetensors.index" in file.name
        is_weights = file.suffix == ".safetensors"
        if (
            file.is_file()
            and file.suffix in COPIED_SUFFIXES
            and (file in weight_files if is_weights else not is_index or in_variant)
        ):
            shutil.copyfile(file, out / file.name)


# Adapters


def write_lora(checkpoint: Checkpoint, out: Path) -> None:
    """Write the adapters of a checkpoint's denoiser and text encoders for `load_lora_weights`.

    Args:
        out: The output file.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    layers, pipeline = {}, checkpoint.text_to_image
    for part in checkpoint.family.ADAPTED:
        network = getattr(pipeline, part, None)
        if network is not None and getattr(network, "peft_config", None):
            adapter_state = get_peft_model_state_dict(network)
            # In diffusers' files, a transformer's layers have peft's names.
            layers[f"{part}_lora_layers"] = (
                adapter_state if part == "transformer" else convert_state_dict_to_diffusers(adapter_state)
            )
    draft = out.with_name(f".{out.name}.part")
    try:
        type(pipeline).save_lora_weights(draft, **layers, weight_name=out.name, safe_serialization=True)
        os.replace(draft / out.name, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


# Opening


def open_concept(
    concept: Concept,
    *,
    device: torch.device,
    dtype: torch.dtype,
    scheduler: str | None = None,
    safety: str = "reject",
    base: str | None = None,
) -> Checkpoint:
    """Open a finished concept, like `open_checkpoint`.

    Adapters are merged into the base's weights, so no layers are added.

    Args:
        base: Location of the checkpoint that adapters were trained on, if it has moved.

    Raises:
        FiguregroundError: The concept is incomplete, peft isn't installed, or the base isn't the one that adapters
            were trained on.
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype, "scheduler": scheduler, "safety": safety}
    base_facts = concept.facts["base"]
    if concept.kind == "lora":
        require("peft", "a concept of adapters")
        location = base or concept.checkpoint
        content = fingerprint(location, None)
        if base_facts["fingerprint"].startswith("sha256:") and content != base_facts["fingerprint"]:
            raise FiguregroundError(
                f"concept {concept.folder}: its adapters were learned on {base_facts['checkpoint']} "
                f"({base_facts['fingerprint'][:19]}), but {location} is {content[:19]}. Give the original checkpoint."
            )
        opened = open_checkpoint(location, concept.revision, **options)
        pipeline = opened.text_to_image
        load_adapters(pipeline, concept.folder, LORA)
        pipeline.fuse_lora(list(opened.family.ADAPTED))  # by default, FLUX's pipeline leaves its text encoder out
        pipeline.unload_lora_weights()
    else:
        opened = open_checkpoint(str((concept.folder / CHECKPOINT).resolve()), **options)
    facts = {
        **opened.facts, "checkpoint": base_facts["checkpoint"],
        "revision": base_facts["revision"] or base_facts["fingerprint"][:19],
        "concept": concept.name, "concept_sha256": concept.sha256,
    }  # fmt: skip
    return replace(opened, facts=facts)
