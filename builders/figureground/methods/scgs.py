"""SCGS: clusters the errors of ERM and repaints the regions that misled it (Li et al. 2024, arXiv 2412.19457).

In a biased training set, an ERM classifier errs on images that go against the bias. Clusters of its errors show which
images it confuses; Grad-CAM++ of the wrong prediction shows the region that misled it. A diffusion model repaints
that region, or everything else, and keeps the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from figureground.core import signals
from figureground.core.batches import batched
from figureground.core.errors import RecipeError, join_names, plural
from figureground.core.names import unique_slugs
from figureground.core.progress import Progress, is_main_process
from figureground.core.text import code, markdown
from figureground.methods import citations
from figureground.methods.panels import scgs as scgs_panels
from figureground.methods.panels.maps import ATTENTION_MAPS, row_name, save_map
from figureground.methods.panels.panel import Panel
from figureground.methods.panels.repaint import MASKS
from figureground.methods.repaint import GROUND_TRUTH_MASKS, UNKNOWN, Repaint, RepaintPlan
from figureground.methods.repaint_settings import ON_PHOTOGRAPHS, ON_POCKET, TRAIN, RepaintConfig
from figureground.recipe import document as recipes
from figureground.recipe.classes import read_nouns
from figureground.recipe.sample import derive_seed
from figureground.recipe.settings import Names, Share, settings
from figureground.recipe.table import Counts
from figureground.shards.home import home_of
from figureground.shards.shard import STAGES
from figureground.shards.stages import find_dataset

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from figureground.learn.errors import Errors

POCKET = "pocket"
ERRORS, FOLD = "errors", "errors-fold-"
"""Stages: the errors of all training images, and, with its number, the classifier of a fold."""
CROSS_FITTED, EARLY_STOPPED = "cross-fitted", "early-stopped"
ATTENTION, RANDOM, WHOLE = "attention", "random", "whole"
KNEE = "knee"
ATTENDED, COMPLEMENT = "attended", "complement"
MIN_SHARE, MAX_SHARE = 0.01, 0.98
"""Smallest and largest share of an image that a repainted region may have; beyond, it covers nothing or everything."""
BOX = (0.3, 0.7)
"""Smallest and largest edge of a random box, as shares of the image's edge."""
PLAIN = "plain"
"""The scene that adds nothing to the prompt."""
SHOWN = 12
"""Images shown per cluster on a sheet."""


Images = Annotated[int, Field(ge=0, le=10**9)]


@settings()
class SCGSConfig(RepaintConfig):
    """Settings of an SCGS recipe, which repaints the regions that mislead a classifier."""

    errors: Literal["cross-fitted", "early-stopped"] = "cross-fitted"
    """Predictions that count as errors, for a classifier trained here: `cross-fitted`, on images held out from its
    training, or `early-stopped`, by a classifier stopped before it fits everything (as in JTT)."""
    folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Cross-fitted errors: number of folds of the training split, each predicted by a classifier trained on the
    others."""
    first_epochs: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Early-stopped errors: epochs after which the classifier is stopped."""
    clustering: Literal["k-means", "gaussian-mixture"] = "k-means"
    """Clustering algorithm: k-means or gaussian-mixture."""
    clusters: Annotated[int, Field(ge=1, le=100)] | None = None
    """Clusters per class, at most one per error; none chooses by silhouette."""
    most_clusters: Annotated[int, Field(ge=2, le=100)] = 6
    """Largest number of clusters tried when the silhouette chooses."""
    mask: Literal["attention", "random", "whole", "true-masks"] = "attention"
    """Region that counts as attended: `attention` (Grad-CAM++ of the wrong prediction), or, for comparison, a `random`
    box, the `whole` image, or everything outside the data's own mask of the object (`true-masks`)."""
    threshold: Literal["quantile", "knee"] = "quantile"
    """Threshold that cuts the region out of the attention map: a `quantile`, or the `knee` of the classifier's loss as
    more of the map is hidden."""
    quantile: Share = 0.7
    """Quantile of the attention map above which pixels belong to the region, 0 to below 1; used by the threshold
    `quantile`."""
    repaint: Literal["attended", "complement"] = "attended"
    """Repainted part: `attended`, the region itself, or `complement`, everything else."""
    backgrounds: Annotated[str | list[str] | dict[str, str | None] | None, Names("file")] = None
    """Scenes in which prompts place the class, in turn: a file in `prompts/backgrounds/`, a CSV `name,phrase`, a
    list of names from the file `pocket`, or a mapping of names to phrases; none leaves scenes out."""
    per_class: Images | dict[str, Images] = 500
    """Images of each class, divided evenly among its clusters: one number, or one per class. A class without errors
    gets none."""

    def check(self) -> None:
        super().check()
        epochs = self.training_settings().epochs
        if self.errors == EARLY_STOPPED and self.first_epochs > epochs:
            raise RecipeError("first_epochs", f"{self.first_epochs} is more than training.epochs, which is {epochs}.")
        if self.quantile == 1:
            raise RecipeError("quantile", "1 leaves no region to repaint; give a smaller quantile, such as 0.7.")
        if not any(self.per_class.values() if isinstance(self.per_class, dict) else [self.per_class]):
            raise RecipeError("per_class", f"{self.per_class!r} plans no image.")
        if self.mask == WHOLE and self.repaint == COMPLEMENT:
            raise RecipeError("repaint", "the complement of the whole image is empty.")


