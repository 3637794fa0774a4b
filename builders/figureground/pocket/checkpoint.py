"""The pocket model as a checkpoint on disk, and a sheet of its samples."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPTokenizer

from figureground.models.opening import make_network, open_pipeline
from figureground.pocket import captions, diffusion, world

PREFER_FLOAT32 = {"dtype": "float32"}
"""Entry for the text encoder's config. Without it, the encoder opens in fp16 and the other parts in fp32, and the first
matrix product fails on a CPU."""


def write_checkpoint(
    autoencoder: AutoencoderKL, model: diffusion.TextToLatent, tokenizer: CLIPTokenizer, scale: float, out: Path
) -> None:
    """Write a checkpoint directory in fp16 that `StableDiffusionPipeline.from_pretrained` opens."""
    parts = {}
    for name, part in (("vae", autoencoder), ("unet", model.unet), ("text_encoder", model.text_encoder)):
        copy = make_network(type(part), part.config) if name != "text_encoder" else type(part)(part.config)
        copy.load_state_dict(part.state_dict())
        parts[name] = copy.half().cpu()
    parts["vae"].register_to_config(scaling_factor=scale)
    pipeline = StableDiffusionPipeline(
        **parts, tokenizer=tokenizer, scheduler=diffusion.make_scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(out, safe_serialization=True)
    text_config = out / "text_encoder" / "config.json"
    text_config.write_text(json.dumps({**json.loads(text_config.read_text()), **PREFER_FLOAT32}, indent=2) + "\n")
    for config in out.rglob("*.json"):  # don't publish local paths
        content = json.loads(config.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(content, indent=2) + "\n")


def draw_sheet(checkpoint: Path, path: Path, device: str, steps: int = 25) -> None:
    """Draw a sheet of the checkpoint's samples: every foreground on five backgrounds, and the props."""
    pipeline = open_pipeline(StableDiffusionPipeline, checkpoint, str(checkpoint)).to(device)
    pipeline.set_progress_bar_config(disable=True)
    scenes = world.BACKGROUNDS
    prompts = [
        f"a photo of a {name}, {captions.PHRASES[scenes[(i + 2 * j) % 10]]}"
        for i, name in enumerate(world.FOREGROUNDS)
        for j in range(5)
    ]
    prompts += [
        f"a photo of a {p}, {captions.PHRASES[scenes[(i + j) % 10]]}"
        for i, p in enumerate(world.PROPS[:4])
        for j in range(5)
    ]
    images = []
    for start in range(0, len(prompts), 35):
        generator = torch.Generator(device).manual_seed(start)
        images += pipeline(
            prompts[start : start + 35], num_inference_steps=steps, guidance_scale=4.0, generator=generator
        ).images
    edge = 2 * world.SIZE
    grid = Image.new("RGB", (10 * edge, 7 * edge))
    for i, image in enumerate(images):
        grid.paste(image.resize((edge, edge), Image.Resampling.NEAREST), (i % 10 * edge, i // 10 * edge))
    grid.save(path)
