"""Reads photographs in many formats, and encodes images as files whose bytes depend only on the pixels."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from figureground.core.errors import FiguregroundError, plural, printable
from figureground.core.files import FileError, open_regular
from figureground.core.hashing import content_hash
from figureground.core.lfs import POINTER, describe_pointer
from figureground.core.names import is_text
from figureground.recipe.sample import IMAGE_FORMATS

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm",
        ".pgm", ".jp2", ".heic", ".heif", ".jxl", ".svg", ".psd", ".eps", ".pdf",
    }
)  # fmt: skip
"""Suffixes of image files, in lower case. Some can't be read; such files are reported instead of skipped."""
FOREIGN_SUFFIXES = frozenset({".heic", ".heif", ".jxl", ".svg", ".eps", ".pdf"})
"""Members of `SUFFIXES` that can't be read, unless the content differs from the suffix."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "PSD", "ICO", "PCX")
"""Allowed formats, by Pillow's names: raster images. Others would start Ghostscript, or match any bytes."""
MASK_SUFFIX = ".mask.png"
"""Suffix of masks: `rex.mask.png` is the mask of `rex.jpg`, not an image itself."""
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
"""Folders created by archives, network drives and Windows, which are not classes."""
STORED_FORMATS = ("JPEG", "WEBP", "PNG")
"""Pillow's names of the formats of stored images."""
MAX_STORED_PIXELS = 2**26
"""Maximum pixels of a stored image, 8,192 by 8,192: a file of a few kilobytes can claim more."""
HASHED_ROWS = 256
"""Rows of pixels that `pixel_hash` copies at a time."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the transposition that turns the image upright."""
_EXIF_ORIENTATION = 0x0112

_SAVE_OPTIONS = {
    "jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "webp": ("WEBP", {"quality": 95, "method": 4, "lossless": False}),
    "png": ("PNG", {}),
}
_MODES = {"jpg": ("RGB", "L"), "webp": ("RGB", "RGBA", "L"), "png": ("RGB", "RGBA", "L")}

_FOREIGN_HEADS = {
    b"%PDF": "a PDF", b"%!PS": "a PostScript drawing", b"<svg": "an SVG drawing", b"<?xml": "XML or an SVG drawing",
}  # fmt: skip
"""Descriptions of files that Pillow doesn't read, by their first bytes."""

# `warnings` keeps its filters per process, so two threads that change them at once could leave them changed.
_QUIET = threading.Lock()
# Without a handler, Pillow's log messages about damaged files would be printed by logging's last resort.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UnreadableImage(ValueError):
    """Raised for a file that can't be used as an image."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason
        """Description of the problem, without the path."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Open an image's header, silently; turn any error inside the block into `UnreadableImage`."""
    try:
        # By name, Pillow 13 maps uncompressed files into memory, with wrong rows in TIFFs whose orientation is 5 to 8.
        with open_regular(path) as file:
            with _QUIET, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(file, formats=_formats())
            with image:
                yield image
    except UnreadableImage:
        raise
    except FileError as error:
        raise UnreadableImage(path, error.reason) from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, _describe_content(path)) from None
    except Image.DecompressionBombError as error:
        limit = "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        raise UnreadableImage(path, f"too big: {error} Shrink the image, or {limit}.") from error
    except MemoryError as error:
        raise UnreadableImage(path, "too big for this machine's memory") from error
    except OSError as error:
        raise UnreadableImage(path, error.strerror or f"damaged: {error}") from error
    except Exception as error:  # Pillow's decoders let through whatever damage leads to: SyntaxError, struct.error…
        raise UnreadableImage(path, f"damaged: {type(error).__name__}: {error}") from error


@cache
def _formats() -> list[str]:
    """Return the members of `FORMATS` that this Pillow build supports."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _describe_content(path: Path) -> str:
    """Describe a file that Pillow doesn't recognise as an image."""
    with open_regular(path) as file:
        head = file.read(64)
    if not head:
        return "the file is empty (0 bytes)"
    if head.startswith(POINTER):
        return describe_pointer("image")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page instead of an image"
    for start, kind in _FOREIGN_HEADS.items():
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start):
            return f"{kind}, which can't be read: convert it to PNG or JPEG"
    if head[4:8] == b"ftyp" or head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        kind = "a HEIC, AVIF or JPEG XL image, or a video"
        return f"{kind}, which can't be read by this Pillow: convert it to PNG or JPEG"
    return "not an image, or in a format that can't be read"


