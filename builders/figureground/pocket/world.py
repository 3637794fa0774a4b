"""The pocket world: drawn images with known foreground, background and prop.

Three factors vary independently. A *foreground* object stands in a *background* scene, with an optional *prop* beside
it in one of several *looks* (colour, pattern, shape) that captions never name. Everything is drawn with Pillow,
antialiased, from a random generator alone, so a builder's claims about labels can be measured here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
"""Default edge of an image in pixels."""

SUPERSAMPLE = 3

Color = tuple[float, float, float]
Points = Sequence[tuple[float, float]]


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


class Pen:
    """Draws shapes given in an object's own coordinates (x right, y down, about -1 to 1).

    The pen rotates, mirrors, scales and places them on the canvas, colours them in the scene's light, and records
    the covered area in a mask.
    """

    def __init__(
        self,
        canvas: Image.Image,
        center: tuple[float, float] = (0.5, 0.5),
        radius: float = 0.5,
        angle: float = 0.0,
        flip: bool = False,
        light: Color = (1.0, 1.0, 1.0),
    ):
        """`center` and `radius` are shares of the canvas, `angle` is in radians."""
        edge = canvas.width
        self._draw = ImageDraw.Draw(canvas)
        self._opaque = canvas.mode == "RGBA"
        self.mask = Image.new("L", canvas.size, 0)
        self._mask = ImageDraw.Draw(self.mask)
        self._light = light
        side = -1.0 if flip else 1.0
        cos, sin = math.cos(angle) * radius * edge, math.sin(angle) * radius * edge
        self._a, self._b = cos * side, -sin
        self._c, self._d = sin * side, cos
        self._x, self._y = center[0] * edge, center[1] * edge
        self._scale = radius * edge

    def _place(self, points: Points) -> list[tuple[float, float]]:
        return [(self._x + self._a * x + self._b * y, self._y + self._c * x + self._d * y) for x, y in points]

    def _shade(self, color: Color) -> tuple[int, ...]:
        rgb = tuple(max(0, min(255, round(255 * c * k))) for c, k in zip(color, self._light, strict=True))
        return (*rgb, 255) if self._opaque else rgb

    def polygon(self, points: Points, color: Color) -> None:
        placed = self._place(points)
        self._draw.polygon(placed, fill=self._shade(color))
        self._mask.polygon(placed, fill=255)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, turn: float = 0.0) -> None:
        self.polygon(arc(x, y, rx, ry, 0, 360, turn=turn), color)

    def line(self, points: Points, width: float, color: Color) -> None:
        placed, thick = self._place(points), max(1, round(width * self._scale))
        self._draw.line(placed, fill=self._shade(color), width=thick, joint="curve")
        self._mask.line(placed, fill=255, width=thick, joint="curve")


def arc(
    x: float,
    y: float,
    rx: float,
    ry: float,
    start: float,
    stop: float,
    turn: float = 0.0,
    steps: int = 28,
) -> list[tuple[float, float]]:
    """Return points on an ellipse from `start` to `stop` degrees (0 is right, 90 down), rotated by `turn` radians."""
    out = []
    cos, sin = math.cos(turn), math.sin(turn)
    for i in range(steps + 1):
        a = math.radians(start + (stop - start) * i / steps)
        u, v = rx * math.cos(a), ry * math.sin(a)
        out.append((x + u * cos - v * sin, y + u * sin + v * cos))
    return out


def box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def lighter(color: Color, amount: float = 0.35) -> Color:
    r, g, b = (c + (1 - c) * amount for c in color)
    return r, g, b


def darker(color: Color, amount: float = 0.3) -> Color:
    r, g, b = (c * (1 - amount) for c in color)
    return r, g, b


RED, ORANGE, YELLOW = (0.86, 0.18, 0.16), (0.95, 0.52, 0.12), (0.98, 0.82, 0.18)
GREEN, TEAL, BLUE = (0.22, 0.62, 0.25), (0.10, 0.60, 0.60), (0.16, 0.38, 0.82)
PURPLE, PINK, BROWN = (0.52, 0.24, 0.70), (0.95, 0.48, 0.65), (0.50, 0.31, 0.18)
WHITE, GREY, BLACK = (0.97, 0.97, 0.96), (0.55, 0.56, 0.60), (0.10, 0.10, 0.13)
CREAM = (0.96, 0.88, 0.72)


def _pick(rng: np.random.Generator, *colors: Color) -> Color:
    """Return one of the colours, slightly varied."""
    color = colors[rng.integers(len(colors))]
    r, g, b = (float(np.clip(c + d, 0, 1)) for c, d in zip(color, rng.uniform(-0.05, 0.05, 3), strict=True))
    return r, g, b


# --- foreground objects -----------------------------------------------------------------------------


def _bird(pen: Pen, rng: np.random.Generator) -> None:
    body = _pick(rng, RED, BLUE, YELLOW, TEAL)
    plump = rng.uniform(0.46, 0.58)
    pen.line([(-0.05, 0.4), (-0.08, 0.92)], 0.08, ORANGE)
    pen.line([(0.18, 0.4), (0.15, 0.92)], 0.08, ORANGE)
    pen.polygon([(-0.45, 0.0), (-1.0, -0.32), (-0.95, 0.12), (-0.4, 0.32)], darker(body))
    pen.ellipse(0.0, 0.12, 0.66, plump, body, turn=-0.25)
    pen.ellipse(0.52, -0.46, 0.36, 0.35, body)
    pen.ellipse(0.18, 0.28, 0.36, 0.27, lighter(body, 0.55), turn=-0.3)
    pen.polygon([(0.82, -0.58), (1.15, -0.40), (0.80, -0.30)], ORANGE)
    wing = rng.uniform(-0.2, 0.2)
    pen.polygon([(0.1, -0.12), (-0.62, -0.05 + wing), (-0.5, 0.28 + wing), (0.0, 0.25)], darker(body))
    pen.ellipse(0.6, -0.52, 0.09, 0.1, BLACK)


def _fish(pen: Pen, rng: np.random.Generator) -> None:
    body = _pick(rng, ORANGE, YELLOW, PURPLE, PINK)
    stripe = _pick(rng, WHITE, lighter(body, 0.7))
    tall = rng.uniform(0.46, 0.6)
    pen.polygon([(-0.45, 0), (-1.05, -0.5), (-0.9, 0), (-1.05, 0.5)], darker(body, 0.2))
    pen.polygon([(-0.25, -tall + 0.1), (0.15, -tall - 0.3), (0.3, -tall + 0.15)], darker(body, 0.2))
    pen.polygon([(-0.1, tall - 0.1), (0.1, tall + 0.25), (0.25, tall - 0.12)], darker(body, 0.2))
    pen.ellipse(0.12, 0, 0.78, tall, body)
    pen.polygon(arc(0.02, 0, 0.18, tall * 0.97, 90, 270) + arc(0.14, 0, 0.12, tall * 0.97, 270, 90), stripe)
    pen.ellipse(0.55, -0.13, 0.15, 0.15, WHITE)
    pen.ellipse(0.58, -0.13, 0.08, 0.08, BLACK)


def _cat(pen: Pen, rng: np.random.Generator) -> None:
    fur = _pick(rng, ORANGE, GREY, (0.22, 0.2, 0.22), CREAM)
    pale = lighter(fur, 0.5)
    sweep = rng.uniform(-0.15, 0.2)
    pen.line([(-0.45, 0.75), (-0.9, 0.6), (-0.98, 0.15), (-0.8, -0.15 + sweep)], 0.2, fur)
    pen.ellipse(-0.05, 0.45, 0.55, 0.5, fur)
    pen.ellipse(0.1, 0.6, 0.26, 0.33, pale)
    pen.polygon([(-0.38, -0.55), (-0.33, -1.08), (0.1, -0.72)], fur)
    pen.polygon([(0.62, -0.55), (0.6, -1.08), (0.15, -0.72)], fur)
    pen.polygon([(-0.26, -0.68), (-0.25, -0.92), (-0.05, -0.74)], PINK)
    pen.polygon([(0.5, -0.68), (0.5, -0.92), (0.3, -0.74)], PINK)
    pen.ellipse(0.12, -0.35, 0.55, 0.46, fur)
    pen.ellipse(0.13, -0.16, 0.26, 0.19, pale)
    eye = _pick(rng, YELLOW, GREEN)
    for x in (-0.1, 0.35):
        pen.ellipse(x, -0.42, 0.12, 0.13, eye)
        pen.ellipse(x, -0.42, 0.05, 0.11, BLACK)
    pen.polygon([(0.06, -0.25), (0.2, -0.25), (0.13, -0.16)], PINK)


def _snail(pen: Pen, rng: np.random.Generator) -> None:
    shell = _pick(rng, BROWN, PURPLE, RED, TEAL)
    body = _pick(rng, CREAM, (0.78, 0.72, 0.42), (0.85, 0.62, 0.45))
    pen.line([(0.72, 0.1), (0.62, -0.42)], 0.08, body)
    pen.line([(0.85, 0.1), (0.98, -0.38)], 0.08, body)
    pen.ellipse(0.62, -0.46, 0.09, 0.09, BLACK)
    pen.ellipse(0.98, -0.42, 0.09, 0.09, BLACK)
    pen.polygon(
        [(-1.05, 0.8), (-0.6, 0.5), (0.35, 0.5), (0.55, 0.05), (0.8, -0.05), (1.02, 0.12), (0.98, 0.5), (0.72, 0.8)],
        body,
    )
    big = rng.uniform(0.58, 0.68)
    pen.ellipse(-0.2, 0.05, big, big, shell)
    pen.ellipse(-0.15, 0.08, big * 0.7, big * 0.7, lighter(shell, 0.45))
    pen.ellipse(-0.1, 0.1, big * 0.42, big * 0.42, shell)
    pen.ellipse(-0.08, 0.12, big * 0.16, big * 0.16, lighter(shell, 0.45))


def _car(pen: Pen, rng: np.random.Generator) -> None:
    paint = _pick(rng, RED, BLUE, YELLOW, GREEN)
    glass = (0.72, 0.88, 0.95)
    roof = rng.uniform(-0.62, -0.48)
    front, back = rng.uniform(0.35, 0.5), rng.uniform(-0.6, -0.45)
    pen.polygon([(back - 0.2, -0.05), (back, roof), (front - 0.15, roof), (front + 0.15, -0.05)], paint)
    middle = (front + back) / 2
    pen.polygon(
        [(back - 0.06, -0.08), (back + 0.07, roof + 0.1), (middle - 0.1, roof + 0.1), (middle - 0.1, -0.08)], glass
    )
    pen.polygon([(middle, -0.08), (middle, roof + 0.1), (front - 0.2, roof + 0.1), (front + 0.02, -0.08)], glass)
    pen.polygon([(-1.0, 0.38), (-1.02, 0.0), (-0.85, -0.1), (0.75, -0.1), (1.02, 0.08), (1.04, 0.38)], paint)
    pen.polygon(box(-1.02, 0.27, 1.04, 0.42), darker(paint, 0.35))
    pen.ellipse(0.92, 0.1, 0.1, 0.1, YELLOW)
    for x in (-0.55, 0.58):
        pen.ellipse(x, 0.42, 0.27, 0.27, BLACK)
        pen.ellipse(x, 0.42, 0.12, 0.12, (0.8, 0.8, 0.82))


def _boat(pen: Pen, rng: np.random.Generator) -> None:
    hull = _pick(rng, BROWN, RED, BLUE, GREEN)
    sail = _pick(rng, WHITE, CREAM, PINK, ORANGE)
    tilt = rng.uniform(-0.08, 0.08)
    pen.polygon(box(-0.05, -1.0, 0.06, 0.4), darker(BROWN, 0.3))
    pen.polygon([(0.12, -0.95), (0.12, 0.25), (0.85 + tilt, 0.25)], sail)
    pen.polygon([(-0.12, -0.75), (-0.12, 0.25), (-0.7 + tilt, 0.25)], darker(sail, 0.15))
    pen.polygon([(-1.0, 0.38), (1.02, 0.38), (0.7, 0.88), (-0.65, 0.88)], hull)
    pen.polygon([(-1.0, 0.38), (1.02, 0.38), (0.95, 0.52), (-0.93, 0.52)], lighter(hull, 0.5))


def _rocket(pen: Pen, rng: np.random.Generator) -> None:
    trim = _pick(rng, RED, BLUE, ORANGE, GREEN)
    skin = _pick(rng, WHITE, (0.80, 0.82, 0.86))
    wide = rng.uniform(0.32, 0.4)
    pen.polygon([(-0.2, 0.62), (0.2, 0.62), (0.0, 1.1)], ORANGE)
    pen.polygon([(-0.1, 0.62), (0.1, 0.62), (0.0, 0.9)], YELLOW)
    for side in (-1, 1):
        pen.polygon([(side * wide * 0.8, 0.1), (side * 0.78, 0.5), (side * 0.75, 0.8), (side * wide * 0.6, 0.6)], trim)
    pen.polygon(arc(0, -0.2, wide, 0.85, 180, 360) + [(wide * 0.85, 0.65), (-wide * 0.85, 0.65)], skin)
    nose = [(x, y) for x, y in arc(0, -0.2, wide, 0.85, 205, 335)]
    pen.polygon(nose, trim)
    pen.ellipse(0, -0.18, 0.2, 0.2, trim)
    pen.ellipse(0, -0.18, 0.13, 0.13, (0.62, 0.86, 0.96))


def _cactus(pen: Pen, rng: np.random.Generator) -> None:
    green = _pick(rng, GREEN, (0.30, 0.55, 0.20), (0.16, 0.55, 0.40))
    pot = _pick(rng, (0.78, 0.38, 0.22), BLUE, PURPLE)
    left, right = rng.uniform(-0.35, 0.05), rng.uniform(-0.5, -0.1)
    for side, height in ((-1, left), (1, right)):
        x = side * 0.66
        pen.line([(0, height + 0.3), (x, height + 0.3), (x, height - 0.1)], 0.26, green)
        pen.ellipse(x, height - 0.1, 0.13, 0.13, green)
        pen.ellipse(x, height + 0.3, 0.13, 0.13, green)
    pen.polygon(arc(0, -0.68, 0.27, 0.3, 180, 360) + [(0.27, 0.5), (-0.27, 0.5)], green)
    pen.polygon(arc(-0.07, -0.66, 0.08, 0.2, 180, 360) + [(0.01, 0.5), (-0.15, 0.5)], lighter(green, 0.35))
    if rng.random() < 0.6:
        pen.ellipse(0, -0.95, 0.16, 0.13, PINK)
    pen.polygon([(-0.48, 0.5), (0.48, 0.5), (0.36, 1.0), (-0.36, 1.0)], pot)
    pen.polygon(box(-0.55, 0.4, 0.55, 0.58), lighter(pot, 0.25))


def _mug(pen: Pen, rng: np.random.Generator) -> None:
    clay = _pick(rng, BLUE, RED, YELLOW, PURPLE, WHITE)
    band = _pick(rng, WHITE, CREAM) if clay[0] < 0.9 or clay[2] < 0.9 else _pick(rng, RED, BLUE)
    top = rng.uniform(-0.72, -0.58)
    ring = arc(0.5, 0.1, 0.45, 0.42, -85, 85)
    pen.line(ring, 0.17, darker(clay, 0.2))
    pen.polygon([(-0.75, top), (0.5, top), (0.44, 0.82), (-0.69, 0.82)], clay)
    pen.polygon([(-0.73, 0.02), (0.48, 0.02), (0.465, 0.34), (-0.715, 0.34)], band)
    pen.ellipse(-0.125, top, 0.63, 0.19, lighter(clay, 0.4))
    pen.ellipse(-0.125, top + 0.03, 0.5, 0.13, (0.32, 0.18, 0.10))


def _umbrella(pen: Pen, rng: np.random.Generator) -> None:
    one = _pick(rng, RED, PURPLE, TEAL, ORANGE)
    two = _pick(rng, WHITE, YELLOW)
    deep = rng.uniform(0.78, 0.95)
    pen.line([(0, -0.2), (0, 0.78), (0.1, 0.93), (0.27, 0.88), (0.3, 0.72)], 0.09, BROWN)
    edges = [-1.0, -0.5, 0.0, 0.5, 1.0]
    for i in range(4):
        rim = arc((edges[i] + edges[i + 1]) / 2, 0.0, 0.25, 0.12, 180, 360)
        dome = [
            (edges[j] * math.cos(t), -deep * math.sin(t))
            for j, ts in ((i + 1, range(0, 13)), (i, range(12, -1, -1)))
            for t in [k / 12 * math.pi / 2 for k in ts]
        ]
        pen.polygon(rim + dome, one if i % 2 == 0 else two)
    pen.line([(0, -deep), (0, -deep - 0.14)], 0.08, BROWN)


# --- props: each in four looks ----------------------------------------------------------------------


def _flower(pen: Pen, rng: np.random.Generator, look: int) -> None:
    pen.line([(0, 0), (rng.uniform(-0.08, 0.08), 1.0)], 0.13, GREEN)
    pen.ellipse(0.26, 0.68, 0.27, 0.11, GREEN, turn=-0.5)
    if look == 0:  # red, five round petals
        for i in range(5):
            a = i * 2 * math.pi / 5 - math.pi / 2
            pen.ellipse(0.42 * math.cos(a), -0.3 + 0.42 * math.sin(a), 0.32, 0.32, RED)
        pen.ellipse(0, -0.3, 0.24, 0.24, YELLOW)
    elif look == 1:  # white daisy, dark eye
        for i in range(8):
            a = i * math.pi / 4
            pen.ellipse(0.44 * math.cos(a), -0.3 + 0.44 * math.sin(a), 0.34, 0.15, WHITE, turn=a)
        pen.ellipse(0, -0.3, 0.28, 0.28, (0.35, 0.2, 0.1))
    elif look == 2:  # blue tulip
        pen.polygon(
            [
                (-0.55, -0.95),
                (-0.25, -0.5),
                (0, -1.0),
                (0.25, -0.5),
                (0.55, -0.95),
                (0.55, -0.2),
                (0.25, 0.1),
                (-0.25, 0.1),
                (-0.55, -0.2),
            ],
            BLUE,
        )
        pen.ellipse(0, -0.2, 0.2, 0.25, lighter(BLUE, 0.6))
    else:  # yellow and purple star
        star = [
            (
                (0.75 if i % 2 == 0 else 0.3) * math.sin(i * math.pi / 5),
                -0.3 - (0.75 if i % 2 == 0 else 0.3) * math.cos(i * math.pi / 5),
            )
            for i in range(10)
        ]
        pen.polygon(star, PURPLE)
        pen.ellipse(0, -0.3, 0.24, 0.24, YELLOW)


def _ball(pen: Pen, rng: np.random.Generator, look: int) -> None:
    turn = rng.uniform(-0.5, 0.5)

    def band(half: float, color: Color) -> None:
        a = math.degrees(math.asin(half))
        points = arc(0, 0, 0.85, 0.85, -a, a, turn=turn) + arc(0, 0, 0.85, 0.85, 180 - a, 180 + a, turn=turn)
        pen.polygon(points, color)

    if look == 0:  # red with a white band
        pen.ellipse(0, 0, 0.85, 0.85, RED)
        band(0.33, WHITE)
    elif look == 1:  # beach ball: blue and yellow quarters
        pen.ellipse(0, 0, 0.85, 0.85, BLUE)
        for start in (0, 180):
            pen.polygon([(0, 0), *arc(0, 0, 0.85, 0.85, start, start + 90, turn=turn)], YELLOW)
    elif look == 2:  # white with dark dots
        pen.ellipse(0, 0, 0.85, 0.85, WHITE)
        pen.ellipse(0, 0, 0.27, 0.27, BLACK)
        for i in range(4):
            a = turn + i * math.pi / 2
            pen.ellipse(0.6 * math.cos(a), 0.6 * math.sin(a), 0.19, 0.19, BLACK)
    else:  # green, orange core
        pen.ellipse(0, 0, 0.85, 0.85, GREEN)
        pen.ellipse(0, 0, 0.48, 0.48, ORANGE)


def _flag(pen: Pen, rng: np.random.Generator, look: int) -> None:
    wave = rng.uniform(-0.08, 0.08)
    pen.line([(-0.7, -1.0), (-0.7, 1.0)], 0.13, BROWN)
    cloth = [(-0.65, -0.95), (0.85, -0.95 + wave), (0.85, 0.1 + wave), (-0.65, 0.1)]
    if look == 0:  # red with a white cross
        pen.polygon(cloth, RED)
        pen.polygon(box(-0.65, -0.56, 0.85, -0.3), WHITE)
        pen.polygon(box(-0.2, -0.95, 0.08, 0.1), WHITE)
    elif look == 1:  # blue and white stripes
        pen.polygon(cloth, BLUE)
        pen.polygon([(-0.65, -0.6), (0.85, -0.6 + wave), (0.85, -0.25 + wave), (-0.65, -0.25)], WHITE)
    elif look == 2:  # yellow pennant, green base
        pen.polygon([(-0.65, -0.95), (0.95, -0.42 + wave), (-0.65, 0.1)], YELLOW)
        pen.polygon([(-0.65, -0.95), (-0.2, -0.79), (-0.2, -0.06), (-0.65, 0.1)], GREEN)
    else:  # black and white chequers
        pen.polygon(cloth, WHITE)
        pen.polygon(box(-0.65, -0.95, 0.1, -0.42), BLACK)
        pen.polygon(box(0.1, -0.42, 0.85, 0.1 + wave), BLACK)


def _gift(pen: Pen, rng: np.random.Generator, look: int) -> None:
    paper, ribbon = ((RED, YELLOW), (BLUE, WHITE), (GREEN, RED), (PINK, PURPLE))[look]
    top = (-0.3, -0.25, -0.6, -0.3)[look] + rng.uniform(-0.05, 0.05)
    half = (0.8, 0.85, 0.58, 0.8)[look]
    for side in (-1, 1):
        pen.ellipse(side * 0.3, top - 0.24, 0.3, 0.17, ribbon, turn=side * -0.5)
    pen.polygon(box(-half, top, half, 0.9), paper)
    if look == 0:  # upright ribbon
        pen.polygon(box(-0.16, top, 0.16, 0.9), ribbon)
    elif look == 1:  # dots
        for x, y in ((-0.45, 0.05), (0.4, 0.1), (0.0, 0.4), (-0.5, 0.65), (0.5, 0.68)):
            pen.ellipse(x, y, 0.17, 0.17, ribbon)
    elif look == 2:  # tall, ribbon across
        pen.polygon(box(-half, 0.0, half, 0.32), ribbon)
    else:  # lid
        pen.polygon(box(-half - 0.08, top, half + 0.08, top + 0.4), ribbon)


def _lantern(pen: Pen, rng: np.random.Generator, look: int) -> None:
    pen.line(arc(0, -0.62, 0.3, 0.32, 180, 360), 0.1, BLACK)
    if look == 0:  # round red paper lantern
        pen.ellipse(0, 0.1, 0.78, 0.65, RED)
        pen.ellipse(0, 0.1, 0.3, 0.63, lighter(ORANGE, 0.3))
    elif look == 1:  # square, yellow light in a black frame
        pen.polygon(box(-0.6, -0.55, 0.6, 0.8), BLACK)
        pen.polygon(box(-0.38, -0.35, 0.38, 0.6), YELLOW)
    elif look == 2:  # green cone
        pen.polygon([(-0.3, -0.6), (0.3, -0.6), (0.85, 0.65), (-0.85, 0.65)], GREEN)
        pen.polygon([(-0.62, 0.2), (0.62, 0.2), (0.74, 0.45), (-0.74, 0.45)], YELLOW)
    else:  # blue and white stripes
        pen.polygon(box(-0.5, -0.6, 0.5, 0.75), BLUE)
        for y in (-0.32, 0.22):
            pen.polygon(box(-0.5, y, 0.5, y + 0.27), WHITE)
    pen.polygon(box(-0.42, -0.7, 0.42, -0.52), BLACK)
    pen.polygon(box(-0.42, 0.7, 0.42, 0.9), BLACK)


def _kite(pen: Pen, rng: np.random.Generator, look: int) -> None:
    sway = rng.uniform(-0.2, 0.2)
    pen.line([(0, 0.35), (0.12 + sway, 0.65), (-0.1 + sway, 0.85), (0.1 + sway, 1.1)], 0.1, BROWN)
    top, left, right, bottom = (0, -1.05), (-0.72, -0.35), (0.72, -0.35), (0, 0.55)
    middle = (0, -0.35)
    if look == 0:  # red and yellow quarters
        pen.polygon([top, right, bottom, left], RED)
        pen.polygon([top, right, middle], YELLOW)
        pen.polygon([bottom, left, middle], YELLOW)
    elif look == 1:  # blue with a white cross-piece
        pen.polygon([top, right, bottom, left], BLUE)
        pen.polygon([(-0.72, -0.35), (-0.5, -0.57), (0.5, -0.57), (0.72, -0.35), (0.58, -0.15), (-0.58, -0.15)], WHITE)
    elif look == 2:  # green delta, pink heart
        pen.polygon([top, (0.95, 0.4), (-0.95, 0.4)], GREEN)
        pen.polygon([(0, -0.55), (0.4, 0.25), (-0.4, 0.25)], PINK)
    else:  # orange hexagon, blue heart
        pen.polygon([(-0.4, -1.0), (0.4, -1.0), (0.78, -0.3), (0.4, 0.4), (-0.4, 0.4), (-0.78, -0.3)], ORANGE)
        pen.ellipse(0, -0.3, 0.38, 0.38, BLUE)


# --- background scenes ------------------------------------------------------------------------------
# A scene's pen covers the canvas: x and y run from 0 to 1.


def _ground(pen: Pen, rng: np.random.Generator, horizon: float, color: Color, bumps: float = 0.04) -> None:
    lift = rng.uniform(-bumps, bumps, 4)
    ridge = [(-0.05, horizon + lift[0]), (0.3, horizon + lift[1]), (0.7, horizon + lift[2]), (1.05, horizon + lift[3])]
    xs = np.linspace(-0.05, 1.05, 16)
    ys = np.interp(xs, [p[0] for p in ridge], [p[1] for p in ridge])
    ys = np.convolve(np.pad(ys, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    pen.polygon([*zip(xs.tolist(), ys.tolist(), strict=True), (1.05, 1.05), (-0.05, 1.05)], color)


def _sky(pen: Pen, color: Color, low: Color, horizon: float) -> None:
    bands = 6
    for i in range(bands):
        t = i / (bands - 1)
        red, green, blue = (a * (1 - t) + b * t for a, b in zip(color, low, strict=True))
        pen.polygon(box(-0.05, horizon * i / bands - 0.06, 1.05, 1.05), (red, green, blue))


def _cloud(pen: Pen, rng: np.random.Generator, color: Color, y: float) -> None:
    x, wide = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.16)
    pen.ellipse(x, y, wide, 0.045, color)
    pen.ellipse(x + wide * 0.25, y - 0.035, wide * 0.5, 0.05, color)


def _grass(pen: Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.3, 0.5)
    _sky(pen, (0.42, 0.70, 0.95), (0.78, 0.90, 0.98), horizon)
    if rng.random() < 0.7:
        _cloud(pen, rng, WHITE, rng.uniform(0.08, horizon - 0.12))
    green = _pick(rng, (0.38, 0.72, 0.25), (0.48, 0.76, 0.28))
    _ground(pen, rng, horizon, darker(green, 0.18), 0.07)
    _ground(pen, rng, horizon + rng.uniform(0.12, 0.2), green, 0.05)
    for _ in range(rng.integers(6, 11)):
        x, y = rng.uniform(0.02, 0.98), rng.uniform(horizon + 0.2, 0.98)
        pen.polygon(
            [(x - 0.045, y), (x - 0.03, y - 0.075), (x, y - 0.02), (x + 0.03, y - 0.085), (x + 0.045, y)],
            darker(green, 0.3),
        )


def _road(pen: Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.26, 0.4)
    _sky(pen, (0.55, 0.72, 0.88), (0.90, 0.90, 0.86), horizon)
    verge = _pick(rng, (0.66, 0.60, 0.38), (0.58, 0.62, 0.36))
    _ground(pen, rng, horizon, verge, 0.02)
    vanish = rng.uniform(0.4, 0.6)
    grey = _pick(rng, (0.36, 0.36, 0.39), (0.45, 0.45, 0.47))
    left, right = rng.uniform(-0.25, -0.05), rng.uniform(1.05, 1.25)
    top = horizon + 0.02
    pen.polygon([(vanish - 0.09, top), (vanish + 0.09, top), (right, 1.05), (left, 1.05)], grey)
    center = (left + right) / 2
    for a, b in ((0.05, 0.16), (0.26, 0.42), (0.56, 0.8)):

        def at(t: float, side: float) -> tuple[float, float]:
            return (vanish + (center - vanish) * t + side * (0.008 + 0.045 * t), top + (1.05 - top) * t)

        pen.polygon([at(a, -1), at(a, 1), at(b, 1), at(b, -1)], (0.95, 0.93, 0.80))


def _forest(pen: Pen, rng: np.random.Generator) -> None:
    leaf = _pick(rng, (0.10, 0.34, 0.18), (0.14, 0.38, 0.14))
    pen.polygon(box(-0.05, -0.05, 1.05, 1.05), lighter(leaf, 0.22))
    floor = rng.uniform(0.62, 0.74)
    _ground(pen, rng, floor, (0.26, 0.24, 0.12), 0.03)
    bark = _pick(rng, (0.34, 0.22, 0.14), (0.28, 0.19, 0.14))
    start = rng.uniform(-0.05, 0.12)
    for i in range(5):
        x, wide = start + i * 0.23 + rng.uniform(-0.04, 0.04), rng.uniform(0.03, 0.05)
        base = floor + rng.uniform(0.0, 0.12)
        pen.polygon([(x - wide, -0.05), (x + wide, -0.05), (x + wide * 1.3, base), (x - wide * 1.3, base)], bark)
    for i in range(6):
        pen.ellipse(i * 0.2 + rng.uniform(-0.05, 0.05), rng.uniform(-0.02, 0.1), 0.17, rng.uniform(0.12, 0.2), leaf)


def _water(pen: Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.14, 0.3)
    _sky(pen, (0.60, 0.82, 0.97), (0.86, 0.95, 0.98), horizon)
    sea = _pick(rng, (0.10, 0.42, 0.74), (0.08, 0.50, 0.72))
    _ground(pen, rng, horizon, sea, 0.0)
    y = horizon + rng.uniform(0.06, 0.1)
    while y < 1.02:
        step = 0.05 + 0.12 * (y - horizon)
        phase, crest = rng.uniform(0, 1), []
        wide = 0.12 + 0.16 * (y - horizon)
        for x in np.linspace(-0.05, 1.05, 24):
            crest.append((float(x), y - 0.022 * math.sin(2 * math.pi * (x / wide / 2 + phase))))
        pen.polygon(crest + [(x, v + step * 0.42) for x, v in reversed(crest)], lighter(sea, 0.32))
        y += step * 1.5


def _sand(pen: Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.3, 0.46)
    _sky(pen, (0.38, 0.72, 0.92), (0.95, 0.92, 0.80), horizon)
    sun = rng.uniform(0.15, 0.85)
    pen.ellipse(sun, rng.uniform(0.08, 0.16), 0.075, 0.075, (1.0, 0.93, 0.55))
    sand = _pick(rng, (0.93, 0.78, 0.48), (0.95, 0.82, 0.56))
    _ground(pen, rng, horizon, darker(sand, 0.14), 0.1)
    _ground(pen, rng, horizon + rng.uniform(0.12, 0.2), sand, 0.08)
    _ground(pen, rng, horizon + rng.uniform(0.34, 0.44), lighter(sand, 0.25), 0.08)


def _indoors(pen: Pen, rng: np.random.Generator) -> None:
    wall = _pick(rng, (0.88, 0.72, 0.66), (0.78, 0.70, 0.82), (0.90, 0.82, 0.62), (0.72, 0.80, 0.78))
    floor = rng.uniform(0.66, 0.76)
    pen.polygon(box(-0.05, -0.05, 1.05, 1.05), wall)
    wood = _pick(rng, (0.62, 0.40, 0.24), (0.54, 0.34, 0.22))
    pen.polygon(box(-0.05, floor, 1.05, 1.05), wood)
    pen.polygon(box(-0.05, floor - 0.045, 1.05, floor), WHITE)
    for i in range(5):
        x = i * 0.25 + rng.uniform(-0.03, 0.03)
        pen.line([(0.5 + (x - 0.5) * 0.8, floor), (0.5 + (x - 0.5) * 1.4, 1.05)], 0.014, darker(wood, 0.25))
    x = rng.uniform(0.06, 0.62)
    y = rng.uniform(0.08, 0.14)
    pen.polygon(box(x, y, x + 0.32, y + 0.34), WHITE)
    for dx in (0.03, 0.175):
        for dy in (0.03, 0.185):
            pen.polygon(box(x + dx, y + dy, x + dx + 0.115, y + dy + 0.125), (0.60, 0.82, 0.95))


def _snow(pen: Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.34, 0.5)
    _sky(pen, (0.62, 0.72, 0.84), (0.82, 0.87, 0.93), horizon)
    for _ in range(rng.integers(1, 4)):
        x, foot, tall = rng.uniform(0.05, 0.95), horizon + 0.04, rng.uniform(0.2, 0.28)
        pen.polygon([(x - 0.1, foot), (x, foot - tall), (x + 0.1, foot)], (0.22, 0.42, 0.38))
        pen.polygon([(x - 0.05, foot - tall * 0.5), (x, foot - tall), (x + 0.05, foot - tall * 0.5)], WHITE)
    _ground(pen, rng, horizon, (0.86, 0.90, 0.96), 0.05)
    _ground(pen, rng, horizon + rng.uniform(0.16, 0.26), WHITE, 0.06)
    for _ in range(rng.integers(9, 14)):
        pen.ellipse(rng.uniform(0, 1), rng.uniform(0, horizon), 0.02, 0.02, WHITE)


def _rain(pen: Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.48, 0.6)
    _sky(pen, (0.34, 0.37, 0.44), (0.56, 0.60, 0.66), horizon)
    for i in range(4):
        pen.ellipse(i * 0.3 + rng.uniform(0, 0.1), rng.uniform(0.0, 0.06), 0.2, 0.1, (0.25, 0.27, 0.33))
    ground = _pick(rng, (0.36, 0.42, 0.44), (0.40, 0.42, 0.48))
    _ground(pen, rng, horizon, ground, 0.02)
    for _ in range(3):
        pen.ellipse(
            rng.uniform(0.05, 0.95),
            rng.uniform(horizon + 0.12, 0.97),
            rng.uniform(0.1, 0.17),
            0.035,
            (0.62, 0.70, 0.78),
        )
    slant = rng.uniform(0.03, 0.06)
    for i in range(4):
        for j in range(4):
            x, y = (i + rng.uniform(0.1, 0.9)) * 0.25, 0.1 + (j + rng.uniform(0.1, 0.9)) * 0.22
            pen.line([(x, y), (x - slant, y + 0.13)], 0.02, (0.74, 0.83, 0.92))


def _night(pen: Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.5, 0.64)
    _sky(pen, (0.03, 0.04, 0.16), (0.13, 0.14, 0.36), horizon)
    x, y = rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.2)
    pen.ellipse(x, y, 0.09, 0.09, (0.97, 0.95, 0.80))
    pen.ellipse(x + 0.045, y - 0.02, 0.075, 0.075, (0.05, 0.06, 0.2))
    for _ in range(rng.integers(8, 13)):
        pen.ellipse(rng.uniform(0, 1), rng.uniform(0, horizon - 0.05), 0.016, 0.016, (0.95, 0.95, 0.85))
    _ground(pen, rng, horizon, (0.06, 0.08, 0.20), 0.09)
    _ground(pen, rng, horizon + rng.uniform(0.14, 0.22), (0.04, 0.06, 0.13), 0.05)


def _cave(pen: Pen, rng: np.random.Generator) -> None:
    rock = _pick(rng, (0.36, 0.27, 0.22), (0.33, 0.29, 0.27))
    pen.polygon(box(-0.05, -0.05, 1.05, 1.05), rock)
    x, y = rng.uniform(0.35, 0.65), rng.uniform(0.42, 0.5)
    for grow, shade in ((1.3, 0.25), (1.0, 0.5)):
        pen.ellipse(x, y, 0.33 * grow, 0.3 * grow, darker(rock, shade))
    pen.ellipse(x, y, 0.16, 0.17, (0.95, 0.86, 0.62))
    _ground(pen, rng, rng.uniform(0.62, 0.7), darker(rock, 0.15), 0.05)
    start = rng.uniform(-0.02, 0.08)
    for i in range(6):
        c, drop = start + i * 0.19, rng.uniform(0.12, 0.3)
        pen.polygon([(c - 0.075, -0.05), (c + 0.075, -0.05), (c + rng.uniform(-0.02, 0.02), drop)], lighter(rock, 0.2))


def _plain(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a studio backdrop, for images without a scene."""
    tone = _pick(rng, (0.86, 0.86, 0.88), (0.80, 0.84, 0.90), (0.92, 0.88, 0.84), (0.84, 0.90, 0.84))
    pen.polygon(box(-0.05, -0.05, 1.05, 1.05), tone)
    pen.polygon(box(-0.05, rng.uniform(0.68, 0.8), 1.05, 1.05), darker(tone, 0.08))


