"""`speed=fast` stands for settings that were measured, which the recipe then holds."""

import json

import pytest

from figureground.cli.main import main
from figureground.core.errors import RecipeError
from figureground.core.resources import CHECKOUT
from figureground.methods.d3s import D3S
from figureground.methods.spurious import Spurious
from figureground.models.fast_settings import TABLE, read_table
from figureground.models.weights import fingerprint
from figureground.recipe.document import read_recipe


@pytest.fixture(scope="module")
def row():
    return next(row for row in read_table() if (row.checkpoint, row.method) == ("pocket", "d3s"))


def test_the_table_is_of_the_bundled_weights_and_of_what_was_judged_by_other_seeds_than_chose_it(row):
    assert row.fingerprint == fingerprint("pocket", None)
    assert row.measured["images"] >= 600
    assert row.measured["low"] <= row.measured["difference"] <= row.measured["high"]
    assert row.measured["high"] >= 0
    assert row.measured["difference"] > -0.01
    assert row.measured["judging_seed"] != row.measured["choosing_seed"]


def test_the_table_agrees_with_the_results_that_it_names(row):
    results = CHECKOUT / row.measured["results"]
    if not results.exists():
        pytest.skip("an installed wheel has no results")
    fast = json.loads(results.read_text())["fast"]
    assert fast["fields"] == {name: value for name, value in row.fast.items() if name != "dtype"}
    for name in ("images", "right", "difference", "low", "high"):
        assert fast["judged"][name] == pytest.approx(row.measured[name])


def test_fast_becomes_settings_that_a_recipe_holds_and_that_stay_when_the_table_changes(row, tmp_path):
    fast = D3S("pocket", speed="fast")
    for name, value in row.fast.items():
        assert getattr(fast.config, name) == value
    recipe = fast.recipe(tmp_path / "_figureground")
    assert "speed" not in {**recipe["identity"], **recipe["execution"]}
    assert recipe["sha256"] == D3S("pocket", **row.fast).recipe(tmp_path)["sha256"]
    assert recipe["sha256"] != D3S("pocket").recipe(tmp_path)["sha256"]
    assert D3S("pocket", speed="exact").recipe(tmp_path)["sha256"] == D3S("pocket").recipe(tmp_path)["sha256"]
    path = tmp_path / "_figureground" / "recipe.json"
    path.parent.mkdir()
    path.write_text(json.dumps(recipe))
    for settings in ([], ["speed=fast"]):  # asked for again, as by a resumed build
        assert D3S.from_recipe(read_recipe(path), settings).recipe(path.parent)["sha256"] == recipe["sha256"]


def test_a_dtype_that_is_given_is_kept():
    assert D3S("pocket", speed="fast", dtype="bfloat16").config.dtype == "bfloat16"


@pytest.mark.parametrize(
    "changes",
    [
        {"strength": 0.5}, {"guidance_scale": 7.0}, {"num_inference_steps": 50}, {"negative_prompt": "blurred"},
        {"quantization": "int8"}, {"loras": [{"path": "style.safetensors"}]},
    ],
)  # fmt: skip
def test_a_recipe_that_was_not_measured_is_refused_by_the_setting_that_differs(changes, row):
    with pytest.raises(RecipeError) as refused:
        D3S("pocket", speed="fast", **changes)
    assert refused.value.field == "speed"
    assert next(iter(changes)) in str(refused.value)
    assert str(row.fast["num_inference_steps"]) in str(refused.value)


@pytest.mark.parametrize("make", [lambda: D3S("imagenet", speed="fast"), lambda: Spurious("pocket", speed="fast")])
def test_a_checkpoint_or_method_without_a_row_is_refused_with_what_to_do(make):
    with pytest.raises(RecipeError) as refused:
        make()
    for word in ("speed", "pocket (d3s)", "--ladder", "num_inference_steps", "guidance_interval"):
        assert word in str(refused.value)


def test_controls_of_the_demo_were_not_measured():
    with pytest.raises(RecipeError, match="guide"):
        D3S("pocket-text-only", speed="fast")


def test_plan_says_what_fast_is_and_how_right_it_is(row, capsys):
    assert main(["plan", "d3s", "--set", "speed=fast", "--json"]) == 0
    plan, usual = json.loads(capsys.readouterr().out), D3S("pocket").config
    assert f"num_inference_steps={row.fast['num_inference_steps']}" in plan["notes"][0]
    assert f"{100 * row.measured['right']:.1f} %" in plan["notes"][0]
    assert plan["denoiser_evaluations"] < plan["images"] * 2 * usual.num_inference_steps * usual.strength


def test_the_table_is_in_the_package():
    assert json.loads(TABLE.read_text())["version"] == 1
