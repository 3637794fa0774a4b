"""The list of all photographs with numbers and reasons, a summary, and the photographs' licence and credits."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from figureground.core.files import read_bytes, replace_bytes, replace_text
from figureground.materials.decisions import Decision, count_reasons
from figureground.materials.gates import Measures
from figureground.materials.journal import MADE_BY
from figureground.sources.provenance import format_credits, read_license, read_source

LIST, FACTS, CREDITS = "cutouts.csv", "cutouts.json", "ATTRIBUTION.csv"
MEASURES = tuple(each.name for each in fields(Measures))
COLUMNS = ("file", "cutout", "kept", "reasons", "mark", "found", "width", "height", "box", *MEASURES)
"""Columns of the list. `--marks` reads `file` and `mark`."""


def write_lists(
    out: Path,
    decisions: Sequence[Decision],
    counts: Mapping[str, Mapping[str, int]],
    photographs: Path,
    settings: Mapping[str, Any],
) -> None:
    """Write `cutouts.csv`, `cutouts.json`, and the licence and credits that the directory of photographs has.

    Args:
        out: Directory of the cut-outs.
        decisions: One for each photograph.
        counts: Numbers by class folder.
        photographs: Directory of the photographs.
        settings: Settings of the run, JSON-able.
    """
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(map(_to_columns, decisions))
    replace_text(out / LIST, text.getvalue())
    _copy_rights(out, decisions, photographs)
    facts = {
        "made_by": MADE_BY, "photographs": len(decisions), "kept": sum(each.is_kept for each in decisions),
        "left_out": count_reasons(counts), "classes": counts, "settings": settings,
    }  # fmt: skip
    replace_text(out / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def _to_columns(decision: Decision) -> dict[str, Any]:
    row = decision.row
    measures = row.measures.to_json() if row.measures else {}
    return {
        "file": row.file, "cutout": row.cutout if decision.is_kept else "", "kept": "yes" if decision.is_kept else "no",
        "reasons": "; ".join(decision.reasons), "mark": decision.mark, "found": row.found,
        "width": row.size[0] or "", "height": row.size[1] or "",
        "box": " ".join(map(str, row.box)) if row.measures else "", **measures,
    }  # fmt: skip


def _copy_rights(out: Path, decisions: Sequence[Decision], photographs: Path) -> None:
    """Copy the licence, and the credits under the names of the cut-outs."""
    name = read_license(photographs)[1]
    if name:
        replace_bytes(out / name, read_bytes(photographs / name))
    cutout_of = {each.row.file: each.row.cutout for each in decisions if each.is_kept}
    _, credits = read_source("photographs", photographs, (photographs / file for file in cutout_of))
    if credits:
        renamed = [dataclasses.replace(credit, file=cutout_of[credit.file]) for credit in credits]
        replace_text(out / CREDITS, format_credits(renamed))
