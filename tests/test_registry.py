"""What another package adds: one module and an entry point, and every command knows it."""

import dataclasses
import hashlib
import json
import os
import signal
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import ENVIRONMENT, litter, markers, run, start, wait_for
from tiny_datasets import SHARDS, make_dataset

from figureground.checking.dataset import check
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.images import DatasetImages
from figureground.data.layouts import LAYOUTS, read_groups
from figureground.hub.manifest import pack
from figureground.learn.settings import Training
from figureground.learn.way import WAYS
from figureground.methods.d3s import D3S
from figureground.methods.registry import METHODS, method_class, methods_from_data
from figureground.pocket import birds
from figureground.recipe.formats import FORMATS
from figureground.shards.finished import FinishedDataset

MODULE = '''
"""Images of each class of a training set on each of a few scenes, drawn from a prompt alone."""

from dataclasses import dataclass, field

import numpy as np

from figureground.data.layouts import read_groups
from figureground.methods.base import Method
from figureground.recipe.config import Config
from figureground.recipe.plan import Plan
from figureground.shards.columns import Columns


@dataclass
class PlainConfig(Config):
    """A recipe of images that are drawn from a prompt alone."""

    data: str | None = None
    """The training set whose classes are drawn."""
    scenes: list[str] = field(default_factory=lambda: ["forest", "beach"])
    """Where prompts place the class."""
    each: int = 2
    """Images of each class in each scene."""


class Plain(Method):
    """Draws each class of a training set in each scene."""

    METHOD = "plain"
    CONFIGS = {
        "pocket": PlainConfig(
            name="pocket", num_inference_steps=2, size=32, batch_size=4, threads=1, image_format="png"
        )
    }  # fmt: skip
    DEFAULT = "pocket"
    TITLE = "Classes in scenes"
    FROM_DATA = True

    def load_inputs(self):
        self.classes = list(read_groups(self.config.data).classes)
        self.pairings = {}

    def content_hashes(self):
        return {**super().content_hashes(), "data": read_groups(self.config.data).fingerprint}

    def columns(self):
        return Columns(self.classes, self.config.scenes)

    def plan(self):
        config = self.config
        counts = np.full((len(self.classes), len(config.scenes)), config.each)
        return Plan(
            {"train": counts}, self.classes, config.scenes, config.seed, config.shard_size, config.limit,
            lambda split, f, b, i: None,
            lambda split, f, b, i: f"a photo of a {self.classes[f]} in the {config.scenes[b]}",
        )

    def summary(self):
        return "Each class in each scene."

    def pruning_rule(self):
        return "background != 'beach'"
'''


@pytest.fixture
def site(tmp_path):
    """A folder of installed packages with one that brings the method `plain`."""
    site = tmp_path / "site"
    facts = site / "plain-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "plainmethod.py").write_text(textwrap.dedent(MODULE))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[figureground.methods]\nplain = plainmethod:Plain\n")
    yield site
    METHODS.forget()
    sys.modules.pop("plainmethod", None)


def test_an_entry_point_is_enough_in_a_process_of_its_own(site, tmp_path):
    data = birds.write(tmp_path / "birds", 4, 4, 4, size=16, show_progress=False)
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    code, out, err = run("plan", "plain", "--data", str(data), env=environment)
    assert code == 0, err
    assert "8 images" in out


