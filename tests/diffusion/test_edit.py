"""The route `edit`: a guide is the reference of an instruction, and drawing starts from noise alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import TINY, build_whole_and_killed, hashes, run
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image
from tiny_transformers import MAKERS, SIZE, VISION, make_transformer

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.core.resources import find_resource
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.render import Renderer, Sampling
from figureground.methods.d3s import D3S
from figureground.methods.forecast import plan
from figureground.models.bundled import WEIGHTS
from figureground.models.family import FAMILIES
from figureground.recipe.sample import Guide, Spec
from figureground.running.runner import Job

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
SAMPLING = Sampling(
    size=SIZE, num_inference_steps=3, strength=0.5, guidance_scale=4.0, batch_size=4, edit=True
)  # fmt: skip
PROMPTS = ("put the bird on grass, keep it as it is", "show the car in snow", "move this mug so that it is in a cave")
EDITING = [name for name in MAKERS if "edit" in FAMILIES[name].ROUTES]
SEEING = [name for name in EDITING if FAMILIES[name].SEES_REFERENCE]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By family, a checkpoint that edits; `sd3` doesn't."""
    return {kind: make_transformer(kind, tmp_path_factory.mktemp(kind)) for kind in (*EDITING, "sd3")}


@pytest.fixture(scope="module")
def opened(folders):
    """Open a checkpoint once for all tests."""
    found = {}

    def open_once(name):
        if name not in found:
            found[name] = open_checkpoint(str(folders[name]), **CPU)
        return found[name]

    return open_once


@pytest.fixture(autouse=True)
def small_references(monkeypatch):
    """diffusers' pipelines of Qwen-Image-Edit enlarge every reference to a million pixels: minutes on a CPU."""
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (64, 64, None))
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 64**2)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE", 64**2)


def spec(i, prompt=None, seed=None, guide="photograph"):
    prompt = prompt or PROMPTS[i % len(PROMPTS)]
    seed = 1000 + i if seed is None else seed
    guide = None if guide is None else Guide(guide, f"source-{i}")
    return Spec(f"train-0000-00-{i:05d}", "train", 0, 0, "bird", "grass", prompt, seed, guide)


def reference(spec):
    """A picture of sixteen colours, another for each source."""
    number = int(spec.guide.cutout.rpartition("-")[2])
    pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE)), Image.new("L", (SIZE, SIZE), 255)


def draw(checkpoint, specs, between=lambda: None, **changes):
    results = Renderer(checkpoint, replace(SAMPLING, **changes), reference, between).render(specs)
    return np.stack([np.asarray(result.image, np.int16) for result in results])


def recipe(checkpoint, **settings):
    """The arguments that name a small recipe of editing the bundled photographs."""
    values = {
        **TINY, "photographs": "pocket", "cutouts": "pocket", "scenes": "pocket", "num_inference_steps": 2,
        "per_cell": "{train: 1}", "classes": "{bird: an animal, car: a vehicle}", **settings, "checkpoint": checkpoint,
    }  # fmt: skip
    return ["d3s", "--config", "edit", *(x for n, v in values.items() for x in ("--set", f"{n}={v}"))]


def edit(checkpoint, **settings):
    """The same recipe as a method."""
    values = {
        "classes": {"bird": None, "car": None}, "backgrounds": ["grass", "snow"], "photographs": "pocket", "size": 32,
        "num_inference_steps": 2, "per_cell": {"train": 4}, **settings,
    }  # fmt: skip
    return D3S("edit", checkpoint=str(checkpoint), **values)


@pytest.mark.parametrize("name", EDITING)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_an_edited_image_is_the_same_in_batches_of_1_and_of_4_to_within_one_level(opened, name, guidance):
    specs = [spec(i) for i in range(4)]
    one, four = (draw(opened(name), specs, batch_size=n, guidance_scale=guidance) for n in (1, 4))
    assert four.shape == (4, SIZE, SIZE, 3)
    assert np.abs(one - four).max() <= 1
    assert min(np.abs(four[i] - four[j]).max() for i in range(4) for j in range(i)) > 8


