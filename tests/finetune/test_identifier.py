"""The identifier is a word that means nothing yet, the noun one that means something."""

import pytest

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.finetune.identifier import check_captions, check_words
from figureground.pocket import captions


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return captions.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def check(tokenizer, identifier="sks", noun="flower", label="hummingbird", **prompts):
    named = {"the noun": noun, "the class": label, "the prior's prompt": "a photo of a {noun}"}
    check_words([tokenizer], identifier, named, prompts)


def test_a_rare_word_is_taken(tokenizer):
    for identifier in ("sks", "zwx", "ohwx7"):
        check(tokenizer, identifier)


@pytest.mark.parametrize(
    ("identifier", "why"),
    [
        ("flower", "collides with the noun"),
        ("Hummingbird", "collides with the class"),
        ("photo", "collides with the prior's prompt"),
        ("redflower", "collides with the noun"),
        ("snow", "is a word that the checkpoint knows"),
        ("a", "collides with the prior's prompt"),
        ("q", "is a word that the checkpoint knows"),
        ("two words", "not one word of letters and digits"),
        ("<new>", "not one word of letters and digits"),
    ],
)
def test_an_identifier_that_means_something_already_is_refused(tokenizer, identifier, why):
    with pytest.raises(RecipeError, match=f"identifier: .*{why}"):
        check(tokenizer, identifier)


@pytest.mark.parametrize("noun", ["", "  ", "a  b"])
def test_a_noun_that_is_no_word_is_refused(tokenizer, noun):
    with pytest.raises(RecipeError, match=r"^noun: "):
        check(tokenizer, noun=noun)


class Deaf:
    """A tokenizer that knows Latin letters only, as some do."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def tokenize(self, text):
        return self._tokenizer.tokenize("".join(c for c in text if c.isascii()))


def test_a_noun_that_tokenises_to_nothing_is_refused(tokenizer):
    with pytest.raises(RecipeError, match="noun: '花' has no tokens"):
        check(Deaf(tokenizer), noun="花")


def test_a_prompt_that_would_be_cut_off_is_refused_saying_where_it_stands(tokenizer):
    with pytest.raises(FiguregroundError, match=r"prompt has 90 tokens, .* reads 77"):
        check(tokenizer, prompt="a " * 88)


def test_a_caption_has_a_place_for_the_identifier(tokenizer):
    check_captions([("a.png", None), ("b.png", "a {V} {noun}"), ("c.png", "one SKS, at night")], "sks")
    with pytest.raises(FiguregroundError, match=r"caption of d\.png has neither \{V\} nor 'sks'"):
        check_captions([("d.png", "sksy")], "sks")
