"""Reports of the commands to a tracker that another package adds, and that they change nothing else."""

import json
import shutil

import pytest
from commands import hashes
from example_tracker import logged, read
from safetensors.torch import load_file
from tiny_classifiers import make_classifier
from tiny_references import make_references, tiny

from figureground import D3S
from figureground.comparison.comparing import compare
from figureground.disentangling.training import disentangle
from figureground.finetune.dreambooth import finetune
from figureground.learn.settings import Training
from figureground.learn.training import train
from figureground.running import reporting
from figureground.running.reporting import MARK, report_progress
from figureground.shards.shard import as_shard
from figureground.tracking.reporting import tracked

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = {"device": "cpu", "show_progress": False}


def same_weights(one, other):
    one, other = load_file(one), load_file(other)
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_train_reports_a_run_for_each_model_and_trains_the_same_weights_without(bed, diary, tmp_path):
    settings = Training("jtt", epochs=3, first_epochs=1)
    (seed,) = train(settings, bed, tmp_path / "with", seeds=[4], track="diary", **QUIET)["seeds"]
    train(settings, bed, tmp_path / "without", seeds=[4], **QUIET)
    runs = read(diary)
    assert sorted(runs) == ["jtt-seed-4", "jtt-seed-4-first"]
    calls = runs["jtt-seed-4"]
    config = calls[0]["config"]
    assert (config["method"], config["seed"], config["data"]) == ("jtt", 4, "birds")
    assert str(tmp_path) not in json.dumps(config)
    values = logged(calls)
    assert list(values["train/total"]) == list(range(1, seed["steps"]["main"] + 1))
    assert values["train/learning_rate"].keys() == values["train/total"].keys()
    curve = json.loads((tmp_path / "with" / "seed-4.json").read_text())["curve"]
    assert values["validation/worst"] == {each["steps"]: each["worst"] for each in curve if each["worst"] is not None}
    assert values["test/worst"] == {seed["steps"]["main"]: seed["test"]["worst"]}
    assert calls[-1] == {"call": "end", "finished": True}
    model = f"{seed['model']}/model.safetensors"
    assert same_weights(tmp_path / "with" / model, tmp_path / "without" / model)
    one, other = (tmp_path / out / "training.json" for out in ("with", "without"))
    assert one.read_bytes() == other.read_bytes()


def test_compare_reports_its_table_beside_the_trainings(bed, diary, tmp_path):
    found = compare(
        bed, ["erm", "reweight"], 1, tmp_path / "out", training={"epochs": 1}, track="diary", **QUIET
    )  # fmt: skip
    runs = read(diary)
    assert sorted(runs) == ["comparison", "erm-erm-seed-0", "reweight-reweight-seed-0"]
    assert {calls[0]["group"] for calls in runs.values()} == {"out"}
    (table,) = [each for each in runs["comparison"] if each["call"] == "table"]
    shown = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(each["method"], each["worst"]) for each in shown] == [
        (row["method"], row["worst"]["mean"]) for row in found["rows"]
    ]


def test_finetune_reports_losses_rates_previews_and_what_early_stopping_looks_at(sd1, diary, tmp_path):
    references = make_references(tmp_path / "references")
    network = make_classifier(tmp_path / "network")
    settings = tiny(
        sd1, preview_images=1, preview_every=2, lr_warmup_steps=3, early_stopping="similarity", stop_every=2,
        stop_images=2, feature_model=str(network),
    )  # fmt: skip
    out = finetune(references, "flower", "hummingbird", tmp_path / "concept", settings, track="diary", **QUIET)
    (calls,) = read(diary).values()
    assert (calls[0]["name"], calls[0]["group"]) == ("concept", "concept")
    assert (calls[0]["config"]["checkpoint"], calls[0]["config"]["noun"]) == (sd1.name, "flower")
    values = logged(calls)
    assert values["train/learning_rate"] == pytest.approx({n: n / 4 * settings.learning_rate for n in (1, 2, 3, 4)})
    assert {"train/total", "train/dreambooth", "train/prior"} <= values.keys()
    stopping = json.loads((out / "concept.json").read_text())["early_stopping"]
    assert values["early_stopping/similarity"] == pytest.approx(dict(map(tuple, stopping["looks"])), abs=1e-5)
    assert list(values["early_stopping/kept_step"].values()) == [stopping["kept_step"]]
    previews = {each["step"]: each["bytes"] for each in calls if each["call"] == "image"}
    assert previews == {n: (out / f"previews/step-{n:06d}.png").stat().st_size for n in {2, stopping["kept_step"]}}


