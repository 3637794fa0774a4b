"""Similarity to the guide, in the cut-out's region and outside of it."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from tiny_datasets import COLUMNS, make_dataset

from figureground.sources.mask import find_box
from figureground.verification.questions import LabelQuestion
from figureground.verification.scorer import Batch, Guided, Options
from figureground.verification.scorers.source import SourceScorer, mask_out
from figureground.verification.verifying import verify


def test_an_image_that_equals_its_guide_is_alike_in_both(tmp_path):
    source = make_dataset(tmp_path / "in", columns=replace(COLUMNS, guide=True, mask=True), size=48)
    verify(source, ["source"], show_progress=False)
    table = pq.read_table(source / "_figureground/scores/verify.parquet")
    for name in ("source_foreground_similarity", "source_background_similarity"):
        assert np.allclose(table[name].to_numpy(), 1, atol=1e-4)


def test_a_dataset_without_guides_has_no_similarity(source):
    done = verify(source, ["source"], show_progress=False)
    assert done.results["source"].new == 0
    assert pq.read_table(done.path)["source_foreground_similarity"].null_count == 22


def test_another_object_lowers_the_foreground_and_another_scene_the_background():
    rng = np.random.default_rng(0)
    guide = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    other_object, other_scene = guide.copy(), guide.copy()
    other_object[mask] = 255
    other_scene[~mask] = 0
    batch = Batch(
        ("a", "b"), (Image.fromarray(other_object), Image.fromarray(other_scene)),
        {"foreground": np.zeros(2, np.int64)}, (Guided(Image.fromarray(guide), mask),) * 2,
    )  # fmt: skip
    scorer = SourceScorer("", (LabelQuestion("foreground", ("bird",), (None,)),), Options(device="cpu"))
    scorer.identify()
    scorer.open()
    found = scorer.score(batch)
    changed, same = found["foreground_similarity"]
    assert changed < 0.99 < same
    same, changed = found["background_similarity"]
    assert changed < 0.99 < same


def test_regions():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 4:7] = True
    assert find_box(mask) == (4, 1, 7, 3)
    pixels = np.where(mask[..., None], 255, 10).astype(np.uint8).repeat(3, axis=2)
    assert (np.asarray(mask_out(Image.fromarray(pixels), mask)) == 10).all()
