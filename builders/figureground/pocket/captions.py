"""Captions of the pocket world's images, and a tokenizer with a small vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from transformers import CLIPTokenizer

from figureground.pocket import world

PHRASES = {
    "grass": "on grass", "road": "on a road", "forest": "in a forest", "water": "in water", "sand": "in sand",
    "indoors": "indoors", "snow": "in snow", "rain": "in rain", "night": "at night", "cave": "in a cave",
}  # fmt: skip
"""The phrase for each background in prompts, from D3S (arXiv 2211.10370)."""

DEFINITIONS = {
    "bird": "an animal with wings", "fish": "an animal with fins", "cat": "an animal with whiskers",
    "snail": "an animal with a shell", "car": "a vehicle with wheels", "boat": "a vehicle with sails",
    "rocket": "a vehicle with an engine", "cactus": "a plant with spines", "mug": "a thing with a handle",
    "umbrella": "a thing that opens",
}  # fmt: skip

SPARE_WORDS = [
    "the",
    "this",
    "that",
    "picture",
    "drawing",
    "image",
    "of",
    "by",
    "near",
    "under",
    "over",
    "next",
    "to",
    "and",
    "without",
    "small",
    "big",
    "red",
    "orange",
    "yellow",
    "green",
    "teal",
    "blue",
    "purple",
    "pink",
    "brown",
    "white",
    "grey",
    "black",
    "striped",
    "dotted",
    "plain",
    "beach",
    "mountain",
    "garden",
    "market",
    "city",
    "field",
    "street",
    "sky",
    "sea",
    "river",
    "tree",
    "house",
    "dog",
    "horse",
    "person",
    "object",
    "scene",
    "background",
    "foreground",
    "very",
    "nice",
    "good",
    "little",
    "one",
    "two",
    "three",
]
"""Words that no caption uses, in the tokenizer's vocabulary so that prompts with them stay short."""

_MAX_TOKENS = 77


class CaptionedImage(NamedTuple):
    """Names of one training image's content, and its caption."""

    foreground: str | None
    background: str | None
    prop: str | None
    caption: str


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


KINDS_OF_IMAGE = (
    # foreground, background, prop, share
    (True, True, False, 0.22),
    (True, True, True, 0.35),
    (True, False, False, 0.03),
    (True, False, True, 0.07),
    (False, True, False, 0.03),
    (False, True, True, 0.20),
    (False, False, True, 0.10),
)
"""Kinds of training images for judges and the autoencoder, and the share of each."""
_SUPERORDINATE = 0.10
"""Share of images with a foreground whose caption uses a superordinate noun such as `animal` instead of its name."""


class Mixture(NamedTuple):
    """Frequencies of the kinds of images, and of the names in them."""

    kinds: tuple[tuple[bool, bool, bool, float], ...] = KINDS_OF_IMAGE
    """Presence of a foreground, a background and a prop, and the share of such images."""
    weights: Mapping[str, float] = MappingProxyType({})
    """Relative frequency of a foreground or a prop; 1 for missing names."""

    def pick(self, names: Sequence[str], rng: np.random.Generator) -> str:
        """Return a random name, weighted by `weights`."""
        weights = np.array([self.weights.get(name, 1.0) for name in names])
        return str(rng.choice(names, p=weights / weights.sum() if self.weights else None))


UNIFORM = Mixture()


def sample(rng: np.random.Generator, mixture: Mixture = UNIFORM) -> CaptionedImage:
    """Sample the content of an image and one of its captions. A prop's look is never mentioned."""
    kinds = mixture.kinds
    has_foreground, has_background, has_prop, _ = kinds[rng.choice(len(kinds), p=[k[-1] for k in kinds])]
    foreground = mixture.pick(world.FOREGROUNDS, rng) if has_foreground else None
    background = mixture.pick(world.BACKGROUNDS, rng) if has_background else None
    prop = mixture.pick(world.PROPS, rng) if has_prop else None
    return CaptionedImage(foreground, background, prop, describe(foreground, background, prop, rng))


def describe(foreground: str | None, background: str | None, prop: str | None, rng: np.random.Generator) -> str:
    """Return one of the training captions for an image with these names."""
    start = ("a photo of ", "a photo of ", "a picture of ", "")[rng.integers(4)]
    noun, definition = foreground, ""
    if foreground:
        if rng.random() < _SUPERORDINATE:
            noun = next(kind for kind, members in world.KINDS.items() if foreground in members)
        elif rng.random() < 0.3:
            definition = ", " + DEFINITIONS[foreground]
    if noun:
        article = f"a {noun}" if rng.random() < 0.3 else _article(noun)
        subject = article + definition + (f" with {_article(prop)}" if prop else "")
    elif prop:
        subject = _article(prop)
    else:
        subject = "a scene" if rng.random() < 0.5 else ""
    if not background:
        return start + subject
    comma = ", " if rng.random() < 0.6 else " "
    if not subject:
        return "a photo" + comma + PHRASES[background]
    return start + subject + comma + PHRASES[background]


def list_words() -> list[str]:
    """Return all words that are single tokens, in a fixed order."""
    nouns = [*world.FOREGROUNDS, *world.BACKGROUNDS, *world.PROPS, *world.KINDS]
    text = " ".join([*PHRASES.values(), *DEFINITIONS.values(), "a an photo picture of with scene , ."])
    return list(dict.fromkeys([*nouns, *text.replace(",", " , ").split(), *SPARE_WORDS]))


def write_tokenizer(directory: Path) -> CLIPTokenizer:
    """Write a byte-level CLIP tokenizer into `directory` and open it.

    Each of `list_words()` is one token; other words are split into pieces. So no text is unknown, and new tokens can be
    appended.
    """
    characters = _list_byte_characters()
    vocabulary = [*characters, *(c + "</w>" for c in characters)]
    merges: list[str] = []
    for word in list_words():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # join from the right, so that no word's merges break another's
            pair = f"{pieces[-2]} {pieces[-1]}"
            if pair not in merges:
                merges.append(pair)
                vocabulary.append(pieces[-2] + pieces[-1])
            pieces[-2:] = [pieces[-2] + pieces[-1]]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    directory.mkdir(parents=True, exist_ok=True)
    index = {token: i for i, token in enumerate(vocabulary)}
    (directory / "vocab.json").write_text(json.dumps(index, ensure_ascii=False))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(vocab=index, merges=[tuple(m.split()) for m in merges], model_max_length=_MAX_TOKENS)
    tokenizer.save_pretrained(directory)
    return tokenizer


def _list_byte_characters() -> list[str]:
    """Return the 256 printable characters that represent bytes in byte-level tokenizers, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]
