"""Images are identified by their content, and unchanged files are read once."""

import hashlib
import os

import pytest
from PIL import Image

from figureground.data import content_hashes
from figureground.data.content_hashes import FILE, State, hash_files
from figureground.data.layouts import read_groups

OLD = (1_600_000_000, 1_600_000_000)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An own cache that remembers even what takes no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content_hashes, "MIN_SECONDS", 0)
    return tmp_path / "cache/figureground" / FILE


def make_file(path, text, times=OLD):
    path.write_text(text)
    os.utime(path, times)
    return path


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_unchanged_files_are_not_read_again(tmp_path, cache):
    path = make_file(tmp_path / "a", "one")
    assert hash_files([path, path]) == [sha256("one")] * 2
    make_file(path, "two")  # looks unchanged: the same size, time and inode
    assert hash_files([path]) == [sha256("one")]
    make_file(path, "two", (OLD[0] + 1, OLD[1] + 1))
    assert hash_files([path]) == [sha256("two")]
    make_file(path, "three")
    assert hash_files([path]) == [sha256("three")]


def test_files_that_changed_just_now_are_not_remembered(tmp_path, cache):
    path = tmp_path / "a"
    path.write_text("one")
    assert hash_files([path]) == [sha256("one")]
    assert not cache.exists()


def test_a_damaged_cache_and_unreadable_files_do_no_harm(tmp_path, cache):
    path = make_file(tmp_path / "a", "one")
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"no database" * 1000)
    assert hash_files([path, tmp_path / "missing", tmp_path]) == [sha256("one"), "", ""]


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(content_hashes, "MIN_SECONDS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(make_file(tmp_path / "file", "")))
    assert hash_files([make_file(tmp_path / "a", "one")]) == [sha256("one")]


def test_names_that_are_not_utf8_and_large_inodes_can_be_remembered(tmp_path, cache):
    path = make_file(tmp_path / os.fsdecode(b"z\xff"), "one")
    for _ in range(2):
        assert hash_files([path]) == [sha256("one")]
    assert State(1, 2, 2**63 + 5).to_text() == f"1 2 {2**63 + 5}"


def test_many_files_are_remembered(tmp_path, cache):
    paths = [make_file(tmp_path / str(i), str(i)) for i in range(1200)]
    expected = [sha256(str(i)) for i in range(1200)]
    assert hash_files(paths) == expected
    for path in paths:
        make_file(path, "x" * len(path.name))
    assert hash_files(paths) == expected


def test_an_image_that_is_replaced_by_one_of_the_same_size_changes_the_fingerprint(tmp_path):
    """Uncompressed images of one size have equally many bytes."""
    for split in ("train", "val", "test"):
        for name, colour in (("cat", "red"), ("dog", "blue")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), colour).save(folder / "0.bmp")
    before = read_groups(tmp_path / "data").fingerprint
    path = tmp_path / "data/test/cat/0.bmp"
    size = path.stat().st_size
    Image.new("RGB", (8, 8), "green").save(path)
    assert path.stat().st_size == size
    assert read_groups(tmp_path / "data").fingerprint != before
