"""LoRA files (Hu et al. 2021, arXiv 2106.09685) that a recipe adds to a checkpoint: identified and checked by header.

A file has, for a layer of (out, in) values, two small matrices (rank, in) and (out, rank), whose product is added to
the layer's weights. Trainers name them differently. Where a name leads to a layer of the checkpoint, the sizes are
compared; names that only diffusers can read are left to it. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.models.family import Family
from figureground.models.headers import Shapes, read_shapes
from figureground.models.single_file import find_single_file
from figureground.models.weights import hash_content, list_weights, read_family

FIELD = "loras"

_PAIR = re.compile(
    r"(?P<layer>.+?)[._](lora[._])?(?P<side>down|up|lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight", re.ASCII
)
_DOWN = ("down", "lora_A", "lora_down")
_OTHER_KINDS = {
    "hada_": "a LoHa", "lokr_": "a LoKr", "oft_": "an OFT", "dora_scale": "a DoRA", "ia3": "an IA3", "glora": "a GLoRA",
    "a1.weight": "a GLoRA", "string_to_param": "a learned token", "emb_params": "a learned token",
}  # fmt: skip
"""Words in names of tensors that other kinds of adapters have."""
_UNET = re.compile(r"(down|up|input|output)_blocks?[._]|mid(dle)?_block[._]")
_CROSS = re.compile(r".*attn2[._](to_k|processor\.to_k)")
_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_TRANSFORMERS = {
    r"(^|[._])single_(transformer_)?blocks[._]": "FLUX", r"(^|[._])double_blocks[._]": "FLUX",
    r"(^|[._])joint_blocks[._]": "Stable Diffusion 3", r"(img|txt)_m(lp|od)[._]": "Qwen-Image",
    r"add_k_proj": "Stable Diffusion 3 or Qwen-Image",
    r"(^|[._])layers[._]\d+[._](attention|feed_forward)[._]": "Z-Image",
}  # fmt: skip
"""Patterns in names of layers, with the models that have them; the first that fits holds."""


class Lora(NamedTuple):
    """A LoRA file, and how much of it is added."""

    path: Path
    scale: float = 1.0


def select_active(entries: Sequence[Mapping[str, Any]]) -> list[Lora]:
    """Return a recipe's `loras` without those of scale 0, which change nothing."""
    loras = [Lora(Path(entry["path"]).expanduser(), float(entry.get("scale", 1.0))) for entry in entries]
    return [lora for lora in loras if lora.scale]


def identify(loras: Sequence[Lora]) -> list[dict[str, Any]]:
    """Return what identifies LoRA files: their content and scales, in order.

    Raises:
        RecipeError: A file doesn't exist.
    """
    for lora in loras:
        _refuse_absent(lora)
    return [{"content": f"sha256:{hash_content(lora.path)}", "scale": lora.scale} for lora in loras]


def check_loras(loras: Sequence[Lora], folder: Path, checkpoint: str, variant: str | None) -> None:
    """Refuse LoRA files that can't be read, or whose layers aren't those of a checkpoint.

    Args:
        folder: The checkpoint's directory. Of one in a single file, layers aren't compared.
        checkpoint: Its name in the recipe.
        variant: Variant of its weights; see `weights.check_files`.

    Raises:
        RecipeError: A file doesn't exist, or isn't a safetensors file.
        FiguregroundError: It is damaged, holds something else, or is for another model; names the file, and what it is
            for.
    """
    family, what = read_family(folder, checkpoint), f"checkpoint {checkpoint!r}"
    parts = () if find_single_file(checkpoint) else (family.DENOISER, *family.TEXTS)
    layers = {part: _read_layers(folder / part, variant) for part in parts}
    for lora in loras:
        _refuse_absent(lora)
        if lora.path.suffix != ".safetensors":
            raise RecipeError(
                FIELD,
                f"{lora.path.name!r} is not a .safetensors file: other formats can run code when they are opened. "
                "Convert it: safetensors.torch.save_file(torch.load(…, weights_only=True), …).",
            )
        _check_lora(lora.path.name, read_shapes(lora.path, f"{FIELD}: {lora.path.name!r}"), layers, family, what)


def _refuse_absent(lora: Lora) -> None:
    if not lora.path.is_file():
        raise RecipeError(FIELD, f"there is no file {str(lora.path)!r}.")


