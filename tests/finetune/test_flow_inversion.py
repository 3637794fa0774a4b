"""Words learned for SD 3 and FLUX: vectors for every text encoder, in files that load again, and nothing else."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_tokens import learn, tiny, vectors
from tiny_transformers import make_transformer

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.hashing import content_hash
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.denoiser import tokenize
from figureground.diffusion.render import Renderer, Sampling
from figureground.finetune.embedding import TokenTraining
from figureground.finetune.latents import encode
from figureground.finetune.tokens import load_tokens
from figureground.recipe.sample import Spec
from figureground.sources.images import read_image

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
KEYS = {"sd3": ["clip_g", "clip_l", "t5"], "sd3-alone": ["clip_g", "clip_l"], "flux": ["clip_l", "t5"]}
WORD = "a photo of a <mug>, in water"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def learned(flows, images, tmp_path_factory):
    """By checkpoint, a token of three vectors."""
    folder = tmp_path_factory.mktemp("learned")
    return {kind: learn(flows[kind], images, folder / kind, vectors=3, max_train_steps=2) for kind in KEYS}


def opened(folder):
    return open_checkpoint(str(folder), **CPU)


def draw(checkpoint, prompt):
    renderer = Renderer(checkpoint, Sampling(32, 2, 1.0, 3.5), lambda spec: (None, None))
    return np.asarray(next(renderer.render([Spec("a", "a", 0, 0, "", "", prompt, 0)])).image)


@pytest.mark.parametrize("kind", KEYS)
def test_nothing_but_the_tokens_rows_changes_in_all_text_encoders(flows, images, kind):
    checkpoint = opened(flows[kind])
    pipeline = checkpoint.text_to_image
    parts = {n: p.requires_grad_(False) for n, p in pipeline.components.items() if isinstance(p, torch.nn.Module)}
    before = {f"{n}.{k}": v.clone() for n, p in parts.items() for k, v in p.state_dict().items()}
    shown = [read_image(path).resize((32, 32)) for path in sorted(images.iterdir())]
    posteriors = encode(pipeline.vae, shown, flip=False)
    inverting = TokenTraining(
        checkpoint, tiny(flows[kind], vectors=2), "mug", "<mug>", posteriors, None, 32, torch.float32
    )
    starts = inverting.copy_vectors()
    assert len(starts) == len(KEYS[kind])
    for step in range(2):
        assert torch.isfinite(inverting.step(step)).all()
    for start, rows in zip(starts, inverting.copy_vectors(), strict=True):
        assert (rows != start).all()
        torch.testing.assert_close(rows.norm(dim=1), start.norm(dim=1))
    after = {f"{n}.{k}": v for n, p in parts.items() for k, v in p.state_dict().items()}
    for name, value in before.items():
        assert torch.equal(after[name][: len(value)], value), name


@pytest.mark.parametrize("kind", KEYS)
def test_a_word_of_several_vectors_is_loaded_whole_and_drawn(flows, learned, kind):
    assert sorted(vectors(learned[kind])) == KEYS[kind]
    plain, ours = opened(flows[kind]), opened(flows[kind])
    load_tokens(ours, [learned[kind]])
    family, pipeline = ours.family, ours.text_to_image
    assert not np.array_equal(draw(ours, WORD), draw(plain, WORD))
    assert np.array_equal(draw(ours, "a photo of a mug"), draw(plain, "a photo of a mug"))
    ids, masks = tokenize(ours.tokenizers, [WORD.replace("<mug>", "<mug> <mug>_1 <mug>_2")])
    with torch.no_grad():
        expected = family.embed(ours.text_encoders, ids, masks)
        encoded = family.encode_prompt(pipeline, WORD, "", 1.0, {})
    assert torch.equal(encoded["pooled_prompt_embeds"], expected.pooled)
    tokens, width = expected.hidden.shape[1:]  # behind them, a pipeline without a T5 has zeros
    assert torch.equal(encoded["prompt_embeds"][:, :tokens, :width], expected.hidden)
    for tokenizer in ours.tokenizers:  # all of its vectors stand in the prompt, once
        pieces = tokenizer.tokenize(family.expand_words(WORD, tokenizer))
        assert [word for word in pieces if "<mug>" in word] == ["<mug>", "<mug>_1", "<mug>_2"]
    short_counts = ours.count_tokens(WORD.replace("<mug>", "<mug>_1"))  # one vector
    assert ours.count_tokens(WORD) == [(count + 2, limit) for count, limit in short_counts]


def test_diffusers_own_loader_opens_a_word_for_flux_and_draws_the_same(flows, learned):
    ours, theirs, found = opened(flows["flux"]), opened(flows["flux"]), vectors(learned["flux"])
    load_tokens(ours, [learned["flux"]])
    pipeline = theirs.text_to_image
    pipeline.load_textual_inversion(found["clip_l"], "<mug>", pipeline.tokenizer, pipeline.text_encoder)
    pipeline.load_textual_inversion(found["t5"], "<mug>", pipeline.tokenizer_2, pipeline.text_encoder_2)
    assert np.array_equal(draw(ours, WORD), draw(theirs, WORD))


def test_a_t5_with_rows_to_spare_learns_its_vectors_too(images, tmp_path):
    """Its stack reads a table of its own, tied to the one that is resized when there are too few rows."""
    folder = make_transformer("flux", tmp_path)
    checkpoint = opened(folder)
    encoder = checkpoint.text_to_image.text_encoder_2
    encoder.resize_token_embeddings(len(checkpoint.text_to_image.tokenizer_2) + 8)
    encoder.save_pretrained(folder / "text_encoder_2")
    out = learn(folder, images, tmp_path / "mug", max_train_steps=2)
    cosines = json.loads((out / "inversion.json").read_text())["cosine_to_noun"]
    assert all(value < 0.9999 for value in cosines)


def test_a_word_goes_with_text_encoders_of_the_same_kinds(flows, learned, tmp_path):
    for kind, other in (("sd3", "flux"), ("sd3-alone", "sd3"), ("sd3", "sd3-alone")):
        with pytest.raises(FiguregroundError, match="text encoders and needs vectors for each"):
            load_tokens(opened(flows[kind]), [learned[other]])
    named = json.dumps({"token": "<mug>", "checkpoint": "big"})
    wide = {**vectors(learned["flux"]), "t5": torch.ones(1, 48)}
    save_file(wide, tmp_path / "wide", {"figureground": named})
    with pytest.raises(FiguregroundError, match="has vectors of 48 numbers, learned with big"):
        load_tokens(opened(flows["flux"]), [tmp_path / "wide"])


def test_a_checkpoint_made_for_inpainting_learns_from_what_is_around_the_mask(images, tmp_path):
    from PIL import Image

    painter, losses = make_transformer("sd3", tmp_path, inpaint=True), []
    for name, box in (("left", (0, 0, 20, 40)), ("right", (20, 0, 40, 40))):
        mask = Image.new("L", (40, 40))
        mask.paste(255, box)
        mask.save(tmp_path / f"{name}.png")
        masks = [tmp_path / f"{name}.png"] * len(list(images.iterdir()))
        out = learn(painter, images, tmp_path / name, masked=True, masks=masks, max_train_steps=1)
        losses.append(float(next(csv.DictReader((out / "curves.csv").open()))["denoising"]))
    assert losses[0] != losses[1]


def test_the_same_seed_gives_the_same_bytes_in_bfloat16_too(flows, images, tmp_path):
    changes = {"dtype": "bfloat16", "gradient_checkpointing": True, "flip": True, "max_train_steps": 2}
    made = [learn(flows["sd3"], images, tmp_path / f"{i}", **changes) for i in range(2)]
    one, other = (content_hash(out / "learned_embeds.safetensors") for out in made)
    assert one == other
    assert all(torch.isfinite(rows).all() and rows.dtype == torch.float32 for rows in vectors(made[0]).values())


def test_what_does_not_suit_flow_matching_is_refused_by_name(flows, images, tmp_path):
    with pytest.raises(RecipeError) as refused:
        learn(flows["flux"], images, tmp_path / "mug", min_snr_gamma=5.0)
    assert refused.value.field == "min_snr_gamma"
    fill = shutil.copytree(make_transformer("flux-fill", tmp_path), tmp_path / "fill")
    with pytest.raises(FiguregroundError, match=r"flux-fill, which can't be trained: .* sd3, flux"):
        learn(fill, images, tmp_path / "mug")
