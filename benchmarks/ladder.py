"""Rungs of speed, one by one, with the share of right labels: `python benchmarks/generate.py --ladder`.

Each rung makes the same images in another way, or with other settings. Rungs take turns within a round, so that other
load on the machine slows all of them, and ratios are within a round. Each measurement is saved at once; the same
command resumes a stopped run.

Labels are judged on separate, whole datasets. The settings of `speed=fast` are chosen on the images of one seed, and
judged on those of another, which is not used for the choice.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracle import HEADS, Classifier, Settings, load_or_train, to_pixels
from PIL import Image
from results import Row, format_number, median, median_ratio
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from figureground.core import accelerator
from figureground.core.intervals import difference, wilson
from figureground.core.shares import steps_between, whole_part
from figureground.diffusion.checkpoint import Checkpoint, open_checkpoint, open_scheduler
from figureground.diffusion.render import Renderer, Sampling
from figureground.methods.d3s import D3S
from figureground.models.weights import fingerprint
from figureground.recipe.plan import Plan
from figureground.shards.formats.tar import Tar

SINGLE, BATCHED, BUILD = "one call an image", "plain batches", "this build"
CHOSEN, EXACT = "fast", "exact"

MARGIN = 0.01
"""Labels are as right if the interval of the difference in shares reaches 0 and the difference is above −1 point."""
MULTISTEP = ("dpm++", "unipc")
"""Multistep solvers: DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) and UniPC (Zhao et al. 2023, arXiv 2302.04867)."""
DIVISORS = (1.6, 2.0)
"""The numbers of steps tried are the usual number divided by these."""
INTERVALS = (None, (0.0, 0.8))
"""Guidance intervals tried; the last steps, with little noise, need guidance least."""
VAE_BATCH = 4


@dataclass(frozen=True)
class Rung:
    """A way to make the images."""

    name: str
    base: str = BUILD
    """Name of the rung that this one changes."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the recipe's."""
    change: Callable[[Checkpoint], AbstractContextManager[None]] = lambda opened: nullcontext()
    """Changes the opened networks within a context."""
    dtype: str | None = None
    """Dtype in which the checkpoint is opened, if it isn't the usual one."""


# --- changes of networks ----------------------------------------------------------------------------


@contextmanager
def swapped_layout(opened: Checkpoint) -> Iterator[None]:
    """Lay the denoiser's convolutions out with channels last, or first where a build already has them last."""
    before, after = torch.contiguous_format, torch.channels_last
    if opened.text_to_image.device.type != "cpu":
        before, after = after, before
    opened.denoiser.to(memory_format=after)
    try:
        yield
    finally:
        opened.denoiser.to(memory_format=before)


@contextmanager
def compiled_blocks(opened: Checkpoint) -> Iterator[None]:
    """Within the context, compile the denoiser's repeated blocks with diffusers' `compile_repeated_blocks`."""
    blocks = [part for part in opened.denoiser.modules() if type(part).__name__ in opened.denoiser._repeated_blocks]
    compiled_calls = getattr(opened.denoiser, "_benchmark_compiled", None)
    if compiled_calls is None:
        opened.denoiser.compile_repeated_blocks(dynamic=False)
        opened.denoiser._benchmark_compiled = [block._compiled_call_impl for block in blocks]
    else:
        for block, call in zip(blocks, compiled_calls, strict=True):
            block._compiled_call_impl = call
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


@contextmanager
def fused(opened: Checkpoint) -> Iterator[None]:
    """Compute query, key and value of an attention layer in one matrix product."""
    opened.denoiser.fuse_qkv_projections()
    try:
        yield
    finally:
        opened.denoiser.unfuse_qkv_projections()


@contextmanager
def vae_in_parts(opened: Checkpoint) -> Iterator[None]:
    """Encode and decode `VAE_BATCH` images at a time, whatever the denoiser's batch size."""
    vae, usual = opened.text_to_image.vae, opened.text_to_image.vae._decode

    def decode(latents: torch.Tensor, return_dict: bool = True) -> Any:
        parts = [usual(part, return_dict=False)[0] for part in latents.split(VAE_BATCH)]
        return (torch.cat(parts),) if not return_dict else type(usual(latents[:1]))(sample=torch.cat(parts))

    vae._decode = decode
    try:
        yield
    finally:
        del vae._decode


