"""Labels find the classes that stand for them, by name or as a table says; what can't be is said with its line."""

import numpy as np
import pytest
from colour_datasets import make_coloured_classifier

from figureground.core.errors import FiguregroundError
from figureground.evaluation.counterparts import LabelTable, find_counterparts, read_label_table
from figureground.vision.classifiers import open_classifier

LABELS = ["bird", "cat", "mug"]


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    names = {"bird": "Bird", "cat": "tabby, tabby cat", "mug": "tiger cat"}
    return open_classifier(str(make_coloured_classifier(tmp_path_factory.mktemp("cats") / "cats", names)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return open_classifier(str(make_coloured_classifier(tmp_path_factory.mktemp("plain") / "plain")))


def table(path, *rows):
    path.write_text("\n".join(["label,classifier_label", *rows]) + "\n")
    return read_label_table(path, LABELS)


def test_labels_are_found_by_name(cats):
    assert find_counterparts([cats], LABELS, LABELS, LabelTable())[0].groups == ((0,), (), ())
    synonyms = find_counterparts([cats], ["hen, bird"], ["hen, bird"], LabelTable())
    assert synonyms[0].groups == ((0,),)


def test_a_label_may_stand_for_several_classes(cats, tmp_path):
    found = find_counterparts([cats], LABELS, LABELS, table(tmp_path / "t.csv", "Cat,tabby", "cat,tiger_cat"))[0]
    assert found.groups == ((0,), (1, 2), ())
    assert found.membership().tolist() == [[True, False, False], [False, True, True], [False, False, False]]
    outcomes = found.outcomes(np.array([1, 2, 0, 1]), np.array([1, 1, 1, 0]))
    assert outcomes.tolist() == [-1, -1, 0, 1]


def test_one_table_serves_classifiers_with_other_names(cats, plain, tmp_path):
    found = find_counterparts([cats, plain], LABELS, LABELS, table(tmp_path / "t.csv", "cat,tabby", "mug,cat"))
    assert [some.groups for some in found] == [((0,), (1,), ()), ((0,), (1,), (1,))]


def test_labels_that_do_not_occur_have_no_counterpart(plain):
    assert find_counterparts([plain], LABELS, ["cat"], LabelTable())[0].groups == ((), (1,), ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,classifier_label\ncat,tabby\n", "first line .*name, classifier_label; .* label,"),
        ("", "first line is nothing"),
        (
            "label,classifier_label\ncat,tabby\ncta,tabby\n",
            r"line 3: the dataset has no label 'cta', did you mean 'cat'",
        ),
        ("label,classifier_label\ncat,\n", "line 2: "),
        ("label,classifier_label\ncat,tabby,tabby cat\n", "line 2: "),
        ("label,classifier_label\nb\xfcrd,x\n", r"t\.csv .* UTF-8"),
    ],
)
def test_a_table_that_can_not_be_used(tmp_path, text, reason):
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(FiguregroundError, match=reason):
        read_label_table(tmp_path / "t.csv", LABELS)


def test_a_class_that_no_classifier_has_is_reported_with_its_line_and_a_near_one(cats, tmp_path):
    with pytest.raises(
        FiguregroundError, match=r"line 2: no classifier has a class 'tiger cta', did you mean 'tiger cat'"
    ):
        find_counterparts([cats], LABELS, LABELS, table(tmp_path / "t.csv", "cat,tiger cta"))
    with pytest.raises(FiguregroundError, match="No such file"):
        read_label_table(tmp_path / "none.csv", LABELS)


def test_a_classifier_without_any_counterpart_is_an_error_that_shows_both_lists(cats):
    with pytest.raises(FiguregroundError, match=r"Its classes: Bird, tabby.*the dataset's labels: mug\. .*--labels"):
        find_counterparts([cats], LABELS, ["mug"], LabelTable())
