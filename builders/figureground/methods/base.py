"""Base class of the methods: recipe, columns, plan, guides and card.

A method runs nothing by itself: its hooks are called. A build calls these, in the order of their first calls. The
module that calls each is in brackets; 12 to 21 are called in each process that renders.

1. `check_fields` (`methods.base`): by the constructor, with the names of the fields that the recipe sets.
2. `load_inputs` (`methods.base`): by the constructor, which may then call `plan` to choose a shard size.
3. `refuse_absent` (`running.building`): before any work.
4. `missing_extras` (`running.building`)
5. `check_family` (`running.building`): calls `training` if the checkpoint is trained.
6. `run_planning_stages` (`running.building`): in the dataset's directory, which it claims first.
7. `unset_sampling` (`methods.identity`): for the recipe, which is made when the directory is claimed.
8. `content_hashes` (`methods.base`): once, for the property `content`, which the recipe contains.
9. `planning_parts` (`running.runners.local`): if `run_planning_stages` calls `run_planning_parts`.
10. `make_planning_part` (`running.parts`): one process makes a part, while others make other parts.
11. `plan` (`running.building`): from here on it is exact.
12. `read_stages` (`running.worker`)
13. `parts` (`running.worker`)
14. `sampling` (`running.opened_model`): whenever the model is opened.
15. `make_part` (`running.parts`): one process makes a part, while others make other parts.
16. `prepare` (`running.settling`): one process at a time.
17. `columns` (`running.worker`)
18. `provenance_settings` (`running.provenance`)
19. `checkpoint_for` (`running.worker`): for the first shard, and for each that has another concept than the one before.
20. `load_guide` (`diffusion.render`): for each spec with a guide.
21. `provenance` (`running.provenance`): for each sample.
22. `card_context` (`running.building`): when all shards are finished, for index and card; it calls the next three.
23. `sources` (`methods.base`)
24. `summary` (`methods.base`)
25. `citations` (`methods.base`)
26. `score_samples` (`running.building`): when the index and the card are written.

Commands call the others: `build` calls `done_message`; `extend` calls `per_cell`; `plan` calls `needs`, `check_plan`,
`denoiser_steps`, `checkpoint_notes`, `plan_counts` and `plan_notes`; `show` calls `draw_guide`, `panels` and
`overview`; `compare` calls `pruning_rule`.
"""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, plural, suggest_or_list
from figureground.core.event_log import EventLog
from figureground.core.numerics import read_numerics
from figureground.core.shares import whole_part
from figureground.methods.count_tables import format_counts_by_split
from figureground.methods.family_support import check_drawing, check_training
from figureground.methods.identity import list_unset_sampling, make_identity, make_lineage, make_recipe
from figureground.methods.panels.panel import Panel
from figureground.models.distilled import checkpoint_notes
from figureground.models.family import OWN, Family
from figureground.models.family_records import Route, Start
from figureground.models.fast_settings import FastRow, find_fast_row
from figureground.models.loras import identify, select_active
from figureground.models.need import Need
from figureground.models.needs import missing_checkpoint, missing_device, missing_packages
from figureground.models.weights import download_file, find_family, fingerprint
from figureground.recipe import document as recipes
from figureground.recipe.config import SAMPLING, Config
from figureground.recipe.plan import Plan
from figureground.recipe.sample import Guide, Spec
from figureground.recipe.shard_size import bytes_per_image, default_shard_size
from figureground.running import building
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.finished import read_finished_index
from figureground.shards.shard import NUMERICS
from figureground.sources.provenance import Credit, Source, read_weights
from figureground.stores.leases import SECONDS

if TYPE_CHECKING:
    import datasets
    import torch
    from PIL import Image

    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.running.runner import Runner


