"""Panels of class-wise spurious images: each concept's references, facts and training losses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from figureground.core.errors import FiguregroundError, printable
from figureground.core.files import FileError, read_object, safe_join
from figureground.core.hashing import content_hash
from figureground.core.shapes import Count, check_shape
from figureground.methods.concept_stages import read_concept_facts
from figureground.methods.panels.drawing import draw_curve
from figureground.methods.panels.panel import Draw, Missing, Panel, draw_panel, missing_stage_fact
from figureground.models.concept_files import CONCEPT
from figureground.recipe.features import Feature
from figureground.shards.shard import STAGES
from figureground.shards.stages import COPIES
from figureground.sources.images import center_square, read_image
from figureground.training.curves_file import CSV, read_curves

if TYPE_CHECKING:
    from figureground.methods.spurious import Spurious

LOSSES = ("dreambooth", "prior", "sfsl")
"""Curves that are drawn, if they were recorded."""
REFERENCES = 6
"""Maximum number of references shown of a class."""
MAX_CONCEPTS = 24
"""Maximum number of concepts shown."""


def overview(method: Spurious, directory: Path) -> list[Panel]:
    """Return a panel of each concept, at most `MAX_CONCEPTS` of them."""
    shown = method.features[:MAX_CONCEPTS]
    panels = [_concept_panel(method, directory, feature) for feature in shown]
    if len(shown) < len(method.features):
        fact = ("shown", f"the first {len(shown)} of {len(method.features):,}")
        panels.append(Panel("Other concepts", (), (fact,)))
    return panels


def _concept_panel(method: Spurious, directory: Path, feature: Feature) -> Panel:
    stages, title = directory / STAGES, f"Concept {feature.name}"
    facts = [("class", feature.name), ("noun", feature.noun), ("feature", feature.text)]
    try:
        concept_facts = read_concept_facts(stages, [feature]).get(feature.slug)
    except FiguregroundError:
        concept_facts = None
    if concept_facts is None:
        return Panel(title, (), (*facts, missing_stage_fact(f"concept-{feature.slug}")))
    facts += _stage_facts(concept_facts)
    try:
        folder, concept = _read_concept(method.store(stages).directory, concept_facts)
    except Missing as error:
        return Panel(title, (), (*facts, ("files of the concept", f"missing: {error}")))
    facts.append(("steps", f"{concept['steps']:,}"))
    draws: dict[str, Draw] = {
        f"reference {printable(reference['file'])}": partial(
            _draw_reference, method, stages, feature, reference["file"], reference["sha256"]
        )
        for reference in concept["references"]["used"][:REFERENCES]
    }
    draws |= {f"{name} loss": partial(_draw_loss, folder, name) for name in LOSSES if name in concept_facts["losses"]}
    return draw_panel(title, draws, facts)


def _stage_facts(concept_facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return facts from a concept's stage."""
    network = concept_facts["feature_model"]
    losses = {name: value for name, value in concept_facts["losses"].items() if name in LOSSES}
    return [
        ("word", str(concept_facts["identifier"])),
        ("weights", f"{concept_facts['kind']} {concept_facts['sha256'][:12]}"),
        ("references", f"{concept_facts['references']:,}"),
        ("feature network", printable(network["name"]) if network else "none"),
        *((f"final {name} loss", f"{value:.3g}") for name, value in losses.items()),
    ]


def _read_concept(store: Path, concept_facts: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return a concept's folder and its record.

    Raises:
        Missing: The folder is gone, or holds another concept than the one that drew the images.
    """
    name = str(concept_facts["folder"])
    try:
        folder = safe_join(store, name)
        concept = read_object(folder / CONCEPT)
        check_shape(concept, {"sha256": str, "steps": Count, "references": {"used": [{"file": str, "sha256": str}]}})
    except (OSError, ValueError):
        raise Missing(f"{printable(name)}/{CONCEPT} is gone or damaged") from None
    if concept["sha256"] != concept_facts["sha256"]:
        raise Missing(f"{printable(name)} holds another concept than the one that drew the images")
    return folder, concept


def _draw_reference(method: Spurious, stages: Path, feature: Feature, name: str, sha256: str) -> Image.Image:
    """Return the centre square of a reference, RGB, at most as large as the dataset's images.

    Raises:
        Missing: It is neither among the build's copies nor where the recipe's references are, or has changed.
        UnreadableImage: It can't be decoded.
    """
    try:
        path = safe_join(stages / COPIES / feature.slug, name)
        if not path.is_file():
            path = _reference_paths(method, feature)[name]
        unchanged = content_hash(path) == sha256
    except (KeyError, OSError, FiguregroundError):
        raise Missing(f"{feature.slug}/{printable(name)} is gone") from None
    if not unchanged:
        raise Missing(f"{feature.slug}/{printable(name)} has changed since the concept was made")
    image = read_image(path)
    return center_square(image, min(*image.size, method.config.size))


def _reference_paths(method: Spurious, feature: Feature) -> dict[str, Path]:
    """Return the files of a class's references by name, where the recipe names a directory."""
    references = method.references[feature.slug]
    pairs = zip(references.names, references.images, strict=True)
    return {name: image.path for name, image in pairs if image.path is not None}


def _draw_loss(folder: Path, name: str) -> Image.Image:
    try:
        values = read_curves(folder / CSV)[name]
    except (OSError, FileError, KeyError):
        values = []
    if not values:
        raise Missing(f"{folder.name}/{CSV} is gone or damaged")
    return draw_curve(values)
