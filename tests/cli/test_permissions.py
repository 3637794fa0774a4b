"""Files and directories that may not be read are named, with a remedy that destroys nothing."""

import os
import shutil
import subprocess
import sys

import pytest

WITHOUT_PRIVILEGES = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
]
"""Runs a command as a root whom permissions bind."""

if os.geteuid() == 0 and shutil.which("setpriv") is None:
    pytest.skip("permissions don't bind root, and setpriv isn't there", allow_module_level=True)


def run(*arguments):
    """Run `figureground` without the privileges of root; return the exit code, the output and the errors."""
    prefix = WITHOUT_PRIVILEGES if os.geteuid() == 0 else []
    command = [*prefix, sys.executable, "-m", "figureground", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def locked(tmp_path):
    """A directory that may not be read, with a directory within it."""
    (tmp_path / "locked" / "in").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)
    yield tmp_path / "locked"
    (tmp_path / "locked").chmod(0o755)


@pytest.mark.parametrize(
    "command",
    ["groups {}", "groups {}/in", "train erm --data {} --out o", "check {}/in", "show {}", "build d3s --out {}/in/d3s",
     "build d3s --out o --set cutouts={}/in", "build d3s --out o --set checkpoint={}",
     "cutouts {} --out o --segmenter pocket", "components --classifier pocket --class a --images {} --out o"],
)  # fmt: skip
def test_a_directory_that_may_not_be_read_is_named(command, locked, tmp_path):
    words = [str(tmp_path / "o") if word == "o" else word.format(locked) for word in command.split()]
    code, _, err = run(*words)
    assert code in (1, 2)
    assert str(locked) in err
    assert "permission denied" in err
    assert "Traceback" not in err
    assert "--debug" not in err


@pytest.mark.parametrize(
    "name",
    ["README.md", "croissant.json", "_figureground/index.json", "_figureground/recipe.json",
     "_figureground/shards/train-00000-of-00002.json", "data/train-00000-of-00002.parquet"],
)  # fmt: skip
def test_a_check_never_advises_to_delete_what_may_be_whole(name, tmp_path):
    from tiny_datasets import make_dataset

    out = make_dataset(tmp_path / "dataset")
    (out / name).chmod(0)
    code, report, _ = run("check", out)
    [line] = [line for line in report.splitlines() if line.startswith(f"{name}:")]
    assert code == 1
    assert "Permission denied" in line
    assert "permissions" in line
    assert not any(word in line for word in ("Delete", "Restore", "Rerun"))


@pytest.mark.parametrize("finished", [True, False])
def test_files_of_a_shard_whose_marker_cant_be_read_are_neither_missing_nor_to_be_removed(finished, tmp_path):
    from tiny_datasets import make_dataset

    out = make_dataset(tmp_path / "dataset")
    (out / "_figureground" / "shards" / "validation-00000-of-00001.json").chmod(0)
    if not finished:
        (out / "_figureground" / "index.json").unlink()
    _, report, _ = run("check", out)
    about = [line for line in report.splitlines() if "validation-00000-of-00001" in line]
    assert len(about) == 1, about
    assert "permissions" in about[0]
    assert "Remove" not in report
