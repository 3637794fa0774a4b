"""Out-of-memory errors, as torch, its allocators and oneDNN report them."""

import re
from pathlib import Path

import pytest
import torch

import figureground
from figureground.core.accelerator import choose_device, is_out_of_memory
from figureground.core.errors import FiguregroundError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.07 GiB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a memory object"),
        RuntimeError("could not create a primitive"),
    ],
    ids=str,
)
def test_memory_ran_out(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive descriptor for the matmul primitive."),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ValueError("out of memory"),
    ],
    ids=str,
)
def test_another_error(error):
    assert not is_out_of_memory(error)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
def test_mps_that_is_not_there_is_refused_by_name():
    with pytest.raises(FiguregroundError, match="mps"):
        choose_device("mps")


def test_values_leave_the_device_before_they_become_float64_which_mps_lacks():
    for path in Path(figureground.__file__).parent.rglob("*.py"):
        assert not re.search(r"\.double\(\)\s*\.cpu\(\)", path.read_text(encoding="utf-8")), path
