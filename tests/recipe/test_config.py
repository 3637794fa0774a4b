"""Every field of a recipe has its range, and a value outside is refused by name."""

import datetime
import json

import pytest

from figureground import D3S
from figureground.cli.main import main
from figureground.core.errors import RecipeError
from figureground.finetune.inversion_settings import Inversion
from figureground.finetune.settings import settings_for
from figureground.learn.settings import Training
from figureground.methods.d3s_settings import D3SConfig
from figureground.methods.recipe_files import make_schema
from figureground.methods.registry import METHODS, method_class

TEXTS = [3, None, ["a"], {"a": 1}]
SWITCH = ["yes", 1, None]
BAD = {
    "checkpoint": [*TEXTS, "", " "], "revision": [3, ["a"]], "size": ["64", 7, 16385, 64.0, True, None],
    "num_inference_steps": ["3", 0, 1001, 2.5, None], "strength": ["0.5", -0.1, 1.1, float("nan"), None, True],
    "noise": ["0.5", -0.1, 1.1, float("nan"), True], "true_cfg_scale": ["2", 0.9, 1001, float("nan"), True],
    "edit": SWITCH,
    "guidance_interval": [0.5, [0.5], [0.8, 0.2], [-0.1, 1], ["0", 1]], "speed": ["slow", 3, None],
    "guidance_scale": ["5", -1, 1001, float("inf"), None], "negative_prompt": TEXTS,
    "scheduler": ["dimm", 3, None, ["ddim"]], "eta": ["0", -0.1, 1.1, None], "safety": ["on", 3, None, True],
    "seed": ["0", -1, 0.5, None, datetime.date(2024, 1, 1)], "shard_size": ["9", 0, 1.5],
    "limit": ["9", 0, 1.5], "image_format": ["jpeg", 3, None], "keep": ["guide", ["guides"], [["guide"]], None],
    "device": TEXTS, "dtype": ["int8", 3, None], "batch_size": ["4", 0, 4097, 1.5], "threads": ["4", 0, 1025],
    "compile": SWITCH, "workers": ["2", 0, 1025, None], "runner": [*TEXTS, "", " "],
    "formats": ["parquet", [], ["arrow"], None, [["parquet"]]],
    "allow_mixed_numerics": SWITCH, "classes": [3, None, [], {}, "poket", ["brid"], [None], ["bird", "bird"]],
    "definitions": [3, ["a"], "missing.csv"], "backgrounds": [3, None, [], {}, "d4s", ["gras"]],
    "prompt": [3, None, [], "", "a {clas}"], "cutouts": [3, "/nonexistent", ["a"], {"train": "a"}, {"x": "a"}],
    "scenes": [3, "/nonexistent", ["a"], {"train": "a"}], "guide": ["sketch", 3, None], "known_background": SWITCH,
    "paste": ["alpha", 3, None], "cutout_scale": ["0.4", 0, 1.1, [0.1], [0.9, 0.2], [0.1, 0.2, 0.3], None, ["a", "b"]],
    "position": ["left", 3, None], "match": ["background", 3, None],
    "table": [3, "missing.csv", {"correlation": 2}, {"correlation": "a"}, ["a"]],
    "per_cell": [3, None, {}, [], {"Train!": 1}, {"train": -1}, {"train": "3"}, {"train": 1.5}, {1: 1}],
    "allow_empty": SWITCH, "extended": [3, {"train": 3}, [3], [{"train": -1}]],
    "checkpoint_config": [3, ["a"], "", " "], "quantization": ["int4", 3, True], "offload": ["cpu", 3, None, True],
    "loras": [3, "a.safetensors", None, ["a"], [{"path": 3}], [{"scale": 1.0}], [{"path": "a", "scale": "1"}]],
}  # fmt: skip


def test_every_field_is_tried():
    assert set(BAD) | {"photographs"} == set(D3SConfig.field_names())


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_a_value_of_another_type_or_outside_the_range_is_refused_by_name(field, value):
    with pytest.raises(RecipeError) as refused:
        D3S("pocket", **{field: value})
    assert refused.value.field.split(".")[0] == field or field in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) > len(field) + 10


