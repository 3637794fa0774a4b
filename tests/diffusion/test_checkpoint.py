"""Checkpoints of the supported kinds open; others are refused, saying why."""

import json

import pytest
import torch
from tiny_checkpoints import KINDS, make_checkpoint, set_class

from figureground.diffusion.checkpoint import SCHEDULERS, choose_device, open_checkpoint
from figureground.errors import FiguregroundError
from figureground.weights import fingerprint

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture
def sd1(tmp_path):
    return make_checkpoint("sd1", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_supported_kind_opens_with_its_noise_schedule(tmp_path, kind):
    opened = open_checkpoint(str(make_checkpoint(kind, tmp_path)), **CPU)
    assert opened.family == ("sdxl" if kind == "sdxl" else "sd")
    assert opened.facts["prediction_type"] == ("v_prediction" if kind == "sd2" else "epsilon")
    assert opened.image_to_image.scheduler.config.prediction_type == opened.facts["prediction_type"]
    assert opened.factor == 4
    assert len(opened.tokenizers) == (2 if kind == "sdxl" else 1)
    assert opened.image_to_image.unet is opened.text_to_image.unet


def test_a_checkpoint_stored_in_half_precision_opens_in_the_dtype_asked_for(sd1):
    opened = open_checkpoint(str(sd1), **CPU)
    opened.text_to_image.to(torch.float16).save_pretrained(sd1)
    again = open_checkpoint(str(sd1), **CPU).text_to_image
    assert {again.unet.dtype, again.vae.dtype, again.text_encoder.dtype} == {torch.float32}


def test_the_fp16_variant_is_found(sd1):
    open_checkpoint(str(sd1), **CPU).text_to_image.save_pretrained(sd1.parent / "half", variant="fp16")
    assert open_checkpoint(str(sd1.parent / "half"), **CPU).family == "sd"


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc"])
def test_every_scheduler_by_name_keeps_the_checkpoints_betas(sd1, name):
    scheduler = open_checkpoint(str(sd1), scheduler=name, **CPU).text_to_image.scheduler
    assert type(scheduler) is SCHEDULERS[name]
    assert scheduler.config.beta_schedule == "scaled_linear"


def test_provenance_says_no_path(sd1):
    facts = json.dumps(open_checkpoint(str(sd1), **CPU).facts)
    assert str(sd1.parent) not in facts
    assert '"checkpoint": "sd1"' in facts


def test_the_fingerprint_follows_the_content_and_not_the_place(sd1, tmp_path):
    first = fingerprint(str(sd1), None)
    moved = sd1.rename(tmp_path / "moved")
    assert fingerprint(str(moved), None) == first
    set_class(moved, "StableDiffusionImg2ImgPipeline")
    assert fingerprint(str(moved), None) != first
    assert fingerprint("user/name", "v2") == "user/name@v2"


def test_unsupported_kinds_are_refused_by_name(sd1):
    set_class(sd1, "FluxPipeline")
    with pytest.raises(FiguregroundError, match="is a FluxPipeline; supported are"):
        open_checkpoint(str(sd1), **CPU)


def test_a_pickle_is_never_opened_and_the_error_says_how_to_convert_it(sd1):
    weights = next((sd1 / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FiguregroundError, match=r"unet is there only as a pickle .*use_safetensors=False"):
        open_checkpoint(str(sd1), **CPU)


def test_incomplete_damaged_and_absent_checkpoints_say_what_is_missing(sd1, tmp_path):
    next((sd1 / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(FiguregroundError, match=r"incomplete: vae/ holds no \.safetensors"):
        open_checkpoint(str(sd1), **CPU)
    (sd1 / "model_index.json").write_text("{")
    with pytest.raises(FiguregroundError, match=r"model_index\.json doesn't parse"):
        open_checkpoint(str(sd1), **CPU)
    (sd1 / "model_index.json").unlink()
    with pytest.raises(FiguregroundError, match=r"no diffusers checkpoint: it has no model_index\.json"):
        open_checkpoint(str(sd1), **CPU)
    with pytest.raises(FiguregroundError, match=r"there is no directory '\./nowhere'"):
        open_checkpoint("./nowhere", **CPU)
    one = tmp_path / "model.safetensors"
    one.write_bytes(b"x")
    with pytest.raises(FiguregroundError, match=r"is one file\. Convert it"):
        open_checkpoint(str(one), **CPU)


def test_truncated_weights_are_an_error_and_not_a_traceback(sd1):
    weights = next((sd1 / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FiguregroundError, match="doesn't open"):
        open_checkpoint(str(sd1), **CPU)


def test_offline_a_hub_id_says_what_to_do():
    with pytest.raises(FiguregroundError, match="not in this machine's cache and the Hub can't be reached"):
        open_checkpoint("nobody/nothing", **CPU)


def test_an_inpainting_unet_is_refused(sd1):
    config = sd1 / "unet" / "config.json"
    from diffusers import UNet2DConditionModel

    settings = {**json.loads(config.read_text()), "in_channels": 9}
    UNet2DConditionModel.from_config(settings).save_pretrained(sd1 / "unet")
    with pytest.raises(FiguregroundError, match="takes 9 channels"):
        open_checkpoint(str(sd1), **CPU)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(FiguregroundError, match="'gpu' is unknown"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(FiguregroundError, match="torch sees 0 CUDA devices"):
            choose_device("cuda")
