"""Requests to an S3 server on loopback, and what happens when it fails."""

import time

import pytest
from object_store import Rule

from figureground.core.errors import UsageError
from figureground.stores import store as store_module
from figureground.stores.faults import Fault, StoreError, classify_error
from figureground.stores.store import Store
from figureground.stores.urls import StoreUrl, check_installed, is_url, parse


@pytest.fixture
def store(s3, url, monkeypatch):
    monkeypatch.setattr(store_module, "FIRST_DELAY", 0.02)
    return Store(parse(url))


def test_an_object_is_created_once(store):
    assert store.probe("p") is True
    assert store.list("p") == {}
    assert store.create("a/b", b"one") is True
    assert store.create("a/b", b"one") is True  # own bytes are success
    assert store.create("a/b", b"two") is False
    assert store.read("a/b") == b"one"
    assert list(store.list("a")) == ["a/b"]
    assert store.list("nothing") == {}
    assert store.entry("a") is None
    before = store.entry("a/b")
    store.put("a/b", b"two")
    assert store.entry("a/b").version != before.version
    store.delete(["a/b", "gone"])
    assert store.read_or_none("a/b") is None


def test_a_name_that_another_process_frees_meanwhile_is_not_ours(s3, store):
    """It was there for the put, and is gone when its bytes are compared: leases come and go."""
    store.put("lease", b"theirs")
    s3.rules.append(Rule(r"(GET|HEAD) .*/lease$", "answer", status=404, code="NoSuchKey"))
    assert store.create("lease", b"theirs") is False


def test_a_name_that_begins_like_another_is_not_below_it(store):
    store.put("a/b", b"1")
    store.put("ab/c", b"1")
    other = Store(parse(f"{store.url}-more"))
    other.put("a/b", b"2")
    assert list(store.list("a")) == ["a/b"]
    assert sorted(store.list("")) == ["a/b", "ab/c"]


@pytest.mark.parametrize(
    ("act", "size"), [("lose", 10), ("cut", 10), ("answer", 10), ("lose", 10 * 2**20 + 1)],
    ids=["answer lost", "connection lost", "SlowDown", "answer to parts lost"],
)  # fmt: skip
def test_a_put_whose_connection_or_answer_is_lost_arrives_once(s3, store, tmp_path, monkeypatch, act, size):
    monkeypatch.setattr(store_module, "PART", 5 * 2**20)
    data = tmp_path / "data"
    data.write_bytes(b"x" * size)
    s3.rules.append(Rule(r"POST .*uploadId=" if size > 100 else r"PUT .*/data$", act, times=2))
    assert store.create("data", data) is True
    assert store.entry("data").size == size
    other = tmp_path / "other"
    other.write_bytes(b"y" * size)
    assert store.create("data", other) is False
    store.fetch("data", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data.read_bytes()


def test_faults_are_bounded_before_a_store_has_taken_anything_and_outlasted_afterwards(s3, store, capsys):
    s3.rules.append(Rule(r"PUT ", "answer", times=100))
    with pytest.raises(StoreError, match="SlowDown"):
        store.probe("p")
    assert store.requests["put"] == store_module.QUICK_TRIES
    s3.rules.clear()
    store.probe("p")
    assert capsys.readouterr().err == ""
    s3.rules.append(Rule(r"PUT ", "answer", times=6))
    assert store.create("a", b"1")
    errors = capsys.readouterr().err
    assert "pauses" in errors
    assert "continues" in errors.splitlines()[-1]


def test_credentials_that_expire_pause_the_work_until_they_are_renewed(s3, store, capsys, monkeypatch):
    store.probe("p")
    s3.rules.append(Rule(r"PUT ", "answer", times=3, status=400, code="ExpiredToken"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIArenewed")
    assert store.create("a", b"1")
    errors = capsys.readouterr().err
    assert "credentials" in errors
    assert "secretOfTheTests" not in errors
    assert s3.count("PUT .*/a$") == 4


def test_a_waiting_request_can_be_given_up(s3, url):
    class Stop(KeyboardInterrupt):
        pass

    begun = time.monotonic()

    def check():
        if time.monotonic() > begun + 0.3:
            raise Stop

    s3.rules.append(Rule(r"PUT ", "slow", seconds=5))
    with pytest.raises(Stop):
        Store(parse(url), check=check).put("a", b"1")
    assert time.monotonic() < begun + 3


def test_a_server_that_ignores_the_condition_is_found_out(s3, store):
    s3.rules.append(Rule(r"PUT ", "strip"))
    assert store.probe("p") is False


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(403, "AccessDenied", "denied"), (404, "NoSuchBucket", "bucket"), (403, "InvalidAccessKeyId", "credentials")],
)
def test_a_bucket_that_cannot_be_written_is_an_error_at_once(s3, store, status, code, message):
    s3.rules.append(Rule(r"PUT ", "answer", status=status, code=code))
    with pytest.raises(StoreError, match=message):
        store.probe("p")


class _Answer(Exception):
    """An error as HTTP libraries raise it."""

    def __init__(self, status):
        super().__init__(str(status))
        self.response = type("Response", (), {"status_code": status})()


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FileNotFoundError("x"), Fault.ABSENT), (FileExistsError("x"), Fault.EXISTS),
        (ConnectionResetError(104, "reset"), Fault.PASSING), (TimeoutError(), Fault.PASSING),
        (_Answer(503), Fault.PASSING), (_Answer(429), Fault.PASSING), (_Answer(501), Fault.OTHER),
        (_Answer(401), Fault.CREDENTIALS), (_Answer(403), Fault.DENIED), (_Answer(412), Fault.EXISTS),
        (PermissionError("x"), Fault.DENIED), (ValueError("x"), Fault.OTHER),
    ],
)  # fmt: skip
def test_errors_are_told_apart(error, fault):
    assert classify_error(error) is fault


@pytest.mark.parametrize(
    "place",
    [
        "s3://bucket", "hf://datasets/ada/birds/x", "hf://buckets/ada/birds", "memory://a/b", "s3://key:hunter2@bucket/x",
        "s3://bucket/x?token=hunter2", "s3://bucket/../x",
    ],
)  # fmt: skip
def test_places_that_cannot_hold_a_dataset_are_refused(place):
    with pytest.raises(UsageError) as caught:
        parse(place)
    assert "hunter2" not in str(caught.value)


def test_urls_and_paths(tmp_path):
    assert parse("s3://bucket//a/b/") == parse("s3:/bucket/a/b") == StoreUrl("s3", "bucket/a/b")
    assert parse("hf://buckets/ada/birds/x").bucket == "buckets/ada/birds"
    assert parse(f"file://{tmp_path}") == parse(str(tmp_path)) == tmp_path
    assert not is_url("C:/data")
    assert not is_url("out/d3s")
    with pytest.raises(UsageError, match="s5"):
        check_installed(StoreUrl("s5", "a/b"))
    with pytest.raises(UsageError, match=r"pip install 'figureground\[gs\]'"):
        check_installed(StoreUrl("gs", "a/b"))
