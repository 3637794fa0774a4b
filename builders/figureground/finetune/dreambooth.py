"""Fine-tunes a diffusion model on a concept: a few reference images become a word that the model can draw.

DreamBooth (Ruiz et al. 2023, arXiv 2208.12242) with prior preservation, text encoder and denoiser together, and the
spurious-feature similarity loss of `figureground.finetune.similarity`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch

from figureground.core import signals
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.extras import require
from figureground.core.terminal import print_note
from figureground.diffusion.checkpoint import Checkpoint
from figureground.finetune import identifier, inputs
from figureground.finetune.base import choose_dtype, open_base
from figureground.finetune.concept_run import ConceptRun
from figureground.finetune.feature_network import open_feature_network, set_up_similarity
from figureground.finetune.preflight import WORK
from figureground.finetune.previews import PREVIEWS
from figureground.finetune.request import FinetuneRequest, SavedProgress
from figureground.finetune.settings import POCKET, Finetuning, settings_for
from figureground.finetune.training_images import TrainingImages, format_notes, read_training_images
from figureground.models.concept_files import CONCEPT, read_concept
from figureground.models.weights import check_size, local_directory, refuse_revision
from figureground.tracking.reporting import tracked
from figureground.tracking.tracker import check_tracker
from figureground.training.processes import Processes, join_processes
from figureground.training.state import STATE, resume_threads
from figureground.training.work_directory import hold, refuse_other_content, remove_drafts

__all__ = ["POCKET", "Finetuning", "finetune", "settings_for"]


def finetune(
    references: Path,
    noun: str,
    label: str,
    out: Path,
    settings: Finetuning = POCKET,
    *,
    prior: Path | None = None,
    components: Path | None = None,
    class_folder: Path | None = None,
    device: str = "auto",
    show_progress: bool = True,
    track: str | None = None,
) -> Path:
    """Fine-tune a concept into a directory, or resume a stopped run there.

    A killed run resumes from its last saved state, and its final weights are bit-identical to those of an uninterrupted
    run (same device, dtype, number of processes and threads). A finished concept is left unchanged.

    Args:
        references: A folder of three or more images. A file `x.txt` beside `x.jpg` replaces the prompt, with `{V}` for
            the identifier.
        noun: The true content of the references, such as `flower`.
        label: The class that classifiers predict for them, as the feature network names it.
        out: Output directory: `concept.json` (all inputs), `checkpoint/` in diffusers' layout or `lora.safetensors`,
            `curves.csv`, `curves.png`, `previews/`, and the state while unfinished.
        prior: Folder of prior images. Images drawn here before are reused and missing ones added; a user's own images
            are used as they are. None keeps prior images in `out`.
        components: File of neural-PCA components of the class, for features `neural-pca`.
        class_folder: Folder of images of the class itself, used like `prior`, for class_direction `images` and
            early_stopping `without-class`.
        device: auto, cpu, cuda, cuda:1 or mps.
        track: The tracker to report to: trackio, tensorboard, wandb, or one of another package; None reports nothing.

    Returns:
        `out`.

    Raises:
        FiguregroundError: An input can't be used; `out` holds something else, or a concept from other inputs; memory or
            disk is full; or a loss is NaN.
    """
    check_tracker(track)
    request = FinetuneRequest(
        Path(references), noun, label, Path(out), settings, prior, components, class_folder, show_progress
    )
    progress = SavedProgress(request.out, settings.max_train_steps)
    config = {"noun": noun, "label": label, **settings.to_json()}
    memory_advice = _format_memory_advice(settings)
    with tracked(track, request.out, config), progress.explain_errors(ADVICE_NOT_FINITE, memory_advice):
        _check_and_run(request, device, progress)
    return request.out


ADVICE_NOT_FINITE = (
    "Most likely the learning rate is too high for this dtype: train in another directory with a lower "
    "--learning-rate, or with --dtype float32."
)


def _format_memory_advice(settings: Finetuning) -> str:
    suggestions = []
    if settings.batch_size > 1:
        suggestions.append("a smaller --batch-size with more --gradient-accumulation-steps")
    if not settings.gradient_checkpointing:
        suggestions.append("--gradient-checkpointing")
    if not settings.eight_bit_adam and settings.lora_rank is None:
        suggestions.append("--eight-bit-adam")
    if settings.lora_rank is None:
        suggestions.append("--lora-rank 16 (adapters instead of all weights)")
    if settings.sfsl_weight and settings.tiny_autoencoder is None:
        suggestions.append("a --tiny-autoencoder for SFSL")
    return f"The device's memory is full. Give {', or '.join([*suggestions, 'a smaller --size'])}."


# Checks: invalid inputs are refused before anything is written


def _check_and_run(request: FinetuneRequest, device: str, progress: SavedProgress) -> None:
    settings, out = request.settings, request.out
    if settings.lora_rank is not None:
        require("peft", "lora_rank")
    if settings.eight_bit_adam:
        require("bitsandbytes", "eight_bit_adam", otherwise="or leave --eight-bit-adam out")
    if settings.features == "neural-pca" and settings.sfsl_weight and request.components is None:
        raise RecipeError("components", "features=neural-pca needs the class's components: --components FILE.")
    if request.components is not None and not request.components.is_file():
        raise RecipeError("components", f"there is no file {request.components}.")
    for field, folder in (("prior", request.prior), ("class_folder", request.class_folder)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise RecipeError(field, f"{folder} is a file; give a directory.")
    refuse_revision(settings.checkpoint, settings.revision, local_directory(settings.checkpoint))
    refuse_other_content(out, WORK)
    finished = (out / CONCEPT).is_file()
    size = inputs.choose_size(settings, out, finished)
    used_references = read_training_images(request.references, size)
    sized = dataclasses.replace(settings, size=size)
    identity = inputs.identify(
        request.noun, request.label, sized, used_references, request.prior, request.components, request.class_folder
    )
    if _is_finished(out, identity):
        return
    identifier.check_captions(((r.name, r.caption) for r in used_references.images), settings.identifier)
    processes = join_processes(device)
    resume_threads(out / STATE, processes.device)
    dtype = choose_dtype(settings.dtype, processes.device)
    checkpoint = _open_base(settings, processes, dtype)
    check_size(size, checkpoint.edge_multiple)
    _check_words(request, checkpoint, used_references)
    network = open_feature_network(request, processes)
    similarity = set_up_similarity(request, checkpoint, used_references, network, processes)
    with hold(out, WORK) if processes.is_main else contextlib.nullcontext():
        if processes.is_main:
            if _is_finished(out, identity):
                if processes.count > 1:
                    raise FiguregroundError(
                        f"{out}: another process has finished the concept meanwhile. Nothing is left to do."
                    )
                return
            for folder in (out, out / PREVIEWS):
                remove_drafts(folder)
            inputs.remember(out, identity)
            for note in format_notes(used_references.unused):
                print_note(note)
        processes.wait()
        if resume_threads(out / STATE, processes.device):  # another process saved a state meanwhile
            similarity = set_up_similarity(request, checkpoint, used_references, network, processes)
        with signals.delay_to_checks():
            ConceptRun(
                request, used_references, identity, checkpoint, network, similarity, processes, size, dtype, progress
            ).run()


def _is_finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the directory holds a finished concept; raises FiguregroundError if a concept there has other inputs."""
    finished = (out / CONCEPT).is_file()
    if finished or (out / STATE).exists():
        inputs.compare(out, identity)
    if finished:
        read_concept(out)
    return finished


def _open_base(settings: Finetuning, processes: Processes, dtype: torch.dtype) -> Checkpoint:
    # A frozen base may be in the compute dtype; trained weights are float32.
    base_dtype = dtype if settings.lora_rank is not None else torch.float32
    return open_base(
        settings.checkpoint, settings.revision, device=processes.device, dtype=base_dtype, scheduler=settings.scheduler,
        settings=settings.to_json(),
    )  # fmt: skip


def _check_words(request: FinetuneRequest, checkpoint: Checkpoint, references: TrainingImages) -> None:
    prompts = {f"the caption of {r.name}": request.fill_caption(r.caption) for r in references.images if r.caption}
    prompts |= {field: request.fill(text) for field, text in request.settings.prompts().items()}
    if request.settings.needs_class_images:
        prompts["the prompt of the class's images"] = request.fill_class_prompt()
    texts = {"the noun": request.noun, "the class": request.label, "the prior's prompt": request.settings.prior_prompt}
    identifier.check_words(checkpoint.tokenizers, request.settings.identifier, texts, prompts)