@pytest.mark.parametrize("name", EDITING)
def test_an_edited_image_depends_on_instruction_seed_and_reference_and_an_incomplete_batch_changes_nothing(
    opened, name
):
    first = spec(0)
    one, again = (draw(opened(name), [first, *more])[0] for more in ([], [spec(1), spec(2)]))
    assert np.abs(one - again).max() <= 1
    elsewhere = replace(first, guide=Guide("photograph", "source-5"))
    for other in (replace(first, prompt=PROMPTS[1]), replace(first, seed=1), elsewhere):
        assert not np.array_equal(one, draw(opened(name), [other])[0])


@pytest.mark.parametrize("name", EDITING)
def test_all_steps_are_run_whatever_the_strength(opened, name):
    drawn, images = [], []
    for strength in (0.1, 1.0):
        images.append(draw(opened(name), [spec(0)], lambda: drawn.append(1), strength=strength, batch_size=1))
    assert len(drawn) == 2 * SAMPLING.num_inference_steps
    assert np.array_equal(*images)


@pytest.mark.parametrize("name", EDITING)
def test_editing_works_in_bfloat16_the_dtype_on_cuda(folders, opened, name):
    half = open_checkpoint(str(folders[name]), device=torch.device("cpu"), dtype="bfloat16")
    drawn, expected = (draw(each, [spec(0)]) for each in (half, opened(name)))
    assert np.abs(drawn - expected).mean() < 12


@pytest.mark.parametrize("name", [name for name in EDITING if name != "flux-kontext"])
def test_guidance_leads_away_from_the_negative_prompt(opened, name):
    plain, empty = (draw(opened(name), [spec(0)], guidance_scale=scale) for scale in (1.0, 12.0))
    other = draw(opened(name), [spec(0)], guidance_scale=12.0, negative_prompt=PROMPTS[2])
    assert not np.array_equal(plain, empty)
    assert not np.array_equal(empty, other)


@pytest.mark.parametrize(("name", "route"), [
    ("flux-kontext", "image"), ("flux2-klein", "image"), ("qwen-image-edit", "image"), ("qwen-image-edit", "text"),
    ("qwen-image-edit-plus", "text"), ("sd3", "edit"),
])  # fmt: skip
def test_a_route_that_a_family_lacks_is_refused_with_those_that_it_has(opened, folders, name, route, capsys):
    guide, changes = (None if route == "text" else "photograph"), {"edit": route == "edit"}
    with pytest.raises(FiguregroundError, match=name) as refused:
        draw(opened(name), [spec(0, guide=guide)], **changes)
    settings = {"guide": "none" if route == "text" else "photograph", "edit": str(route == "edit").lower()}
    assert main(["plan", *recipe(folders[name], prompt="a {class} {background}", **settings)]) == 2
    for message in (str(refused.value), capsys.readouterr().err):
        assert ("edit=true" if route != "edit" else "flux-kontext") in message
        assert all(able in message for able in FAMILIES.names() if route in FAMILIES[able].ROUTES)


REFUSED = """
import sys
from figureground.cli.main import main
code = main([*sys.argv[1:]])
print(code, "torch" in sys.modules)
"""


