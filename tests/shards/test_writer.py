"""A shard is written whole or not at all, with the same bytes each time."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import ClassLabel, Features
from PIL import Image

from figureground.core import locks
from figureground.core.files import create_text
from figureground.core.locks import lock
from figureground.pocket import world
from figureground.recipe.sample import Guide, Reject, Sample, Spec, make_key
from figureground.shards import writer
from figureground.shards.claims import claim, clean_stale, remove_locks
from figureground.shards.columns import Columns
from figureground.shards.encoding import describe_sample
from figureground.shards.formats import parquet
from figureground.shards.journal import FileJournal, make_origin
from figureground.shards.progress import Watch
from figureground.shards.shard import RECIPE, REJECTS, Shard, ShardError
from figureground.shards.writer import write_shard

COLUMNS = Columns(("bird", "cat"), ("grass", "water", "snow"))
SHARD = Shard("train", 0, 2, 8)


def make_spec(i, split="train", foreground=None, background=None):
    foreground = i % 2 if foreground is None else foreground
    background = i % 3 if background is None else background
    name = make_key(split, foreground, background, i)
    where = ["on grass", "in water", "in snow"][background % 3]
    return Spec(name, split, foreground, background, "bird", "grass", f"a photo of a bird, {where}", seed=i)


def make_sample(i, **spec):
    pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Sample(make_spec(i, **spec), Image.fromarray(pixels).resize((64, 64)))


def samples(n=8, rejected=(), **spec):
    return [Reject(make_spec(i), "flat") if i in rejected else make_sample(i, **spec) for i in range(n)]


def provenance(sample):
    return {"seed": sample.spec.seed, "note": "Käfer"}


def write(directory, results=None, shard=SHARD, columns=COLUMNS, **options):
    return write_shard(directory, shard, columns, samples() if results is None else results, provenance, **options)


def files(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def hashes(directory):
    shard_files = [name for name in files(directory) if name.startswith(("data", "webdataset", REJECTS))]
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in shard_files}


def tar_members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_a_shard_is_a_parquet_file_a_tar_and_a_marker_with_their_hashes(tmp_path):
    marker = write(tmp_path)
    assert files(tmp_path) == [
        "_figureground/shards/train-00000-of-00002.json",
        "data/train-00000-of-00002.parquet",
        "webdataset/train-00000-of-00002.tar",
    ]
    assert json.loads((tmp_path / SHARD.path("marker")).read_text()) == marker
    assert {name: file["sha256"] for name, file in marker["files"].items()} == hashes(tmp_path)
    assert all((tmp_path / name).stat().st_size == file["bytes"] for name, file in marker["files"].items())
    assert (marker["samples"], marker["planned"], marker["rejects"]) == (8, 8, {})
    assert marker["cells"] == [[0, 0, 2], [0, 1, 1], [0, 2, 1], [1, 0, 1], [1, 1, 2], [1, 2, 1]]


@pytest.mark.parametrize("image_format", ["jpg", "webp", "png"])
def test_tar_and_parquet_hold_the_same_samples_in_order(tmp_path, image_format):
    write(tmp_path, image_format=image_format)
    rows = pq.read_table(tmp_path / SHARD.path("parquet")).to_pylist()
    members = tar_members(tmp_path / SHARD.path("webdataset"))
    assert [row["key"] for row in rows] == [make_spec(i).key for i in range(8)]
    assert len(members) == 5 * len(rows)
    for i, row in enumerate(rows):
        assert row["image"] == {
            "bytes": members[f"{row['key']}.{image_format}"],
            "path": f"{row['key']}.{image_format}",
        }
        assert str(row["foreground"]).encode() == members[f"{row['key']}.foreground.cls"]
        assert str(row["background"]).encode() == members[f"{row['key']}.background.cls"]
        assert row["prompt"].encode() == members[f"{row['key']}.prompt.txt"]
        assert row["provenance"].encode() == members[f"{row['key']}.json"]
        assert json.loads(row["provenance"]) == {
            "key": row["key"],
            "split": "train",
            "foreground": ("bird", "cat")[i % 2],
            "background": ("grass", "water", "snow")[i % 3],
            "labels": {"foreground": i % 2, "background": i % 3},
            "prompt": row["prompt"],
            "seed": i,
            "note": "Käfer",
        }


def test_images_survive(tmp_path):
    write(tmp_path, image_format="png")
    row = pq.read_table(tmp_path / SHARD.path("parquet")).to_pylist()[3]
    assert np.array_equal(Image.open(io.BytesIO(row["image"]["bytes"])), make_sample(3).image)


def test_the_schema_alone_says_what_the_columns_are(tmp_path):
    write(tmp_path)
    features = Features.from_arrow_schema(pq.read_schema(tmp_path / SHARD.path("parquet")))
    assert list(features) == ["image", "foreground", "background", "prompt", "key", "provenance"]
    assert features["background"] == ClassLabel(names=["grass", "water", "snow"])


def test_the_same_samples_give_the_same_bytes(tmp_path):
    write(tmp_path / "a", samples(rejected=[2]))
    time.sleep(1.1)  # A tar records times in whole seconds.
    write(tmp_path / "b", samples(rejected=[2]))
    assert len(hashes(tmp_path / "a")) == 3
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_row_groups_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 3)
    write(tmp_path)
    metadata = pq.read_metadata(tmp_path / SHARD.path("parquet"))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 3, 2]
    assert metadata.row_group(0).column(2).has_offset_index


def test_large_images_make_row_groups_of_fewer_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BYTES_PER_GROUP", 2000)
    write(tmp_path, image_format="png")
    assert pq.read_metadata(tmp_path / SHARD.path("parquet")).num_row_groups > 2


def test_guide_mask_and_further_columns_are_in_both_formats(tmp_path):
    columns = Columns(
        ("bird", "cat"),
        ("grass", "water", "snow"),
        {"spurious_for": ("hen", "owl")},
        ("feature",),
        guide=True,
        mask=True,
    )
    scene = world.render("bird", "grass", None, world.generator("test"))
    results = [Sample(make_spec(i), scene.image, scene.image, scene[1]) for i in range(8)]
    write_shard(tmp_path, SHARD, columns, results, lambda s: {"spurious_for": "owl", "feature": f"f{s.spec.seed}"})
    row = pq.read_table(tmp_path / SHARD.path("parquet")).to_pylist()[5]
    members = tar_members(tmp_path / SHARD.path("webdataset"))
    assert list(row)[6:] == ["spurious_for", "feature", "guide", "mask"]
    assert (row["spurious_for"], members[f"{row['key']}.spurious_for.cls"]) == (1, b"1")
    assert (row["feature"], members[f"{row['key']}.feature.txt"]) == ("f5", b"f5")
    assert row["guide"]["bytes"] == members[f"{row['key']}.guide.png"]
    assert np.array_equal(Image.open(io.BytesIO(row["mask"]["bytes"])), scene[1])


@pytest.mark.parametrize(
    ("columns", "extra", "message"),
    [
        (
            Columns(("a", "b"), ("c", "d", "e"), guide=True),
            {},
            "column 'guide', but the sample has no guide",
        ),
        (Columns(("a", "b"), ("c", "d", "e"), texts=("feature",)), {}, "its provenance lacks feature"),
        (
            Columns(("a", "b"), ("c", "d", "e"), {"for": ("hen",)}),
            {"for": "cow"},
            "'cow' is no class of the column 'for'",
        ),
        (COLUMNS, {"score": float("nan")}, "can't be written as JSON"),
        (Columns(("a",), ("c", "d", "e")), {}, "foreground 1 is not a label from 0 to 0"),
    ],
)
def test_a_sample_that_lacks_something_is_refused_by_key(tmp_path, columns, extra, message):
    with pytest.raises(ShardError, match=message) as error:
        write_shard(tmp_path, SHARD, columns, samples(), lambda sample: extra)
    assert "train-000" in str(error.value)
    assert files(tmp_path) == []


def test_rejects_are_listed_with_their_reason_and_spec(tmp_path):
    marker = write(tmp_path, samples(rejected=[0, 5]))
    lines = [json.loads(line) for line in (tmp_path / SHARD.path("rejects")).read_text().splitlines()]
    assert (marker["samples"], marker["rejects"]) == (6, {"flat": 2})
    assert [(line["key"], line["reason"]) for line in lines] == [(make_spec(i).key, "flat") for i in (0, 5)]
    assert lines[1]["spec"] == make_spec(5).to_json()
    assert SHARD.path("rejects") in marker["files"]


def test_a_reject_with_a_guide_is_recorded_too(tmp_path):
    spec = Spec(
        "train-0000-00-00000", "train", 0, 0, "bird", "grass", "a bird", 1, Guide("paste", "b/1@2", box=(0, 1, 2, 3))
    )
    write(tmp_path, [Reject(spec, "flat")], Shard("train", 0, 1, 1))
    assert json.loads(next((tmp_path / REJECTS).iterdir()).read_text())["spec"]["guide"]["box"] == [0, 1, 2, 3]


def test_a_shard_in_which_everything_was_rejected_is_still_a_shard(tmp_path):
    marker = write(tmp_path, samples(rejected=range(8)))
    assert (marker["samples"], marker["rejects"], marker["cells"]) == (0, {"flat": 8}, [])
    assert pq.read_table(tmp_path / SHARD.path("parquet")).num_rows == 0
    assert tar_members(tmp_path / SHARD.path("webdataset")) == {}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (samples(7), "8 images were planned, but 7 samples and 0 rejects"),
        (samples(9), "8 images were planned, but 9 samples and 0 rejects"),
        (samples(7, rejected=[1]) + samples(2)[1:], "two results have the key 'train-0001-01-00001'"),
        (samples(8, split="validation"), "train-00000-of-00002.*belongs to the split 'validation'"),
    ],
)
def test_results_that_are_not_what_was_planned_are_refused(tmp_path, results, message):
    with pytest.raises(ShardError, match=message):
        write(tmp_path, results)
    assert files(tmp_path) == []


def test_an_error_while_rendering_leaves_nothing(tmp_path):
    def results():
        yield from samples(5)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write(tmp_path, results())
    assert files(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path)
    assert files(tmp_path) == []


def test_one_format_alone_is_written(tmp_path):
    write(tmp_path / "p", formats=("parquet",))
    write(tmp_path / "w", formats=("webdataset",))
    write(tmp_path / "both")
    assert hashes(tmp_path / "p") | hashes(tmp_path / "w") == hashes(tmp_path / "both")
    with pytest.raises(ShardError, match="formats: tar given; choose from parquet, webdataset"):
        write(tmp_path / "x", formats=("tar",))


def test_a_finished_shard_is_never_rewritten(tmp_path):
    write(tmp_path)
    before = hashes(tmp_path)
    with pytest.raises(ShardError, match="already done"):
        write(tmp_path, samples(rejected=[1]))
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("alike", [True, False])
def test_when_another_process_finishes_the_same_shard_first_its_marker_stands(tmp_path, monkeypatch, alike):
    first = write(tmp_path / "first", samples(rejected=[] if alike else [1]))
    marker = (tmp_path / "first" / SHARD.path("marker")).read_bytes()
    link = os.link

    def slower(source, target):
        target.write_bytes(marker)
        link(source, target)

    monkeypatch.setattr(os, "link", slower)
    if alike:
        assert write(tmp_path / "out") == first
    else:
        with pytest.raises(ShardError, match="another process wrote it at the same time"):
            write(tmp_path / "out")
    assert (tmp_path / "out" / SHARD.path("marker")).read_bytes() == marker


def test_leftovers_without_a_marker_are_written_anew(tmp_path):
    write(tmp_path, samples(rejected=[1]))
    (tmp_path / SHARD.path("marker")).unlink()
    (tmp_path / SHARD.path("webdataset")).write_bytes(b"cut")
    write(tmp_path, formats=("parquet",))
    assert files(tmp_path) == [SHARD.path("marker"), SHARD.path("parquet")]
    assert pq.read_table(tmp_path / SHARD.path("parquet")).num_rows == 8


def test_where_hard_links_fail_the_marker_is_still_exclusive(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    marker = write(tmp_path)
    assert json.loads((tmp_path / SHARD.path("marker")).read_text()) == marker
    with pytest.raises(FileExistsError):
        create_text(tmp_path / SHARD.path("marker"), "{}")


@pytest.mark.parametrize("split", ["", "a-b", "a.b", "../x"])
def test_split_names_are_plain(split):
    with pytest.raises(ShardError, match="letters, digits and '_'"):
        Shard(split, 0, 1, 4)


@pytest.mark.parametrize("name", ["a.b", "a/b", "a b", ""])
def test_keys_that_a_tar_would_misread_are_refused(tmp_path, name):
    sample = make_sample(0)
    sample.spec = Spec(name, "train", 0, 0, "bird", "grass", "a bird", 0)
    with pytest.raises(ShardError, match="a key must not contain dots"):
        write(tmp_path, [sample], Shard("train", 0, 1, 1))


def test_webdataset_reads_a_shard(tmp_path):
    write(tmp_path)
    dataset = webdataset.WebDataset([str(tmp_path / SHARD.path("webdataset"))], shardshuffle=False).decode("pil")
    read = list(dataset.to_tuple("jpg", "foreground.cls", "background.cls", "prompt.txt", "json"))
    assert [(f, b, p) for _, f, b, p, _ in read] == [
        (make_spec(i).foreground, make_spec(i).background, make_spec(i).prompt) for i in range(8)
    ]
    assert read[3][0].size == (64, 64)
    assert read[3][4]["seed"] == 3


# Processes that are killed, and processes that compete

HOLD = """
import sys
from pathlib import Path
from figureground.shards.claims import claim
from figureground.shards.shard import Shard

