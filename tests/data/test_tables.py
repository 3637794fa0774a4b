"""All problems of a table are reported: rows, lines and files are counted, the first are named."""

import shutil

import pytest
from tiny_layouts import TABLE, make_folders, make_image, make_mask, make_table, write_csv

from figureground.core.errors import FiguregroundError
from figureground.data.layouts import read_groups


def changed(rows, **values):
    """Rows of a table with other values in some of them: `y={0: "x"}`."""
    columns = ("filename", "split", "y", "a")
    out = [list(row) for row in rows]
    for name, cells in values.items():
        for row, value in cells.items():
            out[row][columns.index(name)] = value
    return out


def refused(tmp_path, rows, header="filename,split,y,a"):
    """The error message for a table whose images are those of TABLE."""
    make_table(tmp_path)
    write_csv(tmp_path / "metadata.csv", header, rows)
    with pytest.raises(FiguregroundError) as caught:
        read_groups(tmp_path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"y": {0: 3}}, "y: labels are 0 to n − 1, and the largest is 3, but 2 is missing."),
        ({"y": {i: 9 for i in range(18)}}, "the largest is 9, but 0, 1, 2, … is missing. Number them without gaps"),
        ({"a": {0: -1, 5: -1}}, "a: labels are 0 to n − 1, but 2 rows below 0: '-1' in line 2, '-1' in line 7."),
        ({"y": {1: "cat"}}, "y: 1 row without a whole number: 'cat' in line 3. Use numbers from 0 in all rows, or"),
        ({"y": {0: 0.5}}, "y: 1 row without a whole number: '0.5' in line 2."),
        ({"a": {2: "nan"}}, "a: 1 row without a whole number: 'nan' in line 4."),
        ({"y": {2: "", 3: " "}}, "y: 2 rows without a value (line 4, 5)."),
        ({"split": {0: "trian", 1: 3}}, "(val, dev), test: 'trian' in line 2, '3' in line 3, did you mean 'train'?"),
        ({"filename": {4: ""}}, "filename: 1 row without the name of a file below"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used(tmp_path, values, expected):
    message = refused(tmp_path, changed(TABLE, **values))
    assert message.startswith("metadata.csv: ")
    assert expected in message


@pytest.mark.parametrize("name", ["../x.png", "train/../../x.png", "..", "/etc/passwd"])
def test_a_name_that_leads_out_of_the_root_is_refused_by_row_and_name(tmp_path, name):
    make_image(tmp_path / "x.png")
    rows = changed(TABLE, filename={3: name})
    make_table(tmp_path / "data")
    write_csv(tmp_path / "data" / "metadata.csv", "filename,split,y,a", rows)
    with pytest.raises(FiguregroundError) as caught:
        read_groups(tmp_path / "data")
    assert f"{name!r} in line 5" in str(caught.value)


def test_numbers_too_large_to_be_labels_are_no_burden(tmp_path):
    assert "1, 2, 3, … is missing" in refused(tmp_path, changed(TABLE, y={i: 10**17 * (i % 2) for i in range(18)}))
    assert "without a whole number" in refused(tmp_path, changed(TABLE, y={0: "9" * 5000}))


def test_missing_files_are_counted_and_the_first_named(tmp_path):
    rows = changed(TABLE, filename={0: "train/none.png", 1: "nowhere/1.png", 2: "nowhere/2.png", 3: "nowhere/3.png"})
    message = refused(tmp_path, rows)
    assert "4 files of 18 missing in" in message
    assert "train/none.png (line 2), nowhere/1.png (line 3), nowhere/2.png (line 4), …." in message
    assert "nowhere/3.png" not in message


def test_everything_that_is_wrong_is_reported_at_once(tmp_path):
    rows = changed(TABLE, filename={0: "none.png"}, split={1: "x"}, y={2: 7}, a={3: "?"})
    message = refused(tmp_path, rows)
    assert message.splitlines()[0] == "metadata.csv: 4 problems"
    assert [line[:8] for line in message.splitlines()[1:]] == ["- split:", "- y: lab", "- a: 1 r", "- 1 file"]


def test_files_that_are_empty_or_no_images_are_reported(tmp_path):
    make_table(tmp_path)
    for row, data in ((0, b""), (1, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")):
        (tmp_path / TABLE[row][0]).write_bytes(data)
    (tmp_path / TABLE[2][0]).unlink()
    (tmp_path / TABLE[2][0]).mkdir()
    with pytest.raises(FiguregroundError) as caught:
        read_groups(tmp_path)
    message = str(caught.value)
    assert "3 files that can't be read as an image: train/000.png: the file is empty (0 bytes)" in message
    assert "train/001.png: a Git LFS pointer instead of the image: run `git lfs pull`" in message
    assert "train/002.png: it is a directory" in message


def test_a_file_that_is_listed_twice_is_refused_however_it_is_written(tmp_path):
    message = refused(tmp_path, [*TABLE, TABLE[0], ("./train/../train/001.png", *TABLE[1][1:])])
    assert (
        "2 files listed twice: train/000.png (lines 2 and 20), train/001.png (lines 3 and 21). Keep one row" in message
    )


def test_a_file_in_two_splits_is_refused(tmp_path):
    message = refused(tmp_path, [*TABLE, (TABLE[0][0], 2, 0, 0)])
    assert "1 file listed in two splits: train/000.png (lines 2 and 20). Training images" in message


def test_splits_that_are_the_same_files_are_named(tmp_path):
    twice = [(*row[:1], 1, *row[2:]) for row in TABLE if row[1] == 2]
    message = refused(tmp_path, [row for row in TABLE if row[1] != 1] + twice)
    assert "4 files listed in two splits" in message
    assert "validation and test are the same files." in message


def test_splits_that_hold_copies_of_the_same_images_are_reported(tmp_path):
    make_table(tmp_path)
    for row in TABLE:
        if row[1] == 2:
            shutil.copy(tmp_path / row[0], tmp_path / row[0].replace("test", "val"))
    groups = read_groups(tmp_path)
    assert groups.notes == ("validation and test contain the same images under other paths.",)
    make_image(tmp_path / TABLE[-1][0], (30, 20))
    assert read_groups(tmp_path).notes == ()


def test_a_test_folder_that_copies_train_is_reported_although_validation_is_taken_from_train(tmp_path):
    make_folders(tmp_path / "train", {"bird": 12, "cat": 12})
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    assert "train and test contain the same images under other paths." in read_groups(tmp_path).notes


def test_images_that_the_table_lacks_are_reported_unless_they_are_masks(tmp_path):
    make_table(tmp_path)
    make_image(tmp_path / "train" / "new.png")
    make_mask(tmp_path / TABLE[0][0])
    (tmp_path / "train" / "notes.txt").write_text("mine")
    assert read_groups(tmp_path).notes == ("1 image in the folders of the table but not listed: train/new.png.",)


def test_empty_groups_and_missing_splits_are_reported(tmp_path):
    make_table(tmp_path, [row for row in TABLE if row[1] != 1 and not (row[1] == 2 and row[2] == 0 and row[3] == 1)])
    assert read_groups(tmp_path).notes == (
        "The validation split is missing.",
        "test has no image of 0 × 1: its worst group is computed over the 3 groups that it has.",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,split,y,y\na.png,0,0,1\n", "metadata.csv has two columns 'y'"),
        ("filename,split,y\n", "metadata.csv has no row below its first line"),
        ("filename,split,y\na.png,0\nb.png,0,0,1,2\n", "2 rows whose number of fields differs from the 3 of the first"),
        ("filename,split\na.png,0\n", "not a table of a known layout. Its first line reads: filename, split."),
        ("filename|split|y\na.png|0|1\n", "Its first line reads: filename|split|y."),
        ("", "Its first line reads: nothing."),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(FiguregroundError) as caught:
        read_groups(tmp_path)
    assert message in str(caught.value)


def test_a_column_that_is_asked_for_and_missing_is_named(tmp_path):
    make_table(tmp_path)
    with pytest.raises(FiguregroundError, match=r"y: metadata\.csv has no column 'kind'; available: filename, split"):
        read_groups(tmp_path, "table", y="kind")


def test_one_class_in_all_rows_is_refused(tmp_path):
    assert "only one class, '0', in all 18 images" in refused(tmp_path, changed(TABLE, y=dict.fromkeys(range(18), 0)))
