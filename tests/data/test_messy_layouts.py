"""Labelled data as people have them: names in two spellings, splits of many names, tables of other tools."""

import json
import shutil
import time
import unicodedata

import numpy as np
import pytest
from tiny_layouts import FACES, TABLE, make_celeba, make_folders, make_image, make_table, write_csv

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.layouts import read_groups
from figureground.data.splits import choose_splits, find_conflicts, folder_split, split_number
from figureground.data.tables import cross_labels

NAMED = [(name, split, ("cat", "dog")[y], ("day", "night")[a]) for name, split, y, a in TABLE]


# Names


def test_two_spellings_of_a_class_in_a_table_are_refused_with_their_lines(tmp_path):
    make_table(tmp_path, [*NAMED[:-1], (*NAMED[-1][:2], "Dog", " Night")])
    with pytest.raises(FiguregroundError) as caught:
        read_groups(tmp_path)
    message = str(caught.value)
    assert "metadata.csv: 2 problems" in message
    assert "y: 'Dog' and 'dog' ('Dog' in line 19; 'dog' in line" in message
    assert "a: 'Night' and 'night'" in message


@pytest.mark.parametrize(
    ("first", "second"), [("cat", "Cat"), ("sea lion", "sea_lion"), ("caf\u00e9", "cafe\u0301"), ("cat", "cat ")]
)
def test_two_spellings_of_a_class_in_folders_are_refused(tmp_path, first, second):
    make_folders(tmp_path, {f"train/{first}": 3, "train/dog": 3, "val/dog": 1})
    make_image(tmp_path / "val" / second / "0.jpg")
    if first == second.strip():
        assert read_groups(tmp_path).classes == ("cat", "dog")  # nobody sees a blank at the end
        return
    with pytest.raises(FiguregroundError) as caught:
        read_groups(tmp_path)
    assert repr(first) in str(caught.value)
    assert repr(second) in str(caught.value)


def test_two_spellings_of_a_context_are_refused(tmp_path):
    make_folders(tmp_path, {"train/cat/cat(sofa)": 3, "train/dog/dog(Sofa)": 3, "test/cat/cat(bed)": 1})
    with pytest.raises(FiguregroundError, match="attributes 'Sofa' and 'sofa'"):
        read_groups(tmp_path)


# Splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, 0) for name in ("train", "Training", "TRN", "train_id", "0", "0.0")),
        *((name, 1) for name in ("val", "valid", "Validation", "dev", "eval", "id_val", "id-val", "1")),
        *((name, 2) for name in ("test", "Testing", "id_test", "ood", "OOD-test", "holdout", "2")),
        *((name, None) for name in ("", "fold1", "cat", "3", "masks")),
    ],
)  # fmt: skip
def test_splits_go_by_their_usual_names(name, split):
    assert split_number(name) == split
    assert folder_split(name) == (None if name[:1].isdecimal() and len(name) == 1 else split)


def test_parts_that_would_be_one_split_are_found():
    assert find_conflicts(["train", "val", "valid", "id_val", "test"]) == [(1, ["val", "id_val"])]
    assert choose_splits(["train", "val", "id_val", "id_test", "ood_test"]) == [0, 1, None, None, None]


@pytest.mark.parametrize("name", ["dev", "id_val", "valid", "eval", "Val", "validation"])
def test_validation_is_found_by_its_usual_names(tmp_path, name):
    make_folders(tmp_path, {"train/cat": 6, "train/dog": 6, f"{name}/cat": 2, f"{name}/dog": 3, "test/cat": 1})
    groups = read_groups(tmp_path)
    assert [groups.counts(n).ravel().tolist() for n in range(3)] == [[6, 6], [2, 3], [1, 0]]
    make_table(tmp_path / "table", [(row[0], ("train", name, "test")[row[1]], *row[2:]) for row in TABLE])
    assert np.bincount(read_groups(tmp_path / "table").split).tolist() == [10, 4, 4]


def test_a_folder_of_the_same_classes_that_is_no_split_is_refused(tmp_path):
    make_folders(tmp_path, {"train/cat": 6, "train/dog": 6, "fold2/Cat": 2, "test/cat": 1, "notes/old": 1})
    with pytest.raises(
        FiguregroundError, match=r"fold2/ contains folders of the same classes as test/, train/ \('Cat'\)"
    ):
        read_groups(tmp_path)
    shutil.rmtree(tmp_path / "fold2")
    assert "notes/" in " ".join(read_groups(tmp_path).notes)


def test_folders_of_classes_below_unknown_splits_are_named(tmp_path):
    make_folders(tmp_path, {"fold1/cat": 1, "fold2/cat": 1})
    with pytest.raises(FiguregroundError, match=r"If fold1/, fold2/ are splits, rename them to one of: train,"):
        read_groups(tmp_path)


def test_two_parts_of_one_split_in_a_table_are_refused(tmp_path):
    make_table(tmp_path, [(row[0], ("train", "val", "id_val")[row[1]], *row[2:]) for row in TABLE])
    with pytest.raises(FiguregroundError, match="split: 'id_val' and 'val' would both be the split validation"):
        read_groups(tmp_path)


