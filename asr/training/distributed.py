"""Several processes as one, started by torchrun; all of torch.distributed is here.

    torchrun --nproc-per-node=4 -m asr train conf/ctc.yaml -o exp/ctc

gloo on CPUs, nccl for tensors on GPUs. The processes see the same files; the first of them, the
leader, writes and speaks for all. With several machines, `--max-restarts` needs
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from asr.console import MISTAKE, leave, stderr
from asr.errors import InputError

Item = TypeVar("Item")
PATIENCE = timedelta(hours=2)  # for a process that lives but does not come; the dead are noticed


class Group:
    """This process among `size`. Every method must be called by all of them, in the same order, and
    raises InputError where one of the others has ended."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.leader = rank, size, rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; one message for all of them."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._call(dist.all_reduce, flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, item: Item) -> list[Item]:
        """The items of all processes by rank."""
        items = [item] * self.size
        self._call(dist.all_gather_object, items, item)
        return items

    def union(self, items: list[Item]) -> list[Item]:
        """The lists of all processes one after the other."""
        return [item for part in self.gather(items) for item in part]

    def share(self, item: Item) -> Item:
        """The leader's item."""
        items = [item]
        self._call(dist.broadcast_object_list, items)
        return items[0]

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            if self.size > 1:
                function(*arguments)
        except RuntimeError as error:
            remedy = "The same command continues; `torchrun --max-restarts` gives it by itself."
            raise InputError("another process of the group has died", None, remedy) from error


@contextmanager
def joined() -> Iterator[Group]:
    """The group that torchrun has made this process a part of, or a group of one.

    However many processes fail, only the first to fail says why: all others were pulled along.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Group()
        return
    store, rank, size = next(rendezvous("env://"))  # torchrun's store: it outlives every rank
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
        # It outlives restarts too, with the addresses of the dead. Machines count theirs singly.
        store = PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    stderr.quiet = rank > 0
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        yield Group(rank, size)
        dist.destroy_process_group()
    except (Exception, KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, who sees that others end
        with suppress(RuntimeError):  # torchrun has ended too
            if store.add("failures", 1) > 1:
                leave(MISTAKE)
        raise
