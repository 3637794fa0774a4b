"""The pocket world: drawn images with known foreground, background and prop.

Three factors vary independently. A *foreground* object stands in a *background* scene, with an optional *prop* beside
it in one of several *looks* (colour, pattern, shape) that captions never name. Everything is drawn with Pillow,
antialiased, from a random generator alone, so a builder's claims about labels can be measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from figureground.pocket import backgrounds, foregrounds, props
from figureground.pocket.pen import Color, Pen

SIZE = 64
"""Default edge of an image in pixels."""

SUPERSAMPLE = 3


class Scene(NamedTuple):
    """A drawn image and, for each factor, the share of every pixel that shows it."""

    image: Image.Image
    """RGB."""
    foreground: Image.Image
    """L, 0 to 255; black without a foreground. Parts hidden by the prop don't count."""
    background: Image.Image
    """L, 0 to 255: the area covered by neither foreground nor prop."""
    prop: Image.Image
    """L, 0 to 255; black without a prop. Parts hidden by the foreground don't count."""


class Place(NamedTuple):
    """Position and size of an object or a prop, in shares of the image's edge."""

    center: tuple[float, float]
    """x to the right, y down; values outside 0 to 1 are outside the image."""
    radius: float


class Layout(NamedTuple):
    """Places of the object and the prop; the place of an absent one is ignored."""

    foreground: Place
    prop: Place
    prop_in_front: bool = False
    """Whether the prop hides the object where they overlap, instead of the reverse."""


FOREGROUNDS: tuple[str, ...] = tuple(foregrounds.DRAW)
"""The foreground classes, in label order."""
BACKGROUNDS: tuple[str, ...] = tuple(backgrounds.DRAW)
"""The background classes, in label order: those of D3S (arXiv 2211.10370)."""
PROPS: tuple[str, ...] = tuple(props.DRAW)
LOOKS = props.LOOKS
"""Number of looks of each prop."""

KINDS: dict[str, tuple[str, ...]] = {
    "animal": ("bird", "fish", "cat", "snail"),
    "vehicle": ("car", "boat", "rocket"),
    "plant": ("cactus",),
    "thing": ("mug", "umbrella"),
}
"""Superordinate nouns and the foregrounds that they include."""


def generator(purpose: str, seed: int = 0) -> np.random.Generator:
    """Return an independent random generator for each purpose."""
    return np.random.default_rng([*purpose.encode(), seed])


def _check_name(kind: str, name: str | None, names: Sequence[str]) -> None:
    if name is not None and name not in names:
        raise ValueError(f"The pocket world has no {kind} {name!r}; it has {', '.join(names)}.")


def _split_look(prop: str | None, rng: np.random.Generator) -> tuple[str | None, int]:
    if prop is None:
        return None, 0
    name, _, look = prop.partition(":")
    _check_name("prop", name, PROPS)
    if not look:
        return name, int(rng.integers(LOOKS))
    if look not in [str(i) for i in range(LOOKS)]:
        raise ValueError(f"prop {prop!r}: a look is a number from 0 to {LOOKS - 1}, as in '{name}:2'.")
    return name, int(look)


