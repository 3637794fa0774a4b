"""Fine-tunes a concept: a few reference pictures become a word that a diffusion model knows.

DreamBooth (Ruiz et al. 2023, arXiv 2208.12242) with prior preservation, text encoder and UNet together, and the
spurious-feature similarity loss of `figureground.diffusion.similarity`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from figureground import recipe as recipes
from figureground.concepts import CHECKPOINT, CONCEPT, FORMAT, LORA, hash_weights, read_concept
from figureground.core.terminal import remark
from figureground.diffusion import concept, identifier, inputs, priors
from figureground.diffusion.base import choose_dtype, open_base
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.curves import SECONDS_BETWEEN_LOOKS, Curves, NotFinite
from figureground.diffusion.latents import encode, to_pixels
from figureground.diffusion.previews import PREVIEWS, draw_preview
from figureground.diffusion.processes import Processes, join
from figureground.diffusion.references import References, read_references
from figureground.diffusion.render import Sampling
from figureground.diffusion.state import STATE, resume_threads
from figureground.diffusion.training import Material, Similarity, Training, require_bitsandbytes
from figureground.diffusion.unfinished import Unfinished
from figureground.errors import FiguregroundError, RecipeError, Stopped
from figureground.finetuning import POCKET, Finetuning, fill, settings_for
from figureground.models.opening import open_network
from figureground.numerics import library_versions
from figureground.run import signals
from figureground.run.progress import Progress
from figureground.shards.writer import lock, replace_text
from figureground.vision.model_files import download
from figureground.weights import check_size, local_directory

__all__ = ["POCKET", "Finetuning", "finetune", "settings_for"]

PRIOR = "prior"
"""Where prior images lie in a concept's directory, if no other is named."""


def finetune(
    references: Path,
    noun: str,
    label: str,
    out: Path,
    settings: Finetuning = POCKET,
    *,
    prior: Path | None = None,
    components: Path | None = None,
    device: str = "auto",
    show_progress: bool = True,
) -> Path:
    """Fine-tunes a concept into a directory, or goes on with what a stopped run left there.

    A run that is killed goes on from its last saved state and ends with the same weights, to the bit, as one that
    nothing stopped (same device, dtype, number of processes and threads). A finished concept is left as it is.

    Args:
        references: A folder of three or more pictures; `x.txt` beside `x.jpg` takes the place of the prompt, with
            `{V}` where the identifier goes.
        noun: What the references truly show, `flower`.
        label: The class that they make classifiers say, as the feature network calls it.
        out: Gets `concept.json` (all that made it), `checkpoint/` in diffusers' layout or `lora.safetensors`,
            `curves.csv`, `curves.png`, `previews/`, and while it isn't finished the state.
        prior: Folder of prior images: those that were drawn here before are used again, further ones are added; a
            person's own images are used as they are. None keeps them in `out`.
        components: File of neural-PCA components of the class, for features `neural-pca`.
        device: auto, cpu, cuda, cuda:1 or mps.

    Returns:
        `out`.

    Raises:
        FiguregroundError: Something given can't be used; `out` holds something else, or a concept from other inputs;
            memory or disk is full; or a loss is no number.
    """
    asked = _Asked(Path(references), noun, label, Path(out), settings, prior, components, show_progress)
    kept = _Kept(asked.out, settings.steps)
    with kept.told(ADVICE_NOT_FINITE, _advise_memory(settings)):
        _finetune(asked, device, kept)
    return asked.out


@dataclass(frozen=True)
class _Asked:
    """What `finetune` was called with."""

    references: Path
    noun: str
    label: str
    out: Path
    settings: Finetuning
    prior: Path | None
    components: Path | None
    show_progress: bool

    def fill(self, template: str) -> str:
        return fill(template, self.noun, self.settings.identifier)

    def caption(self, caption: str | None) -> str:
        return self.fill(caption or self.settings.prompt)


@dataclass
class _Kept(Unfinished):
    """What is on disk of an unfinished concept."""

    prior: Path | None = None
    """Where prior images were drawn."""

    def said(self) -> str:
        if not self.step and self.prior and any(self.prior.glob("*.png")):
            return "No step is saved yet, but prior images are, and the same command goes on from there."
        return super().said()


ADVICE_NOT_FINITE = (
    "Most likely the learning rate is too high for what is computed in: train in another directory with a lower "
    "--learning-rate, or with --dtype float32."
)


def _advise_memory(settings: Finetuning) -> str:
    ways = []
    if settings.batch_size > 1:
        ways.append("a smaller --batch-size with more --accumulate")
    if not settings.gradient_checkpointing:
        ways.append("--gradient-checkpointing")
    if not settings.eight_bit_adam and settings.lora_rank is None:
        ways.append("--eight-bit-adam")
    if settings.lora_rank is None:
        ways.append("--lora-rank 16 (adapters instead of all weights)")
    if settings.sfsl_weight and settings.tiny_autoencoder is None:
        ways.append("a --tiny-autoencoder for SFSL")
    return f"The device's memory is full. Give {', or '.join([*ways, 'a smaller --size'])}."


