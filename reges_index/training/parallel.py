"""Several processes on one run: each takes a part of every optimizer step, gradients are added up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

__all__ = ["Team", "join_team"]

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """A process among those that train together.

    Attributes
    ----------
    rank, size
        Its number, and how many there are; 0 and 1 when it is alone.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def share(self, parts: Sequence[T], sizes: Sequence[int]) -> list[T]:
        """Return this process's part of an optimizer step, so that all have about as many tokens.

        Parameters
        ----------
        parts
            The step's micro-batches.
        sizes
            How long each takes, in tokens.
        """
        loads = [0] * self.size
        mine: list[T] = []
        for index in sorted(range(len(parts)), key=lambda i: (-sizes[i], i)):  # longest first
            rank = loads.index(min(loads))
            loads[rank] += sizes[index]
            if rank == self.rank:
                mine.append(parts[index])
        return mine

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message."""
        if self.size == 1:
            return
        tensors = list(tensors)
        device = tensors[-1].device
        flat = torch.cat([tensor.detach().reshape(-1).to(device, torch.float32) for tensor in tensors])
        dist.all_reduce(flat)
        with torch.no_grad():
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.reshape(tensor.shape))

    def place(self, device: torch.device) -> torch.device:
        """Return where this process's model belongs: on a machine with several GPUs, each has its own."""
        if self.size == 1 or device.type != "cuda":
            return device
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(own)
        return own

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def join_team() -> Team:
    """Join the processes that ``accelerate launch`` or ``torchrun`` started; alone without them."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Team()
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return Team(dist.get_rank(), dist.get_world_size())
