"""A run of DreamBooth: prior images, the training with its evaluations and previews, and the finished concept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from figureground.core import signals
from figureground.core.accelerator import processor_name
from figureground.core.errors import Stopped
from figureground.core.files import replace_text
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.render import Sampling
from figureground.finetune import concept, priors
from figureground.finetune.environment import list_versions, measure_peak_memory
from figureground.finetune.feature_network import FeatureNetwork
from figureground.finetune.latents import encode
from figureground.finetune.previews import PREVIEWS, draw_preview
from figureground.finetune.request import FinetuneRequest, SavedProgress
from figureground.finetune.settings import POCKET
from figureground.finetune.similarity import compute_head_direction, compute_image_direction, read_features
from figureground.finetune.stopping import Evaluations, Evaluator, TrainingWithEvaluations
from figureground.finetune.training import FinetuneData, FinetuneState, Similarity
from figureground.finetune.training_images import TrainingImages
from figureground.models.concept_files import CHECKPOINT, CONCEPT, FORMAT, LORA, hash_weights
from figureground.models.weights import local_directory
from figureground.recipe import document as recipes
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import Processes
from figureground.training.state import STATE

PRIOR = "prior"
"""Default folder of prior images in a concept's directory."""
CLASS = "class"
"""Default folder of images of the class itself."""


