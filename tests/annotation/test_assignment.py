import json

import pytest

from figureground.annotation.answers import ANNOTATIONS, read_answers
from figureground.annotation.assignment import BadRequest, Turns
from figureground.annotation.sampling import Wanted, draw, reference_keys
from figureground.core.errors import FiguregroundError
from figureground.shards.finished import FinishedDataset


def begin(directory, gold: str = "", **options) -> Turns:
    if gold:
        (directory / ANNOTATIONS).mkdir(exist_ok=True)
        (directory / ANNOTATIONS / "gold.csv").write_text(f"key,question,answer\n{gold}")
    dataset = FinishedDataset(directory)
    return Turns(dataset, draw(dataset, Wanted(**options), reference_keys(dataset)))


def answers(item: dict, answer: str = "yes") -> list[dict]:
    return [
        {"id": item["id"], "question": each["question"], "answer": answer, "seconds": 1.0}
        for each in item["asked"] if each["answer"] is None
    ]  # fmt: skip


def finish(turns: Turns, name: str, browser: str = "one", most: int = 1000) -> list[str]:
    """Answer all that is asked; return the keys in the order in which they were shown."""
    keys, shown = [], turns.next(name, browser)
    while shown["items"] and len(keys) < most:
        keys.append(turns.keys[shown["items"][0]["id"]])
        shown = turns.answer(name, browser, answers(shown["items"][0]))
    return keys


def test_one_annotator_answers_each_image_of_the_sample_once(directory):
    turns = begin(directory, images=9)
    assert finish(turns, "ana") == list(turns.sample.keys)
    assert len(read_answers(directory)) == 18  # two questions each
    assert turns.next("ana", "one")["progress"] == {
        "mine": 9, "images": 9, "done": 9, "replaced": 0, "left": 0, "elsewhere": 0,
    }  # fmt: skip


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_shared_images_are_asked_of_all_and_others_of_one(directory, overlap):
    turns = begin(directory, overlap=overlap)
    shared = {key for key in turns.items if turns.sample.is_shared(key)}
    first, second, third = (set(finish(turns, name)) for name in ("ana", "bo", "cy"))
    assert first == set(turns.items)
    assert second == third == shared
    if overlap in (0, 1):
        assert len(shared) == overlap * len(turns.items)
    else:
        assert 0 < len(shared) < len(turns.items)


def test_two_people_at_once_are_shown_different_images_unless_all_are_asked(directory):
    turns = begin(directory, overlap=0)
    ana, bo = turns.next("ana", "one"), turns.next("bo", "two")
    assert ana["items"][0]["id"] != bo["items"][0]["id"]
    turns = begin(directory, overlap=1)
    assert turns.next("ana", "one")["items"][0]["id"] == turns.next("bo", "two")["items"][0]["id"]


def test_images_that_another_person_looks_at_are_left_to_them(directory):
    turns = begin(directory, images=2, overlap=0)
    turns.next("bo", "two")
    finish(turns, "ana")
    shown = turns.next("ana", "one")
    assert shown["items"] == []
    assert shown["progress"]["elsewhere"] == 1


def test_two_browsers_of_one_annotator_share_the_work(directory):
    turns = begin(directory, images=4, overlap=1)
    first, second = turns.next("ana", "one"), turns.next("ana", "two")
    assert first["items"][0]["id"] != second["items"][0]["id"]
    turns.answer("ana", "one", answers(first["items"][0]))
    late = turns.answer("ana", "two", answers(first["items"][0] | {"asked": first["items"][0]["asked"][:1]}, "no"))
    assert late["replaced"] == 1  # the later answer counts, and the page says so
    key = turns.keys[first["items"][0]["id"]]
    assert [each.answer for each in read_answers(directory) if (each.key, each.question) == (key, "foreground")] == [
        "no"
    ]
    assert len(finish(turns, "ana", "two")) == 3


def test_an_image_shown_in_a_closed_browser_comes_at_the_end(directory):
    turns = begin(directory, images=3, overlap=1)
    lost = turns.keys[turns.next("ana", "closed")["items"][0]["id"]]
    assert finish(turns, "ana", "new")[-1] == lost


def test_undo_shows_the_same_image_again(directory):
    turns = begin(directory, images=5)
    shown = turns.next("ana", "one")
    turns.answer("ana", "one", answers(shown["items"][0], "no"))
    again = turns.undo("ana", "one")
    assert again["undone"] == 1
    assert again["items"][0]["id"] == shown["items"][0]["id"]
    assert [each["answer"] for each in again["items"][0]["asked"]] == ["no", None]
    turns.undo("ana", "one")
    assert turns.undo("ana", "one")["undone"] == 0
    assert read_answers(directory) == []


