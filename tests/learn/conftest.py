"""Data that several files of tests train on; none writes into them."""

import pytest

from figureground.pocket import birds


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Pocketbirds of 16 px: 40 training images, 19 of each class in its own scene; 8 of validation, 8 of test."""
    return birds.write(
        tmp_path_factory.mktemp("data") / "birds", 40, 8, 8, bias_aligned_share=0.95, size=16, show_progress=False
    )
