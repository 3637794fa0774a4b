"""The rows that names of methods and generators ask for."""

import pytest

from figureground.comparison.rows import Row, parse_methods
from figureground.core.errors import RecipeError


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["jtt"], [Row("jtt", None, "jtt")]),
        (["paste", "scgs+jtt"], [Row("paste", "paste", "erm"), Row("scgs+jtt", "scgs", "jtt")]),
        (["ddb+erm"], [Row("ddb", "ddb", "erm")]),
    ],
)
def test_a_generator_is_with_erm_by_default(names, rows):
    assert parse_methods(names) == rows


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["groupdor"], "'groupdor', did you mean 'groupdro'"),
        (["scgs+jt"], "'scgs\\+jt', did you mean 'scgs\\+jtt'"),
        (["erm+jtt"], "'erm\\+jtt'"),
        (["zzz"], "erm, reweight, jtt, .*two-stage, paste, scgs, ddb"),
        (["ddb", "ddb+erm"], "'ddb' is named twice"),
        ([], "erm, reweight"),
    ],
)
def test_methods_that_there_are_not_are_named(names, message):
    with pytest.raises(RecipeError, match=message):
        parse_methods(names)
