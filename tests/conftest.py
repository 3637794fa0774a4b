"""Tests reach no network, and leave nothing in the caches of who runs them."""

import os
import tempfile
from collections.abc import Iterator

import pytest

_CACHE = tempfile.TemporaryDirectory(prefix="figureground-tests-", ignore_cleanup_errors=True)

# Set before anything imports the libraries, which read these once.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=_CACHE.name, HF_HUB_DISABLE_TELEMETRY="1")


@pytest.fixture(scope="session", autouse=True)
def _cache_is_removed() -> Iterator[None]:
    yield
    _CACHE.cleanup()
