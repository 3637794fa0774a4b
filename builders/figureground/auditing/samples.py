"""Samples of a finished dataset with their masks, and the cut-outs and scenes that they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.core.files import parse_json
from figureground.data.images import DatasetImages
from figureground.sources.images import open_stored
from figureground.sources.mask import find_bright, mask_values

MASKED_OBJECTS = "d3s"
"""Method whose masks are those of objects; the masks of `scgs` and `ddb` are the repainted regions."""


class Samples(DatasetImages):
    """The samples of a finished dataset, labelled by foreground. `open_samples` reads one."""

    @property
    def foregrounds(self) -> tuple[str, ...]:
        """Names of the foregrounds."""
        return tuple(self.source.columns.foregrounds)

    @property
    def backgrounds(self) -> tuple[str, ...]:
        """Names of the backgrounds."""
        return tuple(self.source.columns.backgrounds)

    @cached_property
    def _guides(self) -> list[Mapping[str, Any]]:
        """The guide of each sample; empty without one."""
        provenances = (
            parse_json(row["provenance"], row["key"]) for shard in self._shards for row in self.source.rows(shard)
        )
        guides = (provenance.get("guide") for provenance in provenances)
        return [guide if isinstance(guide, dict) else {} for guide in guides]

    @cached_property
    def cutouts(self) -> list[str | None]:
        """Id of the cut-out or photograph that each sample was made from, `folder/name@hash`."""
        return [str(guide["cutout"]) if guide.get("cutout") else None for guide in self._guides]

    @cached_property
    def templates(self) -> list[str | None]:
        """Id of each sample's scene."""
        return [str(guide["template"]) if guide.get("template") else None for guide in self._guides]

    @property
    def why_no_masks(self) -> str | None:
        """Reason why the samples have no masks of their objects; None if they have."""
        if not self.source.columns.mask:
            return "no masks are kept; build with --set 'keep=[mask]'"
        methods = {MASKED_OBJECTS} & set(_list_methods(self.source.recipe))
        if methods != set(_list_methods(self.source.recipe)):
            return (
                f"the masks of {' and '.join(sorted(set(_list_methods(self.source.recipe))))} mark what was repainted"
            )
        return None

    def decode(self, rows: np.ndarray | Sequence[int]) -> Iterator[tuple[int, Image.Image, np.ndarray | None]]:
        """Yield row, RGB image, and mask, bool (h, w), or None if masks aren't kept; in order.

        Raises:
            FiguregroundError: An image or a mask can't be decoded, or their sizes differ; names the key.
        """
        with_masks = self.why_no_masks is None
        ordered = np.sort(np.asarray(rows, np.int64))
        for shard, start, stop in zip(self._shards, self._starts[:-1], self._starts[1:], strict=True):
            shard_rows = ordered[(ordered >= start) & (ordered < stop)]
            if not len(shard_rows):
                continue
            stored_samples = self.source.stored(shard, (shard_rows - start).tolist())
            for row, stored in zip(shard_rows.tolist(), stored_samples, strict=True):
                image = _open_image(stored.image, stored.key, "image").convert("RGB")
                mask = None
                if with_masks:
                    picture = _open_image(stored.images["mask"], stored.key, "mask")
                    if picture.size != image.size:
                        raise FiguregroundError(
                            f"{stored.key}: its mask has {picture.width} × {picture.height} pixels, but its image "
                            f"{image.width} × {image.height}. Build again."
                        )
                    mask = find_bright(mask_values(picture))
                yield row, image, mask


def open_samples(directory: Path, splits: Sequence[str] = ()) -> Samples:
    """Open a finished dataset, labelled by foreground.

    Args:
        directory: Output directory of `build`, `curate` or `merge`.
        splits: Splits to read; default: all.

    Raises:
        FiguregroundError: The dataset is unfinished or damaged.
        RecipeError: A split doesn't exist.
    """
    return Samples.open(directory, column="foreground", splits=splits)


def _list_methods(recipe: dict) -> list[str]:
    """Return the methods of a dataset, or of those that it was made from."""
    if recipe.get("sources"):
        return [name for source in recipe["sources"] for name in _list_methods(source)]
    return [str(recipe.get("builder"))]


def _open_image(data: bytes, key: str, kind: str) -> Image.Image:
    try:
        return open_stored(data)
    except Exception as error:  # Pillow's decoders can raise any exception for damaged data
        raise FiguregroundError(
            f"{key}: its {kind} can't be decoded ({type(error).__name__}: {error}). figureground check gives details."
        ) from error
