"""Directories that are worked in: one process at a time, and nothing left of a start that failed."""

import errno
import os

import pytest

from figureground.core.errors import FiguregroundError
from figureground.learn.directory import lock_directory, remove_drafts


def test_one_process_works_at_a_time(tmp_path):
    out = tmp_path / "out"
    with lock_directory(out, "training.json", "train"):
        (out / "training.json").write_text("{}")
        with (
            pytest.raises(FiguregroundError, match="another process is at work there"),
            lock_directory(out, "training.json", "train"),
        ):
            pass
    assert [path.name for path in out.iterdir()] == ["training.json"]


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_that_stays_empty_is_left_as_it_was_found(there, tmp_path):
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(RuntimeError), lock_directory(out, "paste.json", "paste"):
        raise RuntimeError
    assert out.exists() == there


def test_a_file_and_what_the_disk_refuses_are_reported(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with (
        pytest.raises(FiguregroundError, match=r"^--out .*file is a file; give a directory"),
        lock_directory(path, "m", "train"),
    ):
        pass
    with pytest.raises(FiguregroundError, match=r"^\S*file is a file"), lock_directory(path, "m", "paste", option=""):
        pass
    with (
        pytest.raises(FiguregroundError, match=r"No space left on the disk of .*out\. Free some space"),
        lock_directory(tmp_path / "out", "m", "train"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not (tmp_path / "out").exists()


def test_drafts_of_files_and_of_folders_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".erm-seed-0.part").mkdir()
    (tmp_path / ".erm-seed-0.part" / "config.json").touch()
    for name in (".report.json.1-2.tmp", ".hidden", "seed-0.json"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "seed-0.json"]


def test_another_kind_of_work_that_began_meanwhile_is_seen(tmp_path):
    out = tmp_path / "out"
    with lock_directory(out, "training.json", "train"):
        # It has a lock of its own, and nothing but that is there yet.
        with (
            pytest.raises(FiguregroundError, match=r"holds something else"),
            lock_directory(out, "compare.json", "compare"),
        ):
            pass
        assert [path.name for path in out.iterdir()] == [".train.lock"]