@pytest.mark.parametrize(("command", "code"), [("plan", "2"), ("build", "1")])
def test_it_is_refused_before_torch_is_imported(folders, tmp_path, command, code):
    out = [] if command == "plan" else ["--out", str(tmp_path / "out")]
    arguments = [command, *recipe(folders["flux-kontext"], edit="false"), *out]
    done = subprocess.run([sys.executable, "-c", REFUSED, *arguments], capture_output=True, text=True)
    assert done.stdout.split() == [code, "False"], done.stderr
    assert "flux-kontext" in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_recipe_that_edits_says_where_drawing_starts(folders, capsys):
    for name in ("strength", "noise"):
        assert main(["plan", *recipe(folders["flux-kontext"], **{name: 0.5})]) == 2
        assert f"{name}: " in capsys.readouterr().err
    assert not {"strength", "noise"} & set(edit(folders["flux-kontext"]).identity())
    for settings, field in (({"guide": "none"}, "edit"), ({"known_background": True}, "known_background")):
        with pytest.raises(RecipeError) as refused:
            edit(folders["flux-kontext"], **settings)
        assert refused.value.field == field


@pytest.mark.parametrize(("name", "settings", "evaluations"), [
    ("flux-kontext", {"guidance_scale": 4.0}, 1),
    ("flux-kontext", {"true_cfg_scale": 2.0, "negative_prompt": "blurred"}, 2),
    ("flux2-klein", {"guidance_scale": 4.0}, 2),
    ("flux2-klein", {"guidance_scale": 1.0}, 1),
    ("qwen-image-edit", {"guidance_scale": 4.0}, 2),
])  # fmt: skip
def test_the_plan_counts_all_steps_and_the_evaluations_of_the_family(folders, opened, name, settings, evaluations):
    method = edit(folders[name], num_inference_steps=3, limit=2, **settings)
    assert method.denoiser_steps() == 3
    assert plan(method)["denoiser_evaluations"] == 2 * 3 * evaluations
    seen = []
    handle = opened(name).denoiser.register_forward_pre_hook(lambda *_: seen.append(1))
    draw(opened(name), [spec(0)], batch_size=1, **settings)
    handle.remove()
    assert len(seen) == 3 * evaluations


def test_a_distilled_klein_is_drawn_from_without_guidance(folders, tmp_path):
    folder = shutil.copytree(folders["flux2-klein"], tmp_path / "distilled")
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "is_distilled": True}))
    checkpoint = open_checkpoint(str(folder), **CPU)
    one, other = (draw(checkpoint, [spec(0)], guidance_scale=scale) for scale in (1.0, 12.0))
    assert np.array_equal(one, other)
    forecast = plan(edit(folder, guidance_scale=12.0, limit=1))
    assert forecast["denoiser_evaluations"] == 2
    assert any("is_distilled" in note for note in forecast["notes"])
    for made in (lambda: draw(checkpoint, [spec(0)], negative_prompt="dark"),
                 lambda: edit(folder, negative_prompt="dark").check_family()):  # fmt: skip
        with pytest.raises(RecipeError) as refused:
            made()
        assert refused.value.field == "negative_prompt"


def test_klein_repaints_whole_patches_and_refuses_images_that_its_pipeline_would_reduce(folders):
    checkpoint = open_checkpoint(str(folders["flux2-klein"]), inpaint=True, **CPU)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[2, 2] = 255
    given = spec(0, guide="inpaint")
    sampling = replace(SAMPLING, edit=False, strength=1.0, batch_size=1, outside="decoded")
    renderer = Renderer(checkpoint, sampling, lambda each: (reference(each)[0], Image.fromarray(mask)))
    sample = next(iter(renderer.render([given])))
    assert np.asarray(sample.mask).min() == 255  # a patch and its neighbours, of two by two
    with pytest.raises(RecipeError) as refused:
        checkpoint.family.inpaint_options(1040)
    assert refused.value.field == "size"


