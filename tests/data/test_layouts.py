"""Each layout is found out, read, and told of where it is ambiguous or lacks something."""

import shutil
from collections import Counter

import numpy as np
import pytest
from tiny_datasets import make_dataset
from tiny_layouts import (
    FACES,
    METASHIFT,
    TABLE,
    make_celeba,
    make_folders,
    make_image,
    make_images,
    make_table,
    make_waterbirds,
    write_csv,
)

from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.data.layouts import LAYOUTS, read_groups
from figureground.data.record import split_off
from figureground.shards.columns import Columns
from figureground.shards.shard import Shard


def notes(groups) -> str:
    return " ".join(groups.notes)


# Tables


def test_a_table_given_itself_or_its_directory(tmp_path):
    path = make_table(tmp_path / "mine")
    one, other = read_groups(path), read_groups(tmp_path / "mine")
    assert one.fingerprint == other.fingerprint
    assert {(groups.name, groups.layout) for groups in (one, other)} == {("mine", "table")}
    assert one.keys == tuple(row[0] for row in TABLE)
    assert one.split.tolist() == [row[1] for row in TABLE]
    assert (one.classes, one.attributes, one.notes) == (("0", "1"), ("0", "1"), ())
    path.rename(tmp_path / "mine" / "birds.csv")
    assert read_groups(tmp_path / "mine" / "birds.csv").name == "birds"


def test_a_table_may_say_names_and_call_its_splits_as_people_do(tmp_path):
    rows = [
        ("a.png", "Train", "dog", "sofa"), ("b.png", "training", "cat", "bed"), ("c.png", "val", "dog", "bed"),
        ("d.png", "valid", "cat", "bed"), ("e.png", "test", "cat", "sofa"), ("f.png", "2", "dog", "sofa"),
    ]  # fmt: skip
    make_table(tmp_path, rows)
    groups = read_groups(tmp_path)
    assert groups.split.tolist() == [0, 0, 1, 1, 2, 2]
    assert (groups.classes, groups.attributes) == (("cat", "dog"), ("bed", "sofa"))
    assert (groups.y.tolist(), groups.a.tolist()) == ([1, 0, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1])


def test_numbers_as_spreadsheets_write_them_and_blank_lines_do_no_harm(tmp_path):
    path = make_table(tmp_path, [(name, f"{split}.0", f" {y}.0", f"{a} ") for name, split, y, a in TABLE])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n,,,\r\n")
    groups = read_groups(path)
    assert (groups.classes, groups.attributes) == (("0", "1"), ("0", "1"))
    assert groups.counts(0).tolist() == [[4, 1], [1, 4]]


def test_a_column_a_without_a_value_is_no_attribute(tmp_path):
    make_table(tmp_path, [(*row[:3], "") for row in TABLE])
    assert read_groups(tmp_path).a is None


def test_other_columns_can_be_class_and_attribute(tmp_path):
    path = make_table(tmp_path, [(n, s, y, a, f"p{a}") for n, s, y, a in TABLE], "filename,split,kind,y,place")
    groups = read_groups(path, y="kind", a="place")
    assert groups.y.tolist() == [row[2] for row in TABLE]
    assert groups.attributes == ("p0", "p1")
    assert read_groups(path).y.tolist() == [row[3] for row in TABLE]
    with pytest.raises(RecipeError, match=r"a: metadata\.csv has no column 'plase', did you mean 'place'"):
        read_groups(path, a="plase")
    with pytest.raises(RecipeError, match="'kind' is already the class"):
        read_groups(path, y="kind", a="kind")


def test_files_lie_beside_the_table_or_below_the_root_that_is_given(tmp_path):
    make_table(tmp_path / "images")
    path = shutil.move(tmp_path / "images" / "metadata.csv", tmp_path / "table.csv")
    with pytest.raises(FiguregroundError, match=r"18 files of 18 missing in .*give --root DIR"):
        read_groups(path)
    assert read_groups(path, root=tmp_path / "images").keys == tuple(row[0] for row in TABLE)


