"""The training loop: what is saved and when, going on from it, ending early, and stops."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ENVIRONMENT

from figureground.core.errors import FiguregroundError
from figureground.training.curves import NotFinite
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import single_process
from figureground.training.saved_run import SavedRun

CPU = torch.device("cpu")
STEPS = 7


class Digits:
    """A learner that writes down the numbers of its steps; the number of step 3 can be spoiled."""

    curve_names = ("total",)

    def __init__(self, spoiled=False):
        self.value, self.spoiled = torch.zeros(1, dtype=torch.float64), spoiled

    def step(self, number):
        self.value = 10 * self.value + number + 1
        return torch.full((1,), math.nan) if self.spoiled and number == 3 else self.value

    def state(self):
        return {"value": self.value}

    def restore(self, state):
        self.value = state["value"]


class Diary(Hooks):
    """Hooks that write down when they were called."""

    def __init__(self, out, last=None):
        self.out, self.last, self.events = out, last, []

    def is_done(self, step):
        return step == self.last

    def after_step(self, step):
        self.events.append(f"after {step}")

    def before_save(self, step):
        self.events.append(f"save {step}")

    def at_end(self, step):
        self.events.append(f"end {step}")

    def write_usable(self):
        self.events.append("usable")
        return self.out / "usable"


def make(out, learner=None, hooks=None, saving=Saving(every=2), made_with=None, **more):  # noqa: B008
    out.mkdir(exist_ok=True)
    saved_run = SavedRun(out, STEPS, **more)
    made_with = {"seed": 0} if made_with is None else made_with
    loop = Loop(
        learner or Digits(), hooks or Hooks(), saved_run, made_with, saving, single_process(CPU), "digits", False
    )
    loop.resume()
    return loop


class Ended(Exception):
    """Ends a run as a kill would: nothing is saved for it."""


class KilledAfter(Hooks):
    def __init__(self, step):
        self.last = step

    def after_step(self, step):
        if step == self.last:
            raise Ended


def test_a_run_takes_every_step_once_and_saves_the_last(tmp_path):
    loop = make(tmp_path)
    loop.run()
    assert loop.learner.value.item() == 1234567
    assert (loop.step, len(loop.curves), loop.saved_run.step) == (STEPS, STEPS, STEPS)
    assert make(tmp_path).step == STEPS
    assert len((tmp_path / "curves.csv").read_text().splitlines()) == STEPS + 1


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("killed", range(1, STEPS + 1))
def test_a_killed_run_goes_on_from_the_last_interval_and_ends_the_same(tmp_path, killed, kept):
    with pytest.raises(Ended):
        make(tmp_path, hooks=KilledAfter(killed), keeps_curves=kept).run()
    loop = make(tmp_path, keeps_curves=kept)
    assert loop.step == (killed - 1) // 2 * 2
    assert len(loop.curves) == loop.step
    loop.run()
    assert loop.learner.value.item() == 1234567
    assert (tmp_path / "curves.csv").exists() is kept


def test_a_finished_run_has_no_more_steps(tmp_path):
    make(tmp_path).run()
    hooks = Diary(tmp_path)
    make(tmp_path, hooks=hooks).run()
    assert hooks.events == [f"end {STEPS}", f"save {STEPS}"]


def test_hooks_are_called_around_steps_and_saves(tmp_path):
    hooks = Diary(tmp_path)
    make(tmp_path, hooks=hooks, saving=Saving(every=3)).run()
    assert hooks.events == [
        "after 1", "after 2", "after 3", "save 3", "after 4", "after 5", "after 6", "save 6", "after 7", "end 7",
        "save 7",
    ]  # fmt: skip


def test_a_state_is_saved_after_so_many_seconds(tmp_path):
    hooks = Diary(tmp_path)
    make(tmp_path, hooks=hooks, saving=Saving(seconds=0.0)).run()
    assert [each for each in hooks.events if each.startswith("save")] == [f"save {i}" for i in range(1, STEPS + 1)]
    hooks = Diary(tmp_path)
    make(tmp_path / "rarely", hooks=hooks, saving=Saving(seconds=1e6)).run()
    assert [each for each in hooks.events if each.startswith("save")] == [f"save {STEPS}"]


def test_hooks_can_end_it_early_and_its_last_step_is_saved(tmp_path):
    hooks = Diary(tmp_path, last=3)
    make(tmp_path, hooks=hooks).run()
    assert hooks.events[-2:] == ["end 3", "save 3"]
    loop = make(tmp_path, hooks=hooks)
    assert (loop.step, loop.learner.value.item()) == (3, 123)


@pytest.mark.parametrize("kept", [True, False])
def test_after_a_loss_that_is_no_number_the_last_saved_state_is_back_and_written(tmp_path, kept):
    hooks = Diary(tmp_path)
    loop = make(tmp_path, Digits(spoiled=True), hooks, keeps_curves=kept)
    with pytest.raises(NotFinite, match="at step 4") as error:
        loop.run()
    assert error.value.step == 4
    assert math.isnan(error.value.value)
    assert (loop.learner.value.item(), loop.saved_run.step) == (12, 2)
    assert loop.saved_run.usable == tmp_path / "usable"
    with pytest.raises(NotFinite, match="at step 4"):  # steps of earlier runs count
        make(tmp_path, Digits(spoiled=True), hooks, keeps_curves=kept).run()


def test_without_a_saved_state_nothing_is_usable(tmp_path):
    hooks = Diary(tmp_path)
    loop = make(tmp_path, Digits(spoiled=True), hooks, Saving())
    with pytest.raises(NotFinite):
        loop.run()
    assert "usable" not in hooks.events
    assert not list(tmp_path.iterdir())


def test_a_state_that_was_made_with_something_else_is_refused_unless_nothing_is_asked_for(tmp_path):
    make(tmp_path).run()
    with pytest.raises(FiguregroundError, match="seed: 0, now 1"):
        make(tmp_path, made_with={"seed": 1})
    assert make(tmp_path, made_with={}).step == STEPS


def test_seconds_of_earlier_runs_count(tmp_path):
    make(tmp_path).run()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({**state, "seconds": 1000.0}, tmp_path / "state.pt")
    assert 1000 <= make(tmp_path).seconds < 1100


STOPPED = """
import os, signal, sys
from pathlib import Path
from figureground.core import signals
from figureground.training.loop import Saving
from test_loop import Diary, make

class Signal(Diary):
    def after_step(self, step):
        if step == 3:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))

out = Path(sys.argv[1])
hooks = Signal(out)
loop = make(out, hooks=hooks, saving=Saving(every=2, on_stop=sys.argv[3] == "save"))
try:
    with signals.handle_signals(), loop.saved_run.explain_errors("", ""):
        loop.run()
except KeyboardInterrupt as stop:
    print(stop.signal, loop.saved_run.step, hooks.events, *stop.__notes__, sep="; ")
"""


@pytest.mark.parametrize(
    ("number", "on_stop", "expected"),
    [
        ("SIGINT", "save", "2; 3; ['save 2', 'usable']; Step 3 of 7 is saved"),
        ("SIGTERM", "lose", "15; 2; ['save 2']; Step 2 of 7 is saved"),
    ],
)
def test_a_signal_stops_it_between_two_steps(tmp_path, number, on_stop, expected):
    process = subprocess.run(
        [sys.executable, "-c", STOPPED, str(tmp_path), number, on_stop], capture_output=True, text=True, timeout=300,
        env={**ENVIRONMENT, "PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    assert process.stdout.startswith(expected), process.stderr
    assert make(tmp_path).step == (3 if on_stop == "save" else 2)
