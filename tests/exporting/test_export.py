"""`figureground export`: the same bytes as files, in layouts that other code reads, resumed, linked, refused."""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from commands import run, start, wait_for
from datasets import Features, Value, load_dataset
from tiny_datasets import make_dataset

from figureground.annotation.answers import make_header
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.curation.curating import curate
from figureground.data.layouts import read_groups
from figureground.exporting.exporting import export
from figureground.exporting.layout import EXPORTS
from figureground.shards.columns import Columns
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import Shard

TWO = Columns(("mug", "très “long” cup"), ("grass", "in a: cave"))
SHARDS = (Shard("train", 0, 2, 7), Shard("train", 1, 2, 6), Shard("validation", 0, 1, 5), Shard("test", 0, 1, 6))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two classes on two backgrounds; 24 images, some of which were rejected. Nothing may change it."""
    rejected = ("train-0000-00-00002", "test-0001-01-00003")
    return make_dataset(tmp_path_factory.mktemp("two") / "set", columns=TWO, shards=SHARDS, rejected=rejected)


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Two classes on three backgrounds, without a test split. Nothing may change it."""
    return make_dataset(tmp_path_factory.mktemp("birds") / "set")


def images(directory):
    """The bytes of each image in a dataset's shards, by key."""
    dataset = FinishedDataset(directory)
    return {stored.key: stored.image for shard in dataset.shards for stored in dataset.stored(shard)}


def files(out):
    return {path.stem: path.read_bytes() for path in out.rglob("*.png")}


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def groups_of(read):
    """The number of images by split, class and attribute."""
    a = [""] * len(read) if read.a is None else [read.attributes[label] for label in read.a]
    return Counter(zip(read.split.tolist(), [read.classes[label] for label in read.y], a, strict=True))


def write(directory, out, layout, **options):
    return export(directory, out, layout, show_progress=False, **options)


@pytest.mark.parametrize("layout", EXPORTS.names())
def test_files_have_the_bytes_of_the_shards(two, tmp_path, layout):
    done = write(two, tmp_path / "out", layout)
    assert files(tmp_path / "out") == images(two)
    assert done.images == 22
    assert not [path for path in (tmp_path / "out").rglob(".*")]


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("imagefolder", {}),
        ("waterbirds", {}),
        ("wilds", {}),
        ("subpopbench", {"root": "waterbird_complete95_forest2water2", "y": "foreground", "a": "background"}),
    ],
)
def test_groups_counts_what_it_counts_in_the_dataset(two, tmp_path, layout, options):
    write(two, out := tmp_path / "out", layout)
    if "root" in options:
        options = {**options, "root": out / options["root"]}
    read = read_groups(out, **options)
    assert groups_of(read) == groups_of(read_groups(two))
    assert set(read.classes) == set(TWO.foregrounds)
    _, draw = next(iter(read.read([0])))
    assert np.asarray(draw()).shape == (16, 16, 3)


def test_folders_keep_the_classes_and_say_what_they_lose(two, tmp_path, capsys):
    export(two, tmp_path / "out", "folders")
    both = groups_of(read_groups(two))
    alone = Counter({(split, y, ""): 0 for split, y, _ in both})
    for (split, y, _), n in both.items():
        alone[split, y, ""] += n
    assert groups_of(read_groups(tmp_path / "out")) == alone
    assert "2 backgrounds" in capsys.readouterr().err


def test_classes_that_load_dataset_takes_for_a_split_are_noted_for_folders(tmp_path, capsys):
    columns = Columns(("train", "car", "test tube", "1"), ("grass", "snow"))
    directory = make_dataset(tmp_path / "set", columns=columns, shards=(SHARDS[0], SHARDS[2]))
    export(directory, tmp_path / "out", "folders")
    assert "Classes named like a split: 'train', 'test tube'." in capsys.readouterr().err
    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    lengths = {name: len(split) for name, split in rows.items()}
    assert lengths == {"train": 9, "validation": 5, "test": 3}  # 7 and 5 images, and those of two classes again


def test_splits_that_load_dataset_joins_are_noted_for_folders(tmp_path, capsys):
    shards = (Shard("train", 0, 1, 4), Shard("id_test", 0, 1, 4), Shard("ood_test", 0, 1, 6))
    export(make_dataset(tmp_path / "set", shards=shards), tmp_path / "out", "folders")
    assert "would join the splits 'id_test', 'ood_test'" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["imagefolder", "folders"])
