"""Files that somebody else prepared: links, FIFOs, devices, size and depth; and writes that follow no link."""

import os
import socket
from pathlib import Path

import pytest

from figureground.core import files
from figureground.core.files import FileError
from figureground.core.hashing import content_hash

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory, beside it a secret, and inside a folder and a file."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "file").write_text("text")
    return root


@pytest.mark.parametrize("name", ["", ".", "..", "../secret", "folder/../../secret", "/etc/passwd", "a\0b"])
def test_a_name_that_is_no_place_below_the_directory_is_refused(root: Path, name: str) -> None:
    with pytest.raises(FileError, match="relative to"):
        files.safe_join(root, name)


@pytest.mark.parametrize(("link", "target", "name"), [
    ("link", "../secret", "link"), ("link", "/etc", "link/passwd"), ("link", "..", "link/new/file"),
    ("link", "link", "link"), ("folder/link", "../../secret", "folder/link"),
])  # fmt: skip
def test_a_link_that_leaves_is_neither_named_nor_read_nor_written_behind(
    root: Path, link: str, target: str, name: str
) -> None:
    (root / link).symlink_to(target)
    with pytest.raises(FileError, match="link"):
        files.safe_join(root, name)
    with pytest.raises((FileError, FileNotFoundError)):
        files.read_bytes(root / name, root=root)
    assert [found for found, _ in files.find_unsafe_entries(root)] == [link]
    if name != link:
        with pytest.raises(FileError, match="link"):
            files.replace_text(root / name, "new", root=root)
    assert (root.parent / "secret").read_text() == "secret"
    assert not (root.parent / "new").exists()


def test_a_link_that_stays_inside_is_read(root: Path) -> None:
    (root / "link").symlink_to("file")
    (root / "linked").symlink_to("folder")
    (root / "folder" / "other").symlink_to("../link")
    assert files.read_text(files.safe_join(root, "linked/other"), root=root) == "text"
    assert list(files.find_unsafe_entries(root)) == []


def test_a_directory_that_is_reached_through_a_link_is_a_root_like_another(root: Path) -> None:
    (root.parent / "latest").symlink_to("root")
    assert files.read_text(files.safe_join(root.parent / "latest", "file"), root=root.parent / "latest") == "text"


def test_links_into_the_blobs_of_a_snapshot_of_the_hub_cache_are_inside(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--ada--birds"
    snapshot = repository / "snapshots" / "0123"
    (snapshot / "data").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "abc").write_text("text")
    (repository / "refs").write_text("no blob")
    (snapshot / "data" / "file").symlink_to("../../../blobs/abc")
    (snapshot / "other").symlink_to("../../refs")
    assert files.read_text(snapshot / "data" / "file", root=snapshot) == "text"
    assert [name for name, _ in files.find_unsafe_entries(snapshot)] == ["other"]
    plain = tmp_path / "birds" / "snapshots" / "0123"
    plain.mkdir(parents=True)
    (plain / "file").symlink_to("../../../datasets--ada--birds/blobs/abc")
    with pytest.raises(FileError):
        files.read_text(plain / "file", root=plain)


def test_blobs_that_are_a_link_of_their_own_are_outside(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--ada--birds" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text("secret")
    (tmp_path / "datasets--ada--birds" / "blobs").symlink_to("../home")
    (snapshot / "file").symlink_to("../../blobs/key")
    assert files.leads_outside(snapshot / "file", snapshot)


def test_what_is_no_regular_file_is_refused_at_once(root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(root, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        for name, kind in (("fifo", "FIFO"), ("zero", "device"), ("socket", "socket"), ("folder", "directory")):
            with pytest.raises(FileError, match=kind):
                files.read_bytes(root / name)
        assert [name for name, _ in files.find_unsafe_entries(root)] == ["fifo", "socket", "zero"]
        assert [name for name, _ in files.find_unsafe_entries(root, {"fifo", "file"})] == ["fifo"]


def test_a_file_is_read_up_to_its_limit_and_no_further(root: Path) -> None:
    os.truncate(root / "file", 2**40)  # sparse
    with pytest.raises(FileError, match="1 KiB"):
        files.read_bytes(root / "file", max_bytes=1024)
    os.truncate(root / "file", 1024)
    assert len(files.read_bytes(root / "file", max_bytes=1024)) == 1024


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 200 + "]" * 200, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000]
)
def test_json_that_is_nested_too_deeply_is_an_error_that_names_the_file(root: Path, text: str) -> None:
    (root / "deep.json").write_text(text)
    with pytest.raises(FileError, match=r"deep\.json"):
        files.read_json(root / "deep.json")


def test_json_of_common_depth_is_read(root: Path) -> None:
    (root / "file").write_text('\ufeff{"a": [{"b": [[1, 2]]}]}', encoding="utf-8")
    assert files.read_object(root / "file") == {"a": [{"b": [[1, 2]]}]}
    (root / "file").write_text("[1]")
    with pytest.raises(FileError, match="object"):
        files.read_object(root / "file")


def test_a_link_at_the_destination_is_replaced_and_its_target_stays(root: Path) -> None:
    for write in (files.replace_text, files.create_text):
        (root / "out").symlink_to("../secret")
        if write is files.create_text:
            with pytest.raises(FileExistsError):
                write(root / "out", "new", root=root)
            continue
        write(root / "out", "new", root=root)
        assert (root / "out").read_text() == "new"
        assert not (root / "out").is_symlink()
        (root / "out").unlink()
    assert (root.parent / "secret").read_text() == "secret"
    assert not list(root.glob(".*.tmp"))


def test_a_directory_at_the_destination_is_named(root: Path) -> None:
    with pytest.raises(FileError, match="folder"):
        files.replace_text(root / "folder", "new")


def test_content_hash_depends_on_bytes_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    (tmp_path / "b.txt").write_bytes(b"abc")
    assert content_hash(tmp_path / "a.jpg") == content_hash(tmp_path / "b.txt")
    assert content_hash(tmp_path / "a.jpg").startswith("ba7816bf8f01cfea")