def test_absolute_names_below_the_root_are_keys_without_it(tmp_path):
    make_table(tmp_path)
    write_csv(tmp_path / "metadata.csv", "filename,split,y", [(tmp_path / row[0], *row[1:3]) for row in TABLE])
    assert read_groups(tmp_path).keys == tuple(row[0] for row in TABLE)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(FiguregroundError, match=r"18 rows without the name of a file below .*elsewhere"):
        read_groups(tmp_path, root=tmp_path / "elsewhere")


# Waterbirds


def test_waterbirds(tmp_path):
    make_waterbirds(tmp_path)
    groups = read_groups(tmp_path)
    assert groups.layout == "waterbirds"
    assert (groups.classes, groups.attributes) == (("landbird", "waterbird"), ("land", "water"))
    assert groups.counts(0).tolist() == [[5, 2], [1, 3]]
    assert (groups.group == 2 * groups.y + groups.a).all()
    assert groups.keys[0] == "000.Some_Bird/Some_Bird_0000.jpg"
    assert notes(groups).startswith("The training group sizes differ from Waterbirds (3,498, 184, 56, 1,057)")


def test_the_training_groups_of_waterbirds_are_known(tmp_path):
    counts, rows = {(0, 0): 3498, (0, 1): 184, (1, 0): 56, (1, 1): 1057}, []
    (tmp_path / "bird").mkdir()
    data = make_image(tmp_path / "one.png").read_bytes()
    for (y, place), count in counts.items():
        for _ in range(count):
            rows.append((len(rows), f"bird/{len(rows)}.png", y, 0, place, ""))
            (tmp_path / rows[-1][1]).write_bytes(data)
    write_csv(tmp_path / "metadata.csv", "img_id,img_filename,y,split,place,place_filename", rows)
    groups = read_groups(tmp_path)
    assert "The training group sizes match those of Waterbirds: 3,498, 184, 56, 1,057." in groups.notes
    assert {"The validation split is missing.", "The test split is missing."} <= set(groups.notes)


def test_places_of_waterbirds_are_0_or_1(tmp_path):
    path = make_waterbirds(tmp_path)
    path.write_text(path.read_text().replace(",0,0,1,", ",0,0,2,"))
    with pytest.raises(FiguregroundError, match=r"place: 2 rows with neither 0 nor 1: '2' in line 7, '2' in line 8"):
        read_groups(tmp_path)


# CelebA


@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_celeba(tmp_path, kind):
    path = make_celeba(tmp_path, kind)
    groups = read_groups(tmp_path)
    assert groups.layout == "celeba"
    assert (groups.classes, groups.attributes) == (("not Blond_Hair", "Blond_Hair"), ("not Male", "Male"))
    assert groups.keys == tuple(face[0] for face in FACES)
    assert groups.y.tolist() == [int(face[2] == 1) for face in FACES]
    assert groups.a.tolist() == [int(face[3] == 1) for face in FACES]
    assert groups.split.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert read_groups(path).fingerprint == groups.fingerprint


@pytest.mark.parametrize("images", ["img_align_celeba/img_align_celeba", "Img/img_align_celeba"])
def test_images_of_celeba_may_lie_deeper(tmp_path, images):
    make_celeba(tmp_path, images=images)
    assert read_groups(tmp_path).keys[0] == "000001.jpg"


def test_celeba_as_it_was_published_has_a_folder_for_each_kind_of_file(tmp_path):
    make_celeba(tmp_path, "txt", "Img/img_align_celeba")
    for name, folder in (("list_attr_celeba.txt", "Anno"), ("list_eval_partition.txt", "Eval")):
        (tmp_path / folder).mkdir()
        shutil.move(tmp_path / name, tmp_path / folder / name)
    assert len(read_groups(tmp_path)) == len(FACES)


