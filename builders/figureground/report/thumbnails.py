"""Small copies of images, and pictures beside them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from figureground.sources.images import open_stored

EDGE = 160
"""Longest edge of a thumbnail, pixels. Smaller images are copied as they are stored."""
LOSSLESS = 128
"""Longest edge of pictures that are encoded without loss, pixels."""
SUFFIXES = ("", "jpg", "webp", "png")
"""Suffixes of files by number; 0: there is no file."""
_OF_FORMAT = {"JPEG": 1, "WEBP": 2, "PNG": 3}


class Thumbnail(NamedTuple):
    """A written thumbnail."""

    suffix: int
    """Position in `SUFFIXES`; 0 if the image can't be read."""
    stored_suffix: int
    """Suffix of the stored image itself."""
    is_original: bool
    """Whether the thumbnail is the stored image."""


def write_thumbnail(path: Path, data: bytes) -> Thumbnail:
    """Write an image's thumbnail.

    Args:
        path: Path without suffix; its folder must exist.
        data: The stored image.

    Raises:
        OSError: It can't be written.
    """
    try:
        image = open_stored(data)
        stored_suffix = _OF_FORMAT[image.format or ""]
        if max(image.size) > EDGE:
            image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS, reducing_gap=2.0)
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", quality=85, method=2)
            thumbnail, data = Thumbnail(2, stored_suffix, False), buffer.getvalue()
        else:
            thumbnail = Thumbnail(stored_suffix, stored_suffix, True)
    except Exception:  # Pillow can raise any exception for damaged data; `check` reports it
        return Thumbnail(0, 0, False)
    path.with_name(f"{path.name}.{SUFFIXES[thumbnail.suffix]}").write_bytes(data)
    return thumbnail


def encode_picture(image: Image.Image) -> bytes:
    """Return a drawn picture as WebP: without loss if it is small."""
    buffer = io.BytesIO()
    mode = image.mode if image.mode in ("L", "RGB") else "RGB"
    image.convert(mode).save(buffer, "WEBP", quality=90, method=4, lossless=max(image.size) <= LOSSLESS)
    return buffer.getvalue()
