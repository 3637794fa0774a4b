"""Tiny checkpoints, references and a learned token. Tests that change one make their own."""

import pytest
from shared_fixtures import checkpoints, one_thread, sd1  # noqa: F401
from tiny_references import make_references
from tiny_tokens import learn


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of four."""
    return make_references(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def mug(one_thread, sd1, images, tmp_path_factory):  # noqa: F811
    """A finished token."""
    return learn(sd1, images, tmp_path_factory.mktemp("tokens") / "mug")
