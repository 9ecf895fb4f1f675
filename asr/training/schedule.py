"""The learning rate: linear warm-up, then decay to almost nothing at the end of training."""

from __future__ import annotations

import math

SCHEDULES = ("cosine", "inverse-sqrt", "constant")


def learning_rate(schedule: str, peak: float, warmup: int, step: int, done: float) -> float:
    """The rate of step `step` (from 0) when the share `done` (0 to 1) of all training is behind.

        rate = peak · min(1, (step + 1) / warmup) · decay

    decay: "cosine" ½(1 + cos(π·done)); "inverse-sqrt" √(warmup / step) after the warm-up (Vaswani
    et al. 2017), and linearly to zero over the last tenth; "constant" 1.
    A function of the position alone, so a continued run needs no state of a scheduler.
    """
    rate = peak * min(1.0, (step + 1) / max(1, warmup))
    if schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "inverse-sqrt":
        return rate * math.sqrt(max(warmup, 1) / max(step, warmup, 1)) * min(1.0, 10 * (1 - done))
    return rate
