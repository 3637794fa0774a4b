"""Scores of a dataset: which columns, what is scored again, and what happens when a run is stopped."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import litter, run, start, wait_for
from tiny_classifiers import refuse_more_than
from tiny_datasets import COLUMNS, SHARDS, make_dataset
from tiny_scorers import make_clip

import figureground
from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError, OutOfMemory, UsageError
from figureground.core.locks import lock
from figureground.curation.curating import curate
from figureground.shards.columns import Columns
from figureground.shards.finished import FinishedDataset
from figureground.shards.index import rewrite_descriptions
from figureground.shards.shard import Shard
from figureground.shards.writer import write_encoded
from figureground.verification.questions import read_questions
from figureground.verification.samples import read_batches, take_inventory
from figureground.verification.scorer import SCORERS, Options
from figureground.verification.scorers.classifier import ClassifierScorer
from figureground.verification.scores_file import METADATA_KEY
from figureground.verification.verifying import LOCK, score_in_halves, verify

FILE = "_figureground/scores/verify.parquet"
JUDGED = ("p", "margin", "rank", "top")


def scores(directory):
    return pq.read_table(directory / FILE)


def facts(directory):
    return json.loads(scores(directory).schema.metadata[METADATA_KEY])


def rows(directory):
    return {row["key"]: row for row in scores(directory).to_pylist()}


def own_labels(directory):
    source = FinishedDataset(directory)
    return {
        row["key"]: {what: source.names[what][row[what]] for what in ("foreground", "background")}
        for shard in source.shards for row in source.rows(shard)
    }  # fmt: skip


@pytest.fixture
def scored(source, clip):
    verify(source, [f"clip:{clip}"], show_progress=False)
    return source


def test_the_file_has_a_row_per_image_and_columns_for_both_labels(scored):
    table = scores(scored)
    assert table.column_names == [
        "key", "image", "blur", "brightness",
        *(f"clip_tiny_{what}_{name}" for what in ("foreground", "background") for name in JUDGED),
    ]  # fmt: skip
    assert set(table["key"].to_pylist()) == set(own_labels(scored))
    assert not any(table[name].null_count for name in table.column_names)
    metadata = facts(scored)
    assert metadata["dataset"] == FinishedDataset(scored).identity()
    assert set(metadata["scorers"]) == {"clip_tiny"}
    assert {"kind", "id", "fingerprint", "version", "sha256", "left_out"} <= set(metadata["scorers"]["clip_tiny"])


def test_no_path_of_this_machine_is_in_the_file(scored, clip):
    assert str(clip).encode() not in (scored / FILE).read_bytes()
    assert facts(scored)["scorers"]["clip_tiny"]["id"] == "tiny"


def test_probabilities_fit_each_other(scored):
    for key, own in own_labels(scored).items():
        row = rows(scored)[key]
        for what, name in own.items():
            p, margin, rank, top = (row[f"clip_tiny_{what}_{each}"] for each in JUDGED)
            assert 0 <= p <= 1
            assert (rank == 1) == (top == name) == (margin >= 0)


def test_the_scorer_sees_pixels_alone(tmp_path, clip):
    """The same images under other labels and prompts: what is the most probable label stays."""
    columns = Columns(("bird", "cat", "fish"), COLUMNS.backgrounds)
    images, one, other = {}, make_dataset(tmp_path / "one", columns=columns), tmp_path / "other"
    source = FinishedDataset(one)
    for shard in source.shards:
        changed = []
        for stored in source.stored(shard):
            encoded = stored.encoded()
            foreground = (encoded.spec.foreground + 1) % 3
            spec = replace(encoded.spec, foreground=foreground, foreground_name="?", prompt="a photo of a fish")
            changed.append(replace(encoded, spec=spec))
            images[stored.key] = foreground
        write_encoded(other, shard, columns, changed, image_format="png")
    shutil.copy(one / "_figureground/recipe.json", other / "_figureground/recipe.json")
    shutil.copy(one / "_figureground/index.json", other / "_figureground/index.json")
    rewrite_descriptions(other)
    for directory in (one, other):
        verify(directory, [f"c=clip:{clip}"], show_progress=False)
    before, after = rows(one), rows(other)
    assert all(before[key]["c_foreground_top"] == after[key]["c_foreground_top"] for key in images)
    assert all(before[key]["c_background_p"] == after[key]["c_background_p"] for key in images)
    assert any(before[key]["c_foreground_p"] != after[key]["c_foreground_p"] for key in images)


def test_a_second_run_scores_nothing_and_writes_nothing(scored, clip):
    before = (scored / FILE).stat().st_mtime_ns
    done = verify(scored, [f"clip:{clip}"], show_progress=False)
    assert {name: result.new for name, result in done.results.items()} == {"quality": 0, "clip_tiny": 0}
    assert (scored / FILE).stat().st_mtime_ns == before


def test_a_further_scorer_leaves_the_others_scores(scored, classifier):
    before = scores(scored)
    done = verify(scored, [f"classifier:{classifier}"], show_progress=False)
    assert done.results["classifier_resnet"].new == 22
    after = scores(scored)
    assert after.select(before.column_names).equals(before)
    assert set(facts(scored)["scorers"]) == {"clip_tiny", "classifier_resnet"}


def test_a_single_scorer_needs_no_list(tmp_path, clip):
    assert "c" in verify(make_dataset(tmp_path / "set"), f"c=clip:{clip}", show_progress=False).results


def test_only_new_images_of_a_larger_dataset_are_scored(tmp_path, clip):
    small = make_dataset(tmp_path / "small", shards=(SHARDS[0], SHARDS[2]))
    verify(small, [f"clip:{clip}"], show_progress=False)
    large = make_dataset(tmp_path / "large")
    (large / FILE).parent.mkdir()
    shutil.copy(small / FILE, large / FILE)
    done = verify(large, [f"clip:{clip}"], show_progress=False)
    assert {name: result.new for name, result in done.results.items()} == {"quality": 8, "clip_tiny": 8}
    fresh = make_dataset(tmp_path / "fresh")
    verify(fresh, [f"clip:{clip}"], show_progress=False)
    found, expected = scores(large).to_pydict(), scores(fresh).to_pydict()
    assert list(found) == list(expected)
    for name, values in expected.items():  # batches of other sizes may differ in the last bits
        approximate = isinstance(values[0], float)
        assert found[name] == (pytest.approx(values, abs=1e-5) if approximate else values)


def test_a_curated_copy_keeps_its_scores(scored, clip, tmp_path):
    out = curate(scored, tmp_path / "out", "scores.verify.clip_tiny_foreground_rank == 1", show_progress=False)
    done = verify(out, [f"clip:{clip}"], show_progress=False)
    assert done.results["clip_tiny"].new == 0
    assert 0 < done.images < 22
    assert set(scores(out)["clip_tiny_foreground_rank"].to_pylist()) == {1}
    assert facts(out)["dataset"] == FinishedDataset(out).identity()


def test_an_image_with_other_pixels_is_scored_again(scored, clip, tmp_path):
    other = make_dataset(tmp_path / "other", seed=1)
    (other / FILE).parent.mkdir()
    shutil.copy(scored / FILE, other / FILE)
    assert verify(other, [f"clip:{clip}"], show_progress=False).results["clip_tiny"].new == 22


def test_a_changed_scorer_is_noticed(source, tmp_path, capsys):
    model = make_clip(tmp_path / "tiny")
    verify(source, [f"clip:{model}"], show_progress=False)
    before = scores(source)
    make_clip(model, seed=1)
    done = verify(source, [f"clip:{model}"])
    assert done.results["clip_tiny"].new == 22
    assert "clip_tiny" in capsys.readouterr().err
    assert scores(source)["clip_tiny_foreground_p"] != before["clip_tiny_foreground_p"]


def test_another_model_under_the_same_name_is_refused(scored, classifier):
    with pytest.raises(FiguregroundError, match=r"clip:tiny under the name 'clip_tiny'.*other=classifier:"):
        verify(scored, [f"clip_tiny=classifier:{classifier}"], show_progress=False)


def test_labels_that_the_scorer_does_not_know_are_named_and_counted(source, classifier):
    done = verify(source, [f"c=classifier:{classifier}"], show_progress=False)
    assert done.results["c"].left_out == {"background": {"grass": 8, "night": 8, "snow": 6}}
    assert not any(name.startswith("c_background") for name in scores(source).column_names)


def test_images_of_a_label_that_the_scorer_does_not_know_have_no_p(tmp_path, classifier):
    columns = Columns(("bird", "cat", "mug"), ("grass", "snow"))
    source = make_dataset(tmp_path / "in", columns=columns)
    code, out, _ = run("verify", str(source), "--scorer", f"c=classifier:{classifier}")
    assert code == 0
    assert "foreground: mug (6)" in out
    for key, own in own_labels(source).items():
        row = rows(source)[key]
        assert (row["c_foreground_p"] is None) == (own["foreground"] == "mug")
        assert row["c_foreground_top"] in ((None,) if own["foreground"] == "mug" else ("bird", "cat"))
    assert verify(source, [f"c=classifier:{classifier}"], show_progress=False).results["c"].new == 0


def test_a_csv_maps_labels_to_the_classifiers_names(source, classifier, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("label,classifier_label\ngrass,other\n")
    verify(source, [f"c=classifier:{classifier}"], labels=table, show_progress=False)
    assert {row["c_background_top"] for row in rows(source).values()} <= {"grass", "snow"}
    assert facts(source)["scorers"]["c"]["left_out"] == {"background": ["night"]}
    table.write_text("label,classifier_label\ngrass,lawn\n")
    with pytest.raises(FiguregroundError, match=r"labels.csv, line 2.*'lawn'"):
        verify(source, [f"c=classifier:{classifier}"], labels=table, show_progress=False)


def test_a_class_that_stands_for_two_labels_of_a_column_is_refused(source, classifier, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("label,classifier_label\ngrass,other\nsnow,other\n")
    with pytest.raises(FiguregroundError, match="'other' stands for both 'grass' and 'snow'"):
        verify(source, [f"c=classifier:{classifier}"], labels=table, show_progress=False)


def test_a_classifier_of_other_classes_is_refused(source, tmp_path):
    from tiny_classifiers import make_classifier

    other = make_classifier(tmp_path / "other", labels={0: "hen", 1: "crane"})
    with pytest.raises(FiguregroundError, match=r"hen, crane.*bird, cat.*--labels"):
        verify(source, [f"classifier:{other}"], show_progress=False)


def broken(directory, bad, count=12):
    """A dataset with images that can't be decoded."""
    made = make_dataset(directory.with_name("good"), shards=(Shard("train", 0, 1, count),))
    source = FinishedDataset(made)
    [shard] = source.shards
    samples = [
        replace(stored.encoded(), image=b"\x89PNG\r\n\x1a\nbroken") if i in bad else stored.encoded()
        for i, stored in enumerate(source.stored(shard))
    ]
    write_encoded(directory, shard, COLUMNS, samples, image_format="png")
    for name in ("recipe.json", "index.json"):
        shutil.copy(made / "_figureground" / name, directory / "_figureground" / name)
    rewrite_descriptions(directory)
    return directory, [sample.spec.key for sample in samples]


