"""An evaluation says what classifiers that know colours make of datasets in known colours, as JSON and as a page."""

import base64
import io
import json
import re
import shutil

import pytest
from colour_datasets import COLOURS, image, make_coloured, make_coloured_classifier, make_folders
from datasets import load_dataset
from PIL import Image

from figureground.checking.dataset import check
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, UsageError
from figureground.curation.curating import curate
from figureground.evaluation import page as evaluation_page
from figureground.evaluation.evaluating import evaluate
from figureground.evaluation.summary import summarise
from figureground.hub.manifest import select_files

GROUNDS = ("grass", "snow")
# Birds on snow are drawn in the colour of cats; all else in its own.
DRAWN = [
    (split, name, ground, i, "cat" if (name, ground) == ("bird", "snow") else name)
    for split, n in (("train", 2), ("validation", 1)) for i in range(n)
    for name in ("bird", "cat") for ground in GROUNDS
]  # fmt: skip
SPURIOUS = [("bird", "flower", ground, i, "bird" if i else "mug") for ground in GROUNDS for i in range(3)]
SPURIOUS += [("cat", "ball", ground, i, "cat") for ground in GROUNDS for i in range(2)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return str(make_coloured_classifier(tmp_path_factory.mktemp("classifiers") / "colours"))


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    """A classifier that takes what is red for a cat, and knows no bird."""
    names = {"bird": "tabby <cat>", "cat": "cat", "mug": "cup"}
    return str(make_coloured_classifier(tmp_path_factory.mktemp("classifiers") / "lopsided", names))


def make_spurious(directory, drawn=SPURIOUS, **settings):
    return make_coloured(
        directory, drawn, labels={"spurious_for": list(COLOURS)}, texts=("feature",), builder="spurious",
        provenance=lambda sample: {"spurious_for": sample.spec.split, "feature": f"a {sample.spec.foreground_name}"},
        **settings,
    )  # fmt: skip


def images(page):
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page)]


