"""The training loop: steps, dev set, checkpoints; continues exactly where a run was killed.

Nothing random has a running state: batches, augmentation and dropout follow from (seed, epoch,
utterance) and (seed, step), so a checkpoint needs weights, optimiser and position only.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from asr.console import INTERRUPTED, leave, progress, say
from asr.data.loader import Batch, DevSet, TrainingSet
from asr.errors import InputError, nearest
from asr.models.recognizer import Recognizer
from asr.text.tokenizer import Tokenizer
from asr.training.checkpoint import Checkpoints
from asr.training.evaluate import evaluate
from asr.training.metrics import Metrics
from asr.training.schedule import SCHEDULES, learning_rate

USELESS = 0.9  # dev WER above which a finished model deserves a warning


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
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"train.schedule='{self.schedule}' is unknown",
                None,
                nearest(self.schedule, SCHEDULES),
            )
        for name in ("epochs", "learning_rate", "clip", "average", "log_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"train.{name}={getattr(self, name)} must be above 0 and finite")
        for name in ("warmup", "weight_decay", "threads", "max_dev_seconds", "checkpoint_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"train.{name}={getattr(self, name)} must not be negative, and finite"
                )


DIVERGED = 100  # steps in a row without a finite gradient
POSITION = ("step", "epoch", "batch", "bad_steps", "bad_row")  # of a Trainer; in its checkpoints


class Stop:
    """Notes Ctrl-C and SIGTERM while it is open, so that the step is finished first; a second
    one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> Stop:
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


