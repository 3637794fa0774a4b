"""The mark of generated images: every image of a build carries it, in all formats, and nothing else changes by it."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tiny_datasets import make_dataset

from figureground.checking.dataset import check
from figureground.curation.curating import curate
from figureground.methods.d3s import D3S
from figureground.methods.extend import extend
from figureground.recipe.document import seal
from figureground.recipe.sample import IMAGE_FORMATS, Guide, Sample, Spec, make_key
from figureground.shards.card_file import CARD
from figureground.shards.columns import Columns
from figureground.shards.finished import FinishedDataset
from figureground.shards.formats.format import load_formats
from figureground.shards.shard import RECIPE, Shard
from figureground.shards.writer import write_shard
from figureground.sources import marks
from figureground.sources.images import encode, open_stored

RDF_DESCRIPTION = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
SMALL = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 2, "validation": 1},
    "num_inference_steps": 2, "threads": 1, "batch_size": 4, "device": "cpu", "shard_size": 4, "image_format": "webp",
}  # fmt: skip


def stored(directory, split=""):
    """The images of each shard, from every format."""
    dataset = FinishedDataset(directory)
    for shard in dataset.shards:
        for name in dataset.formats:
            path = directory / shard.path(name)
            yield from (sample.image for sample in load_formats()[name].read(path) if shard.split.startswith(split))


def source_types(images):
    return {marks.read_source_type(open_stored(image)) for image in images}


def without_marks(directory):
    """Make a recipe that of a dataset begun by a release without marks."""
    path = directory / RECIPE
    recipe = json.loads(path.read_text())
    del recipe["marks"], recipe["saved_sha256"]
    path.write_text(json.dumps(seal(recipe)))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Nothing may change it."""
    return D3S("pocket", **SMALL).build(tmp_path_factory.mktemp("built") / "set", show_progress=False)


@pytest.mark.parametrize("format", IMAGE_FORMATS)
@pytest.mark.parametrize("kind", [marks.GENERATED, marks.COMPOSITE])
def test_a_mark_is_read_back_and_changes_no_pixel(format, kind):
    image = Image.effect_noise((24, 16), 80).convert("RGB")
    marked = encode(image, format, marks.make_packet(kind))
    assert marked == encode(image, format, marks.make_packet(kind))
    opened, plain = open_stored(marked), open_stored(encode(image, format))
    assert marks.read_source_type(opened) == kind
    assert marks.read_source_type(plain) is None
    assert np.array_equal(opened, plain)
    [found] = ElementTree.fromstring(opened.info["xmp"]).iter(RDF_DESCRIPTION)
    assert found.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == kind


def test_files_are_equally_longer_whatever_the_mark_says():
    image = Image.effect_noise((24, 16), 80).convert("RGB")
    for format in IMAGE_FORMATS:
        sizes = {len(encode(image, format, marks.make_packet(kind))) for kind in (marks.GENERATED, marks.COMPOSITE)}
        assert len(sizes) == 1


def test_images_with_a_guide_are_composites_and_others_are_generated(tmp_path):
    guide = Guide("paste", "a/b@c", "d/e@f", (0, 0, 4, 4))
    samples = [
        Sample(
            Spec(make_key("train", 0, 0, n), "train", 0, 0, "bird", "grass", "a bird", n, given),
            Image.new("RGB", (8, 8)),
        )
        for n, given in enumerate((None, guide))
    ]
    write_shard(
        tmp_path, shard := Shard("train", 0, 1, 2), Columns(("bird",), ("grass",)), samples, lambda sample: {},
        formats=("parquet",), marked=True,
    )  # fmt: skip
    images = [open_stored(each.image) for each in load_formats()["parquet"].read(tmp_path / shard.path("parquet"))]
    assert [marks.read_source_type(image) for image in images] == [marks.GENERATED, marks.COMPOSITE]


def test_every_image_of_a_build_has_the_mark_and_copies_keep_it(built, tmp_path):
    images = list(stored(built))
    assert len(images) == 2 * 12
    assert source_types(images) == {marks.COMPOSITE}
    assert {len(open_stored(image).info["xmp"]) for image in images} == {marks.LENGTH}
    assert check(built, show_progress=False).findings == []
    copy = curate(built, tmp_path / "copy", "foreground == 'bird'", show_progress=False)
    assert set(stored(copy)) < set(images)
    assert FinishedDataset(copy).recipe["marks"] == marks.NAME
    assert all(f"`{marks.NAME}`" in (directory / CARD).read_text() for directory in (built, copy))
    assert check(copy, show_progress=False).findings == []


def test_images_without_the_announced_mark_are_a_finding(tmp_path):
    directory = make_dataset(tmp_path / "set")
    path = directory / RECIPE
    path.write_text(json.dumps({**json.loads(path.read_text()), "marks": marks.NAME}))
    assert any("DigitalSourceType" in finding for finding in check(directory, show_progress=False).findings)


def test_what_was_begun_without_marks_goes_on_without_them(built, tmp_path):
    directory = tmp_path / "set"
    D3S("pocket", **SMALL).build(directory, show_progress=False)
    without_marks(directory)
    before = {path: path.read_bytes() for path in (*directory.glob("data/*"), *directory.glob("webdataset/*"))}
    removed = [path for path in (directory / "_figureground" / "shards").glob("validation*")]
    for path in removed:
        path.unlink()  # as if the build had been stopped before this shard
    (directory / "_figureground" / "index.json").unlink()
    D3S("pocket", **SMALL).build(directory, show_progress=False)
    assert source_types(stored(directory, "validation")) == {None}
    kept = {path: data for path, data in before.items() if not path.name.startswith("validation")}
    assert all(path.read_bytes() == data for path, data in kept.items())
    extend(directory, {"train": 3}, show_progress=False)
    assert "marks" not in json.loads((directory / RECIPE).read_text())
    assert marks.NAME not in (directory / CARD).read_text()
    added = [Path(directory / shard.path("parquet")) for shard in FinishedDataset(directory).shards if shard.part]
    assert source_types(each.image for path in added for each in load_formats()["parquet"].read(path)) == {None}
    assert check(directory, show_progress=False).findings == []


def test_an_extension_of_marked_images_has_marks(built, tmp_path):
    directory = tmp_path / "set"
    shutil.copytree(built, directory)
    extend(directory, {"validation": 2}, show_progress=False)
    assert len(list(stored(directory))) == 2 * 16
    assert source_types(stored(directory)) == {marks.COMPOSITE}
