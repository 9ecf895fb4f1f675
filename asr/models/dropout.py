"""Dropout whose mask stays the same for all frames of an utterance."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        if not self.training or self.rate == 0:
            return x
        mask = torch.empty_like(x[:, :1]).bernoulli_(1 - self.rate) / (1 - self.rate)
        return x * mask
