"""All faults of a dataset are found; the user's own files, and things that are no faults, are not reported."""

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from tiny_checkpoints import make_checkpoint
from tiny_datasets import make_dataset

from figureground import D3S
from figureground.checking import similar
from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError
from figureground.core.hashing import digest
from figureground.curation.curating import curate
from figureground.curation.merging import merge
from figureground.methods.extend import extend
from figureground.methods.registry import open_dataset
from figureground.recipe import document as recipes
from figureground.recipe.formats import DEFAULT_FORMATS
from figureground.report.sheet import write_sheet
from figureground.running.building import finish
from figureground.shards.card_file import END, refuse_unreadable
from figureground.shards.columns import Columns
from figureground.shards.finished import read_finished_index
from figureground.shards.formats.tar import Tar
from figureground.shards.index import rewrite_descriptions
from figureground.shards.shard import Shard, ShardError
from figureground.shards.writer import write_encoded
from figureground.sources import marks
from figureground.sources.images import encode

TINY = {
    "classes": ["bird", "car", "mug"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 4, "validation": 1},
    "shard_size": 10, "num_inference_steps": 2, "batch_size": 6, "threads": 1, "device": "cpu", "size": 32,
    "keep": ["guide", "mask"],
}  # fmt: skip
FIRST = "train-00000-of-00003"
PARQUET, TAR, MARKER = f"data/{FIRST}.parquet", f"webdataset/{FIRST}.tar", f"_figureground/shards/{FIRST}.json"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "d3s"
    return D3S("pocket", checkpoint=checkpoint, **TINY).build(out, show_progress=False)


@pytest.fixture
def out(built):
    """A copy to damage, beside the original, so that the recipe's paths stay right."""
    copy = built.with_name("copy")
    shutil.copytree(built, copy)
    yield copy
    shutil.rmtree(copy)


def findings(directory):
    return check(directory, show_progress=False).findings


def assert_finds(directory, *patterns, may=()):
    """Exactly what is wrong is found: each pattern fits a finding, and each finding a pattern, or one that may be."""
    found = findings(directory)
    for pattern in patterns:
        assert any(re.search(pattern, line) for line in found), (pattern, found)
    assert [line for line in found if not any(re.search(pattern, line) for pattern in (*patterns, *may))] == []
    assert all("\n" not in line for line in found)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(out, change, formats=DEFAULT_FORMATS, name=FIRST):
    """Write a shard again with other samples, in some formats, and its marker with the hashes that it has then."""
    marker = json.loads((out / f"_figureground/shards/{name}.json").read_text())
    shard = Shard.from_marker(marker)
    samples = change(list(Tar().read(out / shard.path("webdataset"))))
    scratch = out.with_name("scratch")
    made = write_encoded(
        scratch, dataclasses.replace(shard, count=len(samples)), Columns.from_json(read_finished_index(out)["columns"]),
        [sample.encoded() for sample in samples], formats=formats,
    )  # fmt: skip
    for path, file in made["files"].items():
        shutil.copy(scratch / path, out / path)
        marker["files"][path] = file
    shutil.rmtree(scratch)
    if formats == DEFAULT_FORMATS:
        marker = {**made, "files": marker["files"], "planned": marker["planned"]}
    (out / shard.path("marker")).write_text(json.dumps(marker))


def describe_anew(out):
    finish(open_dataset(out), out)


def change_first(**fields):
    return lambda samples: [dataclasses.replace(samples[0], **fields), *samples[1:]]


def damaged(image, keep):
    return image[: int(len(image) * keep)]


def swap_label(samples):
    first = samples[0]
    return [dataclasses.replace(first, labels={**first.labels, "foreground": (first.labels["foreground"] + 1) % 3}),
            *samples[1:]]  # fmt: skip


# --- what is right --------------------------------------------------------------------------------


def test_a_dataset_as_built_has_no_findings(built):
    report = check(built, show_progress=False)
    assert report.findings == []
    assert report.notes[0] == "30 samples read in 4 shards of train, validation: parquet and webdataset."
    assert any(note.startswith("README.md: the license is unknown") for note in report.notes)
    assert any("perceptual hash" in note for note in report.notes)


@pytest.mark.parametrize("formats", [["parquet"], ["webdataset"]])
@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_either_format_alone_and_every_image_format_has_no_findings(checkpoint, tmp_path, formats, image_format):
    out = D3S("pocket", checkpoint=checkpoint, **{**TINY, "formats": formats, "image_format": image_format}).build(
        tmp_path / "d3s", show_progress=False
    )
    assert findings(out) == []


def test_an_extended_dataset_has_no_findings(out):
    extend(out, {"train": 5}, show_progress=False)
    report = check(out, show_progress=False)
    assert report.findings == []
    assert "36 samples read in 5 shards" in report.notes[0]


