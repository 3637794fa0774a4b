"""Base class of SCGS and DDB: stages choose training images and regions, and the regions are repainted."""

from __future__ import annotations

import dataclasses
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural, suggest_or_list
from figureground.core.hashing import digest
from figureground.core.terminal import print_note
from figureground.data.data_source import READING_OPTIONS
from figureground.data.groups import GroupedImages
from figureground.data.images import find_typical_edge
from figureground.data.layouts import read_data
from figureground.data.stores import FileStore
from figureground.learn.backbone_settings import choose_backbone
from figureground.learn.settings import Training
from figureground.methods.base import Method
from figureground.methods.count_tables import format_counts
from figureground.methods.panels.repaint import JOBS, MASKS
from figureground.methods.repaint_settings import TRAIN, RepaintConfig
from figureground.models.classifier_files import fingerprint_classifier
from figureground.models.hub_access import find_access_problem
from figureground.models.need import Need
from figureground.models.needs import missing_classifier, missing_packages, refuse_absent_classifier, refuse_featureless
from figureground.models.weights import local_directory, read_family
from figureground.recipe.plan import Plan, no_guide
from figureground.recipe.prompts import fill_noun, refuse_long
from figureground.recipe.sample import Guide, Spec
from figureground.recipe.table import Counts
from figureground.running import directory
from figureground.running.runners.local import Local, run_planning_parts
from figureground.shards.columns import Columns
from figureground.shards.home import home_of
from figureground.shards.shard import PRIVATE, STAGES
from figureground.shards.stages import advise_rerun, read_marker, run_stage
from figureground.sources.images import center_square
from figureground.sources.provenance import Credit, Source, read_source

if TYPE_CHECKING:
    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.learn.errors import Errors
    from figureground.vision.classifiers import Classifier

VALIDATION = 1
"""Number of the split that chooses a classifier's epoch."""
UNKNOWN = "unknown"
"""Attribute of an image whose background is unknown."""
GROUND_TRUTH_MASKS = "true-masks"
"""Value that means the data's own masks."""
MAX_DROPPED = 0.5
"""Largest share of a class's images that may lack a usable mask; above it, the build fails."""


@dataclass(frozen=True)
class RepaintPlan:
    """An image to make: its labels and its source."""

    foreground: int
    background: int
    source: str
    """Key of the training image of which a region is repainted."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the job adds to the image's provenance."""

    def to_json(self) -> dict[str, Any]:
        """Return the job as the stage `jobs` saves it."""
        return {
            "foreground": self.foreground, "background": self.background, "source": self.source,
            "told": dict(self.provenance),
        }  # fmt: skip

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> RepaintPlan:
        """Return a job that `to_json` saved."""
        return cls(saved["foreground"], saved["background"], saved["source"], saved["told"])


