"""Seeds torch generators with all 63 bits of a seed, on every kind of device; the only module that does so.

On the CPU, `torch.Generator.manual_seed` reads only the low 32 bits of its seed, so n² / 2³² of n images would share
their noise with another: 23,283 of ten million. This module fills the whole state of the CPU's Mersenne Twister (19,937
bits) from the seed, by NumPy's `SeedSequence`. CUDA and MPS generators are counters (Philox 4×32-10) whose key is the
full 64-bit seed, so `manual_seed` is exact there. Generators of NumPy and of Python's `random` read seeds of any size.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

_WORDS = 624
"""32-bit words in the state of MT19937."""
_STATE_BYTES = 5056
"""Size of the state that `Generator.get_state` returns on the CPU: seed (uint64), words left before the next round
(int32), whether it is seeded (int32), next word (uint64), 624 words (uint64 each), and cached normal numbers, which are
drawn in pairs."""


def make_generator(seed: int) -> torch.Generator:
    """Return a new generator on the CPU whose whole state is determined by a seed.

    Noise is drawn on the CPU, so that images don't depend on the device.

    Args:
        seed: From 0 to 2**63 - 1, as from `derive_seed`.

    Raises:
        ValueError: The seed is out of range.
    """
    _check_seed(seed)
    generator = torch.Generator()
    generator.set_state(_cpu_state(seed))
    return generator


def seed_default_generators(seed: int) -> None:
    """Seed torch's default generators, of the CPU and of each CUDA device.

    They are used by operations without a generator argument (initial weights, dropout).

    Args:
        seed: From 0 to 2**63 - 1.

    Raises:
        ValueError: The seed is out of range.
    """
    _check_seed(seed)
    torch.manual_seed(seed)  # also seeds accelerators, whose generators take all 64 bits
    torch.default_generator.set_state(_cpu_state(seed))


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is outside 0 to 2**63 - 1.")


def _cpu_state(seed: int) -> torch.Tensor:
    """Return the state of a CPU generator, uint8 (5056,), that has drawn nothing yet."""
    # Start from a fresh generator, with no partial round or pair, and replace only the words and the seed.
    state = torch.Generator("cpu").manual_seed(0).get_state()
    if state.numel() != _STATE_BYTES:
        raise RuntimeError(
            f"torch {torch.__version__} has {state.numel()} bytes of state in a CPU generator, not the expected "
            f"{_STATE_BYTES}. Install a release of torch that this release of figureground supports."
        )
    words = np.random.SeedSequence(seed).generate_state(_WORDS)
    raw = state.numpy()
    raw[:8] = np.frombuffer(seed.to_bytes(8, sys.byteorder), np.uint8)
    raw[24 : 24 + 8 * _WORDS] = words.astype(np.uint64).view(np.uint8)
    return state
