"""The journal of an unfinished shard: whole batches come back, and whatever is cut, flipped or foreign doesn't."""

import contextlib
import hashlib
import io
import json
import os
import struct

import pytest

from figureground.recipe.sample import Reject, Spec
from figureground.running import disk
from figureground.shards.claims import clean_stale
from figureground.shards.journal import FileJournal, count_rendered, list_files, make_origin
from figureground.shards.record import RecordError, pack, read_head, unpack
from figureground.shards.samples import Encoded
from figureground.shards.shard import JOURNAL, MARKERS, Shard, ShardError

SHARD = Shard("train", 0, 2, 7)
NUMERICS = {"device": "cpu", "batch_size": 3, "versions": {"torch": "2.0"}}
ORIGIN = make_origin(SHARD, "abc", NUMERICS)
SPECS = [Spec(f"train-0000-00-{i:05d}", "train", 0, 0, "bird", "grass", f"Vögel, {i}", i) for i in range(7)]
BATCHES = [SPECS[:3], SPECS[3:6], SPECS[6:]]


def described(spec):
    return Encoded(spec, b"", json.dumps({"key": spec.key}), {"other": 1}, {"source": spec.key}, {"mask": b""})


def result(spec, rejected=(1,)):
    if int(spec.key[-5:]) in rejected:
        return Reject(spec, "flat")
    image = (spec.key * 3).encode()
    return Encoded(spec, image, json.dumps({"key": spec.key}), {"other": 1}, {"source": spec.key}, {"mask": image[:5]})


RESULTS = [[result(spec) for spec in batch] for batch in BATCHES]


def write(directory, number=3, batches=BATCHES, origin=ORIGIN, results=RESULTS):
    """Add batches to what is there already."""
    with FileJournal(directory, SHARD, origin, batches) as journal:
        for item in (item for batch in journal.read(described) for item in batch):
            journal.add(item)
        begun = sum(len(batch) for batch in BATCHES) - len(journal.missing_specs())
        for item in [item for batch in results[:number] for item in batch][begun:]:
            journal.add(item)


def read(directory, origin=ORIGIN, batches=BATCHES, describe=described):
    with FileJournal(directory, SHARD, origin, batches) as journal:
        found = list(journal.read(describe))
        assert journal.missing_specs() == [spec for batch in batches[len(found) :] for spec in batch]
        return found


def test_whole_batches_come_back_and_the_rest_is_lacking(tmp_path):
    assert read(tmp_path) == []
    for number in (1, 2, 3):
        write(tmp_path, number)
        assert read(tmp_path) == RESULTS[:number]
        assert len(list_files(tmp_path)) == number, "each process writes a file of its own"
    assert count_rendered(tmp_path) == (7, 6)


def test_nothing_is_created_before_a_batch_is_whole(tmp_path):
    with FileJournal(tmp_path, SHARD, ORIGIN, BATCHES) as journal:
        for item in RESULTS[0][:2]:
            journal.add(item)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_cut_at_any_byte_gives_the_batches_before_the_cut(tmp_path):
    write(tmp_path)
    (path,) = list_files(tmp_path)
    data = path.read_bytes()
    ends = []
    with path.open("rb") as file:
        while file.tell() < len(data):
            ends.append(sum(ends[-1:]) + read_head(file, len(data)).size)
            file.seek(ends[-1])
    assert len(ends) == 3
    for cut in range(len(data), -1, -1):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert read(tmp_path) == RESULTS[:whole]
        if not whole:
            assert list_files(tmp_path) == [], "a file without a whole batch is removed"
            break
    for cut in range(0, ends[0], 7):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data[:cut])
        assert read(tmp_path) == []


def test_a_flipped_byte_drops_its_batch_and_those_after_it(tmp_path):
    write(tmp_path)
    (path,) = list_files(tmp_path)
    data = path.read_bytes()
    with path.open("rb") as file:
        first = read_head(file, len(data)).size
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        found = read(tmp_path)
        assert found == RESULTS[: len(found)]
        assert len(found) == (0 if at < first else len(found)) < 3
        path.parent.mkdir(exist_ok=True)


def test_a_torn_middle_is_rendered_again_and_the_batches_after_it_too(tmp_path):
    write(tmp_path)
    (path,) = list_files(tmp_path)
    data = path.read_bytes()
    at = data.index(RESULTS[1][0].image)
    path.write_bytes(data[:at] + b"?" + data[at + 1 :])
    assert read(tmp_path) == RESULTS[:1]
    write(tmp_path)
    assert read(tmp_path) == RESULTS


@pytest.mark.parametrize(
    "other",
    [make_origin(SHARD, "abd", NUMERICS), make_origin(SHARD, "abc", {**NUMERICS, "batch_size": 4}),
     make_origin(Shard("train", 0, 2, 8), "abc", NUMERICS), {**ORIGIN, "journal": 0}, {**ORIGIN, "format": 1}],
)  # fmt: skip
def test_batches_of_another_recipe_numerics_shard_or_version_are_dropped(tmp_path, other):
    write(tmp_path, origin=other)
    assert len(list_files(tmp_path)) == 1
    assert read(tmp_path) == []
    assert list_files(tmp_path) == []


