import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.pocket import world
from figureground.recipe.sample import Reject, Sample, Spec, make_key
from figureground.report.contents import choose_evenly, read_contents
from figureground.report.preview import draw_preview
from figureground.report.sheet import license_note, write_sheet
from figureground.shards import index
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.shard import Shard
from figureground.shards.writer import write_shard

FOREGROUNDS, BACKGROUNDS = ("bird", "cat", "mug"), ("grass", "night")
COLUMNS = Columns(foregrounds=FOREGROUNDS, backgrounds=BACKGROUNDS)
SHARDS = [Shard("train", 0, 2, 6), Shard("train", 1, 2, 7), Shard("validation", 0, 1, 6)]
EMPTY = (0xF2, 0xF2, 0xF2)


def results(shard: Shard, size: int = 64) -> Iterator[Sample | Reject]:
    """One drawing of each cell, and a reject where one more is planned."""
    for i in range(shard.count):
        foreground, background = i % 6 // 2, i % 2
        names = FOREGROUNDS[foreground], BACKGROUNDS[background]
        name = make_key(shard.split, foreground, background, shard.index * 10 + i // 6)
        spec = Spec(name, shard.split, foreground, background, *names, f"a {names[0]} <at> {names[1]}", seed=i)
        if i == 6:
            yield Reject(spec, "flat")
        else:
            yield Sample(spec, world.render(*names, None, world.generator(name), size).image)


def build(directory: Path, shards: list[Shard] = SHARDS, formats: tuple[str, ...] = ("parquet", "webdataset")) -> Path:
    """Write shards of drawings, and index and card when they are all of them."""
    for shard in shards:
        write_shard(
            directory, shard, COLUMNS, results(shard), lambda sample: {"seed": sample.spec.seed}, formats=formats
        )
    facts = CardContext("Drawings", "d3s", "Drawings.", "@misc{x}")
    index.finish(directory, SHARDS, COLUMNS, {"strength": 0.9}, facts, formats=formats)
    recipe = {"builder": "d3s", "identity": {"strength": 0.9, "per_cell": {"train": 4}}, "execution": {"workers": 2}}
    (directory / "_figureground/recipe.json").write_text(json.dumps(recipe))
    (directory / "_figureground/numerics.json").write_text(json.dumps({"dtype": "float32"}))
    return directory


def text(page: str) -> str:
    """Visible text of a page, with single blanks."""
    return re.sub(r"\s+", " ", re.sub(r"<(style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL))


def images(page: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page)]


def test_a_finished_dataset_still_loads_with_its_images_beside_it(tmp_path: Path) -> None:
    build(tmp_path)
    written = write_sheet(tmp_path)
    assert written == [tmp_path / "preview.png", tmp_path / "report.html"]
    assert {split: len(rows) for split, rows in load_dataset(str(tmp_path)).items()} == {"train": 12, "validation": 6}


def test_a_preview_shows_the_first_image_of_each_cell_twice_as_large(tmp_path: Path) -> None:
    build(tmp_path)
    sheet = Image.open(write_sheet(tmp_path)[0])
    rows = load_dataset(str(tmp_path), split="train")
    left, top = sheet.width - 16 - 2 * 128 - 4, sheet.height - 28 - 3 * 132
    for row in rows.select(range(6)):
        x, y = left + 132 * row["background"], top + 132 * row["foreground"]
        assert sheet.crop((x, y, x + 128, y + 128)).reduce(2).tobytes() == row["image"].tobytes()


def test_tars_alone_give_the_pages_that_parquet_gives(tmp_path: Path) -> None:
    parquet = write_sheet(build(tmp_path / "parquet" / "drawings", formats=("parquet",)))
    tars = write_sheet(build(tmp_path / "tars" / "drawings", formats=("webdataset",)))
    assert [path.read_bytes() for path in parquet] == [path.read_bytes() for path in tars]


def test_a_report_counts_every_cell_of_every_split(tmp_path: Path) -> None:
    page = text(write_sheet(build(tmp_path))[1].read_text())
    assert "18 images in 3 shards: train 12, validation 6" in page
    assert "grass night sum bird 2 2 4 cat 2 2 4 mug 2 2 4 sum 6 6 12" in page
    assert "grass night sum bird 1 1 2 cat 1 1 2 mug 1 1 2 sum 3 3 6" in page


@pytest.mark.parametrize("finished", [True, False])
def test_splits_come_in_the_order_in_which_they_are_planned(tmp_path: Path, finished: bool) -> None:
    shards = [Shard(split, 0, 1, 6) for split in ("zebra", "train", "ant")]
    for shard in shards:
        write_shard(tmp_path, shard, COLUMNS, results(shard), lambda sample: {})
    if finished:
        index.finish(tmp_path, shards, COLUMNS, {}, CardContext("Drawings", "d3s", "Drawings.", "@misc{x}"))
        written = write_sheet(tmp_path)
    else:
        written = write_sheet(tmp_path, splits=["zebra", "bee", "train", "ant"])
    assert "zebra 6, train 6, ant 6" in text(written[1].read_text())
    assert list(read_contents(tmp_path).splits) == (
        ["zebra", "train", "ant"] if finished else ["train", "ant", "zebra"]
    )


def test_copies_of_references_stand_beside_what_was_drawn_of_their_class(tmp_path: Path) -> None:
    build(tmp_path)
    assert "References" not in text(write_sheet(tmp_path)[1].read_text())
    copies = tmp_path / "_figureground/stages/references/validation"
    copies.mkdir(parents=True)
    for i in range(9):
        Image.new("RGB", (300, 200), (10 * i, 0, 200)).save(copies / f"{i}.png")
    (copies / "0.txt").write_text("a caption")
    (copies / "8.png").write_bytes(b"damaged")
    page = write_sheet(tmp_path)[1].read_text()
    assert "References and results" in text(page)
    assert page.count('alt="reference of validation"') == 3
    assert page.count('alt="result for validation"') == 4
    shown = [image.convert("RGB") for image in images(page)]
    first = next(image for image in shown if image.getpixel((0, 0)) == (0, 0, 200))
    assert first.size == (128, 85)


def test_a_report_tells_settings_numerics_and_rejects(tmp_path: Path) -> None:
    page = text(write_sheet(build(tmp_path))[1].read_text())
    for phrase in ("builder d3s", "strength 0.9", "per_cell.train 4", "workers 2", "dtype float32", "flat 1"):
        assert phrase in page
    assert "unfinished" not in page


def test_a_report_refers_to_nothing_but_its_folder(tmp_path: Path) -> None:
    page = write_sheet(build(tmp_path))[1].read_text()
    assert set(re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]+)", page)) == {"report/report.css", "report/report.js"}
    assert not re.search(r"<[^>]* on\w+=", page)
    assert len(images(page)) == 1


def test_an_unfinished_build_shows_what_is_marked_as_done(tmp_path: Path) -> None:
    build(tmp_path, SHARDS[:1])
    # Published, but killed before its marker: not part of the dataset yet.
    (tmp_path / "data/train-00001-of-00002.parquet").write_bytes(b"PAR1")
    page = text(write_sheet(tmp_path)[1].read_text())
    assert "unfinished: 1 of 2 shards" in page
    assert "6 images in 1 shard, train" in page


def test_an_extension_that_is_under_way_is_shown_as_unfinished(tmp_path: Path) -> None:
    build(tmp_path)
    shard = Shard("train", 0, 3, 6, part=1)
    write_shard(tmp_path, shard, COLUMNS, results(shard), lambda sample: {"seed": sample.spec.seed})
    assert read_contents(tmp_path).progress == "4 of 6 shards"
    assert "unfinished: 4 of 6 shards" in text(write_sheet(tmp_path)[1].read_text())


def test_pages_go_where_they_are_asked_to(tmp_path: Path) -> None:
    build(tmp_path / "set")
    written = write_sheet(tmp_path / "set", out=tmp_path / "pages")
    assert written == [tmp_path / "pages/preview.png", tmp_path / "pages/report.html"]
    assert not (tmp_path / "set/preview.png").exists()


@pytest.mark.parametrize("name", ["preview.png", "report.html"])
def test_a_file_of_a_person_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    build(tmp_path)
    mine = tmp_path / name
    if name.endswith("png"):
        Image.new("RGB", (8, 8), "red").save(mine)
    else:
        mine.write_text("<title>My thesis</title>")
    before = mine.read_bytes()
    with pytest.raises(FiguregroundError, match=name):
        write_sheet(tmp_path)
    assert mine.read_bytes() == before
    assert [path.name for path in sorted(tmp_path.glob("[pr]*.*"))] == [name]


def test_a_link_in_the_place_of_a_page_is_refused_and_not_followed(tmp_path: Path) -> None:
    build(tmp_path / "set")
    ours = write_sheet(tmp_path / "set", out=tmp_path / "elsewhere")[1]
    before = ours.read_bytes()
    (tmp_path / "set/report.html").symlink_to(ours)
    with pytest.raises(FiguregroundError, match=r"report\.html"):
        write_sheet(tmp_path / "set")
    assert ours.read_bytes() == before


def test_earlier_pages_and_what_a_kill_left_are_replaced(tmp_path: Path) -> None:
    build(tmp_path)
    write_sheet(tmp_path)
    (tmp_path / "preview.png").write_bytes(b"")
    (tmp_path / "report.html").write_text("<title>d3s · figureground</title> of an older release")
    (tmp_path / ".report.html.1-0123456789abcdef.tmp").write_text("half")
    write_sheet(tmp_path)
    assert Image.open(tmp_path / "preview.png").info["Software"] == "figureground"
    assert "older release" not in (tmp_path / "report.html").read_text()
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(("made", "message"), [(True, "no shard is finished"), (False, "doesn't exist")])
def test_a_directory_with_nothing_to_show_is_an_error(tmp_path: Path, made: bool, message: str) -> None:
    directory = tmp_path / "set"
    if made:
        directory.mkdir()
    with pytest.raises(FiguregroundError, match=message) as error:
        write_sheet(directory, out=tmp_path / "pages")
    assert str(directory) in str(error.value)
    assert not (tmp_path / "pages").exists()


def test_a_marked_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    build(tmp_path, SHARDS[:1], formats=("parquet",))
    (tmp_path / "data/train-00000-of-00002.parquet").unlink()
    with pytest.raises(FiguregroundError, match="shard train-00000-of-00002 "):
        write_sheet(tmp_path)


def test_of_many_foregrounds_twenty_are_drawn_and_the_rest_is_reported(tmp_path: Path) -> None:
    build(tmp_path, SHARDS[:1])
    contents = read_contents(tmp_path)
    few = draw_preview(contents)
    many = draw_preview(contents._replace(foregrounds={i: f"class number {i}" for i in range(1000)}))
    assert many.height - few.height == (20 - 3) * 132


def test_a_cell_without_a_sample_stays_empty(tmp_path: Path) -> None:
    build(tmp_path, SHARDS[:1])
    contents = read_contents(tmp_path)
    sheet = draw_preview(contents._replace(backgrounds={**contents.backgrounds, 2: "on the moon"}))
    assert sheet.getpixel((sheet.width - 16 - 64, sheet.height - 28 - 66)) == EMPTY


@pytest.mark.parametrize(("size", "edge"), [(40, 120), (100, 100), (160, 128)])
def test_a_cell_is_between_96_and_128_pixels_wide(tmp_path: Path, size: int, edge: int) -> None:
    shard = Shard("train", 0, 1, 6)
    write_shard(tmp_path, shard, COLUMNS, results(shard, size), lambda sample: {})
    contents = read_contents(tmp_path)
    taller = contents._replace(foregrounds={**contents.foregrounds, 3: "moon"})
    assert draw_preview(taller).height - draw_preview(contents).height == edge + 4


def test_an_even_choice_keeps_first_and_last() -> None:
    assert choose_evenly(range(1000), 20)[::19] == [0, 999]
    assert choose_evenly([1, 2, 3], 20) == [1, 2, 3]


def test_an_unknown_licence_is_reported_until_a_person_sets_one(tmp_path):
    assert license_note(build(tmp_path / "unfinished", SHARDS[:1])) is None
    readme = build(tmp_path / "out") / "README.md"
    assert "license unknown: set `license:` in the header of" in license_note(tmp_path / "out")
    readme.write_text(readme.read_text().replace("license: unknown", "license: cc0-1.0"))
    assert license_note(tmp_path / "out") is None
