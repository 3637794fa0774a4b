"""The pages in docs/ are true: their commands print what the pages say, their Python runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked_commands import Forked

from figureground.core.resources import CHECKOUT, find_resource

DOCS = CHECKOUT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
EACH_ALONE = [pytest.param(page, id=page.stem) for page in PAGES]
_BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r"# (?P<name>[\w.-]+\.(yaml|csv))\n")


def lay_out_images(folder: Path) -> None:
    """A user's own cut-outs and scenes, under their own names."""
    for there, here in (("cutouts/bird", "cutouts/red fox"), ("cutouts/car", "cutouts/tractor"),
                        ("backgrounds/sand", "scenes/beach"), ("backgrounds/road", "scenes/car park"),
                        ("photographs/bird/grass", "photos/bird"), ("photographs/car/grass", "photos/car"),
                        ):  # fmt: skip
        shutil.copytree(find_resource("templates/pocket") / there, folder / here)


def commands(text: str):
    """Each command of a console block, and what it is to print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


def matches(expected: str, printed: str) -> bool:
    """Whether a text is as expected, where `…` stands for anything."""
    pattern = ".*".join(re.escape(piece.strip("\n")) for piece in expected.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def run_command(command: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a line of a console block; return the exit code, and what it prints to both streams."""
    words = shlex.split(command)
    if words[0] == "figureground" and not {"&&", "|", ">"} & set(words):
        process = Forked(words[1:], cwd=folder, env=environment, stderr=subprocess.STDOUT)
        output, _ = process.communicate()
        return process.wait(), output or ""
    ran = subprocess.run(
        command, shell=True, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return ran.returncode, ran.stdout


@pytest.mark.slow
@pytest.mark.skipif(not PAGES, reason="an installed wheel has no docs")
@pytest.mark.parametrize("page", EACH_ALONE)
def test_a_page_does_what_it_says(page, tmp_path):
    lay_out_images(tmp_path)
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "figureground").write_text(f'#!/bin/sh\nexec {sys.executable} -m figureground "$@"\n')
    (bin / "figureground").chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    environment["TQDM_DISABLE"] = "1"  # what a slow machine would say after a minute is on no page

    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        where = f"{page.name}, line {text.count(chr(10), 0, block.start()) + 1}"
        body = block["text"]
        if named := _NAMED.match(body):
            (tmp_path / named["name"]).write_text(body[named.end() :] if named["name"].endswith("csv") else body)
        elif block["kind"] == "python":
            process = Forked([], body, tmp_path, environment, stderr=subprocess.STDOUT)
            output, _ = process.communicate()
            assert process.returncode == 0, f"{where}:\n{output}"
        elif block["kind"] == "console":
            for command, expected in commands(body):
                code, output = run_command(command, tmp_path, environment)
                expected_code = 0 if "figureground: " not in expected else None
                assert code == expected_code or expected_code is None, f"{where}: {command}\n\n{output}"
                assert matches(expected, output), f"{where}: {command}\n\nexpected:\n{expected}\nprinted:\n{output}"


@pytest.mark.skipif(not PAGES, reason="an installed wheel has no docs")
def test_links_between_pages_and_from_the_readme_lead_somewhere():
    for page in [*PAGES, CHECKOUT / "README.md", CHECKOUT / "benchmarks" / "README.md"]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links to {link}, which isn't there"