def test_a_merged_dataset_has_no_findings(built, tmp_path):
    curate(built, tmp_path / "grass", "background == 'grass'", show_progress=False)
    curate(built, tmp_path / "snow", "background == 'snow' and foreground != 'mug'", show_progress=False)
    merge([tmp_path / "grass", tmp_path / "snow"], tmp_path / "both", show_progress=False)
    report = check(tmp_path / "both", show_progress=False)
    assert report.findings == []
    assert "25 samples read in 8 shards" in report.notes[0]


def test_a_curated_dataset_and_its_published_rejects_are_checked(built, tmp_path):
    out = curate(built, tmp_path / "birds", "foreground == 'bird'", publish_rejects=True, show_progress=False)
    assert findings(out) == []
    rejects, lines = f"rejects/{FIRST}.parquet", f"_figureground/rejects/{FIRST}.jsonl"
    intact = (out / rejects).read_bytes()
    flip(out / rejects, len(intact) // 2)
    assert_finds(out, rf"^{rejects}: its SHA-256")
    (out / rejects).write_bytes(intact)
    kept = (out / lines).read_text().splitlines(keepends=True)
    (out / lines).write_text("".join(kept[1:]))
    count = len(kept)
    assert_finds(out, rf"^{lines}: it has", rf"^{lines}: its SHA-256")
    marker = json.loads((out / MARKER).read_text())
    data = (out / lines).read_bytes()
    marker["files"][lines] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (out / MARKER).write_text(json.dumps(marker))
    assert_finds(out, rf"^{lines}: it holds {count - 1} dropped by the rule; the marker says {count} dropped",
                 "index.json")  # fmt: skip


def test_a_card_without_a_config_for_published_rejects_is_found(built, tmp_path):
    out = curate(built, tmp_path / "birds", "foreground == 'bird'", publish_rejects=True, show_progress=False)
    edit_header(out, lambda header: header["configs"].pop())
    assert_finds(out, r"^README\.md: it has no config for the published rejects")


def edit_recipe(out, edit):
    path = out / "_figureground/recipe.json"
    recipe = json.loads(path.read_text())
    edit(recipe)
    path.write_text(json.dumps(recipe, indent=2))


@pytest.mark.parametrize(
    "edit",
    [
        lambda recipe: recipe["identity"].update(classes=["bird", "car", "cup"]),
        lambda recipe: recipe["identity"].update(checkpoint="another/checkpoint"),
        lambda recipe: recipe["identity"].update(num_inference_steps=3),
        lambda recipe: recipe["identity"].update(cutouts=None),
        lambda recipe: recipe.update(config="other"),
        lambda recipe: recipe.pop("saved_sha256"),
        lambda recipe: recipe["content"].update(classes="sha256:0"),
    ],
    ids=["classes", "checkpoint", "steps", "a path", "config", "no seal", "content"],
)
def test_any_edit_of_the_recipe_is_found(out, edit):
    edit_recipe(out, edit)
    assert_finds(out, r"^_figureground/recipe\.json: ")


def test_execution_settings_of_the_recipe_may_be_edited(out):
    edit_recipe(out, lambda recipe: recipe["execution"].update(workers=7))
    assert findings(out) == []


def test_a_recipe_of_another_dataset_is_found(out):
    def exchange(recipe):
        recipe["identity"]["num_inference_steps"] = 3
        header = {name: recipe[name] for name in ("format", "builder")}
        recipe["sha256"] = digest({**header, **recipe["identity"], **recipe["content"]})
        recipe.update(recipes.seal({name: value for name, value in recipe.items() if name != recipes.SEAL}))

    edit_recipe(out, exchange)
    assert_finds(out, r"^_figureground/recipe\.json: it doesn't match .*index\.json")


def test_a_recipe_of_an_older_release_is_a_note(out):
    for path in (out / "_figureground").rglob("*.json"):
        saved = json.loads(path.read_text())
        for name in ("format", "recipe_sha256", "saved_sha256"):
            saved.pop(name, None)
        if path.name == "recipe.json":
            saved["sha256"] = digest({"builder": saved["builder"], **saved["identity"], **saved["content"]})
        path.write_text(json.dumps(saved))
    report = check(out, show_progress=False)
    assert report.findings == []
    assert any("recipe.json: written by an older release" in note for note in report.notes)


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("preview.png", b"", r"^preview\.png: .* can't be opened .*figureground show"),
        ("preview.png", b"\x89PNG\r\n\x1a\n half", r"^preview\.png: .* can't be opened"),
        ("plots/mine.jpg", None, r"^plots/mine\.jpg: .* is missing\. Restore it"),
        ("mine.png", b"text", r"^mine\.png: .* can't be opened"),
        ("../mine.png", None, r"^\.\./mine\.png: the card shows it"),
        ("mine.svg", b"<svg/>", None),
    ],
)
def test_an_image_that_the_card_shows_and_that_cannot_be_shown_is_found(out, name, content, pattern):
    card = out / "README.md"
    card.write_text(
        card.read_text() + f"\n![a plot]({name})\n\n```html\n<img src='no.png'>\n```\n![](https://a/b.png)\n"
    )
    if content is not None:
        (out / name).write_bytes(content)
    assert_finds(out, *([pattern] if pattern else []))


