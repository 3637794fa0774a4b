"""Families of flow matching draw by every route, the same image whatever the batch; what they can't do is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import build_whole_and_killed, hashes, recipe, run
from PIL import Image
from tiny_transformers import INPAINTING, MAKERS, SIZE, make_transformer

from figureground.cli.main import main
from figureground.core.accelerator import choose_dtype
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.render import Renderer, Sampling
from figureground.methods.d3s import D3S
from figureground.methods.forecast import plan
from figureground.models.family import FAMILIES
from figureground.models.weights import check_files, read_family
from figureground.recipe.sample import Guide, Spec

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
SAMPLING = Sampling(size=SIZE, num_inference_steps=5, strength=0.5, guidance_scale=4.0, batch_size=4)
PROMPTS = ("a photo of a bird, on grass", "a car", "a mug in snow at night, seen from above", "a cat on sand")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """By family, a checkpoint; with `-inpaint`, one that was made for inpainting."""
    made = {kind: make_transformer(kind, tmp_path_factory.mktemp(kind)) for kind in MAKERS}
    painters = {f"{kind}-inpaint": make_transformer(kind, tmp_path_factory.mktemp(kind), True) for kind in INPAINTING}
    return made | painters


@pytest.fixture(scope="session")
def opened(folders):
    """Open a checkpoint once for all tests."""
    found = {}

    def open_once(name):
        if name not in found:
            found[name] = open_checkpoint(str(folders[name]), inpaint=True, **CPU)
        return found[name]

    return open_once


def spec(i, route, prompt=None):
    kinds = {"text": None, "image": Guide("paste", "x"), "inpaint": Guide("inpaint", f"source-{i}")}
    prompt = prompt or PROMPTS[i % len(PROMPTS)]
    return Spec(f"train-0000-00-{i:05d}", "train", 0, 0, "bird", "grass", prompt, 1000 + i, kinds[route])


def guide(spec):
    """A guide of sixteen colours, and a mask that isn't aligned with latent pixels."""
    pixels = np.random.default_rng(spec.seed).integers(0, 255, (4, 4, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[9:15, 13:18] = 255
    return Image.fromarray(pixels).resize((SIZE, SIZE)), Image.fromarray(mask)


def draw(checkpoint, specs, between=lambda: None, **changes):
    results = Renderer(checkpoint, replace(SAMPLING, **changes), guide, between).render(specs)
    return np.stack([np.asarray(result.image, np.int16) for result in results])


def routes(name):
    """The routes that don't edit; see test_edit for the one that does."""
    if name.endswith("-inpaint"):
        return ("inpaint",)
    return tuple(route for route in FAMILIES[name].ROUTES if route != "edit")


EVERY = [(name, route) for name in (*MAKERS, *(f"{kind}-inpaint" for kind in INPAINTING)) for route in routes(name)]


@pytest.mark.parametrize(("name", "route"), EVERY)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_an_image_is_the_same_in_batches_of_1_and_of_4_to_within_one_level(opened, name, route, guidance):
    specs = [spec(i, route) for i in range(4)]
    one, four = (draw(opened(name), specs, batch_size=n, guidance_scale=guidance) for n in (1, 4))
    assert np.abs(one - four).max() <= 1
    assert min(np.abs(four[i] - four[j]).max() for i in range(4) for j in range(i)) > 8


@pytest.mark.parametrize(("name", "route"), EVERY)
def test_guidance_in_an_interval_is_that_of_sd3_and_refused_for_others(opened, name, route):
    specs = [spec(i, route) for i in range(2)]
    changes = {"strength": 1.0, "batch_size": 2}
    if not name.startswith("sd3"):
        with pytest.raises(RecipeError, match="guidance_interval"):
            draw(opened(name), specs, guidance_interval=(0.4, 0.8), **changes)
        return
    everywhere, whole, some = (
        draw(opened(name), specs, guidance_interval=each, **changes) for each in (None, (0.0, 1.0), (0.4, 0.8))
    )
    assert np.array_equal(whole, everywhere)
    assert np.abs(some - everywhere).max() > 1


@pytest.mark.parametrize(("name", "route"), EVERY)
def test_an_image_depends_on_its_prompt(opened, name, route):
    one, other = (draw(opened(name), [spec(0, route, prompt)], strength=1.0) for prompt in PROMPTS[:2])
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("name", "route"), [each for each in EVERY if each[1] != "text"])
@pytest.mark.parametrize(("strength", "steps"), [(0.5, 3), (0.58, 3), (0.2, 1), (0.6, 3), (1.0, 5)])
def test_exactly_the_steps_that_a_strength_says_are_drawn_rounded_up(opened, name, route, strength, steps):
    drawn = []
    draw(opened(name), [spec(0, route)], lambda: drawn.append(1), strength=strength, batch_size=1)
    assert len(drawn) == steps == opened(name).family.start(strength, 5).steps


@pytest.mark.parametrize("name", [name for name in MAKERS if "image" in routes(name)])
def test_little_strength_keeps_the_guide_and_full_strength_forgets_it(opened, name):
    specs = [spec(0, "image"), replace(spec(1, "image"), seed=1000, prompt=PROMPTS[0])]

    def drawn(strength):
        sampling = replace(SAMPLING, strength=strength, batch_size=2)
        guides = {each.key: guide(spec(i, "image")) for i, each in enumerate(specs)}
        samples = Renderer(opened(name), sampling, lambda each: guides[each.key]).render(specs)
        one, other = (np.asarray(each.image, np.int16) for each in samples)
        return np.abs(one - other).max()

    assert drawn(0.2) > 2
    assert drawn(1.0) <= 1


@pytest.mark.parametrize("name", [name for name in MAKERS if "image" in routes(name)])
def test_to_repaint_everything_is_image_to_image(opened, name):
    """Both start from the same noise and decode alike; diffusers' pipeline for SD 3 forgets a shift in one of them."""

    def whole(spec):
        return guide(spec)[0], Image.new("L", (SIZE, SIZE), 255)

    one, other = (Renderer(opened(name), SAMPLING, whole).render([spec(0, route)]) for route in ("image", "inpaint"))
    one, other = (np.asarray(next(iter(each)).image, np.int16) for each in (one, other))
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize(("name", "route"), EVERY)
def test_every_route_works_in_bfloat16_the_dtype_on_cuda(folders, opened, name, route):
    family = opened(name).family
    assert choose_dtype("auto", torch.device("cuda"), family.HALF) == torch.bfloat16
    half = open_checkpoint(str(folders[name]), inpaint=True, device=torch.device("cpu"), dtype="bfloat16")
    drawn, expected = (draw(each, [spec(0, route)]) for each in (half, opened(name)))
    assert np.abs(drawn - expected).mean() < 8


@pytest.mark.parametrize("name", MAKERS)
def test_each_text_encoder_has_its_own_limit_and_a_longer_prompt_is_refused(opened, name, folders, tmp_path, capsys):
    limits = {limit for _, limit in opened(name).count_tokens("a bird")}
    assert limits == LIMITS[name]
    long = "a photo of a {class}" + ", on grass" * 600 + ", {background}"
    if "image" not in routes(name):
        return
    settings = recipe(folders[name], prompt=long)
    assert main(["build", *settings, "--out", str(tmp_path / "out")]) != 0
    assert "prompt" in (errors := capsys.readouterr().err)
    assert any(f"reads {limit};" in errors for limit in limits)
    assert not (tmp_path / "out" / "data").exists()


LIMITS = {
    "sd3": {77, 256}, "flux": {77, 512}, "flux-fill": {77, 512}, "flux-kontext": {77, 512}, "flux2-klein": {512},
    "z-image": {512}, "qwen-image": {1019}, "qwen-image-edit": {1019}, "qwen-image-edit-plus": {1019},
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_an_edge_that_packs_no_whole_patches_is_refused_before_anything_is_opened(folders, name, capsys):
    if "image" in routes(name):
        assert main(["plan", *recipe(folders[name], size=24)]) == 2
        assert "size: 24 is not a multiple of 16" in capsys.readouterr().err


@pytest.mark.parametrize("name", MAKERS)
def test_the_sampler_is_the_checkpoints_own_unless_another_is_asked_for_which_is_refused(folders, name):
    folder = str(folders[name])
    assert D3S("pocket", checkpoint=folder).config.scheduler == "own"
    assert D3S("pocket").config.scheduler == "ddim"
    with pytest.raises(RecipeError, match="own") as refused:
        check_files(folders[name], name, inpaint=True, scheduler="ddim")
    assert refused.value.field == "scheduler"


@pytest.mark.parametrize("name", MAKERS)
def test_settings_without_effect_are_refused(folders, opened, name, capsys):
    if "image" in routes(name):
        assert main(["plan", *recipe(folders[name], eta=0.5)]) == 2
        assert "eta: " in capsys.readouterr().err
    with pytest.raises(RecipeError) as refused:
        draw(opened(name), [spec(0, "inpaint")], eta=0.5)
    assert refused.value.field == "eta"


@pytest.mark.parametrize(("entry", "value"), [("stochastic_sampling", True), ("_class_name", "EulerDiscreteScheduler")])
def test_noise_without_a_seed_and_other_samplers_are_refused(tmp_path, entry, value):
    folder = make_transformer("sd3", tmp_path)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), entry: value}))
    with pytest.raises(FiguregroundError, match=str(value) if entry == "_class_name" else entry):
        open_checkpoint(str(folder), **CPU)


