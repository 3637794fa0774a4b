"""The three questions about a drawn image: its foreground, its background, its prop, and the prompts that ask them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from figureground.pocket import captions, world

NOTHING, PLAIN = "nothing", "plain"
"""Labels of images without a foreground or prop, and without a background."""
GROUPS: tuple[tuple[str, ...], ...] = (
    (*world.FOREGROUNDS, NOTHING), (*world.BACKGROUNDS, PLAIN), (*world.PROPS, NOTHING),
)  # fmt: skip
"""Labels of the three questions (foreground, background, prop), in order; the last of each says that there is none."""
STRAY = 0.15
"""Share of texts with a random word inserted, so that unknown wording around the noun is ignored."""

_SUBJECTS = (
    "{0}", "{1}", "the {0}", "one {0}", "a photo of {1}", "a photo of {1}", "a photo of the {0}", "a picture of {1}",
    "an image of {1}", "a drawing of {1}", "a nice photo of {1}", "a photo of a small {0}", "a photo of a big {0}",
    "a photo of {1}.", "this is a photo of {1}", "a photo of {1}, {2}", "{1}, {2}", "a scene with {1}",
)  # fmt: skip
"""Prompts for a noun: {0} is the noun, {1} the noun with its article, {2} its definition."""
_PLACES = (
    "{0}", "{1}", "a photo, {1}", "a photo {1}", "a scene, {1}", "a picture {1}", "a photo of a scene {1}",
    "a photo of an object, {1}", "an object {1}", "a photo of something {1}", "this photo is {1}", "a photo, {1}.",
    "a photo of the {0}", "an image with {0} background",
)  # fmt: skip
"""Prompts for a background: {0} is its name, {1} its phrase."""
_NO_OBJECT = (
    "nothing", "a photo of nothing", "a photo without an object", "a scene without an object",
    "a photo without a foreground", "a picture of a background without an object",
)  # fmt: skip
_NO_SCENE = (
    "plain", "a plain background", "on a plain background", "a photo, on a plain background",
    "a photo of an object on a plain background", "a photo without a scene",
)  # fmt: skip
_NO_PROP = ("nothing else", "a photo with nothing else", "without a thing next to it")


def list_prompts(group: int, label: str) -> list[str]:
    """Return all prompts for a label of one of `GROUPS`."""
    if group == 1:
        if label == PLAIN:
            return list(_NO_SCENE)
        return [template.format(label, captions.PHRASES[label]) for template in _PLACES]
    if label == NOTHING:
        return list((_NO_OBJECT, (), _NO_PROP)[group])
    articles = ("a", "an") if label[0] in "aeiou" else ("a",)
    definition = captions.DEFINITIONS.get(label)
    return [
        template.format(label, f"{article} {label}", definition)
        for template in _SUBJECTS
        for article in articles
        if definition or "{2}" not in template
    ]


_NOUNS = frozenset((*world.FOREGROUNDS, *world.BACKGROUNDS, *world.PROPS, *world.KINDS))


def is_true_of(caption: str, names: Sequence[str | None]) -> bool:
    """Return whether all that a caption names is among the names of what an image shows."""
    true_nouns = {*names, *(kind for kind, members in world.KINDS.items() if {*members} & {*names})}
    return _NOUNS.intersection(re.findall(r"\w+", caption)) <= true_nouns


_WORDS_FOR_NONE = ("without", "plain")
"""Spare words that prompts for none use."""


class Texts:
    """Tokens of texts; each is tokenised once."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self._tokenizer = tokenizer
        self._ids_by_text: dict[str, list[int]] = {}
        self._stray_words = [
            tokenizer(word).input_ids[1] for word in captions.SPARE_WORDS if word not in _WORDS_FOR_NONE
        ]

    def tokenize(self, texts: Sequence[str], rng: np.random.Generator | None = None) -> Tensor:
        """Return tokens, int64 (n, length), padded with the end token; with `rng`, some have a stray word."""
        rows = []
        for text in texts:
            if text not in self._ids_by_text:
                self._ids_by_text[text] = self._tokenizer(text).input_ids
            row = self._ids_by_text[text]
            if rng is not None and rng.random() < STRAY:
                position = int(rng.integers(1, len(row)))
                row = [*row[:position], int(rng.choice(self._stray_words)), *row[position:]]
            rows.append(row)
        longest = max(map(len, rows))
        return torch.tensor([row + [self._tokenizer.eos_token_id] * (longest - len(row)) for row in rows])


def to_labels(names: Sequence[str | None]) -> list[int]:
    """Return the positions in `GROUPS` of the names of foreground, background and prop; None is the last."""
    return [
        len(vocabulary) - 1 if name is None else vocabulary.index(name)
        for vocabulary, name in zip(GROUPS, names, strict=True)
    ]


def to_names(labels: Sequence[int]) -> list[str | None]:
    """Return the names at positions in `GROUPS`, None for the last of each: the inverse of `to_labels`."""
    return [vocabulary[i] if i < len(vocabulary) - 1 else None for vocabulary, i in zip(GROUPS, labels, strict=True)]
