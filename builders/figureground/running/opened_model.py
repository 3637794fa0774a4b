"""A recipe's model, opened on a device, with the numerics with which it draws."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from figureground.core.accelerator import choose_device, processor_name
from figureground.core.numerics import library_versions, read_numerics, usable_cores
from figureground.diffusion.checkpoint import Checkpoint, open_checkpoint
from figureground.diffusion.render import Sampling, find_batch_size
from figureground.models.loras import select_active
from figureground.models.weights import check_size
from figureground.recipe.prompts import refuse_long
from figureground.running.runner import Place
from figureground.shards.shard import NUMERICS

if TYPE_CHECKING:
    from figureground.methods.base import Method


@dataclass(frozen=True)
class OpenedModel:
    """A checkpoint on a device, and how images are drawn with it."""

    checkpoint: Checkpoint
    sampling: Sampling
    numerics: dict[str, Any]
    """What may change an image's last bits, as recorded in `numerics.json`."""


def open_model(method: Method, out: Path, place: Place, started: bool) -> OpenedModel:
    """Open the model and choose the numerics: those of the first shard, or new ones.

    Args:
        started: Whether a shard is finished or being rendered.

    Returns:
        The model; its numerics aren't recorded yet.
    """
    config, processes = method.config, place.local_world_size or method.config.workers
    path = out / NUMERICS
    saved = read_numerics(path) if path.exists() and started else None
    name = config.device if config.device != "auto" or saved is None else saved["device"]
    device = choose_local_device(name, place, processes)
    dtype = config.dtype if config.dtype != "auto" or saved is None else saved["dtype"]
    threads = config.threads or (saved or {}).get("threads") or max(1, usable_cores() // processes)
    torch.set_num_threads(threads)
    checkpoint = open_checkpoint(
        config.checkpoint, (saved or {}).get("revision") or config.revision, device=device,
        dtype=dtype, scheduler=config.scheduler, safety=config.safety, inpaint=method.INPAINTS,
        config=config.checkpoint_config, loras=select_active(config.loras), quantization=config.quantization,
        offload=config.offload,
    )  # fmt: skip
    checkpoint.family.check_route(method.route, f"checkpoint {config.checkpoint!r}")
    check_size(config.size, checkpoint.edge_multiple)
    if config.negative_prompt:
        refuse_long("negative_prompt", repr(config.negative_prompt), checkpoint.count_tokens(config.negative_prompt))
    batch_size, halved = config.batch_size, {}
    if saved and batch_size in (None, saved.get("batch_size_asked")):
        batch_size = saved["batch_size"]
        halved = {name: saved[name] for name in ("batch_size_asked",) if name in saved}
    sampling = Sampling(
        config.size, config.num_inference_steps, config.strength, config.guidance_scale, config.negative_prompt,
        config.eta,
        batch_size or 1, config.compile, config.noise,
        None if config.guidance_interval is None else (config.guidance_interval[0], config.guidance_interval[1]),
        true_cfg_scale=config.true_cfg_scale,
        **method.sampling(),
    )  # fmt: skip
    if not config.batch_size and not saved:
        devices = torch.cuda.device_count() if device.type == "cuda" else 1
        processes_per_device = -(-processes // max(1, devices))
        largest_shard = max((shard.count for shard in method.plan().shards()), default=1)
        size = find_batch_size(checkpoint, sampling, processes_per_device, largest_shard)
        sampling = dataclasses.replace(sampling, batch_size=size)
    numerics = {
        "device": device.type,
        "dtype": str(checkpoint.denoiser.dtype).removeprefix("torch."),
        "batch_size": sampling.batch_size,
        **halved,
        "threads": threads if device.type == "cpu" else None,
        "compile": config.compile,
        "revision": checkpoint.facts["revision"],
        "processor": processor_name(device),
        "versions": library_versions(*_list_libraries(method)),
    }
    return OpenedModel(checkpoint, sampling, numerics)


def choose_local_device(name: str, place: Place, processes: int) -> torch.device:
    """Return the device of a process: of several GPUs, the one of its place on the machine."""
    device = choose_device(name)
    if device.type == "cuda" and device.index is None and (processes > 1 or place.local_rank):
        device = torch.device("cuda", place.local_rank % torch.cuda.device_count())
    return device


def _list_libraries(method: Method) -> list[str]:
    """Return further libraries whose versions can change pixels."""
    config = method.config
    return [*(["peft"] if select_active(config.loras) else []), *(["torchao"] if config.quantization else [])]
