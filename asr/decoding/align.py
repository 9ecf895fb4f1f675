"""When each token and word of a known text was said; the sums and maxima are in `trellis`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asr.decoding.inventory import Inventory
from asr.decoding.pauses import Pauses
from asr.decoding.trellis import align, min_frames
from asr.errors import InputError
from asr.hypothesis import Word

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def viterbi(log_probs: Floats, tokens: Sequence[int]) -> tuple[Ints, Ints]:
    """First frame and last frame + 1, each (U,), of every token on the most probable alignment.

    log_probs (T, V). Raises InputError where no alignment exists.
    """
    ids = np.asarray(tokens, np.int32)
    needed = int(min_frames(ids))
    if needed > len(log_probs):
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
    """The words that `tokens` spell with their times (seconds if `frame_shift` is in seconds).

    A word begins with the first frame of its first token and ends after the last of its last one,
    or at the `pauses` beside it. log_probs (T, V).
    """
    start, end = viterbi(log_probs, tokens)
    words = inventory.words(tokens, start, end, frame_shift)
    if pauses is not None:
        last = inventory.words(tokens, start, start, frame_shift)
        pauses.place(words, [word.end for word in last])
    return words
