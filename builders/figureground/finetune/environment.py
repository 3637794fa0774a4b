"""Environment of a fine-tuning: its peak memory, and the versions of its libraries."""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError, version

import torch

from figureground.core.numerics import library_versions
from figureground.core.system import peak_resident_memory


def measure_peak_memory(device: torch.device) -> float:
    """Return the peak memory so far, in MB: of the device, or on a CPU this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_resident_memory() / 1e6


def list_versions() -> dict[str, str]:
    """Return the versions of the libraries that a fine-tuning uses, as far as they are installed."""
    installed = {**library_versions(), "accelerate": version("accelerate")}
    for name in ("peft", "bitsandbytes"):
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
