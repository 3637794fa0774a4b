"""Labelled images in groups: counts, parts, images, masks, and what people are told."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_layouts import TABLE, make_celeba, make_folders, make_image, make_mask, make_table, make_waterbirds

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError
from figureground.data.images import find_typical_edge
from figureground.data.layouts import read_groups
from figureground.data.summary import format_summary, summarise_groups

HEAVY = """
import sys
from figureground.data.layouts import read_groups
from figureground.data.summary import summarise_groups
summarise_groups(read_groups(sys.argv[1]))
print(*sorted({"torch", "datasets", "transformers", "pyarrow"} & set(sys.modules)))
"""


# The record


def test_a_group_is_the_number_of_attributes_times_y_plus_a(tmp_path):
    rows = [(f"{y}{a}.png", "train", y, a) for y in range(2) for a in range(3)]
    make_table(tmp_path, rows)
    groups = read_groups(tmp_path)
    assert groups.group.tolist() == [0, 1, 2, 3, 4, 5]
    assert (groups.group == 3 * groups.y + groups.a).all()
    assert groups.group_names[4] == "1 × 1"
    assert groups.label is groups.y
    assert {array.dtype for array in (groups.split, groups.y, groups.a, groups.group)} == {np.dtype(np.int64)}


def test_counts_are_a_table_of_classes_and_attributes_by_split(tmp_path):
    make_table(tmp_path)
    groups = read_groups(tmp_path)
    assert groups.counts(0).tolist() == [[4, 1], [1, 4]]
    assert groups.counts(2).tolist() == [[1, 1], [1, 1]]
    assert groups.counts(0).dtype == np.int64
    assert sum(groups.counts(n).sum() for n in range(3)) == len(groups)


def test_without_an_attribute_there_are_classes_and_no_groups(tmp_path):
    make_table(tmp_path, [row[:3] for row in TABLE], "filename,split,y")
    groups = read_groups(tmp_path)
    assert groups.a is None
    assert groups.attributes is None
    assert groups.counts(0).tolist() == [[5], [5]]
    with pytest.raises(FiguregroundError, match=r"has no attribute"):
        _ = groups.group
    assert summarise_groups(groups)["splits"]["train"]["cramers_v"] is None
    assert "Cramér" not in format_summary(groups)
    assert "smallest class: 0 (5)" in format_summary(groups)


def test_a_part_is_the_same_kind_of_record(tmp_path):
    make_table(tmp_path)
    groups = read_groups(tmp_path)
    part = groups.of_split(2)
    assert part.keys == ("test/000.png", "test/010.png", "test/100.png", "test/110.png")
    assert (part.split == 2).all()
    assert (part.classes, part.attributes, part.name) == (groups.classes, groups.attributes, groups.name)
    few = part.select([3, 0])
    assert few.keys == ("test/000.png", "test/110.png")
    assert (few.y.tolist(), few.a.tolist(), few.group.tolist()) == ([0, 1], [0, 1], [0, 3])
    for row, draw in few.read([1, 0]):
        assert draw().tobytes() == Image.open(tmp_path / few.keys[row]).tobytes()
    assert few.keys == part.select(np.array([True, False, False, True])).keys
    with pytest.raises(FiguregroundError, match="no image in the split train"):
        part.of_split(0)


def test_a_classifier_can_be_shown_them(tmp_path):
    from colour_datasets import image, make_coloured_classifier

    from figureground.evaluation.counterparts import Counterparts
    from figureground.evaluation.predict import predict
    from figureground.vision.classifiers import open_classifier

    rows = [(f"{i}.png", "test", name) for i, name in enumerate(["bird", "cat", "bird", "mug"])]
    for file, _, name in rows:
        image(name).save(tmp_path / file)
    make_table(tmp_path, rows, "filename,split,y", images=False)
    groups = read_groups(tmp_path)
    classifier = open_classifier(str(make_coloured_classifier(tmp_path / "classifier")))
    found = predict(classifier, groups, Counterparts(groups.classes, ((0,), (1,), (2,)), 3), show_progress=False)
    assert found.judged.all()
    assert found.correct.all()


def test_images_are_decoded_only_when_they_are_asked_for_and_a_damaged_one_is_named(tmp_path):
    make_table(tmp_path)
    path = tmp_path / TABLE[2][0]
    path.write_bytes(path.read_bytes()[:150] + b"\0" * 300)
    draws = dict(read_groups(tmp_path).read([1, 2]))
    assert draws[1]().mode == "RGB"
    with pytest.raises(FiguregroundError, match=r"train/002\.png: .*Replace the file"):
        draws[2]()


def test_masks_beside_images_are_read_as_bool(tmp_path):
    make_table(tmp_path)
    for row in TABLE[:2]:
        make_mask(tmp_path / row[0], value=1)  # many hold 0 and 1
    groups = read_groups(tmp_path)
    assert groups.masked.tolist() == [True] * 2 + [False] * (len(TABLE) - 2)
    for row, draw in groups.read_masks([0, 1]):
        mask = draw()
        assert mask.dtype == bool
        assert mask.shape == (8, 10)
        assert mask[:, :5].all()
        assert not mask[:, 5:].any()
        assert groups.keys[row] == TABLE[row][0]
    with pytest.raises(FiguregroundError, match=r"1 image of 2 have no mask, such as train/002\.png"):
        list(groups.read_masks([0, 2]))


def test_a_mask_in_upper_case_is_read(tmp_path):
    make_table(tmp_path)
    image = tmp_path / TABLE[0][0]
    make_mask(image)
    mask = image.with_suffix(".mask.png")
    mask.rename(image.with_suffix(".MASK.PNG"))
    groups = read_groups(tmp_path)
    assert groups.masked.tolist() == [True] + [False] * (len(TABLE) - 1)
    assert dict(groups.read_masks([0]))[0]().any()


def test_a_mask_is_as_large_as_its_image_or_refused(tmp_path):
    make_table(tmp_path)
    first, second = (tmp_path / row[0] for row in TABLE[:2])
    make_mask(first, (20, 16))
    make_mask(second, (8, 10))
    masks = dict(read_groups(tmp_path).read_masks([0, 1]))
    assert masks[0]().shape == (8, 10)
    with pytest.raises(FiguregroundError, match=r"001\.mask\.png: .* 8 by 10 pixels, .* 10"):
        masks[1]()


def test_a_mask_that_may_be_of_two_images_is_refused(tmp_path):
    make_table(tmp_path, [("a.jpg", 0, 0), ("a.png", 0, 1)], "filename,split,y", images=False)
    for name in ("a.jpg", "a.png"):
        make_image(tmp_path / name, (10, 8))
    assert len(read_groups(tmp_path)) == 2
    make_mask(tmp_path / "a.jpg", (10, 8))
    with pytest.raises(FiguregroundError, match=r"a\.mask\.png of a\.jpg, a\.png"):
        read_groups(tmp_path)


def test_a_image_with_a_mask_is_read_whole_and_others_no_larger_than_needed(tmp_path):
    make_table(tmp_path, [("a.jpg", 0, 0), ("b.jpg", 0, 1)], "filename,split,y", images=False)
    for name in ("a", "b"):
        make_image(tmp_path / f"{name}.jpg", (4200, 2100))
    make_mask(tmp_path / "a.jpg", (4200, 2100))
    sizes = [draw().size for _, draw in read_groups(tmp_path).read([0, 1])]
    assert sizes[0] == (4200, 2100)
    assert 1024 <= sizes[1][1] < 2100


def test_one_small_image_does_not_decide_the_size_at_which_all_are_read(tmp_path):
    """A thumbnail among photographs made the pocket network the default backbone."""
    make_folders(tmp_path, {"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1})
    paths = sorted((tmp_path / "train").glob("*/*"))
    for path in paths:
        make_image(path, (120, 200))
    make_image(paths[0], (9, 16))
    assert find_typical_edge(read_groups(tmp_path).of_split(0)) == 200


def test_the_fingerprint_is_of_labels_and_files_and_of_no_path(tmp_path):
    make_table(tmp_path / "one")
    groups = read_groups(tmp_path / "one")
    first, first_test = groups.fingerprint, groups.of_split(2).fingerprint
    (tmp_path / "one").rename(tmp_path / "two")
    moved = read_groups(tmp_path / "two")
    assert moved.fingerprint == first
    assert moved.of_split(0).fingerprint != first
    assert moved.of_split(0).fingerprint == moved.select(moved.split == 0).fingerprint
    make_mask(tmp_path / "two" / TABLE[0][0])
    masked = read_groups(tmp_path / "two").fingerprint
    assert masked != first
    make_image(tmp_path / "two" / TABLE[0][0], (20, 16))
    changed = read_groups(tmp_path / "two")
    before = changed.fingerprint
    assert before != masked
    assert changed.of_split(2).fingerprint == first_test
    rows = [(*TABLE[0][:3], 1 - TABLE[0][3]), *TABLE[1:]]
    make_table(tmp_path / "two", rows, images=False)
    assert read_groups(tmp_path / "two").fingerprint != before


# What people are told


def test_the_summary_has_a_table_with_totals_for_each_split(tmp_path):
    make_waterbirds(tmp_path / "birds")
    assert format_summary(read_groups(tmp_path / "birds")).split("\n\n")[:2] == [
        "birds (waterbirds): 19 images, 2 classes, 2 attributes",
        "train: 11 images, Cramér's V 0.449\n"
        "             land  water  total\n"
        "  landbird      5      2      7\n"
        "  waterbird     1      3      4\n"
        "  total         6      5     11\n"
        "  smallest group: waterbird × land (1)",
    ]


def test_of_many_classes_a_line_is_enough(tmp_path):
    make_folders(tmp_path / "many", {f"class{i:02d}": 1 + i % 2 for i in range(61)})
    summary = format_summary(read_groups(tmp_path / "many"))
    assert "61 classes, no attribute" in summary
    assert "61 groups of 61, of 1 to 2 images" in summary
    assert "class07  " not in summary


def test_no_torch_is_loaded_and_pyarrow_only_for_datasets(tmp_path):
    make_table(tmp_path)
    done = subprocess.run([sys.executable, "-c", HEAVY, tmp_path], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


# The command


def test_the_command_prints_the_summary_or_json(tmp_path, capsys):
    make_celeba(tmp_path)
    assert main(["groups", str(tmp_path), "--y", "Male", "--a", "Young"]) == 0
    output = capsys.readouterr().out
    assert "(celeba): 24 images, 2 classes, 2 attributes" in output
    assert "not Male" in output
    assert (
        "train has no image of not Male × not Young, Male × not Young: its worst group is computed over the 2 groups"
        in output
    )
    assert main(["groups", str(tmp_path), "--y", "Male", "--a", "Young", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layout"] == "celeba"
    assert report["splits"]["train"]["counts"] == [[0, 4], [0, 4]]
    assert report["splits"]["train"]["smallest_group"] == {"group": 1, "name": "not Male × Young", "images": 4}
    assert len(report["fingerprint"]) == 64


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere: no such file or directory"),
        (["."], 1, "has no known layout. It contains: nothing."),
        ([".", "--layout", "waterbird"], 2, "layout: 'waterbird' is unknown, did you mean 'waterbirds'?"),
        ([".", "--layout", "celeba"], 1, "the layout celeba: list_attr_celeba"),
        ([".", "--root", "elsewhere"], 2, "root: no such directory: elsewhere"),
    ],
)
def test_what_cannot_be_read_ends_with_a_sentence(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["groups", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
