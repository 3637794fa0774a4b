"""Speed and memory of fine-tuning: `python benchmarks/finetune.py --script train_dreambooth.py`.

Trains with `figureground finetune`, with diffusers' own example script at the same settings (UNet and text encoder,
prior preservation, the same batch, AdamW, no SFSL), and with `figureground finetune` and SFSL. Each runs in its own
process, on the same images and prior images. They take turns, and are compared within a round.

The script isn't part of diffusers' wheel: download `examples/dreambooth/train_dreambooth.py` from its repository.
It imports torchvision for four image transforms; if that isn't installed, a small stand-in based on Pillow and numpy is
used. Without `--script`, only figureground is measured.

Time is measured over optimizer steps after the first few. Memory is the peak up to the last step: the device's, as
counted by torch, or on a CPU the resident memory of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from results import Row, make_parser, make_scratch, median, median_ratio, peak_memory, report
from torch.optim.optimizer import register_optimizer_step_post_hook

from figureground.core.accelerator import choose_device
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.finetune.base import choose_dtype
from figureground.finetune.dreambooth import finetune
from figureground.finetune.settings import POCKET, Finetuning
from figureground.models.weights import local_directory

OURS, THEIRS, SFSL = "figureground", "train_dreambooth.py", "figureground with SFSL"
NOUN, IDENTIFIER = "flower", "sks"
UNTIMED_SHARE = 0.2
"""Share of the steps at the start that aren't timed."""
REPORTED_SETTINGS = (
    "dtype",
    "size",
    "batch_size",
    "max_train_steps",
    "num_class_images",
    "gradient_accumulation_steps",
)
"""Settings that the report shows."""

STAND_IN = '''
"""The four transforms of torchvision that train_dreambooth.py asks for, on Pillow and numpy."""

import random

import numpy
import torch
from PIL import Image


class InterpolationMode:
    BILINEAR = Image.Resampling.BILINEAR


class Compose:
    def __init__(self, steps):
        self.steps = steps

    def __call__(self, image):
        for step in self.steps:
            image = step(image)
        return image


class Resize:
    def __init__(self, size, interpolation=InterpolationMode.BILINEAR):
        self.size, self.interpolation = size, interpolation

    def __call__(self, image):
        scale = self.size / min(image.size)
        return image.resize([round(edge * scale) for edge in image.size], self.interpolation)


class CenterCrop:
    def __init__(self, size):
        self.size = size

    def __call__(self, image):
        left, top = ((edge - self.size) // 2 for edge in image.size)
        return image.crop((left, top, left + self.size, top + self.size))


class RandomCrop(CenterCrop):
    def __call__(self, image):
        left, top = (random.randint(0, edge - self.size) for edge in image.size)
        return image.crop((left, top, left + self.size, top + self.size))


class ToTensor:
    def __call__(self, image):
        return torch.from_numpy(numpy.array(image)).permute(2, 0, 1).float().div(255)


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def __call__(self, pixels):
        return (pixels - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)
'''


# --- in a separate process --------------------------------------------------------------------------


class Clock:
    """Records the time after each step of any optimizer in this process."""

    def __init__(self, steps: int):
        self._first, self._steps, self._num_steps = max(1, round(UNTIMED_SHARE * steps)), steps, 0
        self._start = 0.0
        self.results: dict[str, float] = {}
        register_optimizer_step_post_hook(self._record_step)

    def _record_step(self, *_: Any) -> None:
        self._num_steps += 1
        if self._num_steps not in (self._first, self._steps):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._num_steps == self._first:
            self._start = time.perf_counter()
            return
        seconds = time.perf_counter() - self._start
        cuda = torch.cuda.is_available()
        megabytes = torch.cuda.max_memory_allocated() / 1e6 if cuda else peak_memory()
        self.results = {"speed": (self._steps - self._first) / seconds, "megabytes": megabytes}


def run_job(path: Path) -> None:
    """Train once, as described in the file `path`, and write the clock's result beside it."""
    job = json.loads(path.read_text())
    torch.set_num_threads(job["threads"])
    clock = Clock(job["steps"])
    if "script" in job:
        if "stand_in" in job:
            # Only now, because libraries that look for torchvision at import shouldn't find the stand-in.
            with contextlib.suppress(ImportError):
                importlib.import_module("peft")
            importlib.import_module("transformers").utils.is_torchvision_available()  # caches the answer
            sys.path.insert(0, job["stand_in"])
        sys.argv = [job["script"], *job["arguments"]]
        runpy.run_path(job["script"], run_name="__main__")
    else:
        settings = Finetuning(**{**job["settings"], "preview_prompts": ()})
        finetune(
            Path(job["references"]), NOUN, job["label"], Path(job["out"]), settings, prior=Path(job["prior"]),
            device=job["device"], show_progress=False,
        )  # fmt: skip
    path.with_suffix(".found").write_text(json.dumps(clock.results))