# Tables


def test_paths_of_windows_are_read_and_a_drive_is_refused(tmp_path):
    expected = [row[0] for row in TABLE]
    make_table(tmp_path)
    write_csv(
        tmp_path / "metadata.csv",
        "filename,split,y,a",
        [(".\\" + row[0].replace("/", "\\"), *row[1:]) for row in TABLE],
    )
    assert list(read_groups(tmp_path).keys) == expected
    write_csv(tmp_path / "metadata.csv", "filename,split,y,a", [("C:\\x\\" + row[0], *row[1:]) for row in TABLE])
    with pytest.raises(FiguregroundError, match="18 rows without the name of a file below"):
        read_groups(tmp_path)


def test_names_in_the_other_coding_of_accents_are_found(tmp_path):
    there = [
        (unicodedata.normalize("NFD", f"{split}/\u00e9t\u00e9/{y}{a}{i}.png"), split, y, a)
        for i, (_, split, y, a) in enumerate(TABLE)
    ]
    make_table(tmp_path, there)
    rows = [(unicodedata.normalize("NFC", row[0]), *row[1:]) for row in there]
    write_csv(tmp_path / "metadata.csv", "filename,split,y,a", rows)
    assert len(read_groups(tmp_path)) == len(TABLE)
    write_csv(tmp_path / "metadata.csv", "filename,split,y,a", [*rows, there[0]])
    with pytest.raises(FiguregroundError, match="1 file listed twice"):
        read_groups(tmp_path)


def test_of_a_missing_file_the_one_in_other_letters_is_named(tmp_path):
    make_table(tmp_path)
    (tmp_path / TABLE[0][0]).rename(tmp_path / "train" / "000.PNG")
    with pytest.raises(FiguregroundError, match=r"train/000\.png \(line 2; found 000\.PNG\)"):
        read_groups(tmp_path)


@pytest.mark.parametrize(("stored", "listed"), [("{}.jpg", "{}.JPG"), ("e\u0301{}.jpg", "\u00e9{}.jpg")])
def test_names_in_other_letters_or_coding_cost_no_look_through_the_folder_each(stored, listed, tmp_path):
    count = 3000
    for i in range(count):
        (tmp_path / stored.format(i)).write_bytes(bytes(300))  # too large to be looked into
    rows = [(listed.format(i), i % 3, i % 2) for i in range(count)]
    write_csv(tmp_path / "metadata.csv", "filename,split,y", rows)
    began = time.process_time()
    if "\u00e9" in listed:
        assert len(read_groups(tmp_path)) == count
    else:
        with pytest.raises(FiguregroundError, match=r"3,000 files of 3,000 missing .*found 0\.jpg"):
            read_groups(tmp_path)
    assert time.process_time() - began < 5