def test_class_folders_that_torchvision_numbers_otherwise_in_another_split_are_noted(tmp_path, capsys, layout):
    columns = Columns(("bird", "cat", "dog"), ("grass",))
    directory = make_dataset(
        tmp_path / "set", columns=columns, shards=(Shard("train", 0, 1, 6), Shard("test", 0, 1, 6))
    )

    def numbers(out):
        """Class and number, as torchvision.datasets.ImageFolder numbers the folders of a split."""
        folders = [
            sorted(path.name for path in (out / split).iterdir() if path.is_dir()) for split in ("train", "test")
        ]
        return {(name, n) for names in folders for n, name in enumerate(names)}

    for missing, differs in (("bird", True), ("dog", False)):
        export(directory, out := tmp_path / missing, layout, keep=f"split == 'train' or foreground != '{missing}'")
        assert (len(numbers(out)) > 3) is differs
        assert ("Not all classes are in 'test'." in capsys.readouterr().err) is differs


def test_scores_with_dots_in_their_names_are_exported_and_a_rule_reads_the_chosen_splits_alone(birds, tmp_path):
    copy = shutil.copytree(birds, tmp_path / "copy")
    rows = load_dataset(str(copy), cache_dir=str(tmp_path / "cache"))["train"]
    (copy / "_figureground" / "scores").mkdir(exist_ok=True)
    lines = ["key,margin", *(f"{key},{i}" for i, key in enumerate(rows["key"]))]
    (copy / "_figureground" / "scores" / "mine.csv").write_text("\n".join(lines) + "\n")
    lines += [f"{key},0" for key in images(copy) if not key.startswith("train")]
    (copy / "_figureground" / "scores" / "resnet50.a1_in1k.csv").write_text("\n".join(lines) + "\n")
    options = {"columns": ["scores"], "splits": ["train"], "keep": "scores.mine.margin >= 3"}
    done = write(copy, out := tmp_path / "out", "imagefolder", **options)
    assert done.images == len(rows) - 3
    found = table(out / "train" / "metadata.csv")
    assert {row["scores.resnet50.a1_in1k.margin"] for row in found} == {str(i) for i in range(3, len(rows))}


def test_load_dataset_reads_an_imagefolder(two, tmp_path):
    write(two, tmp_path / "out", "imagefolder", columns=["seed"])
    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in rows.items()} == {"train": 12, "validation": 5, "test": 5}
    row = rows["train"][0]
    assert (row["foreground"], row["background"], row["group"], row["seed"]) == ("mug", "grass", 0, 0)
    assert row["image"].size == (16, 16)


def test_load_dataset_takes_no_class_for_a_split(tmp_path):
    columns = Columns(("test", "test tube", "bullet train", "tester"), ("grass", "snow"))
    directory = make_dataset(tmp_path / "set", columns=columns, shards=(SHARDS[0], SHARDS[2]))
    write(directory, tmp_path / "out", "imagefolder")
    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in rows.items()} == {"train": 7, "validation": 5}
    assert set(rows["validation"]["foreground"]) == set(columns.foregrounds)
    assert (tmp_path / "out" / "train" / "tester").is_dir()


def test_splits_and_labels_that_load_dataset_reads_otherwise_are_noted(tmp_path, capsys):
    columns = Columns(("None", "cat"), ("grass", "snow"))
    shards = (Shard("train", 0, 1, 4), Shard("id_test", 0, 1, 4), Shard("ood_test", 0, 1, 6))
    directory = make_dataset(tmp_path / "set", columns=columns, shards=shards)
    export(directory, tmp_path / "out", "imagefolder")
    error = capsys.readouterr().err
    assert "would join the splits 'id_test', 'ood_test'" in error
    assert "label 'None' as a missing value" in error
    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in rows.items()} == {"train": 4, "test": 10}
    assert None in rows["train"]["foreground"]
    export(directory, tmp_path / "each", "imagefolder", splits=["train", "id_test"], keep="foreground == 'cat'")
    error = capsys.readouterr().err
    assert "join" not in error
    assert "missing value" not in error


