"""The training loop: steps, dev set, checkpoints; continues exactly where a run was killed.

Nothing random has a running state: batches, augmentation and dropout follow from (seed, epoch,
utterance) and (seed, step, rank); a checkpoint needs weights, optimiser and position only.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import IO, Any, NoReturn

import torch
from torch.utils.tensorboard import SummaryWriter

from asr.console import INTERRUPTED, leave, progress, say
from asr.data.loader import Batch, DevSet, TrainingSet
from asr.errors import InputError
from asr.models.recognizer import Recognizer
from asr.training.checkpoint import Checkpoints, read, weights_of
from asr.training.distributed import Group
from asr.training.evaluate import evaluate
from asr.training.mwer import MWER
from asr.training.schedule import learning_rate
from asr.training.update import TrainOptions, Updater

POOR, USELESS = 0.5, 0.9  # dev WER above which a finished model deserves a warning
DIVERGED = 20  # steps in a row without a finite loss and gradient
SHOWN = 10  # utterances named where a loss is not finite
# of a Trainer, in its checkpoints
SAVED = ("step", "epoch", "batch", "bad_steps", "bad_row", "good", "history", "unreadable", "sets")
LOSSES = {"total": "loss", "ctc": "loss_ctc", "att": "loss_att", "mwer": "loss_mwer"}


@contextmanager
def signals() -> Iterator[Event]:
    """Ctrl-C and SIGTERM within the block set the event, so that the step is finished first; a
    second one interrupts, but not within a second: a cluster sends them on two ways."""
    stop, first = Event(), 0.0

    def note(*_: object) -> None:
        nonlocal first
        before, first = first, time.monotonic()
        if before and first > before + 1:
            raise KeyboardInterrupt
        if not before:
            stop.set()

    old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Trainer:
    """One run in an experiment folder, new or continued. After it `unreadable` holds {utterance id:
    reason} of all sets. group: each process has its share of every batch; the leader writes."""

    def __init__(
        self,
        model: Recognizer,
        train: TrainingSet,
        dev: DevSet,
        options: TrainOptions,
        folder: Path,
        group: Group,
        mwer: MWER | None = None,
    ) -> None:
        self.model, self.train, self.dev, self.tokenizer = model, train, dev, train.maker.tokenizer
        self.options, self.folder, self.group = options, folder, group
        self.share = slice(group.rank, None, group.size)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        there = {"ctc": model.has_ctc, "att": model.has_speller, "mwer": mwer is not None}
        names = ["total", *(name for name, is_there in there.items() if is_there)]
        losses, seed = (mwer or model).losses, train.maker.seed
        self.updater = Updater(model, losses, names, group, options, seed)
        self.step = self.epoch = self.batch = 0  # batch: consumed in this epoch
        self.good = 0  # the last step saved whose loss and gradient were finite
        self.history: list[dict[str, Any]] = []  # of each epoch: step, wer, loss
        self.sums, self.epoch_sums = Counter[str](), Counter[str]()  # self.sums: of a record
        self.bad_steps = self.bad_row = 0  # steps left out as not finite; the last in a row
        self.unreadable: dict[str, str] = dict(train.unreadable)
        self.sets: dict[str, str] = {}  # hash of each manifest
        self.timing: dict[str, float] = dict.fromkeys(("seconds", "waiting", "audio"), 0.0)
        self.begun = 0.0  # this epoch, by the monotonic clock
        self.record: IO[bytes] | None = None  # the leader's metrics.jsonl
        state = group.share(self.checkpoints.last() if group.leader else None)
        self.metrics_size = 0
        if state:
            self._continue(state)
            say(f"continuing after step {self.step} (epoch {self.epoch + 1})")

    def _continue(self, state: dict[str, Any]) -> None:
        """Raises InputError where the checkpoint lacks a part, as those of older versions may."""
        try:
            self.updater.load_state(state)
            for name in (*SAVED, "metrics_size"):
                setattr(self, name, state[name])
            self.sums, self.epoch_sums = Counter(state["sums"]), Counter(state["epoch_sums"])
            self.model.window = state["window"]
        except KeyError as error:
            what = f"its checkpoints were made by an older version (they lack {error})"
            remedy = "Start again in another folder, or end it with the version that began it."
            raise InputError(what, self.folder, remedy) from error

    @property
    def best(self) -> list[int]:
        """Steps of the k best epochs by dev WER, then loss, best first; above 100 % all are equal:
        saying nothing is no better than beginning to. While none recognises anything, of one."""
        ranked = sorted(self.history, key=lambda e: (min(e["wer"], 1.0), e["loss"]))
        count = self.options.average if ranked and ranked[0]["wer"] < 1.0 else 1
        return [epoch["step"] for epoch in ranked[:count]]

    def save(self) -> None:
        if not self.group.leader:
            return
        self.good = self.good if self.bad_row else self.step
        state = {name: getattr(self, name) for name in SAVED} | self.updater.state()
        state |= {"sums": dict(self.sums), "epoch_sums": dict(self.epoch_sums)}
        state |= {"window": self.model.window}
        state["metrics_size"] = self.record.tell() if self.record else 0
        self.checkpoints.save(state, {self.good, *self.best})

    def run(self) -> None:
        """Train to the end and write `model/`; when interrupted, leave with status 130 after a
        checkpoint. Raises InputError if the disk or memory is too small or training diverged."""
        epochs = self.options.epochs
        with signals() as stop:
            try:
                with ExitStack() as files:
                    if self.group.leader:
                        self._open(files)
                    batches = self.train.batches(self.epoch, self.batch, epochs, self.share)
                    while self.epoch < epochs:
                        self._run_epoch(batches, stop)
                    self._finish(stop)
            except (OSError, InputError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__  # see whole_file
                read = isinstance(error, InputError) and "cannot be written" not in error.what
                if read or not isinstance(cause, OSError):
                    raise
                saved = self.checkpoints.all()
                remedy = f"The last checkpoint, {saved[-1]}, is whole. " if saved else ""
                full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
                remedy += f"{'Make room' if full else 'Mend that'}, then continue with: "
                remedy += "torchrun ... -m " if self.group.size > 1 else ""
                remedy += shlex.join(["asr", *sys.argv[1:]])
                what = f"cannot write: {cause.strerror or cause}"
                raise InputError(what, self.folder, remedy) from error

    def _open(self, files: ExitStack) -> None:
        """metrics.jsonl, less what a killed run wrote after its checkpoint, and TensorBoard."""
        path, board = self.folder / "metrics.jsonl", str(self.folder / "tensorboard")
        self.record = files.enter_context(open(path, "ab"))
        self.record.truncate(min(self.metrics_size, path.stat().st_size))
        self.record.seek(0, 2)
        self.board = files.enter_context(SummaryWriter(board, purge_step=self.step))

    def _run_epoch(self, batches: Iterator[Batch], stop: Event) -> None:
        count, epochs = len(self.train.sampler.batches(self.epoch)), self.options.epochs
        self.begun = saved = time.monotonic()
        self.timing = dict.fromkeys(self.timing, 0.0)
        stopped, behind = False, self.epoch * count + self.batch
        with progress() as bar:
            name = f"epoch {self.epoch + 1}/{epochs}"
            task = bar.add_task(name, total=count * epochs, completed=behind, note="")
            while self.batch < count and not stopped:
                asked = time.monotonic()
                batch = next(batches)
                self.timing["waiting"] += time.monotonic() - asked
                done = (self.epoch + self.batch / count) / epochs
                stopped = self._train_on(batch, done, stop.is_set())
                bar.update(task, advance=1, note=self._note())
                late = time.monotonic() - saved > self.options.checkpoint_minutes * 60
                if late and not stopped and not self.bad_row:
                    self.save()
                    saved = time.monotonic()
            if not stopped and not (self.epoch_sums or self.timing["audio"]):
                *_, (id, reason) = [("", ""), *self.unreadable.items()]
                what = f"no audio of the training set can be used any more ({id}: {reason})"
                raise InputError(what, self.folder, "Mend that; the same command continues.")
            bar.update(task, note="dev set")
            figures = {}
            if not stopped:
                with self.updater.best_weights():
                    figures = self._evaluate(stop)
        if not figures:
            self.save()
            self._leave()
        self._end_epoch(figures)

    def _leave(self) -> NoReturn:
        said = f"interrupted after step {self.step}; the same command continues from there"
        if self.epoch:
            said += f", with --set train.epochs={self.epoch} it ends with what there is"
        say(said)
        leave(INTERRUPTED)

    def _evaluate(self, stop: Event) -> dict[str, float]:
        """Figures of the weights as they are; {} if it was interrupted."""
        batches, texts = self.dev.batches(self.share), self.dev.texts
        return evaluate(self.model, self.tokenizer, batches, texts, stop.is_set, self.group)

    def _train_on(self, batch: Batch, done: float, stop: bool) -> bool:
        """One step, the share `done` of training behind; whether some process was asked to stop."""
        options = self.options
        rate = learning_rate(options.learning_rate, options.warmup, self.step, done)
        outcome = self.updater.update(batch, self.step, rate, stop)
        self.timing["seconds"] = time.monotonic() - self.begun
        self.batch += 1
        self.unreadable.update(outcome.unreadable)
        if not outcome.sums:
            return outcome.stop
        self.step += 1
        self.timing["audio"] += outcome.seconds
        if outcome.bad:
            self._note_bad_step(outcome.bad, batch)
        else:
            self.bad_row = 0
            self.sums.update(outcome.sums)
            self.epoch_sums.update(outcome.sums)
        if self.step % options.log_steps == 0 and self.sums:  # means since the last record
            norm = self.sums["norm"] / self.sums["steps"]
            values = {"epoch": self.epoch + 1, **means(self.sums), "gradient_norm": norm}
            values |= {"learning_rate": rate, "bad_steps": self.bad_steps}
            values |= {"split_batches": self.updater.splits, **self._speed()}
            self._write("train", values)
            self.sums.clear()
        return outcome.stop

    def _note_bad_step(self, utterances: list[str], batch: Batch) -> None:
        self.bad_steps, self.bad_row = self.bad_steps + 1, self.bad_row + 1
        names = ", ".join(utterances[:SHOWN]) + (", ..." if len(utterances) > SHOWN else "")
        say(f"step {self.step}: the loss or its gradient is not finite; left out: {names}")
        if self.bad_row < DIVERGED:
            return
        remedy = "Lower train.learning_rate or raise train.warmup, and start in a new folder"
        if self.group.leader and (good := self._last_good(batch)):
            self._write_model(self.folder / "last_good", good)
            remedy += f", with --init {self.folder / 'last_good'}: the last weights that were good"
        what = f"training has diverged: {DIVERGED} steps in a row were left out (last: {names})"
        raise InputError(what, self.folder, f"{remedy}.")

    def _last_good(self, batch: Batch) -> dict[str, Any] | None:
        """The newest checkpoint's weights with which the losses of `batch` are finite."""
        tensors = batch.tensors(self.updater.device, self.updater.dtype)
        for state in map(read, reversed(self.checkpoints.all())):
            if state:
                self.updater.load_state(state)
                with torch.no_grad():
                    losses = self.updater.losses(**tensors)["total"]
                if losses.isfinite().all():
                    return weights_of(state)
        return None

    def _write(self, kind: str, values: dict[str, float]) -> None:
        """A line of metrics.jsonl: "train" every few steps, "epoch", "end"."""
        if not self.record:
            return
        line = json.dumps({"kind": kind, "step": self.step, **values}, ensure_ascii=False)
        self.record.write(line.encode() + b"\n")
        self.record.flush()
        for name, value in values.items():
            self.board.add_scalar(f"{kind}/{name}", value, self.step)
        if kind != "train":
            self.board.flush()

    def _speed(self) -> dict[str, float]:
        """Of this epoch: seconds of audio a second, and the share of time waiting for data."""
        audio, waiting = self.timing["audio"], self.timing["waiting"]
        seconds = max(self.timing["seconds"], 1e-9)
        return {"audio_per_second": audio / seconds, "waiting": waiting / seconds}

    def _note(self) -> str:
        loss, speed = means(self.epoch_sums).get("loss", math.nan), self._speed()
        rate = f"{speed['audio_per_second']:.0f} s audio/s"
        return f"loss {loss:.2f}, {rate}, {speed['waiting']:.0%} waiting for data"

    def _end_epoch(self, figures: dict[str, float]) -> None:
        dev = {f"dev_{name}": value for name, value in figures.items()}
        values = {"epoch": self.epoch + 1, **means(self.epoch_sums), **dev, **self._speed()}
        self._write("epoch", values)
        self.history.append({"step": self.step, "wer": figures["wer"], "loss": figures["loss"]})
        said = f"epoch {self.epoch + 1}/{self.options.epochs}: step {self.step}, {self._note()}; "
        self.epoch, self.batch = self.epoch + 1, 0
        self.epoch_sums.clear()
        self.save()
        say(f"{said}dev {show(figures)}")

    def _finish(self, stop: Event) -> None:
        """`model/` from the average of the best checkpoints, and its dev figures."""
        steps = self.best
        average = self.group.share(self.checkpoints.average(steps) if self.group.leader else {})
        self.model.load_state_dict(average)
        figures = self._evaluate(stop)
        if not figures:
            self._leave()
        for part in self.group.gather(self.dev.unreadable):
            self.unreadable |= part
        self._write("end", {f"dev_{n}": v for n, v in figures.items()})
        if self.group.leader:
            self._write_model(self.folder / "model", average)
        say(f"model: average of {len(steps)} epochs, dev {show(figures)}")
        if figures["wer"] > POOR:
            little = "next to nothing" if figures["wer"] > USELESS else "little"
            say(
                f"warning: it recognises {little}. If the loss on the dev set still falls,"
                f" train for longer, in a new folder with --init {shlex.quote(str(self.folder))};"
                " if only that in training does, find more speech"
            )

    def _write_model(self, folder: Path, weights: dict[str, Any]) -> None:
        """A model folder; it appears only when it is complete."""
        self.model.load_state_dict(weights)
        self.model.float()
        self.model.tokenizer_hash = self.tokenizer.hash
        partial = folder.with_name(f"{folder.name}.part")
        try:
            self.model.save(partial)
            self.tokenizer.save(partial)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Mean losses an utterance: "loss" (the total) and those of the heads."""
    return {new: sums[old] / sums["utterances"] for old, new in LOSSES.items() if old in sums}


def show(figures: dict[str, float]) -> str:
    """ "loss 12.3, WER 20.1 % (ctc), 18.2 % (las)" """
    heads = [f"{figures[n]:.1%} ({n[4:]})" for n in ("wer_ctc", "wer_las") if n in figures]
    return f"loss {figures['loss']:.2f}, WER {', '.join(heads)}"