def test_disentangle_reports_the_probes_of_every_seed(bed, diary, tmp_path):
    backbone = make_classifier(tmp_path / "resnet")
    report = disentangle(
        bed, tmp_path / "out", "hsic", seeds=1, backbone=str(backbone), allow_empty=True, track="diary",
        max_train_steps=3, batch_size=8, **QUIET,
    )  # fmt: skip
    (calls,) = read(diary).values()
    values = logged(calls)
    probe = report["seeds"][0]["probes"]["background from foreground"]["accuracy"]["linear"]["value"]
    assert values["probes/background_from_foreground/linear"] == {3: probe}
    assert list(values["train/foreground"]) == [1, 2, 3]


SMALL = {"classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 3}, "shard_size": 4,
         "size": 32, "num_inference_steps": 2, "batch_size": 4, "threads": 1, "device": "cpu"}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory, one_thread):
    """A dataset of three shards, built without a tracker."""
    out = tmp_path_factory.mktemp("built") / "set"
    D3S("pocket", **SMALL).build(out, show_progress=False)
    return out


def test_build_reports_shards_and_images_and_builds_the_same_bytes_without(built, diary, tmp_path):
    out = tmp_path / "set"
    D3S("pocket", **SMALL).build(out, show_progress=False, track="diary")
    (calls,) = read(diary).values()
    assert (calls[0]["name"], calls[0]["group"]) == ("build", "set")
    assert calls[0]["config"]["num_inference_steps"] == 2
    values = logged(calls)
    assert values["build/shards"][12] == 3
    assert values["build/images"][12] + values["build/rejects"][12] == 12
    assert all(speed > 0 for speed in values["build/images_per_second"].values())
    assert hashes(out) == hashes(built)
    for name in ("recipe.json", "index.json"):
        assert (out / "_figureground" / name).read_bytes() == (built / "_figureground" / name).read_bytes()
    assert {path.name for path in out.rglob("*")} == {path.name for path in built.rglob("*")}


class Ended(Exception):
    """Ends a build as a kill would."""


def test_a_resumed_build_continues_its_run_and_reports_rejects_by_reason(built, diary, tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "SECONDS_BETWEEN_LOOKS", 0.02)
    out = tmp_path / "set"
    shutil.copytree(built, out)
    shards = [as_shard(each) for each in D3S("pocket", **SMALL).plan().shards()]
    markers = {shard: json.loads((out / shard.path("marker")).read_text()) for shard in shards}
    for shard in shards:
        (out / shard.path("marker")).unlink()

    def finish(shard, rejects):
        marker = {**markers[shard], "samples": shard.count - sum(rejects.values()), "rejects": rejects}
        (out / shard.path("marker")).write_text(json.dumps(marker))

    def stop_early():
        with tracked("diary", out, {}), report_progress(out, shards):
            finish(shards[0], {"flat": 1})
            raise Ended

    with pytest.raises(Ended):
        stop_early()
    assert (out / MARK).exists()
    with tracked("diary", out, {}), report_progress(out, shards):
        finish(shards[1], {"flat": 1, "safety": 2})
        finish(shards[2], {})
    assert not (out / MARK).exists()
    (calls,) = read(diary).values()
    assert [each["resumed"] for each in calls if each["call"] == "begin"] == [False, True]
    values = logged(calls)
    assert values["build/shards"][4] == 1
    assert {name: steps[12] for name, steps in values.items() if "per_second" not in name} == {
        "build/shards": 3, "build/images": 8, "build/rejects": 4, "build/rejects/flat": 2, "build/rejects/safety": 2,
    }  # fmt: skip
