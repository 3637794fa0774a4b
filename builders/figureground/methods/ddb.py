"""DDB, Diffusion Driven Balancing: paints other classes' objects into scenes (Parast et al. 2025).

arXiv 2503.17226; not to be confused with *Diffusing DeBias*. The images with the lowest loss of an ERM classifier
carry the bias most. In each of them, a segmenter finds the object from a phrase, and it is repainted as another
class's object. The prompt uses a word for that class, learned from the training set by textual inversion. The scene
stays, and the image gets the other class's label. Scores from ERM and Integrated Gradients decide which images to keep.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from figureground.core.batches import batched
from figureground.core.errors import FiguregroundError, RecipeError, plural
from figureground.core.files import replace_text
from figureground.core.names import unique_slugs
from figureground.core.progress import Progress, is_main_process
from figureground.core.text import code, markdown
from figureground.core.values import FieldsOf
from figureground.finetune.inversion_settings import Inversion, settings_for
from figureground.methods import citations
from figureground.methods.panels import ddb as ddb_panels
from figureground.methods.panels.maps import ATTRIBUTION_MAPS, save_map
from figureground.methods.panels.panel import Panel
from figureground.methods.panels.repaint import MASKS
from figureground.methods.repaint import GROUND_TRUTH_MASKS, UNKNOWN, Repaint, RepaintPlan, open_mask
from figureground.methods.repaint_settings import ON_PHOTOGRAPHS, ON_POCKET, TRAIN, RepaintConfig
from figureground.models.need import Need
from figureground.models.needs import missing_segmenter, refuse_absent_segmenter
from figureground.models.segmenter_files import find_kind, format_public_name, identify_models
from figureground.models.weights import fingerprint_files
from figureground.recipe import document as recipes
from figureground.recipe.sample import Spec
from figureground.recipe.settings import EXECUTION, Names, Share, Text, execution_names, settings
from figureground.recipe.table import Counts
from figureground.running import directory
from figureground.shards.claims import remove_locks
from figureground.shards.home import home_of
from figureground.shards.shard import PRIVATE, SCORES
from figureground.shards.stages import advise_rerun, find_dataset, read_marker
from figureground.sources.references import MIN_REFERENCES

if TYPE_CHECKING:
    import torch

    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.learn.errors import Errors

POCKET = "pocket"
SCORE = "ddb"
"""Name of the scores file that pruning reads."""
SOURCES, TOKENS = "sources", "tokens"
"""Stages: the images that are repainted, and, with the number of a class, its word."""
EMBEDDINGS = "learned_embeds.safetensors"
GIVEN_ELSEWHERE = ("checkpoint", "revision", "size", "seed")
"""Settings of textual inversion that are fields of the recipe itself."""
SCORE_COLUMNS = ("key", "probability", "attribution", "area", "attribution_ratio", "predicted")
"""Columns of the scores file: `probability` of the painted class, 0 to 1; `attribution`, the share of Integrated
Gradients inside the region of the source's object; `area`, the region's share of the image; `attribution_ratio`,
attribution divided by area; `predicted`, the predicted class."""
SCORE_BATCH = 64
"""Images scored per batch."""


AtLeastThree = Annotated[int, Field(ge=3, le=10**9)]
Ratio = Annotated[float, Field(ge=0)]


@settings()
class DDBConfig(RepaintConfig):
    """Settings of a DDB recipe, which paints other classes' objects into scenes."""

    prompt: Text = "a photo of a {V}"
    """Prompt for the repainted object: `{V}` is the word learned for the class, `{noun}` the class's noun."""
    sources: AtLeastThree = 100
    """k: source images per class whose object is repainted, those of the lowest loss."""
    per_source: Annotated[int, Field(ge=1, le=10**9)] = 2
    """Images made from each source, with the other classes' objects in turn."""
    segmenter: Annotated[Text, Names("file")] = "CIDAS/clipseg-rd64-refined"
    """Model that finds the object: `pocket`, a CLIPSeg directory or Hub id, `grounding-dino:ID+sam:ID`, `onnx:FILE`, or
    `true-masks` for the data's own masks."""
    phrases: dict[str, Text] = field(default_factory=dict)
    """Phrases for the segmenter by class; the class's noun if none."""
    mask_threshold: Share = 0.5
    """Lowest probability, 0 to 1, at which a pixel belongs to the object."""
    mask_dilation: Share = 0.03
    """Width by which the object's region is dilated, so that no rim of it stays; a share of the image's longer edge,
    0 to 1."""
    token_images: AtLeastThree = 30
    """Source images per class from which its word is learned, at most; 20 to 40 in the paper."""
    inversion: Annotated[dict[str, Any], FieldsOf(Inversion, GIVEN_ELSEWHERE), Names("file")] = field(
        default_factory=dict
    )
    """Settings of textual inversion that differ from the checkpoint's defaults, such as `{max_train_steps: 1000}`. A
    word is learned from the object's region alone, so that it doesn't include the scene, unless `{masked: false}` is
    set."""
    attribution_steps: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Steps of Integrated Gradients."""
    min_probability: Annotated[Share | dict[str, Share], EXECUTION] = 0.1
    """Pruning: lowest probability of the painted class by the classifier, 0 to 1; one number, or one per class."""
    min_attribution_ratio: Annotated[Ratio | dict[str, Ratio], EXECUTION] = 1.0
    """Pruning: lowest ratio of the share of attribution inside the object's region to the region's share of the
    image; one number, or one per class. Evenly spread attribution has a ratio of 1, whatever the region's size."""

    PLACES: ClassVar[tuple[str, ...]] = ("{V}", "{noun}")

    def check(self) -> None:
        super().check()
        for name, phrase in self.phrases.items():
            if not phrase.strip(" ."):
                raise RecipeError(
                    f"phrases.{name}", f"{phrase!r} names nothing to look for. Give the name of an object."
                )
        self.inversion_settings()

    def inversion_settings(self) -> Inversion:
        """Return the settings for learning words.

        Raises:
            RecipeError: A value is invalid.
        """
        for name in self.inversion:
            if name in GIVEN_ELSEWHERE:
                raise RecipeError(f"inversion.{name}", f"{name} is a setting of the recipe itself: --set {name}=….")
        changes = dict(self.inversion)
        changes.setdefault("masked", True)
        try:
            return settings_for(self.checkpoint, revision=self.revision, size=self.size, seed=self.seed, **changes)
        except RecipeError as error:
            raise error.within("inversion") from None
        except TypeError as error:
            raise RecipeError("inversion", f"{dict(self.inversion)!r} can't be used: {error}.") from None


