"""Names of classes match labels, whatever their case and whichever synonym they use."""

from figureground.data.label_matching import match_labels


def test_names_match_but_for_case_underscores_and_synonyms():
    labels = ["great white shark, white shark", "tiger shark", "Crane", "crane, bird", "mug"]
    assert match_labels(["Great_White_Shark", "white shark", "crane", "MUG", "cup"], labels).tolist() == [
        0,
        0,
        2,
        4,
        -1,
    ]
