"""Trains the pocket model from scratch: `python -m figureground.pocket.train`.

Draws the pocket world, trains the autoencoder, then text encoder and UNet, and writes a Stable-Diffusion-architecture
checkpoint in fp16 safetensors. With `--part robust` it trains the bundled feature network on the biased world instead,
and writes a transformers directory. It can be stopped at any time: the same command resumes from its last checkpoint in
`--work`, which also contains curves and sample sheets.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from figureground.core.accelerator import has_bfloat16
from figureground.models.bundled import WEIGHTS
from figureground.models.opening import open_network, open_pipeline
from figureground.pocket import captions, diffusion, robust, vae
from figureground.pocket.checkpoint import draw_sheet, write_checkpoint
from figureground.pocket.fitting import run_command


def plot_curves(work: Path) -> None:
    """Plot every `*.csv` in `work` as a PNG beside it."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    for table in sorted(work.glob("*.csv")):
        rows = np.genfromtxt(table, delimiter=",", names=True)
        names = [n for n in rows.dtype.names or () if n != "step"]
        figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
        for axis, name in zip(axes[0], names, strict=True):
            axis.plot(np.atleast_1d(rows["step"]), np.atleast_1d(rows[name]))
            axis.set(title=name, xlabel="step")
        figure.tight_layout()
        figure.savefig(table.with_suffix(".png"))
        pyplot.close(figure)


def train_robust(args: argparse.Namespace) -> Path:
    """Train the feature network and write it into `--out`, or into `WORK/robust`."""
    model = robust.train(args.work, args.device, args.seed, replace(robust.SETTINGS, steps=args.robust_steps))
    out: Path = args.out or args.work / "robust"
    robust.save(model, out, torch.float16)
    plot_curves(args.work)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m figureground.pocket.train", description=__doc__)
    parser.add_argument("--part", choices=("diffusion", "robust"), default="diffusion", help="what is trained")
    parser.add_argument("--work", type=Path, default=Path("out/pocket"), help="checkpoints, curves, sample sheets")
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="where the finished checkpoint goes (default: WORK/checkpoint, or WORK/robust)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-start", action="store_true", help="begin with the bundled weights")
    parser.add_argument("--vae-steps", type=int, default=vae.SETTINGS.steps)
    parser.add_argument("--diffusion-steps", type=int, default=diffusion.SETTINGS.steps)
    parser.add_argument("--robust-steps", type=int, default=robust.SETTINGS.steps)
    parser.add_argument("--batch", type=int, default=diffusion.SETTINGS.batch, help="images a diffusion step")
    parser.add_argument("--learning-rate", type=float, default=diffusion.SETTINGS.learning_rate, help="the largest")
    parser.add_argument("--images", type=int, default=diffusion.POOL, help="drawn and encoded for the diffusion model")
    parser.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="products in bfloat16 (default: where the device computes in it natively)",
    )
    parser.add_argument("--sheet-steps", type=int, default=50, help="steps in which the last sample sheet is drawn")
    args = parser.parse_args(arguments)
    if args.bfloat16 is None:
        args.bfloat16 = has_bfloat16(torch.device(args.device))

    args.work.mkdir(parents=True, exist_ok=True)
    if args.part == "robust":
        print(f"Wrote {train_robust(args)}")
        return
    tokenizer = captions.write_tokenizer(args.work / "tokenizer")
    first_vae = first_model = None
    if args.warm_start:
        first_vae = open_network(AutoencoderKL, WEIGHTS / "vae", "pocket", dtype=torch.float32)
        bundled = open_pipeline(StableDiffusionPipeline, WEIGHTS, "pocket", dtype=torch.float32)
        first_model = diffusion.TextToLatent(tokenizer)
        first_model.unet.load_state_dict(bundled.unet.state_dict())
        first_model.text_encoder.load_state_dict(bundled.text_encoder.state_dict())

    autoencoder = vae.train(args.work, args.device, args.seed, first_vae, replace(vae.SETTINGS, steps=args.vae_steps))

    def on_save(network: diffusion.TextToLatent, scale: float) -> None:
        write_checkpoint(autoencoder, network, tokenizer, scale, args.work / "checkpoint")
        draw_sheet(args.work / "checkpoint", args.work / "samples.png", args.device, min(12, args.sheet_steps))

    model, scale = diffusion.train(
        autoencoder, tokenizer, args.work, args.device, args.seed, first_model,
        replace(
            diffusion.SETTINGS, steps=args.diffusion_steps, batch=args.batch, learning_rate=args.learning_rate
        ), args.images, args.bfloat16, first_vae.config.scaling_factor if first_vae else None, on_save,
    )  # fmt: skip
    write_checkpoint(autoencoder, model, tokenizer, scale, args.work / "checkpoint")
    draw_sheet(args.work / "checkpoint", args.work / "samples.png", args.device, steps=args.sheet_steps)
    plot_curves(args.work)
    if args.out:
        shutil.copytree(args.work / "checkpoint", args.out, dirs_exist_ok=True)
    print(f"Wrote {args.out or args.work / 'checkpoint'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
