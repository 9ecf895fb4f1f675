"""One step on one global batch: gradients of all processes, checked, then the optimiser's update.

    g = Σ_processes Σ_parts Σ_utterances ∇loss / utterances of the global batch

Gradients, sums of losses and counts go in one message: every process sees the same numbers, takes
the same decisions and keeps the same weights, whatever its rows are, none included. On a CPU the
threads take parts of the rows, where there are LEAST for each: a small matrix product is not twice
as fast on two processors. Parts are summed up in order, and each has random numbers of its own.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from asr.data.loader import Batch, Skipped
from asr.errors import InputError, nearest
from asr.models.common import having, random
from asr.models.recognizer import Recognizer
from asr.training.distributed import Group

# what a CPU, CUDA or one of its libraries says when there is no memory left
NO_MEMORY = re.compile("out of memory|can't allocate memory|ALLOC_FAILED")
LEAST = 4  # utterances that a thread should have: of fewer the matrix products are too small
PRECISIONS = ("auto", "float32", "bfloat16", "float64")
Part = tuple[Tensor, Sequence[Tensor | None]]  # losses (names, rows), gradients


@dataclass
class TrainOptions:
    """How the weights are found."""

    epochs: int = 30  # passes over the training set
    learning_rate: float = 1e-3  # highest learning rate (AdamW), reached after the warm-up
    warmup: int = 200  # steps of linear warm-up
    weight_decay: float = 0.01  # of matrices, times the learning rate (Loshchilov & Hutter 2019)
    clip: float = 5.0  # longest gradient (global norm, of the mean loss an utterance)
    average: int = 5  # the model is the average of this many best epochs by dev WER
    # decay a step of a moving average of the weights (0.99 to 0.9999), which takes their place on
    # the dev set and in the model; 0: none
    ema: float = 0.0
    # "float32", "bfloat16" (mixed), "float64"; "auto": bfloat16 on GPUs, float32 on CPUs
    precision: str = "auto"
    device: str = "cpu"  # "cpu", "cuda" or "cuda:N"
    threads: int = 0  # CPU threads; 0: as many as there are cores
    max_dev_seconds: float = 0.0  # dev audio after each epoch (seconds), drawn by the seed; 0: all
    log_steps: int = 20  # steps between records in metrics.jsonl
    checkpoint_minutes: float = 5.0  # minutes between checkpoints within an epoch
    init: str | None = None  # model or experiment: its weights of the same name and shape are taken

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            what = f"train.precision='{self.precision}' is unknown"
            raise InputError(what, None, nearest(self.precision, PRECISIONS))
        if not 0 <= self.ema < 1:
            raise InputError(f"train.ema={self.ema} must be from 0 to below 1")
        if self.threads > 1024:
            raise InputError(f"train.threads={self.threads} is more than 1024")
        above = ("epochs", "learning_rate", "clip", "average", "log_steps")
        for name, value in vars(self).items():
            if name in above and not 0 < value < math.inf:
                raise InputError(f"train.{name}={value} must be above 0 and finite")
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise InputError(f"train.{name}={value} must be a number from 0 on")


class MovingAverage:
    """EMA of the weights (Polyak & Juditsky 1992), which decodes better than those of one step.

    a ← d·a + (1 - d)·w,   d = min(decay, (1 + n) / (10 + n)) after n steps
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

    @torch.no_grad()
    def swap(self) -> None:
        for weight, average in zip(self.model.parameters(), self.weights.values(), strict=True):
            own = weight.clone()
            weight.copy_(average)
            average.copy_(own)


@dataclass
class Outcome:
    """Of a step, the same in every process."""

    sums: dict[str, float]  # of the losses; "utterances", "norm", "steps"; {}: no audio at all
    seconds: float  # of audio
    stop: bool  # some process was asked to
    bad: list[str] = field(default_factory=list)  # utterances for which no update was made
    unreadable: Skipped = field(default_factory=list)


