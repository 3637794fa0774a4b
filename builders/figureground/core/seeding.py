"""The one place where torch generators are seeded: with all 63 bits of a seed, on every kind of device.

`torch.Generator.manual_seed` of the CPU reads only the low 32 bits of its seed, so that n² / 2³² of n images share
their noise with another: 23,283 of ten million. Here the whole state of the CPU's Mersenne Twister (19,937 bits) is
filled from the seed by NumPy's `SeedSequence`. CUDA and MPS generators are counters (Philox 4×32-10), whose key is the
full 64-bit seed, so `manual_seed` is exact there. Generators of NumPy and of Python's `random` read seeds of any size.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

_WORDS = 624
"""32-bit words in the state of MT19937."""
_STATE_BYTES = 5056
"""What `Generator.get_state` returns on the CPU: seed (uint64), words left before the next round (int32), whether it is
seeded (int32), next word (uint64), 624 words (uint64 each), and what is kept of normal numbers drawn in pairs."""


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator whose whole state follows from a seed.

    Args:
        seed: From 0 to 2**63 - 1, as `derive_seed` gives it.
        device: Where it draws. Noise of images is drawn on the CPU, so that it is the same whatever the device.

    Raises:
        ValueError: The seed is out of range.
    """
    generator = torch.Generator(device)
    _check(seed)
    if generator.device.type == "cpu":
        generator.set_state(_cpu_state(seed))
    else:
        generator.manual_seed(seed)
    return generator


def seed_default_generators(seed: int) -> None:
    """Seed torch's default generators, of the CPU and of each CUDA device, for what takes no generator of its own
    (initial weights, dropout).

    Args:
        seed: From 0 to 2**63 - 1.

    Raises:
        ValueError: The seed is out of range.
    """
    _check(seed)
    torch.manual_seed(seed)  # accelerators of every kind, whose generators read 64 bits
    torch.default_generator.set_state(_cpu_state(seed))


def _check(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is not from 0 to 2**63 - 1.")


def _cpu_state(seed: int) -> torch.Tensor:
    """The state of a CPU generator, uint8 (5056,), that has drawn nothing yet."""
    # Of a fresh generator, with nothing left of a round and of a pair: only the words and the seed are replaced.
    state = torch.Generator("cpu").manual_seed(0).get_state()
    if state.numel() != _STATE_BYTES:
        raise RuntimeError(
            f"torch {torch.__version__} keeps {state.numel()} bytes of state in a CPU generator, where {_STATE_BYTES} "
            "are known. Install a release of torch that this release of figureground supports."
        )
    words = np.random.SeedSequence(seed).generate_state(_WORDS)
    raw = state.numpy()
    raw[:8] = np.frombuffer(seed.to_bytes(8, sys.byteorder), np.uint8)
    raw[24 : 24 + 8 * _WORDS] = words.astype(np.uint64).view(np.uint8)
    return state
