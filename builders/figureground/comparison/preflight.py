"""Checks of a comparison's settings, data and backbones before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from figureground.comparison.generators import Generators
from figureground.comparison.rows import PASTE, Row
from figureground.core.errors import RecipeError, join_names, suggest_or_list
from figureground.data.groups import GroupedImages
from figureground.data.images import find_typical_edge
from figureground.learn.backbone_settings import MAX_POCKET, choose_backbone
from figureground.learn.preflight import refuse_backbone, refuse_revision, refuse_unfit_data
from figureground.learn.settings import RULES, Training
from figureground.learn.training_data import TrainingData
from figureground.learn.way import WAYS
from figureground.recipe import document as recipes

if TYPE_CHECKING:
    from figureground.learn.backbones import Backbone

SHARED = (
    "backbone", "revision", "from_scratch", "augment", "epochs", "batch_size", "learning_rate", "weight_decay",
    "add_weight", "add_steps", "select", "validate_every",
)  # fmt: skip
"""Training settings that all methods may share; the others belong to one method."""


@dataclass(eq=False)
class Preflight:
    """Checks of settings, data and backbones. Each check adds to what identifies the comparison."""

    groups: GroupedImages
    training_data: TrainingData
    training: Mapping[str, Any]
    overrides: Mapping[str, Mapping[str, Any]]
    identities: dict[str, Any] = field(default_factory=dict)
    """By training, the settings and backbone that determine it."""
    backbone: Backbone | None = None
    """Backbone of the first training."""
    rules: dict[str, str] = field(default_factory=dict)
    """By generator that prunes, its pruning rule."""

    def __post_init__(self) -> None:
        self.edge = find_typical_edge(self.groups.of_split(0))
        for name in self.training:
            if name not in SHARED:
                raise RecipeError(
                    name, f"not a setting that all methods share{suggest_or_list(name, SHARED)} "
                    "Set a method's own settings as METHOD.KEY, such as jtt.upweight."
                )  # fmt: skip

    @property
    def config(self) -> str:
        """Default config of the methods that generate images, which depends on the size of the training images."""
        return "pocket" if self.edge <= MAX_POCKET else "photographs"

    def check_trainings(self, rows: Sequence[Row]) -> dict[str, Training]:
        """Return the settings of each training, including erm's if paste uses its classifiers."""
        used = {row.training for row in rows} | {row.generator for row in rows if row.generator}
        if PASTE in used:
            used.add("erm")
        for name in self.overrides:
            if name not in used:
                raise RecipeError(name, f"not one of the compared methods{suggest_or_list(name, used)}")
        settings = {
            method: Training(method, **{**self.training, **self._read_overrides(method)})
            for method in WAYS.names()
            if method in used
        }
        for training in settings.values():
            refuse_unfit_data(training, self.groups, self.training_data)
            refuse_backbone(training)
            refuse_revision(training, choose_backbone(training, self.edge))
        has_attributes = self.groups.attributes is not None
        rules = {training.rules(has_attributes)[0] for training in settings.values()}
        if len(rules) > 1:
            by_method = join_names(
                f"{method} by {RULES[training.rules(has_attributes)[0]]}" for method, training in settings.items()
            )
            raise RecipeError(
                "select",
                f"all methods must select their epoch by one rule, but here it is {by_method}. Give --select for all, "
                "and omit methods that can't follow it.",
            )
        self.rule = rules.pop()
        return settings

    def open_backbones(self, settings: Mapping[str, Training]) -> None:
        """Open each training's backbone and record its facts."""
        from figureground.learn.backbones import check_saving, open_backbone

        for method, training in settings.items():
            backbone = open_backbone(training, self.groups.classes, self.edge, 0)
            check_saving(backbone)
            self.backbone = self.backbone or backbone
            self.identities[method] = {**training.to_json(), "backbone": backbone.facts}

    def _read_overrides(self, method: str) -> Mapping[str, Any]:
        overrides = self.overrides.get(method, {})
        recipes.check_names(overrides, {field.name for field in dataclasses.fields(Training)} - {"method"}, method)
        return overrides

    def check_generators(self, rows: Sequence[Row], generators: Generators, seed: int) -> dict[str, Any]:
        """Return the settings that determine each generator's images, besides the seed."""
        inputs: dict[str, Any] = {}
        for name in dict.fromkeys(row.generator for row in rows if row.generator):
            if name == PASTE:
                inputs[name] = generators.check_paste(None)
                continue
            method = generators.make_method(name, seed)
            if (rule := method.pruning_rule()) is not None:
                self.rules[name] = rule
                generators.refuse_other_pruning(name, self.rules[name])
            inputs[name] = {key: value for key, value in method.identity().items() if key != "seed"}
            unknown = set(method.columns().backgrounds) - set(self.groups.attributes or ())
            for row in rows:
                if self.groups.attributes and unknown and row.generator == name and WAYS[row.training].BY_GROUP:
                    raise RecipeError(
                        "methods",
                        f"{row.name} isn't possible: {row.training} needs groups, but images made by {name} have no "
                        f"attribute of {self.groups.name}. Choose {name} or {name}+jtt.",
                    )
        return inputs

    def describe(self) -> dict[str, Any]:
        training_data = self.training_data
        return {
            "data": self.groups.name, "backbone": self.backbone.name if self.backbone else None,
            "selection": RULES[self.rule], "classes": list(self.groups.classes),
            "attributes": list(self.groups.attributes) if self.groups.attributes is not None else None,
            "images": {
                "train": len(training_data.train), "validation": len(training_data.validation),
                "test": len(training_data.test),
            },
        }  # fmt: skip