@contextmanager
def float8_storage(opened: Checkpoint) -> Iterator[None]:
    """Store the denoiser's weights in 8 bits, and compute as before (diffusers' layerwise casting); can't be undone."""
    if not getattr(opened.denoiser, "_benchmark_cast", False):
        compute = opened.denoiser.dtype
        opened.denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)
        opened.denoiser._benchmark_cast = True
    yield


@contextmanager
def int8_weights(opened: Checkpoint) -> Iterator[None]:
    """Quantise the denoiser's weights to 8-bit integers, activations dynamically, by torchao; can't be undone."""
    if not getattr(opened.denoiser, "_benchmark_cast", False):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(opened.denoiser, Int8DynamicActivationInt8WeightConfig())
        opened.denoiser._benchmark_cast = True
    yield


# --- the rungs --------------------------------------------------------------------------------------


def list_candidates(steps: int, strength: float, few: bool = False) -> list[dict[str, Any]]:
    """Return the candidates for the settings of `speed=fast`, those with the fewest evaluations first.

    Args:
        steps: The recipe's steps.
        strength: The share of these steps that is run.
        few: Whether to return only two, for a quick run.
    """
    candidates = [
        {"scheduler": scheduler, "num_inference_steps": n, "guidance_interval": interval and list(interval)}
        for n in dict.fromkeys(max(2, round(steps / divisor)) for divisor in DIVISORS)
        for interval in INTERVALS
        for scheduler in MULTISTEP
        if whole_part(n, strength) >= 2  # second-order solvers are second order from the second step on
    ]
    candidates.sort(key=lambda fields: count_evaluations(fields, strength))
    return candidates[-2:] if few else candidates


def count_evaluations(fields: Mapping[str, Any], strength: float) -> int:
    """Return the number of denoiser evaluations for one image, with guidance."""
    steps = fields["num_inference_steps"]
    num_run = whole_part(steps, strength)
    num_guided = sum(step >= steps - num_run for step in steps_between(steps, fields.get("guidance_interval")))
    return num_run + num_guided


def list_rungs(device: torch.device, usual: D3S, fast: Mapping[str, Any], quick: bool = False) -> list[Rung]:
    """Return the rungs for a device; the first two are scripts on diffusers' pipelines.

    Args:
        usual: The recipe.
        fast: The settings of `speed=fast` that were chosen.
        quick: Whether to leave out rungs that take long on any machine.
    """
    config = usual.config
    interval = fast.get("guidance_interval") or [0.0, 0.8]
    few = {name: fast[name] for name in ("scheduler", "num_inference_steps")}
    rungs = [
        Rung(SINGLE),
        Rung(BATCHED),
        Rung(BUILD),
        Rung("channels last" if device.type == "cpu" else "channels first", change=swapped_layout),
        Rung("compiled blocks", change=compiled_blocks),
        Rung("fused projections", change=fused),
        Rung(f"autoencoder in batches of {VAE_BATCH}", change=vae_in_parts),
        Rung(f"guidance in {interval}", fields={"guidance_interval": interval}),
        Rung("few steps", fields=few),
        Rung(CHOSEN, base="few steps", fields=fast),
    ]
    if quick:  # compiling takes a minute
        return [rung for rung in rungs if rung.change is not compiled_blocks]
    if accelerator.has_bfloat16(device):
        rungs.append(Rung("bfloat16", dtype="bfloat16"))
        rungs.append(Rung("fast, bfloat16", base=CHOSEN, fields=fast, dtype="bfloat16"))
    if device.type == "cuda":
        rungs.append(Rung("float8 weights, stored", change=float8_storage, dtype=config.dtype))
        with contextlib.suppress(ImportError):
            import torchao  # noqa: F401, imported here to learn whether this rung can be measured

            rungs.append(Rung("int8 weights and activations", change=int8_weights, dtype=config.dtype))
    return rungs


