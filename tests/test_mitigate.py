"""The benchmark of mitigation: its statistics, its plan, and its tables from the units' files alone."""

import dataclasses
import importlib
import itertools
import json
import statistics
import sys
from pathlib import Path

import pytest

from figureground.core.errors import FiguregroundError

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    """The modules of the benchmark, by name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(BENCHMARKS))


# Statistics


def test_paired_intervals_are_students_t(bench):
    subtract = bench("paired").subtract
    first, second = {0: 70.0, 1: 74.0, 2: 75.0, 9: 0.0}, {2: 70.0, 1: 70.0, 0: 67.0, 7: 100.0}
    found = subtract(first, second)  # 3, 4, 5: a mean of 4, a standard error of 1/√3; t(2) at 97.5 % is 4.3027
    assert (found.n, found.mean) == (3, 4.0)
    assert (found.low, found.high) == (pytest.approx(4 - 4.3027 / 3**0.5, abs=1e-3), pytest.approx(6.4842, abs=1e-3))
    assert found.p == pytest.approx(0.0202, abs=1e-4)  # t = 6.9282
    wide = subtract(first, second, comparisons=4)
    assert wide.low < found.low
    assert (wide.mean, wide.p) == (found.mean, found.p)


def test_a_single_pair_has_no_interval_and_equal_differences_have_one_of_no_width(bench):
    subtract = bench("paired").subtract
    assert subtract({0: 3.0}, {0: 1.0}) == bench("paired").Difference(1, 2.0, None, None, None)
    same = subtract({0: 3.0, 1: 4.0}, {0: 1.0, 1: 2.0})
    assert (same.low, same.high, same.p) == (2.0, 2.0, 0.0)
    with pytest.raises(ValueError, match="no common seed"):
        subtract({0: 1.0}, {1: 1.0})


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm 1979
        ([0.5, 0.9], [1.0, 1.0]), ([0.02, 0.02], [0.04, 0.04]), ([], []),
    ],
)  # fmt: skip
def test_holms_adjusted_p(p, adjusted, bench):
    assert bench("paired").holm(p) == pytest.approx(adjusted)


# The plan


def test_as_many_settings_are_tried_for_every_row_and_the_default_is_among_most(bench):
    rows = bench("mitigate_plan").ROWS.values()
    own = [row for row in rows if row.like is None]
    assert {len(row.tried) for row in own} == {4}
    assert all(len({json.dumps(each) for each in row.tried}) == 4 for row in own)
    assert all(not row.tried and row.like in {each.name for each in own} for row in rows if row not in own)


def test_untuned_rows_have_the_default_settings(bench):
    rows = bench("mitigate_plan").ROWS.values()
    assert all(row.tried[0] == {} for row in rows if row.tried)


def test_the_plan_has_primary_rows_on_all_seeds_and_judges_no_tuning_seed(bench):
    m = bench("mitigate_plan")
    plan = m.whole_plan()
    assert len(set(plan)) == len(plan) == 24 + 12
    assert not {unit.seed for unit in plan} & set(m.TUNED_WITH)
    assert m.list_rows(m.Unit("pocketbirds", True, 11)) == ["erm", "ddb", "scgs"]
    assert m.list_rows(m.Unit("pocketlooks", False, 5)) == ["erm", "d3s", "scgs", "ddb"]
    assert "scgs, true masks" in m.list_rows(m.Unit("pocketbirds", True, 2))
    assert "scgs, true masks" not in m.list_rows(m.Unit("pocketlooks", True, 2)) + m.list_rows(
        m.Unit("pocketbirds", True, 3)
    )
    assert (
        set(m.ROWS) - {"erm"} > set(m.list_rows(m.Unit("pocketbirds", True, 4))) - {"erm"} > {"dfr", "ddb, two-stage"}
    )
    seeds = [seed for p in (*m.PRIMARY_SEEDS, *m.TUNED_WITH) for seed in m.training_seeds(p, m.TRAININGS)]
    assert len(set(seeds)) == len(seeds)


def test_rows_say_what_they_use_and_the_second_table_hides_the_attributes_of_validation(bench):
    rows = bench("mitigate_plan").ROWS
    assert rows["erm"].uses("known") == ["validation attributes"]
    assert rows["groupdro"].uses("unknown") == ["training attributes"]
    assert rows["d3s"].uses("unknown") == rows["scgs"].uses("unknown") == ["scene names"]
    assert rows["scgs, true masks"].uses("unknown") == ["scene names", "masks"]
    assert rows["ddb"].uses("unknown") == ["segmenter"]
    assert "unknown" not in rows["dfr"].tables


def test_images_are_taken_evenly_by_class_and_in_proportion_by_scene(bench):
    m = bench("mitigate_images")
    images = [m.MadeImage(f"{y}{a}{i}", y, a, lambda: None) for y, a, n in (("mug", "sea", 20), ("mug", "grass", 60),
              ("cup", None, 30)) for i in range(n)]  # fmt: skip
    taken = [each.key for each in m.take_evenly(images, 40)]
    assert sum(key.startswith("cup") for key in taken) == 20
    assert sorted(key for key in taken if key.startswith("mugsea")) == [f"mugsea{i}" for i in range(5)]
    assert [key for key in taken if key.startswith("mugg")] == [f"muggrass{i}" for i in range(15)]
    assert len(m.take_evenly(images, 1000)) == 110


def test_settings_are_chosen_by_the_rule_of_the_table_and_untuned_rows_are_refused(bench, tmp_path):
    m = bench("mitigate_plan")
    erm = m.ROWS["erm"]
    numbers = {100: [(0.5, 0.9), (0.7, 0.8), (0.1, 0.1), (0.1, 0.1)], 101: [(0.6, 0.9), (0.6, 0.8), (0, 0), (0, 0)]}
    with pytest.raises(FiguregroundError, match="erm on pocketbirds has not been tuned: run --tune --beds pocketbirds"):
        m.choose_settings(tmp_path, "pocketbirds", erm, "known", "pocket")
    for seed, pairs in numbers.items():
        tried = [
            {"change": dict(change), "validation": {"known": worst, "unknown": average}}
            for change, (worst, average) in zip(erm.tried, pairs, strict=True)
        ]
        path = m.tuning_file(tmp_path, "pocketbirds", seed)
        path.write_text(json.dumps({"bed": "pocketbirds", "tried": {"erm": {"pocket": tried}}}))
    chosen = [m.choose_settings(tmp_path, "pocketbirds", erm, *of) for of in
              (("known", "pocket"), ("unknown", "pocket"), ("known", "regnet"))]  # fmt: skip
    assert chosen == [erm.tried[1], erm.tried[0], erm.tried[1]]  # nothing was tried for the regnet
    assert "known" in bench("mitigate_report").format_tuning(tmp_path)


def test_settings_become_those_of_a_training_with_the_backbones_own_rate(bench, tmp_path):
    m = bench("mitigate_plan")
    plan = m.Plan(tmp_path, tmp_path, epochs=40)
    made = m.make_settings(m.ROWS["erm"], {"rate_times": 3.0}, ["average", "worst-group"], plan, "pocket")
    assert made.learning_rate == pytest.approx(9e-3)
    assert (made.select, made.validate_every, made.epochs) == ("average,worst-group", m.VALIDATE_EVERY, 40)
    jtt = m.make_settings(m.ROWS["jtt"], {"first_epochs": 2, "upweight": 5.0}, ["average"], plan, "pocket")
    assert jtt.count_first is True


# The report


def unit(bed, bias, seed, rows, **changes):
    """A unit's file: accuracies of each group by row, two training seeds."""
    cells = {
        name: {"pocket": {"known": {
            "settings": {}, "rule": "worst-group", "uses": ["validation attributes"], "added": 300, "origin": 0,
            "seeds": [
                {"seed": 10 * seed + i, "epoch": 4, "steps": {"main": 760}, "budget": 760, "seconds": 50.0,
                 "validation": {}, "average": statistics.mean(groups), "worst": min(groups), "groups": list(groups)}
                for i, groups in enumerate(each)
            ],
        }}}
        for name, each in rows.items()
    }  # fmt: skip
    made = {"images": 300, "by_class": {"mug": 150, "umbrella": 150}, "seconds": 60.0, "origin": 0,
            "error_set": {"errors": 20, "precision": 0.5, "recall": 0.9},
            "oracle": {"label": 0.98, "attribute": None, "by_class": {"mug": {"label": 0.97}}}}  # fmt: skip
    return {
        "kept_format": 1, "bed": bed, "bias": bias, "seed": seed, "plan": {"epochs": 40, "trainings": 2}, "command": "",
        "drawn": {"name": bed},
        "origins": [{"format": 2, "commit": "c" * 40, "weights": {"pocket": "sha256:abc"}}], "failed": {},
        "made": {name: made for name in rows if name != "erm"}, "rows": cells,
        "data": {"groups": ["mug × grass", "mug × water", "umbrella × grass", "umbrella × water"],
                 "against_the_bias": [1, 2] if bias == "biased" else []},
        **changes,
    }  # fmt: skip


