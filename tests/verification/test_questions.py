"""The words for labels come from the recipe, or from the shipped lists."""

import json

from tiny_datasets import make_dataset

from figureground.shards.columns import Columns
from figureground.shards.finished import FinishedDataset
from figureground.verification.questions import read_questions, with_article


def write_content(directory, content):
    path = directory / "_figureground/recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "content": content}))


def test_words_come_from_the_recipe(tmp_path):
    out = make_dataset(tmp_path / "in")
    write_content(out, {"classes": [["bird", "small bird", "it flies"]], "backgrounds": [["grass", "over a lawn"]]})
    foreground, background = read_questions(FinishedDataset(out))
    assert "a photo of a small bird, it flies" in foreground.texts("")[0]
    assert "a photo of a cat" in foreground.texts("")[1]
    assert "a photo over a lawn" in background.texts("")[0]
    assert background.texts("question-")[2] == ["Was this taken in snow? Answer yes or no."]


def test_words_come_from_the_recipes_that_a_copy_was_made_from(tmp_path):
    out = make_dataset(tmp_path / "in")
    path = out / "_figureground/recipe.json"
    source = {"content": {"backgrounds": [["night", "after dark"]]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "sources": [source]}))
    assert "a photo after dark" in read_questions(FinishedDataset(out))[1].texts("")[1]


def test_a_background_without_a_phrase_is_not_asked_about(tmp_path):
    columns = Columns(("tench, Tinca tinca", "umbrella"), ("plain", "unknown", "snow"))
    foreground, background = read_questions(FinishedDataset(make_dataset(tmp_path / "in", columns=columns)))
    assert background.entries[:2] == (None, None)
    assert background.texts("")[:2] == [[], []]
    assert "a photo of a tench" in foreground.texts("")[0]
    assert foreground.texts("question-")[1] == ["Is there an umbrella in this image? Answer yes or no."]


def test_a_becomes_an_before_a_vowel_alone():
    assert with_article("A owl on a iron bar, a cat, data of a") == "An owl on an iron bar, a cat, data of a"
