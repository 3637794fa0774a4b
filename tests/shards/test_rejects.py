"""Rejects are read line by line, whatever the names of files hold."""

from tiny_datasets import make_dataset

from figureground.checking.dataset import check
from figureground.curation.curating import curate


def test_names_with_other_line_separators_survive_two_curations(tmp_path):
    names = "Wait\x85 a\u2028b\u2029"
    directory = make_dataset(
        tmp_path / "set", rejected=("train-0000-00-00000",),
        cutouts=lambda spec: f"{spec.foreground_name}/{names}.png@{spec.split}{spec.foreground}",
    )  # fmt: skip
    once = curate(directory, tmp_path / "once", "background != 'night'", show_progress=False)
    twice = curate(once, tmp_path / "twice", "foreground == 'bird'", show_progress=False)
    assert not check(twice, show_progress=False).findings