def _check_lora(
    name: str, shapes: Shapes, layers: Mapping[str, dict[str, tuple[int, ...]]], family: Family, what: str
) -> None:
    for word, kind in _OTHER_KINDS.items():
        if example := next((tensor for tensor in shapes if word in tensor), None):
            raise FiguregroundError(f"{FIELD}: {name!r} is {kind} ({example}), not a LoRA, and isn't supported.")
    pairs = _pair_matrices(shapes)
    if not pairs:
        raise FiguregroundError(
            f"{FIELD}: {name!r} holds no LoRA: none of its {len(shapes):,} tensors, such as {next(iter(shapes))}, "
            "belongs to a pair of matrices."
        )
    misfit = f"{FIELD}: {name!r} is for {describe_model(shapes)}, and doesn't fit {what}, of the family {family.NAME}"
    num_matched, has_known_parts = 0, False
    for layer, matrices in pairs.items():
        part, layer_name = _split_layer(layer, family)
        if part not in layers:
            continue
        has_known_parts = True
        weight = layers[part].get(_normalise_name(layer_name))
        if weight is None:
            continue
        num_matched += 1
        outputs = matrices["up"][0] if "up" in matrices else weight[0]
        inputs = matrices["down"][1] if "down" in matrices else weight[1]
        if (outputs, inputs) != weight[:2]:
            raise FiguregroundError(
                f"{misfit}: its {part} {layer_name} maps {inputs} values to {outputs}, the checkpoint's {weight[1]} to "
                f"{weight[0]}."
            )
    if has_known_parts and not num_matched:
        raise FiguregroundError(f"{misfit}: none of its {len(pairs):,} layers, such as {next(iter(pairs))}, is there.")
    # The names say at least whether it is for a UNet or a transformer.
    if not has_known_parts and bool(_UNET.search(" ".join(pairs))) != (family.DENOISER == "unet"):
        raise FiguregroundError(f"{misfit}. Leave it out.")


def describe_model(shapes: Shapes) -> str:
    """Return the model that a LoRA was made for, as far as its names and sizes tell."""
    pairs = _pair_matrices(shapes)
    names = list(pairs)
    if any(_UNET.search(name) for name in names):
        widths = [matrices["down"][1] for name, matrices in pairs.items() if "down" in matrices and _CROSS.match(name)]
        return _WIDTHS.get(widths[0], f"a UNet that takes text of width {widths[0]}") if widths else "a UNet"
    for pattern, model in _TRANSFORMERS.items():
        if any(re.search(pattern, name) for name in names):
            return model
    return "another model"


def _pair_matrices(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the shapes of each layer's two matrices, `down` and `up`."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = _PAIR.fullmatch(name)
        if match and len(shape) >= 2:
            side = "down" if match["side"] in _DOWN else "up"
            pairs.setdefault(match["layer"], {})[side] = shape
    return pairs


def _split_layer(layer: str, family: Family) -> tuple[str, str]:
    """Return the part of a layer, empty if its name isn't known here, and the rest of its name."""
    texts = list(family.TEXTS)
    kohya = {
        f"lora_{family.DENOISER}_": family.DENOISER, "lora_unet_": family.DENOISER, "lora_te1_": texts[0],
        "lora_te2_": (*texts, "")[1], "lora_te_": texts[0],
    }  # fmt: skip
    for beginning, part in kohya.items():
        if layer.startswith(beginning):
            rest = layer.removeprefix(beginning)
            # Blocks that are numbered otherwise than in diffusers.
            original = re.match(r"(input|output|middle|double|single|joint)_block", rest)
            return ("" if original else part), rest
    for part in (family.DENOISER, *sorted(texts, reverse=True)):
        if layer.startswith(f"{part}."):
            return part, layer.removeprefix(f"{part}.")
    return "", layer


def _normalise_name(layer: str) -> str:
    """Return a layer's name in a spelling that trainers have in common."""
    name = re.sub(r"\.?processor\.", ".", layer).removesuffix("_lora").removesuffix(".lora_linear_layer")
    name = name.replace(".", "_").removeprefix("text_model_")
    return re.sub(r"_to_out$", "_to_out_0", name)


def _read_layers(part: Path, variant: str | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a part's layers, by names from `_normalise_name`."""
    shapes = {}
    for path in list_weights(part, variant):
        for name, shape in read_shapes(path, f"{part.name}/{path.name}").items():
            if name.endswith(".weight") and len(shape) >= 2:
                shapes[_normalise_name(name.removesuffix(".weight"))] = shape
    return shapes
