"""Errors name fields fully, and keep their text where a field is part of another one."""

import pytest

from figureground.core.errors import RecipeError, plural


def test_the_error_of_a_nested_field_names_it_fully_and_keeps_its_message():
    error = RecipeError("size", "64: too large: give 32")
    assert (error.field, error.message) == ("size", "64: too large: give 32")
    nested = error.within("inversion").within("ddb")
    assert str(nested) == "ddb.inversion.size: 64: too large: give 32"
    assert (nested.field, nested.message) == ("ddb.inversion.size", error.message)


def test_a_field_with_a_colon_in_its_name_is_not_cut():
    with pytest.raises(RecipeError, match=r"^phrases\.bird: a: not a text\.$"):
        raise RecipeError("bird: a", "not a text.").within("phrases")


@pytest.mark.parametrize(
    ("n", "noun", "text"), [(1, "shard", "1 shard"), (1200, "shard", "1,200 shards"), (1, "class", "1 class"),
                            (0, "class", "0 classes"), (2, "epoch", "2 epochs")],
)  # fmt: skip
def test_counts_agree_with_their_nouns(n, noun, text):
    assert plural(n, noun) == text
