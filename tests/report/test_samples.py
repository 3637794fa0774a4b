"""Files that `show` writes beside its page, without a browser."""

import io
import itertools
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_files import column, details, numbers, score, script
from tiny_datasets import COLUMNS, make_dataset

from figureground.annotation.answers import ANNOTATIONS, make_header
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.curation.curating import curate
from figureground.methods.panels.panel import Panel, Picture
from figureground.report.samples import Choice
from figureground.report.scripts import encode_column as encoded
from figureground.report.sheet import write_sheet
from figureground.shards.columns import Columns
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import Shard

KEPT = Columns(COLUMNS.foregrounds, COLUMNS.backgrounds, guide=True, mask=True)
DROPPED = "train-0000-02-00002"
"""Key of an image that is rejected where a test asks for it."""


def show(out, **more):
    write_sheet(out, **more)
    return out


def keys(out):
    return script(out, "data/keys")


def add_scores(out, name, text):
    path = out / "_figureground" / "scores" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def answer(out, annotator, *answers):
    lines = [make_header(FinishedDataset(out).identity(), annotator)]
    for n, (key, question, value) in enumerate(answers, 1):
        lines.append({"n": n, "key": key, "question": question, "answer": value, "time": "2026-01-05T10:00:00Z"})
    path = out / ANNOTATIONS / f"{annotator}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("formats", [("parquet",), ("webdataset",)])
def test_every_image_has_its_labels_its_thumbnail_and_its_provenance(tmp_path, formats):
    out = show(make_dataset(tmp_path / "set", formats=formats))
    index = script(out, "data/index")
    assert (index["images"], index["total"], index["full"]) == (22, 22, 22)
    assert index["foregrounds"] == [[0, "bird"], [1, "cat"]]
    assert [index["splits"][int(at)] for at in column(out, "split")] == [key.split("-")[0] for key in keys(out)]
    assert [int(key.split("-")[1]) for key in keys(out)] == column(out, "foreground")
    assert [int(key.split("-")[2]) for key in keys(out)] == column(out, "background")
    for place, (key, detail) in enumerate(zip(keys(out), details(out), strict=True)):
        folder, first, _, _ = next(block for block in index["blocks"] if block[1] <= place < block[1] + block[2])
        assert detail["key"] == key
        assert detail["facts"]["guide.cutout"].startswith(
            index["foregrounds"][int(column(out, "foreground")[place])][1]
        )
        assert detail["facts"]["strength"] == "0.5"
        assert Image.open(out / f"report/thumbnails/{folder}/{place - first}.png").size == (16, 16)


def test_a_small_image_is_its_own_thumbnail_and_a_large_one_is_reduced(tmp_path):
    small = show(make_dataset(tmp_path / "small", shards=(Shard("train", 0, 1, 2),), size=160))
    stored = next(iter(FinishedDataset(small).stored(Shard("train", 0, 1, 2)))).image
    assert (small / "report/thumbnails/train-00000-of-00001/0.png").read_bytes() == stored
    assert details(small)[0]["full"] == "thumbnails/train-00000-of-00001/0.png"
    large = show(make_dataset(tmp_path / "large", shards=(Shard("train", 0, 1, 2),), size=320))
    assert Image.open(large / "report/thumbnails/train-00000-of-00001/0.webp").size == (160, 160)
    assert Image.open(large / "report" / details(large)[0]["full"]).size == (320, 320)


def test_guides_and_masks_that_are_kept_are_shown(tmp_path):
    out = show(make_dataset(tmp_path / "set", columns=KEPT))
    pictures = dict(details(out)[3]["pictures"])
    assert Image.open(out / "report" / pictures["guide"]).mode == "RGB"
    assert Image.open(out / "report" / pictures["mask"]).mode == "L"


def test_guides_and_panels_are_drawn_from_the_provenance(tmp_path):
    def draw_guide(provenance):
        return Image.new("RGB", (64, 64), "red") if provenance["foreground"] == "cat" else None

    def draw_panels(provenance):
        picture = Picture("attention", Image.new("L", (8, 8), provenance["seed"] % 256))
        return [Panel("Region", (picture,), (("cluster", str(provenance["seed"])), ("share", "<b>0.5</b>")))]

    out = show(make_dataset(tmp_path / "set"), draw_guide=draw_guide, draw_panels=draw_panels)
    for detail, foreground in zip(details(out), column(out, "foreground"), strict=True):
        assert [title for title, _ in detail["pictures"]] == (["guide"] if foreground else [])
        [panel] = detail["panels"]
        assert panel["facts"] == [["cluster", detail["facts"]["seed"]], ["share", "<b>0.5</b>"]]
        assert Image.open(out / "report" / panel["pictures"][0][1]).size == (8, 8)


