"""A checkpoint in one safetensors file opens with a directory that configures it; others are refused by its header."""

import json
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from tiny_checkpoints import make_checkpoint
from tiny_single_files import make_sd3_file, make_single_file
from tiny_transformers import make_transformer

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.models.families.flux import Flux
from figureground.models.single_file import refuse_training
from figureground.models.weights import check_files, find_family, fingerprint, local_directory

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
KINDS = ("sd1", "sdxl", "sd3")
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By kind, a checkpoint's directory and the same as a single file."""
    found = {}
    for kind in KINDS:
        out = tmp_path_factory.mktemp(kind)
        folder = make_transformer(kind, out) if kind == "sd3" else make_checkpoint(kind, out)
        write = make_sd3_file if kind == "sd3" else make_single_file
        found[kind] = folder, write(folder, out / f"{kind}.safetensors")
    return found


@pytest.fixture
def mine(made, tmp_path):
    """A copy of a single file of Stable Diffusion 1, and of the files that configure it, without weights."""
    folder, file = made["sd1"]
    config = tmp_path / "config"
    shutil.copytree(folder, config, ignore=shutil.ignore_patterns("*.safetensors"))
    return config, shutil.copy(file, tmp_path / "mine.safetensors")


def rewrite(file, drop=(), **add):
    kept = {name: weight for name, weight in load_file(file).items() if not name.startswith(tuple(drop) or ("\0",))}
    save_file({**kept, **add}, file)


@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_with_the_weights_of_the_directory_it_was_made_from(made, kind):
    folder, file = made[kind]
    whole, single = open_checkpoint(str(folder), **CPU), open_checkpoint(str(file), config=str(folder), **CPU)
    for part in whole.family.networks:
        expected, found = (getattr(each.text_to_image, part).state_dict() for each in (whole, single))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), part
    assert single.facts["checkpoint"] == f"{kind}.safetensors"
    assert single.facts["family"] == whole.family.NAME == find_family(str(file), None, str(folder)).NAME


def test_files_that_configure_it_need_no_weights_and_it_opens_in_half_precision(mine):
    config, file = mine
    opened = open_checkpoint(str(file), config=str(config), device=CPU["device"], dtype="bfloat16").text_to_image
    assert {opened.unet.dtype, opened.vae.dtype, opened.text_encoder.dtype} == {torch.bfloat16}


