"""The bundled matcher: small, right by prompts on drawings that it never saw, and trained as it says."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, CLIPModel, CLIPSegForImageSegmentation

from figureground.models.bundled import MATCHER, SEGMENTER, WEIGHTS
from figureground.pocket import captions, examples, matcher, questions, world

FOREGROUND, BACKGROUND, PROP = range(3)
PATCHES = world.SIZE // examples.PATCH
"""Along an edge."""


@pytest.fixture(scope="module")
def texts():
    return questions.Texts(AutoTokenizer.from_pretrained(WEIGHTS / "tokenizer"))


@pytest.fixture(scope="module")
def bundled():
    return CLIPModel.from_pretrained(MATCHER).eval()


@pytest.fixture(scope="module")
def drawings():
    """Two drawings of each cell, every other one with a prop: their pixels, and the names of their content."""
    rng = world.generator("test matcher, held out")
    cells = [(f, b) for f in world.FOREGROUNDS for b in world.BACKGROUNDS] * 2
    names = [(f, b, str(rng.choice(world.PROPS)) if i % 2 else None) for i, (f, b) in enumerate(cells)]
    return np.stack([pixels(world.render(*each, rng).image) for each in names]), names


@pytest.fixture(scope="module")
def drawer():
    return examples.Drawer(world.generator("test matcher, drawer"))


def pixels(image):
    return np.asarray(image).transpose(2, 0, 1)


def top(model, images, embeddings):
    return matcher.compute_probabilities(model, images, embeddings).argmax(1).tolist()


# What is bundled


def test_it_is_small_and_tells_no_path():
    files = list(MATCHER.iterdir())
    assert {path.name for path in files} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert not any("_name_or_path" in path.read_text() for path in files if path.suffix == ".json")


@pytest.mark.parametrize("label", ["foreground", "background"])
def test_prompts_tell_both_labels_of_drawings_that_it_never_saw(label, bundled, texts, drawings):
    images, names = drawings
    group = (FOREGROUND, BACKGROUND)[label == "background"]
    predicted = top(bundled, images, matcher.embed_candidates(bundled, texts, group))
    right = [questions.GROUPS[group][i] == own[group] for i, own in zip(predicted, names, strict=True)]
    assert np.mean(right) >= 0.98


def test_whole_captions_are_told_apart_by_transformers_own_processor_and_model_at_another_size(bundled):
    processor = AutoProcessor.from_pretrained(MATCHER)
    rng = world.generator("test matcher, captions")
    cells = [(f, b) for f in world.FOREGROUNDS for b in world.BACKGROUNDS]
    prompts = [f"a photo of a {f}, {captions.DEFINITIONS[f]}, {captions.PHRASES[b]}" for f, b in cells]
    images = [world.render(f, b, None, rng, size=160).image for f, b in cells]
    with torch.no_grad():
        out = bundled(**processor(text=prompts, images=images, return_tensors="pt", padding=True))
    right = out.logits_per_image.argmax(1) == torch.arange(len(cells))
    assert right.float().mean() >= 0.95


def test_a_scene_without_an_object_is_recognised_by_the_prompt_for_none_and_by_no_class_standing_out(bundled, texts):
    rng = world.generator("test matcher, nothing")
    props = [None, *world.PROPS]
    images = np.stack([
        pixels(world.render(None, world.BACKGROUNDS[i % 10], props[i % len(props)], rng).image) for i in range(70)
    ])  # fmt: skip
    embeddings = matcher.embed_candidates(bundled, texts, FOREGROUND)
    assert Counter(top(bundled, images, embeddings))[len(world.FOREGROUNDS)] >= 58
    among_classes = matcher.compute_probabilities(bundled, images, embeddings[:-1])
    assert among_classes.amax(1).median() < 0.5


def test_a_backdrop_is_recognised_by_the_prompt_for_no_background(bundled, texts):
    rng = world.generator("test matcher, plain")
    images = np.stack([pixels(world.render(f, None, None, rng).image) for f in world.FOREGROUNDS * 3])
    predicted = top(bundled, images, matcher.embed_candidates(bundled, texts, BACKGROUND))
    assert predicted.count(len(world.BACKGROUNDS)) >= 29


def test_it_opens_in_float32_and_embeds_as_transformers_does(bundled, texts):
    assert bundled.dtype == torch.float32
    image = world.render("mug", "snow", None, world.generator("test matcher, opens")).image
    processed = AutoProcessor.from_pretrained(MATCHER)(text=["a mug"], images=[image], return_tensors="pt")
    with torch.no_grad():
        theirs = bundled(**processed)
        ours, _ = matcher.embed_images(bundled, torch.from_numpy(pixels(image)[None].copy()).float() / 255)
        text_embeds = matcher.embed_texts(bundled, texts.tokenize(["a mug"]))
    torch.testing.assert_close(ours, theirs.image_embeds, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(text_embeds, theirs.text_embeds, rtol=1e-4, atol=1e-4)


def test_views_are_moved_by_half_a_patch_and_half_of_them_mirrored():
    x = torch.arange(world.SIZE).float().expand(1, 3, world.SIZE, world.SIZE)
    made = matcher.make_views(x)
    assert all(view.shape == x.shape for view in made)
    assert sorted(view[0, 0, 32, 32].item() for view in made) == [27, 28, 31, 32, 35, 36]


# How it is trained


def test_every_prompt_names_its_label_alone():
    for group, known in enumerate(questions.GROUPS):
        for label in known[:-1]:
            for prompt in questions.list_prompts(group, label):
                assert questions.is_true_of(prompt, [label])
                assert not questions.is_true_of(prompt, [])
        assert questions.list_prompts(group, known[-1])
        words = " ".join(questions.list_prompts(group, known[-1])).split()
        assert not {*world.FOREGROUNDS, *world.BACKGROUNDS, *world.PROPS}.intersection(words)
    assert "a photo of a umbrella" in questions.list_prompts(FOREGROUND, "umbrella")
    assert "a photo, on a road" in questions.list_prompts(BACKGROUND, "road")


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("a photo of a cat, an animal with whiskers, in snow", True),
        ("an animal with a kite in snow", True),
        ("a photo, in snow", True),
        ("a picture of a kite", True),
        ("a photo of a car, in snow", False),
        ("a vehicle, in snow", False),
        ("a cat with a ball", False),
        ("a cat, at night", False),
    ],
)
def test_a_caption_holds_for_an_image_that_shows_all_that_it_names(caption, true):
    assert questions.is_true_of(caption, ["cat", "snow", "kite"]) is true


def test_labels_are_positions_with_the_last_for_none():
    assert questions.to_labels(["bird", None, "kite"]) == [0, 10, 5]
    for names in (["umbrella", "cave", None], [None, "grass", "flower"], [None, None, None]):
        assert questions.to_names(questions.to_labels(names)) == names


def test_some_texts_get_a_stray_word_and_all_keep_their_ends(texts, monkeypatch):
    own = texts.tokenize(["a mug"])[0].tolist()
    monkeypatch.setattr(questions, "STRAY", 1.0)
    (row,) = texts.tokenize(["a mug"], np.random.default_rng(0)).tolist()
    assert len(row) == len(own) + 1
    assert (row[0], row[-1]) == (own[0], own[-1])
    assert set(own) < set(row)


def test_a_batch_says_what_each_image_shows(texts):
    batch = next(examples.batches(0, 0, texts, 24, 24))
    assert batch.pixels.shape == (24, 3, world.SIZE, world.SIZE)
    assert 0 <= batch.pixels.min() <= batch.pixels.max() <= 1
    torch.testing.assert_close(batch.patches.sum(1), torch.ones(24, PATCHES, PATCHES), atol=0.03, rtol=0)
    shown = batch.patches.flatten(2).sum(2)[:, : len(world.FOREGROUNDS)] > 0
    for own, has in zip(batch.labels[:, FOREGROUND], shown, strict=True):
        assert has.nonzero().flatten().tolist() == ([] if own == len(world.FOREGROUNDS) else [own])
    assert batch.matches.diagonal().all()
    same = (batch.captions[:, None] == batch.captions).all(2)
    assert batch.matches[same].all()
    assert len(batch.candidates) == sum(map(len, questions.GROUPS))


def test_the_passage_through_the_autoencoder_leaves_what_an_image_shows(drawer, monkeypatch):
    monkeypatch.setattr(examples, "LATENT_NOISE", 0.0)
    images = np.stack([pixels(world.render("cat", "sand", None, world.generator("pass", i)).image) for i in range(3)])
    back = drawer._round_trip(images)
    assert back.dtype == np.uint8
    assert 0 < np.abs(back.astype(float) - images).mean() < 10


def test_a_free_layout_leaves_most_of_the_object_in_view():
    rng = world.generator("test matcher, layouts")
    for _ in range(200):
        (x, y), radius = examples._lay_out(rng).foreground
        assert min(x, y) - radius >= -0.4 * radius - 1e-9
        assert max(x, y) + radius <= 1 + 0.4 * radius + 1e-9


def test_training_begins_with_what_the_segmenter_sees(texts):
    found = CLIPSegForImageSegmentation.from_pretrained(SEGMENTER)
    model = matcher.build(AutoTokenizer.from_pretrained(WEIGHTS / "tokenizer"))
    matcher.initialize_from_segmenter(found, model)
    x = torch.rand(1, 3, 1, 1).expand(-1, -1, world.SIZE, world.SIZE)
    small, large = (each.embeddings.patch_embedding(x) for each in (found.clip.vision_model, model.vision_model))
    torch.testing.assert_close(large, small[..., ::2, ::2], rtol=1e-4, atol=1e-4)
    own, start = model.vision_model.state_dict(), found.clip.vision_model.state_dict()
    assert torch.equal(own["encoder.layers.2.mlp.fc1.weight"], start["encoder.layers.2.mlp.fc1.weight"])


def test_the_loss_reaches_both_towers_and_takes_every_caption_that_holds_as_a_match(texts):
    batch = next(examples.batches(1, 0, texts, 8, 8))
    torch.manual_seed(0)
    model = matcher.MatcherWithHead(matcher.build(AutoTokenizer.from_pretrained(WEIGHTS / "tokenizer"))).eval()
    matcher.compute_losses(model, batch)["loss"].backward()
    inside = model.matcher
    for part in (inside.vision_model.embeddings, inside.text_model, inside.text_projection, inside.visual_projection):
        assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in part.parameters())

    # The first two images have the same caption; it holds for a third, and for nothing else.
    picks = [0, 0, *range(2, 8)]
    matches = torch.eye(8, dtype=torch.bool)
    matches[:2, :2] = matches[2, :2] = True
    with torch.no_grad():
        repeated = batch._replace(captions=batch.captions[picks], matches=matches)
        found = matcher.compute_losses(model, repeated)["matching"]
        images, _ = matcher.embed_images(inside, batch.pixels)
        logits = images @ matcher.embed_texts(inside, batch.captions[picks]).T * inside.logit_scale.exp()
    of_images = [logits[i].log_softmax(0)[matches[i]].mean() for i in range(8)]
    of_captions = [logits[:, j].log_softmax(0)[matches[:, j]].mean() for j in range(8)]
    expected = -(torch.stack(of_images).mean() + torch.stack(of_captions).mean()) / 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_command_trains_goes_on_where_it_was_stopped_and_writes_what_opens(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(matcher, "SETTINGS", replace(matcher.SETTINGS, batch=4, save_seconds=0.0))
    monkeypatch.setattr(matcher, "HELD_OUT", 8)
    command = ["--work", str(tmp_path / "work"), "--images", "12", "--device", "cpu"]
    matcher.main([*command, "--steps", "1"])
    matcher.main([*command, "--steps", "2", "--out", str(tmp_path / "out")])
    assert f"Wrote {tmp_path / 'out'}" in capsys.readouterr().out
    lines = (tmp_path / "work" / "matcher.csv").read_text().splitlines()
    assert lines[0] == "step,loss,matching,question,even,naming,foreground,background,prop"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2"]
    opened = CLIPModel.from_pretrained(tmp_path / "out")
    assert opened.dtype == torch.float32
    assert all(torch.isfinite(weight).all() for weight in opened.state_dict().values())
    image = Image.new("RGBA", (100, 80), "red")
    processed = AutoProcessor.from_pretrained(tmp_path / "out")(text=["a mug"], images=[image], return_tensors="pt")
    assert processed["pixel_values"].shape == (1, 3, world.SIZE, world.SIZE)
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