class DDB(Repaint):
    """Build images with other classes' objects in their scenes: `DDB("pocket", data="birds").build("out/ddb")`.

    Diffusion Driven Balancing (Parast et al. 2025, arXiv 2503.17226) repaints the object in each class's easiest
    training images as another class's, and keeps the scene. The new image has the other class's label. The setting
    `data` is required. `figureground settings ddb` lists the settings, fields of `DDBConfig`.
    """

    METHOD = "ddb"
    SCORES = True
    CONFIGS: ClassVar[dict[str, DDBConfig]] = {
        POCKET: DDBConfig(**ON_POCKET, segmenter=POCKET, sources=75, training={"epochs": 10}, mask_dilation=0.1),
        "photographs": DDBConfig(**ON_PHOTOGRAPHS),
    }
    DEFAULT = POCKET
    TITLE = "Other classes' objects in the scenes of a training set"
    STARTER = (
        "data", "sources", "per_source", "nouns", "prompt", "segmenter", "phrases", "mask_dilation", "classifier",
        "training", "min_probability", "min_attribution_ratio", *Repaint.STARTER,
    )  # fmt: skip
    CITATIONS = (citations.DDB, citations.TEXTUAL_INVERSION, citations.LATENT_DIFFUSION)
    config: DDBConfig

    def load_inputs(self) -> None:
        super().load_inputs()
        self.inversion = self.config.inversion_settings()
        if self.groups is None:
            return
        for name in ("phrases", "min_probability", "min_attribution_ratio"):
            value = getattr(self.config, name)
            if isinstance(value, Mapping):
                recipes.check_names(value, self.groups.classes, name)

    def backgrounds(self) -> Sequence[str]:
        return list(self.data.attributes) if self.data.attributes is not None else [UNKNOWN]

    def estimate_counts(self) -> Counts:
        classes = np.unique(self.train.y)
        table = np.zeros(len(self.data.classes), np.int64)
        for label in classes.tolist():
            for target in self._choose_targets(label, self.config.sources):
                table[target] += 1
        return table

    def _choose_targets(self, label: int, sources: int) -> list[int]:
        """Return the target classes of a class's sources: the other classes in turn, shifted by one in each round."""
        others = [f for f in np.unique(self.train.y).tolist() if f != label]
        return [others[(i % sources + i // sources) % len(others)] for i in range(sources * self.config.per_source)]

    def check_settings(self) -> None:
        super().check_settings()
        labels_by_prompt: dict[str, int] = {}
        uses_words = "{V}" in self.config.prompt
        for label in np.unique(self.train.y).tolist():
            name, noun, prompt = self.data.classes[label], self.noun(label), self.prompt_of(label)
            if uses_words and (noun != " ".join(noun.split()) or set(noun) & set("{}<>")):
                raise RecipeError(f"nouns.{name}", f"{noun!r} is not one or a few words. Give a noun for prompts.")
            if (other := labels_by_prompt.setdefault(prompt.casefold(), label)) != label:
                raise RecipeError(
                    "prompt", f"{prompt!r} would be used for both {self.data.classes[other]!r} and {name!r}. "
                    "Put {V} or {noun} in it, and give classes different nouns."
                )  # fmt: skip
        if self.config.segmenter == GROUND_TRUTH_MASKS:
            self.require_true_masks("segmenter")

    def content_hashes(self) -> dict[str, Any]:
        config = self.config
        inversion = {
            n: v
            for n, v in self.inversion.to_json().items()
            if n not in (*GIVEN_ELSEWHERE, *execution_names(Inversion))
        }
        return {
            **super().content_hashes(), "inversion": inversion,
            "phrases": None if self.groups is None else [self.phrase(f) for f in range(len(self.data.classes))],
            "segmenter": (
                config.segmenter if config.segmenter == GROUND_TRUTH_MASKS else identify_models(config.segmenter)
            ),
        }  # fmt: skip

    def prompts(self) -> set[str]:
        """Return the prompts, with as many one-letter words as a class's word has vectors."""
        word = " ".join(["x"] * self.inversion.vectors)
        return {self.prompt_of(label, word) for label in np.unique(self.train.y).tolist()}

    def phrase(self, label: int) -> str:
        """Return the segmenter's phrase for a class."""
        return self.config.phrases.get(self.data.classes[label], self.noun(label))

    def word(self, label: int) -> str:
        """Return the word of a class; unique among the classes."""
        return self._words[label]

    @cached_property
    def _words(self) -> list[str]:
        unique = unique_slugs(self.data.classes)
        return [f"<{unique[name].replace('_', '-')}>" for name in self.data.classes]

    def prompt_of(self, label: int, token: str = "") -> str:
        return super().prompt_of(label, token or self.word(label))

    # --- stages ---------------------------------------------------------------------------------

    def collect_jobs(self, stages: Path) -> tuple[list[RepaintPlan], dict[str, str], dict[str, Any]]:
        train = self.train
        if read_marker(stages / MASKS) is None:
            self._try_segmenter()
        sources = self._choose_sources(stages)
        masks, dropped = self.find_masks(
            stages, lambda: self._find_regions(sources),
            "Give another segmenter, --set segmenter=…, another phrase, --set phrases.CLASS='…', or a mask_threshold.",
        )  # fmt: skip
        if self.trains_checkpoint:
            self._refuse_too_few(sources, masks)
        jobs = []
        for label, rows in sources.items():
            usable = [row for row in rows if row in masks]
            for i, target in enumerate(self._choose_targets(label, len(usable))):
                row = usable[i % len(usable)]
                background = 0 if train.a is None else int(train.a[row])
                jobs.append(RepaintPlan(target, background, train.keys[row]))
        summary = {"sources": {self.data.classes[f]: len(rows) for f, rows in sources.items()}, "dropped": dropped}
        return jobs, {train.keys[row]: name for row, name in masks.items()}, summary

    @staticmethod
    def _embeddings_path(stages: Path, label: int) -> Path:
        """Return the path of a class's embeddings."""
        return stages / f"{TOKENS}-{label}" / "learned" / EMBEDDINGS

    def _try_segmenter(self) -> None:
        """Check before any training that the segmenter opens and accepts all phrases."""
        if self.config.segmenter == GROUND_TRUTH_MASKS:
            return
        from PIL import Image

        from figureground.vision.segmentation import open_segmenter

        phrases = [self.phrase(label) for label in np.unique(self.train.y).tolist()]
        segmenter = open_segmenter(self.config.segmenter)
        segmenter([Image.new("RGB", (64, 64), "gray")] * len(phrases), phrases)

    def _get_errors(self, stages: Path) -> Errors:
        from figureground.learn.find_errors import fit_early_stopped

        config = self.config

        def predict(folder: Path) -> Errors:
            if config.classifier != TRAIN:
                return self.predict_training_images(folder)
            training = config.training_settings()
            self.print_progress(f"ERM on {self.data.name}, {plural(training.epochs, 'epoch')}")
            return fit_early_stopped(
                self.unlabelled, training, training.epochs, config.seed, folder, device=config.device,
                show_progress=self.show_progress,
            )  # fmt: skip

        return self.find_errors(stages, "classifier", predict)

    def _choose_sources(self, stages: Path) -> dict[int, list[int]]:
        """Return the rows of the images with the lowest loss, by class."""
        errors = self._get_errors(stages)

        def work(folder: Path) -> dict[str, Any]:
            from figureground.learn.errors import find_lowest_loss

            rows_by_class = {}
            for label in np.unique(errors.y).tolist():
                rows = find_lowest_loss(errors, label, self.config.sources).tolist()
                if not rows:
                    advice = (
                        "Train it longer: --set training.epochs=…."
                        if self.config.classifier == TRAIN
                        else "Give a better one, or train one on the data: --classifier train."
                    )
                    raise FiguregroundError(
                        f"the classifier gets no image of {self.data.classes[label]!r} right, so none can be chosen "
                        f"by its loss. {advice}"
                    )
                rows_by_class[str(label)] = rows
            return {
                "rows": rows_by_class,
                "losses": {f: errors.loss[rows].tolist() for f, rows in rows_by_class.items()},
            }

        return {int(label): rows for label, rows in self.stage(stages, SOURCES, work)["rows"].items()}

    def _find_regions(self, sources: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray | str]:
        """Return the object's region in each source, bool, or the reason why it has none."""
        from figureground.vision.segmentation import decide_mask, open_segmenter

        config = self.config
        segmenter = (
            None if config.segmenter == GROUND_TRUTH_MASKS else open_segmenter(config.segmenter, device=self.device)
        )
        regions: dict[int, np.ndarray | str] = {}
        total = sum(map(len, sources.values()))
        with Progress.stoppable(total, desc="masks", unit="image", show=self.show_progress) as bar:
            for label, rows in sources.items():
                for batch in bar.track(batched(rows, 16), len):
                    if segmenter is None:
                        probabilities = [self.true_mask(row).astype(np.float32) for row in batch]
                    else:
                        probabilities = segmenter([self.image(row) for row in batch], [self.phrase(label)] * len(batch))
                    for row, probability in zip(batch, probabilities, strict=True):
                        grow = round(config.mask_dilation * max(probability.shape))
                        regions[row] = decide_mask(probability, config.mask_threshold, grow=grow)
        return regions

    @property
    def trains_checkpoint(self) -> bool:
        """Whether words are learned: the prompt asks for them."""
        return "{V}" in self.config.prompt

    def training(self) -> tuple[str, dict[str, Any]]:
        return "inversion", self.inversion.to_json()

    def _refuse_too_few(self, sources: Mapping[int, Sequence[int]], masks: Mapping[int, str]) -> None:
        """Check all classes before the first word is learned.

        Raises:
            FiguregroundError: A class has too few images for a word.
        """
        for label, rows in sources.items():
            usable = self._select_distinct([row for row in rows if row in masks])
            if len(usable) < MIN_REFERENCES:
                name, count = self.data.classes[label], plural(len(rows), "source")
                raise FiguregroundError(
                    f"{name!r} has {count} that the classifier gets right, of which {len(usable)} differ and have a "
                    f"mask; a word needs {MIN_REFERENCES} or more. Raise --set sources=…, use a better classifier, "
                    "or use no words: --set 'prompt=a photo of a {noun}'."
                )

    def parts(self, stages: Path) -> list[str]:
        """Return the stages of the words that aren't learned yet, one a class."""
        if not self.trains_checkpoint:
            return []
        names = [f"{TOKENS}-{label}" for label in np.unique(self.train.y).tolist()]
        return [name for name in names if not self.is_done(stages, name)]

    def make_part(self, stages: Path, name: str, checkpoint: Checkpoint, device: torch.device) -> None:
        """Learn the word of a class from its sources."""
        facts = self._learn_word(stages, int(name.rpartition("-")[2]), stages / name, device)
        with home_of(find_dataset(stages)).settling():
            self.stage(stages, name, lambda folder: facts)

    def _learn_word(self, stages: Path, label: int, folder: Path, device: torch.device) -> dict[str, Any]:
        """Learn a word in a folder, which may hold what a killed run left; return facts about it."""
        from figureground.finetune.inversion import invert

        rows, masks = self._read_facts(stages, SOURCES)["rows"][str(label)], self._read_facts(stages, MASKS)["files"]
        usable = self._select_distinct([row for row in rows if str(row) in masks])
        self.print_progress(f"a word for {self.data.classes[label]}, from {plural(len(usable), 'image')}")
        images = folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        files = [images / f"{row:06d}.png" for row in usable]
        for row, file in zip(usable, files, strict=True):
            self.image(row, self.config.size).save(file)
        regions = [stages / masks[str(row)] for row in usable] if self.inversion.masked else None
        for region in regions or []:
            open_mask(region)
        try:
            invert(
                files, self.noun(label), self.word(label), folder / "learned", self.inversion, masks=regions,
                device=str(device), show_progress=self.show_progress and is_main_process(),
            )  # fmt: skip
        except FiguregroundError as error:
            error.args = (f"a word for {self.data.classes[label]!r}: {error}",)
            raise
        return {"images": len(usable), "embeddings": fingerprint_files(self._embeddings_path(stages, label))}

    def _read_facts(self, stages: Path, name: str) -> dict[str, Any]:
        """Return the facts of a finished stage.

        Raises:
            FiguregroundError: It isn't finished: its folder was removed.
        """
        marker = read_marker(stages / name)
        if marker is None:
            raise FiguregroundError(
                f"{stages / name} is missing, but words are learned from it. Build again in a new directory."
            )
        facts: dict[str, Any] = marker["facts"]
        return facts

    def _select_distinct(self, rows: Sequence[int]) -> list[int]:
        """Return the first `token_images` rows whose images differ."""
        rows_by_image: dict[bytes, int] = {}
        for row in rows:
            if len(rows_by_image) == self.config.token_images:
                break
            rows_by_image.setdefault(self.image(row, self.config.size).tobytes(), row)
        return list(rows_by_image.values())

    def prepare(self, stages: Path, checkpoint: Checkpoint) -> None:
        """Add the learned words to the checkpoint."""
        if self.trains_checkpoint:
            from figureground.finetune.tokens import load_tokens

            files = {label: self._embeddings_path(stages, label) for label in np.unique(self.train.y).tolist()}
            for label, path in files.items():
                marker = read_marker(stages / f"{TOKENS}-{label}")
                if marker is None or not path.is_file() or fingerprint_files(path) != marker["facts"]["embeddings"]:
                    raise FiguregroundError(
                        f"{path} is missing or has changed since it was learned. "
                        f"{advise_rerun(stages / f'{TOKENS}-{label}')}"
                    )
            load_tokens(checkpoint, list(files.values()))
        super().prepare(stages, checkpoint)

    def provenance(self, spec: Spec) -> dict[str, Any]:
        word = {"token": self.word(spec.foreground)} if self.trains_checkpoint else {}
        return {**super().provenance(spec), **word, "segmenter": format_public_name(self.config.segmenter)}

    # --- pruning --------------------------------------------------------------------------------

    def score_samples(self, out: Path) -> None:
        """Write scores for `curate`: one row per image, with the columns `SCORE_COLUMNS`."""
        with home_of(out).settling():  # other processes may finish at the same time
            directory.settle_recipe(out, self.recipe(out / PRIVATE))
            self._score(out)
        remove_locks(out)

    def _score(self, out: Path) -> None:
        path = out / SCORES / f"{SCORE}.csv"
        from figureground.data.images import DatasetImages

        dataset = DatasetImages.open(out)
        if _read_scored_keys(path) == list(dataset.keys):
            return
        import torch

        from figureground.learn.classifier_errors import match_classes
        from figureground.vision.attribution import map_to_square, share_inside

        assert self._stages is not None
        classifier = self.open_classifier(self._get_errors(self._stages))
        positions = match_classes(classifier, self.data.classes)
        sources = {s.key: s.guide.cutout for shard in self.plan().shards() for s in self.plan().specs(shard) if s.guide}
        maps = self._stages / ATTRIBUTION_MAPS
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(SCORE_COLUMNS)
        count = len(dataset.keys)
        with Progress.stoppable(count, desc="scores", unit="image", show=self.show_progress) as bar:
            for batch in bar.track(batched(range(count), SCORE_BATCH), len):
                rows = np.array(batch)
                images = [draw() for _, draw in dataset.read(rows)]
                keys = [dataset.keys[row] for row in rows]
                masks = [np.asarray(self.read_mask(sources[key])) >= 128 for key in keys]
                targets = [positions[int(f)] for f in dataset.foreground[rows]]
                with torch.inference_mode():
                    probabilities = classifier.read(images).logits.float().softmax(1).cpu().numpy()

                def save_attribution(i: int, values: np.ndarray, keys: Sequence[str] = keys) -> None:
                    values = map_to_square(values / max(values.max(), 1e-30), classifier.preprocessing)
                    save_map(maps, keys[i], values)

                shares = share_inside(
                    classifier, images, masks, targets, steps=self.config.attribution_steps, on_map=save_attribution
                )
                for i, key in enumerate(keys):
                    table.writerow([
                        key, f"{float(probabilities[i, targets[i]]):.6f}", f"{float(shares.attribution[i]):.6f}",
                        f"{float(shares.area[i]):.6f}", f"{float(shares.ratio[i]):.6f}",
                        classifier.labels[int(probabilities[i].argmax())],
                    ])  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text.getvalue())

    def pruning_rule(self) -> str:
        """Return the rule for `curate` that keeps images whose scores reach the recipe's thresholds."""
        parts = []
        for score, threshold in (
            ("probability", self.config.min_probability),
            ("attribution_ratio", self.config.min_attribution_ratio),
        ):
            name = f"scores.{SCORE}.{score}"
            if not isinstance(threshold, Mapping):
                parts.append(f"{name} >= {threshold:g}")
            else:
                parts += [
                    f"(foreground != {label!r} or {name} >= {class_threshold:g})"
                    for label, class_threshold in threshold.items()
                ]
        return " and ".join(parts) or "True"

    def threshold(self, score: str, name: str) -> float | None:
        """Return the recipe's threshold of a score for a painted class; None if the class has none.

        Args:
            score: `probability` or `attribution_ratio`.
            name: The class.
        """
        thresholds = getattr(self.config, f"min_{score}")
        return thresholds.get(name) if isinstance(thresholds, Mapping) else thresholds

    # --- the report -------------------------------------------------------------------------------

    def panels(self, directory: Path, provenance: Mapping[str, Any]) -> list[Panel]:
        return ddb_panels.sample_panels(self, directory, provenance)

    def overview(self, directory: Path) -> list[Panel]:
        return ddb_panels.overview(self, directory)

    # --- the card and the forecast --------------------------------------------------------------

    PACKAGES = ("captum",)

    def refuse_absent(self) -> None:
        super().refuse_absent()
        if self.config.segmenter != GROUND_TRUTH_MASKS:
            refuse_absent_segmenter("segmenter", self.config.segmenter)

    def needs(self) -> list[Need]:
        segmenter = self.config.segmenter
        return [
            *super().needs(),
            *([] if segmenter == GROUND_TRUTH_MASKS else missing_segmenter("segmenter", segmenter)),
        ]

    def plan_notes(self) -> list[str]:
        config, notes = self.config, super().plan_notes()
        if "{V}" in config.prompt:
            words = len(np.unique(self.train.y))
            notes.append(
                f"{plural(words, 'word')} to learn, {self.inversion.max_train_steps:,} steps each, from at most "
                f"{config.token_images} images"
            )
        phrases = f", with phrases such as {self.phrase(0)!r}" if find_kind(config.segmenter)[0].READS_PHRASES else ""
        notes.append(f"objects are found by {format_public_name(config.segmenter)}{phrases}")
        return notes

    def summary(self) -> str:
        config, data = self.config, markdown(self.data.name)
        classifier = "an ERM classifier that was trained on it" if config.classifier == TRAIN else "a given classifier"
        word = (
            f"a word learned for the class from up to {config.token_images} of them (textual inversion)"
            if "{V}" in config.prompt
            else "the class's noun"
        )
        by_language = find_kind(config.segmenter)[0].READS_PHRASES
        approach = "segmentation by language" if by_language else "a network for whatever stands out"
        segmenter = f"{approach} ({code(format_public_name(config.segmenter))})"
        masks = "their true masks" if config.segmenter == GROUND_TRUTH_MASKS else segmenter
        return (
            f"Images made from the training split of {data}, to break spurious correlations with its classes. "
            f"Sources are the {config.sources:,} images of each class to which {classifier} gives the lowest loss, "
            f"or fewer where it gets fewer right. Their object was found by {masks} and repainted as another class's, "
            f"with {word}; the scene stayed. "
            "`foreground` is the class that was painted, `background` the attribute of the source"
            + (", if the data have attributes" if self.data.attributes is None else "")
            + ", `source` its name. `_figureground/scores/ddb.csv` contains the classifier's probability of the class "
            "and the share of Integrated Gradients inside the object's region, both absolute and divided by the "
            "region's share of the image, for pruning with `figureground curate`."
        )

    def done_message(self, out: Path) -> str:
        pruning = f'To prune: figureground curate {out} --out {out}-pruned --keep "{self.pruning_rule()}"'
        return "\n".join([super().done_message(out), *self.list_left_out("source"), pruning])


def _read_scored_keys(path: Path) -> list[str] | None:
    """Return the keys in a scores file, or None if it is missing or incomplete."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [row["key"] for row in csv.DictReader(file) if row["attribution_ratio"] and row["predicted"]]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error):
        return None
