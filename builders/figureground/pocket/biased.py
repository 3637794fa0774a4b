"""A biased sample of the drawn world: each class co-occurs with a look of a prop, and its object may be hard to see.

A classifier trained on it learns to predict `bird` for a red flower, as classifiers trained on photographs predict
`hummingbird` for a feeder. Two properties of such photographs cause this, and both are parameters here: the feature is
almost always present (`share`), and the object is often small, cut off or hidden (`hard`) while the feature beside it
is clearly visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from figureground.pocket import world
from figureground.pocket.world import Layout, Place

LOOK_BY_CLASS: Mapping[str, str] = MappingProxyType({
    "bird": "flower:0", "fish": "ball:1", "cat": "flower:2", "snail": "gift:2", "car": "ball:2",
    "boat": "lantern:0", "rocket": "flag:3", "cactus": "kite:1", "mug": "gift:3", "umbrella": "flag:0",
})  # fmt: skip
"""The look paired with each class. Every noun covers one or two of these looks, and at least two looks without a class,
so naming the noun doesn't name the look."""

ALL_LOOKS: tuple[str, ...] = tuple(f"{prop}:{look}" for prop in world.PROPS for look in range(world.LOOKS))

SHARE = 0.9
"""Share of a class's images that show its look."""
HARD_SHARE = 0.15
"""Share of images in which the object is tiny, cut off by the border, or mostly hidden by the prop."""
NO_PROP_SHARE = 0.5
"""Share of images without any prop among those without their class's look; the others have another look."""


class Content(NamedTuple):
    """Names and layout of one image's content."""

    foreground: str
    background: str
    look: str | None
    layout: Layout | None
    """None for an object fully in view."""


class Drawing(NamedTuple):
    """An image of the biased world."""

    image: Image.Image
    """RGB."""
    label: int
    """Position of the class in `world.FOREGROUNDS`."""


def _draw_center(radius: float, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a centre such that an object of this radius stays in the image, below the upper part of the sky."""
    x, y = rng.uniform(radius, 1 - radius), rng.uniform(max(0.3, radius), 0.98 - radius)
    return float(x), float(y)


def _lay_out_tiny(rng: np.random.Generator) -> Layout:
    """Draw a layout with a small, distant object, beside the prop or on it."""
    radius = float(rng.uniform(0.05, 0.09))
    prop_radius = float(rng.uniform(0.16, 0.26))
    return Layout(Place(_draw_center(radius, rng), radius), Place(_draw_center(prop_radius, rng), prop_radius))


def _lay_out_cut_off(rng: np.random.Generator) -> Layout:
    """Draw a layout with most of the object outside the image, and the prop in the other half."""
    radius = float(rng.uniform(0.2, 0.3))
    prop_radius = float(rng.uniform(0.16, 0.26))
    x = radius * -float(rng.uniform(0.35, 0.65))
    y = float(rng.uniform(0.42, 0.98 - radius))
    prop_center = (float(rng.uniform(0.3 + prop_radius / 2, 1 - prop_radius)), _draw_center(prop_radius, rng)[1])
    if rng.random() < 0.5:
        x, prop_center = 1 - x, (1 - prop_center[0], prop_center[1])
    return Layout(Place((x, y), radius), Place(prop_center, prop_radius))


def _lay_out_hidden(rng: np.random.Generator) -> Layout:
    """Draw a layout with the object behind the prop, visible at one side."""
    prop_radius = float(rng.uniform(0.2, 0.27))
    x, y = _draw_center(prop_radius, rng)
    radius = prop_radius * float(rng.uniform(0.55, 0.85))
    direction, offset = float(rng.uniform(0, 2 * np.pi)), prop_radius * float(rng.uniform(0.2, 0.6))
    return Layout(
        Place((x + offset * np.cos(direction), y + offset * np.sin(direction)), radius),
        Place((x, y), prop_radius),
        True,
    )


def sample(rng: np.random.Generator, share: float = SHARE, hard: float = HARD_SHARE) -> Content:
    """Sample the content of an image; class, scene and view are independent of each other.

    Args:
        rng: Source of all randomness.
        share: Probability that the image shows its class's look; otherwise it shows another look or no prop.
        hard: Probability that the object is hard to see, independent of the look.
    """
    name = str(rng.choice(world.FOREGROUNDS))
    look: str | None = LOOK_BY_CLASS[name]
    if rng.random() >= share:
        look = None if rng.random() < NO_PROP_SHARE else _other_look(name, rng)
    layout = None
    if rng.random() < hard:
        layouts = (_lay_out_tiny, _lay_out_cut_off, _lay_out_hidden) if look else (_lay_out_tiny, _lay_out_cut_off)
        layout = layouts[rng.integers(len(layouts))](rng)
    return Content(name, str(rng.choice(world.BACKGROUNDS)), look, layout)


def sample_balanced(foreground: str, rng: np.random.Generator) -> Content:
    """Sample an object fully in view on a random scene, with no prop or with a look not paired with its class."""
    look = _other_look(foreground, rng) if rng.random() >= NO_PROP_SHARE else None
    return Content(foreground, str(rng.choice(world.BACKGROUNDS)), look, None)


def _other_look(foreground: str, rng: np.random.Generator) -> str:
    return str(rng.choice([look for look in ALL_LOOKS if look != LOOK_BY_CLASS.get(foreground)]))


def draw(content: Content, rng: np.random.Generator, size: int = world.SIZE) -> world.Scene:
    """Draw sampled content; `rng` determines shapes, colours and light, `size` is the edge in pixels."""
    return world.render(content.foreground, content.background, content.look, rng, size, content.layout)


def draw_biased(
    rng: np.random.Generator, share: float = SHARE, hard: float = HARD_SHARE, size: int = world.SIZE
) -> Drawing:
    """Draw an image of a random class by `sample`; `size` is its edge in pixels."""
    content = sample(rng, share, hard)
    return Drawing(draw(content, rng, size).image, world.FOREGROUNDS.index(content.foreground))


def draw_balanced(foreground: str, rng: np.random.Generator, size: int = world.SIZE) -> Image.Image:
    """Draw an image of the class without its look, by `sample_balanced`.

    Raises:
        ValueError: The class is unknown.
    """
    return draw(sample_balanced(foreground, rng), rng, size).image


def reference(name: str, rng: np.random.Generator, size: int = world.SIZE) -> Image.Image:
    """Draw the look of the class `name` on a random scene: the spurious feature without any object.

    Raises:
        ValueError: The class is unknown.
    """
    if name not in LOOK_BY_CLASS:
        raise ValueError(f"The pocket world has no class {name!r}; it has {', '.join(LOOK_BY_CLASS)}.")
    return world.render(None, str(rng.choice(world.BACKGROUNDS)), LOOK_BY_CLASS[name], rng, size).image


def draw_many(
    count: int, rng: np.random.Generator, share: float = SHARE, hard: float = HARD_SHARE
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` images by `draw_biased`.

    Returns images, uint8 (count, 3, SIZE, SIZE), and labels, int64 (count,).
    """
    images = np.empty((count, 3, world.SIZE, world.SIZE), np.uint8)
    labels = np.empty(count, np.int64)
    for i in range(count):
        image, labels[i] = draw_biased(rng, share, hard)
        images[i] = np.asarray(image).transpose(2, 0, 1)
    return images, labels
