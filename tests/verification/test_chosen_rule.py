"""Thresholds for `curate` are chosen from people's answers."""

import csv
import json

import numpy as np
import pytest
from commands import run
from tiny_datasets import make_dataset

from figureground.annotation.answers import Answer
from figureground.core.errors import FiguregroundError, UsageError
from figureground.shards.finished import FinishedDataset, read_finished_index
from figureground.shards.shard import Shard
from figureground.verification.chosen_rule import choose_rule, judge_by_majority
from figureground.verification.scores_file import SavedScores, write_saved


def answer(key, question, verdict, annotator="ann"):
    return Answer(1, annotator, key, question, verdict, "2026-01-05T10:00:00Z")


def test_an_image_is_right_if_most_say_yes_to_all_questions():
    answers = [
        *(answer("a", what, "yes") for what in ("foreground", "background")),
        answer("b", "foreground", "yes"), answer("b", "background", "no"),
        answer("c", "foreground", "yes"),
        answer("d", "foreground", "yes"), answer("d", "foreground", "no", "bob"), answer("d", "background", "yes"),
        *(answer("e", "foreground", verdict, verdict) for verdict in ("yes", "yes", "no", "unsure")),
        answer("e", "background", "yes"),
        answer("f", "foreground", "unsure"),
        answer("gold", "foreground", "no"),
    ]  # fmt: skip
    keys = ["a", "b", "c", "d", "e", "f", "gold", "other"]
    asked = dict.fromkeys(("foreground", "background"), np.ones(len(keys), bool))
    assert judge_by_majority(answers, keys, asked, {"gold"}).tolist() == [1, 0, -1, -1, 1, -1, -1, -1]


def test_an_unanswered_question_leaves_right_and_wrong_images_alike_unjudged():
    answers = [answer("a", "label", "yes"), answer("b", "label", "no"), answer("c", "label", "yes")]
    asked = {"label": np.ones(3, bool), "background": np.array([False, False, True])}
    assert judge_by_majority(answers, ["a", "b", "c"], asked).tolist() == [1, 0, -1]
    asked["background"][:] = True
    assert judge_by_majority(answers, ["a", "b", "c"], asked).tolist() == [-1, -1, -1]


@pytest.fixture
def reviewed(tmp_path):
    """300 images, a fifth with a wrong label; two scorers, and answers about all of them."""
    cutouts = lambda spec: f"o/{spec.key}.png@{spec.key}"  # noqa: E731
    directory = make_dataset(tmp_path / "in", shards=(Shard("train", 0, 1, 300),), cutouts=cutouts, size=4)
    source = FinishedDataset(directory)
    keys = [row["key"] for shard in source.shards for row in source.rows(shard)]
    rng = np.random.default_rng(0)
    right = rng.random(300) >= 0.2
    saved = SavedScores(keys, ["0"] * 300, dataset=source.identity())
    for name in ("one", "other"):
        for what in ("foreground", "background"):
            p = np.clip(rng.normal(0.3 + 0.4 * right, 0.1), 0, 1)
            saved.columns[f"{name}_{what}_p"] = p.tolist()
            saved.kinds[f"{name}_{what}_p"] = "float"
        saved.scorers[name] = {}
    write_saved(directory, saved)
    lines = [{"figureground": "annotations", "version": 1, "dataset": source.identity(), "annotator": "ann"}]
    for key, fine in zip(keys, right.tolist(), strict=True):
        for question in ("foreground", "background"):
            verdict = "yes" if fine or question == "foreground" else "no"
            lines.append(
                {"n": len(lines), "key": key, "question": question, "answer": verdict, "time": "2026-01-05T10"}
            )
    path = directory / "_figureground/annotations/ann.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory, dict(zip(keys, right.tolist(), strict=True))


def test_the_copy_keeps_few_wrong_labels_and_its_card_says_how_many(reviewed, tmp_path):
    directory, right = reviewed
    out = tmp_path / "out"
    code, output, err = run(
        "curate", str(directory), "--out", str(out), "--target", "0.02", "--scorer", "one", "--scorer", "other"
    )
    assert (code, err) == (0, "")
    assert "of 150 reviewed images that were not used for the choice" in output
    source = FinishedDataset(out)
    kept = [right[row["key"]] for shard in source.shards for row in source.rows(shard)]
    assert 1 - np.mean(kept) < 0.05
    assert len(kept) > 150
    [step] = source.facts.lineage
    assert step["target_wrong"] == 0.02
    low, high = step["interval_95"]
    assert low <= step["wrong_among_kept"] <= high < 0.1
    assert "wrong among kept" in (out / "README.md").read_text()
    assert read_finished_index(out)["samples"] == len(kept)


def test_gold_items_have_no_part(reviewed):
    directory, right = reviewed
    before = choose_rule(directory, ["one"], 0.1)
    with (directory / "_figureground/annotations/gold.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "question", "answer"])
        rows.writerows([key, "foreground", "no"] for key in list(right)[:50])
    after = choose_rule(directory, ["one"], 0.1)
    assert before.chosen_on.labelled + before.reported.labelled == 300
    assert after.chosen_on.labelled + after.reported.labelled == 250


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--target", "0.02"], "--scorer"),
        (["--target", "0.02", "--scorer", "onne"], "'onne', did you mean 'one'"),
        (["--target", "0.02", "--scorer", "one", "--keep", "seed > 1"], "either --keep"),
        (["--target", "0.02", "--scorer", "one", "--whole-sets"], "--whole-sets"),
        (["--keep", "seed > 1", "--votes", "1"], "--votes"),
        ([], "either --keep"),
    ],
)
def test_wrong_use_is_named(reviewed, tmp_path, arguments, named):
    code, _, err = run("curate", str(reviewed[0]), "--out", str(tmp_path / "out"), *arguments)
    assert code == 2
    assert named in err


def test_a_dataset_that_no_one_reviewed_is_refused(reviewed):
    directory = reviewed[0]
    (directory / "_figureground/annotations/ann.jsonl").unlink()
    with pytest.raises(FiguregroundError, match="figureground review"):
        choose_rule(directory, ["one"], 0.02)


def test_a_dataset_without_scores_is_refused(tmp_path):
    with pytest.raises(UsageError, match="figureground verify"):
        choose_rule(make_dataset(tmp_path / "in"), ["pocket"], 0.02)
