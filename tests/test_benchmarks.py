"""Benchmarks run in a tiny size, as their commands, and leave JSON of what they measured: `make bench-quick`.

Whatever in `benchmarks/` can be run is run here, a new file too. Tests of one benchmark share its run.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_photographs
import numpy as np
import pytest
from commands import run as run_command
from forked_commands import Forked

from figureground.core.errors import FiguregroundError
from figureground.models.weights import fingerprint
from figureground.pocket import birds, world
from figureground.recipe.document import FORMAT

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = sorted(
    (p.stem for p in BENCHMARKS.glob("*.py") if re.search(r"^if __name__ == ", p.read_text(), re.MULTILINE)),
    reverse=True,
)
"""Benchmarks, longest first, so that no process waits for one of them at the end."""
AS_MAIN = """
import runpy, sys
from pathlib import Path
del sys.argv[0]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a file as `python FILE ARGUMENT …` does."""
SECONDS = ("plan", "segment", "shards", "trust")
"""These take less than ten seconds; the others are slow tests."""
ARGUMENTS: dict[str, Callable[[Path], list[str]]] = {
    "beds": lambda folder: [
        "--oracle-cache", str(folder / "oracles"), "--workers", "1", "--beds", "pocketlooks", "--backbones", "pocket",
        "convnext",
    ],
    "biased": lambda folder: ["--cache", str(folder / "judges")],
    "fidelity": lambda folder: ["--dataset", str(build_dataset(folder))],
    "finetune": lambda folder: ["--script", str(write_script(folder))],
    "mitigate": lambda folder: ["--workers", "1"],
    "photographs": benchmark_photographs.write,
    "scale": lambda folder: ["--parts", "journal", "machines"],  # each start of a runner takes seconds
}  # fmt: skip
"""Beside `--quick --out FILE --work DIR`: what a benchmark needs to run all its parts, or leaves out to be quick."""


def of(name: str) -> Callable[[Any], Any]:
    """Mark a test of a benchmark, whose name comes to stand in the test's: by it those of one share a process."""

    def mark(test: Any) -> Any:
        test = pytest.mark.usefixtures("benchmark")(pytest.mark.parametrize("benchmark", [name], indirect=True)(test))
        return test if name in SECONDS else pytest.mark.slow(test)

    return mark


@pytest.fixture
def benchmark(request: pytest.FixtureRequest) -> str:
    """The name of the benchmark that a test is of."""
    return str(request.param)


def read_strictly(path: Path) -> Any:
    """Read a JSON file as other languages do: NaN and Infinity, which Python writes by default, aren't JSON."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{path} contains {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def run(name: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run `benchmarks/{name}.py --quick` there; return the JSON that it wrote."""
    out = folder / f"{name}.json"
    command = [BENCHMARKS / f"{name}.py", "--quick", "--out", out, "--work", folder, *arguments]
    process = Forked(command, AS_MAIN, env={**os.environ, "OMP_NUM_THREADS": "1"})
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    report = read_strictly(out)
    for row in report.get("rows") or report["measures"]:
        assert row["name"] in output
    assert not list(folder.glob("benchmark-*")), "a benchmark leaves nothing beside its results"
    return report


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Any], Path]]:
    """Run a benchmark when it is first asked for; give its JSON and the folder that it worked in."""
    done: dict[str, tuple[dict[str, Any], Path]] = {}

    def run_once(name: str) -> tuple[dict[str, Any], Path]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            arguments = ARGUMENTS.get(name, lambda folder: [])(folder)
            done[name] = run(name, folder, *arguments), folder
        return done[name]

    return run_once


def kept_files() -> dict[Path, int]:
    """Return the files in `benchmarks/` and their modification times."""
    there = (path for path in BENCHMARKS.rglob("*") if "__pycache__" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in there if path.is_file()}


def test_kept_results_contain_no_nan_or_infinity():
    paths = sorted((BENCHMARKS / "results").rglob("*.json"))
    assert paths
    for path in paths:
        read_strictly(path)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.5, 0.7, 0.9]])
