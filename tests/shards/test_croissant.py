"""croissant.json: mlcroissant opens it from disk alone, and reads what `load_dataset` reads."""

import hashlib
import json

import mlcroissant
import numpy as np
import pytest
import rdflib
from datasets import load_dataset
from PIL import Image
from tiny_datasets import make_dataset

from figureground.curation.curating import curate
from figureground.recipe.sample import Sample, Spec, make_key
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.croissant import CROISSANT
from figureground.shards.index import INDEX, finish, rewrite_croissant, rewrite_with_labels
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
            make_key(shard.split, foreground, background, n), shard.split, foreground, background, "x", "y", f"é {n}", n
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


def test_files_and_labels_are_reported_for_tars_alone(tmp_path):
    build(tmp_path, formats=("webdataset",))
    dataset = mlcroissant.Dataset(jsonld=tmp_path / CROISSANT)
    assert not dataset.metadata.ctx.issues.errors
    assert len(dataset.metadata.file_objects) == len(SHARDS)
    assert not dataset.metadata.file_sets
    assert [r["background_names/name"] for r in dataset.records("background_names")] == list(COLUMNS.backgrounds)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("license: cc-by-4.0", "https://spdx.org/licenses/CC-BY-4.0.html"),
        ("license: mine-1.0", "mine-1.0"),
        ("license: other\nlicense_name: mine\nlicense_link: https://example.org/l", "https://example.org/l"),
        ("license: [mit, cc0-1.0]", "mit, cc0-1.0"),
    ],
)
def test_the_licence_is_the_one_that_a_person_set(tmp_path, written, expected):
    build(tmp_path)
    card = tmp_path / "README.md"
    assert "license" not in json.loads((tmp_path / CROISSANT).read_text())
    card.write_text(card.read_text().replace("license: unknown", written))
    finish(tmp_path, SHARDS, COLUMNS, {"seed": 0}, FACTS)
    assert json.loads((tmp_path / CROISSANT).read_text())["license"] == expected
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


PROV = rdflib.Namespace("http://www.w3.org/ns/prov#")
SCHEMA = rdflib.Namespace("https://schema.org/")
ORIGIN = CardContext(
    "Birds", "d3s", "Birds on grass.", "@misc{x}", {"versions": {"figureground": "9.9"}},
    checkpoint={"name": "/home/ann/sd", "revision": "abc", "license": "openrail", "link": "https://example.org/l"},
    sources=[
        {"what": "cutouts", "name": "/home/ann/birds", "images": 7, "splits": [], "skipped": 0, "license": "CC-BY-4.0",
         "license_file": "LICENSE", "credited": 0, "problem": ""}
    ],
)  # fmt: skip
LABELS = {
    "people": {"annotators": 2, "images": 5, "answers": 9},
    "shares": [
        {"question": "foreground", "images": 5, "labels": 14, "wrong": 1,
         "people": {"value": 0.8, "low": 0.4, "high": 0.9}},
        {"question": "foreground", "split": "train", "images": 3, "labels": 11, "wrong": 0,
         "people": {"value": 1.0, "low": 0.5, "high": 1.0}},
    ],
    "scorers": [{"name": "clip", "what": "foreground", "images": 14, "right": 0.7}],
}  # fmt: skip


def graph(directory):
    """The description as triples, and the node of the dataset."""
    found = rdflib.Graph().parse(data=(directory / CROISSANT).read_text(), format="json-ld")
    return found, next(found.subjects(rdflib.RDF.type, SCHEMA.Dataset))


def no_errors(directory):
    dataset = mlcroissant.Dataset(jsonld=directory / CROISSANT)
    assert not dataset.metadata.ctx.issues.errors
    return dataset


def test_it_conforms_to_1_1_which_mlcroissant_knows(tmp_path):
    build(tmp_path)
    assert no_errors(tmp_path).metadata.ctx.is_v1_1()


