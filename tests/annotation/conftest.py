"""Datasets without any model, and a review that runs as people run it."""

from pathlib import Path

import pytest
from browsers import chromium  # noqa: F401
from PIL import Image
from review_server import Review
from tiny_datasets import make_dataset

from figureground.shards.columns import Columns
from figureground.shards.shard import Shard

SPURIOUS = Columns(("feeder", "flower"), ("plain", "snow"), {"spurious_for": ("bird", "cat")}, ("feature",))
REPAINTED = Columns(("bird", "cat"), ("unknown", "snow"), texts=("source",))


@pytest.fixture
def directory(tmp_path) -> Path:
    """22 images: birds and cats on grass, at night and in snow."""
    return make_dataset(tmp_path / "set")


@pytest.fixture
def spurious(tmp_path) -> Path:
    """16 images of a class-wise spurious set, and five larger references of each class."""

    def provenance(sample):
        name = sample.spec.split
        return {"spurious_for": name, "feature": f"what goes with a {name}"}

    shards = (Shard("bird", 0, 1, 8), Shard("cat", 0, 1, 8))
    out = make_dataset(tmp_path / "set", columns=SPURIOUS, shards=shards, provenance=provenance)
    for split in ("bird", "cat"):
        for n in range(5):
            path = out / "_figureground" / "stages" / "references" / split / f"{n:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (90, 60), (40 * n, 90, 200)).save(path)
    return out


@pytest.fixture
def repainted(tmp_path) -> Path:
    """Images of which every other has an unknown background."""
    return make_dataset(tmp_path / "set", columns=REPAINTED, provenance=lambda sample: {"source": "train/1.png"})


@pytest.fixture
def serve():
    """Start reviews; they are killed at the end of the test."""
    running: list[Review] = []

    def start(*arguments: object, port: int | None = 0) -> Review:
        running.append(Review(*arguments, *([] if port is None else ["--port", port])))
        return running[-1]

    yield start
    for each in running:
        each.stop()
