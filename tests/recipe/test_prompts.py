"""Prompts say class, definition and background, and never lose the background."""

import pytest

from figureground.core.errors import RecipeError
from figureground.recipe.classes import ClassEntry
from figureground.recipe.prompts import fill, fill_noun, find_unfilled, read_templates, refuse_long, shorten

TENCH = ClassEntry("tench", "tench", "a freshwater fish of the carp family")
GRASS = ClassEntry("grass", "on grass")


def test_the_shipped_template_is_that_of_d3s():
    (template,) = read_templates("d3s")
    assert fill(template, TENCH, GRASS) == "a photo of a tench, a freshwater fish of the carp family, on grass"
    assert fill(template, ClassEntry("tench", "tench"), GRASS) == "a photo of a tench, on grass"
    assert fill(template, TENCH, None) == "a photo of a tench, a freshwater fish of the carp family"


def test_a_file_may_hold_several_templates_and_comments(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# mine\na {class} {background}\n\na painting of a {class}\n")
    assert [t.text for t in read_templates(str(path))] == ["a {class} {background}", "a painting of a {class}"]


def test_a_placeholder_that_nothing_fills_is_an_error_with_file_and_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a {class}\na {backgruond}\n")
    with pytest.raises(
        RecipeError, match=r"mine\.txt, line 2: nothing fills the placeholder \{backgruond\}, did you mean 'background'"
    ):
        read_templates(str(path))


def test_a_brace_without_a_partner_is_an_error():
    with pytest.raises(RecipeError, match="a brace has no partner"):
        read_templates("a photo of a {class")


def test_a_missing_file_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'd3s'"):
        read_templates("d3")


def test_the_definition_is_shortened_and_the_background_kept():
    (template,) = read_templates("d3s")

    def reading(limit):
        return lambda prompt: [(1, 2), (len(prompt.replace(",", " ,").split()), limit)]

    definition = shorten(template, TENCH, GRASS, reading(13))
    assert definition == "a freshwater fish of"
    assert fill(template, ClassEntry("tench", "tench", definition), GRASS).endswith(", on grass")
    assert shorten(template, TENCH, GRASS, reading(100)) == TENCH.definition


def test_a_template_too_long_even_without_definition_is_refused():
    (template,) = read_templates("d3s")
    with pytest.raises(RecipeError, match="'tench' the prompt has 7 tokens even without a definition"):
        shorten(template, TENCH, GRASS, lambda prompt: [(len(prompt.split()), 6)])


@pytest.mark.parametrize(
    ("template", "noun", "filled"),
    [
        ("a photo of a {V} {noun}", "umbrella", "a photo of a sks umbrella"),
        ("a photo of a {noun}", "umbrella", "a photo of an umbrella"),
        ("A {noun},  at night", "flower", "A flower, at night"),
        ("a {noun} and a {noun}", "owl", "an owl and an owl"),
        ("schema {noun}", "owl", "schema owl"),
    ],
)
def test_prompts_are_filled_with_the_right_article(template, noun, filled):
    assert fill_noun(template, noun, "sks") == filled


def test_what_nothing_fills_is_found():
    assert find_unfilled("a {V} {noun}", ["{V}", "{noun}"]) is None
    assert find_unfilled("a {V} {nuon}", ["{V}", "{noun}"]) == "{nuon}"
    assert find_unfilled("a {V} noun}", ["{V}"]) == "}"


def test_a_prompt_that_any_text_encoder_would_cut_off_is_refused():
    refuse_long("prompt", "it", [(4, 77), (77, 77)])
    with pytest.raises(RecipeError, match=r"^backgrounds\.bay: the prompt has 78 tokens, .* reads 77\. Shorten it\.$"):
        refuse_long("backgrounds.bay", "the prompt", [(4, 77), (78, 77)])
