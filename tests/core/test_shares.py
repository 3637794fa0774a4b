"""Products of a number and a share are exact in decimal, and diffusers draws as many steps as they say."""

import pytest

from figureground.core.errors import RecipeError
from figureground.core.shares import strength_of, whole_part
from figureground.methods.d3s import D3S


@pytest.mark.parametrize(
    ("n", "share", "expected"),
    [(50, 0.58, 29), (50, 0.56, 28), (100, 0.29, 29), (50, 0.579, 28), (16, 0.6, 9), (9, 1.0, 9)],
)
def test_a_step_is_not_lost_to_floating_point(n, share, expected):
    assert whole_part(n, share) == expected


def test_hundredths_of_any_number_of_steps_are_those_of_whole_number_arithmetic():
    lost = 0
    for n in range(1, 101):
        for hundredths in range(101):
            assert whole_part(n, hundredths / 100) == n * hundredths // 100
            lost += int(n * (hundredths / 100)) != n * hundredths // 100
    assert lost  # floating point does lose some


def test_a_plan_counts_the_steps_that_are_drawn():
    assert D3S("pocket", num_inference_steps=50, strength=0.58).denoiser_steps() == 29


@pytest.mark.parametrize("strength", [0.02, 0.019])
def test_a_strength_of_one_step_is_taken_and_of_less_refused(strength):
    if whole_part(50, strength):
        D3S("pocket", num_inference_steps=50, strength=strength)
    else:
        with pytest.raises(RecipeError, match="strength"):
            D3S("pocket", num_inference_steps=50, strength=strength)


@pytest.mark.parametrize("n", [1, 7, 50, 999, 1000])
def test_a_strength_for_diffusers_gives_exactly_these_steps(n):
    assert [int(n * strength_of(steps, n)) for steps in range(1, n + 1)] == list(range(1, n + 1))
    assert strength_of(n, n) == 1.0
