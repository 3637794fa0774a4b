"""Builds that meet trouble: two at once, too little memory, and folders of images as people really have them."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from commands import ENVIRONMENT, hashes, litter, markers, recipe, run, start, wait_for
from datasets import load_dataset
from forked_commands import Forked
from PIL import Image, features
from tiny_checkpoints import make_checkpoint

from figureground.cli.main import EXIT_CODES, main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory):
    """A build that nothing disturbed."""
    out = tmp_path_factory.mktemp("alone") / "d3s"
    assert run("build", *recipe(checkpoint), "--out", str(out))[0] == 0
    return out


# Two at once


def both(checkpoint, out):
    return [start("build", *recipe(checkpoint), "--out", str(out)) for _ in range(2)]


@pytest.mark.slow
def test_two_builds_at_once_share_the_work_and_each_shard_is_made_once(checkpoint, alone, tmp_path):
    out = tmp_path / "d3s"
    builds = both(checkpoint, out)
    ended = [(*process.communicate(timeout=300), process.returncode) for process in builds]
    assert [(err, code) for _, err, code in ended] == [("", 0), ("", 0)]
    assert all("60 samples" in output for output, _, _ in ended)
    assert hashes(out) == hashes(alone)
    assert litter(out) == []
    assert len(markers(out)) == 15
    keys = []
    for path in (out / "webdataset").glob("*.tar"):
        with tarfile.open(path) as tar:
            keys += [name.split(".")[0] for name in tar.getnames() if name.endswith(".jpg")]
    assert len(keys) == len(set(keys)) == 60


@pytest.mark.slow
def test_of_two_builds_one_is_killed_and_the_other_ends_the_work(checkpoint, alone, tmp_path):
    out = tmp_path / "d3s"
    killed, other = both(checkpoint, out)
    wait_for(lambda: len(markers(out)) >= 3, other)
    killed.send_signal(signal.SIGKILL)
    output, err = other.communicate(timeout=300)
    killed.communicate()
    assert (other.returncode, err) == (0, "")
    assert "60 samples" in output
    assert hashes(out) == hashes(alone)
    assert run("build", *recipe(checkpoint), "--out", str(out))[0] == 0
    assert litter(out) == []


# Memory

STARVED = """
import ctypes, resource, sys
from figureground.cli.main import main
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # of malloc.h
room = int(sys.argv[1])
if room:
    for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 2**17)):
        ctypes.CDLL(None).mallopt(parameter, value)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room * 2**20,) * 2)
sys.exit(main(sys.argv[2:]))
"""
MEMORY = {
    "size": 128,
    "num_inference_steps": 1,
    "per_cell": "{train: 1}",
    "classes": "[bird]",
    "shard_size": 1,
    "guide": "none",
}


def starved(room, checkpoint, out, batch_size, **settings):
    """A build with so many megabytes beside what the libraries take.

    What is freed goes back to the system at once, or what fits would depend on how the freed pieces lie.
    """
    arguments = recipe(checkpoint, **{**MEMORY, "batch_size": batch_size, **settings})
    process = Forked([room, "build", *arguments, "--out", out], STARVED, env=ENVIRONMENT)
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by what Linux says of it")
def test_a_batch_that_does_not_fit_is_halved_and_the_same_command_keeps_the_half(checkpoint, tmp_path):
    out, failures = tmp_path / "d3s", []
    for room in (400, 500, 650, 850):  # what a batch takes depends on the CPU
        code, err = starved(room, checkpoint, out, 256)
        if code == 0:
            break
        failures.append(f"{room}: {err}")
        shutil.rmtree(out, ignore_errors=True)
    assert code == 0, failures
    assert "cpu: not enough memory for a batch of 256 images. Continuing with batches of 128." in err
    numerics = json.loads((out / "_figureground" / "numerics.json").read_text())
    assert numerics["batch_size"] <= 128
    assert numerics["batch_size_asked"] == 256
    before = hashes(out)
    (out / "_figureground" / "shards" / markers(out)[0]).unlink()
    assert starved(0, checkpoint, out, 256) == (0, "")
    assert before == hashes(out)
    assert json.loads((out / "_figureground" / "numerics.json").read_text()) == numerics


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by what Linux says of it")
def test_a_set_that_has_shards_keeps_its_batch_size_and_says_what_to_do(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    assert starved(0, checkpoint, out, 64)[0] == 0
    marker = sorted((out / "_figureground" / "shards").glob("*.json"))[0]
    marker.unlink()
    code, err = starved(100, checkpoint, out, 64)
    assert code == 1, err
    assert "The batch size can't change because finished shards were made with it. Free some memory" in err
    assert f"{len(markers(out))} of {len(markers(out)) + 1} shards are done and kept." in err
    assert starved(0, checkpoint, out, 64) == (0, "")


# Images


def image(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((48, 48))


def bomb(path: Path) -> None:
    """A PNG whose header promises 3.6 gigapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