def test_a_table_as_excel_saves_it(tmp_path):
    path = make_table(tmp_path, NAMED)
    whole = read_groups(tmp_path)
    for text in (path.read_text().replace(",", ";"), path.read_text().replace(",", "\t")):
        path.write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
        assert read_groups(tmp_path).fingerprint == whole.fingerprint


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A table of somebody else, with names of its own for everything."""
    folder = tmp_path_factory.mktemp("others")
    rows = [(row[0], ("trn", "dev", "ood")[row[1]], *row[2:], i % 2) for i, row in enumerate(NAMED)]
    make_table(folder, rows, "path,fold,species,light,wet")
    return folder


def test_columns_of_other_tables_are_named(others):
    with pytest.raises(FiguregroundError, match="--file NAME --y NAME"):
        read_groups(others)
    groups = read_groups(others, file="path", y="species", a="light", split_column="fold")
    assert (groups.classes, groups.attributes) == (("cat", "dog"), ("day", "night"))
    assert np.bincount(groups.split).tolist() == [10, 4, 4]
    with pytest.raises(RecipeError, match=r"a: metadata\.csv has no column 'lihgt', did you mean 'light'"):
        read_groups(others, file="path", y="species", a="lihgt")


def test_commands_take_the_columns(others, capsys):
    options = ["--file", "path", "--y", "species", "--a", "light,wet", "--split-column", "fold"]
    assert main(["groups", str(others), *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["attributes"] == ["day + wet=0", "day + wet=1", "night + wet=0", "night + wet=1"]
    for wrong in (["--file", "nowhere", "--y", "species"], ["--split-column", "nowhere", "--layout", "table"]):
        assert main(["groups", str(others), *wrong]) == 2
        assert "metadata.csv has no column 'nowhere'" in capsys.readouterr().err
    data = [f"data={others}", "file=path", "y=species", "a=light", "split_column=fold"]
    assert main(["plan", "ddb", *(part for setting in data for part in ("--set", setting))]) == 0


def test_attributes_are_crossed(others, tmp_path):
    groups = read_groups(others, file="path", y="species", a="light,wet", split_column="fold")
    apart = [read_groups(others, file="path", y="species", a=a, split_column="fold") for a in ("light", "wet")]
    assert (groups.a == 2 * apart[0].a + apart[1].a).all()
    make_celeba(tmp_path)
    faces = read_groups(tmp_path, a="Male, Bald")
    assert faces.attributes == ("not Male + not Bald", "Male + not Bald")  # nobody is bald
    assert faces.a.tolist() == [int(face[3] == 1) for face in FACES]
    for a in ("Male,Blond_Hair", "Male,Male", "Male,Balt"):
        with pytest.raises(RecipeError, match=r"^a: "):
            read_groups(tmp_path, a=a)


def test_values_that_say_little_are_crossed_with_their_column():
    each = [(np.array([0, 1]), ("False", "True")), (np.array([1, 0]), ("day", "night")), (np.array([0, 1]), ("0", "1"))]
    assert cross_labels(each, ["Male", "light", "wet"])[1] == ("Male=False + night + wet=0", "Male=True + day + wet=1")


def test_a_table_without_a_split_takes_that_of_its_folders_or_draws_it(tmp_path):
    make_table(tmp_path, [(row[0], *row[2:]) for row in TABLE], "filename,y,a")
    assert read_groups(tmp_path).split.tolist() == [row[1] for row in TABLE]
    flat = [(row[0].replace("/", "-"), *row[2:]) for row in TABLE]
    make_table(tmp_path / "flat", flat, "filename,y,a")
    groups = read_groups(tmp_path / "flat")
    assert set(groups.split.tolist()) == {0, 1, 2}
    assert "No splits are given" in groups.notes[0]


# ImageFolder


def image_folder(folder, kind, label="label", extra=()):
    """ImageFolder as `datasets` reads it: a table in each split, or one for all."""
    rows = {"": []}
    for name, _, y, a in NAMED:
        make_image(folder / name)
        top, base = name.split("/")
        row = {"file_name": base if kind != "whole.csv" else name, label: y, "light": a}
        rows.setdefault("" if kind == "whole.csv" else top, []).append(row)
    for top, each in rows.items():
        if not each:
            continue
        if kind.endswith("jsonl"):
            (folder / top / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in each))
        else:
            write_csv(folder / top / "metadata.csv", ",".join(each[0]), [row.values() for row in each])
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "csv", "whole.csv"])
def test_image_folder_is_read_as_datasets_lays_it_out(tmp_path, kind):
    groups = read_groups(image_folder(tmp_path, kind), a="light")
    assert groups.layout == "imagefolder"
    assert (groups.classes, groups.attributes) == (("cat", "dog"), ("day", "night"))
    assert dict(zip(groups.keys, groups.split.tolist(), strict=True)) == {row[0]: row[1] for row in TABLE}


def test_the_class_of_image_folder_may_have_any_name(tmp_path):
    image_folder(tmp_path, "jsonl", "species")
    with pytest.raises(FiguregroundError, match=r"test/, train/, val/ are named like splits .* --y NAME"):
        read_groups(tmp_path)
    assert read_groups(tmp_path, y="species", a="light").classes == ("cat", "dog")


@pytest.mark.parametrize("folder", ["", "val"])
def test_two_tables_of_one_folder_are_refused_since_they_may_disagree(tmp_path, folder):
    image_folder(tmp_path, "csv" if folder else "whole.csv")
    table = tmp_path / folder / "metadata.csv"
    (table.with_suffix(".jsonl")).write_text('{"file_name": "none.png", "label": "cat"}')
    with pytest.raises(FiguregroundError, match=r"has both metadata\.csv and metadata\.jsonl\. Move one"):
        read_groups(tmp_path)
    if not folder:
        assert read_groups(table, a="light").classes == ("cat", "dog")


def test_in_one_of_several_tables_a_row_is_named_with_its_folder(tmp_path):
    image_folder(tmp_path, "jsonl")
    with (tmp_path / "val" / "metadata.jsonl").open("a") as file:
        file.write('\n{"file_name": "none.png", "label": "Cat", "light": "day"}')
    with pytest.raises(FiguregroundError) as caught:
        read_groups(tmp_path, a="light")
    assert "'Cat' in line 5 of val/" in str(caught.value)
    assert "val/none.png (line 5 of val/)" in str(caught.value)


# Images


def test_images_of_phones_that_cannot_be_read_are_passed_over_and_named(tmp_path):
    make_folders(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "cat" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"x" * 300)
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 99)
    (tmp_path / "cat" / "._0.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    groups = read_groups(tmp_path)
    assert len(groups) == 8
    assert any("cat/IMG_1.HEIC, a HEIC" in note for note in groups.notes)
    write_csv(tmp_path / "metadata.csv", "filename,y", [("cat/0.jpg", "cat"), ("cat/IMG_1.HEIC", "dog")])
    with pytest.raises(FiguregroundError, match=r"1 file that can't be read as an image: cat/IMG_1\.HEIC: a HEIC"):
        read_groups(tmp_path)