def around(base, gain, seed):
    """Two trainings, whose groups against the bias have different accuracies."""
    noise = (seed % 3) / 100
    return [(0.99, base + gain + noise, base + gain + 0.1, 0.98), (0.99, base + gain + 0.1, base + gain + noise, 0.98)]


@pytest.fixture
def kept(tmp_path):
    for bed, seed in itertools.product(("pocketbirds", "pocketlooks"), range(12)):
        rows = {"erm": around(0.6, 0, 0), "ddb": around(0.6, 0.05, seed), "scgs": around(0.6, 0, seed)}
        if seed < 6:
            rows["paste"] = around(0.6, 0.02, 0)
        (tmp_path / f"{bed}-biased-{seed:03d}.json").write_text(json.dumps(unit(bed, "biased", seed, rows)))
    rows = {"erm": around(0.9, 0, 0), "ddb": around(0.9, -0.01, 0)}
    (tmp_path / "pocketbirds-unbiased-000.json").write_text(json.dumps(unit("pocketbirds", "unbiased", 0, rows)))
    return tmp_path


def test_the_primary_comparisons_pair_seeds_after_their_trainings_are_averaged(kept, bench):
    report = bench("mitigate_report")
    found = report.compare_primary(report.read_units(kept))
    assert [(each["bed"], each["row"], each["difference"].n) for each in found] == [
        ("pocketbirds", "ddb", 12), ("pocketbirds", "scgs", 12),
        ("pocketlooks", "ddb", 12), ("pocketlooks", "scgs", 12),
    ]  # fmt: skip
    # noise of 0, 1 and 2 points in turn is 1 on average
    assert [each["difference"].mean for each in found] == pytest.approx([6, 1, 6, 1])
    for each in found:
        one, together = each["difference"], each["together"]
        assert together.low < one.low < one.mean < one.high < together.high
        assert each["holm"] >= one.p
    assert found[1]["holm"] == pytest.approx(2 * found[1]["difference"].p)
    # 5 points more in both groups, and the mean of both noises
    assert found[0]["against"].mean == pytest.approx(5.5)


