"""Writes the preview and the report of a dataset: `preview.png`, `report.html`, and the folder `report/` beside it.

All is made from the finished shards in the dataset directory, whether or not the build is finished.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from figureground.core import disk
from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_bytes
from figureground.core.owned import encode_png, refuse_foreign_files
from figureground.core.resources import find_resource
from figureground.core.terminal import print_note
from figureground.methods.panels.panel import Panel
from figureground.report.contents import read_contents
from figureground.report.folder import FOLDER, open_draft, refuse_folder
from figureground.report.page import render_report
from figureground.report.preview import draw_preview
from figureground.report.samples import MAX_FULL, DrawGuide, DrawPanels, save_panels, write_samples
from figureground.shards.card import PREVIEW
from figureground.shards.card_file import CARD, read_license
from figureground.shards.index import lock_descriptions

REPORT = "report.html"
SCRIPTS = ("report.js", "report.css")
"""Files of the page, copied from `templates/`."""


def write_sheet(
    directory: Path,
    out: Path | None = None,
    draw_guide: DrawGuide | None = None,
    splits: Sequence[str] = (),
    *,
    draw_panels: DrawPanels | None = None,
    draw_overview: Callable[[], list[Panel]] | None = None,
    full: int | None = MAX_FULL,
) -> list[Path]:
    """Write `preview.png` (foregrounds down, backgrounds across), `report.html` and its folder `report`.

    Args:
        directory: A dataset directory, finished or not.
        out: Output directory; `directory` itself by default.
        draw_guide: Draws a sample's guide; without it only kept guides are shown.
        splits: Split names in planned order; for a finished dataset the index provides them.
        draw_panels: Draws the panels of a sample.
        draw_overview: Draws the panels of the whole dataset.
        full: Number of images that are written at full size, with guide, mask and panels; None: all.

    Returns:
        The two files.

    Raises:
        FiguregroundError: The directory doesn't exist or has no finished shard; a file with one of the two names, or
            something in the folder, wasn't written by figureground; or the disk is full.
    """
    directory = Path(directory)
    contents = read_contents(directory, splits)
    out = directory if out is None else Path(out)
    preview, report, folder = out / PREVIEW, out / REPORT, out / FOLDER
    with disk.explained(out):
        out.mkdir(parents=True, exist_ok=True)
        refuse_foreign_files(preview, report)
        refuse_folder(folder)
        sheet = draw_preview(contents)
        with open_draft(folder) as draft:
            write_result = write_samples(draft.path, directory, contents, draw_guide, draw_panels, full)
            panels: list[Panel] = []
            try:
                panels = draw_overview() if draw_overview is not None else []
            except (FiguregroundError, OSError, ValueError) as error:
                write_result.notes.append(f"The method's overview isn't shown: {error}")
            if panels:
                (draft.path / "images").mkdir(exist_ok=True)
            overview = save_panels(draft.path, "images/overview", panels)
            for name in SCRIPTS:
                shutil.copyfile(find_resource(f"templates/{name}"), draft.path / name)
            page = render_report(directory, contents, sheet, write_result, overview)
            draft.publish()
            with lock_descriptions(directory) if out == directory else contextlib.nullcontext():
                for path, data in {preview: encode_png(sheet), report: page.encode()}.items():
                    replace_bytes(path, data, root=out)
        for note in write_result.notes:
            print_note(note)
    return [preview, report]


def license_note(directory: Path) -> str | None:
    """Return a note if the card's licence is unknown; None if it is set or there is no card.

    Raises:
        ShardError: The card can't be read.
    """
    if not (directory / CARD).exists() or read_license(directory):
        return None
    return f"license unknown: set `license:` in the header of {directory / CARD} before you publish; it is kept."
