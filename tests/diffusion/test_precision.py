"""Autoencoders that overflow in float16, denoisers in 8 bits, and networks that are moved to a device to work."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_checkpoints import make_checkpoint

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.placing import place
from figureground.diffusion.quantizing import check_quantization
from figureground.diffusion.render import Renderer, Sampling
from figureground.methods.d3s import D3S
from figureground.recipe.sample import Guide, Reject, Spec

CPU = {"device": torch.device("cpu"), "dtype": torch.float32, "safety": "off"}
HALF = {**CPU, "dtype": torch.float16}
SIZE = 16
HAS_TORCHAO = importlib.util.find_spec("torchao") is not None


def draw(opened, way, batch=2):
    guide = None if way == "text" else Guide("inpaint" if way == "inpaint" else "composite", "g")
    specs = [Spec(f"k{i}", "train", 0, 0, "", "", "a bird in snow", i, guide) for i in range(batch)]
    image = Image.fromarray(np.tile(np.linspace(0, 255, SIZE, dtype=np.uint8)[:, None, None], (1, SIZE, 3)))
    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(255, (4, 4, 12, 12))
    renderer = Renderer(opened, Sampling(SIZE, 3, 0.8, 2.0, batch_size=batch), lambda spec: (image, mask))
    return list(renderer.render(specs))


def pixels(results):
    return np.stack([np.asarray(each.image, np.float32) for each in results])


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def overflowing(request, tmp_path_factory):
    """A checkpoint whose autoencoder has weights that float16 holds, but values that it doesn't."""
    folder = make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    path = next((folder / "vae").glob("*.safetensors"))
    weights = load_file(path)
    for side in ("encoder", "decoder"):
        name = f"{side}.conv_in.weight"
        weights[name] = weights[name].sign() * 60_000
    save_file(weights, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize("way", ["text", "image", "inpaint"])
def test_one_that_overflows_in_float16_computes_in_float32_beside_a_denoiser_in_float16(overflowing, way):
    half = open_checkpoint(str(overflowing), inpaint=True, **HALF)
    kept = half.text_to_image.vae.state_dict()["decoder.conv_out.weight"].clone()
    found = draw(half, way)
    assert half.denoiser.dtype == torch.float16
    expected = draw(open_checkpoint(str(overflowing), inpaint=True, **CPU), way)
    assert np.abs(pixels(found) - pixels(expected)).max() <= 8
    assert np.array_equal(pixels(draw(half, way)), pixels(found))
    assert torch.equal(half.text_to_image.vae.state_dict()["decoder.conv_out.weight"], kept)


def test_one_whose_configuration_does_not_say_so_is_in_float16_and_its_images_are_rejected(overflowing):
    config = overflowing / "vae" / "config.json"
    original = config.read_text()
    config.write_text(json.dumps({**json.loads(original), "force_upcast": False}))
    opened = open_checkpoint(str(overflowing), **HALF)
    assert opened.text_to_image.vae.dtype == torch.float16
    assert [each.reason for each in draw(opened, "text") if isinstance(each, Reject)] == ["non-finite"] * 2
    config.write_text(original)


def test_in_other_dtypes_nothing_is_wrapped(sd1):
    for dtype in (torch.float32, torch.bfloat16):
        vae = open_checkpoint(str(sd1), **{**CPU, "dtype": dtype}).text_to_image.vae
        assert vae.dtype == dtype
        assert not {"encode", "decode"} & set(vars(vae))


@pytest.mark.skipif(not HAS_TORCHAO, reason="torchao isn't installed (the extra `quantize`)")
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_denoiser_in_8_bits_draws_nearly_the_same_whatever_its_batch(kind):
    plain = open_checkpoint("pocket", **CPU)
    opened = open_checkpoint("pocket", quantization=kind, **CPU)
    assert opened.facts["quantization"] == kind
    found = pixels(draw(opened, "text"))
    assert 0 < np.abs(found - pixels(draw(plain, "text"))).mean() < 8
    assert np.abs(pixels(draw(opened, "text", batch=1)) - found[:1]).max() <= 1


def test_without_torchao_the_error_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    for name in ("torchao", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it weren't installed
    with pytest.raises(FiguregroundError, match=r"quantization: .*pip install 'figureground\[quantize\]'"):
        check_quantization("int8", torch.device("cpu"))
    settings = ["--set", "quantization=int8"]
    assert main(["plan", "d3s", *settings]) == 0
    assert "pip install 'figureground[quantize]'" in capsys.readouterr().out
    assert main(["build", "d3s", *settings, "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'figureground[quantize]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_quantization_decides_images_and_offloading_does_not():
    plain, small = D3S("pocket"), D3S("pocket", quantization="int8")
    assert "quantization" not in plain.identity()
    assert small.identity()["quantization"] == "int8"
    assert json.dumps(D3S("pocket", offload="model", device="cuda").identity()) == json.dumps(plain.identity())


@pytest.mark.parametrize(
    "fields", [{"device": "cpu", "offload": "model"}, {"offload": "sequential", "quantization": "int8"}]
)
def test_offloading_that_cannot_be_is_refused(fields, sd1):
    with pytest.raises(RecipeError) as refused:
        D3S("pocket", **fields)
    assert refused.value.field == "offload"
    with pytest.raises(RecipeError, match="cpu") as refused:
        open_checkpoint(str(sd1), offload="model", **CPU)
    assert refused.value.field == "offload"


def test_pipelines_that_share_networks_draw_the_same_while_these_are_moved(sd1):
    """The hooks that move networks, with a CPU as the device; whether memory is saved takes an accelerator."""
    reference = open_checkpoint(str(sd1), inpaint=True, **CPU)
    moved = open_checkpoint(str(sd1), inpaint=True, **CPU)
    place([moved.text_to_image, moved.image_to_image, moved.inpaint], torch.device("cpu"), "model")
    assert hasattr(moved.denoiser, "_hf_hook")
    for way in ("text", "image", "inpaint", "text"):
        assert np.array_equal(pixels(draw(moved, way)), pixels(draw(reference, way)))
