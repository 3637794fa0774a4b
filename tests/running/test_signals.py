"""Ctrl-C, SIGTERM and kills, sent to real builds: what is on disk stays good, and the same command ends the work."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import ENVIRONMENT, alive, children, hashes, litter, markers, recipe, run, start, wait_for
from tiny_checkpoints import make_checkpoint

LONG = {"num_inference_steps": 25, "per_cell": "{train: 7, validation: 1}"}
"""32 images in 8 shards, long enough to be met in the middle."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def undisturbed(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "d3s"
    code, _, err = run("build", *recipe(checkpoint, **LONG), "--out", str(out))
    assert (code, err) == (0, "")
    return out


@pytest.fixture
def building(checkpoint, tmp_path):
    """Start a build and wait until it has done a shard; end whatever is left of it."""
    started = []

    def begin(done=1, **settings):
        out = tmp_path / "d3s"
        process = start("build", *recipe(checkpoint, **LONG, **settings), "--out", str(out))
        started.append(process)
        wait_for(lambda: len(markers(out)) >= done, process)
        return process, out

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # workers too, which may have outlived the command
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(checkpoint, out, undisturbed):
    kept = {name: (out / "_figureground" / "shards" / name).read_bytes() for name in markers(out)}
    assert 0 < len(kept) < 8
    code, output, err = run("build", *recipe(checkpoint, **LONG), "--out", str(out))
    assert (code, err) == (0, "")
    assert "32 samples" in output
    assert {name: (out / "_figureground" / "shards" / name).read_bytes() for name in kept} == kept
    assert hashes(out) == hashes(undisturbed)
    assert litter(out) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)  # fmt: skip
def test_a_signal_stops_a_build_within_seconds_and_the_same_command_ends_it(
    building, checkpoint, undisturbed, sent, code
):
    process, out = building()
    process.send_signal(sent)
    sent_at = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - sent_at < 10
    assert process.returncode == code
    done = len(markers(out))
    assert f"figureground: stopped. {done} of 8 shards are done and kept" in err
    assert "Traceback" not in err
    assert not [name for name in litter(out) if name.endswith(".tmp")]
    finish(checkpoint, out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)],
    ids=["Ctrl-C in a terminal", "SIGTERM to all, as from scancel", "SIGTERM to the command"],
)
def test_workers_stop_with_the_command_and_say_nothing(building, checkpoint, undisturbed, sent, whole_group):
    process, out = building(workers=2)
    workers = children(process.pid)
    assert len(workers) >= 2
    (os.killpg if whole_group else os.kill)(process.pid, sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + sent
    assert err.count("\n") == 2  # stopping, stopped
    assert "Traceback" not in err
    wait_for(lambda: not any(map(alive, workers)), seconds=10)
    finish(checkpoint, out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "workers"), [(0.2, 2), (1.0, 1), (2.0, 2), (4.0, 1)])
def test_a_signal_while_libraries_and_model_are_loaded_shows_no_traceback(checkpoint, tmp_path, after, workers):
    out = tmp_path / "d3s"
    # Naming the environment makes it import everything itself.
    process = start("build", *recipe(checkpoint, workers=workers, **LONG), "--out", str(out), env=ENVIRONMENT)
    wait_for(lambda: "stop in time" in threads_of(process), process)
    time.sleep(after)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Exception" not in err
    assert err.count("\n") <= 2
    if not markers(out):
        assert not out.exists() or (out / "_figureground" / "stages").exists()


def threads_of(process):
    import psutil

    return "stop in time" if psutil.Process(process.pid).num_threads() > 1 else ""


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["at once", "while workers are waited for"])
def test_a_second_ctrl_c_ends_all_at_once(building, checkpoint, undisturbed, late):
    process, out = building(workers=2)
    answering, stuck = workers_of(process)
    os.kill(stuck, signal.SIGSTOP)  # a worker that doesn't answer, so that the first Ctrl-C can't end all
    process.send_signal(signal.SIGINT)
    assert "stopping. Ctrl-C again stops at once." in process.stderr.readline()
    if late:
        wait_for(lambda: not alive(answering), process)
    process.send_signal(signal.SIGINT)
    sent_at = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - sent_at < 5
    assert process.returncode == 130
    assert "stopped at once." in err
    assert "Traceback" not in err
    wait_for(lambda: not any(map(alive, [answering, stuck])), seconds=10)
    finish(checkpoint, out, undisturbed)


