"""Tiny random checkpoints of the families of flow matching; tokenizers and configurations are built here."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from figureground.pocket import captions

SIZE = 32
"""Edge of images in pixels: four latent pixels, two patches."""
WIDTH = 32


def make_transformer(kind: str, out: Path, inpaint: bool = False) -> Path:
    """Write a checkpoint that draws noise but has all its parts, with 8 pixels a latent pixel.

    Args:
        kind: A name in `MAKERS`.
        inpaint: Whether it is one made for inpainting.
    """
    torch.manual_seed(0)
    pipeline = MAKERS[kind](out, inpaint)
    folder = out / (f"{kind}-inpaint" if inpaint else kind)
    pipeline.save_pretrained(folder)
    if kind in SEEING:
        _add_processor(folder)
    return folder


def _add_processor(folder: Path) -> None:
    """Add the processor of images that a text encoder sees, in small."""
    Qwen2VLImageProcessorPil(min_pixels=28**2, max_pixels=5 * 28**2).save_pretrained(folder / "processor")
    index = folder / "model_index.json"
    named = {"processor": ["transformers", "Qwen2VLProcessor"]}
    index.write_text(json.dumps({**json.loads(index.read_text()), **named}))


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
    tokenizer = captions.write_tokenizer(out / "vocabulary")
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
    words = ["▁", *(f"▁{word}" for word in captions.list_words()), *"abcdefghijklmnopqrstuvwxyz0123456789,."]
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


def _flux(out: Path, kind: type = FluxPipeline) -> FluxPipeline | FluxFillPipeline | FluxKontextPipeline:
    encoder, tokenizer = make_clip(out, CLIPTextModel)
    encoder_2, tokenizer_2 = make_t5()
    transformer = FluxTransformer2DModel(
        in_channels=2 * 64 + 256 if kind is FluxFillPipeline else 64,
        out_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 2, 2),
    )
    return kind(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=make_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
    )


def _klein(out: Path, distilled: bool) -> Flux2KleinPipeline:
    tokenizer = make_qwen_tokenizer()
    encoder = Qwen3ForCausalLM(qwen3_config(tokenizer, 16, 20, layers=27))  # the pipelines take the states of the 27th
    transformer = Flux2Transformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )
    return Flux2KleinPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        is_distilled=distilled,
    )


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
"""Tokens around and in place of images."""


def qwen3_config(tokenizer: Qwen2Tokenizer, hidden: int, intermediate: int, layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
    )


def make_qwen_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer of bytes, with Qwen's tokens that mark turns."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", *VISION], special_tokens=True)
    tokenizer.chat_template = CHAT
    return tokenizer


def _z_image(out: Path, inpaint: bool) -> ZImagePipeline:
    tokenizer = make_qwen_tokenizer()
    encoder = Qwen3Model(qwen3_config(tokenizer, WIDTH, 40, layers=3))
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=WIDTH,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[640, 32, 32],
    )
    return ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=make_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )


def _qwen_image(out: Path, kind: type = QwenImagePipeline) -> QwenImagePipeline | QwenImageEditPipeline:
    tokenizer = make_qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    named = dict(zip(("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
                     tokenizer.convert_tokens_to_ids(list(VISION)), strict=True))  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **named)
    return kind(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True, shift_terminal=0.02),
        vae=AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        **({} if kind is QwenImagePipeline else {"processor": None}),
    )


MAKERS = {
    "sd3": _sd3,
    "flux": lambda out, inpaint: _flux(out),
    "flux-fill": lambda out, inpaint: _flux(out, FluxFillPipeline),
    "flux-kontext": lambda out, inpaint: _flux(out, FluxKontextPipeline),
    "flux2-klein": lambda out, inpaint: _klein(out, False),
    "z-image": _z_image,
    "qwen-image": lambda out, inpaint: _qwen_image(out),
    "qwen-image-edit": lambda out, inpaint: _qwen_image(out, QwenImageEditPipeline),
    "qwen-image-edit-plus": lambda out, inpaint: _qwen_image(out, QwenImageEditPlusPipeline),
}
"""By family, the function that makes its pipeline."""
SEEING = ("qwen-image-edit", "qwen-image-edit-plus")
"""Families whose text encoder sees images."""
INPAINTING = ("sd3",)
"""Families with checkpoints that were made for inpainting, besides those that are a family of their own."""
