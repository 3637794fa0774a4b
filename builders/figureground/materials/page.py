"""The page on which people look through cut-outs and mark them; it saves the marks as a CSV for `--marks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from figureground.core.files import replace_text
from figureground.core.hashing import digest
from figureground.core.pages import render_page
from figureground.materials.decisions import Decision, count_reasons
from figureground.materials.sheet import thumbnail_path

PAGE = "cutouts.html"


def write_page(
    out: Path, private: Path, decisions: Sequence[Decision], counts: Mapping[str, Mapping[str, int]]
) -> None:
    """Write `cutouts.html`.

    Args:
        out: Directory of the cut-outs.
        private: Its hidden folder, with the thumbnails.
        decisions: By class.
        counts: Numbers by class folder.
    """
    classes = [
        {"name": folder, **counts[folder], "items": [_describe_item(out, private, decision) for decision in in_class]}
        for folder, in_class in groupby(decisions, lambda decision: decision.folder)
    ]
    # Marks that the browser remembers belong to these cut-outs alone.
    store = digest([[decision.row.file, decision.row.inputs] for decision in decisions])[:16]
    page = render_page(
        "cutouts.html.jinja", {"percent": lambda share: f"{share:.0%}"},
        name=out.resolve().name, classes=classes, left=count_reasons(counts), store=store,
        kept=sum(decision.is_kept for decision in decisions), total=len(decisions),
    )  # fmt: skip
    replace_text(out / PAGE, page)


def _describe_item(out: Path, private: Path, decision: Decision) -> dict[str, Any]:
    row = decision.row
    path = thumbnail_path(private, row.cutout) if row.cutout else None
    has_thumbnail = path is not None and path.is_file()
    return {
        "file": row.file, "name": row.file.partition("/")[2], "kept": decision.is_kept, "reasons": decision.reasons,
        "mark": decision.mark, "can_keep": row.measures is not None, "measures": row.measures,
        "src": quote(path.relative_to(out).as_posix()) if path is not None and has_thumbnail else None,
    }  # fmt: skip
