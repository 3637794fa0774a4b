"""Accuracy by group: groups without images, the worst group and class, and the re-weighted average."""

import numpy as np
import pytest

from figureground.learn.accuracy import (
    accuracy_by_group,
    reweighted_accuracy,
    worst_class_accuracy,
    worst_group_accuracy,
)


def test_accuracy_by_group_is_unknown_where_there_is_no_image():
    found = accuracy_by_group(np.array([1, 0, 1, 1], bool), np.array([0, 0, 3, 3]), 4)
    assert found[[0, 3]].tolist() == [0.5, 1.0]
    assert np.isnan(found[1:3]).all()


def test_the_worst_group_is_one_that_has_images():
    assert worst_group_accuracy(np.array([0.9, np.nan, 0.2, 1.0])) == 0.2
    with pytest.raises(ValueError, match="No group has an image"):
        worst_group_accuracy(np.array([np.nan, np.nan]))


def test_the_worst_class_needs_no_attribute():
    assert worst_class_accuracy(np.array([1, 1, 0, 1], bool), np.array([0, 0, 2, 2]), 4) == 0.5


def test_average_accuracy_is_reweighted_by_training_counts():
    accuracy, counts = np.array([0.99, 0.8, 0.6, 0.95]), np.array([[3498, 184], [56, 1057]])
    expected = (3498 * 0.99 + 184 * 0.8 + 56 * 0.6 + 1057 * 0.95) / 4795
    assert reweighted_accuracy(accuracy, counts) == pytest.approx(expected)
    assert reweighted_accuracy(np.array([0.99, np.nan, 0.6, 0.95]), counts) == pytest.approx(
        (3498 * 0.99 + 56 * 0.6 + 1057 * 0.95) / (4795 - 184)
    )
    assert reweighted_accuracy(np.array([0.4, 0.6]), np.array([7, 7])) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="3 accuracies and 4 counts"):
        reweighted_accuracy(np.array([1.0, 1.0, 1.0]), counts)
    with pytest.raises(ValueError, match="No group has both"):
        reweighted_accuracy(np.array([1.0, np.nan]), np.array([0, 5]))
