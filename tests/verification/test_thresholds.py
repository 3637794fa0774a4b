"""Thresholds are chosen on one half of a labelled sample; the other half reports."""

import numpy as np
import pytest

from figureground.core.errors import FiguregroundError
from figureground.curation.rule import KnownNames, Rule
from figureground.verification.thresholds import choose_thresholds, find_first_half, weigh


def sample(n=2000, labelled=600, wrong=0.2, seed=0):
    """Two scorers that are higher for right images, and answers about some images."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) >= wrong
    scores = {
        name: {f"{name}_foreground_p": np.clip(rng.normal(0.4 + 0.3 * right, 0.12), 0, 1)} for name in ("one", "other")
    }
    answers = np.full(n, -1, np.int8)
    indices = rng.permutation(n)[:labelled]
    answers[indices] = right[indices]
    return scores, answers, right


def test_the_target_holds_for_all_images_and_most_right_ones_are_kept():
    scores, answers, right = sample()
    choice = choose_thresholds(scores, answers, np.arange(len(right)), 0.02)
    kept = np.logical_and.reduce(
        [some[score] >= choice.thresholds[name][score] for name, some in scores.items() for score in some]
    )
    assert (~right[kept]).mean() < 0.04
    assert kept[right].mean() > 0.6
    assert choice.chosen_on.wrong <= 0.02 * choice.chosen_on.kept
    assert choice.reported.interval.low <= (~right[kept]).mean() <= choice.reported.interval.high


def test_rare_cells_that_were_reviewed_more_often_count_for_as_many_images_as_they_are():
    rng = np.random.default_rng(0)
    cells = np.repeat([0, 1], [3800, 200])  # half of the rare cell is wrong, and hardly any other image
    right = rng.random(4000) >= np.where(cells == 1, 0.5, 0.01)
    verdicts = np.full(4000, -1, np.int8)
    reviewed = np.concatenate([rng.permutation(3800)[:150], 3800 + rng.permutation(200)[:150]])
    verdicts[reviewed] = right[reviewed]
    scores = {"useless": {"useless_foreground_p": rng.random(4000)}}
    parts = np.stack([np.zeros(4000, np.int64), cells])
    choice = choose_thresholds(scores, verdicts, np.arange(4000), 0.1, parts=parts)
    kept = scores["useless"]["useless_foreground_p"] >= choice.thresholds["useless"]["useless_foreground_p"]
    assert kept.mean() > 0.9
    share = choice.reported.interval
    assert share.low < (~right[kept]).mean() < share.high < 0.15
    assert choice.reported.wrong / choice.reported.kept > 0.2
    assert choice.reported.effective < choice.reported.kept
    with pytest.raises(FiguregroundError, match="no thresholds"):
        choose_thresholds(scores, verdicts, np.arange(4000), 0.1)  # as if drawn from the whole dataset


def test_the_interval_counts_objects_and_covers_the_share_where_images_of_one_object_are_alike():
    covered, runs = 0, 200
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        objects = np.repeat(np.arange(60), 10)
        right = (rng.random(60) >= 0.12)[objects]
        scores = {"useless": {"useless_foreground_p": rng.random(600)}}
        choice = choose_thresholds(scores, right.astype(np.int8), objects, 0.5)
        covered += choice.reported.interval.low <= 0.12 <= choice.reported.interval.high
        assert choice.reported.effective <= 40
    assert covered / runs >= 0.93


def test_one_object_in_each_half_is_one_answer():
    rng = np.random.default_rng(0)
    objects = np.repeat([0, 1], 30)
    verdicts = (rng.random(60) > 0.2).astype(np.int8)
    scores = {"useless": {"useless_foreground_p": rng.random(60)}}
    assert choose_thresholds(scores, verdicts, objects, 0.9).reported.effective == pytest.approx(1)


def test_a_score_that_no_image_has_is_named():
    scores, answers, right = sample()
    scores["other"]["other_foreground_p"][:] = np.nan
    with pytest.raises(FiguregroundError, match=r"--scorer other: .*other_foreground_p"):
        choose_thresholds(scores, answers, np.arange(len(right)), 0.02, votes=1)


def test_weights_add_up_to_the_images_of_the_splits_that_were_reviewed():
    splits = np.repeat([0, 1], [30, 10])
    labelled = np.zeros(40, bool)
    labelled[[0, 1, 20]] = True
    weights = weigh(labelled, np.stack([splits, np.arange(40) // 10]))
    assert weights.sum() == 30
    assert weights[[0, 1, 20]].tolist() == [10, 10, 10]  # no cell is left without labels: the split is one stratum


def test_the_half_that_reports_has_no_part_in_the_choice():
    scores, answers, right = sample()
    objects = np.arange(len(right))
    other = answers.copy()
    second = ~find_first_half(objects) & (answers >= 0)
    other[second] = 0  # every answer of the second half now says wrong
    before, after = choose_thresholds(scores, answers, objects, 0.02), choose_thresholds(scores, other, objects, 0.02)
    assert before.thresholds == after.thresholds
    assert after.reported.wrong == after.reported.kept == before.reported.kept


def test_images_of_one_object_are_in_one_half():
    objects = np.repeat(np.arange(50), 4)
    first = find_first_half(objects).reshape(50, 4)
    assert (first == first[:, :1]).all()
    assert first[:, 0].sum() == 25


def test_the_rule_keeps_what_was_chosen():
    scores, answers, right = sample(300, 200)
    scores["other"]["other_foreground_p"][::7] = np.nan
    choice = choose_thresholds(scores, answers, np.arange(len(right)), 0.1, votes=1)
    names = tuple(score for some in scores.values() for score in some)
    rule = Rule(choice.format_rule(), KnownNames({}, scores={"verify": names}))
    flat = {score: values for some in scores.values() for score, values in some.items()}

    def value(row, name):
        found = float(flat[name[2]][row])
        return None if np.isnan(found) else found

    kept = [rule(lambda name, row=row: value(row, name)) for row in range(len(right))]
    voted = np.logical_or.reduce([flat[s] >= choice.thresholds[n][s] for n, some in scores.items() for s in some])
    assert kept == voted.tolist()


def test_evidence_tells_the_target_and_the_interval():
    scores, answers, right = sample()
    evidence = choose_thresholds(scores, answers, np.arange(len(right)), 0.02).summarise_evidence()
    assert evidence["target_wrong"] == 0.02
    assert evidence["interval_95"][0] <= evidence["wrong_among_kept"] <= evidence["interval_95"][1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"target": 1.0}, "--target: 1.0"),
        ({"target": 0.02, "votes": 3}, "--votes: 3 of 2"),
    ],
)
def test_impossible_wishes_are_named(options, named):
    scores, answers, right = sample()
    with pytest.raises(FiguregroundError, match=named):
        choose_thresholds(scores, answers, np.arange(len(right)), **options)


def test_too_few_answers_are_counted():
    scores, answers, right = sample(labelled=30)
    with pytest.raises(FiguregroundError, match="each needs at least 20"):
        choose_thresholds(scores, answers, np.arange(len(right)), 0.02)


def test_a_target_that_no_threshold_reaches_says_what_is_possible():
    _, answers, right = sample(wrong=0.5)
    useless = {"one": {"p": np.random.default_rng(1).random(len(right))}}
    with pytest.raises(FiguregroundError, match=r"at most 0\.1 %.*The least is \d"):
        choose_thresholds(useless, answers, np.arange(len(right)), 0.001)
