"""Plots of an evaluation's page as SVG: accuracy against accuracy, and accuracy by severity. Needs no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from figureground.evaluation.robustness import logit

WIDTH, HEIGHT = 520, 380
"""Pixels of a plot, without the legend."""
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 46
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b4a9c", "#555555")
"""Okabe and Ito's colours, but for the last two; later classifiers take them again with another marker."""
MARKERS = ("circle", "square", "triangle", "diamond")
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_LINE = 19
"""Height of a line of the legend, pixels."""

JsonMapping = Mapping[str, Any]


def colour_of(i: int) -> str:
    """Return the colour of the classifier at a position."""
    return COLOURS[i % len(COLOURS)]


def plot_robustness(results: JsonMapping, name: str) -> Markup:
    """Plot accuracy on a set against accuracy on the references, both on logit scales.

    Args:
        results: Output of `robustness.measure`.
        name: The set's name.
    """
    points = results["points"]
    pairs = [(point["references"], point["accuracy"]) for point in points.values()]
    values = [min(max(interval[end], 0.004), 0.996) for pair in pairs for interval in pair for end in ("low", "high")]
    low, high = logit(min(values), 10**6) - 0.2, logit(max(values), 10**6) + 0.2
    across, down = _make_scale(low, high, LEFT, WIDTH - RIGHT), _make_scale(low, high, HEIGHT - BOTTOM, TOP)

    def x(share: float) -> float:
        return across(min(max(logit(share, 10**6), low), high))

    def y(share: float) -> float:
        return down(min(max(logit(share, 10**6), low), high))

    ticks = [tick for tick in TICKS if low <= logit(tick, 10**6) <= high]
    parts = [
        *(_draw_grid_x(x(tick), f"{100 * tick:g}") for tick in ticks),
        *(_draw_grid_y(y(tick), f"{100 * tick:g}") for tick in ticks),
        _draw_titles("accuracy on the references, %", f"accuracy on {name}, %"),
        _draw_path([(across(low), down(low)), (across(high), down(high))], "#999", dashed=True),
    ]  # fmt: skip
    if results["line"]:
        ends = [(step, results["line"]["intercept"] + results["line"]["slope"] * step) for step in _steps(low, high)]
        parts.append(_draw_path([(across(a), down(b)) for a, b in ends if low <= b <= high], "#222"))
    for i, (a, b) in enumerate(pairs):
        colour = colour_of(i)
        parts += [
            _draw_path([(x(a["low"]), y(b["value"])), (x(a["high"]), y(b["value"]))], colour, faint=True),
            _draw_path([(x(a["value"]), y(b["low"])), (x(a["value"]), y(b["high"]))], colour, faint=True),
            _draw_marker(x(a["value"]), y(b["value"]), i),
        ]
    names = [f"{classifier}{' (zero-shot)' if point['zero_shot'] else ''}" for classifier, point in points.items()]
    lines = [("#999", True, "equal accuracy"), *([("#222", False, "fitted line")] if results["line"] else [])]
    return _draw_svg(parts, names, lines, f"Accuracy on {name} against accuracy on the references, logit scales")


