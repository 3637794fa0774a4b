"""Facts about labels: from answers and scores to `labels.json`, the card and the command's output."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import run
from tiny_datasets import make_dataset

from figureground.annotation.answers import ANNOTATIONS, make_header
from figureground.annotation.gold import GOLD
from figureground.annotation.labels import summarise
from figureground.annotation.population import VERIFIED, Population, predict, read_scorers
from figureground.annotation.sampling import ReviewSample, Wanted, save
from figureground.annotation.summary import describe
from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError
from figureground.curation.curating import curate
from figureground.hub.manifest import select_files
from figureground.shards.finished import FinishedDataset
from figureground.shards.index import finish, rewrite_descriptions
from figureground.shards.shard import LABELS, Shard

SHARDS = (Shard("train", 0, 2, 60), Shard("train", 1, 2, 60), Shard("validation", 0, 1, 30))
PEOPLE = ("Ada", "Ben", "Cy")
ASKED = "no person checked"
LOOKED = "people checked a sample"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A set of 150 images that nobody has looked at; tests copy it."""
    return make_dataset(tmp_path_factory.mktemp("plain") / "birds", shards=SHARDS)


@pytest.fixture
def dataset(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "birds")


@pytest.fixture
def reviewed(dataset):
    """The set with answers of three people, scores and gold items."""
    review(dataset)
    score(dataset)
    return dataset


def keys_of(directory):
    return list(Population.from_dataset(FinishedDataset(directory)).keys)


def review(directory, people=PEOPLE, gold=10):
    """Three people answer about 90 of the 150 images; everybody about every third, and about ten gold items.

    Of the foregrounds, each eighth image is wrong, and each person errs on one image in twenty.
    """
    identity, keys = FinishedDataset(directory).identity(), keys_of(directory)
    reviewed_keys = keys[:60] + keys[-30:]
    rng = np.random.default_rng(0)
    for number, person in enumerate(people):
        lines = [make_header(identity, person)]
        for place, key in enumerate(reviewed_keys):
            if place % 3 and place % len(people) != number and place >= gold:
                continue
            for question in ("foreground", "background"):
                right = question == "background" or place % 8 != 0
                answer = "unsure" if place == 33 else "yes" if right ^ (rng.random() < 0.05) else "no"
                lines.append(
                    {"n": len(lines), "key": key, "question": question, "answer": answer, "time": "2026-01-05"}
                )
        write_answers(directory, person, lines)
    rows = [f"{key},foreground,{'no' if place % 8 == 0 else 'yes'}" for place, key in enumerate(reviewed_keys[:gold])]
    (directory / GOLD).write_text("\n".join(["key,question,answer", *rows]) + "\n")


def write_answers(directory, person, lines):
    path = directory / ANNOTATIONS / f"{person}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def score(directory, name="pocket", **columns):
    keys = keys_of(directory)
    rng = np.random.default_rng(1)
    p = np.where(np.arange(len(keys)) % 8 == 0, 0.2, 0.9) + rng.uniform(-0.1, 0.1, len(keys))
    table = {
        "key": keys, f"{name}_foreground_p": p, f"{name}_foreground_rank": np.where(p > 0.5, 1, 2),
        f"{name}_foreground_top": ["bird"] * len(keys), "blur": p, **columns,
    }  # fmt: skip
    path = directory / VERIFIED
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path)


def card_of(directory):
    return (directory / "README.md").read_text()


def faults(directory):
    """Problems that `check` finds in the set's descriptions; the recipe of such a set has faults of its own."""
    found = check(directory, show_progress=False).findings
    return [line for line in found if line.startswith(("README.md", "_figureground/index", "_figureground/labels"))]


def of(summary, question, by="all", **labels):
    shares = [
        share for share in summary["shares"]
        if share["question"] == question and share["by"] == by and labels.items() <= share.items()
    ]  # fmt: skip
    assert len(shares) == 1
    return shares[0]


def test_nobody_has_looked_at_a_new_set(dataset):
    before = card_of(dataset)
    summary = summarise(dataset)
    assert (summary["people"], summary["shares"], summary["scorers"]) == (None, [], {})
    assert not (dataset / LABELS).exists()
    assert card_of(dataset) == before
    assert ASKED in before
    assert "labels" not in FinishedDataset(dataset).index["card"]["facts"]
    assert faults(dataset) == []


def test_answers_and_scores_are_summarised_in_file_card_and_index(reviewed):
    summary = summarise(reviewed)
    assert json.loads((reviewed / LABELS).read_text()) == summary
    assert summary["dataset"] == FinishedDataset(reviewed).identity()
    people = summary["people"]
    assert (people["annotators"], people["images"], people["gold"]) == (3, 90, 30)
    assert people["splits"] == ["train", "validation"]
    share = of(summary, "foreground")
    assert (share["images"], share["labels"]) == (150, 79)  # 90 less ten gold items and one that nobody can tell
    assert share["people"]["low"] < 7 / 8 < share["people"]["high"]
    narrow = share["with_scorers"]
    assert narrow["high"] - narrow["low"] < share["people"]["high"] - share["people"]["low"]
    assert "with_scorers" not in of(summary, "background")  # no scorer says anything about it
    assert of(summary, "foreground", "cell", split="train", foreground="bird", background="snow")["labels"] < 30
    text = card_of(reviewed)
    assert LOOKED in text
    assert ASKED not in text
    assert "3 people looked at 90 images" in text
    assert "| `pocket` | foreground | 150 |" in text
    assert faults(reviewed) == []


