"""The learning rate: linear warm-up, then decay to almost nothing at the end of training."""

from __future__ import annotations

import math


def learning_rate(peak: float, warmup: int, step: int, done: float) -> float:
    """The rate of step `step` (from 0) when the share `done` (0 to 1) of all training is behind.

        rate = peak · min(1, (step + 1) / warmup) · ½(1 + cos(π·done))

    A function of the position alone, so a continued run needs no state of a scheduler.
    """
    return peak * min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * done))
