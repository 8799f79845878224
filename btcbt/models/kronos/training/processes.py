"""The processes that share a fit: this one alone, or those that ``torchrun`` started (DDP through `accelerate`).

Each step's batch is drawn whole by every process and each works on its part; gradients are averaged, so that the
weights stay the same everywhere. Only the first process writes and reports.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from btcbt.errors import ConfigError
from btcbt.models.kronos.inference.devices import resolve_device


def is_first() -> bool:
    """Whether this process is the one that writes and reports, by ``torchrun``'s environment variables."""
    return os.environ.get("RANK", "0") == "0"


def leave_process_group() -> None:
    """Leave the group of processes, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class ProcessGroup:
    """The processes of a fit, as one of them sees them.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``; each process on a machine takes a GPU of its own.

    Raises
    ------
    ConfigError
        If the device is not available, or there are several processes and `accelerate` is not installed.
    """

    def __init__(self, device: str = "auto") -> None:
        self.device = resolve_device(device)
        self.rank, self.world = 0, 1
        self._accelerator: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._join()

    def _join(self) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs
        except ImportError:
            raise ConfigError("several processes need accelerate: pip install 'btcbt[train]'") from None
        # Buffers are constants, and evaluation runs outside of the wrapper with different batches in each process.
        handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
        self._accelerator = Accelerator(cpu=self.device.type == "cpu", kwargs_handlers=handlers)
        self.device = self._accelerator.device
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the processes."""
        return module if self._accelerator is None else self._accelerator.prepare_model(module)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Context in which gradients of a wrapped module accumulate here and are averaged later."""
        return nullcontext() if self._accelerator is None else self._accelerator.no_sync(module)

    def sum(self, values: list[float]) -> list[float]:
        """Sum each value over the processes."""
        if self._accelerator is None:
            return values
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        return [float(value) for value in self._accelerator.reduce(numbers, reduction="sum")]

    def wait(self) -> None:
        """Wait for the other processes."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
