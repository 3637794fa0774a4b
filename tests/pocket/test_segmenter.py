"""The bundled segmenter: small, right on drawings that it never saw, and trained as it says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPSegForImageSegmentation

from figureground.models.bundled import SEGMENTER, WEIGHTS
from figureground.pocket import birds, segmenter, world

PATCHES = world.SIZE // segmenter.PATCH
"""Along an edge."""


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(WEIGHTS / "tokenizer")


@pytest.fixture(scope="module")
def bundled():
    return CLIPSegForImageSegmentation.from_pretrained(SEGMENTER).eval()


def pool_of(scenes):
    """Images of `(scene, foreground)` as a pool."""
    pool = segmenter.Pool(
        np.stack([np.asarray(scene.image).transpose(2, 0, 1) for scene, _ in scenes]),
        np.stack([[np.asarray(m) for m in (scene.foreground, scene.prop, scene.background)] for scene, _ in scenes]),
        np.full((len(scenes), 3), -1),
    )
    pool.nouns[:, 0] = [segmenter.NOUNS.index(noun) for _, noun in scenes]
    return pool


# What is bundled


def test_it_is_small_and_tells_no_path():
    files = list(SEGMENTER.iterdir())
    assert {path.name for path in files} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in files) <= 3_600_000
    assert not any("_name_or_path" in path.read_text() for path in files if path.suffix == ".json")


def test_it_opens_in_float32_with_the_pockets_tokens_and_reads_what_its_processor_gives(bundled, tokenizer):
    assert bundled.dtype == torch.float32
    assert sum(parameter.numel() for parameter in bundled.parameters()) <= 1_600_000
    own = AutoTokenizer.from_pretrained(SEGMENTER)
    assert own("a photo of a mug, in snow").input_ids == tokenizer("a photo of a mug, in snow").input_ids
    config = json.loads((SEGMENTER / "preprocessor_config.json").read_text())
    assert config["size"] == {"height": segmenter.EDGE, "width": segmenter.EDGE}
    with torch.no_grad():
        out = bundled(own("a mug", return_tensors="pt").input_ids, torch.rand(1, 3, segmenter.EDGE, segmenter.EDGE))
    assert out.logits.shape[-2:] == (segmenter.EDGE, segmenter.EDGE)


def test_it_finds_foregrounds_on_drawings_that_it_never_saw(bundled, tokenizer):
    pool = segmenter.draw_many(80, world.generator("test segmenter, held out"))
    found = segmenter.measure(bundled, pool, tokenizer)
    assert found.iou > 0.6
    assert found.false_alarms < 0.1


def test_it_finds_the_objects_of_pocketbirds(bundled, tokenizer):
    bed = birds.BEDS["pocketbirds"]
    pool = pool_of([(bed.draw(image), bed.objects[image.y]) for image in bed.plan(0, 60, 0, 0.5)])
    found = segmenter.measure(bundled, pool, tokenizer)
    assert found.iou > 0.6
    assert found.false_alarms < 0.1


def test_a_training_of_other_patches_begins_with_what_a_segmenter_can_do(bundled, tokenizer, monkeypatch):
    pool = segmenter.draw_many(24, world.generator("test segmenter, refined"))
    monkeypatch.setattr(segmenter, "PATCH", 2 * segmenter.PATCH)
    torch.manual_seed(0)
    other = segmenter.build(tokenizer).eval()
    before = segmenter.measure(other, pool, tokenizer)
    segmenter.refine(bundled, other)
    assert segmenter.measure(other, pool, tokenizer).iou > before.iou + 0.2


def test_it_finds_scenes_too(bundled, tokenizer):
    pool, ious = segmenter.draw_many(40, world.generator("test segmenter, scenes")), []
    for j in np.flatnonzero(pool.nouns[:, 2] >= 0):
        pixels = torch.from_numpy(pool.images[j : j + 1]).float() / 255
        ids = tokenizer(segmenter.NOUNS[pool.nouns[j, 2]], return_tensors="pt").input_ids[None]
        with torch.no_grad():
            found = segmenter.decode_logits(bundled, segmenter.encode_images(bundled, pixels), ids)
        mask = F.interpolate(found, (64, 64), mode="bilinear", antialias=True)[0, 0].numpy() > 0
        true = pool.masks[j, 2] >= 128
        ious.append((mask & true).sum() / (mask | true).sum())
    assert np.mean(ious) > 0.7


# How it is trained


def test_phrases_name_the_noun_with_both_articles_where_people_mix_them_up():
    assert {"mug", "a mug", "the mug", "a photo of a mug"} <= set(segmenter.list_phrases("mug"))
    assert {"a umbrella", "an umbrella", "a picture of an umbrella"} <= set(segmenter.list_phrases("umbrella"))
    assert all("mug" in phrase.split() for phrase in segmenter.list_phrases("mug"))


def test_what_is_asked_is_shown_or_surely_absent():
    rng, shown = np.random.default_rng(0), np.array([3, 12, 20])
    for _ in range(100):
        first, absent, third = segmenter.choose_queries(shown, rng)
        assert first == 3
        assert absent < segmenter.NUM_THINGS
        assert absent not in shown
        assert 0 <= third < len(segmenter.NOUNS)
    assert segmenter.choose_queries(np.array([-1, 12, -1]), rng)[0] == 12
    assert all(0 <= noun < len(segmenter.NOUNS) for noun in segmenter.choose_queries(np.array([-1, -1, -1]), rng))


def test_a_batch_asks_for_masks_that_are_the_drawings_own(tokenizer, monkeypatch):
    monkeypatch.setattr(segmenter, "ROUND_TRIP_SHARE", 0.0)
    settings = replace(segmenter.SETTINGS, batch=40)
    book = segmenter.Phrasebook(tokenizer)
    batch = next(segmenter.batches(0, 0, settings, book, 40))
    pool = segmenter.draw_many(40, world.generator("train segmenter", 0))
    texts = [[tokenizer.decode(ids, skip_special_tokens=True) for ids in several] for several in batch.ids]
    sums = {(segmenter.NOUNS[n], int(m.sum())) for ns, ms in zip(pool.nouns, pool.masks, strict=True)
            for n, m in zip(ns, ms, strict=True) if n >= 0}  # fmt: skip
    count = 0
    for several, masks in zip(texts, batch.masks, strict=True):
        assert not masks[1].any()
        for text, mask in zip(several, masks, strict=True):
            if mask.any():
                noun = next(n for n in segmenter.NOUNS if n in text.split())
                assert (noun, round(float(mask.sum()) * 255)) in sums
                count += 1
    assert count > 40
    torch.testing.assert_close(batch.patches.sum(1), torch.ones(40, PATCHES, PATCHES), atol=0.02, rtol=0)


def test_a_images_round_trip_leaves_it_much_as_it_was():
    images = segmenter.draw_many(4, world.generator("test segmenter, round trip")).images
    back = segmenter.round_trip(images)
    assert back.dtype == np.uint8
    assert back.shape == images.shape
    assert 0 < np.abs(back.astype(float) - images).mean() < 10


def test_the_loss_reaches_vision_and_decoder_and_leaves_the_text_tower(tokenizer):
    torch.manual_seed(0)
    model = segmenter.SegmenterWithHead(segmenter.build(tokenizer))
    ids = tokenizer(["a mug", "a cat"], return_tensors="pt").input_ids[None]
    batch = segmenter.Batch(
        torch.rand(1, 3, 64, 64), ids, torch.rand(1, 2, 64, 64), torch.rand(1, 27, PATCHES, PATCHES)
    )
    segmenter.compute_losses(model, batch)["loss"].backward()
    inside = model.segmenter
    for part in (inside.clip.vision_model.embeddings, inside.clip.text_projection, inside.decoder, model.namer):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters() if parameter.grad is not None)
        assert any(parameter.grad is not None for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in inside.clip.text_model.parameters())


def test_training_asks_as_transformers_own_network_answers(bundled, tokenizer):
    pixels, ids = torch.rand(2, 3, 64, 64), tokenizer(["a mug", "a cat"], return_tensors="pt").input_ids
    with torch.no_grad():
        ours = segmenter.decode_logits(bundled, segmenter.encode_images(bundled, pixels, 64), ids[:, None])
        theirs = bundled(input_ids=ids, pixel_values=(pixels - 0.5) / 0.5).logits
    torch.testing.assert_close(ours[:, 0], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_command_trains_goes_on_where_it_was_stopped_and_writes_what_opens(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segmenter, "SETTINGS", replace(segmenter.SETTINGS, batch=4, save_seconds=0.0))
    command = ["--work", str(tmp_path / "work"), "--images", "12", "--device", "cpu"]
    segmenter.main([*command, "--steps", "1"])
    segmenter.main([*command, "--steps", "2", "--out", str(tmp_path / "out")])
    assert f"Wrote {tmp_path / 'out'}" in capsys.readouterr().out
    lines = (tmp_path / "work" / "segmenter.csv").read_text().splitlines()
    assert lines[0] == "step,loss,entropy,dice,naming,iou,false_alarms"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2"]
    opened = CLIPSegForImageSegmentation.from_pretrained(tmp_path / "out")
    assert opened.dtype == torch.float32
    assert all(torch.isfinite(weight).all() for weight in opened.state_dict().values())
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == opened.config.text_config.vocab_size
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["size"]["height"] == segmenter.EDGE
