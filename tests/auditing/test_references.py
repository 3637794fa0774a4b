"""Comparison with references: distances on known distributions, and sets like and unlike their references."""

import numpy as np
import pytest
from drawn_datasets import BACKGROUNDS, FOREGROUNDS, make_drawn
from PIL import Image
from tiny_classifiers import refuse_more_than

from figureground.auditing.auditing import audit
from figureground.auditing.features import read_features
from figureground.auditing.fidelity import clipped_coverage, clipped_density, expected_coverage, frechet_distance
from figureground.auditing.transfer import auc_interval, fit_and_predict, sign_test
from figureground.core.errors import FiguregroundError, OutOfMemory
from figureground.pocket import world
from figureground.vision import classifiers


def normal(seed, n, d=4, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


def test_the_frechet_distance_is_that_of_the_moments():
    x = normal(0, 500)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x + [3, 0, 4, 0]) == pytest.approx(25)
    stretched = (x - x.mean(0)) * 2
    spread = np.trace(np.cov(x, rowvar=False))
    assert frechet_distance(x - x.mean(0), stretched) == pytest.approx(spread)  # (2 − 1)² tr Σ
    one, other = normal(1, 60, 2) @ [[2, 1], [0, 1]], normal(2, 60, 2) @ [[1, 0], [3, 1]]
    product = np.cov(one, rowvar=False) @ np.cov(other, rowvar=False)
    expected = (
        np.square(one.mean(0) - other.mean(0)).sum()
        + np.trace(np.cov(one, rowvar=False) + np.cov(other, rowvar=False))
        - 2 * np.sqrt(np.linalg.eigvals(product)).sum()
    )
    assert frechet_distance(one, other) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_density_and_coverage_are_the_share_of_good_images(share):
    real, good = normal(3, 400, 3), normal(4, 400, 3)
    generated = np.where(np.arange(400)[:, None] < 400 * share, good, good + 50)
    assert clipped_density(real, generated) == pytest.approx(share, abs=0.06)
    assert clipped_coverage(real, generated) == pytest.approx(share, abs=0.06)


def test_a_collapsed_generator_is_faithful_but_covers_nothing():
    real = normal(5, 300, 3)
    collapsed = np.repeat(real[:1] * 0, 300, axis=0) + normal(6, 300, 3, scale=1e-3)
    assert clipped_density(real, collapsed) > 0.9
    assert clipped_coverage(real, collapsed) < 0.1


def test_outliers_among_references_widen_no_ball():
    real = np.concatenate([normal(7, 195, 3), normal(8, 5, 3, scale=300)])
    generated = normal(9, 200, 3, shift=60, scale=5)
    assert clipped_density(real, generated) < 0.02


def test_expected_coverage_is_that_of_simulated_draws():
    rng = np.random.default_rng(0)
    n, m, k = 40, 30, 5
    simulated = np.minimum(rng.binomial(m, rng.beta(k, n - k, 200_000)), k).mean() / k
    found = expected_coverage(n, m, k)
    assert found[0] == 0
    assert found[m] == pytest.approx(simulated, abs=0.003)
    assert (np.diff(found) > 0).all()


def test_an_auc_interval_counts_objects():
    rng = np.random.default_rng(1)
    positive, negative = rng.normal(1, 1, 60), rng.normal(0, 1, 60)
    alone = auc_interval(positive, negative, np.arange(60), 100 + np.arange(60))
    copies = auc_interval(
        np.repeat(positive, 4), np.repeat(negative, 4), np.repeat(np.arange(60), 4), np.repeat(100 + np.arange(60), 4)
    )
    assert copies == pytest.approx(alone)
    assert alone.low < alone.value < alone.high
    perfect = auc_interval(positive + 9, negative, np.arange(60), 100 + np.arange(60))
    assert (perfect.value, perfect.high) == (1, 1)
    assert 0.9 < perfect.low < 1


def test_a_probe_and_a_sign_test_know_what_is_certain():
    x = np.concatenate([normal(10, 30), normal(11, 30, shift=3)])
    label = np.repeat([0, 1], 30)
    assert (fit_and_predict(x, label, x, 2) == label).mean() > 0.95
    right, wrong = np.ones(10), np.zeros(10)
    assert sign_test(right, wrong, np.arange(10)) == pytest.approx(2 / 2**10)
    assert sign_test(right, wrong, np.zeros(10, int)) == 1
    assert sign_test(right, right, np.arange(10)) == 1
    assert sign_test(wrong, right, np.arange(10)) == 1  # the opposite is no evidence
    assert sign_test(np.zeros(20_000), np.ones(20_000), np.arange(20_000)) == 1


