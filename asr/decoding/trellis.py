"""CTC scores and alignments of known token sequences, exact, in linear memory.

The paths of a sequence of U tokens through T frames go over 2U + 1 states, blank, token 1, blank,
token 2, ..., blank; a path stays, goes to the next state, or leaves out a blank between two
different tokens (Graves et al. 2006, "Connectionist Temporal Classification", section 4.1).

Of a frame's states a window is kept, outside of which the masses are next to nothing. As the
probabilities of a state's successors sum to at most one, the mass that is dropped cannot grow: if
all of it is small beside the result, the result is proved. Otherwise logarithms do it, in full, in
memory for √T frames of states.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.kernels import njit, njit_lean

DROP = 1e-40  # a state with less of a frame's total mass may be dropped, at the first attempt
EXACT = 1e-12  # all that was dropped is at most this share of the sum
SAFE = 1e-18  # of the sum; dropping less than this from every frame is exact
LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
ROUND = 6755399441055744.0  # 1.5 · 2^52: a double plus this has its integer in the low bits


@njit_lean
def min_frames(tokens: Any) -> Any:
    """The fewest frames that CTC can align `tokens` with: a blank parts equal neighbours."""
    frames = len(tokens)
    for u in range(1, len(tokens)):
        if tokens[u] == tokens[u - 1]:
            frames += 1
    return frames


@njit
def exponentials(x: Any) -> Any:
    """exp(x) of an array as float64, x kept within -700 and 600; several at once in the processor.

    2^k · e^r with |r| ≤ ln 2 / 2, the series to r^12; relative error below 4e-16.
    """
    shifted, result = np.empty(x.size), np.empty(x.size)
    for i in range(x.size):
        y = float(x[i])
        y = -700.0 if y < -700.0 else y
        result[i] = y = 600.0 if y > 600.0 else y
        shifted[i] = y * LOG2_E + ROUND
    for i in range(x.size):
        k = shifted[i] - ROUND
        r = (result[i] - k * LN2_HIGH) - k * LN2_LOW
        y = 1.0 / 479001600.0
        y = y * r + 1.0 / 39916800.0
        y = y * r + 1.0 / 3628800.0
        y = y * r + 1.0 / 362880.0
        y = y * r + 1.0 / 40320.0
        y = y * r + 1.0 / 5040.0
        y = y * r + 1.0 / 720.0
        y = y * r + 1.0 / 120.0
        y = y * r + 1.0 / 24.0
        y = y * r + 1.0 / 6.0
        y = y * r + 0.5
        y = y * r + 1.0
        result[i] = y * r + 1.0
    power, bits = shifted.view(np.int64), result.view(np.int64)
    for i in range(x.size):
        bits[i] += power[i] << np.int64(52)
    return result


@njit
def _columns(log_probs: Any, texts: Any) -> Any:
    """Probabilities of the blank and of the tokens in `texts` (T, C), and the tokens' columns."""
    frames, size = log_probs.shape
    column, used = np.zeros(size, np.int32), np.zeros(min(size, len(texts) + 1), np.int32)
    count = 1
    for token in texts:
        if column[token] == 0:
            column[token], used[count] = count, token
            count += 1
    logs = np.empty(frames * count, np.float32)
    for t in range(frames):
        for c in range(count):
            logs[t * count + c] = log_probs[t, used[c]]
    where = np.empty(len(texts), np.int32)
    for i in range(len(texts)):
        where[i] = column[texts[i]]
    return exponentials(logs).reshape((frames, count)), where


