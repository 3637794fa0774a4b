"""Datasets, splits and extensions of which every image is rejected: an error, and never taken for finished."""

import json

import pytest
from tiny_checkpoints import add_safety_checker, make_checkpoint

from figureground.checking.dataset import check
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.methods.d3s import D3S
from figureground.methods.extend import extend
from figureground.recipe.sample import Reject
from figureground.shards import index
from figureground.shards.card_file import CARD
from figureground.shards.empty_splits import NothingLeft
from figureground.shards.markers import markers
from figureground.shards.shard import Shard
from figureground.shards.writer import write_shard

TINY = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 1, "validation": 1},
    "num_inference_steps": 2, "size": 32, "threads": 1, "device": "cpu", "shard_size": 4, "batch_size": 4,
    "image_format": "png",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def flagging(tmp_path_factory):
    folder = make_checkpoint("sd1", tmp_path_factory.mktemp("flagging"))
    add_safety_checker(folder)
    return folder


def settings(**fields):
    values = {**TINY, "classes": "[bird, car]", "backgrounds": "[grass, snow]", **fields}
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def reject_all(out, builder, chosen):
    """Make a finished dataset one in which every image of some shards was rejected."""
    plan, columns = builder.plan(), builder.columns()
    for planned in plan.shards():
        shard = Shard(planned.split, planned.index, planned.of, planned.count, planned.part)
        if chosen(shard):
            for kind in ("marker", "parquet", "webdataset"):
                (out / shard.path(kind)).unlink()
            rejects = [Reject(spec, "flat") for spec in plan.specs(planned)]
            write_shard(out, shard, columns, rejects, lambda sample: {}, image_format="png")


def test_a_build_without_a_single_image_ends_with_an_error_and_is_no_dataset(flagging, tmp_path, capsys):
    out = tmp_path / "d3s"
    build = ["build", "d3s", *settings(checkpoint=flagging), "--out", str(out)]
    for _ in range(2):  # given again, it says so again
        assert main(build) == 1
        errors = capsys.readouterr().err
        assert "8 safety-flagged" in errors
        assert "safety=off" in errors
    assert not (out / index.INDEX).exists()
    assert not (out / CARD).exists()
    findings = check(out, show_progress=False).findings
    assert any("8 safety-flagged" in line for line in findings)
    other = str(tmp_path / "other")
    for command in (
        ["curate", str(out), "--keep", "True", "--out", other], ["merge", str(out), str(out), "--out", other],
        ["evaluate", str(out), "--classifier", "pocket"], ["extend", str(out), "--per-cell", "train=2"],
        ["show", str(out)],
    ):  # fmt: skip
        assert main(command) in (1, 2), command
    assert not (tmp_path / "other").exists()


def test_a_build_whose_first_images_are_all_rejected_stops_early_and_leaves_no_shard(flagging, tmp_path, capsys):
    out = tmp_path / "d3s"
    large = settings(checkpoint=flagging, per_cell="{train: 50}", shard_size=200)
    assert main(["build", "d3s", *large, "--out", str(out)]) == 1
    errors = capsys.readouterr().err
    assert "32 safety-flagged" in errors
    assert "safety=off" in errors
    assert not markers(out)
    assert not [path for folder in ("data", "webdataset") for path in (out / folder).glob("*")]
    assert main(["check", str(out)]) == 1


def test_a_run_of_rejects_is_no_reason_to_stop_where_images_were_kept(flagging, tmp_path):
    fields = {**TINY, "per_cell": {"train": 10, "validation": 1}, "shard_size": 40}
    out = D3S("pocket", checkpoint=str(flagging), safety="off", **fields).build(tmp_path / "d3s", show_progress=False)
    plan = D3S("pocket", checkpoint=str(flagging), **fields)
    recipe = plan.recipe(out / "_figureground")
    (out / "_figureground" / "recipe.json").write_text(json.dumps(recipe))
    train = Shard("train", 0, 1, 40)
    for kind in ("marker", "parquet", "webdataset"):
        (out / train.path(kind)).unlink()
    with pytest.raises(NothingLeft, match="is finished, but the split 'train' is empty"):
        plan.build(out, show_progress=False)
    assert markers(out)[train.name]["rejects"] == {"safety-flagged": 40}


def test_a_split_or_an_extension_without_an_image_is_an_error_and_a_finding(checkpoint, tmp_path, capsys):
    builder = D3S("pocket", checkpoint=str(checkpoint), **TINY)
    out = builder.build(tmp_path / "d3s", show_progress=False)
    extend(out, {"train": 2}, show_progress=False)
    assert check(out, show_progress=False).findings == []
    larger = D3S("pocket", checkpoint=str(checkpoint), extended=[{"train": 2, "validation": 1}], **TINY)
    reject_all(out, larger, lambda shard: shard.part == 1)
    assert main(["extend", str(out), "--per-cell", "train=2"]) == 1
    assert "extension 1 added nothing" in capsys.readouterr().err
    (finding,) = check(out, show_progress=False).findings
    assert "xtension 1" in finding
    reject_all(out, larger, lambda shard: shard.split == "validation")
    with pytest.raises(NothingLeft, match=r"'validation' .*4 flat"):
        larger.build(out, show_progress=False)
    assert any("'validation'" in line for line in check(out, show_progress=False).findings)
    # A copy may leave a split out; a copy of nothing can't be made.
    copy = tmp_path / "copy"
    assert main(["curate", str(out), "--keep", "split == 'train'", "--out", str(copy)]) == 0
    report = check(copy, show_progress=False)
    assert report.findings == []
    assert any("'validation'" in line for line in report.notes)
    assert main(["curate", str(out), "--keep", "split == 'validation'", "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
    assert main(["evaluate", str(out), "--classifier", "pocket", "--split", "validation"]) == 1
    # An index without a sample, as earlier releases wrote, is taken for no dataset.
    text = json.loads((out / index.INDEX).read_text())
    (out / index.INDEX).write_text(json.dumps({**text, "samples": 0}))
    with pytest.raises(FiguregroundError, match="no image is left"):
        main_or_raise(["merge", str(out), str(copy), "--out", str(tmp_path / "merged")])
    assert not (tmp_path / "merged").exists()


def main_or_raise(arguments):
    from pathlib import Path

    from figureground.curation.merging import merge

    merge([Path(arguments[1]), Path(arguments[2])], Path(arguments[4]), show_progress=False)
