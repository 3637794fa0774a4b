"""Datasets that somebody else prepared: nothing outside is read, written, published or waited for; all is named."""

import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_datasets import make_dataset

from figureground.checking.dataset import check
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.core.numerics import read_numerics
from figureground.data.images import DatasetImages
from figureground.hub.manifest import select_files
from figureground.shards.finished import FinishedDataset
from figureground.shards.markers import markers

pytestmark = pytest.mark.timeout(60)

SHARD = "train-00000-of-00002"
MARKER, PARQUET, TAR = f"_figureground/shards/{SHARD}.json", f"data/{SHARD}.parquet", f"webdataset/{SHARD}.tar"
SECRET = "the secret of somebody"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("made") / "birds")


@pytest.fixture
def home(tmp_path):
    """A directory with things that are nobody's business."""
    home = tmp_path / "home"
    (home / "empty").mkdir(parents=True)
    (home / "secret").write_text(SECRET)
    return home


@pytest.fixture
def dataset(made, tmp_path, home):
    """A copy to prepare, beside the home."""
    shutil.copytree(made, tmp_path / "birds")
    return tmp_path / "birds"


def findings(directory: Path) -> list[str]:
    return check(directory, show_progress=False).findings


def place(path: Path, prepare) -> None:
    """Put something at a place where there may be a file or a directory."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True, parents=True)
    prepare(path)


def link_out(path: Path) -> None:
    depth = len(path.parent.relative_to(next(p for p in path.parents if p.name == "birds")).parts) + 1
    path.symlink_to(Path(*[".."] * depth, "home", "secret"))


COMMANDS = [
    ["show", "birds"], ["curate", "birds", "--out", "copy", "--keep", "foreground == 'bird'"],
    ["merge", "birds", "other", "--out", "copy"], ["push", "birds", "ada/birds"],
    ["extend", "birds", "--per-cell", "train=20"], ["train", "erm", "--data", "birds", "--out", "trained"],
    ["evaluate", "birds", "--classifier", "user/nowhere"],
]  # fmt: skip


@pytest.mark.parametrize("name", [
    "report.html", "preview.png", "README.md", "croissant.json", "LICENSE.md", "notice", "_figureground/recipe.json",
    "_figureground/index.json", "_figureground/numerics.json", "_figureground/scores/mine.csv",
    "_figureground/thumbnails", "_figureground/stages/references/x.png", MARKER, PARQUET, TAR,
])  # fmt: skip
@pytest.mark.parametrize("prepare", [link_out, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_leaves_the_directory_or_is_no_file_is_a_finding_and_packed_by_no_command(
    dataset, home, tmp_path, name, prepare
):
    place(dataset / name, prepare)
    found = findings(dataset)
    assert any(name in finding for finding in found)
    assert SECRET not in "".join(found)
    assert "secret" not in "".join(found)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(FiguregroundError, match=name):
        select_files(dataset, None, tmp_path / "scratch")
    with pytest.raises(FiguregroundError, match=name):
        FinishedDataset(dataset)
    assert (home / "secret").read_text() == SECRET


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_command_follows_a_link_or_waits_for_a_fifo(dataset, home, made, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").symlink_to(made)
    (dataset / "LICENSE").symlink_to("../home/secret")
    place(dataset / "report.html", link_out)
    os.mkfifo(dataset / "_figureground" / "scores.fifo")
    assert main(command) != 0
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert SECRET not in errors
    assert any(name in errors for name in ("LICENSE", "report.html", "scores.fifo"))
    assert (home / "secret").read_text() == SECRET
    assert not list(tmp_path.glob("copy/LICENSE"))


@pytest.mark.parametrize("folder", ["data", "webdataset", "_figureground", "_figureground/shards"])
def test_a_linked_folder_that_leaves_is_neither_read_nor_written(dataset, home, tmp_path, folder, capsys):
    shutil.move(dataset / folder, home / "moved")
    (dataset / folder).symlink_to(home / "moved")
    before = sorted(path.name for path in (home / "moved").rglob("*"))
    for command in (["show", str(dataset)], ["extend", str(dataset), "--per-cell", "train=9"], ["check", str(dataset)]):
        assert main(command) == 1
        assert folder in "".join(capsys.readouterr())
    assert sorted(path.name for path in (home / "moved").rglob("*")) == before


def test_a_build_does_not_write_through_a_link_in_its_directory(home, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "_figureground").mkdir(parents=True)
    (out / "_figureground" / "shards").symlink_to(home / "empty")
    settings = ["--set", "classes=[bird, car]", "--set", "backgrounds=[grass]", "--set", "per_cell.train=1"]
    assert main(["build", "d3s", *settings, "--out", str(out)]) == 1
    assert "_figureground/shards" in capsys.readouterr().err
    assert list((home / "empty").iterdir()) == []


def test_lock_files_that_are_links_create_nothing_elsewhere(dataset, home, capsys):
    (dataset / "_figureground" / ".stages.lock").symlink_to(home / "new")
    assert main(["extend", str(dataset), "--per-cell", "train=20"]) == 1
    assert not (home / "new").exists()


def test_links_that_stay_inside_are_read_and_published_as_what_they_point_to(dataset, made, tmp_path):
    (dataset / "texts").mkdir()
    (dataset / "texts" / "mit").write_text("MIT License")
    (dataset / "LICENSE").symlink_to("texts/mit")
    shutil.move(dataset / PARQUET, dataset / "_figureground" / "kept.parquet")
    (dataset / PARQUET).symlink_to("../_figureground/kept.parquet")
    assert findings(dataset) == findings(made)
    (tmp_path / "scratch").mkdir()
    items = {item.path: item for item in select_files(dataset, None, tmp_path / "scratch")}
    assert items["LICENSE"].file.read_text() == "MIT License"
    assert PARQUET in items


def test_what_nobody_names_is_not_published(dataset, tmp_path):
    for name in (
        "notes.txt",
        "_figureground/secret.json",
        "_figureground/shards/notes",
        "_figureground/scores/notes.txt",
    ):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).write_text(SECRET)
    (tmp_path / "scratch").mkdir()
    items = select_files(dataset, None, tmp_path / "scratch")
    assert all(SECRET not in item.file.read_text(errors="replace") for item in items)


def test_a_snapshot_of_the_hub_cache_is_read(made, tmp_path):
    repository = tmp_path / "datasets--ada--birds"
    snapshot = repository / "snapshots" / "0123"
    (repository / "blobs").mkdir(parents=True)
    for path in made.rglob("*"):
        if path.is_file():
            blob = repository / "blobs" / hashlib.sha256(str(path).encode()).hexdigest()
            shutil.copy(path, blob)
            link = snapshot / path.relative_to(made)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    assert findings(snapshot) == findings(made)
    assert len(DatasetImages.open(snapshot).keys) == FinishedDataset(made).samples


# What is small and costs much


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_a_marker_of_ten_million_shards_costs_nothing_and_is_a_finding(dataset):
    marker = json.loads((dataset / MARKER).read_text())
    for name in markers(dataset):
        (dataset / f"_figureground/shards/{name}.json").unlink()
    marker |= {
        "shard": "train-00000-of-10000000", "split": "train", "index": 0, "of": 10_000_000, "part": 0, 
        "planned": 10**18,
        "samples": 10**18, "rejects": {}, "cells": [[0, 0, 10**18]], "files": {}, "seconds": 0, "images_per_second": 0,
    }  # fmt: skip
    (dataset / "_figureground/shards/train-00000-of-10000000.json").write_text(json.dumps(marker))
    found = findings(dataset)
    assert any("10,000,00" in finding for finding in found)


@pytest.mark.parametrize("entries", [
    {"of": 2**63}, {"planned": 2**70}, {"part": -1}, {"samples": True}, {"cells": [[0, 0, 2**64]]},
    {"rejects": {"flat": 2**64}}, {"files": {"data/x": {"bytes": -1, "sha256": ""}}},
])  # fmt: skip
def test_numbers_of_a_marker_that_are_no_counts_are_named(dataset, entries):
    edit(dataset / MARKER, **entries)
    field = next(iter(entries))
    assert any(MARKER in finding and field in finding for finding in findings(dataset))
    with pytest.raises(FiguregroundError, match=field):
        markers(dataset)


@pytest.mark.parametrize("foreign", ["../../home/secret", "/etc/passwd", "notes.txt", "_figureground/recipe.json"])
def test_a_marker_that_tells_of_foreign_files_is_refused(dataset, foreign, tmp_path):
    marker = json.loads((dataset / MARKER).read_text())
    edit(dataset / MARKER, files={**marker["files"], foreign: {"bytes": 1, "sha256": "0" * 64}})
    assert any(MARKER in finding for finding in findings(dataset))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(FiguregroundError, match="train-00000"):
        select_files(dataset, None, tmp_path / "scratch")


@pytest.mark.parametrize("name", ["_figureground/index.json", "_figureground/recipe.json", MARKER, "croissant.json"])
def test_json_that_is_nested_deeply_is_an_error_that_names_the_file(dataset, name, tmp_path, capsys):
    (dataset / name).write_text('{"a":' + "[" * 100_000)
    assert any(name in finding for finding in findings(dataset))
    for command in (["show", str(dataset)], ["curate", str(dataset), "--out", str(tmp_path / "o"), "--keep", "True"]):
        code = main(command)
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        assert "RecursionError" not in errors
        assert code == 0 or Path(name).name in errors


def test_aliases_in_a_card_that_stand_for_billions_are_a_finding_and_an_error(dataset, capsys):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    card = dataset / "README.md"
    card.write_text(card.read_text().replace("---\n", f"---\n{bomb}", 1))
    assert any("README.md" in finding for finding in findings(dataset))
    assert main(["show", str(dataset)]) == 1
    assert "README.md" in capsys.readouterr().err


def sign(dataset: Path, name: str) -> None:
    """Make the marker tell the bytes that a file has now."""
    marker = json.loads((dataset / MARKER).read_text())
    data = (dataset / name).read_bytes()
    marker["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (dataset / MARKER).write_text(json.dumps(marker))


def sparse_tar() -> bytes:
    """A member that claims 3 GiB and holds nothing, in GNU's old format for sparse files."""
    header = bytearray(tarfile.TarInfo("train-0000-00-00000.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[124:136] = b"%011o\0" % 0
    header[386:410] = b"%011o\0" % (3 * 2**30) + b"%011o\0" % 0
    header[483:495] = b"%011o\0" % (3 * 2**30)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def test_a_sparse_tar_is_a_finding_and_takes_no_memory(dataset):
    (dataset / TAR).write_bytes(sparse_tar())
    with tarfile.open(dataset / TAR) as tar:
        assert tar.next().issparse()
    sign(dataset, TAR)
    assert any(TAR in finding and "3,221,225,472" in finding for finding in findings(dataset))
    shutil.rmtree(dataset / "data")
    edit(dataset / "_figureground/index.json", formats=["webdataset"])
    with pytest.raises(FiguregroundError, match="3,221,225,472"):
        list(FinishedDataset(dataset).stored(FinishedDataset(dataset).shards[0]))


def test_a_parquet_file_that_inflates_is_a_finding_and_takes_no_memory(dataset):
    table = pq.read_table(dataset / PARQUET)
    large = pa.array([" " * 2**27] + [""] * (len(table) - 1))
    place = table.schema.get_field_index("prompt")
    pq.write_table(table.set_column(place, "prompt", large), dataset / PARQUET, compression="zstd")
    assert (dataset / PARQUET).stat().st_size < 2**18
    sign(dataset, PARQUET)
    assert any(PARQUET in finding and "expand to" in finding for finding in findings(dataset))
    with pytest.raises(FiguregroundError, match="expand to"):
        list(FinishedDataset(dataset).stored(FinishedDataset(dataset).shards[0]))


def png_of(edge: int) -> bytes:
    """The head of a PNG that claims to be a large square of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", edge, edge, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("edge", [9_000, 100_000])
@pytest.mark.filterwarnings("error")
def test_an_image_that_claims_to_be_huge_is_a_finding(dataset, edge):
    table = pq.read_table(dataset / PARQUET)
    rows = [{**each, "bytes": png_of(edge)} for each in table["image"].to_pylist()]
    at = table.schema.get_field_index("image")
    pq.write_table(
        table.set_column(at, table.schema.field(at), pa.array(rows, table.schema.field(at).type)), dataset / PARQUET
    )
    sign(dataset, PARQUET)
    assert any("decoded" in finding for finding in findings(dataset))
    data = DatasetImages.open(dataset)
    with pytest.raises(FiguregroundError, match="decoded"):
        next(data.read([0]))[1]()


def test_an_image_of_a_set_is_not_opened_by_another_decoder(dataset):
    buffer = io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    table = pq.read_table(dataset / PARQUET)
    rows = [{**each, "bytes": buffer.getvalue()} for each in table["image"].to_pylist()]
    at = table.schema.get_field_index("image")
    pq.write_table(
        table.set_column(at, table.schema.field(at), pa.array(rows, table.schema.field(at).type)), dataset / PARQUET
    )
    sign(dataset, PARQUET)
    assert any("can't be decoded" in finding for finding in findings(dataset))


def replaced(document, places, value):
    """The document with another value at a place, or nothing there if the value is `...`."""
    at = document
    for name in places[:-1]:
        at = at[name]
    if value is ...:
        del at[places[-1]]
    else:
        at[places[-1]] = value
    return document


DAMAGED = [
    (("samples",), float("nan")), (("samples",), []), (("planned",), 10**30), (("shards",), [{}]), (("shards",), -1),
    (("splits",), ...), (("splits", "train", "cells"), [[0, 99, 1]]), (("splits", "train", "cells"), [[0]]),
    (("shards", 0, "files"), {"x": 3}), (("columns",), -1), (("columns", "foregrounds"), [3]),
    (("columns", "more"), 1), (("formats",), [[[1]]]), (("formats",), []), (("image_format",), {}), (("card",), None),
    (("card",), []), (("card", "facts", "sources"), [3]), (("card", "facts", "title"), None),
    (("card", "facts", "more"), 1), (("card", "facts", "concepts"), [{"losses": 3}]), (("rejects",), {"flat": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("places", "value"), DAMAGED, ids=lambda part: str(part)[:40])
def test_a_damaged_index_is_named_by_every_command(dataset, tmp_path, capsys, places, value):
    index = dataset / "_figureground" / "index.json"
    index.write_text(json.dumps(replaced(json.loads(index.read_text()), places, value)))
    out = str(tmp_path / "out")
    for command in (["show"], ["check"], ["curate", "--keep", "True", "--out", out], ["groups"]):
        assert main([command[0], str(dataset), *command[1:]]) == 1
        captured = capsys.readouterr()
        assert "index.json" in captured.out + captured.err
        assert "--debug" not in captured.err
        assert len(captured.err.splitlines()) <= 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("listing", [None, 3, [3], [{}], [{"@type": "FileObject", "contentUrl": 3}]])
def test_a_damaged_croissant_is_a_finding(dataset, listing):
    (dataset / "croissant.json").write_text(json.dumps({"distribution": listing}))
    found = [line for line in findings(dataset) if line.startswith("croissant.json")]
    assert found
    assert not any("Error" in line for line in found)


@pytest.mark.parametrize("change", [{"dtype": {}}, {"device": None}, {"batch_size": [{}]}, {"mixed": 3}])
def test_damaged_numerics_are_named(tmp_path, change):
    whole = {"device": "cpu", "dtype": "float32", "batch_size": 4, "threads": 1, "versions": {}, "mixed": []}
    path = tmp_path / "_figureground" / "numerics.json"
    path.parent.mkdir()
    path.write_text(json.dumps(whole))
    assert read_numerics(path) == whole
    path.write_text(json.dumps({**whole, **change}))
    with pytest.raises(FiguregroundError, match=r"numerics\.json") as error:
        read_numerics(path)
    assert next(iter(change)) in str(error.value)
