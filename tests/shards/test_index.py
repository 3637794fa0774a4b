"""Once all shards are done, the directory is a dataset that every reader opens."""

import bisect
import io
import itertools
import json
import multiprocessing
import tarfile

import numpy as np
import pytest
import webdataset
import yaml
from datasets import ClassLabel, load_dataset
from PIL import Image

from figureground.recipe.sample import Reject, Sample, Spec, make_key
from figureground.shards.card_context import CardContext
from figureground.shards.claims import claim
from figureground.shards.columns import Columns
from figureground.shards.index import INDEX, finish
from figureground.shards.markers import find_missing_shards, markers
from figureground.shards.shard import Shard, ShardError
from figureground.shards.writer import write_shard

COLUMNS = Columns(("bird", "no"), ("grass", "in a: cave"))
SHARDS = [Shard("train", 0, 2, 6), Shard("train", 1, 2, 6), Shard("validation", 0, 1, 4)]
FACTS = CardContext("Birds", "d3s", "Birds on grass.", "@misc{x}")
RECIPE = {"seed": 0, "strength": 0.9}


def results(shard, rejected=()):
    for i in range(shard.count):
        n = shard.index * 100 + i
        foreground, background = n % 2, n // 2 % 2
        name = make_key(shard.split, foreground, background, n)
        spec = Spec(name, shard.split, foreground, background, "bird", "grass", f"a bird, {n}", seed=n)
        pixels = np.random.default_rng(n).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        yield Reject(spec, "flat") if i in rejected else Sample(spec, Image.fromarray(pixels).resize((32, 32)))


def provenance(sample):
    return {"seed": sample.spec.seed}


def build(out, rejected=None, **options):
    for shard in SHARDS:
        write_shard(out, shard, COLUMNS, results(shard, (rejected or {}).get(shard.name, ())), provenance, **options)
    return finish(out, SHARDS, COLUMNS, RECIPE, FACTS, **options)


def add_marker(out, shard):
    """Write the marker of a shard that nobody planned, without files."""
    marker = json.loads((out / SHARDS[0].path("marker")).read_text())
    marker |= {"shard": shard.name, "split": shard.split, "index": shard.index, "of": shard.of, "files": {}}
    (out / shard.path("marker")).write_text(json.dumps(marker))


