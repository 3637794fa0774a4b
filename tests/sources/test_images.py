"""Photographs as people have them are read right, or refused with the reason."""

import io
import os
import pickle
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from figureground.core.errors import FiguregroundError
from figureground.core.hashing import content_hash
from figureground.recipe.sample import IMAGE_FORMATS
from figureground.sources.images import (
    UnreadableImage,
    UnusedFiles,
    center_square,
    encode,
    fit_size,
    image_size,
    list_folders,
    list_images,
    list_non_files,
    read_distinct,
    read_image,
)

RED, GREEN, BLUE, WHITE = (220, 30, 30), (20, 180, 40), (30, 40, 200), (250, 250, 250)
Maker = Callable[[Path], object]


def quarters() -> Image.Image:
    """Red at the top left, green at the top right, blue and white below; 48 by 32 pixels."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24], pixels[16:, 24:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


def greys() -> np.ndarray:
    """Four levels, 0 to 1, from dark at the top left to bright at the bottom right; 32 rows, 48 columns."""
    levels = np.zeros((32, 48))
    levels[:16, :24], levels[:16, 24:], levels[16:, :24], levels[16:, 24:] = 0.1, 0.4, 0.7, 0.95
    return levels


def grey_image(mode: str = "L") -> Image.Image:
    return Image.fromarray(np.rint(greys() * 255).astype(np.uint8)).convert(mode)


def corners(image: Image.Image) -> list[Any]:
    """Colours in the middle of the four quarters, in reading order."""
    w, h = image.size
    return [image.getpixel((x, y)) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


def assert_colors(image: Image.Image, expected: Sequence[tuple[int, ...]], tolerance: int) -> None:
    np.testing.assert_allclose(np.array(corners(image), int), np.array(expected, int), atol=tolerance)


def png16(path: Path, levels: np.ndarray) -> None:
    """A PNG of 16 bits a channel; levels 0 to 1 of shape (height, width, 3)."""
    height, width, _ = levels.shape
    rows = np.rint(levels * 65535).astype(">u2").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def animation(format: str) -> Maker:
    """The quarters first, then a black frame."""

    def make(path: Path) -> None:
        frames = [Image.new("RGB", (48, 32))]
        quarters().save(path, format, save_all=True, append_images=frames, duration=50, quality=95)

    return make


def swapped_profile() -> bytes:
    """The ICC profile of a screen whose red and blue are exchanged."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    return icc.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