@pytest.mark.parametrize("name", ["flux-fill", "z-image", "qwen-image"])
def test_what_fine_tunes_a_checkpoint_names_the_families_that_it_can(folders, name):
    with pytest.raises(FiguregroundError, match="sd, sdxl, sd3, flux") as refused:
        read_family(folders[name], name).check_training(name)
    assert read_family(folders[name], name).NAME in str(refused.value)


def test_a_method_that_fine_tunes_refuses_the_checkpoint_in_its_plan(folders, capsys):
    settings = {"checkpoint": folders["z-image"], "classes": "[bird, car]", "size": 32}
    assert main(["plan", "spurious", *(x for n, v in settings.items() for x in ("--set", f"{n}={v}"))]) == 2
    assert "z-image, which can't be trained" in capsys.readouterr().err


PARTS = {
    "sd3": [("joint_attention_dim", "text_encoder_3"), ("in_channels", "latent"),
            ("pooled_projection_dim", "projection_dim")],
    "flux": [("in_channels", "latent_channels"), ("out_channels", "latent_channels"),
             ("joint_attention_dim", "text_encoder_2"), ("pooled_projection_dim", "text_encoder")],
    "flux-fill": [("in_channels", "latent_channels"), ("out_channels", "latent_channels")],
    "z-image": [("in_channels", "latent_channels"), ("cap_feat_dim", "text_encoder")],
    "qwen-image": [("in_channels", "z_dim"), ("out_channels", "z_dim"), ("joint_attention_dim", "text_encoder"),
                   ("guidance_embeds", "input")],
}  # fmt: skip