def test_images_of_celeba_may_lie_elsewhere(tmp_path):
    make_celeba(tmp_path / "lists", images="../faces/img_align_celeba")
    with pytest.raises(FiguregroundError, match=r"no folder img_align_celeba with the images.*--root DIR"):
        read_groups(tmp_path / "lists")
    for root in ("faces", "faces/img_align_celeba"):
        assert len(read_groups(tmp_path / "lists", root=tmp_path / root)) == len(FACES)


def test_attributes_of_celeba_are_chosen_by_name(tmp_path):
    make_celeba(tmp_path)
    groups = read_groups(tmp_path, y="Male", a="Bald")
    assert (groups.classes, groups.attributes) == (("not Male", "Male"), ("not Bald", "Bald"))
    with pytest.raises(RecipeError, match=r"y: list_attr_celeba\.csv has no attribute 'Yuong', did you mean 'Young'"):
        read_groups(tmp_path, y="Yuong")
    with pytest.raises(RecipeError, match="'Male' is already the class"):
        read_groups(tmp_path, y="Male")


def test_a_cut_or_wrong_list_of_celeba(tmp_path):
    path = make_celeba(tmp_path, "txt")
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:-2]))
    with pytest.raises(FiguregroundError, match="first line states 24 images, but it lists 22"):
        read_groups(tmp_path)
    path.write_text("\n".join([*whole[:-1], whole[-1][:-3]]))
    with pytest.raises(FiguregroundError, match=r"list_attr_celeba\.txt, line 26: 4 fields instead of 5"):
        read_groups(tmp_path)
    path.write_text("\n".join(whole[1:]))
    with pytest.raises(FiguregroundError, match="its header can't be read: the first line is 'Bald Blond_Hair"):
        read_groups(tmp_path)
    path.write_text("\n".join(line.replace("-1", " 0") for line in whole))
    with pytest.raises(FiguregroundError, match=r"Blond_Hair: 16 rows with neither -1 nor 1: '0' in line 4"):
        read_groups(tmp_path)


def test_splits_of_celeba_are_needed_for_every_image(tmp_path):
    make_celeba(tmp_path)
    partition = tmp_path / "list_eval_partition.csv"
    partition.write_text("\n".join(partition.read_text().splitlines()[:-1]))
    with pytest.raises(FiguregroundError, match=r"1 image not in list_eval_partition\.csv: '000024\.jpg' in line 25"):
        read_groups(tmp_path)
    partition.unlink()
    with pytest.raises(FiguregroundError, match=r"no list_eval_partition\.csv or \.txt next to list_attr_celeba\.csv"):
        read_groups(tmp_path)


# MetaShift


def test_metashift_takes_validation_from_train_where_there_is_none(tmp_path):
    make_folders(tmp_path / "shift", METASHIFT)
    groups = read_groups(tmp_path / "shift")
    assert groups.layout == "metashift"
    assert (groups.classes, groups.attributes) == (("cat", "dog"), ("bed", "cabinet", "shelf", "sofa"))
    assert groups.counts(2).tolist() == [[0, 0, 2, 0], [0, 0, 3, 0]]
    assert (groups.counts(0) + groups.counts(1)).tolist() == [[20, 0, 0, 8], [1, 7, 0, 0]]
    assert groups.counts(1).tolist() == [[3, 0, 0, 1], [0, 1, 0, 0]]
    assert "15% of each group of train is used instead, chosen with the seed 0" in notes(groups)
    assert "test has no image of cat × bed, cat × cabinet, cat × sofa, dog × bed, dog × cabinet, …" in notes(groups)
    assert "its worst group is computed over the 2 groups that it has" in notes(groups)
    again, other = read_groups(tmp_path / "shift"), read_groups(tmp_path / "shift", seed=1)
    assert again.fingerprint == groups.fingerprint
    assert (other.split != groups.split).any()
    assert (other.counts(1) == groups.counts(1)).all()