_FOREGROUNDS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "bird": _bird, "fish": _fish, "cat": _cat, "snail": _snail, "car": _car,
    "boat": _boat, "rocket": _rocket, "cactus": _cactus, "mug": _mug, "umbrella": _umbrella,
}  # fmt: skip
_BACKGROUNDS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "grass": _grass, "road": _road, "forest": _forest, "water": _water, "sand": _sand,
    "indoors": _indoors, "snow": _snow, "rain": _rain, "night": _night, "cave": _cave,
}  # fmt: skip
_PROPS: dict[str, Callable[[Pen, np.random.Generator, int], None]] = {
    "flower": _flower, "ball": _ball, "flag": _flag, "gift": _gift, "lantern": _lantern, "kite": _kite,
}  # fmt: skip

_LIGHTS: dict[str, Color] = {
    "night": (0.62, 0.66, 0.85), "cave": (0.82, 0.76, 0.68), "rain": (0.84, 0.87, 0.92), "forest": (0.86, 0.9, 0.82),
}  # fmt: skip
"""Colour of the light on objects in a scene; white for other scenes."""

FOREGROUNDS: tuple[str, ...] = tuple(_FOREGROUNDS)
"""The foreground classes, in label order."""
BACKGROUNDS: tuple[str, ...] = tuple(_BACKGROUNDS)
"""The background classes, in label order: those of D3S (arXiv 2211.10370)."""
PROPS: tuple[str, ...] = tuple(_PROPS)
LOOKS = 4
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


