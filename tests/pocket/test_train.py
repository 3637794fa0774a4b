"""Training goes on where it was stopped, and what it writes is a checkpoint."""

import csv
import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from commands import ENVIRONMENT
from diffusers import StableDiffusionPipeline

from figureground.models.bundled import WEIGHTS
from figureground.pocket import captions, checkpoint, diffusion, train, vae
from figureground.pocket.fitting import FitSettings, compute_learning_rate, fit


def counting_batches(log):
    def batches(step):
        while True:
            log.append(step)
            step += 1
            yield torch.ones(4, 3)

    return batches


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path):
    settings = FitSettings(steps=6, batch=4, learning_rate=0.1, warmup=1, ema=0.5, save_seconds=0.0)

    def objective(model, x):
        return {"loss": (model(x) - 1).square().mean()}

    first, second = [], []
    fit(
        "line",
        torch.nn.Linear(3, 1),
        objective,
        counting_batches(first),
        replace(settings, steps=3),
        tmp_path,
        "cpu",
        lambda m: {},
    )
    model = torch.nn.Linear(3, 1)
    fit("line", model, objective, counting_batches(second), settings, tmp_path, "cpu", lambda m: {"seen": 1.0})
    assert (first, second) == ([0, 1, 2], [3, 4, 5])
    with (tmp_path / "line.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2, 3, 4, 5, 6]
    again = []
    fit("line", torch.nn.Linear(3, 1), objective, counting_batches(again), settings, tmp_path, "cpu", lambda m: {})
    assert again == []


STOPPED = """
import os, signal, sys
from pathlib import Path
import torch
from figureground.pocket.fitting import FitSettings, fit, run_command

def batches(step):
    while True:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        step += 1
        yield torch.ones(4, 3)

def main():
    settings = FitSettings(steps=6, batch=4, learning_rate=0.1, warmup=1, ema=0.5)
    objective = lambda model, x: {"loss": (model(x) - 1).square().mean()}
    fit("line", torch.nn.Linear(3, 1), objective, batches, settings, Path(sys.argv[1]), "cpu", lambda model: {})

sys.exit(run_command(main))
"""


def test_a_signal_stops_the_command_after_a_step_which_is_saved(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(tmp_path)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert done.returncode == 143, done.stderr
    assert f"Step 4 of 6 is saved in {tmp_path}" in done.stderr
    assert torch.load(tmp_path / "line.pt", weights_only=True)["step"] == 4


def test_the_rate_warms_up_and_falls_to_nothing():
    settings = FitSettings(steps=100, batch=1, learning_rate=1.0, warmup=10, ema=0.9)
    rates = [compute_learning_rate(settings, s) for s in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[10] == 1.0
    assert rates[100] < 1e-9
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_what_is_written_opens_and_holds_no_path(tmp_path):
    tokenizer = captions.write_tokenizer(tmp_path / "tokenizer")
    model = diffusion.TextToLatent(tokenizer)
    checkpoint.write_checkpoint(vae.build(), model, tokenizer, 0.7, tmp_path / "checkpoint")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "checkpoint")
    assert pipeline.vae.config.scaling_factor == 0.7
    assert {pipeline.unet.dtype, pipeline.text_encoder.dtype, pipeline.vae.dtype} == {torch.float32}
    assert not any(str(tmp_path) in p.read_text() for p in (tmp_path / "checkpoint").rglob("*.json"))


def test_batches_empty_and_disturb_some_captions_and_keep_the_rest(tmp_path):
    tokenizer = captions.write_tokenizer(tmp_path)
    ids = tokenizer(["a photo of a bird, on grass"] * 10, padding="max_length", return_tensors="pt").input_ids
    data = {"latents": torch.randn(10, 4, 2, 2).half(), "ids": ids}
    settings = replace(diffusion.SETTINGS, batch=2000)
    latents, made = next(diffusion.batches(data, 0.5, tokenizer, 0, 0, settings))
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    emptied = (made == empty).all(1).float().mean()
    kept = (made == ids[0]).all(1).float().mean()
    assert abs(emptied - diffusion.EMPTY_SHARE) < 0.03
    assert abs(kept - (1 - diffusion.EMPTY_SHARE - diffusion.STRAY_SHARE)) < 0.03
    assert (made[:, -1] == tokenizer.eos_token_id).all()
    assert torch.isin(latents, data["latents"].float() * 0.5).all()


@pytest.mark.slow
def test_a_warm_start_goes_on_from_the_bundled_weights_and_keeps_their_autoencoder(tmp_path):
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    sizes = ["--vae-steps", "0", "--diffusion-steps", "2", "--images", "100", "--batch", "8", "--sheet-steps", "1"]
    train.main([*places, "--warm-start", "--seed", "1", *sizes])
    bundled, made = (StableDiffusionPipeline.from_pretrained(folder) for folder in (WEIGHTS, tmp_path / "out"))
    for name, weight in made.vae.state_dict().items():
        assert torch.equal(weight, bundled.vae.state_dict()[name])
    before, after = bundled.unet.state_dict(), made.unet.state_dict()
    changed = torch.cat([(after[n] - before[n]).abs().flatten() for n in before])
    assert 0 < changed.max() < 0.05
    assert (tmp_path / "work" / "samples.png").exists()
    assert (tmp_path / "work" / "diffusion.png").exists()
