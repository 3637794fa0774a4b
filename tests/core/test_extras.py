"""What to install for a missing module: an extra of this package, or the package itself."""

import pytest

from figureground.core.errors import FiguregroundError
from figureground.core.extras import explain_missing, hint, require
from figureground.models.needs import missing_packages


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("peft", "pip install 'figureground[lora]'"),
        ("sklearn", "pip install 'figureground[mitigate]'"),
        ("c2pa", "pip install 'figureground[sign]'"),
        ("bitsandbytes", "pip install bitsandbytes"),
    ],
)
def test_a_module_comes_with_its_extra_or_as_its_package(module, command):
    assert hint(module) == command


def test_a_missing_module_is_named_with_what_needs_it_and_what_else_to_do():
    require("numpy", "anything")
    with pytest.raises(FiguregroundError, match=r"^the runner x needs no_such: pip install no_such, or take y\.$"):
        require("no_such", "the runner x", otherwise="or take y")
    error = explain_missing("sklearn", "clustering", ImportError("a library is missing\nsomewhere"))
    assert str(error) == (
        "clustering needs scikit-learn: pip install 'figureground[mitigate]' (a library is missing)."
    )  # fmt: skip


def test_what_a_method_of_another_package_needs_is_told_too():
    """Its modules are of no extra of this package."""
    (need,) = missing_packages("method", ["no_such", "numpy"])
    assert (need.what, need.command) == ("the package no_such isn't installed", "pip install no_such")
