"""Draw the preview and the report of a dataset, with the guides that its recipe can still draw."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

from figureground.methods.registry import open_dataset
from figureground.recipe.document import FORMAT, read_format
from figureground.report.samples import MAX_FULL
from figureground.report.sheet import license_note, write_sheet
from figureground.running import building
from figureground.shards.finished import is_copy
from figureground.shards.index import rewrite_descriptions
from figureground.shards.markers import markers
from figureground.stores.mirror import local_copy
from figureground.stores.urls import is_url


class Shown(NamedTuple):
    """The files that `show` wrote, and what it has to say about them."""

    files: list[Path]
    """`preview.png` and `report.html`."""
    license: str | None
    """The card's unknown licence; None if the card names one."""
    missing: str | None
    """Why the report shows no guides; None if it does, or if the dataset has none."""


def show(directory: str | os.PathLike[str], full: int | None = MAX_FULL) -> Shown:
    """Draw `preview.png` and `report.html` of a dataset, and refer to the preview in its card.

    The page needs the folder `report` beside it, which holds thumbnails, data and pictures.

    Args:
        directory: A dataset that `build`, `extend`, `curate` or `merge` wrote, or the URL of a build; it may be
            unfinished.
        full: Number of images that the page shows at full size, with guide, mask and panels, equally many of each
            cell; None: all. The others are shown as thumbnails.

    For a URL, the files are drawn in its mirror in the user's cache, and the store stays as it is.

    Raises:
        FiguregroundError: The directory holds no finished shard, or other files of those names; or the disk is full.
    """
    with local_copy(directory) as local:
        result = _show(local, full)
    if result.license and is_url(directory):
        return result._replace(license=result.license.replace(str(local), str(directory)))
    return result


def _show(directory: Path, full: int | None) -> Shown:
    method = open_dataset(directory)
    if method:
        files = write_sheet(
            directory, draw_guide=method.draw_guide, splits=list(method.plan().totals()),
            draw_panels=partial(method.panels, directory), draw_overview=partial(method.overview, directory), full=full,
        )  # fmt: skip
    else:
        files = write_sheet(directory, full=full)
    license = license_note(directory)
    if method:
        building.finish(method, directory)  # the card shows the preview
        return Shown(files, license, None)
    rewrite_descriptions(directory)
    if is_copy(directory):
        return Shown(files, license, None)
    version = read_format(next(iter(markers(directory).values())), str(directory))
    reason = "the recipe's cut-outs, lists or checkpoint are missing or have changed since the build"
    if version != FORMAT:
        reason = f"{directory} has format {version}, whose guides this release can't draw"
    return Shown(files, license, f"{reason}, so the report shows no guides.")