@pytest.mark.parametrize("name", SEEING)
def test_the_text_encoder_sees_the_reference_in_two_dimensions(opened, name):
    """diffusers' own encoding places the image's tokens in one row, as it leaves out which ones they are."""
    checkpoint, seen = opened(name), []
    layer = checkpoint.text_encoders[0].model.language_model.layers[0]

    def watch(module, arguments, options):
        seen.append(options["position_embeddings"][0])

    handle = layer.register_forward_pre_hook(watch, with_kwargs=True)
    references = [reference(spec(i))[0] for i in range(2)]
    family, pipeline = checkpoint.family, checkpoint.text_to_image
    rows = [family.encode_instruction(pipeline, PROMPTS[0], "dark", 4.0, each) for each in references]
    handle.remove()
    assert rows[0]["prompt_embeds"].shape == rows[1]["prompt_embeds"].shape
    for part in ("prompt_embeds", "negative_prompt_embeds"):
        assert not torch.equal(rows[0][part], rows[1][part])
    # Four merged patches in a square end two places after they begin; in a row, four.
    tokens = seen[0].shape[-2]
    ids = pipeline.tokenizer(pipeline.prompt_template_encode.format(family.PREFIX + PROMPTS[0])).input_ids
    assert tokens == len(ids) + 3
    assert pipeline.tokenizer.convert_tokens_to_ids(VISION[2]) in ids
    angles = torch.arange(tokens - 2)[None] * torch.ones(3, 1, 1)
    rotary = checkpoint.text_encoders[0].model.language_model.rotary_emb
    assert torch.allclose(seen[0][..., -1, :], rotary(seen[0], angles[:, :, -1:])[0][..., 0, :], atol=1e-5)


@pytest.mark.parametrize("name", EDITING)
def test_an_instruction_that_an_encoder_would_cut_is_refused(opened, folders, name, tmp_path, capsys):
    limits = {limit for _, limit in opened(name).count_tokens("a bird")}
    assert limits == {"flux-kontext": {77, 512}, "flux2-klein": {512}}.get(name, {1019})
    long = "put the {class}" + " far away" * 600 + " {background}"
    assert main(["build", *recipe(folders[name], prompt=long), "--out", str(tmp_path / "out")]) != 0
    errors = capsys.readouterr().err
    assert any(f"reads {limit};" in errors for limit in limits)
    assert not (tmp_path / "out" / "data").exists()


@pytest.mark.parametrize("name", EDITING)
def test_an_edge_that_packs_no_whole_patches_is_refused(folders, name, capsys):
    assert main(["plan", *recipe(folders[name], size=24)]) == 2
    assert "size: 24 is not a multiple of 16" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "entry"), [
    ("flux-kontext", "in_channels"), ("flux2-klein", "in_channels"), ("flux2-klein", "joint_attention_dim"),
    ("qwen-image-edit", "joint_attention_dim"), ("qwen-image-edit-plus", "guidance_embeds"),
])  # fmt: skip
def test_parts_that_disagree_are_named(folders, tmp_path, name, entry, capsys):
    folder = shutil.copytree(folders[name], tmp_path / "changed")
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), entry: 80}))
    assert main(["plan", *recipe(folder)]) == 2
    assert entry in capsys.readouterr().err


