"""References by class: found in folders of either layout, read, counted, gathered."""

import numpy as np
import pytest
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.recipe.features import Feature
from figureground.sources.references import draw_references, gather, read_references

BEE = Feature("bee", "flower", "violet flowers", (0, 3), 309)
CAR = Feature("sports car", "road", "asphalt", (), 817, ("n04285008",))


def images(folder, count=3, first=0, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        pixels = np.random.default_rng(i).integers(0, 255, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}")
    return folder


@pytest.mark.parametrize("name", ["sports car", "Sports_Car", "sports_car", "n04285008"])
def test_a_folder_is_found_by_the_name_of_its_class(tmp_path, name):
    images(tmp_path / name)
    (tmp_path / name / "notes.md").write_text("not an image")
    found = read_references(tmp_path, [CAR])["sports_car"]
    assert [image.name for image in found.images] == ["0.png", "1.png", "2.png"]
    assert found.folder == tmp_path / name


def test_the_folders_of_spurious_imagenet_are_found_by_class_and_component(tmp_path):
    own = images(tmp_path / "spurious_class_309_bee_component_0")
    images(tmp_path / "spurious_class_309_bee_component_7", first=10)
    images(tmp_path / "spurious_class_310_ant_component_0", first=20)
    assert read_references(tmp_path, [BEE])["bee"].folder == own


def test_references_from_several_folders_are_gathered_in_one_with_their_captions(tmp_path):
    images(tmp_path / "a_1_309_bee_0", 2)
    second = images(tmp_path / "a_1_309_bee_3", 2, first=1)  # 1.png is in both, with the same pixels
    (second / "2.TXT").write_text("a {V} {noun}\n at night")
    images(tmp_path / "b_309_3", 1, first=7)
    (tmp_path / "b_309_3" / "7.png").rename(tmp_path / "b_309_3" / "0.png")
    found = read_references(tmp_path, [Feature("bee", "flower", "", (0, 3), 309)])
    assert "bee" in found
    assert len(found["bee"].repeated) == 1
    assert found["bee"].folder is None
    out = gather(found["bee"], tmp_path / "gathered")
    assert sorted(path.name for path in out.iterdir()) == ["0-1.png", "0.png", "1.png", "2.png", "2.txt"]
    assert found["bee"].to_json()[2]["caption"] == "a {V} {noun} at night"
    files = [row["file"] for row in found["bee"].to_json()]
    assert files == ["0.png", "1.png", "2.png", "0-1.png"]  # as they lie there


def test_a_caption_is_text_of_a_length_that_can_be_read(tmp_path):
    folder = images(tmp_path / "bee")
    (folder / "0.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FiguregroundError, match=r"the caption bee/0\.txt is not text"):
        read_references(tmp_path, [BEE])
    (folder / "0.txt").write_text("word " * 10_000)
    with pytest.raises(FiguregroundError, match=r"the caption bee/0\.txt is longer than 4,096 bytes"):
        read_references(tmp_path, [BEE])


def test_a_caption_that_may_be_of_two_images_is_refused(tmp_path):
    folder = images(tmp_path / "bee")
    Image.new("RGB", (8, 8), "blue").save(folder / "0.jpg")
    assert len(read_references(tmp_path, [BEE])["bee"].images) == 4
    (folder / "0.txt").write_text("a {V} {noun} at night")
    with pytest.raises(FiguregroundError, match=r"bee/0\.txt of 0\.jpg, 0\.png"):
        read_references(tmp_path, [BEE])


def test_their_digest_depends_on_content_and_names_and_not_on_the_place(tmp_path):
    images(tmp_path / "one" / "bee")
    images(tmp_path / "two" / "Bee")
    digests = [read_references(tmp_path / name, [BEE])["bee"].digest for name in ("one", "two")]
    assert digests[0] == digests[1]
    (tmp_path / "two" / "Bee" / "0.txt").write_text("a {V} {noun} in the rain")
    assert read_references(tmp_path / "two", [BEE])["bee"].digest != digests[0]


def test_classes_without_a_folder_are_all_counted(tmp_path):
    images(tmp_path / "wasp")
    with pytest.raises(FiguregroundError, match=r"2 of 2 classes have no folder .*'bee', 'sports car'.*found: wasp"):
        read_references(tmp_path, [BEE, CAR])


def test_classes_with_too_few_images_are_reported_in_one_error(tmp_path):
    images(tmp_path / "bee", 2)
    (tmp_path / "bee" / "broken.jpg").write_bytes(b"")
    same = images(tmp_path / "sports car", 1)
    for i in range(3):
        Image.open(same / "0.png").save(same / f"copy-{i}.png", compress_level=i)
    with pytest.raises(FiguregroundError) as refused:
        read_references(tmp_path, [BEE, CAR])
    message = str(refused.value)
    assert "2 of 2 classes have fewer than 3 different images" in message
    assert "'bee' (2)" in message
    assert "'sports car' (1, duplicates: 3)" in message
    assert "bee/broken.jpg: the file is empty" in message


def test_of_many_some_are_taken_whatever_their_names(tmp_path):
    folder = images(tmp_path / "bee", 9)
    some = read_references(tmp_path, [BEE], limit=4)["bee"]
    assert len(some.images) == 4
    assert some.folder is None
    for path in list(folder.iterdir()):
        path.rename(folder / f"x{path.name}")
    again = read_references(tmp_path, [BEE], limit=4)["bee"]
    assert [image.sha256 for image in again.images] == [image.sha256 for image in some.images]


def test_drawn_references_are_written_where_they_are_gathered(tmp_path):
    found = draw_references(3, lambda i: Image.new("RGB", (8, 8), (i, 0, 0)))
    out = gather(found, tmp_path / "drawn")
    assert sorted(path.name for path in out.iterdir()) == ["000.png", "001.png", "002.png"]
    assert read_references(tmp_path, [Feature("drawn", "x", "")])["drawn"].digest == found.digest
