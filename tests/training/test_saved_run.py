"""An unfinished fine-tuning: it goes on from what was saved, and an error that ends it says what that is."""

import errno
import json
import math
import resource

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from figureground.core.errors import FiguregroundError
from figureground.training.curves import Curves
from figureground.training.saved_run import SavedRun
from figureground.training.state import STATE

CPU = torch.device("cpu")
MADE_WITH = {"checkpoint": "sd1", "steps": 1000, "size": [32, 32]}
SAVED = "Step 1,200 of 5,000 is saved in "


class Weight:
    """A learner of one number."""

    def __init__(self, value=0.0):
        self.value = torch.tensor([value])

    def state(self):
        return {"value": self.value}

    def restore(self, state):
        self.value = state["value"]


def curves(*values):
    found = Curves(("total", "loss"))
    for value in values:
        found.add(torch.tensor([value, value / 2]))
    return found


def save(out, step=2, value=3.5, made_with=MADE_WITH):
    unfinished = SavedRun(out, 1000)
    unfinished.save(Weight(value), curves(4.0, 2.0), made_with, step, 61.5)
    return unfinished


def restore(out, made_with=MADE_WITH):
    learner, found, unfinished = Weight(), curves(9.0), SavedRun(out, 1000)
    return unfinished.restore(learner, found, made_with, CPU), learner, found, unfinished