def test_without_a_configuration_the_error_says_what_to_give_and_nothing_is_fetched(mine):
    code = (
        "import sys\nfrom figureground.models.weights import local_directory\n"
        "try: local_directory(sys.argv[1])\nexcept Exception as error: print(error)\n"
        "print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(mine[1])], capture_output=True, text=True, check=True)
    assert "--set checkpoint_config=DIR" in done.stdout
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_the_configuration_is_found_in_the_cache(mine, tmp_path, monkeypatch):
    config, file = mine
    repo = tmp_path / "hub" / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("1" * 40)
    shutil.copytree(config, repo / "snapshots" / ("1" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert local_directory(str(file)) == repo / "snapshots" / ("1" * 40)


def test_a_part_that_neither_has_is_refused_and_one_of_the_directory_is_taken(mine, made):
    config, file = mine
    rewrite(file, drop=["first_stage_model."])
    with pytest.raises(FiguregroundError, match=r"mine\.safetensors' holds no vae, and neither does .*'config'"):
        check_files(config, str(file))
    shutil.copytree(made["sd1"][0] / "vae", config / "vae", dirs_exist_ok=True)
    assert open_checkpoint(str(file), config=str(config), **CPU).family.NAME == "sd"


def without(*names):
    return lambda config, file: rewrite(file, drop=names)


def edited(part, **entries):
    def edit(config, file):
        path = config / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return edit


BEFORE = {
    "a configuration of other channels": (edited("unet", in_channels=9), "unet has in_channels 4, .* with 9"),
    "one of another text encoder": (edited("unet", cross_attention_dim=768), "cross_attention_dim 32, .* with 768"),
    "another autoencoder": (edited("vae", latent_channels=16), "vae has latent_channels 4, .* with 16"),
    "one that predicts noise for a file that predicts v": (
        lambda config, file: rewrite(file, v_pred=torch.zeros(1)), "predicts v .*prediction_type v_prediction",
    ),
    "quantized weights": (
        lambda config, file: rewrite(file, **{f"{UNET}out.0.scale_weight": torch.ones(1)}), "quantized .*out.0.scale",
    ),
    "a file cut short": (lambda config, file: cut(file), "has [0-9,]+ of [0-9,]+ bytes"),
    "a LoRA": (
        lambda config, file: save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, file),
        r"lora_unet_x.* isn't a single-file checkpoint of the families sd, .*flux.* LoRA files go into loras",
    ),
}  # fmt: skip


def cut(file):
    with open(file, "r+b") as opened:
        opened.truncate(1000)
        opened.seek(0)
        opened.write((900).to_bytes(8, "little"))
        opened.write(
            json.dumps({"a": {"dtype": "F32", "shape": [9000], "data_offsets": [0, 36000]}}).ljust(900).encode()
        )


@pytest.mark.parametrize("kind", BEFORE)
def test_what_does_not_fit_is_refused_by_the_header(mine, kind):
    config, file = mine
    BEFORE[kind][0](config, file)
    with pytest.raises(FiguregroundError, match=BEFORE[kind][1]) as refused:
        check_files(config, str(file))
    assert "mine.safetensors" in str(refused.value)


INSIDE = {
    "a weight of the denoiser missing": (without(f"{UNET}middle_block.0.in_layers.0.weight"), "unet lack mid_block"),
    "a weight of the autoencoder missing": (without("first_stage_model.decoder.conv_out.bias"), "vae lack decoder"),
    "a block that the configuration lacks": (
        lambda config, file: rewrite(file, **{f"{UNET}middle_block.1.transformer_blocks.7.x.weight": torch.ones(1)}),
        "unet has 1 weights that the configuration .* no place for, .*transformer_blocks.7",
    ),
    "a weight of another shape": (
        lambda config, file: rewrite(file, **{f"{UNET}out.2.bias": torch.ones(7)}), "unet doesn't fit .*conv_out.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", INSIDE)
def test_weights_that_lack_or_do_not_fit_are_named_when_it_is_opened(mine, kind):
    config, file = mine
    INSIDE[kind][0](config, file)
    check_files(config, str(file))
    with pytest.raises(FiguregroundError, match=INSIDE[kind][1]):
        open_checkpoint(str(file), config=str(config), **CPU)


def test_a_pickle_another_family_and_a_directory_with_a_configuration_are_refused(made, mine, tmp_path):
    config, file = mine
    pickle = tmp_path / "mine.ckpt"
    pickle.write_bytes(b"x")
    with pytest.raises(FiguregroundError, match=r"mine\.ckpt.*can run code"):
        local_directory(str(pickle))
    with pytest.raises(FiguregroundError, match=r"sd3\.safetensors.*family sd3, but .*'config' .* sd\."):
        check_files(config, str(made["sd3"][1]))
    with pytest.raises(RecipeError) as refused:
        local_directory(str(made["sd1"][0]), str(config))
    assert refused.value.field == "checkpoint_config"
    with pytest.raises(RecipeError) as refused:
        local_directory(str(file), str(tmp_path))
    assert refused.value.field == "checkpoint_config"
    with pytest.raises(FiguregroundError, match=r"mine\.safetensors.* training needs a directory"):
        refuse_training(str(file))


def test_the_fingerprint_follows_the_content_of_the_file_and_of_its_configuration(mine, tmp_path):
    config, file = mine
    first = fingerprint(str(file), None, str(config))
    moved = shutil.move(file, tmp_path / "moved.safetensors")
    assert first.startswith("sha256:")
    assert fingerprint(moved, None, str(config)) == first
    (config / "unet" / "other.safetensors").write_bytes(b"the file has this part itself")
    assert fingerprint(moved, None, str(config)) == first
    edited("scheduler", beta_end=0.5)(config, moved)
    second = fingerprint(moved, None, str(config))
    rewrite(moved, **{f"{UNET}out.2.bias": torch.ones(4)})
    assert len({first, second, fingerprint(moved, None, str(config))}) == 3


def test_plan_and_build_take_it_and_a_recipes_relative_paths_follow_the_recipe(mine, tmp_path, capsys, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "builder: d3s\ncheckpoint: mine.safetensors\ncheckpoint_config: config\nclasses: [bird]\nbackgrounds: [snow]\n"
        "per_cell: {train: 1}\nsize: 32\nnum_inference_steps: 2\ndevice: cpu\n"
    )
    monkeypatch.chdir(tmp_path.parent)
    assert main(["plan", "--recipe", str(recipe)]) == 0, capsys.readouterr().err
    assert "To build it" not in capsys.readouterr().out
    assert main(["build", "--recipe", str(recipe), "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    row = pq.read_table(next((tmp_path / "out" / "data").glob("*.parquet"))).to_pylist()[0]
    assert json.loads(row["provenance"])["checkpoint"] == "mine.safetensors"
    saved = json.loads((tmp_path / "out" / "_figureground" / "recipe.json").read_text())
    assert saved["content"]["checkpoint"] == fingerprint(str(tmp_path / "mine.safetensors"), None, str(mine[0]))


def test_flux_transformers_are_converted_whole():
    """Their width is fixed in diffusers' conversion, so this one has two blocks, and shapes without values."""
    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    expected = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    width, wide = 3072, 12288
    linear = {
        "time_in.in_layer": (width, 256), "time_in.out_layer": (width, width), "vector_in.in_layer": (width, 768),
        "vector_in.out_layer": (width, width), "guidance_in.in_layer": (width, 256),
        "guidance_in.out_layer": (width, width), "txt_in": (width, 4096), "img_in": (width, 64),
        "single_blocks.0.modulation.lin": (3 * width, width), "single_blocks.0.linear1": (3 * width + wide, width),
        "single_blocks.0.linear2": (width, width + wide), "final_layer.linear": (64, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        **{f"double_blocks.0.{x}_mod.lin": (6 * width, width) for x in ("img", "txt")},
        **{f"double_blocks.0.{x}_attn.qkv": (3 * width, width) for x in ("img", "txt")},
        **{f"double_blocks.0.{x}_attn.proj": (width, width) for x in ("img", "txt")},
        **{f"double_blocks.0.{x}_mlp.0": (wide, width) for x in ("img", "txt")},
        **{f"double_blocks.0.{x}_mlp.2": (width, wide) for x in ("img", "txt")},
    }  # fmt: skip
    norms = ["single_blocks.0.norm", "double_blocks.0.img_attn.norm", "double_blocks.0.txt_attn.norm"]
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{norm}.{each}_norm.scale": (128,) for norm in norms for each in ("query", "key")}
    tensors = {f"model.diffusion_model.{name}": torch.empty(s, device="meta") for name, s in shapes.items()}
    found = Flux().convert_part("transformer", tensors, {}, network)
    assert {name: tuple(weight.shape) for name, weight in found.items()} == expected
    more = {**tensors, "model.diffusion_model.double_blocks.0.more": torch.empty(1, device="meta")}
    assert "double_blocks.0.more" in Flux().convert_part("transformer", more, {}, network)
