"""A format of shards that another package adds with one module and an entry point."""

import dataclasses
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import litter, markers, start, wait_for
from packages import install
from tiny_datasets import SHARDS, make_dataset

from figureground.checking.dataset import check
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.images import DatasetImages
from figureground.hub.manifest import select_files
from figureground.methods.d3s import D3S
from figureground.methods.recipe_files import make_schema
from figureground.recipe.formats import FORMATS
from figureground.shards.finished import FinishedDataset

ZIPPED = [
    "d3s", *(part for setting in (
        "classes=[bird, car]", "backgrounds=[grass, snow]", "per_cell={train: 4}", "shard_size=4", "size=32",
        "num_inference_steps=2", "batch_size=4", "threads=1", "device=cpu", "keep=[guide, mask]", "formats=[zip]",
    ) for part in ("--set", setting)),
]  # fmt: skip
"""16 images in 4 zips."""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with the format `zip`, here and in processes with the environment that this gives."""
    site = tmp_path / "site"
    text = (Path(__file__).parent / "support" / "example_format.py").read_text()
    environment = install(site, "zippedshards", text, "formats", "zip = zippedshards:Zip")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(site)
        FORMATS.reload_entry_points()
        yield environment
    FORMATS.reload_entry_points()
    sys.modules.pop("zippedshards", None)


@pytest.fixture
def zipped():
    """Add the format `zip` to this process."""
    FORMATS.add("zip", "example_format:Zip")
    yield
    FORMATS.remove("zip")


def zips(out):
    return {path.name: path.read_bytes() for path in sorted((out / "zips").iterdir())}


def test_a_format_of_another_package_goes_through_every_command(installed, tmp_path, capsys):
    def figureground(*arguments, code=0):
        assert main([str(each) for each in arguments]) == code, capsys.readouterr().err
        return "".join(capsys.readouterr())

    built, other, chosen = tmp_path / "built", tmp_path / "other", tmp_path / "chosen"
    process = start("build", *ZIPPED, "--out", str(built), "--set", "workers=2", env=installed)
    wait_for(lambda: markers(built), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    figureground("build", *ZIPPED, "--out", built)
    whole = zips(built)
    assert [path.name for path in built.iterdir() if path.name in ("data", "webdataset")] == []
    assert litter(built) == []
    name = "train-00001-of-00004"
    (built / f"_figureground/shards/{name}.json").unlink()
    (built / f"zips/{name}.zip").write_bytes(b"half")
    (built / f"zips/.{name}.zip.1-0123456789abcdef.tmp").write_bytes(b"half")
    figureground("build", *ZIPPED, "--out", built)
    assert zips(built) == whole
    assert len(whole) == 4
    assert litter(built) == []

    figureground("check", built)
    figureground("show", built)
    assert (built / "preview.png").exists()
    card = (built / "README.md").read_text()
    assert "`load_dataset` doesn't read this format (zip)" in card
    assert "configs:" not in card
    assert "import load_dataset" not in card
    files = json.loads((built / "croissant.json").read_text())["distribution"]
    assert {file["encodingFormat"] for file in files} == {"application/zip"}
    assert "zip" in figureground("curate", built, "--out", chosen, "--keep", "True", "--publish-rejects", code=2)
    figureground("curate", built, "--out", chosen, "--keep", "background == 'grass'")
    figureground("curate", built, "--out", other, "--keep", "background == 'snow'")
    figureground("merge", chosen, other, "--out", tmp_path / "merged")
    for directory, samples in ((chosen, 8), (tmp_path / "merged", 16)):
        figureground("check", directory)
        assert json.loads((directory / "_figureground/index.json").read_text())["samples"] == samples

    sys.path.remove(str(tmp_path / "site"))
    FORMATS.reload_entry_points()
    assert "'zip'" in figureground("check", built, code=1)
    assert "'zip'" in figureground("curate", built, "--out", tmp_path / "none", "--keep", "True", code=1)


def test_a_format_that_load_dataset_cannot_read_is_published_only_beside_another(zipped, tmp_path):
    alone = make_dataset(tmp_path / "alone", formats=("zip",))
    both = make_dataset(tmp_path / "both", formats=("zip", "parquet"))
    for directory, formats in ((alone, None), (both, ["zip"])):
        with pytest.raises(RecipeError, match=r"load_dataset.* zip.* parquet, webdataset"):
            select_files(directory, formats, tmp_path)
    (tmp_path / "scratch").mkdir()
    sent = {item.path.split("/")[0] for item in select_files(both, None, tmp_path / "scratch")}
    assert {"data", "zips"} <= sent
    assert "path: data/train-" in (both / "README.md").read_text()
    rows = [DatasetImages.open(directory).keys for directory in (alone, both)]
    assert rows[0] == rows[1]
    with pytest.raises(RecipeError, match=r"formats: .* parquet"):
        D3S("pocket", formats=["zip"], size=32).download_and_prepare()


def test_what_differs_between_a_zip_and_another_format_is_found(zipped, tmp_path):
    out = make_dataset(tmp_path / "set", formats=("parquet", "zip"))
    path, marker = "zips/train-00000-of-00002.zip", out / "_figureground/shards/train-00000-of-00002.json"
    before = set(check(out, show_progress=False).findings)
    samples = list(FORMATS["zip"]().read(out / path))

    def sign():
        record, data = json.loads(marker.read_text()), (out / path).read_bytes()
        record["files"][path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        marker.write_text(json.dumps(record))

    def rewrite(second):
        with (out / path).open("wb") as file:
            writer = FORMATS["zip"]().write(SimpleNamespace(file=file), None, "png")
            for sample in (samples[0], second, *samples[2:]):
                writer.add(sample.encoded())
            writer.close()
        sign()

    rewrite(dataclasses.replace(samples[1], prompt="a photo of a lynx"))
    found = set(check(out, show_progress=False).findings) - before
    assert any(path in line and "their prompt differs" in line and samples[1].key in line for line in found)
    rewrite(dataclasses.replace(samples[1], texts={"look": "odd"}))
    assert any(path in line and "look" in line for line in check(out, show_progress=False).findings)
    data = (out / path).read_bytes()
    (out / path).write_bytes(data[:100])
    assert any(path in line and "SHA-256" in line for line in check(out, show_progress=False).findings)
    sign()
    assert any(path in line and "can't be read" in line for line in check(out, show_progress=False).findings)
    marker.unlink()
    with pytest.raises(FiguregroundError, match=r"isn't finished: .* train-00000-of-00002"):
        FinishedDataset(out)


def test_an_error_of_a_format_names_the_file(zipped, tmp_path):
    out = make_dataset(tmp_path / "set", formats=("zip",))
    path = "zips/train-00000-of-00002.zip"
    data = (out / path).read_bytes()
    (out / path).write_bytes(data[:100])
    with pytest.raises(FiguregroundError, match=f"{path}.* 100 bytes"):
        list(FinishedDataset(out).stored(SHARDS[0]))
    marker = out / "_figureground/shards/train-00000-of-00002.json"
    record = json.loads(marker.read_text())
    record["files"][path] = {"bytes": 100, "sha256": hashlib.sha256(data[:100]).hexdigest()}
    marker.write_text(json.dumps(record))
    with pytest.raises(FiguregroundError, match=f"{path}.*BadZipFile"):
        list(FinishedDataset(out).stored(SHARDS[0]))


def test_recipes_know_the_formats_of_the_registry(zipped):
    assert D3S("pocket", formats=["zip", "parquet"]).config.formats == ["zip", "parquet"]
    with pytest.raises(RecipeError, match=r"formats: 'zipp' .* parquet, webdataset, zip, did you mean 'zip'"):
        D3S("pocket", formats=["zipp"])
    assert make_schema(D3S)["properties"]["formats"]["items"]["enum"] == ["parquet", "webdataset", "zip"]


@pytest.mark.parametrize("where", ["json:loads", "example_format:ZipWriter", "figureground.shards.formats.tar:Tar"])
def test_what_is_no_format_of_that_name_is_refused(where):
    FORMATS.add("mine", where)
    try:
        with pytest.raises(FiguregroundError, match="'mine'"):
            FORMATS["mine"]
        assert "mine" not in dict(FORMATS.items())
    finally:
        FORMATS.remove("mine")
