"""What tests of fine-tuning share. Checkpoints and images are made once: tests that change one make their own."""

import pytest
import torch
from tiny_checkpoints import KINDS, make_checkpoint
from tiny_references import make_references
from tiny_tokens import learn


@pytest.fixture(scope="module")
def one_thread():
    """As many threads as a command has: bits depend on it, and other tests may have asked for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """One of every kind, by name."""
    return {kind: make_checkpoint(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="session")
def sd1(checkpoints):
    return checkpoints["sd1"]


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of four."""
    return make_references(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def mug(one_thread, sd1, images, tmp_path_factory):
    """A finished token."""
    return learn(sd1, images, tmp_path_factory.mktemp("tokens") / "mug")
