"""Directories that can't be written, and disks that are full: one line says what to do, and nothing is lost."""

import contextlib
import errno
import os
import resource
import subprocess
from pathlib import Path

import pytest
from commands import hashes, litter, markers, recipe, run
from tiny_checkpoints import make_checkpoint

from figureground import D3S
from figureground.cli.main import main
from figureground.core.disk import explain_disk_error, explained, find_first_missing
from figureground.core.errors import FiguregroundError
from figureground.core.locks import lock
from figureground.running import disk
from figureground.running.directory import claim_directory
from figureground.shards.claims import WORKING_LOCK
from figureground.shards.shard import MARKERS
from figureground.shards.stages import run_stage


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def undisturbed(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "d3s"
    assert run("build", *recipe(checkpoint), "--out", str(out))[0] == 0
    return out


@contextlib.contextmanager
def mounted(folder: Path, options: str, *, again: bool = False):
    """A small file system of its own at `folder`."""
    source = ["-o", f"remount,{options}"] if again else ["-t", "tmpfs", "-o", options, "tmpfs"]
    if subprocess.run(["mount", *source, str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield
    finally:
        if not again:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fail(checkpoint, out, *more, **options):
    """A build that fails with one line, which comes back."""
    code, output, err = run("build", *recipe(checkpoint), *more, "--out", str(out), **options)
    assert (code, output) == (1, "")
    assert "Traceback" not in err
    assert err.startswith("figureground: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_named_and_after_space_is_freed_the_same_command_ends(
    checkpoint, undisturbed, tmp_path, workers
):
    with mounted(tmp_path, "size=260k"):
        ballast, out = tmp_path / "ballast", tmp_path / "d3s"
        ballast.write_bytes(b"x" * 70_000)
        err = fail(checkpoint, out, "--set", f"workers={workers}")
        done = len(markers(out))
        assert 0 < done < 15
        assert f"No space left on the disk of {out}. Free some space and run the same command again." in err
        assert f"{done} of 15 shards are done and kept" in err
        assert not [name for name in litter(out) if name.endswith(".tmp")]
        ballast.unlink()
        with mounted(tmp_path, "size=4m", again=True):
            code, _, err = run("build", *recipe(checkpoint), "--out", str(out))
        assert (code, err) == (0, "")
        assert hashes(out) == hashes(undisturbed)
        assert litter(out) == []


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start_is_left_as_it_was(checkpoint, tmp_path):
    with mounted(tmp_path, "size=64k"):
        with contextlib.suppress(OSError), open(tmp_path / "ballast", "wb", buffering=0) as ballast:
            while ballast.write(b"x" * 4096):
                pass
        assert "No space left" in fail(checkpoint, tmp_path / "d3s")
        assert [path.name for path in tmp_path.iterdir()] == ["ballast"]


@pytest.mark.slow
def test_a_read_only_file_system_is_named(checkpoint, tmp_path):
    with mounted(tmp_path, "size=64k"):
        (tmp_path / "d3s").mkdir()
        with mounted(tmp_path, "ro", again=True):
            err = fail(checkpoint, tmp_path / "d3s")
            assert "its file system is read-only. Give a directory where you may write." in err
            assert f"{tmp_path}/new/d3s can't be written" in fail(checkpoint, tmp_path / "new" / "d3s")


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_named_and_raised_the_build_goes_on(checkpoint, undisturbed, tmp_path):
    out = tmp_path / "d3s"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000))

    err = fail(checkpoint, out, preexec_fn=limit)
    assert "would be larger than this system allows (see ulimit -f)" in err
    assert not [name for name in litter(out) if name.endswith(".tmp")]
    assert run("build", *recipe(checkpoint), "--out", str(out))[0] == 0
    assert hashes(out) == hashes(undisturbed)
    assert litter(out) == []


@pytest.mark.slow
def test_a_directory_without_permission_is_named(checkpoint, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("permissions don't bind root")
    (tmp_path / "theirs").mkdir(mode=0o500)
    assert "theirs/d3s: permission denied" in fail(checkpoint, tmp_path / "theirs" / "d3s")


@pytest.mark.parametrize("out", ["thesis.txt", "thesis.txt/d3s", "thesis.txt/deep/d3s", "loop/d3s", "n" * 300])
def test_a_directory_that_can_not_be_made_is_named_in_one_line(checkpoint, tmp_path, capsys, out):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert main(["build", *recipe(checkpoint), "--out", str(tmp_path / out)]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert f"{tmp_path / out}" in err
    assert "_figureground" not in err
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loop", "thesis.txt"]


def test_a_directory_of_somebody_else_stays_as_it_is(checkpoint, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "data").mkdir()
    assert main(["build", *recipe(checkpoint), "--out", str(tmp_path)]) == 1
    assert "holds something else (data, thesis.txt) and was left as it is" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "thesis.txt"]


# Telling errors apart


@pytest.mark.parametrize(
    ("number", "name", "words"),
    [
        (errno.ENOSPC, None, "No space left on the disk of sets/d3s. Free some space"),
        (errno.EDQUOT, None, "Your quota on the disk of sets/d3s is used up"),
        (errno.EFBIG, None, "see ulimit -f"),
        (errno.EIO, "sets/d3s/data/x", "The disk of sets/d3s fails: Input/output error. "),
        (errno.ESTALE, None, "The disk of sets/d3s fails"),
        (errno.EROFS, "sets/d3s/data", "sets/d3s can't be written: its file system is read-only"),
        (errno.EACCES, "sets", "sets/d3s: permission denied"),
    ],
)
def test_errors_of_the_disk_are_explained(number, name, words):
    assert words in explain_disk_error(OSError(number, os.strerror(number), name), Path("sets/d3s"))


@pytest.mark.parametrize(
    ("number", "name"), [(errno.EACCES, "photos/x.png"), (errno.ENOSPC, "elsewhere/x"), (errno.ENOENT, "sets/d3s/x")]
)
def test_errors_of_other_places_and_kinds_are_not(number, name):
    assert explain_disk_error(OSError(number, os.strerror(number), name), Path("sets/d3s")) is None


def test_only_explained_errors_are_replaced():
    with pytest.raises(FiguregroundError, match=r"^No space left on the disk of sets/d3s"), explained(Path("sets/d3s")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), explained(Path("sets/d3s")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "sets/d3s/x")


# Leaving a directory as it was found


def begun(checkpoint, out: Path) -> D3S:
    builder = D3S("pocket", checkpoint=str(checkpoint), classes=["bird"], backgrounds=["grass"], size=32)
    with claim_directory(out, builder.recipe(out / "_figureground"), lambda: ""):
        pass
    return builder


def test_a_failed_beginning_is_withdrawn_with_the_directories_that_it_made(checkpoint, tmp_path):
    out = tmp_path / "a" / "b"
    made = find_first_missing(out)
    begun(checkpoint, out)
    disk.withdraw(out, made)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_stays(checkpoint, tmp_path):
    out = tmp_path / "b"
    out.mkdir()
    made = find_first_missing(out)
    begun(checkpoint, out)
    disk.withdraw(out, made)
    assert list(tmp_path.rglob("*")) == [out]


def test_what_a_person_put_there_before_stays(checkpoint, tmp_path):
    mine = [tmp_path / "_figureground" / name for name in ("numerics.json", "stages/references/bird/a.png", "data.txt")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    builder = D3S("pocket", checkpoint=str(checkpoint), classes=["bird"], backgrounds=["grass"], size=32)

    def fail(folder):
        (folder / "b.png").write_text("half")
        raise FiguregroundError("it fails")

    with (
        pytest.raises(FiguregroundError, match="it fails"),
        claim_directory(tmp_path, builder.recipe(tmp_path / "_figureground"), lambda: ""),
    ):
        run_stage(tmp_path / "_figureground/stages", "references/cat", {}, fail)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(mine)


def test_a_card_that_cannot_be_written_anew_is_refused_before_anything_is_drawn(checkpoint, tmp_path):
    builder = begun(checkpoint, tmp_path)
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: [\n---\n")
    with pytest.raises(FiguregroundError, match=r"README\.md"):
        builder.build(tmp_path, show_progress=False)
    assert card.read_text() == "---\nlicense: [\n---\n"
    assert not (tmp_path / "_figureground/numerics.json").exists()


@pytest.mark.parametrize("what", ["a shard", "a stage", "an index", "a neighbour"])
def test_nothing_is_withdrawn_once_there_is(checkpoint, tmp_path, what):
    out = tmp_path / "b"
    begun(checkpoint, out)
    with contextlib.ExitStack() as stack:
        if what == "a shard":
            (out / MARKERS).mkdir()
            (out / MARKERS / "train-00000-of-00001.json").write_text("{}")
        elif what == "an index":
            (out / "_figureground" / "index.json").write_text("{}")
        elif what == "a stage":
            run_stage(out / "_figureground" / "stages", "clusters", {}, lambda folder: {})
        else:
            stack.enter_context(lock(out / WORKING_LOCK, shared=True))
        disk.withdraw(out, out)
        assert (out / "_figureground" / "recipe.json").exists()
