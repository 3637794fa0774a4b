"""Drawings for panels: maps and regions on images, histograms and curves, without matplotlib."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from figureground.core.fonts import Font

PAPER, INK, FAINT = "#ffffff", "#222222", "#8a8a8a"
KEPT, DROPPED = "#0072b2", "#d55e00"
"""Colours of kept and dropped images (Okabe and Ito 2008), which colour-blind people can tell apart."""
CHART = (288, 150)
"""Width and height of a chart, pixels."""
BINS = 24
"""Number of bars of a histogram."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 8, 20
_REGION, _REGION_OPACITY = (230, 25, 25), 0.4
_INFERNO = np.array(
    [
        (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
        (249, 201, 50), (252, 255, 164),
    ],
    np.float64,
)  # fmt: skip
"""Colour map of rising lightness: inferno of S. van der Walt and N. Smith, CC0, at equal steps."""


def tint(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Draw a region on an image in translucent red with an outline, RGB.

    Args:
        image: The image.
        mask: L, any size with the same aspect ratio: 128 or more inside the region.
    """
    pixels = np.asarray(image.convert("RGB"), np.float64)
    inside = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)) >= 128
    padded = np.pad(inside, 1, constant_values=False)
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    opacity = np.where(inside, np.where(surrounded, _REGION_OPACITY, 1.0), 0.0)[..., None]
    return _to_image(pixels * (1 - opacity) + np.array(_REGION, np.float64) * opacity)


def overlay_map(image: Image.Image, values: Image.Image) -> Image.Image:
    """Draw a map of values on an image, from black over red to yellow, RGB.

    Args:
        image: The image; it is shown in grey, so that all colours are the map's.
        values: L, any size with the same aspect ratio; 255 is the highest value.
    """
    grey = np.asarray(image.convert("L"), np.float64)[..., None]
    return _to_image(0.4 * grey + 0.6 * _apply_colour_map(values.resize(image.size, Image.Resampling.BILINEAR)))


def colour(values: Image.Image) -> Image.Image:
    """Draw a map of values alone, from black over red to yellow, RGB of its size.

    Args:
        values: L; 255 is the highest value.
    """
    return _to_image(_apply_colour_map(values))


def _apply_colour_map(values: Image.Image) -> np.ndarray:
    levels, steps = np.asarray(values, np.float64) / 255, np.linspace(0, 1, len(_INFERNO))
    return np.stack([np.interp(levels, steps, _INFERNO[:, c]) for c in range(3)], axis=-1)


def draw_histogram(
    values: Sequence[float], dropped: Sequence[bool], thresholds: Sequence[float], high: float
) -> Image.Image:
    """Draw a histogram from 0 to `high`, dropped values on top of kept ones, RGB of the size `CHART`.

    Args:
        values: The values, 0 or more; the last bar holds those above `high` too.
        dropped: For each value, whether its image is dropped.
        thresholds: Values at which a line is drawn.
        high: Upper end of the axis, above 0.
    """
    places = np.clip((np.asarray(values, np.float64) / high * BINS).astype(np.int64), 0, BINS - 1)
    is_dropped = np.asarray(dropped, bool)
    lower, upper = (np.bincount(places[chosen], minlength=BINS) for chosen in (~is_dropped, is_dropped))
    tallest = max(1, int((lower + upper).max()))
    chart, draw, font = _empty_chart()
    width, height = CHART[0] - _LEFT - _RIGHT, CHART[1] - _TOP - _BOTTOM
    base = CHART[1] - _BOTTOM
    for i in range(BINS):
        left, right = (_LEFT + round(width * edge / BINS) for edge in (i, i + 1))
        middle, top = (base - round(height * n / tallest) for n in (lower[i], lower[i] + upper[i]))
        if middle < base:
            draw.rectangle((left + 1, middle, right - 1, base - 1), KEPT)
        if top < middle:
            draw.rectangle((left + 1, top, right - 1, middle - 1), DROPPED)
    for threshold in sorted({value for value in thresholds if value <= high}):
        x = _LEFT + round(width * threshold / high)
        draw.line((x, _TOP - 4, x, base), INK)
    above = "+" if len(places) and float(np.max(values)) > high else ""
    _label(draw, font, ("0", f"{high:.3g}{above}"), ("0", f"{tallest:,}"))
    return chart


def draw_curve(values: Sequence[float]) -> Image.Image:
    """Draw a curve with one value per step and its moving average, RGB of the size `CHART`.

    Args:
        values: Finite values, one or more.
    """
    series = np.asarray(values, np.float64)
    low, high = float(series.min()), float(series.max())
    chart, draw, font = _empty_chart()
    width, height = CHART[0] - _LEFT - _RIGHT, CHART[1] - _TOP - _BOTTOM

    def place(step: float, value: float) -> tuple[float, float]:
        across = step / max(1, len(series) - 1)
        up = (value - low) / (high - low) if high > low else 0.5
        return _LEFT + 1 + across * (width - 1), CHART[1] - _BOTTOM - 2 - up * (height - 3)

    window = max(1, len(series) // 25)
    smooth = np.convolve(series, np.full(window, 1 / window), "valid")
    draw.line([place(i, value) for i, value in enumerate(series.tolist())], "#a6c8de" if window > 1 else KEPT)
    if window > 1:
        draw.line([place(i + (window - 1) / 2, value) for i, value in enumerate(smooth.tolist())], KEPT, width=2)
    _label(draw, font, ("1", f"{len(series):,}"), (f"{low:.2g}", f"{high:.2g}"))
    return chart


def _empty_chart() -> tuple[Image.Image, ImageDraw.ImageDraw, Font]:
    chart = Image.new("RGB", CHART, PAPER)
    draw = ImageDraw.Draw(chart)
    base = CHART[1] - _BOTTOM
    draw.line((_LEFT, _TOP, _LEFT, base), FAINT)
    draw.line((_LEFT, base, CHART[0] - _RIGHT, base), FAINT)
    return chart, draw, ImageFont.load_default(size=11)


def _label(draw: ImageDraw.ImageDraw, font: Font, across: tuple[str, str], up: tuple[str, str]) -> None:
    """Write the ends of both axes."""
    base = CHART[1] - _BOTTOM
    draw.text((_LEFT, base + 4), across[0], INK, font, anchor="lt")
    draw.text((CHART[0] - _RIGHT, base + 4), across[1], INK, font, anchor="rt")
    draw.text((_LEFT - 4, base), up[0], INK, font, anchor="rb")
    draw.text((_LEFT - 4, _TOP), up[1], INK, font, anchor="rt")


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
