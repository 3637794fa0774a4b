"""Counts by cell are exact, and as dependent as asked."""

import re
import time

import numpy as np
import pytest

from figureground.core.errors import RecipeError
from figureground.recipe.table import (
    bias_aligned_share,
    correlated_counts,
    cramers_v,
    largest_remainder,
    read_pairing,
    read_table,
)

F, B = ["bird", "car", "mug"], ["grass", "road", "sand"]


def test_uniform_fills_every_cell_alike_and_is_independent():
    counts, pairings = read_table("uniform", {"train": 4, "validation": 1}, F, B)
    assert (counts["train"] == 4).all()
    assert (counts["validation"] == 1).all()
    assert pairings == {}
    assert cramers_v(counts["train"]) == 0


@pytest.mark.parametrize("correlation", [0, 0.25, 0.5, 0.9, 1])
def test_correlated_counts_are_between_uniform_and_paired_and_keep_each_class_total(correlation):
    paired = read_pairing("diagonal", F, B)
    counts = correlated_counts(paired, 10, correlation)
    assert (counts.sum(1) == 30).all()
    exact = (1 - correlation) * 10 + correlation * 30 * paired
    assert (np.abs(counts - exact) < 1).all()
    assert cramers_v(counts) == pytest.approx(correlation, abs=0.05)


def test_what_is_left_over_favours_no_background():
    totals = correlated_counts(np.eye(10, dtype=bool), 4, 0.93).sum(0)
    assert totals.max() - totals.min() <= 1


@pytest.mark.parametrize(("classes", "per_cell", "share"), [(2, 5, 0.95), (10, 3, 0.95), (3, 7, 0.8), (7, 2, 0.5)])
def test_a_paired_share_is_rounded_over_the_whole_table(classes, per_cell, share):
    names = [str(i) for i in range(classes)]
    counts, pairings = read_table({"bias_aligned_share": share}, {"train": per_cell}, names, names)
    total = classes**2 * per_cell
    assert abs(counts["train"][pairings["train"]].sum() - share * total) <= 0.5
    assert (counts["train"].sum(1) == classes * per_cell).all()
    assert np.ptp(counts["train"].sum(0)) <= 2


def test_ties_of_rounding_are_settled_by_the_seed():
    """19 of 20 images are paired: which of the two classes has the other one depends on the seed."""
    tables = {
        read_table({"bias_aligned_share": 0.95}, {"train": 5}, ["a", "b"], ["x", "y"], seed)[0]["train"].tobytes()
        for seed in range(20)
    }
    assert tables == {np.array(t).tobytes() for t in ([[10, 0], [1, 9]], [[9, 1], [0, 10]])}


@pytest.mark.parametrize("paired", [np.eye(6, dtype=bool), np.eye(6, dtype=bool) | np.eye(6, k=1, dtype=bool)])
@pytest.mark.parametrize("correlation", [0.5, 0.9, 0.95, 1.0])
def test_a_larger_table_takes_no_image_from_a_cell_of_a_smaller_one(paired, correlation):
    tables = [correlated_counts(paired, n, correlation) for n in range(1, 11)]
    for i, small in enumerate(tables):
        for n, once in enumerate(tables[i + 1 :], i + 2):
            grown = correlated_counts(paired, n, correlation, existing=small)
            assert (grown >= small).all()
            assert (grown.sum(1) == once.sum(1)).all()
            assert np.abs(grown - once).max() <= 1
            assert grown[paired].sum() == once[paired].sum()
            if (once >= small).all():
                assert (grown == once).all()


def test_paired_share_is_met():
    table = {
        "kind": "correlated",
        "bias_aligned_share": "95%",
        "pairing": {"bird": "grass", "car": "road", "mug": "sand"},
    }
    counts, pairings = read_table(table, {"train": 20}, F, B)
    assert bias_aligned_share(counts["train"], pairings["train"]) == pytest.approx(0.95, abs=0.02)


def test_many_to_many_pairing_shares_a_class_among_its_backgrounds():
    counts, _ = read_table(
        {"correlation": 1, "pairing": {"bird": ["grass", "sand"], "car": "road", "mug": "road"}}, {"train": 10}, F, B
    )
    assert counts["train"].tolist() == [[15, 0, 15], [0, 30, 0], [0, 30, 0]]


def test_splits_may_have_tables_of_their_own():
    counts, pairings = read_table(
        {"train": {"correlation": 1}, "validation": "uniform"}, {"train": 2, "validation": 2}, F, B
    )
    assert counts["train"].tolist() == [[6, 0, 0], [0, 6, 0], [0, 0, 6]]
    assert (counts["validation"] == 2).all()
    assert list(pairings) == ["train"]


