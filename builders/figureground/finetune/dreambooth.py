"""Fine-tunes a diffusion model on a concept: a few reference images become a word that the model can draw.

DreamBooth (Ruiz et al. 2023, arXiv 2208.12242) with prior preservation, text encoder and denoiser together, and the
spurious-feature similarity loss of `figureground.finetune.similarity`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from figureground.core import signals
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.locks import lock, remove_held
from figureground.core.terminal import print_note
from figureground.diffusion.checkpoint import Checkpoint
from figureground.finetune import concept, identifier, inputs
from figureground.finetune.base import choose_dtype, open_base
from figureground.finetune.concept_run import ConceptRun
from figureground.finetune.feature_network import open_feature_network, set_up_similarity
from figureground.finetune.previews import PREVIEWS
from figureground.finetune.references import References, read_references
from figureground.finetune.request import Request, SavedProgress
from figureground.finetune.settings import POCKET, Finetuning, settings_for
from figureground.finetune.training import require_bitsandbytes
from figureground.models.concept_files import CONCEPT, read_concept
from figureground.models.weights import check_size
from figureground.tracking.reporting import tracked
from figureground.tracking.tracker import check_tracker
from figureground.training.processes import Processes, join_processes
from figureground.training.state import STATE, resume_threads

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
    asked = Request(Path(references), noun, label, Path(out), settings, prior, components, class_folder, show_progress)
    kept = SavedProgress(asked.out, settings.max_train_steps)
    told = {"noun": noun, "label": label, **settings.to_json()}
    with tracked(track, asked.out, told), kept.explain_errors(ADVICE_NOT_FINITE, _advise_memory(settings)):
        _finetune(asked, device, kept)
    return asked.out


ADVICE_NOT_FINITE = (
    "Most likely the learning rate is too high for this dtype: train in another directory with a lower "
    "--learning-rate, or with --dtype float32."
)


def _advise_memory(settings: Finetuning) -> str:
    ways = []
    if settings.batch_size > 1:
        ways.append("a smaller --batch-size with more --gradient-accumulation-steps")
    if not settings.gradient_checkpointing:
        ways.append("--gradient-checkpointing")
    if not settings.eight_bit_adam and settings.lora_rank is None:
        ways.append("--eight-bit-adam")
    if settings.lora_rank is None:
        ways.append("--lora-rank 16 (adapters instead of all weights)")
    if settings.sfsl_weight and settings.tiny_autoencoder is None:
        ways.append("a --tiny-autoencoder for SFSL")
    return f"The device's memory is full. Give {', or '.join([*ways, 'a smaller --size'])}."


# Checks: invalid inputs are refused before anything is written


def _finetune(asked: Request, device: str, kept: SavedProgress) -> None:
    settings, out = asked.settings, asked.out
    if settings.lora_rank is not None:
        concept.require_peft()
    if settings.eight_bit_adam:
        require_bitsandbytes()
    if settings.features == "neural-pca" and settings.sfsl_weight and asked.components is None:
        raise RecipeError("components", "features=neural-pca needs the class's components: --components FILE.")
    if asked.components is not None and not asked.components.is_file():
        raise RecipeError("components", f"there is no file {asked.components}.")
    for field, folder in (("prior", asked.prior), ("class_folder", asked.class_folder)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise RecipeError(field, f"{folder} is a file; give a directory.")
    inputs.refuse_strangers(out)
    finished = (out / CONCEPT).is_file()
    size = inputs.choose_size(settings, out, finished)
    found = read_references(asked.references, size)
    sized = dataclasses.replace(settings, size=size)
    identity = inputs.identify(asked.noun, asked.label, sized, found, asked.prior, asked.components, asked.class_folder)
    if _is_finished(out, identity):
        return
    identifier.check_captions(((r.name, r.caption) for r in found.used), settings.identifier)
    processes = join_processes(device)
    resume_threads(out / STATE, processes.device)
    dtype = choose_dtype(settings.dtype, processes.device)
    checkpoint = _open(settings, processes, dtype)
    check_size(size, checkpoint.edge_multiple)
    _check_words(asked, checkpoint, found)
    network = open_feature_network(asked, processes)
    similarity = set_up_similarity(asked, checkpoint, found, network, processes)
    with contextlib.ExitStack() as stack:
        if processes.is_main:
            if not stack.enter_context(lock(out / inputs.LOCK)):
                raise FiguregroundError(
                    f"{out}: another process is fine-tuning there. Wait until it has finished, or give another "
                    "directory."
                )
            stack.callback(remove_held, out / inputs.LOCK)
            inputs.refuse_strangers(out)  # another process may have written here while the checkpoint was opened
            if _is_finished(out, identity):
                if processes.count > 1:
                    raise FiguregroundError(
                        f"{out}: another process has finished the concept meanwhile. Nothing is left to do."
                    )
                return
            _clean(out)
            inputs.remember(out, identity)
            for note in found.left_out.notes():
                print_note(note)
        processes.wait()
        if resume_threads(out / STATE, processes.device):  # another process saved a state meanwhile
            similarity = set_up_similarity(asked, checkpoint, found, network, processes)
        with signals.delay_to_checks():
            ConceptRun(asked, found, identity, checkpoint, network, similarity, processes, size, dtype, kept).run()


def _is_finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the directory holds a finished concept; raises FiguregroundError if a concept there has other inputs."""
    finished = (out / CONCEPT).is_file()
    if finished or (out / STATE).exists():
        inputs.compare(out, identity)
    if finished:
        read_concept(out)
    return finished


def _open(settings: Finetuning, processes: Processes, dtype: torch.dtype) -> Checkpoint:
    # A frozen base may be in the compute dtype; trained weights are float32.
    held = dtype if settings.lora_rank is not None else torch.float32
    return open_base(
        settings.checkpoint, settings.revision, device=processes.device, dtype=held, scheduler=settings.scheduler,
        settings=settings.to_json(),
    )  # fmt: skip


def _check_words(asked: Request, checkpoint: Checkpoint, found: References) -> None:
    told = {f"the caption of {r.name}": asked.caption(r.caption) for r in found.used if r.caption}
    told |= {field: asked.fill(text) for field, text in asked.settings.prompts().items()}
    if asked.settings.needs_class_images:
        told["the prompt of the class's images"] = asked.class_prompt()
    named = {"the noun": asked.noun, "the class": asked.label, "the prior's prompt": asked.settings.prior_prompt}
    identifier.check_words(checkpoint.tokenizers, asked.settings.identifier, named, told)


def _clean(out: Path) -> None:
    """Remove temporary files of a killed run; the caller holds the lock."""
    for path in [*out.glob(".*.part"), *out.glob(".*.tmp"), *(out / PREVIEWS).glob(".*.part")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
