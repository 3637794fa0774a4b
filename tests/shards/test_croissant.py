"""croissant.json: mlcroissant opens it from disk alone, and reads what `load_dataset` reads."""

import hashlib
import json

import mlcroissant
import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from figureground.recipe.sample import Sample, Spec, key
from figureground.shards.card import CardContext
from figureground.shards.columns import Columns
from figureground.shards.croissant import CROISSANT
from figureground.shards.index import INDEX, finish
from figureground.shards.shard import Shard
from figureground.shards.writer import write_shard

COLUMNS = Columns(
    ("bird", "très “long” cat"), ("grass", "in a: cave", "no"), {"spurious_for": ("a", "b")}, ("source",), guide=True
)
SHARDS = [Shard("train", 0, 2, 5), Shard("train", 1, 2, 4), Shard("train_2", 0, 1, 3), Shard("train", 0, 1, 2, part=1)]
FACTS = CardContext(
    "Birds", "d3s", "Birds on\ngrass.", "@misc{x}", limits=("Small.",), uses=("Tests.",), misuses=("Life.",)
)


def results(shard):
    for i in range(shard.count):
        n = shard.part * 1000 + shard.index * 100 + i
        foreground, background = n % 2, n % 3
        spec = Spec(
            key(shard.split, foreground, background, n), shard.split, foreground, background, "x", "y", f"é {n}", n
        )
        pixels = np.random.default_rng(n).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((16, 16))
        yield Sample(spec, image, guide=image.rotate(90))


def provenance(sample):
    return {"seed": sample.spec.seed, "spurious_for": "ab"[sample.spec.seed % 2], "source": f"s{sample.spec.seed}"}


def build(out, **options):
    for shard in SHARDS:
        write_shard(out, shard, COLUMNS, results(shard), provenance, **options)
    return finish(out, SHARDS, COLUMNS, {"seed": 0}, FACTS, **options)


def test_mlcroissant_finds_nothing_wrong_but_what_only_a_publisher_knows(tmp_path):
    build(tmp_path)
    issues = mlcroissant.Dataset(jsonld=tmp_path / CROISSANT).metadata.ctx.issues
    assert not issues.errors
    assert {warning.split("schema.org/")[1].split('"')[0] for warning in issues.warnings} == {
        "license",
        "datePublished",
    }


@pytest.mark.parametrize("split", ["train", "train_2"])
def test_records_are_what_load_dataset_gives(tmp_path, split):
    build(tmp_path)
    records = mlcroissant.Dataset(jsonld=tmp_path / CROISSANT).records("default", filters={"default/split": split})
    rows = load_dataset(str(tmp_path), split=split, cache_dir=str(tmp_path / "cache"))
    found = list(records)
    assert len(found) == len(rows) == {"train": 11, "train_2": 3}[split]
    for record, row in zip(found, rows, strict=True):
        assert record["default/split"] == split.encode()
        for name in ("image", "guide"):
            assert np.array_equal(record[f"default/{name}"], row[name])
        for name in ("key", "prompt", "provenance", "source"):
            assert record[f"default/{name}"].decode() == row[name]
        for name in ("foreground", "background", "spurious_for"):
            assert record[f"default/{name}"] == row[name]


def test_without_a_filter_every_record_tells_its_split(tmp_path, caplog):
    build(tmp_path)
    records = list(mlcroissant.Dataset(jsonld=tmp_path / CROISSANT).records("default"))
    assert len(records) == len({record["default/key"] for record in records}) == 14
    assert all(r["default/key"].rsplit(b"-", 3)[0] == r["default/split"] for r in records)
    assert "Could not match" not in caplog.text


def test_labels_have_their_names(tmp_path):
    build(tmp_path)
    dataset = mlcroissant.Dataset(jsonld=tmp_path / CROISSANT)
    for column, names in (
        ("foreground", COLUMNS.foregrounds),
        ("background", COLUMNS.backgrounds),
        ("spurious_for", "ab"),
    ):
        own = f"{column}_names"
        named = {record[f"{own}/label"]: record[f"{own}/name"] for record in dataset.records(own)}
        assert named == dict(enumerate(names))
    assert [record["splits/name"] for record in dataset.records("splits")] == ["train", "train_2"]


def test_every_shard_is_listed_with_its_size_and_hash(tmp_path):
    build(tmp_path)
    files = {f.content_url: f for f in mlcroissant.Dataset(jsonld=tmp_path / CROISSANT).metadata.file_objects}
    there = [*tmp_path.glob("data/*"), *tmp_path.glob("webdataset/*")]
    assert set(files) == {path.relative_to(tmp_path).as_posix() for path in there}
    for path in there:
        file = files[path.relative_to(tmp_path).as_posix()]
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file.content_size == f"{path.stat().st_size} B"
        assert file.encoding_formats == ["application/x-parquet" if path.suffix == ".parquet" else "application/x-tar"]


def test_of_tars_alone_files_and_labels_are_told(tmp_path):
    build(tmp_path, formats=("webdataset",))
    dataset = mlcroissant.Dataset(jsonld=tmp_path / CROISSANT)
    assert not dataset.metadata.ctx.issues.errors
    assert len(dataset.metadata.file_objects) == len(SHARDS)
    assert not dataset.metadata.file_sets
    assert [r["background_names/name"] for r in dataset.records("background_names")] == list(COLUMNS.backgrounds)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("license: cc-by-4.0", "https://spdx.org/licenses/CC-BY-4.0.html"),
        ("license: mine-1.0", "mine-1.0"),
        ("license: other\nlicense_name: mine\nlicense_link: https://example.org/l", "https://example.org/l"),
        ("license: [mit, cc0-1.0]", "mit, cc0-1.0"),
    ],
)
def test_the_licence_is_the_one_that_a_person_set(tmp_path, written, told):
    build(tmp_path)
    card = tmp_path / "README.md"
    assert "license" not in json.loads((tmp_path / CROISSANT).read_text())
    card.write_text(card.read_text().replace("license: unknown", written))
    finish(tmp_path, SHARDS, COLUMNS, {"seed": 0}, FACTS)
    assert json.loads((tmp_path / CROISSANT).read_text())["license"] == told
    issues = mlcroissant.Dataset(jsonld=tmp_path / CROISSANT).metadata.ctx.issues
    assert not issues.errors
    assert len(issues.warnings) == 1


def test_the_same_data_gives_the_same_bytes_wherever_it_lies(tmp_path):
    for place in ("a", "b"):
        build(tmp_path / place)
    for name in (CROISSANT, "README.md", INDEX):
        text = (tmp_path / "a" / name).read_text()
        assert text == (tmp_path / "b" / name).read_text()
        assert str(tmp_path) not in text


def test_extensions_show_in_the_version(tmp_path):
    build(tmp_path)
    assert mlcroissant.Dataset(jsonld=tmp_path / CROISSANT).metadata.version == "1.1.0"
