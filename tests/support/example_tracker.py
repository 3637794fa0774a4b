"""A tracker as another package adds one: each run is a file of JSON lines in the directory that `DIARY` names."""

import json
import os
from pathlib import Path

from figureground.tracking.tracker import Tracker


class Diary(Tracker):
    """Writes down every call. The call that `FAILS` in the environment names raises an error instead."""

    NAME = "diary"

    def begin(self, run):
        self.path = Path(os.environ["DIARY"]) / f"{run.id}.jsonl"
        self._add("begin", name=run.name, group=run.group, config=run.config, resumed=run.resumed, step=run.step)

    def log(self, values, step):
        self._add("log", values=values, step=step)

    def image(self, name, path, step):
        self._add("image", name=name, bytes=path.stat().st_size, step=step)

    def table(self, name, columns, rows):
        self._add("table", name=name, columns=columns, rows=rows)

    def end(self, finished):
        self._add("end", finished=finished)

    def _add(self, call, **fields):
        if call == os.environ.get("FAILS"):
            raise OSError(28, "No space left on device")
        with self.path.open("a") as file:
            file.write(json.dumps({"call": call, **fields}) + "\n")


class Absent(Tracker):
    """Needs a package that isn't installed."""

    NAME, PACKAGE, INSTALL = "absent", "a_package_that_is_not_installed", "pip install 'figureground[absent]'"

    def begin(self, run):
        raise AssertionError("it was never checked")

    log = end = begin


def read(folder):
    """The calls of each run by its name; two runs of one name fail."""
    runs = {}
    for path in sorted(folder.glob("*.jsonl")):
        calls = [json.loads(line) for line in path.read_text().splitlines()]
        assert runs.setdefault(calls[0]["name"], calls) is calls
    return runs


def logged(calls):
    """Each value of a run as `{name: {step: value}}`."""
    found = {}
    for each in calls:
        for name, value in each.get("values", {}).items():
            found.setdefault(name, {})[each["step"]] = value
    return found
