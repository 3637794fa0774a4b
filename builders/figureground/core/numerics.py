"""Numerics that pixels depend on besides the recipe (device, dtype, batch size, versions), fixed by the first shard."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, create_text, read_object, replace_text
from figureground.core.shapes import Count, MapOf, Optional, check_shape
from figureground.core.terminal import print_note

VERSIONED = ("figureground", "torch", "diffusers", "transformers", "pillow", "numpy", "pyarrow", "webdataset")
"""Libraries whose versions can change pixels or file bytes."""


def library_versions(*extra: str) -> dict[str, str]:
    """Return the versions of `VERSIONED`, and of further libraries."""
    versions = {}
    for name in (*VERSIONED, *extra):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def usable_cores() -> int:
    """Return the number of processor cores that this process may use; a batch system may grant only some.

    A lower `OMP_NUM_THREADS` is respected too.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    requested = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(requested)) if requested.isdigit() and int(requested) else cores


def cpu_model() -> str:
    """Return the name of this machine's CPU, such as `AMD EPYC 7763 64-Core Processor`; its architecture if unknown.

    Linux gives it in `/proc/cpuinfo`, macOS in `sysctl`, Windows in the environment.
    """
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
            return output.strip() or platform.machine()
    with suppress(OSError):
        output = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        facts = dict(reversed([(key.strip(), value.strip()) for key, _, value in _split_lines(output)]))
        if name := facts.get("model name") or facts.get("Model") or _describe_arm(facts):
            return name
    return platform.processor() or platform.machine()


def _split_lines(text: str) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in text.splitlines() if ":" in line]


def _describe_arm(facts: dict[str, str]) -> str:
    """Return implementer, part and revision: ARM servers give these numbers in place of a name."""
    names = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
    numbers = [f"{name.removeprefix('CPU ')} {facts[name]}" for name in names if name in facts]
    return f"{platform.machine()} ({', '.join(numbers)})" if numbers else ""


def create_once(path: Path, text: str) -> None:
    """Write a file atomically, unless another process was first."""
    with suppress(FileExistsError):
        create_text(path, text)


_SHAPE = {
    "device": str, "dtype": str, "batch_size": Count, "threads": Optional((Count, None)),
    "revision": Optional((str, None)), "versions": Optional(MapOf(str)), "mixed": Optional([dict]),
}  # fmt: skip


def read_numerics(path: Path) -> dict[str, Any]:
    """Read the numerics that `record_numerics` recorded in a dataset.

    Raises:
        FileError: They can't be read, or a field is missing or has the wrong type; names the field.
        OSError: They don't exist.
    """
    recorded = read_object(path, root=path.parent.parent)
    try:
        check_shape(recorded, _SHAPE)
    except ValueError as error:
        raise FileError(path, f"{error}. Restore it from a copy, or build into another directory") from None
    return recorded


def record_numerics(path: Path, current: dict[str, Any], allow_mixed: bool, started: bool) -> None:
    """Record the numerics, or compare them with the recorded ones.

    Args:
        started: Whether a shard exists or is being rendered; before that, the numerics may still change.

    Raises:
        FiguregroundError: They differ, and mixing is not allowed.
    """
    if not started or not path.exists():
        replace_text(path, json.dumps({**current, "mixed": []}, indent=2) + "\n")
        return
    refuse_other_numerics(path, current, allow_mixed)
    recorded = read_numerics(path)
    mixed = recorded.pop("mixed", [])
    if _lacks_cpu(recorded, current):
        print_note(
            f"{path}: an earlier release recorded only {recorded['processor']!r} as the processor of the first shards. "
            f"They are taken to be of this one, {current['processor']!r}, which is required from now on."
        )
        recorded |= {"processor": current["processor"]}
        replace_text(path, json.dumps({**recorded, "mixed": mixed}, indent=2) + "\n")
    if recorded != current and current not in mixed:
        replace_text(path, json.dumps({**recorded, "mixed": [*mixed, current]}, indent=2) + "\n")


def refuse_other_numerics(path: Path, current: dict[str, Any], allow_mixed: bool) -> None:
    """Raise FiguregroundError if the recorded numerics differ from these, unless mixing is allowed."""
    recorded = read_numerics(path)
    recorded.pop("mixed", None)
    if _lacks_cpu(recorded, current):
        recorded["processor"] = current["processor"]
    changed = describe_differences(recorded, current)
    if changed and not allow_mixed:
        raise FiguregroundError(
            f"{path}: existing shards were made with other numerics, so the remaining images would differ "
            "slightly:\n  "
            + "\n  ".join(changed)
            + "\nUse the same, or allow it with --set allow_mixed_numerics=true; the card will report it."
        )


def _lacks_cpu(recorded: dict[str, Any], current: dict[str, Any]) -> bool:
    """Whether the recorded processor is only the architecture of this machine, as earlier releases wrote it."""
    processor = recorded.get("processor")
    return current.get("device") != "cuda" and processor == platform.machine() and processor != current.get("processor")
