"""Cluster sheets: images stand where they should, as large as they should, and captions are written."""

import numpy as np
import pytest
from PIL import Image

from figureground.learn.sheets import GAP, LINE, MARGIN, save_cluster_sheet

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
IMAGES = [Image.new("RGB", size, colour) for size, colour in zip([(8, 8), (200, 100), (96, 96)], COLOURS, strict=True)]


def written(path, title, rows):
    save_cluster_sheet(path, title, rows)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        return np.asarray(sheet.convert("RGB")).astype(int)


def where(sheet, colour):
    """The box of what has a colour: left, upper, right, lower."""
    y, x = np.nonzero(np.abs(sheet - colour).max(2) < 10)
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def test_images_stand_in_a_row_below_their_caption(tmp_path):
    sheet = written(tmp_path / "sheet.png", "t", [("first", IMAGES[:2]), ("second", IMAGES[2:])])
    top = MARGIN + 2 * LINE
    assert where(sheet, COLOURS[0]) == (MARGIN, top, MARGIN + 96, top + 96)
    left = MARGIN + 96 + GAP
    assert where(sheet, COLOURS[1]) == (left, top + 24, left + 96, top + 72)  # reduced, and centred in its cell
    below = top + 96 + GAP + LINE
    assert where(sheet, COLOURS[2]) == (MARGIN, below, MARGIN + 96, below + 96)
    caption = sheet[top + 96 + GAP : below]
    assert caption.min() < 100
    assert sheet.shape[0] == below + 96 + GAP + MARGIN


@pytest.mark.parametrize("name", ["mug", "a long caption " * 12, "Schirm – été", "傘"])
def test_captions_of_any_letters_fit(name, tmp_path):
    sheet = written(tmp_path / "sheet.png", name, [(name, IMAGES), (name, [])])
    assert (sheet[:, -MARGIN:] == 255).all()
    assert (sheet[-MARGIN:] == 255).all()


def test_a_sheet_without_rows_has_its_title(tmp_path):
    sheet = written(tmp_path / "deep" / "sheet.png", "nothing here", [])
    assert sheet.min() < 100
