"""Captions cover what later methods ask for, and the tokenizer knows their words and survives others."""

import numpy as np
import pytest

from figureground.pocket import captions, world
from figureground.recipe.classes import read_nouns


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return captions.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [captions.sample(rng) for _ in range(4000)]


def test_every_word_of_every_caption_is_one_token(tokenizer, images):
    for word in {w for p in images for w in p.caption.replace(",", " ").split()}:
        assert len(tokenizer(word).input_ids) == 3, word


def test_unknown_words_are_spelled_and_read_back(tokenizer):
    text = "a zebra-striped Ünicorn 日本"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).replace(
        " ", ""
    ) == text.lower().replace(" ", "")
    assert len(tokenizer("x " * 200, truncation=True).input_ids) == 77


def test_there_is_room_for_new_tokens(tokenizer):
    before = len(tokenizer)
    assert tokenizer.add_tokens(["<sks>"]) == 1
    assert tokenizer("a <sks> bird").input_ids[2] == before


def test_captions_cover_every_factor_alone_and_together_and_never_a_look(images):
    kinds = {(bool(p.foreground), bool(p.background), bool(p.prop)) for p in images}
    assert kinds == {(f, b, p) for f in (True, False) for b in (True, False) for p in (True, False)} - {
        (False, False, False)
    }
    text = " ".join(p.caption for p in images)
    for word in (*world.FOREGROUNDS, *world.PROPS, *world.KINDS, *captions.PHRASES.values()):
        assert word in text
    assert ":" not in text
    assert not any(color in text.split() for color in ("red", "blue", "striped"))


def test_a_caption_names_what_is_drawn(images):
    kind_of = {name: kind for kind, names in world.KINDS.items() for name in names}
    for p in images:
        if p.foreground:
            assert p.foreground in p.caption or kind_of[p.foreground] in p.caption
        assert (captions.PHRASES[p.background] in p.caption) if p.background else True
        assert p.prop is None or p.prop in p.caption


def test_prompt_files_say_what_the_captions_say():
    phrases = {b.name: b.text for b in read_nouns("backgrounds", "d3s", "backgrounds", "d3s")}
    assert phrases == captions.PHRASES
    classes = {c.name: c.definition for c in read_nouns("classes", "pocket", "classes", "pocket")}
    assert classes == captions.DEFINITIONS
    assert tuple(classes) == world.FOREGROUNDS
    assert tuple(phrases) == world.BACKGROUNDS


def test_a_mixture_draws_its_kinds_and_names_as_often_as_it_says():
    mixture = captions.Mixture(((True, True, True, 0.75), (False, True, False, 0.25)), {"cat": 9.0, "gift": 5.0})
    drawn = [captions.sample(np.random.default_rng(i), mixture) for i in range(2000)]
    objects = [each for each in drawn if each.foreground]
    assert abs(len(objects) / len(drawn) - 0.75) < 0.04
    assert all(each.prop for each in objects)
    assert not any(each.prop for each in drawn if not each.foreground)
    assert abs(sum(each.foreground == "cat" for each in objects) / len(objects) - 0.5) < 0.05
    assert abs(sum(each.prop == "gift" for each in objects) / len(objects) - 0.5) < 0.05
