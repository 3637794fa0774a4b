"""An audit finds planted faults, names their class and images, and finds nothing in clean sets."""

import html
import json
import re

import pytest
from drawn_datasets import SPLITS, inverted, make_drawn, tinted

from figureground.auditing.auditing import JSON, PAGE, audit
from figureground.auditing.summary import summarise
from figureground.core.errors import FiguregroundError, UsageError


def audited(directory, **settings):
    return audit(directory, device="cpu", show_progress=False, **settings)


def found(done):
    return [(finding.kind, finding.classes) for finding in done.findings]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_set_yields_no_finding(seed, tmp_path):
    done = audited(make_drawn(tmp_path / "clean", seed))
    assert found(done) == []
    assert done.report["tests"]["count"] >= 6
    assert done.report["regions"]["surroundings"]["network"]["images"] == 99
    assert "No finding" in summarise(done.report)


def test_a_tinted_background_is_found_with_its_class(tmp_path):
    """The surroundings of cars are reddish."""

    def change(drawn):
        return tinted(drawn.image, inverted(drawn.mask), (255, 40, 40)) if drawn.foreground == "car" else drawn.image

    done = audited(make_drawn(tmp_path / "tinted", 3, change=change))
    assert found(done) == [("surroundings", ("car",))]
    (finding,) = done.findings
    assert "redder" in finding.text
    assert finding.keys
    assert {key.split("-")[1] for key in finding.keys} == {"0000"}
    assert "0000" not in {key.split("-")[1] for key in finding.beside}


def test_a_leaking_cutout_is_found_with_its_background(tmp_path):
    """Objects on snow are paler, as if the cut-outs held some of the snow that they were photographed in."""

    def change(drawn):
        return tinted(drawn.image, drawn.mask, (255, 255, 255)) if drawn.background == "snow" else drawn.image

    done = audited(make_drawn(tmp_path / "leaking", 4, change=change))
    assert found(done) == [("object", ("snow",))]
    assert {key.split("-")[2] for key in done.findings[0].keys} == {"02"}


def test_a_correlated_cell_is_found_with_its_images(tmp_path):
    def per_cell(split, foreground, background):
        return 36 if (split, foreground, background) == ("train", "car", "snow") else SPLITS[split]

    done = audited(make_drawn(tmp_path / "correlated", 5, per_cell=per_cell, mask=False))
    assert found(done) == [("dependence", ("car", "snow"))]
    (finding,) = done.findings
    assert finding.numbers["split"] == "train"
    assert all(key.startswith("train-0000-02") for key in finding.keys)
    cramers_v = done.report["labels"]["train"]["cramers_v"]
    assert 0.05 < cramers_v["low"] < cramers_v["value"] < cramers_v["high"] < 0.6


def test_what_splits_share_is_found_with_its_images(tmp_path):
    """One image is in both splits, one cut-out of a mug is too, and two of one split are copies."""
    kept = {}

    def change(drawn):
        if (drawn.foreground, drawn.background, drawn.number) == ("cat", "grass", 1):
            return kept.setdefault("cat", drawn.image)
        if (drawn.split, drawn.foreground, drawn.background) == ("train", "car", "sand") and drawn.number in (2, 3):
            return kept.setdefault("car", drawn.image)
        return drawn.image

    def cutout(drawn):
        shared = (drawn.foreground, drawn.background, drawn.number) == ("mug", "sand", 0)
        return "mug/shared.png@1234" if shared else drawn.cutout

    done = audited(make_drawn(tmp_path / "shared", 6, change=change, cutout=cutout, mask=False))
    assert sorted(found(done)) == [
        ("near_duplicates", ("car",)), ("near_duplicates", ("cat",)), ("reuse", ("mug",)),
    ]  # fmt: skip
    by_class = {finding.classes[0]: finding for finding in done.findings}
    assert [key.split("-")[0] for key in by_class["cat"].keys] == ["train", "validation"]
    assert [key.split("-")[0] for key in by_class["car"].keys] == ["train", "train"]
    assert {key.split("-")[1] for key in by_class["mug"].keys} == {"0002"}
    assert "mug/shared.png" in by_class["mug"].text

    report = json.loads((done.out / JSON).read_text())
    assert [finding["classes"] for finding in report["findings"]] == [list(each.classes) for each in done.findings]
    assert [finding["effect"] for finding in report["findings"]] == sorted(
        (finding["effect"] for finding in report["findings"]), reverse=True
    )
    page = html.unescape((done.out / PAGE).read_text())
    assert len(re.findall(r"<img ", page)) == sum(len(each.keys) + len(each.beside) for each in done.findings)
    assert all(finding.text.split(":")[0] in page for finding in done.findings)
    again = audited(done.samples.source.directory)
    assert again.report == done.report


def test_what_cannot_be_measured_is_reported_and_has_no_number(tmp_path):
    """One class, on two backgrounds, in few images without masks."""
    directory = make_drawn(
        tmp_path / "few", foregrounds=("car",), backgrounds=("grass", "sand"), splits={"train": 3}, mask=False,
        per_cell=lambda split, foreground, background: 3,
    )  # fmt: skip
    report = audited(directory).report
    assert report["findings"] == []
    assert "only one foreground" in report["labels"]["train"]["reason"]
    assert "cramers_v" not in report["labels"]["train"]
    assert "mask" in report["regions"]["reason"]
    assert "classes" in report["whole_image"]["foreground"]["reason"]
    assert "balanced_accuracy" not in report["whole_image"]["background"]
    assert report["features"] is None
    summary = summarise(report)
    assert "only one foreground" in summary
    assert "keep=[mask]" in summary


def test_masks_of_repainted_regions_are_not_taken_for_objects(tmp_path):
    directory = make_drawn(tmp_path / "scgs", splits={"train": 2}, per_cell=lambda *cell: 2, builder="scgs")
    assert "scgs" in audited(directory).report["regions"]["reason"]


def test_large_images_need_a_named_network(tmp_path):
    directory = make_drawn(tmp_path / "large", splits={"train": 1}, per_cell=lambda *cell: 1, size=112)
    with pytest.raises(UsageError, match=r"--features.*112 × 112"):
        audited(directory)
    assert not (directory / "_audit").exists()


def test_results_of_others_are_kept(tmp_path):
    directory = make_drawn(tmp_path / "small", splits={"train": 1}, per_cell=lambda *cell: 1, mask=False)
    (tmp_path / PAGE).write_text("mine")
    with pytest.raises(FiguregroundError, match=PAGE):
        audited(directory, out=tmp_path)
    with pytest.raises(FiguregroundError, match="belongs to the dataset"):
        audited(directory, out=directory / "data")
    with pytest.raises(FiguregroundError, match="no finished dataset"):
        audited(tmp_path)