def test_an_interval_of_the_mean_is_finite_even_for_equal_values(values, monkeypatch):
    summary = bench("beds", monkeypatch).summarise_values(values)
    assert summary["mean"] - summary["low"] == pytest.approx(summary["high"] - summary["mean"])
    assert (summary["low"] == summary["high"]) == (len(set(values)) == 1)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in SECONDS)) for n in NAMES])
def test_a_benchmark_runs_and_says_what_it_was_measured_with(name, quick):
    before = kept_files()
    found, folder = quick(name)
    assert kept_files() == before, "a quick run is kept only where --out says"
    assert found["command"].startswith(f"python benchmarks/{name}.py --quick")
    assert found["format"] == FORMAT
    assert found["weights"]["pocket"] == fingerprint("pocket", None)
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", found["commit"] or "0" * 40)  # none outside a repository
    assert str(folder.parent) not in json.dumps(found)
    assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", json.dumps(found))


def build_dataset(folder: Path) -> Path:
    """A D3S set of a few images of pocket classes."""
    settings = ("limit=4", "num_inference_steps=2", "batch_size=4", "threads=1", "workers=1")
    command = ["build", "d3s", "--out", str(folder / "d3s")]
    code, _, errors = run_command(*command, *(part for setting in settings for part in ("--set", setting)))
    assert code == 0, errors
    return folder / "d3s"


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["rows"]}


@of("plan")
def test_plan_measures_specs_and_memory_with_and_without_guides(quick):
    found, _ = quick("plan")
    assert found["settings"]["images"] == 1000 * 10 * 2
    for way in ("prompts alone", "guides"):
        assert 0 < rows(found)[f"{way}: Specs of one shard"]["value"] < 60
        assert 20 < rows(found)[f"{way}: peak memory"]["value"] < 1000


@of("shards")
def test_shards_are_written_both_ways_and_read_in_both_formats(quick):
    found, _ = quick("shards")
    assert found["command"] == "python benchmarks/shards.py --quick"
    assert found["machine"]["cores"] == os.cpu_count()
    found = rows(found)
    for size in ("64 px", "512 px"):
        ours, theirs = (found[f"{size}: written {how}"] for how in ("as a build does", "with ShardWriter"))
        assert found[f"{size}: a build / ShardWriter"]["value"] == pytest.approx(ours["value"] / theirs["value"])
        assert found[f"{size}: bytes in the tars"]["value"] > found[f"{size}: bytes of a JPEG"]["value"]
        for how in ("Parquet, load_dataset", "tar, load_dataset streaming", "tar, webdataset"):
            assert found[f"{size}: read from {how}"]["value"] > 0


@of("generate")
def test_generate_makes_the_same_images_in_all_three_ways(quick):
    found = rows(quick("generate")[0])
    for name in ("one call an image", "one call a batch"):
        assert found[f"difference of pixels, a build and {name}"]["value"] < 1
        ratio = found["a build"]["value"] / found[name]["value"]
        assert found[f"a build / {name}"]["value"] == pytest.approx(ratio)
    assert found["a build, achieved"]["value"] < found["ceiling: a matrix product"]["value"]


@of("gpu")
def test_the_checks_for_a_gpu_pass_on_a_cpu(quick):
    found = rows(quick("gpu")[0])
    for name in ("float32", "float16", "bfloat16"):
        assert found[f"{name}: same bytes twice"]["verdict"] == "reached"
    assert found["float32: difference of pixels from a CPU's"]["value"] == 0
    assert found["same bytes as without the kill"]["verdict"] == "reached"
    assert found["same bytes by one and by two"]["verdict"] == "reached"
    assert found["batch size found for two images"]["value"] <= 2


