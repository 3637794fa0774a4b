"""The card describes the dataset, and keeps what people write into it."""

import pytest
import yaml
from datasets import DatasetInfo, Features
from huggingface_hub import DatasetCard

from figureground.shards import card
from figureground.shards.card import BEGIN, END, Facts
from figureground.shards.writer import Columns, ShardError

COLUMNS = Columns(("bird", "a|b <i>"), ("grass", "no"))
FACTS = Facts("Birds", "d3s", "Birds on grass.", "@misc{d3s2022}", {"dtype": "float32"}, ("Small pictures.",))
RECIPE = {
    "checkpoint": "/home/ada/models/sd-v1-4",
    "cutouts": {"train": "~/cats", "validation": "C:\\Users\\ada\\dogs"},
    "prompt": "a photo | of `a` {class}",
    "strength": 0.9,
}


def make_index(cells, foreground_samples=None, split="train", rejects=None):
    samples = sum(count for *_, count in cells)
    rejects = rejects or {}
    return {
        "planned": samples + sum(rejects.values()),
        "samples": samples,
        "rejects": rejects,
        "splits": {
            split: {"samples": samples, "shards": 12, "bytes": {"parquet": 10, "webdataset": 20}, "cells": cells}
        },
    }


INDEX = make_index([[0, 0, 3], [1, 1, 1200]], rejects={"flat": 7})


def write(directory, index=INDEX, columns=COLUMNS, recipe=RECIPE, facts=FACTS, **options):
    card.write(directory, columns, index, recipe, facts, **options)
    return (directory / "README.md").read_text()


def header_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_yaml_names_files_labels_and_counts(tmp_path):
    header = header_of(write(tmp_path))
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    info = DatasetInfo._from_yaml_dict(header["dataset_info"])
    assert info.features == COLUMNS.features()
    assert info.splits["train"].num_examples == 1203
    assert (header["license"], header["size_categories"]) == ("unknown", ["1K<n<10K"])
    assert {"figureground", "spurious-correlations", "distribution-shift", "synthetic", "d3s"} == set(header["tags"])


def test_without_parquet_the_yaml_describes_the_tars(tmp_path):
    text = write(tmp_path, formats=("webdataset",), image_format="webp")
    header = header_of(text)
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "webdataset/train-*.tar"}]
    features = Features._from_yaml_list(header["dataset_info"]["features"])
    assert set(features) == {"webp", "foreground.cls", "background.cls", "prompt.txt", "__key__"}
    assert features["background.cls"].names == ["grass", "no"]
    assert 'dataset[0]["webp"]' in text


def test_the_hub_reads_the_card(tmp_path):
    write(tmp_path)
    assert DatasetCard.load(tmp_path / "README.md").data.pretty_name == "Birds"


def test_the_groups_are_a_table(tmp_path):
    text = write(tmp_path)
    assert "### train: 1,203 images" in text
    assert "| | grass | no | all |\n|---|---:|---:|---:|\n" in text
    assert "| bird | 3 | 0 | 3 |" in text
    assert r"| a\|b \<i\> | 0 | 1200 | 1200 |" in text
    assert "| all | 3 | 1200 | 1203 |" in text
    assert "Of 1,210 planned images 1,203 were kept." in text
    assert "| flat | 7 |" in text


def test_of_very_many_foregrounds_only_totals_are_shown(tmp_path):
    columns = Columns([f"class {i}" for i in range(41)], ("grass", "snow"))
    text = write(tmp_path, make_index([[i, i % 2, 1] for i in range(41)]), columns)
    assert "| all | 21 | 20 | 41 |" in text
    assert "| class 7 |" not in text


def test_no_path_of_this_machine_is_told(tmp_path):
    text = write(tmp_path)
    assert "| checkpoint | `sd-v1-4` |" in text
    assert '| cutouts | `{"train": "cats", "validation": "dogs"}` |' in text
    assert "ada" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-4"),
        ("/data/ada/x/", "x"),
        ("file:///data/x", "x"),
        ("\\\\host\\share\\x", "x"),
        (["/a/b", 3], ["b", 3]),
        ("on a road / in a forest", "on a road / in a forest"),
    ],
)
def test_paths_lose_all_but_their_last_part(value, shown):
    assert card.public(value) == shown


def test_settings_stay_in_their_cell(tmp_path):
    assert r"| prompt | `a photo \| of 'a' {class}` |" in write(tmp_path)


def test_the_preview_is_shown_once_there_is_one(tmp_path):
    assert "![preview]" not in write(tmp_path)
    (tmp_path / card.PREVIEW).touch()
    assert "![preview](preview.png)" in write(tmp_path)


def test_the_card_tells_how_to_load_the_tars(tmp_path):
    assert '"webdataset/train-{00000..00011}-of-00012.tar"' in write(tmp_path)
    single = make_index([[0, 0, 1]])
    single["splits"]["train"]["shards"] = 1
    assert '"webdataset/train-00000-of-00001.tar"' in write(tmp_path, single)
    assert "webdataset.WebDataset" not in write(tmp_path, formats=("parquet",))


def test_what_a_person_wrote_survives(tmp_path):
    text = write(tmp_path)
    text = text.replace("license: unknown", "license: cc-by-4.0\nlanguage: [en]").replace("- synthetic\n", "- mine\n")
    text = text.replace("pretty_name: Birds", "pretty_name: My birds").replace("# Birds", "# My birds\n\nBy ---\nme.")
    (tmp_path / "README.md").write_text(text + "\n## Thanks\n\nTo all.\n")
    again = write(tmp_path, make_index([[0, 0, 8]]))
    header = header_of(again)
    assert (header["license"], header["language"], header["pretty_name"]) == ("cc-by-4.0", ["en"], "My birds")
    assert "mine" in header["tags"]
    assert "synthetic" not in header["tags"]
    assert (header["dataset_info"]["splits"][0]["num_examples"], header["size_categories"]) == (8, ["n<1K"])
    assert "# My birds\n\nBy ---\nme.\n" in again
    assert again.endswith("## Thanks\n\nTo all.\n")
    assert "### train: 8 images" in again
    assert "1,203" not in again
    assert again.count(BEGIN) == again.count(END) == 1


def test_writing_it_again_changes_nothing(tmp_path):
    assert write(tmp_path) == write(tmp_path)


@pytest.mark.parametrize(
    "text", ["# Mine\n\nHello.\n", "---\nlicense: mit\n---\n# Mine\n\nHello.\n", "---\n---\n# Mine\n\nHello.\n"]
)
def test_a_readme_that_was_there_before_is_only_added_to(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    written = write(tmp_path)
    assert "# Mine\n\nHello.\n" in written
    assert header_of(written)["license"] == ("mit" if "mit" in text else "unknown")
    assert header_of(written)["configs"][0]["config_name"] == "default"
    assert written == write(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\na: [\n---\n", "YAML header can't be read"),
        ("---\n- a\n---\n", "no mapping"),
        (f"# Mine\n{BEGIN}\n", "aren't there once each"),
        (f"# Mine\n{END}\n{BEGIN}\n", "aren't there once each"),
    ],
)
def test_a_readme_that_cannot_be_taken_apart_stays_as_it_is(tmp_path, text, message):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ShardError, match=f"README.md: .*{message}"):
        write(tmp_path)
    assert (tmp_path / "README.md").read_text() == text
