"""What SCGS and DDB share: a region of training images is repainted, by stages that choose images and regions."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, RecipeError, counted, listed, nearest_or_all
from figureground.core.hashing import digest
from figureground.core.locks import lock
from figureground.core.shares import whole_part
from figureground.core.terminal import remark
from figureground.data.groups import Files, GroupedImages
from figureground.data.layouts import read_groups
from figureground.finetune.settings import fill
from figureground.learn.settings import Training, choose_backbone
from figureground.methods.base import Method
from figureground.methods.forecast import draw_counts
from figureground.methods.repainting import TRAIN, RepaintConfig
from figureground.models.needs import Need, missing_model, missing_packages, refuse_absent
from figureground.models.opening import open_part
from figureground.models.parts import limit_tokens, positions
from figureground.models.weights import fingerprint_classifier, local_directory
from figureground.recipe.plan import Plan
from figureground.recipe.sample import Guide, Spec
from figureground.recipe.table import Counts
from figureground.running import directory
from figureground.shards import writer
from figureground.shards.stages import again, read_marker, run_stage
from figureground.shards.writer import PRIVATE, Columns
from figureground.sources.images import center_square
from figureground.sources.provenance import Credit, Source, read_source

if TYPE_CHECKING:
    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.learn.errors import Errors
    from figureground.vision.classifiers import Classifier

VALIDATION = 1
"""Number of the split that a classifier's epoch is chosen by."""
UNKNOWN = "unknown"
"""The attribute of an image whose background nobody can know."""
GROUND_TRUTH_MASKS = "true-masks"
"""Stands for the data's own masks."""
JOBS, MASKS = "jobs", "masks"
"""Stages of both methods: what is made of what, and where is repainted."""
MOST_DROPPED = 0.5
"""If of a class more than this share of its images have no usable mask, something is wrong with the whole."""


@dataclass(frozen=True)
class Job:
    """An image to make: of which source, with which label."""

    foreground: int
    background: int
    source: str
    """Key of the training image that a region is repainted of."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What its provenance adds."""


