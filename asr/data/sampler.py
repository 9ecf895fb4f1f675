"""Which utterances make up the batches of an epoch: seconds of audio, not counts.

A pure function of (durations, options, seed, epoch): any process can work out any epoch, and a run
is continued exactly by skipping the batches it has consumed. Imports no torch and reads no audio;
holds 8 bytes an utterance, and 8 a batch.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

# Durations are varied by at most this share before sorting, so that batches differ from epoch to
# epoch while an utterance is padded by at most about twice as much.
JITTER = 0.1
PIECE = 1 << 16  # numbers made Python's at once, which are ten times as large

Indices = NDArray[np.uint32]


class Batches(Sequence[Indices]):
    """Parts of `order` (n,) that end at `ends` (b,), in the sequence `turn` (b,)."""

    def __init__(
        self, order: Indices, ends: NDArray[np.int64], turn: NDArray[np.int64] | range
    ) -> None:
        self.order, self.ends, self.turn = order, ends, turn

    def __len__(self) -> int:
        return len(self.turn)

    @overload
    def __getitem__(self, index: int) -> Indices: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Indices]: ...
    def __getitem__(self, index: int | slice) -> Indices | Sequence[Indices]:
        if isinstance(index, slice):
            return Batches(self.order, self.ends, self.turn[index])
        part = self.turn[index]
        return self.order[self.ends[part - 1] if part else 0 : self.ends[part]]


class Sampler:
    """Batches of indices of at most `batch_seconds` of padded audio (longest × count), and of at
    most `most` utterances, so that a step is not the mean over a hundred short ones.

    durations: seconds (n,). The first `sorted_epochs` epochs go from the shortest batch to the
    longest, which helps both CTC and attention to start; in later ones the order is random.
    An utterance longer than `batch_seconds` is a batch of its own.
    """

    def __init__(
        self,
        durations: NDArray[np.floating],
        batch_seconds: float,
        seed: int,
        sorted_epochs: int,
        most: int = sys.maxsize,
    ) -> None:
        self.durations = np.asarray(durations, np.float32)
        self.batch_seconds = batch_seconds
        self.seed = seed
        self.sorted_epochs = sorted_epochs
        self.most = most
        self._last: tuple[int, Batches] | None = None  # asked for more than once an epoch

    def batches(self, epoch: int) -> Batches:
        """The batches of an epoch (from 0), each an array of indices; every index once."""
        if self._last is None or self._last[0] != epoch:
            self._last = None  # not two of them at a time
            self._last = epoch, self._batches(epoch)
        return self._last[1]

    def _batches(self, epoch: int) -> Batches:
        random = np.random.default_rng([self.seed, epoch])
        keys = random.uniform(1 - JITTER, 1 + JITTER, len(self.durations))
        keys *= self.durations
        order = np.argsort(keys, kind="stable").astype(np.uint32)
        ends = np.frombuffer(array("q", self._cut(order)), np.int64)
        sorted_ = epoch < self.sorted_epochs
        return Batches(order, ends, range(len(ends)) if sorted_ else random.permutation(len(ends)))

    def _cut(self, order: Indices) -> Iterator[int]:
        """Where sorted utterances are cut into consecutive batches, each as full as it may be."""
        count, longest = 0, 0.0
        for begin in range(0, len(order), PIECE):
            piece = self.durations[order[begin : begin + PIECE]].tolist()
            for i, seconds in enumerate(piece, begin):
                longest = max(longest, seconds)
                count += 1
                if count > 1 and (longest * count > self.batch_seconds or count > self.most):
                    yield i
                    count, longest = 1, seconds
        if count:
            yield len(order)
