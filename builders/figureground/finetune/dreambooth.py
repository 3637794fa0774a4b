"""Fine-tunes a diffusion model on a concept: a few reference images become a word that the model can draw.

DreamBooth (Ruiz et al. 2023, arXiv 2208.12242) with prior preservation, text encoder and UNet together, and the
spurious-feature similarity loss of `figureground.finetune.similarity`.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from figureground.core import signals
from figureground.core.errors import FiguregroundError, RecipeError, Stopped
from figureground.core.files import replace_text
from figureground.core.locks import lock
from figureground.core.numerics import library_versions
from figureground.core.terminal import remark
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.render import Sampling
from figureground.finetune import concept, identifier, inputs, priors
from figureground.finetune.base import choose_dtype, open_base
from figureground.finetune.latents import encode, to_pixels
from figureground.finetune.previews import PREVIEWS, draw_preview
from figureground.finetune.references import References, read_references
from figureground.finetune.settings import POCKET, Finetuning, fill, settings_for
from figureground.finetune.similarity import SimilarityLoss, direction_of_head, direction_of_images, read_features
from figureground.finetune.stopping import Looks, Watch, Watched
from figureground.finetune.training import Similarity, Training, TrainingData, require_bitsandbytes
from figureground.models.concepts import CHECKPOINT, CONCEPT, FORMAT, LORA, hash_weights, read_concept
from figureground.models.opening import open_network
from figureground.models.weights import check_size, local_directory
from figureground.recipe import document as recipes
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import Processes, join
from figureground.training.state import STATE, resume_threads
from figureground.training.unfinished import Unfinished
from figureground.vision.classifiers import Classifier, open_classifier
from figureground.vision.model_files import download
from figureground.vision.neural_pca import read_components

__all__ = ["POCKET", "Finetuning", "finetune", "settings_for"]

PRIOR = "prior"
"""Default folder of prior images in a concept's directory."""
CLASS = "class"
"""Default folder of images of the class itself."""


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

    Returns:
        `out`.

    Raises:
        FiguregroundError: An input can't be used; `out` holds something else, or a concept from other inputs; memory or
            disk is full; or a loss is NaN.
    """
    asked = _Request(Path(references), noun, label, Path(out), settings, prior, components, class_folder, show_progress)
    kept = _SavedProgress(asked.out, settings.max_train_steps)
    with kept.told(ADVICE_NOT_FINITE, _advise_memory(settings)):
        _finetune(asked, device, kept)
    return asked.out


@dataclass(frozen=True)
class _Request:
    """Arguments of `finetune`."""

    references: Path
    noun: str
    label: str
    out: Path
    settings: Finetuning
    prior: Path | None
    components: Path | None
    class_folder: Path | None
    show_progress: bool

    def fill(self, template: str) -> str:
        return fill(template, self.noun, self.settings.identifier)

    def caption(self, caption: str | None) -> str:
        return self.fill(caption or self.settings.prompt)

    def class_prompt(self) -> str:
        """The prior's prompt with the class in place of the noun; of ImageNet's synonyms, the first."""
        return fill(self.settings.prior_prompt, self.label.split(",")[0].strip(), self.settings.identifier)


@dataclass
class _SavedProgress(Unfinished):
    """Saved parts of an unfinished concept."""

    prior: Path | None = None
    """Folder of the prior images drawn so far."""

    def said(self) -> str:
        if not self.step and self.prior and any(self.prior.glob("*.png")):
            return "No step is saved yet, but prior images are, and the same command goes on from there."
        return super().said()


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


def _finetune(asked: _Request, device: str, kept: _SavedProgress) -> None:
    settings, out = asked.settings, asked.out
    if settings.lora_rank is not None:
        concept.require_peft()
    if settings.eight_bit_adam:
        require_bitsandbytes()
    if settings.features == "neural-pca" and settings.sfsl_weight and asked.components is None:
        raise RecipeError("components", "features neural-pca need those of the class: --components FILE.")
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
    processes = join(device)
    resume_threads(out / STATE, processes.device)
    dtype = choose_dtype(settings.dtype, processes.device)
    checkpoint = _open(settings, processes, dtype)
    check_size(size, checkpoint.factor)
    _check_words(asked, checkpoint, found)
    network = _open_network(asked, processes)
    similarity = _compare_with(asked, checkpoint, found, network, processes)
    with contextlib.ExitStack() as stack:
        if processes.main:
            if not stack.enter_context(lock(out / inputs.LOCK)):
                raise FiguregroundError(f"{out}: another process fine-tunes there.")
            stack.callback((out / inputs.LOCK).unlink, missing_ok=True)
            inputs.refuse_strangers(out)  # another process may have written here while the checkpoint was opened
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
            similarity = _compare_with(asked, checkpoint, found, network, processes)
        with signals.at_checks():
            _Session(asked, found, identity, checkpoint, network, similarity, processes, size, dtype, kept).run()


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
        settings.checkpoint, settings.revision, device=processes.device, dtype=held, scheduler=settings.scheduler
    )


def _check_words(asked: _Request, checkpoint: Checkpoint, found: References) -> None:
    told = {f"the caption of {r.name}": asked.caption(r.caption) for r in found.used if r.caption}
    told |= {field: asked.fill(text) for field, text in asked.settings.prompts().items()}
    if asked.settings.needs_class_images:
        told["the prompt of the class's images"] = asked.class_prompt()
    named = {"the noun": asked.noun, "the class": asked.label, "the prior's prompt": asked.settings.prior_prompt}
    identifier.check_words(checkpoint.tokenizers, asked.settings.identifier, named, told)


@dataclass(frozen=True)
class _Network:
    """The feature network and the class's position in its logits."""

    classifier: Classifier
    label: int


