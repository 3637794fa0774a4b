"""A training reports its steps, its rates and its resumptions, and goes on if the tracker fails."""

import pytest
import torch
from example_tracker import logged, read

from figureground.tracking.reporting import begin, tracked
from figureground.training.curves import NotFinite
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import single_process
from figureground.training.saved_run import SavedRun

STEPS = 25


class Counter:
    """A learner whose loss is the number of its step; it is NaN at one of them."""

    curve_names = ("total",)

    def __init__(self, spoiled=None):
        self.value, self.spoiled = torch.zeros(1), spoiled

    def step(self, number):
        self.value = self.value + 1
        return self.value * (float("nan") if number + 1 == self.spoiled else 1)

    def learning_rates(self):
        return {"learning_rate": 1 / self.value.item()}

    def state(self):
        return {"value": self.value}

    def restore(self, state):
        self.value = state["value"]


class Ended(Exception):
    """Ends a run as a kill would."""


class Measures(Hooks):
    def __init__(self, ends=None):
        self.ends = ends

    def after_step(self, step):
        if step == self.ends:
            raise Ended
        if step % 10 == 0:
            self.loop.report.log({"validation/value": step / 100, "validation/unknown": None}, step)


def train(out, track="diary", learner=None, ends=None, keeps_curves=True):
    out.mkdir(exist_ok=True)
    hooks, unfinished = Measures(ends), SavedRun(out, STEPS, keeps_curves=keeps_curves)
    loop = Loop(
        learner or Counter(), hooks, unfinished, {"seed": 3, "content": {"a": 1}}, Saving(every=6),
        single_process(torch.device("cpu")), "way seed 3", False,
    )  # fmt: skip
    hooks.loop = loop
    with tracked(track, out, {"data": out / "images"}):
        loop.resume()
        loop.run()
        loop.report.log({"test/value": 0.5}, loop.step)
    return loop


def test_each_step_is_reported_once_with_its_rate_and_what_hooks_measure(tmp_path, diary):
    train(tmp_path / "out")
    (calls,) = read(diary).values()
    assert calls[0] == {
        "call": "begin", "name": "way-seed-3", "group": "out", "config": {"data": "images", "seed": 3},
        "resumed": False, "step": 0,
    }  # fmt: skip
    assert calls[-1] == {"call": "end", "finished": True}
    values = logged(calls)
    assert values["train/total"] == {step: step for step in range(1, STEPS + 1)}
    assert values["train/learning_rate"] == pytest.approx({step: 1 / step for step in range(1, STEPS + 1)})
    assert values["validation/value"] == {10: 0.1, 20: 0.2}
    assert values["test/value"] == {STEPS: 0.5}
    assert sum("train/total" in each.get("values", {}) for each in calls) == STEPS
    assert "validation/unknown" not in values


@pytest.mark.parametrize("keeps_curves", [True, False])
def test_a_resumed_training_continues_its_run(tmp_path, diary, keeps_curves):
    with pytest.raises(Ended):
        train(tmp_path / "out", ends=15, keeps_curves=keeps_curves)
    train(tmp_path / "out", keeps_curves=keeps_curves)
    (calls,) = read(diary).values()
    first, second = [each for each in calls if each["call"] == "begin"]
    assert (first["resumed"], second["resumed"], second["step"]) == (False, True, 12)
    assert [each["finished"] for each in calls if each["call"] == "end"] == [False, True]
    assert logged(calls)["train/total"] == {step: step for step in range(1, STEPS + 1)}


def test_a_run_continues_through_an_invocation_that_reports_nothing(tmp_path, diary):
    for track, ends in (("diary", 8), (None, 15)):
        with pytest.raises(Ended):
            train(tmp_path / "out", track, ends=ends)
    train(tmp_path / "out")
    (calls,) = read(diary).values()
    assert [each["step"] for each in calls if each["call"] == "begin"] == [0, 12]


def test_steps_before_a_loss_that_is_not_finite_are_reported(tmp_path, diary):
    with pytest.raises(NotFinite):
        train(tmp_path / "out", learner=Counter(spoiled=17))
    (calls,) = read(diary).values()
    assert max(logged(calls)["train/total"]) == 16
    assert calls[-1] == {"call": "end", "finished": False}


@pytest.mark.parametrize("call", ["begin", "log", "end"])
def test_a_tracker_that_fails_is_named_once_and_the_training_goes_on(tmp_path, diary, capsys, monkeypatch, call):
    monkeypatch.setenv("FAILS", call)
    loop = train(tmp_path / "out")
    assert (loop.step, loop.learner.value.item()) == (STEPS, STEPS)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "diary" in lines[0]
    assert "No space left on device" in lines[0]


def test_a_mark_from_a_strange_directory_names_no_path(tmp_path, diary):
    mark = {"tracker": "diary", "id": "../../id", "name": "/etc/name", "group": ".."}
    with tracked("diary", tmp_path / "out", {}):
        continued = begin("build", mark=mark).mark
    assert continued == {"tracker": "diary", "id": "id", "name": "etc-name", "group": "run"}
    assert [path.name for path in diary.iterdir()] == ["id.jsonl"]


def test_nothing_is_reported_unasked(tmp_path, diary):
    assert not train(tmp_path / "out", track=None).report.active
    assert read(diary) == {}


def test_a_part_of_a_command_reports_to_its_tracker_under_a_longer_name(tmp_path, diary):
    with tracked("diary", tmp_path / "all", {"seeds": 1}), tracked(None, tmp_path / "row", {"epochs": 2}):
        train(tmp_path / "run", track=None)
    (calls,) = read(diary).values()
    assert (calls[0]["group"], calls[0]["name"]) == ("all", "row-run-way-seed-3")
    assert calls[0]["config"] == {"data": "images", "seed": 3}  # the part's own settings