@pytest.mark.parametrize(
    ("train", "validation", "refused"),
    [
        (["1", "2"], ["3", ""], True),
        (["1.5", "2.0"], ["3.5", ""], False),
        (["1", "2"], ["3", "4"], False),
        (["a", "b"], ["", ""], True),
        (["a", ""], ["b", "c"], False),
        (["true", "false"], ["true", ""], False),
        (["1.5", "2.5"], ["", ""], False),
    ],
)
def test_columns_that_load_dataset_would_refuse_are_noted(tmp_path, capsys, train, validation, refused):
    shards = (Shard("train", 0, 1, 2), Shard("validation", 0, 1, 2))
    directory = make_dataset(tmp_path / "set", columns=TWO, shards=shards)
    scores = directory / "_figureground" / "scores" / "mine.csv"
    scores.parent.mkdir()
    lines = [f"{key},{x}\n" for key, x in zip(images(directory), train + validation, strict=True)]
    scores.write_text("key,x\n" + "".join(lines))
    export(directory, tmp_path / "out", "imagefolder", columns=["scores.mine.x"])
    assert ("would refuse 'scores.mine.x'" in capsys.readouterr().err) is refused
    arguments = {"data_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache")}
    if refused:
        with pytest.raises(ValueError, match="different features"):
            load_dataset("imagefolder", **arguments)
    else:
        assert len(load_dataset("imagefolder", **arguments)) == 2


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        (("7", "007"), {"007": 7}),
        (("1e3", "1000"), {"1e3": 1000.0, "1000": 1000.0}),
        (("inf", "2.50"), {"2.50": 2.5}),
        (("true", "False"), {"true": True}),
        (("1", "nan"), {"1": 1.0}),
        (("12", "3"), {}),
        (("007", "bird"), {}),
    ],
)
def test_labels_that_load_dataset_reads_as_numbers_are_noted_if_that_changes_them(tmp_path, capsys, names, changed):
    columns = Columns(names, ("grass", "snow"))
    directory = make_dataset(tmp_path / "set", columns=columns, shards=(Shard("train", 0, 1, 4),))
    export(directory, out := tmp_path / "out", "imagefolder")
    error = capsys.readouterr().err
    assert ("read 'foreground' as numbers or truth values" in error) is bool(changed)
    arguments = {"data_dir": str(out), "split": "train"}
    rows = load_dataset("imagefolder", **arguments, cache_dir=str(tmp_path / "cache"))
    named = {row["file_name"].rpartition("/")[2]: row["foreground"] for row in table(out / "train" / "metadata.csv")}
    read = {named[Path(row["image"].filename).name]: row["foreground"] for row in rows}
    read = {name: value for name, value in read.items() if value is not None and value == value}
    assert {name: value for name, value in read.items() if str(value) != name} == changed
    assert all(f"{name!r} becomes {value}" in error for name, value in changed.items())
    if changed and "nan" not in names:  # what the note says to do
        features = Features({**rows.features, "foreground": Value("string")})
        rows = load_dataset("imagefolder", **arguments, features=features, cache_dir=str(tmp_path / "as_text"))
        assert set(rows["foreground"]) == set(names)


@pytest.mark.parametrize("layout", ["imagefolder", "subpopbench"])
@pytest.mark.parametrize("names", [("7", "007"), ("2", "1"), ("1", "0"), ("00", "0"), ("3", "sea"), ("1.5", "inf")])
def test_groups_reads_exported_names_that_look_like_numbers(tmp_path, layout, names):
    directory = make_dataset(tmp_path / "set", columns=Columns(("bird", "cat"), names), shards=SHARDS)
    write(directory, out := tmp_path / "out", layout)
    options = {}
    if layout == "subpopbench":
        options = {"root": out / "waterbird_complete95_forest2water2", "y": "background", "a": "foreground"}
    read, kept = read_groups(out, **options), read_groups(directory)
    named = dict(zip(kept.keys, (kept.attributes[label] for label in kept.a), strict=True))
    backgrounds = (read.attributes, read.a) if layout == "imagefolder" else (read.classes, read.y)
    assert {
        Path(key).stem: backgrounds[0][label] for key, label in zip(read.keys, backgrounds[1], strict=True)
    } == named


