"""Tables as people have them: separators, codings, JSON Lines; and every reader that takes them."""

import codecs
import json

import pytest

from figureground.core.errors import RecipeError
from figureground.core.tables import HEAD_BYTES, TextTable, UnreadableText, read_header, read_text
from figureground.curation.scores import Scores
from figureground.evaluation.counterparts import read_label_table
from figureground.recipe.classes import add_definitions, read_nouns
from figureground.recipe.features import read_features
from figureground.recipe.prompts import read_templates
from figureground.recipe.table import read_counts_csv
from figureground.sources.provenance import read_credits
from figureground.sources.references import read_caption

ROWS = [["name", "phrase"], ["cat, big", "an «é» 鸟"], ["dog", "x; y"]]


def as_csv(rows, separator=","):
    return "".join(separator.join(f'"{value}"' for value in row) + "\n" for row in rows)


CODINGS = {
    "utf-8": lambda text: text.encode(),
    "a byte order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 of the other order": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
    "lines of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "lines of an old Mac": lambda text: text.replace("\n", "\r").encode(),
    "blank lines": lambda text: ("\n" + text.replace("\n", "\n\n , \n") if "," in text else text).encode(),
}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("coding", CODINGS)
def test_a_table_is_read_whatever_wrote_it(tmp_path, coding, separator):
    (tmp_path / "t.csv").write_bytes(CODINGS[coding](as_csv(ROWS, separator)))
    table = TextTable(tmp_path / "t.csv")
    assert read_header(tmp_path / "t.csv") == table.header == ROWS[0]
    rows = [fields for _, fields in table if any(field.strip(", ") for field in fields)]
    assert rows == ROWS[1:]


def test_excel_says_the_separator_in_the_first_line(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\r\nname;phrase\r\na,b;c\r\n")
    assert list(TextTable(tmp_path / "t.csv").records()) == [(3, {"name": "a,b", "phrase": "c"})]


def test_json_lines_have_the_columns_of_all_lines(tmp_path):
    lines = [{"name": "鸟", "n": 1}, {"name": " b ", "x": None, "list": [1]}, {"n": 0.5}]
    (tmp_path / "t.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    table = TextTable(tmp_path / "t.jsonl")
    assert table.header == ["name", "n", "x", "list"]
    assert list(table) == [(1, ["鸟", "1", "", ""]), (3, ["b", "", "", "[1]"]), (5, ["", "0.5", "", ""])]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", "name\nbürd\n".encode("latin-1"), r"t\.csv .* UTF-8 or UTF-16 .* at byte 6"),
        ("t.csv", b'name,phrase\na,"b\nc,d\n', r"t\.csv, line 3: .*unexpected end of data"),
        ("t.csv", b"name,phrase\na,b,c\n", r"t\.csv, line 2: 3 fields instead of 2\. A comma within"),
        ("t.csv", b"name;phrase\na;b;c\n", "A semicolon within"),
        ("t.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "t.csv .* UTF-8"),
        ("t.csv", b"nam\0e\n", "t.csv .* NUL"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', r"line 2: .* JSON object"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"line 2: .* JSON "),
        ("t.jsonl", b'{"a": 1}\n' + b"[" * 100_000, r"line 2: .* JSON "),
    ],
)
def test_what_is_no_table_is_reported_with_file_and_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnreadableText, match=message):
        list(TextTable(tmp_path / name).records())


def test_of_a_header_alone_the_rest_is_not_read(tmp_path):
    with (tmp_path / "t.csv").open("wb") as file:
        file.write(as_csv(ROWS).encode() + "é".encode() * HEAD_BYTES + b"\xff")
    assert read_header(tmp_path / "t.csv") == ROWS[0]
    with (tmp_path / "t.jsonl").open("w") as file:
        file.write('{"a": 1}\n' + json.dumps({"a": "b" * HEAD_BYTES}))
    assert read_header(tmp_path / "t.jsonl") == ["a"]


# Every reader


def write(folder, name, *lines):
    """A table as a German Excel saves "Unicode text": UTF-16, tabs."""
    (folder / name).write_bytes("".join(line.replace(",", "\t") + "\r\n" for line in lines).encode("utf-16"))
    return folder / name


def test_every_reader_of_a_table_takes_what_excel_saves(tmp_path):
    names = str(write(tmp_path, "names.csv", "name,definition,phrase", "鸟,a bird,with a 鸟"))
    (noun,) = classes = read_nouns("classes", names, "classes", "")
    assert (noun.name, noun.definition) == ("鸟", "a bird")
    assert read_nouns("backgrounds", names, "backgrounds", "")[0].text == "with a 鸟"
    assert add_definitions(classes, write(tmp_path, "d.csv", "name,definition", "鸟,other"))[0].definition == "other"
    features = read_features(str(write(tmp_path, "f.csv", "class,noun", "鸟,花")), None)
    assert [(feature.name, feature.noun) for feature in features] == [("鸟", "花")]
    counts = read_counts_csv(
        write(tmp_path, "c.csv", "foreground,background,count", "鸟,Sky,3"), ["train"], ["鸟"], ["sky"]
    )
    assert counts["train"].tolist() == [[3]]
    found, problem = read_credits(write(tmp_path, "ATTRIBUTION.csv", "file,author", "鸟\\1.jpg,Zoë").parent)
    assert ([credit.author for credit in found.values()], list(found), problem) == (["Zoë"], ["鸟/1.jpg"], "")
    table = read_label_table(write(tmp_path, "l.csv", "label,classifier_label", "鸟,bird"), ["鸟"])
    assert table.rows == {"鸟": [(2, "bird")]}
    scores = Scores(write(tmp_path, "s.csv", "key,sharp", "train-0,0.5"))
    assert scores.value(0, "sharp") == 0.5
    templates = read_templates(str(write(tmp_path, "t.txt", "a {class} on 鸟")))
    assert [template.text for template in templates] == ["a {class} on 鸟"]
    write(tmp_path, "red.txt", "a 鸟")
    assert read_caption(tmp_path / "red.jpg") == "a 鸟"
    assert read_text(tmp_path / "red.txt") == "a 鸟\r\n"


def test_a_table_that_cannot_be_read_names_the_field(tmp_path):
    (tmp_path / "mine.csv").write_bytes("name\nbürd\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"^classes: mine\.csv .* UTF-8"):
        read_nouns("classes", str(tmp_path / "mine.csv"), "classes", "")
    (tmp_path / "mine.txt").write_bytes("a {class}, bürd\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"^prompt: mine\.txt .* UTF-8"):
        read_templates(str(tmp_path / "mine.txt"))
