"""The disk that concepts need, foretold from names and headers."""

import pytest
from PIL import Image
from tiny_checkpoints import make_checkpoint

from figureground.models.footprint import estimate_footprint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


def test_a_checkpoint_at_hand_is_counted_to_the_byte(checkpoint):
    footprint = estimate_footprint(str(checkpoint))
    assert footprint.is_measured
    assert footprint.finished == sum(path.stat().st_size for path in checkpoint.glob("*/*.safetensors"))
    trained = sum(
        path.stat().st_size for part in ("unet", "text_encoder") for path in checkpoint.glob(f"{part}/*.saf*")
    )
    assert 0.9 * 3 * trained < footprint.working < 3 * trained


def test_adapters_are_as_large_as_foretold(checkpoint, tmp_path):
    pytest.importorskip("peft")
    from figureground.finetune.dreambooth import finetune
    from figureground.finetune.settings import Finetuning

    for i in range(3):
        Image.new("RGB", (32, 32), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    settings = Finetuning(
        str(checkpoint), max_train_steps=1, size=32, prior_weight=0, sfsl_weight=0, preview_images=0, lora_rank=4
    )
    out = finetune(tmp_path, "flower", "bird", tmp_path / "out", settings, device="cpu", show_progress=False)
    real = (out / "lora.safetensors").stat().st_size
    assert estimate_footprint(str(checkpoint), None, 4).finished == pytest.approx(real, rel=0.25)
    assert estimate_footprint(str(checkpoint), None, 4).finished < real  # names take room too


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [("CompVis/stable-diffusion-v1-4", 4.3), ("stabilityai/stable-diffusion-2-1", 5.2), ("x/sdxl-base", 13.9)],
)
def test_one_that_is_not_here_is_judged_by_its_name(name, gigabytes):
    footprint = estimate_footprint(name)
    assert not footprint.is_measured
    assert footprint.finished / 1e9 == pytest.approx(gigabytes, rel=0.05)


def test_what_is_no_checkpoint_at_all_is_guessed_too(tmp_path):
    (tmp_path / "model_index.json").write_text("nothing")
    assert not estimate_footprint(str(tmp_path)).is_measured
    assert not estimate_footprint("/nowhere/at all").is_measured