with claim(Path({directory!r}), Shard("train", 0, 2, 8)) as held:
    assert held
    print("ready", flush=True)
    sys.stdin.read()
"""

WRITE = """
import importlib.util, time
from pathlib import Path

spec = importlib.util.spec_from_file_location("test_writer_in_a_child", {file!r})
test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test)

def wait_for_death(*_):
    print("ready", flush=True)
    time.sleep(600)

def results():
    for i, sample in enumerate(test.samples(rejected=[2])):
        if i == 6 and {die!r} == "while rendering":
            wait_for_death()
        yield sample

if {die!r} == "before the marker":
    test.writer.create_text = wait_for_death
with test.claim(Path({directory!r}), test.SHARD):
    test.write(Path({directory!r}), results())
"""


@contextlib.contextmanager
def child(code, directory, **values):
    """A process that has the claim on a shard."""
    source = Path(writer.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code.format(directory=str(directory), **values)],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("die", "temporary"), [("while rendering", 2), ("before the marker", 0)])
def test_a_build_killed_within_a_shard_ends_as_an_undisturbed_one(tmp_path, die, temporary):
    write(tmp_path / "undisturbed", samples(rejected=[2]))
    out = tmp_path / "killed"
    with child(WRITE, out, file=__file__, die=die) as process:
        assert clean_stale(out) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / SHARD.path("marker")).exists()
    assert len([name for name in files(out) if name.endswith(".tmp")]) == temporary
    assert len(clean_stale(out)) == temporary
    with claim(out, SHARD) as held:
        assert held
        write(out, samples(rejected=[2]))
    remove_locks(out)
    assert hashes(out) == hashes(tmp_path / "undisturbed")
    assert files(out) == files(tmp_path / "undisturbed")


def test_only_one_process_has_a_shard(tmp_path):
    with child(HOLD, tmp_path):
        with claim(tmp_path, SHARD) as held:
            assert not held
        with claim(tmp_path, Shard("train", 1, 2, 8)) as held:
            assert held
        remove_locks(tmp_path)
        with claim(tmp_path, SHARD) as held:
            assert not held
    with claim(tmp_path, SHARD) as held:
        assert held


def test_a_lock_that_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    take, waiting = locks.lock_file, [True]

    def removed_before_it_was_ours(handle, **kind):
        if waiting and waiting.pop():
            path.unlink()
        return take(handle, **kind)

    monkeypatch.setattr(locks, "lock_file", removed_before_it_was_ours)
    with lock(path) as held, lock(path) as second:
        assert (held, second, path.exists()) == (True, False, True)


def test_where_there_are_no_locks_shards_are_built_and_nothing_is_removed(tmp_path, monkeypatch):
    write(tmp_path)
    stale = tmp_path / "data" / ".train-00000-of-00002.parquet.77-0123456789abcdef.tmp"
    stale.touch()

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with claim(tmp_path, SHARD) as held:
        assert held
    assert clean_stale(tmp_path) == []
    assert stale.exists()


def test_cleaning_leaves_what_is_not_ours(tmp_path):
    write(tmp_path)
    ours = tmp_path / "data" / ".train-00001-of-00002.parquet.77-0123456789abcdef.tmp"
    theirs = [
        tmp_path / "data" / name
        for name in (
            ".notes.tmp",
            "train.tmp",
            ".train-00001-of-00002.parquet.tmp",
            ".train.parquet.77-abc.tmp",
            ".x.lock",
        )
    ]
    for path in [ours, *theirs]:
        path.touch()
    before = files(tmp_path)
    assert clean_stale(tmp_path) == [ours]
    remove_locks(tmp_path)
    assert files(tmp_path) == [name for name in before if not name.endswith(ours.name)]


def test_the_speed_of_a_resumed_shard_counts_only_what_was_rendered_since(tmp_path):
    specs = [make_spec(i) for i in range(8)]

    def journal():
        return FileJournal(tmp_path, SHARD, make_origin(SHARD, "abc", {}), [specs[:6], specs[6:]])

    def stop_after(n):
        yield from samples()[:n]
        raise KeyboardInterrupt

    def resume(journal):
        kept = journal.read(lambda spec: describe_sample(spec, COLUMNS, provenance(Sample(spec, None))))
        yield from (item for batch in kept for item in batch)
        yield from (make_sample(int(spec.key[-5:])) for spec in journal.missing_specs())
        time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt), journal() as first:
        write(tmp_path, stop_after(7), journal=first)
    with journal() as second:
        marker = write(tmp_path, resume(second), journal=second)
    assert (marker["planned"], marker["samples"], marker["rendered"]) == (8, 8, 2)
    assert marker["images_per_second"] == pytest.approx(2 / marker["seconds"], rel=0.01)
    (tmp_path / RECIPE).write_text("{}")
    assert Watch(tmp_path).read().total_rate == pytest.approx(2 / marker["seconds"])
    whole = write(tmp_path / "whole")
    assert "rendered" not in whole
    assert whole["images_per_second"] == pytest.approx(8 / whole["seconds"], rel=0.2)
