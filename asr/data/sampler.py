"""Which utterances make up the batches of an epoch: seconds of audio, not counts.

A pure function of (durations, options, seed, epoch): any process can work out any epoch, and a run
is continued exactly by skipping the batches it has consumed. Imports no torch and reads no audio.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Durations are varied by at most this share before sorting, so that batches differ from epoch to
# epoch while an utterance is padded by at most about twice as much.
JITTER = 0.1


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
        self.durations = np.asarray(durations, np.float64)
        self.batch_seconds = batch_seconds
        self.seed = seed
        self.sorted_epochs = sorted_epochs
        self.most = most

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch (from 0), each an array of indices; every index once."""
        random = np.random.default_rng([self.seed, epoch])
        jitter = random.uniform(1 - JITTER, 1 + JITTER, len(self.durations))
        batches = list(self._cut(np.argsort(self.durations * jitter, kind="stable")))
        if epoch >= self.sorted_epochs:
            order = random.permutation(len(batches))
            batches = [batches[i] for i in order]
        return batches

    def _cut(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut sorted utterances into consecutive batches, each as full as it may be."""
        begin, longest = 0, 0.0
        for i, seconds in enumerate(self.durations[order].tolist()):
            longest = max(longest, seconds)
            count = i + 1 - begin
            if count > 1 and (longest * count > self.batch_seconds or count > self.most):
                yield order[begin:i]
                begin, longest = i, seconds
        if begin < len(order):
            yield order[begin:]