def test_provenance_names_checkpoint_sources_recipe_and_software_without_paths(tmp_path):
    for shard in SHARDS:
        write_shard(tmp_path, shard, COLUMNS, results(shard), provenance)
    finish(tmp_path, SHARDS, COLUMNS, {"seed": 0}, ORIGIN)
    no_errors(tmp_path)
    found, dataset = graph(tmp_path)
    activity = found.value(dataset, PROV.wasGeneratedBy)
    assert {str(found.value(used, PROV.label)) for used in found.objects(activity, PROV.used)} == {"sd", "birds"}
    assert {str(found.value(node, PROV.label)) for node in found.objects(dataset, PROV.wasDerivedFrom)} == {
        "sd",
        "birds",
    }
    assert str(found.value(found.value(activity, PROV.wasAssociatedWith), PROV.label)) == "figureground 9.9"
    plan = found.value(found.value(activity, PROV.qualifiedAssociation), PROV.hadPlan)
    assert str(plan).endswith("_figureground/recipe.json")
    terms = {str(found.value(node, SCHEMA.license)) for node in found.objects(dataset, SCHEMA.usageInfo)}
    assert terms == {"https://example.org/l", "CC-BY-4.0"}
    assert "/home/ann" not in (tmp_path / CROISSANT).read_text()


def test_a_copy_is_derived_from_its_source(tmp_path):
    source = make_dataset(tmp_path / "source")
    copy = curate(source, tmp_path / "copy", "background != 'snow'", show_progress=False)
    no_errors(copy)
    found, dataset = graph(copy)
    steps = {str(found.value(step, PROV.label)): step for step in found.objects(dataset, PROV.wasGeneratedBy)}
    assert set(steps) == {"d3s", "curate"}
    assert "background != 'snow'" in str(found.value(steps["curate"], SCHEMA.description))
    [derived] = found.objects(dataset, PROV.wasDerivedFrom)
    assert str(found.value(derived, PROV.label)) == "source"


def test_scores_are_records_and_annotations_of_the_samples(tmp_path):
    build(tmp_path)
    rows = [row["key"] for row in load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))]
    scores = tmp_path / "_figureground" / "scores"
    scores.mkdir()
    lines = [f"{key},{n / 8},{n},x" for n, key in enumerate(rows)]
    (scores / "mine.csv").write_text("\n".join(["key,p,rank,what", *lines]) + "\n")
    (scores / "broken.parquet").write_text("no")
    rewrite_croissant(tmp_path)
    dataset = no_errors(tmp_path)
    read = list(dataset.records("scores_mine"))
    assert [(r["scores_mine/key"].decode(), r["scores_mine/p"], r["scores_mine/rank"]) for r in read] == [
        (key, n / 8, n) for n, key in enumerate(rows)
    ]
    [annotation] = next(each for each in dataset.metadata.record_sets if each.id == "default").annotations
    assert [field.id.rpartition("/")[2] for field in annotation.sub_fields] == ["p", "rank", "what"]
    assert len(list(dataset.records("default", filters={"default/split": "train"}))) == 11


def test_peoples_answers_annotate_the_labels(tmp_path):
    build(tmp_path)
    rewrite_with_labels(tmp_path, LABELS)
    dataset = no_errors(tmp_path)
    fields = {field.id: field for record in dataset.metadata.record_sets for field in record.fields}
    [annotation] = fields["default/foreground"].annotations
    assert "0.4000 to 0.9000" in annotation.description
    assert not fields["default/background"].annotations
    written = json.loads((tmp_path / CROISSANT).read_text())
    default = next(each for each in written["recordSet"] if each["@id"] == "default")
    column = next(each for each in default["field"] if each["@id"] == "default/foreground")
    assert column["annotation"][0]["value"] == 0.8
    assert column["annotation"][0]["prov:wasAttributedTo"]["prov:label"] == "2 people"
    assert "5 images" in dataset.metadata.data_annotation_protocol[0]
    assert dataset.metadata.machine_annotation_tools == ["clip"]
    assert len(list(dataset.records("default", filters={"default/split": "train"}))) == 11
