"""Checkpoints of the supported kinds open; others are refused, saying why."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_checkpoints import KINDS, make_checkpoint, set_class, set_weights

from figureground.cli.main import main
from figureground.core.accelerator import choose_device
from figureground.core.errors import FiguregroundError
from figureground.diffusion.checkpoint import SCHEDULERS, open_checkpoint
from figureground.models.opening import download_pipeline
from figureground.models.weights import check_files, fingerprint

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture
def sd1(tmp_path):
    return make_checkpoint("sd1", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_supported_kind_opens_with_its_noise_schedule(tmp_path, kind):
    opened = open_checkpoint(str(make_checkpoint(kind, tmp_path)), **CPU)
    assert opened.facts["family"] == ("sdxl" if kind == "sdxl" else "sd")
    assert opened.facts["prediction_type"] == ("v_prediction" if kind == "sd2" else "epsilon")
    assert opened.image_to_image.scheduler.config.prediction_type == opened.facts["prediction_type"]
    assert opened.factor == 4
    assert len(opened.tokenizers) == (2 if kind == "sdxl" else 1)
    assert opened.image_to_image.unet is opened.text_to_image.unet
    assert opened.inpaint is None


def test_a_checkpoint_stored_in_half_precision_opens_in_the_dtype_asked_for(sd1):
    opened = open_checkpoint(str(sd1), **CPU)
    opened.text_to_image.to(torch.float16).save_pretrained(sd1)
    again = open_checkpoint(str(sd1), **CPU).text_to_image
    assert {again.unet.dtype, again.vae.dtype, again.text_encoder.dtype} == {torch.float32}


def test_the_fp16_variant_is_found(sd1):
    open_checkpoint(str(sd1), **CPU).text_to_image.save_pretrained(sd1.parent / "half", variant="fp16")
    assert open_checkpoint(str(sd1.parent / "half"), **CPU).facts["family"] == "sd"


def test_a_hub_id_of_which_the_cache_has_the_fp16_variant_alone_opens_offline(sd1, tmp_path, monkeypatch):
    repo = tmp_path / "hub" / "models--user--half"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("1" * 40)
    snapshot = repo / "snapshots" / ("1" * 40)
    open_checkpoint(str(sd1), **CPU).text_to_image.save_pretrained(snapshot, variant="fp16")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    opened = open_checkpoint("user/half", **CPU)
    assert opened.facts["checkpoint"] == "user/half"
    assert opened.facts["revision"] == "1" * 40


@pytest.mark.parametrize("there", ["fp16", "bf16"])
def test_a_repository_without_plain_weights_is_downloaded_in_the_variant_that_it_has(there, tmp_path, monkeypatch):
    """The library's function, offline, as it answers for such a repository."""

    def download(name, variant=None, **options):
        if variant is None:
            raise OSError("Could not find the necessary `safetensors` weights in set() (variant=None)")
        if variant != there:
            raise ValueError(f"no such modeling files: {variant}")
        return str(tmp_path)

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    assert download_pipeline("user/half", None) == tmp_path


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc"])
def test_every_scheduler_by_name_keeps_the_checkpoints_betas(sd1, name):
    scheduler = open_checkpoint(str(sd1), scheduler=name, **CPU).text_to_image.scheduler
    assert type(scheduler) is SCHEDULERS[name]
    assert scheduler.config.beta_schedule == "scaled_linear"


def test_provenance_says_no_path(sd1):
    facts = json.dumps(open_checkpoint(str(sd1), **CPU).facts)
    assert str(sd1.parent) not in facts
    assert '"checkpoint": "sd1"' in facts


def test_the_fingerprint_follows_the_content_and_not_the_place(sd1, tmp_path):
    first = fingerprint(str(sd1), None)
    moved = sd1.rename(tmp_path / "moved")
    assert fingerprint(str(moved), None) == first
    set_class(moved, "StableDiffusionImg2ImgPipeline")
    assert fingerprint(str(moved), None) != first
    assert fingerprint("user/name", "v2") == "user/name@v2"