def test_a_missing_comparison_counts_against_the_others(kept, bench):
    report = bench("mitigate_report")
    units = [each for each in report.read_units(kept) if each["bed"] == "pocketbirds"]
    found = report.compare_primary(units)
    assert len(found) == 2
    assert found[0]["holm"] == pytest.approx(4 * found[0]["difference"].p)


def test_the_tables_tell_exploratory_rows_from_primary_ones_and_every_group(kept, bench):
    report = bench("mitigate_report")
    text = report.to_markdown(report.read_units(kept), kept)
    lines = text.splitlines()
    (primary,) = (line for line in lines if line.startswith("| ddb − erm, pocketlooks"))
    assert "| 12 of 12 | +6.0 (" in primary
    assert sum(line.startswith("Exploratory") and "uncorrected" in line for line in lines) == 4
    paste = next(line for line in lines if line.startswith("| paste | 6 |"))
    assert "+2.0 (+2.0 to +2.0)" in paste
    assert "| 760 | 300 |" in paste
    assert "mug × water" in text
    seeds = lines.index(next(line for line in lines if line.startswith("| pocketlooks, pocket | erm |"))) + 2
    assert [line.split(" | ")[0] for line in lines[seeds : seeds + 13]] == [*(f"| {i}" for i in range(12)), "| median"]
    assert lines[seeds + 12].endswith("| 6.0 | 1.0 |")
    assert "| ddb | pocketbirds | 12 | 20.0 | 50.0 | 90.0 |" in lines
    assert "different numbers of optimiser steps" not in text
    assert "abc" in text


