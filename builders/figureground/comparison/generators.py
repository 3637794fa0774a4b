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

from figureground.core.errors import FiguregroundError, RecipeError, counted, nearest_or_all
from figureground.core.files import read_json, replace_text
from figureground.data.groups import GroupedImages
from figureground.data.layouts import read_groups
from figureground.learn.paste import MARKER, QUANTILE, AttendedMasks, Masks, TrueMasks, paste
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


PASTE = tuple(PasteSettings.__annotations__)


@dataclass(frozen=True, eq=False)
class Generators:
    """Generates images from one data set, in one directory."""

    data: Path | str
    where: Mapping[str, Any]
    """Layout arguments of `read_groups`."""
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
    config_given: bool = False
    """Whether a user named the config, so that a method that lacks it is refused."""

    # Checks before any work

    def method(self, name: str, seed: int) -> Any:
        """Return the method of that name, for the data and a seed.

        Raises:
            RecipeError: A setting is invalid.
        """
        from figureground.methods.registry import method_class

        kind, own = method_class(name), dict(self.overrides.get(name, {}))
        recipes.check_names(own, set(type(kind.CONFIGS[kind.DEFAULT]).field_names()) - {"data", "seed"}, name)
        config = self.config if self.config_given or self.config in kind.CONFIGS else kind.DEFAULT
        fields: dict[str, Any] = {key: str(value) for key, value in self.where.items() if value is not None}
        fields |= own
        theirs = getattr(kind.CONFIGS[config], "training", None)
        if theirs is not None:  # a classifier that the method trains
            shared = {key: value for key, value in self.training.items() if key not in UNSHARED}
            given = own.get("training", {})
            if not isinstance(given, Mapping):
                raise RecipeError(f"{name}.training", f"{given!r} is not a mapping; write {name}.training.epochs=5.")
            fields["training"] = {**theirs, **shared, **given}
        if self.device != "auto":
            fields.setdefault("device", self.device)
        return kind(config, data=str(self.data), seed=seed, **fields)

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
            told = _read_told(marker)
            if told is not None and told.get("rule") != rule:
                raise FiguregroundError(
                    f"--out {self.out} holds images of {generator} that were pruned by\n"
                    f"  {told.get('rule')}\n"
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
        recipes.check_names((f"paste.{n}" for n in self._paste), [f"paste.{n}" for n in PASTE], "paste")
        masks, train = self._masks, self.train
        if masks not in (ATTENDED, TRUE):
            raise RecipeError("paste.masks", f"unknown value {masks!r}{nearest_or_all(str(masks), (ATTENDED, TRUE))}")
        if masks == TRUE and "quantile" in self._paste:
            raise RecipeError("paste.quantile", f"it has no effect with masks={TRUE}.")
        if masks == TRUE and not train.masked.all():
            bare = np.flatnonzero(~train.masked)
            raise RecipeError(
                "paste.masks",
                f"{counted(len(bare), 'training image')} of {train.name} have no true mask, such as "
                f"{train.keys[bare[0]]}; {ATTENDED} needs none.",
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

    def read_made(self, generator: str, seed: int) -> dict[str, Any] | None:
        """Return the record of `make` for existing images; None if they are missing or incomplete.

        Raises:
            FiguregroundError: The record is damaged.
        """
        told = _read_told(self.out / f"{generator}-seed-{seed}.json")
        return told if told is not None and (self.out / told["directory"]).is_dir() else None

    def make(self, generator: str, seed: int, erm: Callable[[int], Path]) -> dict[str, Any]:
        """Generate images, or resume it.

        Args:
            erm: Returns the folder of a seed's ERM classifier, for paste.

        Returns:
            `directory`, below `out`; `images`, the number generated; `kept`, the share kept by pruning, 0 to 1, and its
            `rule`; `passed_over` for paste; `error_set` for scgs, as described by `jtt.tell_errors`; `seconds`.

        Raises:
            FiguregroundError: The generator fails, or its rule keeps nothing.
            Stopped: A signal requested a stop.
        """
        began, name = time.monotonic(), f"{generator}-seed-{seed}"
        told = self._make_pasted(name, seed, erm) if generator == "paste" else self._build(generator, name, seed)
        told["seconds"] = round(time.monotonic() - began, 1)
        replace_text(self.out / f"{name}.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return told

    def _make_pasted(self, name: str, seed: int, erm: Callable[[int], Path]) -> dict[str, Any]:
        masks: Masks = TrueMasks()
        if self._masks == ATTENDED:
            from figureground.core.accelerator import choose_device
            from figureground.vision.classifiers import open_classifier

            masks = AttendedMasks(open_classifier(str(erm(seed)), device=choose_device(self.device)), self._quantile)
        whole = read_groups(self.data, **self.where)
        paste(whole, masks, self._count_per_class, seed, self.out / name, show_progress=self.show_progress)
        said = read_json(self.out / name / MARKER)
        return {"directory": name, "images": said["images"], "passed_over": len(said["passed_over"])}

    def _build(self, generator: str, name: str, seed: int) -> dict[str, Any]:
        from figureground.curation.curating import curate
        from figureground.diffusion.render import release_memory

        method = self.method(generator, seed)
        built = self.out / name
        method.build(built, show_progress=self.show_progress)
        told: dict[str, Any] = {"directory": name, "images": _count(built)}
        if (error_set := getattr(method, "told", {}).get("error_set")) is not None:
            told["error_set"] = error_set
        if (rule := method.pruning_rule()) is not None:
            try:
                pruned = curate(built, self.out / f"{name}-pruned", rule, show_progress=self.show_progress)
            except RecipeError as error:
                raise FiguregroundError(
                    f"{error} The generated images are kept: loosen the rule by --set {generator}.…, and rerun the "
                    "command."
                ) from None
            told |= {"directory": pruned.name, "rule": rule, "kept": _count(pruned) / told["images"]}
        del method
        release_memory()
        return told

    def paste_note(self) -> str:
        """Return a note for readers of the comparison on pasted images."""
        share = f"{1 - self._quantile:.0%}"
        objects = "by the true masks" if self._masks == TRUE else f"by ERM's attention, {share} of each image"
        return f"paste cuts objects out {objects}. The target image's own object may remain visible."


def _is_number(value: Any, kind: type) -> bool:
    kinds = int if kind is int else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _read_told(marker: Path) -> dict[str, Any] | None:
    """Return the record of generated images, or None if they aren't finished."""
    try:
        told = read_json(marker)
        return {**told, "directory": str(told["directory"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(
            f"{marker} is damaged ({error}). Remove it and rerun the command: the images are kept."
        ) from None


def _count(directory: Path) -> int:
    return len(read_groups(directory).of_split(0))
