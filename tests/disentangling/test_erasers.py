"""Erasure: what linear probes find after it, on the fitted images and on others, and what an MLP still finds."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from figureground.disentangling.cross_probes import Features, run_cross_probes
from figureground.disentangling.logistic import fit_logistic
from figureground.disentangling.probes import Examples, fit_probe
from figureground.disentangling.separator import SEPARATORS
from figureground.disentangling.settings import Disentangling

CLASSES = 4


def make_features(n, seed, planted=True):
    """Features of which four tell the own label, four the other one linearly, and two the other one by the sign of
    their product; with the two labels."""
    rng = np.random.default_rng(seed)
    own, other = rng.integers(0, CLASSES, (2, n))
    x = rng.normal(size=(n, 16))
    x[np.arange(n), own] += 4
    x[np.arange(n), 4 + other] += 3
    if planted:
        signs = rng.choice([-1, 1], (n, 2))
        signs[:, 1] = signs[:, 0] * np.where(other < CLASSES // 2, 1, -1)
        x[:, 8:10] = 2 * signs + 0.3 * rng.normal(size=(n, 2))
    return torch.from_numpy(x), torch.from_numpy(own), torch.from_numpy(other)


def erase(name, x, label, **settings):
    matrix, bias, facts = SEPARATORS[name]().erase(x, label, CLASSES, Disentangling(name, **settings), 0)
    return (lambda features: features @ matrix.T + bias), facts


def accuracy(kind, train, test, label, other):
    predict = fit_probe(kind, Examples(train, label, np.arange(len(train))), CLASSES, 0)
    return float((predict(test) == other).double().mean())


needs_library = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("concept_erasure"), reason="concept-erasure isn't installed"
)
ERASERS = [pytest.param("leace", marks=needs_library), "inlp"]


@pytest.mark.parametrize("name", ERASERS)
def test_linear_probes_fall_to_chance_on_held_out_images_and_an_mlp_reads_the_nonlinear_trace(name):
    x, _, other = make_features(3000, 0)
    held, held_own, held_other = make_features(2000, 1)
    test, test_own, test_other = make_features(2000, 2)
    erased, facts = erase(name, x, other)
    assert facts["removed_dimensions"] >= CLASSES - 1
    assert accuracy("linear", held, test, held_other, test_other) > 0.8
    assert accuracy("linear", erased(held), erased(test), held_other, test_other) < 1 / CLASSES + 0.05
    assert accuracy("mlp", erased(held), erased(test), held_other, test_other) > 0.45  # the halves are told apart
    before, after = (
        accuracy("linear", f(held), f(test), held_own, test_own) for f in (lambda features: features, erased)
    )
    assert after > before - 0.02


@needs_library
def test_leace_leaves_no_covariance_with_the_label_and_linear_probes_at_the_majority_rate_on_the_fitted_images():
    x, _, other = make_features(500, 3)
    erased, facts = erase("leace", x, other)
    hot = F.one_hot(other, CLASSES).double()
    after = erased(x)
    covariance = (after - after.mean(0)).T @ (hot - hot.mean(0)) / len(x)
    assert covariance.abs().max() < 1e-10
    assert torch.allclose(after.mean(0), x.mean(0))
    assert facts["removed_dimensions"] == CLASSES - 1
    fitted = fit_logistic(after, other, CLASSES)(after).argmax(1)
    majority = float((other == other.mode().values).double().mean())
    assert float((fitted == other).double().mean()) <= majority + 1e-9


@needs_library
def test_leace_moves_features_less_than_inlp():
    x, _, other = make_features(2000, 4, planted=False)
    moved = {name: float((erase(name, x, other)[0](x) - x).square().sum(1).mean()) for name in ("leace", "inlp")}
    assert moved["leace"] < moved["inlp"]


def test_inlp_stops_when_a_classifier_finds_nothing_and_at_its_number_of_rounds():
    x, _, other = make_features(2000, 5, planted=False)
    _, facts = erase("inlp", x, other)
    assert len(facts["accuracy_by_round"]) < 20
    assert facts["accuracy_by_round"][-1] <= facts["majority"] + 0.02
    _, facts = erase("inlp", x, other, rounds=1)
    assert facts["removed_dimensions"] == CLASSES - 1
    noise = torch.from_numpy(np.random.default_rng(6).normal(size=(4000, 16)))
    matrix, bias, facts = SEPARATORS["inlp"]().erase(
        noise, torch.arange(4000) % 2, 2, Disentangling("inlp", tolerance=0.1), 0
    )
    assert facts["removed_dimensions"] == 0
    assert torch.equal(matrix, torch.eye(16, dtype=torch.float64))
    assert torch.equal(bias, torch.zeros(16, dtype=torch.float64))


def test_the_report_of_a_cross_probe_says_chance_majority_sizes_and_what_fitted_images_would_say():
    def known(n, seed):
        x, own, other = make_features(n, seed)
        parts = {"foreground": x.float(), "background": x[:, 4:8].float()}
        return Features(parts, {"foreground": own, "background": other}, np.arange(n))

    found = run_cross_probes(
        known(200, 0), known(800, 1), known(400, 2), {"foreground": CLASSES, "background": CLASSES}, 0
    )
    assert set(found) == {f"{a} from {b}" for a in known(2, 0).parts for b in known(2, 0).parts}
    one = found["foreground from background"]
    assert one["images"] == {"fitted": 200, "probes": 800, "test": 400}
    assert one["dimensions"] == 4
    assert one["chance"] == 0.25
    more = run_cross_probes(known(200, 0), known(800, 1), known(400, 2), {"foreground": 9, "background": 9}, 0)
    assert more["foreground from background"]["chance"] == 0.25  # of the labels that occur
    assert 0.2 < one["majority"] < 0.3
    assert all(each["low"] < each["value"] < each["high"] for each in one["accuracy"].values())
    assert one["accuracy"]["mlp"]["high"] < 0.35  # independent
    assert one["on_fitted"] > one["accuracy"]["linear"]["value"]
    assert found["background from background"]["accuracy"]["linear"]["value"] > 0.8
    # what is hidden in a product is seen by the other probes alone
    assert found["background from foreground"]["accuracy"]["mlp"]["value"] > 0.8
