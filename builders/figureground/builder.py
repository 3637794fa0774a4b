"""What every method shares: a `datasets.DatasetBuilder` that checks, prepares, plans, renders and shards."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import numpy as np
from tqdm import tqdm

from figureground import recipe as recipes
from figureground.config import Config
from figureground.errors import FiguregroundError, OutOfMemory, RecipeError, counted, nearest_or_all
from figureground.numerics import library_versions, settle_numerics, usable_cores
from figureground.plan import Plan, PlannedShard
from figureground.run import directory, signals
from figureground.run.local import work_in_processes
from figureground.run.progress import Progress
from figureground.sample import Guide, Sample, Spec
from figureground.shards import index, writer
from figureground.shards.card import Facts
from figureground.shards.writer import PRIVATE, Columns, Shard, replace_text
from figureground.sources import Credit, Source, read_weights
from figureground.weights import check_files, check_size, fingerprint, local_directory, pixels_a_latent

if TYPE_CHECKING:
    from PIL import Image

    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.diffusion.render import Sampling

SECONDS_BETWEEN_LOOKS = 1.0
"""How often a process that has nothing left to render looks whether others have finished."""

SAMPLING = ("scheduler", "steps", "strength", "guidance_scale", "negative_prompt", "eta", "size")
"""Fields that say how pictures are drawn."""

METHODS = {
    "d3s": ("figureground.d3s", "D3S"),
    "spurious": ("figureground.spurious", "Spurious"),
    "scgs": ("figureground.scgs", "SCGS"),
    "ddb": ("figureground.ddb", "DDB"),
}
"""Builders by name: module and class."""


class Builder(datasets.ArrowBasedBuilder):
    """Builds a dataset by one method. A method overrides `columns`, `plan` and what it needs of the rest.

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
        identity = recipes.digest(self.identity())
        super().__init__(
            cache_dir=cache_dir, dataset_name=f"figureground_{self.METHOD}", config_name=name, hash=identity[:16]
        )

    @classmethod
    def from_recipe(
        cls, fields: recipes.Fields, settings: list[str] | None = None, config_name: str | None = None
    ) -> Builder:
        """A builder from a recipe file's fields and `--set` values; flags win over the file's `config`."""
        fields = dict(fields)
        name = config_name or fields.pop("config", None) or cls.DEFAULT
        fields.pop("config", None)
        fields.pop("builder", None)
        if name not in cls.CONFIGS:
            return cls(name)
        defaults = dataclasses.asdict(cls.CONFIGS[name])
        return cls(name, **recipes.apply_settings(fields, settings or [], defaults))

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
        from figureground.forecast import counts_by_split

        return counts_by_split(self, plan)

    def plan_notes(self) -> list[str]:
        """Lines that `plan` adds: what a build would still need."""
        return []

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
        return json.loads(json.dumps({"builder": self.METHOD, **fields, **self.resolved()}))

    def _identity_names(self) -> list[str]:
        """The fields that decide the dataset; `extended` only where it was."""
        unset = () if self.config.extended else ("extended",)
        return [n for n in self.config.field_names() if n not in (*self.config.EXECUTION, *unset)]

    def recipe(self, folder: Path) -> dict[str, Any]:
        """The recipe as saved in `folder`: it says what was made, and rebuilds it."""
        names = self.config.field_names()
        values = {name: getattr(self.config, name) for name in names}
        saved = {n: recipes.for_file(n, v, folder) for n, v in values.items()}
        return {
            "builder": self.METHOD,
            "config": self.config.name,
            "figureground": library_versions()["figureground"],
            "identity": {n: saved[n] for n in self._identity_names()},
            "execution": {n: saved[n] for n in names if n in self.config.EXECUTION},
            "content": self.resolved(),
            "sha256": recipes.digest(self.identity()),
            **({"lineage": self.lineage()} if self.lineage() else {}),
        }

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
        """
        out = Path(out)
        folder = local_directory(self.config.checkpoint)
        if folder is not None:
            check_files(folder, self.config.checkpoint, inpaint=self.INPAINTS)
            check_size(self.config.size, pixels_a_latent(folder))
        self.find(out, show_progress)
        plan = self.plan()
        if not plan.shards():
            raise RecipeError("table", "it plans no images.")
        planned = plan.shards()
        plan.spec(planned[0].split, 0)  # whatever the plan lacks is said now, not when the model is loaded
        shards = [as_shard(s) for s in planned]
        with directory.opened(out, self.recipe(out / PRIVATE), lambda: directory.shards_kept(out, shards)):
            self._check_formats(out)
            if index.missing(out, shards):
                if self.config.workers > 1:
                    work_in_processes(self, out, show_progress)
                else:
                    self.work(out, show_progress=show_progress)
            self.finish(out)
            self.judge(out, show_progress)
        return out

    def finish(self, out: Path) -> None:
        """Writes index and card; every shard must have its marker."""
        recipe, shown = self.recipe(out / PRIVATE), self.settings_shown()
        identity = {n: v for n, v in recipe.pop("identity").items() if n not in SAMPLING or n in shown}
        settings = {**identity, **recipe.pop("execution")}
        del recipe["content"]
        index.finish(
            out,
            [as_shard(s) for s in self.plan().shards()],
            self.columns(),
            {**recipe, **settings},
            self.facts(out),
            formats=tuple(self.config.formats),
            image_format=self.config.image_format,
        )

    def work(self, out: Path, rank: int = 0, of: int = 1, show_progress: bool = True) -> None:
        """Renders every shard that no other process holds, and returns when all are done.

        Several processes may work in one directory, on several machines where they share it. A shard that
        another process holds is waited for, and taken over if that process dies.
        """
        from figureground.diffusion.render import release_memory

        self.read_stages(out / PRIVATE / "stages")
        shards = [as_shard(s) for s in self.plan().shards()]
        opened: tuple[Checkpoint, Sampling, dict[str, Any]] | None = None
        too_much = ""
        while opened is None or index.missing(out, shards):
            with ExitStack() as stack:
                with writer.lock(out / writer.STAGES_LOCK, wait=True):
                    if opened is None:
                        # A build that failed at once may have removed it meanwhile.
                        directory.save_recipe(out, self.recipe(out / PRIVATE))
                        opened = self._open_checkpoint(out, rank)
                        self.prepare(out / PRIVATE / "stages", opened[0])
                    elif smaller := self._smaller_batch(out, *opened[1:], too_much):
                        opened, too_much = (opened[0], *smaller), ""
                    stack.enter_context(writer.lock(out / writer.WORKING_LOCK, wait=True, shared=True))
                try:
                    if not too_much:
                        return self._render_shards(out, *opened, rank, of, show_progress)
                except OutOfMemory as error:
                    too_much = str(error)  # the error itself would keep the batch in memory
            signals.check()
            release_memory()
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _smaller_batch(
        self, out: Path, sampling: Sampling, numerics: dict[str, Any], too_much: str
    ) -> tuple[Sampling, dict[str, Any]] | None:
        """Halves the batch and records that, while no shard of the set is done; called under the stages' lock.

        Returns:
            What to go on with, or None while others still try the same size.

        Raises:
            FiguregroundError: A shard is done, so that the size stays, or it is 1 already.
        """
        path = out / PRIVATE / "numerics.json"
        settled = json.loads(path.read_text())
        settled.pop("mixed", None)
        size = sampling.batch_size
        if settled["batch_size"] >= size:  # else another process was faster
            if index.markers(out):
                shards = [as_shard(s) for s in self.plan().shards()]
                raise FiguregroundError(
                    f"{too_much} This set keeps its batch size, for its first shards were made with it. Free some "
                    "memory (other programs, fewer --set workers=…) and give the same command again, or build in a new "
                    f"directory with a smaller --set batch_size=…. {directory.shards_kept(out, shards)}"
                )
            if size == 1:
                raise FiguregroundError(f"{too_much} Give a smaller --set size=…, or a device with more memory.")
            with writer.lock(out / writer.WORKING_LOCK) as alone:
                if not alone:
                    return None
                settled = {
                    **numerics,
                    "batch_size": size // 2,
                    "batch_size_asked": settled.get("batch_size_asked", size),
                }
                replace_text(path, json.dumps({**settled, "mixed": []}, indent=2) + "\n")
        tqdm.write(f"figureground: {too_much} Going on with batches of {settled['batch_size']}.", file=sys.stderr)
        return dataclasses.replace(sampling, batch_size=settled["batch_size"]), settled

    def _render_shards(
        self,
        out: Path,
        checkpoint: Checkpoint,
        sampling: Sampling,
        numerics: dict[str, Any],
        rank: int,
        of: int,
        show_progress: bool,
    ) -> None:
        from figureground.diffusion.render import Renderer, release_memory

        plan, columns = self.plan(), self.columns()
        renderer: Renderer | None = None
        drawn_by: str | None = None
        common = {
            **checkpoint.facts,
            **self.settings_shown(),
            "device": numerics["device"],
            "dtype": numerics["dtype"],
            "versions": library_versions(),
        }

        def provenance(sample: Sample) -> dict[str, Any]:
            spec = sample.spec
            return {
                "foreground_name": spec.foreground_name, "background_name": spec.background_name, "seed": spec.seed,
                "guide": dataclasses.asdict(spec.guide) if spec.guide else None, **common, **self.provenance(spec),
            }  # fmt: skip

        planned = {as_shard(s): s for s in plan.shards()}
        shards = list(planned)
        shards = shards[rank * len(shards) // of :] + shards[: rank * len(shards) // of]
        total = sum(s.count for s in shards)
        done = total - sum(s.count for s in index.missing(out, shards))
        bar = Progress(total, initial=done, unit="image", desc=str(out), show=show_progress)
        with signals.at_checks(), bar:
            while todo := index.missing(out, shards):
                for shard in todo:
                    signals.check()
                    with writer.claim(out, shard) as mine:
                        if mine and index.missing(out, [shard]):
                            specs = list(plan.specs(planned[shard]))
                            if renderer is None or specs[0].concept != drawn_by:
                                renderer, drawn_by = None, specs[0].concept
                                release_memory()  # there may be no room for two concepts
                                renderer = Renderer(
                                    self.checkpoint_for(drawn_by, checkpoint), sampling, self.load_guide, signals.check
                                )
                            results = _counted(renderer.render(specs), bar)
                            writer.write_shard(
                                out, shard, columns, results, provenance,
                                formats=tuple(self.config.formats), image_format=self.config.image_format,
                            )  # fmt: skip
                if index.missing(out, todo):
                    signals.check()
                    time.sleep(SECONDS_BETWEEN_LOOKS)

    def sampling(self) -> dict[str, Any]:
        """What a method sets of `Sampling` beside what all recipes say."""
        return {}

    def settings_shown(self) -> dict[str, Any]:
        """What every sample's provenance says of the recipe."""
        return {name: getattr(self.config, name) for name in SAMPLING}

    def facts(self, out: Path) -> Facts:
        """What the card says beside recipe and counts."""
        path = out / PRIVATE / "numerics.json"
        numerics = json.loads(path.read_text()) if path.exists() else {}
        weights = read_weights(self.config.checkpoint, numerics.get("revision") or self.config.revision)
        sources, credits = self.sources()
        return Facts(
            self.TITLE, self.METHOD, self.summary(), "\n\n".join(self.citations()), numerics, self.LIMITS,
            self.USES, self.MISUSES, dataclasses.asdict(weights),
            [dataclasses.asdict(source) for source in sources], [dataclasses.asdict(credit) for credit in credits],
            self.lineage(),
        )  # fmt: skip

    def _open_checkpoint(self, out: Path, rank: int) -> tuple[Checkpoint, Sampling, dict[str, Any]]:
        """Opens the model and settles the numerics: those of the first shard, or new ones."""
        import torch

        from figureground.diffusion.checkpoint import choose_device, choose_dtype, open_checkpoint
        from figureground.diffusion.render import Sampling, find_batch_size

        config = self.config
        path = out / PRIVATE / "numerics.json"
        started = bool(index.markers(out))
        if not started:
            with writer.lock(out / writer.WORKING_LOCK) as alone:
                started = not alone
        settled = json.loads(path.read_text()) if path.exists() and started else None
        name = config.device if config.device != "auto" or settled is None else settled["device"]
        device = choose_device(name)
        if device.type == "cuda" and device.index is None and config.workers > 1:
            device = torch.device("cuda", rank % torch.cuda.device_count())
        dtype = config.dtype if config.dtype != "auto" or settled is None else settled["dtype"]
        threads = config.threads or (settled or {}).get("threads") or max(1, usable_cores() // config.workers)
        torch.set_num_threads(threads)
        checkpoint = open_checkpoint(
            config.checkpoint, (settled or {}).get("revision") or config.revision, device=device,
            dtype=choose_dtype(dtype, device), scheduler=config.scheduler, safety=config.safety, inpaint=self.INPAINTS,
        )  # fmt: skip
        check_size(self.config.size, checkpoint.factor)
        batch_size, halved = config.batch_size, {}
        if settled and batch_size in (None, settled.get("batch_size_asked")):
            batch_size = settled["batch_size"]
            halved = {name: settled[name] for name in ("batch_size_asked",) if name in settled}
        sampling = Sampling(
            config.size, config.steps, config.strength, config.guidance_scale, config.negative_prompt, config.eta,
            batch_size or 1, config.compile, **self.sampling(),
        )  # fmt: skip
        if not config.batch_size and not settled:
            devices = torch.cuda.device_count() if device.type == "cuda" else 1
            sharing = -(-config.workers // max(1, devices))
            sampling = dataclasses.replace(sampling, batch_size=find_batch_size(checkpoint, sampling, sharing))
        mine = {
            "device": device.type,
            "dtype": str(choose_dtype(dtype, device)).removeprefix("torch."),
            "batch_size": sampling.batch_size,
            **halved,
            "threads": threads if device.type == "cpu" else None,
            "compile": config.compile,
            "revision": checkpoint.facts["revision"],
            "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "versions": library_versions(),
        }
        settle_numerics(path, mine, config.allow_mixed_numerics, started)
        return checkpoint, sampling, mine

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
        counts = json.loads((out / index.INDEX).read_text())
        rejects = ", ".join(f"{n} {reason}" for reason, n in counts["rejects"].items())
        return (
            f"{out}: {counted(counts['samples'], 'sample')}"
            + (f"; rejected: {rejects}" if rejects else "")
            + f". figureground show {out} draws it."
        )

    def _check_formats(self, out: Path) -> None:
        """Refuses to go on in other formats than the first shards have."""
        for name, marker in index.markers(out).items():
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


def as_shard(planned: PlannedShard) -> Shard:
    """A planned shard as the writer names it."""
    return Shard(planned.split, planned.index, planned.of, planned.count, planned.part)


def _counted(results: Iterator[Any], bar: tqdm) -> Iterator[Any]:
    for result in results:
        yield result
        bar.update()


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
    saved = directory / PRIVATE / "recipe.json"
    try:
        fields = recipes.read_recipe(saved)
        builder = builder_class(fields["builder"]).from_recipe(fields)
    except (FiguregroundError, KeyError):
        return None
    unchanged = recipes.digest(builder.identity()) == json.loads(saved.read_text())["sha256"]
    builder.read_stages(directory / PRIVATE / "stages")
    return builder if unchanged else None


def _plain(value: Any) -> Any:
    """A setting as YAML would give it: paths as text."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value