def test_a_method_of_another_package_goes_through_every_command(site, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(site)
    METHODS.forget()

    def figureground(*arguments):
        assert main([str(each) for each in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    built = tmp_path / "plain"
    data = birds.write(tmp_path / "birds", 40, 8, 8, bias_aligned_share=0.95, size=16, show_progress=False)
    assert "8 images" in figureground("plan", "plain", "--data", data)
    assert "scenes: " in figureground("settings", "plain")
    figureground("build", "plain", "--data", data, "--out", built, "--set", "workers=2")
    saved = json.loads((built / "_figureground" / "recipe.json").read_text())
    assert (saved["builder"], saved["identity"]["each"]) == ("plain", 2)
    assert saved["content"]["data"]
    figureground("check", built)
    figureground("show", built)
    card = (built / "README.md").read_text()
    assert "Classes in scenes" in card
    assert "Each class in each scene." in card
    figureground("curate", built, "--out", tmp_path / "beach", "--keep", "background == 'beach'")
    figureground("check", tmp_path / "beach")
    index = json.loads((tmp_path / "beach" / "_figureground" / "index.json").read_text())
    assert index["samples"] == 4

    compared = tmp_path / "compared"
    figureground(
        "compare", data, "--methods", "erm,plain", "--seeds", "1", "--epochs", "1", "--device", "cpu",
        "--set", "plain.each=3", "--out", compared,
    )  # fmt: skip
    rows = json.loads((compared / "comparison.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["erm", "plain"]
    made = json.loads((compared / "plain-seed-0.json").read_text())
    assert (made["images"], made["kept"]) == (12, 0.5)


@pytest.fixture
def add():
    """Adds to the methods, and takes it back."""
    added = []

    def add(name, place):
        METHODS.add(name, place)
        added.append(name)

    yield add
    for name in added:
        METHODS.remove(name)


def test_a_method_that_cannot_be_imported_is_named_with_its_place_and_left_out_elsewhere(add):
    add("lost", "nowhere.at.all:Lost")
    with pytest.raises(FiguregroundError, match=r"'lost', nowhere\.at\.all:Lost"):
        method_class("lost")
    assert "lost" in METHODS
    assert "lost" not in methods_from_data()
    METHODS.add("lost", "nowhere.at.all:Lost")
    with pytest.raises(FiguregroundError, match="nowhere"):
        METHODS.add("lost", "another:One")
    with pytest.raises(FiguregroundError, match="'d3s'"):
        METHODS.add("d3s", "another:One")


@pytest.mark.parametrize("where", ["json:loads", "figureground.methods.d3s:D3S"])
def test_what_is_no_method_of_that_name_is_refused(add, where):
    add("mine", where)
    with pytest.raises(FiguregroundError, match="'mine'"):
        method_class("mine")


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match="scgs"):
        method_class("scg")


LAYOUT = """
from figureground.data.layouts import Layout, read_groups

def find(asked):
    return [asked.path / "birds.list"] if (asked.path / "birds.list").is_file() else []

def read(asked):
    return read_groups(asked.at.parent / "inner")

MINE = Layout(find, read, (), "a file birds.list beside inner/")
"""


def test_a_layout_of_another_package_is_found_and_read(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "birdlist.py").write_text(LAYOUT)
    data = tmp_path / "data"
    birds.write(data / "inner", 4, 4, 4, size=16, show_progress=False)
    (data / "birds.list").write_text("")
    with pytest.raises(FiguregroundError, match="layout"):
        read_groups(data)
    LAYOUTS.add("birdlist", "birdlist:MINE")
    try:
        assert len(read_groups(data)) == 12
        assert len(read_groups(data, "birdlist")) == 12
    finally:
        LAYOUTS.remove("birdlist")


WAY = """
from figureground.core.errors import RecipeError
from figureground.learn.way import Prepared
from figureground.learn.ways.erm import ERM


class Heavy(ERM):
    \"\"\"ERM in which one class counts more.\"\"\"

    NAME = "heavy"
    TEXT = "one class counts more"
    OWN = {"label": 0, "times": 2.0}

    def check(self, settings):
        if settings.options["times"] <= 0:
            raise RecipeError("options.times", f"{settings.options['times']} is not above 0.")

    def prepare(self, session, seed, weights):
        heavy = session.material.train.y == session.settings.options["label"]
        times = session.settings.options["times"]
        return Prepared(weights * (1 + (times - 1) * heavy), facts={"heavy": int(heavy.sum())})
"""


def test_a_way_of_training_of_another_package_trains_and_is_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "heavyway.py").write_text(WAY)
    data = birds.write(tmp_path / "birds", 8, 4, 4, size=16, show_progress=False)
    WAYS.add("heavy", "heavyway:Heavy")
    try:
        common = ["--epochs", "1", "--seeds", "1", "--device", "cpu"]
        train = ["train", "heavy", "--data", str(data), "--out", str(tmp_path / "out"), *common]
        assert main([*train, "--option", "times=3"]) == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["settings"]["options"] == {"label": 0, "times": 3}
        assert json.loads((tmp_path / "out" / "seed-0.json").read_text())["heavy"] == {"heavy": 4}
        capsys.readouterr()
        assert main([*train, "--option", "time=3"]) == 2
        assert "did you mean 'times'" in capsys.readouterr().err
        assert main([*train, "--option", "times=-1"]) == 2
        assert "options.times" in capsys.readouterr().err
        out = tmp_path / "compared"
        compare = ["compare", str(data), "--methods", "erm,heavy", "--out", str(out), *common]
        assert main([*compare, "--set", "heavy.options.times=3"]) == 0
        rows = json.loads((out / "comparison.json").read_text())["rows"]
        assert [row["method"] for row in rows] == ["erm", "heavy"]
    finally:
        WAYS.remove("heavy")
    assert main(["train", "heavy", "--data", str(data), "--out", str(tmp_path / "other")]) == 2


def test_a_way_that_inherits_from_another_shares_its_settings(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "from figureground.learn.ways.jtt import JTT\n\nclass Twice(JTT):\n    NAME = 'twice'\n    TEXT = ''\n"
    (tmp_path / "twiceway.py").write_text(text)
    WAYS.add("twice", "twiceway:Twice")
    try:
        assert [Training(name).upweight for name in ("jtt", "twice")] == [20.0, 20.0]
        assert Training("twice", upweight=5.0).to_json()["upweight"] == 5.0
        with pytest.raises(RecipeError, match=r"upweight: erm .* jtt, twice"):
            Training("erm", upweight=5.0)
    finally:
        WAYS.remove("twice")
    assert hash(Training("erm")) == hash(Training("erm"))


@pytest.mark.parametrize("text", ["raise RuntimeError('broken')", "def"])
def test_a_package_that_breaks_when_imported_breaks_nothing_else(tmp_path, monkeypatch, text):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"broken{len(text)}.py").write_text(text)
    WAYS.add("broken", f"broken{len(text)}:Broken")
    try:
        assert "broken" not in dict(WAYS.items())
        with pytest.raises(FiguregroundError, match="'broken'"):
            Training("broken")
        Training("erm")
    finally:
        WAYS.remove("broken")


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
    facts = site / "zipped-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "zippedshards.py").write_text((Path(__file__).parent / "zipformat.py").read_text())
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: zipped\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[figureground.formats]\nzip = zippedshards:Zip\n")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(site)
        FORMATS.forget()
        yield {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)}
    FORMATS.forget()
    sys.modules.pop("zippedshards", None)


@pytest.fixture
def zipped():
    """Adds the format `zip` to this process."""
    FORMATS.add("zip", "zipformat:Zip")
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
    FORMATS.forget()
    assert "'zip'" in figureground("check", built, code=1)
    assert "'zip'" in figureground("curate", built, "--out", tmp_path / "none", "--keep", "True", code=1)


def test_a_format_that_load_dataset_cannot_read_is_published_only_beside_another(zipped, tmp_path):
    alone = make_dataset(tmp_path / "alone", formats=("zip",))
    both = make_dataset(tmp_path / "both", formats=("zip", "parquet"))
    for directory, formats in ((alone, None), (both, ["zip"])):
        with pytest.raises(RecipeError, match=r"load_dataset.* zip.* parquet, webdataset"):
            pack(directory, formats, tmp_path)
    (tmp_path / "scratch").mkdir()
    sent = {item.path.split("/")[0] for item in pack(both, None, tmp_path / "scratch")}
    assert {"data", "zips"} <= sent
    assert "path: data/train-" in (both / "README.md").read_text()
    rows = [DatasetImages(directory).keys for directory in (alone, both)]
    assert rows[0] == rows[1]
    with pytest.raises(RecipeError, match=r"formats: .* parquet"):
        D3S("pocket", formats=["zip"], size=32).download_and_prepare()


def test_what_differs_between_a_zip_and_another_format_is_found(zipped, tmp_path):
    out = make_dataset(tmp_path / "set", formats=("parquet", "zip"))
    path, marker = "zips/train-00000-of-00002.zip", out / "_figureground/shards/train-00000-of-00002.json"
    before = set(check(out, show_progress=False).findings)
    samples = list(FORMATS["zip"]().read(out / path))

    def sign():
        said, data = json.loads(marker.read_text()), (out / path).read_bytes()
        said["files"][path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        marker.write_text(json.dumps(said))

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
    said = json.loads(marker.read_text())
    said["files"][path] = {"bytes": 100, "sha256": hashlib.sha256(data[:100]).hexdigest()}
    marker.write_text(json.dumps(said))
    with pytest.raises(FiguregroundError, match=f"{path}.*BadZipFile"):
        list(FinishedDataset(out).stored(SHARDS[0]))


def test_recipes_know_the_formats_of_the_registry(zipped):
    assert D3S("pocket", formats=["zip", "parquet"]).config.formats == ["zip", "parquet"]
    with pytest.raises(RecipeError, match=r"formats: 'zipp' .* parquet, webdataset, zip, did you mean 'zip'"):
        D3S("pocket", formats=["zipp"])
    assert D3S.recipe_schema()["properties"]["formats"]["items"]["enum"] == ["parquet", "webdataset", "zip"]


@pytest.mark.parametrize("where", ["json:loads", "zipformat:ZipWriter", "figureground.shards.formats.tar:Tar"])
def test_what_is_no_format_of_that_name_is_refused(where):
    FORMATS.add("mine", where)
    try:
        with pytest.raises(FiguregroundError, match="'mine'"):
            FORMATS["mine"]
        assert "mine" not in dict(FORMATS.items())
    finally:
        FORMATS.remove("mine")
