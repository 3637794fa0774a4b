"""A plan is exact, pure, cheap and independent of how it is asked."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from figureground.recipe.plan import Permutation, Plan, pick
from figureground.recipe.sample import make_key, parse_labels
from figureground.recipe.table import uniform_counts


def make_plan(per_cell=3, shard_size=7, limit=None, seed=0, match=False, f=4, b=3):
    return Plan(
        {"train": uniform_counts(f, b, per_cell), "validation": uniform_counts(f, b, 1)},
        [f"f{i}" for i in range(f)],
        [f"b{i}" for i in range(b)],
        seed,
        shard_size,
        limit,
        lambda *cell: None,
        lambda split, f, b, i: f"a photo of f{f} b{b}",
        match,
    )


def all_specs(plan):
    return [spec for shard in plan.shards() for spec in plan.specs(shard)]


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 1000, 4096, 4097])
def test_a_permutation_has_every_number_once(n):
    order = Permutation(n, 0, "train")
    assert sorted(order[i] for i in range(n)) == list(range(n))


def chi_square(orders, n):
    """Chi-squared of the counts of each number at each position, per degree of freedom: 1 if all are equally likely."""
    counts = np.zeros((n, n))
    for order in orders:
        counts[np.arange(n), order] += 1
    expected = len(orders) / n
    return ((counts - expected) ** 2 / expected).sum() / (n - 1) ** 2


@pytest.mark.parametrize("n", [2, 3, 5, 10, 12])
def test_every_number_is_as_likely_at_every_position_of_a_small_order(n):
    """Over 4,000 seeds. Four Feistel rounds, as in format 1, gave 10.9 for 5 numbers, 3.4 for 10 and 2.2 for 12."""
    orders = [[order[i] for i in range(n)] for order in (Permutation(n, seed, "train") for seed in range(4000))]
    limit = 1 + 5 * np.sqrt(2 / (n - 1) ** 2)  # five standard deviations of a chi-square over its degrees of freedom
    assert chi_square(np.array(orders), n) < limit


def test_numbers_are_as_likely_at_positions_of_an_order_that_is_not_listed():
    """The same for 5,000 numbers over 40 seeds, by hundredths of the order and of the numbers."""
    n, parts = 5000, 10
    counts = np.zeros((parts, parts))
    for seed in range(40):
        order = Permutation(n, seed, "train")
        for i in range(0, n, 5):
            counts[i * parts // n, order[i] * parts // n] += 1
    expected = counts.sum() / parts**2
    assert ((counts - expected) ** 2 / expected).sum() / (parts - 1) ** 2 < 1 + 5 * np.sqrt(2 / (parts - 1) ** 2)


def test_every_cell_gets_exactly_its_images_and_every_key_is_unique():
    specs = all_specs(make_plan())
    assert Counter((s.split, s.foreground, s.background) for s in specs) == {
        (split, f, b): n for split, n in (("train", 3), ("validation", 1)) for f in range(4) for b in range(3)
    }
    assert len({s.key for s in specs}) == len(specs) == 48
    assert all(s.key == f"{s.split}-{s.foreground:04d}-{s.background:02d}-{s.key[-5:]}" for s in specs)


def test_a_shard_is_the_same_whether_planned_alone_or_with_the_others():
    plan = make_plan()
    shard = plan.shards()[3]
    everything = {s.key: s for s in all_specs(make_plan())}
    assert all(everything[s.key] == s for s in plan.specs(shard))


def test_shards_mix_cells():
    plan = make_plan(per_cell=50, shard_size=100)
    cells = {(s.foreground, s.background) for s in plan.specs(plan.shards()[0])}
    assert len(cells) == 12


def test_keys_and_noise_do_not_depend_on_the_number_of_images():
    small, large = all_specs(make_plan(per_cell=2)), {s.key: s for s in all_specs(make_plan(per_cell=9, shard_size=50))}
    assert all(large[s.key] == s for s in small)


def test_another_seed_gives_other_noise_and_another_order():
    first, second = all_specs(make_plan(seed=0)), all_specs(make_plan(seed=1))
    assert {s.key for s in first} == {s.key for s in second}
    assert [s.key for s in first] != [s.key for s in second]
    assert {s.seed for s in first}.isdisjoint(s.seed for s in second)


def test_a_limit_is_shared_by_the_splits_in_proportion():
    plan = make_plan(per_cell=3, limit=8)
    assert plan.totals() == {"train": 6, "validation": 2}
    assert len(all_specs(plan)) == 8
    assert plan.cells("train").sum() == 6


def test_a_small_limit_leaves_an_image_for_every_split():
    assert make_plan(per_cell=30, limit=12).totals() == {"train": 11, "validation": 1}
    assert make_plan(per_cell=30, limit=2).totals() == {"train": 1, "validation": 1}
    assert make_plan(per_cell=30, limit=1).totals() == {"train": 1, "validation": 0}


def test_matched_images_share_noise_across_backgrounds_and_others_do_not():
    def noise(plan):
        by_object = {}
        for s in all_specs(plan):
            by_object.setdefault((s.split, s.foreground, s.key[-5:]), set()).add(s.seed)
        return {len(seeds) for seeds in by_object.values()}

    assert noise(make_plan(match=True)) == {1}
    assert noise(make_plan(match=False)) == {3}


def test_pick_uses_everything_once_before_anything_twice():
    picked = [pick(0, ["cutout", "train"], 5, i) for i in range(15)]
    assert [sorted(picked[i : i + 5]) for i in (0, 5, 10)] == [list(range(5))] * 3
    assert picked[:5] != picked[5:10] or picked[5:10] != picked[10:]


def test_a_plan_of_120000_images_imports_no_torch():
    code = (
        "import sys, figureground.cli.main as c; code = c.main(['plan', 'd3s', '--config', 'imagenet']);"
        "assert code == 0; assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "120,000 images of 512 px in 100 shards, 1,000 foregrounds × 10 backgrounds" in done.stdout
    assert "10,800,000 denoiser evaluations" in done.stdout


def test_one_shard_in_the_middle_of_ten_million_is_planned_alone():
    plan = Plan(
        {"train": np.full((1000, 10), 1000)}, [str(i) for i in range(1000)], list("abcdefghij"), 0, 1000, None,
        lambda *cell: None, lambda *cell: "",
    )  # fmt: skip
    specs = list(plan.specs(plan.shards()[5000]))
    assert len({s.key for s in specs}) == 1000


def test_labels_are_read_back_from_keys():
    assert parse_labels(make_key("train", 12, 3, 45)) == (12, 3)
    assert parse_labels(make_key("a-split", 12345, 123, 0)) == (12345, 123)
    for other in ("", "train", "0001-02-00003", "train-1-x-2", "train-1--2"):
        assert parse_labels(other) is None
