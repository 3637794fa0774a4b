"""Images as people see them: decoded and encoded again, so that no file tells where an image comes from."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from contextlib import suppress
from functools import cached_property
from typing import Any

from PIL import Image

from figureground.annotation.answers import REFERENCE
from figureground.annotation.questions import ReviewItem
from figureground.annotation.sampling import reference_folder
from figureground.core.errors import FiguregroundError
from figureground.core.files import LEADS_OUTSIDE, leads_outside, parse_json
from figureground.shards.finished import FinishedDataset
from figureground.shards.samples import Stored
from figureground.sources.images import UnreadableImage, center_square, encode, open_stored, read_image

CACHE_SIZE = 64
"""Number of encoded images that are kept in memory."""


class ReviewImages:
    """The images of a review, as PNG without metadata. Safe for threads.

    A reference is cropped to the centre square, resized to the size of the dataset's images, and stored once in their
    format, so that size and compression don't give it away.
    """

    def __init__(self, dataset: FinishedDataset):
        self._dataset = dataset
        self._cache: OrderedDict[tuple[str, str], bytes | None] = OrderedDict()
        self._lock = threading.Lock()

    def read_png(self, item: ReviewItem) -> bytes:
        """Return an image.

        Raises:
            FiguregroundError: It can't be read.
        """
        data = self._get_cached(("image", item.key), lambda: _encode_png(self._open_image(item)))
        assert data is not None
        return data

    def read_guide(self, item: ReviewItem) -> bytes | None:
        """Return the guide that an image was made from; None if it has none, or if it can't be drawn any more."""
        return None if item.is_reference else self._get_cached(("guide", item.key), lambda: self._draw_guide(item))

    def _get_cached(self, name: tuple[str, str], make: Any) -> bytes | None:
        with self._lock:
            if name not in self._cache:
                self._cache[name] = make()
            self._cache.move_to_end(name)
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
            return self._cache[name]

    def _read_sample(self, item: ReviewItem) -> Stored:
        return next(iter(self._dataset.stored(self._dataset.shards[item.shard], [item.row])))

    @cached_property
    def _edge(self) -> int:
        """Edge of the dataset's first image, pixels."""
        first = next(iter(self._dataset.stored(self._dataset.shards[0], [0])))
        return max(open_stored(first.image).size)

    def _open_image(self, item: ReviewItem) -> Image.Image:
        try:
            if not item.is_reference:
                return open_stored(self._read_sample(item).image).convert("RGB")
            folder = reference_folder(self._dataset)
            path = folder / item.key.removeprefix(REFERENCE)
            if leads_outside(path, folder):
                raise FiguregroundError(LEADS_OUTSIDE)
            square = center_square(read_image(path, max_edge=2 * self._edge), self._edge)
            return open_stored(encode(square, self._dataset.image_format)).convert("RGB")
        except (UnreadableImage, FiguregroundError):
            raise
        except Exception as error:  # Pillow can raise any exception for a damaged file
            raise FiguregroundError(f"{item.key}: its image can't be read ({type(error).__name__}: {error}).") from None

    def _draw_guide(self, item: ReviewItem) -> bytes | None:
        stored = self._read_sample(item)
        if "guide" in stored.images:
            return _encode_png(open_stored(stored.images["guide"]).convert("RGB"))
        guide = None
        if self._method is not None:
            with suppress(Exception):  # its sources may be gone or have changed
                guide = self._method.draw_guide(parse_json(stored.provenance, stored.key))
        return None if guide is None else _encode_png(guide.convert("RGB"))

    @cached_property
    def _method(self) -> Any:
        from figureground.methods.registry import open_dataset

        with suppress(Exception):
            return open_dataset(self._dataset.directory)
        return None


def _encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
