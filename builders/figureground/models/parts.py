"""Configuration files of the parts of a diffusion checkpoint, and whether parts fit together. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import read_json


def has_part(index: Mapping[str, Any], part: str) -> bool:
    """Return whether a checkpoint has a part, which its index may name as empty."""
    return index.get(part, [None])[0] is not None


def check_channels(
    unet: Mapping[str, Any], vae: Mapping[str, Any], what: str, inpaint: bool, kind: str = "UNet"
) -> None:
    """Check a UNet's channels: a latent; for inpainting also a mask and the masked image's latent.

    Args:
        unet, vae: Configurations.
        what: The checkpoint's name in errors.
        inpaint: Whether it may also take a mask and a masked image.
        kind: The denoiser's name in errors.
    """
    latent = vae.get("latent_channels", 4)
    channels, out = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if channels != latent and not (inpaint and channels == 2 * latent + 1):
        raise FiguregroundError(
            f"{what}: its {kind} takes {channels} channels, but its VAE's latents have {latent}"
            + (f" ({2 * latent + 1} for inpainting). Choose another checkpoint." if inpaint else
               ". An inpainting checkpoint can't do image-to-image.")
        )  # fmt: skip
    if out != latent:
        raise FiguregroundError(f"{what}: its {kind} outputs {out} channels, but a latent of its vae has {latent}.")


def check_widths(unet: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]], what: str) -> None:
    """Check that a UNet's cross-attention is as wide as the text encoders together."""
    expected = unet.get("cross_attention_dim", 1280)
    widths = {name: text.get("hidden_size") for name, text in texts.items()}
    are_known = all(isinstance(width, int) for width in widths.values())
    if unet.get("encoder_hid_dim") is None and isinstance(expected, int) and widths and are_known:
        total = sum(width for width in widths.values() if isinstance(width, int))
        if total != expected:
            terms = " + ".join(f"{width} ({name})" for name, width in widths.items())
            raise FiguregroundError(
                f"{what}: its UNet takes text of width {expected} (cross_attention_dim), but its text encoders output "
                f"{terms}."
            )


def check_words(vocabulary: Mapping[str, int], rows: int, what: str) -> None:
    """Refuse a tokenizer with a word that has no row in the text encoder; using the word would fail.

    Args:
        vocabulary: Words and their numbers.
        rows: Number of rows of the text encoder's table.
        what: Name of both in errors, such as `checkpoint 'mine': tokenizer and text_encoder`.

    Raises:
        FiguregroundError: A word has no row; names the one with the highest number.
    """
    word, number = max(vocabulary.items(), key=lambda item: item[1], default=("", -1))
    if number >= rows:
        raise FiguregroundError(
            f"{what} don't fit: {json.dumps(word)} is number {number} in the tokenizer, but the text encoder has only "
            f"{rows:,} rows. They belong to different models, or the encoder wasn't saved after the word was added."
        )


def pixels_a_latent(folder: Path) -> int:
    """Return the number of image pixels per latent pixel along an edge, by the autoencoder's config."""
    blocks = read_json(folder / "vae" / "config.json").get("block_out_channels", [0] * 4)
    return 2 ** (len(blocks) - 1)


def read_token_limit(folder: Path, encoder: str) -> int | None:
    """Return the number of tokens that a text encoder reads, by its configuration; None if not stated."""
    try:
        limit = read_config(folder, encoder).get("max_position_embeddings", 77)
    except (OSError, ValueError):
        return None
    return limit if isinstance(limit, int) else None


def limit_tokens(tokenizer: Any, limit: int | None) -> None:
    """Lower a tokenizer's limit to that of its text encoder.

    A tokenizer saved without `model_max_length` has the limit 10^30; padding to it overflows.
    """
    if limit is not None:
        tokenizer.model_max_length = min(int(tokenizer.model_max_length), limit)


def read_config(folder: Path, part: str) -> dict[str, Any]:
    content = read_json(folder / part / "config.json")
    return content if isinstance(content, dict) else {}


def find_text_config(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a configuration that is about text, for models that also read images."""
    text_config = text.get("text_config")
    return text_config if isinstance(text_config, dict) else {}


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Return a tokenizer's words and numbers, including added ones, from the files it has."""
    numbers: dict[str, Any] = {}
    path = folder / "tokenizer.json"
    content = read_mapping(path)
    if content:
        model = content.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, list):  # pairs of words and their scores, in the order of their numbers
            vocabulary = {str(word[0]): i for i, word in enumerate(vocabulary) if isinstance(word, list) and word}
        numbers |= vocabulary if isinstance(vocabulary, dict) else {}
        added_tokens = content.get("added_tokens")
        numbers |= (
            {str(t.get("content")): t.get("id") for t in added_tokens if isinstance(t, dict)} if added_tokens else {}
        )
    else:
        numbers |= read_mapping(folder / "vocab.json")
    numbers |= read_mapping(folder / "added_tokens.json")
    decoder = read_mapping(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and str(number).isdigit():
            numbers[str(token.get("content"))] = int(number)
    return {word: number for word, number in numbers.items() if isinstance(number, int)}


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; empty if unreadable, which opening the model reports."""
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