class Updater:
    """The optimiser (AdamW) of a model and, with `ema` above 0, the average of its weights.

    names: of what `losses` returns, (B,) each, "total" among them. `splits`: batches that memory
    did not hold in one piece. Raises InputError for bfloat16 on a CPU that has none.
    """

    def __init__(
        self,
        model: Recognizer,
        losses: Callable[..., dict[str, Tensor]],
        names: Sequence[str],
        group: Group,
        options: TrainOptions,
        seed: int,
    ) -> None:
        self.model, self.losses, self.names, self.group = model, losses, list(names), group
        self.parameters = list(model.parameters())
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        self.clip, self.seed, self.splits = options.clip, seed, 0
        matrices = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        decayed = {"params": matrices, "weight_decay": options.weight_decay}
        self.optimizer = torch.optim.AdamW([decayed, {"params": others, "weight_decay": 0.0}])
        self.average = MovingAverage(model, options.ema) if options.ema else None
        self._pool = ThreadPoolExecutor(torch.get_num_threads(), "trains")
        place, kind = self.device.type, options.precision
        able = place == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.half = kind == "bfloat16" or (kind == "auto" and able)
        if self.half and place == "cpu" and not cpu_has_bfloat16():
            what = "this processor cannot train in bfloat16"
            raise InputError(what, "train.precision", "`auto` is float32 on CPUs.")

    def state(self) -> dict[str, Any]:
        model = self.model.state_dict()
        state = {"model": model, "splits": self.splits, "optimizer": self.optimizer.state_dict()}
        return state | ({"ema": model | self.average.weights} if self.average else {})

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.splits = state["splits"]
        for name, weight in self.average.weights.items() if self.average else ():
            weight.copy_(state["ema"][name])

    @contextmanager
    def best_weights(self) -> Iterator[None]:
        """The model has its averaged weights, if there are any, within this block."""
        swap = self.average.swap if self.average else lambda: None
        swap()
        try:
            yield
        finally:
            swap()

    def update(self, batch: Batch, step: int, rate: float, stop: bool) -> Outcome:
        """`batch`: this process's share; step: the number of steps before; stop: asked to."""
        self.model.train()
        losses = self._accumulate(batch, step)
        counts = [len(batch.ids), batch.seconds, stop, len(batch.unreadable)]
        sums = [losses[name].sum() for name in self.names]
        last = torch.stack([*sums, *(sums[0].new_tensor(float(n)) for n in counts)])
        for parameter in self.parameters:
            if parameter.grad is None:  # no rows here, or a part of the model that is not used
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.group.add([*gradients, last])
        *values, count, seconds, stops, unreadable = last.tolist()
        outcome = Outcome({}, seconds, stops > 0)
        if unreadable:
            outcome.unreadable = self.group.union(batch.unreadable)
        if count:
            torch._foreach_div_(gradients, count)
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.clip))
            outcome.sums = dict(zip(self.names, values, strict=True))
            outcome.sums |= {"utterances": count, "norm": norm, "steps": 1}
            if all(map(math.isfinite, (norm, *values))):
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                if self.average:
                    self.average.update(step)
            else:
                fine = losses["total"].isfinite().tolist()
                named = [i for i, good in zip(batch.ids, fine, strict=True) if not good]
                outcome.bad = self.group.union(named) or self.group.union(batch.ids)
        self.optimizer.zero_grad()
        return outcome

    def _accumulate(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Losses (B,), gradients in the parameters; where memory runs out, of smaller and smaller
        parts one after the other. Raises InputError if one utterance is too much."""
        first = parts = self._threads(batch)
        while True:
            try:
                return self._backward(batch, step, parts, at_once=parts == first)
            except RuntimeError as error:
                if not NO_MEMORY.search(str(error)):
                    raise
                if parts >= len(batch.ids):
                    what = f"an utterance of {batch.seconds / len(batch.ids):.1f} s or less"
                    what = f"memory for training on {what} is lacking on {self.device}"
                    remedy = "Lower it, or make the model smaller, in a new folder."
                    raise InputError(what, "data.max_seconds", remedy) from error
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.splits += parts == first
            parts = min(2 * parts, len(batch.ids))

    def _threads(self, batch: Batch) -> int:
        """How many parts of a batch are trained on at once."""
        if self.device.type != "cpu":
            return 1
        return max(1, min(torch.get_num_threads(), len(batch.ids) // LEAST))

    def _backward(self, batch: Batch, step: int, parts: int, at_once: bool) -> dict[str, Tensor]:
        """Part k of n has the rows k, k + n, ...: all take about the same time."""
        shape = (len(self.names), len(batch.ids))
        losses = torch.zeros(shape, dtype=self.dtype, device=self.device)
        shares = [slice(k, None, parts) for k in range(parts)] if batch.ids else []
        rows = [batch.rows(share) if parts > 1 else batch for share in shares]
        seeds = [seed_of(self.seed, step, self.group.rank, k) for k in range(parts)]
        done: Iterable[Part] = map(self._part, rows, seeds)
        if at_once and parts > 1:
            each, start = torch.get_num_threads() // parts, self._pool.submit
            jobs = [start(self._part, *job, each) for job in zip(rows, seeds, strict=True)]
            wait(jobs)  # where one fails, the others must not go on beside a second attempt
            done = (job.result() for job in jobs)
        for share, (found, gradients) in zip(shares, done, strict=True):
            losses[:, share] = found
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient
                elif gradient is not None:
                    parameter.grad += gradient
        return dict(zip(self.names, losses, strict=True))

    def _part(self, batch: Batch, seed: int, threads: int | None = None) -> Part:
        """Of some rows, on so many threads."""
        if threads:
            torch.set_num_threads(threads)  # of this thread
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)
        with having(random, torch.Generator(self.device).manual_seed(seed)), half:
            losses = self.losses(**batch.tensors(self.device, self.dtype))
        total = losses["total"].sum()
        gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        return torch.stack([losses[n].detach().to(self.dtype) for n in self.names]), gradients

    def check_memory(self, batch: Batch, seconds: float) -> None:
        """Raises InputError where the largest batch does not fit beside the optimiser's memory;
        seconds: data.batch_seconds."""
        moments = [torch.zeros_like(p) for p in self.parameters for _ in range(2)]
        self.model.train()
        try:
            self._backward(batch, 0, self._threads(batch), at_once=True)
        except RuntimeError as error:
            if not NO_MEMORY.search(str(error)):
                raise
            padded, count = batch.samples.size / self.model.options.sample_rate, len(batch.ids)
            what = f"the largest batch ({count} utterances, {padded:.0f} s of audio with padding)"
            what += f" does not fit into the memory of {self.device}"
            remedy = "Lower it or data.max_seconds." if count < 3 else "Lower it."
            raise InputError(what, f"data.batch_seconds={seconds:g}", remedy) from error
        finally:
            del moments
            self.optimizer.zero_grad()


def cpu_has_bfloat16() -> bool:
    """torch's LSTM in bfloat16 is oneDNN's, which asks for AVX-512."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def seed_of(seed: int, step: int, rank: int, part: int) -> int:
    """The seed of dropout in a step."""
    words = f"{seed} {step} {rank}" + (f" {part}" if part else "")
    digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