def test_names_that_hold_the_marks_of_a_card_are_no_finding(tmp_path):
    hostile = "<!-- figureground: end generated --> a|b `c` \\ \u202e\x1b[31m"
    columns = Columns(("bird", hostile), (hostile, "snow"))
    out = make_dataset(tmp_path / "out", columns=columns, title=hostile)
    write_sheet(out)
    assert rewrite_descriptions(out)
    assert not [line for line in findings(out) if line.startswith("README.md")]


def test_what_is_the_users_in_the_card_is_no_finding(out):
    card = out / "README.md"
    text = card.read_text().replace("license: unknown", "license: cc-by-4.0\nlanguage: de\nmy_own: [1, 2]")
    text = text.replace("- synthetic\n", "- lynx\n")
    text = re.sub("pretty_name: .*", "pretty_name: Lynxes", text)
    card.write_text(text.replace("# D3S", "# Lynxes: 17 images, 5 foregrounds, 9 backgrounds") + "\n## Mine\n")
    report = check(out, show_progress=False)
    assert report.findings == []
    assert not any("license" in note for note in report.notes)


def test_a_card_without_the_generated_text_is_a_note(out):
    card = out / "README.md"
    card.write_text(
        re.sub(r"<!-- figureground: begin.*end generated -->", "My words.", card.read_text(), flags=re.DOTALL)
    )
    report = check(out, show_progress=False)
    assert report.findings == []
    assert any("no generated part" in note for note in report.notes)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_it_takes_no_more_threads_than_the_cores_that_it_may_use(tmp_path):
    make_dataset(tmp_path, shards=tuple(Shard("train", i, 6, 8) for i in range(6)))
    code = (
        "import os, sys, threading; from pathlib import Path; from figureground.checking.dataset import check\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "names = set(); threading.setprofile(lambda *_: names.add(threading.current_thread().name))\n"
        "check(Path(sys.argv[1]), show_progress=False)\n"
        "print(len([name for name in names if name.startswith('check')]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_a_directory_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(FiguregroundError, match="holds no dataset"):
        check(tmp_path)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [4, 0.3, 0.6, -20, -3], ids=["start", "early", "late", "footer", "magic"])
def test_a_flipped_byte_in_parquet_is_found(out, place):
    size = (out / PARQUET).stat().st_size
    flip(out / PARQUET, place if isinstance(place, int) else int(place * size))
    assert_finds(out, rf"^{PARQUET}: its SHA-256 .*Delete {MARKER} and ")


def members_of(path):
    with tarfile.open(path) as tar:
        return tar.getmembers()


