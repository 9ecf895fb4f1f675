"""Which utterances make up the batches of an epoch: seconds of audio, not counts.

A pure function of (durations, options, seed, epoch): any process can work out any epoch. Holds 8
bytes an utterance and 8 a batch, while an epoch is planned at most 16 an utterance.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

# Durations are varied by at most this share before sorting, so that batches differ from epoch to
# epoch while an utterance is padded by at most about twice as much.
JITTER = 0.1
PIECE = 1 << 16  # numbers drawn at once, or made Python's, which are ten times as large
RANGES = 32  # parts in which many utterances are sorted, one after the other

Indices = NDArray[np.uint32]


@dataclass(frozen=True)
class Batches(Sequence[Indices]):
    """Parts of `order` (n,) that end at `ends` (b,), in the sequence `turn` (b,): a list of arrays
    would take as much again."""

    order: Indices
    ends: NDArray[np.int64]
    turn: NDArray[np.int64] | range

    def __len__(self) -> int:
        return len(self.turn)

    @overload
    def __getitem__(self, index: int) -> Indices: ...
    @overload
    def __getitem__(self, index: slice) -> Batches: ...
    def __getitem__(self, index: int | slice) -> Indices | Batches:
        if isinstance(index, slice):
            return replace(self, turn=self.turn[index])
        part = self.turn[index]
        return self.order[self.ends[part - 1] if part else 0 : self.ends[part]]


@dataclass
class Sampler:
    """Batches of indices of at most `batch_seconds` of padded audio (longest × count), and of at
    most `most` utterances; a longer one is alone. durations: seconds (n,). The first
    `sorted_epochs` epochs go from the shortest batch to the longest, the order of others is random.
    """

    durations: NDArray[np.floating]
    batch_seconds: float
    seed: int
    sorted_epochs: int
    most: int = sys.maxsize
    _last: tuple[int, Batches] | None = None  # asked for more than once an epoch

    def __post_init__(self) -> None:
        self.durations = np.asarray(self.durations, np.float32)

    def batches(self, epoch: int) -> Batches:
        """The batches of an epoch (from 0), each an array of indices; every index once."""
        if self._last is None or self._last[0] != epoch:
            self._last = None  # not two of them at a time
            order, random = self._sorted(epoch)
            ends = np.frombuffer(array("q", self._cut(order)), np.int64)
            size = len(ends)
            turn = range(size) if epoch < self.sorted_epochs else random.permutation(size)
            self._last = epoch, Batches(order, ends, turn)
        return self._last[1]

    def _sorted(self, epoch: int) -> tuple[Indices, np.random.Generator]:
        """All indices by varied duration, and the generator that varied them. The sort keys of many
        are drawn anew for each range that is sorted: all at once they take five times the space."""
        random, total = np.random.default_rng([self.seed, epoch]), len(self.durations)
        sample = np.concatenate([*(keys[::64] for _, keys in self._keys(random)), [0.0]])
        inner = np.quantile(sample, np.linspace(0, 1, RANGES + 1)[1:-1]) if total > PIECE else []
        order, done = np.empty(total, np.uint32), 0
        for low, high in itertools.pairwise([-np.inf, *inner, np.inf]):
            random = np.random.default_rng([self.seed, epoch])
            found, values = [order[:0]], [np.empty(0)]
            for begin, keys in self._keys(random):
                inside = np.flatnonzero((keys >= low) & (keys < high))
                found.append((inside + begin).astype(np.uint32))
                values.append(keys[inside])
            turn = np.argsort(np.concatenate(values), kind="stable")
            order[done : done + len(turn)] = np.concatenate(found)[turn]
            done += len(turn)
        return order, random

    def _keys(self, random: np.random.Generator) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Durations, varied, in pieces from an index on: how they are cut changes no draw."""
        for begin in range(0, len(self.durations), PIECE):
            piece = self.durations[begin : begin + PIECE]
            yield begin, random.uniform(1 - JITTER, 1 + JITTER, len(piece)) * piece

    def _cut(self, order: Indices) -> Iterator[int]:
        """Where sorted utterances are cut into consecutive batches, each as full as it may be."""
        count, longest = 0, 0.0
        for begin in range(0, len(order), PIECE):
            piece = self.durations[order[begin : begin + PIECE]].tolist()
            for i, seconds in enumerate(piece, begin):
                longest, count = max(longest, seconds), count + 1
                if count > 1 and (longest * count > self.batch_seconds or count > self.most):
                    yield i
                    count, longest = 1, seconds
        if count:
            yield len(order)
