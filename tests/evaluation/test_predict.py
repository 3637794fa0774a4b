"""Predictions of a classifier that knows colours, for images whose colours are known."""

import numpy as np
import pytest
import torch
from colour_datasets import make_coloured, make_coloured_classifier, make_folders
from tiny_classifiers import refuse_more_than

from figureground.core.errors import FiguregroundError, OutOfMemory
from figureground.data.images import DatasetImages, FolderImages
from figureground.evaluation.counterparts import Counterparts
from figureground.evaluation.predict import predict
from figureground.vision.classifiers import open_classifier

LABELS = ("bird", "cat", "mug")
OWN = Counterparts(LABELS, ((0,), (1,), (2,)), 3)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return open_classifier(str(make_coloured_classifier(tmp_path_factory.mktemp("it") / "colours")))


def drawn(*colours):
    return [("train", "bird", "grass", i, colour) for i, colour in enumerate(colours)]


def test_images_in_the_colour_of_their_class_are_right_and_others_wrong(tmp_path, classifier):
    images = DatasetImages.open(make_coloured(tmp_path, drawn("bird", "cat", "mug", "bird", "bird")), LABELS)
    found = predict(classifier, images, OWN, batch_size=2, show_progress=False)
    assert found.judged.all()
    assert found.predicted.tolist() == [0, 1, 2, 0, 0]
    assert found.correct.tolist() == [True, False, False, True, True]
    assert (found.p[[0, 3, 4]] > 0.9).all()
    assert (found.p[[1, 2]] < 0.1).all()


def test_the_size_of_a_batch_and_of_images_in_it_changes_nothing(tmp_path, classifier):
    folders = FolderImages(make_folders(tmp_path, {"bird": 4, "cat": 3}), LABELS)  # each of another height
    found = [predict(classifier, folders, OWN, batch_size=n, show_progress=False) for n in (1, 3, 64)]
    for other in found[1:]:
        assert np.allclose(other.p, found[0].p, atol=1e-6)
        assert (other.predicted == found[0].predicted).all()


def test_the_probability_is_that_of_the_classifiers_softmax(tmp_path, classifier):
    images = DatasetImages.open(make_coloured(tmp_path, drawn("cat", "mug")), LABELS)
    with torch.no_grad():
        logits = classifier.read([draw() for _, draw in images.read([0, 1])]).logits
    expected = logits.double().softmax(1)[:, 0].numpy()
    assert np.allclose(predict(classifier, images, OWN, show_progress=False).p, expected, rtol=1e-4)


def test_of_several_classes_that_stand_for_a_label_any_is_right_and_their_probabilities_add_up(tmp_path, classifier):
    images = DatasetImages.open(make_coloured(tmp_path, drawn("bird", "cat", "mug")), LABELS)
    both = Counterparts(LABELS, ((0, 1), (), ()), 3)
    found = predict(classifier, images, both, show_progress=False)
    assert found.correct.tolist() == [True, True, False]
    assert found.p == pytest.approx([1, 1, 0], abs=0.1)


def test_labels_without_a_counterpart_and_those_of_another_list_are_left_out(tmp_path, classifier):
    cells = [*drawn("bird"), ("train", "cat", "grass", 0, "cat"), ("train", "sofa", "grass", 0, "cat")]
    images = DatasetImages.open(make_coloured(tmp_path, cells), LABELS)
    found = predict(classifier, images, Counterparts(LABELS, ((), (1,), ()), 3), show_progress=False)
    assert found.judged.tolist() == [False, True, False]
    assert np.isnan(found.p[[0, 2]]).all()
    assert found.predicted[[0, 2]].tolist() == [-1, -1]
    assert found.mask_of(1).tolist() == [False, True, False]


def test_photographs_that_can_not_be_read_are_noted_and_left_out(tmp_path, classifier):
    make_folders(tmp_path, {"bird": 3})
    (tmp_path / "bird" / "1.png").write_bytes(b"")
    folders = FolderImages(tmp_path, LABELS)
    found = predict(classifier, folders, OWN, show_progress=False)
    assert found.judged.tolist() == [True, False, True]
    assert folders.unreadable == {"bird/1.png": "the file is empty (0 bytes)"}
    for path in (tmp_path / "bird").iterdir():
        path.write_text("<html>")
    with pytest.raises(FiguregroundError, match=r"none of its 3 images can be read; .*bird/.\.png: a web page"):
        predict(classifier, folders, OWN, show_progress=False)


def test_a_damaged_image_of_a_dataset_is_named(tmp_path, classifier):
    directory = make_coloured(tmp_path, drawn("bird"), formats=("webdataset",))
    tar = next((directory / "webdataset").iterdir())
    tar.write_bytes(tar.read_bytes().replace(b"\x89PNG\r\n", b"\x89PNG\0\0"))
    with pytest.raises(FiguregroundError, match="train-0000-00-00000: its image can't be decoded"):
        predict(classifier, DatasetImages.open(directory, LABELS), OWN, show_progress=False)


@pytest.mark.parametrize("most", [3, 0])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")], ids=str
)
def test_a_batch_that_does_not_fit_is_halved_down_to_one_image(tmp_path, error, most):
    images = DatasetImages.open(make_coloured(tmp_path / "set", drawn(*["bird", "cat"] * 4)), LABELS)
    classifier = open_classifier(str(make_coloured_classifier(tmp_path / "colours")))
    expected = predict(classifier, images, OWN, show_progress=False)
    refuse_more_than(classifier, most, error)
    if most:
        assert (predict(classifier, images, OWN, show_progress=False).predicted == expected.predicted).all()
    else:
        with pytest.raises(OutOfMemory, match=r"^The classifier colours and one image of 32 × 32 px don't fit"):
            predict(classifier, images, OWN, show_progress=False)
