"""Rendering: from Specs to Samples or Rejects, the same image whatever the batch."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoints import KINDS, add_safety_checker, make_checkpoint, set_weights

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.seeding import make_generator
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.render import (
    FEATHER,
    Renderer,
    Sampling,
    find_batch_size,
    find_reject_reason,
    split_batches,
)
from figureground.recipe.sample import Guide, Reject, Sample, Spec

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
SAMPLING = Sampling(size=32, num_inference_steps=4, strength=0.6, guidance_scale=3.0, batch_size=3)


def spec(i, guided=True, prompt="a photo of a bird, on grass"):
    return Spec(
        f"train-0000-00-{i:05d}",
        "train",
        0,
        0,
        "bird",
        "grass",
        prompt,
        1000 + i,
        Guide("paste", "x") if guided else None,
    )


def guide(spec):
    pixels = np.random.default_rng(spec.seed).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((32, 32)), Image.new("L", (32, 32), 255)


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request, tmp_path_factory):
    return open_checkpoint(str(make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))), **CPU)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module", params=[(kind, made) for kind in KINDS for made in (False, True)], ids=str)
def painter(request, tmp_path_factory):
    kind, made_for_it = request.param
    folder = make_checkpoint(kind, tmp_path_factory.mktemp(kind), made_for_it)
    return open_checkpoint(str(folder), inpaint=True, **CPU)


def repaint(i, prompt="a photo of a bird, on grass"):
    return replace(spec(i, prompt=prompt), guide=Guide("inpaint", f"source-{i}"))


def region(spec, left=13, top=9, right=18, bottom=15):
    """The guide and a mask of few pixels that isn't aligned with latent pixels."""
    mask = np.zeros((32, 32), np.uint8)
    mask[top:bottom, left:right] = 255
    return guide(spec)[0], Image.fromarray(mask)


def images(results):
    return [np.asarray(r.image, np.int16) for r in results]


def test_every_spec_ends_as_a_sample_in_order_ragged_batches_too(checkpoint):
    specs = [spec(i) for i in range(4)]
    results = list(Renderer(checkpoint, SAMPLING, guide).render(specs))
    assert [r.spec for r in results] == specs
    assert all(isinstance(r, Sample) and r.image.size == (32, 32) and r.image.mode == "RGB" for r in results)
    assert all(r.guide.size == r.mask.size == (32, 32) for r in results)


@pytest.mark.parametrize("guided", [True, False])
def test_batches_of_1_and_of_8_give_the_same_image_to_within_one_level(checkpoint, guided):
    specs = [spec(i, guided, f"a photo of a {n}, in snow") for i, n in enumerate(["bird", "car", "mug", "fish", "cat"])]
    by_size = [
        images(Renderer(checkpoint, Sampling(32, 4, 0.6, 3.0, batch_size=n), guide).render(specs)) for n in (1, 8)
    ]
    assert [len(each) for each in by_size] == [5, 5]
    for one, eight in zip(*by_size, strict=True):
        assert np.abs(one - eight).max() <= 1
    assert np.abs(by_size[0][0] - by_size[0][1]).max() > 1


def test_a_image_depends_on_its_own_seed_guide_and_prompt_alone(sd1):
    opened = open_checkpoint(str(sd1), **CPU)
    renderer = Renderer(opened, SAMPLING, guide)
    alone = images(renderer.render([spec(5)]))[0]
    among = images(renderer.render([spec(3), spec(4), spec(5), spec(6)]))[2]
    assert np.abs(alone - among).max() <= 1


@pytest.mark.parametrize(("strength", "steps"), [(0.58, 29), (0.56, 28), (0.9, 45), (1.0, 50)])
@pytest.mark.parametrize("route", ["image", "inpaint"])
def test_exactly_the_steps_that_a_strength_says_are_drawn(sd1, strength, steps, route):
    """In floating point 0.58 × 50 is 28.99…96, of which diffusers would draw 28."""
    drawn = []
    opened = open_checkpoint(str(sd1), inpaint=True, **CPU)
    sampling = Sampling(32, 50, strength, 1.0, batch_size=1)
    sample_spec, load = (spec(0), guide) if route == "image" else (repaint(0), region)
    list(Renderer(opened, sampling, load, lambda: drawn.append(1)).render([sample_spec]))
    assert len(drawn) == steps


