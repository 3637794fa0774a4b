"""The shared training loop of all pocket models: resumable, with averaged weights and curves on disk."""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from figureground.core.errors import FiguregroundError


@dataclass(frozen=True)
class Settings:
    """Training settings: AdamW with a warm-up and a cosine decay to 0."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    ema: float
    weight_decay: float = 1e-4
    clip: float = 1.0
    save_seconds: float = 180.0


def rate(settings: Settings, step: int) -> float:
    """Return the learning rate at a step."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def fit(
    name: str,
    model: nn.Module,
    objective: Callable[[Any, Any], dict[str, torch.Tensor]],
    batches: Callable[[int], Iterator[Any]],
    settings: Settings,
    work: Path,
    device: str,
    watch: Callable[[Any], dict[str, float]],
    inputs: str = "",
    bfloat16: bool = True,
) -> Any:
    """Train `model` and return its exponential moving average. An existing checkpoint is resumed.

    Args:
        name: Name of the checkpoint `{name}.pt` and the curves `{name}.csv` in `work`.
        objective: Takes the model and a batch; returns losses by name, of which `loss` is minimised.
        batches: Takes the first step; returns an endless iterator of batches.
        watch: Evaluates the averaged model whenever a checkpoint is written.
        inputs: Hash of the inputs of the batches.
        bfloat16: Whether matrix products are in bfloat16.

    Raises:
        FiguregroundError: The checkpoint belongs to a run on other inputs.
    """
    work.mkdir(parents=True, exist_ok=True)
    saved, curves = work / f"{name}.pt", work / f"{name}.csv"
    model.to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99), fused=True
    )
    step = 0
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=True)
        if state["inputs"] != inputs:
            raise FiguregroundError(
                f"{saved} is of a run on other inputs. Remove it, or give another --work directory."
            )
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        torch.manual_seed(step)
    if step >= settings.steps:
        return average.eval()

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "inputs": inputs,
        }
        torch.save(state, saved.with_suffix(".part"))
        os.replace(saved.with_suffix(".part"), saved)

    model.train()
    weights: list[torch.Tensor] = list(model.parameters())
    averages: list[torch.Tensor] = list(average.parameters())
    source = batches(step)
    seen: dict[str, float] = {}
    since, last_save = 0, time.monotonic()
    bar = tqdm(total=settings.steps, initial=step, desc=name, unit="step", mininterval=2, disable=None)
    while step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(settings, step)
        batch = next(source)
        batch = batch.to(device) if isinstance(batch, torch.Tensor) else tuple(b.to(device) for b in batch)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
            losses = objective(model, batch)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(weights, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            decay = min(settings.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(averages, weights, 1 - decay)
        step += 1
        since += 1
        for key, value in losses.items():
            seen[key] = seen.get(key, 0.0) + float(value.detach())
        bar.update()
        if time.monotonic() - last_save > settings.save_seconds or step == settings.steps:
            average.eval()
            row = {"step": step, **{k: v / since for k, v in seen.items()}, **watch(average)}
            new = not curves.exists()
            with curves.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if new:
                    writer.writeheader()
                writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
            bar.write(f"{name}: " + "  ".join(f"{k} {v:.5g}" for k, v in row.items()))
            save()
            seen, since, last_save = {}, 0, time.monotonic()
    bar.close()
    return average.eval()
