"""Images that a comparison adds to training: pasted, or generated and pruned by a method, once per seed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import TypedDict

from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural, suggest_or_list
from figureground.core.files import read_json, replace_text
from figureground.data.data_source import DataSource
from figureground.data.groups import GroupedImages
from figureground.data.layouts import read_data
from figureground.learn.paste import MARKER, QUANTILE, AttentionMasks, Masks, TrueMasks, paste
from figureground.recipe import document as recipes

if TYPE_CHECKING:
    from figureground.learn.backbones import Backbone

UNSHARED = ("epochs", "add_weight", "add_steps", "select", "validate_every")
"""Training settings that classifiers trained by generators don't share."""

TRUE_MASKS = "true-masks"
"""Name of the data's own masks in scgs and ddb."""
ATTENDED, TRUE = "attended", "true"
"""Mask sources of paste: the regions that ERM attends to, or the data's own masks."""


class PasteSettings(TypedDict, total=False):
    """Settings of paste; see `check_paste`."""

    masks: str
    quantile: float
    count_per_class: int


PASTE_FIELDS = tuple(PasteSettings.__annotations__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Generators:
    """Generates images from one data set, in one directory."""

    source: DataSource
    """The data set."""
    train: GroupedImages
    """The training split."""
    out: Path
    overrides: Mapping[str, Mapping[str, Any]]
    """Settings by generator."""
    training: Mapping[str, Any]
    """Training settings that all methods share."""
    config: str
    """Config of the methods that generate images."""
    device: str
    show_progress: bool
    has_user_config: bool = False
    """Whether the user named the config: then a method without such a config is refused."""

    # Checks before any work

    def make_method(self, name: str, seed: int) -> Any:
        """Return the method of that name, for the data and a seed.

        Raises:
            RecipeError: A setting is invalid.
        """
        from figureground.methods.registry import method_class

        method_type, settings = method_class(name), dict(self.overrides.get(name, {}))
        known = set(type(method_type.CONFIGS[method_type.DEFAULT]).field_names()) - {"data", "seed"}
        recipes.check_names(settings, known, name)
        if self.has_user_config and self.config not in method_type.CONFIGS:
            available = join_names(method_type.CONFIGS)
            raise RecipeError("config", f"{name} has no config {self.config!r}; it has {available}.")
        config = self.config if self.has_user_config or self.config in method_type.CONFIGS else method_type.DEFAULT
        fields: dict[str, Any] = {key: str(value) for key, value in self.source.given().items()}
        fields |= settings
        defaults = getattr(method_type.CONFIGS[config], "training", None)
        if defaults is not None:  # a classifier that the method trains
            shared = {key: value for key, value in self.training.items() if key not in UNSHARED}
            overrides = settings.get("training", {})
            if not isinstance(overrides, Mapping):
                raise RecipeError(
                    f"{name}.training", f"{overrides!r} is not a mapping; write {name}.training.epochs=5."
                )
            fields["training"] = {**defaults, **shared, **overrides}
        if self.device != "auto":
            fields.setdefault("device", self.device)
        return method_type(config, data=str(self.source.path), seed=seed, **fields)

    def uses_masks(self, name: str) -> bool:
        """Whether a generator uses the data's own masks."""
        if name == "paste":
            return bool(self._masks == TRUE)
        return TRUE_MASKS in self.overrides.get(name, {}).values()

    def refuse_other_pruning(self, generator: str, rule: str) -> None:
        """Refuse images pruned by another rule. The rule isn't part of their identity, as it doesn't affect generation.

        Raises:
            FiguregroundError: Existing images were pruned by another rule.
        """
        for marker in sorted(self.out.glob(f"{generator}-seed-*.json")):
            record = _read_record(marker)
            if record is not None and record.get("rule") != rule:
                raise FiguregroundError(
                    f"--out {self.out} holds images of {generator} that were pruned by\n"
                    f"  {record.get('rule')}\n"
                    "instead of\n"
                    f"  {rule}\n"
                    "Give another directory, or the same thresholds as before."
                )

    def check_paste(self, backbone: Backbone | None) -> dict[str, Any]:
        """Return the settings that determine paste's images, besides the data and the seed.

        Args:
            backbone: Backbone of the ERM classifiers, whose attention is read for attended masks.

        Raises:
            RecipeError: A setting is invalid.
        """
        recipes.check_names((f"paste.{n}" for n in self._paste), [f"paste.{n}" for n in PASTE_FIELDS], "paste")
        masks, train = self._masks, self.train
        if masks not in (ATTENDED, TRUE):
            raise RecipeError("paste.masks", f"unknown value {masks!r}{suggest_or_list(str(masks), (ATTENDED, TRUE))}")
        if masks == TRUE and "quantile" in self._paste:
            raise RecipeError("paste.quantile", f"it has no effect with masks={TRUE}.")
        if masks == TRUE and not train.masked.all():
            without_mask = np.flatnonzero(~train.masked)
            raise RecipeError(
                "paste.masks",
                f"{plural(len(without_mask), 'training image')} of {train.name} have no true mask, such as "
                f"{train.keys[without_mask[0]]}; {ATTENDED} needs none.",
            )
        quantile, count = self._quantile, self._count_per_class
        if not _is_number(quantile, float) or not 0 < quantile < 1:
            raise RecipeError("paste.quantile", f"{quantile!r} is not a number between 0 and 1.")
        if not _is_number(count, int) or count < 1:
            raise RecipeError("paste.count_per_class", f"{count!r} is not a whole number of at least 1.")
        if masks == ATTENDED and backbone is not None and not hasattr(backbone.network, "save_pretrained"):
            raise RecipeError(
                "paste.masks", f"the attention of {backbone.name} can't be read: choose a transformers backbone, "
                f"or masks={TRUE}.",
            )  # fmt: skip
        return {"masks": masks, "count_per_class": count, **({"quantile": quantile} if masks == ATTENDED else {})}

    @property
    def _paste(self) -> Mapping[str, Any]:
        return self.overrides.get("paste", {})

    @property
    def _masks(self) -> Any:
        """Mask source of paste."""
        return self._paste.get("masks", ATTENDED)

    @property
    def _quantile(self) -> Any:
        return self._paste.get("quantile", QUANTILE)

    @property
    def _count_per_class(self) -> Any:
        classes = len(np.unique(self.train.y))
        return self._paste.get("count_per_class", max(1, len(self.train) // classes))

    # The work

    def read_record(self, generator: str, seed: int) -> dict[str, Any] | None:
        """Return the record of `make` for existing images; None if they are missing or incomplete.

        Raises:
            FiguregroundError: The record is damaged.
        """
        record = _read_record(self.out / f"{generator}-seed-{seed}.json")
        return record if record is not None and (self.out / record["directory"]).is_dir() else None

    def make(self, generator: str, seed: int, erm: Callable[[int], Path]) -> dict[str, Any]:
        """Generate images, or resume it.

        Args:
            erm: Returns the folder of a seed's ERM classifier, for paste.

        Returns:
            `directory`, below `out`; `images`, the number generated; `kept`, the share kept by pruning, 0 to 1, and its
            `rule`; `passed_over` for paste; `error_set` for scgs, as described by `jtt.summarise_errors`; `seconds`.

        Raises:
            FiguregroundError: The generator fails, or its rule keeps nothing.
            Stopped: A signal requested a stop.
        """
        start_time, name = time.monotonic(), f"{generator}-seed-{seed}"
        record = self._make_pasted(name, seed, erm) if generator == "paste" else self._build(generator, name, seed)
        record["seconds"] = round(time.monotonic() - start_time, 1)
        replace_text(self.out / f"{name}.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return record

    def _make_pasted(self, name: str, seed: int, erm: Callable[[int], Path]) -> dict[str, Any]:
        masks: Masks = TrueMasks()
        if self._masks == ATTENDED:
            from figureground.core.accelerator import choose_device
            from figureground.vision.classifiers import open_classifier

            masks = AttentionMasks(open_classifier(str(erm(seed)), device=choose_device(self.device)), self._quantile)
        groups = read_data(self.source)
        paste(groups, masks, self._count_per_class, seed, self.out / name, show_progress=self.show_progress)
        marker = read_json(self.out / name / MARKER)
        return {"directory": name, "images": marker["images"], "passed_over": len(marker["passed_over"])}

    def _build(self, generator: str, name: str, seed: int) -> dict[str, Any]:
        from figureground.core.accelerator import release_memory
        from figureground.curation.curating import curate

        method = self.make_method(generator, seed)
        folder = self.out / name
        method.build(folder, show_progress=self.show_progress)
        record: dict[str, Any] = {"directory": name, "images": _count_training_images(folder)}
        if (error_set := getattr(method, "stage_summary", {}).get("error_set")) is not None:
            record["error_set"] = error_set
        if (rule := method.pruning_rule()) is not None:
            try:
                pruned = curate(folder, self.out / f"{name}-pruned", rule, show_progress=self.show_progress)
            except RecipeError as error:
                raise FiguregroundError(
                    f"{error} The generated images are kept: loosen the rule by --set {generator}.…, and rerun the "
                    "command."
                ) from None
            share = _count_training_images(pruned) / record["images"]
            record |= {"directory": pruned.name, "rule": rule, "kept": share}
        del method
        release_memory()
        return record

    def paste_note(self) -> str:
        """Return a note for readers of the comparison on pasted images."""
        share = f"{1 - self._quantile:.0%}"
        objects = "by the true masks" if self._masks == TRUE else f"by ERM's attention, {share} of each image"
        return f"paste cuts objects out {objects}. The target image's own object may remain visible."


def _is_number(value: Any, kind: type) -> bool:
    kinds = int if kind is int else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _read_record(marker: Path) -> dict[str, Any] | None:
    """Return the record of generated images, or None if they aren't finished."""
    try:
        record = read_json(marker)
        return {**record, "directory": str(record["directory"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(
            f"{marker} is damaged ({error}). Remove it and rerun the command: the images are kept."
        ) from None


def _count_training_images(directory: Path) -> int:
    return len(read_data(DataSource(directory)).of_split(0))