class SCGS(Repaint):
    """Build images from a classifier's errors: `SCGS("pocket", data="birds").build("out/scgs")`.

    SCGS (Li et al. 2024, arXiv 2412.19457) clusters the training images that an ERM classifier gets wrong, and
    repaints the region that misled it, found by Grad-CAM++. The class is kept. The setting `data` is required.
    `figureground settings scgs` lists the settings, fields of `SCGSConfig`.
    """

    METHOD = "scgs"
    PACKAGES = ("sklearn",)
    CONFIGS: ClassVar[dict[str, SCGSConfig]] = {
        POCKET: SCGSConfig(**ON_POCKET, per_class=150, folds=3, training={"epochs": 3}, backgrounds=POCKET),
        "photographs": SCGSConfig(**ON_PHOTOGRAPHS),
    }
    DEFAULT = POCKET
    TITLE = "Images in which what misled a classifier is repainted"
    STARTER = (
        "data", "per_class", "backgrounds", "nouns", "prompt", "classifier", "training", "errors", "mask", "strength",
        *Repaint.STARTER,
    )  # fmt: skip
    CITATIONS = (citations.SCGS, citations.GRAD_CAM_PLUS_PLUS, citations.LATENT_DIFFUSION)
    config: SCGSConfig

    def load_inputs(self) -> None:
        super().load_inputs()
        value = self.config.backgrounds
        self.prompt_backgrounds = [] if value is None else read_nouns("backgrounds", value, "backgrounds", POCKET)
        if self.groups is not None and isinstance(self.config.per_class, Mapping):
            recipes.check_names(self.config.per_class, self.groups.classes, "per_class")

    def backgrounds(self) -> Sequence[str]:
        return [UNKNOWN]

    def estimate_counts(self) -> Counts:
        per_class = self.config.per_class
        counts = per_class if isinstance(per_class, Mapping) else dict.fromkeys(self.data.classes, per_class)
        return np.array([int(counts.get(name, 0)) for name in self.data.classes], np.int64)

    def check_settings(self) -> None:
        super().check_settings()
        if self.config.mask == GROUND_TRUTH_MASKS:
            self.require_true_masks("mask")

    def content_hashes(self) -> dict[str, Any]:
        counts = dict(zip(self.groups.classes, self.estimate_counts().tolist(), strict=True)) if self.groups else None
        scenes = [[background.name, background.text] for background in self.prompt_backgrounds]
        return {**super().content_hashes(), "per_class": counts, "backgrounds": scenes or None}

    def spec_prompt(self, job: RepaintPlan) -> str:
        plain = super().spec_prompt(job)
        texts = {background.name: background.text for background in self.prompt_backgrounds}
        text = texts.get(job.provenance.get("scene", PLAIN), "")
        return plain if job.provenance.get("scene", PLAIN) == PLAIN else f"{plain} {text}"

    # --- stages ---------------------------------------------------------------------------------

    def collect_jobs(self, stages: Path) -> tuple[list[RepaintPlan], dict[str, str], dict[str, Any]]:
        errors = self._get_errors(stages)
        clusters = self._cluster_errors(stages, errors)
        members = {f: self._select_members(f, class_clusters) for f, class_clusters in clusters.items()}
        rows = sorted({row for class_clusters in members.values() for part in class_clusters for row in part})
        masks, dropped = self.find_masks(
            stages,
            lambda: self._find_regions(errors, rows, stages / MASKS / ATTENTION_MAPS),
            "Choose another --set quantile=…, threshold=knee, or mask.",
        )
        jobs = []
        for f, count in enumerate(self.estimate_counts().tolist()):
            usable = [[row for row in part if row in masks] for part in members.get(f, [])]
            usable = [part for part in usable if part]
            for i in range(count if usable else 0):
                part = usable[i % len(usable)]
                round_number, position = divmod(i // len(usable), len(part))
                row = part[position]
                cluster = next(c for c, rows in enumerate(members[f]) if row in rows)
                predicted = self.data.classes[int(errors.predicted[row])]
                details = {
                    "cluster": cluster,
                    "predicted": predicted,
                    "mask": self.config.mask,
                    "repaint": self.config.repaint,
                }
                if self.prompt_backgrounds:  # shifted by one scene per round, so that every source gets all scenes
                    details["scene"] = self.prompt_backgrounds[
                        (position + round_number) % len(self.prompt_backgrounds)
                    ].name
                jobs.append(RepaintPlan(f, 0, self.train.keys[row], details))
        used_sources = {job.source for job in jobs}
        wrong = errors.wrong
        summary = {
            "errors": {name: int((wrong & (errors.y == f)).sum()) for f, name in enumerate(self.data.classes)},
            "clusters": {self.data.classes[f]: [len(part) for part in parts] for f, parts in members.items()},
            "dropped": dropped, "error_set": self._describe_errors(wrong),
        }  # fmt: skip
        return (
            jobs,
            {self.train.keys[row]: name for row, name in masks.items() if self.train.keys[row] in used_sources},
            summary,
        )

    def _describe_errors(self, wrong: np.ndarray) -> dict[str, Any]:
        """Return the error set's size and, if attributes are known, its precision and recall for minority groups."""
        from figureground.learn.jtt import summarise_errors

        train, counts = self.train, self.data.counts(0)
        group = None if train.a is None else counts.shape[1] * train.y + train.a
        return summarise_errors(wrong, np.zeros(len(wrong), bool), group, counts)

    def planning_parts(self, stages: Path) -> list[str]:
        """Return the folds whose classifier isn't trained yet."""
        config = self.config
        if config.classifier != TRAIN or config.errors != CROSS_FITTED or self.is_done(stages, ERRORS):
            return []
        return [name for i in range(config.folds) if not self.is_done(stages, name := f"{FOLD}{i}")]

    def make_planning_part(self, stages: Path, name: str, device: torch.device) -> None:
        """Train the classifier of a fold."""
        from figureground.learn.find_errors import fit_fold

        config, number = self.config, int(name.removeprefix(FOLD))
        self.print_progress(f"errors of {self.data.name}: fold {number + 1} of {config.folds}")
        fit_fold(
            self.unlabelled, config.training_settings(), config.folds, config.seed, stages / name, number,
            device=str(device), show_progress=self.show_progress and is_main_process(),
        )  # fmt: skip
        with home_of(find_dataset(stages)).settling():
            self.stage(stages, name, lambda folder: {})

    def _get_errors(self, stages: Path) -> Errors:
        from figureground.learn.find_errors import cross_fit, fit_early_stopped, import_fold

        config = self.config

        def predict(folder: Path) -> Errors:
            is_given = config.classifier != TRAIN
            self.print_progress(f"errors of {self.data.name}: {config.classifier if is_given else config.errors}")
            if is_given:
                return self.predict_training_images(folder, clustered=True)
            for number in range(config.folds):
                if self.is_done(stages, f"{FOLD}{number}"):
                    import_fold(stages / f"{FOLD}{number}", folder, number)
            find, n = (
                (cross_fit, config.folds) if config.errors == CROSS_FITTED else (fit_early_stopped, config.first_epochs)
            )
            return find(
                self.unlabelled, config.training_settings(), n, config.seed, folder, device=config.device,
                show_progress=self.show_progress,
            )  # fmt: skip

        return self.find_errors(stages, ERRORS, predict)

    def _cluster_errors(self, stages: Path, errors: Errors) -> dict[int, list[list[int]]]:
        """Return, by class, the rows of the errors in each cluster, sorted by distance from its centre."""
        config, data = self.config, self.data

        def work(folder: Path) -> dict[str, Any]:
            from figureground.learn.clusters import cluster_errors, compute_held_out_features

            features = compute_held_out_features(
                errors, np.flatnonzero(errors.wrong), self.train, lambda fold: self.open_classifier(errors, fold),
                show_progress=self.show_progress,
            )  # fmt: skip
            results = cluster_errors(
                errors, features, data.classes, method=config.clustering, k=config.clusters, most=config.most_clusters,
                seed=derive_seed(config.seed, "clusters"),
            )  # fmt: skip
            facts = {}
            for result in results:
                if (clusters := result.clusters) is not None:
                    parts = [result.rows[clusters.members(c)].tolist() for c in range(clusters.k)]
                    silhouettes = {str(k): value for k, value in clusters.silhouettes.items()}
                    facts[str(result.y)] = {"rows": parts, "silhouettes": silhouettes}
                    self._draw_sheet(folder, result.y, parts, errors)
            return facts

        facts = self.stage(stages, "clusters", work)
        return {int(f): result["rows"] for f, result in facts.items()}

    def _draw_sheet(self, folder: Path, label: int, clusters: Sequence[Sequence[int]], errors: Errors) -> None:
        from figureground.learn.sheets import save_cluster_sheet

        name = self.data.classes[label]
        rows: list[tuple[str, Sequence[Image.Image]]] = []
        for c, part in enumerate(clusters):
            counts = np.bincount(errors.predicted[list(part)], minlength=len(self.data.classes))
            texts = [f"{self.data.classes[k]} {counts[k]}" for k in np.argsort(-counts, kind="stable") if counts[k]]
            images = [self.image(row) for row in part[:SHOWN]]
            rows.append((f"cluster {c}: {plural(len(part), 'image')}, called {join_names(texts, 3)}", images))
        save_cluster_sheet(folder / f"{unique_slugs(self.data.classes)[name]}.png", f"errors of the class {name}", rows)

    def _select_members(self, label: int, clusters: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the members of a class's clusters that are repainted: at most as many as images to make."""
        limit = -(-int(self.estimate_counts()[label]) // len(clusters))
        return [list(part[:limit]) for part in clusters]

    def _find_regions(self, errors: Errors, rows: Sequence[int], maps: Path) -> dict[int, np.ndarray | str]:
        """Return each image's repainted region, bool (h, w), or the reason why it has none.

        Args:
            maps: Folder in which attention maps are kept for the report.
        """
        config = self.config
        if config.mask == ATTENTION:
            masks = self._find_attended_regions(errors, rows, maps)
        elif config.mask == GROUND_TRUTH_MASKS:
            masks = {row: ~self.true_mask(row) for row in rows}
        elif config.mask == RANDOM:
            masks = {row: self._draw_random_box(row) for row in rows}
        else:
            masks = {row: np.ones(self.image(row).size[::-1], bool) for row in rows}
        return {
            row: self._mask_or_reason(~mask if config.repaint == COMPLEMENT else mask) for row, mask in masks.items()
        }

    def _mask_or_reason(self, mask: np.ndarray) -> np.ndarray | str:
        share = float(mask.mean())
        if share < MIN_SHARE:
            return "covers nothing"
        return "covers everything" if share > MAX_SHARE and self.config.mask != WHOLE else mask

    def _find_attended_regions(self, errors: Errors, rows: Sequence[int], maps: Path) -> dict[int, np.ndarray]:
        from figureground.learn.classifier_errors import match_classes
        from figureground.vision.attention import compute_attention, mask_by_knee, mask_by_quantile

        config, masks = self.config, {}
        with Progress.stoppable(len(rows), desc="attention", unit="image", show=self.show_progress) as bar:
            for fold in np.unique(errors.fold[list(rows)]).tolist():
                classifier = self.open_classifier(errors, fold)
                positions = match_classes(classifier, self.data.classes)
                fold_rows = [row for row in rows if errors.fold[row] == fold]
                for part in batched(fold_rows, 32):
                    signals.check()
                    images = [self.image(row) for row in part]
                    targets = [positions[int(errors.predicted[row])] for row in part]
                    for row, image, target, attention in zip(
                        part, images, targets, compute_attention(classifier, images, targets), strict=True
                    ):
                        if config.threshold == KNEE:
                            masks[row] = mask_by_knee(classifier, image, target, attention)[0]
                        else:
                            masks[row] = mask_by_quantile(attention, config.quantile)
                        save_map(maps, row_name(row), attention)
                        bar.update()
        return masks

    def _draw_random_box(self, row: int) -> np.ndarray:
        width, height = self.image(row).size
        rng = np.random.default_rng(derive_seed(self.config.seed, "box", self.train.keys[row]))
        across, down = rng.uniform(*BOX), rng.uniform(*BOX)
        left, top = rng.uniform(0, 1 - across) * width, rng.uniform(0, 1 - down) * height
        mask = np.zeros((height, width), bool)
        mask[int(top) : int(top + down * height) + 1, int(left) : int(left + across * width) + 1] = True
        return mask

    # --- the report -------------------------------------------------------------------------------

    def panels(self, directory: Path, provenance: Mapping[str, Any]) -> list[Panel]:
        return scgs_panels.sample_panels(self, directory, provenance)

    def overview(self, directory: Path) -> list[Panel]:
        return scgs_panels.overview(self, directory)

    # --- the card and the forecast --------------------------------------------------------------

    def describe_empty_plan(self, summary: Mapping[str, Any]) -> str:
        requested = [name for name, n in zip(self.data.classes, self.estimate_counts().tolist(), strict=True) if n]
        return (
            f"{super().describe_empty_plan(summary)} No training image of {join_names(requested)} is predicted wrong, "
            "and per_class names no other class."
        )

    def prompts(self) -> set[str]:
        plain = super().prompts()
        texts = [background.text for background in self.prompt_backgrounds if background.name != PLAIN]
        return plain | {f"{prompt} {text}" for prompt in plain for text in texts}

    def summary(self) -> str:
        config, data = self.config, markdown(self.data.name)
        stage_summary = getattr(self, "stage_summary", {})
        wrong = ", ".join(f"{n:,} of {markdown(name)}" for name, n in stage_summary.get("errors", {}).items())
        region = {
            ATTENTION: "the region that Grad-CAM++ shows for the wrong prediction", RANDOM: "a random box",
            WHOLE: "the whole image", GROUND_TRUTH_MASKS: "all but the true mask of the object",
        }[config.mask]  # fmt: skip
        part = region if config.repaint == ATTENDED else f"all but {region}"
        errors = (
            f"{config.errors} errors of an ERM classifier" if config.classifier == TRAIN else "a classifier's errors"
        )
        scenes = f", in {plural(len(self.prompt_backgrounds), 'scene')} in turn" if self.prompt_backgrounds else ""
        return (
            f"Images made from the training split of {data}, to break spurious correlations with its "
            f"classes. Sources are {errors}{f' ({wrong})' if wrong else ''}, clustered by class; of each, {part} was "
            f"repainted with the prompt {code(self.prompt_of(0))}, or that of its class{scenes}. `foreground` is the "
            "class of the source, which is kept. `background` is unknown, because the scene may be repainted. "
            "`source` is the training image's name."
        )

    def done_message(self, out: Path) -> str:
        lines = [super().done_message(out)]
        without_errors = [name for name, n in self.stage_summary["errors"].items() if not n]
        if without_errors:
            lines.append(f"No images of {join_names(without_errors)}, as none has errors.")
        lines += describe_error_set(self.stage_summary["error_set"])
        sheets = f"{out}/{STAGES}/clusters holds a sheet of each class's errors."
        return "\n".join([*lines, *self.list_left_out("image"), sheets])


def describe_error_set(summary: Mapping[str, Any]) -> list[str]:
    """Return a line with the error set's precision and recall for the minority groups, if attributes are known.

    Args:
        summary: Result of `learn.jtt.summarise_errors`.
    """
    if summary.get("precision") is None or summary.get("recall") is None:
        return []
    return [
        f"The error set has {plural(summary['errors'], 'image')}: precision {summary['precision']:.1%}, recall "
        f"{summary['recall']:.1%} for the groups against the bias. Attributes served only to measure this."
    ]