@njit_lean
def _sum(
    rows: Any, tokens: Any, skip: Any, old: Any, new: Any, window: Any, scale: Any, drop: Any
) -> Any:
    """(log of the sum over all alignments, the sum and the most that it lacks, both scaled).

    rows (T, C); tokens, skip (U,): column of each token, 1 if it differs from the one before; old,
    new (2, U + 3): scratch, [0, u + 1] blank after u tokens, [1, u + 1] token u (from 0) said.
    Fills window (T, 2): from which to which u states are kept; scale (T,): factor of each frame.
    """
    count, frames = len(tokens), len(rows)
    old[:], new[:] = 0.0, 0.0
    old[0, 1] = 1.0
    low, high, lost, log_scale = 0, 1, 0.0, 0.0
    for t in range(frames):
        row = rows[t]
        low = max(low, count - frames + t)  # others cannot reach the end any more
        high = min(high + 1, count + 1)
        window[t, 0], window[t, 1], scale[t] = low, high, 1.0
        total = 0.0
        for u in range(low, min(high, count)):
            before = old[1, u]
            blank = (old[0, u + 1] + before) * row[0]
            token = (old[1, u + 1] + old[0, u + 1] + skip[u] * before) * row[tokens[u]]
            new[0, u + 1], new[1, u + 1] = blank, token
            total += blank + token
        if high > count:
            new[0, high], new[1, high] = (old[0, high] + old[1, count]) * row[0], 0.0
            total += new[0, high]
        lost += 1e-300 * total * (high - low)  # what is too small for a double
        while low < high and new[0, low + 1] + new[1, low + 1] < drop * total:
            lost += new[0, low + 1] + new[1, low + 1]
            low += 1
        while high > low and new[0, high] + new[1, high] < drop * total:
            lost += new[0, high] + new[1, high]
            high -= 1
        if low >= high or not total > 0.0:
            return -np.inf, 0.0, 1.0
        for k in range(2):  # what the next frame reads beside the window
            new[k, low] = new[k, high + 1] = 0.0
        if total < 1e-100:
            scale[t] = 1.0 / total
            for u in range(low, high):
                new[0, u + 1] *= scale[t]
                new[1, u + 1] *= scale[t]
            lost *= scale[t]
            log_scale += np.log(total)
        old, new = new, old
    end = old[0, count + 1] + old[1, count]
    return np.log(end) + log_scale, end, lost


@njit_lean
def _best(
    rows: Any, tokens: Any, skip: Any, old: Any, new: Any, window: Any, scale: Any, back: Any
) -> Any:
    """Probability of the best alignment in the windows of `_sum`, scaled as there, and where it
    ends: 2u + (0 blank after u tokens, 1 token u). back: for each state kept, blank then token,
    how many states before it the path came from."""
    count, at = len(tokens), 0
    old[:], new[:] = 0.0, 0.0
    old[0, 1] = 1.0
    for t in range(len(rows)):
        row, low, high = rows[t], window[t, 0], window[t, 1]
        for u in range(low, high):
            before, blank = old[1, u], old[0, u + 1]
            back[at] = 1 if before > blank else 0
            new[0, u + 1] = max(before, blank) * row[0] * scale[t]
            best, step = 0.0, 0
            if u < count:
                best = old[1, u + 1]
                if blank > best:
                    best, step = blank, 1
                if skip[u] * before > best:
                    best, step = before, 2
                best *= row[tokens[u]] * scale[t]
            new[1, u + 1], back[at + 1] = best, step
            at += 2
        for k in range(2):
            new[k, low] = new[k, high + 1] = 0.0
        old, new = new, old
    if old[1, count] >= old[0, count + 1]:
        return old[1, count], 2 * count - 1
    return old[0, count + 1], 2 * count


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


@njit_lean
def _best_log(log_probs: Any, tokens: Any, score: Any, back: Any) -> None:
    """The log probabilities of the best alignments that end in each state, score (2U + 2,), so many
    frames later; back (≥ T, 2U + 2): how many states before it the path came from."""
    for t in range(len(log_probs)):
        for s in range(2 * len(tokens), -1, -1):
            best, step, u = score[s], 0, s >> 1
            if s > 0 and score[s - 1] > best:
                best, step = score[s - 1], 1
            if s & 1 and u > 0 and tokens[u] != tokens[u - 1] and score[s - 2] > best:
                best, step = score[s - 2], 2
            score[s] = best + log_probs[t, tokens[u] if s & 1 else 0]
            back[t, s] = step


@njit_lean
def _trace(
    log_probs: Any,
    tokens: Any,
    window: Any,
    back: Any,
    first: Any,
    past: Any,
    state: Any,
    found: Any,
) -> Any:
    """Go back through the frames first .. past - 1 from a state after them to that before them, and
    fill found (3, U), zeros at first: see align. back: of these frames, as _best makes it."""
    start, end, peak = found
    at = len(back)
    for t in range(past - 1, first - 1, -1):
        at -= 2 * (window[t, 1] - window[t, 0])
        if state & 1:
            u = state >> 1
            if end[u] == 0:
                end[u], peak[u] = t + 1, t
            start[u] = t
            if log_probs[t, tokens[u]] > log_probs[peak[u], tokens[u]]:
                peak[u] = t
        state -= back[at + state - 2 * window[t, 0]]
    return state


