"""Batches of waveforms: which utterances are trained on, reading, augmentation, padding.

Worker threads make whole batches. What is in a batch depends on (seed, epoch, utterances) only, so
the number of workers changes nothing but the speed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import MISSING

from asr.console import track
from asr.data.audio import audio_info
from asr.data.augment import Noise, Reverb, Silence, SpecAugment, augment, draw_masks, generator
from asr.data.cache import AudioCache
from asr.data.manifest import Utterance
from asr.data.sampler import Sampler
from asr.errors import AudioError, InputError
from asr.text.tokenizer import Tokenizer

Samples = NDArray[np.float32]
Seconds = NDArray[np.float32]
Masks = tuple[NDArray[np.float32], NDArray[np.float32]]  # over time, over frequency
Skipped = list[tuple[str, str]]  # (utterance id, reason)
ALL = slice(None)
AHEAD = 4  # batches that each worker makes ahead
# Where the configuration does not say how large a batch is: few steps on little speech teach
# nothing, many on much of it waste time.
BATCHES, SMALLEST, LARGEST = 500, 10.0, 120.0  # batches an epoch; seconds of audio
SEEN_FIRST = 200_000  # utterances whose texts are looked at before training begins: 5 seconds


@dataclass
class DataOptions:
    """What is trained on, and how it is varied."""

    # manifests to train on (relative to this file; ${oc.env:NAME} is an environment variable)
    train: list[str] = MISSING
    # manifests that choose the best checkpoints
    dev: list[str] = MISSING
    # audio in a batch, padding included (seconds); null: a 500th of all, at least 10, at most 120
    batch_seconds: float | None = None
    # most utterances in a training batch
    batch_utterances: int = 64
    # longer utterances are left out of training (seconds)
    max_seconds: float = 30.0
    # threads that read and vary audio ahead of training, or in turns with it; 0: none
    workers: int = 1
    # decoded audio kept in memory, so that later epochs need not decode it (MB a process); 0: none
    cache_mb: float = 512.0
    # first epochs that go from short utterances to long ones; helps CTC and attention to start
    sorted_epochs: int = 1
    # first epochs without any variation; CTC leaves its plateau sooner on clear speech
    plain_epochs: int = 0
    # speed factors, one drawn for each utterance and epoch (Ko et al. 2015); [1.0]: unchanged
    speed: list[float] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    # louder or softer by up to this much (dB); 0: unchanged
    gain: float = 6.0
    # microphones: a random filter of up to so many dB more or less at any frequency; 0: none
    channel: float = 0.0
    silence: Silence = field(default_factory=Silence)
    noise: Noise = field(default_factory=Noise)
    reverb: Reverb = field(default_factory=Reverb)
    specaugment: SpecAugment = field(default_factory=SpecAugment)

    def __post_init__(self) -> None:
        if not self.train or not self.dev:
            raise InputError("data.train and data.dev need at least one manifest each")
        most = inf if self.batch_seconds is None else self.batch_seconds
        if not 0 < self.max_seconds <= most:
            what = f"data.max_seconds={self.max_seconds:g} must be above 0"
            what += f" and at most data.batch_seconds={most:g}" if most < inf else ""
            remedy = "Lower data.max_seconds, or raise data.batch_seconds."
            raise InputError(what, None, remedy if self.max_seconds > 0 else None)
        if self.batch_utterances < 1:
            raise InputError(f"data.batch_utterances={self.batch_utterances} must be at least 1")
        for name in ("workers", "cache_mb", "sorted_epochs", "plain_epochs"):
            if not 0 <= getattr(self, name) < inf:
                raise InputError(f"data.{name}={getattr(self, name)} must be a number from 0 on")
        if not self.speed or not all(0.5 <= factor <= 2 for factor in self.speed):
            raise InputError("data.speed needs one or more factors from 0.5 to 2")
        for name in ("gain", "channel"):
            if not 0 <= getattr(self, name) <= 60:
                raise InputError(f"data.{name}={getattr(self, name):g} is outside 0 to 60 dB")


@dataclass(frozen=True)
class Fit:
    """Whether the model's frames suffice for a text.

    output_lengths: samples -> frames of the model; min_frames: tokens -> frames that they need.
    """

    output_lengths: Callable[[int], int]
    min_frames: Callable[[Sequence[int]], int]

    def problem(self, samples: int, tokens: Sequence[int]) -> str | None:
        """Why `tokens` cannot be aligned to `samples`, with both numbers; None if they can."""
        frames = int(self.output_lengths(samples))
        needed = max(1, self.min_frames(tokens))
        if frames >= needed:
            return None
        return f"too short: {frames} frames, the text needs {needed}"


@dataclass
class Batch:
    """Padded arrays of B utterances; waveforms in [-1, 1], masks as in `augment.draw_masks`."""

    ids: list[str]
    samples: NDArray[np.float32]  # (B, N)
    lengths: NDArray[np.int64]  # (B,)
    tokens: NDArray[np.int64]  # (B, U), padded with 0
    token_lengths: NDArray[np.int64]  # (B,)
    time_masks: NDArray[np.float32] | None  # (B, M, 2)
    frequency_masks: NDArray[np.float32] | None  # (B, M, 2)
    seconds: float  # of audio, padding not counted
    unreadable: Skipped

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Those that there are, a row an utterance."""
        names = ("samples", "lengths", "tokens", "token_lengths", "time_masks", "frequency_masks")
        return {n: array for n in names if (array := getattr(self, n)) is not None}

    def tensors(
        self, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> dict[str, torch.Tensor]:
        """The arguments of `Recognizer.losses`, on `device`; samples and masks as `dtype`."""
        tensors = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        return {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }

    def rows(self, share: slice) -> Batch:
        """Some of the utterances, with no more padding than they need."""
        parts = {name: array[share] for name, array in self.arrays.items()}
        parts["samples"] = parts["samples"][:, : parts["lengths"].max()]
        parts["tokens"] = parts["tokens"][:, : parts["token_lengths"].max()]
        return replace(self, ids=self.ids[share], **parts)  # type: ignore[arg-type]


@dataclass
class BatchMaker:
    """Reads and pads the utterances of a batch; augments them where `options` are given."""

    tokenizer: Tokenizer
    audio: AudioCache
    seed: int
    fit: Fit
    options: DataOptions | None = None

    @property
    def sample_rate(self) -> int:
        return self.audio.sample_rate

    def make(self, item: tuple[int, Sequence[Utterance]]) -> Batch:
        """The batch of (epoch, utterances)."""
        epoch, utterances = item
        ids: list[str] = []
        rows: list[tuple[Samples, NDArray[np.int64], Masks | None]] = []
        unreadable: Skipped = []
        for utterance in utterances:
            try:
                rows.append(self._read(epoch, utterance))
                ids.append(utterance.id)
            except AudioError as error:
                unreadable.append((utterance.id, str(error)))
        samples, lengths = pad([wave for wave, _, _ in rows], np.float32)
        tokens, token_lengths = pad([tokens for _, tokens, _ in rows], np.int64)
        masks = [masks for _, _, masks in rows if masks is not None]
        time, frequency = (np.stack(m) for m in zip(*masks, strict=True)) if masks else (None, None)
        seconds = float(lengths.sum()) / self.sample_rate
        return Batch(
            ids, samples, lengths, tokens, token_lengths, time, frequency, seconds, unreadable
        )

    def _read(
        self, epoch: int, utterance: Utterance
    ) -> tuple[Samples, NDArray[np.int64], Masks | None]:
        """Waveform, tokens and masks. Raises AudioError where the audio cannot be used."""
        tokens = self.tokenizer.encode(utterance.text or "")
        wave, masks = self.audio.load(utterance), None
        if self.options and (problem := self.problem(len(wave), tokens)):
            raise AudioError(problem)
        if self.options and epoch >= self.options.plain_epochs:

            def fits(samples: int) -> bool:
                return self.fit.problem(samples, tokens) is None

            random = generator(self.seed, epoch, utterance.id)
            wave = augment(wave, self.sample_rate, self.options, random, fits)
            masks = draw_masks(len(wave) / self.sample_rate, self.options.specaugment, random)
        return wave, np.array(tokens, np.int64), masks

    def problem(self, samples: int, tokens: Sequence[int]) -> str | None:
        """Why there is nothing to learn from so many samples and this text; None if there is."""
        return self.fit.problem(samples, tokens) if tokens else "no text"


def pad(rows: Sequence[NDArray[Any]], dtype: type) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Rows of unequal length as an array (B, longest) padded with 0, and their lengths (B,)."""
    lengths = np.array([len(row) for row in rows], np.int64)
    padded = np.zeros((len(rows), lengths.max(initial=0)), dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded, lengths


def read_batches(
    maker: BatchMaker, plan: Iterable[tuple[int, Sequence[Utterance]]], workers: int
) -> Iterator[Batch]:
    """The batches of a plan of (epoch, utterances), in its order, made by threads.

    `workers` of them make batches ahead, while others are trained on. Where training is to use all
    processors, reading takes turns with it instead, a few batches at a time on as many threads: a
    thread that takes a processor from one half of a matrix product keeps the other half waiting.

    Threads, not processes: nearly all of the work is in libraries that let other threads run, and
    nothing has to be copied from process to process.
    """
    if not workers:
        yield from map(maker.make, plan)
        return
    turns = takes_turns(workers)
    workers = max(workers, torch.get_num_threads()) if turns else workers
    following = iter(plan)
    made: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(workers, "reads audio")
    try:
        while True:
            if not (turns and made):
                items = islice(following, AHEAD * workers - len(made))
                made.extend(pool.submit(maker.make, item) for item in items)
            if turns:
                wait(made)
            if not made:
                return
            yield made.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def takes_turns(workers: int) -> bool:
    """Whether all processes here train on the CPU and leave no processor to the workers."""
    threads = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) * (torch.get_num_threads() + workers)
    on_gpu: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return not on_gpu and threads > (os.cpu_count() or 1)


def require_audio(maker: BatchMaker, utterances: Iterable[Utterance], where: str) -> None:
    """Raises InputError unless one at least of `utterances` can be read: before training, not
    after an hour of it."""
    unreadable: Skipped = []
    for utterance in utterances:
        batch = maker.make((0, [utterance]))
        if batch.ids:
            return
        unreadable += batch.unreadable
    name, reason = unreadable[0]
    what = f"no audio can be used (first: {name}: {reason})"
    raise InputError(what, where, "`asr check` lists what is wrong.")


class TrainingSet:
    """The utterances to train on, and their batches from any position.

    left_out: what the filters took (over-long, no text, impossible for CTC), with reasons;
    unreadable: audio whose header could not be read. Raises InputError if nothing is left.
    Of more than SEEN_FIRST utterances the lines of known duration are read, and left out as
    unreadable, only in their turn: ten million would keep training waiting for minutes.
    """

    def __init__(
        self, utterances: Sequence[Utterance], maker: BatchMaker, seconds: Seconds
    ) -> None:
        options = maker.options
        assert options is not None
        self.utterances, self.maker, self.workers = utterances, maker, options.workers
        self.left_out: Skipped = []
        self.unreadable: Skipped = []
        seconds = np.array(seconds, np.float32)
        known = ~np.isnan(seconds)
        kept = np.ones(len(seconds), bool)
        doubtful = ~known | (seconds > options.max_seconds) | (len(seconds) <= SEEN_FIRST)
        for index in track(np.flatnonzero(doubtful).tolist(), "checking the training set"):
            utterance = utterances[index]
            try:
                if not known[index]:
                    seconds[index] = audio_info(utterance).seconds - utterance.start
            except AudioError as error:
                self.unreadable.append((utterance.id, str(error)))
                kept[index] = False
                continue
            if reason := self._unfit(utterance, float(seconds[index]), options.max_seconds):
                self.left_out.append((utterance.id, reason))
                kept[index] = False
        if not kept.any():
            name, reason = (self.left_out + self.unreadable)[0]
            raise InputError(
                f"none of {len(utterances)} utterances can be trained on (first: {name}: {reason})",
                ", ".join(options.train),
            )
        self.kept = np.arange(len(kept), dtype=np.uint32)[kept]  # flatnonzero: 8 bytes each
        seconds = seconds[self.kept]
        self.seconds = float(seconds.sum(dtype=np.float64))
        require_audio(maker, (utterances[int(i)] for i in self.kept), ", ".join(options.train))
        self.sampler = Sampler(
            seconds,
            options.batch_seconds or min(max(self.seconds / BATCHES, SMALLEST), LARGEST),
            maker.seed,
            options.sorted_epochs,
            options.batch_utterances,
        )

    def _unfit(self, utterance: Utterance, seconds: float, longest: float) -> str | None:
        if seconds > longest:
            return f"{seconds:.1f} s is longer than data.max_seconds={longest:g}"
        tokens = self.maker.tokenizer.encode(utterance.text or "")
        return self.maker.problem(int(seconds * self.maker.sample_rate), tokens)

    def batches(
        self, epoch: int, consumed: int, epochs: int, share: slice = ALL
    ) -> Iterator[Batch]:
        """All batches from `consumed` of `epoch` on to the end of epoch `epochs` - 1; of each the
        rows `share` (of N processes each takes every N-th; there may be none)."""

        def plan() -> Iterator[tuple[int, list[Utterance]]]:
            for e in range(epoch, epochs):
                for batch in self.sampler.batches(e)[consumed if e == epoch else 0 :]:
                    yield e, self._utterances(batch[share])

        return read_batches(self.maker, plan(), self.workers)

    def _utterances(self, batch: NDArray[np.integer]) -> list[Utterance]:
        return [self.utterances[i] for i in self.kept[batch].tolist()]

    def largest(self, share: slice = ALL) -> list[Batch]:
        """The batches of the first epoch that may take most memory: that with most audio, padding
        counted, and that with most states of tokens (attention: frames times tokens); as long as if
        the lowest speed and the longest silence had been drawn for all of it."""
        batches = self.sampler.batches(0)
        sizes = np.array([len(batch) for batch in batches], float)
        longest = np.array([self.sampler.durations[batch].max() for batch in batches], float)
        chosen = {int((sizes * longest).argmax()), int((sizes * longest**2).argmax())}
        return [self._longest(batches[i][share]) for i in sorted(chosen)]

    def _longest(self, rows: NDArray[np.integer]) -> Batch:
        batch = self.maker.make((-1, self._utterances(rows)))  # -1: before all variation
        options = self.maker.options
        assert options is not None
        slower = max(1.0, 1 / min(options.speed))
        silence = 2 * options.silence.seconds * (options.silence.share > 0) * self.maker.sample_rate
        batch.lengths = (batch.lengths * slower + silence).astype(np.int64)
        width = int(batch.lengths.max(initial=0)) - batch.samples.shape[1]
        batch.samples = np.pad(batch.samples, ((0, 0), (0, width)))
        return batch


class DevSet:
    """The utterances that choose the checkpoints: all, or `most_seconds` of them, unaugmented.

    texts: id -> reference; unreadable: id -> why its audio cannot be used, of the batches so far.
    Raises InputError if that is all of them.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        maker: BatchMaker,
        seconds: Seconds,
        options: DataOptions,
        most_seconds: float,
    ) -> None:
        seconds = np.nan_to_num(seconds, nan=5.0)  # only sorts and cuts batches
        order = np.random.default_rng(maker.seed).permutation(len(seconds))
        if most_seconds:
            order = order[: max(1, int(np.searchsorted(seconds[order].cumsum(), most_seconds)))]
        self.utterances = [utterances[i] for i in order.tolist()]
        self.texts = {u.id: u.text or "" for u in self.utterances}
        self.unreadable: dict[str, str] = {}
        require_audio(maker, self.utterances, ", ".join(options.dev))
        self.maker, self.workers = maker, options.workers
        most = options.batch_seconds or LARGEST
        self.sampler = Sampler(seconds[order], most, maker.seed, sorted_epochs=1)

    def batches(self, share: slice = ALL) -> Iterator[Batch]:
        """Those of `share`: of N processes each takes every N-th."""
        batches = [batch.tolist() for batch in self.sampler.batches(0)]
        plan = [(0, [self.utterances[i] for i in batch]) for batch in batches[share]]
        for batch in read_batches(self.maker, plan, self.workers):
            self.unreadable.update(batch.unreadable)
            yield batch
