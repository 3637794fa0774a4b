"""The words of a concept: a rare one for [V], a noun that says something, prompts that are read to their end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.finetune.door import check_names

COMMON = 40_000
"""A tokenizer numbers its pieces by how frequent they are; of CLIP's 49,408 those before this one are well known."""
_WHOLE = re.compile(r"\w{3,}</w>")
"""A piece of three letters or more that ends a word."""


def check_words(tokenizers: Sequence[Any], identifier: str, named: Mapping[str, str], told: Mapping[str, str]) -> None:
    """Makes sure that the identifier is free to mean something new, and that every prompt is read whole.

    Args:
        named: What the identifier mustn't be a word of, `the noun` and `the class` among it.
        told: The prompts in use, already filled, by where each stands.

    Raises:
        RecipeError: The identifier is no single word, is one that the noun, the class or a prompt has, or one that
            the tokenizer knows as a word; or the noun is nothing to the tokenizer.
        FiguregroundError: A prompt is longer than what the text encoder reads.
    """
    noun = named["the noun"]
    check_names(noun, named["the class"], identifier)
    for tokenizer in tokenizers:
        if not _pieces(tokenizer, noun):
            raise RecipeError("noun", f"to the checkpoint's tokenizer {noun!r} is nothing; give another word for it.")
        _check_free(tokenizer, identifier, named)
        for where, text in told.items():
            count, most = len(tokenizer(text).input_ids), int(tokenizer.model_max_length)
            if count > most:
                raise FiguregroundError(
                    f"{where} has {count} tokens, and the text encoder reads {most}: {text[:200]!r}"
                )


def _check_free(tokenizer: Any, identifier: str, named: Mapping[str, str]) -> None:
    pieces = _pieces(tokenizer, identifier)
    if not pieces:
        raise RecipeError("identifier", f"to the checkpoint's tokenizer {identifier!r} is nothing; take 'sks'.")
    shared = {piece for piece in pieces if _WHOLE.fullmatch(piece)}
    for what, text in named.items():
        if identifier.casefold() in words(text) or shared & set(_pieces(tokenizer, text)):
            raise RecipeError("identifier", f"{identifier!r} collides with {what}, {text!r}. Take a rare word.")
    number = tokenizer.convert_tokens_to_ids(pieces[0])
    if len(pieces) == 1 and number < COMMON:
        raise RecipeError(
            "identifier",
            f"{identifier!r} is a word that the checkpoint knows (number {number:,} of its {len(tokenizer):,}, the "
            "commonest first), so it means something already. Take a rare one as 'sks'.",
        )


def _pieces(tokenizer: Any, text: str) -> list[str]:
    return list(tokenizer.tokenize(text))


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(re.findall(r"\w+", text.casefold()))


def says(text: str, identifier: str) -> bool:
    """Whether a caption has a place for the identifier, or says it."""
    return "{V}" in text or identifier.casefold() in words(text)


def check_captions(captions: Iterable[tuple[str, str | None]], identifier: str) -> None:
    """Raises FiguregroundError for captions (file, text) by which nothing would tie the image to the identifier.

    And for those with a place that nothing fills.
    """
    captions = list(captions)
    for name, text in captions:
        if stray := re.findall(r"[{}]", (text or "").replace("{V}", "").replace("{noun}", "")):
            raise FiguregroundError(
                f"the caption of {name} has a {stray[0]!r} that nothing fills; known are {{V}} and {{noun}}."
            )
    without = [name for name, text in captions if text is not None and not says(text, identifier)]
    if without:
        raise FiguregroundError(
            f"the caption of {without[0]} has neither {{V}} nor {identifier!r} in it, so the image would teach "
            "nothing of the concept. Put {V} where the identifier goes, as in 'a photo of a {V} {noun} at night'"
            + (f" ({len(without)} captions lack it)." if len(without) > 1 else ".")
        )
