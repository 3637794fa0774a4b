"""Speed of writing and reading shards: `python benchmarks/shards.py`.

Writes the same encoded samples as a build does (tar, Parquet, SHA-256 of both, syncs, marker) and with
`webdataset.ShardWriter(mtime=0)`, which writes only tars and neither hashes nor syncs; the two take turns. Then reads
the files and decodes the images: the Parquet files with `load_dataset`, whole and streaming; the tars with
`load_dataset`, streaming, and with `webdataset`. All files are in the system's cache when read.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import disable_progress_bars
from PIL import Image
from results import Row, make_parser, make_scratch, median, median_ratio, report

from figureground.core.numerics import library_versions
from figureground.recipe.sample import Spec, derive_seed, make_key
from figureground.shards import index
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.samples import Encoded
from figureground.shards.shard import Shard
from figureground.shards.writer import write_encoded
from figureground.sources.images import encode

FOREGROUNDS = tuple(f"class {i}" for i in range(100))
BACKGROUNDS = tuple(f"scene {i}" for i in range(10))
COLUMNS = Columns(FOREGROUNDS, BACKGROUNDS)
SHARD_SIZE = 1000
STEEPNESS = 1.2
"""Exponent of the decrease of drawn amplitudes with frequency."""


def make_image(size: int, rng: np.random.Generator) -> Image.Image:
    """Draw noise with a spectrum similar to that of photographs, so that its JPEG has a similar size."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((3, size, size))) / frequency**STEEPNESS
    colours = np.fft.irfft2(spectrum, (size, size))
    grey, colours = colours[:1], colours * 0.2
    pixels = 128 + 50 * (grey + colours) / (grey + colours).std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def make_samples(count: int, size: int, seed: int = 0) -> list[Encoded]:
    """Make encoded samples with the usual columns, in shuffled cells, with about as much provenance as in a build."""
    rng = np.random.default_rng(seed)
    samples, versions = [], library_versions()
    for number in rng.permutation(count).tolist():
        i, cell = divmod(number, len(FOREGROUNDS) * len(BACKGROUNDS))
        f, b = divmod(cell, len(BACKGROUNDS))
        name = make_key("train", f, b, i)
        prompt = f"a photo of a {FOREGROUNDS[f]}, {BACKGROUNDS[b]}"
        spec = Spec(name, "train", f, b, FOREGROUNDS[f], BACKGROUNDS[b], prompt, number)
        record = {
            "foreground_name": FOREGROUNDS[f], "background_name": BACKGROUNDS[b], "seed": derive_seed(0, name),
            "guide": {
                "kind": "paste", "cutout": f"{FOREGROUNDS[f]}/{i}.png@{rng.bytes(6).hex()}",
                "template": f"{BACKGROUNDS[b]}/{i}.jpg@{rng.bytes(6).hex()}", "box": rng.integers(0, size, 4).tolist(),
                "flip": bool(i % 2),
            },
            "scheduler": "ddim", "steps": 50, "strength": 0.9, "guidance_scale": 5.0, "negative_prompt": "",
            "size": size, "key": name, "split": "train", "prompt": prompt, "versions": versions,
        }  # fmt: skip
        samples.append(Encoded(spec, encode(make_image(size, rng), "jpg"), json.dumps(record)))
    return samples


def split_into_shards(samples: list[Encoded], shard_size: int) -> list[tuple[Shard, list[Encoded]]]:
    parts = [samples[start : start + shard_size] for start in range(0, len(samples), shard_size)]
    return [(Shard("train", i, len(parts), len(part)), part) for i, part in enumerate(parts)]


def write_as_a_build(samples: list[Encoded], shard_size: int, out: Path) -> None:
    for shard, part in split_into_shards(samples, shard_size):
        write_encoded(out, shard, COLUMNS, part)


def write_with_webdataset(samples: list[dict[str, Any]], shard_size: int, out: Path) -> None:
    from webdataset import ShardWriter

    out.mkdir()
    with ShardWriter(f"{out}/train-%05d.tar", maxcount=shard_size, mtime=0, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)


def to_members(sample: Encoded) -> dict[str, Any]:
    """Convert a sample for `ShardWriter`: the same members that a build writes, already encoded."""
    return {
        "__key__": sample.spec.key, "jpg": sample.image, "json": sample.provenance.encode(),
        "foreground.cls": str(sample.spec.foreground).encode(), "background.cls": str(sample.spec.background).encode(),
        "prompt.txt": sample.spec.prompt.encode(),
    }  # fmt: skip