def test_images_that_cannot_be_decoded_are_named_and_the_rest_is_scored(tmp_path, clip):
    source, keys = broken(tmp_path / "bad", {3, 7})
    code, out, _ = run("verify", str(source), "--scorer", f"clip:{clip}", "--batch-size", "4")
    assert code == 1
    assert "2 images can't be decoded" in out
    assert keys[3] in out
    table = scores(source)
    empty = [key for key, p in zip(keys, table["clip_tiny_foreground_p"].to_pylist(), strict=True) if p is None]
    assert empty == [keys[3], keys[7]]
    assert facts(source)["scorers"]["clip_tiny"]["unreadable"] == [keys[3], keys[7]]


def test_a_dataset_without_a_single_readable_image_is_refused(tmp_path, clip):
    source, keys = broken(tmp_path / "bad", set(range(12)))
    with pytest.raises(FiguregroundError, match=f"none of its 12 images can be decoded.*{keys[0]}"):
        verify(source, [f"clip:{clip}"], show_progress=False)


def many(directory):
    return make_dataset(directory, shards=(Shard("train", 0, 2, 200), Shard("train", 1, 2, 200)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_and_gives_the_same_scores(tmp_path, clip, number):
    source = many(tmp_path / "in")
    shutil.copytree(source, tmp_path / "whole")
    command = ["verify", str(source), "--scorer", f"clip:{clip}", "--batch-size", "1", "--device", "cpu"]
    process = start(*command)
    journal = source / "_figureground/verify/clip_tiny.jsonl"
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 20, process)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    kept = journal.read_bytes().count(b"\n") - 1
    assert 20 <= kept < 400
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert "of 400 images have scores" in err
        assert "Traceback" not in err
    else:
        with journal.open("ab") as file:
            file.write(b'["train-0000-00-000')  # what a full disk or a cut of power leaves
    done = verify(source, [f"clip:{clip}"], show_progress=False)
    assert done.results["clip_tiny"].new == 400
    verify(tmp_path / "whole", [f"clip:{clip}"], show_progress=False)
    mine, theirs = scores(source), scores(tmp_path / "whole")
    assert mine["clip_tiny_foreground_rank"] == theirs["clip_tiny_foreground_rank"]
    assert np.allclose(mine["clip_tiny_foreground_p"], theirs["clip_tiny_foreground_p"], atol=1e-5)
    assert not journal.parent.exists()
    assert litter(source) == []
    assert check(source, show_progress=False).findings == check(tmp_path / "whole", show_progress=False).findings


def test_a_second_process_is_refused(source, clip):
    with lock(source / LOCK), pytest.raises(FiguregroundError, match="another process"):
        verify(source, [f"clip:{clip}"], show_progress=False)


def test_a_file_of_another_program_is_refused(source, clip):
    path = source / FILE
    path.parent.mkdir()
    pq.write_table(scores_of_others := pq.read_table(next((source / "data").glob("*"))).select(["key"]), path)
    before = path.read_bytes()
    with pytest.raises(FiguregroundError, match=r"verify.parquet.*Rename or remove"):
        verify(source, [f"clip:{clip}"], show_progress=False)
    assert path.read_bytes() == before
    assert scores_of_others.num_rows


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scorers": []}, "--scorer"),
        ({"scorers": ["quality"]}, "'quality'"),
        ({"scorers": ["source"], "endpoint": "http://localhost:1/v1"}, "--endpoint applies only to the scorer vlm"),
        ({"scorers": ["source"], "labels": "x.csv"}, "--labels applies only to the scorer classifier"),
        ({"scorers": ["source"], "ask_all": True}, "--ask-all"),
        ({"scorers": ["source"], "unsafe": ["nsfw"]}, "--unsafe"),
        ({"scorers": ["source"], "device": "gpu"}, "--device"),
        ({"scorers": ["source"], "batch_size": 0}, "--batch-size"),
    ],
)
def test_wrong_use_is_named_before_anything_is_opened(source, options, named):
    with pytest.raises(UsageError, match=named):
        verify(source, **options)
    assert not (source / FILE).exists()


