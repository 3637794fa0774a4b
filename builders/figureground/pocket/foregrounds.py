"""Foreground objects of the pocket world, each drawn in its own coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from figureground.pocket.pen import (
    BLACK,
    BLUE,
    BROWN,
    CREAM,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    TEAL,
    WHITE,
    YELLOW,
    Pen,
    arc,
    box,
    darker,
    lighter,
    pick,
)


def _bird(pen: Pen, rng: np.random.Generator) -> None:
    body = pick(rng, RED, BLUE, YELLOW, TEAL)
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
    body = pick(rng, ORANGE, YELLOW, PURPLE, PINK)
    stripe = pick(rng, WHITE, lighter(body, 0.7))
    tall = rng.uniform(0.46, 0.6)
    pen.polygon([(-0.45, 0), (-1.05, -0.5), (-0.9, 0), (-1.05, 0.5)], darker(body, 0.2))
    pen.polygon([(-0.25, -tall + 0.1), (0.15, -tall - 0.3), (0.3, -tall + 0.15)], darker(body, 0.2))
    pen.polygon([(-0.1, tall - 0.1), (0.1, tall + 0.25), (0.25, tall - 0.12)], darker(body, 0.2))
    pen.ellipse(0.12, 0, 0.78, tall, body)
    pen.polygon(arc(0.02, 0, 0.18, tall * 0.97, 90, 270) + arc(0.14, 0, 0.12, tall * 0.97, 270, 90), stripe)
    pen.ellipse(0.55, -0.13, 0.15, 0.15, WHITE)
    pen.ellipse(0.58, -0.13, 0.08, 0.08, BLACK)


def _cat(pen: Pen, rng: np.random.Generator) -> None:
    fur = pick(rng, ORANGE, GREY, (0.22, 0.2, 0.22), CREAM)
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
    eye = pick(rng, YELLOW, GREEN)
    for x in (-0.1, 0.35):
        pen.ellipse(x, -0.42, 0.12, 0.13, eye)
        pen.ellipse(x, -0.42, 0.05, 0.11, BLACK)
    pen.polygon([(0.06, -0.25), (0.2, -0.25), (0.13, -0.16)], PINK)


def _snail(pen: Pen, rng: np.random.Generator) -> None:
    shell = pick(rng, BROWN, PURPLE, RED, TEAL)
    body = pick(rng, CREAM, (0.78, 0.72, 0.42), (0.85, 0.62, 0.45))
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
    paint = pick(rng, RED, BLUE, YELLOW, GREEN)
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
    hull = pick(rng, BROWN, RED, BLUE, GREEN)
    sail = pick(rng, WHITE, CREAM, PINK, ORANGE)
    tilt = rng.uniform(-0.08, 0.08)
    pen.polygon(box(-0.05, -1.0, 0.06, 0.4), darker(BROWN, 0.3))
    pen.polygon([(0.12, -0.95), (0.12, 0.25), (0.85 + tilt, 0.25)], sail)
    pen.polygon([(-0.12, -0.75), (-0.12, 0.25), (-0.7 + tilt, 0.25)], darker(sail, 0.15))
    pen.polygon([(-1.0, 0.38), (1.02, 0.38), (0.7, 0.88), (-0.65, 0.88)], hull)
    pen.polygon([(-1.0, 0.38), (1.02, 0.38), (0.95, 0.52), (-0.93, 0.52)], lighter(hull, 0.5))


def _rocket(pen: Pen, rng: np.random.Generator) -> None:
    trim = pick(rng, RED, BLUE, ORANGE, GREEN)
    skin = pick(rng, WHITE, (0.80, 0.82, 0.86))
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
    green = pick(rng, GREEN, (0.30, 0.55, 0.20), (0.16, 0.55, 0.40))
    pot = pick(rng, (0.78, 0.38, 0.22), BLUE, PURPLE)
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
    clay = pick(rng, BLUE, RED, YELLOW, PURPLE, WHITE)
    band = pick(rng, WHITE, CREAM) if clay[0] < 0.9 or clay[2] < 0.9 else pick(rng, RED, BLUE)
    top = rng.uniform(-0.72, -0.58)
    ring = arc(0.5, 0.1, 0.45, 0.42, -85, 85)
    pen.line(ring, 0.17, darker(clay, 0.2))
    pen.polygon([(-0.75, top), (0.5, top), (0.44, 0.82), (-0.69, 0.82)], clay)
    pen.polygon([(-0.73, 0.02), (0.48, 0.02), (0.465, 0.34), (-0.715, 0.34)], band)
    pen.ellipse(-0.125, top, 0.63, 0.19, lighter(clay, 0.4))
    pen.ellipse(-0.125, top + 0.03, 0.5, 0.13, (0.32, 0.18, 0.10))


def _umbrella(pen: Pen, rng: np.random.Generator) -> None:
    panel_color = pick(rng, RED, PURPLE, TEAL, ORANGE)
    other_panel_color = pick(rng, WHITE, YELLOW)
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
        pen.polygon(rim + dome, panel_color if i % 2 == 0 else other_panel_color)
    pen.line([(0, -deep), (0, -deep - 0.14)], 0.08, BROWN)


DRAW: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "bird": _bird, "fish": _fish, "cat": _cat, "snail": _snail, "car": _car,
    "boat": _boat, "rocket": _rocket, "cactus": _cactus, "mug": _mug, "umbrella": _umbrella,
}  # fmt: skip
"""Functions that take a pen and a random generator, by name, in label order."""