def test_the_true_share_rules_and_agreement_are_reported(reviewed):
    question = summarise(reviewed)["people"]["questions"]["foreground"]
    true = question["corrected"]
    assert true["low"] <= true["value"] <= true["high"]
    assert len(true["sensitivity"]) == 3
    assert question["agreement"]["raw"] > question["agreement"]["alpha"]
    assert set(question["agreement_by_label"]) == {"bird", "cat"}
    rules = question["rules"]
    assert rules["unanimous"]["kept"] <= rules["majority"]["kept"]
    assert rules["unanimous"]["good_lost"] > rules["majority"]["good_lost"]
    assert set(rules["expected"]) == {"3", "5"}
    assert "needs 3" in question["stand_in"]["pocket"]["reason"] or "passes" in question["stand_in"]["pocket"]
    assert question["unsure"] == 3


def test_scores_alone_say_that_no_person_has_looked(dataset):
    score(dataset)
    summary = summarise(dataset)
    assert summary["people"] is None
    assert summary["scorers"]["pocket"]["foreground"]["right"] == pytest.approx(131 / 150, abs=1e-6)
    text = card_of(dataset)
    assert "No person has looked at these images." in text
    assert ASKED in text
    assert faults(dataset) == []


def test_labels_that_a_scorer_does_not_know_are_left_out_and_counted(dataset):
    keys = keys_of(dataset)
    some = [0.9 if "-0000-" in key else None for key in keys]
    score(dataset, other_foreground_p=pa.array(some, pa.float64()))
    population = Population.from_dataset(FinishedDataset(dataset))
    scorers = {scorer.name: scorer for scorer in read_scorers(dataset, population)}
    known = sum(each is not None for each in some)
    assert scorers["other"].known.sum() == known < 150
    assert (scorers["other"].right[scorers["other"].known] == 1).all()  # without ranks: at least 0.5
    assert not np.isnan(predict(list(scorers.values()))).any()
    assert summarise(dataset)["scorers"]["other"]["foreground"]["left_out"] == 150 - known


def test_what_redraws_the_card_keeps_what_is_known_and_what_changes_shards_drops_it(reviewed):
    summarise(reviewed)
    before = card_of(reviewed)
    rewrite_descriptions(reviewed)
    dataset = FinishedDataset(reviewed)

    def rebuild(title):
        facts = type(dataset.facts)(title, "d3s", "Noise.", "@misc{noise}")
        return finish(reviewed, dataset.shards, dataset.columns, {"seed": 0}, facts, image_format="png")

    assert card_of(reviewed) == before
    assert rebuild("Anew")["card"]["facts"]["labels"]["people"]["annotators"] == 3
    assert (reviewed / LABELS).exists()
    marker = reviewed / "_figureground/shards/train-00000-of-00002.json"
    record = json.loads(marker.read_text())
    marker.write_text(json.dumps({**record, "rejects": {"flat": 1}}))
    assert "labels" not in rebuild("Changed")["card"]["facts"]
    assert not (reviewed / LABELS).exists()


def test_curate_keeps_the_answers_about_kept_samples_and_counts_anew(reviewed, tmp_path):
    summarise(reviewed)
    out = curate(reviewed, tmp_path / "sure", "scores.verify.pocket_foreground_p > 0.5", show_progress=False)
    summary = json.loads((out / LABELS).read_text())
    assert summary["dataset"] == FinishedDataset(out).identity()
    assert of(summary, "foreground")["images"] == 131
    before, after = of(summarise(reviewed), "foreground"), of(summary, "foreground")
    assert after["wrong"] < before["wrong"]
    assert after["people"]["value"] > before["people"]["value"]
    kept = set(keys_of(out))
    lines = [json.loads(line) for line in (out / ANNOTATIONS / "Ada.jsonl").read_text().splitlines()]
    assert [line["n"] for line in lines[1:]] == list(range(1, len(lines)))
    assert {line["key"] for line in lines[1:]} <= kept
    gold = (out / GOLD).read_text().splitlines()
    assert len(gold) == 9  # two of ten are wrong, and dropped
    assert faults(out) == []
    assert curate(reviewed, out, "scores.verify.pocket_foreground_p > 0.5", show_progress=False) == out
    assert json.loads((out / LABELS).read_text()) == summary


def test_a_curated_set_without_answers_has_none(dataset, tmp_path):
    out = curate(dataset, tmp_path / "birds2", "foreground == 'bird'", show_progress=False)
    assert not (out / ANNOTATIONS).exists()
    assert not (out / LABELS).exists()


