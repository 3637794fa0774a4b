"""What every method shares: a `datasets.DatasetBuilder` that checks, prepares, plans, renders and shards."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, counted, nearest_or_all
from figureground.core.files import read_json, read_object
from figureground.core.hashing import digest
from figureground.core.numerics import library_versions, read_numerics
from figureground.core.owned import refuse_within
from figureground.core.values import kinds_of
from figureground.models.distilled import checkpoint_notes
from figureground.models.needs import Need, missing_checkpoint, missing_device
from figureground.models.weights import check_files, check_size, fingerprint, local_directory, pixels_a_latent
from figureground.recipe import document as recipes
from figureground.recipe.config import Config
from figureground.recipe.plan import Plan
from figureground.recipe.sample import Guide, Spec
from figureground.running import directory
from figureground.running.local import work_in_processes
from figureground.shards import index
from figureground.shards.card import Facts
from figureground.shards.directory import refuse_strange
from figureground.shards.remaining import refuse_empty_parts
from figureground.shards.writer import PRIVATE, RECIPE, Columns, as_shard
from figureground.sources.provenance import Credit, Source, read_weights

if TYPE_CHECKING:
    from PIL import Image

    from figureground.diffusion.checkpoint import Checkpoint

SAMPLING = ("scheduler", "steps", "strength", "guidance_scale", "negative_prompt", "eta", "size")
"""Fields that say how pictures are drawn."""

METHODS = {
    "d3s": ("figureground.methods.d3s", "D3S"),
    "spurious": ("figureground.methods.spurious", "Spurious"),
    "scgs": ("figureground.methods.scgs", "SCGS"),
    "ddb": ("figureground.methods.ddb", "DDB"),
}
"""Builders by name: module and class."""


class Builder(datasets.ArrowBasedBuilder):
    """Builds a dataset by one method. A method overrides `columns`, `plan`, `summary` and what it needs of the rest.

    `build(out)` writes shards, card and index into a directory, and resumes there. The datasets way,
    `download_and_prepare()` and `as_dataset()`, builds the same shards in the cache directory.

    Args:
        config_name: One of the method's configs.
        cache_dir: Where `download_and_prepare` keeps what it builds.
        fields: Settings that differ from the config's.

    Raises:
        RecipeError: An unknown config or field, or a value that can't be used.
    """

    METHOD: ClassVar[str]
    """The builder's name on the command line."""
    CONFIGS: ClassVar[Mapping[str, Config]]
    DEFAULT: ClassVar[str]
    TITLE: ClassVar[str]
    CITATIONS: ClassVar[tuple[str, ...]] = ()
    """BibTeX of what the method comes from."""
    INPAINTS: ClassVar[bool] = False
    """Whether pictures are made by repainting a part of others."""
    LIMITS: ClassVar[tuple[str, ...]] = ()
    """What the card warns of, a sentence each."""
    USES: ClassVar[tuple[str, ...]] = (
        "Measuring how far a classifier's answer hangs on the background instead of the object.",
        "Training where foreground and background are independent, or depend on each other by a known amount.",
        "Comparing methods that are meant to be robust against spurious correlations, on groups whose sizes are known.",
    )
    """What the card says that the dataset is for."""
    MISUSES: ClassVar[tuple[str, ...]] = (
        "The only evidence of how a model does on photographs: generated pictures differ from those.",
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
        self._made_config = dataclasses.replace(base, **{n: _plain(value) for n, value in fields.items()})
        self._made_config.check()
        for name in ("strength", "guidance_scale", "eta"):  # 5 and 5.0 are one recipe
            setattr(self._made_config, name, float(getattr(self._made_config, name)))
        self.config = self._made_config
        self.resolve()
        identity = digest(self.identity())
        super().__init__(
            cache_dir=cache_dir, dataset_name=f"figureground_{self.METHOD}", config_name=name, hash=identity[:16]
        )

    @classmethod
    def from_recipe(
        cls, fields: recipes.Fields, settings: list[str] | None = None, config_name: str | None = None
    ) -> Builder:
        """A builder from a recipe file's fields and `--set` values; flags win over the file's `config`."""
        name = str(config_name or fields.get("config") or cls.DEFAULT)
        return cls(name, **cls._typed(name, fields, settings or [])) if name in cls.CONFIGS else cls(name)

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
        fields = recipes.convert_fields({n: v for n, v in fields.items() if n not in recipes.HEAD}, kinds)
        return recipes.apply_settings(fields, settings, dataclasses.asdict(base), kinds)

    # --- what a method says ---------------------------------------------------------------------

    pairings: dict[str, np.ndarray]
    """By split, bool (foregrounds, backgrounds): which cells a correlated table favours."""

    def resolve(self) -> None:
        """Reads what the config names: lists, tables, prompts. Called once, before anything else."""

    def columns(self) -> Columns:
        """The dataset's columns."""
        raise NotImplementedError(f"{type(self).__name__} has to say its columns")

    def plan(self) -> Plan:
        """The images to make."""
        raise NotImplementedError(f"{type(self).__name__} has to say its plan")

    def find(self, out: Path, show_progress: bool) -> None:
        """Runs the stages that the plan stands on, in the dataset's directory; called before it is planned."""

    def read_stages(self, stages: Path) -> None:
        """Reads what such stages found, where they are done: from here on the plan is that of this dataset."""

    def prepare(self, stages: Path, checkpoint: Checkpoint) -> None:
        """Runs the stages that the pictures need."""

    def judge(self, out: Path, show_progress: bool) -> None:
        """Scores the pictures of a finished dataset, as far as that isn't done."""

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

    def resolved(self) -> dict[str, Any]:
        """By field, what stands for a value that names files: their content."""
        return {"checkpoint": self._fingerprint}

    @cached_property
    def _fingerprint(self) -> str:
        """Read once a builder: what a build began with is what its recipe says."""
        return fingerprint(self.config.checkpoint, self.config.revision)

    def sources(self) -> tuple[list[Source], list[Credit]]:
        """The directories of pictures that images start from, and who made those."""
        return [], []

    def citations(self) -> tuple[str, ...]:
        """BibTeX of all that the dataset was made with."""
        return self.CITATIONS

    def provenance(self, spec: Spec) -> dict[str, Any]:
        """What a method adds to a sample's provenance."""
        return {}

    def denoiser_steps(self) -> int:
        """Steps of the denoiser that one image takes."""
        return self.config.steps

    def summary(self) -> str:
        """What is in the pictures and how they were made, for the card; Markdown."""
        raise NotImplementedError(f"{type(self).__name__} has to say what it makes")

    def plan_counts(self, plan: Plan) -> list[str]:
        """The lines of `plan` that say how many images there would be of what."""
        from figureground.methods.forecast import counts_by_split

        return counts_by_split(self, plan)

    def plan_notes(self) -> list[str]:
        """Lines that `plan` adds."""
        return []

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

    def refuse_absent(self) -> None:
        """Raise FiguregroundError for a model that the recipe names by its place, and that isn't there."""

    def check_plan(self) -> None:
        """Raise FiguregroundError for what a build would refuse before it begins, whatever the machine has."""
        plan = self.plan()
        if shards := plan.shards():
            plan.spec(shards[0].split, 0)

    def per_cell(self) -> dict[str, int]:
        """Images a cell, by what `extend` calls by name: splits, unless a method says otherwise."""
        return dict(self.config.per_cell)

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

    # --- identity -------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """All that decides the dataset, with the content of files instead of their places."""
        fields = {name: getattr(self.config, name) for name in self._identity_names()}
        return json.loads(json.dumps({"format": recipes.FORMAT, "builder": self.METHOD, **fields, **self.resolved()}))

    def _identity_names(self) -> list[str]:
        """The fields that decide the dataset; `extended` only where it was."""
        unset = () if self.config.extended else ("extended",)
        return [n for n in self.config.field_names() if n not in (*self.config.EXECUTION, *unset)]

    def recipe(self, folder: Path) -> dict[str, Any]:
        """The recipe as saved in `folder`: it says what was made, and rebuilds it."""
        names = self.config.field_names()
        values = {name: getattr(self.config, name) for name in names}
        saved = {n: recipes.for_file(n, v, folder) for n, v in values.items()}
        recipe = {
            "format": recipes.FORMAT,
            "builder": self.METHOD,
            "config": self.config.name,
            "figureground": library_versions()["figureground"],
            "identity": {n: saved[n] for n in self._identity_names()},
            "execution": {n: saved[n] for n in names if n in self.config.EXECUTION},
            "content": self.resolved(),
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

    # --- building -------------------------------------------------------------------------------

    def build(self, out: str | os.PathLike[str], show_progress: bool = True) -> Path:
        """Builds the dataset in a directory, or goes on with what a stopped build left there.

        A build that fails before it has rendered anything leaves the directory as it found it.

        Returns:
            The directory.

        Raises:
            FiguregroundError: The directory holds something else or another recipe or can't be written, the
                numerics differ from those of its first shards, or something that the recipe names can't be used.
            NothingLeft: Every image was rejected, or every image of a split or of the last extension.
        """
        out = Path(out)
        self._refuse_within_sources(out)
        directory.refuse_older(out)
        self.refuse_absent()
        folder = local_directory(self.config.checkpoint)
        if folder is not None:
            check_files(
                folder, self.config.checkpoint, inpaint=self.INPAINTS, scheduler=self.config.scheduler,
                safety=self.config.safety,
            )  # fmt: skip
            check_size(self.config.size, pixels_a_latent(folder))
        self.find(out, show_progress)
        plan = self.plan()
        if not plan.shards():
            raise RecipeError("table", "it plans no images.")
        planned = plan.shards()
        plan.spec(planned[0].split, 0)  # whatever the plan lacks is said now, not when the model is loaded
        shards = [as_shard(s) for s in planned]
        with directory.opened(out, self.recipe(out / PRIVATE), lambda: directory.shards_kept(out, shards)):
            self.check_formats(out)
            if index.missing(out, shards):
                if self.config.workers > 1:
                    work_in_processes(self, out, show_progress)
                else:
                    self.work(out, show_progress=show_progress)
            self.finish(out)
            self.judge(out, show_progress)
        refuse_empty_parts(read_json(out / index.INDEX), str(out))
        return out

    def _refuse_within_sources(self, out: Path) -> None:
        """Raise UsageError if the dataset would lie among the files that it is made from."""
        for field in (*recipes.SOURCES, "data"):
            value = getattr(self.config, field, None)
            for each in value.values() if isinstance(value, Mapping) else [value]:
                if isinstance(each, str | os.PathLike) and each != "pocket":
                    refuse_within(out, Path(each), field)

    def finish(self, out: Path) -> None:
        """Writes index and card; every shard must have its marker."""
        recipe, shown = self.recipe(out / PRIVATE), self.settings_shown()
        identity = {n: v for n, v in recipe.pop("identity").items() if n not in SAMPLING or n in shown}
        settings = {**identity, **recipe.pop("execution")}
        for name in ("content", recipes.SEAL):
            del recipe[name]
        index.finish(
            out,
            [as_shard(s) for s in self.plan().shards()],
            self.columns(),
            {**recipe, **settings},
            self.facts(out),
            formats=tuple(self.config.formats),
            image_format=self.config.image_format,
            sha256=recipe["sha256"],
        )

    def work(self, out: Path, rank: int = 0, of: int = 1, show_progress: bool = True) -> None:
        """Renders every shard that no other process holds, and returns when all are done. See `worker.work`."""
        from figureground.running import worker

        worker.work(self, out, rank, of, show_progress)

    def sampling(self) -> dict[str, Any]:
        """What a method sets of `Sampling` beside what all recipes say."""
        return {}

    def settings_shown(self) -> dict[str, Any]:
        """What every sample's provenance says of the recipe."""
        return {name: getattr(self.config, name) for name in SAMPLING}

    def facts(self, out: Path) -> Facts:
        """What the card says beside recipe and counts."""
        path = out / PRIVATE / "numerics.json"
        numerics = read_numerics(path) if path.exists() else {}
        weights = read_weights(self.config.checkpoint, numerics.get("revision") or self.config.revision)
        sources, credits = self.sources()
        return Facts(
            self.TITLE, self.METHOD, self.summary(), "\n\n".join(self.citations()), numerics, self.LIMITS,
            self.USES, self.MISUSES, dataclasses.asdict(weights),
            [dataclasses.asdict(source) for source in sources], [dataclasses.asdict(credit) for credit in credits],
            self.lineage(),
        )  # fmt: skip

    def checkpoint_notes(self) -> list[str]:
        """What may be a mistake in how the checkpoint is used; nothing of one that isn't on this machine."""
        config = self.config
        steps = self.denoiser_steps()
        return checkpoint_notes(config.checkpoint, config.revision, steps, config.guidance_scale)

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

    def done_message(self, out: Path) -> str:
        """What the command says when a dataset is finished."""
        counts = read_object(out / index.INDEX, root=out)
        rejects = ", ".join(f"{n} {reason}" for reason, n in counts["rejects"].items())
        return (
            f"{out}: {counted(counts['samples'], 'sample')}"
            + (f"; rejected: {rejects}" if rejects else "")
            + f". figureground show {out} draws it."
        )

    def check_formats(self, out: Path, started: bool = False) -> None:
        """Refuse to go on in other formats than the first shards have.

        Args:
            started: Whether another process may be writing the first shards: then the recipe that it saved says in
                which formats. Known under the stages' lock only.

        Raises:
            RecipeError: The formats differ.
        """
        done = index.markers(out)
        if started and not done:
            theirs = recipes.read_saved(out / RECIPE)["execution"]["formats"]
            if set(theirs) != set(self.config.formats):
                raise RecipeError(
                    "formats",
                    f"another process builds {out} as {' and '.join(theirs)}, not as "
                    f"{' and '.join(self.config.formats)}. Give the same formats, or a new directory.",
                )
        for name, marker in done.items():
            folders = {path.split("/")[0] for path in marker["files"]} & {"data", "webdataset"}
            there = sorted("parquet" if folder == "data" else folder for folder in folders)
            if set(there) != set(self.config.formats):
                raise RecipeError(
                    "formats",
                    f"{out} was begun as {' and '.join(there)} (shard {name}), not as "
                    f"{' and '.join(self.config.formats)}. "
                    f"Go on with --set 'formats=[{', '.join(there)}]', or give a new directory.",
                )

    # --- the datasets way -----------------------------------------------------------------------

    def _create_builder_config(self, *args: Any, **kwargs: Any) -> tuple[Config, str]:
        return self._made_config, self._made_config.name

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.columns().features(), citation="\n\n".join(self.CITATIONS))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        if "parquet" not in self.config.formats:
            raise RecipeError("formats", "download_and_prepare reads the Parquet files; leave parquet in the list.")
        shards = Path(self._cache_dir).with_name(f"{self.hash}-shards")
        self.build(shards)
        splits = dict.fromkeys(s.split for s in self.plan().shards())
        return [
            datasets.SplitGenerator(
                name=split, gen_kwargs={"files": sorted(map(str, (shards / "data").glob(f"{split}-*.parquet")))}
            )
            for split in splits
        ]

    def _generate_tables(self, files: list[str]) -> Iterator[tuple[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for file in files:
            for i, batch in enumerate(pq.ParquetFile(file).iter_batches(100)):
                yield f"{Path(file).name}-{i}", pa.Table.from_batches([batch])


def builder_class(method: str) -> type[Builder]:
    """The builder of a method.

    Raises:
        RecipeError: There is no such method.
    """
    if method not in METHODS:
        raise RecipeError("METHOD", f"there is no builder {method!r}{nearest_or_all(method, METHODS)}")
    module, name = METHODS[method]
    return getattr(importlib.import_module(module), name)


def open_dataset(directory: Path) -> Builder | None:
    """The builder that made a dataset, or None when its sources are gone or are no longer what they were."""
    refuse_strange(directory)
    saved = directory / PRIVATE / "recipe.json"
    try:
        fields = recipes.read_recipe(saved)
        builder = builder_class(fields["builder"]).from_recipe(fields)
    except (FiguregroundError, KeyError):
        return None
    unchanged = digest(builder.identity()) == recipes.read_saved(saved)["sha256"]
    builder.read_stages(directory / PRIVATE / "stages")
    return builder if unchanged else None


def _plain(value: Any) -> Any:
    """A setting as YAML would give it: paths as text."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value
