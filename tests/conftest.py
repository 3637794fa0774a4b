"""Tests reach no network, and leave nothing in the caches of who runs them."""

import gc
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

_CACHE = tempfile.TemporaryDirectory(prefix="figureground-tests-", ignore_cleanup_errors=True)

# Set before anything imports the libraries, which read these once.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=_CACHE.name, HF_HUB_DISABLE_TELEMETRY="1")

# Tests that run side by side share the cores out; threads of several that wait for each other's would take longer.
if (worker := os.environ.get("PYTEST_XDIST_WORKER", "")) and hasattr(os, "sched_setaffinity"):
    cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) % len(cores) :: workers])

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every command that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pages of docs and slow tests begin, so that no process waits for a long one at the end."""
    items.sort(key=lambda item: (item.path.name != "test_docs.py", item.get_closest_marker("slow") is None))


def pytest_collection_finish() -> None:
    """Freeze what the modules of tests import, so that no search for reference cycles looks through it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share tests out one by one, but for those of one benchmark: they share its run, so one process has them.

    By name, not by `xdist_group`: pytest-xdist 3.8 notes groups where pytest 9.2 doesn't look.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            of_benchmark = re.search(r"test_benchmarks\.py::\w+\[(\w+)\]$", nodeid)
            return f"benchmark {of_benchmark[1]}" if of_benchmark else nodeid

    return Scheduler(config, log)


@pytest.fixture(scope="session", autouse=True)
def _cache_is_removed() -> Iterator[None]:
    yield
    _CACHE.cleanup()