def test_what_is_published_names_nobody(reviewed, tmp_path):
    summarise(reviewed)
    items = {item.path: item for item in select_files(reviewed, None, tmp_path)}
    assert LABELS in items
    assert not any(path.startswith(ANNOTATIONS) for path in items)
    for path, item in items.items():
        if path.endswith((".json", ".md")):
            assert not any(f'"{person}"' in item.file.read_text() for person in PEOPLE)


def test_a_published_part_keeps_the_card(reviewed, tmp_path):
    summarise(reviewed)
    items = {item.path: item for item in select_files(reviewed, ["parquet"], tmp_path)}
    assert LOOKED in items["README.md"].file.read_text()


def test_a_set_of_an_older_format_is_summarised_and_has_no_findings(tmp_path):
    with tarfile.open(Path(__file__).parents[1] / "files" / "format1.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    older = tmp_path / "seed0"
    keys = keys_of(older)
    lines = [make_header(FinishedDataset(older).identity(), "Ada")]
    lines += [
        {"n": n, "key": key, "question": "background", "answer": "yes", "time": "2026-01-05"}
        for n, key in enumerate(keys, 1)
    ]  # fmt: skip
    write_answers(older, "Ada", lines)
    share = of(summarise(older), "background")
    assert share["people"]["interval"] == "exact"
    assert share["people"]["low"] == pytest.approx(0.025 ** (1 / len(keys)), abs=1e-6)
    assert check(older, show_progress=False).findings == []


def test_the_command_prints_the_summary(reviewed):
    code, out, err = run("review", str(reviewed), "--summary")
    assert (code, err) == (0, "")
    assert "3 annotators, 90 images" in out
    assert "corrected for annotators' errors" in out
    assert "unanimous of 5, expected" in out
    assert str(reviewed / LABELS) in out


def test_a_split_that_nobody_looked_at_is_not_reported(dataset):
    review(dataset)
    keys = {key for key in keys_of(dataset) if key.startswith("validation")}
    for person in PEOPLE:
        path = dataset / ANNOTATIONS / f"{person}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [line for line in lines[1:] if line["key"] not in keys]
        write_answers(dataset, person, [lines[0], *({**line, "n": n} for n, line in enumerate(kept, 1))])
    summary = summarise(dataset)
    assert summary["people"]["splits"] == ["train"]
    assert of(summary, "foreground")["images"] == 120


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("nobody,foreground,yes", "nobody"),
        ("{key},forground,yes", "did you mean 'foreground'"),
        ("{key},foreground,maybe", "'maybe'"),
        ("{key},foreground,yes\n{key},foreground,no", "two different answers"),
    ],
)
def test_gold_items_that_cannot_be_used_are_named(dataset, line, named):
    review(dataset, gold=0)
    (dataset / GOLD).write_text(f"key,question,answer\n{line.format(key=keys_of(dataset)[0])}\n")
    with pytest.raises(FiguregroundError, match=r"gold\.csv") as error:
        summarise(dataset)
    assert named in str(error.value)


def test_no_answer_about_a_gold_item_counts_in_a_share(dataset):
    """Failed images listed as gold for one question would make the other's share look worse, and its own better."""
    review(dataset)
    share = of(summarise(dataset), "background")
    assert share["labels"] == 79  # the ten gold items, which are known for the foreground alone, are left out here, too
    with (dataset / GOLD).open("a") as file:
        file.write(f"{keys_of(dataset)[12]},foreground,unsure\n")
    assert of(summarise(dataset), "background")["labels"] == 78


def test_gold_items_of_the_random_sample_count_as_part_of_it(dataset):
    review(dataset)
    source, keys = FinishedDataset(dataset), keys_of(dataset)
    save(source, ReviewSample(Wanted(images=90), tuple(keys[:60] + keys[-30:])))
    summary = summarise(dataset)
    assert of(summary, "foreground")["labels"] == of(summary, "background")["labels"] == 89
    assert summary["people"]["gold"] == 0


def test_an_answer_about_an_unknown_image_is_named(dataset):
    lines = [make_header(FinishedDataset(dataset).identity(), "Ada")]
    lines.append({"n": 1, "key": "train-9999", "question": "foreground", "answer": "yes", "time": "2026-01-05"})
    write_answers(dataset, "Ada", lines)
    with pytest.raises(FiguregroundError, match="Ada answered about train-9999"):
        summarise(dataset)


@pytest.mark.parametrize(
    ("table", "named"),
    [({"name": ["a"]}, "no column 'key'"), ({"key": ["a"], "pocket_foreground_p": ["high"]}, "pocket_foreground_p")],
)
def test_scores_that_cannot_be_used_are_named(dataset, table, named):
    path = dataset / VERIFIED
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path)
    with pytest.raises(FiguregroundError, match=r"verify\.parquet") as error:
        summarise(dataset)
    assert named in str(error.value)


def test_the_summary_says_what_cannot_be_computed(dataset):
    review(dataset, people=("Ada",), gold=0)
    text = describe(summarise(dataset))
    assert "not corrected for annotators' errors: 0 images with two answers" in text
    assert "agreement" not in text
