"""Learned tokens in files: who can load them, what is drawn with them, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import KINDS
from tiny_tokens import learn, vectors

from figureground.core.errors import FiguregroundError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.render import Renderer, Sampling
from figureground.finetune.tokens import load_tokens
from figureground.recipe.sample import Spec

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}

pytestmark = pytest.mark.usefixtures("one_thread")


def draw(checkpoint, prompt):
    """An image by the path that datasets are drawn by, as an array."""
    renderer = Renderer(checkpoint, Sampling(32, 2, 1.0, 4.0), lambda spec: (None, None))
    return np.asarray(next(renderer.render([Spec("a", "a", 0, 0, "", "", prompt, 0)])).image)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_own_loader_opens_it_and_draws_what_load_tokens_draws(checkpoints, images, tmp_path, kind):
    out = learn(checkpoints[kind], images, tmp_path / "c", vectors=3)
    plain, ours, theirs = (open_checkpoint(str(checkpoints[kind]), **CPU) for _ in range(3))
    load_tokens(ours, [out])
    if kind == "sdxl":
        found, pipeline = vectors(out), theirs.text_to_image
        assert sorted(found) == ["clip_g", "clip_l"]
        pipeline.load_textual_inversion(found["clip_l"], "<mug>", pipeline.tokenizer, pipeline.text_encoder)
        pipeline.load_textual_inversion(found["clip_g"], "<mug>", pipeline.tokenizer_2, pipeline.text_encoder_2)
    else:
        theirs.text_to_image.load_textual_inversion(out)
    prompt = "a photo of a <mug>, in water"
    drawn = draw(ours, prompt)
    assert np.array_equal(drawn, draw(theirs, prompt))
    assert not np.array_equal(drawn, draw(plain, prompt))
    assert ours.image_to_image.tokenizer is ours.text_to_image.tokenizer
    for tokenizer in ours.tokenizers:  # all of its vectors stand in the prompt
        pieces = tokenizer.tokenize(ours.image_to_image.maybe_convert_prompt(prompt, tokenizer))
        assert pieces[4:8] == ["<mug>", "<mug>_1", "<mug>_2", ",</w>"]
    plain_counts = plain.count_tokens(prompt.replace("<mug>", "mug"))  # which is one piece
    assert ours.count_tokens(prompt) == [(count + 2, limit) for count, limit in plain_counts]
    assert np.array_equal(draw(ours, "a photo of a mug"), draw(plain, "a photo of a mug"))


def test_a_token_is_loaded_once_however_often_it_is_given(sd1, mug, tmp_path):
    checkpoint = open_checkpoint(str(sd1), **CPU)
    load_tokens(checkpoint, [mug, mug / "learned_embeds.safetensors"])
    size = len(checkpoint.tokenizers[0])
    weights = checkpoint.text_to_image.text_encoder.get_input_embeddings().weight.clone()
    load_tokens(checkpoint, [shutil.copytree(mug, tmp_path / "copy")])
    assert len(checkpoint.tokenizers[0]) == size
    assert torch.equal(checkpoint.text_to_image.text_encoder.get_input_embeddings().weight, weights)


def test_several_tokens_go_together(sd1, images, mug, tmp_path):
    bird = learn(sd1, images, tmp_path / "bird", noun="bird", token="<bird>", vectors=2)
    checkpoint = open_checkpoint(str(sd1), **CPU)
    load_tokens(checkpoint, [mug, bird])
    table, tokenizer = checkpoint.text_to_image.text_encoder.get_input_embeddings().weight, checkpoint.tokenizers[0]
    for out, names in ((mug, ["<mug>"]), (bird, ["<bird>", "<bird>_1"])):
        assert torch.equal(table[tokenizer.convert_tokens_to_ids(names)], vectors(out)[names[0]])


def test_texts_end_at_their_end_in_encoders_with_the_old_number_of_it(checkpoints, images, tmp_path):
    out = learn(checkpoints["sdxl"], images, tmp_path / "c")
    pooled = []
    for number in (2, None):
        checkpoint = open_checkpoint(str(checkpoints["sdxl"]), **CPU)
        for module in checkpoint.text_to_image.text_encoder_2.modules():
            if hasattr(module, "eos_token_id") and number:
                module.eos_token_id = number
        load_tokens(checkpoint, [out])
        pooled.append(checkpoint.text_to_image.encode_prompt("a <mug>, in water", do_classifier_free_guidance=False)[2])
    assert torch.equal(*pooled)


def test_a_file_that_can_not_be_loaded_says_why_and_nothing_is_loaded(checkpoints, sd1, images, mug, tmp_path):
    def refuses(message, *files, kind="sd1"):
        checkpoint = open_checkpoint(str(checkpoints[kind]), **CPU)
        size = len(checkpoint.tokenizers[0])
        with pytest.raises(FiguregroundError, match=message):
            load_tokens(checkpoint, files)
        assert len(checkpoint.tokenizers[0]) == size

    def made(name, rows, **metadata):
        save_file(rows, tmp_path / name, metadata)
        return tmp_path / name

    refuses(r"no such file", mug, tmp_path / "nowhere.safetensors")
    refuses(r"holds <mug>, learned with sd1; sdxl has 2 text encoders", mug, kind="sdxl")
    facts = json.dumps({"token": "<big>", "checkpoint": "big"})
    big = made("big", {"<big>": torch.ones(1, 48)}, figureground=facts)
    refuses(r"<big> has vectors of 48 numbers, learned with big, and sd1 needs 32", mug, big)
    refuses(r"'mug' is a word that the checkpoint's tokenizer knows", made("word", {"mug": torch.ones(32)}))
    refuses(r"hold NaN or infinity", made("nan", {"<nan>": torch.full((1, 32), float("nan"))}))
    refuses(r"other vectors", mug, made("twin", {"<mug>": torch.ones(1, 32)}))
    (tmp_path / "cut").write_bytes((mug / "learned_embeds.safetensors").read_bytes()[:-9])
    refuses(r"cut doesn't open as learned embeddings", tmp_path / "cut")
    checkpoint = open_checkpoint(str(sd1), **CPU)
    load_tokens(checkpoint, [mug])
    for rows in (torch.ones(1, 32), vectors(mug)["<mug>"].repeat(2, 1)):
        with pytest.raises(FiguregroundError, match=r"<mug> is known to the checkpoint already, with other vectors"):
            load_tokens(checkpoint, [made("later", {"<mug>": rows})])
