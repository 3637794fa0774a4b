"""Learns a token: a few images become embedding vectors of a new word, and the rest of the model stays unchanged.

Textual inversion (Gal et al. 2022, arXiv 2208.01618). The loss can be restricted to masks, so that the object is
learned without its background. An inpainting checkpoint learns as it will draw: it sees the image around the mask.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from figureground.core import signals
from figureground.core.accelerator import choose_device, processor_name
from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.files import read_json, replace_text
from figureground.core.hashing import content_hash
from figureground.core.numerics import library_versions
from figureground.core.terminal import print_note
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.render import MARGIN
from figureground.finetune.base import choose_dtype, open_base
from figureground.finetune.embedding import InpaintingInputs, TokenTraining
from figureground.finetune.images import LearnedImage, hide_region, read_images, to_grid
from figureground.finetune.inputs import choose_edge
from figureground.finetune.inversion_settings import PLACE, POCKET, Inversion, check_token, settings_for
from figureground.finetune.latents import Posteriors, encode
from figureground.finetune.tokens import EMBEDDINGS, check_free, token_names, write_token
from figureground.finetune.training_images import format_notes
from figureground.models.weights import check_size, fingerprint, local_directory, refuse_revision
from figureground.recipe import document as recipes
from figureground.recipe.settings import execution_names
from figureground.tracking.reporting import tracked
from figureground.tracking.tracker import check_tracker
from figureground.training.curves import PNG
from figureground.training.curves_file import CSV
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import single_process
from figureground.training.saved_run import SavedRun
from figureground.training.state import STATE, read_state, resume_threads
from figureground.training.work_directory import Work, hold, refuse_other_content, remove_drafts

__all__ = ["POCKET", "Inversion", "invert", "settings_for"]

INVERSION = "inversion.json"
"""File written last; its presence marks a finished token."""
WORK = Work(
    (STATE, INVERSION), ".invert.lock", "is learning a token there", option="",
    files=frozenset({EMBEDDINGS, INVERSION, STATE, CSV, PNG}),
)  # fmt: skip
"""Learning a token in a directory."""
FORMAT = 1


def invert(
    images: Path | Sequence[Path],
    noun: str,
    token: str,
    out: Path,
    settings: Inversion = POCKET,
    *,
    masks: Sequence[Path] | None = None,
    device: str = "auto",
    show_progress: bool = True,
    track: str | None = None,
) -> Path:
    """Learn a token into a directory, or resume a stopped run there.

    A killed run resumes from its last saved state, and its final vectors are bit-identical to those of an uninterrupted
    run (same device, dtype and number of threads). A finished token is left unchanged.

    Args:
        images: Three or more images of the object: a folder, or files.
        noun: Their content, such as `mug`. The vectors start as its embedding, the mean over its pieces.
        token: The new word for them in prompts, such as `<mug>`.
        out: Output directory: `learned_embeds.safetensors`, which diffusers' `load_textual_inversion` opens (with
            several text encoders, its tensors `clip_l`, `clip_g` and `t5` each with `token=`), `inversion.json` (all
            inputs), `curves.csv`, `curves.png`, and the state while unfinished.
        masks: With `masked`, the mask of each image, in image order (a folder's images are in the order of their
            names); white marks the learned region. None takes `x.mask.png` beside `x.jpg`.
        device: auto, cpu, cuda, cuda:1 or mps.
        track: The tracker to report to: trackio, tensorboard, wandb, or one of another package; None reports nothing.

    Returns:
        `out`.

    Raises:
        FiguregroundError: An input can't be used; `out` holds something else, or a token from other inputs; memory or
            disk is full; or the loss is NaN.
    """
    check_tracker(track)
    request = _Request(images, noun, token, Path(out), settings, masks, show_progress)
    progress = SavedRun(request.out, settings.max_train_steps)
    config = {"noun": noun, "token": token, **settings.to_json()}
    memory_advice = _format_memory_advice(settings)
    with tracked(track, request.out, config), progress.explain_errors(ADVICE_NOT_FINITE, memory_advice):
        _check_and_run(request, device, progress)
    return request.out


ADVICE_NOT_FINITE = (
    "Most likely the learning rate is too high for this dtype: learn in another directory with a lower "
    "learning_rate, or with dtype float32."
)


def _format_memory_advice(settings: Inversion) -> str:
    suggestions = ["a smaller batch_size"] if settings.batch_size > 1 else []
    if not settings.gradient_checkpointing:
        suggestions.append("gradient_checkpointing")
    return f"The device's memory is full. Give {', or '.join([*suggestions, 'a smaller size'])}."


@dataclass(frozen=True)
class _Request:
    """Arguments of `invert`."""

    images: Path | Sequence[Path]
    noun: str
    token: str
    out: Path
    settings: Inversion
    masks: Sequence[Path] | None
    show_progress: bool


# Checks: invalid inputs are refused before anything is written


def _check_and_run(request: _Request, device_name: str, progress: SavedRun) -> None:
    settings, out = request.settings, request.out
    check_token(request.token)
    if not request.noun.strip() or request.noun != " ".join(request.noun.split()) or set(request.noun) & set("{}<>"):
        raise RecipeError("noun", f"{request.noun!r} is not a noun of one or a few words.")
    refuse_revision(settings.checkpoint, settings.revision, local_directory(settings.checkpoint))
    refuse_other_content(out, WORK)
    finished = _read_facts(out)
    if finished and settings.size is None:  # avoids a download
        size = int(finished["inputs"]["size"])
    else:
        size = choose_edge(settings.checkpoint, settings.revision, settings.size, inpaint=True)
    images, unused = read_images(request.images, size, settings.masked, request.masks)
    identity = _identify(request, size, images)
    if _is_finished(out, identity):
        return
    device = choose_device(device_name)
    dtype = choose_dtype(settings.dtype, device)
    made_with = {**identity, "device": device.type, "computed_in": str(dtype).removeprefix("torch.")}
    read_state(out / STATE, made_with, device)
    # None of it is trained, so it may be in the compute dtype.
    checkpoint = open_base(
        settings.checkpoint, settings.revision, device=device, dtype=dtype, inpaint=True, settings=settings.to_json()
    )
    check_size(size, checkpoint.edge_multiple)
    _check_words(checkpoint, request)
    with hold(out, WORK):
        if _is_finished(out, identity):
            return
        resume_threads(out / STATE, device)
        remove_drafts(out)
        for note in format_notes(unused):
            print_note(note)
        with signals.delay_to_checks():
            _TokenRun(request, images, identity, made_with, checkpoint, size, dtype, device, progress).run()


def _identify(request: _Request, size: int, images: Sequence[LearnedImage]) -> dict[str, Any]:
    """Return everything that determines a token, as JSON: contents instead of paths."""
    settings = dataclasses.replace(request.settings, size=size)
    fields = {name: value for name, value in settings.to_json().items() if name not in execution_names(Inversion)}
    folder = local_directory(settings.checkpoint)
    if folder is not None and settings.checkpoint != POCKET.checkpoint:
        fields["checkpoint"] = folder.resolve().name
    identity = {
        "format": recipes.FORMAT, "noun": request.noun, "token": request.token, **fields,
        "checkpoint_content": fingerprint(settings.checkpoint, settings.revision),
        "images": {
            p.name: {"sha256": p.sha256, **({"mask_sha256": p.mask_sha256} if p.mask_sha256 else {})} for p in images
        },
    }  # fmt: skip
    return json.loads(json.dumps(identity))


def _read_facts(out: Path) -> dict[str, Any] | None:
    """Return the content of a finished token's `inversion.json`, or None if it doesn't exist."""
    path = out / INVERSION
    if not path.is_file():
        return None
    try:
        facts = read_json(path)
        if not (isinstance(facts["sha256"], str) and isinstance(facts["inputs"]["size"], int)):
            raise TypeError("its format is missing")
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Remove {out} to learn the token again.") from None
    return facts


def _is_finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the directory holds a finished token; raises FiguregroundError if it has other inputs or is damaged."""
    facts = _read_facts(out)
    if facts is None:
        return False
    if changes := describe_differences(facts["inputs"], identity):
        raise FiguregroundError(
            f"{out} holds a token from other inputs:\n  " + "\n  ".join(changes[:12])
            + "\nGive another directory, or the same inputs again."
        )  # fmt: skip
    if not (out / EMBEDDINGS).is_file() or content_hash(out / EMBEDDINGS) != facts["sha256"]:
        raise FiguregroundError(f"{out / EMBEDDINGS} doesn't match {INVERSION}. Remove {out} to learn it again.")
    return True