class Repaint(Method):
    """Base class of methods that repaint a region of training images.

    A method implements `backgrounds`, `collect_jobs`, `estimate_counts` and `summary`, and overrides other hooks as
    needed.
    """

    INPAINTS = True
    FROM_DATA = True
    USES = (
        "Training together with the set that it was made from, to break a correlation of class and background there.",
        "Comparing methods for robustness against spurious correlations.",
    )
    LIMITS = (
        "A label states what was requested. No person checked that the repainted region shows it.",
        "The images carry the biases of the checkpoint that drew them and of the training set that they were made "
        "from.",
    )
    EXAMPLES: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "data": ("birds", "To try it without data of yours, draw some: python -m figureground.pocket.birds birds"),
    }
    config: RepaintConfig
    _jobs: dict[tuple[int, int], list[RepaintPlan]] | None = None
    _mask_files: Mapping[str, str] = {}
    _stages: Path | None = None

    def load_inputs(self) -> None:
        source = self.config.data_source()
        self.groups: GroupedImages | None = None
        self.pairings = {}
        if source is None:
            return
        self.groups = read_data(source)
        unknown = [name for name in self.config.nouns if name not in self.groups.classes]
        if unknown:
            raise RecipeError(
                f"nouns.{unknown[0]}",
                f"{self.groups.name} has no class {unknown[0]!r}{suggest_or_list(unknown[0], self.groups.classes)}",
            )
        labels = np.unique(self.train.y)
        if len(labels) < 2:
            raise FiguregroundError(
                f"{self.groups.name}: all its training images are of one class, "
                f"{self.groups.classes[int(labels[0])]!r}. A classifier needs two or more."
            )

    # --- hooks of the methods -------------------------------------------------------------------

    @abstractmethod
    def backgrounds(self) -> Sequence[str]:
        """Return the names of the backgrounds, in label order."""

    @abstractmethod
    def collect_jobs(self, stages: Path) -> tuple[list[RepaintPlan], dict[str, str], dict[str, Any]]:
        """Run the stages that choose sources and regions, or read the finished ones.

        Returns:
            The images to make; the mask files relative to `stages`, by the source's key; and facts to report.
        """

    @abstractmethod
    def estimate_counts(self) -> Counts:
        """Return the approximate number of images per class, int64 (classes,), as the recipe gives it."""

    def spec_prompt(self, job: RepaintPlan) -> str:
        """Return the prompt of a job."""
        return self.prompt_of(job.foreground)

    # --- the plan -------------------------------------------------------------------------------

    @property
    def data(self) -> GroupedImages:
        """The training set, all splits.

        Raises:
            RecipeError: None is given.
        """
        if self.groups is None:
            raise RecipeError(
                "data",
                "none is given. Give a labelled training set that figureground groups can read: --data DIR (or CSV).",
            )
        return self.groups

    @cached_property
    def train(self) -> GroupedImages:
        """The training split.

        Raises:
            RecipeError: No training set is given.
        """
        return self.data.of_split(0)

    @property
    def unlabelled(self) -> GroupedImages:
        """The training set without its attribute, which has no part in making images."""
        return self.data.without_attribute()

    def noun(self, label: int) -> str:
        name = self.data.classes[label]
        return self.config.nouns.get(name, name.replace("_", " "))

    def prompt_of(self, label: int, token: str = "") -> str:
        return fill_noun(self.config.prompt, self.noun(label), token)

    def columns(self) -> Columns:
        keep = self.config.keep
        return Columns(
            list(self.data.classes), list(self.backgrounds()), texts=("source",), guide="guide" in keep,
            mask="mask" in keep,
        )  # fmt: skip

    def plan(self) -> Plan:
        """Return the plan from the finished stages, or else an approximate one with unknown backgrounds."""
        config, jobs = self.config, self._jobs
        if jobs is None:
            table = self.estimate_counts()[:, None]
            return Plan(
                {TRAIN: table}, self.data.classes, [UNKNOWN], config.seed, config.shard_size, config.limit,
                no_guide, lambda split, f, b, i: self.prompt_of(f),
            )  # fmt: skip
        grounds = list(self.backgrounds())
        table = np.zeros((len(self.data.classes), len(grounds)), np.int64)
        for (f, b), cell_jobs in jobs.items():
            table[f, b] = len(cell_jobs)
        return Plan(
            {TRAIN: table}, self.data.classes, grounds, config.seed, config.shard_size, config.limit,
            lambda split, f, b, i: Guide("inpaint", jobs[f, b][i].source),
            lambda split, f, b, i: self.spec_prompt(jobs[f, b][i]),
        )  # fmt: skip

    def _job_of(self, spec: Spec) -> RepaintPlan:
        assert self._jobs is not None
        return self._jobs[spec.foreground, spec.background][int(spec.key.rpartition("-")[2])]

    # --- identity -------------------------------------------------------------------------------

    def content_hashes(self) -> dict[str, Any]:
        config = self.config
        groups = self.groups
        nouns = {} if groups is None else {name: self.noun(i) for i, name in enumerate(groups.classes)}
        return {
            **super().content_hashes(), "data": None if groups is None else groups.fingerprint,
            **dict.fromkeys(READING_OPTIONS), "nouns": nouns,
            "classifier": self._classifier_content,
            "training": self._training_content if config.classifier == TRAIN else None,
        }  # fmt: skip

    @cached_property
    def _classifier_content(self) -> str:
        return TRAIN if self.config.classifier == TRAIN else fingerprint_classifier(self.config.classifier, None)

    @cached_property
    def _training_content(self) -> dict[str, Any]:
        settings = self.config.training_settings()
        content = settings.to_json()
        if settings.backbone is not None:
            content["backbone"] = fingerprint_classifier(settings.backbone, settings.revision)
        return content

    @cached_property
    def identity_hash(self) -> str:
        """`digest` of the identity, the inputs of every stage."""
        return digest(self.identity())

    # --- stages ---------------------------------------------------------------------------------

    def run_planning_stages(self, out: Path) -> None:
        stages = out / STAGES
        self.check_settings()
        with directory.claim_directory(out, self.recipe(out / PRIVATE), lambda: "Results of finished stages are kept."):
            if self.planning_parts(stages):
                self._make_planning_parts(out)
            with home_of(out).settling():
                directory.settle_recipe(out, self.recipe(out / PRIVATE))
                self._settle_jobs(out, stages)
        self.read_stages(stages)

    def _make_planning_parts(self, out: Path) -> None:
        try:
            run_planning_parts(self, out, (self.runner or Local()).places(self))
        except RecipeError as error:
            raise _rename_field(error) from None

    def _settle_jobs(self, out: Path, stages: Path) -> None:
        """Run the stages up to the list of images to make, unless they are finished; call it within `settling`."""
        saved = self._read_jobs(stages)
        if saved is None or not all((stages / name).is_file() for name in saved["masks"].values()):
            try:
                jobs, masks, summary = self.collect_jobs(stages)
            except RecipeError as error:
                raise _rename_field(error) from None
            if not jobs:
                raise FiguregroundError(self.describe_empty_plan(summary))
            facts = {"jobs": [job.to_json() for job in jobs], "masks": masks, "told": summary}
            if saved is not None and json.loads(json.dumps(facts)) != saved:
                raise FiguregroundError(
                    f"{out}: a repeated stage found other sources or regions than before, and images of those may "
                    "exist already. Build into another directory."
                )
            self.stage(stages, JOBS, lambda folder: facts)

    def describe_empty_plan(self, summary: Mapping[str, Any]) -> str:
        """Return the error message for a build with no images to make."""
        return f"{self.METHOD} finds nothing to repaint in {self.data.name}."

    def check_settings(self) -> None:
        """Raise FiguregroundError for settings that don't fit the data, before any work is done."""
        data = self.data
        if self.config.classifier == TRAIN and not (data.split == VALIDATION).any():
            raise FiguregroundError(
                f"{data.name} has no validation split, and training a classifier on it needs one. Mark some rows as "
                "validation (split 1), or give a trained classifier: --classifier DIR."
            )
        folder = local_directory(self.config.checkpoint, self.config.checkpoint_config)
        if folder is not None:
            family = read_family(folder, self.config.checkpoint)
            tokenizers = family.open_tokenizers(folder, f"checkpoint {self.config.checkpoint!r}")
            prompts = [("prompt", prompt) for prompt in sorted(self.prompts())]
            for field_name, prompt in [*prompts, ("negative_prompt", self.config.negative_prompt)]:
                counts = ((family.count_tokens(each, prompt), int(each.model_max_length)) for each in tokenizers)
                refuse_long(field_name, repr(prompt), counts)

    def prompts(self) -> set[str]:
        """Return the possible prompts, for checks before any stage has run."""
        return {self.prompt_of(label) for label in np.unique(self.train.y).tolist()}

    def require_true_masks(self, field: str) -> None:
        """Raise RecipeError for `field` unless the data have a mask for every training image."""
        if not self.train.masked.all():
            raise RecipeError(
                field, f"{GROUND_TRUTH_MASKS!r} needs a mask of every training image of {self.data.name}."
            )

    def stage(self, stages: Path, name: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Run a stage of this recipe unless it is finished, and return its facts.

        Raises:
            FiguregroundError: Its marker is damaged.
        """
        return run_stage(stages, name, self.identity(), work)

    def is_done(self, stages: Path, name: str) -> bool:
        """Whether a stage of this recipe is finished.

        Raises:
            FiguregroundError: Its marker is damaged.
        """
        marker = read_marker(stages / name)
        return marker is not None and marker["inputs"] == self.identity_hash

    def read_stages(self, stages: Path) -> None:
        facts = self._read_jobs(stages)
        if facts is None:
            return
        self._stages, self._mask_files = stages, facts["masks"]
        cells: dict[tuple[int, int], list[RepaintPlan]] = {}
        for record in facts["jobs"]:
            job = RepaintPlan.from_json(record)
            cells.setdefault((job.foreground, job.background), []).append(job)
        self._jobs, self.stage_summary = cells, facts["told"]

    def _read_jobs(self, stages: Path) -> dict[str, Any] | None:
        marker = read_marker(stages / JOBS)
        return marker["facts"] if marker and marker["inputs"] == digest(self.identity()) else None

    def print_progress(self, text: str) -> None:
        if self.show_progress:
            print_note(text)

    def prepare(self, stages: Path, checkpoint: Checkpoint) -> None:
        """Refuse prompts that a text encoder would truncate silently."""
        prompts = {self.spec_prompt(job) for jobs in (self._jobs or {}).values() for job in jobs}
        for prompt in sorted(prompts):
            refuse_long("prompt", repr(prompt), checkpoint.count_tokens(prompt))

    # --- images -------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row in the training split by key."""
        return {key: row for row, key in enumerate(self.train.keys)}

    def image(self, row: int, size: int | None = None) -> Image.Image:
        """Return the centre square of a training image, RGB, in its own size unless one is given."""
        ((_, draw),) = self.train.read([row])
        image = draw().convert("RGB")
        return center_square(image, size or min(image.size))

    def true_mask(self, row: int) -> np.ndarray:
        """Return the data's own mask of the image's centre square, bool (edge, edge)."""
        ((_, draw),) = self.train.read_masks([row])
        mask = Image.fromarray(draw().astype(np.uint8) * 255)
        return np.asarray(center_square(mask, min(mask.size), Image.Resampling.NEAREST)) >= 128

    def save_mask(self, folder: Path, row: int, mask: np.ndarray) -> str:
        """Write a mask, bool (h, w), in the size of the images to make; return its path relative to the stages."""
        size = self.config.size
        image = Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BOX)
        name = f"{row:06d}.png"
        image.point(lambda value: 255 if value >= 128 else 0).save(folder / name)
        return f"{folder.name}/{name}"

    def find_masks(
        self, stages: Path, find: Callable[[], Mapping[int, np.ndarray | str]], advice: str
    ) -> tuple[dict[int, str], dict[str, dict[str, int]]]:
        """Run the stage that finds the regions to repaint.

        Args:
            find: Returns, by row, a bool mask or the reason why the image has none.
            advice: End of the error message if most images of a class have no usable mask.

        Returns:
            The mask files relative to `stages`, by row; and the numbers of images left out, by class and reason.

        Raises:
            FiguregroundError: Most images of a class have no usable mask.
        """

        def work(folder: Path) -> dict[str, Any]:
            masks, dropped = _separate_masks(find(), self.train.y, self.data.classes, advice)
            files = {str(row): self.save_mask(folder, row, mask) for row, mask in masks.items()}
            return {"files": files, "dropped": dropped}

        facts = self.stage(stages, MASKS, work)
        return {int(row): name for row, name in facts["files"].items()}, facts["dropped"]

    def read_mask(self, source: str) -> Image.Image:
        """Return the mask of a source's repainted region: L, size × size, 255 inside.

        Raises:
            FiguregroundError: The stage that lists it isn't finished or doesn't list it, or the file can't be read.
        """
        if self._stages is None or source not in self._mask_files:
            raise FiguregroundError(
                f"{JOBS}: this stage lists no region of {source}. Build again, so that it is repeated."
            )
        return open_mask(self._stages / self._mask_files[source])

    def load_guide(self, spec: Spec) -> tuple[Image.Image, Image.Image | None]:
        assert spec.guide is not None
        key = spec.guide.cutout
        return self.image(self.rows[key], self.config.size), self.read_mask(key)

    def sampling(self) -> dict[str, Any]:
        return {"outside": self.config.outside}

    def provenance_settings(self) -> dict[str, Any]:
        return {**super().provenance_settings(), "outside": self.config.outside}

    def provenance(self, spec: Spec) -> dict[str, Any]:
        job = self._job_of(spec)
        row = self.rows[job.source]
        train = self.train
        attribute = None if train.a is None or train.attributes is None else train.attributes[int(train.a[row])]
        return {
            "source": job.source, "source_class": train.classes[int(train.y[row])], "source_attribute": attribute,
            **job.provenance,
        }  # fmt: skip

    # --- the classifier -------------------------------------------------------------------------

    def find_errors(self, stages: Path, name: str, predict: Callable[[Path], Errors]) -> Errors:
        """Return the classifier's predictions for the training images, from a stage in whose folder `predict` saves
        them.

        Args:
            stages: Folder of the dataset's stages.
            name: Name of the stage.
            predict: Predicts the training images, and saves the predictions in the folder that it is given.
        """
        from figureground.learn.errors import read_errors

        def work(folder: Path) -> dict[str, Any]:
            errors = predict(folder)
            return {"images": len(errors.y), "wrong": int(errors.wrong.sum())}

        self.stage(stages, name, work)
        return read_errors(stages / name)

    def predict_training_images(self, folder: Path, clustered: bool = False) -> Errors:
        """Return the given classifier's predictions for the training images, and save them in a folder.

        Args:
            clustered: Whether its features will be clustered; if so, it must have features.
        """
        from figureground.learn.classifier_errors import find_classifier_errors
        from figureground.learn.errors import save_errors
        from figureground.vision.classifiers import open_classifier

        classifier = open_classifier(self.config.classifier, device=self.device)
        if clustered:
            classifier.require_features()
        errors = find_classifier_errors(self.unlabelled, classifier, self.data.classes)
        save_errors(errors, self.data.classes, folder)
        return errors

    def open_classifier(self, errors: Errors, fold: int = 0) -> Classifier:
        """Open the classifier that made the errors of a fold."""
        from figureground.vision.classifiers import open_classifier

        name = str(errors.models[fold]) if errors.models else self.config.classifier
        return open_classifier(name, device=self.device)

    @cached_property
    def device(self) -> Any:
        from figureground.core.accelerator import choose_device

        return choose_device(self.config.device)

    # --- the card and the forecast --------------------------------------------------------------

    def denoiser_steps(self) -> int:
        return self.steps_on_guide()

    def sources(self) -> tuple[list[Source], list[Credit]]:
        title, store = "training images", self.train.store
        rows = sorted({self.rows[job.source] for jobs in (self._jobs or {}).values() for job in jobs})
        if not isinstance(store, FileStore):
            return [Source(title, self.data.name, len(rows))], []
        paths = [store.root / store.names[int(self.train.rows[row])] for row in rows]
        source, credits = read_source(title, store.root, paths, name=self.data.name)
        return [source], credits

    def plan_counts(self, plan: Plan) -> list[str]:
        data = self.data
        counts = plan.cells(TRAIN)
        lines = ["", f"made from the training split of {data.name}:"]
        lines += format_counts(data.counts(0), data.classes, data.attributes or ["images"])
        lines += [
            "",
            "planned images" + ("" if self._jobs else " (approximate until the sources are selected)") + ":",
        ]
        return [*lines, *format_counts(counts, plan.foregrounds, plan.backgrounds)]

    def list_left_out(self, noun: str) -> list[str]:
        """Return lines on the images left out for lack of a usable mask.

        Args:
            noun: Word for such an image, singular.
        """
        return [
            f"{name}: {plural(n, noun)} left out ({reason})"
            for name, reasons in self.stage_summary["dropped"].items()
            for reason, n in reasons.items()
        ]

    PACKAGES: ClassVar[tuple[str, ...]] = ()
    """Modules from extras that the method's stages need."""

    def refuse_absent(self) -> None:
        config = self.config
        if config.classifier != TRAIN:
            refuse_featureless("classifier", config.classifier)
            refuse_absent_classifier("classifier", config.classifier)
        else:
            backbone = self._choose_backbone()
            refuse_featureless("training.backbone", backbone)
            refuse_absent_classifier("training.backbone", backbone)
        for need in missing_packages(self.METHOD, self.PACKAGES):
            raise FiguregroundError(f"{need.field}: {need.what}: {need.command}")
        self._refuse_unreachable()

    def _refuse_unreachable(self) -> None:
        """Refuse models that have to be downloaded if the Hub can't be reached: some are opened only after training.

        Raises:
            FiguregroundError: Names all of them, with the commands that fetch them.
        """
        downloads = [need for need in self.needs() if (need.command or "").startswith("hf download")]
        if downloads and (reason := find_access_problem()):
            lines = [f"  {need.field}: {need.what}: {need.command}" for need in downloads]
            raise FiguregroundError(
                "\n".join([f"Models have to be downloaded, and {reason}.", *lines])
                + "\nRun these commands where there is a network, or give local directories."
            )

    def _choose_backbone(self) -> str:
        """Return the name of the backbone of a classifier that is trained here.

        Raises:
            RecipeError: None is given, and the images are too large for the pocket's.
        """
        edge = find_typical_edge(self.train)
        try:
            return choose_backbone(self.config.training_settings(), edge, "--set training.backbone=…,")
        except RecipeError as error:
            raise _rename_field(error) from None

    def needs(self) -> list[Need]:
        config = self.config
        needs = [*super().needs(), *missing_packages("METHOD", self.PACKAGES)]
        if config.classifier != TRAIN:
            return [*needs, *missing_classifier("classifier", config.classifier)]
        try:
            backbone = self._choose_backbone()
        except RecipeError as error:
            problem = error.message.partition(":")[0]
            return [*needs, Need(error.field, problem, "--set training.backbone=microsoft/resnet-50")]
        return [*needs, *missing_classifier("training.backbone", backbone, config.training_settings().revision)]

    def check_plan(self) -> None:
        self.check_settings()
        super().check_plan()

    def plan_notes(self) -> list[str]:
        notes = [f"prompts such as {self.prompt_of(0)!r}"]
        if self.config.classifier == TRAIN:
            training = self.config.training_settings()
            notes.append(f"a classifier is trained first, {plural(training.epochs, 'epoch')}")
        return notes


