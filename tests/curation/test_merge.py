"""A merged dataset holds every sample of its sources, under labels that mean the same."""

import json
import multiprocessing
import re
import shutil
import time
from dataclasses import replace

import pytest
from commands import run
from datasets import load_dataset
from tiny_datasets import COLUMNS, SHARDS, make_dataset

from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError, UsageError
from figureground.curation.curating import curate
from figureground.curation.merging import MergeError, merge
from figureground.recipe.sample import make_key
from figureground.shards.columns import Columns
from figureground.shards.finished import read_finished_index
from figureground.shards.formats.parquet import Parquet
from figureground.shards.markers import markers
from figureground.shards.shard import Shard

OTHER = Columns(("dog", "bird"), ("snow", "cave"))


@pytest.fixture
def sources(tmp_path):
    return (
        make_dataset(tmp_path / "a", rejected=(make_key("train", 0, 0, 0),)),
        make_dataset(
            tmp_path / "b", columns=OTHER, seed=1, title="Dogs", rejected=(make_key("test", 0, 0, 0),),
            shards=(Shard("train", 0, 1, 6), Shard("test", 0, 1, 4)), cutouts=lambda spec: "x/x.png@x" + spec.split,
        ),
    )  # fmt: skip


def stored(directory):
    return [s for path in sorted((directory / "data").glob("*")) for s in Parquet().read(path)]


def hashes(directory):
    return {name: f["sha256"] for m in markers(directory).values() for name, f in m["files"].items()}


def names(directory, sample):
    columns = read_finished_index(directory)["columns"]
    return columns["foregrounds"][sample.labels["foreground"]], columns["backgrounds"][sample.labels["background"]]


def test_every_sample_is_there_once_with_its_class_by_name(sources, tmp_path):
    out = merge(sources, tmp_path / "out", show_progress=False)
    columns = read_finished_index(out)["columns"]
    assert columns["foregrounds"] == ["bird", "cat", "dog"]
    assert columns["backgrounds"] == ["grass", "night", "snow", "cave"]
    merged = {}
    for sample in stored(out):
        provenance = json.loads(sample.provenance)
        merged[provenance["merged_from"]["dataset"], provenance["merged_from"]["key"]] = (sample, provenance)
    assert len(merged) == len(stored(out)) == 21 + 9
    for source in sources:
        recipe = json.loads((source / "_figureground/recipe.json").read_text())
        for old in stored(source):
            sample, provenance = merged[source.name, old.key]
            assert (sample.image, sample.prompt) == (old.image, old.prompt)
            assert names(out, sample) == names(source, old) == (provenance["foreground"], provenance["background"])
            before = json.loads(old.provenance)
            changed = {name for name in provenance if provenance[name] != before.get(name)}
            assert changed <= {"key", "labels", "merged_from"}
            assert provenance["merged_from"]["recipe"] == recipe["sha256"]
            assert provenance["labels"] == sample.labels
            assert provenance["key"] == sample.key


def test_keys_are_of_the_new_labels_and_count_each_cell_through(sources, tmp_path):
    out = merge(sources, tmp_path / "out", show_progress=False)
    keys = [s.key for s in stored(out)]
    for path in (out / "_figureground/rejects").iterdir():
        keys += [json.loads(line)["key"] for line in path.read_text().splitlines()]
    cells = {}
    for name in keys:
        cells.setdefault(name[:-6], []).append(int(name[-5:]))
    assert all(sorted(numbers) == list(range(len(numbers))) for numbers in cells.values())
    for sample in stored(out):
        split = json.loads(sample.provenance)["split"]
        assert sample.key[:-6] == f"{split}-{sample.labels['foreground']:04d}-{sample.labels['background']:02d}"


def test_the_merged_dataset_passes_the_check_and_loads(sources, tmp_path):
    out = merge(sources, tmp_path / "out", show_progress=False)
    assert check(out, show_progress=False).findings == []
    dataset = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 21, "validation": 6, "test": 3}
    assert dataset["train"].features["foreground"].names == ["bird", "cat", "dog"]


def test_rejects_are_carried_over_with_new_labels(sources, tmp_path):
    out = merge(sources, tmp_path / "out", show_progress=False)
    assert (read_finished_index(out)["planned"], read_finished_index(out)["rejects"]) == (32, {"flat": 2})
    line = json.loads((out / "_figureground/rejects/test-00000-of-00001.jsonl").read_text())
    assert (line["spec"]["foreground"], line["spec"]["background"]) == (2, 2)
    assert line["key"] == line["spec"]["key"] == make_key("test", 2, 2, 0)