def sizes_drawn(opened, sampling, specs, load):
    """The images, and how many latents the denoiser evaluated in each step."""
    sizes = []
    watch = opened.denoiser.conv_in.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        return images(Renderer(opened, sampling, load).render(specs)), sizes
    finally:
        watch.remove()


@pytest.mark.parametrize("route", ["text", "image", "inpaint"])
def test_guidance_in_an_interval_costs_one_evaluation_outside_of_it(painter, route):
    if painter.needs_mask and route != "inpaint":
        pytest.skip("it only repaints")
    load = region if route == "inpaint" else guide
    specs = [repaint(i) if route == "inpaint" else spec(i, route == "image") for i in range(2)]
    sampling = Sampling(32, 10, 0.6, 4.0, batch_size=3)
    first = 0 if route == "text" else 4
    everywhere, _ = sizes_drawn(painter, sampling, specs, load)
    whole, sizes = sizes_drawn(painter, replace(sampling, guidance_interval=(0.0, 1.0)), specs, load)
    assert np.array_equal(whole, everywhere)
    assert set(sizes) == {6}
    some, sizes = sizes_drawn(painter, replace(sampling, guidance_interval=(0.5, 0.8)), specs, load)
    assert sizes == [6 if 5 <= step < 8 else 3 for step in range(first, 10)]
    assert np.abs(np.subtract(some, everywhere)).max() > 1


def test_an_interval_before_the_first_drawn_step_is_no_guidance(sd1):
    opened = open_checkpoint(str(sd1), **CPU)
    sampling = Sampling(32, 10, 0.6, 4.0, batch_size=2)
    never, _ = sizes_drawn(opened, replace(sampling, guidance_interval=(0.0, 0.4)), [spec(0), spec(1)], guide)
    off, _ = sizes_drawn(opened, replace(sampling, guidance_scale=1.0), [spec(0), spec(1)], guide)
    assert np.abs(np.subtract(never, off)).max() <= 1
    assert not opened.denoiser._forward_pre_hooks


@pytest.mark.parametrize("guided", [True, False])
def test_steps_that_a_sampler_repeats_are_counted_once(sd1, guided):
    opened = open_checkpoint(str(sd1), scheduler="pndm", **CPU)
    sampling = Sampling(32, 10, 0.6, 4.0, batch_size=1)
    whole, sizes = sizes_drawn(opened, replace(sampling, guidance_interval=(0.0, 1.0)), [spec(0, guided)], guide)
    everywhere, _ = sizes_drawn(opened, sampling, [spec(0, guided)], guide)
    assert set(sizes) == {2}
    assert np.array_equal(whole, everywhere)
    _, sizes = sizes_drawn(opened, replace(sampling, guidance_interval=(0.5, 0.8)), [spec(0, guided)], guide)
    assert sizes == [1] * (2 if guided else 6) + [2, 2, 2, 1, 1]


def test_intervals_and_negative_prompts_are_refused_where_guidance_is_an_input_of_the_denoiser(sd1):
    opened = open_checkpoint(str(sd1), **CPU)
    opened.denoiser.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(RecipeError) as refused:
        Renderer(opened, Sampling(32, 4, 0.6, 4.0, guidance_interval=(0.0, 0.5)), guide)
    assert refused.value.field == "guidance_interval"
    with pytest.raises(RecipeError, match=r"^negative_prompt: .*a negative prompt has no effect"):
        Renderer(opened, Sampling(32, 4, 0.6, 4.0, negative_prompt="dark"), guide)


