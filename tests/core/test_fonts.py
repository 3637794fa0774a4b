import contextlib

import pytest
from PIL import ImageFont

from figureground.core import fonts
from figureground.core.fonts import choose_font, choose_text_and_font, count_missing, fit_text, to_ascii


def test_names_that_are_not_ascii_are_drawn_with_a_font_that_has_them_or_without_accents(monkeypatch):
    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", ("no such font.ttf",))
    assert not choose_font("forêt", 16)[1]
    assert to_ascii("forêt, café, 森") == "foret, cafe, ?"
    assert choose_text_and_font("forêt", 16)[0] == "foret"


@pytest.mark.parametrize("keep_end", [False, True])
def test_a_text_is_shortened_to_its_width_at_the_end_or_at_the_beginning(keep_end):
    font, text = choose_font("a", 12)[0], "a photograph of a bird.png"
    assert fit_text(text, font, font.getlength(text), keep_end=keep_end) == text
    shortened = fit_text(text, font, 60, keep_end=keep_end)
    assert font.getlength(shortened) <= 60
    assert 4 < len(shortened) < len(text)
    assert text.endswith(shortened[1:]) if keep_end else text.startswith(shortened[:-1])
    assert shortened[0 if keep_end else -1] == "…"
    assert fit_text(text, font, 0, keep_end=keep_end) == "…"


def test_the_font_that_lacks_fewest_letters_is_chosen_and_boxes_alone_are_no_font():
    """DejaVu, which most systems have, draws Chinese as boxes."""
    with contextlib.suppress(OSError):
        dejavu = ImageFont.truetype("DejaVuSans.ttf", 16)
        assert count_missing(dejavu, {"é", "α"}) == 0
        assert count_missing(dejavu, {"鸟", "狗", "é"}) == 2
    for text in ("鸟", "鸟 é", "forêt"):
        font, has_letters = choose_font(text, 16)
        others = {letter for letter in text if not letter.isascii()}
        assert has_letters == (isinstance(font, ImageFont.FreeTypeFont) and count_missing(font, others) < len(others))
