"""Dropout whose mask stays the same for all frames of an utterance, and what it is drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

# Of this thread: torch has one generator for all threads, which would draw in any order.
random: ContextVar[torch.Generator | None] = ContextVar("random", default=None)  # None: torch's
_off = ContextVar("_off", default=False)


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[None]:
    """In this block, and in no other thread, models draw from `generator`."""
    before = random.set(generator)
    try:
        yield
    finally:
        random.reset(before)


@contextmanager
def no_dropout() -> Iterator[None]:
    """In this block, and in no other thread, nothing is dropped."""
    before = _off.set(True)
    try:
        yield
    finally:
        _off.reset(before)


class LockedDropout(nn.Module):
    """Dropout with one mask an utterance for all frames (Gal & Ghahramani 2016).

    Better than a mask a frame between recurrent layers, and cheap: random numbers are drawn
    serially on CPU, here B·D of them instead of B·T·D.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        if not self.training or self.rate == 0 or _off.get():
            return x
        kept = 1 - self.rate
        mask = torch.empty_like(x[:, :1]).bernoulli_(kept, generator=random.get()) / kept
        return x * mask
