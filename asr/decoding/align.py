"""CTC alignment of a known token sequence: its score, and when each token was said.

The paths of a sequence of U tokens through T frames go over 2U + 1 states, blank, token 1, blank,
token 2, ..., blank; a path stays, goes to the next state, or leaves out a blank between two
different tokens (Graves et al. 2006, "Connectionist Temporal Classification", section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.pauses import Pauses
from asr.errors import InputError
from asr.hypothesis import Word
from asr.kernels import njit, njit_lean
from asr.text.pieces import is_boundary, letters

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

# Below this (natural log, relative to the best path of any text) float64 may have lost paths.
SAFE = -600.0


@njit_lean
def min_frames(tokens: Any) -> Any:
    """The fewest frames that CTC can align `tokens` with: a blank parts equal neighbours."""
    frames = len(tokens)
    for u in range(1, len(tokens)):
        if tokens[u] == tokens[u - 1]:
            frames += 1
    return frames


@njit
def _probabilities(log_probs: Any, texts: Any) -> Any:
    """exp of the columns that `texts` need, each row divided by its maximum over all tokens.

    Returns the columns (T, C), where each token has its column (V,), and the sum of the maxima.
    """
    frames, size = log_probs.shape
    column = np.full(size, -1)
    column[0] = 0
    count = 1
    for token in texts:
        if column[token] < 0:
            column[token] = count
            count += 1
    used = np.empty(count, np.int64)
    for v in range(size):
        if column[v] >= 0:
            used[column[v]] = v
    columns = np.empty((frames, count))
    log_scale = 0.0
    for t in range(frames):
        top = log_probs[t, 0]
        for v in range(1, size):
            top = max(top, log_probs[t, v])
        log_scale += top
        for c in range(count):
            columns[t, c] = np.exp(np.float64(log_probs[t, used[c]] - top))
    return columns, column, log_scale


@njit_lean
def _forward(columns: Any, column: Any, tokens: Any, alpha: Any) -> Any:
    """log Σ over all alignments, in probabilities with one scale a frame; alpha: scratch."""
    frames, states = len(columns), 2 * len(tokens) + 1
    alpha[:states] = 0.0
    alpha[0] = 1.0
    log_scale = 0.0
    for t in range(frames):
        row = columns[t]
        # Only states that a path can have reached, and from which it can still reach the end.
        low, high = max(0, states - 2 * (frames - t)), min(states, 2 * t + 2)
        total = 0.0
        for s in range(high - 1, low - 1, -1):
            value = alpha[s]
            if s > 0:
                value += alpha[s - 1]
            if s & 1:
                u = s >> 1
                if u > 0 and tokens[u] != tokens[u - 1]:
                    value += alpha[s - 2]
                value *= row[column[tokens[u]]]
            else:
                value *= row[0]
            alpha[s] = value
            total += value
        if total == 0.0:
            return -np.inf
        log_scale += np.log(total)
        for s in range(low, high):
            alpha[s] /= total
    end = alpha[states - 1] + (alpha[states - 2] if states > 1 else 0.0)
    return np.log(end) + log_scale


@njit_lean
def _forward_log(log_probs: Any, tokens: Any, alpha: Any) -> Any:
    """The same in logarithms: slower, for texts far from what the network says."""
    frames, states = len(log_probs), 2 * len(tokens) + 1
    alpha[:states] = -np.inf
    alpha[0] = 0.0
    for t in range(frames):
        for s in range(states - 1, -1, -1):
            value = alpha[s]
            if s > 0:
                value = np.logaddexp(value, alpha[s - 1])
            if s & 1 and s > 1 and tokens[s >> 1] != tokens[(s >> 1) - 1]:
                value = np.logaddexp(value, alpha[s - 2])
            alpha[s] = value + log_probs[t, tokens[s >> 1] if s & 1 else 0]
    return alpha[0] if states == 1 else np.logaddexp(alpha[states - 1], alpha[states - 2])


@njit
def forward(log_probs: Any, texts: Any, begin: Any) -> Any:
    """log Σ_alignments p (N,) of N token sequences: texts[begin[n] : begin[n + 1]].

    log_probs (T, V) float32; -inf where the frames are too few.
    """
    columns, column, log_scale = _probabilities(log_probs, texts)
    scores = np.empty(len(begin) - 1)
    alpha = np.empty(2 * len(texts) + 1)
    for n in range(len(scores)):
        tokens = texts[begin[n] : begin[n + 1]]
        scores[n] = -np.inf
        if min_frames(tokens) <= len(log_probs):
            score = _forward(columns, column, tokens, alpha) + log_scale
            if score < log_scale + SAFE:
                score = _forward_log(log_probs, tokens, alpha)
            scores[n] = score
    return scores


@njit_lean
def _viterbi(log_probs: Any, tokens: Any, score: Any, back: Any, found: Any) -> Any:
    """Fill found (3, U) with first frame, last frame + 1 and frame of the most probable emission
    of each token on the best path; its log probability. score (2U + 1,), back (T, 2U + 1): scratch.
    """
    frames, count = len(log_probs), len(tokens)
    states = 2 * count + 1
    score[:] = -np.inf
    score[0] = 0.0
    for t in range(frames):
        row = log_probs[t]
        low, high = max(0, states - 2 * (frames - t)), min(states, 2 * t + 2)
        for s in range(high - 1, low - 1, -1):
            best, step = score[s], 0
            if s > 0 and score[s - 1] > best:
                best, step = score[s - 1], 1
            u = s >> 1
            if s & 1:
                if u > 0 and tokens[u] != tokens[u - 1] and score[s - 2] > best:
                    best, step = score[s - 2], 2
                score[s] = best + row[tokens[u]]
            else:
                score[s] = best + row[0]
            back[t, s] = step  # by how many states
    state = states - 1
    if count and score[state - 1] >= score[state]:
        state -= 1
    total = score[state]
    start, end, peak = found
    end[:] = 0
    for t in range(frames - 1, -1, -1):
        if state & 1:
            u = state >> 1
            if end[u] == 0:
                end[u], peak[u] = t + 1, t
            start[u] = t
            if log_probs[t, tokens[u]] > log_probs[peak[u], tokens[u]]:
                peak[u] = t
        state -= back[t, state]
    return total


@njit
def align(log_probs: Any, texts: Any, begin: Any) -> Any:
    """Best alignments of N token sequences, texts[begin[n] : begin[n + 1]]; log_probs (T, V).

    For each token of `texts` (3, U): first frame, last frame + 1, frame of the most probable
    emission; and the log probability of each alignment (N,), -inf where there is none.
    """
    found = np.zeros((3, len(texts)), np.int32)
    scores = np.empty(len(begin) - 1)
    for n in range(len(scores)):
        tokens = texts[begin[n] : begin[n + 1]]
        states = 2 * len(tokens) + 1
        back = np.empty((len(log_probs), states), np.int8)
        part = found[:, begin[n] : begin[n + 1]]
        scores[n] = _viterbi(log_probs, tokens, np.empty(states), back, part)
    return found, scores


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
    (start, end, _), scores = align(frames, ids, np.array([0, len(ids)]))
    if scores[0] == -np.inf:
        raise InputError("no alignment of the tokens has a probability above zero")
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
    """Words from the pieces of a text and the first and last + 1 frame of each piece."""
    words: list[Word] = []
    inside = False
    for piece, first, last in zip(pieces, start, end, strict=True):
        if is_boundary(piece):
            inside = False
        if not letters(piece):
            continue
        if not inside:
            words.append(Word("", round(float(first) * frame_shift, 4), 0.0))
            inside = True
        words[-1].word += letters(piece)
        words[-1].end = round(float(last) * frame_shift, 4)
    return words
