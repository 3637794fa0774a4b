"""SCGS and DDB on photographs: a build that can't work stops at once, and one with all its models ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import skimage_photographs
from commands import ENVIRONMENT
from datasets import load_dataset
from tiny_checkpoints import make_checkpoint
from tiny_classifiers import make_classifier
from tiny_onnx import save_salient

from figureground.cli.main import main
from figureground.methods.ddb import DDB
from figureground.methods.scgs import SCGS

COMMAND = """
import sys
from figureground.cli.main import main
code = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return skimage_photographs.write(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings that name tiny random networks in place of the config's."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "checkpoint": str(make_checkpoint("sd1", folder, inpaint=True)), "size": 64, "num_inference_steps": 2,
        "training": {"backbone": str(make_classifier(folder / "resnet")), "epochs": 1}, "threads": 1, "device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize(("method", "named"), [("scgs", ()), ("ddb", ("CIDAS/clipseg-rd64-refined",))])
def test_without_the_hub_a_build_stops_at_once_and_names_every_model(
    photographs: Path, tmp_path: Path, method: str, named: tuple[str, ...]
) -> None:
    arguments = ["build", method, "--data", str(photographs), "--config", "photographs", "--out", str(tmp_path / "out")]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert (done.returncode, done.stdout) == (1, "False\n"), done.stderr
    for name in ("stable-diffusion-v1-5/stable-diffusion-inpainting", "microsoft/resnet-50", *named):
        assert f"hf download {name}" in done.stderr
    assert "HF_HUB_OFFLINE" in done.stderr
    assert time.monotonic() - began < 60
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["scgs", "ddb"])
def test_a_config_without_a_backbone_for_photographs_is_refused_at_once(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    assert main(["build", method, "--data", str(photographs), "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert "training.backbone" in errors
    assert "--set training.backbone" in errors
    assert not (tmp_path / "out").exists()


def test_scgs_repaints_photographs_with_tiny_networks(
    photographs: Path, models: dict[str, Any], tmp_path: Path
) -> None:
    method = SCGS("photographs", data=str(photographs), folds=2, per_class=2, **models)
    out = method.build(tmp_path / "out", show_progress=False)
    made = load_dataset(str(out), split="train")
    assert made.features["foreground"].names == ["cat", "cup"]
    assert all(row["image"].size == (64, 64) for row in made)


def test_ddb_paints_other_objects_into_photographs_with_tiny_networks(
    photographs: Path, models: dict[str, Any], tmp_path: Path
) -> None:
    longer = {**models["training"], "epochs": 6, "learning_rate": 1e-2, "batch_size": 4}
    method = DDB(
        "photographs", data=str(photographs), segmenter=f"onnx:{save_salient(tmp_path / 'tiny.onnx')}", sources=3,
        per_source=1, token_images=3, inversion={"max_train_steps": 1}, attribution_steps=2,
        **{**models, "training": longer},
    )  # fmt: skip
    out = method.build(tmp_path / "out", show_progress=False)
    assert len(load_dataset(str(out), split="train")) >= 4