def test_panels_of_the_whole_set_are_on_the_page_and_those_that_fail_are_named(tmp_path):
    def fails(*_):
        raise FiguregroundError("the clusters are gone")

    overview = Panel("Clusters", (Picture("cluster <1>", Image.new("RGB", (9, 9))),), (("size", "7"),))
    out = make_dataset(tmp_path / "set")
    show(out, draw_overview=lambda: [overview])
    page = (out / "report.html").read_text()
    assert 'src="report/images/overview-panel0-0.webp" alt="cluster &lt;1&gt;"' in page
    assert (out / "report/images/overview-panel0-0.webp").exists()
    show(out, draw_panels=fails, draw_overview=fails)
    assert (out / "report.html").read_text().count("the clusters are gone") == 2


def test_images_at_full_size_are_equally_many_of_each_cell(tmp_path):
    out = show(make_dataset(tmp_path / "set", columns=KEPT), full=9)
    full = [at for at, detail in enumerate(details(out)) if "pictures" in detail]
    assert len(full) == script(out, "data/index")["full"] == 9
    cells = list(zip(*(column(out, name) for name in ("split", "foreground", "background")), strict=True))
    assert len({cells[at] for at in full}) == 9
    assert not (show(out, full=0) / "report/images").exists()


@pytest.mark.parametrize("value", ["-1", "many", "", "٣"])
def test_a_number_of_images_at_full_size_that_cannot_be_read_is_wrong_use(tmp_path, capsys, value):
    out = make_dataset(tmp_path / "set")
    assert main(["show", str(out), f"--full={value}"]) == 2
    assert "--full" in capsys.readouterr().err
    assert not (out / "report.html").exists()


def test_the_command_takes_a_number_or_all(tmp_path):
    out = make_dataset(tmp_path / "set", columns=KEPT)
    assert main(["show", str(out), "--full", "3"]) == 0
    assert script(out, "data/index")["full"] == 3
    assert main(["show", str(out), "--full", "all"]) == 0
    assert script(out, "data/index")["full"] == 22


def test_a_choice_is_evenly_spaced_and_takes_more_of_large_cells_if_others_are_small():
    sizes = {("train", 0, 0): 100, ("train", 0, 1): 3, ("train", 1, 0): 0}
    choice = Choice(sizes, 13)
    assert sum(choice.take(("train", 0, 1)) for _ in range(3)) == 3
    taken = [at for at in range(100) if choice.take(("train", 0, 0))]
    assert [b - a for a, b in itertools.pairwise(taken)] == [10] * 9
    everything = Choice(sizes, None)
    assert all(everything.take(("train", 0, 0)) for _ in range(100))


def test_scores_of_any_file_are_columns_and_shown_for_each_image(tmp_path):
    out = make_dataset(tmp_path / "set")
    names = keys(show(out))
    lines = [f"{key},{place / 7},{place % 2 == 0},cat\n" for place, key in enumerate(names) if place != 4]
    add_scores(out, "mine.csv", "key,margin,good,label\n" + "".join(lines))
    show(out)
    found = score(out, "mine.margin")
    assert math.isnan(found[4])
    assert found[7] == 1
    assert score(out, "mine.good")[:2] == [1, 0]
    assert [each["name"] for each in script(out, "data/index")["scores"]] == ["mine.margin", "mine.good"]
    assert details(out)[7]["scores"] == [["mine.margin", 1], ["mine.good", False], ["mine.label", "cat"]]
    assert details(out)[4]["scores"] == []


def test_scores_that_cannot_be_used_are_named_and_the_page_is_still_written(tmp_path):
    out = make_dataset(tmp_path / "set")
    names = keys(show(out))
    add_scores(out, "verify.parquet", "PAR1 damaged")
    add_scores(out, "others.csv", f"key,p\n{names[0]},0.25\nelsewhere-<b>,0.5\n")
    show(out)
    page = (out / "report.html").read_text()
    assert "verify.parquet can&#39;t be read" in page
    assert "others.csv has 1 key that no image here has: elsewhere-&lt;b&gt;" in page
    assert score(out, "others.p")[0] == 0.25
    assert column(out, "votes") == [0] * 22


