"""The page of `show` in headless Chromium, opened from its file."""

import shutil

import pytest
from browsers import CONTRAST
from drawn_datasets import make_drawn
from PIL import Image
from report_files import column, score, script
from tiny_datasets import make_dataset

from figureground.methods.panels.panel import Panel, Picture
from figureground.report.sheet import write_sheet
from figureground.shards.columns import Columns
from figureground.verification.verifying import verify

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
SCORE = "verify.pocket_foreground_p"
HOSTILE = "<img src=x onerror=\"document.title='ran'\">", "\"'`&amp;</script><script>document.title='ran'</script>"
BACKGROUNDS = "grass</select><b>", "a\u2028b", "--><svg onload=\"document.title='ran'\">"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """99 drawings with masks, scored by the pocket scorer, with a guide and a panel."""
    out = make_drawn(tmp_path_factory.mktemp("drawn") / "set")
    verify(out, ["pocket"], show_progress=False)

    def draw_panels(provenance):
        return [Panel("Region <1>", (Picture("attention", Image.new("L", (8, 8))),), (("cluster", "7"),))]

    write_sheet(
        out, draw_guide=lambda provenance: Image.new("RGB", (64, 64), "red"), draw_panels=draw_panels,
        draw_overview=lambda: [Panel("Clusters", (), (("clusters", "3"),))],
    )  # fmt: skip
    return out


class View:
    """The page in a browser of its own."""

    def __init__(self, chromium, out, hash="", **context):
        self.page = chromium.new_context(**context).new_page()
        self.page.set_default_timeout(20_000)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"{(out / 'report.html').as_uri()}{hash}")
        self.page.wait_for_function("() => document.documentElement.dataset.ready !== undefined")

    def status(self, text):
        self.page.wait_for_function(
            "(text) => document.getElementById('status').textContent.startsWith(text)", arg=text
        )

    def rows(self):
        return self.page.eval_on_selector_all("#grid button", "(all) => all.map((each) => Number(each.dataset.row))")

    def until(self, expected):
        """Wait until the grid shows these rows."""
        self.page.wait_for_function(
            "(rows) => String([...document.querySelectorAll('#grid button')].map((each) => each.dataset.row)) === "
            "String(rows)", arg=expected,
        )  # fmt: skip


