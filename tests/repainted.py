"""Datasets that SCGS and DDB made: what is in them, and builds that are killed on the way."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from commands import run, start


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of all Parquet files."""
    return [row for path in sorted((out / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def build_with_kills(method: str, data: Path, out: Path, settings: dict[str, Any], kills: list[str], once: str) -> None:
    """Builds with the command, which is killed as soon as a file of each pattern is there, and then goes on to the end.

    Args:
        kills: Patterns of files below `_figureground`.
        once: A stage that is done by the last kill, and must not be done again.
    """
    values = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    arguments = ["build", method, "--data", str(data), "--out", str(out), *values]
    for pattern in kills:
        process = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list((out / "_figureground").glob(pattern)) and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    marker = out / "_figureground" / "stages" / once / "done.json"
    before = marker.stat().st_mtime_ns
    code, _, errors = run(*arguments)
    assert code == 0, errors
    assert marker.stat().st_mtime_ns == before
