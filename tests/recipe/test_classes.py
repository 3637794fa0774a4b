"""Class lists: the shipped ones, a user's own, and what is wrong with them."""

import pytest

from figureground.core.errors import RecipeError
from figureground.recipe.classes import add_definitions, read_nouns


def read(value, kind="classes", default="pocket"):
    return read_nouns(kind, value, kind, default)


def test_imagenet_has_1000_unique_names_and_both_cranes_say_which():
    names = [noun.name for noun in read("imagenet")]
    assert len(names) == len(set(names)) == 1000
    assert [n for n in names if n.startswith("crane")] == ["crane (n02012849)", "crane (n03126707)"]
    assert [n for n in names if n.lower().startswith("cardigan")] == ["Cardigan (n02113186)", "cardigan (n02963159)"]
    assert [n for n in names if n.startswith("maillot")] == ["maillot (n03710637)", "maillot (n03710721)"]


def test_a_prompt_says_a_crane_without_its_number():
    crane = next(noun for noun in read("imagenet") if noun.name == "crane (n02012849)")
    assert crane.text == "crane"
    assert crane.aliases == ("n02012849",)


def test_the_ten_backgrounds_are_in_the_order_of_d3s():
    assert [(b.name, b.text) for b in read("d3s", "backgrounds", "d3s")] == [
        ("grass", "on grass"),
        ("road", "on a road"),
        ("forest", "in a forest"),
        ("water", "in water"),
        ("sand", "in sand"),
        ("indoors", "indoors"),
        ("snow", "in snow"),
        ("rain", "in rain"),
        ("night", "at night"),
        ("cave", "in a cave"),
    ]


def test_a_list_selects_and_keeps_its_order():
    assert [(n.name, n.definition) for n in read(["car", "bird"])] == [
        ("car", "a vehicle with wheels"),
        ("bird", "an animal with wings"),
    ]


def test_a_mapping_gives_names_of_ones_own():
    assert [(n.name, n.definition) for n in read({"teapot": "for tea", "cup": None})] == [
        ("teapot", "for tea"),
        ("cup", ""),
    ]
    assert [(n.name, n.text) for n in read({"beach": "on the beach", "indoors": ""}, "backgrounds")] == [
        ("beach", "on the beach"),
        ("indoors", "indoors"),
    ]


def test_definitions_come_from_a_csv_by_name_or_wordnet_id(tmp_path):
    path = tmp_path / "definitions.csv"
    path.write_text('name,definition\ntench,"a fish, freshwater"\nn02012849,a wading bird\n')
    by_name = {noun.name: noun.definition for noun in add_definitions(read("imagenet"), path)}
    assert by_name["tench"] == "a fish, freshwater"
    assert by_name["crane (n02012849)"] == "a wading bird"
    assert by_name["crane (n03126707)"] == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("imagnet", "did you mean 'imagenet'"),
        ("missing.csv", "there is no file 'missing.csv'"),
        (["brid"], "'brid' is not in the list 'pocket', did you mean 'bird'"),
        (["bird", "bird"], "named twice: bird"),
        (["bird", "Bird"], "'bird' and 'Bird'"),
        ([], "the list is empty"),
        (7, "classes: 7 "),
    ],
)
def test_a_bad_value_is_refused(value, message):
    with pytest.raises(RecipeError, match=message):
        read(value)


def test_a_csv_without_names_is_refused_with_its_line(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("name,definition\nbird,x\n,y\n")
    with pytest.raises(RecipeError, match=r"mine\.csv, line 3: the name is empty"):
        read(str(path))
    path.write_text("class\nbird\n")
    with pytest.raises(RecipeError, match=r"has no column 'name'.*Its first line reads: class"):
        read(str(path))