class Trainer:
    """One run in an experiment folder, new or continued.

    model: on its device. After `run`, `unreadable` holds {utterance id: reason}.
    """

    def __init__(
        self,
        model: Recognizer,
        tokenizer: Tokenizer,
        train: TrainingSet,
        dev: DevSet,
        options: TrainOptions,
        seed: int,
        folder: Path,
    ) -> None:
        self.model, self.tokenizer, self.train, self.dev = model, tokenizer, train, dev
        self.options, self.seed, self.folder = options, seed, folder
        self.checkpoints = Checkpoints(folder / "checkpoints")
        matrices = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": options.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
        )
        self.step = self.epoch = self.batch = 0  # batch: consumed in this epoch
        self.history: list[dict[str, Any]] = []  # of each epoch: step, wer, loss
        self.sums = Counter[str]()  # since the last record
        self.epoch_sums = Counter[str]()
        self.bad_steps = self.bad_row = 0  # steps left out: gradient not finite; the last in a row
        self.unreadable: dict[str, str] = dict(train.unreadable)
        self.timing: dict[str, float] = dict.fromkeys(("seconds", "waiting", "audio"), 0.0)
        self.metrics: Metrics | None = None
        self._resume()

    def _resume(self) -> None:
        state = self.checkpoints.last()
        self.metrics_size = state["metrics_size"] if state else 0
        if state:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name in (*POSITION, "history", "unreadable"):
                setattr(self, name, state[name])
            self.sums, self.epoch_sums = Counter(state["sums"]), Counter(state["epoch_sums"])
            say(f"continuing after step {self.step} (epoch {self.epoch + 1})")

    @property
    def best(self) -> list[int]:
        """Steps of the k best epochs by dev WER, best first; of equal ones that of lower loss, and
        above 100 % all are equal: a model that says nothing is no better than one that begins to.
        While none recognises anything the last losses tell; then there is nothing to average.
        """
        ranked = sorted(self.history, key=lambda e: (min(e["wer"], 1.0), e["loss"]))
        count = self.options.average if ranked and ranked[0]["wer"] < 1.0 else 1
        return [epoch["step"] for epoch in ranked[:count]]

    def save(self) -> None:
        state = {name: getattr(self, name) for name in (*POSITION, "history", "unreadable")}
        state["sums"], state["epoch_sums"] = dict(self.sums), dict(self.epoch_sums)
        state["model"] = self.model.state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["metrics_size"] = self.metrics.size if self.metrics else 0
        self.checkpoints.save(state, set(self.best))

    def run(self) -> None:
        """Train to the end and write `model/`.

        Ends the process with status 130 when interrupted, after a checkpoint. Raises InputError
        if the disk is full or training has diverged.
        """
        with Stop() as stop, self._disk():
            self.metrics = Metrics(self.folder, self.metrics_size, self.step)
            try:
                batches = self.train.batches(self.epoch, self.batch, self.options.epochs)
                while self.epoch < self.options.epochs:
                    self._run_epoch(batches, stop)
                self._finish()
            finally:
                self.metrics.close()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, InputError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__  # see whole_file
            if not isinstance(cause, OSError):
                raise
            saved = self.checkpoints.all()
            remedy = f"The last checkpoint, {saved[-1]}, is whole: make" if saved else "Make"
            raise InputError(
                f"cannot write: {cause.strerror or cause}",
                self.folder,
                f"{remedy} room, then run the same command to continue.",
            ) from error

    def _run_epoch(self, batches: Iterator[Batch], stop: Stop) -> None:
        count = len(self.train.sampler.batches(self.epoch))
        begin = saved = time.monotonic()
        self.timing = dict.fromkeys(self.timing, 0.0)
        with progress() as bar:
            task = bar.add_task(
                f"epoch {self.epoch + 1}/{self.options.epochs}",
                total=count * self.options.epochs,
                completed=self.epoch * count + self.batch,
                note="",
            )
            while self.batch < count:
                waiting = time.monotonic()
                batch = next(batches)
                self.timing["waiting"] += time.monotonic() - waiting
                self._train_on(batch, (self.epoch + self.batch / count) / self.options.epochs)
                self.timing["seconds"] = time.monotonic() - begin
                bar.update(task, advance=1, note=self._note())
                if stop.asked:
                    break
                if time.monotonic() - saved > self.options.checkpoint_minutes * 60:
                    self.save()
                    saved = time.monotonic()
            figures: dict[str, float] = {}
            if not stop.asked:
                bar.update(task, note="dev set")
                figures = evaluate(
                    self.model,
                    self.tokenizer,
                    self.dev.batches(),
                    self.dev.texts,
                    lambda: stop.asked,
                )
        if not figures:
            self.save()
            say(f"interrupted after step {self.step}; the same command continues from there")
            leave(INTERRUPTED)
        self._end_epoch(figures)

    def _train_on(self, batch: Batch, done: float) -> None:
        """One step on one batch; `done` is the share of training that is behind (0 to 1)."""
        self.batch += 1
        self.unreadable.update(batch.unreadable)
        if not batch.ids:
            return
        options = self.options
        rate = learning_rate(
            options.schedule, options.learning_rate, options.warmup, self.step, done
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(seed_of(self.seed, self.step))
        self.model.train()
        losses = self.model.losses(**batch.tensors(next(self.model.parameters()).device))
        torch.autograd.backward(losses["total"].sum() / len(batch.ids))
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.clip))
        if math.isfinite(norm):
            self.optimizer.step()
            self.bad_row = 0
            values = {name: float(loss.detach().sum()) for name, loss in losses.items()}
            values |= {"utterances": len(batch.ids), "norm": norm, "steps": 1}
            self.sums.update(values)
            self.epoch_sums.update(values)
        else:
            self._note_bad_step()
        self.optimizer.zero_grad()
        self.step += 1
        self.timing["audio"] += batch.seconds
        if self.step % options.log_steps == 0 and self.sums:
            self._record(rate)

    def _note_bad_step(self) -> None:
        self.bad_steps, self.bad_row = self.bad_steps + 1, self.bad_row + 1
        if self.bad_row == DIVERGED:
            raise InputError(
                f"training has diverged: the last {DIVERGED} steps had no finite gradient",
                self.folder,
                "Lower train.learning_rate or raise train.warmup, and start in a new folder.",
            )

    def _record(self, rate: float) -> None:
        """A line of metrics.jsonl: means since the last one."""
        assert self.metrics is not None
        values: dict[str, float] = {"epoch": self.epoch + 1, **means(self.sums)}
        values |= {"gradient_norm": self.sums["norm"] / self.sums["steps"], "learning_rate": rate}
        values |= {**self._speed(), "bad_steps": self.bad_steps}
        self.metrics.write("train", self.step, values)
        self.sums.clear()

    def _speed(self) -> dict[str, float]:
        """Of this epoch: seconds of audio a second, and the share of time waiting for data."""
        seconds = max(self.timing["seconds"], 1e-9)
        return {
            "audio_per_second": self.timing["audio"] / seconds,
            "waiting": self.timing["waiting"] / seconds,
        }

    def _note(self) -> str:
        speed = self._speed()
        return (
            f"loss {means(self.epoch_sums).get('loss', math.nan):.2f}, "
            f"{speed['audio_per_second']:.0f} s audio/s, {speed['waiting']:.0%} waiting for data"
        )

    def _end_epoch(self, figures: dict[str, float]) -> None:
        assert self.metrics is not None
        values: dict[str, float] = {"epoch": self.epoch + 1, **means(self.epoch_sums)}
        values |= {f"dev_{name}": value for name, value in figures.items()} | self._speed()
        self.metrics.write("epoch", self.step, values)
        self.history.append({"step": self.step, "wer": figures["wer"], "loss": figures["loss"]})
        said = (
            f"epoch {self.epoch + 1}/{self.options.epochs}: step {self.step}, {self._note()}; "
            f"dev {show(figures)}"
        )
        self.epoch, self.batch = self.epoch + 1, 0
        self.epoch_sums.clear()
        self.save()
        say(said)

    def _finish(self) -> None:
        """`model/` from the average of the best checkpoints, and its dev figures."""
        assert self.metrics is not None
        steps = self.best
        self.model.load_state_dict(self.checkpoints.average(steps))
        figures = evaluate(self.model, self.tokenizer, self.dev.batches(), self.dev.texts)
        self.metrics.write("end", self.step, {f"dev_{n}": v for n, v in figures.items()})
        partial = self.folder / "model.part"
        try:
            self.model.tokenizer_hash = self.tokenizer.hash
            self.model.save(partial)
            self.tokenizer.save(partial)
            os.replace(partial, self.folder / "model")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        say(f"model: average of {len(steps)} epochs, dev {show(figures)}")
        if figures["wer"] > USELESS:
            say("warning: it recognises next to nothing: more speech, more epochs, or --init MODEL")


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Mean losses an utterance: "loss" (the total) and those of the heads."""
    names = {"total": "loss", "ctc": "loss_ctc", "att": "loss_att"}
    return {new: sums[old] / sums["utterances"] for old, new in names.items() if old in sums}


def show(figures: dict[str, float]) -> str:
    """ "loss 12.3, WER 20.1 % (ctc), 18.2 % (las)" """
    heads = [f"{figures[f'wer_{h}']:.1%} ({h})" for h in ("ctc", "las") if f"wer_{h}" in figures]
    return f"loss {figures['loss']:.2f}, WER {', '.join(heads)}"


def seed_of(seed: int, step: int) -> int:
    """The seed of dropout in a step."""
    digest = hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
