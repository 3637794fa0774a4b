"""Limits the size that a model's configuration may request by the size of its weights. Needs no torch.

A configuration of a few lines can request a million layers or a billion classes, which libraries allocate before they
read the weights. Each layer has its own tensor, and each width is the length of one, so the headers of the weights
bound both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.models.headers import read_header

FREE_LAYERS = 256
"""Number of layers always allowed, because configurations include defaults of missing parts."""
FREE_WIDTH = 16384
"""Width, image size or number of classes always allowed. SDXL's widest layer has 10,240 channels."""

_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".gguf")
FREE_ENTRIES = 2**18
"""Number of words, positions, classes or noise levels always allowed: the size of the largest vocabularies."""

_LAYERS = re.compile(r".*(layers?(_per_block)?|depths?|num_(hidden_)?blocks|blocks|stages|n_layer|repeats)", re.ASCII)
_WIDTHS = re.compile(
    r".*(sizes?|dims?|channels|positions?|embeddings?|timesteps|width|height|(shortest|longest)_edge|features|filters|"
    r"labels|classes|d_model|d_ff|d_kv|n_embd|groups|heads|num_patches|strides?|kernels?)",
    re.ASCII,
)
_ENTRIES = re.compile(r".*(vocab_size|positions?|embeddings?|labels|classes|timesteps)", re.ASCII)


def refuse_oversized(content: Any, path: Path, where: str) -> None:
    """Refuse a configuration that requests more or larger layers than its weights can contain.

    Args:
        content: The parsed configuration.
        path: Its file; the safetensors files in the same directory are its weights.
        where: Its name in errors.

    Raises:
        FiguregroundError: An entry is too large; names the entry, its value, and the limit.
    """
    large = [(name, value) for name, value in _iterate_numbers(content) if value > FREE_LAYERS]
    if not large:
        return
    if any(file.suffix in _OTHER_WEIGHTS for file in path.parent.iterdir()):
        return  # weights that aren't safetensors are refused as such
    tensors, longest = _measure_weights(path.parent)
    for name, value in large:
        if _LAYERS.fullmatch(name):
            limit = max(FREE_LAYERS, tensors)
        elif _ENTRIES.fullmatch(name):
            limit = max(FREE_ENTRIES, 4 * longest)
        elif _WIDTHS.fullmatch(name):
            limit = max(FREE_WIDTH, 4 * longest)
        else:
            continue
        if value > limit:
            raise FiguregroundError(
                f"{where} asks for {name}: {value:,}, but its weights allow at most {limit:,}. Download the model "
                "again, or choose another one."
            )


def _iterate_numbers(content: Any) -> Iterator[tuple[str, float]]:
    """Yield every number of a configuration, including those in lists, with its entry's name."""
    stack = [("", content)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            # The keys of label2id are class names: a "tape player" is not a number of layers.
            stack += [(str(key), item) for key, item in value.items() if key not in ("label2id", "id2label")]
        elif isinstance(value, list):
            stack += [(name, item) for item in value]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _measure_weights(folder: Path) -> tuple[int, int]:
    """Return the number of tensors in a directory's safetensors files, and the longest edge of any tensor.

    Unreadable files count as empty; opening the model reports them.
    """
    tensors = longest = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            header = read_header(path)
        except (OSError, ValueError):
            continue
        tensors += len(header.tensors)
        longest = max([longest, *(edge for tensor in header.tensors.values() for edge in tensor.shape)])
    return tensors, longest
