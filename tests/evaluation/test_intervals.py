"""Intervals cover what they say, by simulation, and are never of zero width."""

import numpy as np
import pytest

from figureground.core.intervals import difference, mean, wilson

DRAWS = 800


def beta_shares(rng, share, correlation, count):
    """Share of objects, (count,), such that two images of one object are alike by an intra-class correlation."""
    many = 1 / correlation - 1
    return rng.beta(share * many, (1 - share) * many, count)


def coverage(draw, truth):
    rng = np.random.default_rng(0)
    found = [draw(rng) for _ in range(DRAWS)]
    return np.mean([interval.low <= truth <= interval.high for interval in found])


def share(n, p):
    return lambda rng: mean([rng.random(n) < p]), p


def reused(objects, images, p, correlation):
    shown = np.repeat(np.arange(objects), images)

    def draw(rng):
        return mean([rng.random(len(shown)) < beta_shares(rng, p, correlation, objects)[shown]], [shown])

    return draw, p


def macro(classes, n, low, high):
    shares = np.linspace(low, high, classes)
    return lambda rng: mean([rng.random(n) < p for p in shares]), shares.mean()


def macro_reused(classes, objects, images):
    shares = np.linspace(0.6, 0.95, classes)
    shown = [np.repeat(np.arange(objects), images) + 100 * k for k in range(classes)]

    def draw(rng):
        each = [np.repeat(beta_shares(rng, p, 0.3, objects), images) for p in shares]
        return mean([rng.random(len(some)) < some for some in each], shown)

    return draw, shares.mean()


def one_large_object(images, others, p, correlation):
    """One object has `images`, each of the others one."""
    shown = np.repeat(np.arange(others + 1), [images, *[1] * others])

    def draw(rng):
        return mean([rng.random(len(shown)) < beta_shares(rng, p, correlation, others + 1)[shown]], [shown])

    return draw, p


def macro_unequal(sizes, low, high):
    shares = np.linspace(low, high, len(sizes))
    return lambda rng: mean([rng.random(n) < p for n, p in zip(sizes, shares, strict=True)]), shares.mean()


def macro_crossed(groups, objects):
    """Every object stands in every group; some are found hard in all of them."""
    ease = np.linspace(0, 2, groups)

    def chance(hard):
        return 1 / (1 + np.exp(-1.5 * hard - ease))

    def draw(rng):
        right = rng.random((objects, groups)) < chance(rng.normal(size=(objects, 1)))
        return mean(list(right.T), [np.arange(objects)] * groups)

    return draw, chance(np.random.default_rng(1).normal(size=(100_000, 1))).mean()


def paired(objects, images, p, q):
    """Two classifiers judge the same images, several of each object; both find the same objects and images hard."""
    shown = np.repeat(np.arange(objects), images)
    ends = np.quantile(np.random.default_rng(1).normal(size=100_000), [p, q])

    def draw(rng):
        hard = 0.5 * rng.normal(size=objects)[shown] + 0.5 * rng.normal(size=len(shown))
        one, other = (hard + np.sqrt(0.5) * rng.normal(size=len(shown)) < end for end in ends)
        return difference([one], [other], ([shown], [shown]))

    return draw, p - q


def independent(n, p, q):
    return lambda rng: difference([rng.random(n) < p], [rng.random(2 * n) < q]), p - q


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        share(30, 0.7), share(60, 0.97), share(100, 0.99), reused(20, 10, 0.7, 0.3), reused(50, 10, 0.97, 0.5),
        macro(10, 5, 0.5, 1), macro(20, 2, 0.5, 1), macro(20, 3, 0.9, 1), macro_reused(5, 6, 4),
        macro_unequal([2, 3, 5, 10, 50], 0.95, 1), macro_crossed(10, 10),
        paired(100, 1, 0.9, 0.7), paired(20, 6, 0.85, 0.7), independent(40, 0.95, 0.7),
    ],
    ids=[
        "a share", "near 100 %", "very near 100 %", "reused objects", "reused objects, near 100 %", "a macro mean",
        "two images a class", "a macro mean near 100 %", "a macro mean of reused objects",
        "classes of unequal sizes near 100 %", "objects that all groups share",
        "a paired difference",
        "a paired difference, reused objects", "a difference of independent sets",
    ],
)  # fmt: skip
def test_a_95_percent_interval_covers_the_truth_about_as_often(draw, truth):
    assert 0.9 <= coverage(draw, truth) <= 0.98