def test_what_was_saved_is_what_the_next_process_goes_on_from(tmp_path):
    assert save(tmp_path).step == 2
    (step, seconds), learner, found, unfinished = restore(tmp_path)
    assert (step, seconds, unfinished.step) == (2, 61.5, 2)
    assert learner.value.tolist() == [3.5]
    assert found.state().tolist() == [[4, 2], [2, 1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.csv", STATE]
    assert (tmp_path / "curves.csv").read_text().splitlines()[1:] == ["1,4,2", "2,2,1"]


def test_where_nothing_is_saved_a_run_begins_at_the_start(tmp_path):
    (step, seconds), learner, found, unfinished = restore(tmp_path)
    assert (step, seconds, unfinished.step) == (0, 0.0, 0)
    assert learner.value.tolist() == [0]
    assert len(found) == 1
    assert unfinished.describe() == ""


def test_a_later_state_replaces_the_earlier_one(tmp_path):
    save(tmp_path)
    save(tmp_path, step=5, value=7.0)
    (step, _), learner, *_ = restore(tmp_path)
    assert (step, learner.value.tolist()) == (5, [7])


def test_losses_that_are_not_finite_are_never_saved_and_the_earlier_state_stays(tmp_path):
    unfinished = save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FiguregroundError, match="step 2"):
        unfinished.save(Weight(7.0), curves(1.0, math.nan), MADE_WITH, 5, 90.0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert unfinished.step == 2


def test_other_settings_are_refused_by_name_and_change_nothing(tmp_path):
    save(tmp_path)
    with pytest.raises(FiguregroundError, match=r"other settings.*\n  steps: 1000, now 500\n.*state\.pt"):
        restore(tmp_path, {**MADE_WITH, "steps": 500})
    assert restore(tmp_path, {**MADE_WITH, "size": (32, 32)})[0][0] == 2  # as JSON has it


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_state_is_refused_by_its_path(tmp_path, damage):
    save(tmp_path)
    path, data = tmp_path / STATE, (tmp_path / STATE).read_bytes()
    at = data.index(torch.tensor([3.5]).numpy().tobytes())
    changed = {
        "cut": data[: len(data) // 2], "flipped": data[:at] + b"\xff" + data[at + 1 :], "empty": b"", "other": None,
    }[damage]  # fmt: skip
    if changed is None:
        torch.save({"value": torch.zeros(1)}, path)
    else:
        path.write_bytes(changed)
    learner = Weight(1.0)
    with pytest.raises(FiguregroundError, match=r"state\.pt is damaged .*Remove it"):
        SavedRun(tmp_path, 1000).restore(learner, curves(), MADE_WITH, CPU)
    assert learner.value.tolist() == [1]
    path.unlink()
    assert restore(tmp_path)[0] == (0, 0.0)


def test_the_settings_and_the_number_of_threads_are_in_the_state(tmp_path):
    save(tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert json.loads(state["made_with"]) == MADE_WITH
    assert state["threads"] == torch.get_num_threads()


# What is said when it ends early


def ends(unfinished, error):
    """The error that comes of one."""
    with pytest.raises(BaseException) as found, unfinished.explain_errors("Lower the rate.", "Memory is full."):  # noqa: PT011
        raise error
    return found.value


@pytest.fixture
def begun(tmp_path):
    return SavedRun(tmp_path, 5000, step=1200)


def test_what_is_saved_and_what_can_be_used_are_named(tmp_path):
    assert SavedRun(tmp_path, 5000).describe() == ""
    assert SavedRun(tmp_path, 5000, usable=tmp_path / "checkpoint").describe() == ""
    description = SavedRun(tmp_path, 5000, step=1200).describe()
    assert description.startswith(f"{SAVED}{tmp_path};")
    both = SavedRun(tmp_path, 5000, step=1200, usable=tmp_path / "checkpoint").describe()
    assert both.startswith(f"{description} {tmp_path / 'checkpoint'} ")


def test_a_run_that_ends_well_says_nothing(begun):
    with begun.explain_errors("Lower the rate.", "Memory is full."):
        done = True
    assert done


def test_a_stop_stays_a_stop_and_notes_what_is_saved(begun, tmp_path):
    stop = KeyboardInterrupt()
    assert ends(begun, stop) is stop
    assert stop.__notes__ == [begun.describe()]
    stop = KeyboardInterrupt()
    assert ends(SavedRun(tmp_path, 5000), stop) is stop
    assert not hasattr(stop, "__notes__")


def test_losses_that_are_not_finite_are_reported_with_what_is_saved_and_the_advice(begun, tmp_path):
    def learn(unfinished):
        with unfinished.explain_errors("Lower the rate.", "Memory is full."):
            curves(1.0, math.inf).fetch()

    with pytest.raises(FiguregroundError) as error:
        learn(begun)
    assert str(error.value) == f"the loss loss is inf at step 2. {begun.describe()} Lower the rate."
    with pytest.raises(FiguregroundError) as error:
        learn(SavedRun(tmp_path, 5000))
    assert str(error.value) == "the loss loss is inf at step 2. Lower the rate."


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate "
     "memory: you tried to allocate 99 bytes.")], ids=["cuda", "python", "cpu"],
)  # fmt: skip
def test_full_memory_is_reported_with_what_is_saved(begun, tmp_path, error):
    raised = ends(begun, error)
    assert isinstance(raised, FiguregroundError)
    assert str(raised) == f"Memory is full. {begun.describe()}"
    assert raised.__cause__ is error
    assert str(ends(SavedRun(tmp_path, 5000), error)) == "Memory is full."


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_or_failing_disk_is_reported_with_what_is_saved(begun, tmp_path, number):
    raised = ends(begun, OSError(number, "it", str(tmp_path / STATE)))
    assert isinstance(raised, FiguregroundError)
    assert str(tmp_path) in str(raised)
    assert str(raised).endswith(f" {begun.describe()}")
    first = ends(SavedRun(tmp_path, 5000), OSError(number, "it", str(tmp_path / STATE)))
    assert str(raised) == f"{first} {begun.describe()}"


def test_a_disk_error_of_safetensors_is_reported_as_one(begun, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(SafetensorError) as refused:
            save_file({"a": torch.zeros(10_000)}, tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    raised = ends(begun, refused.value)
    assert isinstance(raised, FiguregroundError)
    assert "ulimit -f" in str(raised)
    assert str(raised).endswith(f" {begun.describe()}")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"), SafetensorError("header too large"),
        OSError(errno.ENOSPC, "full", "/elsewhere/file"), FileNotFoundError(errno.ENOENT, "gone", "vocab.json"),
        ValueError("nan"), FiguregroundError("said already"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_other_errors_are_passed_on_as_they_are(begun, error):
    assert ends(begun, error) is error