@pytest.mark.parametrize(("name", "entry", "other"), [(name, *each) for name in PARTS for each in PARTS[name]])
def test_parts_that_disagree_are_named_with_their_sizes(tmp_path, name, entry, other):
    folder = make_transformer(name, tmp_path)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), entry: 48}))
    with pytest.raises(FiguregroundError, match=rf"({entry}|48).*{other}|{other}.*{entry}"):
        check_files(folder, name, inpaint=True)


def edit(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sd3", "text_encoder_2"), ("sd3", "text_encoder_3"), ("flux", "text_encoder"), ("flux", "text_encoder_2"),
        ("z-image", "text_encoder"), ("qwen-image", "text_encoder"),
    ],
)  # fmt: skip
def test_a_tokenizer_with_more_words_than_its_text_encoder_has_rows_is_named_with_it(folders, tmp_path, name, part):
    folder = shutil.copytree(folders[name], tmp_path / "mine")
    path = folder / part / "config.json"
    inner = json.loads(path.read_text()).get("text_config")
    edit(path, **({"text_config": {**inner, "vocab_size": 9}} if inner else {"vocab_size": 9}))
    with pytest.raises(FiguregroundError, match=rf"{part.replace('text_encoder', 'tokenizer')} and {part} .* 9 rows"):
        check_files(folder, name, inpaint=True)


def test_text_encoders_that_are_wider_together_than_a_transformer_takes_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["sd3"], tmp_path / "mine")
    edit(folder / "text_encoder" / "config.json", hidden_size=24)
    with pytest.raises(FiguregroundError, match=r"32 .*24 \(text_encoder\) \+ 16 \(text_encoder_2\)"):
        check_files(folder, "mine")


@pytest.mark.parametrize("name", ["sd3", "z-image", "qwen-image"])
def test_guidance_leads_away_from_the_negative_prompt(opened, name):
    """Also from an empty one, without which the pipelines of Qwen-Image guide nothing."""
    specs = [spec(0, "text")]
    plain, empty = (draw(opened(name), specs, guidance_scale=scale) for scale in (1.0, 12.0))
    other = draw(opened(name), specs, guidance_scale=12.0, negative_prompt=PROMPTS[2])
    assert not np.array_equal(plain, empty)
    assert not np.array_equal(empty, other)
    with pytest.raises(RecipeError, match=r"^negative_prompt: .*guidance_scale 1 turns guidance off"):
        draw(opened(name), specs, guidance_scale=1.0, negative_prompt=PROMPTS[2])


