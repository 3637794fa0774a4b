"""Runs the command `figureground` as people do: in a process of its own, to be signalled, starved and killed."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from forked_commands import Forked

TINY = {
    "classes": "[bird, car]", "backgrounds": "[grass, snow]", "per_cell": "{train: 14, validation: 1}", "shard_size": 4,
    "num_inference_steps": 6, "size": 32, "batch_size": 4, "threads": 1, "device": "cpu",
}  # fmt: skip
"""60 images in 15 shards: a few seconds."""
LONG = {"num_inference_steps": 15, "per_cell": "{train: 7, validation: 1}"}
"""Changes of it that leave time to kill a process."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}


def recipe(checkpoint: str | Path, **settings: object) -> list[str]:
    """The arguments that name a small recipe."""
    values = {**TINY, **settings, "checkpoint": checkpoint}
    return ["d3s", *(part for name, value in values.items() for part in ("--set", f"{name}={value}"))]


def start(*arguments: str, **options: object) -> subprocess.Popen | Forked:
    """Start `figureground` as the leader of a group, as a shell does; as a fork unless an option needs more."""
    if set(options) <= {"cwd", "stdout", "stderr"}:
        return Forked(arguments, env=ENVIRONMENT, **options)
    command = [sys.executable, "-m", "figureground", *arguments]
    pipe = subprocess.PIPE
    settings: dict = {"stdout": pipe, "stderr": pipe, "text": True, "start_new_session": True, "env": ENVIRONMENT}
    return subprocess.Popen(command, **{**settings, **options})


def run(*arguments: str, **options: object) -> tuple[int, str, str]:
    """Run `figureground`; return exit code, output and errors."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def markers(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "_figureground" / "shards").glob("[!.]*.json"))


def wait_for(truth, process: subprocess.Popen | Forked | None = None, seconds: float = 120) -> None:
    """Wait until `truth()`."""
    latest = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < latest, "it took too long"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def build_whole_and_killed(arguments: list[str], folder: Path) -> tuple[Path, Path]:
    """Build `whole`, and `killed` until SIGKILL after its first shards."""
    whole, killed = folder / "whole", folder / "killed"
    code, _, err = run("build", *arguments, "--out", str(whole))
    assert code == 0, err
    process = start("build", *arguments, "--out", str(killed))
    wait_for(lambda: markers(killed), process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert 0 < len(markers(killed)) < len(markers(whole))
    return whole, killed


def hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every data file."""
    files = [path for folder in ("data", "webdataset") for path in (out / folder).glob("*")]
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def litter(out: Path) -> list[str]:
    """Temporary files and locks, which a finished build has none of."""
    return sorted(str(path.relative_to(out)) for path in out.rglob(".*") if path.is_file())


def children(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
