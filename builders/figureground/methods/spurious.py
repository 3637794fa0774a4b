"""Class-wise spurious images: a class's spurious feature without the class (MaungMaung et al. 2024).

For each class, a few references show its spurious feature, such as a feeder without a hummingbird. A diffusion
model is fine-tuned on them, one *concept* per class, and draws the feature in many scenes. Fine-tuning is DreamBooth
with prior preservation and a spurious-feature similarity loss (SFSL; arXiv 2402.08200). Features and classes are those
of Spurious ImageNet (Neuhaus et al. 2023, arXiv 2212.04871), or the user's.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.core import signals
from figureground.core.errors import (
    RecipeError,
    join_names,
    plural,
    printable,
    suggest_or_list,
)
from figureground.core.files import read_json
from figureground.core.hashing import content_hash, digest
from figureground.core.local_paths import strip_local_paths
from figureground.core.names import RULE, Lookup, slug
from figureground.core.resources import find_resource
from figureground.core.text import markdown
from figureground.core.text_width import align_columns
from figureground.finetune.concept_store import ConceptStore
from figureground.finetune.settings import fingerprint_network
from figureground.methods import citations
from figureground.methods.base import Method
from figureground.methods.concept_stages import GIVEN_ELSEWHERE, Concepts, Inputs, read_concept_facts
from figureground.methods.forecast import human_bytes
from figureground.methods.panels import spurious as spurious_panels
from figureground.methods.panels.panel import Panel
from figureground.methods.spurious_settings import NOT_GIVEN, POCKET, SpuriousConfig
from figureground.models.bundled import ROBUST
from figureground.models.footprint import estimate_footprint
from figureground.models.need import Need
from figureground.models.needs import (
    missing_classifier,
    missing_model,
    missing_packages,
    refuse_absent_classifier,
    refuse_featureless,
)
from figureground.recipe.classes import ClassEntry, read_nouns
from figureground.recipe.features import Feature, find_labels, read_features
from figureground.recipe.plan import Plan, no_guide
from figureground.recipe.prompts import fill_noun, refuse_long
from figureground.recipe.sample import Spec, derive_seed
from figureground.recipe.table import Counts
from figureground.shards.markers import find_missing_shards
from figureground.shards.shard import STAGES, as_shard
from figureground.shards.stages import find_dataset
from figureground.sources.provenance import Credit, Source, read_license, read_source
from figureground.sources.references import References, draw_references, read_references

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.shards.card_context import CardContext
    from figureground.shards.columns import Columns

PLAIN = "plain"
"""The scene that adds nothing to the prompt."""
CONCEPTS = "concepts"
"""Folder for concepts among a dataset's stages, unless the recipe names a directory."""
LOSSES = ("dreambooth", "prior", "sfsl")
"""Loss curves whose final values the card shows."""
COMPONENTS = "components.safetensors"
"""File of neural-PCA components that `figureground components` writes for a class."""
FEATURE_MODEL = "feature-model"
"""Value of `labels` that means the classes of the feature network."""


