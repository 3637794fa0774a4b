"""Products of a number and a share are exact in decimal, and diffusers draws as many steps as they say."""

import pytest

from figureground.core.errors import RecipeError
from figureground.core.shares import as_fraction, round_to_total, steps_between, strength_of, whole_part
from figureground.methods.d3s import D3S
from figureground.methods.forecast import plan


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


@pytest.mark.parametrize(
    ("parts", "remainders", "total", "expected"),
    [
        ([3, 3, 3], [1, 1, 1], 10, [4, 3, 3]),
        ([3, 3, 3], [0.25, 0.5, 0.5], 10, [3, 4, 3]),
        ([0, 2, 1], [as_fraction(0.3), as_fraction(0.1), as_fraction(0.6)], 4, [0, 2, 2]),
        ([5, 1], [0.0, -0.5], 7, [6, 1]),
        ([1, 1], [0.5, 0.5], 4, [2, 2]),
        ([1, 1], [0.5, 0.5], 2, [1, 1]),
        ([1, 1, 1], [-0.5, -0.5, 0.0], 2, [1, 1, 1]),  # parts that were raised to one beforehand
        ([], [], 0, []),
    ],
)
def test_the_first_of_the_largest_remainders_are_rounded_up(parts, remainders, total, expected):
    before = list(parts)
    assert round_to_total(parts, remainders, total) == expected
    assert parts == before


@pytest.mark.parametrize(
    ("steps", "shares", "expected"),
    [(10, (0.2, 0.5), [2, 3, 4]), (50, (0.56, 0.58), [28]), (3, None, [0, 1, 2]), (10, (0.21, 0.29), [])],
)
def test_steps_between_shares_are_exact(steps, shares, expected):
    assert list(steps_between(steps, shares)) == expected


def test_a_plan_counts_two_evaluations_for_guided_steps_and_one_for_others():
    def evaluations(**settings):
        method = D3S("pocket", num_inference_steps=10, strength=0.6, limit=1, **settings)
        return plan(method)["denoiser_evaluations"]

    assert evaluations() == 12
    assert evaluations(guidance_scale=1.0) == 6
    assert evaluations(guidance_interval=[0.0, 0.7]) == 9  # steps 4 to 9 are drawn, 4 to 6 with guidance
    assert evaluations(guidance_interval=[0.0, 0.3]) == 6
    assert evaluations(scheduler="pndm") == 14
    assert evaluations(scheduler="pndm", guidance_interval=[0.0, 0.7]) == 11  # steps 3 to 9, 3 to 6 with guidance


@pytest.mark.parametrize("interval", [[0.5], [0.5, 0.5], [0.8, 0.2], [0.1, 0.2, 0.3], [0.21, 0.29], [0.2, 1.5]])
def test_an_interval_without_a_step_is_refused(interval):
    with pytest.raises(RecipeError, match="guidance_interval"):
        D3S("pocket", num_inference_steps=10, guidance_interval=interval)


def test_an_interval_of_guidance_that_is_off_is_refused():
    with pytest.raises(RecipeError, match=r"guidance_interval.*guidance_scale 1"):
        D3S("pocket", guidance_scale=1.0, guidance_interval=[0.2, 0.8])


def test_a_recipe_without_an_interval_is_that_of_earlier_releases(tmp_path):
    recipe, other = (D3S("pocket", **fields).recipe(tmp_path) for fields in ({}, {"guidance_interval": [0.2, 0.8]}))
    assert "guidance_interval" not in recipe["identity"]
    assert "speed" not in {**recipe["identity"], **recipe["execution"]}
    assert other["identity"]["guidance_interval"] == [0.2, 0.8]
    assert recipe["sha256"] != other["sha256"]


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