def test_a_flipped_byte_in_an_image_of_a_tar_is_found_and_the_sample_named(out):
    member = next(m for m in members_of(out / TAR) if m.name.endswith(".jpg"))
    flip(out / TAR, member.offset_data + member.size // 2)
    key = member.name.removesuffix(".jpg")
    assert_finds(out, rf"^{TAR}: its SHA-256", rf"their image differs: {key}", may=["can't be decoded"])


def test_a_flipped_byte_in_a_label_of_a_tar_is_found_and_the_sample_named(out):
    member = next(m for m in members_of(out / TAR) if m.name.endswith(".foreground.cls"))
    data = bytearray((out / TAR).read_bytes())
    data[member.offset_data] = ord("0") + (data[member.offset_data] - ord("0") + 1) % 3
    (out / TAR).write_bytes(data)
    key = member.name.split(".")[0]
    assert_finds(
        out, rf"^{TAR}: its SHA-256", rf"their foreground differs: {key} \(\d and \d\)",
        "its foreground differs from its (key|provenance)", "its labels differ from its provenance",
    )  # fmt: skip


def test_a_flipped_byte_in_a_header_of_a_tar_is_found(out):
    member = members_of(out / TAR)[9]
    flip(out / TAR, member.offset + 3)
    assert_finds(out, rf"^{TAR}: its SHA-256", rf"^{TAR}: \d samples are readable; its marker says 10", "its members")


def cut_at_sample(path, count):
    """Cut a tar behind its first samples; return its bytes."""
    seen = []
    for member in members_of(path):
        if (key := member.name.split(".")[0]) not in seen:
            if len(seen) == count:
                break
            seen.append(key)
    path.write_bytes(data := path.read_bytes()[: member.offset])
    return data


def test_a_tar_cut_at_a_sample_boundary_is_found(out):
    cut_at_sample(out / TAR, 6)
    assert_finds(out, rf"^{TAR}: it has [\d,]+ bytes; its marker says", rf"^{TAR}: its SHA-256",
                 rf"^{TAR}: 6 samples are readable; its marker says 10")  # fmt: skip


def test_a_tar_cut_at_a_sample_boundary_is_found_even_if_its_marker_has_its_hash(out):
    data = cut_at_sample(out / TAR, 6)
    marker = json.loads((out / MARKER).read_text())
    marker["files"][TAR] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (out / MARKER).write_text(json.dumps(marker))
    describe_anew(out)
    assert_finds(out, rf"^{TAR}: 6 samples are readable; its marker says 10")


def test_a_tar_cut_within_a_image_is_found(out):
    member = [m for m in members_of(out / TAR) if m.name.endswith(".jpg")][3]
    (out / TAR).write_bytes((out / TAR).read_bytes()[: member.offset_data + 100])
    assert_finds(out, rf"^{TAR}: it has", "SHA-256", "can't be read to its end", "3 samples are readable")


@pytest.mark.parametrize("path", [PARQUET, TAR])
def test_a_file_that_is_gone_is_found(out, path):
    (out / path).unlink()
    assert_finds(out, rf"^{path}: missing\. Delete {MARKER}")


@pytest.mark.parametrize("path", [PARQUET, TAR])
@pytest.mark.parametrize("content", [b"", b"hello" * 1000])
def test_files_that_hold_something_else_are_findings_and_no_crash(out, path, content):
    (out / path).write_bytes(content)
    found = findings(out)
    assert any(line.startswith(f"{path}: it has") for line in found)
    assert any(line.startswith(f"{path}: its SHA-256") for line in found)


def test_a_missing_shard_is_found(out):
    for path in (PARQUET, TAR, MARKER):
        (out / path).unlink()
    assert_finds(out, rf"^1 of 4 shards have no marker: {FIRST}; their files are missing too\. ")


def test_a_missing_marker_is_found(out):
    (out / MARKER).unlink()
    assert_finds(out, rf"^1 of 4 shards have no marker: {FIRST}; their files exist \({PARQUET}")


def test_an_unfinished_build_is_one_finding_and_the_rest_is_checked(out):
    for path in (PARQUET, TAR, MARKER, "_figureground/index.json", "README.md", "croissant.json"):
        (out / path).unlink()
    for path in out.rglob("validation-*"):
        path.unlink()
    assert_finds(out, r"isn't finished: 2 of 3 shards .* missing: train-00000-of-00003; .* validation\. ")
    assert "14 samples read in 2 shards of train" in check(out, show_progress=False).notes[0]
    rewrite_name = FIRST.replace("00000-", "00001-")
    flip(out / f"webdataset/{rewrite_name}.tar", 5000)
    assert any("SHA-256" in line for line in findings(out))


def test_an_extension_that_was_stopped_is_found(out):
    extend(out, {"train": 5}, show_progress=False)
    for path in out.rglob("train-e1-*"):
        path.unlink()
    assert_finds(out, "1 of 5 shards have no marker: train-e1-00000-of-00001", "recipe.json lists an extension")


def test_shards_of_an_extension_that_the_recipe_does_not_tell_of_are_found(out):
    recipe = out / "_figureground" / "recipe.json"
    before = recipe.read_text()
    extend(out, {"train": 5}, show_progress=False)
    recipe.write_text(before)
    assert_finds(out, r"^_figureground/recipe\.json lists no extensions, .* extension 1 ")
    extend(out, {"train": 5}, show_progress=False)
    assert check(out, show_progress=False).findings == []


@pytest.mark.parametrize("path", ["data/notes.csv", "webdataset/old/train-00000-of-00001.tar", "rejects/x.parquet"])
def test_a_file_that_no_marker_tells_of_is_found(out, path):
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    (out / path).write_text("a,b\n")
    assert_finds(out, rf"^{path}: no marker")


def test_hidden_files_are_no_findings(out):
    (out / "data/.DS_Store").write_text("")
    (out / "data/.train-00000-of-00003.parquet.12-0123456789abcdef.tmp").write_text("")
    report = check(out, show_progress=False)
    assert report.findings == []
    assert any(note.startswith("1 temporary files") for note in report.notes)


# --- markers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{", "[]", '{"shard": "train"}', "\x00"])
def test_a_marker_that_is_none_is_found(out, text):
    (out / MARKER).write_text(text)
    assert_finds(out, rf"^{MARKER}: ", "1 of 4 shards have no marker")


def test_a_marker_of_another_dataset_is_found(out):
    other = json.loads((out / MARKER).read_text())
    other.update(shard="train-00000-of-00007", of=7)
    (out / "_figureground/shards/train-00000-of-00007.json").write_text(json.dumps(other))
    found = findings(out)
    assert any("markers count 3 shards and others 7" in line for line in found)
    shutil.copy(out / MARKER, out / MARKER.replace("00000-", "00001-"))
    assert any("describes shard train-00000-of-00003" in line for line in findings(out))


def test_a_marker_whose_numbers_contradict_each_other_is_found(out):
    marker = json.loads((out / MARKER).read_text())
    cells = [[*marker["cells"][0][:2], marker["cells"][0][2] + 1], *marker["cells"][1:]]
    edit_json(out / MARKER, samples=11, cells=cells)
    assert_finds(
        out, "11 samples and 0 rejects .* 10 planned", "10 samples are readable; its marker says 11",
        "index.json: it disagrees with the markers", "README.md",
    )  # fmt: skip


def test_cells_that_are_not_those_of_the_data_are_found(out):
    cells = json.loads((out / MARKER).read_text())["cells"]
    cells[0][2] -= 1
    cells[1][2] += 1
    edit_json(out / MARKER, cells=cells)
    assert_finds(out, rf"^{MARKER}: its cells .*\(2 cells differ\)", "index.json", "README.md")


def test_an_index_that_disagrees_with_the_markers_is_found(out):
    edit_json(out / "_figureground/index.json", samples=31)
    assert_finds(out, r"^_figureground/index.json: it disagrees with the markers in samples\. Rerun the command")


def test_an_index_that_is_damaged_is_found(out):
    (out / "_figureground/index.json").write_text("{")
    assert_finds(out, r"^_figureground/index.json: it can't be read")


def test_a_recipe_that_was_edited_is_found(out):
    path = out / "_figureground/recipe.json"
    path.write_text(path.read_text().replace('"strength": 0.6', '"strength": 0.7'))
    assert_finds(out, r"^_figureground/recipe.json: its settings .*SHA-256")
    path.write_text("{")
    assert any(line.startswith("_figureground/recipe.json: it can't be read") for line in findings(out))


def test_numerics_are_missed_and_mixed_ones_are_a_note(out):
    path = out / "_figureground/numerics.json"
    edit_json(path, mixed=[{"dtype": "bfloat16"}])
    report = check(out, show_progress=False)
    assert report.findings == []
    assert any("numerics are mixed" in note for note in report.notes)
    path.unlink()
    assert_finds(out, r"^_figureground/numerics.json: missing")


# --- samples, in files that have the hashes of their markers ----------------------------------------


@pytest.mark.parametrize("kind", DEFAULT_FORMATS)
def test_a_label_swapped_in_one_format_is_found(out, kind):
    rewrite(out, swap_label, formats=(kind,))
    describe_anew(out)
    path = {"parquet": PARQUET, "webdataset": TAR}[kind]
    assert_finds(
        out, "their foreground differs", rf"^{path}: its foreground differs from its key",
        rf"^{path}: .* provenance",
        may=[f"^{MARKER}: its cells"],
    )  # fmt: skip


def test_a_label_swapped_in_both_formats_is_found_by_key_and_provenance(out):
    rewrite(out, swap_label)
    describe_anew(out)
    assert_finds(out, rf"^{FIRST}: its foreground differs from its key: train-", "provenance says '", "its labels")


def test_a_label_out_of_range_is_found(out):
    rewrite(out, change_first(labels={"foreground": 3, "background": 1}))
    assert any("foreground isn't a label from 0 to 2" in line and "(3)" in line for line in findings(out))


def test_a_prompt_that_differs_between_formats_is_found(out):
    rewrite(out, change_first(prompt="a photo of a lynx"), formats=("parquet",))
    assert_finds(out, "their prompt differs", "its provenance names another prompt", "index.json", "croissant.json",
                 "README.md: dataset_info")  # fmt: skip


def test_samples_in_another_order_in_one_format_are_found(out):
    rewrite(out, lambda samples: samples[::-1], formats=("webdataset",))
    describe_anew(out)
    assert_finds(out, rf"^{PARQUET}: it has train-.* {TAR} has train-")


def test_a_key_that_comes_twice_is_found(out):
    first = next(Tar().read(out / TAR))
    rewrite(out, lambda samples: [first, *samples[1:]], name=FIRST.replace("00000-", "00002-"))
    assert any(
        re.search(rf"^The key {first.key} occurs twice, in {FIRST} and in train-00002", line) for line in findings(out)
    )


def test_a_shard_that_is_there_twice_under_two_names_is_one_finding(out):
    second = FIRST.replace("00000-", "00001-")
    marker = json.loads((out / MARKER).read_text())
    text = json.dumps({**marker, "shard": second, "index": 1}).replace(f"{FIRST}.", f"{second}.")
    (out / MARKER.replace(FIRST, second)).write_text(text)
    for path in (PARQUET, TAR):
        shutil.copy(out / path, out / path.replace(FIRST, second))
    describe_anew(out)
    assert_finds(out, rf"^10 keys occur twice, in {FIRST} and in {second}: train-.*\(10 in all\)")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_truncated_image_in_files_that_agree_is_found(checkpoint, out, tmp_path, format):
    if format == "PNG":
        out = D3S("pocket", checkpoint=checkpoint, **{**TINY, "image_format": "png"}).build(tmp_path / "png")

    def truncate(samples):
        image = samples[0].image
        return [dataclasses.replace(samples[0], image=image[: len(image) * 2 // 3]), *samples[1:]]

    if format == "JPEG":
        rewrite(out, truncate)
        describe_anew(out)
        assert_finds(out, rf"^{FIRST}: its image can't be decoded: train-.*truncated")
    else:
        data = next(Tar().read(out / TAR)).image
        with tarfile.open(out / TAR) as tar:
            member = next(m for m in tar if m.name.endswith(".png") and m.name.count(".") == 1)
        # One bit of the pixels: only the checksum of the chunk tells.
        flip(out / TAR, member.offset_data + len(data) // 2)
        assert any(re.search("its image can't be decoded: train-", line) for line in findings(out))


def test_a_image_of_another_format_size_or_kind_is_found(out):
    def other(samples):
        image = Image.open(io.BytesIO(samples[0].image))
        return [
            dataclasses.replace(samples[0], image=encode(image, "png", marks.make_packet(marks.COMPOSITE))),
            dataclasses.replace(samples[1], image=jpeg(image.resize((16, 16)))),
            dataclasses.replace(samples[2], image=b"no image"),
            dataclasses.replace(samples[3], images={**samples[3].images, "mask": samples[3].images["mask"][:60]}),
            *samples[4:],
        ]

    rewrite(out, other)
    describe_anew(out)
    assert_finds(
        out, r"its image isn't a jpg: train-\S+ \(PNG\)", r"isn't 32 by 32 pixels: train-\S+ \(16 by 16 pixels\)",
        r"its image can't be decoded: train-\S+ \(cannot identify.*train-\S+\.mask",
    )  # fmt: skip


def with_provenance(sample, **fields):
    return dataclasses.replace(sample, provenance=json.dumps({**json.loads(sample.provenance), **fields}))


def test_provenance_that_is_not_of_the_sample_is_found(out):
    def other(samples):
        return [
            with_provenance(samples[0], key="train-0000-00-99999"),
            with_provenance(samples[1], split="test"),
            dataclasses.replace(samples[2], provenance="{"),
            with_provenance(samples[3], background="the moon"),
            *samples[4:],
        ]

    marker = json.loads((out / MARKER).read_text())
    # What is no JSON can't be written by the library, so the tar is put together by hand.
    (out / "webdataset/x.tar").write_bytes(b"")
    samples = other(list(Tar().read(out / TAR)))
    with tarfile.open(out / TAR) as old, tarfile.open(out / "webdataset/x.tar", "w") as new:
        for member in old.getmembers():
            data = old.extractfile(member).read()
            key, _, end = member.name.partition(".")
            if end == "json":
                data = next(s.provenance for s in samples if s.key == key).encode()
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    (out / "webdataset/x.tar").replace(out / TAR)
    data = (out / TAR).read_bytes()
    marker["files"][TAR] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (out / MARKER).write_text(json.dumps(marker))
    describe_anew(out)
    assert_finds(
        out, "their provenance differs", "its provenance names another key", "its provenance names another split",
        "its provenance isn't JSON", "its background differs from its provenance: .*'the moon'",
    )  # fmt: skip


def test_parquet_columns_of_another_type_or_with_holes_are_found(out):
    table = pq.read_table(out / PARQUET)

    def write(table):
        pq.write_table(table, out / PARQUET)
        data = (out / PARQUET).read_bytes()
        marker = json.loads((out / MARKER).read_text())
        marker["files"][PARQUET] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (out / MARKER).write_text(json.dumps(marker))

    write(table.drop_columns(["prompt"]))
    assert any(re.search(rf"^{PARQUET}: its columns are image .*; the dataset's are", line) for line in findings(out))
    column = table.column("foreground").to_pylist()
    index = table.schema.get_field_index("foreground")
    import pyarrow as pa

    write(table.set_column(index, table.schema.field("foreground"), pa.array([None, *column[1:]], pa.int64())))
    assert any(re.search(rf"^{PARQUET}: a column is empty: train-\S+ \(foreground\)", line) for line in findings(out))


# --- leaks between splits ---------------------------------------------------------------------------


def test_a_cutout_or_template_that_two_splits_share_is_found(out):
    train = json.loads(next(Tar().read(out / TAR)).provenance)["guide"]
    validation = "validation-00000-of-00001"

    def share(samples):
        guide = json.loads(samples[0].provenance)["guide"]
        return [with_provenance(samples[0], guide={**guide, "cutout": "renamed@" + train["cutout"].split("@")[1]}),
                *samples[1:]]  # fmt: skip

    rewrite(out, share, name=validation)
    describe_anew(out)
    assert_finds(
        out, rf"^1 cut-outs, scenes or photographs are used in train and in validation.*{train['cutout']} = renamed"
    )


def test_the_same_image_in_two_splits_is_found(out):
    image = next(Tar().read(out / TAR)).image
    rewrite(out, change_first(image=image), name="validation-00000-of-00001")
    describe_anew(out)
    assert_finds(out, r"^1 image of validation has the same pixels as one of train: train-\S+ and validation-")


def image(seed, size=32):
    rng = np.random.default_rng(seed)
    pixels = np.full((64, 64, 3), rng.integers(0, 255, 3), np.uint8)
    for _ in range(8):
        left, top, width, height = rng.integers(0, 48, 2).tolist() + rng.integers(8, 32, 2).tolist()
        pixels[top : top + height, left : left + width] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels).resize((size, size))


def jpeg(image, quality=95):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, xmp=marks.make_packet(marks.COMPOSITE))
    return buffer.getvalue()


def test_near_duplicates_between_splits_are_counted_and_named(out):
    def drawn(start):
        return lambda samples: [
            dataclasses.replace(sample, image=jpeg(image(start + i))) for i, sample in enumerate(samples)
        ]

    for n in range(3):
        rewrite(out, drawn(100 * n), name=FIRST.replace("00000-", f"{n:05d}-"))
    first = next(Tar().read(out / TAR))
    again = jpeg(Image.open(io.BytesIO(first.image)).point(lambda v: min(255, v + 8)), 80)
    rewrite(
        out,
        lambda samples: change_first(image=again)(drawn(1000)(samples)),
        name="validation-00000-of-00001",
    )
    describe_anew(out)
    report = check(out, show_progress=False)
    assert report.findings == []
    line = next(note for note in report.notes if "look like one of train" in note)
    assert line.startswith("1 of 6 images of validation look like one of train (perceptual hash, at most 15 of 256")
    assert re.search(rf"such as validation-\S+ and {first.key} \(\d+ bits\)", line)


def test_without_imagehash_the_rest_is_checked_and_a_note_says_how_to_get_it(out):
    flip(out / PARQUET, 5000)
    code = (
        "import sys\n"
        "sys.modules['imagehash'] = None\n"  # as if it weren't installed
        "from figureground.checking.dataset import check\n"
        f"report = check({str(out)!r}, show_progress=False)\n"
        "print(*report.findings, *report.notes, sep='\\n')\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "SHA-256" in output
    assert "pip install 'figureground[check]'" in output


# --- perceptual hashes ------------------------------------------------------------------------------


def test_hashes_tell_copies_from_other_images():
    images = [image(seed, 128) for seed in range(60)]
    changed = [Image.open(io.BytesIO(jpeg(p, 50))).resize((96, 96)) for p in images]
    a, b = (similar.stack_hashes([similar.hash_image(p) for p in some]) for some in (images, changed))
    found, of, bits = similar.find_nearest(a, b)
    assert found.tolist() == of.tolist() == list(range(60))
    assert 0 < bits.max() <= similar.NEAR
    others = similar.stack_hashes([similar.hash_image(image(seed, 128)) for seed in range(100, 160)])
    assert len(similar.find_nearest(a, others)[0]) == 0


def test_the_search_finds_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**63, (300, 4), dtype=np.uint64)
    b = a[rng.integers(0, 300, 500)]
    flips = rng.random((500, 256)) < rng.uniform(0, 0.12, (500, 1))
    b = b ^ np.packbits(flips, axis=1).view(np.uint64)
    a = np.concatenate([a, a[:50]])
    distances = np.bitwise_count(a[:, None] ^ b[None]).sum(2)
    found, of, bits = similar.find_nearest(a, b)
    assert found.tolist() == np.flatnonzero(distances.min(0) <= similar.NEAR).tolist()
    assert 100 < len(found) < 450
    assert bits.tolist() == distances.min(0)[found].tolist() == distances[of, found].tolist()


# --- card and Croissant -----------------------------------------------------------------------------


def edit_header(out, change):
    path = out / "README.md"
    _, header, body = path.read_text().split("---\n", 2)
    header = yaml.safe_load(header)
    change(header)
    path.write_text(f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n{body}")


def set_in(*keys):
    def change(header):
        *path, last, value = keys
        for key in path:
            header = header[key]
        header[last] = value

    return change


INFO, FILES = "dataset_info", ("configs", 0, "data_files")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (set_in("configs", []), "no configs"),
        (set_in(*FILES, 0, "path", "data/train-00001*"), "config default, split train: its .* miss data/train-00000"),
        (set_in(*FILES, 0, "path", "data/*"), "split train: its data_files also match data/validation-00000"),
        (set_in(*FILES, 0, "path", "images/*"), "config default, split train: its data_files miss"),
        (set_in(*FILES, 0, "split", "test"), "config default has the splits test, validation; the data has train, val"),
        (set_in(INFO, "features", 1, "dtype", "class_label", "names", "0", "owl"), "label 0 'owl'.* 'bird'"),
        (set_in(INFO, "features", 1, "dtype", "class_label", "names", "3", "owl"), "has 4 class names; the data has 3"),
        (set_in(INFO, "features", 1, "dtype", "int64"), "its feature foreground is"),
        (set_in(INFO, "features", 3, "name", "caption"), "its features lack prompt"),
        (set_in(INFO, "splits", 0, "num_examples", 25), "split train 25 examples; the data has 24"),
        (set_in(INFO, "splits", 0, "num_bytes", 7), "gives split train 7 num_bytes"),
        (set_in(INFO, "splits", 1, "name", "test"), "dataset_info has the splits train, test"),
        (set_in(INFO, "download_size", 7), "download_size of 7 bytes"),
        (set_in("size_categories", ["1M<n<10M"]), "size_categories 1M<n<10M .* 30 images"),
        (set_in(INFO, None), "no dataset_info"),
        (set_in("configs", [3]), "form that the Hub reads"),
    ],
)  # fmt: skip
def test_a_card_whose_yaml_disagrees_with_the_data_is_found(out, change, pattern):
    edit_header(out, change)
    assert_finds(out, rf"^README\.md: .*{pattern}.* Rerun the command")


@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        (r"^30 images", "31 images", "'31 images .* instead of '30 images"),
        ("3 foregrounds", "4 foregrounds", "4 foregrounds.* instead of .*3 foregrounds"),
        ("### train: 24", "### train: 25", "### train: 25 images.* instead of .### train: 24 images"),
        (r"\| bird \| 4 ", "| bird | 5 ", r"\| bird \| 5 .* instead of '\| bird \| 4 "),
        (r"\| grass \|", "| moss |", r"\| moss \|.* instead of .*\| grass \|"),
        ("Of 30 planned images 30 were", "Of 30 planned images 29 were", "29 were kept.* instead of .*30 were kept"),
        ("<!-- figureground: end generated -->", "", r"lines .* \(none\)"),
        (r"\A---", "---\n: {", "its YAML header can't be read"),
    ],
)
def test_a_card_whose_text_disagrees_with_the_data_is_found(out, old, new, pattern):
    path = out / "README.md"
    text, count = re.subn(old, new, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)
    assert_finds(out, rf"^README\.md: .*{pattern}")


