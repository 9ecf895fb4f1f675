"""When each token and word of a known text was said; the sums and maxima are in `trellis`.

CTC's peaks may lie in a pause or before the sound has died away; the samples know better. Between
the last tokens of two neighbouring words, the longest stretch at the level of the noise is the
pause; where none is long enough, the network's times remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from asr.decoding.inventory import Inventory
from asr.decoding.trellis import align, min_frames
from asr.errors import InputError
from asr.hypothesis import Word

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

STEP = 0.01  # seconds a level
# Chosen on joined digits, and on eSpeak's continuous speech with its word times: there CTC is right
# (median 20 ms), and a quiet sound within a word that is taken for a pause does harm.
SHORTEST = 0.12  # seconds
NOISE = 0.2  # quantile of the levels between two words that counts as the noise's
RISE = 6.0  # dB above it: speech
SPEECH = 0.95  # quantile of all levels that counts as that of speech
TAIL = 0.3  # seconds; sound for longer after a word's last token belongs to the next word
DEPTH = 12.0  # dB that a pause is at least below it: a long vowel is none


class Pauses:
    """The pauses of one utterance: samples (N,) at `sample_rate` Hz."""

    def __init__(self, samples: Floats, sample_rate: int) -> None:
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
        if len(levels) * STEP < SHORTEST:
            return None
        quiet = levels < min(np.quantile(levels, NOISE) + RISE, self.deepest)
        runs = np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2)
        runs = runs[runs[:, 0] <= TAIL / STEP] + first
        start, end = max(runs.tolist(), key=lambda run: run[1] - run[0], default=(0, 0))
        return (start * STEP, end * STEP) if (end - start) * STEP >= SHORTEST else None

    def place(self, words: Sequence[Word], last: Sequence[float]) -> None:
        """Move `words` to the pauses; last: seconds when the last token of each begins."""
        edges, limits = [0.0, *(word.end for word in words)], [*last, len(self.levels) * STEP]
        found = [self.between(*gap) for gap in zip(edges, limits, strict=True)]
        for word, (before, after) in zip(words, pairwise(found), strict=True):
            word.start = round(before[1], 4) if before else word.start
            word.end = round(after[0], 4) if after else word.end


def viterbi(log_probs: Floats, tokens: Sequence[int]) -> tuple[Ints, Ints]:
    """First frame and last frame + 1, each (U,), of every token on the most probable alignment of
    log_probs (T, V). Raises InputError where none exists."""
    ids = np.asarray(tokens, np.int32)
    if (needed := int(min_frames(ids))) > len(log_probs):
        what = f"{len(ids)} tokens need at least {needed} frames, there are {len(log_probs)}"
        raise InputError(what, None, "The audio is too short for its text.")
    frames = np.ascontiguousarray(log_probs, np.float32)
    (start, end, _), scores, _ = align(frames, ids, np.array([0, len(ids)]))
    if scores[0] == -np.inf:
        what = "no alignment of the tokens has a probability above zero"
        raise InputError(what, None, "Is it the text of this audio?")
    return start, end


def word_times(
    tokens: Sequence[int],
    inventory: Inventory,
    log_probs: Floats,
    frame_shift: float,
    pauses: Pauses | None = None,
) -> list[Word]:
    """The words that `tokens` spell with their times (in the unit of `frame_shift`): from the first
    frame of the first token to the last of the last, or at the `pauses`; log_probs (T, V)."""
    start, end = viterbi(log_probs, tokens)
    words = inventory.words(tokens, start, end, frame_shift)
    if pauses is not None:
        last = inventory.words(tokens, start, start, frame_shift)
        pauses.place(words, [word.end for word in last])
    return words
