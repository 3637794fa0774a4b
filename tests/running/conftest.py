"""Builds that take long enough for something to happen meanwhile. Modules that need others define these themselves."""

import pytest
from commands import LONG, recipe, run
from tiny_checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def undisturbed(checkpoint, tmp_path_factory):
    """A dataset that one process made, with nothing in its way."""
    out = tmp_path_factory.mktemp("undisturbed") / "d3s"
    assert run("build", *recipe(checkpoint, **LONG), "--out", str(out))[0] == 0
    return out