def linear_profile() -> bytes:
    """An ICC profile with the colours of sRGB and no curve: the parametric curve's exponent and slopes are 1."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    start = icc.index(b"para") + 12  # after the type, its number and padding
    icc[start : start + 20] = struct.pack(">5i", 65536, 65536, 0, 65536, 0)
    return bytes(icc).replace("sRGB built-in".encode("utf-16-be"), "sRGB (linear)".encode("utf-16-be"))


def press_profile() -> bytes:
    """The ICC profile of a printing press that prints nothing but black: colours without black come out white."""
    identity = b"".join(struct.pack(">i", 65536 if i % 4 == 0 else 0) for i in range(9))
    ramp = bytes(range(256))
    white_or_black = bytes([255, 128, 128, 0, 128, 128])
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + white_or_black * 8 + ramp * 3
    table += b"\0" * (-len(table) % 4)
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    size = 128 + len(tags) + len(table)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28
    header += struct.pack(">3i", 63190, 65536, 54061)  # The D50 white that profiles are relative to.
    return header.ljust(128, b"\0") + tags + table


def saved(format: str, mode: str = "RGB", **options: object) -> Maker:
    return lambda path: quarters().convert(mode).save(path, format, **options)


COLORED: dict[str, tuple[Maker, int]] = {
    "jpeg": (saved("JPEG", quality=95), 8),
    "progressive jpeg": (saved("JPEG", quality=95, progressive=True), 8),
    "cmyk jpeg, inverted as Adobe does": (saved("JPEG", "CMYK", quality=95), 8),
    "two-image jpeg of a phone": (animation("MPO"), 16),
    "png": (saved("PNG"), 0),
    "png with alpha": (saved("PNG", "RGBA"), 0),
    "palette png": (lambda path: quarters().quantize(8).save(path, "PNG"), 3),
    "png of 16 bits a channel": (lambda path: png16(path, np.asarray(quarters()) / 255), 1),
    "gif": (saved("GIF"), 6),
    "animated gif": (animation("GIF"), 6),
    "animated png": (animation("PNG"), 0),
    "animated webp": (animation("WEBP"), 12),
    "webp": (saved("WEBP", quality=95), 12),
    "lossless webp with alpha": (saved("WEBP", "RGBA", lossless=True), 0),
    "bmp": (saved("BMP"), 0),
    "ppm": (saved("PPM"), 0),
    "tiff": (saved("TIFF"), 0),
    "compressed tiff": (saved("TIFF", compression="tiff_lzw"), 0),
    "cmyk tiff": (saved("TIFF", "CMYK"), 3),
    "lab tiff": (saved("TIFF", "LAB"), 12),
    "tiff of several pages": (animation("TIFF"), 0),
    "jpeg named .png": (saved("JPEG", quality=95), 8),
}
SUFFIX = {"jpeg named .png": ".png"}


@pytest.mark.parametrize("kind", COLORED)
def test_reads_the_colors_of_a(kind: str, tmp_path: Path) -> None:
    make, tolerance = COLORED[kind]
    path = tmp_path / f"photo{SUFFIX.get(kind, '.bin')}"
    make(path)
    image = read_image(path)
    assert (image.mode, image.size, image_size(path)) == ("RGB", (48, 32), (48, 32))
    assert_colors(image, [RED, GREEN, BLUE, WHITE], tolerance)
    rgba = read_image(path, "RGBA")
    assert rgba.mode == "RGBA"
    assert rgba.getchannel("A").getextrema() == (255, 255)


GREY: dict[str, Maker] = {
    "grey.jpg": lambda path: grey_image().save(path, quality=95),
    "grey.png": lambda path: grey_image().save(path),
    "grey and alpha.png": lambda path: grey_image("LA").save(path),
    "16 bits.png": lambda path: Image.fromarray((greys() * 65535).astype(np.uint16)).save(path),
    "16 bits.tif": lambda path: Image.fromarray((greys() * 65535).astype(np.uint16)).save(path),
    "16 bits, big-endian.tif": lambda path: Image.frombytes(
        "I;16B", (48, 32), (greys() * 65535).astype(">u2").tobytes()
    ).save(path),
    "16 bits.pgm": lambda path: path.write_bytes(b"P5 48 32 65535\n" + (greys() * 65535).astype(">u2").tobytes()),
    "32 bits, values of 16.tif": lambda path: Image.fromarray((greys() * 65535).astype(np.int32)).save(path),
    "floats to 1.tif": lambda path: Image.fromarray(greys().astype(np.float32)).save(path),
    "floats to 255.tif": lambda path: Image.fromarray((greys() * 255).astype(np.float32)).save(path),
    "floats to 65535.tif": lambda path: Image.fromarray((greys() * 65535).astype(np.float32)).save(path),
}


@pytest.mark.parametrize("name", GREY)
def test_reads_the_levels_of(name: str, tmp_path: Path) -> None:
    GREY[name](tmp_path / name)
    levels = [(round(255 * v),) * 3 for v in (0.1, 0.4, 0.7, 0.95)]
    assert_colors(read_image(tmp_path / name), levels, 2)


def test_values_of_unknown_range_are_stretched_from_lowest_to_highest(tmp_path: Path) -> None:
    Image.fromarray((greys() * 3e6 - 1e6).astype(np.float32)).save(tmp_path / "elevation.tif")
    levels = [(round(255 * (v - 0.1) / 0.85),) * 3 for v in (0.1, 0.4, 0.7, 0.95)]
    assert_colors(read_image(tmp_path / "elevation.tif"), levels, 1)


def test_one_bit_images_become_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(greys() > 0.5).save(tmp_path / "scan.png")
    black, white = (0, 0, 0), (255, 255, 255)
    assert corners(read_image(tmp_path / "scan.png")) == [black, black, white, white]


def save_turned(image: Image.Image, orientation: int, path: Path) -> None:
    """Save an image as a camera held that way stores it: what turns the orientation upright, undone."""
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image if undo is None else image.transpose(undo)).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_a_turned_tiff_keeps_its_rows_in_each_mode(orientation: int, mode: str, tmp_path: Path) -> None:
    image = (
        quarters() if mode != "I;16" else Image.fromarray(np.asarray(quarters().convert("L")).astype(np.uint16) * 257)
    )
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    save_turned(image, orientation, tmp_path / "scan.tif")  # uncompressed
    colors = [RED, GREEN, BLUE, WHITE]
    if mode in ("L", "I;16"):
        colors = [(value,) * 3 for value in corners(quarters().convert("L"))]
    read = read_image(tmp_path / "scan.tif")
    assert read.size == (48, 32)
    assert_colors(read, colors, 12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_rotation_turns_the_image_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    save_turned(quarters(), orientation, path)
    image = read_image(path)
    assert image.size == (48, 32)
    assert_colors(image, [RED, GREEN, BLUE, WHITE], 12)
    assert not image.getexif()


def test_a_damaged_exif_block_leaves_the_image_as_stored(tmp_path: Path) -> None:
    quarters().save(tmp_path / "photo.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40, quality=95)
    assert_colors(read_image(tmp_path / "photo.jpg"), [RED, GREEN, BLUE, WHITE], 8)


def test_a_linear_profile_with_the_colours_of_srgb_is_applied_and_srgb_itself_isnt(tmp_path: Path) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile, expected in ((linear_profile(), 137), (own, 64)):
        Image.new("RGB", (4, 4), (64, 64, 64)).save(tmp_path / "photo.png", icc_profile=profile)
        found = np.asarray(read_image(tmp_path / "photo.png", "RGB"))[0, 0]
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_floats_that_resampling_took_beyond_one_are_still_shares(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-0.01, 0.5, 1.003]], np.float32)).save(tmp_path / "photo.tiff")
    assert np.asarray(read_image(tmp_path / "photo.tiff", "RGB"))[0, :, 0].tolist() == [0, 128, 255]


def test_icc_profile_of_a_screen_is_applied(tmp_path: Path) -> None:
    quarters().save(tmp_path / "photo.png", icc_profile=swapped_profile())
    red, green, blue, _ = corners(read_image(tmp_path / "photo.png"))
    assert red[2] > 180 > red[0]
    assert green[1] > 150
    assert blue[0] > 180 > blue[2]
    quarters().convert("RGBA").save(tmp_path / "cutout.png", icc_profile=swapped_profile())
    assert corners(read_image(tmp_path / "cutout.png", "RGBA"))[0] == (*red, 255)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_icc_profile_of_a_press_is_applied_to_cmyk(suffix: str, tmp_path: Path) -> None:
    # Pillow's own conversion uses cyan, magenta and yellow alone.
    quarters().convert("CMYK").save(tmp_path / f"print.{suffix}", icc_profile=press_profile())
    assert_colors(read_image(tmp_path / f"print.{suffix}"), [(255, 255, 255)] * 4, 2)


def test_icc_profile_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    quarters().save(tmp_path / "photo.png", icc_profile=b"no profile at all" * 20)
    assert_colors(read_image(tmp_path / "photo.png"), [RED, GREEN, BLUE, WHITE], 0)


def test_transparency_is_kept_in_rgba_and_white_in_rgb(tmp_path: Path) -> None:
    image = quarters().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 24, 16))
    image.save(tmp_path / "alpha.png")
    palette = quarters().quantize(8, dither=Image.Dither.NONE)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((2, 2)))
    palette.save(tmp_path / "palette.gif", transparency=palette.getpixel((2, 2)))
    several = bytes([0 if i == palette.getpixel((2, 2)) else 255 for i in range(8)])
    palette.save(tmp_path / "several.png", transparency=several)
    quarters().save(tmp_path / "color key.png", transparency=RED)
    for name in ("alpha.png", "palette.png", "palette.gif", "several.png", "color key.png"):
        alphas = [pixel[3] for pixel in corners(read_image(tmp_path / name, "RGBA"))]
        assert alphas == [0, 255, 255, 255], name
        assert_colors(read_image(tmp_path / name), [(255, 255, 255), GREEN, BLUE, WHITE], 3)


def cut(make: Maker, share: float = 0.6) -> Maker:
    def damaged(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return damaged


def noise(format: str, **options: object) -> Maker:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return lambda path: Image.fromarray(pixels).save(path, format, **options)


UNREADABLE: dict[str, tuple[Maker, str]] = {
    "empty.jpg": (lambda path: path.touch(), "empty"),
    "notes.jpg": (lambda path: path.write_text("not an image"), "not an image"),
    "download.jpg": (lambda path: path.write_text("<!DOCTYPE html><title>403</title>"), "web page"),
    "pointer.jpg": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid 1"), "git lfs pull"),
    "cut.jpg": (cut(noise("JPEG")), "damaged"),
    "cut.png": (cut(noise("PNG")), "damaged"),
    "cut.webp": (cut(noise("WEBP")), "damaged|not an image"),
    "cut.tif": (cut(noise("TIFF", compression="tiff_lzw")), "damaged|not an image"),
    "cut.bmp": (cut(noise("BMP")), "damaged"),
    "cut.gif": (cut(noise("GIF")), "damaged"),
    "header only.jpg": (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0"), "."),
    "folder.jpg": (lambda path: path.mkdir(), "directory"),
    "missing.jpg": (lambda path: None, "No such file"),
    "nan.tif": (lambda path: Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(path), "finite"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_refuses_with_the_reason(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, reason = UNREADABLE[name]
    make(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage, match=reason) as caught:
            read_image(tmp_path / name)
    assert caught.value.path == tmp_path / name
    assert str(tmp_path) not in caught.value.reason
    assert str(caught.value) == f"{tmp_path / name}: {caught.value.reason}"
    assert capfd.readouterr() == ("", "")


def test_pillows_limit_against_bombs_holds_and_its_warning_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarters().save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 32 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "photo.png").size == (48, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 32 // 3)
    with pytest.raises(UnreadableImage, match=r"too big.*MAX_IMAGE_PIXELS"):
        read_image(tmp_path / "photo.png")
    with pytest.raises(UnreadableImage, match="too big"):
        image_size(tmp_path / "photo.png")


def test_an_unreadable_image_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage(Path("a/b.jpg"), "the file is empty (0 bytes)")))
    assert (error.path, str(error)) == (Path("a/b.jpg"), "a/b.jpg: the file is empty (0 bytes)")


def test_max_edge_reads_a_big_jpeg_at_a_fraction_that_is_still_big_enough(tmp_path: Path) -> None:
    quarters().resize((1600, 1200)).save(tmp_path / "big.jpg", quality=95)
    quarters().resize((1600, 1200)).save(tmp_path / "big.png")
    small = read_image(tmp_path / "big.jpg", max_edge=256)
    assert small.size == (400, 300)
    assert_colors(small, [RED, GREEN, BLUE, WHITE], 8)
    assert read_image(tmp_path / "big.jpg", max_edge=1100).size == (1600, 1200)
    assert read_image(tmp_path / "big.png", max_edge=256).size == (1600, 1200)


def test_list_images_takes_image_files_of_the_directory_itself(tmp_path: Path) -> None:
    names = ["b.jpg", "a.PNG", "c.JPEG", "d.webp", "e.bmp", "f.gif", "g.tif", "h.TIFF", "i.ppm"]
    for name in [*names, ".hidden.jpg", "a.mask.png", "B.MASK.PNG", "notes.txt", "jpg"]:
        (tmp_path / name).touch()
    (tmp_path / "inner.jpg").mkdir()
    (tmp_path / "inner.jpg" / "deep.jpg").touch()
    (tmp_path / "loop.png").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert [path.name for path in list_images(tmp_path)] == sorted(names)


def test_what_looks_like_images_but_is_not_read_is_listed(tmp_path: Path) -> None:
    for name in (
        "a.jpg",
        "more/b.jpg",
        "more/c.png",
        "empty/notes.txt",
        ".old/d.jpg",
        "@eaDir/e.jpg",
        "inner.jpg/f.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert [(path.name, kind) for path, kind in list_non_files(tmp_path)] == [
        ("gone.png", "a broken link"),
        ("inner.jpg", "a directory"),
        ("more", "a folder of 2 images, which isn't entered"),
    ]


def test_distinct_images_are_read_and_what_is_left_out_is_told_with_its_place(tmp_path: Path) -> None:
    red, blue = tmp_path / "red.png", tmp_path / "sub" / "blue.png"
    blue.parent.mkdir()
    Image.new("RGB", (3, 2), "red").save(red)
    Image.new("RGB", (3, 2), "blue").save(blue)
    Image.open(red).save(tmp_path / "same.bmp")
    (tmp_path / "none.png").write_bytes(b"")
    unused = UnusedFiles()
    files = [red, tmp_path / "none.png", tmp_path / "same.bmp", blue, red]
    images = list(read_distinct(files, unused))
    assert [(path, sha256, image.getpixel((0, 0))) for path, sha256, image in images] == [
        (red, content_hash(red), (255, 0, 0)),
        (blue, content_hash(blue), (0, 0, 255)),
    ]
    assert unused.unreadable == [(tmp_path / "none.png", "the file is empty (0 bytes)")]
    assert unused.repeated == [(tmp_path / "same.bmp", red), (red, red)]


@pytest.mark.parametrize(
    ("size", "fitted"), [((200, 100), (96, 48)), ((8, 8), (96, 96)), ((1, 300), (1, 96)), ((640, 1), (96, 1))]
)
def test_a_fitted_size_has_the_edge_and_is_never_empty(size, fitted) -> None:
    assert fit_size(size, 96) == fitted


def test_center_square_crops_the_middle_and_averages_what_it_shrinks() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste(Image.new("RGB", (100, 100), "blue"), (100, 0))
    assert center_square(wide, 50).getcolors() == [(2500, (0, 0, 255))]
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (200, 100)))
    shrunk = np.asarray(center_square(stripes, 25))
    assert shrunk.shape == (25, 25)
    assert abs(shrunk.astype(int) - 127).max() <= 8


@pytest.mark.parametrize("format", IMAGE_FORMATS)
def test_encode_gives_the_same_bytes_without_metadata(format: str) -> None:
    loaded = quarters()
    loaded.info = {"icc_profile": swapped_profile(), "comment": b"private", "dpi": (300, 300), "exif": b"private"}
    data = encode(loaded, format)
    assert data == encode(quarters(), format)
    assert b"private" not in data
    decoded = Image.open(io.BytesIO(data))
    assert decoded.format == {"jpg": "JPEG"}.get(format, format.upper())
    assert not {"icc_profile", "exif", "comment", "dpi"} & set(decoded.info)
    assert_colors(decoded.convert("RGB"), [RED, GREEN, BLUE, WHITE], {"jpg": 4, "webp": 12, "png": 0}[format])


def test_encoded_jpeg_keeps_full_color_resolution() -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = RED, GREEN
    decoded = np.asarray(Image.open(io.BytesIO(encode(Image.fromarray(stripes), "jpg")))).astype(int)
    assert abs(decoded - stripes).max() < 40  # At 4:2:0, neighbouring red and green become one brown.


def test_encode_keeps_alpha_where_the_format_can_and_refuses_elsewhere() -> None:
    image = quarters().convert("RGBA")
    image.putalpha(128)
    assert Image.open(io.BytesIO(encode(image, "png"))).getpixel((0, 0)) == (*RED, 128)
    with pytest.raises(ValueError, match=r"jpg .* RGB or L, not RGBA"):
        encode(image, "jpg")
    with pytest.raises(ValueError, match="'gif' is unknown; it can be jpg, webp, png"):
        encode(quarters(), "gif")


def test_metadata_text_of_a_png_is_dropped(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "someone")
    quarters().save(tmp_path / "photo.png", pnginfo=text)
    assert read_image(tmp_path / "photo.png").info == {}


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system allows no such names")
def test_a_folder_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(FiguregroundError, match=r"caf.*not UTF-8"):
        list_folders(tmp_path)
