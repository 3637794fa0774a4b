"""The settings of a textual inversion are checked at the door."""

import dataclasses
import json
import subprocess
import sys

import pytest

from figureground.core.errors import RecipeError
from figureground.finetune.inversion_settings import POCKET, TEMPLATES, Inversion, check_token, settings_for
from figureground.recipe.settings import execution_names


def test_the_pocket_has_its_own_settings_and_other_checkpoints_the_usual():
    assert settings_for("pocket") == POCKET
    assert settings_for("pocket", max_train_steps=7) == dataclasses.replace(POCKET, max_train_steps=7)
    assert settings_for("user/name", masked=True) == Inversion("user/name", masked=True)
    assert all("{token}" in text for text in TEMPLATES)


def test_what_is_saved_makes_the_same_settings_again():
    saved = json.loads(json.dumps(POCKET.to_json()))
    assert Inversion(**{**saved, "templates": tuple(saved["templates"])}) == POCKET


def test_fields_that_decide_nothing_are_fields():
    assert set(execution_names(Inversion)) <= {field.name for field in dataclasses.fields(Inversion)}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_train_steps", 0, "0 is not a whole number from 1"), ("max_train_steps", 2.5, "whole"),
        ("batch_size", True, "whole"),
        ("vectors", 76, "from 1 to 75"), ("vectors", 0, "from 1 to 75"), ("learning_rate", float("nan"), "number"),
        ("learning_rate", 0, "number"), ("min_snr_gamma", 0, "number"), ("size", 4, "from 8"), ("seed", -1, "whole"),
        ("save_seconds", -1, "from 0"), ("flip", "yes", "true or false"), ("masked", None, "true or false"),
        ("dtype", "bfloat", "did you mean 'bfloat16'"), ("revision", "", "not a text"),
        ("templates", (), "empty"),
        ("templates", "a {token}", "not a list"), ("templates", ("a photo",), r"\{token\}"),
        ("templates", ("a {token}", "a {noun} {token}"), r"nothing fills '\{noun\}'"),
    ],
)  # fmt: skip
def test_a_value_that_can_not_be_used_is_refused_naming_its_field(field, value, message):
    with pytest.raises(RecipeError, match=f"^{field}: .*{message}"):
        settings_for("pocket", **{field: value})


@pytest.mark.parametrize("token", ["<mug>", "<my-mug>", "<mug_2>", "<7>"])
def test_a_token_stands_in_angle_brackets(token):
    check_token(token)


@pytest.mark.parametrize("token", ["mug", "<Mug>", "<a mug>", "<>", "<mug", "<{mug}>", "<mug>_1", "<müg>", 7])
def test_another_token_is_refused_saying_what_one_looks_like(token):
    with pytest.raises(RecipeError, match=r"^token: .* is not of the form '<mug>'"):
        check_token(token)


def test_settings_need_no_torch():
    code = "import sys, figureground.finetune.inversion_settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