def plot_severity(axis: JsonMapping, curves: Mapping[str, JsonMapping]) -> Markup:
    """Plot accuracy by severity along an axis, with each classifier's failure point.

    Args:
        axis: `axis` and `values`, by severity.
        curves: By classifier: `accuracy`, a list of intervals by severity, `half`, the share below which it fails, and
            `failure`, None or `severity`.
    """
    last = len(axis["values"]) - 1
    x, y = _make_scale(0, max(last, 1), LEFT + 12, WIDTH - RIGHT - 12), _make_scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [_draw_grid_x(x(k), _format_value(value)) for k, value in enumerate(axis["values"])]
    parts += [_draw_grid_y(y(share), f"{100 * share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(_draw_titles(f"{axis['axis']}, milder to more severe", "accuracy, %"))
    for i, curve in enumerate(curves.values()):
        colour, levels = colour_of(i), curve["accuracy"]
        area = [(x(k), y(level["low"])) for k, level in enumerate(levels)]
        area += [(x(k), y(level["high"])) for k, level in reversed(list(enumerate(levels)))]
        parts.append(Markup('<polygon points="{}" fill="{}" opacity="0.12"/>').format(_format_points(area), colour))
        parts.append(_draw_path([(x(k), y(level["value"])) for k, level in enumerate(levels)], colour))
        parts += [_draw_marker(x(k), y(level["value"]), i) for k, level in enumerate(levels)]
        parts.append(
            _draw_path([(x(0), y(curve["half"])), (x(last), y(curve["half"]))], colour, dashed=True, faint=True)
        )
        if curve["failure"]:
            failure_x = x(curve["failure"]["severity"])
            parts.append(_draw_path([(failure_x, y(curve["half"])), (failure_x, y(0))], colour, dashed=True))
            parts.append(_draw_cross(failure_x, y(curve["half"]), colour))
    lines = [("#777", True, "half of the reference; × failure point")]
    return _draw_svg(parts, list(curves), lines, f"Accuracy by severity of {axis['axis']}")


def _make_scale(low: float, high: float, first: float, last: float) -> Any:
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _steps(low: float, high: float) -> list[float]:
    return [low + (high - low) * i / 100 for i in range(101)]


def _format_points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _draw_path(points: Sequence[tuple[float, float]], colour: str, dashed: bool = False, faint: bool = False) -> Markup:
    style = (' stroke-dasharray="4 3"' if dashed else "") + (' opacity="0.6"' if faint else "")
    return Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="{}"{}/>').format(
        _format_points(points), colour, 1 if dashed or faint else 1.6, Markup(style)
    )


def _draw_marker(x: float, y: float, i: int) -> Markup:
    colour, kind = colour_of(i), MARKERS[i // len(COLOURS) % len(MARKERS)]
    if kind == "circle":
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"/>').format(x, y, colour)
    shapes: dict[str, list[tuple[float, float]]] = {
        "square": [(-4, -4), (4, -4), (4, 4), (-4, 4)], "triangle": [(0, -5), (5, 4), (-5, 4)],
        "diamond": [(0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)],
    }  # fmt: skip
    return Markup('<polygon points="{}" fill="{}"/>').format(
        _format_points((x + a, y + b) for a, b in shapes[kind]), colour
    )


def _draw_cross(x: float, y: float, colour: str) -> Markup:
    return Markup('<path d="M{:.1f} {:.1f}l10 10m-10 0l10 -10" stroke="{}" stroke-width="2"/>').format(
        x - 5, y - 5, colour
    )


def _draw_grid_x(x: float, text: str) -> Markup:
    return Markup(
        '<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}" stroke="#e8e8e8"/>'
        '<text x="{0:.1f}" y="{3}" text-anchor="middle">{4}</text>'
    ).format(x, TOP, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 16, text)


def _draw_grid_y(y: float, text: str) -> Markup:
    return Markup(
        '<line x1="{1}" x2="{2}" y1="{0:.1f}" y2="{0:.1f}" stroke="#e8e8e8"/>'
        '<text x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
    ).format(y, LEFT, WIDTH - RIGHT, LEFT - 7, y + 4, text)


def _draw_titles(below: str, beside: str) -> Markup:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return Markup(
        '<text x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text x="14" y="{:.1f}" text-anchor="middle" transform="rotate(-90 14 {:.1f})">{}</text>'
    ).format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, below, middle, middle, beside)


def _draw_svg(
    parts: Iterable[Markup], names: Sequence[str], lines: Sequence[tuple[str, bool, str]], title: str
) -> Markup:
    """Return the plot with a legend of classifiers and lines to its right."""
    legend: list[Markup] = []
    for i, name in enumerate(names):
        y = TOP + 10 + i * _LINE
        legend += [_draw_marker(WIDTH + 12, y, i), _draw_text(WIDTH + 24, y + 4, name)]
    for i, (colour, dashed, text) in enumerate(lines, len(names)):
        y = TOP + 14 + i * _LINE
        legend += [_draw_path([(WIDTH + 4, y), (WIDTH + 20, y)], colour, dashed), _draw_text(WIDTH + 24, y + 4, text)]
    height = max(HEIGHT, TOP + 20 + (len(names) + len(lines)) * _LINE)
    width = WIDTH + 34 + math.ceil(6.6 * max(len(text) for text in [*names, *(text for *_, text in lines)]))
    return Markup(
        '<svg class="plot" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">{3}</svg>'
    ).format(width, height, title, Markup("").join([*parts, *legend]))


def _draw_text(x: float, y: float, text: str) -> Markup:
    return Markup('<text x="{}" y="{}">{}</text>').format(x, y, escape(text))


def _format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
