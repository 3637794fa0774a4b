"""A build: resumed, killed, repeated, refused; read back by every library that it is meant for."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from datasets import ClassLabel, load_dataset
from forked_commands import CONTEXT
from PIL import Image
from tiny_checkpoints import make_checkpoint, set_weights

from figureground import D3S
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.resources import find_resource
from figureground.methods.forecast import describe
from figureground.running.directory import claim_directory
from figureground.running.runner import Place
from figureground.running.settling import begin
from figureground.shards.empty_splits import NothingLeft
from figureground.sources.guide import read_square

TINY = {
    "classes": ["bird", "car", "mug"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 4, "validation": 1},
    "shard_size": 5, "num_inference_steps": 3, "batch_size": 4, "threads": 1, "device": "cpu", "size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    """An undisturbed build, with the guides kept."""
    return D3S("pocket", checkpoint=checkpoint, keep=["guide", "mask"], **TINY).build(
        tmp_path_factory.mktemp("built") / "d3s"
    )


def hashes(directory: Path) -> dict[str, str]:
    files = [*directory.glob("data/*"), *directory.glob("webdataset/*"), *directory.glob("_figureground/rejects/*")]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def tar_samples(directory: Path, split: str):
    tars = sorted(str(p) for p in (directory / "webdataset").glob(f"{split}-*.tar"))
    data = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
    return list(data.to_tuple("jpg", "foreground.cls", "background.cls", "prompt.txt", "json", "__key__"))


def test_parquet_tar_and_load_dataset_agree_sample_by_sample(built):
    dataset = load_dataset(str(built))
    streamed = load_dataset(str(built), streaming=True)
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 24, "validation": 6}
    assert dataset["train"].features["foreground"] == ClassLabel(names=["bird", "car", "mug"])
    assert dataset["train"].features["background"] == ClassLabel(names=["grass", "snow"])
    for split in dataset:
        for row, again, sample in zip(dataset[split], streamed[split], tar_samples(built, split), strict=True):
            image, foreground, background, prompt, provenance, key = sample
            assert (row["key"], row["foreground"], row["background"], row["prompt"]) == (
                key,
                foreground,
                background,
                prompt,
            )
            assert (again["key"], again["foreground"]) == (key, foreground)
            assert np.array_equal(np.asarray(row["image"]), np.asarray(image))
            assert np.array_equal(np.asarray(row["image"]), np.asarray(again["image"]))
            assert json.loads(row["provenance"]) == provenance
            assert key == f"{split}-{foreground:04d}-{background:02d}-{key[-5:]}"


def test_guide_and_mask_are_there_when_asked_for(built):
    row = load_dataset(str(built), split="train")[0]
    assert row["guide"].size == row["mask"].size == (32, 32)
    assert np.asarray(row["mask"]).max() == 255


def test_provenance_says_how_and_not_where(built, checkpoint):
    everything = " ".join(load_dataset(str(built), split="train")["provenance"])
    one = json.loads(load_dataset(str(built), split="train")[0]["provenance"])
    assert {
        "key", "split", "foreground_name", "background_name", "prompt", "seed", "guide", "checkpoint", "revision",
        "scheduler", "steps", "strength", "guidance_scale", "versions",
    } <= set(one)  # fmt: skip
    assert set(one["guide"]) == {"kind", "cutout", "template", "box", "flip"}
    assert {"figureground", "torch", "diffusers"} <= set(one["versions"])
    assert os.uname().nodename not in everything
    assert str(Path(checkpoint).parent) not in everything
    assert '"/' not in everything


def test_the_guide_can_be_drawn_again_from_provenance(built, checkpoint):
    row = load_dataset(str(built), split="validation")[0]
    builder = D3S("pocket", checkpoint=checkpoint, **TINY)
    drawn = builder.draw_guide(json.loads(row["provenance"]))
    assert np.array_equal(np.asarray(drawn), np.asarray(row["guide"]))


def test_panels_show_cutout_scene_and_mask_and_name_changed_files(built, checkpoint, tmp_path):
    row = load_dataset(str(built), split="train")[0]
    provenance = json.loads(row["provenance"])
    banks = {}
    for name, folder in (("cutouts", "cutouts"), ("scenes", "backgrounds")):
        banks[name] = str(tmp_path / name)
        shutil.copytree(find_resource(f"templates/pocket/{folder}"), banks[name])
    builder = D3S("pocket", checkpoint=checkpoint, keep=["guide", "mask"], **TINY, **banks)
    (panel,) = builder.panels(built, provenance)
    assert panel.title == "Cut-out and scene"
    drawn, guide = {picture.title: picture.image for picture in panel.pictures}, np.asarray(row["guide"])
    cutout, scene = (Path(provenance["guide"][name].split("@")[0]) for name in ("cutout", "template"))
    background = np.asarray(read_square(Path(banks["scenes"]) / scene, 32))
    mask = np.asarray(row["mask"].convert("L"))
    assert np.array_equal(np.asarray(drawn["mask"]), mask)
    assert np.array_equal(np.asarray(drawn["scene"]), background)
    assert np.array_equal(guide[mask == 0], background[mask == 0])
    assert drawn["cut-out"].mode == "RGB"
    facts = dict(panel.facts)
    left, top, right, bottom = provenance["guide"]["box"]
    assert facts["box"].startswith(f"{right - left} × {bottom - top} pixels at ({left}, {top})")
    assert facts["cut-out"] == str(cutout)
    Image.new("RGBA", (8, 8), "red").save(Path(banks["cutouts"]) / cutout)
    (panel,) = builder.panels(built, provenance)
    assert [picture.title for picture in panel.pictures] == ["scene"]
    (Path(banks["scenes"]) / scene).unlink()
    (panel,) = builder.panels(built, provenance)
    assert not panel.pictures
    assert str(scene) in panel.facts[-2][1] + panel.facts[-1][1]
    assert str(tmp_path) not in str(panel)
    assert builder.panels(built, {**provenance, "guide": None}) == builder.overview(built) == []


def test_the_same_recipe_gives_the_same_bytes_and_the_saved_recipe_rebuilds_them(built, tmp_path):
    from figureground.recipe.document import read_recipe

    fields = read_recipe(built / "_figureground" / "recipe.json")
    again = D3S.from_recipe(fields).build(tmp_path / "again")
    assert hashes(again) == hashes(built)
    assert len(hashes(again)) == 14


def test_two_workers_give_the_bytes_of_one(built, checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, keep=["guide", "mask"], workers=2, **TINY).build(tmp_path / "two")
    assert hashes(out) == hashes(built)


def test_what_all_workers_meet_is_reported_once_and_ends_the_build(checkpoint, tmp_path, capfd):
    with pytest.raises(FiguregroundError, match="device: 'cuda:99'") as failed:
        D3S("pocket", checkpoint=checkpoint, **{**TINY, "device": "cuda:99", "workers": 2}).build(tmp_path / "d3s")
    assert str(failed.value).count("cuda:99") == 1
    assert "choose_device" in str(failed.value.__cause__)  # where it arose, for --debug
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "d3s").exists()


def test_a_negative_prompt_of_which_the_end_would_not_be_read_is_refused(checkpoint, tmp_path):
    settings = {**TINY, "guidance_scale": 3.0, "negative_prompt": "very " * 80 + "dark"}
    with pytest.raises(RecipeError, match=r"^negative_prompt: .* tokens, and the text encoder reads \d+"):
        D3S("pocket", checkpoint=checkpoint, **settings).build(tmp_path / "d3s")
    assert not (tmp_path / "d3s").exists()


def test_a_finished_build_is_left_as_it_is(built, checkpoint):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in built.rglob("*") if p.is_file()}
    D3S("pocket", checkpoint=checkpoint, keep=["guide", "mask"], **TINY).build(built)
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in built.rglob("*") if p.is_file()}
    assert {p.name for p in before if before[p] != after.get(p)} <= {"index.json"}
    assert set(before) == set(after)


def test_another_recipe_in_the_same_directory_is_refused_naming_the_fields(built, checkpoint):
    with pytest.raises(FiguregroundError, match=r"another recipe.*\n.*strength: 0\.6, now 0\.5") as refused:
        D3S("pocket", checkpoint=checkpoint, keep=["guide", "mask"], strength=0.5, **TINY).build(built)
    assert "num_inference_steps" not in str(refused.value)


def test_a_directory_with_something_else_is_refused_and_untouched(checkpoint, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else \(thesis\.txt\)"):
        D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_numerics_are_refused_unless_allowed_and_then_reported(checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s")
    next((out / "_figureground" / "shards").glob("train-00001*.json")).unlink()
    other = {**TINY, "batch_size": 2}
    with pytest.raises(FiguregroundError, match="batch_size: 4, now 2"):
        D3S("pocket", checkpoint=checkpoint, **other).build(out)
    D3S("pocket", checkpoint=checkpoint, **{**other, "allow_mixed_numerics": True}).build(out)
    assert json.loads((out / "_figureground" / "numerics.json").read_text())["mixed"][0]["batch_size"] == 2


def test_before_the_first_shard_numerics_may_still_change(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    first = D3S("pocket", checkpoint=checkpoint, **TINY)
    with claim_directory(out, first.recipe(out / "_figureground"), lambda: ""):
        begin(first, out, Place())
    assert json.loads((out / "_figureground" / "numerics.json").read_text())["batch_size"] == 4
    D3S("pocket", checkpoint=checkpoint, **{**TINY, "batch_size": 2}).build(out)
    assert json.loads((out / "_figureground" / "numerics.json").read_text())["batch_size"] == 2


def test_going_on_in_other_formats_is_refused(built, checkpoint):
    fields = {**TINY, "keep": ["guide", "mask"], "formats": ["parquet"]}
    with pytest.raises(FiguregroundError, match=r"begun as parquet and webdataset .*not as parquet"):
        D3S("pocket", checkpoint=checkpoint, **fields).build(built)


def test_a_recipe_whose_sources_changed_opens_nothing(built, checkpoint, tmp_path):
    from figureground.methods.registry import open_dataset

    assert (
        open_dataset(built).identity()
        == D3S("pocket", checkpoint=checkpoint, keep=["guide", "mask"], **TINY).identity()
    )
    saved = json.loads((built / "_figureground" / "recipe.json").read_text())
    other = tmp_path / "_figureground"
    other.mkdir()
    saved["identity"]["checkpoint"] = checkpoint
    (other / "recipe.json").write_text(json.dumps({**saved, "sha256": "another"}))
    assert open_dataset(tmp_path) is None


def test_the_card_shows_every_setting_and_no_path(built, checkpoint):
    card = (built / "README.md").read_text()
    for setting in (
        "| strength | `0.6` |",
        r"| num\_inference\_steps | `3` |",
        "| cutouts | `pocket` |",
        "| checkpoint | `sd1` |",
    ):
        assert setting in card
    assert str(Path(checkpoint).parent.parent) not in card
    assert "../" not in card
    assert "identity" not in card


def test_batch_size_and_threads_are_taken_over_on_resume(checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s")
    before = hashes(out)
    marker = next((out / "_figureground" / "shards").glob("train-00001*.json"))
    marker.unlink()
    D3S("pocket", checkpoint=checkpoint, **{**TINY, "batch_size": None, "threads": None, "device": "auto"}).build(out)
    assert hashes(out) == before
    assert marker.exists()


def test_rejects_are_counted_and_kept_apart(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    set_weights(folder, "vae", 0.0)
    out = tmp_path / "d3s"
    with pytest.raises(NothingLeft, match="30 flat"):
        D3S("pocket", checkpoint=str(folder), **TINY).build(out)
    assert not (out / "_figureground" / "index.json").exists()
    lines = [
        line for path in (out / "_figureground" / "rejects").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    assert {json.loads(line)["reason"] for line in lines} == {"flat"}
    assert len(lines) == 30


@pytest.mark.parametrize("stage", ["sources", "prompts"])
def test_a_stage_whose_marker_is_damaged_is_named_and_done_again_when_it_is_gone(built, checkpoint, tmp_path, stage):
    out = shutil.copytree(built, tmp_path / "out")
    for path in [*out.glob("*/train-00000-*"), *out.glob("_figureground/*/train-00000*")]:
        path.unlink()
    folder = out / "_figureground" / "stages" / stage
    (folder / "done.json").write_bytes((folder / "done.json").read_bytes()[:20])
    builder = D3S("pocket", checkpoint=checkpoint, keep=["guide", "mask"], **TINY)
    with pytest.raises(FiguregroundError, match=rf"{stage}/done.json is damaged .*Remove {folder}"):
        builder.build(out)
    shutil.rmtree(folder)
    assert hashes(builder.build(out)) == hashes(built)


def test_a_size_that_is_no_multiple_of_the_factor_is_refused(checkpoint, tmp_path):
    with pytest.raises(FiguregroundError, match=r"size: 30 is not a multiple of 8, .* Give 32\."):
        D3S("pocket", checkpoint=checkpoint, **{**TINY, "size": 30}).build(tmp_path / "d3s")
    assert not (tmp_path / "d3s").exists()


def test_a_prompt_too_long_for_the_text_encoder_loses_definition_and_keeps_background(checkpoint, tmp_path):
    classes = {"bird": " ".join(["an animal with wings"] * 30)}
    out = D3S("pocket", checkpoint=checkpoint, **{**TINY, "classes": classes, "per_cell": {"train": 2}}).build(
        tmp_path / "d3s"
    )
    prompts = load_dataset(str(out), split="train")["prompt"]
    assert {p.rsplit(", ", 1)[1] for p in prompts} == {"on grass", "in snow"}
    assert all(60 < len(p.replace(",", " ,").split()) <= 75 for p in prompts)


def test_the_datasets_way_gives_the_same_images(checkpoint, tmp_path, built):
    builder = D3S("pocket", cache_dir=str(tmp_path), checkpoint=checkpoint, keep=["guide", "mask"], **TINY)
    builder.download_and_prepare()
    ours, theirs = load_dataset(str(built), split="train"), builder.as_dataset("train")
    assert theirs.features == ours.features
    for a, b in zip(ours, theirs, strict=True):
        assert a["key"] == b["key"]
        assert np.array_equal(np.asarray(a["image"]), np.asarray(b["image"]))


def test_images_in_the_format_asked_for(checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, image_format="png", limit=2, **TINY).build(tmp_path / "d3s")
    rows = load_dataset(str(out), split="train").cast_column("image", __import__("datasets").Image(decode=False))
    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).format == "PNG"


def test_the_forecast_counts_what_is_built(checkpoint):
    builder = D3S("pocket", checkpoint=checkpoint, **TINY)
    text = describe(builder, images_per_second=10)
    assert "30 images of 32 px in 7 shards, 3 foregrounds × 2 backgrounds" in text
    assert f"{30 * int(3 * 0.6) * 2:,} denoiser evaluations" in text
    assert "Cramér's V 0.000" in text
    pndm = describe(D3S("pocket", checkpoint=checkpoint, **{**TINY, "num_inference_steps": 5, "scheduler": "pndm"}))
    assert f"{30 * (3 + 1) * 2:,} denoiser evaluations" in pndm  # it takes its second step twice
    table = {"correlation": 0.5, "pairing": {"bird": "grass", "car": "grass", "mug": "snow"}}
    table = {"train": table, "validation": "uniform"}
    assert "75.0% in paired cells" in describe(D3S("pocket", checkpoint=checkpoint, table=table, **TINY))


def _build(checkpoint: str, out: Path) -> None:
    D3S("pocket", checkpoint=checkpoint, keep=["guide", "mask"], **TINY).build(out, show_progress=False)


@pytest.mark.slow
def test_a_build_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(built, checkpoint, tmp_path):
    out, rng, kills, shortest = tmp_path / "killed", random.Random(0), 0, 0.3
    for attempt in range(200):
        process = CONTEXT.Process(target=_build, args=(checkpoint, out))
        process.start()
        process.join(shortest + rng.random() * (1.0 if kills < 12 else 600))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        elif kills >= 10:
            assert process.exitcode == 0, attempt
            break
        else:  # finished too soon: take one shard away, as if its marker had never been written
            assert process.exitcode == 0, attempt
            next((out / "_figureground" / "shards").glob("*.json")).unlink()
            shortest *= 0.8
    assert kills >= 10
    assert hashes(out) == hashes(built)
    assert not list(out.rglob(".*tmp*"))
    assert load_dataset(str(out), split="train").num_rows == 24


def test_a_worker_that_waits_does_not_repeat_what_another_holds(built, checkpoint, tmp_path):
    both = [CONTEXT.Process(target=_build, args=(checkpoint, tmp_path / "both")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    deadline = time.monotonic() + 5
    while not (tmp_path / "both" / "README.md").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert hashes(tmp_path / "both") == hashes(built)
