"""Probes, dependence, duplicates and corrections, on numbers whose answers are known."""

import numpy as np
import pytest
from PIL import Image

from figureground.auditing.appearance import NUMBERS, find_most_different, measure_appearance
from figureground.auditing.dependence import measure_dependence, noncentral_cdf
from figureground.auditing.duplicates import count_reuse, find_duplicates
from figureground.auditing.findings import Finding, confirm_findings
from figureground.auditing.leaks import Region, find_leaks
from figureground.auditing.probe import Shuffle, TooFew, assign_folds, probe, project_components
from figureground.checking import similar

ALONE = np.arange(60)
NCX2 = (
    (5.0, 4, 0.5, 0.649999064),
    (30.0, 4, 8.0, 0.988444494),
    (150.0, 50, 120.0, 0.20639657),
    (12000.0, 4000, 7900.0, 0.693578279),
)
"""Value, degrees of freedom, noncentrality, and scipy.stats.ncx2.cdf."""


def noise(seed, n=60, d=5):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_a_probe_finds_the_class_that_differs():
    label = np.arange(60) % 3
    x = noise(0)
    x[label == 1, 2] += 3
    result = probe(x, label, ALONE, permutations=199)
    assert result.p == 1 / 200
    assert result.classes[result.class_p.argmin()] == 1
    assert result.auc[1] > 0.9
    assert result.accuracy.low > result.chance
    assert result.chance == pytest.approx(1 / 3, abs=0.04)


def test_a_probe_doesn_t_learn_objects_by_heart():
    """Ten images of each object are the same, but objects say nothing about their class."""
    objects = np.repeat(np.arange(12), 10)
    x = noise(1, 12)[objects]
    result = probe(x, objects % 2, objects, permutations=199)
    assert result.p > 0.05
    assert probe(x, objects % 2, np.arange(120), permutations=199).p < 0.05  # it would, were they different objects


def test_what_the_other_label_explains_is_not_counted():
    """Backgrounds look different, and depend on the foreground; within a background, foregrounds look alike."""
    rng = np.random.default_rng(2)
    foreground = rng.integers(0, 2, 120)
    background = np.where(rng.random(120) < 0.7, foreground, 1 - foreground)
    x = noise(3, 120) + 4 * background[:, None]
    assert probe(x, foreground, np.arange(120), permutations=199).p < 0.01
    assert probe(x, foreground, np.arange(120), nuisance=background, permutations=199).p > 0.05


def test_a_probe_of_too_little_says_what_is_lacking():
    with pytest.raises(TooFew, match="10 images"):
        probe(noise(4, 10), np.arange(10) % 2, np.arange(10))
    with pytest.raises(TooFew, match="two classes"):
        probe(noise(4), np.zeros(60, int), ALONE)
    with pytest.raises(TooFew, match="two classes"):  # the second class shows one object
        probe(noise(4), np.arange(60) % 2, np.where(np.arange(60) % 2, 99, ALONE))
    with pytest.raises(TooFew, match="determines"):
        probe(noise(4), np.arange(60) % 2, ALONE, nuisance=np.arange(60) % 2)
    with pytest.raises(ValueError, match="finite"):
        probe(np.full((60, 2), np.nan), np.arange(60) % 2, ALONE)
    left_out = probe(noise(4), np.where(ALONE < 2, 7, ALONE % 2), ALONE, permutations=9).left_out
    assert left_out == (7,)


def test_objects_exchange_their_labels_as_a_whole():
    objects = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
    label = objects.copy()
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        shuffled = label[Shuffle(objects)(rng)]
        assert all(len(set(shuffled[objects == each])) == 1 for each in range(4))
        seen.add(tuple(shuffled))
    assert len(seen) > 10


def test_folds_keep_objects_together_and_classes_even():
    objects = np.repeat(np.arange(20), 3)
    fold = assign_folds(objects, objects % 2, np.random.default_rng(0))
    assert all(len(set(fold[objects == each])) == 1 for each in range(20))
    assert np.bincount(fold).tolist() == [12] * 5


def test_components_keep_distances():
    x = noise(5, 30, 200)
    kept = project_components(x, 30)
    scaled = (x - x.mean(0)) / x.std(0)
    assert kept.shape[1] == 30
    assert np.linalg.norm(kept[0] - kept[1]) == pytest.approx(np.linalg.norm(scaled[0] - scaled[1]))
    assert project_components(np.ones((30, 3))).shape == (30, 0)


def test_the_noncentral_chi2_is_that_of_tables():
    for x, freedom, noncentrality, expected in NCX2:
        assert noncentral_cdf(x, freedom, noncentrality) == pytest.approx(expected, abs=2e-6)