def test_a_vote_is_a_scorer_whose_first_choices_are_the_labels(tmp_path):
    out = make_dataset(tmp_path / "set")
    names = keys(show(out))
    path = out / "_figureground/scores/verify.parquet"
    path.parent.mkdir(exist_ok=True)
    table = {
        "key": names[:3],
        "a_foreground_p": [0.4, 0.9, None], "a_foreground_rank": [1, 1, None],
        "a_background_p": [0.4, 0.4, None], "a_background_rank": [1, 2, None],
        "b_foreground_p": [0.9, 0.6, None],
    }  # fmt: skip
    pq.write_table(pa.table(table), path)
    show(out)
    assert script(out, "data/index")["scorers"] == 2
    assert column(out, "votes")[:4] == [3, 2, 0, 0]  # two votes, one vote, not scored


def test_answers_say_of_each_image_whether_people_call_it_right(tmp_path):
    out = make_dataset(tmp_path / "set")
    one, two, three, four, five, *_ = keys(show(out))
    answers = [
        (one, "foreground", "yes"),
        (two, "foreground", "yes"),
        (two, "background", "no"),
        (four, "foreground", "unsure"),
    ]
    answer(out, "ann", *answers, (three, "background", "yes"), (five, "unsafe", "yes"))
    answer(out, "bob", (three, "background", "no"), (one, "foreground", "yes"))
    show(out)
    assert column(out, "people")[:6] == [1, 2, 3, 4, 8, 0]
    assert details(out)[0]["people"] == [["foreground", "yes: 2 people"]]
    assert details(out)[2]["people"] == [["background", "no: 1 person, yes: 1 person"]]
    everything = "".join(path.read_text() for path in (out / "report").rglob("*.js"))
    assert "bob" not in everything


def test_rejects_are_listed_with_their_reason_and_their_plan(tmp_path):
    out = show(make_dataset(tmp_path / "set", rejected=(DROPPED,)))
    index = script(out, "data/index")
    assert (index["images"], index["total"], index["reasons"]) == (21, 22, ["flat"])
    assert column(out, "reason") == [0] * 21 + [1]
    assert column(out, "thumbnail")[-1] == 0
    detail = details(out)[-1]
    assert detail["key"] == keys(out)[-1] == DROPPED
    assert detail["facts"]["reason"] == "flat"
    assert detail["facts"]["guide.template"] == "t/t.png@t-train"


def test_published_rejects_of_a_curated_copy_are_shown(tmp_path):
    source = make_dataset(tmp_path / "set", formats=("parquet",))
    curate(source, tmp_path / "copy", "foreground == 'cat'", publish_rejects=True, show_progress=False)
    out = show(tmp_path / "copy")
    assert script(out, "data/index")["reasons"] == ["dropped by the rule"]
    place = script(out, "data/index")["images"]
    folder, first, _, kind = next(block for block in script(out, "data/index")["blocks"] if block[1] == place)
    assert kind == "r"
    assert Image.open(out / f"report/thumbnails/{folder}/r{place - first}.png").size == (16, 16)
    assert details(out)[place]["facts"]["strength"] == "0.5"


def test_a_column_keeps_its_numbers():
    for values in ([0, 255], [0, 256], [70_000, 1], []):
        assert numbers(encoded(np.array(values, np.int64))) == values
    assert encoded(np.array([255]))["type"] == "u1"
    found = numbers(encoded(np.array([0.5, np.nan], np.float32)))
    assert found[0] == 0.5
    assert math.isnan(found[1])


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    out = make_dataset(tmp_path / "set", formats=("parquet",), shards=(Shard("train", 0, 1, 24),))
    path = out / "data/train-00000-of-00001.parquet"
    table = pq.read_table(path)
    stored = table["image"].to_pylist()
    stored[20] = {**stored[20], "bytes": b"no image"}
    pq.write_table(
        table.set_column(table.column_names.index("image"), "image", pa.array(stored, table["image"].type)), path
    )
    show(out)
    assert column(out, "thumbnail")[20] == 0
    assert "1 image can&#39;t be read: " + keys(out)[20] in (out / "report.html").read_text()


def test_bytes_of_pictures_are_those_of_what_was_drawn(tmp_path):
    guide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    out = show(make_dataset(tmp_path / "set"), draw_guide=lambda provenance: guide)
    path = dict(details(out)[0]["pictures"])["guide"]
    shown = Image.open(io.BytesIO((out / "report" / path).read_bytes())).convert("RGB")
    assert shown.tobytes() == guide.tobytes()
