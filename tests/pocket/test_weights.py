"""The bundled checkpoint: small, complete, and opened unchanged by diffusers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from figureground.models.bundled import WEIGHTS
from figureground.pocket import vae, world


@pytest.fixture(scope="module")
def pipeline():
    opened = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    opened.set_progress_bar_config(disable=True)
    return opened


def test_it_is_at_most_24_megabytes_of_safetensors():
    files = [p for p in WEIGHTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 24_000_000
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt"}
    assert len([p for p in files if p.suffix == ".safetensors"]) == 3


def test_it_opens_without_warnings():
    code = (
        "import warnings; from diffusers import StableDiffusionPipeline as P; import logging, io;"
        "from diffusers.utils import logging as d; from transformers.utils import logging as t;"
        "stream = io.StringIO(); handler = logging.StreamHandler(stream);"
        "[(l.get_logger().addHandler(handler), l.set_verbosity_warning()) for l in (d, t)];"
        "warnings.simplefilter('error', UserWarning);"
        f"P.from_pretrained({str(WEIGHTS)!r}); assert stream.getvalue() == '', stream.getvalue()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_draws_an_image_from_a_prompt_with_words_it_never_saw(pipeline):
    (image,) = pipeline("a photo of a bird wearing pyjamas, on grass", num_inference_steps=4, output_type="np").images
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
    assert np.ptp(image) > 0.2


def test_new_tokens_can_be_added_and_trained(pipeline):
    pipeline.tokenizer.add_tokens(["<new>"])
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    embeddings, _ = pipeline.encode_prompt("a <new> bird", "cpu", 1, False)
    assert embeddings.shape == (1, 77, 128)


def test_images_survive_the_autoencoder(pipeline):
    held = np.stack([vae.draw(world.generator("test of the bundled autoencoder", i)) for i in range(64)])
    assert vae.measure_psnr(pipeline.vae, held) >= 30


def test_the_prompt_decides_the_scene(pipeline):
    """Not the oracle's business: only that night is dark and snow is bright."""
    means = []
    for phrase in ("at night", "in snow"):
        generator = torch.Generator().manual_seed(0)
        images = pipeline(
            [f"a photo of a cat, {phrase}"] * 4,
            num_inference_steps=12,
            guidance_scale=4.0,
            generator=generator,
            output_type="np",
        ).images
        means.append(images.mean())
    assert means[1] - means[0] > 0.2