@pytest.mark.parametrize("name", ["val", "validation", "val_out_of_domain"])
def test_metashift_has_validation_by_several_names(tmp_path, name):
    make_folders(tmp_path, {**METASHIFT, f"{name}/cat/cat(sofa)": 2, f"{name}/dog/dog(bed)": 1})
    groups = read_groups(tmp_path)
    assert groups.counts(1).sum() == 3
    assert groups.counts(0).sum() == 36
    assert "seed" not in notes(groups)


def test_metashift_indoors_and_outdoors(tmp_path):
    make_folders(tmp_path, {
        "train/cat/cat(indoor)": 7, "train/dog/dog(outdoor)": 7, "test/cat/cat(outdoor)": 2, "test/dog/dog(indoor)": 2,
    })  # fmt: skip
    groups = read_groups(tmp_path)
    assert groups.attributes == ("indoor", "outdoor")
    assert groups.counts(0).tolist() == [[6, 0], [0, 6]]
    assert groups.counts(2).tolist() == [[0, 2], [2, 0]]


def test_two_folders_of_one_split_are_refused(tmp_path):
    make_folders(tmp_path, {**METASHIFT, "val/cat/cat(sofa)": 1, "val_out_of_domain/cat/cat(sofa)": 1})
    with pytest.raises(FiguregroundError, match=r"val/, val_out_of_domain/ would all be the split validation"):
        read_groups(tmp_path)


def test_files_in_the_wrong_folder_of_metashift_are_reported(tmp_path):
    make_folders(tmp_path / "shift", {**METASHIFT, "train/cat/others": 1, "notes/x": 1})
    make_images(tmp_path / "shift" / "train" / "cat", 2)
    text = notes(read_groups(tmp_path / "shift"))
    assert "Skipped: shift/notes/; 2 images in shift/train/cat/ itself; shift/train/cat/others/." in text
    make_folders(tmp_path / "shift", {"train/dog/cat(sofa)": 1})
    with pytest.raises(FiguregroundError, match=r"train/dog/cat\(sofa\)/ is named 'cat' .* 'dog'"):
        read_groups(tmp_path / "shift")


# Folders


def test_folders_without_splits_are_split_by_class(tmp_path):
    make_folders(tmp_path / "animals", {"cat": 20, "Dog": 40, "snail": 1})
    groups = read_groups(tmp_path / "animals")
    assert (groups.layout, groups.classes, groups.attributes) == ("folders", ("Dog", "cat", "snail"), None)
    assert [groups.counts(n).ravel().tolist() for n in range(3)] == [[28, 14, 1], [6, 3, 0], [6, 3, 0]]
    assert "each class is divided into 70% train, 15% validation, 15% test, with the seed 0" in notes(groups)
    assert "validation has no image of snail." in groups.notes
    assert Counter(key.partition("/")[0] for key in groups.keys) == {"cat": 20, "Dog": 40, "snail": 1}


def test_folders_with_splits(tmp_path):
    make_folders(tmp_path, {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("cat", "dog")})
    groups = read_groups(tmp_path)
    assert [groups.counts(n).ravel().tolist() for n in range(3)] == [[2, 2]] * 3
    assert groups.notes == ()


def test_a_class_called_train_is_no_split(tmp_path):
    make_folders(tmp_path, {"train": 20, "boat": 20})
    assert read_groups(tmp_path).classes == ("boat", "train")


def test_classes_beside_splits_are_refused(tmp_path):
    make_folders(tmp_path, {"train/cat": 2, "train/dog": 2, "cat": 2})
    with pytest.raises(FiguregroundError, match=r"the splits train/ .* cat/"):
        read_groups(tmp_path)


def test_odd_files_and_empty_folders_are_skipped_and_reported(tmp_path):
    make_folders(tmp_path / "animals", {"cat": 3, "dog": 3, "cow": 0})
    make_image(tmp_path / "animals" / "loose.png")
    (tmp_path / "animals" / "cat" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "animals" / "cat" / "notes.txt").write_text("mine")
    groups = read_groups(tmp_path / "animals")
    assert groups.classes == ("cat", "dog")
    assert "Skipped: 1 image in animals/ itself; animals/cat/gone.png, a broken link;" in notes(groups)
    assert "; animals/cow/, which contains no image." in notes(groups)


