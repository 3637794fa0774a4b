"""Effective robustness is the distance from a line on logit scales, and is said where there can be no line."""

import re

import pytest
from colour_datasets import make_coloured, make_coloured_classifier, make_folders

from figureground.evaluation import robustness
from figureground.evaluation.evaluating import evaluate
from figureground.evaluation.plots import plot_robustness
from figureground.evaluation.robustness import expit, logit
from figureground.evaluation.summary import summarise

N = 10**6


def result(references: float, accuracy: float, zero_shot: bool = False, samples: int = N) -> dict:
    def interval(value):
        return {"value": value, "low": max(0, value - 0.1), "high": min(1, value + 0.1), "samples": samples}

    compared = {"references": interval(references), "accuracy": interval(accuracy)}
    return {"facts": {"zero_shot": zero_shot}, "compared": {"generated": compared}}


def on_line(references: float, slope: float = 0.8, intercept: float = -0.5) -> float:
    return expit(intercept + slope * logit(references, N))


def test_classifiers_on_a_line_have_none_and_a_zero_shot_one_above_it_has_what_is_above():
    given = {f"net {share}": result(share, on_line(share)) for share in (0.6, 0.7, 0.8, 0.95)}
    found = robustness.measure({**given, "clip:x": result(0.7, on_line(0.7) + 0.2, zero_shot=True)})
    assert found["fitted"] == list(given)
    assert found["line"]["slope"] == pytest.approx(0.8)
    assert found["line"]["intercept"] == pytest.approx(-0.5)
    assert [found["effective"][name] for name in given] == pytest.approx([0] * 4, abs=1e-9)
    assert found["effective"]["clip:x"] == pytest.approx(0.2)
    assert any("4 classifiers only" in note for note in robustness.list_notes(found))


def test_the_line_is_that_of_all_if_too_few_are_ordinary():
    given = {"a": result(0.6, 0.5), "b": result(0.8, 0.7), "clip:x": result(0.9, 0.85, zero_shot=True)}
    assert robustness.measure(given)["fitted"] == ["a", "b", "clip:x"]


@pytest.mark.parametrize(
    ("given", "why"),
    [([(0.6, 0.5), (0.8, 0.7)], "at least 3"), ([(0.6, 0.5), (0.6, 0.7), (0.6, 0.6)], "equally accurate")],
)
def test_too_few_or_equal_classifiers_have_no_line_and_the_report_says_so(given, why):
    found = robustness.measure({str(i): result(*each) for i, each in enumerate(given)})
    assert (found["line"], found["effective"]) == (None, {})
    (note,) = robustness.list_notes(found)
    assert why in note
    assert 'fill="none" stroke="#222"' not in plot_robustness(found, "a set")


def test_one_classifier_or_no_references_give_nothing():
    assert robustness.measure({"a": result(0.6, 0.5)}) is None
    assert robustness.measure({"a": {"facts": {}}, "b": {"facts": {}}}) is None


def test_all_right_and_all_wrong_stay_finite():
    assert logit(1, 10) == pytest.approx(logit(0.95, 10**6))
    assert logit(0, 10) == pytest.approx(-logit(1, 10))
    given = {name: result(a, b, samples=10) for name, a, b in (("a", 1, 1), ("b", 0.5, 0), ("c", 0.2, 0.1))}
    found = robustness.measure(given)
    assert all(-1 < value < 1 for value in found["effective"].values())
    assert "nan" not in plot_robustness(found, "a set")


def test_the_page_shows_every_classifier_on_logit_axes_and_escapes_names(tmp_path):
    drawn = [
        ("train", name, ground, i, "cat" if (name, ground) == ("bird", "snow") else name)
        for name in ("bird", "cat") for ground in ("grass", "snow") for i in range(3)
    ]  # fmt: skip
    directory = make_coloured(tmp_path / "set", drawn)
    references = make_folders(tmp_path / "photos", {"bird": 6, "cat": 6, "mug": 2})
    names = ({}, {"bird": "cat", "cat": "bird", "mug": "mug"}, {"bird": "bird", "cat": "mug", "mug": "cat"})
    classifiers = [
        str(make_coloured_classifier(tmp_path / f"net-{i}", each or None)) for i, each in enumerate(names)
    ]  # fmt: skip
    done = evaluate(directory, classifiers, references=references, show_progress=False)
    found = done.report["robustness"]
    assert found["fitted"] == ["net-0", "net-1", "net-2"]
    assert found["points"]["net-0"]["references"]["value"] == 1
    page = (directory / "_evaluation" / "evaluation.html").read_text()
    assert "Effective robustness" in page
    plot = re.search(r"<svg class=\"plot\".*?</svg>", page, re.DOTALL)[0]
    assert plot.count("<circle") == 2 * 3  # in the plot and in its legend
    assert "effective robustness" in summarise(done.report)
    assert "&lt;b&gt;" in plot_robustness(robustness.measure({"<b>": result(0.5, 0.5), "c": result(0.6, 0.6)}), "a set")
