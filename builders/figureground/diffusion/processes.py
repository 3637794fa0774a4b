"""Several processes that train one model, a device each, as `accelerate launch` starts them; or just this one."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from figureground.core.accelerator import choose_device

HOURS_TO_WAIT = 12
"""How long processes wait for the one that draws the prior images."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    count: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def any(self, truth: bool) -> bool:
        """Whether it is true in any of them; all have to ask."""
        if self.count == 1:
            return truth
        flag = torch.tensor([float(truth)], device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all of them."""
        if self.count > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
            values /= self.count
        return values

    def share(self, values: torch.Tensor) -> torch.Tensor:
        """This process's part of a batch that all have drawn alike; (count × n, …) to (n, …)."""
        return values.chunk(self.count)[self.rank]

    def parallel(self, model: nn.Module, unused: bool) -> nn.Module:
        """The model, with gradients averaged over processes.

        Args:
            unused: Whether some trained weights get no gradient.
        """
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, find_unused_parameters=unused)


def gather_alone(model: nn.Module, alone: bool) -> Any:
    """Within, gradients stay in this process: more passes follow before the step."""
    several = isinstance(model, nn.parallel.DistributedDataParallel)
    # To mypy what a module has no field for is a Tensor or a Module.
    return model.no_sync() if alone and several else contextlib.nullcontext()  # type: ignore[operator]


def join(device: str) -> Processes:
    """The processes that were started together, by the environment that a launcher sets.

    Args:
        device: As `choose_device` takes it; of several processes each takes its own accelerator.

    Raises:
        FiguregroundError: A device that isn't there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, choose_device(device))
    from accelerate import PartialState

    on_cpu = choose_device(device).type == "cpu"
    state = PartialState(cpu=on_cpu, timeout=timedelta(hours=HOURS_TO_WAIT))
    return Processes(state.process_index, state.num_processes, state.device)