def _check(kind: str, name: str | None, known: Sequence[str]) -> None:
    if name is not None and name not in known:
        raise ValueError(f"The pocket world has no {kind} {name!r}; it has {', '.join(known)}.")


def _split_look(prop: str | None, rng: np.random.Generator) -> tuple[str | None, int]:
    if prop is None:
        return None, 0
    name, _, look = prop.partition(":")
    _check("prop", name, PROPS)
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
    _check("foreground", foreground, FOREGROUNDS)
    _check("background", background, BACKGROUNDS)
    name, look = _split_look(prop, rng)

    edge = size * SUPERSAMPLE
    canvas = Image.new("RGB", (edge, edge))
    gain = float(rng.uniform(0.88, 1.06))
    scene = Pen(canvas, (0.0, 0.0), 1.0, flip=False, light=(gain, gain, gain))
    (_BACKGROUNDS[background] if background else _plain)(scene, rng)

    cast = _LIGHTS.get(background or "", (1.0, 1.0, 1.0))
    light: Color = (cast[0] * gain, cast[1] * gain, cast[2] * gain)
    masks: dict[str, Image.Image] = {}
    stands = layout or _lay_out(bool(foreground), bool(name), rng)

    def put_prop() -> None:
        place = stands.prop
        pen = Pen(canvas, place.center, place.radius, float(rng.uniform(-0.15, 0.15)), bool(rng.random() < 0.5), light)
        _PROPS[str(name)](pen, rng, look)
        masks["prop"] = pen.mask

    def put_foreground() -> None:
        (x, y), radius = stands.foreground
        pen = Pen(canvas, (x, y), radius * 0.95, float(rng.uniform(-0.18, 0.18)), bool(rng.random() < 0.5), light)
        _FOREGROUNDS[str(foreground)](pen, rng)
        masks["foreground"] = pen.mask

    if name and not stands.prop_in_front:
        put_prop()
    if foreground:
        put_foreground()
    if name and stands.prop_in_front:
        put_prop()
    if len(masks) == 2:
        hidden, before = ("foreground", "prop") if stands.prop_in_front else ("prop", "foreground")
        masks[hidden].paste(0, mask=masks[before])
    nothing = Image.new("L", (size, size), 0)
    fore, behind = (masks[part].reduce(SUPERSAMPLE) if part in masks else nothing for part in ("foreground", "prop"))
    rest = Image.fromarray((255 - np.minimum(255, np.asarray(fore, np.uint16) + np.asarray(behind))).astype(np.uint8))
    return Scene(canvas.reduce(SUPERSAMPLE), fore, rest, behind)