@pytest.mark.parametrize("value", [3, "/nonexistent", ["a"], {"train": "a"}])
def test_photographs_that_are_not_there_are_refused(value):
    with pytest.raises(RecipeError, match="photographs"):
        D3S("pocket-reconstruction", photographs=value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", 8), ("num_inference_steps", 1000), ("strength", 1), ("guidance_scale", 0), ("eta", 1), ("seed", 2**70),
     ("limit", None), ("batch_size", 4096), ("threads", 1024), ("workers", 1024), ("cutout_scale", [0.05, 1])],
)  # fmt: skip
def test_the_ends_of_a_range_belong_to_it(field, value):
    assert getattr(D3S("pocket", **{field: value}).config, field) == value


@pytest.mark.parametrize("field", D3SConfig.field_names())
def test_a_misspelt_field_names_the_nearest(field):
    with pytest.raises(RecipeError, match=f"d3s has no such field, did you mean '{field}'"):
        D3S("pocket", **{field + "x": 1})


def test_every_field_says_what_it_is():
    assert [name for name, text in D3SConfig.field_help().items() if not text] == []
    assert D3SConfig.field_help()["seed"].startswith("Seed for everything random")


@pytest.mark.parametrize("name", METHODS.names())
def test_the_schema_has_every_field_with_its_text_and_range(name, capsys):
    assert main(["settings", name, "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    kind = method_class(name)
    fields = type(kind.CONFIGS[kind.DEFAULT]).field_names()
    assert set(schema["properties"]) == {"builder", "config", *fields}
    assert schema["additionalProperties"] is False
    assert all(each["description"] for each in schema["properties"].values())
    assert (
        schema["properties"]["num_inference_steps"] | {"minimum": 1, "maximum": 1000}
        == schema["properties"]["num_inference_steps"]
    )
    assert schema["properties"]["config"]["enum"] == list(kind.CONFIGS)
    assert "required" not in schema


def test_the_schema_reaches_into_settings_of_trainings():
    inside = make_schema(method_class("scgs"))["properties"]["training"]
    assert inside["properties"]["epochs"]["minimum"] == 1
    assert inside["additionalProperties"] is False


@pytest.mark.parametrize(
    ("method", "fields", "new"),
    [
        ("ddb", {"least_probability": 0.1}, "min_probability"), ("ddb", {"grow": 0.1}, "mask_dilation"),
        ("spurious", {"finetuning": {"prior_images": 4}}, "num_class_images"),
    ],
)  # fmt: skip
def test_an_earlier_name_is_refused_with_the_new_one(method, fields, new):
    with pytest.raises(RecipeError, match=f"it is called {new} now"):
        method_class(method)(None, **fields)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cutout_scale": (0.3, 0.5)}, "cutout_scale"), ({"keep": ("guide",)}, "keep"),
        ({"formats": ("parquet",)}, "formats"), ({"classes": ("bird", "car")}, "classes"),
    ],
)  # fmt: skip
def test_a_tuple_is_a_list(fields, field):
    assert getattr(D3S("pocket", **fields).config, field) == list(fields[field])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"per_cell": {5: 3}}, "per_cell: 5 is not a text"), ({"seed": 2**128}, f"from 0 to {2**128 - 1}"),
        ({"cutout_scale": 2}, "a list of numbers from 0.05 to 1"),
        ({"table": {"correlation": True}}, "correlation"), ({"table": {"correlation": float("nan")}}, "correlation"),
    ],
)  # fmt: skip
def test_what_is_wrong_inside_a_value_is_named(fields, message):
    with pytest.raises(RecipeError, match=message):
        D3S("pocket", **fields)


@pytest.mark.parametrize("make", [lambda: Training(5), lambda: settings_for(" "), lambda: Inversion(5)])
def test_a_bad_value_given_by_position_is_refused_by_name(make):
    with pytest.raises(RecipeError, match=r"^(method|checkpoint): "):
        make()


@pytest.mark.parametrize("name", ["scgs", "ddb"])
def test_a_plan_without_the_training_set_says_so(name, capsys):
    assert main(["plan", name]) == 2
    assert "data: " in capsys.readouterr().err
