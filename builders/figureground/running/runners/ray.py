"""Renders on the machines of a Ray cluster, or with Ray on this machine: one actor for each GPU keeps the model.

Ray (an extra) starts the actors and says which died. Images never travel through it: an actor writes its shards into
the dataset's directory, which all machines share, and returns what the log says of them.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from figureground.core import signals
from figureground.core.errors import RecipeError, UsageError
from figureground.core.event_log import EventLog
from figureground.core.extras import require
from figureground.core.locks import has_locks
from figureground.core.progress import Progress
from figureground.running.ray.cluster import choose_resources, join_cluster
from figureground.running.ray.dispatcher import ActorStarter, Dispatcher
from figureground.running.runner import Job, Runner
from figureground.shards.home import home_of
from figureground.shards.markers import find_missing_shards
from figureground.shards.shard import as_shard
from figureground.stores.scratch import settings_of

if TYPE_CHECKING:
    from figureground.methods.base import Method


class Ray(Runner):
    """Renders in actors of Ray, each with its own model.

    Args:
        address: `auto` or `HOST:PORT` of a running Ray to join; None starts one on this machine, unless this process
            was started by `ray job submit`.
        gpus_per_worker: GPUs of each actor, which may be a fraction; 0 renders on CPUs. None is 1 if there are GPUs
            and the setting `device` allows them.
        workers: Number of actors. None is the setting `workers` if that is above 1, otherwise as many as there is room
            for: one for each GPU, or one for each machine.

    Raises:
        UsageError: An argument is invalid.
    """

    NAME = "ray"

    def __init__(self, address: str | None = None, gpus_per_worker: float | None = None, workers: int | None = None):
        if gpus_per_worker is not None and not 0 <= gpus_per_worker < math.inf:
            raise RecipeError("--gpus-per-worker", f"{gpus_per_worker} is not a number of GPUs; give 0 or more.")
        if gpus_per_worker and gpus_per_worker > 1 and gpus_per_worker % 1:
            raise RecipeError(
                "--gpus-per-worker", f"{gpus_per_worker}: above 1, Ray assigns only whole GPUs. Give a whole number."
            )
        if workers is not None and workers < 1:
            raise RecipeError("--workers", f"{workers} is less than 1.")
        if address is not None and "://" in address:
            raise RecipeError(
                "--ray-address", f"{address}: give auto or HOST:PORT on a machine of the cluster, or start the build "
                "there with ray job submit.",
            )  # fmt: skip
        self.address, self.gpus_per_worker, self.workers = address, gpus_per_worker, workers

    def begin(self, method: Method, out: Path) -> None:
        """Check that Ray is installed and that the device fits."""
        require("ray", "the runner ray", otherwise="or render with --runner local")
        if self.gpus_per_worker and method.config.device == "cpu":
            raise UsageError(
                f"--gpus-per-worker {self.gpus_per_worker:g} contradicts device=cpu. Leave out one of the two."
            )

    def run(self, method: Method, out: Path, show_progress: bool) -> None:
        planned = method.plan().shards()
        shards = [as_shard(shard) for shard in planned]
        todo = [number for number, shard in enumerate(shards) if find_missing_shards(out, [shard])]
        with join_cluster(self._address()) as nodes:
            workers = self.workers or (method.config.workers if method.config.workers > 1 else None)
            resources = choose_resources(
                nodes, method.config.device, self.gpus_per_worker, workers, method.config.threads
            )
            job = Job.from_method(method)
            fields = {**job.fields, **({} if resources.gpus else {"device": "cpu"})}
            job = dataclasses.replace(job, fields=fields, log=EventLog(buffer=[]))
            total = sum(shard.count for shard in shards)

            home = home_of(out)

            def count_finished() -> int:
                home.refresh()
                return total - sum(shard.count for shard in find_missing_shards(out, shards))

            url, lease = settings_of(out)
            resources = dataclasses.replace(resources, workers=min(resources.workers, len(todo)))
            lacks_locks = url is None and not has_locks(out)
            starter = ActorStarter(job, out.absolute(), url or out.absolute(), lease, resources, lacks_locks)
            with Progress(total, initial=count_finished(), unit="image", desc=home.title, show=show_progress) as bar:
                dispatcher = Dispatcher(starter, shards, todo, method.log)
                try:
                    with signals.delay_to_checks():
                        for _ in dispatcher.steps():
                            bar.update(count_finished() - bar.n)
                finally:
                    dispatcher.stop()
            dispatcher.raise_failed(out)

    def _address(self) -> str | None:
        return self.address or os.environ.get("RAY_ADDRESS") or None