@njit
def _align_log(log_probs: Any, tokens: Any, window: Any, found: Any) -> Any:
    """The log probabilities of the best alignment and of all; fills found as _trace does.

    Of the scores every √T-th frame's are kept; what lies between is found again on the way back.
    """
    frames, states = len(log_probs), 2 * len(tokens) + 2
    window[:, 0], window[:, 1] = 0, len(tokens) + 1
    block = int(np.sqrt(frames)) + 1
    kept = np.empty(((frames + block - 1) // block, states))
    score, back = np.full(states, -np.inf), np.empty((block, states), np.int8)
    score[0] = 0.0
    for b in range(len(kept)):
        for s in range(states):  # an assignment of arrays would take 2 s more to compile
            kept[b, s] = score[s]
        _best_log(log_probs[b * block : (b + 1) * block], tokens, score, back)
    state = 2 * len(tokens)
    if state and score[state - 1] >= score[state]:
        state -= 1
    best = score[state]
    blocks = len(kept) if best > -np.inf else 0
    for b in range(blocks - 1, -1, -1):
        first, past = b * block, min((b + 1) * block, frames)
        _best_log(log_probs[first:past], tokens, kept[b], back)
        steps = back[: past - first].reshape(-1)
        state = _trace(log_probs, tokens, window, steps, first, past, state, found)
    return best, _forward_log(log_probs, tokens, score)


@njit
def align_all(log_probs: Any, bounds: Any, texts: Any, begin: Any, counts: Any) -> Any:
    """`align` of several utterances, log_probs[bounds[u] : bounds[u + 1]], each with its texts,
    the counts[u]-th to the counts[u + 1]-th."""
    found = np.zeros((3, len(texts)), np.int32)
    best, sums = np.full(len(begin) - 1, -np.inf), np.full(len(begin) - 1, -np.inf)
    longest = 0
    for n in range(len(best)):
        longest = max(longest, begin[n + 1] - begin[n])
    old, new, skip = np.empty((2, longest + 3)), np.empty((2, longest + 3)), np.empty(longest)
    for i in range(len(bounds) - 1):
        part, first = log_probs[bounds[i] : bounds[i + 1]], begin[counts[i]]
        frames = len(part)
        rows, columns = _columns(part, texts[first : begin[counts[i + 1]]])
        window, scale = np.zeros((frames, 2), np.int32), np.empty(frames)
        for n in range(counts[i], counts[i + 1]):
            tokens = texts[begin[n] : begin[n + 1]]
            column = columns[begin[n] - first : begin[n + 1] - first]
            if min_frames(tokens) > frames:
                continue
            for u in range(len(tokens)):
                skip[u] = 1.0 if u > 0 and tokens[u] != tokens[u - 1] else 0.0
            drop, path, total, lost, state = DROP, 0.0, 0.0, 1.0, 0
            for _ in range(2):
                sums[n], total, lost = _sum(rows, column, skip, old, new, window, scale, drop)
                if lost <= EXACT * total:
                    break
                drop = max(SAFE * np.exp(sums[n]), 1e-290)
            if lost <= EXACT * total:
                size = 0
                for t in range(frames):
                    size += 2 * (window[t, 1] - window[t, 0])
                back = np.empty(size, np.int8)
                path, state = _best(rows, column, skip, old, new, window, scale, back)
                best[n] = np.log(path / total) + sums[n]
            times = found[:, begin[n] : begin[n + 1]]
            if path > lost:  # no path that was dropped is better
                _trace(part, tokens, window, back, np.int64(0), frames, state, times)
            else:
                best[n], sums[n] = _align_log(part, tokens, window, times)
    return found, best, sums


def align(log_probs: Any, texts: Any, begin: Any) -> Any:
    """Best alignments of N token sequences, texts[begin[n] : begin[n + 1]]; log_probs (T, V) f32.

    For each token of `texts` (3, U): first frame, last frame + 1, frame of the most probable
    emission; the log probability of each best alignment (N,), and of all alignments (N,); -inf
    where there is none.
    """
    bounds, counts = np.array([0, len(log_probs)]), np.array([0, len(begin) - 1])
    return align_all(log_probs, bounds, texts, begin, counts)
