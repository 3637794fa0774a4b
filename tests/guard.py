"""Shows that a change of the code leaves pixels, labels, keys and weights as they were: `make guard`.

Small datasets are built by each method, with one thread, by the command; so is one training of each kind. The code of
this directory and that of a Git revision do it one after the other, and what differs is named. This takes some minutes.
What a recipe, a card or an index says may differ; what they are about may not.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("threads=1", "shard_size=4")
REPAINTED = (*SMALL, "size=32", "num_inference_steps=2", "training={epochs: 2}")
LEARNED = "{max_train_steps: 3, num_class_images: 4, num_inference_steps: 2, sfsl_weight: 0.5, dtype: bfloat16}"

BED = [sys.executable, "-m", "figureground.pocket.birds", "birds", "--train", "40", "--validation", "8", "--test", "8",
       "--bias-aligned-share", "0.9", "--size", "32"]  # fmt: skip
FIGUREGROUND = [sys.executable, "-m", "figureground"]


def build(method: str, out: str, *settings: str, more: tuple[str, ...] = ()) -> list[str]:
    """The command that builds a dataset."""
    return [*FIGUREGROUND, "build", method, "--out", out, *more, *(x for each in settings for x in ("--set", each))]


DATASETS: dict[str, list[str]] = {
    "d3s": build(
        "d3s", "d3s", *SMALL, "classes=[cat, mug]", "backgrounds=[grass, night]", "per_cell={train: 2, test: 1}",
        "num_inference_steps=3", "image_format=png", "keep=[guide, mask]", "formats=[parquet, webdataset]",
    ),
    "d3s-webp": build(
        "d3s", "d3s-webp", *SMALL, "classes=[cat, mug]", "backgrounds=[grass, night]", "per_cell={train: 1, test: 1}",
        "num_inference_steps=3", "image_format=webp", "seed=3",
    ),
    "spurious": build("spurious", "spurious", *SMALL, "classes=[bird, car]", "per_cell=2", "num_inference_steps=3",
                      "image_format=png", f"finetuning={LEARNED}"),
    "scgs": build("scgs", "scgs", *REPAINTED, "folds=2", "per_class=4", "keep=[mask]", "image_format=png",
                  more=("--data", "birds")),
    "ddb": build("ddb", "ddb", *REPAINTED, "sources=3", "per_source=1", "segmenter=true-masks", "token_images=3",
                 "inversion={max_train_steps: 2}", "attribution_steps=2", "image_format=png", more=("--data", "birds")),
    "extended": [*FIGUREGROUND, "extend", "d3s-webp", "--per-cell", "train=2"],
    "curated": [*FIGUREGROUND, "curate", "d3s", "--out", "curated", "--keep", "background == 'grass'"],
    "merged": [*FIGUREGROUND, "merge", "curated", "night", "--out", "merged"],
}  # fmt: skip
BEFORE = {"merged": [*FIGUREGROUND, "curate", "d3s", "--out", "night", "--keep", "background == 'night'"]}
"""Commands that make what another one takes."""
WAYS = ("erm", "reweight", "jtt", "groupdro", "dfr", "two-stage")


def trainings() -> dict[str, list[str]]:
    """By name, the command that trains."""
    found = {}
    for way in WAYS:
        more = ["--add", "scgs"] if way == "two-stage" else []
        found[f"train {way}"] = [*FIGUREGROUND, "train", way, "--data", "birds", "--out", f"trained-{way}", "--epochs",
                                 "3", "--seeds", "1", "--workers", "1", "--device", "cpu", *more]  # fmt: skip
    return found


def run(command: list[str], folder: Path, code: Path) -> None:
    """Run a command in a folder, with one thread and the package of the checkout `code`.

    Raises:
        SystemExit: It failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code / "builders")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def digest(*parts: bytes) -> str:
    """SHA-256 of parts, each with its length."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def plain(value: Any) -> Any:
    """A row's value as JSON can hold it; bytes by their hash."""
    if isinstance(value, bytes):
        return digest(value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items() if name != "path"}
    return [plain(each) for each in value] if isinstance(value, list) else value


def rows(directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """File and fields of each sample, without provenance, in which a recipe's hash may stand."""
    for path in sorted((directory / "data").rglob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            yield path.name, {name: plain(value) for name, value in row.items() if name != "provenance"}
    for path in sorted((directory / "webdataset").rglob("*.tar")):
        with tarfile.open(path) as file:
            for member in file:
                content = file.extractfile(member)
                data = content.read() if content else b""
                if member.name.endswith(".json"):
                    fields = json.load(io.BytesIO(data))
                    fields.pop("provenance", None)
                    yield path.name, {member.name: fields}
                else:
                    yield path.name, {member.name: digest(data)}


def measure(work: Path, code: Path) -> dict[str, Any]:
    """Build and train everything in a new folder with the package of a checkout; return the hashes by name."""
    found: dict[str, Any] = {}
    work.mkdir()
    run(BED, work, code)
    found["bed"] = digest(*(path.read_bytes() for path in sorted((work / "birds").rglob("*")) if path.is_file()))
    for name, command in DATASETS.items():
        if name in BEFORE:
            run(BEFORE[name], work, code)
        run(command, work, code)
        directory = work / (command[command.index("--out") + 1] if "--out" in command else command[4])
        samples = [json.dumps(each, sort_keys=True, default=str) for each in rows(directory)]
        shards = {path.relative_to(directory).as_posix(): digest(path.read_bytes())
                  for kind in ("data/*", "webdataset/*") for path in sorted(directory.glob(kind))}  # fmt: skip
        if not samples or not shards:
            sys.exit(f"{name}: nothing was built.")
        found[name] = {"samples": [digest(each.encode()) for each in samples], "shards": shards}
    for name, command in trainings().items():
        run(command, work, code)
        out = work / command[command.index("--out") + 1]
        found[name] = {path.relative_to(out).as_posix(): digest(path.read_bytes())
                       for path in sorted(out.rglob("*.safetensors"))}  # fmt: skip
        if not found[name]:
            sys.exit(f"{name}: nothing was trained.")
    learned = sorted(x for name in ("spurious", "ddb") for x in work.glob(f"{name}/_figureground/**/*.safetensors"))
    found["learned"] = {path.relative_to(work).as_posix(): digest(path.read_bytes()) for path in learned}
    return found


def compare(before: Any, now: Any, name: str = "") -> list[str]:
    """Names of what differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        parts = dict.fromkeys([*before, *now])
        return [x for part in parts for x in compare(before.get(part), now.get(part), f"{name} / {part}".lstrip(" /"))]
    return [] if before == now else [name]


def extract(revision: str, folder: Path) -> None:
    """Write the files of a revision of this repository into a new folder.

    Raises:
        SystemExit: Git doesn't know the revision, and has said so.
    """
    packed = subprocess.run(["git", "archive", "--format=tar", revision], cwd=ROOT, stdout=subprocess.PIPE)
    if packed.returncode:
        sys.exit(packed.returncode)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(folder, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD", help="what to compare with; HEAD by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="figureground-guard-") as name:
        folder = Path(name)
        extract(args.revision, folder / "code")
        before, now = measure(folder / "before", folder / "code"), measure(folder / "now", ROOT)
    if changed := compare(before, now):
        sys.exit("\n".join(["These differ:", *changed]))
    print("Nothing differs.")


if __name__ == "__main__":
    main()
