"""Tiny random checkpoints of every supported kind, with the pocket's tokenizer."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from figureground.pocket import captions

KINDS = ("sd1", "sd2", "sdxl")


def make_checkpoint(kind: str, out: Path, inpaint: bool = False) -> Path:
    """Write a checkpoint that draws noise but has all its parts: SD 1.x, SD 2.x (v-prediction), SDXL.

    With `inpaint` it is one made for inpainting: its UNet takes 9 channels.
    """
    torch.manual_seed(0)
    tokenizer = captions.write_tokenizer(out / "vocabulary")
    xl = kind == "sdxl"
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": 32,
    }
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=9 if inpaint else 4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64 if xl else 32,
        attention_head_dim=4,
        **(
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 80,
            }
            if xl
            else {}
        ),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )
    if xl:
        pipeline = (StableDiffusionXLInpaintPipeline if inpaint else StableDiffusionXLPipeline)(
            vae=vae,
            unet=unet,
            text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
            text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        )
    else:
        scheduler = DDIMScheduler(
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type="v_prediction" if kind == "sd2" else "epsilon",
        )
        pipeline = (StableDiffusionInpaintPipeline if inpaint else StableDiffusionPipeline)(
            vae=vae,
            unet=unet,
            text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    folder = out / (f"{kind}-inpaint" if inpaint else kind)
    pipeline.save_pretrained(folder)
    return folder


def set_weights(folder: Path, part: str, value: float) -> None:
    """Overwrite all weights of a part of a checkpoint with one value."""
    from safetensors.torch import load_file, save_file

    path = next((folder / part).glob("*.safetensors"))
    save_file({name: torch.full_like(w, value) for name, w in load_file(path).items()}, path, {"format": "pt"})


def set_class(folder: Path, name: str) -> None:
    """Make a checkpoint say that it is of another kind of pipeline."""
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": name}))


def add_safety_checker(folder: Path) -> None:
    """Give a Stable Diffusion checkpoint a safety checker that flags every image."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {
        "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 16, "projection_dim": 32,
    }  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=32))
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-10.0)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.register_modules(
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )
    pipeline.register_to_config(requires_safety_checker=True)
    pipeline.save_pretrained(folder)