@pytest.mark.parametrize("name", ["flux", "flux-fill"])
def test_flux_takes_its_guidance_as_an_input_and_refuses_a_negative_prompt(opened, folders, name, capsys):
    specs = [spec(0, routes(name)[0])]
    images = [draw(opened(name), specs, guidance_scale=scale) for scale in (1.0, 30.0)]
    assert not np.array_equal(*images)
    assert opened(name).family.evaluations(30.0) == 1
    with pytest.raises(RecipeError) as refused:
        draw(opened(name), specs, negative_prompt="dark")
    assert refused.value.field == "negative_prompt"
    if name == "flux":
        assert main(["plan", *recipe(folders[name], negative_prompt="dark")]) == 2
        assert "negative_prompt: " in capsys.readouterr().err


@pytest.mark.parametrize("route", ["text", "image", "inpaint"])
def test_true_guidance_leads_flux_away_from_the_negative_prompt_at_twice_the_evaluations(opened, route):
    checkpoint, specs, calls = opened("flux"), [spec(i, route) for i in range(4)], []
    off = draw(checkpoint, specs, guidance_scale=3.0)
    assert np.array_equal(off, draw(checkpoint, specs, guidance_scale=3.0, true_cfg_scale=1.0))
    handle = checkpoint.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    settings = {"guidance_scale": 3.0, "true_cfg_scale": 6.0}
    empty, dark = (draw(checkpoint, specs, negative_prompt=text, **settings) for text in ("", "a dark cave"))
    handle.remove()
    steps = 5 if route == "text" else checkpoint.family.start(SAMPLING.strength, 5).steps
    assert len(calls) == 2 * steps * checkpoint.family.evaluations(3.0, 6.0)
    assert not np.array_equal(off, empty)
    assert not np.array_equal(empty, dark)
    one = draw(checkpoint, specs, negative_prompt="a dark cave", batch_size=1, **settings)
    assert np.abs(one - dark).max() <= 1


@pytest.mark.parametrize("name", ["sd3", "flux-fill", "z-image", "qwen-image"])
def test_true_guidance_is_refused_for_families_without_it(opened, folders, name, capsys):
    with pytest.raises(RecipeError, match="flux") as refused:
        draw(opened(name), [spec(0, "inpaint")], true_cfg_scale=2.0)
    assert refused.value.field == "true_cfg_scale"
    if "image" in routes(name):
        assert main(["plan", *recipe(folders[name], true_cfg_scale=2.0)]) == 2
        assert "true_cfg_scale: " in capsys.readouterr().err


def test_a_recipe_holds_the_scale_of_true_guidance_only_if_it_sets_it(folders):
    fields = {"checkpoint": str(folders["flux"]), "size": 32, "num_inference_steps": 4, "strength": 0.5, "limit": 1}
    assert "true_cfg_scale" not in D3S("pocket", **fields).identity()
    guided = D3S("pocket", **fields, negative_prompt="dark", true_cfg_scale=2.0)
    assert guided.identity()["true_cfg_scale"] == guided.provenance_settings()["true_cfg_scale"] == 2.0
    assert plan(guided)["denoiser_evaluations"] == 2 * 2
    assert plan(D3S("pocket", **fields))["denoiser_evaluations"] == 2
    with pytest.raises(RecipeError, match="above 1") as refused:
        D3S("pocket", **fields, negative_prompt="dark", true_cfg_scale=1.0).check_family()
    assert refused.value.field == "negative_prompt"


@pytest.mark.parametrize(("name", "evaluations"), [("flux", 1), ("sd3", 2), ("z-image", 2)])
def test_the_plan_counts_the_steps_and_evaluations_of_the_family(folders, name, evaluations):
    method = D3S("pocket", checkpoint=str(folders[name]), size=32, num_inference_steps=5, strength=0.5, limit=2)
    assert method.denoiser_steps() == 3
    assert D3S("pocket", num_inference_steps=5, strength=0.5).denoiser_steps() == 2
    assert plan(method)["denoiser_evaluations"] == 2 * 3 * evaluations