@pytest.mark.parametrize("scorer", ["clip:/no/where", "classifier:/no/where", "vlm:/no/where", "source:/no/where"])
def test_a_missing_model_is_named(source, scorer):
    with pytest.raises(FiguregroundError, match="/no/where"):
        verify(source, [scorer], show_progress=False)


def test_a_model_that_names_code_is_refused(source, clip, tmp_path):
    model = tmp_path / "code"
    shutil.copytree(clip, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(FiguregroundError, match=r"config.json.*auto_map"):
        verify(source, [f"clip:{model}"], show_progress=False)


def test_weights_that_are_not_finite_are_refused(source, clip, tmp_path):
    from safetensors.torch import load_file, save_file

    model = tmp_path / "nan"
    shutil.copytree(clip, model)
    weights = load_file(model / "model.safetensors")
    weights["visual_projection.weight"].fill_(float("nan"))
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(FiguregroundError, match=r"clip.*NaN.*train-"):
        verify(source, [f"clip:{model}"], show_progress=False)


@pytest.mark.parametrize("most", [3, 0])
def test_a_batch_that_does_not_fit_is_scored_in_parts(source, classifier, most):
    scorer = ClassifierScorer(str(classifier), read_questions(FinishedDataset(source)), Options(device="cpu"))
    scorer.identify()
    scorer.open()
    inventory = take_inventory(FinishedDataset(source), show_progress=False)
    _, batch, _ = next(iter(read_batches(FinishedDataset(source), inventory, np.arange(8), 8, False)))
    expected = scorer.score(batch)
    refuse_more_than(scorer._classifier, most, RuntimeError("MPS backend out of memory (MPS allocated: 8.07 GiB)"))
    if most:
        values = score_in_halves(scorer, batch)
        assert values["foreground_p"] == pytest.approx(expected["foreground_p"], rel=1e-5)
        assert values["foreground_top"] == list(expected["foreground_top"])
    else:
        with pytest.raises(OutOfMemory, match=r"^The scorer classifier .* and one image of .* px don't fit"):
            score_in_halves(scorer, batch)


def test_a_scorer_of_another_package_is_found_by_its_name(source):
    with pytest.raises(UsageError, match="'redness'"):
        verify(source, ["redness"], show_progress=False)
    SCORERS.add("redness", "tiny_scorers:Redness")
    try:
        done = verify(source, ["redness"], show_progress=False)
    finally:
        SCORERS.remove("redness")
    assert done.results["redness"].new == 22
    assert scores(source)["redness_background_p"].null_count == 0


def test_the_public_function_is_this_one():
    assert figureground.verify is verify