def test_the_check_names_the_lines_that_a_build_would_name(out):
    path = out / "README.md"
    path.write_text(path.read_text().replace(END, ""))
    with pytest.raises(ShardError) as refused:
        refuse_unreadable(out)
    assert str(refused.value) in findings(out)


def test_a_card_that_another_version_wrote_is_compared_by_its_hash(out):
    path = out / "_figureground" / "index.json"
    index = json.loads(path.read_text())
    index["card"]["renderer"] = "0.0.1 0123456789abcdef"
    path.write_text(json.dumps(index))
    assert findings(out) == []
    card = out / "README.md"
    card.write_text(card.read_text().replace("\n30 images", "\n31 images"))
    assert_finds(out, r"^README\.md: its generated text isn't the one that _figureground/index\.json")
    for name in ("renderer", "text"):  # as a release before them wrote it
        del index["card"][name]
    path.write_text(json.dumps(index))
    assert findings(out) == []


def test_a_card_that_is_gone_is_found(out):
    (out / "README.md").unlink()
    assert_finds(out, r"^README\.md: missing")


def test_croissant_with_other_hashes_is_found(out):
    path = out / "croissant.json"
    text = path.read_text()
    sha256 = json.loads((out / MARKER).read_text())["files"][TAR]["sha256"]
    assert sha256 in text
    path.write_text(text.replace(sha256, "0" * 64))
    assert_finds(out, rf"^croissant\.json: its SHA-256 of {TAR}")
    path.write_text("[]")
    assert_finds(out, r"^croissant\.json: it is not a JSON object")
