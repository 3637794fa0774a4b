"""A curated copy is a dataset like any other, of the samples for which a rule is true."""

import csv
import hashlib
import json
import multiprocessing
import signal
import subprocess
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import yaml
from commands import run, start
from datasets import load_dataset
from tiny_checkpoints import make_checkpoint
from tiny_datasets import COLUMNS, SHARDS, make_dataset

from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.locks import lock
from figureground.curation.curating import DROPPED, curate
from figureground.curation.rule import RuleError
from figureground.recipe.sample import make_key
from figureground.shards.claims import INDEX_LOCK
from figureground.shards.finished import read_finished_index
from figureground.shards.formats.parquet import Parquet
from figureground.shards.formats.tar import Tar
from figureground.shards.markers import markers
from figureground.shards.shard import Shard, ShardError

RULE = "background != 'night' and foreground == 'bird'"


@pytest.fixture
def source(tmp_path):
    return make_dataset(tmp_path / "in", rejected=(make_key("train", 0, 0, 0), make_key("validation", 1, 1, 1)))


def stored(directory):
    """All samples by key, from the Parquet files."""
    return {s.key: s for path in sorted((directory / "data").glob("*")) for s in Parquet().read(path)}


def state(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def hashes(directory):
    found = {}
    for marker in markers(directory).values():
        found.update({name: file["sha256"] for name, file in marker["files"].items()})
        assert all(hashlib.sha256((directory / n).read_bytes()).hexdigest() == found[n] for n in marker["files"])
    return found


def write_scores(directory, rows, name="clip.csv"):
    path = directory / "_figureground" / "scores" / name
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_the_samples_for_which_the_rule_is_true_are_copied_byte_by_byte(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    before, after = stored(source), stored(out)
    expected = {k: s for k, s in before.items() if s.labels["foreground"] == 0 and s.labels["background"] != 1}
    assert 0 < len(expected) < len(before)
    assert after == expected
    tars = {s.key: s for path in (out / "webdataset").glob("*") for s in Tar().read(path)}
    assert tars == expected


def test_the_copy_passes_the_check_and_loads(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    assert check(out, show_progress=False).findings == []
    dataset = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert dataset["train"].features == COLUMNS.features()
    assert {split: len(rows) for split, rows in dataset.items()} == {
        split: facts["samples"] for split, facts in read_finished_index(out)["splits"].items()
    }


def test_what_is_dropped_is_a_reject_and_earlier_rejects_keep_their_reason(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    for name, marker in markers(out).items():
        assert marker["samples"] + sum(marker["rejects"].values()) == marker["planned"]
        assert marker["planned"] == markers(source)[name]["planned"]
    index = read_finished_index(out)
    assert index["planned"] == 22
    assert index["rejects"] == {DROPPED: 20 - index["samples"], "flat": 2}
    lines = (out / "_figureground/rejects/train-00000-of-00002.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert (first["key"], first["reason"]) == (make_key("train", 0, 0, 0), "flat")
    assert first["spec"]["guide"]["box"] == [1, 2, 9, 10]
    assert first == json.loads((source / "_figureground/rejects/train-00000-of-00002.jsonl").read_text())


def test_the_source_stays_as_it_is(source, tmp_path):
    before = state(source)
    curate(source, tmp_path / "out", RULE, publish_rejects=True, show_progress=False)
    assert state(source) == before


def test_the_same_command_changes_nothing_and_gives_the_same_bytes_elsewhere(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, publish_rejects=True, show_progress=False)
    before = state(out)
    curate(source, out, 'background!="night" and (foreground == "bird")', publish_rejects=True, show_progress=False)
    assert state(out) == before
    again = curate(source, tmp_path / "again", RULE, publish_rejects=True, show_progress=False)
    assert hashes(again) == hashes(out)


def test_another_rule_in_the_same_directory_is_refused(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    before = state(out)
    with pytest.raises(FiguregroundError, match=r"holds another recipe.*\n  rule: .*'bird'\", now \"seed > 1\""):
        curate(source, out, "seed > 1", show_progress=False)
    with pytest.raises(FiguregroundError, match="publish_rejects: false, now true"):
        curate(source, out, RULE, publish_rejects=True, show_progress=False)
    (tmp_path / "more").mkdir()
    other = make_dataset(tmp_path / "more" / "in", seed=1)
    with pytest.raises(FiguregroundError, match=r"sources\.in\.recipe"):
        curate(other, out, RULE, show_progress=False)
    assert state(out) == before


def test_a_copy_of_which_no_shard_is_done_is_not_touched_by_another_rule(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    for path in (out / "_figureground/shards").iterdir():
        path.unlink()
    before = state(out)
    with pytest.raises(FiguregroundError, match="holds another recipe"):
        curate(source, out, "seed > 1", show_progress=False)
    assert state(out) == before


def test_a_directory_with_something_else_or_within_the_source_is_refused_and_untouched(source, tmp_path):
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else \(thesis\.txt\)"):
        curate(source, other, RULE, show_progress=False)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FiguregroundError, match="is a file"):
        curate(source, tmp_path / "file", RULE, show_progress=False)
    before = state(source)
    (tmp_path / "link").symlink_to(source)
    for out in (source, source / "data" / "cut", tmp_path, tmp_path / "link", tmp_path / "link" / "cut"):
        with pytest.raises(FiguregroundError, match=r"--out .* overlap"):
            curate(source, out, RULE, show_progress=False)
    assert state(source) == before


def test_a_directory_that_is_no_finished_dataset_is_refused(source, tmp_path):
    with pytest.raises(FiguregroundError, match="no such directory"):
        curate(tmp_path / "nowhere", tmp_path / "out", RULE, show_progress=False)
    with pytest.raises(FiguregroundError, match="no finished dataset"):
        curate(tmp_path, tmp_path.parent / "out", RULE, show_progress=False)
    (source / SHARDS[1].path("marker")).unlink()
    with pytest.raises(FiguregroundError, match="disagree about train-00001-of-00002"):
        curate(source, tmp_path / "out", RULE, show_progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "rejects"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_source_is_refused_with_the_files_name(source, tmp_path, kind, damage):
    path = source / SHARDS[0].path(kind)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(bytes(data) if damage == "flipped" else bytes(data[: len(data) // 2]))
    reason = {"flipped": "is damaged", "cut": "(is damaged|bytes instead)", "gone": "is gone"}[damage]
    with pytest.raises(FiguregroundError, match=f"{path.name} .*{reason}.*figureground check"):
        curate(source, tmp_path / "out", RULE, show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_rule_that_keeps_nothing_is_an_error_before_anything_is_written(source, tmp_path):
    with pytest.raises(RuleError, match="keeps nothing: seed > 100000 is true for no sample"):
        curate(source, tmp_path / "out", "seed > 100000", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_rule_that_keeps_nothing_of_a_split_says_so(source, tmp_path, capsys):
    out = curate(source, tmp_path / "out", "split == 'validation'")
    assert "keeps nothing of split 'train'" in capsys.readouterr().err
    assert list(load_dataset(str(out), cache_dir=str(tmp_path / "cache"))) == ["validation"]
    assert check(out, show_progress=False).findings == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("strenght > 0.1", "no sample has 'strenght', did you mean 'strength'"),
        ("strenght is None or seed > 3", "no sample has 'strenght'"),
        ("foreground == 'bird' or strenght > 0.1", "no sample has 'strenght'"),
        ("guide.cutuot == 'a'", "no sample has 'guide.cutuot', did you mean 'guide.cutout'"),
        (
            "note == 'a'",
            r"note is missing for 20 of 20 samples \(train-0001-01-00001, .*'note is None or …' keeps them",
        ),
        (
            "strength > 'a'",
            r"'>' can't be used between a number and text.*\n.*\n.*\n  first occurs in sample train-0001-01-00001",
        ),
        ("1 / (seed - 1) > 0", r"(?s)this divides by zero.*first occurs in sample train-0001-01-00001"),
    ],
)
def test_a_rule_about_fields_that_samples_lack_is_refused_before_anything_is_written(source, tmp_path, rule, message):
    with pytest.raises(RuleError, match=message):
        curate(source, tmp_path / "out", rule, show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_rule_reads_every_kind_of_name(tmp_path):
    columns = replace(COLUMNS, labels={"spurious_for": ("hummingbird", "lynx")}, texts=("feature",))
    source = make_dataset(
        tmp_path / "in", columns=columns,
        provenance=lambda s: {
            "spurious_for": "lynx" if s.spec.seed % 3 else "hummingbird", "feature": f"f{s.spec.seed}"
        },
    )  # fmt: skip
    rule = (
        "split == 'train' and key != 'train-0000-00-00000' and 'photo' in prompt and seed > 1 and strength == 0.5 and "
        "guide.box[2] == 9 and guide.kind == 'paste' and spurious_for == 'lynx' and feature != 'f2' and note is None"
    )
    out = curate(source, tmp_path / "out", rule, show_progress=False)
    seeds = [json.loads(sample.provenance)["seed"] for sample in stored(out).values()]
    assert sorted(seeds) == [4, 5, 7, 100, 101, 103, 104, 106, 107]
    assert all(sample.labels["spurious_for"] == 1 for sample in stored(out).values())
    with pytest.raises(RuleError, match="spurious_for is never 'linx', did you mean 'lynx'"):
        curate(source, tmp_path / "two", "spurious_for == 'linx'", show_progress=False)


@pytest.mark.parametrize("formats", [("parquet",), ("webdataset",)])
def test_one_format_alone_is_copied_as_it_is(tmp_path, formats):
    columns = replace(COLUMNS, texts=("feature",), guide=True, mask=True)
    source = make_dataset(
        tmp_path / "in", columns=columns, formats=formats, image_format="jpg", rejected=(make_key("train", 0, 0, 0),),
        provenance=lambda s: {"feature": "x"},
    )  # fmt: skip
    out = curate(source, tmp_path / "out", "feature == 'x' and foreground == 'cat'", show_progress=False)
    read, folder = (Parquet().read, "data") if formats == ("parquet",) else (Tar().read, "webdataset")
    before, after = ({s.key: s for p in (d / folder).glob("*") for s in read(p)} for d in (source, out))
    assert after == {k: s for k, s in before.items() if s.labels["foreground"] == 1}
    assert after
    assert check(out, show_progress=False).findings == []


# Scores


def all_scores(source, is_scored=lambda i: True):
    keys = sorted(stored(source))
    return [["key", "margin", "label"], *([k, i / 10, "cat"] for i, k in enumerate(keys) if is_scored(i))]


def test_scores_decide_and_are_copied_for_what_is_kept(source, tmp_path):
    write_scores(source, all_scores(source))
    out = curate(
        source, tmp_path / "out", "scores.clip.margin >= 1 and scores.clip.label == foreground", show_progress=False
    )
    expected = [k for i, k in enumerate(sorted(stored(source))) if i >= 10 and "-0001-" in k]
    assert sorted(stored(out)) == expected
    with (out / "_figureground/scores/clip.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["key", *expected]
    again = curate(out, tmp_path / "again", "scores.clip.margin > 1.1", show_progress=False)
    assert 0 < len(stored(again)) < len(expected)


def test_scores_that_some_samples_lack_are_counted_unless_the_rule_says_what_becomes_of_them(source, tmp_path):
    write_scores(source, all_scores(source, lambda i: i % 2))
    with pytest.raises(
        RuleError, match=r"scores\.clip\.margin is missing for 10 of 20 samples .*or complete _fig.*clip\.csv"
    ):
        curate(source, tmp_path / "out", "scores.clip.margin > 0.5", show_progress=False)
    kept = curate(source, tmp_path / "a", "scores.clip.margin is None or scores.clip.margin > 0.5", show_progress=False)
    dropped = curate(
        source, tmp_path / "b", "scores.clip.margin is not None and scores.clip.margin > 0.5", show_progress=False
    )
    assert (len(stored(kept)), len(stored(dropped))) == (17, 7)


def test_scores_of_unknown_keys_are_refused_even_when_the_rule_needs_none(source, tmp_path):
    write_scores(source, [["key", "margin"], ["train-0009-00-00000", 1], [make_key("train", 1, 1, 1), 1]])
    with pytest.raises(FiguregroundError, match=r"clip\.csv has 1 key that .* doesn't have: train-0009-00-00000"):
        curate(source, tmp_path / "out", RULE, show_progress=False)


def test_other_scores_are_another_copy(source, tmp_path):
    write_scores(source, all_scores(source))
    out = curate(source, tmp_path / "out", "scores.clip.margin > 0.5", show_progress=False)
    write_scores(source, all_scores(source)[:-1])
    with pytest.raises(FiguregroundError, match=r"scores\.clip: "):
        curate(source, out, "scores.clip.margin is not None and scores.clip.margin > 0.5", show_progress=False)


def test_scores_that_someone_adds_to_the_copy_stay(source, tmp_path):
    write_scores(source, all_scores(source))
    out = curate(source, tmp_path / "out", "scores.clip.margin > 0.5", show_progress=False)
    write_scores(out, [["key", "margin"]])
    curate(source, out, "scores.clip.margin > 0.5", show_progress=False)
    assert (out / "_figureground/scores/clip.csv").read_text().split() == ["key,margin"]


# Published rejects


def test_published_rejects_load_as_a_config_of_their_own(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, publish_rejects=True, show_progress=False)
    rejects = load_dataset(str(out), "rejects", cache_dir=str(tmp_path / "cache"))
    kept = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    index = read_finished_index(out)
    assert {s: len(rows) for s, rows in rejects.items()} == {
        s: facts["samples"] for s, facts in index["published_rejects"].items()
    }
    assert "reason" not in kept["train"].features
    assert rejects["train"].features == COLUMNS.with_reason().features()
    assert sum(len(rows) for rows in (*rejects.values(), *kept.values())) == 22
    before = stored(source)
    for row in rejects["train"]:
        assert row["reason"] == ("flat" if row["key"] == make_key("train", 0, 0, 0) else DROPPED)
        assert (row["image"] is None) == (row["reason"] == "flat")
        if row["image"] is not None:
            assert row["provenance"] == before[row["key"]].provenance
            assert row["image"].size == (16, 16)
        assert json.loads(row["provenance"])["seed"] == int(row["key"][-5:])
    assert check(out, show_progress=False).findings == []


def test_rejects_published_once_keep_their_images_in_a_copy_of_the_copy(tmp_path):
    columns = replace(COLUMNS, labels={"spurious_for": ("a", "b")}, texts=("feature",), guide=True)
    source = make_dataset(
        tmp_path / "in", columns=columns, rejected=(make_key("train", 0, 0, 0),),
        provenance=lambda s: {"spurious_for": "b", "feature": "x"},
    )  # fmt: skip
    once = curate(source, tmp_path / "once", "foreground == 'bird'", publish_rejects=True, show_progress=False)
    twice = curate(once, tmp_path / "twice", "background != 'night'", publish_rejects=True, show_progress=False)
    rows = load_dataset(str(twice), "rejects", cache_dir=str(tmp_path / "cache"))["train"]
    assert [row["image"] is None for row in rows] == [row["reason"] == "flat" for row in rows]
    assert {row["foreground"] for row in rows} == {0, 1}
    flat = next(row for row in rows if row["reason"] == "flat")
    assert (flat["spurious_for"], flat["feature"], flat["guide"]) == (None, None, None)
    plain = curate(once, tmp_path / "plain", "background != 'night'", show_progress=False)
    assert not (plain / "rejects").exists()


def test_rejects_can_not_be_published_beside_a_column_of_their_reasons_name(tmp_path):
    source = make_dataset(
        tmp_path / "in", columns=replace(COLUMNS, texts=("reason",)), provenance=lambda s: {"reason": "x"}
    )
    with pytest.raises(ShardError, match="a column 'reason'"):
        curate(source, tmp_path / "out", "seed > 3", publish_rejects=True, show_progress=False)
    curate(source, tmp_path / "out", "seed > 3", show_progress=False)


def test_rejects_of_tars_alone_can_not_be_published_for_configs_share_a_format(tmp_path):
    source = make_dataset(tmp_path / "in", formats=("webdataset",))
    with pytest.raises(RecipeError, match=r"--publish-rejects: .* only tar "):
        curate(source, tmp_path / "out", "seed > 3", publish_rejects=True, show_progress=False)
    assert not (tmp_path / "out").exists()


# Card and lineage


def test_the_card_tells_of_the_source_and_of_the_rule(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    text = (out / "README.md").read_text()
    assert "Birds and cats of noise." in text
    assert "@misc{noise}" in text
    assert "Nothing is in them." in text
    assert "`background != 'night' and foreground == 'bird'`" in text
    assert "dropped by the rule" in text
    recipe = json.loads((out / "_figureground/recipe.json").read_text())
    kept = read_finished_index(out)["samples"]
    origin = json.loads((source / "_figureground/recipe.json").read_text())
    assert recipe["lineage"] == [
        {
            "did": "curate", "rule": RULE, "from": {"name": "in", "sha256": origin["sha256"], "samples": 20},
            "kept": kept, "dropped": 20 - kept,
        }
    ]  # fmt: skip
    assert recipe["sources"] == [{"name": "in", **origin}]


def test_a_copy_of_a_copy_tells_both_steps(source, tmp_path):
    once = curate(source, tmp_path / "once", "foreground == 'bird'", show_progress=False)
    twice = curate(once, tmp_path / "twice", "background != 'night'", show_progress=False)
    recipe = json.loads((twice / "_figureground/recipe.json").read_text())
    assert [step["rule"] for step in recipe["lineage"]] == ["foreground == 'bird'", "background != 'night'"]
    assert recipe["sources"][0]["sources"][0]["builder"] == "d3s"
    assert set(stored(twice)) == set(stored(curate(source, tmp_path / "at once", RULE, show_progress=False)))


def test_what_people_wrote_into_the_card_is_carried_over(source, tmp_path):
    path = source / "README.md"
    text = path.read_text().replace("license: unknown", "license: cc-by-4.0  # ours", 1)
    path.write_text(text + "\n## Who to ask\n\nada\n")
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    copied = (out / "README.md").read_text()
    assert copied.count("## Who to ask") == 1
    header = yaml.safe_load(copied.split("---\n")[1])
    assert header["license"] == "cc-by-4.0"
    assert "# ours" in copied
    assert (
        sum(split["num_examples"] for split in header["dataset_info"]["splits"]) == read_finished_index(out)["samples"]
    )
    (out / "README.md").write_text(copied.replace("ada", "bob"))
    curate(source, out, RULE, show_progress=False)
    assert "bob" in (out / "README.md").read_text()


def test_the_licence_that_lies_beside_the_data_is_carried_over(source, tmp_path):
    (source / "LICENSE.md").write_text("Of Ada.")
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    assert (out / "LICENSE.md").read_text() == "Of Ada."
    (out / "LICENSE.md").write_text("Of Ada and Bob.")
    curate(source, out, RULE, show_progress=False)
    assert (out / "LICENSE.md").read_text() == "Of Ada and Bob."


def test_show_draws_the_copy_and_puts_the_image_into_its_card(source, tmp_path):
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    code, _, errors = run("show", str(out))
    assert (code, errors) == (0, "")
    assert "](preview.png)" in (out / "README.md").read_text()
    report = (out / "report.html").read_text()
    assert "recipe of in" in report
    assert "recipe: step 1" in report


# Faults


def test_extended_shards_keep_their_names(tmp_path):
    shards = (*SHARDS, Shard("train", 0, 1, 6, part=1))
    source = make_dataset(tmp_path / "in", shards=shards)
    out = curate(source, tmp_path / "out", RULE, show_progress=False)
    assert list(markers(out)) == list(markers(source))
    assert (out / "data" / "train-e1-00000-of-00001.parquet").exists()
    assert [shard["shard"] for shard in read_finished_index(out)["shards"]] == [shard.name for shard in shards]
    assert check(out, show_progress=False).findings == []


def test_a_killed_copy_goes_on_and_ends_with_the_same_bytes(tmp_path):
    shards = tuple(Shard("train", i, 12, 60) for i in range(12))
    source = make_dataset(tmp_path / "in", shards=shards, size=32)
    whole = curate(source, tmp_path / "whole", RULE, publish_rejects=True, show_progress=False)
    out = tmp_path / "out"
    arguments = ["curate", str(source), "--out", str(out), "--keep", RULE, "--publish-rejects"]
    done = 0
    for count in (1, 4, 7):
        process = start(*arguments, stderr=subprocess.DEVNULL)
        while len(list(out.glob("_figureground/shards/[!.]*"))) < count and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = len(list(out.glob("_figureground/shards/[!.]*")))
        assert done <= now
        done = now
    assert run(*arguments)[0] == 0
    assert hashes(out) == hashes(whole)
    assert {name for name in state(out)} == {name for name in state(whole)}


def test_a_copy_that_is_asked_to_stop_says_how_to_go_on_and_leaves_no_temporary_files(tmp_path):
    shards = tuple(Shard("train", i, 12, 60) for i in range(12))
    source, out = make_dataset(tmp_path / "in", shards=shards, size=32), tmp_path / "out"
    arguments = ["curate", str(source), "--out", str(out), "--keep", RULE]
    process = start(*arguments)
    while len(list(out.glob("_figureground/shards/[!.]*"))) < 2 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143
    assert "shards are done and kept. The same command" in errors
    assert not list(out.rglob("*.tmp"))


def test_two_copies_at_once_into_one_directory_write_each_shard_once(source, tmp_path):
    processes = [
        multiprocessing.get_context("fork").Process(target=curate, args=(source, tmp_path / "out", RULE),
                                                    kwargs={"show_progress": False})
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    whole = curate(source, tmp_path / "whole", RULE, show_progress=False)
    assert hashes(tmp_path / "out") == hashes(whole)
    assert check(tmp_path / "out", show_progress=False).findings == []


def test_the_card_is_carried_only_while_no_other_process_writes_beside_the_data(source, tmp_path):
    (source / "README.md").write_text("---\n---\nwords of a person\n" + (source / "README.md").read_text())
    out = tmp_path / "out"
    with lock(out / INDEX_LOCK, wait=True):  # as one that removes the drafts of killed processes
        process = start("curate", str(source), "--out", str(out), "--keep", RULE)
        while len(list(out.glob("_figureground/shards/[!.]*.json"))) < len(SHARDS) and process.poll() is None:
            time.sleep(0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        assert not (out / "README.md").exists()
        assert not list(out.glob(".README.md.*"))
    assert process.wait(timeout=60) == 0
    assert "words of a person" in (out / "README.md").read_text()


def test_wrong_use_exits_with_2_and_says_it_in_lines(source, tmp_path):
    arguments = ["curate", str(source), "--out", str(tmp_path / "out"), "--keep", "foreground == 'brid'"]
    code, _, errors = run(*arguments)
    assert code == 2
    message = "figureground: keep: foreground is never 'brid', did you mean 'bird'? (character 15)\n"
    assert errors.startswith(message)
    assert "Traceback" not in errors


def test_memory_does_not_grow_with_the_number_of_shards(tmp_path):
    peaks = []
    for n in (4, 24):
        source = make_dataset(tmp_path / f"in{n}", shards=[Shard("train", i, n, 30) for i in range(n)], size=64)
        curate(source, tmp_path / f"warm{n}", "seed > 50", show_progress=False)
        tracemalloc.start()
        curate(source, tmp_path / f"out{n}", "seed >= 20", show_progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20


def test_a_real_build_is_curated_with_its_guides_masks_and_citations(tmp_path):
    from figureground import D3S

    built = D3S(
        "pocket", checkpoint=str(make_checkpoint("sd1", tmp_path / "checkpoint")), classes=["bird", "car"],
        backgrounds=["grass", "snow"], per_cell={"train": 3, "validation": 1}, shard_size=5, num_inference_steps=2,
        batch_size=4,
        threads=1, device="cpu", size=32, keep=["guide", "mask"],
    ).build(tmp_path / "built", show_progress=False)  # fmt: skip
    out = curate(built, tmp_path / "out", "background == 'snow' and guide.flip in [True, False]", show_progress=False)
    assert {s.labels["background"] for s in stored(out).values()} == {1}
    assert len(stored(out)) == 8
    assert check(out, show_progress=False).findings == []
    row = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))[0]
    assert np.asarray(row["mask"]).max() == 255
    text = (out / "README.md").read_text()
    assert "2211.10370" in text
    assert (
        str(tmp_path)
        not in text + (out / "_figureground/recipe.json").read_text() + (out / "_figureground/index.json").read_text()
    )
