"""Models and datasets that several tests of scorers use."""

import pytest
from shared_fixtures import checkpoints as checkpoints
from shared_fixtures import sd1 as sd1
from tiny_classifiers import make_classifier
from tiny_datasets import make_dataset
from tiny_scorers import make_clip, make_vlm


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="session")
def vlm(tmp_path_factory):
    return make_vlm(tmp_path_factory.mktemp("vlm") / "llava")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """Knows birds, cats and snow."""
    labels = {0: "bird", 1: "cat", 2: "snow", 3: "other"}
    return make_classifier(tmp_path_factory.mktemp("classifier") / "resnet", labels=labels)


@pytest.fixture
def source(tmp_path):
    """22 images of noise: bird and cat; grass, night and snow."""
    return make_dataset(tmp_path / "in")
