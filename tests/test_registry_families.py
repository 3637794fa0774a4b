"""Model families and runners that other packages add with one module and an entry point each."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from commands import run
from packages import install

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, UsageError
from figureground.methods.registry import method_class
from figureground.models.bundled import WEIGHTS
from figureground.models.family import FAMILIES
from figureground.models.footprint import estimate_footprint
from figureground.models.needs import missing_checkpoint
from figureground.recipe.document import read_recipe
from figureground.running.building import build
from figureground.running.runner import RUNNERS

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
    "num_inference_steps": 2, "batch_size": 4, "threads": 1, "device": "cpu", "image_format": "png",
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
    for line in capsys.readouterr().err.splitlines():
        for known in ("MiniaturePipeline", "sd (StableDiffusionPipeline", "sdxl (StableDiffusionXLPipeline)"):
            assert known in line
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
        adapters = [estimate_footprint(str(each), None, 4).finished for each in (miniature, WEIGHTS)]
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
    """Add the runners of another package for a while."""
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
    errors = capsys.readouterr().err
    assert "runner: " in errors
    assert "'reverse'" in errors
    assert not (tmp_path / "out").exists()