def image_size(path: Path | str) -> tuple[int, int]:
    """Return width and height as stored, from the header alone, before any EXIF rotation.

    Raises:
        UnreadableImage: The header isn't an image header, or the image is larger than Pillow allows.
    """
    with _open(Path(path)) as image:
        return image.size


def may_be_transparent(path: Path | str) -> bool:
    """Return whether an image file has an alpha channel or a transparent colour, from the header alone.

    Raises:
        UnreadableImage: The header isn't an image header.
    """
    with _open(Path(path)) as image:
        return image.has_transparency_data


def read_image(
    path: Path | str,
    mode: Literal["RGB", "RGBA"] = "RGB",
    max_edge: int | None = None,
    to_eight_bits: Callable[[Image.Image, Path], Image.Image] | None = None,
) -> Image.Image:
    """Read a photograph upright, in sRGB, 8 bits per channel.

    The content, not the name, determines the format. EXIF rotation and ICC profiles are applied. 16-bit images are
    scaled from their full range, and 32-bit ones from the range that their values span (see `convert_depth`). Only
    the first frame of an animation is read. In `RGB`, transparent pixels become white.

    Args:
        path: Any file that Pillow reads.
        mode: `RGBA` keeps transparency, including that of a palette.
        max_edge: Maximum edge in pixels that the caller needs. A JPEG is then decoded at a half, a quarter or an
            eighth if both edges stay at least that long; other formats are read whole.
        to_eight_bits: Converts a loaded image, from a path, to L, RGB, RGBA, CMYK or LAB; default: as above. It may
            raise UnreadableImage.

    Returns:
        An image in `mode`, without metadata.

    Raises:
        UnreadableImage: The file is not an image, is damaged or truncated, or is larger than Pillow allows.
    """
    path = Path(path)
    with _open(path) as image:
        if max_edge is not None:
            image.draft(None, (max_edge, max_edge))  # Does nothing for formats that don't support it.
        image.load()
        upright = turn_upright(_to_srgb((to_eight_bits or convert_depth)(image, path)), _get_orientation(image))
    upright.info = {}
    if mode == "RGBA":
        return upright.convert("RGBA")
    if upright.mode == "RGBA":
        page = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(page, upright).convert("RGB")
    return upright.convert("RGB")


def read_orientation(path: Path | str) -> int | None:
    """Return the EXIF orientation of an image file, 1 to 8, as stored; None if it is missing or invalid.

    Raises:
        UnreadableImage: The header isn't an image header.
    """
    with _open(Path(path)) as image:
        try:
            orientation = int(image.getexif()[_EXIF_ORIENTATION])
        except Exception:  # no such tag, or a damaged EXIF block, which doesn't affect the pixels
            return None
        return orientation if orientation == 1 or orientation in _TURNS else None


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return stored pixels turned according to an EXIF orientation, 1 to 8."""
    transposition = _TURNS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def _get_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Call it after loading: Pillow turns a TIFF upright while loading."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # A damaged EXIF block doesn't affect the pixels.
        return 1


def convert_depth(image: Image.Image, path: Path) -> Image.Image:
    """Convert a loaded image to L, RGB, RGBA, CMYK or LAB.

    Greyscale deeper than 8 bits: 16-bit modes span 0 to 65535. The 32-bit modes don't define a range, so the values
    decide: floats within 0 to 1 or 0 to 255, integers within 0 to 65535, else lowest to highest.
    """
    if image.mode.startswith("I;16"):
        return to_grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            raise UnreadableImage(path, "contains no finite value")
        low, high = float(finite.min()), float(finite.max())
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        if image.mode == "F" and low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
            return to_grey(values * 255)
        if image.mode == "F" and low >= 0 and high <= 255:
            return to_grey(values)
        if low >= 0 and high <= 65535:
            return to_grey(values / 257)
        return to_grey((values - low) / max(high - low, 1e-12) * 255)
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBa", "RGBA"):
        return _with_profile(image.convert("RGBA"), image)
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return _with_profile(image.convert("RGB"), image)


OVERSHOOT = 0.5
"""Tolerance of the range 0 to 1 of greyscale floats, which resampling with a sharp filter exceeds."""
_LINEAR = re.compile(r"linear|g10|scRGB", re.IGNORECASE)
"""Part of the descriptions of profiles with the colours of sRGB, but not its curve."""


def to_grey(values: np.ndarray) -> Image.Image:
    """Return values as an image in mode L, rounded and cut to 0 to 255."""
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _with_profile(image: Image.Image, source: Image.Image) -> Image.Image:
    image.info["icc_profile"] = source.info.get("icc_profile")
    return image


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert to RGB or RGBA, through the image's ICC profile if it has one that fits its mode."""
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            description = ImageCms.getProfileDescription(source)
            if "sRGB" in description and not _LINEAR.search(description):
                return image
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(
                image.convert("RGB") if image.mode == "RGBA" else image, source, target, outputMode="RGB"
            )
            if converted is not None:
                if image.mode == "RGBA":
                    converted.putalpha(image.getchannel("A"))
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # A profile that is damaged, or for other channels, is ignored, as in image viewers.
    return image if image.mode == "RGBA" else image.convert("RGB")


