"""Learned tokens: embedding vectors of a new word, saved to files and loaded into checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural
from figureground.core.files import replace_bytes
from figureground.diffusion.checkpoint import Checkpoint

EMBEDDINGS = "learned_embeds.safetensors"
"""File of the vectors, with the name that `load_textual_inversion` expects."""
METADATA_KEY = "figureground"
"""Metadata key for token and checkpoint. A single key, because the order of several isn't preserved."""
OLD_END_ID = 2
"""End-of-text token id in older CLIP configs."""


def token_names(token: str, vectors: int) -> list[str]:
    """Return tokenizer names for a token's vectors: `<mug>`, `<mug>_1`, `<mug>_2`…, as in diffusers."""
    return [token, *(f"{token}_{i}" for i in range(1, vectors))]


def check_free(tokenizer: Any, names: Sequence[str]) -> None:
    """Raise RecipeError for names that a tokenizer already has."""
    vocabulary = tokenizer.get_vocab()
    for name in names:
        if name in vocabulary or f"{name}</w>" in vocabulary:
            raise RecipeError(
                "token",
                f"{name!r} is a word that the checkpoint's tokenizer knows; choose another, such as '<my-mug>'.",
            )


def add_rows(tokenizer: Any, encoder: Any, names: Sequence[str], rows: Tensor) -> list[int]:
    """Add names to a tokenizer and their embeddings, (names, width), to a text encoder; return their token ids."""
    tokenizer.add_tokens(list(names))
    ids = [int(i) for i in tokenizer.convert_tokens_to_ids(list(names))]
    table = encoder.get_input_embeddings()
    if max(ids) >= table.num_embeddings:
        with torch.random.fork_rng(devices=[]):  # new rows are random at first
            encoder.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        table = encoder.get_input_embeddings()
    with torch.no_grad():
        table.weight[ids] = rows.to(table.weight.device, table.weight.dtype)
    for module in encoder.modules():
        # With the old id, the text's end is taken at the highest token id, which would be the new tokens.
        if getattr(module, "eos_token_id", None) == OLD_END_ID:
            module.eos_token_id = tokenizer.eos_token_id
    return ids


def write_token(folder: Path, token: str, rows: Sequence[Tensor], checkpoint: Checkpoint) -> Path:
    """Write a token's vectors, (vectors, width) for each text encoder; return the file."""
    metadata = {"token": token, "checkpoint": checkpoint.facts["checkpoint"]}
    tensors = dict(zip(_tensor_names(checkpoint) or (token,), rows, strict=True))
    path = folder / EMBEDDINGS
    replace_bytes(path, save(tensors, {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)}))
    return path


@dataclass(frozen=True)
class _LearnedToken:
    """A token on disk."""

    path: Path
    token: str
    rows: tuple[Tensor, ...]
    """(vectors, width) for each text encoder."""
    checkpoint: str
    """Description of the checkpoint that it was learned with."""


def load_tokens(checkpoint: Checkpoint, files: Sequence[Path]) -> None:
    """Load learned tokens into an opened checkpoint and all its pipelines, which share tokenizers and text encoders.

    Like diffusers' `load_textual_inversion`, but it also fixes text encoders with an old end-of-text id, such as SDXL's
    second one, which would read the pooled embedding at the token instead of the end of the prompt. A token of several
    vectors is expanded when prompts are encoded. Loading a file again has no effect. If one of the files is unusable,
    none is loaded. Load tokens before drawing, because a renderer caches encoded prompts.

    Args:
        files: `learned_embeds.safetensors` files written by `invert`, or their directories.

    Raises:
        FiguregroundError: A file is missing, damaged or for another kind of checkpoint; or its token is a word of the
            tokenizer, or was loaded from another file.
    """
    encoders, tokenizers = checkpoint.text_encoders, checkpoint.tokenizers
    tokens: dict[str, _LearnedToken] = {}
    for path in files:
        learned = _read_token(Path(path), checkpoint)
        first = tokens.setdefault(learned.token, learned)
        if not all(torch.equal(a, b) for a, b in zip(learned.rows, first.rows, strict=True)):
            raise FiguregroundError(f"{learned.token} is in {first.path} and, with other vectors, in {learned.path}.")
    new_tokens = [
        learned
        for learned in tokens.values()
        if not all(
            _is_loaded(t, e, learned, rows) for t, e, rows in zip(tokenizers, encoders, learned.rows, strict=True)
        )
    ]
    for learned in new_tokens:
        for tokenizer, encoder, rows in zip(tokenizers, encoders, learned.rows, strict=True):
            add_rows(tokenizer, encoder, token_names(learned.token, len(rows)), rows)


def _is_loaded(tokenizer: Any, encoder: Any, learned: _LearnedToken, rows: Tensor) -> bool:
    """Whether a token is already loaded; raises FiguregroundError if the name has another meaning."""
    names, added = token_names(learned.token, len(rows) + 1), tokenizer.added_tokens_encoder
    if learned.token not in added:
        try:
            check_free(tokenizer, names)
        except RecipeError as error:
            raise FiguregroundError(f"{learned.path}: {error}") from None
        return False
    table = encoder.get_input_embeddings().weight
    has_same_count = [name in added for name in names] == [True] * len(rows) + [False]
    if not has_same_count or not torch.equal(table[[added[n] for n in names[:-1]]], rows.to(table.device, table.dtype)):
        raise FiguregroundError(
            f"{learned.path}: {learned.token} is known to the checkpoint already, with other vectors. Learn one of "
            "them under another name."
        )
    return True


def _tensor_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the tensor names of a token's vectors, one for each text encoder that the checkpoint has."""
    return checkpoint.family.TOKEN_KEYS[: len(checkpoint.text_encoders)]


def _read_token(path: Path, checkpoint: Checkpoint) -> _LearnedToken:
    path = path / EMBEDDINGS if path.is_dir() else path
    encoders = checkpoint.text_encoders
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            # The opened file has `keys()` but isn't iterable.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it isn't iterable
    except FileNotFoundError:
        raise FiguregroundError(
            f"{path}: no such file. Give the directory of a token that was learned completely; the command that began "
            "it resumes."
        ) from None
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        message = (str(error).splitlines() or ["?"])[0]
        raise FiguregroundError(f"{path} doesn't open as learned embeddings ({message}).") from None
    base_name = metadata.get("checkpoint", "another checkpoint")
    keys = _tensor_names(checkpoint) or tuple(tensors)
    if set(tensors) != set(keys) or len(keys) != len(encoders):
        raise FiguregroundError(
            f"{path} holds {join_names(sorted(tensors), 3)}, learned with {base_name}; "
            f"{checkpoint.facts['checkpoint']} has {plural(len(encoders), 'text encoder')} and needs vectors for each. "
            "Learn the token for it."
        )
    token = metadata.get("token") or (None if checkpoint.family.TOKEN_KEYS else keys[0])
    if token is None:
        raise FiguregroundError(f"{path} doesn't name its token. Learn it with figureground.")
    rows = tuple(torch.atleast_2d(tensors[key]).float() for key in keys)
    for vectors, encoder in zip(rows, encoders, strict=True):
        width = encoder.get_input_embeddings().embedding_dim
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise FiguregroundError(
                f"{path}: {token} has vectors of {vectors.shape[-1]} numbers, learned with {base_name}, and "
                f"{checkpoint.facts['checkpoint']} needs {width}. Learn the token for this checkpoint."
            )
        if not torch.isfinite(vectors).all():
            raise FiguregroundError(f"{path}: the vectors of {token} hold NaN or infinity. Learn it again.")
    return _LearnedToken(path, token, rows, base_name)