def test_folders_of_images_within_classes_and_private_ones_are_reported(tmp_path):
    counts = {"cat": 3, "dog": 3, "cat/more": 2, "_cow": 1, "dog/__MACOSX": 1, "dog/.old": 1, "dog/empty": 0}
    make_folders(tmp_path / "animals", counts)
    groups = read_groups(tmp_path / "animals")
    assert len(groups) == 6
    skipped = "animals/_cow/, a private folder; animals/cat/more, a folder of 2 images, which isn't entered"
    assert f"Skipped: {skipped}." in groups.notes


def test_chosen_shares_depend_on_the_key_and_not_on_the_order(tmp_path):
    keys = [f"{i}.png" for i in range(40)]
    cells, split = np.arange(40) % 2, np.zeros(40, np.int64)
    shares, each = (0.5, 0.25, 0.25), np.arange(40)
    one = dict(zip(keys, split_off(keys, cells, split, shares, 3, each), strict=True))
    other = dict(zip(keys[::-1], split_off(keys[::-1], cells[::-1], split, shares, 3, each), strict=True))
    assert one == other
    assert Counter(one.values()) == {0: 20, 1: 10, 2: 10}
    pairs = each // 2
    paired = split_off(keys, cells, split, shares, 3, pairs)
    assert (paired[::2] == paired[1::2]).all()
    assert (paired[::-1] == split_off(keys[::-1], cells[::-1], split, shares, 3, pairs[::-1])).all()


def test_copies_are_put_into_one_split(tmp_path):
    for label in ("cat", "dog"):
        for i in range(12):
            make_image(tmp_path / label / f"{i}.png")
            shutil.copyfile(tmp_path / label / f"{i}.png", tmp_path / label / f"{i} copy.png")
    groups = read_groups(tmp_path)
    split_of = dict(zip(groups.keys, groups.split.tolist(), strict=True))
    assert all(split_of[key] == split_of[key.replace(" copy", "")] for key in split_of)
    assert set(split_of.values()) == {0, 1, 2}


# Datasets


@pytest.mark.parametrize("formats", [("parquet",), ("webdataset",)])
def test_a_dataset_of_this_package(tmp_path, formats):
    columns = Columns(("bird", "cat"), ("grass", "night", "snow"), mask=True)
    directory = make_dataset(tmp_path / "set", columns=columns, formats=formats)
    groups = read_groups(directory)
    assert (groups.name, groups.layout) == ("set", "dataset")
    assert (groups.classes, groups.attributes) == (columns.foregrounds, columns.backgrounds)
    assert groups.counts(0).sum() == 16
    assert groups.counts(1).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert all(key.split("-")[1:3] == [f"{y:04d}", f"{a:02d}"] for key, y, a in
               zip(groups.keys, groups.y, groups.a, strict=True))  # fmt: skip
    assert groups.notes == ("The test split is missing.",)
    part = groups.of_split(1)
    images = {row: draw() for row, draw in part.read([0, 4])}
    for row, draw in part.read_masks([0, 4]):
        grey = np.asarray(images[row].convert("L"))  # make_dataset keeps that as the mask
        assert (draw() == (2 * grey.astype(int) >= grey.max())).all()
    assert groups.fingerprint == read_groups(directory).fingerprint
    again = make_dataset(tmp_path / "other", columns=columns, formats=formats, seed=1)
    assert read_groups(again).fingerprint != groups.fingerprint


def test_a_dataset_whose_only_background_is_unknown_has_no_attribute_and_no_masks(tmp_path):
    groups = read_groups(make_dataset(tmp_path, columns=Columns(("bird", "cat"), ("unknown",))))
    assert groups.a is None
    assert groups.attributes is None
    assert not groups.masked.any()
    with pytest.raises(FiguregroundError, match="1 image of 1 have no mask, such as train-0000"):
        list(groups.read_masks([0]))


