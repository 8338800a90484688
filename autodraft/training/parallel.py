"""Data-parallel training over single-threaded processes on one machine.

On a CPU that is shared with other work, two threads that meet at every kernel wait for each other most
of the time; two processes that meet once a step do not. Knows gradients and ranks, not the model.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn


@dataclass(frozen=True)
class Team:
    """The place of this process among the `size` that train together; alone, every method does nothing."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reports, saves and exports."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Its own rows of a batch that all processes have drawn alike."""
        if len(rows) % self.size:
            raise ValueError(f"a batch of {len(rows)} windows cannot be shared by {self.size} processes")
        return rows[self.rank :: self.size]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes; all must have the same ones."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(self.size)
        dist.all_reduce(flat)
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: float) -> float:
        """The mean of a figure over the processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value / self.size, dtype=torch.float64)
        dist.all_reduce(tensor)
        return float(tensor)

    def leaders(self, value: float) -> float:
        """The leader's figure, so that all processes decide alike."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(tensor, src=0)
        return float(tensor)


def _join(rank: int, size: int, port: int, work: Callable[[Team], None]) -> None:
    # A spawned process is sent SIGINT when its parent dies; heed it even where the shell had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(hours=1))
    try:
        work(Team(rank, size))
    finally:
        dist.destroy_process_group()


def run_team(size: int, work: Callable[[Team], None]) -> None:
    """Call `work` in `size` processes at once; `work` must be picklable. With one, call it here."""
    if size == 1:
        work(Team())
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    mp.spawn(_join, args=(size, port, work), nprocs=size)  # type: ignore[attr-defined, no-untyped-call]