def test_rows_of_unequal_steps_are_named(kept, bench):
    path = kept / "pocketbirds-biased-000.json"
    one = json.loads(path.read_text())
    one["rows"]["ddb"]["pocket"]["known"]["seeds"][0]["budget"] = 800
    path.write_text(json.dumps(one))
    report = bench("mitigate_report")
    assert "pocketbirds took different numbers of optimiser steps" in report.to_markdown(report.read_units(kept), kept)


def test_beds_may_take_different_numbers_of_steps(kept, bench):
    for path in kept.glob("pocketlooks-*.json"):
        path.write_text(path.read_text().replace('"budget": 760', '"budget": 840'))
    report = bench("mitigate_report")
    text = report.to_markdown(report.read_units(kept), kept)
    assert "| 840 |" in text
    assert "different numbers of optimiser steps" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": {"epochs": 30}}, "their plans differ"),
        ({"drawn": {"name": "pocketlooks", "bias_aligned_share": 0.9}}, "the drawings of pocketlooks differ"),
        (
            {"origins": [{"format": 2, "commit": "d", "weights": {"pocket": "sha256:other"}}]},
            "weights or formats differ",
        ),
        ({"origins": [{"format": 3, "commit": "c", "weights": {"pocket": "sha256:abc"}}]}, "weights or formats differ"),
    ],
)
def test_files_that_dont_belong_together_are_refused(change, message, kept, bench):
    path = kept / "pocketlooks-biased-003.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FiguregroundError, match=rf"pocketlooks-biased-003\.json can't be reported together: {message}"):
        bench("mitigate_report").read_units(kept)


def test_a_row_of_other_settings_is_refused(kept, bench):
    path = kept / "pocketbirds-biased-002.json"
    one = json.loads(path.read_text())
    one["rows"]["scgs"]["pocket"]["known"]["settings"] = {"add_weight": 2.0}
    path.write_text(json.dumps(one))
    with pytest.raises(FiguregroundError, match=r"the settings of scgs \(pocket, known\) differ"):
        bench("mitigate_report").read_units(kept)
    with pytest.raises(FiguregroundError, match="holds no unit"):
        bench("mitigate_report").read_units(kept / "nowhere")


def test_a_commit_may_differ_but_a_unit_of_other_weights_is_not_gone_on_with(bench, tmp_path):
    m = bench("mitigate_plan")
    plan, one = m.Plan(tmp_path, tmp_path), m.Unit("pocketbirds", True, 0)
    record = m.Record(tmp_path / "unit.json", plan, one)
    assert record.origin == 0
    record.content["origins"][0]["commit"] = "another"
    record.write()
    again = m.Record(tmp_path / "unit.json", plan, one)
    assert again.origin == 1
    again.content["origins"][0]["weights"] = {"pocket": "sha256:other"}
    again.write()
    with pytest.raises(FiguregroundError, match=r"unit\.json was made with other weights"):
        m.Record(tmp_path / "unit.json", plan, one)
    with pytest.raises(FiguregroundError, match=r"unit\.json was made by another plan: seed differ"):
        m.Record(tmp_path / "unit.json", plan, one._replace(seed=1))
    with pytest.raises(FiguregroundError, match=r"another plan: plan differ"):
        m.Record(tmp_path / "unit.json", dataclasses.replace(plan, epochs=3), one)


def test_the_hours_of_the_plan_add_up(bench):
    m = bench("mitigate")
    cell = {"known": {"seeds": [{"seconds": 36.0}]}}
    rows = {name: {"pocket": cell, "regnet": cell} for name in ("erm", "ddb")}
    record = {"rows": rows, "made": {"ddb": {"seconds": 360.0}}, "data": {"seconds": 0.0}}
    hours = m.estimate(record, ["pocket", "regnet"])
    # 24 biased and 12 unbiased units, 3 trainings with 2 backbones each; 2 beds and 2 seeds of 4 settings
    assert hours["erm"] == {"training": pytest.approx(36 * 6 * 0.01), "making": 0, "tuning": pytest.approx(16 * 0.01)}
    assert hours["ddb"]["making"] == pytest.approx((36 + 4) * 0.1)
