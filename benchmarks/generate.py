"""Speed of a build: `python benchmarks/generate.py`.

Makes the same images in three ways from one checkpoint: with one image-to-image call of diffusers per image, as in a
research script; with one call per batch; and with a whole build, `Builder.build` into a new directory. The three take
turns, and are compared within a round. The simple ways make every n-th of a build's images, and use all cores, as do
a build's workers together.

The time includes drawing guides from cut-outs and scenes, encoding prompts, and diffusion. For the simple ways it
also includes saving JPEG files. For a build it also includes reading and hashing its cut-outs and scenes, tokenising
every prompt of the recipe, tar and Parquet shards, their SHA-256, syncs, markers, index and card. Loading the model and
starting processes are included only for a build with several workers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ladder
import numpy as np
import torch
from ladder import read_built
from PIL import Image
from results import Row, format_number, make_parser, make_scratch, median, median_ratio, report
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from figureground.core import accelerator
from figureground.core.seeding import make_generator
from figureground.core.shares import strength_of, whole_part
from figureground.diffusion.checkpoint import Checkpoint, open_checkpoint
from figureground.methods.d3s import D3S
from figureground.models.bundled import WEIGHTS
from figureground.models.opening import make_network, open_part, open_pipeline
from figureground.models.weights import local_directory
from figureground.recipe.sample import Spec
from figureground.running import opened_model

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
SINGLE, BATCHED, BUILD = "one call an image", "one call a batch", "a build"

TEXT = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
}  # fmt: skip
TEXT_2 = {
    **TEXT, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mini": {
        "unet": {
            "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32, "attention_head_dim": 8,
        },
        "vae": {**VAE, "block_out_channels": (16, 16, 16, 16), "norm_num_groups": 8, "sample_size": 64,
                "scaling_factor": 0.18215},
        "text": [{**TEXT, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "projection_dim": 32}],
    },
    "sd15": {
        "unet": {
            "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            "cross_attention_dim": 768, "attention_head_dim": 8,
        },
        "vae": {**VAE, "sample_size": 512, "scaling_factor": 0.18215},
        "text": [TEXT],
    },
    "sdxl": {
        "unet": {
            "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text": [TEXT, TEXT_2],
    },
}  # fmt: skip
"""Dimensions of the models of Stable Diffusion 1.5 and XL; the values of the weights don't affect the speed. `mini` is
small, to try the code."""


# --- checkpoints ------------------------------------------------------------------------------------


def make_random_checkpoint(kind: str, device: torch.device, out: Path) -> Path:
    """Save a checkpoint of a real architecture with random weights, in float16, created on the device.

    Its tokenizer is the pocket's, with few words. The text encoder still has CLIP's whole vocabulary and every prompt
    is 77 tokens long, so the computation is the same.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = open_part(CLIPTokenizer, WEIGHTS / "tokenizer", "pocket")
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    architecture = ARCHITECTURES[kind]
    torch.manual_seed(0)
    with torch.device(device), in_dtype(torch.float16):
        unet = UNet2DConditionModel(**architecture["unet"])
        vae = AutoencoderKL(**architecture["vae"])
        classes = [CLIPTextModel, CLIPTextModelWithProjection]
        texts = [
            text_class(CLIPTextConfig(**dims, **tokens, pad_token_id=tokenizer.pad_token_id))
            for text_class, dims in zip(classes, architecture["text"], strict=False)
        ]
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "unet": unet, "vae": vae, "text_encoder": texts[0], "tokenizer": tokenizer, "scheduler": scheduler,
    }  # fmt: skip
    if kind == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(**parts, text_encoder_2=texts[1], tokenizer_2=tokenizer)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(out / kind)
    return out / kind