# --- what is kept while a ladder is measured --------------------------------------------------------


class Measurements:
    """Measurements so far, in a file that is written after each measurement.

    Args:
        path: The file; a file with other settings is replaced.
        settings: Everything that the measurements depend on.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path = path
        with contextlib.suppress(OSError, ValueError):
            self.content = json.loads(path.read_text())
            if self.content["settings"] == json.loads(json.dumps(settings)):
                return
        self.content = {"settings": settings, "rounds": [], "start": {}, "apart": {}, "failed": {}, "labels": {}}

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.content))
        draft.replace(self.path)


# --- labels -----------------------------------------------------------------------------------------


class Judge:
    """Builds a dataset for each rung and seed and judges its labels, for the pocket model by the oracle.

    Args:
        fields: The recipe.
        oracle: The classifier that judges the labels; None leaves them unjudged.
        folder: Where datasets are built.
    """

    def __init__(self, fields: Mapping[str, Any], oracle: Classifier | None, folder: Path, measurements: Measurements):
        self._fields, self._oracle, self._folder, self._measurements = fields, oracle, folder, measurements

    def judge_labels(self, fields: Mapping[str, Any], seed: int, images: int) -> dict[str, bool] | None:
        """Return by key whether foreground and background are right; None without an oracle for this checkpoint.

        Rejected images count as wrong.
        """
        if self._oracle is None:
            return None
        name = f"{seed}: {images} images, {json.dumps(fields, sort_keys=True)}"
        labels_by_name = self._measurements.content["labels"]
        if name not in labels_by_name:
            began = time.monotonic()
            labels_by_name[name] = self._judge(fields, seed, images)
            self._measurements.save()
            share = np.mean(list(labels_by_name[name].values()))
            print(f"labels of seed {name}: {100 * share:.2f} % right, {time.monotonic() - began:.0f} s", flush=True)
        return {key: bool(right) for key, right in labels_by_name[name].items()}

    def _judge(self, fields: Mapping[str, Any], seed: int, images: int) -> dict[str, int]:
        assert self._oracle is not None
        folder = self._folder / "labels"
        shutil.rmtree(folder, ignore_errors=True)
        settings = {**self._fields, **fields, "seed": seed, "limit": images, "per_cell": {"train": -(-images // 100)}}
        builder = D3S("pocket", **settings)
        builder.build(folder, show_progress=False)
        built_images = read_built(folder)
        shutil.rmtree(folder)
        return {key: int(right) for key, right in find_right_labels(self._oracle, builder.plan(), built_images).items()}


def find_right_labels(oracle: Classifier, plan: Plan, images: Mapping[str, np.ndarray]) -> dict[str, bool]:
    """Return by key whether the oracle sees both labels of each planned image; rejected images count as wrong.

    Args:
        images: The images that were kept, uint8 (height, width, 3), by key.
    """
    answers = oracle.read(np.stack([to_pixels(Image.fromarray(image)) for image in images.values()])).labels
    predicted = {
        key: (HEADS["foreground"][row[0]], HEADS["background"][row[1]])
        for key, row in zip(images, answers, strict=True)
    }
    specs = (spec for shard in plan.shards() for spec in plan.specs(shard))
    return {spec.key: predicted.get(spec.key) == (spec.foreground_name, spec.background_name) for spec in specs}


def compare_right_labels(fast: Mapping[str, bool], exact: Mapping[str, bool]) -> dict[str, Any]:
    """Return shares of right labels, and the paired interval of their difference (fast − exact)."""
    keys = sorted(exact)
    fast_right, exact_right = (np.array([side[key] for key in keys]) for side in (fast, exact))
    image_rows = np.arange(len(keys))
    interval = difference([fast_right], [exact_right], ([image_rows], [image_rows]))
    return {
        "images": len(keys), "right": float(fast_right.mean()), "right_exact": float(exact_right.mean()),
        "difference": interval.value, "low": interval.low, "high": interval.high,
        "as_right": bool(interval.high >= 0 and interval.value > -MARGIN),
        "only_fast_right": int((fast_right & ~exact_right).sum()),
        "only_exact_right": int((exact_right & ~fast_right).sum()),
    }  # fmt: skip


def choose_fields(
    judge: Judge, candidates: list[dict[str, Any]], strength: float, seed: int, images: int
) -> dict[str, Any]:
    """Return the first candidate whose labels are as right as the usual ones, and the result of each one tried.

    Candidates are tried cheapest first; none is drawn after the chosen one. If none is as right, `fields` is empty.
    """
    exact_labels, results = judge.judge_labels({}, seed, images), []
    for fields in candidates:
        fast_labels = judge.judge_labels(fields, seed, images)
        if exact_labels is None or fast_labels is None:
            return {"fields": candidates[-1], "tried": [], "as_right": None}
        results.append(
            {
                "fields": fields,
                "evaluations": count_evaluations(fields, strength),
                **compare_right_labels(fast_labels, exact_labels),
            }
        )
        if results[-1]["as_right"]:
            return {"fields": fields, "tried": results, "as_right": True}
    return {"fields": {}, "tried": results, "as_right": False}


def read_built(folder: Path) -> dict[str, np.ndarray]:
    """Read the images of a dataset's tars by key, uint8 (height, width, 3)."""
    return {
        stored.key: np.asarray(Image.open(io.BytesIO(stored.image)).convert("RGB"))
        for path in sorted((folder / "webdataset").glob("*.tar"))
        for stored in Tar().read(path)
    }


