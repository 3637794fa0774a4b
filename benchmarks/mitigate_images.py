"""Images that the rows of `mitigate.py` add to training: made by each method, and labelled by the oracle."""

from __future__ import annotations

import csv
import functools
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mitigate_plan import BACKBONES, ROWS, Plan, Record, training_seeds
from mitigate_training import Place, find_trained_folder, train_row
from PIL import Image
from results import ROOT

from figureground.pocket import birds
from figureground.recipe.sample import Sample, Spec, derive_seed


class MadeImage(NamedTuple):
    """A made image that may be added."""

    key: str
    y: str
    """Name of its class."""
    a: str | None
    """Name of the scene or attribute that it should show, if the method states one."""
    image: Callable[[], Any]
    """Decodes the image."""


def take_evenly(images: Sequence[MadeImage], limit: int) -> list[MadeImage]:
    """Return the first images in order, balanced by class. Within a class, each scene or attribute keeps its share, so
    a smaller number of images has the same distribution."""
    by_class: dict[str, dict[str | None, list[MadeImage]]] = {}
    for image in images:
        by_class.setdefault(image.y, {}).setdefault(image.a, []).append(image)
    ordered = [
        [image for _, image in sorted(
            (((i + 0.5) / len(cell), image) for cell in cells.values() for i, image in enumerate(cell)),
            key=lambda pair: pair[0],
        )] for cells in by_class.values()
    ]  # fmt: skip
    return [image for round_ in itertools.zip_longest(*ordered) for image in round_ if image is not None][:limit]


def read_made(directory: Path, keep: Callable[[str], bool] = lambda key: True) -> list[MadeImage]:
    """Return the training images of a dataset or folder that `read_groups` reads, in order."""
    from figureground.data.layouts import read_groups

    train = read_groups(directory).of_split(0)
    names = [None if train.a is None or train.attributes is None else train.attributes[a] for a in
             (train.y if train.a is None else train.a)]  # fmt: skip
    return [
        MadeImage(train.keys[row], train.classes[train.y[row]], names[row], draw)
        for row, draw in train.read(np.arange(len(train)))
        if keep(train.keys[row])
    ]