def run_gpu(folder: Path, *steps: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `benchmarks/gpu.sh` at a tiny size on a CPU."""
    given = {
        "QUICK": "1",
        "DEVICE": "cpu",
        "OUT": str(folder),
        "PYTHON": sys.executable,
        "WHEELS": str(folder / "none"),
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **given, **variables}
    command = ["bash", str(BENCHMARKS / "gpu.sh"), *steps]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_the_script_for_a_gpu_climbs_a_ladder_of_random_weights(tmp_path):
    done = run_gpu(tmp_path, "ladder-sd15")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "ladder-sd15.status.json").read_text())["exit_code"] == 0
    found = json.loads((tmp_path / "ladder-sd15.json").read_text())
    assert found["failed"] == {}
    rungs = {rung["name"]: rung for rung in found["ladder"]}
    assert {"one call an image", "plain batches", "this build", "fused projections", "few steps", "fast"} <= set(rungs)
    for rung in rungs.values():
        assert rung["images_per_second"] > 0 < rung["seconds_to_start"]
        assert rung["labels"] is None  # nothing judges random weights
    assert rungs["fast"]["gflop_per_image"] < rungs["this build"]["gflop_per_image"]
    assert rungs["one call an image"]["pixels_apart"] < 1 > rungs["fused projections"]["pixels_apart"]


def test_the_script_for_a_gpu_stops_at_its_deadline_and_knows_its_steps(tmp_path):
    assert run_gpu(tmp_path, "pocket", "resume", DEADLINE="0").returncode == 0
    for step in ("pocket", "resume"):
        assert json.loads((tmp_path / f"{step}.status.json").read_text())["skipped"] == "deadline"
    done = run_gpu(tmp_path, "pokcet")
    assert done.returncode == 2
    assert "pokcet" in done.stderr
    assert "two-workers" in done.stderr


@of("memory")
def test_memory_is_read_after_every_shard_and_drawn(quick):
    found, folder = quick("memory")
    shards = [shard for shard, _ in found["curve"]]
    assert shards == sorted(set(shards))
    assert shards[-1] == found["settings"]["shards"] == 12
    assert all(100 < megabytes < 5000 for _, megabytes in found["curve"])
    assert (folder / "memory.png").stat().st_size > 5000


@of("fidelity")
def test_fidelity_reads_each_kind_of_images_with_tiny_classifiers(quick):
    found, _ = quick("fidelity")
    counts = {measure["name"]: measure["count"] for measure in found["measures"]}
    assert counts["oracle on pasted cut-outs, blurred: look"] == found["settings"]["held_out"]
    assert counts["text to image: foreground"] == counts["Fréchet distance, generated to drawn"] > 10
    assert counts["text to image, prop alone: prop"] > 5
    assert counts["D3S set: background"] == 4
    assert set(found["tables"]["text to image: background"]) == set(world.BACKGROUNDS)


SCRIPT = """
import argparse
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms

parser = argparse.ArgumentParser()
for name in ("instance_data_dir", "class_data_dir", "resolution", "max_train_steps"):
    parser.add_argument(f"--{name}", required=True)
args, _ = parser.parse_known_args()
size = int(args.resolution)
prepare = transforms.Compose(
    [
        transforms.Resize(size, interpolation=transforms.InterpolationMode.BILINEAR), transforms.CenterCrop(size),
        transforms.RandomCrop(size), transforms.ToTensor(), transforms.Normalize([0.5], [0.5]),
    ]
)
folders = [Path(args.instance_data_dir), Path(args.class_data_dir)]
pixels = torch.stack([prepare(Image.open(path)) for folder in folders for path in folder.iterdir()])
assert pixels.shape[1:] == (3, size, size) and pixels.min() >= -1 and pixels.max() <= 1 and pixels.std() > 0.1
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(int(args.max_train_steps)):
    model(pixels.mean((2, 3))).square().mean().backward()
    optimizer.step()
"""
"""Takes what `finetune.py` says to diffusers' script, imports what that imports, and trains as many steps."""


def write_script(folder: Path) -> Path:
    (folder / "train.py").write_text(SCRIPT)
    return folder / "train.py"


@of("finetune")
def test_finetune_measures_a_script_that_imports_torchvision_beside_figureground(quick):
    found, _ = quick("finetune")
    assert found["settings"]["max_train_steps"] == 5
    found = rows(found)
    ours, theirs, slower = (
        found[name]["value"] for name in ("figureground", "train_dreambooth.py", "figureground with SFSL")
    )
    assert found["figureground / train_dreambooth.py"]["value"] == pytest.approx(ours / theirs)
    assert found["a step with SFSL / one without"]["value"] == pytest.approx(ours / slower)
    assert 200 < found["memory, figureground"]["value"] < 5000


@of("photographs")
def test_photographs_measures_cutouts_classifiers_training_attribution_and_regions(quick):
    found, folder = quick("photographs")
    for part in ("classifiers", "cutouts", "scenes", "waterbirds", "attribution", "regions"):
        assert found["parts"][part]["cpu_seconds"] >= 0
    found = rows(found)
    assert found["cutouts: mean IoU, all horses (n=4)"]["value"] > 0.9  # the network finds red, and horses are red
    assert found["regions: DDB: share of the object inside its mask (n=4)"]["value"] > 90
    for method in ("erm", "reweight", "jtt", "groupdro", "dfr", "paste"):
        assert 0 <= found[f"waterbirds: {method}: worst group"]["value"] <= 100
    sheets = {path.stem for path in (folder / "photographs" / "sheets").iterdir()}
    assert sheets == {"bed", "bed-unbiased", "ddb", "horses", "horses-worst", "scenes", "scgs"}


@of("biased")
def test_judges_are_trained_and_measured_on_drawings_and_references(quick):
    found, _ = quick("biased")
    assert {"resnet", "vit", "twin"} < set(found["by_class"])
    for name in found["by_class"]:
        for what in ("biased drawings, right", "references, says k", "references after a round trip, says k"):
            assert 0 <= rows(found)[f"{name}: {what}"]["value"] <= 100


@of("biased")
def test_a_judge_is_trained_once(quick):
    found, folder = quick("biased")
    written = {path: path.stat().st_mtime_ns for path in (folder / "judges").glob("*/model.safetensors")}
    assert len(written) == len(found["by_class"])
    again = run("biased", folder, "--cache", str(folder / "judges"), "--names", "twin", "--workers", "1")
    assert {path: path.stat().st_mtime_ns for path in (folder / "judges").glob("*/model.safetensors")} == written
    assert again["rows"] == [row for row in found["rows"] if row["name"].startswith("twin")]


@of("segment")
def test_the_segmenter_is_measured_on_what_each_drawing_shows(quick):
    found, _ = quick("segment")
    assert len(found["settings"]["sha256"]) == 64
    overlaps = [row["value"] for row in found["rows"] if "IoU" in row["name"]]
    assert len(overlaps) == 4
    assert all(0 < value < 1 for value in overlaps)


@of("mitigate")
def test_mitigation_keeps_each_row_of_a_unit_at_equal_steps_and_goes_on_where_it_was(quick):
    found, folder = quick("mitigate")
    kept = folder / "quick" / "kept" / "pocketbirds-biased-000.json"
    unit = json.loads(kept.read_text())
    assert set(unit["rows"]) == {"erm", "jtt", "dfr", "paste", "d3s", "scgs", "ddb", "ddb, two-stage"}
    assert not unit["failed"]
    cells = [(name, table, cell) for name, tables in unit["rows"].items() for table, cell in tables["pocket"].items()]
    assert {seed["budget"] for _, _, cell in cells for seed in cell["seeds"]} == {8}  # 40 images, 32 a batch, 4 epochs
    assert {name for name, table, _ in cells if table == "unknown"} == set(unit["rows"]) - {"dfr"}
    assert not any("validation attributes" in cell["uses"] for _, table, cell in cells if table == "unknown")
    endings = {name: seed["convergence"] for name, _, cell in cells for seed in cell["seeds"]}
    assert endings.pop("jtt") is None  # its second stage has one evaluated epoch
    assert all(0 < ending["training_loss"] < 2 for ending in endings.values())
    assert "## Validation loss in the last fifth" in (folder / "mitigate.md").read_text()
    assert all(1 <= made["images"] <= 4 and made["seconds"] > 0 for made in unit["made"].values())
    assert unit["made"]["ddb"]["kept"] == 1  # at thresholds of 0
    for name in ("scgs", "ddb"):
        assert {"errors", "precision", "recall"} <= set(unit["made"][name]["error_set"])
    assert [each["row"] for each in found["primary"]] == ["ddb", "scgs"]
    assert "exploratory, uncorrected" in (folder / "mitigate.md").read_text().lower()
    del unit["rows"]["d3s"]
    kept.write_text(json.dumps(unit))
    before = kept.stat().st_mtime_ns
    again = run("mitigate", folder, *ARGUMENTS["mitigate"](folder))
    assert kept.stat().st_mtime_ns > before
    assert json.loads(kept.read_text())["rows"]["d3s"]["pocket"]["known"]["seeds"][0]["budget"] == 8
    assert again["rows"] == found["rows"]


@pytest.mark.slow
def test_tuning_tries_the_settings_of_a_row_on_validation_alone(tmp_path):
    arguments = ["--quick", "--tune", "--rows", "erm", "--workers", "1", "--work", tmp_path]
    process = Forked([BENCHMARKS / "mitigate.py", *arguments], AS_MAIN, env={**os.environ, "OMP_NUM_THREADS": "1"})
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    (path,) = (tmp_path / "quick" / "kept").glob("tuning-*.json")
    trials = read_strictly(path)["tried"]["erm"]["pocket"]
    assert [trial["change"].get("weight_decay") for trial in trials] == [None, 1.0, None, None]
    assert all(set(trial["validation"]) == {"known", "unknown"} and "test" not in trial for trial in trials)
    assert "erm" in printed


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The contents of a kept unit of mitigate.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return {"file": "a unit", **read_strictly(BENCHMARKS / "results" / "mitigate" / "pocketbirds-biased-000.json")}


def test_longer_trainings_are_compared_with_those_of_the_same_training_seed(usual, monkeypatch):
    report, longer = bench("mitigate_report", monkeypatch), json.loads(json.dumps(usual))
    for tables in (tables for backbones in longer["rows"].values() for tables in backbones.values()):
        for cell in tables.values():
            cell["seeds"] = [{**cell["seeds"][0], "worst": cell["seeds"][0]["worst"] + 0.01, "convergence": None}]
    del longer["rows"]["scgs"]
    text = report.format_longer([usual], [longer], "pocketbirds")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines()[2:]}
    assert set(rows) == set(longer["rows"])
    first = usual["rows"]["erm"]["pocket"]["known"]["seeds"][0]["worst"]
    assert rows["erm"][3:6] == [f"{100 * first:.1f}", f"{100 * first + 1:.1f}", "+1.0"]
    assert rows["erm"][-2] == "0 of 0"
    ddb = usual["rows"]["ddb"]["pocket"]["known"]["seeds"][0]["worst"]
    assert rows["ddb"][6:8] == [f"{100 * (ddb - first):+.1f}"] * 2
    assert float(rows["ddb"][8]) == 0
    longer["rows"]["erm"]["pocket"]["known"]["settings"] = {"weight_decay": 1.0}
    with pytest.raises(FiguregroundError, match="erm"):
        report.refuse_mixed_rows([usual, longer])