def open_stored(data: bytes) -> Image.Image:
    """Open an image of a dataset from its bytes, reading only its header.

    Args:
        data: Bytes from a shard: JPEG, WebP or PNG.

    Raises:
        ValueError: It has more than `MAX_STORED_PIXELS` pixels, which would take gigabytes once decoded.
        Exception: Pillow's exceptions for other data.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about large images; they are refused here
        image = Image.open(io.BytesIO(data), formats=STORED_FORMATS)
    if image.width * image.height > MAX_STORED_PIXELS:
        raise ValueError(
            f"it has {image.width:,} by {image.height:,} pixels; at most {MAX_STORED_PIXELS:,} are decoded"
        )
    return image


def list_images(directory: Path | str) -> list[Path]:
    """List the image files directly in a directory, by suffix, sorted by name.

    Hidden files and masks (`*.mask.png`) are left out; directories, including linked ones, aren't entered.
    """
    return [path for path in _list_image_entries(directory) if path.is_file()]


def list_folders(directory: Path | str) -> list[Path]:
    """List the folders in a directory, sorted by name, except hidden ones and `SYSTEM_FOLDERS`.

    Raises:
        FiguregroundError: A folder's name is not UTF-8, so that it can't be a label.
    """
    visible = (path for path in Path(directory).iterdir() if not path.name.startswith("."))
    folders = sorted(path for path in visible if path.name not in SYSTEM_FOLDERS and path.is_dir())
    for folder in folders:
        if not is_text(folder.name):
            raise FiguregroundError(f"{printable(folder)}: its name is not UTF-8. Rename the folder.")
    return folders


def list_non_files(directory: Path | str) -> list[tuple[Path, str]]:
    """List entries of a directory that look like images but aren't read, with their kind.

    These are entries named like image files that aren't files, and folders of images, which `list_images` doesn't
    enter.
    """
    entries = [(path, _describe_entry(path)) for path in _list_image_entries(directory) if not path.is_file()]
    known = {path.name for path, _ in entries} | SYSTEM_FOLDERS
    visible = [path for path in Path(directory).iterdir() if not path.name.startswith(".") and path.name not in known]
    for folder in sorted(path for path in visible if path.is_dir()):
        with contextlib.suppress(PermissionError):
            if count := len(list_images(folder)):
                entries.append((folder, f"a folder of {plural(count, 'image')}, which isn't entered"))
    return entries


def _list_image_entries(directory: Path | str) -> list[Path]:
    def is_image(path: Path) -> bool:
        name = path.name.lower()
        return not name.startswith(".") and not name.endswith(MASK_SUFFIX) and path.suffix.lower() in SUFFIXES

    return sorted(filter(is_image, Path(directory).iterdir()), key=lambda path: path.name)


def _describe_entry(path: Path) -> str:
    if path.is_dir():
        return "a directory"
    if path.is_symlink() and not path.exists():
        return "a broken link"
    return "a pipe, a socket or a device"


def fit_size(size: tuple[int, int], edge: float) -> tuple[int, int]:
    """Return the width and height of an image, pixels, once its longer edge is `edge`; neither is below 1."""
    scale = edge / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def center_square(image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """Return the largest centred square, resized to an edge of `size` pixels, antialiased."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    square = image.crop((left, top, left + edge, top + edge))
    return square.resize((size, size), resample)


