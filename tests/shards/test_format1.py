"""A dataset of format 1, built by the release before format 2: what reads takes it, what draws refuses it by name."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from datasets import load_dataset

from figureground.checking.dataset import check
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.curation.curating import curate
from figureground.curation.merging import MergeError, merge
from figureground.evaluation.evaluating import evaluate
from figureground.hub.manifest import select_files
from figureground.methods.d3s import D3S
from figureground.methods.extend import extend
from figureground.methods.registry import open_dataset
from figureground.recipe.document import FORMAT, read_recipe
from figureground.shards.shard import RECIPE

ARCHIVE = Path(__file__).parents[1] / "files" / "format1.tar.xz"
"""Two sets, `seed0` and `seed1`, made by `figureground build d3s --set seed=… --set 'classes=[bird, car]' --set
'backgrounds=[grass, snow]' --set 'per_cell={train: 2, validation: 1}' --set shard_size=6 --set threads=1
--set batch_size=4`."""
SMALL = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 1, "validation": 1},
    "num_inference_steps": 2, "threads": 1, "batch_size": 4, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """The two sets; nothing may change them."""
    folder = tmp_path_factory.mktemp("format1")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    return folder


def files(directory):
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def version(directory, name="recipe.json"):
    return json.loads((directory / "_figureground" / name).read_text())["format"]


@pytest.fixture(scope="module")
def curated(older, tmp_path_factory):
    return curate(
        older / "seed0", tmp_path_factory.mktemp("curated") / "c", "foreground == 'bird'", show_progress=False
    )


def test_an_older_set_has_no_findings_and_is_reported(older):
    report = check(older / "seed0", show_progress=False)
    assert report.findings == []
    assert any("format 1" in note for note in report.notes)


def test_a_copy_keeps_the_version_and_has_no_findings(curated):
    assert version(curated) == version(curated, "index.json") == 1
    assert {json.loads(path.read_text())["format"] for path in (curated / "_figureground/shards").iterdir()} == {1}
    assert check(curated, show_progress=False).findings == []
    assert len(load_dataset(str(curated), split="train")) == 4


def test_two_older_sets_are_merged_into_one_of_their_version(older, tmp_path):
    merged = merge([older / "seed0", older / "seed1"], tmp_path / "m", show_progress=False)
    assert version(merged) == version(merged, "index.json") == 1
    assert check(merged, show_progress=False).findings == []
    assert len(load_dataset(str(merged), split="train")) == 16


@pytest.mark.parametrize("formats", [None, ["parquet"]])
def test_what_push_sends_of_an_older_set_has_no_findings(older, tmp_path, formats):
    scratch, arrived = tmp_path / "scratch", tmp_path / "arrived"
    scratch.mkdir()
    for item in select_files(older / "seed0", formats, scratch):
        (arrived / item.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(item.file, arrived / item.path)
    assert check(arrived, show_progress=False).findings == []
    assert "format" not in json.loads((arrived / RECIPE).read_text())
    assert len(load_dataset(str(arrived), split="train")) == 8


def test_a_classifier_is_evaluated_on_an_older_set(older, tmp_path):
    done = evaluate(older / "seed0", ["pocket"], out=tmp_path / "e", device="cpu", show_progress=False)
    assert done.report["dataset"]["samples"] == 12


def test_an_older_set_is_drawn_without_its_guides_and_the_reason_is_given(older, tmp_path, capsys):
    copy = shutil.copytree(older / "seed0", tmp_path / "copy")
    assert main(["show", str(copy)]) == 0
    assert (copy / "preview.png").stat().st_size > 0
    assert open_dataset(copy) is None
    errors = capsys.readouterr().err
    assert "copy has format 1" in errors
    assert "gone" not in errors


def test_build_and_extend_refuse_an_older_set_and_leave_it(older):
    before = files(older / "seed0")
    fields = read_recipe(older / "seed0" / RECIPE)
    with pytest.raises(FiguregroundError, match=f"seed0 is of format 1.*format {FORMAT}.*--recipe"):
        D3S.from_recipe(fields).build(older / "seed0", show_progress=False)
    with pytest.raises(FiguregroundError, match=f"seed0 is of format 1.*format {FORMAT}.*extend"):
        extend(older / "seed0", {"train": 3}, show_progress=False)
    assert files(older / "seed0") == before


def test_sets_of_two_versions_are_not_merged(older, newer, tmp_path):
    with pytest.raises(MergeError, match=r"seed0 .*format 1 and .*newer .*format 2"):
        merge([newer, older / "seed0"], tmp_path / "m", show_progress=False)


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    return D3S(**SMALL).build(tmp_path_factory.mktemp("new") / "newer", show_progress=False)


def test_recipe_index_and_markers_say_the_version_and_identity_covers_it(newer):
    assert version(newer) == version(newer, "index.json") == FORMAT
    assert {json.loads(path.read_text())["format"] for path in (newer / "_figureground/shards").iterdir()} == {FORMAT}
    assert D3S(**SMALL).identity()["format"] == FORMAT
    assert check(newer, show_progress=False).findings == []


@pytest.mark.parametrize(
    ("file", "value", "finding"),
    [
        ("recipe.json", 1, "several format versions"),
        ("index.json", 1, "several format versions"),
        ("shards/train-00000-of-00001.json", 1, "several format versions"),
        ("recipe.json", 99, "format 99"),
        ("recipe.json", "two", "format two"),
    ],
)
def test_check_finds_files_of_another_version(newer, tmp_path, file, value, finding):
    copy = shutil.copytree(newer, tmp_path / "copy")
    path = copy / "_figureground" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": value}))
    assert any(finding in line and file in line for line in check(copy, show_progress=False).findings)


def test_a_version_from_the_future_is_refused_by_what_reads_and_what_draws(newer, tmp_path):
    copy = shutil.copytree(newer, tmp_path / "copy")
    path = copy / RECIPE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    for attempt in (
        lambda: curate(copy, tmp_path / "c", "foreground == 'bird'", show_progress=False),
        lambda: D3S(**SMALL).build(copy, show_progress=False),
        lambda: extend(copy, {"train": 3}, show_progress=False),
    ):
        with pytest.raises(FiguregroundError, match=f"format {FORMAT + 1}"):
            attempt()