def open_mask(path: Path) -> Image.Image:
    """Open the mask that a stage saved, L.

    Raises:
        FiguregroundError: It is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return image.convert("L")
    except (OSError, SyntaxError, ValueError) as error:
        raise FiguregroundError(f"{path} can't be read ({error}). {advise_rerun(path.parent)}") from None


def _rename_field(error: RecipeError) -> RecipeError:
    """Return an error about the classifier's training with the field name of the recipe instead of `train`'s."""
    return error.within("training") if error.field in {each.name for each in dataclasses.fields(Training)} else error


def _separate_masks(
    regions: Mapping[int, np.ndarray | str], y: np.ndarray, classes: Sequence[str], advice: str
) -> tuple[dict[int, np.ndarray], dict[str, dict[str, int]]]:
    """Separate usable masks from the counts of images without one, by class and reason.

    Raises:
        FiguregroundError: Most images of a class have no usable mask.
    """
    masks = {row: region for row, region in regions.items() if not isinstance(region, str)}
    dropped: dict[str, Counter[str]] = {}
    total = Counter(int(y[row]) for row in regions)
    for row, region in regions.items():
        if isinstance(region, str):
            dropped.setdefault(classes[int(y[row])], Counter())[region] += 1
    for name, reasons in dropped.items():
        count = total[list(classes).index(name)]
        if reasons.total() > MAX_DROPPED * count:
            summary = join_names(f"{n:,} × {reason}" for reason, n in reasons.items())
            raise FiguregroundError(
                f"{MASKS}: {reasons.total():,} of {plural(count, 'image')} of {name!r} have no usable mask "
                f"({summary}). {advice}"
            )
    return masks, {name: dict(reasons) for name, reasons in dropped.items()}
