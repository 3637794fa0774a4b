"""The concepts of a build of spurious images: each is fine-tuned once, as a stage, and kept in a store."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.core.names import slug
from figureground.core.progress import is_main_process
from figureground.core.terminal import print_note
from figureground.finetune.concept_store import ConceptStore
from figureground.finetune.settings import Finetuning
from figureground.models.concept_files import CONCEPT
from figureground.recipe.features import Feature
from figureground.recipe.prompts import fill_noun
from figureground.recipe.settings import field_names
from figureground.shards.home import home_of
from figureground.shards.markers import markers
from figureground.shards.stages import COPIES, DONE, find_dataset, read_marker, run_stage
from figureground.sources.references import References, gather

if TYPE_CHECKING:
    import torch

    from figureground.diffusion.checkpoint import Checkpoint

GIVEN_ELSEWHERE = ("checkpoint", "revision", "size", "feature_model")
"""Settings of the fine-tuning that are fields of the recipe itself."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of a concept's fine-tuning."""

    feature: Feature
    identity: dict[str, Any]
    """Everything that decides the concept, as JSON, with the keys of its `finetuning.json`."""
    references: References
    components: Path | None
    """File of neural-PCA components, if the fine-tuning needs them."""
    checkpoint: list[str]
    """Name and fingerprint of the checkpoint."""


@dataclass
class Concepts:
    """The concepts of a build.

    Args:
        stages: Directory of the build's stages.
        store: Where concepts are kept; builds may share it.
        settings: Settings of the fine-tuning.
        device: Device to train and draw on.
        show_progress: Whether to report progress on stderr.
    """

    stages: Path
    store: ConceptStore
    settings: Finetuning
    device: torch.device
    show_progress: bool
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of the finished concepts, by the class's slug; see `read`."""

    def read(self, features: Sequence[Feature]) -> None:
        """Read the facts in the markers of finished concepts."""
        self.facts = read_concept_facts(self.stages, features)

    def make(self, inputs: Inputs) -> None:
        """Fine-tune a concept, or reuse a finished one from the store; other processes may make others meanwhile."""
        facts = self._finetune(inputs)
        with home_of(find_dataset(self.stages)).settling():
            self._run(inputs, lambda: facts)

    def make_again(self, inputs: Inputs) -> None:
        """Make a concept that is missing from its store; refuse other weights if it has images already.

        Raises:
            FiguregroundError: The new weights differ, and images drawn with the old ones exist.
        """
        key = inputs.feature.slug
        old, new = self.facts[key], self._finetune(inputs)
        has_images = any(marker["split"] == key for marker in markers(find_dataset(self.stages)).values())
        if new["sha256"] != old["sha256"] and has_images:
            raise FiguregroundError(
                f"the concept {key} was lost, and the new one has other weights ({new['sha256'][:12]}, "
                f"not {old['sha256'][:12]}), so new images in its split would not match the existing "
                f"ones. Restore the old one to {self.store.directory / old['folder']}, or delete the markers of the "
                "split's shards."
            )
        (self.stages / _stage_name(inputs.feature) / DONE).unlink()
        self._run(inputs, lambda: new)

    def is_lost(self, feature: Feature) -> bool:
        """Whether a concept was made and is no longer in the store."""
        facts = self.facts.get(feature.slug)
        return facts is not None and not (self.store.directory / facts["folder"] / CONCEPT).is_file()

    def open(self, name: str, *, dtype: torch.dtype, scheduler: str, safety: str, base: str) -> Checkpoint:
        """Open a concept for drawing.

        Args:
            name: Slug of its class.
            dtype, scheduler, safety: See `open_checkpoint`.
            base: The checkpoint that adapters are added to.

        Raises:
            FiguregroundError: The concept's weights are no longer those that the dataset was begun with.
        """
        from figureground.finetune.concept import open_concept, read_concept

        facts = self.facts[name]
        concept = read_concept(self.store.directory / facts["folder"])
        if concept.sha256 != facts["sha256"]:
            raise FiguregroundError(
                f"the concept {concept.folder} is no longer the one that this dataset was begun with "
                f"({concept.sha256[:12]}, not {facts['sha256'][:12]}). Restore that one, or build into a new directory."
            )
        return open_concept(concept, device=self.device, dtype=dtype, scheduler=scheduler, safety=safety, base=base)

    def print_progress(self, text: str) -> None:
        """Report progress, if requested."""
        if self.show_progress:
            print_note(text)

    def _run(self, inputs: Inputs, make: Callable[[], dict[str, Any]]) -> None:
        feature = inputs.feature
        self.facts[feature.slug] = run_stage(self.stages, _stage_name(feature), inputs.identity, lambda _: make())

    def _finetune(self, inputs: Inputs) -> dict[str, Any]:
        """Fine-tune a concept, or find a finished one in the store; return the facts for its marker."""
        from figureground.finetune.dreambooth import finetune
        from figureground.models.concept_files import read_concept

        feature, settings = inputs.feature, self.settings
        if not settings.reads_features:
            settings = dataclasses.replace(settings, feature_model=None)
        with self.store.lock_name(feature.slug):
            folder = self.store.choose_folder(feature.slug, inputs.identity)
            if folder.name != feature.slug:
                self.print_progress(
                    f"{self.store.directory / feature.slug} has other inputs; this concept is {folder.name}"
                )
            references = gather(inputs.references, self.stages / COPIES / feature.slug)
            with _name_in_errors(feature):
                finetune(
                    references, feature.noun, feature.name, folder, settings, prior=self._prior_folder(inputs),
                    components=inputs.components, device=str(self.device),
                    show_progress=self.show_progress and is_main_process(),
                )  # fmt: skip
        concept = read_concept(folder)
        network = concept.facts["feature_model"]
        return {
            "folder": folder.name, "sha256": concept.sha256, "kind": concept.kind, "identifier": concept.identifier,
            "references": len(concept.facts["references"]["used"]), "losses": concept.facts["losses"],
            "feature_model": network and {name: network[name] for name in ("name", "sha256")},
        }  # fmt: skip

    def _prior_folder(self, inputs: Inputs) -> Path:
        """Return the folder of a noun's prior images; prior images with the same inputs share a folder."""
        settings, noun = self.settings, inputs.feature.noun
        names = ("size", "seed", "scheduler", "num_inference_steps", "guidance_scale")
        prior_identity = {
            "prompt": fill_noun(settings.prior_prompt, noun, settings.identifier),
            **{name: getattr(settings, name) for name in names},
            "checkpoint": inputs.checkpoint,
        }
        return self.store.prior_folder(slug(noun), prior_identity)


