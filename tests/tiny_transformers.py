"""Tiny random checkpoints of the families of flow matching; tokenizers and configurations are built here."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from figureground.pocket import captions

SIZE = 32
"""Edge of images in pixels: four latent pixels, two patches."""
WIDTH = 32


def make_transformer(kind: str, out: Path, inpaint: bool = False) -> Path:
    """Writes a checkpoint that draws noise but has all its parts, with 8 pixels a latent pixel.

    Args:
        kind: A name in `MAKERS`.
        inpaint: Whether it is one made for inpainting.
    """
    torch.manual_seed(0)
    pipeline = MAKERS[kind](out, inpaint)
    folder = out / (f"{kind}-inpaint" if inpaint else kind)
    pipeline.save_pretrained(folder)
    return folder


def make_vae(shift: float = 0.5) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
        shift_factor=shift,
        scaling_factor=1.5,
    )


def make_clip(out: Path, kind: type) -> tuple:
    """A CLIP text encoder and its tokenizer."""
    tokenizer = captions.tokenizer(out / "vocabulary")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config), tokenizer


def make_t5() -> tuple:
    """A T5 encoder and its tokenizer, which has a token for each letter and for some words."""
    words = ["▁", *(f"▁{word}" for word in captions.words()), *"abcdefghijklmnopqrstuvwxyz0123456789,."]
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -float(len(words))) for word in words)],
        extra_ids=0,
    )
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=8,
        d_ff=40,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config), tokenizer


def _sd3(out: Path, inpaint: bool) -> StableDiffusion3Pipeline:
    encoder, tokenizer = make_clip(out, CLIPTextModelWithProjection)
    encoder_2, tokenizer_2 = make_clip(out, CLIPTextModelWithProjection)
    encoder_3, tokenizer_3 = make_t5()
    transformer = SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=33 if inpaint else 16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=16,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    return (StableDiffusion3InpaintPipeline if inpaint else StableDiffusion3Pipeline)(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=make_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=encoder_3,
        tokenizer_3=tokenizer_3,
    )


MAKERS = {"sd3": _sd3}
"""By family, the function that makes its pipeline."""
INPAINTING = ("sd3",)
"""Families with checkpoints that were made for inpainting, besides those that are a family of their own."""
