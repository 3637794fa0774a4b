"""What another package adds with one module and an entry point: every command knows it."""

import json
import os
import shutil
import sys
import textwrap

import pyarrow.parquet as pq
import pytest
from commands import ENVIRONMENT, run

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.data.layouts import LAYOUTS, read_groups
from figureground.learn.settings import Training
from figureground.learn.way import WAYS
from figureground.methods.registry import METHODS, method_class, methods_from_data
from figureground.models.bundled import WEIGHTS
from figureground.models.family import FAMILIES
from figureground.models.footprint import footprint
from figureground.models.needs import missing_checkpoint
from figureground.pocket import birds
from figureground.recipe.document import read_recipe
from figureground.running.building import build
from figureground.running.runner import RUNNERS

MODULE = '''
"""Images of each class of a training set on each of a few scenes, drawn from a prompt alone."""

from dataclasses import dataclass, field

import numpy as np

from figureground.data.layouts import read_groups
from figureground.methods.base import Method
from figureground.recipe.config import Config
from figureground.recipe.plan import Plan
from figureground.shards.writer import Columns


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


def install(site, module, text, group, entry):
    """Writes an installed package of one module with an entry point; returns the environment that has it."""
    facts = site / f"{module}-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / f"{module}.py").write_text(textwrap.dedent(text))
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[figureground.{group}]\n{entry}\n")
    return {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}


@pytest.fixture
def site(tmp_path):
    """A folder of installed packages with one that brings the method `plain`."""
    site = tmp_path / "site"
    install(site, "plainmethod", MODULE, "methods", "plain = plainmethod:Plain")
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


FAMILY = """
from figureground.models.families.sd import StableDiffusion


class Miniature(StableDiffusion):
    \"\"\"Stable Diffusion whose text encoder's adapters leave its values alone.\"\"\"

    NAME = "miniature"
    PIPELINES = ("MiniaturePipeline",)
    INPAINTING = ()
    ADAPTED = {**StableDiffusion.ADAPTED, "text_encoder": ("q_proj", "k_proj")}
"""
ONE_EACH = {
    "classes": "[bird, car]", "backgrounds": "[grass, snow]", "per_cell": "{train: 1}", "size": 32,
    "num_inference_steps": 2, "threads": 1, "device": "cpu", "image_format": "png",
}  # fmt: skip


def build_arguments(**settings):
    """The arguments of a build of four images."""
    values = {**ONE_EACH, **settings}
    return ["d3s", *(part for name, value in values.items() for part in ("--set", f"{name}={value}"))]


def read(out):
    """The samples of a dataset."""
    return [row for path in sorted((out / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def miniature(tmp_path):
    """The pocket model's weights as a checkpoint of another family."""
    folder = shutil.copytree(WEIGHTS, tmp_path / "miniature")
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "MiniaturePipeline"}))
    return folder


def test_a_checkpoint_of_no_family_is_refused_with_the_known_ones(miniature, tmp_path, capsys):
    arguments = build_arguments(checkpoint=miniature)
    assert main(["plan", *arguments]) == 2
    assert main(["build", *arguments, "--out", str(tmp_path / "out")]) == 1
    for said in capsys.readouterr().err.splitlines():
        for known in ("MiniaturePipeline", "sd (StableDiffusionPipeline", "sdxl (StableDiffusionXLPipeline)"):
            assert known in said
    assert not (tmp_path / "out").exists()


def test_a_family_of_another_package_is_opened_drawn_with_and_checked(miniature, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "miniaturefamily.py").write_text(FAMILY)
    FAMILIES.add("miniature", "miniaturefamily:Miniature")
    try:
        for name, checkpoint in (("theirs", miniature), ("ours", "pocket")):
            arguments = build_arguments(checkpoint=checkpoint)
            assert main(["build", *arguments, "--out", str(tmp_path / name)]) == 0, capsys.readouterr().err
            assert main(["check", str(tmp_path / name)]) == 0
        images = [[row["image"]["bytes"] for row in read(tmp_path / name)] for name in ("theirs", "ours")]
        assert images[0] == images[1]
        assert len(images[0]) == 4
        assert {json.loads(row["provenance"])["family"] for row in read(tmp_path / "theirs")} == {"miniature"}
        adapters = [footprint(str(each), None, 4).kept for each in (miniature, WEIGHTS)]
        assert 0 < adapters[0] < adapters[1]

        assert missing_checkpoint(str(miniature), None, False) == []
        (miniature / "vae").rename(tmp_path / "vae")
        with pytest.raises(UsageError, match=r"miniature.* is incomplete: vae/"):
            missing_checkpoint(str(miniature), None, False)
        index = miniature / "model_index.json"
        index.write_text(json.dumps({n: v for n, v in json.loads(index.read_text()).items() if n != "tokenizer"}))
        with pytest.raises(UsageError, match=r"miniature.* names no tokenizer"):
            missing_checkpoint(str(miniature), None, False)
    finally:
        FAMILIES.remove("miniature")


def test_an_entry_point_adds_a_family_to_every_process_of_a_build(miniature, tmp_path):
    environment = install(
        tmp_path / "site", "miniaturefamily", FAMILY, "families", "miniature = miniaturefamily:Miniature"
    )
    arguments = build_arguments(checkpoint=miniature, workers=2, shard_size=2)
    code, _, err = run("build", *arguments, "--out", str(tmp_path / "out"), env=environment)
    assert code == 0, err
    assert len(list(read(tmp_path / "out"))) == 4


@pytest.mark.parametrize("where", ["json:loads", "figureground.models.families.sd:StableDiffusion"])
def test_what_is_no_family_of_that_name_is_refused(where):
    FAMILIES.add("mine", where)
    try:
        with pytest.raises(FiguregroundError, match="'mine'"):
            FAMILIES["mine"]
    finally:
        FAMILIES.remove("mine")


RUNNER = """
from figureground.running import worker
from figureground.running.runner import Runner


class Reverse(Runner):
    \"\"\"Renders one shard after another in this process, the last first.\"\"\"

    NAME = "reverse"

    def run(self, method, out, show_progress):
        for number in reversed(range(len(method.plan().shards()))):
            worker.work(method, out, [number], show_progress=show_progress)


class Idle(Runner):
    \"\"\"Renders nothing.\"\"\"

    NAME = "idle"

    def run(self, method, out, show_progress):
        pass
"""


def shards(out):
    return {path.name: path.read_bytes() for folder in ("data", "webdataset") for path in (out / folder).glob("*")}


def saved_recipe(out):
    return json.loads((out / "_figureground" / "recipe.json").read_text())


def rendered(out):
    """Names of the shards in the order in which they were finished."""
    markers = (out / "_figureground" / "shards").glob("*.json")
    return [path.stem for path in sorted(markers, key=lambda path: path.stat().st_mtime_ns)]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A dataset of four shards, made by the runner `local`."""
    out = tmp_path_factory.mktemp("local") / "d3s"
    assert main(["build", *build_arguments(shard_size=1), "--out", str(out)]) == 0
    return out


@pytest.fixture
def runners(tmp_path, monkeypatch):
    """Adds the runners of another package for a while."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "otherrunners.py").write_text(RUNNER)
    for name in ("reverse", "idle"):
        RUNNERS.add(name, f"otherrunners:{name.title()}")
    yield
    for name in ("reverse", "idle"):
        RUNNERS.remove(name)


def test_a_runner_of_another_package_makes_the_same_shards_in_its_order(local, runners, tmp_path):
    out = tmp_path / "reverse"
    assert main(["build", *build_arguments(shard_size=1), "--runner", "reverse", "--out", str(out)]) == 0
    assert shards(out) == shards(local)
    assert rendered(out) == rendered(local)[::-1]
    assert len(rendered(out)) == 4
    assert saved_recipe(out)["sha256"] == saved_recipe(local)["sha256"]
    assert [saved_recipe(each)["execution"]["runner"] for each in (local, out)] == ["local", "reverse"]
    assert main(["check", str(out)]) == 0


def test_a_runner_that_leaves_shards_unfinished_is_named_and_another_goes_on(local, runners, tmp_path):
    method = method_class("d3s").from_recipe(read_recipe(local / "_figureground" / "recipe.json"))
    with pytest.raises(FiguregroundError, match=r"'idle' .* 0 of 4 shards"):
        build(method, tmp_path / "out", show_progress=False, runner="idle")
    assert not (tmp_path / "out").exists()
    build(method, tmp_path / "out", show_progress=False, runner="local")
    assert shards(tmp_path / "out") == shards(local)


def test_an_entry_point_adds_a_runner(local, tmp_path):
    environment = install(tmp_path / "site", "otherrunners", RUNNER, "runners", "reverse = otherrunners:Reverse")
    arguments = build_arguments(shard_size=1, runner="reverse")
    code, _, err = run("build", *arguments, "--out", str(tmp_path / "out"), env=environment)
    assert code == 0, err
    assert shards(tmp_path / "out") == shards(local)


@pytest.mark.parametrize(
    "command", [["plan", "--set", "runner=revers"], ["build", "--runner", "revers", "--out", "out"]]
)
def test_an_unknown_runner_is_refused_before_any_work_with_the_known_ones(
    command, runners, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main([command[0], *build_arguments(), *command[1:]]) == 2
    said = capsys.readouterr().err
    assert "runner: " in said
    assert "'reverse'" in said
    assert not (tmp_path / "out").exists()
