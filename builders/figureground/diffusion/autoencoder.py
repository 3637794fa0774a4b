"""Autoencoders whose values overflow in float16 compute in float32, also where all else is float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from figureground.models.parts import read_mapping


def autoencoder_dtype(folder: Path, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of a checkpoint's autoencoder.

    That is float32 instead of float16 if its configuration says that it overflows (`force_upcast`), as that of
    Stable Diffusion XL does. On MPS, diffusers converts it itself.

    Args:
        folder: The checkpoint's directory.
        dtype: Dtype of the other networks.
    """
    overflows = read_mapping(folder / "vae" / "config.json").get("force_upcast") is True
    return torch.float32 if dtype == torch.float16 and overflows and device.type != "mps" else dtype


def compute_in_own_dtype(vae: Any) -> None:
    """Let an autoencoder take latents and images of another dtype than its own; encoded ones are returned in theirs.

    Pipelines expect one dtype of all networks. Those that cast the autoencoder themselves, before and after each call,
    would round its weights to float16 on the way, so they are told that there is no need.
    """
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    encode, decode = vae.encode, vae.decode

    def encode_any(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        out = encode(x.to(vae.dtype), *args, **kwargs)
        posterior = out[0]
        cast_posterior = DiagonalGaussianDistribution(posterior.parameters.to(x.dtype))
        if isinstance(out, tuple):
            return (cast_posterior,)
        out.latent_dist = cast_posterior
        return out

    def decode_any(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return decode(z.to(vae.dtype), *args, **kwargs)

    vae.encode, vae.decode = encode_any, decode_any
    vae.register_to_config(force_upcast=False)
