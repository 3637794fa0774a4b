"""Clusters: planted blobs come back, the number is chosen or given, and what can't be clustered is said."""

import dataclasses
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from tiny_classifiers import make_classifier
from tiny_layouts import make_table

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.layouts import read_groups
from figureground.learn.clusters import METHODS, cluster, cluster_errors, compute_features, compute_held_out_features
from figureground.learn.errors import Errors
from figureground.vision.classifiers import open_classifier

SIZES = (10, 40, 25)


@pytest.fixture(scope="module")
def blobs():
    """Three blobs in 24 dimensions, of very different scales, shuffled: features, and which blob each is of."""
    rng = np.random.default_rng(0)
    blob = rng.permutation(np.repeat(np.arange(3), SIZES))
    centres = 4 * rng.normal(size=(3, 24))
    return (centres[blob] + rng.normal(size=(75, 24))) * np.logspace(-3, 3, 24), blob


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [None, 3], ids=["chosen", "given"])
def test_planted_blobs_come_back_the_largest_first(method, k, blobs):
    features, blob = blobs
    found = cluster(features, method=method, k=k, seed=0)
    assert found.k == 3
    assert found.labels.dtype == np.int64
    assert (found.labels == np.array([2, 0, 1])[blob]).all()
    assert found.sizes.tolist() == sorted(SIZES, reverse=True)
    assert sorted(found.silhouettes) == ([2, 3, 4, 5, 6] if k is None else [])
    assert k or max(found.silhouettes, key=found.silhouettes.get) == 3


def test_members_come_by_their_distance_to_the_centre(blobs):
    found = cluster(blobs[0], k=3, seed=0)
    for label in range(3):
        members = found.members(label)
        assert sorted(members) == np.flatnonzero(found.labels == label).tolist()
        assert (np.diff(found.distance[members]) >= 0).all()
    assert (found.distance > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_seeds_decide_and_threads_do_not(method):
    features = np.random.default_rng(0).normal(size=(400, 40))
    with threadpool_limits(1):
        one = cluster(features, method=method, k=5, seed=0)
    two = cluster(features, method=method, k=5, seed=0)
    assert (one.labels == two.labels).all()
    assert (one.distance == two.distance).all()
    assert (cluster(features, method=method, k=5, seed=1).labels != one.labels).any()


def test_what_doesnt_fall_apart_stays_together():
    found = cluster(np.random.default_rng(0).normal(size=(300, 60)), seed=0)
    assert found.k == 1
    assert not found.labels.any()
    assert sorted(found.silhouettes) == [2, 3, 4, 5, 6]
    assert max(found.silhouettes.values()) <= 0.05


def test_too_few_points_or_equal_ones_are_one_cluster():
    for features in (np.ones((1, 4)), np.eye(3), np.ones((20, 4))):
        found = cluster(features, seed=0)
        assert (found.k, found.silhouettes) == (1, {})
        assert found.labels.tolist() == [0] * len(features)
    assert cluster(np.eye(3), k=3, seed=0).sizes.tolist() == [1, 1, 1]


def test_fewer_clusters_are_tried_where_points_are_few(blobs):
    assert sorted(cluster(blobs[0], most=4, seed=0).silhouettes) == [2, 3, 4]
    assert sorted(cluster(blobs[0][:7], seed=0).silhouettes) == [2, 3]


@pytest.mark.parametrize(
    ("features", "k", "message"),
    [
        (np.ones((1, 4)), 2, "^1 image can't make 2 clusters. Lower k, or leave it out"),
        (np.eye(5), 6, "^5 images can't make 6"),
        (np.ones((20, 4)), 2, "^20 images, of which 1 differ, can't make 2"),
        (np.empty((0, 4)), None, "to cluster"),
        (np.full((5, 4), np.nan), None, "NaN or infinity"),
    ],
)
def test_points_that_cant_be_clustered_are_refused(features, k, message):
    with pytest.raises(FiguregroundError, match=message):
        cluster(features, k=k, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "kmeans"}, "method: there is no 'kmeans', did you mean 'k-means'"),
        ({"k": 0}, "k: 0 is not a whole number"),
        ({"most": 2.5}, "most: 2.5"),
    ],
)
def test_settings_that_cant_be_used_are_named(settings, message):
    with pytest.raises(RecipeError, match=message):
        cluster(np.eye(5), seed=0, **settings)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(FiguregroundError, match=r"pip install 'figureground\[mitigate\]'"):
        cluster(np.eye(5), seed=0)


def test_features_are_what_the_last_layer_is_given(tmp_path):
    make_table(tmp_path / "data")
    train = read_groups(tmp_path / "data").of_split(0)
    classifier = open_classifier(str(make_classifier(tmp_path / "classifier")))
    features = compute_features(classifier, train, show_progress=False)
    assert features.dtype == np.float32
    reading = classifier.read([draw() for _, draw in train.read(np.arange(len(train)))])
    assert np.allclose(features, reading.features, atol=1e-5)
    logits = features @ classifier.weight.numpy().T + classifier.bias.numpy()
    assert np.allclose(logits, reading.logits, atol=1e-5)
    assert compute_features(classifier, train.select([]), show_progress=False).shape == (0, features.shape[1])


