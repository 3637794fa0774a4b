"""Computes results in threads, a few ahead of the one that is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from figureground.core.numerics import usable_cores

MAX_THREADS = 8
"""Maximum number of threads."""
RESULTS_PER_THREAD = 4
"""Number of results per thread that are computed ahead."""

K = TypeVar("K")
V = TypeVar("V")


def compute_ahead(jobs: Iterable[tuple[K, Callable[[], V]]]) -> Iterator[tuple[K, V]]:
    """Yield each job's key with its result, in order. An exception of a job is raised where its result is due.

    Args:
        jobs: Pairs of a key and a function that decodes an image or does other work that releases Python's lock.
    """
    threads = min(MAX_THREADS, usable_cores())
    pending: deque[tuple[K, Future[V]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for key, job in jobs:
                pending.append((key, pool.submit(job)))
                if len(pending) > RESULTS_PER_THREAD * threads:
                    key, future = pending.popleft()
                    yield key, future.result()
            while pending:
                key, future = pending.popleft()
                yield key, future.result()
        finally:
            for _, future in pending:
                future.cancel()