def render(
    foreground: str | None,
    background: str | None,
    prop: str | None,
    rng: np.random.Generator,
    size: int = SIZE,
    layout: Layout | None = None,
) -> Scene:
    """Draw one image.

    Args:
        foreground: A name from `FOREGROUNDS`, or None for a scene without an object.
        background: A name from `BACKGROUNDS`, or None for a plain backdrop.
        prop: A name from `PROPS`, with a look as in `"flower:2"` or a random one; None for no prop.
        rng: Determines everything that the names leave open: shape, colour, size, place, light.
        size: Edge in pixels.
        layout: Places of object and prop (default: the object fully in view, the prop beside it).

    Raises:
        ValueError: A name or a look is unknown.
    """
    _check_name("foreground", foreground, FOREGROUNDS)
    _check_name("background", background, BACKGROUNDS)
    name, look = _split_look(prop, rng)

    edge = size * SUPERSAMPLE
    canvas = Image.new("RGB", (edge, edge))
    gain = float(rng.uniform(0.88, 1.06))
    scene = Pen(canvas, (0.0, 0.0), 1.0, flip=False, light=(gain, gain, gain))
    (backgrounds.DRAW[background] if background else backgrounds.draw_plain)(scene, rng)

    tint = backgrounds.LIGHTS.get(background or "", (1.0, 1.0, 1.0))
    light: Color = (tint[0] * gain, tint[1] * gain, tint[2] * gain)
    masks: dict[str, Image.Image] = {}
    places = layout or _lay_out(bool(foreground), bool(name), rng)

    def draw_prop() -> None:
        place = places.prop
        pen = Pen(canvas, place.center, place.radius, float(rng.uniform(-0.15, 0.15)), bool(rng.random() < 0.5), light)
        props.DRAW[str(name)](pen, rng, look)
        masks["prop"] = pen.mask

    def draw_foreground() -> None:
        (x, y), radius = places.foreground
        pen = Pen(canvas, (x, y), radius * 0.95, float(rng.uniform(-0.18, 0.18)), bool(rng.random() < 0.5), light)
        foregrounds.DRAW[str(foreground)](pen, rng)
        masks["foreground"] = pen.mask

    if name and not places.prop_in_front:
        draw_prop()
    if foreground:
        draw_foreground()
    if name and places.prop_in_front:
        draw_prop()
    if len(masks) == 2:
        back, front = ("foreground", "prop") if places.prop_in_front else ("prop", "foreground")
        masks[back].paste(0, mask=masks[front])
    empty = Image.new("L", (size, size), 0)
    foreground_share, prop_share = (
        masks[part].reduce(SUPERSAMPLE) if part in masks else empty for part in ("foreground", "prop")
    )
    background_share = Image.fromarray(
        (255 - np.minimum(255, np.asarray(foreground_share, np.uint16) + np.asarray(prop_share))).astype(np.uint8)
    )
    return Scene(canvas.reduce(SUPERSAMPLE), foreground_share, background_share, prop_share)


def _lay_out(with_foreground: bool, with_prop: bool, rng: np.random.Generator) -> Layout:
    """Draw a layout with the object fully in view and the prop beside it, or with only one of them."""
    radius = float(rng.uniform(0.2, 0.3))
    if with_foreground and with_prop:
        side = -1 if rng.random() < 0.5 else 1
        prop_radius = float(rng.uniform(0.135, 0.17))
        radius = min(radius, 0.27)
        gap = radius + prop_radius + float(rng.uniform(-0.02, 0.03))
        low = max(radius, prop_radius + gap) if side < 0 else radius
        high = 1 - radius if side < 0 else 1 - max(radius, prop_radius + gap)
        x = float(rng.uniform(low, high)) if low < high else (low + high) / 2
        y = float(rng.uniform(0.42, 0.98 - radius))
        prop_center = (x + side * gap, float(np.clip(y + rng.uniform(-0.2, 0.2), prop_radius, 1 - prop_radius)))
    else:
        prop_radius = float(rng.uniform(0.14, 0.26))
        margin = 0.95 * (radius if with_foreground else prop_radius)
        x, y = float(rng.uniform(margin, 1 - margin)), float(rng.uniform(max(0.36, margin), 0.98 - margin))
        prop_center = (x, y)
    return Layout(Place((x, y), radius), Place(prop_center, prop_radius))


def cutout(foreground: str, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """Draw a foreground object alone, RGBA, on a transparent background, filling most of the image."""
    _check_name("foreground", foreground, FOREGROUNDS)
    edge = size * SUPERSAMPLE
    canvas = Image.new("RGBA", (edge, edge), (0, 0, 0, 0))
    gain = float(rng.uniform(0.9, 1.05))
    pen = Pen(canvas, (0.5, 0.5), 0.42, float(rng.uniform(-0.15, 0.15)), bool(rng.random() < 0.5), (gain, gain, gain))
    foregrounds.DRAW[foreground](pen, rng)
    return canvas.reduce(SUPERSAMPLE)
