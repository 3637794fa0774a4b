"""Inputs of a fine-tuning, checked before torch is imported."""

from __future__ import annotations

from pathlib import Path

from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, RecipeError, plural
from figureground.finetune.settings import Finetuning
from figureground.models.needs import missing_packages, refuse_absent_classifier, refuse_featureless
from figureground.models.single_file import refuse_training
from figureground.models.weights import (
    check_files,
    check_size,
    edge_multiple,
    local_directory,
    read_family,
    refuse_revision,
)
from figureground.sources.images import list_images
from figureground.sources.references import MIN_REFERENCES
from figureground.training.work_directory import Work, refuse_other_content

INPUTS = "finetuning.json"
WORK = Work((INPUTS,), ".finetune.lock", "is fine-tuning there")
"""Fine-tuning in a directory."""


def check_names(noun: str, label: str, identifier: str) -> None:
    """Raise RecipeError for a noun, class or identifier that no tokenizer could use."""
    for field, text in (("noun", noun), ("class", label)):
        if not text.strip() or text != " ".join(text.split()):
            raise RecipeError(field, f"{text!r} is empty or has stray spaces; give one or a few words.")
        if set(text) & set("{}"):
            raise RecipeError(field, f"{text!r} has braces, which mark placeholders in prompts; give plain words.")
    if not identifier.isalnum():
        raise RecipeError("identifier", f"{identifier!r} is not one word of letters and digits, such as 'sks'.")


def check_inputs(
    references: Path, noun: str, label: str, out: Path, settings: Finetuning, *, prior: Path | None,
    components: Path | None, device: str, class_folder: Path | None = None,
) -> None:  # fmt: skip
    """Check the inputs of a fine-tuning, as far as possible without torch and without decoding images.

    Raises:
        FiguregroundError: References, prior, components, checkpoint, feature network or directory can't be used.
    """
    check_names(noun, label, settings.identifier)
    check_device(device, "--device")
    if settings.features == "neural-pca" and settings.sfsl_weight and components is None:
        raise RecipeError("components", "features=neural-pca needs the class's components: --components FILE.")
    if components is not None and not components.is_file():
        raise RecipeError("components", f"there is no file {components}.")
    for field, folder in (("prior", prior), ("class_folder", class_folder)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise RecipeError(field, f"{folder} is a file; give a directory.")
    refuse_other_content(out, WORK)
    if not references.is_dir():
        raise FiguregroundError(f"--references {references}: there is no such directory.")
    if (count := len(list_images(references))) < MIN_REFERENCES:
        raise FiguregroundError(
            f"--references {references}: it holds {plural(count, 'image')}; give {MIN_REFERENCES} or more."
        )
    if settings.reads_features and settings.feature_model is not None:
        refuse_featureless("--feature-model", settings.feature_model)
        refuse_absent_classifier("--feature-model", settings.feature_model)
    needs = missing_packages("--lora-rank", ["peft"]) if settings.lora_rank is not None else []
    needs += missing_packages("--eight-bit-adam", ["bitsandbytes"]) if settings.eight_bit_adam else []
    for need in needs:
        raise FiguregroundError(f"{need.field}: {need.what}: {need.command}")
    refuse_training(settings.checkpoint)
    base = local_directory(settings.checkpoint)
    refuse_revision(settings.checkpoint, settings.revision, base)
    if base is not None:
        check_files(base, settings.checkpoint)
        read_family(base, settings.checkpoint).check_training(f"checkpoint {settings.checkpoint!r}", settings.to_json())
        if settings.size is not None:
            check_size(settings.size, edge_multiple(base, settings.checkpoint))
