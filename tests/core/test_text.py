"""Other people's text can't steer a terminal or end what it stands in."""

import json
import re

import pytest
from jinja2 import Environment

from figureground.core.pages import render_page
from figureground.core.text import code, fence, markdown, printable
from figureground.shards.card_file import END

ESCAPE, OVERRIDE = "\x1b[31m", "\u202e"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{ESCAPE}red", r"\x1b[31mred"),
        ("\x9b31m\x07\x7f", r"\u009b31m\x07\u007f"),
        (f"gpj.{OVERRIDE}exe\u2066", r"gpj.\u202eexe\u2066"),
        ("done\rfailed\u2028", r"done\rfailed\u2028"),
        ("a\nb\tc", r"a\nb\tc"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
    ],
)
def test_what_steers_a_terminal_is_written_as_a_code(text, shown):
    assert printable(text) == shown
    assert printable(text, lines=True).encode()


@pytest.mark.parametrize("text", ["鸟 на траве", "👩‍🔬 fée", "می‌خواهم", "a b"])
def test_any_script_stays_as_it_is(text):
    assert printable(text) == text


def test_lines_stay_where_they_are_asked_for_and_json_stays_json():
    assert printable(f"a\n\tb{ESCAPE}", lines=True) == "a\n\tb\\x1b[31m"
    document = {"name": f"\x9b{OVERRIDE}{ESCAPE}\udc80"}
    assert json.loads(printable(json.dumps(document, ensure_ascii=False, indent=2), lines=True)) == document


@pytest.mark.parametrize("show", [markdown, code])
@pytest.mark.parametrize("text", [END, f"a `{END}` b", "a\\|b|", "``` \n# x", "<script>", "x\\", f"{OVERRIDE}\n\nx"])
def test_text_stays_in_its_cell(show, text):
    shown = show(text)
    assert END not in shown
    assert "\n" not in shown
    assert OVERRIDE not in shown
    escaped = shown.replace("\\\\", "")
    assert escaped.count("|") == escaped.count("\\|")


@pytest.mark.parametrize("text", ["a `b` c", "`", "``` x", f"{END} `x`", "a & b $c$ ~d~ <i>e</i> *f* [g](h)", "x\\|y"])
def test_markdown_and_code_show_the_text_letter_for_letter(text):
    markdown_it = pytest.importorskip("markdown_it")
    page = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    want = Environment(autoescape=True).from_string("{{ text }}").render(text=text).replace("&#34;", "&quot;")
    for show in (markdown, code):
        cell = page.render(f"| a |\n|---|\n| {show(text)} |\n").split("<td>")[1].split("</td>")[0]
        cell = cell.removeprefix("<code>").removesuffix("</code>")
        assert cell.replace("&#39;", "'").replace("&quot;", "&#34;") == want.replace("&quot;", "&#34;")


def test_a_fence_is_longer_than_any_in_the_text():
    assert [fence(text) for text in ("@misc{x}", "a ``` b", "`````")] == ["```", "````", "``````"]


def test_a_page_escapes_what_it_shows_and_keeps_its_own_tags():
    hostile = f"</title><script>alert(1)</script>\"'{OVERRIDE}{ESCAPE}"
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    panel = {"title": hostile, "pictures": [(hostile, hostile)], "facts": [(hostile, hostile)]}
    part = {
        "by": hostile,
        "left": 1,
        "rows": [{"foreground": hostile, "people": share, "wrong": 1, "labels": 2, "with_scorers": None}],
    }
    question = {
        "asked": hostile,
        "all": None,
        "corrected": None,
        "not_corrected": hostile,
        "several": 0,
        "rules": [],
        "parts": [part],
    }
    page = render_page(
        "report.html.jinja", {"percent": str}, name=hostile, progress=hostile, samples=1, shards=1, full=1,
        preview="data:,", notes=[hostile], overview=[panel], rejects=[(hostile, 1)],
        tables=[{"split": hostile, "backgrounds": [(0, hostile)], "sums": [1], "sum": 1, "most": 1, "rows": [
            {"name": hostile, "counts": [1], "sum": 1, "split": hostile, "foreground": 0}]}],
        settings=[(hostile, [(hostile, hostile)])],
        references=[{"split": hostile, "noun": hostile, "references": ["data:,"], "results": ["data:,"]}],
        labels={"why_no_people": hostile, "people": None, "questions": [question], "scorers": [
            {"name": hostile, "what": hostile, "right": 0.5, "p": 0.5, "images": 1, "left_out": 0}]},
    )  # fmt: skip
    assert re.findall("<script.*", page) == ['<script src="report/report.js" defer></script>']
    assert OVERRIDE not in page
    assert "\x1b" not in page
    assert 'class="faint"' in page
