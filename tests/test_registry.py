"""Extensions by another package, with one module and an entry point: every command knows them."""

import json
import os
import sys

import pytest
from commands import ENVIRONMENT, run
from packages import install

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.layouts import LAYOUTS, read_groups
from figureground.learn.settings import Training
from figureground.learn.way import WAYS
from figureground.methods.registry import METHODS, method_class, methods_from_data, open_dataset
from figureground.pocket import birds

MODULE = '''
"""Images of each class of a training set on each of a few scenes, drawn from a prompt alone."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from figureground.data.layouts import read_groups
from figureground.methods.base import Method
from figureground.methods.panels.panel import Panel, Picture
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

    def panels(self, directory, provenance):
        facts = (("drawn in", provenance["background"]), ("from", directory.name))
        return [Panel("Scene", (Picture("paper", Image.new("L", (4, 4), 255)),), facts)]
'''


@pytest.fixture
def site(tmp_path):
    """A folder of installed packages with one that brings the method `plain`."""
    site = tmp_path / "site"
    install(site, "plainmethod", MODULE, "methods", "plain = plainmethod:Plain")
    yield site
    METHODS.reload_entry_points()
    sys.modules.pop("plainmethod", None)


def test_an_entry_point_is_enough_in_a_process_of_its_own(site, tmp_path):
    data = birds.write(tmp_path / "birds", 4, 4, 4, size=16, show_progress=False)
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    code, out, err = run("plan", "plain", "--data", str(data), env=environment)
    assert code == 0, err
    assert "8 images" in out


def test_a_method_of_another_package_goes_through_every_command(site, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(site)
    METHODS.reload_entry_points()

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
    opened = open_dataset(built)
    (panel,) = opened.panels(built, {"background": "beach"})
    assert (panel.title, panel.facts) == ("Scene", (("drawn in", "beach"), ("from", "plain")))
    assert opened.overview(built) == []
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
    """Add to the methods, and take it back."""
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
        heavy = session.training_data.train.y == session.settings.options["label"]
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
