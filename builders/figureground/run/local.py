"""Renders with several processes on one machine; each takes shards that nobody else holds."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from figureground.errors import FiguregroundError
from figureground.shards import index

if TYPE_CHECKING:
    from figureground.builder import Builder


def work_in_processes(builder: Builder, out: Path, show_progress: bool = True) -> None:
    """Runs `builder.work` in `builder.config.workers` processes and waits for them.

    Raises:
        FiguregroundError: A worker ended with an error, which it has printed.
    """
    from figureground.builder import as_shard

    context = multiprocessing.get_context("spawn")
    fields = {name: getattr(builder.config, name) for name in builder.config.field_names()}
    workers = [
        context.Process(
            target=_work, args=(type(builder), builder.config.name, fields, out, rank), name=f"worker {rank}"
        )
        for rank in range(builder.config.workers)
    ]
    for worker in workers:
        worker.start()
    planned = [as_shard(s) for s in builder.plan().shards()]
    total = sum(s.count for s in planned)
    done = total - sum(s.count for s in index.missing(out, planned))
    try:
        with tqdm(
            total=total, initial=done, unit="image", desc=str(out), disable=None if show_progress else True
        ) as bar:
            while alive := [worker for worker in workers if worker.is_alive()]:
                alive[0].join(1)
                bar.update(total - sum(s.count for s in index.missing(out, planned)) - bar.n)
            bar.update(total - sum(s.count for s in index.missing(out, planned)) - bar.n)
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    failed = [worker.name for worker in workers if worker.exitcode]
    if failed:
        raise FiguregroundError(
            f"{', '.join(failed)} stopped with an error. Start the build again: it goes on where it stopped."
        )


def _work(kind: type[Builder], config_name: str, fields: dict, out: Path, rank: int) -> None:
    try:
        kind(config_name, **fields).work(out, rank, fields["workers"], show_progress=False)
    except FiguregroundError as error:
        print(f"figureground, worker {rank}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
