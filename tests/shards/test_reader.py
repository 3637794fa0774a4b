"""Reading a shard back gives what was written, the same from either format, ready to be written again."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.recipe.sample import Guide, Sample, Spec
from figureground.shards import index
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.finished import read_finished_index
from figureground.shards.formats.parquet import Parquet
from figureground.shards.formats.tar import Tar
from figureground.shards.shard import Shard
from figureground.shards.writer import write_encoded, write_shard

COLUMNS = Columns(
    ("bird", "cat"),
    ("grass", "snow"),
    labels={"spurious_for": ("hen", "cock")},
    texts=("source",),
    guide=True,
    mask=True,
)
SHARD = Shard("train", 0, 1, 6)


def image(i):
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8))


def sample(i):
    guide = Guide("paste", f"bird/{i}.png@{i:012d}", "grass/0.png@abc", (1, 2, 9, 10), True) if i % 2 else None
    spec = Spec(f"train-{i % 2:04d}-00-{i:05d}", "train", i % 2, 0, ("bird", "cat")[i % 2], "grass", f"é {i}", i, guide)
    return Sample(spec, image(i), image(i + 50), image(i + 90).convert("L"))


def provenance(sample):
    spec = sample.spec
    return {
        "seed": spec.seed, "spurious_for": "cock", "source": "train-7", "foreground_name": spec.foreground_name,
        "background_name": "grass", "guide": asdict(spec.guide) if spec.guide else None,
    }  # fmt: skip


@pytest.fixture(params=["jpg", "png", "webp"])
def written(tmp_path, request):
    write_shard(tmp_path, SHARD, COLUMNS, [sample(i) for i in range(6)], provenance, image_format=request.param)
    return tmp_path, request.param


def test_both_formats_read_alike(written):
    directory, _ = written
    rows = list(Parquet().read(directory / SHARD.path("parquet")))
    assert rows == list(Tar().read(directory / SHARD.path("webdataset")))
    assert [row.key for row in rows] == [sample(i).spec.key for i in range(6)]
    assert rows[1].labels == {"foreground": 1, "background": 0, "spurious_for": 1}
    assert rows[1].texts == {"source": "train-7"}
    assert set(rows[1].images) == {"guide", "mask"}


def test_specs_survive(written):
    directory, _ = written
    assert [row.spec() for row in Tar().read(directory / SHARD.path("webdataset"))] == [
        sample(i).spec for i in range(6)
    ]


def test_chosen_rows_come_in_order(written):
    directory, _ = written
    for read, kind in ((Parquet().read, "parquet"), (Tar().read, "webdataset")):
        every = list(read(directory / SHARD.path(kind)))
        assert list(read(directory / SHARD.path(kind), [1, 4])) == [every[1], every[4]]


def test_what_is_read_can_be_written_again_to_the_same_bytes(written, tmp_path_factory):
    directory, image_format = written
    copy = tmp_path_factory.mktemp("copy")
    rows = Parquet().read(directory / SHARD.path("parquet"))
    write_encoded(copy, SHARD, COLUMNS, (row.encoded() for row in rows), image_format=image_format)
    for kind in ("parquet", "webdataset"):
        assert (copy / SHARD.path(kind)).read_bytes() == (directory / SHARD.path(kind)).read_bytes()


def test_columns_are_read_from_the_index(written):
    directory, image_format = written
    facts = CardContext("Title", "d3s", "Summary.", "@misc{x}")
    with pytest.raises(FiguregroundError, match="no finished dataset"):
        read_finished_index(directory)
    index.finish(directory, [SHARD], COLUMNS, {}, facts, image_format=image_format)
    assert Columns.from_json(read_finished_index(directory)["columns"]).features() == COLUMNS.features()
    saved = json.loads((directory / index.INDEX).read_text())
    for name in ("columns", "formats", "image_format", "card"):
        (directory / index.INDEX).write_text(json.dumps({key: value for key, value in saved.items() if key != name}))
        with pytest.raises(FiguregroundError, match="older release"):
            read_finished_index(directory)
    (directory / index.INDEX).write_text("{")
    with pytest.raises(FiguregroundError, match="can't be read"):
        read_finished_index(directory)