@pytest.mark.parametrize("layout", ["waterbirds", "wilds"])
def test_the_table_keeps_the_conventions_of_group_dro(two, tmp_path, layout):
    write(two, out := tmp_path / "out", layout)
    lines = (out / "metadata.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",")[:6] == ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    rows = table(out / "metadata.csv")
    assert {(row["y"], row["foreground"]) for row in rows} == {("0", "mug"), ("1", "très “long” cup")}
    assert {(row["place"], row["background"]) for row in rows} == {("0", "grass"), ("1", "in a: cave")}
    # The group of an image is y · (4 / 2) + place, and the loader selects the splits by 0, 1 and 2.
    found = Counter((int(row["split"]), int(int(row["y"]) * (4 / 2) + int(row["place"]))) for row in rows)
    kept = read_groups(two)
    assert found == Counter(zip(kept.split.tolist(), kept.group.tolist(), strict=True))
    assert all((out / row["img_filename"]).is_file() for row in rows)
    assert [int(row["img_id"]) for row in rows] == list(range(1, 23))
    assert rows[0]["place_filename"] == "t/t.png"
    assert (out / "RELEASE_v1.0.txt").exists() == (layout == "wilds")


@pytest.mark.parametrize(("layout", "columns"), [("imagefolder", "group numbers"), ("subpopbench", "y, a number")])
def test_splits_that_an_export_of_their_own_would_number_otherwise_are_noted(tmp_path, capsys, layout, columns):
    columns_of_set = Columns(("bird", "cat", "mug"), ("grass",))
    whole = make_dataset(tmp_path / "whole", columns=columns_of_set, shards=(SHARDS[0], SHARDS[2]))
    text = f"{columns} the labels that occur here"
    for missing, split, differs in (
        ("mug", "train", False),  # bird and cat are 0 and 1 in both
        ("bird", "train", True),
        ("bird", "validation", True),
        ("bird", None, False),  # both together
    ):
        directory = tmp_path / f"without {missing}"
        if not directory.exists():
            curate(whole, directory, f"split == 'train' or foreground != '{missing}'", show_progress=False)
        out = tmp_path / f"{missing} {split}"
        export(directory, out, layout, splits=[split] if split else [])
        assert (text in capsys.readouterr().err) is differs
    # The number of a group depends on how many backgrounds there are.
    columns_of_set = Columns(("bird", "cat"), ("grass", "snow"))
    whole = make_dataset(tmp_path / "snow", columns=columns_of_set, shards=(SHARDS[0], SHARDS[2]))
    curate(whole, tmp_path / "no snow", "split == 'train' or background != 'snow'", show_progress=False)
    export(tmp_path / "no snow", tmp_path / "grass", layout, splits=["validation"])
    assert (text in capsys.readouterr().err) is (layout == "imagefolder")


def test_subpopbench_takes_any_number_of_labels(birds, tmp_path):
    write(birds, out := tmp_path / "out", "subpopbench")
    rows = table(out / "metadata_waterbirds.csv")
    assert list(rows[0])[:5] == ["id", "filename", "split", "y", "a"]
    assert {(row["y"], row["a"]) for row in rows} == {(str(y), str(a)) for y in range(2) for a in range(3)}
    assert all((out / "waterbird_complete95_forest2water2" / row["filename"]).is_file() for row in rows)


# What is taken


def test_a_rule_and_splits_choose_the_samples(birds, tmp_path):
    write(birds, out := tmp_path / "out", "waterbirds", keep="background != 'snow'", splits={"train": "test"})
    rows = table(out / "metadata.csv")
    taken = [row for row in images(birds) if row.startswith("train") and row.split("-")[2] != "02"]
    assert sorted(Path(row["img_filename"]).stem for row in rows) == sorted(taken)
    assert {row["split"] for row in rows} == {"2"}


def test_scores_answers_and_provenance_become_columns(birds, tmp_path):
    copy = tmp_path / "set"
    shutil.copytree(birds, copy)
    keys = list(images(copy))
    (copy / "_figureground" / "scores").mkdir()
    lines = [f"{key},{n / 10}" for n, key in enumerate(keys)]
    (copy / "_figureground" / "scores" / "mine.csv").write_text("\n".join(["key,sharp", *lines[:-1]]) + "\n")
    for n, name in enumerate(("ann", "bo")):
        log = [make_header(FinishedDataset(copy).identity(), name)]
        log.append({"n": 1, "key": keys[n], "question": "foreground", "answer": "yes", "time": "2026-01-05T10:00:00Z"})
        log.append({"n": 2, "key": keys[0], "question": "background", "answer": "no", "time": "2026-01-05T10:00:00Z"})
        path = copy / "_figureground" / "annotations" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in log))
    write(copy, out := tmp_path / "out", "imagefolder", columns=["prompt", "guide.flip", "scores", "answers"])
    rows = {Path(row["file_name"]).stem: row for row in table(out / "train" / "metadata.csv")}
    rows |= {Path(row["file_name"]).stem: row for row in table(out / "validation" / "metadata.csv")}
    first, second = rows[keys[0]], rows[keys[1]]
    assert first["prompt"] == "a photo, 0"
    assert (first["guide.flip"], second["guide.flip"]) == ("false", "true")
    assert (second["scores.mine.sharp"], rows[keys[-1]]["scores.mine.sharp"]) == ("0.1", "")
    assert (first["answers.foreground.yes"], first["answers.background.no"]) == ("1", "2")
    assert (second["answers.foreground.yes"], second["answers.background.no"]) == ("1", "0")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"columns": ["guide.flop"]}, "guide.flop"),
        ({"columns": ["scores.mine.sharp"]}, "scores.mine.sharp"),
        ({"columns": ["answers"]}, "nobody"),
        ({"splits": ["tset"]}, "tset"),
        ({"keep": "background == 'moon'"}, "moon"),
        ({"keep": "background == 'snow' and foreground == 'cat'", "splits": []}, None),
        ({"layout": "waterbird"}, "waterbirds"),
    ],
)
def test_what_is_asked_for_must_exist(birds, tmp_path, options, named):
    if named is None:
        assert write(birds, tmp_path / "out", "imagefolder", **options).images == 3
        return
    with pytest.raises(RecipeError, match=named):
        write(birds, tmp_path / "out", **{"layout": "imagefolder", **options})
    assert not (tmp_path / "out").exists()


