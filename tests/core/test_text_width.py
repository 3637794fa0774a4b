"""Tables on a terminal stand in columns, whatever letters they hold."""

from figureground.core.text_width import align_columns


def test_wide_letters_stand_in_columns():
    lines = align_columns([["", "鸟", "a"], ["鸟 bird", "1", "2"], ["caf\u0065\u0301", "10", "20"]])
    assert lines == ["         鸟   a", "鸟 bird   1   2", "caf\u0065\u0301     10  20"]


def test_several_columns_of_labels_are_flush_left_and_numbers_have_a_minimum_width():
    lines = align_columns([["class", "noun", "sea"], ["a", "ant", "1,000,000"], ["b", "b", "7"]], 2, min_width=5)
    assert lines == ["class  noun        sea", "a      ant   1,000,000", "b      b             7"]
    assert align_columns([["", "x"], ["a", "1"]], min_width=3, gap=1) == ["    x", "a   1"]