def test_shards_of_the_datasets_take_turns(tmp_path):
    many = make_dataset(tmp_path / "many", shards=[Shard("train", i, 4, 2) for i in range(4)])
    few = make_dataset(tmp_path / "few", seed=1, shards=[Shard("train", i, 2, 2) for i in range(2)])
    out = merge([many, few], tmp_path / "out", show_progress=False)
    paths = [out / Shard("train", i, 6, 0).path("parquet") for i in range(6)]
    order = [json.loads(next(Parquet().read(path)).provenance)["merged_from"]["dataset"] for path in paths]
    assert order == ["many", "few", "many", "many", "few", "many"]
    assert "shuffle shards when you train" in (out / "README.md").read_text()


def test_the_same_command_gives_the_same_bytes_and_leaves_the_sources_alone(sources, tmp_path):
    before = [hashes(source) for source in sources]
    out = merge(sources, tmp_path / "out", show_progress=False)
    first = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    merge(sources, out, show_progress=False)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == first
    assert hashes(merge(sources, tmp_path / "again", show_progress=False)) == hashes(out)
    assert [hashes(source) for source in sources] == before
    with pytest.raises(FiguregroundError, match="holds another recipe"):
        merge(sources[::-1], out, show_progress=False)


def test_the_card_tells_of_both(sources, tmp_path):
    out = merge(sources, tmp_path / "out", show_progress=False)
    text = (out / "README.md").read_text()
    assert "# Birds and cats + Dogs" in text
    assert "Birds and cats of noise.\n\nDogs of noise." in text
    assert text.count("@misc{noise}") == 1
    assert '| seed | `{"a": 0, "b": 1}` |' in text
    recipe = json.loads((out / "_figureground/recipe.json").read_text())
    assert recipe["lineage"][-1]["samples"] == 30
    assert [source["name"] for source in recipe["sources"]] == ["a", "b"]


def test_what_people_wrote_into_one_card_is_not_that_of_the_merged(sources, tmp_path):
    path = sources[0] / "README.md"
    path.write_text(path.read_text().replace("license: unknown", "license: mit") + "\n## Ask ada\n")
    text = (merge(sources, tmp_path / "out", show_progress=False) / "README.md").read_text()
    assert "license: unknown" in text
    assert "ada" not in text


def test_curated_sets_merge_and_merged_sets_are_curated_and_merged_again(sources, tmp_path):
    birds = curate(sources[0], tmp_path / "birds", "foreground == 'bird'", publish_rejects=True, show_progress=False)
    dogs = curate(sources[1], tmp_path / "dogs", "foreground == 'dog'", show_progress=False)
    both = merge([birds, dogs], tmp_path / "both", show_progress=False)
    third = make_dataset(tmp_path / "third", seed=2)
    rule = "merged_from.dataset == 'birds' and background != 'night'"
    some = curate(both, tmp_path / "some", rule, show_progress=False)
    out = merge([some, third], tmp_path / "out", show_progress=False)
    for directory in (both, some, out):
        assert check(directory, show_progress=False).findings == []
    steps = json.loads((out / "_figureground/recipe.json").read_text())["lineage"]
    assert [step["did"] for step in steps] == ["curate", "curate", "merge", "curate", "merge"]
    deepest = [json.loads(sample.provenance)["merged_from"] for sample in stored(out)]
    assert {origin["merged_from"]["dataset"] for origin in deepest if origin["dataset"] == "some"} == {"birds"}
    assert all("merged_from" not in origin for origin in deepest if origin["dataset"] == "third")


def test_show_draws_the_merged_dataset(sources, tmp_path):
    out = merge(sources, tmp_path / "out", show_progress=False)
    code, _, errors = run("show", str(out))
    assert (code, errors) == (0, "")
    assert "recipe of b" in (out / "report.html").read_text()


# Clashes