class Method(ABC):
    """Base class of methods that build datasets.

    A method implements `columns`, `plan` and `summary`, and overrides other hooks as needed.

    `build(out)` writes shards, card and index into a directory, or resumes a stopped build there.
    `download_and_prepare()` and `as_dataset()` build the same shards in the cache directory, as a
    `datasets.DatasetBuilder` does.

    Args:
        config_name: One of the method's configs; `DEFAULT` if not given.
        cache_dir: Directory in which `download_and_prepare` builds.
        fields: Settings that differ from the config's.

    Raises:
        RecipeError: A config or field is unknown, or a value is invalid.
    """

    METHOD: ClassVar[str]
    """Name on the command line and in recipes."""
    CONFIGS: ClassVar[Mapping[str, Config]]
    DEFAULT: ClassVar[str]
    TITLE: ClassVar[str]
    CITATIONS: ClassVar[tuple[str, ...]] = ()
    """BibTeX of the papers that the method is based on."""
    INPAINTS: ClassVar[bool] = False
    """Whether images are made by repainting a region of other images."""
    FROM_DATA: ClassVar[bool] = False
    """Whether images are made from a labelled training set, the setting `data`; if so, `compare` accepts the method."""
    SHARED: ClassVar[tuple[str, ...]] = ("content",)
    """Cached properties that a build computes once and passes to its workers."""
    SCORES: ClassVar[bool] = False
    """Whether `score_samples` reads the finished images."""
    LIMITS: ClassVar[tuple[str, ...]] = ()
    """Limitations listed in the card, one sentence each."""
    USES: ClassVar[tuple[str, ...]] = (
        "Measuring how much a classifier's predictions depend on the background instead of the object.",
        "Training with foreground and background independent, or correlated by a known amount.",
        "Comparing methods for robustness against spurious correlations, on groups of known size.",
    )
    """Intended uses listed in the card."""
    STARTER: ClassVar[tuple[str, ...]] = (
        "checkpoint", "size", "num_inference_steps", "guidance_scale", "seed", "image_format", "device", "batch_size",
        "workers", "formats",
    )  # fmt: skip
    """Settings that people change most, in the order in which `init` writes them."""
    EXAMPLES: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    """Value and remark for `init`, of settings that a build needs but no config has."""
    MISUSES: ClassVar[tuple[str, ...]] = (
        "The only evidence of a model's performance on photographs: generated images differ from those.",
        "Facts about the world: which objects appear where, and how often, was chosen by the dataset's author.",
        "Decisions about people.",
    )
    """Unintended uses listed in the card."""

    def __init__(self, config_name: str | None = None, *, cache_dir: str | None = None, **fields: Any):
        base = find_config(type(self), config_name or self.DEFAULT)
        recipes.check_names(fields, type(base).field_names(), self.METHOD)
        self.config = dataclasses.replace(base, **{n: _to_plain(value) for n, value in fields.items()})
        self.cache_dir = cache_dir
        self.marks_images = True
        """Whether images state that they are generated: false for a dataset that was begun before they did."""
        self.check_fields(fields)
        self._chooses_sampler = "scheduler" not in fields
        self._choose_sampler()
        self._resolve_speed()
        self.load_inputs()
        self._choose_shard_size()

    def _resolve_speed(self) -> None:
        """Replace `speed=fast` with the settings that it stands for."""
        config = self.config
        self.fast_row = None
        if config.speed == "exact":
            return
        values = {name: getattr(config, name) for name in config.field_names()}
        self.fast_row = row = find_fast_row(self.METHOD, config.checkpoint, self.checkpoint_fingerprint, values)
        overridden = ("dtype",) if config.dtype != "auto" else ()
        fast = {name: value for name, value in row.fast.items() if name not in overridden}
        self.config = dataclasses.replace(config, speed="exact", **fast)

    @classmethod
    def from_recipe(
        cls, fields: recipes.Fields, settings: list[str] | None = None, config_name: str | None = None
    ) -> Method:
        """Create a method from a recipe's fields and `--set` values.

        The config's defaults apply first, then `fields`, then `settings`.

        Args:
            fields: Fields of a recipe, such as `recipe.document.read_recipe` returns.
            settings: `KEY=VALUE` texts, as `--set` takes them; dotted keys reach inside mappings.
            config_name: The config; None means the recipe's `config`, or else the method's default.

        Returns:
            An instance of the class that it is called on.

        Raises:
            RecipeError: A config or field is unknown, or a value is invalid.
            UsageError: A setting isn't written as `KEY=VALUE`.
        """
        name = str(config_name or fields.get("config") or cls.DEFAULT)
        return cls(name, **recipes.read_values(find_config(cls, name), fields, settings or []))

    # --- building -------------------------------------------------------------------------------

    @final
    def build(
        self, out: str | os.PathLike[str], show_progress: bool = True, runner: str | Runner | None = None, *,
        scratch: str | os.PathLike[str] | None = None, lease: float = SECONDS,
        log_json: str | os.PathLike[str] | None = None, track: str | None = None,
    ) -> Path:  # fmt: skip
        """Build the dataset in a directory or at a URL, or resume a stopped build there; same as the function `build`.

        A build that fails before it has rendered anything leaves the directory unchanged.

        Args:
            out: The directory, created if it doesn't exist; or a URL in an object store, such as `s3://bucket/name`.
            show_progress: Whether to show progress on stderr.
            runner: The runner: a name such as `local`, or a runner with its options, such as
                `Rank(rank=0, world=4)`; None for the setting `runner`.
            scratch: For a URL, the directory in which shards are written before they are uploaded; None for one in the
                user's cache.
            lease: For a URL, seconds without a sign of life after which a process's shard is taken over.
            log_json: File to which events are appended, one line of JSON for each shard; `-` for stdout.
            track: The tracker to report to: trackio, tensorboard, wandb, or one of another package; None reports
                nothing.

        Returns:
            The directory; for a URL the scratch directory, with index, card and markers, but without images.

        Raises:
            FiguregroundError: The directory contains something else or another recipe or can't be written, the
                numerics differ from those of its first shards, or an input named by the recipe can't be used.
            RecipeError: The runner or the tracker doesn't exist.
            StoreError: The store at the URL can't be used, or holds other bytes under a shard's name.
            UsageError: The log can't be written, or the runner's options don't fit together.
            NothingLeft: Every image was rejected, in total, in a split or in the last extension.
        """
        return building.build(
            self, out, show_progress, runner, scratch=scratch, lease=lease, log_json=log_json, track=track
        )

    @final
    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Build the dataset in the cache directory, or resume a stopped build there.

        Args:
            args, kwargs: Passed on to `datasets.DatasetBuilder.download_and_prepare`.

        Raises:
            RecipeError: The setting `formats` leaves out parquet.
            FiguregroundError: The build failed; see `build`.
        """
        self._dataset_builder.download_and_prepare(*args, **kwargs)

    @final
    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Load the dataset that `download_and_prepare` built.

        Args:
            args, kwargs: Passed on to `datasets.DatasetBuilder.as_dataset`, such as `split="train"`.

        Returns:
            A `datasets.Dataset` for one split, or a `datasets.DatasetDict` of all splits.
        """
        return self._dataset_builder.as_dataset(*args, **kwargs)

    @cached_property
    def _dataset_builder(self) -> datasets.DatasetBuilder:
        from figureground.running.dataset_builder import MethodBuilder

        return MethodBuilder(self, self.cache_dir)

    @final
    def settle_sampler(self) -> None:
        """Choose the sampler that the recipe leaves open, by the checkpoint's family.

        For a checkpoint on the Hub that isn't on this machine, it downloads the small file that says the family. If
        that fails, opening the checkpoint will report why.
        """
        if self._chooses_sampler and self.family is None:
            download_file(self.config.checkpoint, "model_index.json", self.config.revision)
            vars(self).pop("family")
            self._choose_sampler()

    def _choose_sampler(self) -> None:
        """Use a sampler for the checkpoint's family if the recipe names none: a config's may be for other families."""
        if not self._chooses_sampler or self.family is None:
            return
        if self.family.SCHEDULER == OWN:
            self.config = dataclasses.replace(self.config, scheduler=OWN)
        elif self.config.scheduler == OWN:
            self.config = dataclasses.replace(self.config, scheduler=Config.scheduler)

    def _choose_shard_size(self) -> None:
        """Replace a missing shard size with a number that follows from the recipe alone."""
        if self.config.shard_size is not None:
            return
        try:
            totals = self.plan().totals()
        except FiguregroundError:
            return  # `plan` raises it again where it is due
        image_bytes = bytes_per_image(self.config.size, self.config.image_format, self.config.keep)
        self.config = dataclasses.replace(self.config, shard_size=default_shard_size(totals, image_bytes))
        self.has_default_shard_size = True

    # --- inputs and plan ------------------------------------------------------------------------

    show_progress: bool = True
    """Whether stages report progress; set by `build`."""
    runner: Runner | None = None
    """Runner whose processes make `planning_parts`; None for `local`."""
    log: EventLog = EventLog()
    """Receives the events of a build; set by `build`."""
    has_default_shard_size: bool = False
    """Whether the recipe leaves the shard size open; an existing dataset then keeps its own."""
    fast_row: FastRow | None
    """The row of measurements that `speed=fast` chose."""
    pairings: dict[str, np.ndarray]
    """By split, bool (foregrounds, backgrounds): the cells that a correlated table favours."""

    def check_fields(self, names: Collection[str]) -> None:
        """Refuse fields that the recipe sets and that don't go together, whatever their values.

        Args:
            names: The fields that differ from the config's, or may.

        Raises:
            RecipeError: Two of them exclude each other.
        """
        if {"noise", "strength"} <= set(names) and self.config.noise is not None:
            raise RecipeError(
                "noise",
                f"the recipe has noise {self.config.noise:g} and strength {self.config.strength:g}. Give only "
                "one of the two.",
            )

    def load_inputs(self) -> None:
        """Read the lists, tables and prompts that the config names. Called once, by the constructor."""

    @abstractmethod
    def columns(self) -> Columns:
        """Return the dataset's columns."""

    @abstractmethod
    def plan(self) -> Plan:
        """Return the plan: which images to make, in which shards.

        `plan().totals()` gives the images by split, `plan().cells(split)` the images per foreground and background.

        Raises:
            RecipeError: The setting `data` is missing (SCGS and DDB).
        """

    def per_cell(self) -> dict[str, int]:
        """Return images per cell, by the names that `extend` takes, such as splits.

        Raises:
            FiguregroundError: A dataset of this method can't be extended.
        """
        raise FiguregroundError(
            f"a set made by {self.METHOD} can't be extended: its sources were chosen for its size. Build a larger "
            "set in another directory, or one with another seed, and merge them."
        )

    @property
    def route(self) -> Route:
        """How images are drawn."""
        return "inpaint" if self.INPAINTS else "text"

    def denoiser_steps(self) -> int:
        """Return the denoiser steps that one image takes."""
        return self.config.num_inference_steps

    @cached_property
    def family(self) -> Family | None:
        """Family of the checkpoint; None if it isn't on this machine."""
        return find_family(self.config.checkpoint, self.config.revision, self.config.checkpoint_config)

    @cached_property
    def start(self) -> Start | None:
        """Where drawing on a guide starts; None if `noise` decides it and the checkpoint isn't on this machine.

        For `noise`, it imports torch.
        """
        config = self.config
        if config.noise is None:
            run = whole_part(config.num_inference_steps, config.strength)
            family = self.family
            return family.start(config.strength, config.num_inference_steps) if family else Start(config.strength, run)
        from figureground.diffusion.starts import find_start_by_files

        return find_start_by_files(
            config.checkpoint, config.revision, config.scheduler, config.num_inference_steps, config.size,
            config.noise, config.checkpoint_config,
        )  # fmt: skip

    @final
    def steps_on_guide(self) -> int:
        """Return the denoiser steps that an image takes that starts from a guide; all of them if that isn't known."""
        return self.start.steps if self.start else self.config.num_inference_steps

    # --- stages, in the order in which they are called ------------------------------------------

    def refuse_absent(self) -> None:
        """Raise FiguregroundError if the recipe gives a model's path and the model is missing there."""

    def run_planning_stages(self, out: Path) -> None:
        """Run the stages that the plan depends on, in the dataset's directory; called before `plan`."""

    def planning_parts(self, stages: Path) -> list[str]:
        """Return the names of unfinished stages that don't need each other and that the plan depends on.

        `run_planning_stages` has several processes make one each, by `make_planning_part`.
        """
        return []

    def make_planning_part(self, stages: Path, name: str, device: torch.device) -> None:
        """Run one of the stages that `planning_parts` names; no other process runs the same one meanwhile."""
        raise NotImplementedError(f"{type(self).__name__} names stages but doesn't implement make_planning_part")

    def read_stages(self, stages: Path) -> None:
        """Read the results of the finished planning stages. From then on, `plan` is exact for this dataset."""

    def parts(self, stages: Path) -> list[str]:
        """Return the names of unfinished stages that don't need each other: workers make one each, before `prepare`."""
        return []

    def make_part(self, stages: Path, name: str, checkpoint: Checkpoint, device: torch.device) -> None:
        """Run one of the stages that `parts` names; no other process runs the same one meanwhile.

        Args:
            checkpoint: The recipe's checkpoint, on the CPU, so that the stage has the device's memory.
            device: The device to work on.
        """
        raise NotImplementedError(f"{type(self).__name__} names stages but doesn't implement make_part")

    def prepare(self, stages: Path, checkpoint: Checkpoint) -> None:
        """Run the stages that rendering needs. Each worker calls it before it renders, one worker at a time."""

    def checkpoint_for(self, concept: str | None, base: Checkpoint) -> Checkpoint:
        """Open the checkpoint that draws a concept's specs.

        The caller holds one at a time and releases it before asking for the next.

        Args:
            concept: The concept's name in its specs; None for specs without one.
            base: The recipe's checkpoint.
        """
        return base

    def load_guide(self, spec: Spec) -> tuple[Image.Image, Image.Image | None]:
        """Draw a spec's guide and the mask of its foreground."""
        raise NotImplementedError(f"{type(self).__name__} plans guides but doesn't implement load_guide")

    def score_samples(self, out: Path) -> None:
        """Score the images of a finished dataset that have no scores yet."""

    # --- identity -------------------------------------------------------------------------------

    def content_hashes(self) -> dict[str, Any]:
        """Return, by field, the content that replaces a value that names files. See `content`."""
        loras = select_active(self.config.loras)
        return {"checkpoint": self.checkpoint_fingerprint, **({"loras": identify(loras)} if loras else {})}

    @cached_property
    def content(self) -> dict[str, Any]:
        """`content_hashes`, read once per build, so that the recipe records the content at the start of the build."""
        return self.content_hashes()

    @cached_property
    def checkpoint_fingerprint(self) -> str:
        """Fingerprint of the checkpoint."""
        return fingerprint(self.config.checkpoint, self.config.revision, self.config.checkpoint_config)

    @final
    def shared_values(self) -> dict[str, Any]:
        """Return the properties in `SHARED` that are computed already, for `adopt` in a worker."""
        return {name: vars(self)[name] for name in self.SHARED if name in vars(self)}

    @final
    def adopt(self, shared: Mapping[str, Any]) -> None:
        """Take over the values that the parent process has computed."""
        vars(self).update(shared)

    @final
    def identity(self) -> dict[str, Any]:
        """Return everything that decides the dataset, with the content of files instead of their paths."""
        return make_identity(self)

    def unset_sampling(self) -> list[str]:
        """Return the settings of sampling that decide nothing."""
        return list_unset_sampling(self.config)

    @final
    def init_fields(self) -> dict[str, Any]:
        """Return the fields with which the method can be made again, without those that decide nothing."""
        unset = self.unset_sampling()
        return {name: getattr(self.config, name) for name in self.config.field_names() if name not in unset}

    @final
    def recipe(self, folder: Path) -> dict[str, Any]:
        """Return the recipe as saved in `folder`. It describes the dataset and can rebuild it."""
        return make_recipe(self, folder)

    @final
    def lineage(self) -> list[dict[str, Any]]:
        """Return the steps applied to the dataset since it was first built."""
        return make_lineage(self)

    # --- rendering and provenance ---------------------------------------------------------------

    def sampling(self) -> dict[str, Any]:
        """Return fields of `Sampling` that the method sets beyond those of every recipe."""
        return {}

    def provenance_settings(self) -> dict[str, Any]:
        """Return the recipe's fields that every sample's provenance contains."""
        unset = self.unset_sampling()
        return {name: getattr(self.config, name) for name in SAMPLING if name not in unset}

    def provenance(self, spec: Spec) -> dict[str, Any]:
        """Return the fields that the method adds to a sample's provenance."""
        return {}

    def draw_guide(self, provenance: dict[str, Any]) -> Image.Image | None:
        """Draw a finished sample's guide again from its provenance; None if it had none or it can't be drawn."""
        guide = provenance.get("guide")
        if not guide:
            return None
        spec = Spec("", provenance["split"], 0, 0, "", "", "", 0, Guide.from_json(guide))
        try:
            return self.load_guide(spec)[0]
        except (FiguregroundError, ValueError):
            return None

    def panels(self, directory: Path, provenance: Mapping[str, Any]) -> list[Panel]:
        """Return what the report shows of a sample, read from disk; inputs that are gone are named in facts.

        Args:
            directory: The dataset's directory; its build may be unfinished.
            provenance: The sample's parsed provenance.
        """
        return []

    def overview(self, directory: Path) -> list[Panel]:
        """Return what the report shows of the whole dataset, read from disk; inputs that are gone are named in facts.

        Args:
            directory: The dataset's directory; its build may be unfinished.
        """
        return []

    def pruning_rule(self) -> str | None:
        """Return the rule by which `compare` curates the images before it adds them to training; None keeps all."""
        return None

    # --- the forecast ---------------------------------------------------------------------------

    def needs(self) -> list[Need]:
        """Return the build's requirements that this machine lacks.

        Raises:
            FiguregroundError: An input exists but can't be used.
        """
        config = self.config
        loras = select_active(config.loras)
        return [
            *missing_checkpoint(
                config.checkpoint, config.revision, self.INPAINTS, scheduler=config.scheduler, safety=config.safety,
                config=config.checkpoint_config, loras=loras,
                steps=config.num_inference_steps,
            ),
            *self.missing_extras(),
            *missing_device(config.device),
        ]  # fmt: skip

    def missing_extras(self) -> list[Need]:
        """Return the packages that settings of the checkpoint need and this machine lacks."""
        config = self.config
        return [
            *(missing_packages("loras", ["peft"]) if select_active(config.loras) else []),
            *(missing_packages("quantization", ["torchao"]) if config.quantization else []),
        ]

    def check_plan(self) -> None:
        """Raise FiguregroundError for settings that a build would refuse at its start on any machine."""
        plan = self.plan()
        if shards := plan.shards():
            plan.spec(shards[0].split, 0)

    @property
    def trains_checkpoint(self) -> bool:
        """Whether the checkpoint is fine-tuned, or learns words."""
        return False

    def training(self) -> tuple[str, dict[str, Any]]:
        """Return how the checkpoint is trained: the field of these settings in the recipe, and all of them by field."""
        return "", {}

    def check_family(self) -> None:
        """Refuse settings and trainings that the checkpoint's family doesn't support; passes if it isn't known.

        Raises:
            RecipeError: The family would ignore a sampling setting, or doesn't support a setting of the training.
            FiguregroundError: The family doesn't draw as the recipe asks, or the method trains checkpoints, and the
                family's can't be trained.
        """
        if self.family is None:
            return
        check_drawing(self.family, self.config, self.route)
        if self.trains_checkpoint:
            check_training(self.family, self.config, self.METHOD, *self.training())

    def checkpoint_notes(self) -> list[str]:
        """Return warnings about likely mistakes in using the checkpoint; empty if it isn't on this machine."""
        config = self.config
        steps = self.denoiser_steps()
        return checkpoint_notes(
            config.checkpoint, config.revision, steps, config.guidance_scale, config.checkpoint_config
        )

    def plan_counts(self, plan: Plan) -> list[str]:
        """Return the lines of `plan` with the counts of images."""
        return format_counts_by_split(plan, self.pairings)

    def plan_notes(self) -> list[str]:
        """Return further lines of `plan`."""
        return []

    # --- the finished dataset -------------------------------------------------------------------

    @abstractmethod
    def summary(self) -> str:
        """Return the card's description of the images and of how they were made, Markdown."""

    def citations(self) -> tuple[str, ...]:
        """Return BibTeX of everything that the dataset was made with."""
        return self.CITATIONS

    def sources(self) -> tuple[list[Source], list[Credit]]:
        """Return the directories of source images, and the credits of their authors."""
        return [], []

    def card_context(self, out: Path) -> CardContext:
        """Return the contents of the card beyond recipe and counts."""
        path = out / NUMERICS
        numerics = read_numerics(path) if path.exists() else {}
        weights = read_weights(self.config.checkpoint, numerics.get("revision") or self.config.revision)
        sources, credits = self.sources()
        return CardContext(
            self.TITLE, self.METHOD, self.summary(), "\n\n".join(self.citations()), numerics, self.LIMITS,
            self.USES, self.MISUSES, {**dataclasses.asdict(weights), **weights.terms()},
            [dataclasses.asdict(source) for source in sources], [dataclasses.asdict(credit) for credit in credits],
            self.lineage(),
        )  # fmt: skip

    def done_message(self, out: Path) -> str:
        """Return the text that the command prints for a finished dataset."""
        counts = read_finished_index(out)
        rejects = ", ".join(f"{n} {reason}" for reason, n in counts["rejects"].items())
        return (
            f"{out}: {plural(counts['samples'], 'sample')}"
            + (f"; rejected: {rejects}" if rejects else "")
            + f". Next: figureground show {out}"
        )


def find_config(kind: type[Method], name: str) -> Config:
    """Return a method's config by name.

    Raises:
        RecipeError: There is no such config.
    """
    if name not in kind.CONFIGS:
        raise RecipeError("config", f"{kind.METHOD} has no config {name!r}{suggest_or_list(name, kind.CONFIGS)}")
    return kind.CONFIGS[name]


def _to_plain(value: Any) -> Any:
    """Return a setting as YAML would give it: paths as text."""
    if isinstance(value, Mapping):
        return {name: _to_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