def _open_network(asked: _Request, processes: Processes) -> _Network | None:
    """Open the feature network, if it is used."""
    settings = asked.settings
    if not settings.reads_features:
        return None
    assert settings.feature_model is not None
    classifier = open_classifier(
        settings.feature_model, revision=settings.feature_model_revision, device=processes.device
    )
    classifier.need_features()
    return _Network(classifier, classifier.index(asked.label))


def _compare_with(
    asked: _Request, checkpoint: Checkpoint, found: References, network: _Network | None, processes: Processes
) -> Similarity | None:
    """Set up SFSL, if its weight isn't 0: the feature network, its class, and the features of the references."""
    settings = asked.settings
    if settings.sfsl_weight == 0 or network is None:
        return None
    classifier, label = network.classifier, network.label
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
    """Remove temporary files of a killed run; the caller holds the lock."""
    for path in [*out.glob(".*.part"), *out.glob(".*.tmp"), *(out / PREVIEWS).glob(".*.part")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# Learning


@dataclass(eq=False)
class _Session(Hooks):
    """One process's run for a concept, from prior images to `concept.json`."""

    asked: _Request
    found: References
    identity: dict[str, Any]
    checkpoint: Checkpoint
    network: _Network | None
    similarity: Similarity | None
    processes: Processes
    size: int
    dtype: torch.dtype
    kept: _SavedProgress

    def __post_init__(self) -> None:
        self.out, self.settings = self.asked.out, self.asked.settings
        self.device = self.processes.device

    def run(self) -> None:
        vae, settings = self.checkpoint.text_to_image.vae, self.settings
        prior = self._prior() if settings.prior_weight else None
        of_class = self._of_class() if settings.needs_class_images else None
        material = TrainingData(
            encode(vae, [r.image for r in self.found.used], settings.flip, signals.check),
            tuple(self.asked.caption(r.caption) for r in self.found.used),
            encode(vae, prior.images, settings.flip, signals.check) if prior else None,
            self.asked.fill(settings.prior_prompt),
        )
        vae.to(self.dtype)  # from here on it only decodes, for SFSL and previews
        self._watch_class(prior, of_class)
        self.training = Training(
            self.checkpoint, settings, material, self.similarity, self.processes, self.size, self.dtype
        )
        made_with = {
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "processes": self.processes.count,
            "prior": prior.facts if prior else None,
            "feature_model": self.network.classifier.facts if self.network else None,
            **({"class_images": of_class.facts} if of_class else {}),
        }
        self.loop = Loop(
            Watched(self.training, self.looks), self, self.kept, made_with,
            Saving(settings.save_every, settings.save_seconds), self.processes, str(self.out), self.asked.show_progress,
        )  # fmt: skip
        self.loop.resume()
        self.loop.run()
        if self.processes.main:
            self._finish()
        self.processes.wait()

    def _prior(self) -> priors.Prior:
        """Return the prior images."""
        settings, folder = self.settings, self.asked.prior or self.out / PRIOR
        return self._draw_once(
            folder,
            self.asked.fill(settings.prior_prompt),
            settings.num_class_images,
            self.asked.prior is None,
            priors.FLAG,
        )

    def _of_class(self) -> priors.Prior:
        """Return images of the class itself."""
        given = self.asked.class_folder
        return self._draw_once(
            given or self.out / CLASS, self.asked.class_prompt(), self.settings.class_images, given is None,
            "--class-folder",
        )  # fmt: skip

    def _draw_once(self, folder: Path, prompt: str, count: int, private: bool, flag: str) -> priors.Prior:
        """Return images drawn by the original model, or a user's own images; one process draws missing ones.

        Args:
            private: Whether only this concept uses the folder; then images drawn with other settings are replaced.
            flag: Name of the folder's flag in errors.
        """
        settings = self.settings
        if priors.own_images(folder):
            return priors.read_own(folder, self.size, flag)
        base = self._base()
        recipe = {
            "format": recipes.FORMAT,
            "prompt": prompt, "size": self.size, "seed": settings.seed,
            "checkpoint": base["checkpoint"], "content": base["fingerprint"], "scheduler": settings.scheduler,
            "num_inference_steps": settings.num_inference_steps, "guidance_scale": settings.guidance_scale,
        }  # fmt: skip
        self.kept.prior = folder
        if self.processes.main:
            if private and not (self.out / STATE).exists():
                priors.forget_other(folder, recipe, flag)
            with self._autocast():
                priors.draw_missing(
                    folder, recipe, count, self.checkpoint, self._sampling(), signals.check, self.asked.show_progress,
                    flag,
                )  # fmt: skip
        self.processes.wait()
        return priors.read_drawn(folder, recipe, count, flag)

    def _watch_class(self, prior: priors.Prior | None, of_class: priors.Prior | None) -> None:
        """Remove the class's direction from SFSL and set up early stopping, if requested."""
        settings, network = self.settings, self.network
        self.looks = Looks(settings.stop_patience) if settings.early_stopping is not None else None
        self.watch: Watch | None = None
        if network is None:
            return

        def read(images: Sequence[Image.Image]) -> torch.Tensor:
            return read_features(network.classifier, images, signals.check)

        if self.similarity is not None and settings.class_direction is not None:
            if settings.class_direction == "images":
                assert prior is not None
                assert of_class is not None
                direction = direction_of_images(read(of_class.images), read(prior.images))
            else:
                direction = direction_of_head(network.classifier, network.label)
            self.similarity = dataclasses.replace(self.similarity, loss=self.similarity.loss.without(direction))
        if self.looks is not None:
            assert prior is not None
            without_class = settings.early_stopping == "without-class"
            self.watch = Watch(
                self.checkpoint, self._sampling(settings.stop_images), self.asked.fill(settings.prompt), settings.seed,
                network.classifier, read([r.image for r in self.found.used]), read(prior.images),
                read(of_class.images) if without_class and of_class is not None else None,
            )  # fmt: skip

    def _sampling(self, batch_size: int = 1) -> Sampling:
        return Sampling(
            self.size, self.settings.num_inference_steps, 1.0, self.settings.guidance_scale, batch_size=batch_size
        )

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _base(self) -> dict[str, Any]:
        """Return the facts of the base; a directory is given relative to the concept."""
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

    # Between steps

    def is_done(self, step: int) -> bool:
        if step and step % self.settings.stop_every == 0:
            self._look(step, signals.check)
        return self.looks is not None and self.processes.any(self.looks.done)

    def after_step(self, step: int) -> None:
        every = self.settings.preview_every
        if every and step % every == 0 and step < self.settings.max_train_steps:
            self.loop.curves.settle()  # reports non-finite losses
            if self.processes.main:
                self._preview(step)

    def at_end(self, step: int) -> None:
        if step == self.settings.max_train_steps:
            self._look(step, lambda: None)

    def write_usable(self) -> Path:
        return self._write()

    def note(self) -> dict[str, str]:
        latest = self.loop.curves.latest(20)
        losses = {name: f"{value:.3g}" for name, value in latest.items() if not name.endswith("_weighted")}
        return {**losses, "memory": f"{_peak_memory(self.device) / 1e3:.1f} GB"}

    def _look(self, step: int, between_steps: Callable[[], None]) -> None:
        """Evaluate the model's current images, if a look is due; keep the best weights.

        A stopped process abandons its look and repeats it when resumed.
        """
        if self.watch is None or self.looks is None or not self.processes.main or step in self.looks.steps:
            return
        self.loop.curves.settle()  # reports non-finite losses
        with contextlib.suppress(Stopped):
            with self.training.averaged(), self._autocast():
                value = self.watch.look(between_steps)
            if self.looks.add(step, value):
                self.training.keep_best()

    # Output files

    def _preview(self, step: int, final: bool = False) -> None:
        settings = self.settings
        if not settings.preview_images:
            return
        prompts = [self.asked.fill(prompt) for prompt in settings.preview_prompts]
        # A stopped process abandons its preview and saves; the final preview isn't interrupted.
        weights = self.training.final() if final else self.training.averaged()
        with weights, self._autocast(), contextlib.suppress(Stopped):
            draw_preview(
                self.checkpoint, self._sampling(settings.preview_images), prompts, settings.seed,
                self.out / PREVIEWS / f"step-{step:06d}.png", signals.check,
            )  # fmt: skip

    def _write(self) -> Path:
        """Write the result; the network can't be used afterwards."""
        pipeline = self.checkpoint.text_to_image
        with self.training.final():
            if self.settings.lora_rank is not None:
                concept.write_lora(pipeline, self.out / LORA)
                return self.out / LORA
            trained = {part: getattr(pipeline, part) for part in self.training.parts()}
            concept.write_checkpoint(self.checkpoint.folder, trained, self.out / CHECKPOINT)
            return self.out / CHECKPOINT

    def _finish(self) -> None:
        settings, curves, looks = self.settings, self.loop.curves, self.looks
        done, seconds = self.loop.step, self.loop.seconds
        kept_step = looks.best_step if looks is not None and looks.best_step is not None else done
        self._preview(kept_step, final=True)
        curves.write(self.out)
        curves.draw(self.out)
        kind = "lora" if self._write().name == LORA else "checkpoint"
        base = self._base()
        facts = {
            "format": FORMAT, "kind": kind, "sha256": hash_weights(self.out, kind, base["fingerprint"]),
            "noun": self.asked.noun, "label": self.asked.label, "identifier": settings.identifier, "size": self.size,
            "base": base, "settings": {n: self.identity[n] for n in settings.to_json() if n in self.identity},
            "references": self.found.to_json(), **self.loop.made_with,
            "processor": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(), "versions": _versions(), "steps": kept_step,
            "seconds": round(seconds, 1), "peak_memory_mb": round(_peak_memory(self.device)),
            "losses": curves.at_end(done),
        }  # fmt: skip
        if looks is not None:
            facts["early_stopping"] = {
                "rule": settings.early_stopping, "kept_step": kept_step, "trained_steps": done,
                "looks": [[step, round(value, 6)] for step, value in zip(looks.steps, looks.values, strict=True)],
            }  # fmt: skip
        replace_text(self.out / CONCEPT, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        (self.out / STATE).unlink(missing_ok=True)


def _peak_memory(device: torch.device) -> float:
    """Return the peak memory so far, in MB: of the device, or on a CPU this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _versions() -> dict[str, str]:
    found = {**library_versions(), "accelerate": version("accelerate")}
    for name in ("peft", "bitsandbytes"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
