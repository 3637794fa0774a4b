"""Panels of D3S: the cut-out and the scene, or the photograph, that a sample's guide was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, printable
from figureground.core.hashing import content_hash
from figureground.methods.panels.panel import Draw, Missing, Panel, draw_panel
from figureground.recipe.sample import Guide
from figureground.sources.guide import PoolItem, compose, read_square
from figureground.sources.images import read_image

if TYPE_CHECKING:
    from figureground.methods.d3s import D3S

PAPER = (238, 238, 238)
"""Colour shown under the transparent part of a cut-out."""


def sample_panels(method: D3S, provenance: Mapping[str, Any]) -> list[Panel]:
    """Return the panel of a sample; none for one without a guide."""
    saved = provenance.get("guide")
    if not saved:
        return []
    guide, split, size = Guide.from_json(saved), str(provenance.get("split", "")), method.config.size
    if guide.kind == "photograph":
        find_photograph = partial(_find_item, method, "photographs", split, guide.cutout)
        facts = [("photograph", _file_name(guide.cutout))]
        return [draw_panel("Photograph", {"photograph": lambda: read_square(find_photograph().path, size)}, facts)]
    if guide.template is None or guide.box is None:
        return []
    find_cutout = partial(_find_item, method, "cutouts", split, guide.cutout)
    find_scene = partial(_find_item, method, "scenes", split, guide.template)
    draws: dict[str, Draw] = {
        "cut-out": lambda: _flatten(read_image(find_cutout().path, "RGBA", max_edge=size), size),
        "scene": lambda: read_square(find_scene().path, size),
        "mask": partial(_draw_foreground, method, guide, find_cutout, find_scene),
    }
    left, top, right, bottom = guide.box
    facts = [
        ("cut-out", _file_name(guide.cutout)),
        ("scene", _file_name(guide.template)),
        ("pasted part", "its mask" if method.config.paste == "mask" else "its centre square"),
        ("box", f"{right - left} × {bottom - top} pixels at ({left}, {top}), {(right - left) / size:.0%} of the edge"),
        ("mirrored", "yes" if guide.flip else "no"),
    ]
    panel = draw_panel("Cut-out and scene", draws, facts)
    masks = [picture.image for picture in panel.pictures if picture.title == "mask"]
    area = [("area of the foreground", f"{np.asarray(mask).mean() / 255:.1%} of the image") for mask in masks]
    return [panel._replace(facts=(*panel.facts, *area))]


def _find_item(method: D3S, bank: str, split: str, id: str) -> PoolItem:
    """Return a source image whose file is unchanged.

    Args:
        bank: `cutouts`, `scenes` or `photographs`.
        id: Id of the image, as guides have it.

    Raises:
        Missing: The file is gone or has changed.
    """
    try:
        item: PoolItem = getattr(method, bank)[split].find(id)
        unchanged = content_hash(item.path) == item.sha256
    except (FiguregroundError, OSError, ValueError, KeyError):
        raise Missing(f"{_file_name(id)} is no longer among the {bank}") from None
    if not unchanged:
        raise Missing(f"{_file_name(id)} has changed since the images were planned")
    return item


def _file_name(id: str) -> str:
    """Return folder and file name in an id."""
    return printable(id.rpartition("@")[0])


def _flatten(cutout: Image.Image, size: int) -> Image.Image:
    """Return a cut-out on grey, RGB, with edges of at most `size` pixels."""
    cutout.thumbnail((size, size))
    paper = Image.new("RGBA", cutout.size, PAPER)
    return Image.alpha_composite(paper, cutout).convert("RGB")


def _draw_foreground(
    method: D3S, guide: Guide, find_cutout: Callable[[], PoolItem], find_scene: Callable[[], PoolItem]
) -> Image.Image:
    """Return the share of the foreground in each pixel of the guide, L."""
    assert guide.box is not None
    size = method.config.size
    return compose(find_cutout().path, find_scene().path, guide.box, guide.flip, size, method.config.paste)[1]
