"""SCGS: errors are clustered, and what misled is repainted; on pocketbirds, with the pocket model."""

import io
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image, ImageFilter
from repaint_datasets import SIZES, STAGES, draw, list_planned_images, rows, sure

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.layouts import read_groups
from figureground.diffusion.composite import widen_to_latents
from figureground.diffusion.render import FEATHER, MARGIN
from figureground.learn.errors import read_errors
from figureground.methods.scgs import SCGS
from figureground.pocket import birds

KEPT = {"image_format": "png", "keep": ["mask"]}
SMALL = {"folds": 2, "training": {"epochs": 1}, "per_class": 4, "num_inference_steps": 2, "shard_size": 4, "threads": 1}
SCENES = {"plain", "grass", "sand", "snow", "night"}
"""Scenes of the pocket config."""
LATENT = 4
"""Pixels along an edge that a latent of the pocket model stands for."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return birds.write(
        tmp_path_factory.mktemp("data") / "birds", 40, 8, 8, bias_aligned_share=0.95, size=32, show_progress=False
    )


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "scgs"
    return SCGS("pocket", data=str(data), **KEPT, **SMALL).build(out, show_progress=False)


def opened(image):
    return np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"), np.int64)


def test_each_class_with_errors_gets_its_images_from_errors_of_its_own(data, built):
    errors = read_errors(built / STAGES / "errors")
    train = read_groups(data).of_split(0)
    wrong = {train.keys[row]: int(errors.y[row]) for row in np.flatnonzero(errors.wrong)}
    found = load_dataset(str(built), split="train")
    names = found.features["foreground"].names
    assert names == list(birds.OBJECTS)
    assert found.features["background"].names == ["unknown"]
    with_errors = sorted({label for label in wrong.values()})
    assert with_errors
    assert sorted(found["foreground"]) == sorted(with_errors * 4)
    for row in found:
        provenance = json.loads(row["provenance"])
        assert wrong[row["source"]] == row["foreground"]
        assert provenance["source_class"] == names[row["foreground"]] != provenance["predicted"]
        assert provenance["source_attribute"] in birds.SCENES
        assert row["prompt"].startswith(("a photo of a mug", "a photo of an umbrella"))


def test_precision_and_recall_of_the_error_set_are_reported_where_attributes_are_known(data, built):
    builder = SCGS("pocket", data=str(data), **KEPT, **SMALL)
    builder.read_stages(built / STAGES)
    train, wrong = read_groups(data).of_split(0), read_errors(built / STAGES / "errors").wrong
    minority = train.y != train.a  # each object's own scene has its number
    assert builder.stage_summary["error_set"]["errors"] == wrong.sum()
    assert builder.stage_summary["error_set"]["precision"] == pytest.approx(minority[wrong].mean())
    assert builder.stage_summary["error_set"]["recall"] == pytest.approx(wrong[minority].mean())
    assert f"precision {minority[wrong].mean():.1%}, recall" in builder.done_message(built)


def test_outside_the_mask_the_source_stays_and_inside_it_changes(data, built):
    builder = SCGS("pocket", data=str(data), **KEPT, **SMALL)
    builder.read_stages(built / STAGES)
    made = rows(built)
    assert len(made) == 4 * len({row["foreground"] for row in made}) > 0
    for row in made:
        source = np.asarray(builder.image(builder.rows[row["source"]], 64), np.int64)
        mask = np.asarray(builder.read_mask(row["source"])) > 0
        widened = widen_to_latents(mask, LATENT, MARGIN)
        assert ((opened(row["mask"])[..., 0] > 0) == widened).all()
        soft = 2 * math.ceil(FEATHER * LATENT) + 1
        near = np.asarray(Image.fromarray(widened).convert("L").filter(ImageFilter.MaxFilter(soft))) > 0
        changed = np.abs(opened(row["image"]) - source).max(-1)
        assert not near.all()
        assert (changed[~near] == 0).all()
        assert changed[mask].mean() > 2


def pictures(panel):
    return {picture.title: picture.image for picture in panel.pictures}


def test_a_sample_shows_its_source_region_and_cluster(data, built):
    builder = SCGS("pocket", data=str(data), **KEPT, **SMALL)
    builder.read_stages(built / STAGES)
    errors = read_errors(built / STAGES / "errors")
    for row in rows(built):
        provenance = json.loads(row["provenance"])
        shown, cluster = builder.panels(built, provenance)
        assert (shown.title, cluster.title) == ("Source and repainted region", "Cluster of errors")
        drawn = pictures(shown)
        source = np.asarray(Image.open(data / row["source"]).convert("RGB"))
        mask = np.asarray(builder.read_mask(row["source"]))
        assert np.array_equal(np.asarray(drawn["source"]), source)
        assert np.array_equal(np.asarray(drawn["mask"]), mask)
        tinted = (np.asarray(drawn["region"]) != source).any(-1)
        inside = np.asarray(Image.fromarray(mask).resize(drawn["region"].size, Image.Resampling.NEAREST)) >= 128
        levels = np.asarray(Image.open(built / STAGES / "masks/attention" / f"{builder.rows[row['source']]:06d}.png"))
        assert levels.max() == 255
        least = levels[np.asarray(drawn["mask"].resize(levels.shape, Image.Resampling.NEAREST)) >= 128].min()
        assert (levels >= least).mean() == pytest.approx((mask > 0).mean(), abs=0.1)  # the region is a level set
        assert np.asarray(drawn["attention"]).shape == source.shape
        assert not tinted[~inside].any()
        assert tinted[inside].mean() > 0.9
        facts, of_cluster = dict(shown.facts), dict(cluster.facts)
        at = errors.keys.index(row["source"])
        assert facts["source"] == row["source"]
        assert facts["predicted as"] == provenance["predicted"] != facts["class of the source"]
        assert float(facts["probability of the prediction"]) == pytest.approx(errors.probability[at].max(), abs=1e-3)
        assert float(facts["area of the region"].split("%")[0]) == pytest.approx(100 * (mask > 0).mean(), abs=0.1)
        assert (mask > 0).mean() < float(facts["attention inside the region"].rstrip("%")) / 100 <= 1
        assert of_cluster["cluster"].split()[0] == str(provenance["cluster"])
        assert provenance["source_class"] in of_cluster["groups"]


def test_the_overview_shows_the_error_set_and_the_clusters_that_divide_it(data, built):
    builder = SCGS("pocket", data=str(data), **KEPT, **SMALL)
    train, wrong = read_groups(data).of_split(0), read_errors(built / STAGES / "errors").wrong
    first, *clusters = builder.overview(built)
    facts = dict(first.facts)
    assert facts["errors"].startswith(f"{wrong.sum()} of 40 ")
    for group, name in enumerate(train.group_names):
        mine = train.group == group
        assert facts[f"errors in {name}"].startswith(f"{wrong[mine].sum()} of {mine.sum()} ")
    assert sum(int(dict(panel.facts)["size"].split()[0]) for panel in clusters) == wrong.sum()
    assert sum(int(dict(panel.facts)["images to make"].split()[0]) for panel in clusters) == len(rows(built))
    shown = {key for panel in clusters for key in (title.split(",")[0] for title in pictures(panel))}
    assert shown <= {train.keys[row] for row in np.flatnonzero(wrong)}
    for panel in clusters:
        for title, image in pictures(panel).items():
            source = Image.open(data / title.split(",")[0]).convert("RGB")
            assert np.array_equal(np.asarray(image), np.asarray(source))


def test_panels_name_what_is_gone(data, built, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(built / STAGES, tmp_path / "out" / STAGES)
    builder = SCGS("pocket", data=str(tmp_path / "data"), **KEPT, **SMALL)
    builder.read_stages(tmp_path / "out" / STAGES)
    provenance = json.loads(rows(built)[0]["provenance"])
    (tmp_path / "data" / provenance["source"]).unlink()
    shown, _ = builder.panels(tmp_path / "out", provenance)
    assert set(pictures(shown)) == {"mask"}
    assert {"attention", "region", "source"} <= dict(shown.facts).keys()
    assert Path(provenance["source"]).name in dict(shown.facts)["source"]
    assert str(tmp_path) not in str([shown, *builder.overview(tmp_path / "out")])
    shutil.copy(data / provenance["source"], tmp_path / "data" / provenance["source"])
    shutil.rmtree(tmp_path / "out" / STAGES / "masks" / "attention")
    shown, _ = builder.panels(tmp_path / "out", provenance)
    assert set(pictures(shown)) == {"source", "region", "mask"}
    assert "attention" in dict(shown.facts)
    (tmp_path / "data" / provenance["source"]).unlink()
    mask = f"{builder.rows[provenance['source']]:06d}.png"
    (tmp_path / "out" / STAGES / "masks" / mask).write_bytes(b"")
    shown, _ = builder.panels(tmp_path / "out", provenance)
    assert not shown.pictures
    assert f"masks/{mask}" in dict(shown.facts)["mask"]
    shutil.rmtree(tmp_path / "out" / STAGES)
    bare = SCGS("pocket", data=str(data), **KEPT, **SMALL)
    bare.read_stages(tmp_path / "out" / STAGES)
    shown, cluster = bare.panels(tmp_path / "out", provenance)
    assert set(pictures(shown)) == {"source"}
    assert {"stage errors", "mask"} <= dict(shown.facts).keys()
    assert "stage clusters" in dict(cluster.facts)
    assert {"stage errors", "stage clusters", "stage jobs"} <= dict(bare.overview(tmp_path / "out")[0].facts).keys()
    assert bare.draw_guide(provenance) is None


def test_a_finished_set_is_left_as_it_is_and_its_stages_too(data, built):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file() and path.name != "README.md"}
    SCGS("pocket", data=str(data), **KEPT, **SMALL).build(built, show_progress=False)
    stages = [path for path in before if "stages" in path.parts or "data" in path.parts]
    assert len(stages) > 5
    assert {path: path.stat().st_mtime_ns for path in stages} == {path: before[path] for path in stages}


def test_the_attribute_labels_and_decides_nothing(data, built, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    lines = [line.rpartition(",")[0] for line in (data / birds.TABLE).read_text().splitlines()]
    (bare / "table.csv").write_text("\n".join(lines) + "\n")
    builder = SCGS("pocket", data=str(bare / "table.csv"), root=str(data), **KEPT, **SMALL)
    out = builder.build(tmp_path / "out", show_progress=False)
    with_attribute, without = ({r["key"]: r for r in rows(each)} for each in (built, out))
    assert {k: r["source"] for k, r in with_attribute.items()} == {k: r["source"] for k, r in without.items()}
    assert {k: r["image"] for k, r in with_attribute.items()} == {k: r["image"] for k, r in without.items()}
    assert {json.loads(r["provenance"])["source_attribute"] for r in without.values()} == {None}


@pytest.mark.parametrize(
    ("mask", "repaint"), [("random", "attended"), ("true-masks", "attended"), ("attention", "complement")]
)
def test_other_regions(data, built, tmp_path, mask, repaint):
    judge = str(built / STAGES / "errors" / "fold-0")
    settings = {**SMALL, "classifier": judge, "mask": mask, "repaint": repaint, "per_class": 1}
    builder = SCGS("pocket", data=str(data), **settings)
    sources = [each["source"] for each in list_planned_images(builder, tmp_path / "out")]
    assert sources
    for source in sources:
        found = np.asarray(builder.read_mask(source)) > 0
        if mask == "true-masks":
            true = Image.fromarray(builder.true_mask(builder.rows[source])).resize((64, 64), 0)
            assert (found == ~np.asarray(true)).mean() > 0.97
        elif mask == "random":
            columns, lines = np.flatnonzero(found.any(0)), np.flatnonzero(found.any(1))
            assert found[lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1].all()
        else:
            assert 0.6 < found.mean() < 0.8


def test_only_the_classes_that_are_asked_for_are_made(data, built, tmp_path):
    names = load_dataset(str(built), split="train").features["foreground"].names
    label = rows(built)[0]["foreground"]
    builder = SCGS("pocket", data=str(data), **{**SMALL, "per_class": {names[label]: 2}})
    out = builder.build(tmp_path / "out", show_progress=False)
    assert [row["foreground"] for row in rows(out)] == [label, label]
    assert "2 samples" in builder.done_message(out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": {"cat": 1}}, "cat: per_class has no such field; available: mug, umbrella"),
        ({"per_class": -1}, "per_class: -1"),
        ({"mask": "whole", "repaint": "complement"}, "complement of the whole image"),
        ({"errors": "some"}, "errors: 'some' is not one of"),
        ({"training": {"epoch": 3}}, "training.epoch: there is no such setting"),
        ({"training": {"epochs": 0}}, r"^training\.epochs: 0 is not a whole number"),
        ({"nouns": {"cat": "kitten"}}, "nouns.cat: birds has no class 'cat'"),
        ({"strength": 0.1, "num_inference_steps": 4}, "strength: 0.1 of 4 steps"),
        ({"quantile": 2}, "quantile: 2 is not a number from 0 to 1"),
        (
            {"errors": "early-stopped", "first_epochs": 3, "training": {"epochs": 1}},
            "first_epochs: 3",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_named(data, settings, message):
    with pytest.raises(RecipeError, match=message):
        SCGS("pocket", data=str(data), **settings)


def test_without_data_a_build_says_what_to_give(tmp_path):
    with pytest.raises(RecipeError, match="--data"):
        SCGS("pocket").build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_set_without_masks_has_no_true_ones(data, tmp_path):
    bare = tmp_path / "bare"
    for label in ("a", "b"):
        (bare / label).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (32, 32), (20 * i, 90, 40)).save(bare / label / f"{i}.png")
    with pytest.raises(RecipeError, match=r"mask: 'true-masks' .*bare"):
        SCGS("pocket", data=str(bare), **SMALL, mask="true-masks").build(tmp_path / "out", show_progress=False)


def test_one_class_is_too_few(tmp_path):
    (tmp_path / "a").mkdir()
    lines = ["filename,split,y"]
    for i, split in enumerate((0, 0, 1, 2)):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(tmp_path / "a" / f"{i}.png")
        lines.append(f"a/{i}.png,{split},cat")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(FiguregroundError, match="one class"):
        SCGS("pocket", data=str(tmp_path / "table.csv"))


@pytest.mark.parametrize("sources", [2, 3, 4, 5])
def test_each_source_meets_every_scene_and_scenes_come_equally_often(tmp_path, sources):
    data = draw(tmp_path / "data", ("mug", "umbrella"), sources)
    given = sure(tmp_path / "c", ("mug", "umbrella"), (-100, 100))
    settings = {**SIZES, "classifier": given, "clusters": 1, "mask": "random", "per_class": {"mug": 5 * sources + 2}}
    made = list_planned_images(SCGS("pocket", data=data, **settings), tmp_path / "out")
    met = Counter((each["source"], each["scene"]) for each in made)
    assert len(met) == sources * len(SCENES)
    scenes = Counter(each["scene"] for each in made)
    assert set(scenes) == SCENES
    assert max(scenes.values()) - min(scenes.values()) <= 1


def test_the_folder_of_a_failed_build_is_left_as_it_was_found(data, tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(FiguregroundError):
        SCGS("pocket", data=str(data), **SMALL, classifier=str(tmp_path / "none")).build(out, show_progress=False)
    assert not Path(tmp_path / "new").exists()