def _check_words(checkpoint: Checkpoint, request: _Request) -> None:
    extra = request.settings.vectors - 1
    for tokenizer in checkpoint.tokenizers:
        if not tokenizer.tokenize(request.noun):
            raise RecipeError(
                "noun", f"{request.noun!r} has no tokens in the checkpoint's tokenizer; give another word."
            )
        check_free(tokenizer, token_names(request.token, request.settings.vectors))
    for text in request.settings.templates:
        # Here a word that every tokenizer has, of one piece, stands in for the token.
        for short, limit in checkpoint.count_tokens(text.replace(PLACE, "a")):
            if (count := short + extra * text.count(PLACE)) > limit:
                raise RecipeError(
                    "vectors",
                    f"with {extra + 1} vectors, the prompt {text!r} has {count} tokens, but the text encoder reads "
                    f"{limit}. Give fewer vectors, or a shorter template.",
                )


# Learning


@dataclass(eq=False)
class _TokenRun(Hooks):
    """A run for a token, from encoded images to `inversion.json`."""

    request: _Request
    images: list[LearnedImage]
    identity: dict[str, Any]
    made_with: dict[str, Any]
    checkpoint: Checkpoint
    size: int
    dtype: torch.dtype
    device: torch.device
    progress: SavedRun
    training: TokenTraining = field(init=False)
    loop: Loop = field(init=False)

    def run(self) -> None:
        request, settings = self.request, self.request.settings
        posteriors = self._encode([p.image for p in self.images])
        masks = self._to_grids([p.mask for p in self.images if p.mask is not None], posteriors)
        inpainting = None
        if self.checkpoint.needs_mask:
            pairs = [hide_region(image, self.checkpoint.factor, MARGIN) for image in self.images]
            surroundings = self._encode([image for image, _ in pairs])
            regions = self._to_grids([mask for _, mask in pairs], posteriors)
            assert regions is not None
            inpainting = InpaintingInputs(regions, surroundings)
        self.training = TokenTraining(
            self.checkpoint, settings, request.noun, request.token, posteriors, masks, self.size, self.dtype, inpainting
        )
        self.loop = Loop(
            self.training, self, self.progress, self.made_with, Saving(seconds=settings.save_seconds),
            single_process(self.device), str(request.out), request.show_progress,
        )  # fmt: skip
        self.loop.resume()
        if self.loop.step == 0:
            self.loop.save()  # marks the directory as ours
        self.loop.run()
        self._finish()

    def _encode(self, images: Sequence[Image.Image]) -> Posteriors:
        return encode(self.checkpoint.text_to_image.vae, images, self.request.settings.flip, signals.check)

    def _to_grids(self, masks: Sequence[Image.Image], posteriors: Posteriors) -> Tensor | None:
        """Return masks at latent resolution, (images, 1 or 2, 1, height, width), or None without masks."""
        grids = [to_grid(mask, posteriors.mean.shape[-1], self.request.settings.flip) for mask in masks]
        return torch.stack(grids).to(self.device) if grids else None

    def note(self) -> dict[str, str]:
        return {name: f"{value:.3g}" for name, value in self.loop.curves.average_last(20).items()}

    # Output files

    def write_usable(self) -> Path:
        return write_token(self.request.out, self.request.token, self.training.copy_vectors(), self.checkpoint)

    def _finish(self) -> None:
        settings, facts, curves, out = self.request.settings, self.checkpoint.facts, self.loop.curves, self.request.out
        curves.write(out)
        curves.draw(out)
        sha256 = content_hash(self.write_usable())
        similarities = [
            torch.cosine_similarity(rows, noun.cpu()[None]).mean().item()
            for rows, noun in zip(self.training.copy_vectors(), self.training.noun_embeddings, strict=True)
        ]
        record = {
            "format": FORMAT, "token": self.request.token, "vectors": settings.vectors, "noun": self.request.noun,
            "sha256": sha256, "base": {n: facts[n] for n in ("checkpoint", "revision", "family", "prediction_type")},
            "inputs": self.identity, "device": self.device.type, "dtype": self.made_with["computed_in"],
            "processor": processor_name(self.device),
            "threads": torch.get_num_threads(), "versions": library_versions(), "steps": settings.max_train_steps,
            "seconds": round(self.loop.seconds, 1), "cosine_to_noun": [round(value, 4) for value in similarities],
            "losses": curves.summarise_end(settings.max_train_steps),
        }  # fmt: skip
        replace_text(out / INVERSION, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        (out / STATE).unlink(missing_ok=True)