def test_other_splits_of_a_dataset_are_left_out_and_reported(tmp_path):
    shards = (Shard("train", 0, 1, 6), Shard("extra", 0, 1, 6), Shard("test", 0, 1, 6))
    groups = read_groups(make_dataset(tmp_path / "set", shards=shards))
    assert len(groups) == 12
    assert "Left out the splits extra, which are not train, validation or test." in groups.notes
    assert [key.partition("-")[0] for key in groups.keys] == ["train"] * 6 + ["test"] * 6
    assert all(draw().size == (16, 16) for _, draw in groups.read(range(12)))
    other = make_dataset(tmp_path / "other", shards=(Shard("hummingbird", 0, 1, 4),))
    with pytest.raises(FiguregroundError, match="the splits hummingbird, but no train"):
        read_groups(other)


def test_an_unfinished_dataset_is_reported_as_such(tmp_path):
    directory = make_dataset(tmp_path)
    (directory / "_figureground" / "index.json").unlink()
    with pytest.raises(FiguregroundError, match=r"no finished dataset.*finish the build"):
        read_groups(directory)


# Which layout it is


def test_tables_go_before_folders_and_a_given_layout_before_all(tmp_path):
    make_waterbirds(tmp_path)
    assert read_groups(tmp_path).layout == "waterbirds"
    assert read_groups(tmp_path, "folders").layout == "folders"


def test_what_can_be_read_in_several_ways_is_refused(tmp_path):
    make_waterbirds(tmp_path)
    make_table(tmp_path / "more")
    shutil.move(tmp_path / "more" / "metadata.csv", tmp_path / "table.csv")
    with pytest.raises(FiguregroundError, match=r"in several ways: table\.csv \(table\), metadata\.csv \(waterbirds\)"):
        read_groups(tmp_path)
    assert read_groups(tmp_path, "table", root=tmp_path / "more").layout == "table"
    assert read_groups(tmp_path / "metadata.csv").layout == "waterbirds"
    shutil.copy(tmp_path / "table.csv", tmp_path / "again.csv")
    with pytest.raises(
        FiguregroundError, match=r"again\.csv \(table\), table\.csv \(table\)\. Give the intended file\."
    ):
        read_groups(tmp_path, "table")


def test_a_table_with_an_unknown_header_is_not_passed_over(tmp_path):
    path = make_waterbirds(tmp_path)
    path.write_text(path.read_text().replace("img_filename", "image"))
    with pytest.raises(FiguregroundError, match=r"known layout\. Its first line reads: img_id, image, y"):
        read_groups(tmp_path)
    with pytest.raises(FiguregroundError, match=r"known layout\. Its first line reads: img_id, image, y(.|\n)*folders"):
        read_groups(path)
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(FiguregroundError, match=r"metadata\.csv .* UTF-8 or UTF-16"):
        read_groups(tmp_path)
    assert read_groups(tmp_path, "folders").layout == "folders"


def test_options_that_a_layout_has_no_use_for_are_wrong_use(tmp_path):
    make_folders(tmp_path, METASHIFT)
    with pytest.raises(UsageError, match="y: the layout metashift"):
        read_groups(tmp_path, y="cat")
    assert set(LAYOUTS.names()) == {"table", "imagefolder", "waterbirds", "celeba", "metashift", "folders", "dataset"}


def test_one_class_only_is_refused(tmp_path):
    make_folders(tmp_path, {"cat": 5})
    with pytest.raises(FiguregroundError, match="only one class, 'cat', in all 5 images"):
        read_groups(tmp_path)


def test_one_attribute_only_is_reported(tmp_path):
    make_table(tmp_path, [(*row[:3], "sofa") for row in TABLE])
    assert "All images have the same attribute, 'sofa', so groups equal classes." in read_groups(tmp_path).notes
