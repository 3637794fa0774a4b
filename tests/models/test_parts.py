"""Parts of a checkpoint that don't fit each other are named before anything is opened."""

import json

import pytest
import torch
from tiny_checkpoints import add_safety_checker, make_checkpoint

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.denoiser import tokenize
from figureground.finetune.concept import write_checkpoint
from figureground.models.weights import check_files

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.mark.parametrize(
    ("kind", "file", "entries", "named"),
    [
        ("sd1", "unet", {"in_channels": 9}, "UNet takes 9 channels, but its VAE's latents have 4"),
        ("sd1", "unet", {"out_channels": 8}, "UNet outputs 8 channels, but a latent of its vae has 4"),
        ("sd1", "vae", {"latent_channels": 16}, "UNet takes 4 channels, but its VAE's latents have 16"),
        ("sd1", "unet", {"cross_attention_dim": 768}, r"768 .*cross_attention_dim.*32 \(text_encoder\)"),
        ("sdxl", "text_encoder_2", {"hidden_size": 16}, r"64 .*32 \(text_encoder\) \+ 16 \(text_encoder_2\)"),
        ("sdxl", "text_encoder_2", {"projection_dim": 64}, r"80 .* 64 from text_encoder_2 .*6 × 8"),
        ("sdxl", "text_encoder_2", {"vocab_size": 9}, r"its tokenizer_2 and text_encoder_2 .* has only 9 rows"),
    ],
)
def test_parts_that_do_not_fit_are_named(made, edit, kind, file, entries, named):
    edit(made / kind / file / "config.json", **entries)
    with pytest.raises(FiguregroundError, match=named):
        check_files(made / kind, "mine")


def test_a_word_that_was_added_to_the_tokenizer_alone_is_named(made, edit):
    path = made / "sd1" / "tokenizer" / "tokenizer.json"
    added = json.loads(path.read_text())["added_tokens"]
    edit(path, added_tokens=[*added, {**added[-1], "id": 60_000, "content": "<mug>"}])
    with pytest.raises(FiguregroundError, match=r'tokenizer and text_encoder .* "<mug>" is number 60000'):
        check_files(made / "sd1", "mine")


@pytest.mark.parametrize(("max_length", "positions", "limit"), [(None, 77, 77), (1000, 77, 77), (20, 77, 20)])
def test_the_limit_of_a_prompt_is_the_lesser_of_the_tokenizers_and_the_encoders(
    made, edit, max_length, positions, limit
):
    edit(made / "sd1" / "tokenizer" / "tokenizer_config.json", model_max_length=max_length)
    opened = open_checkpoint(str(made / "sd1"), **CPU)
    ids, _ = tokenize(opened.tokenizers, ["a photo of a dog"])
    assert ids[0].shape == (1, limit)
    assert opened.text_to_image.encode_prompt("a dog", "cpu", 1, False)[0].shape[1] == limit


def test_a_build_with_a_tokenizer_without_a_limit_draws(made, edit, tmp_path):
    edit(made / "sd1" / "tokenizer" / "tokenizer_config.json", model_max_length=None)
    small = {
        "classes": "[bird]",
        "backgrounds": "[snow]",
        "size": 32,
        "num_inference_steps": 2,
        "limit": 1,
        "device": "cpu",
    }
    settings = [f"--set={name}={value}" for name, value in {**small, "checkpoint": made / "sd1"}.items()]
    assert main(["build", "d3s", *settings, "--out", str(tmp_path / "out")]) == 0


def test_a_missing_part_of_the_safety_checker_is_named_with_a_way_out(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    add_safety_checker(folder)
    for part in ("safety_checker", "feature_extractor"):
        (folder / part).rename(tmp_path / part)
        with pytest.raises(FiguregroundError, match=rf"{part}/ has no .*--set safety=off"):
            check_files(folder, "mine", safety="reject")
        (tmp_path / part).rename(folder / part)
    weights = folder / "safety_checker" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(FiguregroundError, match=r"safety_checker .* pickle .*--set safety=off"):
        check_files(folder, "mine", safety="reject")
    for part in ("safety_checker", "feature_extractor"):
        (folder / part).rename(tmp_path / part)
    assert open_checkpoint(str(folder), safety="off", **CPU).text_to_image.safety_checker is None


def rename_weights(folder, variant, parts=("unet", "vae", "text_encoder")):
    for part in parts:
        for path in (folder / part).glob("*.safetensors"):
            path.rename(path.with_name(f"{path.name.split('.')[0]}.{variant}.safetensors"))


def test_weights_that_are_there_as_bf16_alone_are_taken_and_copied(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    rename_weights(folder, "bf16")
    assert check_files(folder, "mine") == "bf16"
    opened = open_checkpoint(str(folder), **CPU)
    write_checkpoint(folder, {"unet": opened.text_to_image.unet}, tmp_path / "trained")
    assert check_files(tmp_path / "trained", "mine") == "bf16"


def test_other_variants_are_named(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    rename_weights(folder, "non_ema", ["unet"])
    with pytest.raises(FiguregroundError, match=r"unet exists only as non_ema"):
        check_files(folder, "mine")