def refused(tmp_path, directories, match, error=MergeError):
    with pytest.raises(error, match=match):
        merge(directories, tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_one_dataset_and_the_same_one_twice_are_wrong_use(sources, tmp_path):
    refused(tmp_path, sources[:1], "two or more", UsageError)
    refused(tmp_path, [sources[0], sources[0]], "are the same dataset", UsageError)
    shutil.copytree(sources[0], tmp_path / "copy")
    refused(tmp_path, [sources[0], tmp_path / "copy"], "are the same dataset", UsageError)


def test_the_same_image_in_two_datasets_is_refused_and_counted(sources, tmp_path):
    birds = curate(sources[0], tmp_path / "birds", "foreground == 'bird'", show_progress=False)
    refused(
        tmp_path,
        [sources[0], birds],
        rf"10 images are in two datasets: {make_key('train', 0, 2, 2)} of a is .* of birds",
    )


def test_a_cut_out_in_another_split_of_the_other_dataset_is_refused(tmp_path):
    one = make_dataset(tmp_path / "a", cutouts=lambda spec: f"bird/a.png@c5969479ad15{spec.split}")
    other = make_dataset(
        tmp_path / "b", seed=1,
        cutouts=lambda spec: f"bird/other.png@c5969479ad15{'train' if spec.split == 'validation' else 'validation'}",
    )  # fmt: skip
    refused(tmp_path, [one, other], r"2 cut-outs, scenes .*c5969479ad15train \(train of a, validation of b\)")


def test_names_that_are_nearly_the_same_are_refused(sources, tmp_path):
    names = Columns(("Bird", "sea_lion"), ("grass", "night", "snow"))
    other = make_dataset(tmp_path / "c", columns=names, seed=3)
    refused(tmp_path, [sources[0], other], "1 foreground name in two spellings: 'bird' in a and 'Bird' in c")
    spaced = make_dataset(tmp_path / "d", columns=Columns(("sea  lion",), ("grass",)), seed=4)
    refused(tmp_path, [other, spaced], "'sea_lion' in c and 'sea  lion' in d")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": replace(COLUMNS, guide=True)}, "guide: False and True"),
        (
            {"columns": replace(COLUMNS, texts=("feature",)), "provenance": lambda s: {"feature": "x"}},
            r"texts: \[\] and",
        ),
        (
            {"columns": replace(COLUMNS, labels={"odd": ("a",)}), "provenance": lambda s: {"odd": "a"}},
            "further labels: {}",
        ),
        ({"image_format": "jpg"}, "image format: png and jpg"),
        ({"size": 24}, "a has images of 16×16 and b of 24×24"),
        ({"formats": ("webdataset",)}, "no format in common: a has parquet, b has webdataset"),
    ],
)
def test_columns_formats_and_sizes_that_differ_are_refused(tmp_path, options, message):
    formats = ("parquet",) if "formats" in options else ("parquet", "webdataset")
    one = make_dataset(tmp_path / "a", formats=formats)
    refused(tmp_path, [one, make_dataset(tmp_path / "b", seed=1, **options)], message)


def test_formats_that_only_some_have_are_left_out_with_a_note(sources, tmp_path, capsys):
    tars = make_dataset(tmp_path / "tars", seed=5, formats=("webdataset",))
    out = merge([sources[0], tars], tmp_path / "out")
    assert "only webdataset" in capsys.readouterr().err
    assert not (out / "data").exists()
    assert check(out, show_progress=False).findings == []


def test_scores_are_not_taken_over_and_that_is_reported(sources, tmp_path, capsys):
    folder = sources[0] / "_figureground/scores"
    folder.mkdir()
    (folder / "clip.csv").write_text("key,x\n")
    merge(sources, tmp_path / "out")
    assert "scores of a (clip)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_damaged_source_is_refused_with_the_files_name(sources, tmp_path, kind):
    path = sources[1] / Shard("test", 0, 1, 4).path(kind)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FiguregroundError, match=f"{re.escape(str(path))} is damaged"):
        merge(sources, tmp_path / "out", show_progress=False)


def test_directories_of_the_same_name_are_told_apart(tmp_path):
    one = make_dataset(tmp_path / "one" / "set")
    other = make_dataset(tmp_path / "other" / "set", seed=1)
    out = merge([one, other], tmp_path / "out", show_progress=False)
    assert {json.loads(s.provenance)["merged_from"]["dataset"] for s in stored(out)} == {"set", "set-2"}


def test_a_killed_merge_goes_on_and_ends_with_the_same_bytes(tmp_path):
    shards = [Shard("train", i, 6, 60) for i in range(6)]
    directories = [make_dataset(tmp_path / name, shards=shards, seed=i, size=32) for i, name in enumerate("ab")]
    whole = merge(directories, tmp_path / "whole", show_progress=False)
    out = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(
        target=merge, args=(directories, out), kwargs={"show_progress": False}
    )
    process.start()
    while len(list(out.glob("_figureground/shards/[!.]*"))) < 3 and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert 3 <= len(list(out.glob("_figureground/shards/[!.]*"))) < 12
    merge(directories, out, show_progress=False)
    assert hashes(out) == hashes(whole)


def test_the_datasets_of_a_merge_may_have_been_extended(sources, tmp_path):
    extended = make_dataset(tmp_path / "e", shards=(*SHARDS, Shard("train", 0, 1, 6, part=1)), seed=6)
    out = merge([sources[0], extended], tmp_path / "out", show_progress=False)
    assert read_finished_index(out)["splits"]["train"]["shards"] == 5
    assert check(out, show_progress=False).findings == []


def test_a_merge_of_marked_and_unmarked_images_is_reported_and_announces_no_marks(tmp_path, capsys):
    one, other = make_dataset(tmp_path / "one"), make_dataset(tmp_path / "other", seed=1)
    path = one / "_figureground" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "marks": "Iptc4xmpExt:DigitalSourceType"}))
    merge([one, other], tmp_path / "both")
    assert "images of other don't state" in capsys.readouterr().err
    assert "marks" not in json.loads((tmp_path / "both" / "_figureground" / "recipe.json").read_text())