def read_concept_facts(stages: Path, features: Sequence[Feature]) -> dict[str, dict[str, Any]]:
    """Return the facts in the markers of finished concepts, by the class's slug."""
    stage_markers = {feature.slug: read_marker(stages / _stage_name(feature)) for feature in features}
    return {name: marker["facts"] for name, marker in stage_markers.items() if marker is not None}


def _stage_name(feature: Feature) -> str:
    return f"concept-{feature.slug}"


@contextmanager
def _name_in_errors(feature: Feature) -> Iterator[None]:
    """Make errors within name the class, and name settings as recipes do."""
    try:
        yield
    except FiguregroundError as error:
        kind = UsageError if isinstance(error, UsageError) else FiguregroundError
        settings = set(field_names(Finetuning)) - {*GIVEN_ELSEWHERE}
        named = error.within("finetuning") if isinstance(error, RecipeError) and error.field in settings else error
        raise kind(f"{feature.name}: {_FLAG.sub(_flag_to_setting, str(named))}") from error


_FLAG = re.compile(r"--(?P<name>[a-z][a-z-]*[a-z])(?: (?P<value>(?:float)?\d+(?:\.\d+)?))?")


def _flag_to_setting(flag: re.Match[str]) -> str:
    """Return a flag of `figureground finetune` as a recipe's setting: `--lora-rank 16` as
    `--set finetuning.lora_rank=16`."""
    name = flag["name"].replace("-", "_")
    if name not in field_names(Finetuning) and name != "references":
        return flag[0]
    place = name if name in (*GIVEN_ELSEWHERE, "references") else f"finetuning.{name}"
    return f"--set {place}={flag['value'] or '…'}"