def test_longer_trainings_use_the_added_images_of_a_usual_unit(usual, monkeypatch, tmp_path):
    plans = bench("mitigate_plan", monkeypatch)
    kept, unit = tmp_path / "kept", plans.Unit("pocketbirds", True, 0)
    longer = plans.find_longer(kept)
    plan = plans.Plan(tmp_path, longer, plans.LONGER_ROWS, epochs=80, trainings=1, images_of=kept, choose=False)
    with pytest.raises(FiguregroundError, match="pocketbirds-biased-000"):
        plans.Record(longer / f"{unit.name}.json", plan, unit)
    kept.mkdir()
    (kept / f"{unit.name}.json").write_text(json.dumps(usual))
    record = plans.Record(longer / f"{unit.name}.json", plan, unit)
    assert (record.content["data"], set(record.content["made"])) == (usual["data"], {"scgs", "ddb"})
    for name, facts in record.content["made"].items():
        assert record.content["origins"][facts["origin"]] == usual["origins"][usual["made"][name]["origin"]]
    record.write()
    assert plans.Record(record.path, plan, unit).content == record.content  # nothing is copied twice
    del usual["made"]["ddb"]
    (kept / f"{unit.name}.json").write_text(json.dumps(usual))
    with pytest.raises(FiguregroundError, match="ddb"):
        plans.Record(longer / f"{unit.name}.json", plan, unit)
    (kept / f"{unit.name}.json").write_text(json.dumps({**usual, "drawn": {}}))
    with pytest.raises(FiguregroundError, match="drawn"):
        plans.Record(longer / f"{unit.name}.json", plan, unit)


