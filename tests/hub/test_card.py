"""The card that both sides write into: what each changed since the last push is kept."""

import pytest

from figureground.core.errors import FiguregroundError
from figureground.hub.card import merge_cards
from figureground.shards.card_file import BEGIN, END


def card(license="unknown", text="# Title\n", tags=("a",), size="n<1K"):
    header = f"license: {license}\ntags: {list(tags)}\nconfigs: []\ndataset_info: {{}}\nsize_categories: [{size}]\n"
    marks = f"{BEGIN}\n{size}\n{END}\n"
    return f"---\npretty_name: Title\n{header}---\n{text}\n{marks}"


def test_a_card_that_one_side_changed_keeps_the_change_and_what_is_generated_is_new():
    joint = merge_cards(card(size="1K<n<10K"), card(license="mit", text="# Mine\n"), card())
    assert "license: mit" in joint
    assert "# Mine" in joint
    assert joint.count("1K<n<10K") == 2
    assert "n<1K\n" not in joint.replace("1K<n<10K", "")
    assert merge_cards(card(license="mit"), card(), card()) == card(license="mit")


def test_tags_of_both_sides_are_united():
    assert "- b\n- c" in merge_cards(card(tags=("a", "b")), card(tags=("a", "c")), card())


@pytest.mark.parametrize("change", [{"license": "mit"}, {"text": "# Mine\n"}])
def test_a_card_that_both_sides_changed_differently_is_refused(change):
    other = {name: value.replace("mit", "apache-2.0").replace("Mine", "Yours") for name, value in change.items()}
    with pytest.raises(FiguregroundError, match="on the Hub"):
        merge_cards(card(**change), card(**other), card())
    assert merge_cards(card(**change), card(**change, size="1K<n<10K"), card())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: "\n \n" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("---\n", "--- \n"),
    ],
    ids=["BOM", "blank lines above", "CRLF", "blanks after the dashes"],
)
@pytest.mark.parametrize("side", ["here", "on the Hub", "as it was pushed"])
def test_a_card_that_another_editor_saved_is_merged_alike(change, side):
    noted = card(text="# Ours\n").replace("---\n", "---\n# a note\n", 1)
    cards = {"here": card(size="1K<n<10K"), "on the Hub": noted, "as it was pushed": card()}
    expected = merge_cards(*cards.values())
    assert "# a note" in expected
    assert "# Ours" in expected
    assert merge_cards(*{**cards, side: change(cards[side])}.values()) == expected


@pytest.mark.parametrize("side", ["on the Hub", "as it was last pushed"])
def test_a_header_that_cannot_be_read_is_refused_with_its_line_and_its_side(side):
    broken = card().replace("license: unknown", "license: [hf_secret")
    with pytest.raises(
        FiguregroundError, match=rf"{side}: its YAML .*\(line \d, .*\. Fix it and push again"
    ) as refused:
        merge_cards(card(), *((broken, None) if side == "on the Hub" else (card(text="# Ours\n"), broken)))
    assert "secret" not in str(refused.value)
