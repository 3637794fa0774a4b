"""Props of the pocket world: small extras beside an object, each in four looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from figureground.pocket.pen import (
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    WHITE,
    YELLOW,
    Color,
    Pen,
    arc,
    box,
    lighter,
)

LOOKS = 4
"""Number of looks of each prop."""


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


DRAW: dict[str, Callable[[Pen, np.random.Generator, int], None]] = {
    "flower": _flower, "ball": _ball, "flag": _flag, "gift": _gift, "lantern": _lantern, "kite": _kite,
}  # fmt: skip
"""Functions that take a pen, a random generator and a look, 0 to `LOOKS` − 1, by name."""
