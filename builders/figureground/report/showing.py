"""Draw the preview and the report of a dataset, with the guides that its recipe can still draw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from figureground.methods.registry import open_dataset
from figureground.recipe.document import FORMAT, format_of
from figureground.report.sheet import license_note, write_sheet
from figureground.running import building
from figureground.shards.finished import made_from_others
from figureground.shards.index import finish_again
from figureground.shards.markers import markers


class Shown(NamedTuple):
    """The files that `show` wrote, and what it has to say about them."""

    files: list[Path]
    """`preview.png` and `report.html`."""
    license: str | None
    """The card's unknown licence; None if the card names one."""
    missing: str | None
    """Why the report shows no guides; None if it does, or if the dataset has none."""


def show(directory: str | os.PathLike[str]) -> Shown:
    """Draw `preview.png` and `report.html` of a dataset, and refer to the preview in its card.

    Args:
        directory: A dataset that `build`, `extend`, `curate` or `merge` wrote; its build may be unfinished.

    Raises:
        FiguregroundError: The directory holds no finished shard, or other files of those names.
    """
    directory = Path(directory)
    method = open_dataset(directory)
    draw, splits = (method.draw_guide, list(method.plan().totals())) if method else (None, [])
    files = write_sheet(directory, draw_guide=draw, splits=splits)
    license = license_note(directory)
    if method:
        building.finish(method, directory)  # the card shows the preview
        return Shown(files, license, None)
    finish_again(directory)
    if made_from_others(directory):
        return Shown(files, license, None)
    version = format_of(next(iter(markers(directory).values())), str(directory))
    why = "the recipe's cut-outs, lists or checkpoint are missing or have changed since the build"
    if version != FORMAT:
        why = f"{directory} has format {version}, whose guides this release can't draw"
    return Shown(files, license, f"{why}, so the report shows no guides.")