def read(out, split):
    """Contents of a split's tars, read with the standard library alone."""
    samples = {}
    for path in sorted((out / "webdataset").glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                name, _, kind = member.name.partition(".")
                samples.setdefault(name, {})[kind] = tar.extractfile(member).read()
    return samples


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_opens_the_directory(tmp_path, streaming):
    out = tmp_path / "out"
    build(out, {"train-00001-of-00002": [0]})
    dataset = load_dataset(str(out), streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert list(dataset) == ["train", "validation"]
    assert dataset["train"].features == COLUMNS.features()
    assert dataset["train"].features["background"] == ClassLabel(names=["grass", "in a: cave"])
    for split, count in (("train", 11), ("validation", 4)):
        rows, members = list(dataset[split]), read(out, split)
        assert [row["key"] for row in rows] == list(members)
        assert len(rows) == count
        for row in rows:
            member = members[row["key"]]
            assert np.array_equal(row["image"], Image.open(io.BytesIO(member["jpg"])))
            assert [row["foreground"], row["background"]] == [
                int(member["foreground.cls"]),
                int(member["background.cls"]),
            ]
            assert row["prompt"] == member["prompt.txt"].decode()
            assert json.loads(row["provenance"]) == json.loads(member["json"])


def test_webdataset_reads_the_same_samples(tmp_path):
    index = build(tmp_path)
    urls = [str(tmp_path / tar["url"]) for tar in index["shardlists"]["train"]]
    dataset = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    tuples = list(dataset.to_tuple("jpg", "foreground.cls", "background.cls", "prompt.txt", "json"))
    rows = load_dataset(str(tmp_path), split="train", streaming=True)
    for (image, foreground, background, prompt, record), row in zip(tuples, rows, strict=True):
        assert np.array_equal(image, row["image"])
        assert (foreground, background, prompt) == (row["foreground"], row["background"], row["prompt"])
        assert record == json.loads(row["provenance"])


def test_parquet_alone_loads(tmp_path):
    build(tmp_path / "out", formats=("parquet",))
    dataset = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert (len(dataset["train"]), len(dataset["validation"])) == (12, 4)
    assert not (tmp_path / "out" / "webdataset").exists()


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_tars_alone_load_with_label_names_from_the_card(tmp_path, image_format):
    out = tmp_path / "out"
    build(out, formats=("webdataset",), image_format=image_format)
    for streaming in (False, True):
        dataset = load_dataset(str(out), streaming=streaming, cache_dir=str(tmp_path / "cache"))
        assert dataset["train"].features["foreground.cls"] == ClassLabel(names=["bird", "no"])
        rows = list(dataset["validation"])
        assert [row["__key__"] for row in rows] == list(read(out, "validation"))
        assert np.array_equal(
            rows[3][image_format], Image.open(io.BytesIO(read(out, "validation")[rows[3]["__key__"]][image_format]))
        )
        assert rows[3]["prompt.txt"] == "a bird, 3"


def test_a_shard_and_a_split_without_samples_do_no_harm(tmp_path):
    index = build(tmp_path / "out", {"train-00000-of-00002": range(6), "validation-00000-of-00001": range(4)})
    assert index["splits"]["validation"]["samples"] == 0
    for streaming in (False, True):
        dataset = load_dataset(str(tmp_path / "out"), streaming=streaming, cache_dir=str(tmp_path / "cache"))
        assert list(dataset) == ["train"]
        assert len(list(dataset["train"])) == 6
    urls = [str(tmp_path / "out" / tar["url"]) for tar in index["shardlists"]["train"]]
    assert len(list(webdataset.WebDataset(urls, shardshuffle=False))) == 6
    assert "The split `validation` was planned, but" in (tmp_path / "out/README.md").read_text()


def test_the_index_adds_up(tmp_path):
    index = build(tmp_path, {"train-00001-of-00002": [0, 3]})
    assert json.loads((tmp_path / INDEX).read_text()) == index
    assert (index["planned"], index["samples"], index["rejects"]) == (16, 14, {"flat": 2})
    assert index["splits"]["train"]["cells"] == [[0, 0, 3], [0, 1, 2], [1, 0, 4], [1, 1, 1]]
    assert index["splits"]["validation"]["shards"] == 1
    assert [shard["shard"] for shard in index["shards"]] == [shard.name for shard in SHARDS]
    for split in ("train", "validation"):
        for tar in index["shardlists"][split]:
            assert tar["filesize"] == (tmp_path / tar["url"]).stat().st_size
        assert sum(tar["nsamples"] for tar in index["shardlists"][split]) == index["splits"][split]["samples"]
        assert index["splits"][split]["bytes"]["parquet"] == sum(
            path.stat().st_size for path in (tmp_path / "data").glob(f"{split}-*")
        )


def test_nothing_is_finished_while_a_shard_is_missing(tmp_path):
    for shard in SHARDS[1:]:
        write_shard(tmp_path, shard, COLUMNS, results(shard), provenance)
    assert find_missing_shards(tmp_path, SHARDS) == SHARDS[:1]
    assert list(markers(tmp_path)) == [shard.name for shard in SHARDS[1:]]
    assert finish(tmp_path, SHARDS, COLUMNS, RECIPE, FACTS) is None
    assert not (tmp_path / "README.md").exists()


def state(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def finish_again(out):
    finish(out, SHARDS, COLUMNS, RECIPE, FACTS)


def test_finishing_again_or_twice_at_once_changes_nothing(tmp_path):
    build(tmp_path)
    before = state(tmp_path)
    processes = [multiprocessing.get_context("fork").Process(target=finish_again, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert state(tmp_path) == before


def test_a_finished_dataset_holds_no_locks_and_no_temporary_files(tmp_path):
    for shard in SHARDS:
        with claim(tmp_path, shard):
            write_shard(tmp_path, shard, COLUMNS, results(shard), provenance)
    (tmp_path / ".README.md.12-0123456789abcdef.tmp").touch()
    (tmp_path / "data" / f".{SHARDS[0].name}.parquet.12-0123456789abcdef.tmp").touch()
    foreign = {
        tmp_path / name: name.encode() for name in ("notes.txt", ".hidden", "_figureground/recipe.json", "data/.x.tmp")
    }
    for path, text in foreign.items():
        path.write_bytes(text)
    finish(tmp_path, SHARDS, COLUMNS, RECIPE, FACTS)
    assert {path: path.read_bytes() for path in tmp_path.rglob(".*")} == {
        path: text for path, text in foreign.items() if path.name.startswith(".")
    }
    assert all(path.read_bytes() == text for path, text in foreign.items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / SHARDS[1].path("webdataset")).unlink(), "webdataset/train-00001-of-00002.tar is gone"),
        (
            lambda out: (out / SHARDS[2].path("parquet")).write_bytes(b"x"),
            "validation-00000-of-00001.parquet has 1 bytes",
        ),
        (
            lambda out: (out / SHARDS[0].path("marker")).write_text("{"),
            "marker .*train-00000-of-00002.json can't be read",
        ),
        (
            lambda out: add_marker(out, Shard("test", 0, 1, 1)),
            "contains shards that this build doesn't plan: test-00000-of-00001",
        ),
    ],
)
def test_files_that_contradict_a_marker_are_named(tmp_path, spoil, message):
    build(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ShardError, match=message):
        finish(tmp_path, SHARDS, COLUMNS, RECIPE, FACTS)


def test_shards_of_another_size_or_format_are_refused(tmp_path):
    build(tmp_path, formats=("parquet",))
    with pytest.raises(ShardError, match=r"train-00000-of-00002 was built without the format 'webdataset'\. Delete"):
        finish(tmp_path, SHARDS, COLUMNS, RECIPE, FACTS)
    larger = [*SHARDS[:2], Shard("validation", 0, 1, 5)]
    with pytest.raises(ShardError, match="validation-00000-of-00001 was built from 4 images, but 5 are planned"):
        finish(tmp_path, larger, COLUMNS, RECIPE, FACTS, formats=("parquet",))


def test_the_card_counts_what_load_dataset_finds(tmp_path):
    build(tmp_path, {"train-00001-of-00002": [0]})
    header = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    assert [(s["name"], s["num_examples"]) for s in header["dataset_info"]["splits"]] == [
        ("train", 11),
        ("validation", 4),
    ]


def test_the_index_leads_to_any_sample_without_reading_those_before(tmp_path):
    index = build(tmp_path, {"train-00001-of-00002": [0, 3]})
    for split, tars in index["shardlists"].items():
        in_order = list(read(tmp_path, split))
        ends = list(itertools.accumulate(tar["nsamples"] for tar in tars))
        assert ends[-1] == len(in_order) == index["splits"][split]["samples"]
        for i, name in enumerate(in_order):
            which = bisect.bisect_right(ends, i)
            assert tars[which]["filesize"] == (tmp_path / tars[which]["url"]).stat().st_size
            with tarfile.open(tmp_path / tars[which]["url"]) as tar:
                there = list(dict.fromkeys(member.name.partition(".")[0] for member in tar))
            assert there[i - (ends[which] - tars[which]["nsamples"])] == name
