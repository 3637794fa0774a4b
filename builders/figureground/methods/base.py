"""What every method says: its recipe, its columns and plan, how its images begin, and what its card tells.

A method runs nothing by itself. `running.building.build` and the workers that it starts call the hooks below, in the
order that stands there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, counted, nearest_or_all
from figureground.core.files import read_object
from figureground.core.hashing import digest
from figureground.core.numerics import library_versions, read_numerics
from figureground.core.values import kinds_of
from figureground.models.distilled import checkpoint_notes
from figureground.models.needs import Need, missing_checkpoint, missing_device
from figureground.models.weights import check_size, fingerprint, local_directory, pixels_a_latent
from figureground.recipe import document as recipes
from figureground.recipe.config import SAMPLING, Config
from figureground.recipe.plan import Plan
from figureground.recipe.sample import Guide, Spec
from figureground.recipe.settings import Names, json_schema, marked
from figureground.running import building
from figureground.shards import index
from figureground.shards.card import CardContext
from figureground.shards.writer import PRIVATE, Columns
from figureground.sources.provenance import Credit, Source, read_weights

if TYPE_CHECKING:
    import datasets
    from PIL import Image

    from figureground.diffusion.checkpoint import Checkpoint


class Method(ABC):
    """A way of making a dataset. A method gives `columns`, `plan`, `summary` and what it needs of the rest.

    `build(out)` writes shards, card and index into a directory, and goes on with what is there. The way of `datasets`,
    `download_and_prepare()` and `as_dataset()`, builds the same shards in the cache directory.

    Args:
        config_name: One of the method's configs.
        cache_dir: Where `download_and_prepare` keeps what it builds.
        fields: Settings that differ from the config's.

    Raises:
        RecipeError: An unknown config or field, or a value that can't be used.
    """

    METHOD: ClassVar[str]
    """Its name on the command line and in recipes."""
    CONFIGS: ClassVar[Mapping[str, Config]]
    DEFAULT: ClassVar[str]
    TITLE: ClassVar[str]
    CITATIONS: ClassVar[tuple[str, ...]] = ()
    """BibTeX of what the method comes from."""
    INPAINTS: ClassVar[bool] = False
    """Whether images are made by repainting a part of others."""
    FROM_DATA: ClassVar[bool] = False
    """Whether images are made from a labelled training set, the setting `data`: then `compare` takes the method."""
    SHARED: ClassVar[tuple[str, ...]] = ("content",)
    """Cached properties that a build computes once and hands to its workers."""
    LIMITS: ClassVar[tuple[str, ...]] = ()
    """What the card warns of, a sentence each."""
    USES: ClassVar[tuple[str, ...]] = (
        "Measuring how far a classifier's answer hangs on the background instead of the object.",
        "Training where foreground and background are independent, or depend on each other by a known amount.",
        "Comparing methods that are meant to be robust against spurious correlations, on groups whose sizes are known.",
    )
    """What the card says that the dataset is for."""
    MISUSES: ClassVar[tuple[str, ...]] = (
        "The only evidence of how a model does on photographs: generated images differ from those.",
        "Facts about the world: what is shown where, and how often, was chosen by whoever made the dataset.",
        "Decisions about people.",
    )
    """What the card says that it is not for."""

    def __init__(self, config_name: str | None = None, *, cache_dir: str | None = None, **fields: Any):
        name = config_name or self.DEFAULT
        if name not in self.CONFIGS:
            raise RecipeError(
                "config",
                f"{self.METHOD} has no config {name!r}{nearest_or_all(name, self.CONFIGS)}",
            )
        base = self.CONFIGS[name]
        recipes.check_names(fields, type(base).field_names(), self.METHOD)
        self.config = dataclasses.replace(base, **{n: _plain(value) for n, value in fields.items()})
        self.cache_dir = cache_dir
        self.load_inputs()

    @classmethod
    def from_recipe(
        cls, fields: recipes.Fields, settings: list[str] | None = None, config_name: str | None = None
    ) -> Method:
        """A method from a recipe file's fields and `--set` values; flags win over the file's `config`."""
        name = str(config_name or fields.get("config") or cls.DEFAULT)
        return cls(name, **cls._typed(name, fields, settings or [])) if name in cls.CONFIGS else cls(name)

    @classmethod
    def recipe_schema(cls) -> dict[str, Any]:
        """JSON Schema of a recipe file of this method."""
        schema = json_schema(type(cls.CONFIGS[cls.DEFAULT]))
        fields = {name: value for name, value in schema["properties"].items() if name != "name"}
        head = {
            "builder": {"const": cls.METHOD, "description": "The method."},
            "config": {"enum": list(cls.CONFIGS), "description": "The config whose defaults count."},
        }
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema", **schema,
            "title": f"figureground recipe: {cls.METHOD}", "properties": {**head, **fields},
        }  # fmt: skip

    @classmethod
    def config_of(cls, name: str, fields: recipes.Fields) -> Config:
        """The config of that name with a recipe file's fields; nothing that it names is read."""
        typed = cls._typed(name, fields, [])
        recipes.check_names(typed, type(cls.CONFIGS[name]).field_names(), cls.METHOD)
        return dataclasses.replace(cls.CONFIGS[name], **typed)

    @classmethod
    def _typed(cls, name: str, fields: recipes.Fields, settings: list[str]) -> recipes.Fields:
        base = cls.CONFIGS[name]
        kinds = kinds_of(type(base))
        fields = {n: v for n, v in recipes.relocate(fields, type(base)).items() if n not in recipes.HEAD}
        fields = recipes.convert_fields(fields, kinds)
        return recipes.apply_settings(fields, settings, dataclasses.asdict(base), kinds)

    # --- building -------------------------------------------------------------------------------

    def build(self, out: str | os.PathLike[str], show_progress: bool = True) -> Path:
        """Builds the dataset in a directory, or goes on with what a stopped build left; see `building.build`."""
        return building.build(self, Path(out), show_progress)

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Builds the dataset in the cache directory, as `datasets.DatasetBuilder.download_and_prepare` does."""
        self._dataset_builder.download_and_prepare(*args, **kwargs)

    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Opens what `download_and_prepare` built, as `datasets.DatasetBuilder.as_dataset` does."""
        return self._dataset_builder.as_dataset(*args, **kwargs)

    @cached_property
    def _dataset_builder(self) -> datasets.DatasetBuilder:
        from figureground.running.dataset_builder import MethodBuilder

        return MethodBuilder(self, self.cache_dir)

    # --- inputs and plan ------------------------------------------------------------------------

    show_progress: bool = True
    """Whether stages say how far they are; `build` sets it."""
    pairings: dict[str, np.ndarray]
    """By split, bool (foregrounds, backgrounds): which cells a correlated table favours."""

    def load_inputs(self) -> None:
        """Reads the lists, tables and prompts that the config names. Called once, by the constructor."""

    @abstractmethod
    def columns(self) -> Columns:
        """The dataset's columns."""

    @abstractmethod
    def plan(self) -> Plan:
        """The images to make."""

    def per_cell(self) -> dict[str, int]:
        """Images a cell, by what `extend` calls by name, such as splits.

        Raises:
            FiguregroundError: A dataset of this method can't be extended.
        """
        raise FiguregroundError(
            f"a set made by {self.METHOD} can't be extended: what it is made of was chosen for its size. Build a "
            "larger one elsewhere, or one of another seed, and merge them."
        )

    def denoiser_steps(self) -> int:
        """Steps of the denoiser that one image takes."""
        return self.config.steps

    # --- stages, in the order in which they are called ------------------------------------------

    def refuse_absent(self) -> None:
        """Raise FiguregroundError for a model that the recipe names by its place, and that isn't there."""

    def run_planning_stages(self, out: Path) -> None:
        """Runs the stages that the plan stands on, in the dataset's directory; called before it is planned."""

    def read_stages(self, stages: Path) -> None:
        """Reads what such stages found, where they are done: from here on the plan is that of this dataset."""

    def prepare(self, stages: Path, checkpoint: Checkpoint) -> None:
        """Runs the stages that images need; called by each worker, one at a time, before it renders."""

    def checkpoint_for(self, concept: str | None, base: Checkpoint) -> Checkpoint:
        """Opens what draws the Specs of a concept. The caller alone holds it, and lets go before it asks for another.

        Args:
            concept: Its name, as Specs say it; None where they name none.
            base: The recipe's checkpoint.
        """
        return base

    def load_guide(self, spec: Spec) -> tuple[Image.Image, Image.Image | None]:
        """Draws a Spec's guide and the mask of its foreground."""
        raise NotImplementedError(f"{type(self).__name__} plans guides and doesn't draw them")

    def score_samples(self, out: Path) -> None:
        """Scores the images of a finished dataset, as far as that isn't done."""

    # --- identity -------------------------------------------------------------------------------

    def content_hashes(self) -> dict[str, Any]:
        """By field, what stands for a value that names files: their content. See `content`."""
        return {"checkpoint": self._fingerprint}

    @cached_property
    def content(self) -> dict[str, Any]:
        """`content_hashes`, read once a build: what a build began with is what its recipe says."""
        return self.content_hashes()

    @cached_property
    def _fingerprint(self) -> str:
        """Of the checkpoint."""
        return fingerprint(self.config.checkpoint, self.config.revision)

    def shared(self) -> dict[str, Any]:
        """What of `SHARED` is computed, for `adopt` in a worker."""
        return {name: vars(self)[name] for name in self.SHARED if name in vars(self)}

    def adopt(self, shared: Mapping[str, Any]) -> None:
        """Takes what the process that started this one has computed, instead of computing it again."""
        vars(self).update(shared)

    def identity(self) -> dict[str, Any]:
        """All that decides the dataset, with the content of files instead of their places."""
        fields = {name: getattr(self.config, name) for name in self._identity_names()}
        return json.loads(json.dumps({"format": recipes.FORMAT, "builder": self.METHOD, **fields, **self.content}))

    def _identity_names(self) -> list[str]:
        """The fields that decide the dataset; `extended` only where it was."""
        unset = () if self.config.extended else ("extended",)
        return [n for n in self.config.field_names() if n not in (*self.config.execution_names(), *unset)]

    def recipe(self, folder: Path) -> dict[str, Any]:
        """The recipe as saved in `folder`: it says what was made, and rebuilds it."""
        named = marked(type(self.config), Names)
        values = {name: getattr(self.config, name) for name in self.config.field_names()}
        saved = {n: recipes.for_file(named.get(n), v, folder) for n, v in values.items()}
        recipe = {
            "format": recipes.FORMAT,
            "builder": self.METHOD,
            "config": self.config.name,
            "figureground": library_versions()["figureground"],
            "identity": {n: saved[n] for n in self._identity_names()},
            "execution": {n: saved[n] for n in self.config.execution_names()},
            "content": self.content,
            "sha256": digest(self.identity()),
            **({"lineage": self.lineage()} if self.lineage() else {}),
        }
        return recipes.seal(recipe)

    def lineage(self) -> list[dict[str, Any]]:
        """What was done to the dataset since it was first built, a step each."""
        images = [sum(int(c.sum()) for c in counts.values()) for counts in [*self.plan().earlier, self.plan().counts]]
        return [
            {"did": "extend", "per_cell": dict(per_cell), "planned_before": before, "planned": after}
            for per_cell, before, after in zip(self.config.extended, images[:-1], images[1:], strict=True)
        ]

    # --- rendering and provenance ---------------------------------------------------------------

    def sampling(self) -> dict[str, Any]:
        """What a method sets of `Sampling` beside what all recipes say."""
        return {}

    def settings_shown(self) -> dict[str, Any]:
        """What every sample's provenance says of the recipe."""
        return {name: getattr(self.config, name) for name in SAMPLING}

    def provenance(self, spec: Spec) -> dict[str, Any]:
        """What a method adds to a sample's provenance."""
        return {}

    def draw_guide(self, provenance: dict[str, Any]) -> Image.Image | None:
        """The guide of a finished sample, drawn again from its provenance; None where it had none."""
        guide = provenance.get("guide")
        if not guide:
            return None
        spec = Spec("", provenance["split"], 0, 0, "", "", "", 0, Guide.from_json(guide))
        try:
            return self.load_guide(spec)[0]
        except (FiguregroundError, ValueError):
            return None

    def pruning_rule(self) -> str | None:
        """The rule by which `compare` curates what was made, before it is added to training; None keeps all."""
        return None

    # --- what it says before a build ------------------------------------------------------------

    def needs(self) -> list[Need]:
        """Return what a build would need that isn't on this machine.

        Raises:
            FiguregroundError: Something that is here and can never be used.
        """
        config = self.config
        return [
            *missing_checkpoint(
                config.checkpoint, config.revision, self.INPAINTS, scheduler=config.scheduler, safety=config.safety
            ),
            *missing_device(config.device),
        ]  # fmt: skip

    def check_plan(self) -> None:
        """Raise FiguregroundError for what a build would refuse before it begins, whatever the machine has."""
        plan = self.plan()
        if shards := plan.shards():
            plan.spec(shards[0].split, 0)

    def check_size(self) -> None:
        """Refuses a size that latents can't have; needs no weights, and passes where the checkpoint isn't known.

        Raises:
            RecipeError: The size is no multiple of the pixels that a latent pixel stands for: of checkpoints on the
                Hub 8, as in every kind that is supported.
        """
        try:
            folder = local_directory(self.config.checkpoint)
            factor = pixels_a_latent(folder) if folder else 8
        except (FiguregroundError, OSError, ValueError):
            return
        check_size(self.config.size, factor)

    def checkpoint_notes(self) -> list[str]:
        """What may be a mistake in how the checkpoint is used; nothing of one that isn't on this machine."""
        config = self.config
        steps = self.denoiser_steps()
        return checkpoint_notes(config.checkpoint, config.revision, steps, config.guidance_scale)

    def plan_counts(self, plan: Plan) -> list[str]:
        """The lines of `plan` that say how many images there would be of what."""
        from figureground.methods.forecast import counts_by_split

        return counts_by_split(self, plan)

    def plan_notes(self) -> list[str]:
        """Lines that `plan` adds."""
        return []

    # --- what it says of a finished dataset -----------------------------------------------------

    @abstractmethod
    def summary(self) -> str:
        """What is in the images and how they were made, for the card; Markdown."""

    def citations(self) -> tuple[str, ...]:
        """BibTeX of all that the dataset was made with."""
        return self.CITATIONS

    def sources(self) -> tuple[list[Source], list[Credit]]:
        """The directories of images that a build starts from, and who made those."""
        return [], []

    def card_context(self, out: Path) -> CardContext:
        """What the card says beside recipe and counts."""
        path = out / PRIVATE / "numerics.json"
        numerics = read_numerics(path) if path.exists() else {}
        weights = read_weights(self.config.checkpoint, numerics.get("revision") or self.config.revision)
        sources, credits = self.sources()
        return CardContext(
            self.TITLE, self.METHOD, self.summary(), "\n\n".join(self.citations()), numerics, self.LIMITS,
            self.USES, self.MISUSES, dataclasses.asdict(weights),
            [dataclasses.asdict(source) for source in sources], [dataclasses.asdict(credit) for credit in credits],
            self.lineage(),
        )  # fmt: skip

    def done_message(self, out: Path) -> str:
        """What the command says when a dataset is finished."""
        counts = read_object(out / index.INDEX, root=out)
        rejects = ", ".join(f"{n} {reason}" for reason, n in counts["rejects"].items())
        return (
            f"{out}: {counted(counts['samples'], 'sample')}"
            + (f"; rejected: {rejects}" if rejects else "")
            + f". figureground show {out} draws it."
        )


def _plain(value: Any) -> Any:
    """A setting as YAML would give it: paths as text."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value
