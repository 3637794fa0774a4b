"""Weights & Biases: sends to the user's account, or writes locally with `WANDB_MODE=offline`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.extras import hint
from figureground.tracking.tracker import PROJECT, Run, Tracker

STEP = "step"
"""The value that is drawn on the horizontal axis."""

SECONDS_TO_FINISH = 60.0
"""Time to send what is left, seconds; the rest stays on this machine, for `wandb sync`."""


class WeightsAndBiases(Tracker):
    """Whether, where and to whom it sends follows from W&B's own settings and environment variables."""

    NAME = "wandb"
    PACKAGE = "wandb"
    INSTALL = hint("wandb")

    @classmethod
    def check(cls) -> None:
        import wandb

        problem = "there is no API key"
        try:
            if wandb.setup().settings.mode != "online" or wandb.login(prompt=False):
                return
        except Exception as error:  # a setting that isn't valid, a wrong key, a server that doesn't answer
            problem = str(error)
        raise FiguregroundError(
            f"track: 'wandb': {problem.removesuffix('.')}. Run `wandb login`, set WANDB_API_KEY, or keep the runs on "
            "this machine with WANDB_MODE=offline."
        )

    def begin(self, run: Run) -> None:
        import wandb

        # Without these, it also sends the command line, code, Git state, packages, output, host and use of hardware.
        quiet = wandb.Settings(
            reinit="create_new", console="off", disable_code=True, disable_git=True, disable_job_creation=True,
            x_disable_meta=True, x_disable_machine_info=True, x_disable_stats=True, x_save_requirements=False,
            host="-",
            finish_timeout=SECONDS_TO_FINISH, finish_timeout_raises=True,
        )  # fmt: skip
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT, id=run.id, name=run.name, group=run.group,
            config=dict(run.config), resume="allow" if run.resumed else None, settings=quiet,
        )  # fmt: skip
        self._step = run.step
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, STEP: step})
        self._step = step

    def image(self, name: str, path: Path, step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(str(path)), STEP: step})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        import wandb

        self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows]), STEP: self._step})

    def end(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