def test_a_csv_of_counts_is_taken_as_it_is(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("foreground,background,count,split\nbird,grass,7,train\ncar,sand,2,\n")
    counts, _ = read_table(str(path), {"train": 1, "validation": 1}, F, B)
    assert counts["train"].tolist() == [[7, 0, 0], [0, 0, 2], [0, 0, 0]]
    assert counts["validation"].tolist() == [[0, 0, 0], [0, 0, 2], [0, 0, 0]]


def test_a_csv_of_many_cells_is_read_in_seconds(tmp_path):
    classes, scenes = [f"class {i}" for i in range(500)], [f"scene {i}" for i in range(10)]
    lines = [f"{name},{scene},1" for name in classes for scene in scenes]
    (tmp_path / "counts.csv").write_text("foreground,background,count\n" + "\n".join(lines) + "\n")
    began = time.process_time()
    tables, _ = read_table(str(tmp_path / "counts.csv"), {"train": 1}, classes, scenes)
    assert time.process_time() - began < 2  # one look through all names a line would take five
    assert (tables["train"] == 1).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("brid,grass,7", "line 2: there is no foreground 'brid', did you mean 'bird'"),
        ("bird,grass,-1", "line 2: count '-1' is not a whole number"),
        ("bird,grass,1\nbird,grass,2", "line 3: this cell of train was given in line 2"),
    ],
)
def test_a_bad_csv_is_refused_with_its_line(tmp_path, rows, message):
    path = tmp_path / "counts.csv"
    path.write_text("foreground,background,count\n" + rows + "\n")
    with pytest.raises(RecipeError, match=message):
        read_table(str(path), {"train": 1}, F, B)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"correlation": 2}, "table.correlation: 2 is not a number from 0 to 1"),
        ({"corelation": 0.5}, "did you mean 'correlation'"),
        ({"correlation": 0.5, "bias_aligned_share": 0.5}, "not both"),
        ({"bias_aligned_share": 0.1}, "bias_aligned_share: 0.1"),
        ({"pairing": {"bird": "gras"}}, "did you mean 'grass'"),
        ({"pairing": {"bird": "grass"}}, "2 classes are paired with no background: car, mug"),
        ("nonsense", "neither 'uniform', 'correlated' nor the path of a CSV"),
        (3, "neither"),
    ],
)
def test_a_bad_table_is_refused_naming_the_part(table, message):
    with pytest.raises(RecipeError, match=message):
        read_table(table, {"train": 3}, F, B)


def test_largest_remainder_adds_up():
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights, total = rng.random(rng.integers(1, 9)), int(rng.integers(0, 50))
        counts = largest_remainder(weights, total)
        assert counts.sum() == total
        assert (np.abs(counts - weights / weights.sum() * total) < 1).all()


def test_cramers_v_leaves_empty_rows_out():
    assert cramers_v(np.array([[5, 0], [0, 5], [0, 0]])) == 1
    assert cramers_v(np.array([[5, 0], [5, 0]])) == 0


def test_a_split_pair_has_each_class_on_its_own_background_and_on_all_others():
    per_cell = {"train": 2, "correlated": 3, "anti_correlated": 1}
    counts, pairings = read_table({"kind": "correlated", "split_pair": True}, per_cell, F, B)
    assert (counts["train"] == 2).all()
    assert (counts["correlated"] == 9 * np.eye(3)).all()
    assert (np.diag(counts["anti_correlated"]) == 0).all()
    assert (counts["anti_correlated"].sum(1) == 3).all()
    assert counts["anti_correlated"].max() == 2
    assert set(pairings) == {"correlated", "anti_correlated"}
    pairing = {"bird": ["grass", "road"], "car": "road", "mug": "sand"}
    counts, _ = read_table({"split_pair": True, "pairing": pairing}, per_cell, F, B)
    assert (counts["correlated"][0] > 0).tolist() == [True, True, False]
    assert counts["anti_correlated"][0].tolist() == [0, 0, 3]


def test_a_split_pair_never_takes_images_away_when_it_grows():
    before, _ = read_table({"split_pair": True}, {"correlated": 2, "anti_correlated": 2}, F, B, 5)
    after, _ = read_table({"split_pair": True}, {"correlated": 3, "anti_correlated": 3}, F, B, 5, before)
    assert all((after[split] >= before[split]).all() for split in before)
    assert all((after[split].sum(1) == 9).all() for split in before)


@pytest.mark.parametrize(
    ("value", "per_cell", "named"),
    [
        ({"split_pair": True}, {"train": 2, "correlated": 2}, "anti_correlated"),
        ({"split_pair": 1}, {"correlated": 2, "anti_correlated": 2}, "split_pair: 1 is not true"),
        ({"split_pair": True, "correlation": 0.5}, {"correlated": 2, "anti_correlated": 2}, "table.correlation"),
        (
            {"split_pair": True, "pairing": {f: B for f in F}},
            {"correlated": 2, "anti_correlated": 2},
            "every background",
        ),
    ],
)
def test_a_split_pair_that_cannot_be_is_refused(value, per_cell, named):
    with pytest.raises(RecipeError, match=named):
        read_table(value, per_cell, F, B)


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"kind": "uniform", "correlation": 0.9}, "table.correlation"),
        ({"kind": "uniform", "pairing": {"nope": "nope"}}, "table.pairing"),
        ({"kind": "csv", "path": "counts.csv", "bias_aligned_share": "95%"}, "table.bias_aligned_share"),
        ({"kind": "correlated", "path": "counts.csv"}, "table.path"),
    ],
)
def test_settings_of_another_kind_of_table_are_refused(table, field):
    with pytest.raises(RecipeError, match=rf"^{re.escape(field)}: .*kind {table['kind']} "):
        read_table(table, {"train": 1}, F, B)


def test_an_unknown_kind_of_table_names_the_nearest():
    with pytest.raises(RecipeError, match=r"^table\.kind: 'corelated' is not one of .*, did you mean 'correlated'\?"):
        read_table({"kind": "corelated"}, {"train": 1}, F, B)


def test_a_mapping_with_a_path_is_a_csv(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("foreground,background,count\nbird,grass,7\n")
    counts, _ = read_table({"path": str(path)}, {"train": 1}, F, B)
    assert counts["train"].sum() == counts["train"][0, 0] == 7
    with pytest.raises(RecipeError, match=r"nope\.csv"):
        read_table({"path": str(tmp_path / "nope.csv")}, {"train": 1}, F, B)


def test_a_table_for_a_split_that_per_cell_lacks_names_it():
    with pytest.raises(RecipeError, match=r"per_cell has no split 'test'; it has train, validation"):
        read_table({"train": "correlated", "test": "uniform"}, {"train": 5, "validation": 1}, F, B)