def test_dependent_labels_have_an_interval_and_a_cell():
    counts = np.array([[30, 10, 10], [10, 10, 10], [10, 10, 10]])
    f, b = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    found = measure_dependence(f, b, np.arange(len(f)), (3, 3), permutations=199)
    assert found.cell_p.argmin() == 0
    assert found.cell_p[0, 0] <= found.cell_p.min()
    assert found.v.low < found.v.value < found.v.high
    even = np.repeat(np.arange(9), 10)
    none = measure_dependence(even // 3, even % 3, np.arange(90), (3, 3), permutations=99)
    assert (none.v.value, none.v.low, none.p) == (0, 0, 1)
    assert 0.1 < none.v.high < 0.4
    with pytest.raises(TooFew, match="only one background"):
        measure_dependence(even % 3, even * 0, np.arange(90), (3, 3))


def test_copies_of_objects_are_no_evidence_of_dependence():
    objects = np.repeat(np.arange(12), 20)
    f, b = np.repeat([0, 1], 6), np.array([0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1])
    assert measure_dependence(f[objects], b[objects], objects, (2, 2), permutations=199).p > 0.05
    assert measure_dependence(f[objects], b[objects], np.arange(240), (2, 2), permutations=199).p < 0.05


def test_the_strongest_dependence_stands_among_many_tests():
    labels = np.repeat([0, 1], 50)
    found = measure_dependence(labels, labels, np.arange(100), (2, 2))
    assert found.p == 2 / 3997
    assert confirm_findings([Finding("dependence", "", found.v.value, p=found.p)], [found.p, *[0.5] * 50])
    weak = measure_dependence(labels, np.arange(100) % 2, np.arange(100), (2, 2))
    assert weak.p == 1


def test_however_many_classes_leak_all_of_them_are_findings():
    """Each class that leaks leads to a further probe; if these counted, none of many leaking classes would stand."""
    label = np.repeat(np.arange(8), 12)
    rng = np.random.default_rng(5)
    features = {"appearance": rng.normal(size=(96, 6)), "network": rng.normal(size=(96, 12)) + 6 * np.eye(8, 12)[label]}
    region = Region(
        "surroundings", np.arange(96), features, label, np.arange(96) % 2, [f"class {k}" for k in range(8)],
        np.arange(96), [str(i) for i in range(96)],
    )  # fmt: skip
    found = find_leaks(region)
    assert len(found.findings) >= 6
    assert len(found.p_values) == 2
    # As if there were eight regions of these.
    assert len(confirm_findings(found.findings, found.p_values * 8)) == len(found.findings)


def test_holm_keeps_what_stands_and_facts():
    found = [Finding("a", "", 0.2, p=0.001), Finding("b", "", 0.9, p=0.03), Finding("c", "", 0.5)]
    kept = confirm_findings(found, [0.001, 0.03, 0.4, 0.5])
    assert [each.kind for each in kept] == ["c", "a"]
    assert [each.kind for each in confirm_findings(found, [0.001, 0.03])] == ["b", "c", "a"]
    assert [each.kind for each in confirm_findings(found[1:2], [0.03, 0.04])] == []


def test_pairs_are_those_of_a_comparison_of_all():
    rng = np.random.default_rng(7)
    hashes = rng.integers(0, 2**63, (40, similar.WORDS), dtype=np.uint64)
    hashes[1], hashes[2] = hashes[0], hashes[0]
    hashes[[3, 9, 11]] = hashes[[0, 8, 10]]
    hashes[3, 0] ^= np.uint64(0b1011)
    hashes[9, 1] ^= np.uint64(2**15 - 1)
    hashes[11, 2] ^= np.uint64(2**16 - 1)  # one bit too many
    one, other, bits = similar.find_pairs(hashes)
    assert list(zip(one, other, bits, strict=True)) == [(0, 1, 0), (0, 2, 0), (0, 3, 3), (8, 9, 15)]
    groups = find_duplicates([row.tobytes() for row in hashes])
    assert [(group.rows, group.bits) for group in groups] == [((0, 1, 2, 3), 0), ((8, 9), 15)]
    assert find_duplicates([hashes[0].tobytes()]) == []


def test_sources_are_matched_by_content():
    found = count_reuse(["a/1.png@x", "b/2.png@x", "a/1.png@y", None], np.array([0, 1, 0, 1]))
    assert (found.sources, found.images, found.most) == (2, 3, 2)
    assert found.shared == {"a/1.png@x": (0, 1)}
    assert count_reuse([None], np.array([0])) is None


def test_appearance_describes_a_region_alone():
    image = Image.new("RGB", (32, 32), (255, 0, 0))
    image.paste((0, 0, 255), (16, 0, 32, 32))
    left = np.zeros((32, 32), bool)
    left[:, :15] = True
    red, blue = (dict(zip(NUMBERS, measure_appearance(image, each), strict=True)) for each in (left, left[:, ::-1]))
    assert red["red against green"] == pytest.approx(1)
    assert blue["yellow against blue"] == pytest.approx(-1)
    assert red["brightness"] == pytest.approx(0.299)
    assert red["contrast"] == pytest.approx(0)
    assert np.isnan(measure_appearance(image, np.zeros((32, 32), bool))).all()
    sharp = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    blurred = sharp.resize((8, 8), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BICUBIC)
    everything = np.ones((32, 32), bool)
    assert measure_appearance(sharp, everything)[5] > measure_appearance(blurred, everything)[5] + 1


def test_the_most_different_number_is_named_beyond_the_other_label():
    own, groups = np.arange(60) % 2 == 0, np.arange(60) // 2 % 2
    numbers = noise(8, 60, 6)
    numbers[own, 2] -= 3
    name, word, by = find_most_different(numbers + 9 * groups[:, None], own, groups)
    assert (name, word) == ("red against green", "greener")
    assert by < -2
