"""Device, number format and out-of-memory detection of torch."""

from __future__ import annotations

import gc
import re

import torch

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.numerics import cpu_model

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_OUT_OF_MEMORY = re.compile(
    "out of memory|can't allocate memory|bad_alloc|could not create a memory object"
    "|could not create a primitive(?! descriptor)"
)
"""Error texts of allocators. The last two are oneDNN's on a CPU: it can't allocate a tensor, or the code that it
generates for a layer. A missing primitive *descriptor* is a layer that it doesn't support."""

_DEVICE_ERROR = re.compile(r"CUDA (driver )?error|CUDNN_STATUS_\w+|CUBLAS_STATUS_\w+|device-side assert|NVML")


def choose_device(device: str) -> torch.device:
    """Resolve `auto` to the available accelerator.

    Raises:
        FiguregroundError: The device is unknown to torch or not available.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved: torch.device | None = torch.device(device)
    except (RuntimeError, ValueError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda", "mps"):
        raise RecipeError("device", f"{device!r} is unknown; give auto, cpu, cuda, cuda:1 or mps.")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise FiguregroundError(
            f"device: {device!r} is requested, but torch sees {torch.cuda.device_count()} CUDA devices."
        )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise FiguregroundError(f"device: {device!r} is requested, but torch sees no MPS device (Apple silicon).")
    return resolved


def choose_dtype(dtype: str, device: torch.device, half: str = "float16") -> torch.dtype:
    """Resolve `auto`: `half` on CUDA, float32 elsewhere."""
    if dtype == "auto":
        return DTYPES[half] if device.type == "cuda" else torch.float32
    return DTYPES[dtype]


def processor_name(device: torch.device) -> str:
    """Return the processor that results depend on in the last bit.

    On CUDA that is the GPU. On a CPU it is the model and the instructions that torch's kernels use there, such as
    `AMD EPYC 7763 64-Core Processor, AVX2`; the variable `ATEN_CPU_CAPABILITY` can lower these.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = cpu_model()
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else model


def has_bfloat16(device: torch.device) -> bool:
    """Whether the GPU or CPU computes in bfloat16 natively. Emulated, it is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return device.type == "cpu" and any(check is not None and check() for check in checks)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch reports this in several ways."""
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None)
    )  # fmt: skip


def release_memory() -> None:
    """Free the memory left by a batch that didn't fit."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_device_error(error: BaseException) -> bool:
    """Whether an error leaves the device unusable for this process, as CUDA's errors do; full memory doesn't."""
    cause: BaseException | None = error
    while cause is not None:
        matches = isinstance(cause, RuntimeError) and _DEVICE_ERROR.search(str(cause)) is not None
        if (matches or isinstance(cause, getattr(torch, "AcceleratorError", ()))) and not is_out_of_memory(cause):
            return True
        cause = cause.__cause__
    return False
