"""Checks of a concept's words: a rare identifier for [V], a meaningful noun, and prompts that aren't truncated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.finetune.preflight import check_names

FIRST_RARE_ID = 40_000
"""Tokenizers number their pieces by frequency; of CLIP's 49,408 pieces, those below this number are common words."""
_WORD_END = re.compile(r"\w{3,}</w>")
"""Pattern of a word-final piece of three letters or more."""


def check_words(
    tokenizers: Sequence[Any], identifier: str, texts: Mapping[str, str], prompts: Mapping[str, str]
) -> None:
    """Check that the identifier has no meaning yet, and that no prompt is truncated.

    Args:
        texts: Texts that must not contain the identifier, including `the noun` and `the class`.
        prompts: Filled prompts by their source.

    Raises:
        RecipeError: The identifier isn't a single word, occurs in the noun, class or a prompt, or is a word that the
            tokenizer knows; or the noun has no tokens.
        FiguregroundError: A prompt is longer than the text encoder's limit.
    """
    noun = texts["the noun"]
    check_names(noun, texts["the class"], identifier)
    for tokenizer in tokenizers:
        if not _tokenize(tokenizer, noun):
            raise RecipeError("noun", f"{noun!r} has no tokens in the checkpoint's tokenizer; give another word.")
        _check_free(tokenizer, identifier, texts)
        for source, text in prompts.items():
            count, limit = len(tokenizer(text).input_ids), int(tokenizer.model_max_length)
            if count > limit:
                raise FiguregroundError(
                    f"{source} has {count} tokens, but the text encoder reads {limit}: {text[:200]!r}"
                )


def _check_free(tokenizer: Any, identifier: str, texts: Mapping[str, str]) -> None:
    pieces = _tokenize(tokenizer, identifier)
    if not pieces:
        raise RecipeError("identifier", f"{identifier!r} has no tokens in the checkpoint's tokenizer; use 'sks'.")
    shared = {piece for piece in pieces if _WORD_END.fullmatch(piece)}
    for source, text in texts.items():
        if identifier.casefold() in split_words(text) or shared & set(_tokenize(tokenizer, text)):
            raise RecipeError("identifier", f"{identifier!r} collides with {source}, {text!r}. Use a rare word.")
    number = tokenizer.convert_tokens_to_ids(pieces[0])
    if len(pieces) == 1 and number < FIRST_RARE_ID:
        raise RecipeError(
            "identifier",
            f"{identifier!r} is a word that the checkpoint knows (number {number:,} of its {len(tokenizer):,}, the "
            "most common first), so it already has a meaning. Use a rare one such as 'sks'.",
        )


def _tokenize(tokenizer: Any, text: str) -> list[str]:
    return list(tokenizer.tokenize(text))


def split_words(text: str) -> set[str]:
    """Return the words of a text, in lower case."""
    return set(re.findall(r"\w+", text.casefold()))


def contains_identifier(text: str, identifier: str) -> bool:
    """Whether a caption contains the identifier or its placeholder."""
    return "{V}" in text or identifier.casefold() in split_words(text)


def check_captions(captions: Iterable[tuple[str, str | None]], identifier: str) -> None:
    """Raise FiguregroundError for captions (file, text) without the identifier, or with an unknown placeholder."""
    captions = list(captions)
    for name, text in captions:
        if stray := re.findall(r"[{}]", (text or "").replace("{V}", "").replace("{noun}", "")):
            raise FiguregroundError(
                f"the caption of {name} has an unknown placeholder {stray[0]!r}; known are {{V}} and {{noun}}."
            )
    missing = [name for name, text in captions if text is not None and not contains_identifier(text, identifier)]
    if missing:
        raise FiguregroundError(
            f"the caption of {missing[0]} has neither {{V}} nor {identifier!r}, so nothing could be learned from the "
            f"image. Put {{V}} in place of the identifier, as in 'a photo of a {{V}} {{noun}} at night'"
            + (f" ({len(missing)} captions lack it)." if len(missing) > 1 else ".")
        )