def test_an_interval_that_hangs_on_one_object_is_wide_enough():
    assert coverage(*one_large_object(30, 30, 0.7, 0.5)) >= 0.95


def test_counting_copies_as_independent_would_cover_far_less():
    def draw(rng):
        return mean([rng.random(200) < np.repeat(beta_shares(rng, 0.7, 0.5, 20), 10)])

    assert coverage(draw, 0.7) < 0.7


@pytest.mark.parametrize(("n", "low"), [(1, 0.207), (3, 0.438), (100, 0.963)])
def test_an_interval_of_answers_that_are_all_alike_has_a_width(n, low):
    right = mean([np.ones(n, bool)])
    assert right == (1, pytest.approx(low, abs=1e-3), 1)
    assert mean([np.zeros(n, bool)]) == (0, 0, pytest.approx(1 - low, abs=1e-3))
    assert mean([np.ones(n, bool)], [np.zeros(n, int)]) == mean([np.ones(1, bool)])  # copies of one object are one
    assert difference([np.ones(n)], [np.ones(n)]).low < 0 < difference([np.ones(n)], [np.ones(n)]).high


def test_a_share_of_images_that_each_show_their_own_object_is_wilson_s():
    assert mean([np.arange(50) < 40], [np.arange(50)]) == wilson(0.8, 50)
    assert wilson(0.8, 50)[1:] == pytest.approx((0.6696, 0.8876), abs=1e-4)  # Newcombe 1998, by hand


def test_copies_widen_an_interval_and_alike_scenes_do_not_narrow_it():
    answers = np.repeat(np.arange(20) < 14, 5)
    shown = np.repeat(np.arange(20), 5)
    assert mean([answers], [shown])[1:] == pytest.approx(wilson(0.7, 20)[1:], abs=0.03)
    by_scene = np.tile([True, True, True, False], 25)  # every object is right on three scenes of four
    assert mean([by_scene], [np.repeat(np.arange(25), 4)])[1:] == pytest.approx(wilson(0.75, 100)[1:], abs=0.01)


def test_a_class_counts_as_any_other_however_many_images_it_has():
    groups = [np.arange(100) < 50, np.arange(4) < 4]
    found = mean(groups)
    assert found.value == 0.75
    assert found.low < 0.68  # the small class may be all right by luck
    assert mean([*groups, np.ones(1)]).low < mean([*groups, np.ones(50)]).low  # one image tells next to nothing


def test_means_of_probabilities_are_narrow_where_these_are_alike():
    values = np.random.default_rng(0).uniform(0.6, 0.7, 40)
    assert mean([values]).high - mean([values]).low < 0.03
    assert mean([np.full(40, 1 + 1e-12)]).value == 1


def test_objects_on_both_sides_narrow_a_difference():
    one = np.arange(40) < 30
    other, shown = one.copy(), [np.arange(40)]
    other[:4] = False
    apart, together = difference([one], [other]), difference([one], [other], (shown, shown))
    assert apart.value == together.value == pytest.approx(0.1)
    assert together.high - together.low < 0.7 * (apart.high - apart.low)


def test_what_is_no_share_is_refused():
    for groups in ([], [np.array([True]), np.array([], bool)], [np.array([1.5])], [np.array([np.nan])]):
        with pytest.raises(ValueError, match="An interval needs"):
            mean(groups)
    with pytest.raises(ValueError, match="0 answers"):
        wilson(0.5, 0)
    with pytest.raises(ValueError, match="level"):
        wilson(0.5, 10, level=95)