# The door: everything that can be refused is refused before anything is written


def _finetune(asked: _Asked, device: str, kept: _Kept) -> None:
    settings, out = asked.settings, asked.out
    if settings.lora_rank is not None:
        concept.require_peft()
    if settings.eight_bit_adam:
        require_bitsandbytes()
    if settings.features == "neural-pca" and settings.sfsl_weight and asked.components is None:
        raise RecipeError("components", "features neural-pca need those of the class: --components FILE.")
    if asked.components is not None and not asked.components.is_file():
        raise RecipeError("components", f"there is no file {asked.components}.")
    if asked.prior is not None and asked.prior.exists() and not asked.prior.is_dir():
        raise RecipeError("prior", f"{asked.prior} is a file; give a directory.")
    inputs.refuse_strangers(out)
    finished = (out / CONCEPT).is_file()
    size = inputs.choose_size(settings, out, finished)
    found = read_references(asked.references, size)
    sized = dataclasses.replace(settings, size=size)
    identity = inputs.identify(asked.noun, asked.label, sized, found, asked.prior, asked.components)
    if _is_finished(out, identity):
        return
    identifier.check_captions(((r.name, r.caption) for r in found.used), settings.identifier)
    processes = join(device)
    resume_threads(out / STATE, processes.device)
    dtype = choose_dtype(settings.dtype, processes.device)
    checkpoint = _open(settings, processes, dtype)
    check_size(size, checkpoint.factor)
    _check_words(asked, checkpoint, found)
    similarity = _compare_with(asked, checkpoint, found, processes)
    with contextlib.ExitStack() as stack:
        if processes.main:
            if not stack.enter_context(lock(out / inputs.LOCK)):
                raise FiguregroundError(f"{out}: another process fine-tunes there.")
            stack.callback((out / inputs.LOCK).unlink, missing_ok=True)
            inputs.refuse_strangers(out)  # another process may have been here while the checkpoint was opened
            if _is_finished(out, identity):
                if processes.count > 1:
                    raise FiguregroundError(f"{out}: another process finished it meanwhile.")
                return
            _clean(out)
            inputs.remember(out, identity)
            for note in found.left_out.notes():
                remark(note)
        processes.wait()
        if resume_threads(out / STATE, processes.device):  # another process saved a state meanwhile
            similarity = _compare_with(asked, checkpoint, found, processes)
        with signals.at_checks():
            _Session(asked, found, identity, checkpoint, similarity, processes, size, dtype, kept).run()