# --- the comparison ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Bench:
    """The data of all runs, and how to start each."""

    args: argparse.Namespace
    work: Path
    checkpoint: str
    settings: Finetuning
    device: str
    label: str

    def run(self, name: str, round_: int) -> dict[str, float]:
        """Train one variant; return steps per second and the peak memory in MB."""
        folder = self.work / f"{round_}-{name.replace(' ', '-')}"
        folder.mkdir()
        job: dict[str, Any] = {"steps": self.settings.max_train_steps, "threads": self.args.threads}
        if name == THEIRS:
            job |= {"script": str(self.args.script.resolve()), "arguments": self._flags(folder / "out")}
            if importlib.util.find_spec("torchvision") is None:
                job["stand_in"] = str(self._stand_in())
        else:
            weight = self.args.sfsl_weight if name == SFSL else 0.0
            settings = dataclasses.replace(self.settings, sfsl_weight=weight).to_json()
            job |= {
                "settings": settings, "references": str(self.work / "references"), "prior": str(self.work / "prior"),
                "out": str(folder / "out"), "device": self.device, "label": self.label,
            }  # fmt: skip
        path = folder / "job.json"
        path.write_text(json.dumps(job))
        command = [sys.executable, str(Path(__file__).resolve()), "--job", str(path)]
        process = subprocess.run(command, capture_output=True, text=True, cwd=self.work)
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{process.stderr[-3000:]}")
        return json.loads(path.with_suffix(".found").read_text())

    def _flags(self, out: Path) -> list[str]:
        """Return the settings as flags of the script."""
        settings = self.settings
        precision = {"bfloat16": "bf16", "float32": "no"}[settings.dtype]
        values = {
            "pretrained_model_name_or_path": local_directory(self.checkpoint), "output_dir": out,
            "instance_data_dir": self.work / "references", "class_data_dir": self.work / "class-images",
            "instance_prompt": f"a photo of a {IDENTIFIER} {NOUN}", "class_prompt": f"a photo of a {NOUN}",
            "num_class_images": settings.num_class_images, "prior_loss_weight": settings.prior_weight,
            "resolution": settings.size, "train_batch_size": settings.batch_size,
            "gradient_accumulation_steps": settings.gradient_accumulation_steps,
            "learning_rate": settings.learning_rate_of("unet"),
            "lr_scheduler": "constant", "lr_warmup_steps": 0, "max_train_steps": settings.max_train_steps,
            "adam_weight_decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm,
            "mixed_precision": precision, "checkpointing_steps": 10 * settings.max_train_steps, "seed": 0,
        }  # fmt: skip
        flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
        flags += ["--train_text_encoder", "--with_prior_preservation", "--center_crop", "--set_grads_to_none"]
        return [*flags, *(["--gradient_checkpointing"] if settings.gradient_checkpointing else [])]

    def _stand_in(self) -> Path:
        folder = self.work / "stand-in"
        package = folder / "torchvision"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text('__version__ = "0.0"\n')
        (package / "transforms.py").write_text(STAND_IN)
        return folder


def draw_material(work: Path, settings: Finetuning, count: int) -> None:
    """Draw references and prior images, the latter both in figureground's layout and without its own files."""
    import numpy as np

    from figureground.pocket import world

    for folder, prop, images in (("references", f"{NOUN}:2", count), ("class-images", NOUN, settings.num_class_images)):
        (work / folder).mkdir()
        for i in range(images):
            rng = np.random.default_rng(i)
            scene = str(rng.choice(world.BACKGROUNDS))
            image = world.render(None, scene, prop, rng, size=settings.size or world.SIZE).image
            image.save(work / folder / f"{i:05d}.png")
    (work / "prior").symlink_to(work / "class-images")


def make_network(work: Path, real: bool) -> tuple[str, str]:
    """Make a feature network with random weights, of a real size or the bundled one's; return folder and class."""
    from transformers import ResNetConfig, ResNetForImageClassification

    from figureground.pocket import robust, world

    if not real:
        robust.save(robust.build(), work / "network")
        return str(work / "network"), world.FOREGROUNDS[0]
    labels = {i: f"class {i}" for i in range(1000)}
    network = ResNetForImageClassification(ResNetConfig(id2label=labels, label2id={n: i for i, n in labels.items()}))
    network.save_pretrained(work / "network")
    size = {"height": 224, "width": 224}
    (work / "network" / "preprocessor_config.json").write_text(json.dumps({**robust.PREPROCESSOR, "size": size}))
    return str(work / "network"), labels[0]


