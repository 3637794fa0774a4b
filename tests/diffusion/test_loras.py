"""LoRA files are merged into a checkpoint's weights; one for another model is refused by its header."""

import json
import sys

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_checkpoints import make_checkpoint
from tiny_transformers import make_transformer

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.methods.d3s import D3S
from figureground.models.loras import Lora, check_loras, describe_model, select_active

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
PIPELINES = {"sd1": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline, "flux": FluxPipeline}
SETTINGS = {"classes": "[bird]", "backgrounds": "[snow]", "size": 32, "num_inference_steps": 2, "device": "cpu"}
RANK = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By kind, a checkpoint and a LoRA for its denoiser and its first text encoder, as diffusers saves them."""
    found = {}
    for kind, pipeline in PIPELINES.items():
        out = tmp_path_factory.mktemp(kind)
        folder = make_transformer(kind, out) if kind == "flux" else make_checkpoint(kind, out)
        opened = pipeline.from_pretrained(folder)
        part = "transformer" if kind == "flux" else "unet"
        layers = {
            part: train(getattr(opened, part), "to_q", "to_k"),
            "text_encoder": train(opened.text_encoder, "q_proj", "k_proj", "v_proj", "out_proj"),
        }
        pipeline.save_lora_weights(
            out, weight_name=f"{kind}.safetensors", **{f"{name}_lora_layers": state for name, state in layers.items()}
        )
        found[kind] = folder, out / f"{kind}.safetensors"
    return found


def train(network, *layers):
    """The weights of a LoRA with random values."""
    torch.manual_seed(1)
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(layers), init_lora_weights=False))
    return get_peft_model_state_dict(network)


def weights(opened):
    return {
        f"{part}.{name}": weight
        for part in opened.family.networks
        for name, weight in getattr(opened.text_to_image, part).state_dict().items()
    }


def product(lora, name):
    """The change of a layer's weights by a LoRA at scale 1."""
    layer = name.removesuffix(".weight")
    return lora[f"{layer}.lora_B.weight"] @ lora[f"{layer}.lora_A.weight"]


@pytest.mark.parametrize("kind", PIPELINES)
def test_its_product_is_added_to_the_weights_and_no_layer_is_left(made, kind):
    folder, path = made[kind]
    plain = weights(open_checkpoint(str(folder), **CPU))
    opened = open_checkpoint(str(folder), loras=[Lora(path, 0.5)], **CPU)
    merged, lora = weights(opened), load_file(path)
    assert merged.keys() == plain.keys()
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert changed == {name.replace("lora_A.", "") for name in lora if "lora_A" in name}
    for name in changed:
        torch.testing.assert_close(merged[name], plain[name] + 0.5 * product(lora, name), atol=1e-6, rtol=1e-5)
    assert opened.facts["loras"][0] | {"content": ""} == {"name": path.name, "content": "", "scale": 0.5}


def kohya(lora, alpha=None):
    """A LoRA of Stable Diffusion in the naming of kohya's scripts."""
    found = {}
    for name, weight in lora.items():
        layer, _, side = name.removesuffix(".weight").rpartition(".")
        part, _, inside = layer.partition(".")
        before = "lora_unet_" if part == "unet" else "lora_te_text_model_"
        spelled = before + inside.removeprefix("text_model.").replace(".", "_")
        found[f"{spelled}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = weight
        found[f"{spelled}.alpha"] = torch.tensor(float(alpha or RANK))
    return found


def test_kohyas_naming_with_its_alpha_and_several_at_once_add_up(made, tmp_path):
    folder, path = made["sd1"]
    lora = load_file(path)
    save_file(kohya(lora, alpha=RANK / 2), tmp_path / "kohya.safetensors")
    both = [Lora(path, 1.0), Lora(tmp_path / "kohya.safetensors", 2.0)]
    plain = weights(open_checkpoint(str(folder), **CPU))
    merged = weights(open_checkpoint(str(folder), loras=both, **CPU))
    for name in {name.replace("lora_A.", "") for name in lora if "lora_A" in name}:
        added = product(lora, name) * (1 + 2 * 0.5)
        torch.testing.assert_close(merged[name], plain[name] + added, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "mine", "named"),
    [
        ("sdxl", "sd1", r"sdxl\.safetensors' is for a UNet that takes text of width 64, .*sd1.* sd: .*32"),
        ("flux", "sd1", r"flux\.safetensors' is for FLUX, and doesn't fit .*sd1"),
        ("sd1", "flux", r"sd1\.safetensors' is for a UNet that takes text of width 32, and doesn't fit .* flux"),
    ],
)  # fmt: skip
def test_one_for_another_model_is_refused_by_its_header(made, theirs, mine, named):
    with pytest.raises(FiguregroundError, match=named):
        check_loras([Lora(made[theirs][1])], made[mine][0], str(made[mine][0]), None)


@pytest.mark.parametrize("name", ["kohya", "diffusers", "an older diffusers"])
def test_the_family_follows_from_the_width_of_the_text(name):
    layer = {
        "kohya": "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down",
        "diffusers": "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A",
        "an older diffusers": "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down",
    }[name]
    for width, model in {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}.items():
        assert describe_model({f"{layer}.weight": (4, width)}) == model