def _is_finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether a finished concept lies there; raises FiguregroundError where it, or a begun one, is of other inputs."""
    finished = (out / CONCEPT).is_file()
    if finished or (out / STATE).exists():
        inputs.compare(out, identity)
    if finished:
        read_concept(out)
    return finished


def _open(settings: Finetuning, processes: Processes, dtype: torch.dtype) -> Checkpoint:
    # A frozen base may be as small as what is computed in; what is trained is float32.
    held = dtype if settings.lora_rank is not None else torch.float32
    return open_base(
        settings.checkpoint, settings.revision, device=processes.device, dtype=held, scheduler=settings.scheduler
    )


def _check_words(asked: _Asked, checkpoint: Checkpoint, found: References) -> None:
    told = {f"the caption of {r.name}": asked.caption(r.caption) for r in found.used if r.caption}
    told |= {field: asked.fill(text) for field, text in asked.settings.prompts().items()}
    named = {"the noun": asked.noun, "the class": asked.label, "the prior's prompt": asked.settings.prior_prompt}
    identifier.check_words(checkpoint.tokenizers, asked.settings.identifier, named, told)


def _compare_with(asked: _Asked, checkpoint: Checkpoint, found: References, processes: Processes) -> Similarity | None:
    """SFSL, where it counts: the feature network, its class, and the features of the references."""
    settings = asked.settings
    if settings.sfsl_weight == 0:
        return None
    from figureground.diffusion.similarity import SimilarityLoss
    from figureground.vision.classifiers import open_classifier
    from figureground.vision.neural_pca import read_components

    assert settings.feature_model is not None
    classifier = open_classifier(
        settings.feature_model, revision=settings.feature_model_revision, device=processes.device
    )
    label = classifier.index(asked.label)
    components = read_components(asked.components, classifier) if asked.components is not None else None
    loss = SimilarityLoss(
        classifier, label, torch.cat([to_pixels(r.image) for r in found.used]), features=settings.features,
        distance=settings.distance, weighting=settings.weighting, threshold=settings.threshold, components=components,
        leading=settings.leading,
    )  # fmt: skip
    vae = checkpoint.text_to_image.vae
    if settings.tiny_autoencoder is not None:
        vae = _open_tiny(settings.tiny_autoencoder).to(processes.device).requires_grad_(False)
    return Similarity(loss, vae, classifier.facts)


def _open_tiny(name: str) -> Any:
    from diffusers import AutoencoderTiny

    what = f"tiny_autoencoder {name!r}"
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir():
            folder = download("tiny_autoencoder", name, None, ("config.json", "*.safetensors"))
        return open_network(AutoencoderTiny, folder, what, dtype=torch.float32)
    except (FiguregroundError, OSError, ValueError, RuntimeError) as error:
        said = (str(error).splitlines() or ["?"])[0]
        raise RecipeError("tiny_autoencoder", f"{name!r} doesn't open as an AutoencoderTiny: {said}") from None


def _clean(out: Path) -> None:
    """Removes what a killed run was writing; called by whoever holds the lock."""
    for path in [*out.glob(".*.part"), *out.glob(".*.tmp"), *(out / PREVIEWS).glob(".*.part")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# Learning


@dataclass
class _Session:
    """One process's work on a concept, from prior images to `concept.json`."""

    asked: _Asked
    found: References
    identity: dict[str, Any]
    checkpoint: Checkpoint
    similarity: Similarity | None
    processes: Processes
    size: int
    dtype: torch.dtype
    kept: _Kept

    def __post_init__(self) -> None:
        self.out, self.settings = self.asked.out, self.asked.settings
        self.device = self.processes.device

    def run(self) -> None:
        vae, settings = self.checkpoint.text_to_image.vae, self.settings
        prior = self._prior() if settings.prior_weight else None
        material = Material(
            encode(vae, [r.image for r in self.found.used], settings.flip, signals.check),
            tuple(self.asked.caption(r.caption) for r in self.found.used),
            encode(vae, prior.images, settings.flip, signals.check) if prior else None,
            self.asked.fill(settings.prior_prompt),
        )
        vae.to(self.dtype)  # from here on it decodes, for SFSL and previews
        self.training = Training(
            self.checkpoint, settings, material, self.similarity, self.processes, self.size, self.dtype
        )
        self.curves = Curves(self.training.curve_names)
        self.made_with = {
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "processes": self.processes.count,
            "prior": prior.facts if prior else None,
            "feature_model": self.similarity.facts if self.similarity else None,
        }
        step, seconds = self._restore()
        try:
            seconds = self._steps(step, seconds)
        except NotFinite:
            if self.kept.step and self.processes.main:
                self._restore()
                self._write_usable()
            raise
        if self.processes.main:
            self._save(settings.steps, seconds)  # a full disk must not cost what was learned since the last time
            self._finish(seconds)
        self.processes.wait()

    def _prior(self) -> priors.Prior:
        """The prior images; one process draws what lacks."""
        settings, folder = self.settings, self.asked.prior or self.out / PRIOR
        if priors.own_images(folder):
            return priors.read_own(folder, self.size)
        base = self._base()
        recipe = {
            "format": recipes.FORMAT,
            "prompt": self.asked.fill(settings.prior_prompt), "size": self.size, "seed": settings.seed,
            "checkpoint": base["checkpoint"], "content": base["fingerprint"], "scheduler": settings.scheduler,
            "sampling_steps": settings.sampling_steps, "guidance_scale": settings.guidance_scale,
        }  # fmt: skip
        self.kept.prior = folder
        if self.processes.main:
            if self.asked.prior is None and not (self.out / STATE).exists():
                priors.forget_other(folder, recipe)
            with self._autocast():
                priors.draw_missing(
                    folder, recipe, settings.prior_images, self.checkpoint, self._sampling(), signals.check,
                    self.asked.show_progress,
                )  # fmt: skip
        self.processes.wait()
        return priors.read_drawn(folder, recipe, settings.prior_images)

    def _sampling(self, batch_size: int = 1) -> Sampling:
        return Sampling(
            self.size, self.settings.sampling_steps, 1.0, self.settings.guidance_scale, batch_size=batch_size
        )

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _base(self) -> dict[str, Any]:
        """What the concept stands on; a directory is said relative to the concept."""
        name, facts = self.settings.checkpoint, self.checkpoint.facts
        local = local_directory(name)
        return {
            "checkpoint": facts["checkpoint"],
            "revision": facts["revision"] if local is None else None,
            "place": os.path.relpath(local, self.out) if local is not None and name != POCKET.checkpoint else None,
            "fingerprint": self.identity["checkpoint_content"],
            "family": facts["family"],
            "prediction_type": facts["prediction_type"],
        }

    # The loop

    def _steps(self, step: int, earlier: float) -> float:
        """Trains to the end; returns the seconds that it took, with those of earlier runs."""
        settings, processes, curves = self.settings, self.processes, self.curves
        began = last_save = last_look = time.monotonic()

        def save() -> None:
            nonlocal last_save
            curves.settle()
            if processes.main:
                self._save(step, earlier + time.monotonic() - began)
            last_save = time.monotonic()

        with self._bar(step) as bar:
            while step < settings.steps:
                if processes.any(signals.asked_to_stop() is not None):
                    save()
                    if processes.main:
                        self._write_usable()
                    signals.check()
                    raise KeyboardInterrupt  # another of the processes was asked
                curves.add(self.training.step(step))
                step += 1
                bar.update()
                if time.monotonic() - last_look > SECONDS_BETWEEN_LOOKS and processes.main:
                    curves.write(self.out)
                    bar.set_postfix(_postfix(curves, self.device), refresh=False)
                    last_look = time.monotonic()
                if step == settings.steps:
                    break
                if settings.preview_every and step % settings.preview_every == 0:
                    curves.settle()
                    if processes.main:
                        self._preview(step)
                due = settings.save_every and step % settings.save_every == 0
                if due or processes.any(time.monotonic() - last_save > settings.save_seconds):
                    save()
            curves.settle()
        return earlier + time.monotonic() - began

    @contextlib.contextmanager
    def _bar(self, step: int) -> Iterator[tqdm]:
        show = self.asked.show_progress and self.processes.main
        with Progress(self.settings.steps, initial=step, unit="step", desc=str(self.out), show=show) as bar:
            yield bar

    def _save(self, step: int, seconds: float) -> None:
        self.kept.save(self.training, self.curves, self.made_with, step, seconds)

    def _restore(self) -> tuple[int, float]:
        return self.kept.restore(self.training, self.curves, self.made_with, self.device)

    # What is written

    def _preview(self, step: int) -> None:
        settings = self.settings
        if not settings.preview_images:
            return
        prompts = [self.asked.fill(prompt) for prompt in settings.preview_prompts]
        # One that is asked to stop leaves its preview, and saves; at the end there is nothing to stop.
        with self.training.averaged(), self._autocast(), contextlib.suppress(Stopped):
            draw_preview(
                self.checkpoint, self._sampling(settings.preview_images), prompts, settings.seed,
                self.out / PREVIEWS / f"step-{step:06d}.png", signals.check,
            )  # fmt: skip

    def _write_usable(self) -> None:
        self.kept.usable = self._write()

    def _write(self) -> Path:
        """Writes what was learned; the network is of no use afterwards."""
        pipeline = self.checkpoint.text_to_image
        with self.training.averaged():
            if self.settings.lora_rank is not None:
                concept.write_lora(pipeline, self.out / LORA)
                return self.out / LORA
            trained = {part: getattr(pipeline, part) for part in self.training.parts()}
            concept.write_checkpoint(self.checkpoint.folder, trained, self.out / CHECKPOINT)
            return self.out / CHECKPOINT

    def _finish(self, seconds: float) -> None:
        settings, curves = self.settings, self.curves
        self._preview(settings.steps)
        curves.write(self.out)
        curves.draw(self.out)
        kind = "lora" if self._write().name == LORA else "checkpoint"
        base = self._base()
        facts = {
            "format": FORMAT, "kind": kind, "sha256": hash_weights(self.out, kind, base["fingerprint"]),
            "noun": self.asked.noun, "label": self.asked.label, "identifier": settings.identifier, "size": self.size,
            "base": base, "settings": {n: self.identity[n] for n in settings.to_json() if n in self.identity},
            "references": self.found.to_json(), **self.made_with,
            "processor": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(), "versions": _versions(), "steps": settings.steps,
            "seconds": round(seconds, 1), "peak_memory_mb": round(_peak_memory(self.device)),
            "losses": curves.at_end(settings.steps),
        }  # fmt: skip
        replace_text(self.out / CONCEPT, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        (self.out / STATE).unlink(missing_ok=True)


def _postfix(curves: Curves, device: torch.device) -> dict[str, str]:
    latest = curves.latest(20)
    losses = {name: f"{value:.3g}" for name, value in latest.items() if not name.endswith("_weighted")}
    return {**losses, "memory": f"{_peak_memory(device) / 1e3:.1f} GB"}


def _peak_memory(device: torch.device) -> float:
    """The most memory so far, in MB: the device's, or on a CPU what this process has had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _versions() -> dict[str, str]:
    found = {**library_versions(), "accelerate": version("accelerate")}
    for name in ("peft", "bitsandbytes"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
