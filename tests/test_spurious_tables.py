"""How the benchmark of SFSL chooses settings, and which intervals and tables its readings come to."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from figureground.core.errors import FiguregroundError

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "spurious_tables.py"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("spurious_tables", PATH)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def reading(row, name, seed, says="1100", shows="0000", **more):
    judges = {"regnet": says, "swin": says[::-1]}
    numbers = dict.fromkeys(judges, 0.5)
    return {
        "row": row, "setting": row, "class": name, "seed": seed, "images": len(says), "says_k": judges, "object": shows,
        "look": "1" * len(says), "p": numbers, "average_precision": numbers, "roc_auc": numbers, "stage": "final",
        "judges": {"regnet": "regnet-1", "swin": "swin-1"}, "oracle": 1, "format": 2, "commit": "c" * 40,
        "weights": {"pocket": "a", "robust": "b", "segmenter": "c"}, "settings": {}, **more,
    }  # fmt: skip


def test_an_image_that_shows_the_object_does_not_count_and_more_than_five_per_cent_cost_twice(tables):
    one = reading("sfsl", "bird", 0, says="1110", shows="1000")
    assert tables.share_saying_k(one) == 0.75
    assert tables.share_clean(one) == (2 / 4 + 3 / 4) / 2  # the judges say k of images 0 to 2 and of images 1 to 3
    assert tables.score_setting([one]) == pytest.approx(0.625 - (0.25 - 0.05))
    clear = reading("sfsl", "bird", 1, says="1110")
    assert tables.score_setting([clear]) == 0.75
    assert tables.score_setting([one, clear]) == pytest.approx((0.625 + 0.75) / 2 - (0.125 - 0.05))


def test_the_best_are_kept_and_of_equal_ones_those_that_come_first(tables):
    assert tables.select_best({"a": 0.2, "b": 0.5, "c": 0.5, "d": 0.9}, 3) == ["d", "b", "c"]


def test_students_interval_is_scipys(tables):
    values = [0.1, 0.4, 0.35, 0.2]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = tables.student_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.n == 4
    assert not math.isfinite(tables.student_interval([0.3]).low)
    assert tables.student_interval([0.3]).format() == "30.0"


def test_the_interval_over_classes_and_seeds_covers_the_true_mean(tables):
    """Data with effects of both, whose mean is known: 95 % of the intervals hold it, and one over seeds alone fails."""
    rng, hits = np.random.default_rng(0), {"both": 0, "seeds": 0}
    for _ in range(400):
        table = 0.3 + rng.normal(0, 0.1, (6, 1)) + rng.normal(0, 0.05, (1, 6)) + rng.normal(0, 0.05, (6, 6))
        for name, found in (
            ("both", tables.two_way_interval(table)),
            ("seeds", tables.student_interval(table.mean(0))),
        ):
            hits[name] += found.low <= 0.3 <= found.high
    assert hits["both"] / 400 > 0.94
    assert hits["seeds"] / 400 < 0.85


def some(tables, seeds=(100, 101), classes=("fish", "cat")):
    says = {"references": "1111", "untouched": "0000", "dreambooth": "1000", "sfsl": "1110"}
    found = [reading(row, name, seed, says[row]) for row in says for name in classes for seed in seeds]
    for each in found:
        if (each["row"], each["class"]) == ("sfsl", "cat"):
            each["says_k"], each["object"] = dict.fromkeys(each["says_k"], "1100"), "0001"
    return found


def test_rows_are_paired_by_class_and_seed_and_the_worst_class_comes_first(tables):
    final = tables.Final.select(some(tables), ("fish", "cat"))
    assert final.seeds == (100, 101)
    gain = final.difference("sfsl", "dreambooth")
    assert gain["seeds"].value == pytest.approx((0.5 + 0.25) / 2)
    assert (gain["seeds"].low, gain["seeds"].high) == pytest.approx((0.375, 0.375))  # both seeds alike
    assert gain["classes"].low < 0 < gain["classes"].value
    assert gain["both"].low <= gain["classes"].low
    assert final.sort_worst_first() == ["cat", "fish"]
    share = final.object_share("sfsl")
    assert share.value == 0.125
    assert share.low < 0.125 < share.high
    text = "\n".join(tables.format_final("held-out", final))
    assert text.index("| cat |") < text.index("| fish |")
    assert "SFSL − DreamBooth, says k | 37.5" in text


def test_a_seed_that_lacks_a_row_waits_until_it_is_there(tables):
    readings = [r for r in some(tables) if (r["row"], r["class"], r["seed"]) != ("sfsl", "cat", 101)]
    assert tables.Final.select(readings, ("fish", "cat")).seeds == (100,)
    none = tables.Final.select(readings, ("fish", "cat", "car"))
    assert "no seed has all rows" in tables.format_final("held-out", none)[0]


def test_readings_of_other_weights_or_judges_are_not_mixed(tables, tmp_path):
    for i, each in enumerate(some(tables)):
        (tmp_path / f"final-{i:02d}.json").write_text(json.dumps(each))
    assert len(tables.read_readings(tmp_path, "final")) == 16
    assert tables.read_readings(tmp_path, "select") == []
    spoiled = tmp_path / "final-07.json"
    for name, value in (
        ("weights", {"pocket": "z", "robust": "b"}),
        ("judges", {"vit": "vit-0"}),
        ("settings", {"a": 1}),
    ):
        spoiled.write_text(json.dumps({**some(tables)[7], name: value}))
        with pytest.raises(FiguregroundError, match=rf"final-07\.json and final-\d\d\.json .* different {name}"):
            tables.read_readings(tmp_path, "final")
    spoiled.write_text(json.dumps({**some(tables)[7], "weights": {"pocket": "a", "robust": "b", "segmenter": "z"}}))
    assert len(tables.read_readings(tmp_path, "final")) == 16  # nothing here was drawn with a segmenter
    (tmp_path / "final-16.json").write_text(json.dumps({**some(tables)[7], "setting": "another"}))
    with pytest.raises(FiguregroundError, match=r"different settings\. .* Remove those of settings"):
        tables.read_readings(tmp_path, "final")  # of two choices


def test_the_chart_shows_every_class_and_images_of_it(tables, tmp_path):
    pytest.importorskip("matplotlib")
    tables.save_samples(np.full((5, 3, 64, 64), 200, np.uint8), tmp_path / "samples-sfsl-cat.jpg")
    final = tables.Final.select(some(tables), ("fish", "cat"))
    tables.draw_chart({"held-out": final}, tmp_path, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 10_000
    empty = tables.Final.select([], ("fish",))
    tables.draw_chart({"held-out": empty}, tmp_path, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