# What a layout can't hold


def test_more_than_two_labels_are_refused_for_waterbirds_with_what_would_be_lost(birds, tmp_path):
    code, _, err = run("export", str(birds), "--layout", "waterbirds", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "3 backgrounds" in err
    assert "6 of 22 images" in err  # those of the rarest background
    rule = err.split('--keep "')[1].split('"')[0]
    assert write(birds, tmp_path / "out", "waterbirds", keep=rule).images == 16


@pytest.mark.parametrize("layout", ["waterbirds", "wilds", "subpopbench"])
def test_without_background_labels_only_classes_can_be_exported(tmp_path, layout):
    columns = Columns(("bird", "cat"), ("unknown",))
    directory = make_dataset(tmp_path / "set", columns=columns, shards=(Shard("train", 0, 1, 4),))
    with pytest.raises(RecipeError, match="no background labels"):
        write(directory, tmp_path / "out", layout)
    write(directory, tmp_path / "out", "imagefolder")
    assert list(table(tmp_path / "out" / "train" / "metadata.csv")[0]) == ["file_name", "foreground", "split"]


def test_splits_of_other_names_must_be_named_for_layouts_that_number_them(tmp_path, capsys):
    shards = (Shard("correlated", 0, 1, 4), Shard("control", 0, 1, 4))
    directory = make_dataset(tmp_path / "set", columns=TWO, shards=shards)
    with pytest.raises(RecipeError, match="correlated"):
        write(directory, tmp_path / "out", "waterbirds")
    with pytest.raises(RecipeError, match="two splits would be called 'train'"):
        write(directory, tmp_path / "out", "waterbirds", splits={"correlated": "train", "control": "train"})
    write(directory, tmp_path / "out", "waterbirds", splits={"correlated": "train", "control": "test"})
    assert read_groups(tmp_path / "out").counts(0).sum() == 4
    export(directory, tmp_path / "folder", "imagefolder")
    assert "'correlated'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("CON", "cat"), "device"),
        (("aux.old", "cat"), "device"),
        (("bird.", "cat"), "dot"),
        (("either/or", "cat"), "/"),
        (("12:30", "cat"), ":"),
        ((".bird", "cat"), "ignored"),
        (("Straße", "STRASSE"), "one folder"),
        (("é" * 200, "cat"), "255 bytes"),
    ],
)
def test_classes_that_cannot_name_folders_everywhere(tmp_path, names, named):
    columns = Columns(names, ("grass", "snow"))
    directory = make_dataset(tmp_path / "set", columns=columns, shards=(Shard("train", 0, 1, 4),))
    with pytest.raises(RecipeError, match=named):
        write(directory, tmp_path / "out", "folders")
    assert not (tmp_path / "out").exists()
    # Where a table names the classes, folders have portable names of their own.
    write(directory, tmp_path / "out", "imagefolder")
    assert {row["foreground"] for row in table(tmp_path / "out" / "train" / "metadata.csv")} == set(names)
    folders = [path.name for path in (tmp_path / "out" / "train").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert all(name.isascii() and name.casefold() not in ("con", "aux") for name in folders)


# Where it goes


def test_an_output_that_holds_something_is_left_as_it_is(birds, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(FiguregroundError, match=r"mine\.txt"):
        write(birds, tmp_path / "out", "imagefolder")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(FiguregroundError, match="is a file"):
        write(birds, tmp_path / "file", "imagefolder")
    with pytest.raises(FiguregroundError, match="overlap"):
        write(birds, birds / "files", "imagefolder")
    assert not (birds / "files").exists()


def test_another_export_is_refused_by_what_differs(birds, tmp_path):
    write(birds, out := tmp_path / "out", "imagefolder")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(FiguregroundError, match="layout"):
        write(birds, out, "folders")
    with pytest.raises(FiguregroundError, match="keep"):
        write(birds, out, "imagefolder", keep="background != 'snow'")
    write(birds, out, "imagefolder")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_killed_export_goes_on_and_leaves_no_half_file(tmp_path):
    directory = make_dataset(tmp_path / "set", columns=TWO, shards=(Shard("train", 0, 1, 1500),), size=8)
    out, arguments = (
        tmp_path / "out",
        ["export", str(directory), "--layout", "waterbirds", "--out", str(tmp_path / "out")],
    )
    process = start(*arguments)
    wait_for(lambda: len(list(out.rglob("*.png"))) > 20, process)
    process.kill()
    process.wait()
    there, expected = files(out), images(directory)
    assert 20 < len(there) < 1500
    assert all(expected[key] == data for key, data in there.items())
    assert not (out / "metadata.csv").exists()
    assert json.loads((out / "export.json").read_text())["finished"] is False
    folder = next(out.rglob("*.png")).parent
    (folder / ".x.png.1-ff.tmp").write_bytes(b"half")  # what a kill may leave
    damaged = folder / next(iter(there)).join(("", ".png"))
    damaged.write_bytes(damaged.read_bytes()[:40])  # what a crash of the machine may leave
    kept = max(folder.glob("*.png"), key=lambda path: path != damaged)
    inode = kept.stat().st_ino
    code, output, _ = run(*arguments)
    assert (code, files(out)) == (0, expected)
    assert kept.stat().st_ino == inode  # it wasn't written again
    assert not list(out.rglob(".*"))
    assert "1,500 images" in output


def test_a_damaged_shard_is_refused(birds, tmp_path):
    copy = tmp_path / "set"
    shutil.copytree(birds, copy)
    path = next((copy / "data").glob("train*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(FiguregroundError, match=path.name):
        write(copy, tmp_path / "out", "imagefolder")


# Links


@pytest.mark.parametrize("symbolic", [False, True])
def test_links_lead_to_an_earlier_export(two, tmp_path, symbolic):
    write(two, tmp_path / "first", "imagefolder", splits=["train"])
    done = write(two, out := tmp_path / "second", "waterbirds", link=tmp_path / "first", symbolic=symbolic)
    assert (done.images, done.linked) == (22, 12)  # the others are copied
    assert files(out) == images(two)
    linked = [path for path in out.rglob("train-*.png")]
    assert len(linked) == 12
    for path in linked:
        assert path.is_symlink() == symbolic
        original = next((tmp_path / "first").rglob(path.name))
        assert os.path.samefile(path, original)
    assert groups_of(read_groups(out)) == groups_of(read_groups(two))
    assert write(two, out, "waterbirds", link=tmp_path / "first", symbolic=symbolic).linked == 12
    (tmp_path / "moved").mkdir()
    for name in ("first", "second"):  # symbolic links are relative
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert files(tmp_path / "moved" / "second") == images(two)


def test_links_need_an_export_of_the_same_images(two, birds, tmp_path):
    with pytest.raises(FiguregroundError, match="inside its shards"):
        write(two, tmp_path / "out", "waterbirds", link=two)
    write(birds, tmp_path / "other", "imagefolder")
    with pytest.raises(FiguregroundError, match="another dataset"):
        write(two, tmp_path / "out", "waterbirds", link=tmp_path / "other")
    write(two, tmp_path / "first", "imagefolder")
    changed = next((tmp_path / "first").rglob("*.png"))
    changed.write_bytes(changed.read_bytes() + b"x")
    with pytest.raises(FiguregroundError, match=changed.name):
        write(two, tmp_path / "out", "waterbirds", link=tmp_path / "first")


def test_a_layout_of_another_package(birds, tmp_path):
    EXPORTS.add("flat", "example_export:Flat")
    try:
        write(birds, tmp_path / "out", "flat")
    finally:
        EXPORTS.remove("flat")
    assert {row["key"] for row in table(tmp_path / "out" / "keys.csv")} == set(images(birds))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == sorted(
        f"{key}.png" for key in images(birds)
    )
