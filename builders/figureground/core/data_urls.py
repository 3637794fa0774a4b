"""Images inside HTML pages and requests, as data URLs."""

from __future__ import annotations

import base64
import io

from PIL import Image

SMALL = 96
"""Images whose edges are all shorter than this, pixels, are small: kept without loss, and shown enlarged."""


def is_small(image: Image.Image) -> bool:
    return max(image.size) < SMALL


def to_data_url(data: bytes, media_type: str) -> str:
    """Return a file as a URL that holds it.

    Args:
        media_type: Such as `image/webp`.
    """
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def encode_thumbnail(image: Image.Image, edge: int) -> str:
    """Return a copy of an image as a data URL, WebP, at most `edge` pixels wide and high."""
    thumbnail = image.copy()
    thumbnail.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    thumbnail.save(buffer, "WEBP", quality=85, method=4, lossless=is_small(image))
    return to_data_url(buffer.getvalue(), "image/webp")