# --- speed ------------------------------------------------------------------------------------------


@contextmanager
def use_scheduler(opened: Checkpoint, name: str, checkpoint: str) -> Iterator[None]:
    """Within the context, give all pipelines of a checkpoint another scheduler."""
    pipelines = [
        pipeline for pipeline in (opened.text_to_image, opened.image_to_image, opened.inpaint) if pipeline is not None
    ]
    earlier_schedulers = [pipeline.scheduler for pipeline in pipelines]
    scheduler = open_scheduler(opened.folder, checkpoint, name)
    try:
        for pipeline in pipelines:
            pipeline.scheduler = scheduler
        yield
    finally:
        for pipeline, earlier in zip(pipelines, earlier_schedulers, strict=True):
            pipeline.scheduler = earlier


class Ladder:
    """Makes the images of one recipe by each rung.

    Args:
        ways: The two scripts, and the build of an opened checkpoint (`generate.Ways`).
        measurements: Receives the measurements.
        folder: Where images are written.
    """

    def __init__(self, ways: Any, device: torch.device, dtype: torch.dtype, measurements: Measurements, folder: Path):
        self._ways, self._device, self._dtype, self._measurements, self._folder = (
            ways,
            device,
            dtype,
            measurements,
            folder,
        )
        self._opened: dict[str, Checkpoint] = {}
        self._flops: dict[str, float] = {}
        self._first_images: dict[str, np.ndarray] = {}
        """The first batch of the rung that was started last, by key."""
        self._build_images: dict[str, np.ndarray] = {}
        """The first batch of this build, by key."""

    def start(self, rung: Rung) -> None:
        """Open a rung's checkpoint and make its first batch; record the seconds taken, or why it failed."""
        if rung.name in (SINGLE, BATCHED):
            opening = self._ways.seconds_plain
        else:
            began = time.perf_counter()
            self._checkpoint(rung)
            opening = time.perf_counter() - began
        try:
            seconds = self._make_first(rung)
        except Exception as error:  # a compiler, a library or the device may raise anything, and other rungs continue
            if rung.name == SINGLE:  # all other rungs are compared with these
                raise
            self._measurements.content["failed"][rung.name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            )
            print(f"{rung.name}: {self._measurements.content['failed'][rung.name]}", flush=True)
        else:
            self._measurements.content["start"][rung.name] = opening + seconds
            self._measurements.content["apart"][rung.name] = self._pixel_difference(rung)
        self._measurements.save()

    def measure_round(self, rungs: list[Rung], number_: int) -> None:
        """Measure images per second of each rung missing in this round; each round starts with another rung."""
        rounds = self._measurements.content["rounds"]
        if len(rounds) == number_:
            rounds.append({})
        offset = number_ % len(rungs)
        for rung in [*rungs[offset:], *rungs[:offset]]:
            if rung.name not in rounds[number_]:
                rounds[number_][rung.name] = self._measure(rung)
                self._measurements.save()
                print(f"round {number_}: {rung.name}, {rounds[number_][rung.name]:.3g} images/s", flush=True)

    def _pixel_difference(self, rung: Rung) -> float:
        """Return the mean difference of a rung's first images from this build's, in levels of 255."""
        images = self._first_images
        if not self._build_images:
            self._make_first(Rung(BUILD))
        common_keys = self._build_images.keys() & images
        return float(
            np.mean([np.abs(images[key].astype(float) - self._build_images[key]).mean() for key in common_keys])
        )

    def flops(self, rung: Rung) -> float:
        """Return the operations of denoiser and autoencoder for one image; attention counts as matrix products."""
        config = self._ways.builder(**rung.fields).config
        name = json.dumps(dict(rung.fields), sort_keys=True)
        if name not in self._flops:
            opened, interval = self._checkpoint(Rung(BUILD)), config.guidance_interval
            sampling = Sampling(
                config.size, config.num_inference_steps, config.strength, config.guidance_scale,
                guidance_interval=interval and tuple(interval),
            )  # fmt: skip
            renderer = Renderer(opened, sampling, self._ways.builder().load_guide)
            spec = self._ways.specs[0]
            with use_scheduler(opened, config.scheduler, config.checkpoint):
                list(renderer.render([spec]))  # prompts are encoded once, and not counted
                with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                    list(renderer.render([spec]))
            self._flops[name] = counter.get_total_flops()
        return self._flops[name]

    def _checkpoint(self, rung: Rung) -> Checkpoint:
        """Return the opened checkpoint of a rung, opened separately if the rung has another dtype."""
        if rung.dtype is None:
            return self._ways.opened
        name = f"{rung.dtype}, {rung.change}"
        if name not in self._opened:
            config = self._ways.builder().config
            self._opened[name] = open_checkpoint(
                config.checkpoint, device=self._device, dtype=rung.dtype, scheduler=config.scheduler
            )
        return self._opened[name]

    def _make_first(self, rung: Rung) -> float:
        """Make and keep one batch; return wall-clock seconds, including the cost of a change such as compiling."""
        with self._fresh_folder() as folder:
            folder.mkdir()
            began = time.perf_counter()
            with self._apply_change(rung):
                self._make(rung, folder, first=True)
            seconds = time.perf_counter() - began
            self._first_images = {path.stem: np.asarray(Image.open(path)) for path in folder.glob("*.jpg")}
            self._first_images |= read_built(folder / "built")
        if rung.name == BUILD:
            self._build_images = self._first_images
        return seconds

    def _measure(self, rung: Rung) -> float:
        """Make all images; return images per second, without the cost of a change."""
        if rung.change is compiled_blocks and not hasattr(self._checkpoint(rung).denoiser, "_benchmark_compiled"):
            self._make_first(rung)  # compiled by an earlier process only
        with self._fresh_folder() as folder, self._apply_change(rung):
            return self._ways.measure_speed(lambda output: self._make(rung, output), folder)

    @contextmanager
    def _fresh_folder(self) -> Iterator[Path]:
        """Yield the path of a folder that doesn't exist, and remove the folder afterwards."""
        folder = self._folder / "rung"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _make(self, rung: Rung, folder: Path, first: bool = False) -> int:
        """Make a rung's images, or only the first batch; return their number."""
        if rung.name in (SINGLE, BATCHED):
            specs = self._ways.specs[: self._ways.batch_size] if first else self._ways.specs
            return (self._ways.single if rung.name == SINGLE else self._ways.batched)(folder, specs)
        limit = {"limit": self._ways.batch_size} if first else {}
        return self._ways.build(folder, self._checkpoint(rung), **rung.fields, **limit)

    @contextmanager
    def _apply_change(self, rung: Rung) -> Iterator[None]:
        if rung.name in (SINGLE, BATCHED):
            yield
            return
        opened, config = self._checkpoint(rung), self._ways.builder(**rung.fields).config
        with rung.change(opened), use_scheduler(opened, config.scheduler, config.checkpoint):
            yield


