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
from figureground.materials.deciding import Decision, reasons_of
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
        {"name": folder, **counts[folder], "items": [_item(out, private, each) for each in several]}
        for folder, several in groupby(decisions, lambda each: each.folder)
    ]
    # Marks that the browser remembers belong to these cut-outs alone.
    store = digest([[each.row.file, each.row.inputs] for each in decisions])[:16]
    page = render_page(
        "cutouts.html.jinja", {"percent": lambda share: f"{share:.0%}"},
        name=out.resolve().name, classes=classes, left=reasons_of(counts), store=store,
        kept=sum(each.kept for each in decisions), total=len(decisions),
    )  # fmt: skip
    replace_text(out / PAGE, page)


def _item(out: Path, private: Path, decision: Decision) -> dict[str, Any]:
    row = decision.row
    path = thumbnail_path(private, row.cutout) if row.cutout else None
    shown = path is not None and path.is_file()
    return {
        "file": row.file, "name": row.file.partition("/")[2], "kept": decision.kept, "reasons": decision.reasons,
        "mark": decision.mark, "can_keep": row.measures is not None, "measures": row.measures,
        "src": quote(path.relative_to(out).as_posix()) if path is not None and shown else None,
    }  # fmt: skip
