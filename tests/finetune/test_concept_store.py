"""A directory that several builds share: each concept in a folder, none in the place of another."""

import json
import threading

import pytest

from figureground.finetune.concept_store import ConceptStore
from figureground.recipe.document import FORMAT

MADE_OF = {"noun": "flower", "steps": 3, "size": 64, "references": [{"file": "a.png", "sha256": "1", "caption": None}]}


@pytest.fixture
def shelf(tmp_path):
    return ConceptStore(tmp_path)


def put(folder, made_of, finished=True):
    folder.mkdir(parents=True)
    (folder / "finetuning.json").write_text(json.dumps({"format": FORMAT, **made_of, "distance": "cosine"}))
    if finished:
        (folder / "concept.json").write_text(json.dumps({"size": 64}))


def test_a_new_concept_lies_under_its_name(shelf, tmp_path):
    assert shelf.choose_folder("bee", MADE_OF) == tmp_path / "bee"
    (tmp_path / "bee").mkdir()
    assert shelf.choose_folder("bee", MADE_OF) == tmp_path / "bee"
    assert shelf.find("bee", MADE_OF) is None


def test_one_that_is_made_of_the_same_is_found_again_finished_or_not(shelf, tmp_path):
    put(tmp_path / "bee", MADE_OF, finished=False)
    assert shelf.choose_folder("bee", MADE_OF) == tmp_path / "bee"
    assert shelf.find("bee", MADE_OF) is None
    (tmp_path / "bee" / "concept.json").write_text("{}")
    assert shelf.find("bee", MADE_OF) == tmp_path / "bee"


def test_one_that_was_learned_with_the_noise_of_an_older_format_stays_and_is_not_used(shelf, tmp_path):
    put(tmp_path / "bee", {"format": FORMAT - 1, **MADE_OF})
    assert shelf.find("bee", MADE_OF) is None
    assert shelf.choose_folder("bee", MADE_OF) != tmp_path / "bee"


def test_one_that_is_made_of_other_things_stays_and_the_new_one_stands_beside(shelf, tmp_path):
    put(tmp_path / "bee", MADE_OF)
    longer = {**MADE_OF, "steps": 4}
    beside = shelf.choose_folder("bee", longer)
    assert beside.parent == tmp_path
    assert beside.name.startswith("bee-")
    assert shelf.find("bee", longer) is None
    put(beside, longer)
    assert shelf.find("bee", longer) == beside
    assert shelf.find("bee", MADE_OF) == tmp_path / "bee"


def test_a_folder_of_something_else_is_left_alone(shelf, tmp_path):
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "honey.txt").touch()
    assert shelf.choose_folder("bee", MADE_OF).name.startswith("bee-")


def test_two_builds_make_a_concept_one_after_the_other(shelf, tmp_path):
    order = []

    def second():
        with shelf.lock_name("bee"):
            order.append("second")

    with shelf.lock_name("bee"):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.3)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []
