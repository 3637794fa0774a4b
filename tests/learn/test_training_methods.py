"""Computations of the methods, on numbers made by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from figureground.learn.augmentation import crop_and_mirror, random_box
from figureground.learn.dfr import draw_balanced, draw_half, fit_logistic, refit, unstandardise
from figureground.learn.groupdro import GroupDRO, average_by_group, raise_weights
from figureground.learn.jtt import find_minority_groups, summarise_errors, weigh_errors
from figureground.learn.schedule import draw_in_passes, schedule
from figureground.learn.training_results import mean_and_std, score
from figureground.learn.weights import balance, normalise, weigh_added
from figureground.recipe.sample import derive_seed

WATERBIRDS = np.array([[3498, 184], [56, 1057]])


def test_every_group_counts_alike_and_added_images_keep_their_share_in_it():
    weights = balance(weigh_added(np.array([False, False, False, True]), 3.0), np.array([0, 0, 1, 1]))
    assert weights.tolist() == [0.5, 0.5, 0.25, 0.75]
    assert normalise(weights).mean() == pytest.approx(1)


def test_errors_count_lambda_times():
    assert weigh_errors(np.array([True, False]), 20).tolist() == [20, 1]


def test_minority_groups_are_those_against_the_correlation():
    assert find_minority_groups(WATERBIRDS).tolist() == [[False, True], [True, False]]
    assert not find_minority_groups(np.array([[5, 5], [10, 10]])).any()


def test_precision_and_recall_of_errors_leave_added_images_out():
    group = np.array([0, 0, 0, 1, 2, 3, 3, 3, 1])
    errors = np.array([1, 0, 0, 1, 0, 0, 0, 0, 1], bool)
    summary = summarise_errors(errors, np.arange(9) == 8, group, np.array([[3, 1], [1, 3]]))
    assert summary == {
        "errors": 2, "images": 8, "added_errors": 1, "minority": [1, 2], "precision": 0.5, "recall": 0.5,
    }  # fmt: skip
    assert "precision" not in summarise_errors(errors, np.zeros(9, bool), None, WATERBIRDS)
    assert (
        summarise_errors(np.zeros(9, bool), np.zeros(9, bool), group, np.array([[3, 1], [1, 3]]))["precision"] is None
    )


def test_group_weights_rise_exponentially_with_the_losses():
    q = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    raised = raise_weights(q, torch.tensor([1.0, 3.0, 0.0]).double(), 0.5)
    expected = np.array([0.25 * math.exp(0.5), 0.25 * math.exp(1.5), 0.5])
    assert raised.numpy() == pytest.approx(expected / expected.sum())


def test_group_weights_survive_losses_whose_exponentials_overflow():
    q = torch.tensor([0.5, 0.5], dtype=torch.float64)
    raised = raise_weights(q, torch.tensor([1e4, 0.0]).double(), 1.0)
    assert raised.tolist() == pytest.approx([1, 0])
    unused = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    assert raise_weights(unused, torch.tensor([0.0, 0.0, 1e4]).double(), 1.0).tolist() == [0.5, 0.5, 0.0]


def test_a_group_whose_weight_is_rounded_to_nothing_comes_back_when_its_loss_is_the_largest():
    q = raise_weights(torch.tensor([0.5, 0.5]).double(), torch.tensor([20.0, 0.1]).double(), 100.0)
    assert q.tolist() == pytest.approx([1, 0])
    q = raise_weights(q, torch.tensor([0.1, 20.0]).double(), 100.0)
    assert q.tolist() == pytest.approx([0, 1])


def test_group_losses_are_weighted_means():
    losses, there = average_by_group(
        torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), torch.tensor([3.0, 1.0, 2.0]), 3
    )
    assert losses.tolist() == [1.5, 0, 5]
    assert there.tolist() == [True, False, True]


def test_group_dro_adds_c_over_root_n_for_the_weights_and_leaves_empty_groups_out():
    loss = GroupDRO(np.array([0, 1]), np.ones(2), np.array([4, 16, 0]), step_size=1.0, adjustment=2.0)
    assert loss.q.tolist() == [0.5, 0.5, 0]
    total = loss(torch.tensor([0.3, 0.3]), torch.tensor([0, 1]))
    weights = np.exp([1.0, 0.5])
    assert loss.q.numpy()[:2] == pytest.approx(weights / weights.sum())
    assert float(total) == pytest.approx(0.3)
    loss(torch.tensor([0.3]), torch.tensor([0]))  # group 1 is absent: its loss is 0, its adjustment stays
    weights *= np.exp([0.3 + 1.0, 0.5]) / weights.sum()
    assert loss.q.numpy()[:2] == pytest.approx(weights / weights.sum())
    again = GroupDRO(np.array([0, 1]), np.ones(2), np.array([4, 16, 0]), 1.0, 2.0)
    again.restore(loss.state())
    assert torch.equal(again.q, loss.q)


@pytest.mark.parametrize(("strength", "share"), [(1.0, 0.8), (0.1, 0.8), (0.02, 0.75), (0.005, 0.7)])
def test_the_solver_finds_the_closed_form_of_one_feature(strength, share):
    # Of a feature ±1 that goes with the class in a share p, the difference d of weights has σ(d) = p − 1 / (C n).
    n = 2000
    x = torch.cat([torch.ones(n // 2), -torch.ones(n // 2)]).double()[:, None]
    same = torch.arange(n // 2) < share * n / 2
    y = torch.cat([torch.where(same, 1, 0), torch.where(same, 0, 1)])
    layer = fit_logistic(x, y, 2, strength)
    p = share - 1 / (strength * n)
    assert float(layer.weight[1] - layer.weight[0]) == pytest.approx(math.log(p / (1 - p)), abs=1e-4)
    assert layer.bias.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_a_strong_penalty_leaves_no_feature_and_the_bias_free():
    rng = np.random.default_rng(0)
    y = torch.tensor([0] * 30 + [1] * 10)
    layer = fit_logistic(torch.from_numpy(rng.normal(size=(40, 5))), y, 2, 1e-3)
    assert not layer.weight.any()
    assert float(layer.bias[1] - layer.bias[0]) == pytest.approx(math.log(1 / 3), abs=1e-4)


def test_a_layer_for_standardised_features_is_converted_to_raw_ones():
    rng = np.random.default_rng(1)
    raw = torch.from_numpy(rng.normal(3, 2, (20, 4)))
    layer = fit_logistic((raw - 3) / 2, torch.arange(20) % 2, 2, 1.0)
    out = unstandardise(layer, torch.full((4,), 3.0).double(), torch.full((4,), 2.0).double())
    assert torch.allclose(raw @ out.weight.T + out.bias, (raw - 3) / 2 @ layer.weight.T + layer.bias)


def test_draws_hold_as_many_of_each_group_and_halves_split_each():
    group = np.array([0] * 7 + [1] * 3 + [3] * 5)
    rows = draw_balanced(group, np.random.default_rng(0))
    assert np.bincount(group[rows]).tolist() == [3, 3, 0, 3]
    assert len(set(rows.tolist())) == 9
    assert np.bincount(group[draw_half(group, np.random.default_rng(0))]).tolist() == [4, 2, 0, 3]


def test_refitting_looks_away_from_what_goes_with_the_class_only_by_group_size():
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(4), [80, 10, 10, 80])
    y, a = group // 2, group % 2
    features = np.stack([(2 * y - 1) + rng.normal(0, 0.5, 180), (2 * a - 1) * 3 + rng.normal(0, 0.1, 180)], axis=1)
    layer, facts = refit(features, y, group, 2, training=features, draws=3, inverse_strength=None, seed=0)
    core, spurious = (layer.weight[1] - layer.weight[0]).abs().tolist()
    assert core > 5 * spurious
    assert facts["inverse_strength"] in [each["inverse_strength"] for each in facts["tried"]]
    assert facts["images_a_group"] == 10
    assert facts["unconverged_draws"] == 0


def test_draws_whose_fit_takes_too_many_steps_are_counted(monkeypatch):
    monkeypatch.setattr("figureground.learn.dfr.MAX_STEPS", 2)
    group = np.repeat(np.arange(4), 10)
    features = np.random.default_rng(4).normal(size=(40, 3))
    _, facts = refit(features, group // 2, group, 2, training=features, draws=3, inverse_strength=1.0, seed=0)
    assert (facts["steps"], facts["unconverged_draws"]) == (6, 3)


def test_the_final_fit_of_dfr_standardises_by_the_training_features():
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(4), 30)
    y = group // 2
    features = (2 * y - 1)[:, None] * 0.3 + rng.normal(size=(120, 3))
    training = rng.normal(5, (1, 10, 100), size=(400, 3))
    layer, _ = refit(features, y, group, 2, training=training, draws=2, inverse_strength=0.3, seed=0)
    given, mean, std = torch.from_numpy(features), training.mean(0), training.std(0)
    parts = []
    for i in range(2):
        rows = draw_balanced(group, np.random.default_rng(derive_seed(0, "dfr", "draw", str(i))))
        drawn = (given[rows] - torch.from_numpy(mean)) / torch.from_numpy(std)
        parts.append(fit_logistic(drawn, torch.from_numpy(y[rows]), 2, 0.3))
    expected = (parts[0].weight + parts[1].weight) / 2 / torch.from_numpy(std)
    assert torch.allclose(layer.weight, expected)
    # A feature that varies most in training is shrunk most by the penalty here.
    assert layer.weight[1, 0] > 0
    assert not layer.weight[:, 2].any()


def test_scores_tell_average_reweighted_and_worst():
    y, group = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
    scores = score(np.array([0, 1, 1, 1]), y, group, list("abcd"), WATERBIRDS.ravel())
    assert scores["average"] == 0.75
    assert (scores["worst"], scores["worst_name"]) == (0.0, "b")
    assert (scores["groups"][1]["low"], scores["groups"][1]["high"]) == (0, pytest.approx(0.793, abs=1e-3))
    copies = score(np.zeros(8, int), np.zeros(8, int), None, ["a"], np.array([8]), np.zeros(8, int))
    assert copies["groups"][0]["low"] == scores["groups"][0]["low"]  # eight images of one object
    assert scores["reweighted"] == pytest.approx(1 - 184 / WATERBIRDS.sum())
    assert score(y, y, None, list("ab"), np.array([1, 1]))["reweighted"] is None
    assert score(y, y, group, list("abcd"), np.zeros(4, int))["reweighted"] is None


def test_the_spread_is_the_sample_standard_deviation():
    assert mean_and_std([0.5, 0.7]) == {"mean": pytest.approx(0.6), "std": pytest.approx(math.sqrt(0.02))}
    assert mean_and_std([0.5]) == {"mean": 0.5, "std": None}
    assert mean_and_std([0.5, None]) == {"mean": None, "std": None}


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[4] == 1
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 1e-3


def test_rows_come_in_passes_whatever_the_length_of_an_epoch():
    def rng(i):
        return np.random.default_rng(i)

    stream = np.concatenate([draw_in_passes(7, start, 3, rng) for start in range(0, 27, 3)])
    assert [sorted(stream[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert np.ptp(np.bincount(stream)) == 1
    assert draw_in_passes(7, 7, 7, rng).tolist() == rng(1).permutation(7).tolist()  # a pass is an epoch
    assert (
        draw_in_passes(3, 2, 8, rng).tolist()
        == np.concatenate([rng(i).permutation(3) for i in range(4)])[2:10].tolist()
    )


def test_crops_are_inside_the_image_and_mild():
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, upper, right, lower = random_box(40, 30, rng)
        assert 0 <= left < right <= 40 + 1e-9
        assert 0 <= upper < lower <= 30 + 1e-9
        assert 0.6 < (right - left) * (lower - upper) / 1200 <= 1
    image = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3))
    one, other = (crop_and_mirror(image, (16, 20), np.random.default_rng(5)) for _ in range(2))
    assert one.size == (20, 16)
    assert one.tobytes() == other.tobytes()
