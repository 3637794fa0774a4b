"""Out-of-memory errors, as torch, its allocators and oneDNN report them."""

import re
from pathlib import Path

import pytest
import torch

import figureground
from figureground.core.accelerator import choose_device, is_out_of_memory
from figureground.core.batches import run_in_halves
from figureground.core.errors import FiguregroundError, OutOfMemory

OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.07 GiB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a memory object"),
    RuntimeError("could not create a primitive"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
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


def make_network(error, most):
    """Return a function that doubles the numbers in a slice, but raises the error for more than `most` of them."""
    numbers = list(range(7))

    def run(rows):
        if len(numbers[rows]) > most:
            raise error
        return [2 * number for number in numbers[rows]]

    return run


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_a_batch_is_halved_whatever_says_that_memory_ran_out(error):
    parts = run_in_halves(make_network(error, 2), [(32, 24)] * 7, "The model m")
    assert parts == [[0], [2, 4], [6, 8], [10, 12]]
    with pytest.raises(OutOfMemory, match=r"^The model m and one image of 32 × 24 px don't fit .* --device cpu\.$"):
        run_in_halves(make_network(error, 0), [(32, 24)] * 7, "The model m")


def test_a_batch_that_fits_runs_once_and_another_error_is_raised():
    assert run_in_halves(make_network(MemoryError(), 7), [(32, 24)] * 7, "m") == [[0, 2, 4, 6, 8, 10, 12]]
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_in_halves(make_network(RuntimeError("mat1 and mat2 shapes"), 2), [(32, 24)] * 7, "m")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
def test_mps_that_is_not_there_is_refused_by_name():
    with pytest.raises(FiguregroundError, match="mps"):
        choose_device("mps")


def test_values_leave_the_device_before_they_become_float64_which_mps_lacks():
    for path in Path(figureground.__file__).parent.rglob("*.py"):
        assert not re.search(r"\.double\(\)\s*\.cpu\(\)", path.read_text(encoding="utf-8")), path