def half(name: str, path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path.parent / name)
    whole = (path.parent / name).read_bytes()
    (path.parent / name).unlink()
    path.write_bytes(whole[: len(whole) // 2])


def exif(path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image(5).save(path, exif=turned)


def grey16(path: Path) -> None:
    Image.fromarray((np.arange(48 * 48).reshape(48, 48) * 28).astype(np.uint16)).save(path)


def frames(path: Path, seed: int) -> None:
    image(seed).save(path, save_all=True, append_images=[image(99)], duration=40)


GOOD = {
    "plain.jpg": lambda p: image(1).save(p),
    "UPPER.JPG": lambda p: image(2).save(p, "JPEG"),
    "press.jpg": lambda p: image(3).convert("CMYK").save(p),
    "profile.png": lambda p: image(4).save(p, icc_profile=b"no profile at all"),
    "turned.jpg": exif,
    "sixteen.png": grey16,
    "palette.png": lambda p: image(6).quantize(8).save(p, transparency=0),
    "grey and alpha.png": lambda p: image(7).convert("LA").save(p),
    "scan.png": lambda p: image(8).convert("1").save(p),
    "moving.gif": lambda p: frames(p, 9),
    "moving.webp": lambda p: frames(p, 10),
    "floats.tif": lambda p: Image.fromarray(np.random.default_rng(1).random((48, 48), np.float32)).save(p),
    "old.bmp": lambda p: image(11).save(p),
    "jpeg named.png": lambda p: image(12).save(p, "JPEG"),
    "ünï 写真 .v2.final.jpg": lambda p: image(13).save(p),
    "two\nlines.png": lambda p: image(14).save(p),
    "quote'\".png": lambda p: image(15).save(p),
    "linked.jpg": lambda p: p.symlink_to("plain.jpg"),
    **({"new.avif": lambda p: image(16).save(p)} if features.check("avif") else {}),
}
BAD = {
    "empty.jpg": (lambda p: p.touch(), "the file is empty (0 bytes)"),
    "cut.jpg": (lambda p: half("x.jpg", p), "damaged"),
    "cut.png": (lambda p: half("x.png", p), "damaged"),
    "cut.webp": (lambda p: half("x.webp", p), ""),
    "words.png": (lambda p: p.write_text("buy milk"), "not an image"),
    "page.jpg": (lambda p: p.write_text("<!DOCTYPE html><h1>403</h1>"), "a web page instead of an image"),
    "pointer.jpg": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
    "drawing.svg": (lambda p: p.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "an SVG drawing"),
    "paper.pdf": (lambda p: p.write_bytes(b"%PDF-1.7\n"), "a PDF, which can't be read"),
    "program.png": (lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "a PostScript"),
    "phone.heic": (lambda p: p.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 90), "HEIC"),
    "bomb.png": (bomb, "too big"),
    "folder.jpg": (lambda p: p.mkdir(), "a directory"),
    "gone.jpg": (lambda p: p.symlink_to("nowhere.jpg"), "a broken link"),
    "round.png": (lambda p: p.symlink_to("round.png"), "a broken link"),
    "pipe.png": (lambda p: os.mkfifo(p), "a pipe"),
    "plug.png": (lambda p: socket.socket(socket.AF_UNIX).bind(os.path.relpath(p)), "a pipe, a socket"),
    "device.png": (lambda p: p.symlink_to("/dev/zero"), "a pipe, a socket or a device"),
    os.fsdecode(b"latin\xff.jpg"): (lambda p: image(20).save(p), "its name is not UTF-8"),
}
PASSED_OVER = {
    "._plain.jpg": b"\0\x05\x16\x07a resource fork", "Thumbs.db": b"\xd0\xcf\x11\xe0", ".DS_Store": b"\0",
    "notes.txt": b"x",
}  # fmt: skip


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Cut-outs of two classes, `bird` with every kind of file, and scenes."""
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    for folder in ("cutouts/bird", "cutouts/car", "cutouts/.hidden", "scenes/grass", "scenes/snow"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(3):
        for folder in ("cutouts/car", "scenes/grass", "scenes/snow"):
            image(100 + i + len(folder)).save(tmp_path / folder / f"{i}.png")
    birds = tmp_path / "cutouts" / "bird"
    for name, make in GOOD.items():
        make(birds / name)
    for name, (make, _) in BAD.items():
        make(birds / name)
    for name, content in PASSED_OVER.items():
        (birds / name).write_bytes(content)
    (tmp_path / "cutouts" / "loop").symlink_to(tmp_path / "cutouts" / "loop")
    (birds / "up").symlink_to("..")
    return tmp_path


def of_zoo(checkpoint, zoo, **settings):
    folders = {"cutouts": zoo / "cutouts", "scenes": zoo / "scenes"}
    return recipe(checkpoint, **{"classes": "folders", "shard_size": 100, **folders, **settings})


def test_from_every_kind_of_file_the_good_are_used_and_the_bad_are_listed_with_reasons(checkpoint, zoo, capsys):
    assert len(GOOD) + len(BAD) > 35
    out = zoo / "out"
    assert main(["build", *of_zoo(checkpoint, zoo), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"{len(BAD)} source files were skipped:" in captured.out
    skipped = dict(json.loads((out / "_figureground/stages/sources/done.json").read_text())["facts"]["skipped"])
    for name, (_, reason) in BAD.items():
        assert reason in skipped["bird/" + name.replace("\udcff", "\\udcff")], name
    assert len(skipped) == len(BAD)
    used = {
        json.loads(row)["guide"]["cutout"].rpartition("@")[0].removeprefix("bird/")
        for split in load_dataset(str(out)).values()
        for row in split["provenance"]
        if '"bird"' in row
    }
    # a link to an image is the same content once more
    assert used == set(GOOD) - {"linked.jpg"} or used == set(GOOD) - {"plain.jpg"}


def test_a_class_of_bad_files_only_is_counted_and_the_first_is_named(checkpoint, zoo, capsys):
    for name in GOOD:
        (zoo / "cutouts" / "bird" / name).unlink()
    (zoo / "cutouts" / "mug").mkdir()
    assert main(["build", *of_zoo(checkpoint, zoo), "--out", str(zoo / "out")]) == 1
    err = capsys.readouterr().err
    assert "2 of 3 classes have no readable image" in err
    assert "'bird' (in bird/), 'mug' (in mug/)" in err
    assert f"{len(BAD)} files can't be read, such as" in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert not (zoo / "out").exists()


def test_missing_class_folders_are_all_counted_and_the_first_named(checkpoint, zoo, capsys):
    classes = "{" + ", ".join(f"thing {i}: a thing" for i in range(9)) + ", bird: an animal}"
    assert main(["build", *of_zoo(checkpoint, zoo, classes=classes), "--out", str(zoo / "out")]) == 1
    err = capsys.readouterr().err
    assert "9 of 10 classes have no folder" in err
    assert "'thing 0', 'thing 1', 'thing 2', 'thing 3', 'thing 4' and 4 more" in err
    assert "Folders found: bird, car" in err
    assert not (zoo / "out").exists()


AS_NOBODY = """
import os, sys
from pathlib import Path
import PIL.PngImagePlugin
from figureground.sources.guide import ImagePool
if os.geteuid() == 0:
    os.setuid(65534)  # permissions don't bind root
bank = ImagePool.read(Path(sys.argv[1]), ["bird"], "cutouts")
print([item.path.name for item in bank.items["bird"]], [(path.name, why) for path, why in bank.skipped])
"""


def test_a_image_that_may_not_be_read_is_listed_and_the_rest_is_used():
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where) / "bird"
        folder.mkdir()
        Path(where).chmod(0o755)
        image(1).save(folder / "open.png")
        image(2).save(folder / "closed.png")
        (folder / "closed.png").chmod(0)
        done = subprocess.run([sys.executable, "-c", AS_NOBODY, where], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "['open.png'] [('closed.png', 'Permission denied')]\n", done.stderr


# The command


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert " ".join(EXIT_CODES.split()) in " ".join(capsys.readouterr().out.split())
