import errno
import multiprocessing
import os
import resource

import pytest

from figureground.annotation.answers import ANNOTATIONS, NotUsable, read_answers
from figureground.annotation.answers_file import AnswerWriter, NotSaved
from figureground.core.files import FileError
from figureground.shards.finished import FinishedDataset


@pytest.fixture
def identity(directory):
    return FinishedDataset(directory).identity()


def make_answer(key: str, answer: str = "yes", question: str = "foreground") -> dict:
    return {"key": key, "question": question, "answer": answer, "seconds": 0.5}


def test_answers_are_there_for_the_next_process(directory, identity):
    writer = AnswerWriter(directory, identity, "ana")
    assert [each.n for each in writer.add([make_answer("a"), make_answer("b", "no")])] == [1, 2]
    assert [(each.key, each.answer, each.seconds) for each in read_answers(directory)] == [
        ("a", "yes", 0.5),
        ("b", "no", 0.5),
    ]
    again = AnswerWriter(directory, identity, "ANA")
    again.add([make_answer("a", "no")])
    assert {(each.annotator, each.key, each.answer) for each in read_answers(directory)} == {
        ("ana", "a", "no"),
        ("ana", "b", "no"),
    }


def test_undo_takes_back_one_answer_or_a_whole_grid(directory, identity):
    writer = AnswerWriter(directory, identity, "ana")
    writer.add([make_answer("a")])
    writer.add([make_answer("b"), make_answer("c")], together=True)
    assert {each.key for each in writer.undo()} == {"b", "c"}
    assert [each.key for each in read_answers(directory)] == ["a"]
    assert [each.key for each in writer.undo()] == ["a"]
    assert writer.undo() == []
    assert read_answers(directory) == []


@pytest.mark.parametrize("cut", [1, 20, 70])
def test_a_cut_line_is_repaired_before_anything_is_added(directory, identity, cut):
    writer = AnswerWriter(directory, identity, "ana")
    writer.add([make_answer("a"), make_answer("b")])
    os.truncate(writer.path, writer.path.stat().st_size - cut)
    again = AnswerWriter(directory, identity, "ana")
    again.add([make_answer("c")])
    keys = [each.key for each in read_answers(directory)]
    assert keys == (["a", "b", "c"] if cut == 1 else ["a", "c"])  # the first cut takes nothing but the line's end


def test_a_cut_header_is_written_again(directory, identity):
    writer = AnswerWriter(directory, identity, "ana")
    writer.add([make_answer("a")])
    os.truncate(writer.path, 10)
    AnswerWriter(directory, identity, "ana").add([make_answer("b")])
    assert [each.key for each in read_answers(directory)] == ["b"]


def test_a_full_disk_leaves_the_file_as_it_was(directory, identity):
    """A limit on the size of files makes a write stop in the middle, as a full disk does."""
    writer = AnswerWriter(directory, identity, "ana")
    writer.add([make_answer("a")])
    before = writer.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, hard))
        with pytest.raises(NotSaved, match=r"ana\.jsonl") as error:
            writer.add([make_answer("b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.__cause__.errno == errno.EFBIG
    assert writer.path.read_bytes() == before
    writer.add([make_answer("c")])
    assert [each.key for each in read_answers(directory)] == ["a", "c"]


def test_two_writers_of_one_file_see_each_other(directory, identity):
    first, second = AnswerWriter(directory, identity, "ana"), AnswerWriter(directory, identity, "ana")
    first.add([make_answer("a")])
    second.add([make_answer("b")])
    first.add([make_answer("b", "no")])
    second.refresh()
    assert second.answers.replaced == 1
    assert {(each.key, each.answer) for each in read_answers(directory)} == {("a", "yes"), ("b", "no")}


def _add_many(directory, identity, name: str) -> None:
    writer = AnswerWriter(directory, identity, "ana")
    for n in range(25):
        writer.add([make_answer(f"{name}-{n}")])


def test_two_processes_lose_nothing(directory, identity):
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_add_many, args=(directory, identity, name)) for name in "xy"]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert {each.key for each in read_answers(directory)} == {f"{name}-{n}" for name in "xy" for n in range(25)}


def test_links_out_of_the_dataset_and_files_of_others_are_left_alone(directory, identity, tmp_path):
    folder, elsewhere = directory / ANNOTATIONS, tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_text("mine")
    (folder / "ana.jsonl").symlink_to(elsewhere)
    with pytest.raises(FileError, match="link"):
        AnswerWriter(directory, identity, "ana")
    os.mkfifo(folder / "bo.jsonl")
    with pytest.raises(FileError, match="FIFO"):
        AnswerWriter(directory, identity, "bo")
    (folder / "cy.jsonl").write_text(
        '{"figureground": "annotations", "version": 1, "dataset": {}, "annotator": "cy"}\n'
    )
    with pytest.raises(NotUsable):
        AnswerWriter(directory, identity, "cy")
    assert elsewhere.read_text() == "mine"