def errors_of(y, predicted, classes=3):
    n = len(y)
    zeros = np.zeros(n, np.int64)
    return Errors(
        tuple(map(str, range(n))), np.array(y), np.array(predicted), np.eye(classes)[np.array(predicted)], zeros, ()
    )


def test_errors_are_clustered_by_class_and_classes_without_any_are_reported(blobs):
    features, y = blobs[0], np.repeat([0, 0, 2], 25)
    right = np.array([0, 1, 2, 1])  # right ones of each class, and all images of class 1
    errors = errors_of([*right, *y], [*right, *np.where(y == 0, 1, 0)])
    found = cluster_errors(errors, features, ("mug", "kite", "hat"), k=2, seed=0)
    assert [(each.y, each.name) for each in found] == [(0, "mug"), (1, "kite"), (2, "hat")]
    assert found[0].rows.tolist() == list(range(4, 54))
    assert found[2].rows.tolist() == list(range(54, 79))
    assert found[1].clusters is None
    assert not len(found[1].rows)
    for each, part in ((found[0], features[:50]), (found[2], features[50:])):
        assert (each.clusters.labels == cluster(part, k=2, seed=0).labels).all()


def test_no_errors_to_cluster_is_reported_with_what_to_do():
    errors = errors_of([0, 1], [0, 1])
    with pytest.raises(FiguregroundError, match=r"no errors to cluster: all 2 training images.*cross-fitting.*fewer"):
        cluster_errors(errors, np.empty((0, 4)), ("mug", "kite", "hat"), seed=0)


def test_a_class_with_few_errors_that_differ_gets_fewer_clusters_and_holds_up_no_other():
    errors = errors_of([0, 0, 0, 1, 1, 2], [1, 1, 1, 0, 0, 0])
    features = np.array([[0.0, 0], [9, 9], [0, 0.1], [5, 5], [5, 5], [1, 2]])
    found = cluster_errors(errors, features, ("mug", "kite", "hat"), k=2, seed=0)
    assert [each.clusters.sizes.tolist() for each in found] == [[2, 1], [2], [1]]


def test_the_class_whose_errors_can_t_be_clustered_is_named():
    errors = errors_of([0, 1], [1, 0])
    with pytest.raises(FiguregroundError, match=r"errors of the class kite: Features .* NaN"):
        cluster_errors(errors, np.array([[1.0], [np.nan]]), ("mug", "kite", "hat"), seed=0)


def cramers_v(one, other):
    """Association of two labellings, 0 (independent) to 1."""
    table = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(table, (one, other), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / (min(table.shape) - 1)))


@pytest.mark.parametrize("k", [None, 2], ids=["chosen", "given"])
def test_clusters_say_what_kind_an_error_is_and_not_which_fold_it_was_in(k):
    rng = np.random.default_rng(0)
    n, folds = 120, 3
    y, fold, kind = rng.integers(2, size=n), np.arange(n) % folds, rng.integers(2, size=n)
    planted = 4 * rng.normal(size=(2, 8))[kind] + rng.normal(size=(n, 8))
    shift, scale = 20 * rng.normal(size=(folds, 2, 8)), rng.uniform(0.2, 5, size=(folds, 8))
    features = (planted + shift[fold, y]) * scale[fold]  # every network has its own origin and units
    errors = Errors(tuple(map(str, range(n))), y, 1 - y, np.eye(2)[1 - y], fold, ())
    found = cluster_errors(errors, features, ("mug", "hat"), k=k, seed=0)
    for each in found:
        assert each.clusters.k == 2
        assert cramers_v(each.clusters.labels, kind[each.rows]) > 0.95
        assert cramers_v(each.clusters.labels, fold[each.rows]) < 0.3  # 2 / sqrt(60), twice the spread by chance
    one = dataclasses.replace(errors, fold=np.zeros(n, np.int64))  # as if a single classifier had judged all
    confounded = cluster_errors(one, features, ("mug", "hat"), k=3, seed=0)
    assert all(cramers_v(each.clusters.labels, fold[each.rows]) > 0.9 for each in confounded)


def test_each_error_is_described_by_the_classifier_that_has_not_seen_it(tmp_path):
    make_table(tmp_path / "data")
    train = read_groups(tmp_path / "data").of_split(0)
    classifiers = [open_classifier(str(make_classifier(tmp_path / f"c{i}", seed=i))) for i in range(2)]
    n = len(train)
    fold = np.arange(n) % 2
    errors = Errors(train.keys, train.y, 1 - train.y, np.eye(2)[1 - train.y], fold, ())
    rows = np.arange(1, n)
    features = compute_held_out_features(errors, rows, train, classifiers.__getitem__, show_progress=False)
    for i, classifier in enumerate(classifiers):
        own = compute_features(classifier, train, show_progress=False)
        assert np.allclose(features[fold[rows] == i], own[rows][fold[rows] == i], atol=1e-5)