def write_references(folder, per_cell=2, foregrounds=FOREGROUNDS, change=lambda image: image):
    for f in foregrounds:
        (folder / f).mkdir(parents=True)
        for b in BACKGROUNDS:
            for i in range(per_cell):
                image = world.render(f, b, None, world.generator(f"reference {f} {b}", i)).image
                change(image).save(folder / f / f"{b}-{i}.png")
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_drawn(tmp_path_factory.mktemp("audited") / "set", splits={"train": 4}, per_cell=lambda *cell: 4)


def test_references_of_the_same_world_are_like_the_set(dataset, tmp_path):
    photographs = write_references(tmp_path / "photographs", 4)
    (photographs / "car" / "broken.png").write_text("no image")
    (photographs / "ship").mkdir()
    result = audit(dataset, references=photographs, out=tmp_path / "out", device="cpu", show_progress=False)
    assert result.findings == []
    comparison = result.report["references"]
    assert comparison["images"] == 36
    assert comparison["unreadable"].keys() == {"car/broken.png"}
    assert comparison["other_classes"] == ["ship"]
    assert "160 features" in comparison["frechet_distance"]["reason"]
    assert comparison["separability"]["auc"]["low"] < 0.5  # with 36 images, cross-validation is often below chance
    assert comparison["clipped_coverage"]["value"] > 0.5
    assert comparison["utility"]["trained_here"]["value"] > 0.7
    assert comparison["utility"]["difference"]["low"] < 0 < comparison["utility"]["difference"]["high"]
    assert "broken.png" in (tmp_path / "out" / "audit.html").read_text()


def test_generated_images_that_differ_are_distinguished_from_references(dataset, tmp_path):
    """References are paler; of one class there are too few, so it isn't compared."""
    page = Image.new("RGB", (64, 64), (230, 230, 255))
    photographs = write_references(tmp_path / "pale", 4, ("car", "cat"), lambda image: Image.blend(image, page, 0.5))
    (photographs / "mug").mkdir()
    page.save(photographs / "mug" / "one.png")
    result = audit(dataset, references=photographs, out=tmp_path / "out", device="cpu", show_progress=False)
    assert [finding.kind for finding in result.findings][:1] == ["references"]
    comparison = result.report["references"]
    assert comparison["separability"]["auc"]["low"] > 0.8
    assert comparison["left_out"] == ["mug"]
    assert result.findings[0].keys


def test_unusable_references_are_named(dataset, tmp_path, monkeypatch):
    with pytest.raises(FiguregroundError, match="no folder named like a class"):
        audit(dataset, references=write_references(tmp_path / "others", 1, ("boat",)), out=tmp_path / "out")
    for name in FOREGROUNDS:
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "a.png").write_text("no image")
    with pytest.raises(FiguregroundError, match=r"broken: none of its 3 images can be read.*a\.png"):
        audit(dataset, references=tmp_path / "broken", out=tmp_path / "out", device="cpu", show_progress=False)


def test_features_that_are_not_finite_name_the_image(dataset, tmp_path):
    network = classifiers.open_classifier("pocket")
    with_nan = network.network.get_submodule(network._last_layer_name)
    with_nan.register_forward_pre_hook(lambda _, given: (given[0] / 0,))
    images = [("bird-7", Image.new("RGB", (64, 64)))]
    with pytest.raises(FiguregroundError, match="non-finite features for bird-7"):
        read_features(network, images, 1, show_progress=False)


@pytest.mark.parametrize("most", [2, 0])
def test_a_batch_of_features_that_does_not_fit_is_halved(most):
    network = classifiers.open_classifier("pocket")
    images = [(f"bird-{grey}", Image.new("RGB", (64, 64), (grey, 0, 255 - grey))) for grey in (0, 90, 180, 255, 30)]
    expected = read_features(network, images, 5, show_progress=False)
    refuse_more_than(network, most, RuntimeError("MPS backend out of memory (MPS allocated: 8.07 GiB)"))
    if most:
        features = read_features(network, images, 5, show_progress=False)
        assert features.dtype == np.float64
        assert np.allclose(features, expected, atol=1e-5)
    else:
        with pytest.raises(OutOfMemory, match=r"^The feature network pocket and one image of 64 × 64 px don't fit"):
            read_features(network, images, 5, show_progress=False)
