"""The safety score comes from a checkpoint's checker, or from a classifier's unsafe classes."""

import shutil

import pyarrow.parquet as pq
import pytest
from tiny_checkpoints import add_safety_checker
from tiny_classifiers import make_classifier

from figureground.core.errors import FiguregroundError
from figureground.verification.verifying import verify


def safety(done):
    return pq.read_table(done.path)["safety"].to_pylist()


def test_a_checkpoints_checker_flags(source, sd1, classifier, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(sd1, checkpoint)
    with pytest.raises(FiguregroundError, match="no safety checker"):
        verify(source, [f"classifier:{classifier}"], safety=str(checkpoint), show_progress=False)
    add_safety_checker(checkpoint)
    done = verify(source, [f"classifier:{classifier}"], safety=str(checkpoint), show_progress=False)
    assert safety(done) == [1.0] * 22


def test_a_classifiers_unsafe_classes_are_added(source, classifier, tmp_path):
    labels = {0: "normal", 1: "nsfw", 2: "gore"}
    model = str(make_classifier(tmp_path / "model", labels=labels))
    by_name = safety(verify(source, [f"classifier:{classifier}"], safety=model, show_progress=False))
    assert all(0 < p < 1 for p in by_name)
    both = safety(
        verify(source, [f"classifier:{classifier}"], safety=model, unsafe=["nsfw", "gore"], show_progress=False)
    )
    assert all(more > less for more, less in zip(both, by_name, strict=True))


def test_a_classifier_without_a_known_unsafe_class_is_refused(source, classifier):
    with pytest.raises(FiguregroundError, match=r"--unsafe.*bird, cat, snow, other"):
        verify(source, [f"classifier:{classifier}"], safety=str(classifier), show_progress=False)
