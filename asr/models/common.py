"""What the modules share: checks of options, masks of lengths, dropout. B utterances, T frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor, nn

from asr.errors import InputError, nearest

Length = TypeVar("Length", int, Tensor)
Value = TypeVar("Value")

# Of this thread: torch has one generator for all threads, which would draw in any order.
random: ContextVar[torch.Generator | None] = ContextVar("random", default=None)  # None: torch's
dropping = ContextVar("dropping", default=True)


@contextmanager
def having(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """In this block, and in no other thread, `variable` has this value."""
    before = variable.set(value)
    try:
        yield
    finally:
        variable.reset(before)


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """InputError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise InputError(f"'{value}' is not known", option, nearest(value, choices))


def check_ranges(group: str, options: object, **bounds: tuple[float, float]) -> None:
    """InputError unless low <= value <= high (NaN is not) for each of these options."""
    for name, (low, high) in bounds.items():
        if not low <= (value := getattr(options, name)) <= high:
            remedy = f"It must be between {low:g} and {high:g}."
            raise InputError(f"{value:g} is impossible", f"{group}.{name}", remedy)


def inside(lengths: Tensor, total: int) -> Tensor:
    """lengths (B,) -> (B, total) bool: is the position within the utterance?"""
    return torch.arange(total, device=lengths.device) < lengths[:, None]


class LockedDropout(nn.Module):
    """Dropout with one mask an utterance for all frames (Gal & Ghahramani 2016): better between
    recurrent layers than a mask a frame, and cheap: numbers are drawn serially on CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        if not self.training or self.rate == 0 or not dropping.get():
            return x
        kept = 1 - self.rate
        return x * (torch.empty_like(x[:, :1]).bernoulli_(kept, generator=random.get()) / kept)