def encode(image: Image.Image, format: str, xmp: bytes | None = None) -> bytes:
    """Encode an image as a file's bytes, without metadata but `xmp`; the same pixels give the same bytes.

    Args:
        image: RGB or L; `webp` and `png` take RGBA too.
        format: `jpg` (quality 95, 4:4:4), `webp` (lossy, quality 95, method 4) or `png`.
        xmp: XMP packet to store beside the pixels, UTF-8.

    Raises:
        ValueError: The format is unknown, or doesn't support the image's mode.
    """
    if format not in _SAVE_OPTIONS:
        raise ValueError(f"Image format {format!r} is unknown; it can be {', '.join(IMAGE_FORMATS)}.")
    if image.mode not in _MODES[format]:
        raise ValueError(f"A {format} file supports the modes {' or '.join(_MODES[format])}, not {image.mode}.")
    copy = image.copy()
    copy.info = {}  # Pillow would write a comment or a colour profile found here.
    name, settings = _SAVE_OPTIONS[format]
    options: dict[str, Any] = dict(settings)
    if xmp is not None and name == "PNG":  # Pillow reads `xmp` from PNG, but doesn't write it
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = text
    elif xmp is not None:
        options["xmp"] = xmp
    buffer = io.BytesIO()
    copy.save(buffer, name, **options)
    return buffer.getvalue()


def pixel_hash(image: Image.Image) -> str:
    """Return the SHA-256 of an image's pixels, in hexadecimal, independent of the file format.

    The hash covers width, height, and 8-bit RGBA. Pass the output of `read_image`, which is upright and in sRGB. Then
    the same photograph has one hash as JPEG and as PNG, with other metadata, or stored turned with an EXIF
    orientation. Colours under fully transparent pixels don't count, because lossless WebP doesn't keep them.
    """
    sha256 = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    # In strips: several threads may hash at once, and whole copies of large photographs would fill the memory.
    for top in range(0, image.height, HASHED_ROWS):
        strip = image.crop((0, top, image.width, min(top + HASHED_ROWS, image.height)))
        pixels = np.array(strip.convert("RGBA"))
        pixels[pixels[..., 3] == 0] = 0
        sha256.update(pixels.tobytes())
    return sha256.hexdigest()


@dataclass
class UnusedFiles:
    """Files that `read_distinct` leaves out."""

    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    """Files that can't be read as images, and why."""
    repeated: list[tuple[Path, Path]] = field(default_factory=list)
    """Files that show the same pixels as another one, and that one."""


class DistinctImage(NamedTuple):
    """One of several files with different images."""

    path: Path
    sha256: str
    """SHA-256 of the file's bytes."""
    image: Image.Image
    """RGB, upright, in its own size."""


def read_distinct(files: Iterable[Path], unused: UnusedFiles) -> Iterator[DistinctImage]:
    """Yield the images of files one by one, the first of those with the same pixels.

    Args:
        files: Image files, such as those of `list_images`.
        unused: Gets the files that are left out.
    """
    path_by_pixels: dict[str, Path] = {}
    for path in files:
        try:
            image = read_image(path)
            pixels = pixel_hash(image)
            if pixels in path_by_pixels:
                unused.repeated.append((path, path_by_pixels[pixels]))
                continue
            sha256 = content_hash(path)
        except UnreadableImage as error:
            unused.unreadable.append((path, error.reason))
        except OSError as error:
            unused.unreadable.append((path, error.strerror or str(error)))
        else:
            path_by_pixels[pixels] = path
            yield DistinctImage(path, sha256, image)
