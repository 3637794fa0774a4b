"""Whatever files, classes and arguments are called, they don't steer the terminal."""

import ast
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_datasets import make_dataset

import figureground
from figureground.cli.main import main
from figureground.core.progress import Progress
from figureground.core.terminal import print_error, print_note, print_result
from figureground.shards.columns import Columns

PACKAGE = Path(figureground.__file__).parent
HOSTILE = "a\x1b]0;owned\x07\u202eb"


@pytest.mark.parametrize("show", [print_result, print_error, print_note])
def test_every_way_to_print_shows_names_and_keeps_lines(show, capfd):
    show(f"{HOSTILE}\nsecond line")
    printed = "".join(capfd.readouterr())
    assert r"a\x1b]0;owned\x07\u202eb" in printed
    assert "\x1b" not in printed
    assert "\nsecond line\n" in printed


@pytest.mark.parametrize("arguments", [["check", HOSTILE], ["show", HOSTILE], [HOSTILE], ["plan", "d3s", HOSTILE]])
def test_errors_show_arguments_as_codes(arguments, capsys):
    with suppress(SystemExit):
        assert main(arguments) in (1, 2)
    out, err = capsys.readouterr()
    assert r"\x1b" in err
    assert not {"\x1b", "\x07", "\u202e"} & set(out + err)


def test_a_dataset_with_such_classes_is_checked_and_curated(tmp_path, capsys):
    make_dataset(tmp_path / "in", columns=Columns((HOSTILE, "cat"), ("grass", HOSTILE)), size=4)
    (tmp_path / "in/data" / f"{HOSTILE}.parquet").touch()
    assert main(["check", str(tmp_path / "in")]) == 1
    assert main(["curate", str(tmp_path / "in"), "--out", str(tmp_path / HOSTILE), "--keep", "seed >= 0"]) == 0
    out, err = capsys.readouterr()
    assert out.count(r"\x1b") >= 2
    assert not {"\x1b", "\u202e"} & set(out + err)


def test_a_bar_shows_the_name_of_its_directory_as_codes(capfd, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress(2, desc=HOSTILE) as bar:
        bar.update(2)
    assert HOSTILE not in capfd.readouterr().err
    assert bar.desc.startswith(r"a\x1b")


def test_nothing_else_in_the_package_prints():
    """Except the tools that make the pocket model's weights, whose names are all their own."""
    strays = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name == "core/terminal.py" or name.startswith("pocket/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "print" or called in ("tqdm.write", "sys.stdout.write", "sys.stderr.write"):
                    strays.append(f"{name}:{node.lineno}")
    assert strays == []
