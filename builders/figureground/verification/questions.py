"""Questions to scorers: a dataset's foreground and background labels, with the words for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from figureground.core.names import name_key
from figureground.core.resources import find_resource
from figureground.data.words import make_words, read_words, with_article
from figureground.recipe.classes import ClassEntry, read_csv
from figureground.recipe.prompts import fill, read_templates
from figureground.shards.finished import FinishedDataset

FOREGROUND, BACKGROUND = "foreground", "background"
LABEL_COLUMNS = (FOREGROUND, BACKGROUND)
"""The label columns that scorers are asked about."""
PLAIN = "plain"
"""Background of images whose prompt names none."""


@dataclass(frozen=True)
class LabelQuestion:
    """A label column and its possible answers."""

    what: str
    """`foreground` or `background`."""
    labels: tuple[str, ...]
    """Names of all labels, in label order."""
    entries: tuple[ClassEntry | None, ...]
    """Words for each label; None for a label without words, such as a background that has no phrase."""

    def texts(self, file: str) -> list[list[str]]:
        """Return the texts of each label; empty for a label without words.

        Args:
            file: Name of a file of templates in `prompts/scorers/`, without the column and the suffix: `question-`.
        """
        templates = read_templates(str(find_resource("prompts/scorers") / f"{file}{self.what}.txt"))
        no_foreground = ClassEntry("", "")
        texts: list[list[str]] = []
        for entry in self.entries:
            if entry is None:
                texts.append([])
                continue
            entries = (entry, None) if self.what == FOREGROUND else (no_foreground, entry)
            texts.append(list(dict.fromkeys(with_article(fill(template, *entries)) for template in templates)))
        return texts


def read_questions(source: FinishedDataset) -> tuple[LabelQuestion, ...]:
    """Return the questions about a dataset's labels.

    Words come from the dataset's recipe, or those of the datasets that it was made from. A background that none of them
    knows has the phrase of the same name in `prompts/backgrounds`, or else no words.
    """
    nouns, phrases = (read_words(source.recipe, field) for field in ("classes", "backgrounds"))
    for path in sorted(find_resource("prompts/backgrounds").glob("*.csv")):
        for entry in read_csv(path, "backgrounds"):
            phrases.setdefault(name_key(entry.name), entry)
    foregrounds, backgrounds = source.columns.foregrounds, source.columns.backgrounds
    return (
        LabelQuestion(
            FOREGROUND, tuple(foregrounds), tuple(nouns.get(name_key(name), make_words(name)) for name in foregrounds)
        ),
        LabelQuestion(BACKGROUND, tuple(backgrounds), tuple(_find_phrase(name, phrases) for name in backgrounds)),
    )  # fmt: skip


def _find_phrase(name: str, phrases: Mapping[str, ClassEntry]) -> ClassEntry | None:
    entry = phrases.get(name_key(name))
    return None if entry is None or name_key(name) == PLAIN or not entry.text.strip() else entry
