"""One rule for names: which are the same, and what they are called in paths."""

import pytest

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.names import (
    MAX_SLUG_LENGTH,
    Lookup,
    explain_unportable,
    find_same_files,
    find_same_names,
    folder_names,
    name_key,
    slug,
    unique_slugs,
)
from figureground.recipe.classes import add_definitions, read_nouns
from figureground.recipe.features import read_features
from figureground.recipe.table import read_pairing
from figureground.shards.shard import Shard
from figureground.sources.references import find_folders


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "Cat"), ("sea lion", "Sea_Lion"), (" owl ", "owl"), ("sea  lion", "sea\u00a0lion"),
        ("caf\u00e9", "cafe\u0301"), ("\uff23\uff41\uff54", "cat"), ("\ufb01sh", "fish"), ("Stra\u00dfe", "STRASSE"),
        ("\ufeffcat", "cat"), ("ea\u00adgle", "eagle"),
    ],
)  # fmt: skip
def test_names_are_the_same_but_for_case_blanks_and_coding(one, other):
    assert name_key(one) == name_key(other)
    assert find_same_names(["dog", one, other]) == [(one, other)]
    assert Lookup(["dog", other]).find("no such", one) == [other]


@pytest.mark.parametrize(("one", "other"), [("cat", "cats"), ("sea-lion", "sea lion"), ("cafe", "café"), ("鸟", "鸡")])
def test_other_names_are_others(one, other):
    assert not find_same_names([one, other])


@pytest.mark.parametrize("kind", ["classes", "backgrounds"])
def test_two_spellings_in_a_list_are_refused_and_both_named(kind, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("name\nsnow field\ncat\nSnow_Field\n")
    for value in (str(mine), {"cat": "", "snow field": "", "Snow_Field": ""}):
        with pytest.raises(RecipeError, match="'snow field' and 'Snow_Field'") as caught:
            read_nouns(kind, value, kind, "pocket")
        assert caught.value.field == kind


def test_labels_of_a_classifier_are_taken_as_they_are():
    assert len(read_nouns("labels", {"Cardigan": "", "cardigan": ""}, "classes", "imagenet")) == 2


def test_two_spellings_in_features_and_definitions_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="'bee' and 'Bee'"):
        read_features({"bee": "flower", "Bee": "leaf"}, None)
    (tmp_path / "mine.csv").write_text("name,definition\ncat,x\nCat,y\n")
    with pytest.raises(RecipeError, match=r"line 3: 'Cat' is defined twice"):
        add_definitions(read_nouns("classes", {"cat": ""}, "classes", ""), tmp_path / "mine.csv")


def test_two_folders_of_a_class_are_refused_even_if_one_is_spelled_exactly(tmp_path):
    for name in ("bee", "Bee"):
        (tmp_path / name).mkdir()
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this disk has one folder for both")
    with pytest.raises(FiguregroundError, match=r"'bee' has more than one folder: .*Bee and .*bee"):
        find_folders(tmp_path, read_features({"bee": "flower"}, None))


def test_names_are_found_in_any_spelling():
    assert [noun.name for noun in read_nouns("classes", ["BIRD", "Car "], "classes", "pocket")] == ["bird", "car"]
    assert read_pairing({"Sea_Lion": "Beach"}, ["sea lion"], ["snow", "beach"]).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("鸟", "u9e1f"), ("Łódź", "lodz"), ("птица", "u43f_u442_u438_u446_u430"), ("새 bird", "uc0c8_bird"),
        ("C++", "c"),        ("+", "u2b"), ("L'Été", "lete"), ("  ", ""),
    ],
)  # fmt: skip
def test_a_slug_is_ascii_and_says_what_it_can(name, expected):
    assert slug(name) == expected


def test_a_long_slug_is_cut_and_stays_one_of_its_own():
    one, other = slug("鸟" * 80), slug("鸟" * 81)
    assert one != other
    assert len(one) <= MAX_SLUG_LENGTH
    assert one.startswith("u9e1f_u9e1f")


def test_slugs_differ_and_depend_on_no_order():
    names = ["C", "C++", "c#", "鸟", "bird"]
    made = unique_slugs(names)
    assert len(set(made.values())) == 5
    assert (made["鸟"], made["bird"]) == ("u9e1f", "bird")
    assert made["C"].startswith("c_")
    assert unique_slugs(names[::-1]) == made


def test_features_in_any_script_have_slugs_that_can_be_splits_and_keep_their_names():
    found = read_features({"鸟": "花", "sea lion": "rock", "sea-lion": "beach", "C++": "book"}, None)
    assert [feature.name for feature in found] == ["鸟", "sea lion", "sea-lion", "C++"]
    assert len({feature.slug for feature in found}) == 4
    assert found[0].slug == "u9e1f"
    assert found[1].slug.startswith("sea_lion_")
    assert all(Shard(feature.slug, 0, 1, 5).name.isascii() for feature in found)
    assert read_features({"鸟": "花", "sea lion": "rock"}, None)[1].slug == "sea_lion"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "a:b", 'a"b', "a?", "a\nb", "a.", "a ", " a", "CON", "nul.txt", "Com1",
     "LPT\u00b9.x", "\u00e9" * 128, "\ud800"],
)  # fmt: skip
def test_names_that_some_system_refuses(name):
    assert explain_unportable(name)


@pytest.mark.parametrize(
    "name", ["cat", "potter's wheel", "crane, bird", "\u9e1f", "console", "com10", ".hidden", "a.b"]
)
def test_names_that_every_system_takes(name):
    assert explain_unportable(name) is None


def test_files_are_the_same_but_for_case_and_normalisation():
    assert find_same_files(["Cat", "cat", "sea_lion", "sea lion"]) == [("Cat", "cat")]
    assert find_same_files(["caf\u00e9", "CAFE\u0301"]) == [("caf\u00e9", "CAFE\u0301")]


def test_folders_of_names_are_portable_and_unique():
    made = folder_names(["CON", "con.", "Cat", "C.A.T", "\u9e1f", "a/b"])
    assert len(set(made.values())) == 6
    assert not any(map(explain_unportable, made.values()))
    assert not find_same_files(made.values())
    assert made["a/b"] == "a_b"
