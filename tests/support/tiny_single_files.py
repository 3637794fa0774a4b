"""Writes tiny checkpoints as single files, in the naming of their authors."""

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def make_single_file(folder: Path, out: Path) -> Path:
    """Write a checkpoint of Stable Diffusion 1 or XL as a single file; its autoencoder gets attention, as theirs have.

    Args:
        folder: The checkpoint in diffusers' layout.
        out: The file.
    """
    torch.manual_seed(0)
    config = dict(AutoencoderKL.load_config(folder / "vae"))
    AutoencoderKL.from_config({**config, "mid_block_add_attention": True}).save_pretrained(folder / "vae")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    layers, has_attention = unet.config.layers_per_block, [hasattr(b, "attentions") for b in unet.up_blocks]
    found = {
        f"model.diffusion_model.{_unet(name, layers, has_attention)}": weight
        for name, weight in load_all(folder / "unet").items()
    }
    found |= {
        f"first_stage_model.{_vae(name)}": _as_convolution(name, w) for name, w in load_all(folder / "vae").items()
    }
    xl = (folder / "text_encoder_2").is_dir()
    clip = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
    for name, weight in load_all(folder / "text_encoder").items():
        found[f"{clip}text_model.{name.removeprefix('text_model.')}"] = weight
    if xl:
        for name, weight in _open_clip(load_all(folder / "text_encoder_2")).items():
            found[f"conditioner.embedders.1.model.{name}"] = weight
    save_file({name: weight.contiguous() for name, weight in found.items()}, out)
    return out


def load_all(part: Path) -> dict[str, torch.Tensor]:
    return load_file(next(part.glob("*.safetensors")))


def _unet(name: str, layers: int, has_attention: list[bool]) -> str:
    for new, old in UNET.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    block = re.match(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)\.(.*)", name)
    where, number, kind, i, rest = block.groups()
    if kind == "resnets":
        rest = re.sub(r"^(\w+)", lambda match: RESNET[match[1]], rest)
    if where is None:
        return f"middle_block.{2 * int(i) if kind == 'resnets' else 1}.{rest}"
    at = int(number) * (layers + 1) + int(i)
    if where == "down":
        if kind == "downsamplers":
            return f"input_blocks.{at + layers + 1}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{at + 1}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{at + layers}.{1 + has_attention[int(number)]}.{rest}"
    return f"output_blocks.{at}.{int(kind == 'attentions')}.{rest}"


def _vae(name: str, blocks: int = 3) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        head, _, rest = name.partition("mid_block.attentions.0.")
        part, _, kind = rest.rpartition(".")
        return f"{head}mid.attn_1.{ATTENTION[part]}.{kind}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{blocks - 1 - int(match[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)


def _as_convolution(name: str, weight: torch.Tensor) -> torch.Tensor:
    return weight[:, :, None, None] if "attentions" in name and weight.dim() == 2 else weight


def _open_clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    found = {
        "positional_embedding": weights.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": weights.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": weights.pop("final_layer_norm.weight"),
        "ln_final.bias": weights.pop("final_layer_norm.bias"),
        "text_projection": weights.pop("text_projection.weight").T,
    }
    for name, weight in weights.items():
        if re.search(r"self_attn\.[kv]_proj", name):
            continue
        new = name.replace("encoder.layers.", "transformer.resblocks.")
        if "q_proj" in name:
            whole = torch.cat([weights[name.replace("q_proj", f"{each}_proj")] for each in "qkv"])
            found[re.sub(r"self_attn\.q_proj\.(\w+)", r"attn.in_proj_\1", new)] = whole
            continue
        for ours, theirs in OPEN_CLIP.items():
            new = new.replace(ours, theirs)
        found[new] = weight
    return found


def make_sd3_file(folder: Path, out: Path) -> Path:
    """Write a Stable Diffusion 3 as a single file, without its autoencoder."""
    found = {f"model.diffusion_model.{name}": w for name, w in _joint(load_all(folder / "transformer")).items()}
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g"), ("text_encoder_3", "t5xxl")):
        found |= {f"text_encoders.{name}.transformer.{n}": w for n, w in load_all(folder / part).items()}
    save_file({name: weight.contiguous() for name, weight in found.items()}, out)
    return out


JOINT = {
    "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
}  # fmt: skip
AROUND = {
    "pos_embed.proj": "x_embedder.proj", "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2", "context_embedder": "context_embedder",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear", "norm_out.linear": "final_layer.adaLN_modulation.1",
}  # fmt: skip


def _joint(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    found = {}
    for name, weight in weights.items():
        if name == "pos_embed.pos_embed":
            found["pos_embed"] = weight
            continue
        module, _, kind = name.rpartition(".")
        if module == "norm_out.linear" or module == f"transformer_blocks.{last}.norm1_context.linear":
            weight = torch.cat(weight.chunk(2)[::-1])
        if module in AROUND:
            found[f"{AROUND[module]}.{kind}"] = weight
            continue
        _, number, inside = module.split(".", 2)
        before = f"transformer_blocks.{number}."
        if inside in ("attn.to_q", "attn.add_q_proj"):
            block = "x_block" if inside == "attn.to_q" else "context_block"
            all_three = [weights[before + inside.replace("_q", f"_{each}") + f".{kind}"] for each in "qkv"]
            found[f"joint_blocks.{number}.{block}.attn.qkv.{kind}"] = torch.cat(all_three)
        elif inside in JOINT:
            found[f"joint_blocks.{number}.{JOINT[inside]}.{kind}"] = weight
    return found