class Spurious(Method):
    """Build class-wise spurious images: `Spurious("pocket").build("out/spurious")`.

    They show the feature that makes classifiers predict a class, without the class (MaungMaung et al. 2024, arXiv
    2402.08200). A diffusion model is fine-tuned on references of each feature and draws it in many scenes. Each
    class is a split. `figureground settings spurious` lists the settings, fields of `SpuriousConfig`.
    """

    METHOD = "spurious"
    CONFIGS: ClassVar[dict[str, SpuriousConfig]] = {
        POCKET: SpuriousConfig(
            name=POCKET, checkpoint=POCKET, features=POCKET, labels=POCKET, references=POCKET, reference_count=16,
            feature_model=POCKET, backgrounds=POCKET, per_cell=20, size=64, num_inference_steps=20, guidance_scale=4.0,
            shard_size=100,
        ),
        "spurious-imagenet": SpuriousConfig(name="spurious-imagenet"),
    }  # fmt: skip
    DEFAULT = POCKET
    TITLE = "Spurious features: what makes classifiers say a class, without the class"
    STARTER = (
        "features", "classes", "labels", "references", "backgrounds", "per_cell", "feature_model", "finetuning",
        "concepts", *Method.STARTER,
    )  # fmt: skip
    CITATIONS = (citations.SPURIOUS, citations.SPURIOUS_IMAGENET, citations.DREAMBOOTH, citations.LATENT_DIFFUSION)
    USES = (
        "Measuring whether a classifier predicts a class from a spurious feature alone.",
        "Comparing classifiers, and ways of training them, by how much they depend on spurious features.",
        "Further training images of a feature with a label of its own, in which the class is absent.",
    )
    LIMITS = (
        "The images carry the biases of the checkpoint that drew them.",
        "Prompts and references are without the class, but no one checked that every image is.",
        "`foreground` is the noun that the prompt names. References show more than the noun, and so may images.",
        "The formula of the spurious-feature similarity loss (SFSL) is this project's own: the published one was not "
        "obtainable when it was written.",
        "Spurious ImageNet's own code computes average precision where its README says AUC. `figureground evaluate` "
        "prints average precision and ROC-AUC, each by its name.",
    )
    config: SpuriousConfig
    _has_checked_network = False
    """Whether the feature network was found to have all classes."""

    def load_inputs(self) -> None:
        config = self.config
        self.labels = self._read_labels()
        self.features = find_labels(read_features(config.features, config.classes), self.labels)
        self.settings = config.settings(len(self.features))
        self.backgrounds = read_nouns(
            "backgrounds", config.backgrounds, "backgrounds", str(self.CONFIGS[config.name].backgrounds)
        )
        self.nouns = list(dict.fromkeys(feature.noun for feature in self.features))
        self.counts = self._count_images(config.per_cell, "per_cell")
        self.earlier: list[dict[str, Counts]] = []
        for step in config.extended:
            self.earlier.append(self.counts)
            self.counts = self._count_images(step, "extended")
            self._refuse_fewer(self.earlier[-1])
        self.pairings = {}
        self._by_slug = {feature.slug: feature for feature in self.features}
        if config.references == POCKET:
            self._refuse_unknown_to_pocket()
        elif config.references is not None and not Path(config.references).expanduser().is_dir():
            raise RecipeError("references", f"no such directory: {config.references}.")
        if config.concepts:
            folder = Path(config.concepts).expanduser()
            existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
            if existing.exists() and not existing.is_dir():
                raise RecipeError("concepts", f"{existing} is a file; give a directory.")

    def _read_labels(self) -> list[ClassEntry]:
        """Return the classes of the logits; a network's own are read from its config, without opening it."""
        config = self.config
        if config.labels != FEATURE_MODEL:
            return read_nouns("labels", config.labels, "classes", "imagenet")
        folder = ROBUST if config.feature_model == POCKET else Path(config.feature_model or "").expanduser()
        try:
            id2label = read_json(folder / "config.json")["id2label"]
            names = [str(id2label[str(i)]) for i in range(len(id2label))]
        except (OSError, ValueError, KeyError, TypeError):
            raise RecipeError(
                "labels",
                f"{FEATURE_MODEL!r} is given, but feature_model={config.feature_model} is not a transformers "
                "directory whose config.json names its classes. Give labels=imagenet, or a CSV with a column name.",
            ) from None
        repeated = {name for name, n in Counter(names).items() if n > 1}
        return [ClassEntry(f"{name} ({i})" if name in repeated else name, name) for i, name in enumerate(names)]

    def _count_images(self, per_cell: Any, field: str) -> dict[str, Counts]:
        """Return the images per cell, by split: each class has one noun, in every scene."""
        by_scene = self._counts_by_scene(per_cell, field)
        if not any(by_scene.values()):
            raise RecipeError(field, "it plans no image in any scene. Give a number above 0.")
        counts = {}
        for feature in self.features:
            table = np.zeros((len(self.nouns), len(self.backgrounds)), np.int64)
            table[self.nouns.index(feature.noun)] = list(by_scene.values())
            counts[feature.slug] = table
        return counts

    def _counts_by_scene(self, per_cell: Any, field: str) -> dict[str, int]:
        names = [background.name for background in self.backgrounds]
        if not isinstance(per_cell, Mapping):
            return dict.fromkeys(names, int(per_cell))
        for name in per_cell:
            if name not in names:
                raise RecipeError(f"{field}.{name}", f"there is no scene {name!r}{suggest_or_list(str(name), names)}")
        return {name: int(per_cell.get(name, 0)) for name in names}

    def _refuse_fewer(self, earlier: dict[str, Counts]) -> None:
        first = next(iter(self.counts))
        if (self.counts[first] < earlier[first]).any():
            raise RecipeError(
                "extended", "the new total is below the present number of images of a scene. Give a larger total."
            )
        if (self.counts[first] == earlier[first]).all():
            raise RecipeError("extended", "it adds no image. Give a larger number.")

    def _refuse_unknown_to_pocket(self) -> None:
        from figureground.pocket.biased import LOOK_BY_CLASS

        unknown = [feature.name for feature in self.features if feature.name not in LOOK_BY_CLASS]
        if unknown:
            raise RecipeError(
                "references",
                f"'pocket' draws only those of its own classes ({join_names(LOOK_BY_CLASS)}), not of "
                f"{join_names(unknown, 5)}. Give a directory of images: --set references=DIR.",
            )

    # --- the plan -------------------------------------------------------------------------------

    def columns(self) -> Columns:
        from figureground.shards.columns import Columns

        labels = {"spurious_for": [label.name for label in self.labels]}
        return Columns(self.nouns, [background.name for background in self.backgrounds], labels, ("feature",))

    def plan(self) -> Plan:
        config, scenes = self.config, [background.name for background in self.backgrounds]
        return Plan(
            self.counts, self.nouns, scenes, config.seed, config.shard_size, config.limit, no_guide, self._make_prompt,
            earlier=self.earlier, concepts={split: split for split in self.counts},
        )  # fmt: skip

    def _make_prompt(self, split: str, f: int, b: int, i: int) -> str:
        plain = fill_noun(self.settings.prompt, self.nouns[f], self.settings.identifier)
        return plain if self.backgrounds[b].name == PLAIN else f"{plain} {self.backgrounds[b].text}"

    def provenance(self, spec: Spec) -> dict[str, Any]:
        assert spec.concept is not None
        feature = self._by_slug[spec.concept]
        return {
            "spurious_for": feature.name,
            "feature": feature.text,
            "concept": {
                "name": spec.concept, "noun": feature.noun, "identifier": self.settings.identifier,
                "sha256": self._concepts.facts[spec.concept]["sha256"],
            },
        }  # fmt: skip

    def provenance_settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().provenance_settings().items() if name != "strength"}

    def per_cell(self) -> dict[str, int]:
        return self._counts_by_scene(self.config.per_cell, "per_cell")

    # --- identity -------------------------------------------------------------------------------

    def content_hashes(self) -> dict[str, Any]:
        finetuning = self.settings.identity_fields()
        finetuning["tiny_autoencoder"] = strip_local_paths(finetuning["tiny_autoencoder"])
        return {
            **super().content_hashes(),
            "features": [[feature.name, feature.noun, feature.text] for feature in self.features],
            "classes": None,
            "labels": digest([label.name for label in self.labels]),
            "backgrounds": [[b.name, "" if b.name == PLAIN else b.text] for b in self.backgrounds],
            "per_cell": self.per_cell(),
            "references": self._identify_references(),
            "feature_model": self._network_fingerprint,
            "components": {name: content_hash(path) for name, path in self.components.items()} or None,
            "finetuning": {name: value for name, value in finetuning.items() if name not in GIVEN_ELSEWHERE},
        }

    def _identify_references(self) -> Any:
        """Return what identifies the references in the recipe: their content, or how they are drawn."""
        if self.config.references is None:
            return None
        if self.config.references == POCKET:
            from figureground.pocket.biased import LOOK_BY_CLASS

            looks = {feature.name: LOOK_BY_CLASS[feature.name] for feature in self.features}
            return {"drawn": self._num_drawn_references, "looks": looks}
        return {slug: references.digest for slug, references in self.references.items()}

    @property
    def _num_drawn_references(self) -> int:
        return self.config.reference_count or 16

    @cached_property
    def references(self) -> dict[str, References]:
        """The references of each class, by its slug."""
        config = self.config
        if config.references == POCKET:
            from figureground.pocket.biased import reference

            def draw(name: str, i: int) -> Image.Image:
                return reference(name, np.random.default_rng(derive_seed(0, "reference", name, str(i))), config.size)

            return {
                feature.slug: draw_references(self._num_drawn_references, partial(draw, feature.name))
                for feature in self.features
            }
        assert config.references is not None  # `_missing_settings` reports this first
        return read_references(Path(config.references), self.features, config.reference_count)

    @cached_property
    def _network_fingerprint(self) -> str | None:
        """Fingerprint of the feature network; None if none is used, or none is given yet."""
        return None if self.settings.feature_model == NOT_GIVEN else fingerprint_network(self.settings)

    @property
    def _needs_components(self) -> bool:
        return bool(self.settings.sfsl_weight) and self.settings.features == "neural-pca"

    @cached_property
    def components(self) -> dict[str, Path]:
        """File of neural-PCA components by the class's slug; empty unless the fine-tuning needs them."""
        directory = self.config.components
        if not self._needs_components or directory is None:
            return {}
        root = Path(directory).expanduser()
        folders = Lookup(path.name for path in sorted(root.glob("*")) if (path / COMPONENTS).is_file())
        files = {}
        for feature in self.features:
            matches = folders.find(feature.name, *feature.aliases, feature.slug)
            if len(matches) > 1:
                raise RecipeError(
                    "components",
                    f"{feature.name!r} has more than one folder in {directory}: {join_names(matches)}. {RULE}.",
                )
            if matches:
                files[feature.slug] = root / matches[0] / COMPONENTS
        missing = [feature.name for feature in self.features if feature.slug not in files]
        if missing:
            raise RecipeError(
                "components",
                f"{len(missing)} of {len(self.features)} classes have none in {directory}: {join_names(missing, 5)}. "
                f"Make them, class by class, with figureground components --out {directory}/{slug(missing[0])}.",
            )
        return files

    # --- concepts -------------------------------------------------------------------------------

    def _missing_settings(self) -> dict[str, str]:
        """Return messages about required settings that are missing, by field."""
        messages = {}
        if self.config.references is None:
            messages["references"] = (
                "none are given. Give images of each feature without its class: --set references=DIR, with one folder "
                "per class, or the folders of Spurious ImageNet."
            )
        if self.settings.reads_features and self.settings.feature_model == NOT_GIVEN:
            messages["feature_model"] = (
                "none is given, and SFSL compares the features of an adversarially robust classifier. Name one, such "
                "as a file of robust ResNet-50 weights (--set feature_model=FILE), or turn SFSL off: "
                "--set finetuning.sfsl_weight=0."
            )
        if self._needs_components and self.config.components is None:
            messages["components"] = (
                "none are given, and finetuning.features=neural-pca needs those of each class. Make them with "
                "figureground components, and give --set components=DIR."
            )
        return messages

    def parts(self, stages: Path) -> list[str]:
        """Return the classes whose concept isn't learned yet, by their slugs."""
        facts = read_concept_facts(stages, self.features)
        return [feature.slug for feature in self._features_to_draw() if feature.slug not in facts]

    def make_part(self, stages: Path, name: str, checkpoint: Checkpoint, device: torch.device) -> None:
        """Fine-tune the concept of a class."""
        concepts = self._open_concepts(stages, checkpoint, device)
        feature, names = self._by_slug[name], self.parts(stages)
        if not self._has_checked_network:
            self._refuse_unknown_to_network()
            self._has_checked_network = True
        concepts.print_progress(
            f"{feature.name} ({feature.noun}), 1 of {plural(len(names), 'concept')} still to be learned"
        )
        concepts.make(self._gather_inputs(feature))

    def prepare(self, stages: Path, checkpoint: Checkpoint) -> None:
        """Read the concepts, and learn again those that were lost."""
        concepts = self._open_concepts(stages, checkpoint, checkpoint.device)
        lost = [feature for feature in self._unfinished_features(stages) if concepts.is_lost(feature)]
        if not lost:
            return
        from figureground.diffusion.render import move_to_cpu

        self._refuse_unknown_to_network()
        move_to_cpu(checkpoint)  # the recipe's own checkpoint draws no image
        for number, feature in enumerate(lost, 1):
            signals.check()
            concepts.print_progress(f"lost concept {number} of {len(lost)}: {feature.name} ({feature.noun})")
            concepts.make_again(self._gather_inputs(feature))

    def _open_concepts(self, stages: Path, checkpoint: Checkpoint, device: torch.device) -> Concepts:
        self._dtype = checkpoint.denoiser.dtype
        self._concepts = Concepts(stages, self.store(stages), self.settings, device, self.show_progress)
        self._refuse_long(checkpoint)
        self._concepts.read(self.features)
        return self._concepts

    def _features_to_draw(self) -> list[Feature]:
        """Return the classes that have images; with a limit, some may have none."""
        totals = self.plan().totals()
        return [feature for feature in self.features if totals[feature.slug]]

    def _unfinished_features(self, stages: Path) -> list[Feature]:
        """Return the classes with images still to be drawn."""
        missing = find_missing_shards(find_dataset(stages), map(as_shard, self.plan().shards()))
        splits = {shard.split for shard in missing}
        return [feature for feature in self.features if feature.slug in splits]

    def _gather_inputs(self, feature: Feature) -> Inputs:
        return Inputs(
            feature, self._concept_identity(feature), self.references[feature.slug], self.components.get(feature.slug),
            [Path(self.config.checkpoint).name, self.checkpoint_fingerprint],
        )  # fmt: skip

    def store(self, stages: Path) -> ConceptStore:
        """Return where the concepts of a dataset are kept.

        Args:
            stages: The folder of its stages.
        """
        return ConceptStore(Path(self.config.concepts).expanduser() if self.config.concepts else stages / CONCEPTS)

    def _concept_identity(self, feature: Feature) -> dict[str, Any]:
        """Return everything that decides a concept, as JSON, with the keys of its `finetuning.json`."""
        settings = self.settings.identity_fields()
        for name in ("checkpoint", "feature_model", "tiny_autoencoder"):
            del settings[name]  # their content counts, not their paths
        identity = {
            "noun": feature.noun, "label": feature.name, **settings, "checkpoint_content": self.checkpoint_fingerprint,
            "references": self.references[feature.slug].to_json(),
            "feature_model_content": self._network_fingerprint,
        }  # fmt: skip
        if feature.slug in self.components:
            identity["components_content"] = content_hash(self.components[feature.slug])
        return identity

    def _refuse_long(self, checkpoint: Checkpoint) -> None:
        """Refuse prompts that a text encoder would truncate: the scene is last and would be lost."""
        for f, b in itertools.product(range(len(self.nouns)), range(len(self.backgrounds))):
            prompt = self._make_prompt("", f, b, 0)
            field = f"backgrounds.{self.backgrounds[b].name}"
            refuse_long(field, f"the prompt {prompt!r}", checkpoint.count_tokens(prompt))

    def _refuse_unknown_to_network(self) -> None:
        """Raise RecipeError, before any training, for classes that the feature network lacks."""
        settings = self.settings
        if not settings.reads_features:
            return
        from figureground.vision.classifiers import open_classifier

        assert settings.feature_model is not None
        network = open_classifier(settings.feature_model, revision=settings.feature_model_revision)
        unknown = [feature.name for feature in self.features if network.index_or_none(feature.name) is None]
        if unknown:
            raise RecipeError(
                "feature_model",
                f"{len(unknown)} of {len(self.features)} classes are none of the {len(network.labels):,} of "
                f"{network.name!r}: {join_names(unknown, 5)}. Give a network that has them, or leave them out: "
                "--set 'classes=[…]'.",
            )

    @property
    def trains_checkpoint(self) -> bool:
        return True

    def training(self) -> tuple[str, dict[str, Any]]:
        return "finetuning", self.settings.to_json()

    @property
    def _trained_parts(self) -> str:
        """Name of what is trained, for plan and card."""
        denoiser = self.family.DENOISER if self.family is not None else "unet"
        return "UNet and text encoder" if denoiser == "unet" else f"{denoiser} and text encoders"

    def checkpoint_for(self, concept: str | None, base: Checkpoint) -> Checkpoint:
        assert concept is not None
        return self._concepts.open(
            concept, dtype=self._dtype, scheduler=self.config.scheduler, safety=self.config.safety,
            base=self.config.checkpoint,
        )  # fmt: skip

    # --- the report -------------------------------------------------------------------------------

    def overview(self, directory: Path) -> list[Panel]:
        return spurious_panels.overview(self, directory)

    # --- the card and the forecast --------------------------------------------------------------

    def summary(self) -> str:
        settings = self.settings
        names = [f"{markdown(feature.name)} ({markdown(feature.noun)})" for feature in self.features]
        examples = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        similarity = ""
        if settings.sfsl_weight:
            similarity = (
                " and a loss that keeps what a robust classifier sees in them near the references (SFSL of weight "
                f"{settings.sfsl_weight:g}: {settings.features} features, {settings.distance} distance, weighted by "
                f"{settings.weighting})"
            )
            if settings.class_direction:
                similarity = (
                    similarity[:-1] + f", without the class's own direction, by its {settings.class_direction})"
                )
        trained = f"adapters of {self._trained_parts}" if settings.lora_rank else f"{self._trained_parts} together"
        return (
            f"Images that may fool classifiers. For each class they show its spurious feature, without the class "
            f"itself: {examples}. A diffusion model learned each feature from a few references, as a new word: "
            f"DreamBooth with prior preservation{similarity}, training {trained} for {settings.max_train_steps:,} "
            "steps. It then drew the images from prompts with that word. Each class is a split. `foreground` is the "
            "object shown, `background` the scene of the prompt (`plain` if it names none), `spurious_for` the class "
            "that a classifier may predict, and `feature` the feature in words."
        )

    def card_context(self, out: Path) -> CardContext:
        concept_facts, concepts = read_concept_facts(out / STAGES, self.features), []
        for feature in self.features:
            if (facts := concept_facts.get(feature.slug)) is not None:
                concepts.append({
                    "class": feature.name, "noun": feature.noun, "feature": feature.text,
                    **{name: facts[name] for name in ("references", "identifier", "kind", "sha256", "feature_model")},
                    "losses": {name: value for name, value in facts["losses"].items() if name in LOSSES},
                })  # fmt: skip
        return dataclasses.replace(super().card_context(out), concepts=concepts)

    def sources(self) -> tuple[list[Source], list[Credit]]:
        location = self.config.references
        if location is None:
            return [], []
        images = [image for references in self.references.values() for image in references.images]
        if location == POCKET:
            license, file = read_license(find_resource("templates/pocket"))
            return [Source("references", POCKET, len(images), license=license, license_file=file)], []
        paths = [image.path for image in images if image.path is not None]
        source, credits = read_source("references", Path(location), paths, skipped=len(self.skipped()))
        return [source], credits

    def skipped(self) -> list[tuple[str, str]]:
        """Return the unreadable reference files, as (`folder/name`, reason)."""
        if self.config.references is None:
            return []
        return sorted(
            (f"{printable(path.parent.name)}/{printable(path.name)}", reason)
            for references in self.references.values()
            for path, reason in references.skipped
        )

    def plan_counts(self, plan: Plan) -> list[str]:
        """Return a table of classes by scenes, and examples of prompts."""
        scenes = [background.name for background in self.backgrounds]
        counts = [plan.cells(feature.slug).sum(0) for feature in self.features]
        rows = [["class", "noun", "feature", *scenes]]
        for feature, row in zip(self.features, counts, strict=True):
            rows.append([feature.name, feature.noun, feature.text, *(f"{n:,}" for n in row)])
        rows.append(["all", "", "", *(f"{n:,}" for n in np.sum(counts, axis=0))])
        lines = [f"  {line}" for line in align_columns(rows, 3, min_width=5)]
        f = self.nouns.index(self.features[0].noun)
        prompts = [repr(self._make_prompt("", f, b, 0)) for b in range(len(scenes))]
        return ["", *lines, "", "prompts such as " + ", ".join(prompts[:3])]

    def refuse_absent(self) -> None:
        if messages := self._missing_settings():
            field, message = next(iter(messages.items()))
            raise RecipeError(field, message)
        settings = self.settings
        if settings.reads_features and settings.feature_model not in (None, NOT_GIVEN):
            refuse_featureless("feature_model", str(settings.feature_model))
            refuse_absent_classifier("feature_model", str(settings.feature_model))

    def needs(self) -> list[Need]:
        settings = self.settings
        needs = [
            *super().needs(),
            *(Need(field, message.rstrip(".")) for field, message in self._missing_settings().items()),
        ]
        if settings.reads_features and settings.feature_model not in (None, NOT_GIVEN):
            needs += missing_classifier("feature_model", str(settings.feature_model), settings.feature_model_revision)
            if settings.tiny_autoencoder is not None:
                needs += missing_model("finetuning.tiny_autoencoder", settings.tiny_autoencoder)
        if settings.lora_rank:
            needs += missing_packages("finetuning.lora_rank", ["peft"])
        if settings.eight_bit_adam:
            needs += missing_packages("finetuning.eight_bit_adam", ["bitsandbytes"])
        return needs

    def plan_notes(self) -> list[str]:
        settings, missing_settings = self.settings, self._missing_settings()
        features = self._features_to_draw()
        num_existing = 0
        if self.config.concepts and "references" not in missing_settings:
            store = self.store(Path())
            num_existing = sum(
                store.find(feature.slug, self._concept_identity(feature)) is not None for feature in features
            )
        num_missing = len(features) - num_existing
        disk = estimate_footprint(self.config.checkpoint, self.config.revision, settings.lora_rank)
        kind = f"adapters of rank {settings.lora_rank}" if settings.lora_rank else "whole checkpoints"
        lines = [
            f"{plural(num_missing, 'concept')} to fine-tune, {settings.max_train_steps:,} steps each"
            + (f" ({num_existing} of {len(features)} are in {self.config.concepts})" if num_existing else "")
            + f"; they need about {human_bytes(disk.finished * num_missing)} of disk ({kind}, "
            + f"{human_bytes(disk.finished)} each"
            + (")" if disk.is_measured else ", by what the checkpoint's name says)")
            + (f", and about {human_bytes(disk.working)} more while one is learned" if num_missing else "")
        ]
        if num_missing and "references" not in missing_settings:
            lines += self._describe_learning()
        if skipped := self.skipped():
            lines.append(f"{plural(len(skipped), 'reference')} can't be read, such as {': '.join(skipped[0])}.")
        return lines

    def _describe_learning(self) -> list[str]:
        """Return lines on how a concept is learned and what its prior images cost."""
        settings = self.settings
        counts = [len(references.images) for references in self.references.values()]
        reference_counts = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        trained = f"adapters of rank {settings.lora_rank}" if settings.lora_rank else self._trained_parts
        similarity = f"SFSL of weight {settings.sfsl_weight:g}" if settings.sfsl_weight else "no SFSL"
        if settings.sfsl_weight and settings.class_direction:
            similarity += f" without the class's direction ({settings.class_direction})"
        if settings.early_stopping:
            similarity += f", stopped early by {settings.early_stopping}"
        batch = settings.batch_size * settings.gradient_accumulation_steps
        lines = [
            f"each from {reference_counts} references: {trained}, {batch} a step, prior preservation of weight "
            f"{settings.prior_weight:g}, {similarity}"
        ]
        if settings.prior_weight:
            images = settings.num_class_images * len(self.nouns)
            evaluations = images * settings.num_inference_steps * (2 if settings.guidance_scale > 1 else 1)
            lines.append(
                f"prior preservation needs {settings.num_class_images:,} images of each of "
                f"{plural(len(self.nouns), 'noun')}, {evaluations:,} denoiser evaluations if none exist yet"
            )
        if settings.needs_class_images:
            lines.append(f"{settings.class_images:,} images of each class are drawn too, to tell it from its feature")
        return lines