@contextlib.contextmanager
def in_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within the context, create new weights in this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def open_diffusers_pipeline(checkpoint: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Open the image-to-image pipeline as a script does, with DDIM, the default of builds."""
    from diffusers import AutoPipelineForImage2Image, DDIMScheduler

    folder = local_directory(checkpoint)
    if folder is None:
        raise SystemExit(f"--checkpoint {checkpoint}: give a directory in diffusers' layout.")
    variant = "fp16" if list(folder.glob("unet/*.fp16.safetensors")) else None
    pipeline = open_pipeline(AutoPipelineForImage2Image, folder, checkpoint, dtype=dtype, variant=variant)
    pipeline.scheduler = make_network(DDIMScheduler, pipeline.scheduler.config)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- three ways to make the same images -------------------------------------------------------------


class Ways:
    """Makes the images of one recipe in each of the three ways, into a folder.

    The simple ways make at most `max_simple` of the images, evenly spaced.
    """

    def __init__(
        self, checkpoint: str, fields: dict[str, Any], device: torch.device, dtype: torch.dtype, max_simple: int,
        clock: Callable[[], float] = time.perf_counter,
    ):  # fmt: skip
        self._clock = clock
        self.fields, self._device, self._threads = fields, device, torch.get_num_threads()
        self.batch_size: int = fields["batch_size"]
        began = time.perf_counter()
        self._plain = open_diffusers_pipeline(checkpoint, device, dtype)
        self.seconds_plain = time.perf_counter() - began
        """Time to open the pipeline of the simple ways."""
        self.opened = open_checkpoint(checkpoint, device=device, dtype=dtype)
        self._guides = self.builder()
        plan = self._guides.plan()
        specs = [spec for shard in plan.shards() for spec in plan.specs(shard)]
        self.count = len(specs)
        self.specs = specs[:: -(-len(specs) // max_simple)]
        """Specs of the images made by the simple ways."""

    def builder(self, **changes: Any) -> D3S:
        return D3S("pocket", **{**self.fields, **changes})

    def single(self, folder: Path, specs: Sequence[Spec] | None = None) -> int:
        """Make the images, or those of some specs, and return their number; the other ways do the same."""
        for spec in (specs := specs or self.specs):
            self._call([spec], folder)
        return len(specs)

    def batched(self, folder: Path, specs: Sequence[Spec] | None = None) -> int:
        specs = specs or self.specs
        for start in range(0, len(specs), self.batch_size):
            self._call(specs[start : start + self.batch_size], folder)
        return len(specs)

    def build(self, folder: Path, opened: Checkpoint | None = None, **changes: Any) -> int:
        """Build the whole recipe with an opened checkpoint; `changes` are settings that differ."""
        builder = self.builder(**changes)
        # The checkpoint is opened in advance, like the plain pipeline (except in other processes). Everything else that
        # `figureground build` does is timed.
        with patch.object(opened_model, "open_checkpoint", return_value=opened or self.opened):
            builder.build(folder / "built", show_progress=False)
        # A build sets the number of threads for its process, which here is shared with the simple ways.
        torch.set_num_threads(self._threads)
        return min(self.count, builder.config.limit or self.count)

    def _call(self, specs: Sequence[Spec], folder: Path) -> None:
        config = self._guides.config
        images = self._plain(
            prompt=[spec.prompt for spec in specs],
            image=[self._guides.load_guide(spec)[0] for spec in specs],
            strength=strength_of(whole_part(config.num_inference_steps, config.strength), config.num_inference_steps),
            num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale,
            negative_prompt=[config.negative_prompt] * len(specs),
            generator=[make_generator(spec.seed) for spec in specs],
        ).images  # fmt: skip
        for spec, image in zip(specs, images, strict=True):
            image.save(folder / f"{spec.key}.jpg", quality=95, subsampling=0)

    def measure_speed(self, make: Callable[[Path], int], folder: Path) -> float:
        """Return images per second."""
        folder.mkdir()
        os.sync()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        start = self._clock()
        count = make(folder)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return count / (self._clock() - start)

    def flops(self) -> int:
        """Return the floating-point operations of the denoiser and the autoencoder for one image.

        Attention counts as its two matrix products, regardless of the implementation.
        """
        config, spec = self._guides.config, self.specs[0]
        steps = whole_part(config.num_inference_steps, config.strength)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        encoded = self._plain.encode_prompt(
            prompt=spec.prompt, device=self._device, num_images_per_prompt=1,
            do_classifier_free_guidance=config.guidance_scale > 1,
        )  # fmt: skip
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self._plain(
                **dict(zip(names, encoded, strict=False)), image=self._guides.load_guide(spec)[0],
                strength=strength_of(steps, config.num_inference_steps),
                num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale,
            )  # fmt: skip
        return counter.get_total_flops()


def mean_difference(built: dict[str, np.ndarray], folder: Path) -> float:
    """Return the mean difference between the files in a folder and the built images, in levels of 255."""
    differences = [
        np.abs(built[path.stem] - np.asarray(Image.open(path), float)).mean()
        for path in folder.glob("*.jpg")
        if path.stem in built
    ]
    return float(np.mean(differences))


def measure_ceiling(
    device: torch.device, dtype: torch.dtype, edge: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Measure the speed of a large matrix product, in TFLOP/s; best of 20."""
    one, other = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(20):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * edge**3 / (clock() - start) / 1e12)
    return best


