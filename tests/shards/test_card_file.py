"""README.md is taken apart alike by all that read it: what writes it, `check`, and `push`."""

import pytest

from figureground.shards.card_file import BEGIN, END, CardText, parse_card
from figureground.shards.shard import ShardError

CARD = f"---\n# mine\nlicense: mit\n---\n# Birds\n{BEGIN}\ntext\n{END}\n"
SAVED = {
    "a byte-order mark": lambda text: "\ufeff" + text,
    "blank lines above": lambda text: "\n \n" + text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "blanks after the dashes": lambda text: text.replace("---\n", "--- \t\n"),
}


@pytest.mark.parametrize("change", SAVED.values(), ids=SAVED)
def test_a_card_that_another_editor_saved_has_the_same_parts(change):
    header, yaml, body = parse_card(change(CARD))
    assert (header, yaml) == ({"license": "mit"}, "# mine\nlicense: mit\n")
    assert body == f"# Birds\n{BEGIN}\ntext\n{END}\n"


@pytest.mark.parametrize(
    "text", ["", "# Birds\n", "# Birds\n---\na: 1\n---\n", "---\nnever ends\n", "----\na: 1\n----\n"]
)
def test_a_card_without_a_header_is_all_body(text):
    assert parse_card(text) == CardText({}, "", text)


def test_an_empty_header_is_one():
    assert parse_card("---\n---\n# Birds\n") == CardText({}, "", "# Birds\n")
    assert parse_card("---\n# nothing\n---") == CardText({}, "# nothing\n", "")


def test_an_error_names_the_line_of_a_header_and_does_not_quote_it():
    broken = "---\nlicense: mit\ntoken: [hf_secret\n---\n"
    with pytest.raises(ShardError, match=r"^README.md: its YAML header can't be read: .*\(line 3, ") as refused:
        parse_card(broken)
    assert "secret" not in str(refused.value)
