"""Directories that are worked in: one process at a time, and nothing left of a start that failed."""

import os

import pytest

from figureground.core.errors import FiguregroundError
from figureground.core.locks import lock
from figureground.training.work_directory import (
    Work,
    has_results,
    hold,
    record_inputs,
    refuse_other_content,
    remove_drafts,
)

TRAIN = Work(("training.json",), ".train.lock", "is training there")
COMPARE = Work(("compare.json",), ".compare.lock", "is comparing there")
PASTE = Work(("paste.json",), ".paste.lock", "is pasting there", option="")


def test_one_process_works_at_a_time(tmp_path):
    out = tmp_path / "out"
    with hold(out, TRAIN):
        (out / "training.json").write_text("{}")
        with pytest.raises(FiguregroundError, match="another process is training there"), hold(out, TRAIN):
            pass
    assert [path.name for path in out.iterdir()] == ["training.json"]


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_that_stays_empty_is_left_as_it_was_found(there, tmp_path):
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(RuntimeError), hold(out, TRAIN):
        raise RuntimeError
    assert out.exists() == there


def test_a_lock_in_a_folder_of_its_own_leaves_no_folder(tmp_path):
    cutouts = Work((".cutouts/log",), ".cutouts/lock", "is cutting there")
    with pytest.raises(RuntimeError), hold(tmp_path / "out", cutouts):
        raise RuntimeError
    assert not (tmp_path / "out").exists()


def test_a_file_and_what_the_disk_refuses_are_reported(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(FiguregroundError, match=r"^--out .*file is a file; give a directory"), hold(path, TRAIN):
        pass
    with pytest.raises(FiguregroundError, match=r"^\S*file is a file"), hold(path, PASTE):
        pass
    with pytest.raises(FiguregroundError, match=r"a part of it is a file, not a directory"), hold(path / "out", TRAIN):
        pass


def test_drafts_of_files_and_of_folders_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".erm-seed-0.part").mkdir()
    (tmp_path / ".erm-seed-0.part" / "config.json").touch()
    for name in (".report.json.1-2.tmp", ".hidden", "seed-0.json"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "seed-0.json"]


def test_another_kind_of_work_that_began_meanwhile_is_seen(tmp_path):
    out = tmp_path / "out"
    with hold(out, TRAIN):
        # It has a lock of its own, and nothing but that is there yet.
        with pytest.raises(FiguregroundError, match=r"holds something else"), hold(out, COMPARE):
            pass
        assert [path.name for path in out.iterdir()] == [".train.lock"]


def test_a_run_that_was_killed_before_its_mark_does_not_bar_the_next_one(tmp_path):
    for name in (".train.lock", ".training.json.1-2.tmp"):
        (tmp_path / name).touch()
    with hold(tmp_path, TRAIN):
        pass
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FiguregroundError, match=r"holds something else \(thesis\.txt\)"), hold(tmp_path, TRAIN):
        pass


def test_any_mark_is_enough_unless_other_files_are_refused_or_the_mark_is_not_ours(tmp_path):
    work = Work(("state.pt", "token.json"), ".lock", "", files=frozenset({"state.pt", "token.json", "curves.csv"}))
    for name in ("curves.csv", "token.json"):
        (tmp_path / name).touch()
    refuse_other_content(tmp_path, work)
    with pytest.raises(FiguregroundError, match="something else"):
        refuse_other_content(tmp_path, Work(("token.json",), ".lock", "", recognise=os.path.islink))
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FiguregroundError, match=r"holds something else \(thesis\.txt\)"):
        refuse_other_content(tmp_path, work)
    refuse_other_content(tmp_path, Work(work.marks, ".lock", ""))  # there, a mark permits anything beside it


def test_the_folder_of_a_lock_is_of_the_work_itself(tmp_path):
    work = Work((".scenes/journal",), ".scenes/lock", "is drawing there")
    with hold(tmp_path, work), lock(tmp_path / ".scenes" / "lock") as held:
        assert not held
    refuse_other_content(tmp_path, work)


def test_inputs_of_a_run_that_failed_before_its_first_result_are_replaced_and_others_refused(tmp_path):
    def record(**inputs):
        return record_inputs(tmp_path, "training.json", {"format": 2, **inputs}, "training")

    with hold(tmp_path, TRAIN):
        assert record(epochs=1, sizes=(8, 16)) == {"format": 2, "epochs": 1, "sizes": [8, 16]}
        (tmp_path / ".seed-0.pt.1.tmp").touch()
        assert record(epochs=2) == {"format": 2, "epochs": 2}
        assert not (tmp_path / ".seed-0.pt.1.tmp").exists()
        (tmp_path / "seed-0.pt").touch()
        record(epochs=2)
        with pytest.raises(FiguregroundError, match=r"holds another training:\n  epochs: 2, now 3"):
            record(epochs=3)


def test_a_marker_of_another_program_is_never_replaced(tmp_path):
    (tmp_path / "training.json").write_text('{"epochs_of_my_trainer": 3}')
    with hold(tmp_path, TRAIN), pytest.raises(FiguregroundError, match="epochs_of_my_trainer"):
        record_inputs(tmp_path, "training.json", {"format": 2}, "training")
    assert "my_trainer" in (tmp_path / "training.json").read_text()


def test_a_result_counts_in_a_folder_too_and_a_marker_or_a_draft_doesnt(tmp_path):
    (tmp_path / "erm").mkdir()
    for name in ("compare.json", "erm/training.json", "erm/.train.lock", ".old.part"):
        (tmp_path / name).touch()
    assert not has_results(tmp_path, "compare.json", "training.json")
    assert has_results(tmp_path, "compare.json")
    (tmp_path / "erm" / "seed-0.pt").touch()
    assert has_results(tmp_path, "compare.json", "training.json")
