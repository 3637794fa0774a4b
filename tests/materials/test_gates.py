"""Gates measure shapes the same at any size, and say why an object is left out."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.core.errors import RecipeError
from figureground.materials.gates import Gates, label_parts, list_reasons, measure


def blob(height=200, width=300, center=(0.5, 0.5), radius=0.3):
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((x + 0.5) - center[0] * width, (y + 0.5) - center[1] * height)
    return (distance < radius * height).astype(np.float32)


def reasons(alpha, **gates):
    found = measure(alpha)
    assert found is not None
    return [reason.partition(":")[0] for reason in list_reasons(found[0], Gates(**gates))]


def test_a_whole_round_object_passes():
    measures, where = measure(blob())
    assert measures.area == pytest.approx(np.pi * 0.3**2 * 200 / 300, rel=0.02)
    assert (measures.cut, measures.other, measures.parts) == (0, 0, 1)
    assert measures.sure == 1
    assert measures.ragged < 0.02
    assert measures.filled == pytest.approx(np.pi / 4, abs=0.02)
    assert where[blob() > 0].all()
    assert not list_reasons(measures, Gates())


@pytest.mark.parametrize("scale", [1, 4])
def test_measures_do_not_depend_on_the_size(scale):
    one, other = measure(blob())[0], measure(blob(200 * scale, 300 * scale))[0]
    for name, value in one.to_json().items():
        assert other.to_json()[name] == pytest.approx(value, abs=0.015), name


def test_nothing_is_no_object():
    assert measure(np.zeros((50, 60), np.float32)) is None
    assert measure(np.full((50, 60), 0.4, np.float32)) is None


def fence():
    alpha = np.zeros((200, 300), np.float32)
    alpha[30:170, 40:260:8] = alpha[30:170, 41:260:8] = 1
    alpha[98:102, 40:260] = 1
    return alpha


def comb():
    """Stripes so fine that smoothing moves each to the gap beside it: more area changes than there is."""
    alpha = np.zeros((256, 256), np.float32)
    alpha[64:192, 64:192:2] = 1
    alpha[126:129, 64:192] = 1
    return alpha


def two_people():
    return np.maximum(blob(center=(0.25, 0.5), radius=0.25), blob(center=(0.7, 0.5), radius=0.22))


def screenshot():
    alpha = np.zeros((200, 300), np.float32)
    alpha[20:180, 30:270] = 1
    return alpha


@pytest.mark.parametrize(
    ("alpha", "reason", "off"),
    [
        (blob(radius=0.05), "too small", {"least_area": 0.0}),
        (blob(radius=1.2), "too large", {"most_area": 1.0, "most_cut": 1.0, "most_filled": 1.0}),
        (np.clip(blob(radius=0.3) * 0.7, 0, 1), "unsure", {"least_sure": 0.0}),
        (blob(center=(0.5, 1.0), radius=0.5), "cut by the border", {"most_cut": 1.0}),
        (two_people(), "several objects", {"most_other": 1.0}),
        (fence(), "ragged", {"most_ragged": 1.0}),
        (comb(), "ragged", {"most_ragged": 1.0}),
        (screenshot(), "a rectangle", {"most_filled": 1.0}),
    ],
)
def test_each_gate_leaves_out_and_can_be_turned_off(alpha, reason, off):
    assert reason in reasons(alpha)
    assert reason not in reasons(alpha, **off)


def test_only_the_largest_part_is_kept():
    alpha = np.maximum(blob(center=(0.3, 0.5)), blob(center=(0.9, 0.9), radius=0.04))
    measures, where = measure(alpha)
    assert 0 < measures.other < 0.1
    assert measures.parts == 2
    assert where[100, 90]
    assert not where[180, 270]


def test_parts_touch_at_corners_and_join_below():
    mask = np.array([[1, 0, 1, 0, 0], [1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]], bool)
    labels, sizes = label_parts(mask)
    assert sizes.tolist() == [5, 2]
    assert (labels >= 0).tolist() == mask.tolist()
    assert labels[0, 0] == labels[0, 2] == labels[2, 1] != labels[2, 4]


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(RecipeError, match="least_area"):
        Gates(least_area=0.9)
    with pytest.raises(RecipeError, match="most_cut"):
        Gates(most_cut=1.5)
