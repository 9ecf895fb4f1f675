"""When each token and word of a known text was said; the sums and maxima are in `trellis`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from asr.decoding.pauses import Pauses
from asr.decoding.trellis import align, min_frames
from asr.errors import InputError
from asr.hypothesis import UNSPACED, Word, split_words
from asr.text.pieces import is_boundary, letters

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
    pieces: Sequence[str],
    log_probs: Floats,
    frame_shift: float,
    pauses: Pauses | None = None,
) -> list[Word]:
    """The words that `tokens` spell with their times (seconds if `frame_shift` is in seconds).

    A word begins with the first frame of its first token and ends after the last of its last one,
    or at the `pauses` beside it. log_probs (T, V); `pieces` are the token inventory, `|` or a
    leading "▁" the word boundary.
    """
    start, end = viterbi(log_probs, tokens)
    spelt = [pieces[token] for token in tokens]
    words = group_words(spelt, start, end, frame_shift)
    if pauses is not None:
        pauses.place(words, [word.end for word in group_words(spelt, start, start, frame_shift)])
    return words


def group_words(pieces: Sequence[str], start: Ints, end: Ints, frame_shift: float) -> list[Word]:
    """Words from the pieces of a text and the first and last + 1 frame of each piece; in scripts
    without spaces each character is one, and shares the time of its piece equally."""
    words: list[str] = []
    spans: list[tuple[float, float]] = []
    inside = False
    for piece, first, last in zip(pieces, start.tolist(), end.tolist(), strict=True):
        ends_word, parts, unspaced = _parts(piece)
        if inside and parts and not (ends_word or unspaced):
            words[-1] += parts[0]
            spans[-1] = spans[-1][0], last
            continue
        inside = inside and not ends_word
        if parts:
            step = (last - first) / len(parts)
            words += parts
            spans += [(first + n * step, first + (n + 1) * step) for n in range(len(parts))]
            inside = not unspaced
    times = np.round(np.array(spans) * frame_shift, 4).tolist()
    return [Word(word, *span) for word, span in zip(words, times, strict=True)]


@lru_cache(100_000)
def _parts(piece: str) -> tuple[bool, list[str], bool]:
    """(does a piece end the word before it, its words or parts of one, are they words?)"""
    text = letters(piece)
    unspaced = UNSPACED.search(text) is not None
    return is_boundary(piece), split_words(text) if unspaced else [text] * bool(text), unspaced
