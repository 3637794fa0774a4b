"""The log that killed runs go on from, and the directories that a run may have."""

from __future__ import annotations

import pytest

from figureground.core.errors import FiguregroundError
from figureground.core.owned import refuse_occupied
from figureground.materials.log import append, read_log, start_log

MADE_BY = "figureground scenes"


def test_a_line_that_was_cut_off_is_gone_after_the_next_start(tmp_path):
    path = tmp_path / ".scenes" / "journal.jsonl"
    start_log(path, MADE_BY, "abc", [{"n": 1}])
    append(path, {"n": "鸟"})
    with path.open("ab") as file:
        file.write(b'{"n": 3')
    head, rows = read_log(path)
    assert (head["identity"], rows) == ("abc", [{"n": 1}, {"n": "鸟"}])
    start_log(path, MADE_BY, "abc", rows)
    append(path, {"n": 4})
    assert read_log(path)[1] == [*rows, {"n": 4}]


@pytest.mark.parametrize("text", ["", '{"made_by": '])
def test_a_log_without_a_whole_line_is_as_none(tmp_path, text):
    (tmp_path / "journal.jsonl").write_text(text)
    assert read_log(tmp_path / "journal.jsonl") == read_log(tmp_path / "nowhere") == ({}, [])


def test_a_directory_is_taken_if_it_is_new_empty_or_of_an_earlier_run_even_one_killed_before_its_log(tmp_path):
    out = tmp_path / "out"
    mark = out / ".scenes" / "journal.jsonl"
    refuse_occupied(out, mark, "scenes")
    mark.parent.mkdir(parents=True)
    (mark.parent / "lock").touch()
    refuse_occupied(out, mark, "scenes")
    (out / "grass").mkdir()
    with pytest.raises(FiguregroundError, match="figureground scenes didn't make"):
        refuse_occupied(out, mark, "scenes")
    start_log(mark, MADE_BY, "abc")
    refuse_occupied(out, mark, "scenes")
    with pytest.raises(FiguregroundError, match="is a file"):
        refuse_occupied(mark, mark / "log", "scenes")
