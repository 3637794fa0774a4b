import json

import pytest

from figureground.annotation.answers import (
    ANNOTATIONS,
    NotUsable,
    check_name,
    find_answer_file,
    make_header,
    parse_answers,
    read_all,
    read_answers,
)
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError
from figureground.shards.finished import FinishedDataset

IDENTITY = {"recipe": "r", "samples": 2, "shards": "s"}


def lines(*entries: dict, identity=IDENTITY) -> bytes:
    """An annotator's file; `n` is filled in."""
    head = make_header(identity, "ana")
    return b"".join(
        json.dumps(each).encode() + b"\n" for each in [head, *({"n": n, **x} for n, x in enumerate(entries, 1))]
    )


def answer(key: str, answer: str, question: str = "foreground", time: str = "2026-01-05T10:00:00Z", **more) -> dict:
    return {"key": key, "question": question, "answer": answer, "time": time, **more}


def read(data: bytes, tmp_path, identity=IDENTITY):
    return parse_answers(data, tmp_path / "ana.jsonl", identity)


def test_a_later_answer_replaces_an_earlier_one_and_is_counted(tmp_path):
    answers, used = read(lines(answer("a", "yes"), answer("b", "no"), answer("a", "unsure", seconds=2.5)), tmp_path)
    assert {(each.key, each.answer, each.n) for each in answers.iter_current()} == {("a", "unsure", 3), ("b", "no", 2)}
    assert answers.replaced == 1
    assert answers.get("a", "foreground").seconds == 2.5
    assert used == len(lines(answer("a", "yes"), answer("b", "no"), answer("a", "unsure", seconds=2.5)))


def test_undo_brings_back_what_was_replaced(tmp_path):
    undo = {"undo": 2, "time": "2026-01-05T10:00:00Z"}
    answers, _ = read(lines(answer("a", "yes"), answer("a", "no"), undo), tmp_path)
    assert [each.answer for each in answers.iter_current()] == ["yes"]
    assert (answers.replaced, answers.undone) == (0, 1)
    assert [each.n for each in answers.list_undoable()] == [1]


def test_the_order_is_that_of_lines_even_if_the_clock_ran_back(tmp_path):
    answers, _ = read(lines(answer("a", "no"), answer("a", "yes", time="2020-01-01T00:00:00Z")), tmp_path)
    assert [each.answer for each in answers.iter_current()] == ["yes"]
    assert answers.clock_ran_back == 1


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_cut_last_line_is_passed_over_and_nothing_before_it_is_lost(cut, tmp_path):
    whole = lines(answer("a", "yes"))
    data = lines(answer("a", "yes"), answer("b", "no"))
    answers, used = read(data[: len(whole) + cut], tmp_path)
    assert [each.key for each in answers.iter_current()] == ["a"]
    assert used == len(whole)
    assert len(answers.notes) == 1


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path):
    answers, _ = read(lines(answer("a", "yes"), answer("b", "no"))[:-1], tmp_path)
    assert {each.key for each in answers.iter_current()} == {"a", "b"}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda data: data.replace(b'"n": 1', b'"n": 7'), "line 2"),
        (lambda data: data.replace(b'"yes"', b'"maybe"'), "maybe"),
        (lambda data: data.replace(b'"foreground"', b'"colour"'), "colour"),
        (lambda data: data.replace(b'{"n": 1', b'{"n": 1,,'), "line 2"),
        (lambda data: data.replace(b'"answer": "yes"', b'"undo": 9'), "undo"),
        (lambda data: data.replace(b'"2026-01-05T10:00:00Z"', b"17", 1), "time"),
    ],
)
def test_a_damaged_line_is_named(damage, named, tmp_path):
    with pytest.raises(FileError, match=named) as error:
        read(damage(lines(answer("a", "yes"), answer("b", "no"))), tmp_path)
    assert "ana.jsonl" in str(error.value)


def test_answers_about_another_dataset_are_refused_by_the_identity(directory, tmp_path):
    with pytest.raises(NotUsable, match="another dataset"):
        read(lines(answer("a", "yes")), tmp_path, {**IDENTITY, "shards": "other"})
    folder = directory / ANNOTATIONS
    folder.mkdir()
    (folder / "ana.jsonl").write_bytes(lines(answer("a", "yes")))
    with pytest.raises(NotUsable, match=r"ana\.jsonl"):
        read_answers(directory)


def test_answers_of_all_annotators_are_read(directory):
    identity = FinishedDataset(directory).identity()
    folder = directory / ANNOTATIONS
    folder.mkdir()
    for name in ("ana", "bo"):
        (folder / f"{name}.jsonl").write_bytes(
            lines(answer("a", "yes"), identity=identity).replace(b'"ana"', f'"{name}"'.encode())
        )
    (folder / "sample.json").write_text("{}")
    assert [(each.annotator, each.key) for each in read_answers(directory)] == [("ana", "a"), ("bo", "a")]
    assert [each.lines for each in read_all(directory)] == [1, 1]


def test_a_copy_of_a_file_is_refused_instead_of_counted_twice(directory):
    folder = directory / ANNOTATIONS
    folder.mkdir()
    data = lines(answer("a", "yes"), identity=FinishedDataset(directory).identity())
    for name in ("ana", "ana copy"):
        (folder / f"{name}.jsonl").write_bytes(data)
    with pytest.raises(NotUsable, match=r"ana copy\.jsonl"):
        read_answers(directory)


def test_a_dataset_without_answers_has_none(directory):
    assert read_answers(directory) == []


def test_names_that_differ_only_by_case_share_a_file(directory):
    folder = directory / ANNOTATIONS
    folder.mkdir()
    (folder / "Ana.jsonl").touch()
    assert find_answer_file(directory, "ana").name == "Ana.jsonl"
    assert find_answer_file(directory, "bo").name == "bo.jsonl"


@pytest.mark.parametrize("name", ["", "../ana", "a/b", ".hidden", "a\nb/c", "x" * 65, "ana.", "<b>", "a\u202eb", "-rf"])
def test_names_that_no_file_should_have_are_refused(name):
    with pytest.raises(FiguregroundError):
        check_name(name)


@pytest.mark.parametrize("name", ["ana", "A1B2C3", "Ana María", "ana@example.org", "李雷", "o.k"])
def test_names_of_people_are_taken(name):
    assert check_name(f"  {name} ") == name


def test_extend_says_that_the_answers_cannot_be_used_afterwards(directory, capsys):
    command = ["extend", str(directory), "--per-cell", "train=99"]
    assert main(command) == 1  # this dataset was made without a method
    assert "answers" not in capsys.readouterr().err
    path = directory / ANNOTATIONS / "ana.jsonl"
    path.parent.mkdir()
    path.write_bytes(lines(answer("a", "yes"), identity=FinishedDataset(directory).identity()))
    assert main(command) == 1
    assert f"figureground curate {directory} --out COPY --keep True" in " ".join(capsys.readouterr().err.split())