def make_random(kind: str, device: torch.device, out: Path) -> str:
    from generate import make_random_checkpoint

    folder = make_random_checkpoint(kind, device, out)
    config = folder / "text_encoder" / "config.json"  # the script requires float32 regardless of the storage dtype
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}))
    return str(folder)


def measure(bench: Bench, rounds: int) -> list[Row]:
    """Train the variants in turn, for several rounds."""
    names = [OURS, *([THEIRS] if bench.args.script else []), SFSL]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for round_ in range(rounds):
        offset = round_ % len(names)
        for name in names[offset:] + names[:offset]:
            results[name].append(bench.run(name, round_))
        summary = ", ".join(f"{name} {results[name][-1]['speed']:.3g} steps/s" for name in names)
        print(f"round {round_ + 1}: {summary}", flush=True)
    speeds = {name: [result["speed"] for result in results[name]] for name in names}
    memory = {name: [result["megabytes"] for result in results[name]] for name in names}
    rows = [median(name, speeds[name], "steps/s") for name in names]
    if bench.args.script:
        rows.append(median_ratio(f"{OURS} / {THEIRS}", speeds[OURS], speeds[THEIRS], at_least=1.3))
    rows.append(median_ratio("a step with SFSL / one without", speeds[OURS], speeds[SFSL]))
    rows += [median(f"memory, {name}", memory[name], "MB") for name in names]
    if bench.args.script:
        rows.append(median_ratio(f"memory, {OURS} / {THEIRS}", memory[OURS], memory[THEIRS]))
    return rows


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "finetune")
    parser.add_argument("--script", type=Path, metavar="FILE", help="a copy of diffusers' train_dreambooth.py")
    parser.add_argument("--checkpoint", default="pocket", help="pocket, or a directory in diffusers' layout")
    parser.add_argument("--random-weights", choices=("sd15",), help="a real architecture with random weights")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--size", type=int, help="edge in pixels (default: the checkpoint's own)")
    parser.add_argument("--batch-size", type=int, help="references per step (default: 4 for pocket, otherwise 1)")
    parser.add_argument("--steps", type=int, default=60, help="steps per run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--references", type=int, default=20)
    parser.add_argument("--num-class-images", type=int, default=64)
    parser.add_argument("--sfsl-weight", type=float, default=0.1)
    parser.add_argument(
        "--feature-model", help="default: one with random weights, as large as the bundled one, or a ResNet-50"
    )
    parser.add_argument("--class", dest="label", help="one of the feature model's classes")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    if args.script and not args.script.is_file():
        parser.error(f"--script: there is no file {args.script}")
    if not args.script:
        print(f"Without --script, {THEIRS} isn't measured, only figureground.")
    if args.quick:
        args.steps, args.rounds, args.references, args.num_class_images = 5, 1, 4, 4
    return args


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        run_job(Path(sys.argv[2]))
        return
    args = parse()
    began = time.monotonic()
    device = choose_device(args.device)
    pocket = args.checkpoint == "pocket" and not args.random_weights
    dtype: Any = str(choose_dtype(args.dtype if args.dtype != "auto" or not pocket else POCKET.dtype, device))
    dtype = dtype.removeprefix("torch.")
    with make_scratch(args.work.resolve()) as work:
        checkpoint = make_random(args.random_weights, device, work / "base") if args.random_weights else args.checkpoint
        parts = open_checkpoint(checkpoint, device=torch.device("cpu"), dtype=torch.float32)
        size = args.size or parts.text_to_image.unet.config.sample_size * parts.factor
        del parts
        network, label = (args.feature_model, args.label) if args.feature_model else make_network(work, not pocket)
        settings = Finetuning(
            checkpoint, size=size, max_train_steps=args.steps, batch_size=args.batch_size or (4 if pocket else 1),
            num_class_images=args.num_class_images, learning_rate=1e-5, sfsl_weight=0.0, feature_model=network,
            gradient_checkpointing=args.gradient_checkpointing, dtype=dtype, preview_images=0, save_seconds=1e9,
        )  # fmt: skip
        draw_material(work, settings, args.references)
        rows = measure(Bench(args, work, checkpoint, settings, str(device), label), args.rounds)
    reported = {
        "checkpoint": f"random weights, {args.random_weights}" if args.random_weights else Path(args.checkpoint).name,
        "feature_model": Path(args.feature_model).name if args.feature_model else "random weights",
        **{name: getattr(settings, name) for name in REPORTED_SETTINGS},
        "references": args.references, "rounds": args.rounds, "gradient_checkpointing": args.gradient_checkpointing,
    }  # fmt: skip
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    report(
        "finetune", args, rows, reported, began, of_machine={"device": name, "threads": args.threads},
        checkpoint=None if args.random_weights else args.checkpoint,
    )  # fmt: skip


if __name__ == "__main__":
    main()
