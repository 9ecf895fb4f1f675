"""The moving average of a model's weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """EMA of the weights of `model`, which decodes better than the weights of any one step.

        a ← d·a + (1 - d)·w,   d = min(decay, (1 + n) / (10 + n)) after n steps,

    so that the random weights of the beginning are forgotten at once.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: w.detach().clone() for name, w in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the step of this number, from 0."""
        new = [w.detach() for w in self.model.parameters()]
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), new, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self.model.parameters(), self.weights.values(), strict=True):
            own = weight.clone()
            weight.copy_(average)
            average.copy_(own)

    def state(self) -> dict[str, Tensor]:
        """Like the state of the model."""
        return self.model.state_dict() | self.weights

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(state[name])