def make_pasted(place: Place, out: Path) -> tuple[list[MadeImage], dict[str, Any]]:
    """Paste the regions that ERM attends to on images of other classes; ERM's epoch is chosen without attributes."""
    from figureground.data.layouts import read_groups
    from figureground.learn.paste import AttentionMasks, paste
    from figureground.vision.classifiers import open_classifier

    models, seed = (
        find_trained_folder(place, ROWS["erm"], BACKBONES[0], "unknown"),
        training_seeds(place.unit.seed, 1)[0],
    )
    if not (models / f"erm-seed-{seed}").exists():
        train_row(place, ROWS["erm"], BACKBONES[0], ROWS["erm"].tables, trainings=1)
    masks = AttentionMasks(open_classifier(str(models / f"erm-seed-{seed}")))
    paste(read_groups(place.data), masks, place.plan.images // 2, place.unit.seed, out, show_progress=False)
    return read_made(out), {}


def make_plain(place: Place, out: Path) -> tuple[list[MadeImage], dict[str, Any]]:
    """Draw images of each class from plain prompts, equally many, with the unmodified checkpoint."""
    import torch

    from figureground.diffusion.checkpoint import open_checkpoint
    from figureground.diffusion.render import Renderer, Sampling
    from figureground.methods.ddb import DDB
    from figureground.recipe.prompts import fill_noun

    config, classes = DDB.CONFIGS["pocket"], birds.find_bed(place.unit.bed).objects
    steps = place.settings("ddb").get("num_inference_steps", config.num_inference_steps)
    checkpoint = open_checkpoint("pocket", device=torch.device("cpu"), dtype=torch.float32, safety="off")
    sampling = Sampling(config.size, steps, 1.0, config.guidance_scale, batch_size=config.batch_size or 1)
    specs = [
        Spec(f"{label}-{i:05d}", "train", label, 0, name, "unknown", fill_noun("a photo of a {noun}", name, ""),
             derive_seed(place.unit.seed, "plain images", name, str(i)))
        for label, name in enumerate(classes) for i in range(place.plan.images // len(classes))
    ]  # fmt: skip

    def no_guide(spec: Spec) -> Any:
        raise AssertionError(spec)

    samples = [
        sample for sample in Renderer(checkpoint, sampling, no_guide).render(specs) if isinstance(sample, Sample)
    ]
    return [
        MadeImage(sample.spec.key, sample.spec.foreground_name, None, functools.partial(getattr, sample, "image"))
        for sample in samples
    ], {}


def make_d3s(place: Place, out: Path) -> tuple[list[MadeImage], dict[str, Any]]:
    """Build each class on each scene of the bed, equally often, from the bundled cut-outs and scenes."""
    from figureground.methods.d3s import D3S

    bed = birds.find_bed(place.unit.bed)
    scenes = list(bed.scenes or bed.attributes)
    per_cell = -(-place.plan.images // (len(bed.objects) * len(scenes)))
    builder = D3S(
        "pocket", classes=list(bed.objects), backgrounds=scenes, per_cell={"train": per_cell}, seed=place.unit.seed,
        **place.settings("d3s"),
    )  # fmt: skip
    builder.build(out, show_progress=False)
    return read_made(out), {"scenes": scenes}


def build(place: Place, name: str, out: Path, **changes: Any) -> Any:
    """Build a dataset by SCGS or DDB from the unit's bed, or resume it; return the builder."""
    from figureground.methods.registry import method_class

    settings = {**changes, **place.settings(name)}
    builder = method_class(name)("pocket", data=str(place.data), seed=place.unit.seed, **settings)
    builder.build(out, show_progress=False)
    return builder


def make_scgs(place: Place, out: Path, **changes: Any) -> tuple[list[MadeImage], dict[str, Any]]:
    builder = build(place, "scgs", out, **{"per_class": place.plan.images // 2, **changes})
    return read_made(out), {
        "error_set": builder.stage_summary["error_set"],
        "clusters": builder.stage_summary["clusters"],
    }


def make_ddb(place: Place, out: Path, pruned: bool = True) -> tuple[list[MadeImage], dict[str, Any]]:
    """Build at least twice as many candidates as needed; return those that DDB's pruning rule keeps, or all."""
    from figureground.curation.curating import curate
    from figureground.data.layouts import read_groups
    from figureground.learn.errors import read_errors
    from figureground.learn.jtt import find_minority_groups, summarise_errors
    from figureground.shards.stages import read_marker

    out = place.folder / "built" / "ddb"  # both rows take from the same candidates
    builder = build(place, "ddb", out, per_source=4)
    groups = read_groups(place.data)
    train, counts = groups.of_split(0), groups.counts(0)
    stages = out / "_figureground" / "stages"
    wrong = read_errors(stages / "classifier").wrong
    facts: dict[str, Any] = {
        "error_set": summarise_errors(wrong, np.zeros(len(wrong), bool), train.group, counts),
        "sources": {"images": 0, "with_the_bias": 0},
    }  # fmt: skip
    marker = read_marker(stages / "sources")
    assert marker is not None
    rows = [row for class_rows in marker["facts"]["rows"].values() for row in class_rows]
    facts["sources"] = {
        "images": len(rows),
        "with_the_bias": int((~find_minority_groups(counts).ravel()[train.group[rows]]).sum()),
    }
    candidates = read_made(out)
    if not pruned:
        return candidates, facts
    pruned_folder = place.folder / "built" / "ddb-pruned"
    curate(out, pruned_folder, builder.pruning_rule(), show_progress=False)
    kept_images = read_made(pruned_folder)
    return kept_images, {
        **facts,
        "rule": builder.pruning_rule(),
        "kept": len(kept_images) / len(candidates),
        "candidates": len(candidates),
    }


Maker = Callable[[Place, Path], tuple[list[MadeImage], dict[str, Any]]]
"""Takes a folder; returns the images made there, in order, and facts about them for the report."""

MAKERS: dict[str, Maker] = {
    "paste": make_pasted,
    "plain": make_plain,
    "d3s": make_d3s,
    "scgs": make_scgs,
    "ddb": make_ddb,
    "ddb-unpruned": functools.partial(make_ddb, pruned=False),
    **{f"scgs-{mask}": functools.partial(make_scgs, mask=mask) for mask in ("random", "whole", "true-masks")},
}


def make_images(place: Place, name: str, record: Record) -> Path:
    """Make a method's images if they are missing; return the folder to add to training."""
    out = place.images_folder(name)
    if name in record.content["made"] and (out / birds.TABLE).exists():
        return out
    began = time.monotonic()
    images, facts = MAKERS[name](place, place.folder / "built" / name)
    images = take_evenly(images, place.plan.images)
    write_made(images, birds.find_bed(place.unit.bed).objects, out)
    seconds = round(time.monotonic() - began, 1)
    if (earlier := record.content["made"].get(name)) is not None:  # the same images again, after the folder was lost
        seconds = earlier["seconds"]
    record.content["made"][name] = {
        "images": len(images), "by_class": dict(sorted(Counter(image.y for image in images).items())), **facts,
        "oracle": read_by_oracle(place, images), "seconds": seconds, "origin": record.origin,
    }  # fmt: skip
    record.write()
    return out


def write_made(images: Sequence[MadeImage], classes: Sequence[str], out: Path) -> None:
    """Write images as PNG, and finally the table `filename,split,y`.

    A class without images, such as one without errors in SCGS, gets an empty image in another split, which is not added
    to training: `read_groups` requires two classes.
    """
    shutil.rmtree(out, ignore_errors=True)
    (out / "train").mkdir(parents=True)
    with (out / "draft.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("filename", "split", "y"))
        for i, image in enumerate(images):
            name = f"train/{i:05d}.png"
            image.image().convert("RGB").save(out / name)
            table.writerow((name, 0, image.y))
        for missing in [name for name in classes if name not in {image.y for image in images}]:
            Image.new("RGB", (64, 64)).save(out / f"no-{missing}.png")
            table.writerow((f"no-{missing}.png", 2, missing))
    (out / "draft.csv").rename(out / birds.TABLE)


ORACLE = ROOT / "out" / "fidelity"
"""Folder of trained oracles, shared with `fidelity.py`."""


def open_oracle(plan: Plan) -> Any:
    """Return the oracle, a classifier trained only on drawings that labels made images."""
    import oracle

    settings = oracle.Settings(**plan.oracle)
    return oracle.load_or_train("oracle", 0, plan.work / "oracle" if plan.oracle else ORACLE, "cpu", settings)


def read_by_oracle(place: Place, images: Sequence[MadeImage]) -> dict[str, Any]:
    """Return the shares of made images whose class, and whose intended scene or look, the oracle confirms, 0 to 1; and
    counts of its backgrounds and looks by class."""
    import oracle

    bed = birds.find_bed(place.unit.bed)
    heads = list(oracle.HEADS)
    head_labels = open_oracle(place.plan).read(np.stack([oracle.to_pixels(image.image()) for image in images])).labels

    def names(head: str) -> list[str]:
        return [oracle.HEADS[head][label] for label in head_labels[:, heads.index(head)]]

    names_by_head = {head: names(head) for head in heads}
    is_right = np.array(
        [seen_name == image.y for seen_name, image in zip(names_by_head["foreground"], images, strict=True)]
    )
    looks = dict(zip(bed.attributes, bed.looks, strict=True)) if bed.looks else {}
    expected = [
        (i, image.a) for i, image in enumerate(images) if image.a in looks or image.a in oracle.HEADS["background"]
    ]
    is_confirmed = [
        names_by_head["look"][i] == looks[a] if a in looks else names_by_head["background"][i] == a for i, a in expected
    ]
    by_class = {
        name: {
            "label": float(is_right[[image.y == name for image in images]].mean()),
            **{
                head: dict(
                    Counter(
                        seen_name
                        for seen_name, image in zip(names_by_head[head], images, strict=True)
                        if image.y == name
                    )
                )
                for head in ("foreground", "background", "look")
            },
        }
        for name in dict.fromkeys(image.y for image in images)
    }
    return {
        "label": float(is_right.mean()), "attribute": float(np.mean(is_confirmed)) if is_confirmed else None,
        "by_class": by_class,
    }  # fmt: skip