def test_images_are_filtered_sorted_and_enlarged_from_a_file(chromium, drawn):
    view = View(chromium, drawn)
    page = view.page
    view.status("99 images")
    assert view.rows() == list(range(60))
    page.keyboard.press("ArrowRight")
    view.until(list(range(60, 99)))

    scores, foregrounds = score(drawn, SCORE), column(drawn, "foreground")
    cats = [row for row in range(99) if foregrounds[row] == 1]
    page.get_by_role("combobox", name="Foreground", exact=True).select_option("cat")
    view.status(f"{len(cats)} of 99 images")
    middle = sorted(scores[row] for row in cats)[len(cats) // 2]
    page.get_by_label("Limit a score").select_option(SCORE)
    page.get_by_label("at least").fill(repr(middle))
    page.get_by_label("Sort by").select_option(SCORE)
    page.get_by_role("combobox", name="Order", exact=True).select_option("descending")
    kept = sorted((row for row in cats if scores[row] >= middle), key=lambda row: scores[row], reverse=True)
    view.status(f"{len(kept)} of 99 images")
    assert [scores[row] for row in view.rows()] == [scores[row] for row in kept]
    rows = view.rows()

    page.locator("#grid button").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Provenance").wait_for()
    key = script(drawn, "data/keys")[rows[0]]
    dialog_text = dialog.inner_text()
    for text in (key, "guide.cutout", "Region <1>", "cluster", f"1 of {len(rows)}", "cat"):
        assert text in dialog_text
    page.wait_for_function(
        "() => [...document.querySelectorAll('dialog img')].filter((each) => each.naturalWidth > 0).length === 4"
    )
    assert [image.get_attribute("alt") for image in dialog.locator("img").all()][1:] == ["guide", "mask", "attention"]
    page.keyboard.press("ArrowRight")
    dialog.get_by_text(script(drawn, "data/keys")[rows[1]]).wait_for()
    hash = page.evaluate("location.hash")

    again = View(chromium, drawn, hash)
    again.page.get_by_role("dialog").get_by_text(script(drawn, "data/keys")[rows[1]]).wait_for()
    assert again.rows() == rows
    assert again.page.get_by_label("at least").input_value() == repr(middle)
    assert again.page.get_by_role("combobox", name="Order", exact=True).input_value() == "desc"

    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.dataset.row") == str(rows[1])
    page.get_by_role("button", name="Reset").click()
    view.until(list(range(60)))
    assert page.evaluate("location.hash") == ""
    assert view.problems == again.problems == []
    assert all(url.startswith(("file:", "data:")) for url in view.requests)


def test_closing_an_image_leaves_the_page_where_it_was(chromium, drawn):
    page = View(chromium, drawn).page
    page.locator("#grid button").nth(50).click()
    before = page.evaluate("scrollY")
    page.get_by_role("dialog").get_by_text("Provenance").wait_for()
    assert before > 0
    assert page.evaluate("location.hash").startswith("#image=train-")
    page.get_by_role("button", name="Close").click()
    page.wait_for_function("() => location.hash === ''")
    assert page.evaluate("scrollY") == before


def test_a_number_in_the_table_shows_its_images(chromium, drawn):
    view = View(chromium, drawn)
    view.page.get_by_role("button", name="8, show train, mug, sand").click()
    view.status("8 of 99 images")
    index = script(drawn, "data/index")
    labels = {(column(drawn, "foreground")[row], column(drawn, "background")[row]) for row in view.rows()}
    assert labels == {(index["foregrounds"][2][0], index["backgrounds"][1][0])}
    view.page.get_by_label("Key contains").fill(script(drawn, "data/keys")[view.rows()[3]])
    view.status("1 of 99 images")


def test_nobody_has_looked_and_the_scorers_shares_are_reported(chromium, drawn):
    text = View(chromium, drawn).page.locator("#labels").inner_text()
    assert "No person has looked at this set." in text
    assert "pocket" in text


def test_the_sections_can_be_linked(chromium, drawn):
    view = View(chromium, drawn, "#counts")
    view.status("99 images")
    view.page.get_by_role("link", name="Labels").click()
    assert view.page.evaluate("location.hash") == "#labels"
    assert view.problems == []


def test_hostile_names_are_shown_as_text(chromium, tmp_path):
    columns = Columns(HOSTILE, BACKGROUNDS)
    rejected = "train-0000-02-00002"
    out = make_dataset(
        tmp_path / "a <b> 'set'", columns=columns, rejected=(rejected,), provenance=lambda _: {"x": HOSTILE[1]}
    )
    panel = Panel(HOSTILE[0], (Picture(HOSTILE[1], Image.new("L", (8, 8))),), ((HOSTILE[0], HOSTILE[1]),))
    write_sheet(out, draw_panels=lambda _: [panel], draw_overview=lambda: [panel])
    view = View(chromium, out)
    page = view.page
    for number, name in enumerate(HOSTILE):
        page.get_by_role("combobox", name="Foreground", exact=True).select_option(name)
        view.until([row for row in range(21) if column(out, "foreground")[row] == number])
        assert name in page.locator("#grid").inner_text()
    page.get_by_role("combobox", name="Foreground", exact=True).select_option("")
    page.get_by_role("combobox", name="Background", exact=True).select_option("a\\u2028b")
    page.locator("#grid button").first.click()
    page.get_by_role("dialog").get_by_text("Provenance").wait_for()
    assert HOSTILE[1] in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    assert HOSTILE[0] in page.locator("#overview").inner_text()
    assert page.title() == "a <b> 'set' · figureground"
    again = View(chromium, out, page.evaluate("location.hash"))
    assert again.rows() == view.rows()
    assert view.problems == again.problems == []


def test_rejects_are_listed_by_their_reason(chromium, tmp_path):
    out = make_dataset(tmp_path / "set", rejected=("train-0000-02-00002", "train-0001-00-00003"))
    write_sheet(out)
    view = View(chromium, out)
    view.page.get_by_role("button", name="2, show flat").click()
    view.status("2 rejects")
    assert "flat" in view.page.locator("#grid").inner_text()
    view.page.locator("#grid button").first.click()
    view.page.get_by_role("dialog").get_by_text("train-0000-02-00002").wait_for()
    assert view.problems == []


def test_without_its_folder_the_page_says_what_is_missing(chromium, tmp_path):
    out = make_dataset(tmp_path / "set")
    write_sheet(out)
    (out / "report/data/labels.js").unlink()
    page = chromium.new_context().new_page()
    page.goto((out / "report.html").as_uri())
    page.get_by_role("alert").get_by_text("report/data/labels.js is missing").wait_for()
    assert page.get_by_text("belongs beside this page").is_hidden()
    shutil.rmtree(out / "report")
    page.reload()
    page.get_by_text("belongs beside this page").wait_for()


def test_without_javascript_the_rest_of_the_page_is_there(chromium, drawn):
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto((drawn / "report.html").as_uri())
    assert "JavaScript" in page.locator("noscript").inner_text()
    assert "cat 8 8 8 24" in " ".join(page.locator("#counts").inner_text().split())
    assert page.locator("#browser").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_modes_and_fits_a_phone(chromium, drawn, scheme):
    view = View(chromium, drawn, f"#score=0.5:1:{SCORE}", color_scheme=scheme, **PHONE)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 360
    view.page.wait_for_selector("#counts td button")
    faint = {text: ratio for text, ratio in view.page.evaluate(CONTRAST).items() if ratio < 4.5}
    assert faint == {}
    view.page.evaluate("enlarge(rows[0])")
    view.page.get_by_role("dialog").get_by_text("Provenance").wait_for()
    assert view.page.evaluate("document.querySelector('dialog').scrollWidth") <= 360
    assert {text: ratio for text, ratio in view.page.evaluate(CONTRAST).items() if ratio < 4.5} == {}
