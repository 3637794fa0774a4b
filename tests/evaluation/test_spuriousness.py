"""Measures of spuriousness are those of the answers given, class by class and over classifiers."""

import numpy as np
import pytest

from figureground.evaluation.metrics import average_precision, roc_auc
from figureground.evaluation.predict import Predictions
from figureground.evaluation.spuriousness import average_predictions, measure, measure_mean

LABELS = ("bird", "cat", "mug")


def answers(label, p, judged=None):
    p = np.array(p, float)
    judged = np.ones(len(p), bool) if judged is None else np.array(judged, bool)
    return Predictions(np.array(label), judged, np.where(p > 0.5, label, 9), np.where(judged, p, np.nan), p > 0.5)


GENERATED = answers([0, 0, 0, 0, 2, 2], [0.9, 0.8, 0.1, 0.2, 0.3, 0.7])
REFERENCES = answers([0, 0], [0.9, 0.6])
REAL = answers([0, 0, 0, 1], [0.95, 0.85, 0.15, 0.5])


def test_shares_means_and_rankings_of_each_class():
    report = measure({"generated": GENERATED, "references": REFERENCES}, REAL, LABELS)
    assert list(report["classes"]) == ["bird", "mug"]
    bird = report["classes"]["bird"]
    assert bird["generated"]["images"] == 4
    assert bird["generated"]["predicted"]["value"] == 0.5
    assert bird["generated"]["p"]["value"] == pytest.approx(0.5)
    assert bird["generated"]["predicted"]["low"] < 0.5 < bird["generated"]["predicted"]["high"]
    positive, negative = REAL.p[:3], GENERATED.p[:4]
    assert bird["generated"]["average_precision"] == average_precision(positive, negative)
    assert bird["generated"]["roc_auc"] == roc_auc(positive, negative)
    assert bird["generated"]["positives"] == 3
    assert bird["references"]["p"]["value"] == pytest.approx(0.75)
    # Of mugs there are neither real images nor references.
    assert set(report["classes"]["mug"]) == {"generated"}
    assert "average_precision" not in report["classes"]["mug"]["generated"]


def test_the_mean_counts_classes_alike():
    report = measure({"generated": GENERATED, "references": REFERENCES}, REAL, LABELS)
    mean = report["mean"]["generated"]
    assert (mean["classes"], mean["images"]) == (2, 6)
    assert mean["predicted"]["value"] == pytest.approx((0.5 + 0.5) / 2)
    assert mean["p"]["value"] == pytest.approx((0.5 + 0.5) / 2)
    assert mean["roc_auc"] == report["classes"]["bird"]["generated"]["roc_auc"]
    assert report["mean"]["references"]["classes"] == 1


def test_the_mean_over_classifiers_passes_over_what_one_does_not_know():
    other = answers([0, 0, 0, 0, 2, 2], [0.1, 0.8, 0.1, 0.2, 0, 0], [1, 1, 1, 1, 0, 0])
    both = average_predictions([GENERATED, other])
    assert both.p == pytest.approx([0.5, 0.8, 0.1, 0.2, 0.3, 0.7])
    assert both.correct == pytest.approx([0.5, 1, 0, 0, 0, 1])
    each = [{"generated": some} for some in (GENERATED, other)]
    reports = [measure(some, REAL, LABELS) for some in each]
    report = measure_mean(each, reports, LABELS)
    assert report["classes"]["bird"]["generated"]["predicted"]["value"] == pytest.approx(1.5 / 4)
    assert report["classes"]["mug"]["generated"]["predicted"]["value"] == pytest.approx(0.5)
    rankings = [some["classes"]["bird"]["generated"]["roc_auc"] for some in reports]
    assert report["classes"]["bird"]["generated"]["roc_auc"] == pytest.approx(np.mean(rankings))
    assert report["mean"]["generated"]["roc_auc"] == pytest.approx(np.mean(rankings))