class Repaint(Method):
    """Builds what is made by repainting a region of training images.

    A method overrides `backgrounds`, `jobs`, `planned`, `summary` and what it needs of the rest.
    """

    INPAINTS = True
    FROM_DATA = True
    USES = (
        "Training beside the set that it was made from, to break a correlation between class and background there.",
        "Comparing methods that are meant to be robust against spurious correlations.",
    )
    LIMITS = (
        "A label says what was asked for. That the repainted region shows it was not checked by a person.",
        "The images carry the biases of the checkpoint that drew them and of the training set that they were made "
        "from.",
    )
    config: RepaintConfig
    _jobs: dict[tuple[int, int], list[Job]] | None = None
    _mask_files: Mapping[str, str] = {}
    _stages: Path | None = None

    def load_inputs(self) -> None:
        config = self.config
        self.groups: GroupedImages | None = None
        self.pairings = {}
        if config.data is None:
            return
        self.groups = read_groups(
            config.data, config.layout, root=config.root, y=config.y, a=config.a, file=config.file,
            split_column=config.split_column,
        )  # fmt: skip
        self.train = self.groups.of_split(0)
        unknown = [name for name in config.nouns if name not in self.groups.classes]
        if unknown:
            raise RecipeError(
                f"nouns.{unknown[0]}",
                f"{self.groups.name} has no class {unknown[0]!r}{nearest_or_all(unknown[0], self.groups.classes)}",
            )
        there = np.unique(self.train.y)
        if len(there) < 2:
            raise FiguregroundError(
                f"{self.groups.name}: all its training images are of one class, "
                f"{self.groups.classes[int(there[0])]!r}. It takes two for a classifier to be wrong."
            )

    # --- what a method says ---------------------------------------------------------------------

    def backgrounds(self) -> Sequence[str]:
        """Names of the backgrounds, in label order."""
        raise NotImplementedError(f"{type(self).__name__} has to say its backgrounds")

    def jobs(self, stages: Path) -> tuple[list[Job], dict[str, str], dict[str, Any]]:
        """Runs the stages that choose sources and regions; those that are done are read.

        Returns:
            What is made; by a source's key, the file of its mask below `stages`; and what is to be told.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say what it makes of what")

    def planned(self) -> Counts:
        """About how many images of each class there will be, int64 (classes,), as far as the recipe says it."""
        raise NotImplementedError(f"{type(self).__name__} has to say how many images it makes")

    def spec_prompt(self, job: Job) -> str:
        """What is painted."""
        return self.prompt_of(job.foreground)

    # --- what it plans --------------------------------------------------------------------------

    @property
    def data(self) -> GroupedImages:
        """The training set, every split.

        Raises:
            RecipeError: None is given.
        """
        if self.groups is None:
            raise RecipeError(
                "data",
                "none is given. Give a labelled training set, as figureground groups reads it: --data DIR (or CSV).",
            )
        return self.groups

    @property
    def unlabelled(self) -> GroupedImages:
        """The training set without its attribute, which takes no part in how images are made."""
        return self.data.without_attribute()

    def noun(self, label: int) -> str:
        name = self.data.classes[label]
        return self.config.nouns.get(name, name.replace("_", " "))

    def prompt_of(self, label: int, token: str = "") -> str:
        return fill(self.config.prompt, self.noun(label), token)

    def columns(self) -> Columns:
        keep = self.config.keep
        return Columns(
            list(self.data.classes), list(self.backgrounds()), texts=("source",), guide="guide" in keep,
            mask="mask" in keep,
        )  # fmt: skip

    def plan(self) -> Plan:
        """Of a dataset whose stages are done, what they say; else about as many images, of unknown background."""
        config, jobs = self.config, self._jobs
        if jobs is None:
            table = self.planned()[:, None]
            return Plan(
                {TRAIN: table}, self.data.classes, [UNKNOWN], config.seed, config.shard_size, config.limit,
                lambda split, f, b, i: None, lambda split, f, b, i: self.prompt_of(f),
            )  # fmt: skip
        grounds = list(self.backgrounds())
        table = np.zeros((len(self.data.classes), len(grounds)), np.int64)
        for (f, b), some in jobs.items():
            table[f, b] = len(some)
        return Plan(
            {TRAIN: table}, self.data.classes, grounds, config.seed, config.shard_size, config.limit,
            lambda split, f, b, i: Guide("inpaint", jobs[f, b][i].source),
            lambda split, f, b, i: self.spec_prompt(jobs[f, b][i]),
        )  # fmt: skip

    def _job(self, spec: Spec) -> Job:
        assert self._jobs is not None
        return self._jobs[spec.foreground, spec.background][int(spec.key.rpartition("-")[2])]

    # --- what decides it ------------------------------------------------------------------------

    def content_hashes(self) -> dict[str, Any]:
        config = self.config
        known = self.groups
        nouns = {} if known is None else {name: self.noun(i) for i, name in enumerate(known.classes)}
        return {
            **super().content_hashes(), "data": None if known is None else known.fingerprint, "layout": None,
            "root": None, "y": None, "a": None, "file": None, "split_column": None, "nouns": nouns,
            "classifier": self._classifier_content,
            "training": self._training_content if config.classifier == TRAIN else None,
        }  # fmt: skip

    @cached_property
    def _classifier_content(self) -> str:
        return TRAIN if self.config.classifier == TRAIN else fingerprint_classifier(self.config.classifier, None)

    @cached_property
    def _training_content(self) -> dict[str, Any]:
        settings = self.config.training_settings()
        told = settings.to_json()
        if settings.backbone is not None:
            told["backbone"] = fingerprint_classifier(settings.backbone, settings.revision)
        return told

    # --- stages ---------------------------------------------------------------------------------

    def run_planning_stages(self, out: Path) -> None:
        stages = out / PRIVATE / "stages"
        self.check_settings()
        with (
            directory.opened(out, self.recipe(out / PRIVATE), lambda: "What stages have found so far is kept."),
            lock(out / writer.STAGES_LOCK, wait=True),
        ):
            directory.settle_recipe(out, self.recipe(out / PRIVATE))
            known = self._read_jobs(stages)
            if known is None or not all(path.is_file() for path in self.needed(stages, known)):
                try:
                    jobs, masks, told = self.jobs(stages)
                except RecipeError as error:
                    raise _as_field_of_recipe(error) from None
                if not jobs:
                    raise FiguregroundError(self.nothing(told))
                facts = {"jobs": [dataclasses.asdict(job) for job in jobs], "masks": masks, "told": told}
                if known is not None and json.loads(json.dumps(facts)) != known:
                    raise FiguregroundError(
                        f"{out}: a stage that was done again found other sources or regions than before, from which "
                        "images may have been made. Build into another directory."
                    )
                self.stage(stages, JOBS, lambda folder: facts)
        self.read_stages(stages)

    def needed(self, stages: Path, facts: Mapping[str, Any]) -> list[Path]:
        """The files of other stages that images are made from. Where one is missing what is made is looked at again.

        Args:
            facts: What the stage `jobs` says.
        """
        return [stages / name for name in facts["masks"].values()]

    def nothing(self, told: Mapping[str, Any]) -> str:
        """Why there is nothing to make, for an error."""
        return f"{self.METHOD} finds nothing to repaint in {self.data.name}."

    def check_settings(self) -> None:
        """Raises FiguregroundError for what the data can't do, before any work is done."""
        data = self.data
        if self.config.classifier == TRAIN and not (data.split == VALIDATION).any():
            raise FiguregroundError(
                f"{data.name} has no validation split, and the classifier that is trained on it needs one. Mark some "
                "rows as validation (split 1), or give a trained classifier: --classifier DIR."
            )
        folder = local_directory(self.config.checkpoint)
        if folder is not None:
            from transformers import CLIPTokenizer

            tokenizers = []
            for path in sorted(folder.glob("tokenizer*/")):
                tokenizer = open_part(CLIPTokenizer, path, f"checkpoint {self.config.checkpoint!r}: {path.name}")
                limit_tokens(tokenizer, positions(folder, path.name.replace("tokenizer", "text_encoder")))
                tokenizers.append(tokenizer)
            for prompt in sorted(self.prompts()):
                for tokenizer in tokenizers:
                    _refuse_long(prompt, prompt, tokenizer)

    def prompts(self) -> set[str]:
        """What may be painted, to be read before there are stages."""
        return {self.prompt_of(label) for label in np.unique(self.train.y).tolist()}

    def need_true_masks(self, field: str) -> None:
        """Raises RecipeError unless the data have a mask of each training image, for a field asks for them."""
        if not self.train.masked.all():
            raise RecipeError(
                field, f"{GROUND_TRUTH_MASKS!r} needs a mask of every training image of {self.data.name}."
            )

    def stage(self, stages: Path, name: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Runs a stage of this recipe unless it is done, and returns its facts.

        Raises:
            FiguregroundError: Its marker is damaged.
        """
        return run_stage(stages, name, self.identity(), work)

    def read_stages(self, stages: Path) -> None:
        facts = self._read_jobs(stages)
        if facts is None:
            return
        self._stages, self._mask_files = stages, facts["masks"]
        cells: dict[tuple[int, int], list[Job]] = {}
        for each in facts["jobs"]:
            job = Job(each["foreground"], each["background"], each["source"], each["told"])
            cells.setdefault((job.foreground, job.background), []).append(job)
        self._jobs, self.told = cells, facts["told"]

    def _read_jobs(self, stages: Path) -> dict[str, Any] | None:
        done = read_marker(stages / JOBS)
        return done["facts"] if done and done["inputs"] == digest(self.identity()) else None

    def say(self, text: str) -> None:
        if self.show_progress:
            remark(text)

    def prepare(self, stages: Path, checkpoint: Checkpoint) -> None:
        """Refuses prompts that a text encoder would cut off without a word."""
        prompts = {self.spec_prompt(job) for jobs in (self._jobs or {}).values() for job in jobs}
        for prompt in sorted(prompts):
            for tokenizer in checkpoint.tokenizers:
                # A learned word may be several tokens.
                _refuse_long(prompt, checkpoint.text_to_image.maybe_convert_prompt(prompt, tokenizer), tokenizer)

    # --- images -------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> dict[str, int]:
        """Rows of the training split by key."""
        return {key: row for row, key in enumerate(self.train.keys)}

    def image(self, row: int, size: int | None = None) -> Image.Image:
        """The centre square of a training image, RGB; as large as it is, unless a size is given."""
        ((_, draw),) = self.train.read([row])
        whole = draw().convert("RGB")
        return center_square(whole, size or min(whole.size))

    def true_mask(self, row: int) -> np.ndarray:
        """The data's own mask of the same square, bool."""
        ((_, draw),) = self.train.read_masks([row])
        mask = Image.fromarray(draw().astype(np.uint8) * 255)
        return np.asarray(center_square(mask, min(mask.size), Image.Resampling.NEAREST)) >= 128

    def save_mask(self, folder: Path, row: int, mask: np.ndarray) -> str:
        """Writes a mask, bool (h, w), as large as the images that are made; returns its name below the stages."""
        size = self.config.size
        image = Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BOX)
        name = f"{row:06d}.png"
        image.point(lambda value: 255 if value >= 128 else 0).save(folder / name)
        return f"{folder.name}/{name}"

    def find_masks(
        self, stages: Path, find: Callable[[], Mapping[int, np.ndarray | str]], advice: str
    ) -> tuple[dict[int, str], dict[str, dict[str, int]]]:
        """Says where sources are repainted, a stage.

        Args:
            find: Gives, by row, bool mask or the reason why there is none.
            advice: What to do where most images of a class have no usable one.

        Returns:
            By row, the file of the mask below `stages`; and how many were left out, by class and reason.

        Raises:
            FiguregroundError: Most images of a class have no usable mask.
        """

        def work(folder: Path) -> dict[str, Any]:
            kept, dropped = _drop(find(), self.train.y, self.data.classes, advice)
            files = {str(row): self.save_mask(folder, row, mask) for row, mask in kept.items()}
            return {"files": files, "dropped": dropped}

        facts = self.stage(stages, MASKS, work)
        return {int(row): name for row, name in facts["files"].items()}, facts["dropped"]

    def read_mask(self, source: str) -> Image.Image:
        """Where a source is repainted: L, size × size, 255 there."""
        assert self._stages is not None
        return open_mask(self._stages / self._mask_files[source])

    def load_guide(self, spec: Spec) -> tuple[Image.Image, Image.Image | None]:
        assert spec.guide is not None
        key = spec.guide.cutout
        return self.image(self.rows[key], self.config.size), self.read_mask(key)

    def sampling(self) -> dict[str, Any]:
        return {"outside": self.config.outside}

    def settings_shown(self) -> dict[str, Any]:
        return {**super().settings_shown(), "outside": self.config.outside}

    def provenance(self, spec: Spec) -> dict[str, Any]:
        job = self._job(spec)
        row = self.rows[job.source]
        train = self.train
        attribute = None if train.a is None or train.attributes is None else train.attributes[int(train.a[row])]
        return {
            "source": job.source, "source_class": train.classes[int(train.y[row])], "source_attribute": attribute,
            **job.told,
        }  # fmt: skip

    # --- the classifier -------------------------------------------------------------------------

    def find_errors(self, stages: Path, name: str, judge: Callable[[Path], Errors]) -> Errors:
        """What the classifier makes of each training image, a stage of that name; `judge` leaves it in its folder."""
        from figureground.learn.errors import read_errors

        def work(folder: Path) -> dict[str, Any]:
            found = judge(folder)
            return {"images": len(found.y), "wrong": int(found.wrong.sum())}

        self.stage(stages, name, work)
        return read_errors(stages / name)

    def judge_by_given(self, folder: Path, clustered: bool = False) -> Errors:
        """What the classifier that was given makes of the training images; leaves it in a folder.

        Args:
            clustered: Whether its features will be clustered, so that it must have some.
        """
        from figureground.learn.errors import of_classifier, save_errors
        from figureground.vision.classifiers import open_classifier

        classifier = open_classifier(self.config.classifier, device=self.device)
        if clustered:
            classifier.need_features()
        found = of_classifier(self.unlabelled, classifier, self.data.classes)
        save_errors(found, self.data.classes, folder)
        return found

    def open_classifier(self, errors: Errors, fold: int = 0) -> Classifier:
        """The classifier that made the errors of a fold."""
        from figureground.vision.classifiers import open_classifier

        name = str(errors.models[fold]) if errors.models else self.config.classifier
        return open_classifier(name, device=self.device)

    @cached_property
    def device(self) -> Any:
        from figureground.core.accelerator import choose_device

        return choose_device(self.config.device)

    # --- what it says of itself -----------------------------------------------------------------

    def denoiser_steps(self) -> int:
        return whole_part(self.config.steps, self.config.strength)

    def sources(self) -> tuple[list[Source], list[Credit]]:
        what, store = "training images", self.train.store
        used = sorted({self.rows[job.source] for jobs in (self._jobs or {}).values() for job in jobs})
        if not isinstance(store, Files):
            return [Source(what, self.data.name, len(used))], []
        paths = [store.root / store.names[int(self.train.rows[row])] for row in used]
        source, credits = read_source(what, store.root, paths, name=self.data.name)
        return [source], credits

    def plan_counts(self, plan: Plan) -> list[str]:
        data = self.data
        counts = plan.cells(TRAIN)
        lines = ["", f"made from the training split of {data.name}:"]
        lines += draw_counts(data.counts(0), data.classes, data.attributes or ["images"])
        lines += [
            "",
            "images to make" + ("" if self._jobs else ", about as many, once stages have found sources") + ":",
        ]
        return [*lines, *draw_counts(counts, plan.foregrounds, plan.backgrounds)]

    def left_out(self, noun: str) -> list[str]:
        """Lines on the images without a usable mask, which are called by that noun."""
        return [
            f"{name}: {counted(n, noun)} left out ({reason})"
            for name, reasons in self.told["dropped"].items()
            for reason, n in reasons.items()
        ]

    PACKAGES: ClassVar[tuple[str, ...]] = ()
    """Modules of extras that its stages need."""

    def refuse_absent(self) -> None:
        config = self.config
        backbone = config.training_settings().backbone
        if config.classifier != TRAIN:
            refuse_absent("classifier", config.classifier)
        elif backbone is not None:
            refuse_absent("training.backbone", backbone)

    def needs(self) -> list[Need]:
        config = self.config
        needs = [*super().needs(), *missing_packages("METHOD", self.PACKAGES)]
        if config.classifier != TRAIN:
            return [*needs, *missing_model("classifier", config.classifier)]
        settings = config.training_settings()
        ((_, draw),) = self.train.read([0])
        try:
            backbone = choose_backbone(settings, max(draw().size))
        except RecipeError as error:
            what = str(error).partition(": ")[2].partition(":")[0]
            return [*needs, Need("training.backbone", what, "--set training.backbone=microsoft/resnet-50")]
        return [*needs, *missing_model("training.backbone", backbone, settings.revision)]

    def check_plan(self) -> None:
        self.check_settings()
        super().check_plan()

    def plan_notes(self) -> list[str]:
        notes = [f"prompts such as {self.prompt_of(0)!r}"]
        if self.config.classifier == TRAIN:
            training = self.config.training_settings()
            notes.append(f"a classifier is trained first, {counted(training.epochs, 'epoch')}")
        return notes


