"""Whether the parts of a diffusion checkpoint fit each other, told from their configuration files. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import read_json

TIME_IDS = 6
"""Numbers that SDXL is told of an image: its size, where it was cropped, and the size wanted."""


def check_parts(folder: Path, index: Mapping[str, Any], what: str, inpaint: bool) -> None:
    """Refuse a checkpoint whose parts were made for other parts.

    Compared are the UNet's channels with the autoencoder's latents, its cross-attention with the width of the text
    encoders, SDXL's projection with the second text encoder's, and each tokenizer's words with the rows of its text
    encoder: a word without a row would be an index out of range while something is drawn.

    Args:
        folder: Where it lies; its configuration files are there and parse.
        index: As `weights.read_index` gives it.
        what: What errors call it.
        inpaint: Whether a UNet may take a mask and a masked image too.

    Raises:
        FiguregroundError: Two parts don't fit; it names both and their sizes.
    """
    unet, vae = _config(folder, "unet"), _config(folder, "vae")
    _check_channels(unet, vae, what, inpaint)
    encoders = [name for name in ("text_encoder", "text_encoder_2") if index.get(name, [None])[0] is not None]
    texts = {name: _config(folder, name) for name in encoders}
    _check_widths(unet, texts, what)
    for name, text in texts.items():
        tokenizer = name.replace("text_encoder", "tokenizer")
        rows = text.get("vocab_size")
        if not isinstance(rows, int) or index.get(tokenizer, [None])[0] is None:
            continue
        check_words(_vocabulary(folder / tokenizer), rows, f"{what}: its {tokenizer} and {name}")


def _check_channels(unet: Mapping[str, Any], vae: Mapping[str, Any], what: str, inpaint: bool) -> None:
    """A UNet reads a latent; one made for inpainting a mask and the masked image's latent as well."""
    latent = vae.get("latent_channels", 4)
    channels, out = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if channels != latent and not (inpaint and channels == 2 * latent + 1):
        raise FiguregroundError(
            f"{what}: its UNet takes {channels} channels, not the {latent} of a latent"
            + (f" or the {2 * latent + 1} of inpainting." if inpaint else
               "; an inpainting checkpoint can't do image-to-image.")
        )  # fmt: skip
    if out != latent:
        raise FiguregroundError(f"{what}: its UNet gives {out} channels, and a latent of its vae has {latent}.")


def _check_widths(unet: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]], what: str) -> None:
    wanted = unet.get("cross_attention_dim", 1280)
    widths = {name: text.get("hidden_size") for name, text in texts.items()}
    known = all(isinstance(width, int) for width in widths.values())
    if unet.get("encoder_hid_dim") is None and isinstance(wanted, int) and widths and known:
        given = sum(width for width in widths.values() if isinstance(width, int))
        if given != wanted:
            said = " + ".join(f"{width} ({name})" for name, width in widths.items())
            raise FiguregroundError(
                f"{what}: its UNet reads text {wanted} numbers wide (cross_attention_dim), and its text encoders give "
                f"{said}."
            )
    if "text_encoder_2" not in texts or unet.get("addition_embed_type") != "text_time":
        return
    pooled = texts["text_encoder_2"].get("projection_dim", 512)
    each, takes = unet.get("addition_time_embed_dim"), unet.get("projection_class_embeddings_input_dim")
    if isinstance(each, int) and isinstance(takes, int) and pooled + TIME_IDS * each != takes:
        raise FiguregroundError(
            f"{what}: its UNet takes {takes} numbers of an image (projection_class_embeddings_input_dim), and "
            f"text_encoder_2 gives {pooled} (projection_dim) + {TIME_IDS} × {each} (addition_time_embed_dim)."
        )


def check_words(vocabulary: Mapping[str, int], rows: int, what: str) -> None:
    """Refuse a tokenizer with a word for which a text encoder has no row: it would fail when the word is first used.

    Args:
        vocabulary: Words and their numbers.
        rows: Of the text encoder's table.
        what: What errors call the two, such as `checkpoint 'mine': tokenizer and text_encoder`.

    Raises:
        FiguregroundError: There is such a word; it names the one with the highest number.
    """
    word, number = max(vocabulary.items(), key=lambda item: item[1], default=("", -1))
    if number >= rows:
        raise FiguregroundError(
            f"{what} don't fit: the tokenizer knows {json.dumps(word)} as number {number}, and the text encoder has "
            f"{rows:,} rows. They belong to different models, or the encoder wasn't saved after the word was added."
        )


def positions(folder: Path, encoder: str = "text_encoder") -> int | None:
    """How many tokens a text encoder reads, by its configuration; None where it doesn't say."""
    try:
        most = _config(folder, encoder).get("max_position_embeddings", 77)
    except (OSError, ValueError):
        return None
    return most if isinstance(most, int) else None


def limit_tokens(tokenizer: Any, most: int | None) -> None:
    """Make a tokenizer's limit the lesser of its own and its text encoder's.

    A tokenizer saved without `model_max_length` has 10^30, with which padding to the limit overflows.
    """
    if most is not None:
        tokenizer.model_max_length = min(int(tokenizer.model_max_length), most)


def _config(folder: Path, part: str) -> dict[str, Any]:
    content = read_json(folder / part / "config.json")
    return content if isinstance(content, dict) else {}


def _vocabulary(folder: Path) -> dict[str, int]:
    """A tokenizer's words and their numbers, added ones too, from whichever files it has."""
    found: dict[str, Any] = {}
    whole = folder / "tokenizer.json"
    content = read_mapping(whole)
    if content:
        model = content.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        found |= vocabulary if isinstance(vocabulary, dict) else {}
        added = content.get("added_tokens")
        found |= {str(t.get("content")): t.get("id") for t in added if isinstance(t, dict)} if added else {}
    else:
        found |= read_mapping(folder / "vocab.json")
    found |= read_mapping(folder / "added_tokens.json")
    decoder = read_mapping(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and str(number).isdigit():
            found[str(token.get("content"))] = int(number)
    return {word: number for word, number in found.items() if isinstance(number, int)}


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; an empty one where it can't be read, which whoever opens the model says."""
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
