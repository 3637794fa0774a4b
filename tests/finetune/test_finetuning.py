"""The settings of a fine-tuning are checked at the door, and the command line has a flag for each."""

import argparse
import dataclasses
from typing import get_args

import pytest

from figureground.cli.flags import add_flags, read_flags
from figureground.core.errors import RecipeError
from figureground.core.values import field_types
from figureground.finetune import similarity
from figureground.finetune.settings import POCKET, Finetuning, settings_for
from figureground.recipe.settings import describe_fields, execution_names


def parse(*flags):
    parser = argparse.ArgumentParser()
    add_flags(parser, Finetuning, {})
    given = read_flags(vars(parser.parse_args(flags)), Finetuning)
    return settings_for(given.pop("checkpoint", "pocket"), **given)


def test_every_setting_has_a_text_and_a_flag():
    descriptions = describe_fields(Finetuning)
    assert list(descriptions) == [field.name for field in dataclasses.fields(Finetuning)]
    assert all(text.endswith(".") for text in descriptions.values())
    parser = argparse.ArgumentParser()
    add_flags(parser, Finetuning, {})
    assert set(descriptions) <= {action.dest for action in parser._actions}


def test_without_flags_the_pocket_preset_counts_and_with_another_checkpoint_the_usual():
    assert parse() == POCKET
    with pytest.raises(RecipeError, match=r"feature_model: SFSL compares .* --sfsl-weight 0"):
        parse("--checkpoint", "user/name")
    assert parse("--checkpoint", "user/name", "--sfsl-weight", "0") == Finetuning("user/name", sfsl_weight=0.0)


def test_flags_of_every_kind_are_understood():
    settings = parse(
        "--max-train-steps", "7", "--learning-rate", "1e-5", "--flip", "--min-snr-gamma", "none", "--distance", "l2",
        "--preview-prompt", "a {V}", "--preview-prompt", "the {noun}", "--no-gradient-checkpointing",
    )  # fmt: skip
    changes = {"max_train_steps": 7, "learning_rate": 1e-5, "flip": True, "min_snr_gamma": None, "distance": "l2"}
    assert settings == dataclasses.replace(POCKET, **changes, preview_prompts=("a {V}", "the {noun}"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_train_steps", 0), ("max_train_steps", 2.5), ("batch_size", True), ("ema", 1.5),
        ("learning_rate", float("nan")),
        ("min_snr_gamma", 0), ("lora_rank", 0), ("flip", "yes"), ("features", "all"), ("dtype", "float16"),
        ("prompt", "a photo of a {noun}"), ("prompt", "a {V} {thing}"), ("prior_prompt", "a {V} {noun}"),
        ("identifier", ""), ("preview_prompts", "a {V}"), ("class_direction", "heads"), ("early_stopping", "never"),
        ("class_images", 1), ("stop_images", 1), ("stop_patience", 0), ("class_direction", "none"),
    ],
)  # fmt: skip
def test_a_value_that_can_not_be_used_is_refused_naming_its_field(field, value):
    with pytest.raises(RecipeError, match=f"^{field}: "):
        settings_for("pocket", **{field: value})


def test_early_stopping_and_the_classs_direction_are_set_by_flags_and_refused_where_nothing_could_be_measured():
    settings = parse("--early-stopping", "without-class", "--class-direction", "images", "--stop-every", "25")
    assert settings == dataclasses.replace(
        POCKET, early_stopping="without-class", class_direction="images", stop_every=25
    )
    assert parse("--early-stopping", "none", "--class-direction", "none") == POCKET
    with pytest.raises(RecipeError, match=r"^early_stopping: .* with prior_weight 0 none are drawn"):
        parse("--early-stopping", "similarity", "--prior-weight", "0")
    with pytest.raises(RecipeError, match=r"^class_direction: .* with prior_weight 0 none are drawn"):
        parse("--class-direction", "images", "--prior-weight", "0")
    assert parse("--class-direction", "head", "--prior-weight", "0").class_direction == "head"
    with pytest.raises(RecipeError, match=r"^stop_every: 50 is more than max_train_steps, 40"):
        parse("--early-stopping", "similarity", "--max-train-steps", "40")
    with pytest.raises(RecipeError, match=r"^feature_model: early_stopping "):
        parse("--checkpoint", "user/name", "--sfsl-weight", "0", "--early-stopping", "similarity")


def test_fields_that_are_off_do_not_decide_and_those_that_are_on_do():
    older = {"noise_levels", "class_direction", "class_images", *Finetuning.STOPPING}
    assert not older & set(POCKET.identity_fields())
    assert not set(execution_names(Finetuning)) & set(POCKET.identity_fields())
    names = {field.name for field in dataclasses.fields(Finetuning)}
    assert {*POCKET.identity_fields(), *older, *execution_names(Finetuning)} == names
    assert {"noise_levels"} == older & set(dataclasses.replace(POCKET, noise_levels="uniform").identity_fields())
    images = dataclasses.replace(POCKET, class_direction="images").identity_fields()
    assert {"class_direction", "class_images"} == older & set(images)
    assert "class_images" not in dataclasses.replace(POCKET, class_direction="head").identity_fields()
    without_loss = dataclasses.replace(POCKET, class_direction="head", sfsl_weight=0.0)
    assert "class_direction" not in without_loss.identity_fields()
    stopped = dataclasses.replace(POCKET, sfsl_weight=0.0, early_stopping="similarity")
    assert set(Finetuning.STOPPING) == older & set(stopped.identity_fields())
    assert stopped.reads_features
    assert not dataclasses.replace(POCKET, sfsl_weight=0.0).reads_features


def test_names_are_those_that_the_parts_use():
    hints = field_types(Finetuning)
    assert get_args(hints["features"]) == similarity.FEATURES
    assert get_args(hints["distance"]) == similarity.DISTANCES
    assert get_args(hints["weighting"]) == similarity.WEIGHTINGS


def test_rates_fall_back_to_what_is_usual():
    assert Finetuning("x", sfsl_weight=0).learning_rate_of("text_encoder") == 2e-6
    assert Finetuning("x", sfsl_weight=0, lora_rank=8).learning_rate_of("unet") == 1e-4
    assert Finetuning("x", sfsl_weight=0, text_encoder_learning_rate=0.0).learning_rate_of("text_encoder") == 0