def text(page):
    return re.sub(r"\s+", " ", re.sub(r"<(style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_accuracy_by_group_is_written_and_the_dataset_stays_as_it_was(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    before = check(directory, show_progress=False)
    done = evaluate(directory, [classifier], show_progress=False)
    report = json.loads((directory / "_evaluation" / "evaluation.json").read_text())
    assert report == done.report
    result = report["classifiers"]["colours"]
    assert result["accuracy"]["value"] == 0.75
    assert result["by_foreground"]["bird"]["value"] == 0.5
    assert result["by_background"]["snow"]["value"] == 0.5
    assert {name: some["samples"] for name, some in result["by_split"].items()} == {"train": 8, "validation": 4}
    assert (result["worst_group"]["foreground"], result["worst_group"]["background"]) == ("bird", "snow")
    assert (result["worst_group"]["value"], result["worst_group"]["samples"]) == (0, 3)
    assert result["facts"]["sha256"]
    assert str(tmp_path) not in json.dumps(report)
    assert check(directory, show_progress=False) == before
    published = [item.path for item in select_files(directory, None, tmp_path)]
    assert "_figureground/index.json" in published
    assert not [path for path in published if "evaluation" in path]
    assert {name: len(rows) for name, rows in load_dataset(str(directory)).items()} == {"train": 8, "validation": 4}


def test_the_same_command_writes_the_same_files(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    for name in ("a", "b"):
        evaluate(directory, [classifier], out=tmp_path / name, show_progress=False)
    for name in ("evaluation.json", "evaluation.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not (directory / "_evaluation").exists()


def test_a_drop_from_references_stands_beside_that_of_a_control(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    control = [("train", name, "grass", i, "mug" if i == 3 else name) for name in ("bird", "cat") for i in range(4)]
    make_coloured(tmp_path / "control", control, config="text-only")
    references = make_folders(tmp_path / "photos", {"bird": 5, "cat": 2, "sofa": 1}, {"sofa": "mug"})
    (references / "bird" / "4.png").write_bytes(b"no image")
    report = evaluate(
        directory, [classifier], references=references, controls=[tmp_path / "control"], show_progress=False
    ).report
    compared = report["classifiers"]["colours"]["compared"]
    values = {
        kind: [comparison[name]["value"] for name in ("accuracy", "references", "drop")]
        for kind, comparison in compared.items()
    }
    assert values == {"generated": [0.75, 1, 0.25], "text-only": [0.75, 1, 0.25]}
    assert report["beside"]["references"]["images"] == 6
    assert report["beside"]["references"]["other_classes"] == ["sofa"]
    assert [some["file"] for some in report["beside"]["references"]["unreadable"]] == ["bird/4.png"]
    summary = summarise(report)
    assert "text-only: accuracy 75.0%" in summary
    assert "references: 1 file can't be read, such as bird/4.png" in summary


def test_of_matched_sets_objects_are_followed_over_backgrounds(tmp_path, classifier):
    matched = make_coloured(tmp_path / "set", DRAWN, match="foreground")
    agreement = evaluate(matched, [classifier], show_progress=False).report["classifiers"]["colours"]["matched"]
    assert (agreement["objects"], agreement["alike"]["value"], agreement["right"]["value"]) == (6, 0.5, 0.5)
    kept = curate(matched, tmp_path / "cats", "foreground == 'cat'", show_progress=False)
    agreement = evaluate(kept, [classifier], show_progress=False).report["classifiers"]["colours"]["matched"]
    assert (agreement["objects"], agreement["alike"]["value"]) == (3, 1)
    plain = make_coloured(tmp_path / "plain", DRAWN)
    assert "matched" not in evaluate(plain, [classifier], show_progress=False).report["classifiers"]["colours"]


def guided(sample):
    """Provenance of images of two cut-outs, the same in all splits and cells, on one scene each."""
    cutout = (
        f"{sample.spec.foreground_name}/{sample.spec.seed % 2}.png@{sample.spec.foreground_name}{sample.spec.seed % 2}"
    )
    scene = f"{sample.spec.background_name}/0.jpg@{sample.spec.background_name}"
    return {"guide": {"kind": "paste", "cutout": cutout, "template": scene, "box": None, "flip": False}}


def test_images_of_one_cutout_count_as_one_object_where_they_are_answered_alike(tmp_path, classifier):
    drawn = [("train", name, ground, i, name) for name in ("bird", "cat") for ground in GROUNDS for i in range(6)]
    reused = make_coloured(tmp_path / "reused", drawn, provenance=guided)
    apart = make_coloured(tmp_path / "apart", drawn)
    reports = [evaluate(each, [classifier], show_progress=False).report for each in (reused, apart)]
    copies, own = (report["classifiers"]["colours"] for report in reports)
    assert (own["accuracy"]["samples"], "objects" in own["accuracy"]) == (24, False)
    assert (copies["accuracy"]["samples"], copies["accuracy"]["objects"]) == (24, 4)
    assert own["accuracy"]["low"] == pytest.approx(0.862, abs=1e-3)  # Wilson, of 24
    assert copies["accuracy"]["low"] == pytest.approx(0.510, abs=1e-3)  # of 4
    assert {cell["objects"] for cell in copies["by_cell"]} == {2}
    assert reports[0]["intervals"]["objects"] == 4
    assert reports[0]["intervals"]["scenes"] == 2
    summary = summarise(reports[0])
    assert "24 images of 4 objects" in summary
    assert "2 background images" in summary
    assert "objects" not in summarise(reports[1])
    page = text((reused / "_evaluation" / "evaluation.html").read_text())
    assert "24 images of 4 objects" in page


def test_a_set_above_its_references_has_a_gain_and_controls_that_are_drawn_otherwise_are_named(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN, size=64, num_inference_steps=16, checkpoint="here")
    control = [("train", name, "grass", i, name) for name in ("bird", "cat") for i in range(4)]
    make_coloured(tmp_path / "fewer", control, config="text-only", size=64, num_inference_steps=8, checkpoint="there")
    make_coloured(
        tmp_path / "same",
        control,
        config="reconstruction",
        size=64,
        num_inference_steps=16,
        checkpoint="here",
        strength=1,
    )
    references = make_folders(tmp_path / "photos", {"bird": 5, "cat": 5}, {"cat": "mug"})
    done = evaluate(
        directory, [classifier], references=references, controls=[tmp_path / "fewer", tmp_path / "same"],
        show_progress=False,
    )  # fmt: skip
    beside = done.report["beside"]
    assert "differs" not in beside["references"]
    assert beside["reconstruction"]["differs"] == []
    assert {each["field"]: each["control"] for each in beside["text-only"]["differs"]} == {
        "checkpoint": ["there"], "num_inference_steps": [8],
    }  # fmt: skip
    for output in (summarise(done.report), text((directory / "_evaluation" / "evaluation.html").read_text())):
        assert "text-only differs from set in checkpoint (here, here there), num_inference_steps (16, here 8)" in output
        assert "gain 25.0 points" in output  # 75 % of the set, 50 % of the references
        assert "-25" not in output.split("gain")[0]
    assert done.report["classifiers"]["colours"]["compared"]["generated"]["drop"]["value"] == pytest.approx(-0.25)


def test_classes_of_one_image_are_named(tmp_path, classifier):
    drawn = [("train", "bird", "grass", 0, "bird"), *(("train", "cat", "grass", i, "cat") for i in range(3))]
    directory = make_coloured(tmp_path / "set", drawn)
    references = make_folders(tmp_path / "photos", {"bird": 3, "cat": 3})
    report = evaluate(directory, [classifier], references=references, show_progress=False).report
    compared = report["classifiers"]["colours"]["compared"]["generated"]
    assert compared["single"] == 1
    assert compared["accuracy"]["low"] < 0.6
    assert compared["drop"]["low"] < 0 < compared["drop"]["high"]
    assert "1 of 2 classes have only one" in summarise(report)


def test_one_split_and_tars_alone(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN, formats=("webdataset",))
    report = evaluate(directory, [classifier], splits=["validation"], show_progress=False).report
    assert report["dataset"]["splits"] == {"validation": 4}
    assert report["classifiers"]["colours"]["samples"] == 4


def test_a_single_classifier_and_a_single_split_need_no_list(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    report = evaluate(directory, str(classifier), splits="validation", show_progress=False).report
    assert report["dataset"]["splits"] == {"validation": 4}
    assert list(report["classifiers"]) == ["colours"]


def test_labels_without_a_counterpart_are_named_and_their_samples_left_out(tmp_path, lopsided):
    directory = make_coloured(tmp_path / "set", DRAWN)
    done = evaluate(directory, [lopsided], show_progress=False)
    result = done.report["classifiers"]["lopsided"]
    assert (result["without_counterpart"], result["samples"], result["left_out"]) == (["bird"], 6, 6)
    assert result["counterparts"] == {"cat": ["cat"]}
    note = "lopsided has no class for 1 label: bird. Left out: 6 samples."
    assert note in summarise(done.report)
    assert note in text((directory / "_evaluation" / "evaluation.html").read_text())


def test_a_table_says_which_classes_a_label_stands_for(tmp_path, lopsided):
    directory = make_coloured(tmp_path / "set", DRAWN)
    (tmp_path / "labels.csv").write_text("label,classifier_label\nbird,tabby <cat>\nbird,cat\n")
    report = evaluate(directory, [lopsided], labels=tmp_path / "labels.csv", show_progress=False).report
    assert report["classifiers"]["lopsided"]["by_foreground"]["bird"]["value"] == 1
    assert report["label_table"]["name"] == "labels.csv"
    note = "lopsided: its class cat counts as right for bird, cat, so mistaking one of them for another isn't counted."
    assert note in summarise(report)


def test_of_spurious_sets_each_class_is_measured_beside_its_references(tmp_path, classifier, lopsided):
    directory = make_spurious(tmp_path / "set")
    references = make_folders(tmp_path / "references", {"bird": 3, "cat": 3}, {"cat": "mug"})
    validation = make_folders(tmp_path / "validation", {"bird": 4, "cat": 4, "mug": 1}, {"bird": "cat"})
    done = evaluate(
        directory, [classifier, lopsided], references=references, validation=validation, show_progress=False
    )
    report = done.report
    assert report["kind"] == "spurious"
    assert report["dataset"]["features"] == {"bird": "a flower", "cat": "a ball"}
    classes = report["classifiers"]["colours"]["classes"]
    assert classes["bird"]["generated"]["predicted"]["value"] == pytest.approx(4 / 6)
    assert classes["bird"]["generated"]["images"] == 6
    assert classes["bird"]["references"]["predicted"]["value"] == 1
    assert classes["cat"]["references"]["predicted"]["value"] == 0
    # Real birds look like cats here, so that generated ones are taken for birds before them.
    assert classes["bird"]["references"]["roc_auc"] == 0
    assert classes["cat"]["references"]["roc_auc"] == 1
    assert classes["cat"]["references"]["average_precision"] == 1
    assert classes["bird"]["generated"]["positives"] == 4
    # The other classifier knows no bird, and takes cats for cats.
    assert list(report["classifiers"]["lopsided"]["classes"]) == ["cat"]
    assert report["mean"]["classes"]["bird"]["generated"]["predicted"]["value"] == pytest.approx(4 / 6)
    assert report["mean"]["mean"]["generated"]["predicted"]["value"] == pytest.approx((4 / 6 + 1) / 2)
    page = text((directory / "_evaluation" / "evaluation.html").read_text())
    for phrase in ("share predicted k", "average precision", "ROC-AUC", "README says AUC", "a flower"):
        assert phrase in page
        assert phrase in summarise(report) or phrase == "a flower"


def test_other_spurious_sets_are_measured_alike(tmp_path, classifier):
    directory = make_spurious(tmp_path / "set")
    make_spurious(tmp_path / "untouched", [(k, f, b, i, "mug") for k, f, b, i, _ in SPURIOUS], config="untouched")
    mean = evaluate(directory, [classifier], controls=[tmp_path / "untouched"], show_progress=False).report["mean"][
        "mean"
    ]
    assert mean["untouched"]["predicted"]["value"] == 0
    assert mean["generated"]["predicted"]["value"] == pytest.approx((4 / 6 + 1) / 2)


def test_the_page_needs_no_other_file_escapes_what_it_quotes_and_sorts_images_by_p(tmp_path, classifier):
    directory = make_spurious(tmp_path / "a <b> set")
    evaluate(directory, [classifier], show_progress=False)
    page = (directory / "_evaluation" / "evaluation.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert len(images(page)) == len(SPURIOUS)
    shown = [float(p) for p in re.findall(r"<figcaption>([\d.]+)<br>", page)]
    cats, birds = shown[:4], shown[4:]
    assert cats == sorted(cats, reverse=True)
    assert birds == sorted(birds, reverse=True)
    drawn = {image("mug", 0).tobytes()}
    assert {some.convert("RGB").tobytes() for some in images(page)[-2:]} == drawn  # the two that aren't red
    assert "a &lt;b&gt; set" in page
    assert "<b>" not in page


def test_of_many_classes_the_page_shows_those_that_matter_most_and_says_so(tmp_path, classifier, monkeypatch):
    monkeypatch.setattr(evaluation_page, "MAX_CLASSES", 1)
    for directory, first in (
        (make_coloured(tmp_path / "d3s", DRAWN), "bird"),
        (make_spurious(tmp_path / "spurious"), "cat"),
    ):
        evaluate(directory, [classifier], show_progress=False)
        page = (directory / "_evaluation" / "evaluation.html").read_text()
        assert "Shown are the 1 of 2 classes" in text(page)
        assert re.findall(r"<h3>(\w+) <span class=\"faint\">[^<]*(?:correct|predicted)", page) == [first]
        assert ("the 1 of 2 foregrounds with the lowest accuracy" in text(page)) == (first == "bird")


def test_scores_are_written_where_curate_reads_them(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    for splits in ((), (), ("validation",)):  # its own it writes anew, and those of other splits stay
        done = evaluate(directory, [classifier], save_scores=True, splits=splits, show_progress=False)
    assert [path.name for path in done.scores] == ["colours.parquet"]
    rule = "scores.colours.correct and scores.colours.p > 0.5 and scores.colours.predicted == foreground"
    kept = curate(directory, tmp_path / "right", rule, show_progress=False)
    assert sum(len(rows) for rows in load_dataset(str(kept)).values()) == 9


def test_scores_of_names_that_differ_in_capitals_have_files_of_their_own_on_every_system(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    shutil.copytree(classifier, tmp_path / "Colours")
    done = evaluate(directory, [classifier, str(tmp_path / "Colours")], save_scores=True, show_progress=False)
    assert [path.name for path in done.scores] == ["colours.parquet", "Colours_.parquet"]


def test_scores_of_somebody_else_are_not_overwritten(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    theirs = directory / "_figureground" / "scores" / "colours.csv"
    theirs.parent.mkdir()
    theirs.write_text("key,x\n")
    with pytest.raises(FiguregroundError, match=r"scores/colours\.csv"):
        evaluate(directory, [classifier], save_scores=True, show_progress=False)
    assert not (directory / "_evaluation").exists()


def test_scores_of_another_classifier_of_the_same_name_are_not_overwritten(tmp_path, classifier):
    """Classifiers of different runs often have the same name, such as erm-seed-0."""
    directory = make_coloured(tmp_path / "set", DRAWN)
    evaluate(directory, [classifier], save_scores=True, show_progress=False)
    path = directory / "_figureground/scores/colours.parquet"
    before = path.read_bytes()
    other = make_coloured_classifier(tmp_path / "other/colours", {"bird": "cat", "cat": "bird", "mug": "mug"})
    with pytest.raises(FiguregroundError, match=r"colours\.parquet .* another classifier called 'colours'"):
        evaluate(directory, [str(other)], save_scores=True, show_progress=False)
    labels = tmp_path / "labels.csv"
    labels.write_text("label,classifier_label\nbird,bird\nbird,mug\ncat,cat\n")
    with pytest.raises(FiguregroundError, match=r"colours\.parquet .*other options, such as --labels"):
        evaluate(directory, [classifier], labels=labels, save_scores=True, splits=["train"], show_progress=False)
    assert path.read_bytes() == before


def test_files_of_somebody_else_and_folders_of_the_dataset_are_no_place_for_results(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    for name in ("evaluation.json", "evaluation.html"):
        mine = tmp_path / f"mine {name}"
        mine.mkdir()
        (mine / name).write_text("mine")
        with pytest.raises(FiguregroundError, match=rf"{name} exists"):
            evaluate(directory, [classifier], out=mine, show_progress=False)
        assert (mine / name).read_text() == "mine"
    for inside in (directory, directory / "data", directory / "_figureground"):
        with pytest.raises(FiguregroundError, match="belongs to the dataset"):
            evaluate(directory, [classifier], out=inside, show_progress=False)
    again = evaluate(directory, [classifier], out=tmp_path / "out", show_progress=False).out
    assert evaluate(directory, [classifier], out=again, show_progress=False).out == again


def test_classifiers_of_one_name_are_told_apart(tmp_path, classifier):
    directory = make_coloured(tmp_path / "set", DRAWN)
    done = evaluate(directory, [classifier, classifier], save_scores=True, show_progress=False)
    assert list(done.report["classifiers"]) == ["colours", "colours (2)"]
    assert sorted(path.name for path in done.scores) == ["colours.parquet", "colours_2.parquet"]


def test_what_does_not_go_together_is_refused_before_any_work(tmp_path, classifier):
    d3s, spurious = make_coloured(tmp_path / "d3s", DRAWN), make_spurious(tmp_path / "spurious")
    photos = make_folders(tmp_path / "photos", {"sofa": 1}, {"sofa": "mug"})
    (tmp_path / "file").write_text("")
    for settings, kind, reason in (
        ({"validation": photos}, UsageError, "--validation"),
        ({"controls": [spurious]}, UsageError, "column spurious_for, .*d3s .*foreground"),
        ({"references": photos}, FiguregroundError, "no folder named like a class"),
        ({"out": tmp_path / "file"}, FiguregroundError, "is a file; give a directory"),
        ({"batch_size": 0}, UsageError, "--batch-size"),
        ({"device": "tpu"}, UsageError, "device: 'tpu' is unknown"),
    ):
        with pytest.raises(kind, match=reason):
            evaluate(d3s, [classifier], show_progress=False, **settings)
    with pytest.raises(UsageError, match="name at least one"):
        evaluate(d3s, [], show_progress=False)
    assert not (d3s / "_evaluation").exists()


def test_the_command_prints_the_numbers_and_names_its_files(tmp_path, classifier, capsys):
    directory = make_coloured(tmp_path / "set", DRAWN)
    assert main(["evaluate", str(directory), "--classifier", classifier, "--device", "cpu", "--save-scores"]) == 0
    out = capsys.readouterr().out
    assert "colours: accuracy 75.0%" in out
    assert "worst group: bird on snow 0.0% (0.0 to 56.1), 3 images" in out
    assert re.search(r"bird on grass +100\.0% \(43\.9 to 100\.0\) +3\n", out)
    assert [line.rpartition("/")[2] for line in out.splitlines()[-3:]] == [
        "evaluation.json", "evaluation.html", "colours.parquet",
    ]  # fmt: skip
    assert main(["evaluate", str(tmp_path), "--classifier", classifier]) == 1
    assert "no finished dataset" in capsys.readouterr().err
    assert main(["evaluate", str(directory), "--classifier", classifier, "--validation", str(tmp_path)]) == 2
    assert "--validation" in capsys.readouterr().err
    assert main(["evaluate", str(directory), "--classifier", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
