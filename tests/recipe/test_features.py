"""Lists of spurious features: read, selected, matched with the classes of a classifier."""

import csv

import pytest

from figureground.core.errors import RecipeError
from figureground.core.resources import find_resource
from figureground.pocket.biased import LOOK_BY_CLASS
from figureground.recipe.classes import read_nouns
from figureground.recipe.features import Feature, find_labels, read_features, slug


def test_the_shipped_list_has_the_hundred_features_of_spurious_imagenet_with_a_noun_each():
    features = find_labels(read_features("spurious-imagenet", None), read_nouns("labels", "imagenet", "classes", ""))
    assert len(features) == len({feature.slug for feature in features}) == 100
    assert all(feature.noun and feature.text and feature.components for feature in features)
    hummingbird = next(feature for feature in features if feature.name == "hummingbird")
    assert (hummingbird.label, hummingbird.noun, hummingbird.text, hummingbird.components) == (
        94, "flower", "red feeder/flower", (1, 16),
    )  # fmt: skip


def test_the_pocket_list_has_the_nouns_of_its_biased_world_and_a_look_in_words_for_each():
    with (find_resource("prompts/features") / "pocket.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"]: row["noun"] for row in rows} == {
        k: look.partition(":")[0] for k, look in LOOK_BY_CLASS.items()
    }
    assert len({row["feature"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("great white shark", "great_white_shark"), ("potter's wheel", "potters_wheel"), ("Straße 7", "strasse_7")],
)
def test_a_class_becomes_the_name_of_a_split(name, expected):
    assert slug(name) == expected


def test_a_mapping_gives_features_of_ones_own():
    found = read_features({"bee": "flower", "car": {"noun": "road", "feature": "asphalt", "component": [3, 1]}}, None)
    assert found == [Feature("bee", "flower", "flower"), Feature("car", "road", "asphalt", (3, 1))]


def test_classes_are_selected_loosely_and_in_the_order_given():
    names = [feature.name for feature in read_features("spurious-imagenet", ["Three-Toed Sloth", "band aid", "bee"])]
    assert names == ["three-toed sloth", "Band Aid", "bee"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["class,feature", "bee,flowers"], "no column 'noun'. Its first line reads: class, feature"),
        (["class,noun", "bee,flower", "car,"], r"mine\.csv, line 3: 'car' has no noun"),
        (["class,noun", ",flower"], r"mine\.csv, line 2: the class is empty"),
        (["class,noun,feature,component", "bee,flower,,one"], r"mine\.csv, line 2: the component 'one'"),
        (["class,noun", "bee,flower", "bee,leaf"], "named twice: bee"),
        (["class,noun", "sea lion,rock", "Sea_Lion,rock"], "'sea lion' and 'Sea_Lion'"),
        (["class,noun"], "the list is empty"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_its_line(tmp_path, lines, message):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecipeError, match=message):
        read_features(str(path), None)


def test_a_class_without_a_feature_is_named_with_what_is_near():
    with pytest.raises(RecipeError, match=r"^classes: 2 of 3 have no feature in .*: humingbird, tiger, did you mean"):
        read_features("spurious-imagenet", ["humingbird", "bee", "tiger"])


def test_labels_are_found_by_synonym_and_classes_that_are_none_are_all_counted():
    labels = read_nouns("labels", {"crane, bird": "", "Sea_Lion": ""}, "classes", "")
    found = find_labels([Feature("sea lion", "rock", ""), Feature("crane", "sky", "")], labels)
    assert [(feature.name, feature.label) for feature in found] == [("Sea_Lion", 1), ("crane, bird", 0)]
    with pytest.raises(RecipeError, match=r"^labels: 2 of 3 classes are none of the classifier's 2: bee, car"):
        find_labels([Feature(name, "x", "") for name in ("bee", "crane", "car")], labels)