# --- the benchmark ----------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    defaults = D3S.CONFIGS["pocket"]
    parser = make_parser(__doc__, "generate")
    add = parser.add_argument
    add("--checkpoint", default="pocket", help="a directory in diffusers' layout (default: the bundled one)")
    add(
        "--random-weights",
        choices=sorted(ARCHITECTURES),
        help="an architecture with random weights; needs twice its size on disk",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--dtype", default="auto", choices=("auto", *accelerator.DTYPES))
    add("--images", type=int, help="images of a build (default: 192 per worker)")
    add("--simple-images", type=int, default=64, help="images made by the simple ways")
    add("--workers", type=int, help="processes of a build (default: one per core on a CPU, otherwise one)")
    add("--rounds", type=int, default=3)
    add("--batch-size", type=int, default=16)
    add("--threads", type=int, default=torch.get_num_threads(), help="total CPU threads")
    add("--size", type=int, help="edge in pixels (default: the checkpoint's own)")
    add("--num-inference-steps", type=int, default=defaults.num_inference_steps)
    add("--strength", type=float, default=defaults.strength)
    add("--guidance", type=float, default=defaults.guidance_scale)
    add("--ladder", action="store_true", help="measure setting by setting, with right labels, and choose fast ones")
    add("--choosing-seed", type=int, default=1000, help="ladder: seed of the images on which settings are chosen")
    add("--judging-seed", type=int, default=2000, help="ladder: seed of the images on which they are judged")
    add("--label-images", type=int, default=600, help="ladder: number of images on which settings are chosen")
    add("--judged-images", type=int, default=1000, help="ladder: number of images on which each rung is judged")
    add("--judged", default="all", choices=("all", "fast"), help="ladder: rungs whose labels are judged")
    add(
        "--clock", default="wall", choices=CLOCKS,
        help="cpu: images per second of CPU time of one process, less affected by other load",
    )  # fmt: skip
    add("--parts", nargs="+", default=("labels", "speeds"), choices=("labels", "speeds"), help="ladder: only these")
    add("--oracle-cache", type=Path, help="ladder: folder of trained oracles, such as out/fidelity")
    args = parser.parse_args()
    if args.quick:
        args.images, args.rounds, args.batch_size, args.num_inference_steps = 4, 1, 2, 2 if not args.ladder else 8
        args.label_images = args.judged_images = 4
        args.workers = args.workers or 1
    if args.ladder:  # Every rung makes the same images, in one process.
        args.workers, args.images = 1, args.images or 3 * args.batch_size
        args.simple_images = args.images
    on_cpu = accelerator.choose_device(args.device).type == "cpu"
    args.workers = args.workers or (args.threads if on_cpu else 1)
    args.images = args.images or 192 * args.workers
    return args


def main() -> None:
    args = parse_arguments()
    began = time.monotonic()
    device = accelerator.choose_device(args.device)
    dtype = accelerator.choose_dtype(args.dtype, device)
    torch.set_num_threads(args.threads)
    with make_scratch(args.work) as work:
        checkpoint = args.checkpoint
        if args.random_weights:
            checkpoint = str(make_random_checkpoint(args.random_weights, device, work / "checkpoint"))
        ways = open_ways(args, checkpoint, device, dtype)
        if args.ladder:
            measure_ladder(args, ways, checkpoint, device, dtype, began)
            return
        rows = measure(args, ways, work)
        flops = ways.flops()
        ceiling = measure_ceiling(device, dtype, 8192 if device.type == "cuda" else 1024)
    rows.append(Row("work of denoiser and autoencoder", flops / 1e9, "GFLOP/image"))
    rows.append(Row("ceiling: a matrix product", ceiling, "TFLOP/s"))
    for row in rows[:3]:
        achieved = flops * row.value / 1e12
        rows.append(Row(f"{row.name}, achieved", achieved, "TFLOP/s"))
        print(f"{row.name}: {format_number(100 * achieved / ceiling)} % of a matrix product's TFLOP/s")
    settings = settings_of(args, ways, dtype)
    name = device_name(device)
    report(
        "generate", args, rows, settings, began, of_machine={"device": name, "threads": torch.get_num_threads()},
        checkpoint=None if args.random_weights else args.checkpoint,
    )  # fmt: skip


def measure_ladder(
    args: argparse.Namespace, ways: Ways, checkpoint: str, device: torch.device, dtype: torch.dtype, began: float
) -> None:
    """Measure the ladder, and write its results."""
    edge = 8192 if device.type == "cuda" else 1024
    ceiling = measure_ceiling(device, dtype, edge, CLOCKS[args.clock])
    rows, entries = ladder.run_ladder(args, ways, checkpoint, device, dtype, ceiling)
    rows.append(Row("ceiling: a matrix product", ceiling, "TFLOP/s"))
    settings = {
        **settings_of(args, ways, dtype), "choosing_seed": args.choosing_seed, "judging_seed": args.judging_seed,
        "label_images": args.label_images, "judged_images": args.judged_images,
    }  # fmt: skip
    of_machine = {"device": device_name(device), "threads": torch.get_num_threads()}
    report(
        "generate", args, rows, settings, began, of_machine=of_machine,
        checkpoint=None if args.random_weights else args.checkpoint, **entries,
    )  # fmt: skip


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def settings_of(args: argparse.Namespace, ways: Ways, dtype: torch.dtype) -> dict[str, Any]:
    """Return the settings of the measurements, for the results."""
    config = ways.builder().config
    return {
        "checkpoint": f"random weights, {args.random_weights}" if args.random_weights else Path(args.checkpoint).name,
        "clock": args.clock,
        "dtype": str(dtype).removeprefix("torch."), "images": ways.count, "simple_images": len(ways.specs),
        "rounds": args.rounds, "workers": config.workers, "shard_size": config.shard_size,
        "batch_size": config.batch_size, "size": config.size, "num_inference_steps": config.num_inference_steps,
        "strength": config.strength,
        "guidance_scale": config.guidance_scale, "scheduler": config.scheduler,
    }  # fmt: skip


def open_ways(args: argparse.Namespace, checkpoint: str, device: torch.device, dtype: torch.dtype) -> Ways:
    """Set up the three ways for the recipe given by the arguments: the pocket's classes, scenes and cut-outs."""
    cells = 100
    fields: dict[str, Any] = {
        "checkpoint": checkpoint, "per_cell": {"train": -(-args.images // cells)}, "limit": args.images,
        "batch_size": args.batch_size, "num_inference_steps": args.num_inference_steps, "strength": args.strength,
        "guidance_scale": args.guidance, "device": str(device), "dtype": str(dtype).removeprefix("torch."),
        "size": args.size or find_trained_size(checkpoint), "workers": args.workers,
        "threads": max(1, args.threads // args.workers),
        "formats": ["parquet", "webdataset"] if has_pyarrow() else ["webdataset"],
        # Full batches, and the same number of shards for every worker.
        "shard_size": args.batch_size * max(1, min(6, args.images // args.workers // args.batch_size)),
    }  # fmt: skip
    return Ways(checkpoint, fields, device, dtype, args.simple_images, CLOCKS[args.clock])


def has_pyarrow() -> bool:
    return importlib.util.find_spec("pyarrow") is not None and importlib.util.find_spec("datasets") is not None


def find_trained_size(checkpoint: str) -> int:
    """Return the edge in pixels of the images that a checkpoint was trained for."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = local_directory(checkpoint)
    unet, vae = (model_class.load_config(folder, subfolder=part) for model_class, part in
                 ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")))  # fmt: skip
    return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)


def measure(args: argparse.Namespace, ways: Ways, work: Path) -> list[Row]:
    """Make the images in all ways in turn, for several rounds; the first round is a warm-up."""
    makers: Mapping[str, Callable[[Path], int]] = {SINGLE: ways.single, BATCHED: ways.batched, BUILD: ways.build}
    speeds: dict[str, list[float]] = {name: [] for name in makers}
    differences: dict[str, list[float]] = {SINGLE: [], BATCHED: []}
    for round_ in range(args.rounds + 1):
        order = list(makers)[round_ % 3 :] + list(makers)[: round_ % 3]
        folders = {name: work / f"{round_}-{name.replace(' ', '-')}" for name in order}
        round_speeds = {name: ways.measure_speed(makers[name], folders[name]) for name in order}
        built = read_built(folders[BUILD] / "built")
        if len(built) < ways.count:
            print(f"{ways.count - len(built)} of {ways.count} images were rejected, and not written")
        print(
            f"round {round_}: " + ", ".join(f"{name} {round_speeds[name]:.3g} images/s" for name in makers), flush=True
        )
        if round_:
            for name, speed in round_speeds.items():
                speeds[name].append(speed)
            for name in differences:
                differences[name].append(mean_difference(built, folders[name]))
    rows = [median(name, speeds[name], "images/s") for name in makers]
    rows.append(median_ratio(f"{BUILD} / {SINGLE}", speeds[BUILD], speeds[SINGLE], at_least=3))
    rows.append(median_ratio(f"{BUILD} / {BATCHED}", speeds[BUILD], speeds[BATCHED], at_least=1))
    rows += [median(f"difference of pixels, {BUILD} and {name}", differences[name], "of 255") for name in differences]
    return rows


if __name__ == "__main__":
    main()
