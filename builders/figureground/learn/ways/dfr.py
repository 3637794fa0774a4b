"""Deep feature reweighting (Kirichenko et al. 2023, arXiv 2204.02937): ERM with a refitted last layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.learn.ways.erm import ERM

if TYPE_CHECKING:
    from figureground.data.groups import GroupedImages
    from figureground.learn.backbones import Backbone
    from figureground.learn.objective import Objective
    from figureground.learn.settings import Training
    from figureground.learn.training import Session
    from figureground.learn.training_data import Part, TrainingData


class DFR(ERM):
    """ERM whose last layer is refitted to group-balanced draws of the validation data."""

    NAME = "dfr"
    TEXT = "ERM whose last layer is refitted to group-balanced validation data (Kirichenko et al. 2023)"
    NEEDS_ATTRIBUTES = True
    CHANGES_TRAINED = True
    OWN: ClassVar[Mapping[str, Any]] = {"draws": 10, "inverse_strength": None}

    def check(self, settings: Training) -> None:
        rules = (settings.select or "").split(",")
        if len(rules) > 1:
            raise RecipeError(
                "select", "dfr takes only one rule, because its last layer is fitted for the chosen epoch. Give one."
            )
        if rules[0] in ("worst-class", "average"):
            raise RecipeError(
                "select",
                f"dfr uses validation attributes to fit the last layer, and {rules[0]!r} would hide that use. "
                "Choose worst-group or last, or leave dfr out.",
            )

    def refuse(self, settings: Training, groups: GroupedImages, training_data: TrainingData) -> None:
        occurring = {*training_data.train.y.tolist(), *training_data.test.y.tolist()}
        missing = sorted(occurring - set(training_data.validation.y.tolist()))
        if missing:
            raise FiguregroundError(
                f"dfr fits the last layer to validation images, but {groups.name} has none of "
                f"{join_names(groups.classes[label] for label in missing)}."
            )

    def uses(self, attributes: bool) -> tuple[bool, bool]:
        return False, True

    def finish(
        self, session: Session, backbone: Backbone, seed: int, objective: Objective, steps: dict[str, int]
    ) -> dict[str, Any]:
        facts = _refit(session, backbone, seed)
        steps["refit"] = facts["steps"]
        return facts


def _refit(session: Session, backbone: Backbone, seed: int) -> dict[str, Any]:
    """Fit the last layer again; return facts for the report."""
    import torch

    from figureground.learn import dfr
    from figureground.learn.backbones import find_last_layer
    from figureground.learn.inference import run_network
    from figureground.vision.classifiers import Classifier

    training_data, settings = session.training_data, session.settings
    validation = training_data.validation
    if validation.group is None:
        raise ValueError("DFR needs groups.")
    classifier = Classifier(
        backbone.network, backbone.preprocessing, training_data.classes, backbone.name, {}, edge=backbone.size[0]
    )
    classifier.require_features()
    parent, name = find_last_layer(backbone.network, classifier.weight)
    last_layer = getattr(parent, name)

    def compute_features(part: Part) -> Any:
        batches: list[torch.Tensor] = []
        with last_layer.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].float().cpu())):
            run_network(backbone, part, session.device, session.workers)
        return torch.cat(batches).numpy()

    layer, facts = dfr.refit(
        compute_features(validation), validation.y, validation.group, len(training_data.classes),
        training=compute_features(training_data.train), draws=settings.draws or 1,
        inverse_strength=settings.inverse_strength, seed=seed,
    )  # fmt: skip
    if last_layer.bias is None:
        raise FiguregroundError(
            f"backbone {backbone.name!r}: its last layer has no bias, and dfr needs one. Choose another backbone."
        )
    with torch.no_grad():
        last_layer.weight.copy_(layer.weight)
        last_layer.bias.copy_(layer.bias)
    return facts
