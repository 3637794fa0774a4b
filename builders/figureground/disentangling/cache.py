"""Frozen features, extracted once and kept in the run's directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from figureground.core.hashing import digest
from figureground.disentangling.trunk import Trunk
from figureground.learn.inference import run_network
from figureground.learn.training_data import Album, Part


def cached_features(
    folder: Path, trunk: Trunk, album: Album, content: str, device: torch.device, workers: int
) -> tuple[Tensor, str]:
    """Return the pooled features of all images of an album, float32 (n, d) on the CPU, and their SHA-256.

    They are read from `features-*.safetensors` in `folder` if they were extracted there before. The name depends on the
    backbone's weights and the images, so features of others are never used; a damaged file is replaced.

    Args:
        content: Identifies the images and their order.
        workers: Number of decoding threads; it doesn't affect results.

    Raises:
        FiguregroundError: A feature isn't finite, or an image can't be decoded.
    """
    key = digest({"trunk": trunk.fingerprint(), "content": content})
    path = folder / f"features-{key[:16]}.safetensors"
    cached = _read_cached(path, len(album))
    if cached is not None:
        return cached
    zeros = np.zeros(len(album), np.int64)
    array = run_network(trunk.backbone, Part(album, zeros, None), device, workers, trunk)
    features = torch.from_numpy(array)
    sha256 = hash_tensor(features)
    _write(path, features, sha256)
    return features, sha256


def hash_tensor(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's numbers."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _read_cached(path: Path, count: int) -> tuple[Tensor, str] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            features, sha256 = file.get_tensor("features"), (file.metadata() or {}).get("sha256", "")
    except (OSError, SafetensorError):
        return None
    return (features, sha256) if len(features) == count and hash_tensor(features) == sha256 else None


def _write(path: Path, features: Tensor, sha256: str) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    save_file({"features": features}, draft, metadata={"sha256": sha256})
    draft.replace(path)