def test_noise_reads_all_bits_of_a_seed(sd1):
    """Two seeds whose low 32 bits agree."""
    renderer = Renderer(open_checkpoint(str(sd1), **CPU), SAMPLING, guide)
    one, other = (replace(spec(0, guided=False), seed=1000 + high * 2**32) for high in (0, 1))
    first, second = images(renderer.render([one, other]))
    assert np.abs(first - second).max() > 1


def test_strength_decides_how_much_of_the_guide_is_left(sd1):
    opened = open_checkpoint(str(sd1), **CPU)

    def difference(strength):
        """Between images of the same noise from two guides."""
        sampling = Sampling(32, 10, strength, 1.0, batch_size=1)
        by_guide = [
            images(Renderer(opened, sampling, lambda spec, other=other: guide(other)).render([spec(0)]))[0]
            for other in (spec(1), spec(2))
        ]
        return np.abs(by_guide[0] - by_guide[1]).mean()

    assert difference(0.1) > 2 * difference(1.0)


def test_numbers_that_overflow_give_rejects_and_no_images(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    set_weights(folder, "unet", 1e30)
    results = list(Renderer(open_checkpoint(str(folder), **CPU), SAMPLING, guide).render([spec(0), spec(1)]))
    assert [(type(r), r.reason) for r in results] == [(Reject, "non-finite")] * 2


def test_a_checkpoint_that_draws_nothing_finite_is_refused_after_its_first_images(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    set_weights(folder, "unet", 1e30)
    renderer = Renderer(open_checkpoint(str(folder), **CPU), SAMPLING, guide)
    with pytest.raises(FiguregroundError, match="The first 8 images, computed in"):
        list(renderer.render([spec(i) for i in range(10)]))


def test_work_can_be_stopped_between_two_steps(sd1):
    steps = []

    def between():
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt

    sampling = Sampling(32, 10, 1.0, 3.0, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        list(Renderer(open_checkpoint(str(sd1), **CPU), sampling, guide, between).render([spec(0), spec(1)]))
    assert len(steps) == 3


def test_a_image_that_shows_nothing_is_rejected_as_flat(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    set_weights(folder, "vae", 0.0)
    results = list(Renderer(open_checkpoint(str(folder), **CPU), SAMPLING, guide).render([spec(0, guided=False)]))
    assert [r.reason for r in results] == ["flat"]


@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl_is_guided_away_from_what_its_pipeline_takes_for_an_empty_prompt(zeros, tmp_path):
    folder = make_checkpoint("sdxl", tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": zeros}))
    opened, one = open_checkpoint(str(folder), **CPU), spec(0, guided=False)
    [result] = Renderer(opened, SAMPLING, guide).render([one])
    images = opened.text_to_image(
        one.prompt, height=32, width=32, num_inference_steps=4, guidance_scale=3.0,
        generator=make_generator(one.seed), output_type="np",
    ).images  # fmt: skip
    assert np.abs(np.asarray(result.image, float) - 255 * images[0]).max() < 1


def test_settings_that_a_sampler_ignores_or_that_need_guidance_are_refused(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    opened = open_checkpoint(str(folder), scheduler="pndm", **CPU)
    with pytest.raises(RecipeError, match=r"^eta: .*PNDMScheduler"):
        Renderer(opened, replace(SAMPLING, eta=0.5), guide)
    with pytest.raises(RecipeError, match=r"^negative_prompt: .*guidance_scale 1 turns guidance off"):
        Renderer(opened, replace(SAMPLING, negative_prompt="blurred", guidance_scale=1.0), guide)


@pytest.mark.parametrize(("safety", "kinds"), [("reject", {Reject}), ("off", {Sample})])
def test_what_the_safety_checker_flags_is_rejected_and_not_kept_as_a_black_image(tmp_path, safety, kinds):
    folder = make_checkpoint("sd1", tmp_path)
    add_safety_checker(folder)
    results = list(
        Renderer(open_checkpoint(str(folder), safety=safety, **CPU), SAMPLING, guide).render([spec(0), spec(1)])
    )
    assert len(results) == 2
    assert {type(result) for result in results} == kinds
    assert {getattr(result, "reason", "safety-flagged") for result in results} == {"safety-flagged"}


@pytest.mark.parametrize(
    ("pixels", "flagged", "reason"),
    [
        (np.linspace(0, 1, 48).reshape(4, 4, 3), False, None),
        (np.linspace(0, 1, 48).reshape(4, 4, 3), True, "safety-flagged"),
        (np.full((4, 4, 3), 0.5), False, "flat"),
        (np.full((4, 4, 3), np.nan), False, "non-finite"),
    ],
)
def test_reasons(pixels, flagged, reason):
    assert find_reject_reason(pixels, flagged) == reason


def test_batches_keep_order_and_never_mix_guided_and_unguided():
    specs = [spec(0), spec(1), spec(2, False), spec(3), spec(4)]
    assert [[s.key[-1] for s in batch] for batch in split_batches(specs, 2)] == [["0", "1"], ["2"], ["3", "4"]]
    specs = [repaint(0), repaint(1), spec(2), spec(3, False)]
    assert [[s.key[-1] for s in batch] for batch in split_batches(specs, 4)] == [["0", "1"], ["2"], ["3"]]


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_outside_the_mask_an_inpainted_image_is_its_source_bit_for_bit(painter, strength):
    sampling = replace(SAMPLING, strength=strength)
    samples = list(Renderer(painter, sampling, region).render([repaint(i) for i in range(4)]))
    assert len(samples) == 4
    for sample in samples:
        source, mask = (np.asarray(image) for image in region(sample.spec))
        drawn, repainted = np.asarray(sample.image), np.asarray(sample.mask)
        assert sample.guide.tobytes() == source.tobytes()
        assert set(np.unique(repainted)) == {0, 255}
        assert repainted[mask > 0].all()
        assert (
            len(np.unique(repainted.reshape(8, 4, 8, 4).swapaxes(1, 2).reshape(64, 16), axis=1).T) == 1
        )  # whole latents
        near = 3 * int(FEATHER * painter.factor)
        apart = np.ones((32, 32), bool)
        ys, xs = np.nonzero(repainted)
        apart[max(0, ys.min() - near) : ys.max() + 1 + near, max(0, xs.min() - near) : xs.max() + 1 + near] = False
        assert apart.mean() > 0.2
        assert (drawn[apart] == source[apart]).all()
        assert np.abs(drawn[repainted > 0].astype(int) - source[repainted > 0]).mean() > 5


def test_the_autoencoder_may_draw_what_lies_outside(painter):
    decoded = images(Renderer(painter, replace(SAMPLING, outside="decoded"), region).render([repaint(0)]))[0]
    kept = next(Renderer(painter, SAMPLING, region).render([repaint(0)]))
    inside = np.asarray(kept.mask) > 0
    assert (decoded[inside] == np.asarray(kept.image)[inside]).all()
    assert (decoded[0, 0] != np.asarray(kept.image)[0, 0]).any()


def test_batches_of_1_and_of_8_repaint_alike_to_within_one_level(painter):
    specs = [repaint(i, f"a photo of a {n}, in snow") for i, n in enumerate(["bird", "car", "mug", "fish", "cat"])]
    by_size = [images(Renderer(painter, replace(SAMPLING, batch_size=n), region).render(specs)) for n in (1, 8)]
    assert [len(each) for each in by_size] == [5, 5]
    for one, eight in zip(*by_size, strict=True):
        assert np.abs(one - eight).max() <= 1


def test_at_full_strength_what_was_in_the_mask_leaves_no_trace(painter):
    def inside(colour, strength):
        def load(spec):
            image, mask = region(spec)
            return Image.composite(Image.new("RGB", (32, 32), colour), image, mask), mask

        sample = next(Renderer(painter, replace(SAMPLING, strength=strength), load).render([repaint(0)]))
        return np.asarray(sample.image, int)[np.asarray(sample.mask) > 0]

    trace = {strength: np.abs(inside("black", strength) - inside("white", strength)).mean() for strength in (0.25, 1.0)}
    assert trace[1.0] < trace[0.25] / 3
    assert trace[1.0] == 0 or not painter.needs_mask  # made for inpainting, it never sees what is in the mask


@pytest.mark.parametrize("whole", [True, False])
def test_a_full_mask_repaints_all_and_an_empty_one_is_an_error_that_names_the_key(painter, whole):
    mask = Image.new("L", (32, 32), 255 if whole else 0)
    renderer = Renderer(painter, SAMPLING, lambda spec: (guide(spec)[0], mask))
    if whole:
        assert np.asarray(next(renderer.render([repaint(0)])).mask).min() == 255
    else:
        with pytest.raises(FiguregroundError, match="train-0000-00-00000: its mask covers nothing"):
            list(renderer.render([repaint(0)]))


def test_routes_follow_each_other_in_one_run(sd1):
    opened = open_checkpoint(str(sd1), inpaint=True, **CPU)
    specs = [repaint(0), spec(1), spec(2, False), repaint(3)]
    results = list(Renderer(opened, SAMPLING, region).render(specs))
    assert [r.spec for r in results] == specs
    assert [r.mask is None for r in results] == [False, False, True, False]


def test_a_checkpoint_made_for_inpainting_says_that_it_needs_a_mask(tmp_path):
    opened = open_checkpoint(str(make_checkpoint("sd1", tmp_path, inpaint=True)), inpaint=True, **CPU)
    for unmasked in (spec(0), spec(0, False)):
        with pytest.raises(
            FiguregroundError, match="made for inpainting and draws nothing without an image and a mask"
        ):
            list(Renderer(opened, SAMPLING, guide).render([unmasked]))


def test_an_inpainted_image_that_can_not_be_used_is_a_reject_though_its_source_is_fine(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    set_weights(folder, "unet", 1e30)
    opened = open_checkpoint(str(folder), inpaint=True, **CPU)
    assert [r.reason for r in Renderer(opened, SAMPLING, region).render([repaint(0)])] == ["non-finite"]
    folder = make_checkpoint("sd1", tmp_path / "flat")
    set_weights(folder, "vae", 0.0)
    opened = open_checkpoint(str(folder), inpaint=True, **CPU)
    assert [r.reason for r in Renderer(opened, SAMPLING, region).render([repaint(0)])] == ["flat"]
    folder = make_checkpoint("sd1", tmp_path / "flagged")
    add_safety_checker(folder)
    opened = open_checkpoint(str(folder), inpaint=True, **CPU)
    assert [r.reason for r in Renderer(opened, SAMPLING, region).render([repaint(0)])] == ["safety-flagged"]


def test_the_batch_size_found_on_a_cpu_suits_the_network(sd1):
    opened = open_checkpoint(str(sd1), **CPU)
    assert find_batch_size(opened, SAMPLING) == 16
    assert [find_batch_size(opened, SAMPLING, largest=n) for n in (1, 2, 15, 17)] == [1, 2, 15, 16]


@pytest.mark.slow
def test_a_compiled_network_draws_the_same_image(sd1):
    if shutil.which("cc") is None:
        pytest.skip("torch.compile needs a C compiler")
    specs = [spec(i) for i in range(3)]
    plain = images(Renderer(open_checkpoint(str(sd1), **CPU), SAMPLING, guide).render(specs))
    faster = Sampling(size=32, num_inference_steps=4, strength=0.6, guidance_scale=3.0, batch_size=3, compile=True)
    compiled = images(Renderer(open_checkpoint(str(sd1), **CPU), faster, guide).render(specs))
    assert len(plain) == 3
    for one, other in zip(plain, compiled, strict=True):
        assert np.abs(one - other).max() <= 2
