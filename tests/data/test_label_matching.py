"""Names of classes match labels, whatever their case and whichever synonym they use."""

from figureground.data.label_matching import match_folders, match_labels


def test_names_match_but_for_case_underscores_and_synonyms():
    labels = ["great white shark, white shark", "tiger shark", "Crane", "crane, bird", "mug"]
    assert match_labels(["Great_White_Shark", "white shark", "crane", "MUG", "cup"], labels).tolist() == [
        0,
        0,
        2,
        4,
        -1,
    ]


def test_folders_named_by_the_slug_match_but_not_those_that_differ_in_a_symbol():
    labels = ["C++", "potter's wheel", "mallard ♂", "St. Bernard"]
    folders = ["c", "C#", "C", "Potter’s_Wheel", "mallard ♀", "st_bernard", "St Bernard"]
    assert match_folders(folders, labels, labels) == {
        "c": 0, "Potter’s_Wheel": 1, "st_bernard": 3, "St Bernard": 3,
    }  # fmt: skip
