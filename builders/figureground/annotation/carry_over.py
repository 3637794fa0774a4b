"""Carry people's answers into a curated copy, and compute anew what is known of its labels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from figureground.annotation.answers import ANNOTATIONS, REFERENCE, SUFFIX, Answers, make_header, read_all
from figureground.annotation.gold import GOLD
from figureground.annotation.labels import summarise
from figureground.annotation.population import Population
from figureground.annotation.sampling import SAMPLE
from figureground.core.files import check_regular, create_bytes, read_object
from figureground.core.tables import TextTable
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import LABELS


def carry(source: FinishedDataset, out: Path) -> None:
    """Copy the answers about the samples that a copy kept, and summarise them.

    Whether a sample is kept doesn't depend on who was asked about it, so the answers that are left are a random sample
    of what is left. Undone and replaced answers are left out, so lines are numbered anew. Files that the copy has
    already are kept, since people may have answered there.

    Args:
        source: The dataset that was copied.
        out: The finished copy.

    Raises:
        FiguregroundError: See `labels.summarise`.
    """
    files = read_all(source.directory)
    if not files and not (source.directory / LABELS).exists():
        return
    copy = FinishedDataset(out)
    identity, keys = copy.identity(), set(Population.from_dataset(copy).keys)
    for answers in files:
        _write_if_missing(out, f"{ANNOTATIONS}/{answers.annotator}{SUFFIX}", _format_answers(answers, keys, identity))
    if (source.directory / GOLD).exists():
        _write_if_missing(out, GOLD, _format_gold(source.directory, keys))
    if (source.directory / SAMPLE).exists():
        sample = read_object(source.directory / SAMPLE, root=source.directory)
        kept_keys = [key for key in sample.get("keys", []) if key in keys or str(key).startswith(REFERENCE)]
        _write_if_missing(out, SAMPLE, json.dumps({**sample, "dataset": identity, "keys": kept_keys}, indent=1) + "\n")
    summarise(out)


def _format_answers(answers: Answers, keys: Collection[str], identity: dict[str, Any]) -> str:
    """Return the file of an annotator with the answers about some samples, and about references."""
    lines = [make_header(identity, answers.annotator)]
    kept_answers = (
        answer for answer in answers.iter_current() if answer.key in keys or answer.key.startswith(REFERENCE)
    )
    for n, answer in enumerate(sorted(kept_answers, key=lambda answer: answer.n), 1):
        line = {
            "n": n, "key": answer.key, "question": answer.question, "answer": answer.answer, "time": answer.time,
        }  # fmt: skip
        lines.append(line if answer.seconds is None else {**line, "seconds": answer.seconds})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _format_gold(directory: Path, keys: Collection[str]) -> str:
    """Return the gold items about some samples, as CSV."""
    check_regular(directory / GOLD, root=directory)
    table = TextTable(directory / GOLD)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, table.header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for _, row in table.records() if row.get("key") in keys)
    return out.getvalue()


def _write_if_missing(out: Path, name: str, text: str) -> None:
    if not (out / name).exists():
        create_bytes(out / name, text.encode(), root=out)
