"""Processes that train one model together, one per device, as started by `accelerate launch`; or a single process."""

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
"""Hours that processes wait for the one that draws the prior images."""


@dataclass(frozen=True)
class Processes:
    """This process and its group of training processes."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.count > 1:
            torch.distributed.barrier()

    def any(self, condition: bool) -> bool:
        """Return whether `condition` holds in any process; all processes must call this."""
        if self.count == 1:
            return condition
        flag = torch.tensor([float(condition)], device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over all processes."""
        if self.count > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
            values /= self.count
        return values

    def share(self, values: torch.Tensor) -> torch.Tensor:
        """Return this process's part, (n, …), of a batch that is the same in all processes, (count × n, …)."""
        return values.chunk(self.count)[self.rank]

    def wrap_model(self, model: nn.Module, has_unused: bool) -> nn.Module:
        """Wrap a model so that gradients are averaged over processes.

        Args:
            has_unused: Whether some trained weights get no gradient.
        """
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, find_unused_parameters=has_unused)


def keep_gradients_local(model: nn.Module, local: bool) -> Any:
    """Keep gradients in this process within the context, because more passes follow before the step."""
    is_distributed = isinstance(model, nn.parallel.DistributedDataParallel)
    # For mypy, an unknown attribute of a module is a Tensor or a Module.
    return model.no_sync() if local and is_distributed else contextlib.nullcontext()  # type: ignore[operator]


def single_process(device: torch.device) -> Processes:
    """Return a single process, without others to join."""
    return Processes(0, 1, device)


def join_processes(device: str) -> Processes:
    """Join the processes that were started together, according to the launcher's environment variables.

    Args:
        device: As for `choose_device`; with several processes, each uses its own accelerator.

    Raises:
        FiguregroundError: The device doesn't exist.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return single_process(choose_device(device))
    from accelerate import PartialState

    on_cpu = choose_device(device).type == "cpu"
    state = PartialState(cpu=on_cpu, timeout=timedelta(hours=HOURS_TO_WAIT))
    return Processes(state.process_index, state.num_processes, state.device)