def run_ladder(
    args: argparse.Namespace, ways: Any, checkpoint: str, device: torch.device, dtype: torch.dtype, ceiling: float
) -> tuple[list[Row], dict[str, Any]]:
    """Measure a ladder; return its rows, and further entries of the JSON.

    Args:
        args: The parsed command line.
        ways: See `Ladder`.
        checkpoint: Name or directory of the checkpoint.
        ceiling: TFLOP/s of a matrix product.
    """
    usual = ways.builder()
    config = usual.config
    identity = {
        **{name: getattr(config, name) for name in ("num_inference_steps", "strength", "guidance_scale", "size")},
        "batch_size": config.batch_size, "threads": config.threads, "images": len(ways.specs),
        "checkpoint": args.random_weights or fingerprint(checkpoint, None), "device": str(device), "dtype": str(dtype),
        "choosing": [args.choosing_seed, args.label_images], "judging": [args.judging_seed, args.judged_images],
    }  # fmt: skip
    name = f"{args.random_weights or Path(args.checkpoint).name}-{device.type}"
    (args.work / "ladder").mkdir(parents=True, exist_ok=True)
    measurements = Measurements(args.work / "ladder" / f"{name}-labels.json", identity)
    oracle = None
    if args.checkpoint == "pocket" and not args.random_weights:
        settings = Settings(pool=128, epochs=1) if args.quick else Settings()
        oracle = load_or_train("oracle", 0, args.oracle_cache or args.work / "ladder", "cpu", settings)
    judge = Judge(ways.fields, oracle, args.work / "ladder", measurements)
    candidates = list_candidates(config.num_inference_steps, config.strength, few=args.quick)
    choice = choose_fields(judge, candidates, config.strength, args.choosing_seed, args.label_images)
    fast = choice["fields"] or candidates[-1]
    rungs, labels = list_rungs(device, usual, fast, args.quick), {}
    if "labels" in args.parts:
        labels = compare_labels(judge, rungs, args.judging_seed, args.judged_images, args.judged)
        if "speeds" not in args.parts:
            raise SystemExit("The labels are kept; the same command without --parts goes on.")
    measurements = Measurements(
        args.work / "ladder" / f"{name}-speeds.json", {**identity, "fast": fast, "clock": args.clock}
    )
    ladder = Ladder(ways, device, dtype, measurements, args.work / "ladder")
    for rung in rungs:
        if rung.name not in (*measurements.content["start"], *measurements.content["failed"]):
            ladder.start(rung)
    rungs = [rung for rung in rungs if rung.name not in measurements.content["failed"]]
    for number_ in range(args.rounds):
        ladder.measure_round(rungs, number_)
    if "labels" not in args.parts:
        raise SystemExit("The speeds are kept; the same command without --parts goes on.")
    rung_rows = [describe(rung, ladder, measurements, ceiling, labels.get(rung.name)) for rung in rungs]
    print_ladder(rung_rows)
    rows = to_rows(rung_rows, measurements, rungs)
    return rows, {
        "ladder": rung_rows,
        "failed": measurements.content["failed"],
        "fast": {**choice, "judged": labels.get(CHOSEN)},
    }


