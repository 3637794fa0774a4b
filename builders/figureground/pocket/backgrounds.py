"""Background scenes of the pocket world. The pen of a scene covers the canvas: x and y run from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from figureground.pocket.pen import WHITE, Color, Pen, box, darker, lighter, pick


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
    green = pick(rng, (0.38, 0.72, 0.25), (0.48, 0.76, 0.28))
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
    verge = pick(rng, (0.66, 0.60, 0.38), (0.58, 0.62, 0.36))
    _ground(pen, rng, horizon, verge, 0.02)
    vanish = rng.uniform(0.4, 0.6)
    grey = pick(rng, (0.36, 0.36, 0.39), (0.45, 0.45, 0.47))
    left, right = rng.uniform(-0.25, -0.05), rng.uniform(1.05, 1.25)
    top = horizon + 0.02
    pen.polygon([(vanish - 0.09, top), (vanish + 0.09, top), (right, 1.05), (left, 1.05)], grey)
    center = (left + right) / 2
    for a, b in ((0.05, 0.16), (0.26, 0.42), (0.56, 0.8)):

        def at(t: float, side: float) -> tuple[float, float]:
            return (vanish + (center - vanish) * t + side * (0.008 + 0.045 * t), top + (1.05 - top) * t)

        pen.polygon([at(a, -1), at(a, 1), at(b, 1), at(b, -1)], (0.95, 0.93, 0.80))


def _forest(pen: Pen, rng: np.random.Generator) -> None:
    leaf = pick(rng, (0.10, 0.34, 0.18), (0.14, 0.38, 0.14))
    pen.polygon(box(-0.05, -0.05, 1.05, 1.05), lighter(leaf, 0.22))
    floor = rng.uniform(0.62, 0.74)
    _ground(pen, rng, floor, (0.26, 0.24, 0.12), 0.03)
    bark = pick(rng, (0.34, 0.22, 0.14), (0.28, 0.19, 0.14))
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
    sea = pick(rng, (0.10, 0.42, 0.74), (0.08, 0.50, 0.72))
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
    sand = pick(rng, (0.93, 0.78, 0.48), (0.95, 0.82, 0.56))
    _ground(pen, rng, horizon, darker(sand, 0.14), 0.1)
    _ground(pen, rng, horizon + rng.uniform(0.12, 0.2), sand, 0.08)
    _ground(pen, rng, horizon + rng.uniform(0.34, 0.44), lighter(sand, 0.25), 0.08)


def _indoors(pen: Pen, rng: np.random.Generator) -> None:
    wall = pick(rng, (0.88, 0.72, 0.66), (0.78, 0.70, 0.82), (0.90, 0.82, 0.62), (0.72, 0.80, 0.78))
    floor = rng.uniform(0.66, 0.76)
    pen.polygon(box(-0.05, -0.05, 1.05, 1.05), wall)
    wood = pick(rng, (0.62, 0.40, 0.24), (0.54, 0.34, 0.22))
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
    ground = pick(rng, (0.36, 0.42, 0.44), (0.40, 0.42, 0.48))
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
    rock = pick(rng, (0.36, 0.27, 0.22), (0.33, 0.29, 0.27))
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


def draw_plain(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a studio backdrop, for images without a scene."""
    tone = pick(rng, (0.86, 0.86, 0.88), (0.80, 0.84, 0.90), (0.92, 0.88, 0.84), (0.84, 0.90, 0.84))
    pen.polygon(box(-0.05, -0.05, 1.05, 1.05), tone)
    pen.polygon(box(-0.05, rng.uniform(0.68, 0.8), 1.05, 1.05), darker(tone, 0.08))


DRAW: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "grass": _grass, "road": _road, "forest": _forest, "water": _water, "sand": _sand,
    "indoors": _indoors, "snow": _snow, "rain": _rain, "night": _night, "cave": _cave,
}  # fmt: skip
"""Functions that take a pen and a random generator, by name, in label order: D3S's backgrounds (arXiv 2211.10370)."""

LIGHTS: dict[str, Color] = {
    "night": (0.62, 0.66, 0.85), "cave": (0.82, 0.76, 0.68), "rain": (0.84, 0.87, 0.92), "forest": (0.86, 0.9, 0.82),
}  # fmt: skip
"""Colour of the light on objects in a scene; white for other scenes."""
