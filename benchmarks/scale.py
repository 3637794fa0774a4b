"""Cost of runners, of journals and of killed workers: `python benchmarks/scale.py`.

There are three parts (`--parts`); the results of a single part are saved in `results/scale-PART.json`:

`runners`: Two workers build with the pocket model and the runners `local`, `rank` and `ray`, in turn within each round.
The measure is the rate from the first shard's start to the last marker, relative to `local` in the same round; the time
of the whole command, including startup, is reported too. Target: at least 0.95 of `local`.

`journal`: The same build in this process with and without journals of unfinished shards, in turn. Target: at most 2 %.

`machines`: A million images in 4,000 shards on 64 workers. A tenth of the workers is killed by SIGKILL at random times
and not replaced. Processes, leases, journals, shard files, markers and the S3 server on loopback are real. Images are
PNG files of some 200 bytes; instead of running a model, a worker sleeps, at 1:100 of real time. Target: at most 1.1
times the ideal time, image-seconds / 64. Also reported: the time that the surviving workers would need to render
everything, images rendered, requests to the store, memory of each process, and CPU load. Requests and encoding
are not scaled, so they weigh a hundred times more relative to the images than in reality; with fewer cores than
workers, they also wait for a core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from results import MEGABYTE, ROOT, Row, make_parser, make_scratch, median, median_ratio, report

from figureground import D3S
from figureground.recipe.sample import Reject, Sample, Spec, derive_seed
from figureground.running.runners.local import order_shards
from figureground.shards.columns import Columns
from figureground.shards.encoding import describe_sample
from figureground.shards.filling import fill, track_results
from figureground.shards.home import Home, home_of, register
from figureground.shards.journal import Journal, make_origin
from figureground.shards.markers import markers
from figureground.shards.samples import Encoded
from figureground.shards.shard import Shard
from figureground.shards.writer import write_shard
from figureground.stores.leases import LEASES
from figureground.stores.remote import Remote
from figureground.stores.scratch import open_scratch
from figureground.stores.store import Store
from figureground.stores.urls import StoreUrl, parse

RUNNERS = ("local", "rank", "ray")
WORKERS = 2
EFFICIENCY, OVERHEAD, TIMES_IDEAL = 0.95, 2.0, 1.1
SCALE = 100
"""Real seconds in one second of the simulated machines."""
BUCKET, NAME = "bucket", "million"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "loopback", "AWS_SECRET_ACCESS_KEY": "loopback", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


# --- runners ----------------------------------------------------------------------------------------


def make_build_arguments(images: int) -> list[str]:
    """Return the arguments of a build by two workers, with an equal number of shards per worker."""
    values = {
        "classes": "[bird, car]", "backgrounds": "[grass, snow]", "per_cell": f"{{train: {images // 4}}}",
        "shard_size": images // 16, "batch_size": 8, "threads": 1, "workers": WORKERS, "device": "cpu",
    }  # fmt: skip
    return ["build", "d3s", *(part for name, value in values.items() for part in ("--set", f"{name}={value}"))]


def run_once(runner: str, images: int, out: Path) -> tuple[float, float]:
    """Build with a runner; return images/s while rendering, and the seconds of the whole command."""
    log = out.with_suffix(".jsonl")
    command = [
        sys.executable,
        "-m",
        "figureground",
        *make_build_arguments(images),
        "--out",
        str(out),
        "--log-json",
        str(log),
    ]
    ranks: list[list[str]] = [[]]
    if runner == "rank":
        ranks = [["--set", "workers=1", "--rank", str(i), "--world", str(WORKERS)] for i in range(WORKERS)]
    start = time.monotonic()
    processes = [
        subprocess.Popen(
            [*command, "--runner", runner, *rank_arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank_arguments in ranks
    ]
    outputs = [process.communicate()[0].decode() for process in processes]
    seconds = time.monotonic() - start
    if any(process.returncode for process in processes):
        raise SystemExit(f"{runner}: the build failed:\n" + "\n".join(outputs))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    shard_times = [(parse_time(event), event["seconds"]) for event in events if event["event"] == "shard"]
    began, ended = (
        min(end_time - shard_seconds for end_time, shard_seconds in shard_times),
        max(end_time for end_time, _ in shard_times),
    )
    return images / (ended - began), seconds


def parse_time(event: Mapping[str, Any]) -> float:
    from datetime import datetime

    return datetime.fromisoformat(event["time"]).timestamp()


def measure_runners(work: Path, rounds: int, images: int) -> tuple[list[Row], dict[str, Any]]:
    rates: dict[str, list[float]] = {runner: [] for runner in RUNNERS}
    command_seconds: dict[str, list[float]] = {runner: [] for runner in RUNNERS}
    for i in range(rounds):
        for runner in RUNNERS[i % 3 :] + RUNNERS[: i % 3]:
            rate, seconds = run_once(runner, images, work / f"{runner}-{i}")
            rates[runner].append(rate)
            command_seconds[runner].append(seconds)
    rows = [median("local, 2 workers", rates["local"], "images/s")]
    for runner in RUNNERS[1:]:
        rows.append(median_ratio(f"{runner} / local", rates[runner], rates["local"], at_least=EFFICIENCY))
    rows += [median(f"{runner}: whole command", command_seconds[runner], "s") for runner in RUNNERS]
    return rows, {"images_per_second": rates, "command_seconds": command_seconds}


# --- journal ----------------------------------------------------------------------------------------


class NoJournal(Journal):
    """A journal that stores nothing."""

    def read_records(self, number: int) -> tuple[()]:
        return ()

    def put(self, number: int, record: bytes) -> None:
        pass

    def remove(self) -> None:
        pass


class JournalFreeHome(Home):
    """A directory in which unfinished shards have no journal."""

    def journal(self, shard: Shard, origin: Mapping[str, Any], batches: Sequence[Sequence[Spec]]) -> Journal:
        return NoJournal(origin, batches)


def measure_journal(work: Path, rounds: int, images: int, steps: int) -> tuple[list[Row], dict[str, Any]]:
    seconds: dict[str, list[float]] = {"with": [], "without": []}

    def build(kind: str, out: Path) -> float:
        method = D3S(
            "pocket", classes=["bird", "car"], backgrounds=["grass", "snow"], per_cell={"train": images // 4},
            shard_size=images, batch_size=8, threads=1, device="cpu", num_inference_steps=steps,
        )  # fmt: skip
        with register(JournalFreeHome(out)) if kind == "without" else contextlib.nullcontext():
            method.build(out, show_progress=False)
        (marker,) = markers(out).values()
        return float(marker["seconds"])

    build("with", work / "warm")
    for i in range(rounds):
        for kind in ("with", "without") if i % 2 else ("without", "with"):
            seconds[kind].append(build(kind, work / f"{kind}-{i}"))
    overheads = [100 * (a / b - 1) for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    return [median("journal: time more", overheads, "%", at_most=OVERHEAD)], {"shard_seconds": seconds}


# --- machines ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Simulation:
    """Parameters of the simulated cluster; seconds are real ones, before scaling."""

    images: int
    shards: int
    workers: int
    image_seconds: float
    batch: int
    killed_share: float = 0.1
    lease: float = 30.0
    """Simulated seconds without a sign of life after which a shard is taken over."""

    @property
    def per_shard(self) -> int:
        return self.images // self.shards

    @property
    def ideal(self) -> float:
        """Simulated seconds that all workers together need to render everything."""
        return self.images * self.image_seconds / self.workers / SCALE


def find_least_seconds(plan: Simulation, deaths: Sequence[float]) -> float:
    """Return the simulated seconds that the workers, some of which die, need at least to render everything.

    Args:
        deaths: Times in simulated seconds at which workers die, in order.
    """
    remaining, now, alive = plan.ideal * plan.workers, 0.0, plan.workers
    for death in deaths:
        if (death - now) * alive >= remaining:
            break
        remaining, now, alive = remaining - (death - now) * alive, death, alive - 1
    return now + remaining / alive


COLUMNS = Columns(["bird", "car"], ["grass", "snow"])


def make_specs(shard: Shard) -> list[Spec]:
    """Return a shard's planned images."""
    first = shard.index * shard.count
    return [
        Spec(f"train-{i % 2:04d}-{i // 2 % 2:02d}-{i:07d}", "train", i % 2, i // 2 % 2, "", "", "a drawing", i)
        for i in range(first, first + shard.count)
    ]


def run_worker(url: str, place: Path, number: int, plan: Simulation, log_path: Path, barrier: Any) -> None:
    """Claim, "render" (by sleeping), write and upload shards as one worker, until all are finished."""
    os.environ |= CREDENTIALS
    barrier.wait()
    store_url = parse(url)
    assert isinstance(store_url, StoreUrl)
    shards = [Shard("train", i, plan.shards, plan.per_shard) for i in range(plan.shards)]
    image = Image.fromarray(
        np.random.default_rng(derive_seed(0, "scale", str(number))).integers(0, 255, (7, 8, 3), np.uint8)
    )
    drawn = 0

    def render(journal: Journal, shard: Shard) -> Iterator[Sample | Encoded | Reject]:
        nonlocal drawn
        for results in journal.read(lambda spec: describe_sample(spec, COLUMNS, {})):
            yield from results
        missing = journal.missing_specs()
        for start in range(0, len(missing), plan.batch):
            batch = missing[start : start + plan.batch]
            time.sleep(len(batch) * plan.image_seconds / SCALE)
            journal.check()
            drawn += len(batch)
            for spec in batch:
                yield Sample(spec, image)

    with open_scratch(store_url, place, seconds=plan.lease) as out:
        home = home_of(out)
        assert isinstance(home, Remote)

        def write(shard: Shard, bar: Any) -> None:
            specs = make_specs(shard)
            batches = [specs[i : i + plan.batch] for i in range(0, len(specs), plan.batch)]
            with home.journal(shard, make_origin(shard, "scale", {}), batches) as journal:
                write_shard(
                    out, shard, COLUMNS, track_results(render(journal, shard), bar), lambda _: {}, formats=("parquet",),
                    image_format="png", journal=journal,
                )  # fmt: skip
            rss = psutil.Process().memory_info().rss / MEGABYTE
            with log_path.open("a") as file:
                file.write(json.dumps({"drawn": drawn, "rss": rss, "requests": dict(home.store.requests)}) + "\n")

        fill(out, [shards[i] for i in order_shards(plan.shards, number, plan.workers)], write, show_progress=False)


@contextlib.contextmanager
def serve() -> Iterator[tuple[str, psutil.Process]]:
    """Run moto's S3 server in a separate process; yield its endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def measure_machines(work: Path, plan: Simulation) -> tuple[list[Row], dict[str, Any]]:
    import s3fs

    os.environ |= CREDENTIALS
    context = multiprocessing.get_context("spawn")
    chance = np.random.default_rng(derive_seed(0, "scale", "deaths"))
    killed = [int(i) for i in chance.choice(plan.workers, round(plan.killed_share * plan.workers), replace=False)]
    deaths = sorted((float(chance.uniform(0.1, 0.9)) * plan.ideal, number) for number in killed)
    least_time = find_least_seconds(plan, [death for death, _ in deaths])
    with serve() as (endpoint, server):
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        s3fs.S3FileSystem().mkdir(BUCKET)
        url, barrier = f"s3://{BUCKET}/{NAME}", context.Barrier(plan.workers + 1)
        log_paths = [work / f"worker-{i}.jsonl" for i in range(plan.workers)]
        workers = [
            context.Process(target=run_worker, args=(url, work / f"scratch-{i}", i, plan, log_paths[i], barrier))
            for i in range(plan.workers)
        ]
        for worker in workers:
            worker.start()
        barrier.wait()
        start, cpu_before = time.monotonic(), psutil.cpu_times()
        while any(worker.is_alive() for worker in workers):
            while deaths and time.monotonic() - start >= deaths[0][0]:
                _, number = deaths.pop(0)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(workers[number].pid or 0, signal.SIGKILL)
            time.sleep(0.05)
        seconds, cpu_after = time.monotonic() - start, psutil.cpu_times()
        store_url = parse(url)
        assert isinstance(store_url, StoreUrl)
        store = Store(store_url)
        done_markers = [path for path in store.list("_figureground/shards") if path.endswith(".json")]
        num_left = len(store.list(LEASES)) + len(store.list("_figureground/journal"))
        server_memory = server.memory_info().rss / MEGABYTE
    failed = [i for i, worker in enumerate(workers) if worker.exitcode and i not in killed]
    if failed or len(done_markers) != plan.shards:
        raise SystemExit(f"{len(done_markers)} of {plan.shards} shards were finished; workers {failed} failed.")
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in log_paths if path.exists()]
    drawn = sum(
        worker_lines[-1]["drawn"] for worker_lines in lines if worker_lines
    )  # a dead worker's unfinished shard isn't counted
    requests = Counter[str]()
    for worker_lines in lines:
        requests.update(worker_lines[-1]["requests"] if worker_lines else {})
    used = sum(getattr(cpu_after, kind) - getattr(cpu_before, kind) for kind in ("user", "system"))
    cores = psutil.cpu_count() or 1
    memory = [max(line["rss"] for line in worker_lines) for worker_lines in lines if worker_lines]
    growth = [
        worker_lines[-1]["rss"] - worker_lines[len(worker_lines) // 2]["rss"]
        for worker_lines in lines
        if len(worker_lines) > 3
    ]
    rows = [
        Row(f"{plan.workers} workers, {len(killed)} killed: time / ideal", seconds / plan.ideal, "×",
            at_most=TIMES_IDEAL),
        Row("time / that in which the workers alive could render", seconds / least_time, "×"),
        Row("time", seconds, "s"), Row("ideal", plan.ideal, "s"),
        Row("images rendered, of those planned", 100 * drawn / plan.images, "%"),
        Row("requests", requests.total() / seconds, "/s"), Row("requests a shard", requests.total() / plan.shards, ""),
        Row("CPUs busy", 100 * used / seconds / cores, "%"),
        Row("memory of a worker, largest", max(memory), "MB"),
        Row("memory: second half's growth, median", statistics.median(growth) if growth else 0.0, "MB"),
        Row("memory of the server", server_memory, "MB"),
    ]  # fmt: skip
    return rows, {"requests": dict(requests), "objects_left": num_left, "memory": memory, "killed": len(killed)}


# --- the command ------------------------------------------------------------------------------------


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, "scale")
    parser.set_defaults(work=ROOT / "out" / "scale")
    add = parser.add_argument
    add("--parts", nargs="+", choices=["runners", "journal", "machines"], default=["runners", "journal", "machines"])
    add("--rounds", type=int, default=5, help="of runners and of the journal (%(default)s)")
    add("--images", type=int, default=1_000_000, help="of the simulated machines (%(default)s)")
    add("--shards", type=int, default=4_000)
    add("--workers", type=int, default=64)
    add("--image-seconds", type=float, default=6.0, help="real seconds per image (%(default)s)")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.images, args.shards, args.workers, args.image_seconds = 1, 60, 3, 2, 1.0
    elif not args.out and len(args.parts) == 1:
        args.out = ROOT / "benchmarks" / "results" / f"scale-{args.parts[0]}.json"
    return args


def main() -> None:
    args = _parse()
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[Row] = []
    facts_by_part: dict[str, Any] = {}
    images = 32 if args.quick else 512
    with make_scratch(args.work) as work:
        for part in args.parts:
            folder = work / part
            folder.mkdir()
            if part == "runners":
                part_rows, facts = measure_runners(folder, args.rounds, images)
            elif part == "journal":
                part_rows, facts = measure_journal(folder, args.rounds, images // 4, 2 if args.quick else 16)
            else:
                plan = Simulation(
                    args.images, args.shards, args.workers, args.image_seconds, batch=10 if args.quick else 50,
                    lease=2.0 if args.quick else 30.0, killed_share=0.5 if args.quick else 0.1,
                )  # fmt: skip
                part_rows, facts = measure_machines(folder, plan)
                facts |= {"plan": {name: getattr(plan, name) for name in plan.__dataclass_fields__}, "scale": SCALE}
            rows += part_rows
            facts_by_part[part] = facts
    report("scale", args, rows, facts_by_part, began)


if __name__ == "__main__":
    main()