@pytest.mark.parametrize("name", EDITING)
@pytest.mark.parametrize("guide", ["photograph", "paste"])
def test_a_build_says_that_its_images_are_edited(folders, name, guide, tmp_path, capsys):
    out = tmp_path / "out"
    settings = recipe(folders[name], guide=guide, keep="[guide]", limit=2)
    assert main(["build", *settings, "--out", str(out)]) == 0, capsys.readouterr().err
    assert main(["check", str(out)]) == 0
    row = pq.read_table(next((out / "data").glob("*.parquet"))).to_pylist()[0]
    provenance = json.loads(row["provenance"])
    assert (provenance["family"], provenance["route"], provenance["guide"]["kind"]) == (name, "edit", guide)
    assert (provenance["scheduler"], provenance["steps"]) == ("own", 2)
    assert not {"strength", "noise", "noise_at_start", "steps_run"} & set(provenance)
    assert row["guide"]["bytes"]
    identity = json.loads((out / "_figureground" / "recipe.json").read_text())["identity"]
    assert identity["edit"] is True
    assert not {"strength", "noise"} & set(identity)
    card = (out / "README.md").read_text()
    assert "an instruction" in card
    assert "instructpix2pix" in card
    assert "sdedit" not in card.lower()
    again = ["build", "d3s", "--recipe", str(out / "_figureground" / "recipe.json"), "--out", str(tmp_path / "again")]
    assert main(again) == 0, capsys.readouterr().err
    first, second = (sorted((each / "data").glob("*")) for each in (out, tmp_path / "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_build_by_two_workers_that_is_killed_ends_with_the_bytes_of_an_undisturbed_one(folders, tmp_path):
    settings = recipe(folders["flux-kontext"], per_cell="{train: 5}", num_inference_steps=8)
    whole, killed = build_whole_and_killed(settings, tmp_path)
    code, _, err = run("build", *settings, "--set", "workers=2", "--out", str(killed))
    assert code == 0, err
    assert hashes(killed) == hashes(whole)


@pytest.mark.parametrize("made", [
    lambda folder: edit(folder), lambda folder: D3S("pocket", noise=0.5), lambda folder: D3S("pocket", strength=0.5),
    lambda folder: D3S("pocket"), lambda folder: edit(folder, edit=False, strength=0.5),
])  # fmt: skip
def test_a_worker_makes_the_same_method(folders, made):
    method = made(folders["flux-kontext"])
    again = Job.from_method(method).open()
    assert (again.identity(), again.route) == (method.identity(), method.route)


def test_a_photograph_is_put_on_another_background_than_it_shows_if_there_is_one(tmp_path):
    method = edit(WEIGHTS, per_cell={"train": 30})
    found = {(s.background_name, s.guide.cutout.split("/")[1]) for s in method.plan().specs(method.plan().shards()[0])}
    assert all(background != scene for background, scene in found)
    assert len({scene for _, scene in found}) > 5
    only = tmp_path / "photographs"
    for name in ("bird", "car"):
        shutil.copytree(find_resource("templates/pocket/photographs") / name / "grass", only / name / "grass")
    method = edit(WEIGHTS, photographs=str(only))
    specs = list(method.plan().specs(method.plan().shards()[0]))
    assert {s.guide.cutout.split("/")[1] for s in specs} == {"grass"}
    flat = tmp_path / "flat"
    for name in ("bird", "car"):
        shutil.copytree(only / name / "grass", flat / name)
    method = edit(WEIGHTS, photographs=str(flat), classes="folders")
    specs = list(method.plan().specs(method.plan().shards()[0]))
    assert {(s.foreground_name, s.background_name) for s in specs} == {
        (name, ground) for name in ("bird", "car") for ground in ("grass", "snow")
    }


def test_matched_images_edit_the_same_photograph(tmp_path):
    method = edit(WEIGHTS, match="foreground")
    by_foreground = {}
    for spec in method.plan().specs(method.plan().shards()[0]):
        by_foreground.setdefault((spec.foreground, spec.key[-5:]), set()).add((spec.guide.cutout, spec.seed))
    assert all(len(found) == 1 for found in by_foreground.values())


@pytest.mark.parametrize(("settings", "field"), [
    ({"classes": {"bird": None, "unicorn": None}}, "photographs"), ({"photographs": "nowhere"}, "photographs"),
])  # fmt: skip
def test_what_cannot_be_edited_is_named(settings, field):
    with pytest.raises(RecipeError) as refused:
        edit(WEIGHTS, **settings)
    assert refused.value.field == field


def test_the_shipped_config_needs_photographs_and_a_checkpoint_and_names_both(capsys):
    assert main(["plan", "d3s", "--config", "edit", "--set", "classes=[tench]"]) == 0
    output = "".join(capsys.readouterr())
    assert "photographs" in output
    assert "FLUX.2-klein-4B" in output


def test_an_error_about_pocket_names_families_that_edit():
    with pytest.raises(UsageError, match="flux2-klein"):
        plan(edit("pocket"))
