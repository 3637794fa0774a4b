"""An object store on loopback for the tests of this folder."""

import itertools

import pytest

pytest.importorskip("moto")
pytest.importorskip("s3fs")

from object_store import BUCKET, ENVIRONMENT, ObjectStore

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def server():
    server = ObjectStore()
    yield server
    server.close()


@pytest.fixture
def s3(server, monkeypatch, tmp_path):
    """The server without faults, and the environment in which it is found."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server.rules.clear()
    server.log.clear()
    yield server
    server.rules.clear()


@pytest.fixture
def url():
    """A place in the bucket that no other test uses."""
    return f"s3://{BUCKET}/set-{next(NUMBERS)}"
