"""Examines this machine for `doctor`: devices, memory, packages, cached models, and problems that builds would meet."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figureground.core.extras import EXTRAS
from figureground.core.numerics import cpu_model, usable_cores
from figureground.models.bundled import MATCHER, ROBUST, SEGMENTER, WEIGHTS
from figureground.models.hub_access import SECONDS, find_access_problem

PACKAGE = "figureground"
OTHER_PACKAGES = ("torchvision", "bitsandbytes", "xformers")
"""Distributions whose versions matter if they are installed."""
BUNDLED = {"checkpoint": WEIGHTS, "classifier": ROBUST, "segmenter": SEGMENTER, "matcher": MATCHER}
LOW_DISK = 2 * 10**9
"""Free bytes below which a note is made: a checkpoint of Stable Diffusion takes 4 GB."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with this machine or installation."""

    what: str
    """A sentence."""
    fix: str
    """Advice, a sentence."""
    breaks: bool
    """Whether builds fail because of it."""


def examine(seconds: float = SECONDS) -> dict[str, Any]:
    """Return what this machine has, JSON-serialisable. Loads torch and never downloads anything.

    Args:
        seconds: Time limit for reaching the Hub.

    Returns:
        `version`, `python`, `system`; `cpu`, `cores`; `memory` with `total` and `available` bytes (None if unknown);
        `disk`, by place, with `path` and `free` bytes; `devices`, each with `name`, `kind`, `dtypes`, and for a GPU
        `memory` and `free` bytes; `versions` by distribution; `extras`, by name with `installed`, `missing` and `for`;
        `models`, those in the Hub's cache, with `id`, `revision` and `bytes`; `hub` with `reachable` and `reason`;
        `problems`, each with `what`, `fix` and `breaks`.
    """
    problems: list[Problem] = []
    devices = _find_devices(problems)
    reason = find_access_problem(seconds)
    return {
        "version": _version(PACKAGE), "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "cpu": cpu_model(), "cores": usable_cores(), "memory": _measure_memory(), "disk": _measure_disks(problems),
        "devices": devices, "versions": _find_versions(problems), "extras": _find_extras(),
        "bundled": _find_bundled(problems), "models": _find_cached(),
        "hub": {"reachable": reason is None, "reason": reason},
        "problems": [asdict(problem) for problem in problems],
    }  # fmt: skip


def _find_devices(problems: list[Problem]) -> list[dict[str, Any]]:
    """Return torch's devices, the one that `auto` chooses first."""
    try:
        import torch

        from figureground.core.accelerator import has_bfloat16, processor_name
        from figureground.core.libraries import find_torchvision_mismatch
    except Exception as error:  # a damaged installation fails in many ways
        first = (str(error).splitlines() or [type(error).__name__])[0]
        problems.append(Problem(f"torch can't be imported: {first}", "pip install --upgrade torch", True))
        return []
    if problem := find_torchvision_mismatch():
        problems.append(Problem(problem, "Until then it is ignored, and timm's networks can't be used.", False))
    devices = []
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        try:
            free, total = torch.cuda.mem_get_info(device)
            dtypes = ["float32", "float16", *(["bfloat16"] if has_bfloat16(device) else [])]
            devices.append(
                {"name": f"cuda:{number}", "kind": processor_name(device), "dtypes": dtypes, "memory": total,
                 "free": free}
            )  # fmt: skip
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            problems.append(Problem(f"cuda:{number} can't be used: {first}", "Check the driver: nvidia-smi.", True))
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "kind": cpu_model(), "dtypes": ["float32", "float16"]})
    cpu = torch.device("cpu")
    dtypes = ["float32", *(["bfloat16"] if has_bfloat16(cpu) else [])]
    return [*devices, {"name": "cpu", "kind": processor_name(cpu), "dtypes": dtypes}]


def _measure_memory() -> dict[str, int | None]:
    """Return total and available memory, bytes, as limited by a container (cgroup v2)."""
    total = available = None
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
    if total is None and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        total = min(total or limit, limit)
        available = min(limit - used if available is None else available, limit - used)
    return {"total": total, "available": available}


def _measure_disks(problems: list[Problem]) -> dict[str, dict[str, Any]]:
    """Return free bytes here, in the Hub's cache and in the folder of temporary files."""
    from huggingface_hub import constants

    disks: dict[str, dict[str, Any]] = {}
    places = {"here": Path.cwd(), "cache": Path(constants.HF_HUB_CACHE), "temporary": Path(tempfile.gettempdir())}
    for name, place in places.items():
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        disks[name] = {"path": str(place), "free": free}
        if free < LOW_DISK:
            message = f"The disk of {place} has only {free / 1e9:.1f} GB free."
            problems.append(Problem(message, "Free some space before a build with a downloaded checkpoint.", False))
    return disks


def _find_versions(problems: list[Problem]) -> dict[str, str | None]:
    """Return the versions of this package's dependencies, None for a missing one, and of installed `OTHER_PACKAGES`."""
    from packaging.requirements import Requirement

    versions: dict[str, str | None] = {}
    try:
        required = [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or ()]
    except importlib.metadata.PackageNotFoundError:
        required = []
    for requirement in required:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = versions[requirement.name] = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            message = f"{requirement.name} {version or 'is missing'}" + (
                f", {requirement.specifier} is needed" if version else ""
            )
            problems.append(
                Problem(f"{message}.", f"pip install --upgrade '{requirement.name}{requirement.specifier}'", True)
            )
    return {**versions, **{name: version for name in OTHER_PACKAGES if (version := _version(name)) is not None}}


def _find_extras() -> dict[str, dict[str, Any]]:
    return {
        name: {"installed": not (missing := [package for package in extra.packages if _version(package) is None]),
               "missing": missing, "for": extra.purpose}
        for name, extra in EXTRAS.items()
    }  # fmt: skip


def _find_bundled(problems: list[Problem]) -> list[str]:
    """Return the names of the pocket model's networks that are installed."""
    installed = [name for name, folder in BUNDLED.items() if any(folder.rglob("*.safetensors"))]
    for name in BUNDLED:
        if name not in installed:
            problems.append(Problem(f"The pocket model's {name} is missing.", "Reinstall figureground.", True))
    return installed


def _find_cached() -> list[dict[str, Any]]:
    """Return the models in the Hub's cache, by id and revision."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return []
    models = [
        {"id": repo.repo_id, "revision": revision.commit_hash, "bytes": revision.size_on_disk}
        for repo in repos
        if repo.repo_type == "model"
        for revision in repo.revisions
    ]
    return sorted(models, key=lambda model: (model["id"], model["revision"]))


def _version(distribution: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None
