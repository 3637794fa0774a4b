"""`noise` starts from a share of noise that means the same in every family; `strength` doesn't."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import recipe
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image
from tiny_checkpoints import KINDS, make_checkpoint
from tiny_transformers import MAKERS, make_transformer

from figureground.cli.main import main
from figureground.core.errors import RecipeError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.render import Renderer, Sampling, find_checkpoint_start
from figureground.diffusion.starts import compute_noise_shares, find_start
from figureground.methods.d3s import D3S
from figureground.methods.spurious import Spurious
from figureground.models.family import FAMILIES
from figureground.recipe.sample import Guide, Spec

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
SIZE, STEPS = 32, 7
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SHIFT = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
PUBLISHED = {
    "sd": (DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False), 512, 0.883),
    "sd3": (FlowMatchEulerDiscreteScheduler(shift=3.0), 1024, 0.964),
    "flux": (FlowMatchEulerDiscreteScheduler(shift=3.0, **SHIFT), 512, 0.944),
    "flux at 1024 px": (FlowMatchEulerDiscreteScheduler(shift=3.0, **SHIFT), 1024, 0.966),
}
"""Schedulers as published checkpoints have them, the size of images, and the share of noise at strength 0.9."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_same_strength_starts_at_other_shares_of_noise(name):
    scheduler, size, share = PUBLISHED[name]
    start = find_start(FAMILIES[name.split()[0]](), scheduler, 50, size, 8, strength=0.9, noise=None)
    assert start.steps == 45
    assert start.noise == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("noise", [0.3, 0.6, 0.9])
def test_the_same_noise_starts_at_the_nearest_step_of_each(name, noise):
    scheduler, size, _ = PUBLISHED[name]
    family = FAMILIES[name.split()[0]]()
    shares = compute_noise_shares(family, scheduler, 50, size, 8)
    start = find_start(family, scheduler, 50, size, 8, strength=1.0, noise=noise)
    assert shares == sorted(shares, reverse=True)
    assert abs(start.noise - noise) == min(abs(share - noise) for share in shares)
    assert start.noise == shares[50 - start.steps]
    assert abs(start.noise - noise) < 0.03


@pytest.mark.parametrize(("kind", "scheduler"), [
    ("sd1", "ddim"), ("sd1", "pndm"), ("sd1", "euler"), ("sd1", "dpm++"), ("sdxl", "unipc"), ("sd3", None),
    ("flux", None), ("z-image", None), ("qwen-image", None),
])  # fmt: skip
def test_the_pipelines_start_at_that_step_with_that_noise(tmp_path, kind, scheduler):
    """The pipeline's mixtures of guide and noise, recorded in its scheduler."""
    folder = make_checkpoint(kind, tmp_path) if kind in KINDS else make_transformer(kind, tmp_path)
    checkpoint = open_checkpoint(str(folder), scheduler=scheduler, **CPU)
    sampling, drawn, seen = Sampling(SIZE, STEPS, 1.0, 1.0, noise=0.6), [], []
    start, own = find_checkpoint_start(checkpoint, sampling), checkpoint.image_to_image.scheduler
    mix = "scale_noise" if hasattr(own, "scale_noise") else "add_noise"
    before = getattr(own, mix)

    def watched(latents, first, second):
        mixed = before(latents, first, second)
        noise, level = (second, first) if mix == "scale_noise" else (first, second)
        zero = torch.zeros_like(latents)
        pair = [before(*((a, level, b) if mix == "scale_noise" else (a, b, level)))
                for a, b in ((zero + 1, zero), (zero, zero + 1))]  # fmt: skip
        seen.append((pair[1] / (pair[0] + pair[1])).mean().item())
        assert noise.std() > 0.5
        return mixed

    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    renderer = Renderer(checkpoint, sampling, lambda _: (Image.fromarray(pixels), None), lambda: drawn.append(1))
    setattr(own, mix, watched)  # not before the renderer has tried the schedule
    list(renderer.render([Spec("a", "train", 0, 0, "", "", "a bird", 1, Guide("paste", "x"))]))
    assert seen == [pytest.approx(start.noise, abs=1e-4)]
    assert len(drawn) == start.steps + (scheduler == "pndm")  # which takes a step twice
    assert abs(start.noise - 0.6) < 0.15


def test_a_recipe_says_noise_or_strength_and_holds_that_one_alone():
    with pytest.raises(RecipeError, match=r"0\.5.*0\.4") as refused:
        D3S("pocket", noise=0.5, strength=0.4)
    assert refused.value.field == "noise"
    by_noise, by_strength = D3S("pocket", noise=0.5), D3S("pocket", strength=0.6)
    assert "strength" not in by_noise.identity()
    assert by_noise.identity()["noise"] == 0.5
    assert "noise" not in by_strength.identity()
    assert by_strength.identity() == D3S("pocket").identity()


@pytest.mark.parametrize("made", [
    lambda: D3S("pocket", noise=-0.1), lambda: D3S("pocket", noise=1.5), lambda: D3S("pocket-text-only", noise=0.5),
    lambda: Spurious("pocket", noise=0.5),
])  # fmt: skip
def test_noise_where_it_means_nothing_is_refused(made):
    with pytest.raises(RecipeError) as refused:
        made()
    assert refused.value.field == "noise"


def test_plan_and_provenance_say_the_noise_and_the_steps_that_are_run(tmp_path, capsys):
    settings = recipe("pocket", noise=0.7, per_cell="{train: 1}", num_inference_steps=9, batch_size=2)
    assert main(["plan", *settings]) == 0
    output = capsys.readouterr().out
    assert main(["build", *settings, "--out", str(tmp_path / "out")]) == 0
    start = D3S("pocket", noise=0.7, num_inference_steps=9, size=32).start
    assert f"noise {start.noise:.3f}" in output
    assert f"{start.steps} of 9 steps" in output
    row = pq.read_table(next((tmp_path / "out" / "data").glob("*.parquet"))).to_pylist()[0]
    provenance = json.loads(row["provenance"])
    assert provenance["noise_at_start"] == pytest.approx(start.noise, abs=1e-6)
    assert (provenance["noise"], provenance["steps_run"]) == (0.7, start.steps)
    assert "strength" not in provenance
    assert main(["check", str(tmp_path / "out")]) == 0
    saved = tmp_path / "out" / "_figureground" / "recipe.json"
    assert main(["build", "d3s", "--recipe", str(saved), "--out", str(tmp_path / "again")]) == 0
    first, again = (sorted((tmp_path / name / "data").glob("*")) for name in ("out", "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_a_plan_without_the_checkpoint_says_that_the_start_is_not_known_yet(capsys):
    assert main(["plan", "d3s", "--set", "checkpoint=nobody/nothing", "--set", "noise=0.5"]) == 0
    assert "noise 0.5" in capsys.readouterr().out


def test_every_family_of_flow_matching_is_tried():
    assert {name for name in FAMILIES.names() if FAMILIES[name].SCHEDULER == "own"} == set(MAKERS)
