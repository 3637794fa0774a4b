"""Scores are read from what people write, and refused with the reason where they can't be used."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from figureground.core.errors import FiguregroundError
from figureground.curation.scores import Scores, read_scores


def folder(directory):
    path = directory / "_figureground" / "scores"
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_numbers_text_and_truth_of_a_csv(tmp_path):
    path = folder(tmp_path) / "judge.csv"
    path.write_text(
        "\ufeffkey,margin,label,ok,day,n\nb,0.5,cat,true,2026-01-02,1\n"
        'a,,"bird, ""big""\nred",false,2026-01-03,2\n\nc,nan,,true,,\n',
        encoding="utf-8",
    )
    scores = read_scores(tmp_path)["judge"]
    assert scores.columns == ("margin", "label", "ok", "day", "n")
    assert [scores.value(scores.find_row("b"), name) for name in scores.columns] == [0.5, "cat", True, "2026-01-02", 1]
    assert scores.value(scores.find_row("a"), "label") == 'bird, "big"\nred'
    assert [scores.value(scores.find_row(key), "margin") for key in ("a", "c")] == [None, None]
    assert scores.find_row("z") is None
    assert scores.find_row("") is None


def test_numbers_in_a_key_stay_text(tmp_path):
    path = folder(tmp_path) / "judge.csv"
    path.write_text("key,x\n007,1\n08,2\n")
    scores = Scores(path)
    assert (scores.find_row("007"), scores.find_row("7")) == (0, None)


def test_a_field_that_is_too_long_is_reported(tmp_path):
    path = folder(tmp_path) / "judge.csv"
    path.write_text(f"key,x\na,{'x' * 200_000}\n")
    with pytest.raises(FiguregroundError, match=r"judge\.csv can't be read: field larger"):
        Scores(path)


def test_white_space_around_values_is_no_part_of_them(tmp_path):
    """Otherwise `verdict != 'bad'` would keep everything."""
    path = folder(tmp_path) / "judge.csv"
    path.write_text("key, verdict, n, ok\n b, bad,1 , true\na,bad , 2,false\n")
    scores = Scores(path)
    assert scores.columns == ("verdict", "n", "ok")
    assert [[scores.value(scores.find_row(key), name) for name in scores.columns] for key in "ba"] == [
        ["bad", 1, True], ["bad", 2, False],
    ]  # fmt: skip
    scores.write(np.array([False, True]), tmp_path / "copy")
    assert Scores(tmp_path / "copy/_figureground/scores/judge.csv").find_row("a") == 0


def test_an_empty_text_is_a_missing_value_as_an_empty_number_is(tmp_path):
    """Otherwise `verdict != 'bad'` would keep what nobody has judged."""
    path = folder(tmp_path) / "judge.csv"
    path.write_text('key,verdict,code,n\na,bad,007,1\nb,,,\nc," ",8,2\n')
    scores = Scores(path)
    assert [[scores.value(scores.find_row(key), name) for name in scores.columns] for key in "abc"] == [
        ["bad", "007", 1], [None, None, None], [None, "8", 2],
    ]  # fmt: skip


def test_numbers_with_leading_zeros_are_text(tmp_path):
    path = folder(tmp_path) / "judge.csv"
    path.write_text("key,code,share\na,007,0.5\nb,7,0\n")
    scores = Scores(path)
    assert [scores.value(row, "code") for row in (0, 1)] == ["007", "7"]
    assert [scores.value(row, "share") for row in (0, 1)] == [0.5, 0.0]


def test_dates_and_times_are_text_as_they_stand(tmp_path):
    """Otherwise `label != foreground` would be true for each image of a class called 12:30."""
    path = folder(tmp_path) / "judge.csv"
    path.write_text("key,time,day,when\na,12:30,2026-01-02,2026-01-02T10:00Z\nb,,2026-01-03,2026-01-02T10:00:00Z\n")
    scores = Scores(path)
    assert [scores.value(0, name) for name in scores.columns] == ["12:30", "2026-01-02", "2026-01-02T10:00Z"]
    assert [scores.value(1, name) for name in scores.columns] == [None, "2026-01-03", "2026-01-02T10:00:00Z"]


def test_a_parquet_file_of_other_types_of_the_same_meaning(tmp_path):
    table = pa.table(
        {
            "key": pa.array(["a", "b"]).dictionary_encode(),
            "label": pa.array(["x", "y"]).dictionary_encode(),
            "half": pa.array(np.array([0.5, np.nan], np.float16)),
            "when": pa.array([datetime.date(2026, 1, 2), None]),
            "nothing": pa.nulls(2),
        }
    )
    pq.write_table(table, folder(tmp_path) / "judge.parquet")
    scores = read_scores(tmp_path)["judge"]
    assert [scores.value(0, name) for name in scores.columns] == ["x", 0.5, "2026-01-02", None]
    assert scores.value(1, "half") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x\na,1\n", "judge.csv has no column 'key', only name, x"),
        ("key,x\na,1\na,2\nb,1\n", "1 key .* twice: a"),
        ("key,x,x\na,1,2\n", "two columns"),
        ("key,x\na,1\nb\n", "judge.csv can't be read"),
        ("key,x\n,1\n", "1 row without a key"),
        ("", "judge.csv is empty"),
        ("\x93\0\xff", "judge.csv"),
    ],
)
def test_a_csv_that_can_not_be_used(tmp_path, text, message):
    (folder(tmp_path) / "judge.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(FiguregroundError, match=message):
        read_scores(tmp_path)


def test_a_parquet_file_that_can_not_be_used(tmp_path):
    path = folder(tmp_path) / "judge.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(FiguregroundError, match=r"judge\.parquet can't be read"):
        read_scores(tmp_path)
    pq.write_table(pa.table({"key": ["a"], "box": [[1, 2]]}), path)
    with pytest.raises(FiguregroundError, match=r"column 'box' .*list"):
        read_scores(tmp_path)
    pq.write_table(pa.table({"key": [1]}), path)
    with pytest.raises(FiguregroundError, match="1 row without a key"):
        read_scores(tmp_path)


def test_two_files_of_one_name_are_refused_and_others_passed_over(tmp_path):
    (folder(tmp_path) / "notes.txt").write_text("mine")
    assert read_scores(tmp_path) == {}
    (folder(tmp_path) / "judge.csv").write_text("key,x\na,1\n")
    pq.write_table(pa.table({"key": ["a"]}), folder(tmp_path) / "judge.parquet")
    with pytest.raises(FiguregroundError, match=r"holds both judge\.csv and judge\.parquet"):
        read_scores(tmp_path)


def test_a_choice_of_rows_is_written_as_it_was_and_never_over_another_file(tmp_path):
    path = folder(tmp_path / "in") / "judge.csv"
    path.write_text('key,code,text\nb,007,"x, y"\na,008,\nc,009,z\n')
    pq.write_table(pa.table({"key": ["b", "a", "c"], "x": [1, 2, 3]}), folder(tmp_path / "in") / "other.parquet")
    for scores in read_scores(tmp_path / "in").values():
        rows = np.array([True, False, True])
        assert scores.keys(rows) == ["b", "c"]
        scores.write(rows, tmp_path / "out")
        scores.write(~rows, tmp_path / "out")
    assert (folder(tmp_path / "out") / "judge.csv").read_text() == 'key,code,text\nb,007,"x, y"\nc,009,z\n'
    assert pq.read_table(folder(tmp_path / "out") / "other.parquet").to_pydict() == {"key": ["b", "c"], "x": [1, 3]}
    assert sorted(p.name for p in folder(tmp_path / "out").iterdir()) == ["judge.csv", "other.parquet"]
