"""Leases between processes that share nothing but a store."""

import time

import pytest
from object_store import Rule

from figureground.shards.home import ClaimLost
from figureground.stores.leases import Leases
from figureground.stores.store import Store
from figureground.stores.urls import parse


@pytest.fixture
def process(s3, url):
    """Make the leases of one more process, in a scratch directory of its own by default."""
    made = []

    def make(scratch=None, seconds=1.0):
        made.append(Leases(Store(parse(url)), scratch or f"scratch-{len(made)}", seconds))
        return made[-1]

    yield make
    for each in made:
        each.close()


def pause(leases):
    """End the heartbeats, as SIGSTOP does."""
    leases.close()
    leases._thread.join()


def wait_until_free(leases, name):
    latest = time.monotonic() + 10
    leases.refresh()
    while leases.is_held(name):
        assert time.monotonic() < latest
        time.sleep(0.1)
        leases.refresh()


def test_one_process_holds_a_name_as_long_as_its_heart_beats(process):
    one, two = process(), process()
    lease = one.take("shard")
    assert lease is not None
    assert two.take("shard") is None
    time.sleep(1.5)
    assert two.take("shard") is None
    one.check(lease)
    one.release(lease)
    two.refresh()
    assert two.take("shard") is not None


def test_a_silent_owner_is_replaced_and_finds_out(s3, url, process):
    one, two, three = process(), process(), process()
    lost = one.take("shard")
    pause(one)
    begun = time.monotonic()
    wait_until_free(two, "shard")
    assert time.monotonic() - begun > 0.9
    mine = two.take("shard")
    assert three.take("shard") is None
    one._send_heartbeat(lost)  # it wakes up, and its heartbeat comes before its next look
    assert lost.lost
    with pytest.raises(ClaimLost):
        one.check(lost)
    two.check(mine)
    one.release(lost)
    two.check(mine)
    two.release(mine)
    assert s3.names(f"{url.removeprefix('s3://bucket/')}/_figureground/leases") == []


def test_a_name_given_back_meanwhile_and_taken_anew_is_lost_too(process):
    """Numbers begin again, so that another process's object may lie where that of the paused one lay."""
    one, two, three = process(), process(), process()
    lost = one.take("shard")
    pause(one)
    wait_until_free(two, "shard")
    two.release(two.take("shard"))
    mine = three.take("shard")
    assert mine.path == lost.path
    one._send_heartbeat(lost)
    assert lost.lost
    lost.lost = False
    with pytest.raises(ClaimLost):
        one.check(lost)
    one.release(lost)
    three.check(mine)
    assert three._read(mine.path)["owner"] == three.owner


def test_a_finished_build_removes_what_dead_owners_left(s3, url, process):
    dead, alive, one = process(), process(), process()
    dead.take("dead")
    pause(dead)
    theirs, mine = alive.take("alive"), one.take("mine")
    one.sweep(time.sleep)
    left = s3.names(f"{url.removeprefix('s3://bucket/')}/_figureground/leases")
    assert [name.split("/leases/")[1] for name in left] == ["alive/000001", "mine/000001"]
    alive.check(theirs)
    one.check(mine)


def test_a_name_is_given_back_although_the_store_refuses_twice(s3, url, process):
    one = process(seconds=60)
    lease = one.take("shard")
    s3.rules.append(Rule("DELETE ", "answer", times=2))
    one.release(lease)
    assert s3.names(f"{url.removeprefix('s3://bucket/')}/_figureground/leases") == []


def test_a_dead_process_of_the_same_directory_is_replaced_at_once(process):
    one = process("here", seconds=60)
    one.take("shard")
    pause(one)
    assert process("elsewhere", seconds=60).take("shard") is None
    again = process("here", seconds=60)
    again.refresh()
    assert again.take("shard") is not None


def test_a_patient_owner_is_given_its_own_time(process):
    one, two = process(seconds=3.0), process(seconds=1.0)
    one.take("shard")
    pause(one)
    two.refresh()
    time.sleep(1.3)
    two.refresh()
    assert two.is_held("shard")