def test_a_grid_has_one_question_and_is_undone_together(directory):
    turns = begin(directory)
    shown = turns.next("ana", "one", grid=True)
    texts = {each["text"] for item in shown["items"] for each in item["asked"]}
    assert len(shown["items"]) > 3
    assert len(texts) == 1
    made = [one for item in shown["items"] for one in answers(item)]
    after = turns.answer("ana", "one", [*made, {**made[0], "question": "artefacts"}], grid=True)
    assert after["saved"] == len(made) + 1
    assert {each["text"] for item in after["items"] for each in item["asked"]} != texts
    again = turns.undo("ana", "one", grid=True)
    assert [item["id"] for item in again["items"]] == [item["id"] for item in shown["items"]]
    assert read_answers(directory) == []


def test_flags_are_set_and_unset_and_ask_for_nothing(directory):
    turns = begin(directory, images=1)
    item = turns.next("ana", "one")["items"][0]
    flag = {"id": item["id"], "question": "unsafe", "answer": "yes", "seconds": None}
    assert turns.answer("ana", "one", [flag])["items"][0]["flags"] == {"unsafe": True, "artefacts": False}
    assert turns.answer("ana", "one", [{**flag, "answer": "no"}])["items"][0]["flags"]["unsafe"] is False
    assert [(each.question, each.answer) for each in read_answers(directory)] == [("unsafe", "no")]


def test_a_review_goes_on_in_another_process(directory):
    turns = begin(directory, images=8)
    done = finish(turns, "ana", most=3)
    again = begin(directory, images=8)
    assert done + finish(again, "ana") == list(turns.sample.keys)


def test_gold_items_are_asked_of_everybody_like_any_other(directory):
    rows = [row for shard in FinishedDataset(directory).shards for row in FinishedDataset(directory).rows(shard)]
    plain = begin(directory, images=4, overlap=0)
    gold = [row["key"] for row in rows if row["key"] not in plain.items][:3]
    turns = begin(directory, "".join(f"{key},foreground,no\n" for key in gold), images=4, overlap=0)
    first, second = finish(turns, "ana"), finish(turns, "bo")
    assert set(first) == {*plain.items, *gold}
    assert set(second) == set(gold)
    assert first[-3:] != gold  # mixed in
    shown = begin(directory, images=4).next("cy", "one")["items"][0]
    assert [each["question"] for each in shown["asked"]] == ["foreground", "background"]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("nothing,foreground,yes", "nothing"), ("KEY,colour,yes", "line 2: question"),
        ("KEY,foreground,maybe", "line 2: answer"),
        ("KEY,photograph,yes", "photograph"), ("KEY,foreground,yes\nKEY,foreground,no", "line 3"),
    ],
)  # fmt: skip
def test_gold_items_that_cannot_be_are_named(directory, row, named):
    dataset = FinishedDataset(directory)
    key = next(dataset.rows(dataset.shards[0]))["key"]
    with pytest.raises(FiguregroundError, match=named) as error:
        begin(directory, row.replace("KEY", key))
    assert "gold.csv" in str(error.value)


def test_a_spurious_set_asks_for_class_feature_and_photograph_alike_for_references(spurious):
    turns = begin(spurious)
    shown = turns.next("ana", "one")
    assert {each["question"] for each in shown["items"][0]["asked"]} == {"class", "feature", "photograph"}
    text = json.dumps(shown)
    assert "reference" not in text
    assert not any(key in text for key in turns.items)
    texts = {}
    for item in turns.items.values():
        texts.setdefault(item.split, set()).add(tuple(q.text for q in turns.questions.about(item)))
    assert all(len(each) == 1 for each in texts.values())  # references are asked the same
    assert not shown["guides"]
    assert len(finish(turns, "ana")) == 24


def test_without_references_nobody_is_asked_for_photographs(spurious):
    (spurious / "_figureground" / "stages").rename(spurious / "_figureground" / "gone")
    shown = begin(spurious).next("ana", "one")
    assert [each["question"] for each in shown["items"][0]["asked"]] == ["class", "feature"]


def test_a_repainted_image_is_asked_for_its_background_only_if_that_is_known(repainted):
    turns = begin(repainted)
    for item in turns.items.values():
        known = item.labels["background"] != "unknown"
        assert [q.name for q in turns.questions.about(item)] == ["label", "background"][: 1 + known]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "0" * 24},
        {"id": 7},
        {"question": "class"},
        {"answer": "maybe"},
        {"question": "unsafe", "answer": "unsure"},
    ],
)
def test_requests_that_no_page_makes_are_refused(directory, change):
    turns = begin(directory, images=2)
    made = answers(turns.next("ana", "one")["items"][0])
    with pytest.raises(BadRequest):
        turns.answer("ana", "one", [made[0], {**made[1], **change}])
    assert read_answers(directory) == []  # all or nothing


@pytest.mark.parametrize("seconds", [-1, 1e9, float("nan"), float("inf"), "5", True, None])
def test_times_that_cannot_be_are_left_out(directory, seconds):
    turns = begin(directory, images=2)
    made = answers(turns.next("ana", "one")["items"][0])
    turns.answer("ana", "one", [{**made[0], "seconds": seconds}])
    assert [each.seconds for each in read_answers(directory)] == [None]