def measure_seconds(action: Callable[[], object]) -> float:
    """Return the duration in seconds, measured after earlier writes have been flushed to disk."""
    os.sync()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure_writing(samples: list[Encoded], rounds: int, shard_size: int, label: str, work: Path) -> list[Row]:
    """Measure writing, and leave a finished dataset in `work/built`. The first round is a warm-up."""
    members = [to_members(sample) for sample in samples]
    ours: list[float] = []
    theirs: list[float] = []
    for round_ in range(rounds + 1):
        built, plain = work / "built", work / "plain"
        for folder in (built, plain):
            shutil.rmtree(folder, ignore_errors=True)
        ways = [
            (ours, functools.partial(write_as_a_build, samples, shard_size, built)),
            (theirs, functools.partial(write_with_webdataset, members, shard_size, plain)),
        ]
        for speeds, write in ways if round_ % 2 else reversed(ways):
            seconds = measure_seconds(write)
            if round_:
                speeds.append(len(samples) / seconds)
    size = {
        name: sum(path.stat().st_size for path in work.glob(name)) for name in ("built/webdataset/*", "built/data/*")
    }
    shards = [shard for shard, _ in split_into_shards(samples, shard_size)]
    index.finish(built, shards, COLUMNS, {}, CardContext("Benchmark", "benchmark", "", ""))
    images = sum(len(sample.image) for sample in samples)
    return [
        Row(f"{label}: bytes of a JPEG", images / len(samples), "B/sample"),
        Row(f"{label}: bytes in the tars", size["built/webdataset/*"] / len(samples), "B/sample"),
        Row(f"{label}: bytes in the Parquet files", size["built/data/*"] / len(samples), "B/sample"),
        median(f"{label}: written as a build does", ours, "samples/s"),
        median(f"{label}: written with ShardWriter", theirs, "samples/s"),
        median_ratio(f"{label}: a build / ShardWriter", ours, theirs, at_least=0.7),
    ]


def read_parquet(built: Path, cache: Path, *, streaming: bool) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    return load_dataset(str(built), split="train", streaming=streaming, cache_dir=str(cache))


def read_tars(built: Path, cache: Path) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    tars = str(built / "webdataset" / "*.tar")
    return load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True, cache_dir=str(cache))


def read_with_webdataset(built: Path) -> Iterable[dict[str, Any]]:
    from webdataset import WebDataset

    return WebDataset([str(p) for p in sorted((built / "webdataset").glob("*.tar"))], shardshuffle=False).decode("pil")


def take_all(open_samples: Callable[[], Iterable[dict[str, Any]]], column: str, size: int, count: int) -> None:
    """Read every sample with its image decoded, and check that none is missing."""
    num_read = sum(sample[column].size == (size, size) for sample in open_samples())
    if num_read != count:
        raise SystemExit(f"{num_read} of {count} samples were read")


def measure_reading(built: Path, size: int, count: int, rounds: int, label: str, work: Path) -> list[Row]:
    prepared: list[float] = []
    speeds: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        # Each round needs a new cache; otherwise the conversion to Arrow would happen only once.
        cache = work / f"cache-{round_}"
        start = time.perf_counter()
        dataset = read_parquet(built, cache, streaming=False)
        seconds = time.perf_counter() - start
        if round_:
            prepared.append(count / seconds)
        ways: dict[str, tuple[Callable[[], Iterable[dict[str, Any]]], str]] = {
            "Parquet, load_dataset": (functools.partial(iter, dataset), "image"),
            "Parquet, load_dataset streaming": (
                functools.partial(read_parquet, built, cache, streaming=True), "image"),
            "tar, load_dataset streaming": (functools.partial(read_tars, built, cache), "jpg"),
            "tar, webdataset": (functools.partial(read_with_webdataset, built), "jpg"),
        }  # fmt: skip
        names = list(ways)[round_ % len(ways) :] + list(ways)[: round_ % len(ways)]
        for name in names:
            open_samples, column = ways[name]
            seconds = measure_seconds(functools.partial(take_all, open_samples, column, size, count))
            if round_:
                speeds.setdefault(name, []).append(count / seconds)
        del dataset, ways
        shutil.rmtree(cache)
    return [
        median(f"{label}: converted by load_dataset, once", prepared, "samples/s"),
        *(median(f"{label}: read from {name}", speeds[name], "samples/s") for name in sorted(speeds)),
    ]


def main() -> None:
    parser = make_parser(__doc__, "shards")
    parser.add_argument("--small", type=int, default=5000, help="samples of 64 pixels")
    parser.add_argument("--large", type=int, default=1000, help="samples of 512 pixels")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.quick:
        args.small, args.large, args.rounds = 20, 4, 1
    began = time.monotonic()
    disable_progress_bars()
    rows = []
    for size, count in ((64, args.small), (512, args.large)):
        label = f"{size} px"
        print(f"{count} samples of {label} …", flush=True)
        with make_scratch(args.work) as work:
            rows += measure_writing(make_samples(count, size), args.rounds, SHARD_SIZE, label, work)
            rows += measure_reading(work / "built", size, count, max(1, args.rounds // 2), label, work)
    settings = {
        "samples": {"64 px": args.small, "512 px": args.large}, "rounds": args.rounds, "shard_size": SHARD_SIZE,
        "image_format": "jpg",
    }  # fmt: skip
    report("shards", args, rows, settings, began)


if __name__ == "__main__":
    main()