def test_batches_of_another_size_or_about_which_something_else_would_be_written_are_dropped(tmp_path):
    write(tmp_path)
    assert read(tmp_path, batches=[SPECS[:2], SPECS[2:4], SPECS[4:6], SPECS[6:]]) == []
    assert read(tmp_path, describe=lambda spec: Encoded(spec, b"", "{}", images={"mask": b""})) == []
    assert read(tmp_path) == RESULTS


def test_two_processes_that_both_hold_a_shard_dont_mix_their_records(tmp_path):
    # As on a file system without locks.
    write(tmp_path, 1)
    with FileJournal(tmp_path, SHARD, ORIGIN, BATCHES) as one, FileJournal(tmp_path, SHARD, ORIGIN, BATCHES) as two:
        for journal in (one, two):
            for batch in journal.read(described):
                for item in batch:
                    journal.add(item)
        for item in [*RESULTS[1], *RESULTS[2]]:
            one.add(item)
            two.add(item)
        one.flush()
        assert read(tmp_path)[:2] == RESULTS[:2]
        one.remove()  # it has finished the shard
        two.flush()
        two.remove()
    assert list(tmp_path.rglob("*.journal")) == []
    assert not (tmp_path / JOURNAL).exists()


def test_the_error_of_a_batch_that_could_not_be_put_is_raised_while_the_next_is_rendered(tmp_path):
    journal = FileJournal(tmp_path, SHARD, ORIGIN, BATCHES)
    (tmp_path / "_figureground").mkdir()
    (tmp_path / JOURNAL).write_text("in the way")
    for item in RESULTS[0]:
        journal.add(item)
    with contextlib.suppress(FileExistsError):
        journal.flush()
    for say in (journal.check, journal.flush, lambda: journal.__exit__(None, None, None)):
        with pytest.raises(FileExistsError):
            say()


@pytest.mark.parametrize(
    "head",
    [
        b"{}", b"[" * 9999, b"null", b"\xff", b'{"origin": 3}', b'{"origin": {}, "batch": -1, "results": []}',
        b'{"origin": {}, "batch": 0, "results": [{"key": "a", "files": {"image": [-5, ""]}}]}',
    ],
)  # fmt: skip
def test_hostile_heads_are_damage(tmp_path, head):
    path = tmp_path / "record"
    path.write_bytes(struct.pack(">8sQQ32s", b"fgbatch1", len(head), 0, hashlib.sha256(head).digest()) + head)
    with path.open("rb") as file, pytest.raises(RecordError):
        read_head(file, path.stat().st_size)


def test_hostile_sizes_are_damage_before_anything_is_read(tmp_path):
    path = tmp_path / "record"
    with path.open("wb") as file:
        file.write(struct.pack(">8sQQ32s", b"fgbatch1", 2**62, 2**63, b"\0" * 32))
        file.truncate(2**40)  # a sparse file of a TiB
    with path.open("rb") as file, pytest.raises(RecordError):
        read_head(file, 2**40)


def test_links_and_fifos_in_the_place_of_a_journal_are_not_opened(tmp_path):
    write(tmp_path / "theirs")
    (theirs,) = list_files(tmp_path / "theirs")
    mine = tmp_path / "mine" / JOURNAL
    mine.mkdir(parents=True)
    (mine / theirs.name).symlink_to(theirs)
    os.mkfifo(mine / f"train-00000-of-00002.1-{'0' * 16}.journal")
    assert count_rendered(tmp_path / "mine") == (0, 0)
    assert read(tmp_path / "mine") == []
    assert theirs.exists()


def test_a_record_of_other_keys_is_damage():
    record = pack(ORIGIN, 0, RESULTS[0])
    head = read_head(io.BytesIO(record), len(record))
    assert unpack(record, head, BATCHES[0], described) == RESULTS[0]
    with pytest.raises(RecordError):
        unpack(record, head, BATCHES[1], described)


def test_what_describing_refuses_is_raised(tmp_path):
    write(tmp_path)

    def refuse(spec):
        raise ShardError("no")

    with pytest.raises(ShardError):
        read(tmp_path, describe=refuse)


def test_journals_of_finished_shards_are_cleaned_and_others_stay(tmp_path):
    write(tmp_path)
    assert clean_stale(tmp_path) == []
    (tmp_path / MARKERS).mkdir()
    (tmp_path / MARKERS / f"{SHARD.name}.json").write_text("{}")
    assert len(clean_stale(tmp_path)) == 1
    assert not (tmp_path / JOURNAL).exists()


@pytest.mark.parametrize(
    ("rejected", "failed", "stays"), [((1,), True, True), (range(7), False, True), (range(7), True, False)]
)
def test_a_directory_with_rendered_images_is_not_withdrawn(tmp_path, rejected, failed, stays):
    write(tmp_path, results=[[result(spec, rejected) for spec in batch] for batch in BATCHES])
    (tmp_path / "_figureground" / "recipe.json").write_text("{}")
    disk.withdraw(tmp_path, tmp_path, failed=failed)
    assert tmp_path.exists() == stays
    assert bool(list_files(tmp_path)) == stays
