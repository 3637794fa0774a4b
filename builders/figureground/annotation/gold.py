"""Gold items: images whose answers are known, mixed in unseen to estimate annotators' error rates."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from figureground.annotation.answers import ANNOTATIONS, ANSWERS, FLAGS, QUESTIONS
from figureground.core.errors import FiguregroundError, join_names, printable, suggest_or_list
from figureground.core.files import LEADS_OUTSIDE, FileError, leads_outside
from figureground.core.tables import TextTable, UnreadableText

GOLD = f"{ANNOTATIONS}/gold.csv"

Gold = dict[tuple[str, str], str]
"""The known answer by key and question."""


def read_gold(directory: Path) -> Gold:
    """Return the known answers in `_figureground/annotations/gold.csv`, with the columns `key,question,answer`.

    Args:
        directory: The dataset. Without the file, there are none.

    Raises:
        FiguregroundError: The file can't be read, or a row is wrong; names line and column.
    """
    path = directory / GOLD
    if not path.exists():
        return {}
    if leads_outside(path, directory):
        raise FileError(path, LEADS_OUTSIDE)
    try:
        table = TextTable(path)
        table.require("key", "question", "answer")
        rows = list(table.records())
    except UnreadableText as error:
        raise FiguregroundError(f"{ANNOTATIONS}/{error}") from None
    gold: Gold = {}
    for line, row in rows:
        where = f"{GOLD}, line {line}"
        for column, allowed in (("question", QUESTIONS), ("answer", ANSWERS)):
            if row[column] not in allowed:
                hint = suggest_or_list(row[column], allowed)
                raise FiguregroundError(f"{where}: {column} can't be {printable(row[column])!r}{hint}")
        item = (row["key"], row["question"])
        if gold.setdefault(item, row["answer"]) != row["answer"]:
            raise FiguregroundError(f"{where}: {' '.join(item)} has two different answers. Keep one.")
    return gold


def check_gold(gold: Gold, keys: Collection[str], names: Collection[str]) -> None:
    """Check that gold items are about images and questions of this dataset.

    Args:
        gold: The known answers.
        keys: Those of its keys that the dataset has.
        names: Questions that the dataset's images can have.

    Raises:
        FiguregroundError: A key or a question is none of the dataset's; names it.
    """
    no_image = sorted({key for key, _ in gold} - set(keys))
    if no_image:
        raise FiguregroundError(
            f"{GOLD}: the dataset has no image {join_names(map(printable, no_image), 3)}. Remove these rows, or copy "
            "keys from the column `key` of the dataset."
        )
    no_question = sorted({question for _, question in gold} - {*names, *FLAGS})
    if no_question:
        raise FiguregroundError(
            f"{GOLD}: this dataset has no question {join_names(no_question)}. Remove these rows; its questions are "
            f"{join_names([*names, *FLAGS])}."
        )
