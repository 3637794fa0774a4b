"""Fixtures that several folders of tests share; a folder's `conftest.py` imports those that it needs.

What they make is made once a session: tests that change it make their own.
"""

import pytest
import torch
from tiny_checkpoints import KINDS, make_checkpoint

from figureground.pocket import birds


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
def bed(tmp_path_factory):
    """Pocketbirds of 16 px: 40 training images, 19 of each class in its own scene; 8 of validation, 8 of test."""
    return birds.write(
        tmp_path_factory.mktemp("data") / "birds", 40, 8, 8, bias_aligned_share=0.95, size=16, show_progress=False
    )