@dataclass(eq=False)
class ConceptRun(Hooks):
    """One process's run for a concept, from prior images to `concept.json`."""

    request: FinetuneRequest
    references: TrainingImages
    identity: dict[str, Any]
    checkpoint: Checkpoint
    network: FeatureNetwork | None
    similarity: Similarity | None
    processes: Processes
    size: int
    dtype: torch.dtype
    progress: SavedProgress

    def __post_init__(self) -> None:
        self.out, self.settings = self.request.out, self.request.settings
        self.device = self.processes.device

    def run(self) -> None:
        """Draw missing prior images, train, and write the concept; resume what was begun before."""
        vae, settings = self.checkpoint.text_to_image.vae, self.settings
        prior = self._load_prior() if settings.prior_weight else None
        class_images = self._load_class_images() if settings.needs_class_images else None
        data = FinetuneData(
            encode(vae, [r.image for r in self.references.images], settings.flip, signals.check),
            tuple(self.request.fill_caption(r.caption) for r in self.references.images),
            encode(vae, prior.images, settings.flip, signals.check) if prior else None,
            self.request.fill(settings.prior_prompt),
        )
        vae.to(self.dtype)  # from here on it only decodes, for SFSL and previews
        self._set_up_similarity_and_stopping(prior, class_images)
        self.training = FinetuneState(
            self.checkpoint, settings, data, self.similarity, self.processes, self.size, self.dtype
        )
        made_with = {
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "processes": self.processes.count,
            "prior": prior.facts if prior else None,
            "feature_model": self.network.classifier.facts if self.network else None,
            **({"class_images": class_images.facts} if class_images else {}),
        }
        self.loop = Loop(
            TrainingWithEvaluations(self.training, self.evaluations), self, self.progress, made_with,
            Saving(settings.save_every, settings.save_seconds), self.processes, str(self.out),
            self.request.show_progress,
        )  # fmt: skip
        self.loop.resume()
        self.loop.run()
        if self.processes.is_main:
            self._finish()
        self.processes.wait()

    def _load_prior(self) -> priors.Prior:
        """Return the prior images."""
        settings, folder = self.settings, self.request.prior or self.out / PRIOR
        return self._load_images(
            folder,
            self.request.fill(settings.prior_prompt),
            settings.num_class_images,
            self.request.prior is None,
            priors.FLAG,
        )

    def _load_class_images(self) -> priors.Prior:
        """Return images of the class itself."""
        folder = self.request.class_folder
        return self._load_images(
            folder or self.out / CLASS, self.request.fill_class_prompt(), self.settings.class_images, folder is None,
            "--class-folder",
        )  # fmt: skip

    def _load_images(self, folder: Path, prompt: str, count: int, private: bool, flag: str) -> priors.Prior:
        """Return images drawn by the original model, or a user's own images; one process draws missing ones.

        Args:
            private: Whether only this concept uses the folder; then images drawn with other settings are replaced.
            flag: Name of the folder's flag in errors.
        """
        settings = self.settings
        if priors.has_own_images(folder):
            return priors.read_own_images(folder, self.size, flag)
        base = self._describe_base()
        recipe = {
            "format": recipes.FORMAT,
            "prompt": prompt, "size": self.size, "seed": settings.seed,
            "checkpoint": base["checkpoint"], "content": base["fingerprint"], "scheduler": settings.scheduler,
            "num_inference_steps": settings.num_inference_steps, "guidance_scale": settings.guidance_scale,
        }  # fmt: skip
        self.progress.prior = folder
        if self.processes.is_main:
            if private and not (self.out / STATE).exists():
                priors.remove_other_images(folder, recipe, flag)
            with self._autocast():
                priors.draw_missing(
                    folder, recipe, count, self.checkpoint, self._sampling(), signals.check, self.request.show_progress,
                    flag,
                )  # fmt: skip
        self.processes.wait()
        return priors.read_drawn_images(folder, recipe, count, flag)

    def _set_up_similarity_and_stopping(self, prior: priors.Prior | None, class_images: priors.Prior | None) -> None:
        """Remove the class's direction from SFSL and set up early stopping, if requested."""
        settings, network = self.settings, self.network
        self.evaluations = Evaluations(settings.stop_patience) if settings.early_stopping is not None else None
        self.evaluator: Evaluator | None = None
        if network is None:
            return

        def extract_features(images: Sequence[Image.Image]) -> torch.Tensor:
            return read_features(network.classifier, images, signals.check)

        if self.similarity is not None and settings.class_direction is not None:
            if settings.class_direction == "images":
                assert prior is not None
                assert class_images is not None
                direction = compute_image_direction(
                    extract_features(class_images.images), extract_features(prior.images)
                )
            else:
                direction = compute_head_direction(network.classifier, network.label)
            self.similarity = dataclasses.replace(
                self.similarity, loss=self.similarity.loss.remove_direction(direction)
            )
        if self.evaluations is not None:
            assert prior is not None
            without_class = settings.early_stopping == "without-class"
            self.evaluator = Evaluator(
                self.checkpoint, self._sampling(settings.stop_images), self.request.fill(settings.prompt),
                settings.seed, network.classifier, extract_features([r.image for r in self.references.images]),
                extract_features(prior.images),
                extract_features(class_images.images) if without_class and class_images is not None else None,
            )  # fmt: skip

    def _sampling(self, batch_size: int = 1) -> Sampling:
        return Sampling(
            self.size, self.settings.num_inference_steps, 1.0, self.settings.guidance_scale, batch_size=batch_size
        )

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _describe_base(self) -> dict[str, Any]:
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
            self._evaluate(step, signals.check)
        return self.evaluations is not None and self.processes.any(self.evaluations.should_stop)

    def after_step(self, step: int) -> None:
        every = self.settings.preview_every
        if every and step % every == 0 and step < self.settings.max_train_steps:
            self.loop.curves.fetch()  # reports non-finite losses
            if self.processes.is_main:
                self._preview(step)

    def at_end(self, step: int) -> None:
        if step == self.settings.max_train_steps:
            self._evaluate(step, lambda: None)

    def note(self) -> dict[str, str]:
        latest = self.loop.curves.average_last(20)
        losses = {name: f"{value:.3g}" for name, value in latest.items() if not name.endswith("_weighted")}
        return {**losses, "memory": f"{measure_peak_memory(self.device) / 1e3:.1f} GB"}

    def _evaluate(self, step: int, between_steps: Callable[[], None]) -> None:
        """Evaluate the model's current images, if an evaluation is due; keep the best weights.

        A stopped process abandons its evaluation and repeats it when resumed.
        """
        if (
            self.evaluator is None
            or self.evaluations is None
            or not self.processes.is_main
            or step in self.evaluations.steps
        ):
            return
        self.loop.curves.fetch()  # reports non-finite losses
        with contextlib.suppress(Stopped):
            with self.training.averaged_weights(), self._autocast():
                value = self.evaluator.evaluate(between_steps)
            self.loop.report.log({f"early_stopping/{self.settings.early_stopping}": value}, step)
            if self.evaluations.add(step, value):
                self.training.keep_best()

    # Output files

    def _preview(self, step: int, final: bool = False) -> None:
        settings = self.settings
        if not settings.preview_images:
            return
        prompts = [self.request.fill(prompt) for prompt in settings.preview_prompts]
        path = self.out / PREVIEWS / f"step-{step:06d}.png"
        # A stopped process abandons its preview and saves; the final preview isn't interrupted.
        weights = self.training.final_weights() if final else self.training.averaged_weights()
        with weights, self._autocast(), contextlib.suppress(Stopped):
            draw_preview(
                self.checkpoint, self._sampling(settings.preview_images), prompts, settings.seed,
                path, signals.check,
            )  # fmt: skip
            self.loop.report.image("preview", path, step)

    def write_usable(self) -> Path:
        """Write the trained weights; the network can't be used afterwards."""
        with self.training.final_weights():
            if self.settings.lora_rank is not None:
                concept.write_lora(self.checkpoint, self.out / LORA)
                return self.out / LORA
            pipeline = self.checkpoint.text_to_image
            trained = {part: getattr(pipeline, part) for part in self.training.list_trained_parts()}
            concept.write_checkpoint(self.checkpoint.folder, trained, self.out / CHECKPOINT)
            return self.out / CHECKPOINT

    def _finish(self) -> None:
        settings, curves, evaluations = self.settings, self.loop.curves, self.evaluations
        trained_steps, seconds = self.loop.step, self.loop.seconds
        best_step = None if evaluations is None else evaluations.best_step
        kept_step = trained_steps if best_step is None else best_step
        self._preview(kept_step, final=True)
        if evaluations is not None:
            self.loop.report.log({"early_stopping/kept_step": kept_step}, trained_steps)
        curves.write(self.out)
        curves.draw(self.out)
        kind = "lora" if self.write_usable().name == LORA else "checkpoint"
        base = self._describe_base()
        facts = {
            "format": FORMAT, "kind": kind, "sha256": hash_weights(self.out, kind, base["fingerprint"]),
            "noun": self.request.noun, "label": self.request.label, "identifier": settings.identifier,
            "size": self.size,
            "base": base, "settings": {n: self.identity[n] for n in settings.to_json() if n in self.identity},
            "references": self.references.to_json(), **self.loop.made_with,
            "processor": processor_name(self.device),
            "threads": torch.get_num_threads(), "versions": list_versions(), "steps": kept_step,
            "seconds": round(seconds, 1), "peak_memory_mb": round(measure_peak_memory(self.device)),
            "losses": curves.summarise_end(trained_steps),
        }  # fmt: skip
        if evaluations is not None:
            facts["early_stopping"] = {
                "rule": settings.early_stopping, "kept_step": kept_step, "trained_steps": trained_steps,
                "looks": [
                    [step, round(value, 6)]
                    for step, value in zip(evaluations.steps, evaluations.values, strict=True)
                ],
            }  # fmt: skip
        replace_text(self.out / CONCEPT, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        (self.out / STATE).unlink(missing_ok=True)