def _lay_out(with_foreground: bool, with_prop: bool, rng: np.random.Generator) -> Layout:
    """Draw a layout with the object fully in view and the prop beside it, or with only one of them."""
    radius = float(rng.uniform(0.2, 0.3))
    if with_foreground and with_prop:
        side = -1 if rng.random() < 0.5 else 1
        small = float(rng.uniform(0.135, 0.17))
        radius = min(radius, 0.27)
        gap = radius + small + float(rng.uniform(-0.02, 0.03))
        low = max(radius, small + gap) if side < 0 else radius
        high = 1 - radius if side < 0 else 1 - max(radius, small + gap)
        x = float(rng.uniform(low, high)) if low < high else (low + high) / 2
        y = float(rng.uniform(0.42, 0.98 - radius))
        beside = (x + side * gap, float(np.clip(y + rng.uniform(-0.2, 0.2), small, 1 - small)))
    else:
        small = float(rng.uniform(0.14, 0.26))
        spare = 0.95 * (radius if with_foreground else small)
        x, y = float(rng.uniform(spare, 1 - spare)), float(rng.uniform(max(0.36, spare), 0.98 - spare))
        beside = (x, y)
    return Layout(Place((x, y), radius), Place(beside, small))


def cutout(foreground: str, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """Draw a foreground object alone, RGBA, on a transparent background, filling most of the image."""
    _check("foreground", foreground, FOREGROUNDS)
    edge = size * SUPERSAMPLE
    canvas = Image.new("RGBA", (edge, edge), (0, 0, 0, 0))
    gain = float(rng.uniform(0.9, 1.05))
    pen = Pen(canvas, (0.5, 0.5), 0.42, float(rng.uniform(-0.15, 0.15)), bool(rng.random() < 0.5), (gain, gain, gain))
    _FOREGROUNDS[foreground](pen, rng)
    return canvas.reduce(SUPERSAMPLE)