def test_unsupported_kinds_are_refused_by_name(sd1):
    set_class(sd1, "KolorsPipeline")
    with pytest.raises(FiguregroundError, match="is a KolorsPipeline; supported are"):
        open_checkpoint(str(sd1), **CPU)


def test_a_pickle_is_never_opened_and_the_error_says_how_to_convert_it(sd1):
    weights = next((sd1 / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FiguregroundError, match=r"unet .* pickle .*use_safetensors=False"):
        open_checkpoint(str(sd1), **CPU)


def test_incomplete_damaged_and_absent_checkpoints_say_what_is_missing(sd1, tmp_path):
    next((sd1 / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(FiguregroundError, match=r"incomplete: vae/ has no \.safetensors"):
        open_checkpoint(str(sd1), **CPU)
    (sd1 / "model_index.json").write_text("{")
    with pytest.raises(FiguregroundError, match=r"model_index\.json doesn't parse"):
        open_checkpoint(str(sd1), **CPU)
    (sd1 / "model_index.json").unlink()
    with pytest.raises(FiguregroundError, match=r"it has no model_index\.json"):
        open_checkpoint(str(sd1), **CPU)
    with pytest.raises(FiguregroundError, match=r"no such directory: '\./nowhere'"):
        open_checkpoint("./nowhere", **CPU)
    one = tmp_path / "model.safetensors"
    one.write_bytes(b"x")
    with pytest.raises(FiguregroundError, match=r"'model\.safetensors' is damaged"):
        open_checkpoint(str(one), **CPU)


def test_truncated_weights_are_an_error_and_not_a_traceback(sd1):
    weights = next((sd1 / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FiguregroundError, match=r"its unet/.*safetensors is damaged .*\(1,000 bytes\)"):
        open_checkpoint(str(sd1), **CPU)


def test_offline_a_hub_id_says_what_to_do():
    with pytest.raises(FiguregroundError, match="not in this machine's cache and the Hub can't be reached"):
        open_checkpoint("nobody/nothing", **CPU)


def test_a_checkpoint_made_for_inpainting_is_refused_where_nothing_is_repainted(tmp_path):
    folder = make_checkpoint("sd1", tmp_path, inpaint=True)
    with pytest.raises(FiguregroundError, match="is a StableDiffusionInpaintPipeline; supported are"):
        open_checkpoint(str(folder), **CPU)
    set_class(folder, "StableDiffusionPipeline")
    with pytest.raises(FiguregroundError, match=r"takes 9 channels, .* have 4. An inpainting checkpoint can't"):
        open_checkpoint(str(folder), **CPU)
    assert open_checkpoint(str(folder), inpaint=True, **CPU).needs_mask


@pytest.mark.parametrize("made_for_it", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_supported_kind_opens_for_inpainting_with_weights_shared(tmp_path, kind, made_for_it):
    opened = open_checkpoint(str(make_checkpoint(kind, tmp_path, made_for_it)), inpaint=True, **CPU)
    assert opened.facts["family"] == ("sdxl" if kind == "sdxl" else "sd")
    assert opened.needs_mask == made_for_it
    for part in ("unet", "vae", "text_encoder", "scheduler"):
        assert getattr(opened.inpaint, part) is getattr(opened.text_to_image, part)


def test_a_unet_of_other_channels_is_refused_for_inpainting_too(sd1):
    config = sd1 / "unet" / "config.json"
    UNet2DConditionModel.from_config({**json.loads(config.read_text()), "in_channels": 5}).save_pretrained(sd1 / "unet")
    with pytest.raises(FiguregroundError, match=r"takes 5 channels, but its VAE's latents have 4 .9 for inpainting"):
        open_checkpoint(str(sd1), inpaint=True, **CPU)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(FiguregroundError, match="'gpu' is unknown"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(FiguregroundError, match="torch sees 0 CUDA devices"):
            choose_device("cuda")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_a_file_lacks_are_not_filled_with_noise(sd1, part):
    path = next((sd1 / part).glob("*.safetensors"))
    weights = load_file(path)
    lost = sorted(weights)[3]
    save_file({name: w for name, w in weights.items() if name != lost}, path, {"format": "pt"})
    with pytest.raises(FiguregroundError, match=f"incomplete: the weights of {part} lack {lost}"):
        open_checkpoint(str(sd1), **CPU)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_no_numbers_are_refused_naming_the_part(sd1, part):
    path = next((sd1 / part).glob("*.safetensors"))
    weights = load_file(path)
    weights[sorted(weights)[2]].view(-1)[0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(FiguregroundError, match=f"the weights of {part} hold NaN or infinity in float32"):
        open_checkpoint(str(sd1), **CPU)


def test_weights_that_overflow_in_half_precision_say_which_dtype_to_try(sd1):
    set_weights(sd1, "unet", 1e6)
    with pytest.raises(FiguregroundError, match=r"unet hold .* float16, .*: try --set dtype=float32"):
        open_checkpoint(str(sd1), device=torch.device("cpu"), dtype=torch.float16)


def cut(path, left=-1):
    path.write_bytes(path.read_bytes()[:left])


def forget(sd1, part):
    index = sd1 / "model_index.json"
    index.write_text(json.dumps({k: v for k, v in json.loads(index.read_text()).items() if k != part}))


UNET = "unet/diffusion_pytorch_model.safetensors"
DAMAGE = {
    "weights cut by a byte": (lambda d: cut(d / UNET), r"its unet/.* has [\d,]+ of [\d,]+ bytes\. Download it again"),
    "weights of nothing": (lambda d: cut(d / UNET, 0), r"unet/.* is damaged .*\(0 bytes\)"),
    "a pointer of git": (
        lambda d: (d / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "its unet/.* is a Git LFS pointer instead of the weights: run `git lfs pull`",
    ),
    "a web page": (lambda d: (d / UNET).write_text("<html>404</html>" * 10), "unet/.* is damaged"),
    "no part": (lambda d: shutil.rmtree(d / "vae"), r"incomplete: vae/ has no \.safetensors"),
    "no config": (lambda d: (d / "vae/config.json").unlink(), r"incomplete: it has no vae/config\.json"),
    "a config cut short": (lambda d: cut(d / "vae/config.json", 30), r"vae/config\.json doesn't parse \(line \d\)"),
    "a config of another kind": (lambda d: (d / "unet/config.json").write_text("[]"), "unet/config.json is not"),
    "a config that is no text": (lambda d: (d / "unet/config.json").write_bytes(b"\xff\xfe"), "config.json is not"),
    "no tokenizer": (lambda d: shutil.rmtree(d / "tokenizer"), "incomplete: tokenizer/ has no vocabulary"),
    "no scheduler": (lambda d: shutil.rmtree(d / "scheduler"), "no scheduler/scheduler_config.json"),
    "a part that is not named": (lambda d: forget(d, "text_encoder"), "model_index.json names no text_encoder"),
    "a shard of the weights missing": (
        lambda d: (d / "unet/x.safetensors.index.json").write_text('{"weight_map": {"a": "x-00001-of-00002.bin"}}'),
        r"incomplete: unet/x-00001-of-00002\.bin, named in x\.safetensors\.index\.json, is missing",
    ),
    "one part in half precision": (
        lambda d: (d / UNET).rename(d / "unet/diffusion_pytorch_model.fp16.safetensors"),
        "unet exists only as fp16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_before_a_model_is_opened(sd1, kind):
    damage, words = DAMAGE[kind]
    damage(sd1)
    with pytest.raises(FiguregroundError, match=words):
        check_files(sd1, "mine")


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_build_with_a_damaged_checkpoint_leaves_no_directory(sd1, tmp_path, kind, capsys):
    DAMAGE[kind][0](sd1)
    out = tmp_path / "deep" / "d3s"
    assert main(["build", "d3s", "--set", f"checkpoint={sd1}", "--limit", "2", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"figureground: checkpoint '{sd1}'")
    assert captured.err.count("\n") == 1
    assert not out.parent.exists()


def test_a_directory_that_is_no_checkpoint_is_not_searched_through(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("x")
    assert fingerprint(str(tmp_path), None) == f"{tmp_path}@main"