@of("disentangle")
def test_separated_features_are_probed_by_seed_and_nothing_is_done_twice(quick):
    found, folder = quick("disentangle")
    kept = folder / "quick" / "kept" / "seed-000.json"
    unit = json.loads(kept.read_text())
    separated = {name: row for name, row in unit["rows"].items() if "result" in row}
    assert {"none", "wasserstein 1", "hsic 1", "inlp", "hsic 1 fine-tuned"} <= set(separated)
    assert {"erm on images", "jtt on images", "dfr on images"} <= set(unit["rows"])
    assert {sum(separated[f"{name} 1"]["result"]["steps"].values()) for name in ("wasserstein", "hsic")} == {4}
    assert len({row["result"]["features_sha256"] for row in separated.values() if not row["fine_tune"]}) == 1
    for row in separated.values():
        assert set(row["transfer"]) == {"foreground", "background", "all"}
    assert found["settings"]["chosen"] == {"wasserstein": 1, "hsic": 1}
    zero = found["paired_differences"]["none"]["anti-correlated error"]
    assert (zero["n"], zero["mean"]) == (1, 0)
    assert (folder / "disentangle.png").stat().st_size > 10_000
    assert "hsic, λ = 1" in (folder / "disentangle.md").read_text()
    del unit["rows"]["inlp"]
    kept.write_text(json.dumps(unit))
    again = run("disentangle", folder)
    assert json.loads(kept.read_text())["rows"]["inlp"]["result"] == separated["inlp"]["result"]
    assert rows(again) == rows(found)


