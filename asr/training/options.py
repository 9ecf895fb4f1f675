"""The options `train` of an experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass

from asr.errors import InputError, nearest
from asr.training.schedule import SCHEDULES

MOST_THREADS = 1024
PRECISIONS = ("auto", "float32", "bfloat16", "float64")


@dataclass
class TrainOptions:
    """How the weights are found."""

    # passes over the training set
    epochs: int = 30
    # highest learning rate (AdamW), reached after the warm-up
    learning_rate: float = 1e-3
    # steps of linear warm-up
    warmup: int = 200
    # decay after it: "cosine", "inverse-sqrt" or "constant"
    schedule: str = "cosine"
    # decay of weight matrices an update, times the learning rate (Loshchilov & Hutter 2019)
    weight_decay: float = 0.01
    # longest gradient (global norm, of the mean loss an utterance)
    clip: float = 5.0
    # the model is the average of this many best epochs by dev WER
    average: int = 5
    # decay a step of a moving average of the weights (0.99 to 0.9999), which then takes their place
    # on the dev set and in the model; 0: none
    ema: float = 0.0
    # "float32", "bfloat16" (mixed), "float64"; "auto": bfloat16 on GPUs, float32 on CPUs
    precision: str = "auto"
    # "cpu", "cuda" or "cuda:N"
    device: str = "cpu"
    # CPU threads; 0: as many as there are cores
    threads: int = 0
    # dev audio decoded after each epoch (seconds), drawn by the seed; 0: all
    max_dev_seconds: float = 0.0
    # steps between records in metrics.jsonl
    log_steps: int = 20
    # minutes between checkpoints within an epoch
    checkpoint_minutes: float = 5.0
    # model folder or experiment whose weights of the same name and shape are the start
    init: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if (given := getattr(self, name)) not in known:
                what = f"train.{name}='{given}' is unknown"
                raise InputError(what, None, nearest(given, known))
        if not 0 <= self.ema < 1:
            raise InputError(f"train.ema={self.ema} must be from 0 to below 1")
        for name in ("epochs", "learning_rate", "clip", "average", "log_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"train.{name}={getattr(self, name)} must be above 0 and finite")
        if self.threads > MOST_THREADS:
            raise InputError(f"train.threads={self.threads} is more than {MOST_THREADS}")
        for name in ("warmup", "weight_decay", "threads", "max_dev_seconds", "checkpoint_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"train.{name}={getattr(self, name)} must not be negative, and finite"
                )
