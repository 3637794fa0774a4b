"""trackio: a local database with a local dashboard, `trackio show`."""

from __future__ import annotations

import contextlib
import contextvars
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from figureground.core.extras import hint
from figureground.tracking.tracker import PROJECT, Run, Tracker


class Trackio(Tracker):
    """Writes to trackio's local database, unless the user's `TRACKIO_SPACE_ID` or `TRACKIO_SERVER_URL` says where."""

    NAME = "trackio"
    PACKAGE = "trackio"
    INSTALL = hint("trackio")
    _greeted: ClassVar[bool] = False

    def begin(self, run: Run) -> None:
        import trackio

        # trackio prints, for each run, how to open the dashboard; stdout is for results.
        with contextlib.redirect_stdout(io.StringIO() if Trackio._greeted else sys.stderr):
            # In a context of its own: otherwise `init` would end the run that is current in this one.
            self._run: Any = contextvars.copy_context().run(
                trackio.init, os.environ.get("TRACKIO_PROJECT") or PROJECT, name=f"{run.name}-{run.id}",
                group=run.group, config=dict(run.config), resume="allow" if run.resumed else "never", embed=False,
                auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
        Trackio._greeted, self._step = True, run.step

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)
        self._step = step

    def image(self, name: str, path: Path, step: int) -> None:
        import trackio

        self._run.log({name: trackio.Image(str(path))}, step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        import pandas
        import trackio

        frame = pandas.DataFrame([list(row) for row in rows], columns=list(columns))
        self._run.log({name: trackio.Table(dataframe=frame)}, step=self._step)

    def end(self, finished: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