@pytest.mark.slow
def test_workers_whose_parent_was_killed_stop_by_themselves(building, checkpoint, undisturbed):
    process, out = building(workers=2)
    workers = children(process.pid)
    process.kill()
    wait_for(lambda: not any(map(alive, workers)), seconds=20)
    _, err = process.communicate()
    assert "Traceback" not in err
    finish(checkpoint, out, undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_its_shard_only_and_others_take_over(building, undisturbed):
    process, out = building(workers=2)
    time.sleep(0.3)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    output, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "32 samples" in output
    assert "worker 0 (killed by SIGKILL) ended before the work was done" in err
    assert hashes(out) == hashes(undisturbed)
    assert litter(out) == []


@pytest.mark.slow
def test_when_all_workers_are_killed_the_command_says_so_and_goes_on_the_next_time(building, checkpoint, undisturbed):
    process, out = building(workers=2)
    for pid in workers_of(process):
        os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ran out of memory: give fewer --set workers=…" in err
    assert "Traceback" not in err
    finish(checkpoint, out, undisturbed)


def workers_of(process):
    """The processes that draw, the first rank first; not multiprocessing's own, nor what a library starts."""
    import psutil

    return [child.pid for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]


IN_PYTHON = """
import signal, sys
from figureground import D3S
before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
try:
    D3S("pocket", checkpoint={checkpoint!r}, classes=["bird", "car"], backgrounds=["grass", "snow"],
        per_cell={{"train": 7, "validation": 1}}, shard_size=4, num_inference_steps=25, size=32, batch_size=4,
        threads=1,
        device="cpu", workers={workers}).build({out!r})
except KeyboardInterrupt as stop:
    print(stop.__notes__[0])
assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_in_python_ctrl_c_is_a_keyboard_interrupt_and_handlers_are_left_alone(
    checkpoint, tmp_path, undisturbed, workers
):
    out = tmp_path / "d3s"
    script = tmp_path / "mine.py"
    code = IN_PYTHON.format(checkpoint=str(checkpoint), out=str(out), workers=workers)
    script.write_text("if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in code.splitlines()))
    process = subprocess.Popen(
        [sys.executable, str(script)], env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: markers(out), process)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    output, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"{len(markers(out))} of 8 shards are done and kept" in output
    assert "Traceback" not in err
    wait_for(lambda: not any(map(alive, workers)), seconds=10)
    finish(checkpoint, out, undisturbed)


def test_signals_that_a_shell_ignores_stay_ignored():
    code = (
        "import signal, os\n"
        "from figureground.core import signals\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with signals.handle_signals():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    signals.check()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_handlers_are_put_back_when_nothing_came():
    from figureground.core import signals

    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with signals.handle_signals():
        assert [signal.getsignal(number) for number in signals.SIGNALS] != before
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_a_process_that_does_not_come_to_a_check_ends_after_a_while():
    code = (
        "import os, signal, time\n"
        "from figureground.core import signals\n"
        "signals.SECONDS_TO_STOP = 0.5\n"
        "with signals.handle_signals(), signals.delay_to_checks():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(600)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143
    assert "stopped at once" in done.stderr


def test_ctrl_c_that_is_held_back_comes_afterwards():
    code = (
        "import os, signal, time\n"
        "from figureground.core import signals\n"
        "with signals.handle_signals(), signals.delay_to_checks():\n"
        "    with signals.hold_back_interrupts():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.2)\n"  # for another thread to take it
        "        print(signals.received_signal())\n"
        "    print(signals.received_signal())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "None\n2\n"
    assert "stopping" in done.stderr


def test_a_signal_while_a_finalizer_runs_takes_effect_after_it():
    code = (
        "import os, signal, sys, time\n"
        "from figureground.core import signals\n"
        "class Finalized:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.01)\n"
        "        print('finalized')\n"
        "with signals.handle_signals():\n"
        "    try:\n"
        "        Finalized()\n"
        "        time.sleep(600)\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("finalized\nstopped\n", "")
