"""Drawings of panels: which pixels a region, a histogram and a curve colour."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from figureground.methods.panels.drawing import (
    BINS,
    CHART,
    DROPPED,
    INK,
    KEPT,
    draw_curve,
    draw_histogram,
    overlay_map,
    tint,
)
from figureground.methods.panels.panel import Missing, draw_panel
from figureground.sources.images import read_image


def count(image, colour):
    """Pixels of a colour in each column, int64 (width,)."""
    return (np.asarray(image) == ImageColor.getrgb(colour)).all(-1).sum(0)


@pytest.mark.parametrize("times", [1, 2])
def test_a_region_is_outlined_and_all_else_stays(times):
    image = Image.new("RGB", (12, 12), (0, 100, 200))
    mask = Image.new("L", (12, 12))
    mask.paste(255, (3, 3, 9, 9))
    drawn = np.asarray(tint(image, mask.resize((12 * times, 12 * times), Image.Resampling.NEAREST)))
    inside = np.zeros((12, 12), bool)
    inside[3:9, 3:9] = True
    assert (drawn[~inside] == (0, 100, 200)).all()
    rim = inside.copy()
    rim[4:8, 4:8] = False
    assert len(np.unique(drawn[rim], axis=0)) == 1
    assert (drawn[inside, 0] > 0).all()
    assert (drawn[rim, 0] > drawn[5, 5, 0]).all()


def test_bars_of_a_histogram_are_as_high_as_their_counts_and_dropped_ones_lie_on_top():
    chart = draw_histogram([0.1, 0.1, 0.1, 0.6, 9.0], [True, False, False, False, False], [0.5], 1.0)
    assert chart.size == CHART
    kept, dropped = count(chart, KEPT), count(chart, DROPPED)
    assert kept.max() == pytest.approx(2 * dropped.max(), abs=2)
    column = np.asarray(chart)[:, int(np.argmax(dropped))]
    first = [int((column == ImageColor.getrgb(colour)).all(-1).argmax()) for colour in (DROPPED, KEPT)]
    assert first == sorted(first)
    bars = np.flatnonzero(np.diff((kept > 0).astype(int)) == 1)
    assert len(bars) == 3
    assert (bars[2] - bars[0]) / (bars[1] - bars[0]) == pytest.approx(
        (BINS - 1 - int(0.1 * BINS)) / int((0.6 - 0.1) * BINS), rel=0.05
    )
    line = int(np.argmax(count(chart, INK)))
    assert bars[0] < line < bars[1]


def test_a_curve_goes_from_the_first_value_to_the_last():
    chart = np.asarray(draw_curve([float(i) for i in range(100)]))
    rows, columns = np.nonzero((chart == ImageColor.getrgb(KEPT)).all(-1))
    assert rows[columns.argmin()] > CHART[1] / 2 > rows[columns.argmax()]
    assert np.corrcoef(rows, columns)[0, 1] < -0.99
    assert draw_curve([2.0]).size == CHART


def test_a_picture_that_cannot_be_drawn_becomes_a_fact_without_a_path(tmp_path):
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "a.png").write_bytes(b"no image")

    def draw_missing():
        raise Missing("b.png is gone")

    draws = {
        "one": lambda: Image.new("L", (1, 1)),
        "two": draw_missing,
        "three": lambda: read_image(tmp_path / "bird" / "a.png"),
    }
    panel = draw_panel("title", draws, [("name", "value")])
    assert [picture.title for picture in panel.pictures] == ["one"]
    assert [name for name, _ in panel.facts] == ["name", "two", "three"]
    assert "b.png" in panel.facts[1][1]
    assert "bird/a.png" in panel.facts[2][1]
    assert str(tmp_path) not in str(panel)


def test_a_map_is_lighter_and_yellower_where_its_values_are_higher():
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 5, dtype=np.uint8), (8, 1)))
    drawn = np.asarray(overlay_map(Image.new("RGB", ramp.size, "gray"), ramp), np.float64)
    light = drawn[0] @ (0.299, 0.587, 0.114)
    assert (np.diff(light) > 0).all()
    assert drawn[0, -1, 0] > drawn[0, -1, 2]
    assert np.ptp(drawn, axis=0).max() == 0
