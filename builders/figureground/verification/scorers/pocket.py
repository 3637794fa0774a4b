"""The scorer `clip` with the bundled matcher of the pocket world's images and captions.

Besides the dataset's labels, an image may show another object or background of the pocket world, or none: these answers
share the probability with the labels. Features are averaged over six views of an image, because what the network sees
depends on where the borders of its patches lie.

A label is left out if its words name nothing of the pocket world: the network has never seen what it means.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.errors import FiguregroundError, UsageError, join_names
from figureground.core.names import name_key
from figureground.core.resources import find_resource
from figureground.models.bundled import MATCHER
from figureground.pocket import world
from figureground.recipe.classes import read_csv
from figureground.recipe.prompts import read_templates
from figureground.verification.questions import FOREGROUND, LabelQuestion
from figureground.verification.scorer import Options
from figureground.verification.scorers.clip import ClipScorer

if TYPE_CHECKING:
    from torch import Tensor


WORLD_NAMES = frozenset({*world.FOREGROUNDS, *world.BACKGROUNDS, *world.PROPS})
"""Names of everything that the network has seen."""


class PocketScorer(ClipScorer):
    """Knows drawn images only: its answers about photographs mean nothing."""

    KIND: ClassVar[str] = "pocket"
    TEXTS: ClassVar[str] = "pocket-"

    def __init__(self, id: str, questions: Sequence[LabelQuestion], options: Options):
        if id:
            raise UsageError(f"--scorer pocket:{id}: 'pocket' has no id. For another model, give clip:{id}.")
        if not (MATCHER / "config.json").is_file():
            raise FiguregroundError(
                "--scorer pocket: the pocket's matcher is missing from this install. Reinstall figureground."
            )
        super().__init__(id, questions, options)

    @property
    def model(self) -> str:
        return str(MATCHER)

    def identify(self) -> dict[str, Any]:
        texts = {question.what: self.label_texts(question) for question in self.questions}
        if not any(any(label_texts) for label_texts in texts.values()):
            foregrounds, backgrounds = (join_names(question.labels, 3) for question in self.questions)
            raise FiguregroundError(
                f"--scorer pocket knows none of the foregrounds ({foregrounds}) and none of the backgrounds "
                f"({backgrounds}), only the drawn objects and backgrounds of the pocket model. Give another scorer, "
                "such as clip:ID."
            )
        return super().identify()

    def label_texts(self, question: LabelQuestion) -> list[list[str]]:
        known = tuple(entry if entry and _find_world(entry.text) else None for entry in question.entries)
        return dataclasses.replace(question, entries=known).texts(self.TEXTS)

    def other_texts(self, question: LabelQuestion) -> list[list[str]]:
        none_texts = read_templates(str(find_resource("prompts/scorers") / f"{self.TEXTS}{question.what}-none.txt"))
        list_kind, name = ("classes", "pocket") if question.what == FOREGROUND else ("backgrounds", "d3s")
        labels = set(map(name_key, question.labels))
        # What a label of another name means, such as kitty, is no other answer.
        meant = frozenset[str]().union(*(_find_world(entry.text) for entry in question.entries if entry))
        entries = [
            entry
            for entry in read_csv(find_resource(f"prompts/{list_kind}/{name}.csv"), list_kind)
            if name_key(entry.name) not in labels and meant.isdisjoint(_find_world(entry.text))
        ]
        others = dataclasses.replace(question, labels=tuple(entry.name for entry in entries), entries=tuple(entries))
        return [[template.text for template in none_texts], *others.texts(self.TEXTS)]

    def views(self, pixels: Tensor) -> list[Tensor]:
        from figureground.pocket import matcher

        return matcher.make_views(pixels)


def _find_world(text: str) -> frozenset[str]:
    """Return what a text names of the pocket world."""
    return WORLD_NAMES & set(re.findall("[a-z]+", text.lower()))