REFUSED = {
    "a pickle": ("a.pt", {"x": torch.ones(1)}, r"a\.pt.* can run code"),
    "a LoHa": ("a.safetensors", {"lora_unet_x.hada_w1_a": torch.ones(1)}, r"a\.safetensors' is a LoHa"),
    "a DoRA": ("a.safetensors", {"unet.x.dora_scale": torch.ones(1)}, r"a\.safetensors' is a DoRA"),
    "a checkpoint": ("a.safetensors", {"unet.conv_in.weight": torch.ones(1, 1)}, r"a\.safetensors' holds no LoRA"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_refused_by_name(made, tmp_path, kind):
    name, tensors, named = REFUSED[kind]
    save_file(tensors, tmp_path / name)
    with pytest.raises(FiguregroundError, match=named):
        check_loras([Lora(tmp_path / name)], made["sd1"][0], "sd1", None)


def test_layers_without_a_place_are_counted_and_one_of_which_none_has_a_place_is_refused(made, tmp_path, capsys):
    folder, path = made["sd1"]
    lora = load_file(path)
    stray = "unet.down_blocks.7.attentions.0.transformer_blocks.0.attn1.to_q"
    more = {f"{stray}.lora_A.weight": torch.ones(RANK, 32), f"{stray}.lora_B.weight": torch.ones(32, RANK)}
    save_file({**lora, **more}, tmp_path / "more.safetensors")
    open_checkpoint(str(folder), loras=[Lora(tmp_path / "more.safetensors")], **CPU)
    assert f"1 of the {len(lora) // 2 + 1} layers of 'more.safetensors' aren't" in capsys.readouterr().err
    save_file(more, tmp_path / "none.safetensors")
    with pytest.raises(FiguregroundError, match=r"none\.safetensors.* none of its 1 layers"):
        open_checkpoint(str(folder), loras=[Lora(tmp_path / "none.safetensors")], **CPU)


def test_a_recipe_is_identified_by_content_and_scale_and_scale_0_is_none(made, tmp_path):
    folder, path = made["sd1"]
    (tmp_path / "other.safetensors").write_bytes(path.read_bytes())

    def identity(*loras):
        return D3S("pocket", checkpoint=str(folder), size=32, loras=list(loras)).identity()

    plain, mine = identity(), identity({"path": str(path), "scale": 0.5})
    assert "loras" not in plain
    assert identity({"path": str(path), "scale": 0.0}) == plain
    assert identity({"path": str(tmp_path / "other.safetensors"), "scale": 0.5}) == mine
    assert identity({"path": str(path)})["loras"] == [{**mine["loras"][0], "scale": 1.0}]
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    assert identity({"path": str(tmp_path / "other.safetensors"), "scale": 0.5}) != mine
    assert select_active([{"path": "a", "scale": 0}]) == []


@pytest.mark.parametrize("entry", [{"file": "a"}, {"scale": 1.0}, {"path": " "}, {"path": "a", "scale": "much"}])
def test_an_entry_without_a_path_or_with_another_key_is_refused(entry):
    with pytest.raises(RecipeError) as refused:
        D3S("pocket", loras=[entry])
    assert refused.value.field.startswith("loras")


def test_a_build_takes_relative_paths_from_the_recipe_and_can_be_repeated_from_its_own(
    made, tmp_path, monkeypatch, capsys
):
    folder, path = made["sd1"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.safetensors").write_bytes(path.read_bytes())
    lines = [f"{name}: {value}" for name, value in {**SETTINGS, "checkpoint": folder, "per_cell": "{train: 1}"}.items()]
    lora = "loras:\n- path: mine.safetensors\n  scale: 1\n"
    (tmp_path / "deep" / "recipe.yaml").write_text("\n".join(["builder: d3s", *lines, lora]))
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--recipe", "deep/recipe.yaml", "--out", "out"]) == 0, capsys.readouterr().err
    saved = tmp_path / "out" / "_figureground" / "recipe.json"
    assert json.loads(saved.read_text())["identity"]["loras"] == [{"path": "../../deep/mine.safetensors", "scale": 1}]
    assert main(["build", "--recipe", str(saved), "--out", "again"]) == 0, capsys.readouterr().err
    first, second = (
        json.loads((tmp_path / out / "_figureground" / "recipe.json").read_text()) for out in ("out", "again")
    )
    assert first["sha256"] == second["sha256"]
    assert main(["check", "out"]) == 0


def test_plan_refuses_what_a_build_would_and_a_method_that_trains_the_checkpoint_takes_none(made, tmp_path, capsys):
    def plan(method, kind, file):
        given = {**SETTINGS, "checkpoint": made[kind][0], "loras": f"[{{path: {file}}}]"}
        given = given if method == "d3s" else {n: v for n, v in given.items() if n != "backgrounds"}
        code = main(["plan", method, *(f"--set={name}={value}" for name, value in given.items())])
        return code, capsys.readouterr().err

    assert plan("d3s", "sd1", made["sd1"][1])[0] == 0
    code, errors = plan("d3s", "sd1", made["sdxl"][1])
    assert (code, "sdxl.safetensors" in errors) == (2, True)
    code, errors = plan("d3s", "sd1", tmp_path / "none.safetensors")
    assert (code, "none.safetensors" in errors) == (2, True)
    code, errors = plan("spurious", "sd1", made["sd1"][1])
    assert (code, "loras: " in errors) == (2, True)


def test_without_peft_plan_and_build_say_how_to_install_it(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it weren't installed
    given = {**SETTINGS, "checkpoint": made["sd1"][0], "loras": f"[{{path: {made['sd1'][1]}}}]"}
    settings = [f"--set={name}={value}" for name, value in given.items()]
    assert main(["plan", "d3s", *settings]) == 0
    assert "pip install 'figureground[lora]'" in capsys.readouterr().out
    assert main(["build", "d3s", *settings, "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'figureground[lora]'" in capsys.readouterr().err
