"""Words begin and end where the pauses beside them do.

The outputs of CTC are peaks: a bidirectional network may say a word's first token as soon as the
word before is over, in the middle of the pause, and its last one before the sound has died away.
The samples know better. Between the last tokens of two neighbouring words, the longest stretch at
the level of the noise there is the pause; where none is long enough, the network's times remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from asr.hypothesis import Word

STEP = 0.01  # seconds a level
# Chosen on joined digits, and on continuous speech of eSpeak, which tells its word times: there CTC
# is right (median 20 ms), and a quiet sound within a word that is taken for a pause does harm.
SHORTEST = 0.12  # seconds
NOISE = 0.2  # quantile of the levels between two words that counts as the noise's
RISE = 6.0  # dB above it: speech
SPEECH = 0.95  # quantile of all levels that counts as that of speech
TAIL = 0.3  # seconds; sound for longer after a word's last token belongs to the next word
DEPTH = 12.0  # dB that a pause is at least below it: a long vowel is none


class Pauses:
    """The pauses of one utterance: samples (N,) at `sample_rate` Hz."""

    def __init__(self, samples: NDArray[np.float32], sample_rate: int) -> None:
        size = round(STEP * sample_rate)
        frames = samples[: len(samples) // size * size].reshape(-1, size)
        self.levels = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-10)  # dB
        self.deepest = np.quantile(self.levels, SPEECH) - DEPTH if len(frames) else 0.0
        self.known: dict[tuple[float, float], tuple[float, float] | None] = {}

    def between(self, left: float, right: float) -> tuple[float, float] | None:
        """Start and end of the longest pause from `left` to `right` (all in seconds)."""
        if (left, right) not in self.known:  # the hypotheses of a list share most of them
            self.known[left, right] = self._find(left, right)
        return self.known[left, right]

    def _find(self, left: float, right: float) -> tuple[float, float] | None:
        first = int(left / STEP)
        levels = self.levels[first : int(np.ceil(right / STEP))]
        if not len(levels):
            return None
        quiet = levels < min(np.quantile(levels, NOISE) + RISE, self.deepest)
        runs = np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2)
        runs = runs[runs[:, 0] <= TAIL / STEP] + first
        start, end = max(runs.tolist(), key=lambda run: run[1] - run[0], default=(0, 0))
        return (start * STEP, end * STEP) if (end - start) * STEP >= SHORTEST else None

    def place(self, words: Sequence[Word], last: Sequence[float]) -> None:
        """Move starts and ends of `words` to the pauses; last: when each one's last token begins.

        All in seconds.
        """
        edges = [0.0, *(word.end for word in words)]
        limits = [*last, len(self.levels) * STEP]
        found = [self.between(*gap) for gap in zip(edges, limits, strict=True)]
        for word, (before, after) in zip(words, pairwise(found), strict=True):
            word.start = round(before[1], 4) if before else word.start
            word.end = round(after[0], 4) if after else word.end
