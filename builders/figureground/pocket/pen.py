"""The pen that draws the pocket world, and its colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[float, float, float]
Points = Sequence[tuple[float, float]]

_STEPS = 28
"""Number of straight pieces of an arc."""


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
        placed, thickness = self._place(points), max(1, round(width * self._scale))
        self._draw.line(placed, fill=self._shade(color), width=thickness, joint="curve")
        self._mask.line(placed, fill=255, width=thickness, joint="curve")


def arc(
    x: float,
    y: float,
    rx: float,
    ry: float,
    start: float,
    stop: float,
    turn: float = 0.0,
) -> list[tuple[float, float]]:
    """Return points on an ellipse from `start` to `stop` degrees (0 is right, 90 down), rotated by `turn` radians."""
    out = []
    cos, sin = math.cos(turn), math.sin(turn)
    for i in range(_STEPS + 1):
        a = math.radians(start + (stop - start) * i / _STEPS)
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


def pick(rng: np.random.Generator, *colors: Color) -> Color:
    """Return one of the colours, slightly varied."""
    color = colors[rng.integers(len(colors))]
    r, g, b = (float(np.clip(c + d, 0, 1)) for c, d in zip(color, rng.uniform(-0.05, 0.05, 3), strict=True))
    return r, g, b
