"""The folder beside the page: whose it is, and what is left of a run that fails or is killed."""

import os
import re
import resource
import shutil

import pytest
from tiny_datasets import make_dataset

from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError
from figureground.core.locks import lock
from figureground.report.sheet import write_sheet
from figureground.shards.index import rewrite_descriptions


@pytest.fixture
def out(tmp_path):
    return make_dataset(tmp_path / "set")


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_folder_is_replaced_whole(out):
    write_sheet(out)
    before = listing(out / "report")
    (out / "report/thumbnails/of-an-earlier-build").mkdir()
    write_sheet(out)
    assert listing(out / "report") == before
    assert not (out / "report/thumbnails/of-an-earlier-build").exists()
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_somebody_else_is_refused_and_stays(out):
    mine = out / "report/thesis.tex"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(FiguregroundError, match=r"report.*thesis\.tex"):
        write_sheet(out)
    assert listing(out / "report") == {mine.relative_to(out / "report"): b"mine"}
    assert not (out / "report.html").exists()


def test_a_file_that_somebody_put_into_the_folder_is_not_lost(out):
    write_sheet(out)
    (out / "report/notes.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"notes\.txt"):
        write_sheet(out)
    assert (out / "report/notes.txt").read_text() == "mine"


def test_a_folder_that_only_looks_like_ours_is_refused(out):
    (out / "report/data").mkdir(parents=True)
    with pytest.raises(FiguregroundError, match=r"about\.json"):
        write_sheet(out)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_or_a_file_in_its_place_is_refused(out, tmp_path, kind):
    if kind == "link":
        write_sheet(out)
        shutil.move(out / "report", tmp_path / "elsewhere")
        (out / "report").symlink_to(tmp_path / "elsewhere")
        before = listing(tmp_path / "elsewhere")
    else:
        (out / "report").write_text("mine")
    with pytest.raises(FiguregroundError, match="report"):
        write_sheet(out)
    if kind == "link":
        assert listing(tmp_path / "elsewhere") == before
    else:
        assert (out / "report").read_text() == "mine"


def test_the_folder_is_no_finding_of_a_check(out):
    before = check(out, show_progress=False).findings
    write_sheet(out)
    rewrite_descriptions(out)  # the card shows the preview
    assert check(out, show_progress=False).findings == before


def test_an_empty_folder_is_used(out):
    (out / "report").mkdir()
    write_sheet(out)
    assert (out / "report/data/index.js").exists()


def test_what_a_killed_run_left_is_removed(out):
    left = out / ".report.123-0123456789abcdef.tmp"
    (left / "thumbnails").mkdir(parents=True)
    (left / "thumbnails/0.png").write_bytes(b"half")
    others = out / ".report.of-mine.tmp"
    others.mkdir()
    write_sheet(out)
    assert not left.exists()
    assert others.exists()


def test_two_runs_at_once_do_not_mix(out):
    with lock(out / ".report.lock") as held:
        assert held
        with pytest.raises(FiguregroundError, match="Another process"):
            write_sheet(out)
    write_sheet(out)


def test_a_full_disk_leaves_the_earlier_page(out):
    """A limit on the size of files makes a write stop in the middle, as a full disk does."""
    write_sheet(out)
    before = listing(out / "report")

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        with pytest.raises(FiguregroundError, match=re.escape(str(out))):
            write_sheet(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(out / "report") == before
    assert [path.name for path in out.iterdir() if path.name.startswith(".report.") and path.is_dir()] == []


def test_the_folder_says_who_made_it(out):
    write_sheet(out)
    assert (out / "report/about.json").read_text().startswith('{"made_by": "figureground ')
    assert sorted(os.listdir(out / "report"))[0] == "about.json"