def bench(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a benchmark, for its functions."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def test_a_training_has_converged_when_its_validation_loss_is_flat_and_its_training_loss_low(monkeypatch):
    beds = bench("beds", monkeypatch)
    flat, falling = [2.0] * 15 + [1.0] * 5, [float(x) for x in np.linspace(2, 1, 20)]
    low = [0.5] * 16 + [0.01] * 4
    assert beds.converge(low, flat) == beds.Convergence(pytest.approx(0.01), 1.0, pytest.approx(0), True)
    assert not beds.converge([0.1] * 20, flat).converged  # there is something left to learn
    tail = beds.converge(low, falling)
    assert tail.change == pytest.approx(-3 / 19)
    assert not tail.converged
    rising = [1.0] * 16 + [1.0, 1.1, 1.2, 1.3]
    assert not beds.converge(low, rising).converged
    assert beds.converge(low, [0.001 * (20 - i) for i in range(20)]).converged  # no more than 0.01 nats


def test_the_mean_over_seeds_has_students_interval_in_per_cent(monkeypatch):
    beds = bench("beds", monkeypatch)
    assert beds.summarise_values([0.5]) == {"n": 1, "mean": 50.0, "std": None, "low": None, "high": None}
    found = beds.summarise_values([0.5, 0.6, 0.7])
    assert (found["n"], found["mean"], found["std"]) == (3, pytest.approx(60), pytest.approx(10))
    half = 4.30265 * 10 / 3**0.5  # of 2 degrees of freedom
    assert (found["low"], found["high"]) == (pytest.approx(60 - half, abs=1e-3), pytest.approx(60 + half, abs=1e-3))


@pytest.mark.parametrize(("value", "verdict"), [(54.9, "missed"), (55, "reached"), (80, "reached"), (80.1, "missed")])
def test_a_row_may_be_asked_to_lie_between_two_numbers(value, verdict, monkeypatch):
    row = bench("results", monkeypatch).Row("worst group", value, "%", at_least=55, at_most=80)
    assert (row.target, row.verdict) == ("55 to 80 %", verdict)


def test_candidates_are_beds_that_can_be_drawn(monkeypatch):
    beds = bench("beds", monkeypatch)
    found = {case.name: case.bed for case in beds.list_candidates(quick=False)}
    assert found.keys() == beds.CANDIDATES.keys()
    assert {bed.name for bed in found.values()} == set(birds.BEDS)
    assert len(set(found.values())) == len(found)
    assert not set(beds.CHOOSING) & set(beds.JUDGING)


@of("beds")
def test_beds_are_trained_on_once_and_reported_by_group_with_and_without_a_bias(quick):
    found, folder = quick("beds")
    table = found["table"]
    assert set(table) == {"pocketlooks", "pocketlooks, unbiased", "pocketlooks, twice the epochs"}
    bed = birds.BEDS["pocketlooks"]
    for name, of_backbones in table.items():
        for each in of_backbones.values():
            assert list(each["groups"]) == [f"{y} × {a}" for y in bed.objects for a in bed.attributes]
            groups = [group["mean"] for group in each["groups"].values()]
            assert each["average"]["mean"] == pytest.approx(np.mean(groups))
            assert each["against_the_bias"]["mean"] == pytest.approx(np.mean(groups[1:3]))
            assert each["worst"]["mean"] == pytest.approx(each["worst_of_mean_groups"]) == pytest.approx(min(groups))
            assert each["epochs"] == (8 if "twice" in name else 4)
            assert each["by_rule"]["worst-group"]["worst"] == each["worst"]
            assert set(each["by_rule"]) == {"worst-group", "average", "last"}
            assert each["seeds"] == [200]
    assert set(found["oracle"]) == {"pocketlooks"}
    assert set(found["oracle"]["pocketlooks"]) == {"foreground", "background", "look"}
    assert (folder / "beds.png").stat().st_size > 5000
    pieces = {path: path.stat().st_mtime_ns for path in folder.rglob("pieces/*.json")}
    assert len(pieces) == 6
    assert not list(folder.rglob("begun/*"))
    oracles = ["--oracle-cache", str(folder / "oracles"), "--workers", "1"]
    chosen = run("beds", folder, *oracles, "--choose", "--beds", "birds-98", "--backbones", "pocket")
    assert list(chosen["table"]) == ["birds-98"]
    again = run("beds", folder, *ARGUMENTS["beds"](folder))
    assert again["table"] == table
    assert {path: path.stat().st_mtime_ns for path in pieces} == pieces


@of("spurious")
def test_spurious_chooses_settings_and_measures_them_with_new_seeds_by_other_judges_and_nothing_is_made_twice(quick):
    found, folder = quick("spurious")
    results = folder / "quick" / "results"
    chosen = json.loads((results / "chosen.json").read_text())
    assert set(chosen["chosen"]) == {"sfsl", "dreambooth"}
    readings = {
        stage: [json.loads(path.read_text()) for path in results.glob(f"{stage}-*.json")]
        for stage in ("select", "final")
    }
    keys = {(each["row"], each["class"], each["seed"]) for each in readings["final"]}
    assert len(keys) == len(readings["final"]) == 4 * 2  # rows, classes
    judges, seeds = (
        {stage: {str(name) for each in some for name in part(each)} for stage, some in readings.items()}
        for part in (lambda each: each["judges"], lambda each: [each["seed"]])
    )
    assert not judges["select"] & judges["final"]
    assert not seeds["select"] & seeds["final"]
    stopped = [each for each in readings["select"] if each.get("early_stopping")]
    assert [each["setting"] for each in stopped] == ["sfsl-direction-many-stop"]
    for each in readings["final"]:
        assert all(len(text) == each["images"] == len(each["object"]) for text in each["says_k"].values())
    assert not list((folder / "quick" / "concepts").iterdir()), "a concept that was read is needed no more"
    before = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    again = run("spurious", folder, "--final")
    assert {path: path.stat().st_mtime_ns for path in results.iterdir()} == before
    assert again["rows"] == found["rows"]
    (folder / "spurious.md").unlink()
    run("spurious", folder, "--report")
    assert "By class, worst first" in (folder / "spurious.md").read_text()
    assert (folder / "spurious.png").stat().st_size > 10_000
