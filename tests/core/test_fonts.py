from figureground.core import fonts
from figureground.core.fonts import choose_font, to_ascii


def test_names_that_are_not_ascii_are_drawn_with_a_font_that_has_them_or_without_accents(monkeypatch):
    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", ("no such font.ttf",))
    assert not choose_font("forêt", 16)[1]
    assert to_ascii("forêt, café, 森") == "foret, cafe, ?"