def open_mask(path: Path) -> Image.Image:
    """The mask that a stage left there, L.

    Raises:
        FiguregroundError: It is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return image.convert("L")
    except (OSError, SyntaxError, ValueError) as error:
        raise FiguregroundError(f"{path} can't be read ({error}). {again(path.parent)}") from None


def _refuse_long(prompt: str, whole: str, tokenizer: Any) -> None:
    """Raises RecipeError for a prompt that a text encoder would cut off, `whole` being all of its tokens."""
    count, most = len(tokenizer(whole).input_ids), int(tokenizer.model_max_length)
    if count > most:
        raise RecipeError("prompt", f"{prompt!r} has {count} tokens, and the text encoder reads {most}. Shorten it.")


def _as_field_of_recipe(error: RecipeError) -> RecipeError:
    """The same error of the classifier's training, which the recipe calls by another name than the command `train`."""
    if error.field not in {each.name for each in dataclasses.fields(Training)}:
        return error
    text = str(error).partition(": ")[2].replace("--backbone with", "--set training.backbone=…, with")
    return RecipeError(f"training.{error.field}", text)


def _drop(
    found: Mapping[int, np.ndarray | str], y: np.ndarray, classes: Sequence[str], advice: str
) -> tuple[dict[int, np.ndarray], dict[str, dict[str, int]]]:
    """Leaves out images without a usable mask, so that images and masks stay in step; says how many.

    Raises:
        FiguregroundError: Most images of a class have no usable mask.
    """
    masks = {row: each for row, each in found.items() if not isinstance(each, str)}
    dropped: dict[str, Counter[str]] = {}
    total = Counter(int(y[row]) for row in found)
    for row, each in found.items():
        if isinstance(each, str):
            dropped.setdefault(classes[int(y[row])], Counter())[each] += 1
    for name, reasons in dropped.items():
        all_of = total[list(classes).index(name)]
        if reasons.total() > MOST_DROPPED * all_of:
            said = listed(f"{n:,} × {reason}" for reason, n in reasons.items())
            raise FiguregroundError(
                f"{MASKS}: {reasons.total():,} of {counted(all_of, 'image')} of {name!r} have no usable mask "
                f"({said}). {advice}"
            )
    return masks, {name: dict(reasons) for name, reasons in dropped.items()}