def test_z_image_adds_one_less_than_the_usual_guidance(opened):
    """Where others compute n + g (p - n) of the predictions p and n, its pipelines compute p + (g - 1) (p - n)."""
    family, pipeline = opened("z-image").family, opened("z-image").text_to_image
    assert family.guidance_options(4.0, 0.0) == {"guidance_scale": 3.0}
    assert family.guidance_options(1.0, 0.0) == family.guidance_options(0.0, 0.0) == {"guidance_scale": 0.0}
    seen = []
    handle = pipeline.transformer.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    for scale in (1.0, 4.0):
        draw(opened("z-image"), [spec(i, "text") for i in range(4)], guidance_scale=scale)
    handle.remove()
    assert seen == [4] * 5 + [8] * 5


@pytest.mark.parametrize("name", ["z-image", "qwen-image"])
def test_states_have_the_length_of_their_own_prompt_and_the_prompt_stays_what_it_was(opened, name):
    """The pipelines of Z-Image write the filled template into the list of prompts that they are given."""
    checkpoint, rows = opened(name), []
    for _ in range(2):
        rows = [checkpoint.family.encode_prompt(checkpoint.text_to_image, p, "", 4.0, {}) for p in PROMPTS]
        lengths = [len(row["prompt_embeds"]) for row in rows]
        counts = [checkpoint.count_tokens(prompt)[0][0] for prompt in PROMPTS]
        assert np.diff(lengths).tolist() == np.diff(counts).tolist() == np.diff([len(p) for p in PROMPTS]).tolist()
    again = checkpoint.family.encode_prompt(checkpoint.text_to_image, PROMPTS[0], "other", 4.0, rows[0])
    assert again["negative_prompt_embeds"] is rows[0]["negative_prompt_embeds"]


def test_qwen_states_are_padded_to_the_longest_of_a_batch_and_masked(opened):
    checkpoint = opened("qwen-image")
    rows = [checkpoint.family.encode_prompt(checkpoint.text_to_image, p, "", 1.0, {}) for p in PROMPTS]
    given = checkpoint.family.collate(rows)
    lengths = [len(row["prompt_embeds"]) for row in rows]
    assert given["prompt_embeds"].shape[:2] == given["prompt_embeds_mask"].shape == (4, max(lengths))
    assert given["prompt_embeds_mask"].sum(1).tolist() == lengths
    for row, padded in zip(rows, given["prompt_embeds"], strict=True):
        assert torch.equal(padded[: len(row["prompt_embeds"])], row["prompt_embeds"])
    assert checkpoint.text_to_image.encode_prompt(None, **checkpoint.family.collate(rows[:1] * 2))[1] is None
    alike = draw(checkpoint, [spec(i, "text", PROMPTS[0]) for i in range(4)])
    among = draw(checkpoint, [spec(i, "text", PROMPTS[0] if i < 1 else PROMPTS[2]) for i in range(4)])
    assert np.abs(alike[0] - among[0]).max() <= 1


@pytest.mark.parametrize("name", [name for name in MAKERS if "image" in routes(name) and name != "sd3"])
def test_a_build_with_the_command_passes_its_check(folders, name, tmp_path, capsys):
    settings = recipe(folders[name], per_cell="{train: 1}", num_inference_steps=2)
    assert main(["build", *settings, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    assert main(["check", str(tmp_path / "out")]) == 0
    row = pq.read_table(next((tmp_path / "out" / "data").glob("*.parquet"))).to_pylist()[0]
    assert json.loads(row["provenance"])["family"] == name


def test_sd3_without_its_t5_draws(tmp_path, opened):
    folder = make_transformer("sd3", tmp_path)
    index = folder / "model_index.json"
    absent = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    index.write_text(json.dumps({**json.loads(index.read_text()), **absent}))
    checkpoint = open_checkpoint(str(folder), **CPU)
    assert len(checkpoint.count_tokens("a bird")) == 2
    assert not np.array_equal(draw(checkpoint, [spec(0, "text")]), draw(opened("sd3"), [spec(0, "text")]))


def test_a_build_that_is_killed_ends_with_the_bytes_of_an_undisturbed_one(folders, tmp_path):
    settings = recipe(folders["sd3"], per_cell="{train: 6}", num_inference_steps=8)
    whole, killed = build_whole_and_killed(settings, tmp_path)
    code, _, err = run("build", *settings, "--out", str(killed))
    assert code == 0, err
    assert hashes(killed) == hashes(whole)
    row = pq.read_table(next((whole / "data").glob("*.parquet"))).to_pylist()[0]
    provenance = json.loads(row["provenance"])
    assert (provenance["family"], provenance["scheduler"], provenance["prediction_type"]) == ("sd3", "own", "flow")
    assert json.loads((whole / "_figureground" / "recipe.json").read_text())["identity"]["scheduler"] == "own"