def compare_labels(
    judge: Judge, rungs: list[Rung], seed: int, images: int, selection: str
) -> dict[str, dict[str, Any]]:
    """Compare right labels, on other images, of this build with its own and with those of each rung that changes
    settings or dtype.

    Args:
        selection: `all`, or `fast` for that rung and those with the same settings.
    """
    exact = judge.judge_labels({}, seed, images)
    if exact is None:
        return {}
    changed_rungs = [rung for rung in rungs if rung.fields or rung.dtype]
    changed_rungs.sort(key=lambda rung: rung.name != CHOSEN)  # first, because it matters most if time runs out
    if selection == CHOSEN:
        changed_rungs = [
            rung for rung in changed_rungs if rung.dtype is None and rung.fields == changed_rungs[0].fields
        ]
    comparisons = {BUILD: compare_right_labels(exact, exact)}
    for rung in changed_rungs:
        fields = {**rung.fields, **({"dtype": rung.dtype} if rung.dtype else {})}
        right = judge.judge_labels(fields, seed, images)
        assert right is not None
        comparisons[rung.name] = compare_right_labels(right, exact)
    return comparisons


def describe(
    rung: Rung, ladder: Ladder, measurements: Measurements, ceiling: float, labels: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return a rung's line of the table."""
    speeds = [speeds_of_round[rung.name] for speeds_of_round in measurements.content["rounds"]]
    ratios = [
        speeds_of_round[rung.name] / speeds_of_round[SINGLE] for speeds_of_round in measurements.content["rounds"]
    ]
    speed, flops = statistics.median(speeds), ladder.flops(rung)
    return {
        "name": rung.name, "on": rung.base, "fields": dict(rung.fields), "dtype": rung.dtype,
        "images_per_second": speed, "ratio": statistics.median(ratios), "ratio_low": min(ratios),
        "ratio_high": max(ratios), "gflop_per_image": flops / 1e9, "tflops": flops * speed / 1e12,
        "share_of_ceiling": flops * speed / 1e12 / ceiling,
        "seconds_to_start": measurements.content["start"][rung.name],
        "pixels_apart": measurements.content["apart"][rung.name], "labels": labels,
    }  # fmt: skip


def print_ladder(rung_rows: list[dict[str, Any]]) -> None:
    """Print the ladder as a table."""
    width = max(len(rung_row["name"]) for rung_row in rung_rows)
    print(f"\n{'':<{width}}  images/s       ×  TFLOP/s  of ceiling  start, s  pixels apart  right labels")
    for rung_row in rung_rows:
        labels = rung_row["labels"]
        share = "not judged" if rung_row["fields"] or rung_row["dtype"] else "as this build"
        share = share if labels is None else f"{100 * labels['right']:.2f} %"
        print(
            f"{rung_row['name']:<{width}}  {format_number(rung_row['images_per_second']):>8}  "
            f"{rung_row['ratio']:>6.2f}  {format_number(rung_row['tflops']):>7}  "
            f"{100 * rung_row['share_of_ceiling']:>8.0f} %  "
            f"{format_number(rung_row['seconds_to_start']):>8}  {rung_row['pixels_apart']:>12.3g}  {share}"
        )


def to_rows(rung_rows: list[dict[str, Any]], measurements: Measurements, rungs: list[Rung]) -> list[Row]:
    """Return rows for the results: speeds, ratios to one call per image and to plain batches, and labels."""
    rounds = measurements.content["rounds"]
    speeds = {rung.name: [speeds_of_round[rung.name] for speeds_of_round in rounds] for rung in rungs}
    rows = [median(name, values, "images/s") for name, values in speeds.items()]
    for name in speeds:
        if name != SINGLE:
            target = 3 if name == CHOSEN else None
            rows.append(median_ratio(f"{name} / {SINGLE}", speeds[name], speeds[SINGLE], at_least=target))
    rows.append(median_ratio(f"{BUILD} / {BATCHED}", speeds[BUILD], speeds[BATCHED], at_least=1))
    for rung_row in rung_rows:
        rows.append(Row(f"{rung_row['name']}, to start", rung_row["seconds_to_start"], "s"))
        if labels := rung_row["labels"]:
            low, high = wilson(labels["right"], labels["images"])[1:]
            rows.append(Row(f"{rung_row['name']}, right labels", 100 * labels["right"], "%", 100 * low, 100 * high))
            if rung_row["name"] == CHOSEN:
                rows.append(
                    Row(
                        f"{CHOSEN} − {EXACT}, right labels",
                        100 * labels["difference"],
                        "points",
                        100 * labels["low"],
                        100 * labels["high"],
                    )
                )
    return rows
