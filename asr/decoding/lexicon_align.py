"""The CTC score of a word sequence over all its spellings, and the times of the best one's tokens.

The states of a sequence are the nodes of the trie that spell its words, one word after the other,
with the nodes of word boundaries before, between and after them. Each has two parts as in
`lexicon_beam` (ending in blank, ending in its token). The sum over all alignments and the best
alignment are found in one pass that looks at a window of states: those that matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.kernels import njit, njit_lean
from asr.lm.lexicon import AFTER, START

# Natural log; states that the search would have dropped by a threshold wider by this matter not.
SAFE = 80.0


@njit_lean
def _leads(trie: Any, node: Any, after: Any) -> Any:
    """Is there an arc between the nodes?"""
    found = False
    for a in range(trie.arcs[node], trie.arcs[node + 1]):
        found |= trie.arc[a] == after
    return found


@njit_lean
def _probability(trie: Any, node: Any, word: Any) -> Any:
    """Of the word's spellings that end in the node, summed; 0 where none does."""
    total = 0.0
    for e in range(trie.ends[node], trie.ends[node + 1]):
        if trie.word[e] == word:
            total += trie.prob[e]
    return total


@njit_lean
def _factor(trie: Any, node: Any, after: Any, same: Any, word: Any) -> Any:
    """Of the step between two nodes: within a word (`same`) or from a boundary, else from the end
    of `word`."""
    if same or trie.between[node]:
        return 1.0 if _leads(trie, node, after) else 0.0
    return _probability(trie, node, word) if _leads(trie, AFTER, after) else 0.0


@njit
def states_of(trie: Any, words: Any) -> Any:
    """(node (S,), place of its word, -1 for boundaries (S,)), state 0 the start; where the states
    that lead to each begin (S + 1,), these and their factors; the factor of ending in each (S,)."""
    boundaries = np.flatnonzero(trie.between).astype(np.int32)
    boundaries = boundaries[boundaries != START]
    count, longest = 1 + (len(words) + 1) * len(boundaries), 0
    for w in words:
        count += trie.paths[w + 1] - trie.paths[w]
        longest = max(longest, trie.paths[w + 1] - trie.paths[w])
    node, place = np.zeros(count, np.int32), np.full(count, -1, np.int32)
    begin = np.zeros(count + 1, np.int32)
    most = count * (2 * longest + len(boundaries) + 1)
    origin, factor = np.empty(most, np.int32), np.empty(most)
    end = np.zeros(count)
    end[0] = 1.0 if len(words) == 0 else 0.0
    edges, s, last = 0, 1, 0  # last: the first state of the word before
    for i in range(len(words) + 1):
        for of_word in range(2 if i < len(words) else 1):
            start, before = s, words[i - 1] if i else -1
            own = (
                trie.path[trie.paths[words[i]] : trie.paths[words[i] + 1]]
                if of_word
                else boundaries
            )
            s += len(own)
            node[start:s] = own
            place[start:s] = i if of_word else -1
            for c in range(start, s):
                begin[c] = edges
                for m in range(last, s):
                    f = _factor(trie, node[m], node[c], of_word and m >= start, before)
                    if f > 0.0:
                        origin[edges], factor[edges] = m, f
                        edges += 1
                if i == len(words):
                    end[c] = 1.0
                elif of_word and i == len(words) - 1:
                    end[c] = _probability(trie, node[c], words[i])
            if of_word:
                last = start
    begin[count] = edges
    return node, place, begin, origin[:edges], factor[:edges], end


@njit
def trace(log_probs: Any, trie: Any, words: Any, cut: Any) -> Any:
    """log Σ over all spellings and alignments of a word sequence, and the best of them.

    log_probs (T, V); states whose part is less than `cut` of all are dropped. Returns the score
    and, of each token of the best spelling, (5, U): token, place of its word (-1: boundary), first
    frame, last frame + 1, frame of the most probable emission; -inf and no tokens where there is
    no alignment.
    """
    node, place, begin, origin, factor, end = states_of(trie, words)
    count, frames = len(node), len(log_probs)
    token = np.empty(count, np.int32)
    reach = 1  # states ahead that a frame can lead to
    for c in range(count):
        token[c] = trie.token[node[c]]
        for k in range(begin[c], begin[c + 1]):
            reach = max(reach, c - origin[k])
    sums, best = np.zeros((2, 2, count)), np.zeros((2, 2, count))  # (turn, blank or token, state)
    sums[0, 0, 0] = best[0, 0, 0] = 1.0
    low, high, log_scale = 0, 1, 0.0
    lows, starts = np.empty(frames, np.int32), np.empty(frames + 1, np.int64)
    back = np.empty((2, 64 * (frames + 1)), np.int32)  # 2 · state + part, for blank and for token
    starts[0] = 0
    nothing = np.empty((5, 0), np.int32)
    for t in range(frames):
        row = log_probs[t]
        old, new, old_best, new_best = (
            sums[t & 1],
            sums[(t + 1) & 1],
            best[t & 1],
            best[(t + 1) & 1],
        )
        width = min(count, high + reach)
        lows[t], starts[t + 1] = low, starts[t] + width - low
        while starts[t + 1] > back.shape[1]:
            back = np.concatenate((back, np.empty_like(back)), axis=1)
        top = row[0]
        for c in range(low, width):
            top = max(top, row[token[c]])
        if top == -np.inf:
            return -np.inf, nothing
        blank = np.exp(np.float64(row[0] - top))
        total, largest = 0.0, 0.0
        for c in range(low, width):
            v = token[c]
            mass, likely, source = old[1, c], old_best[1, c], 2 * c + 1
            for k in range(begin[c], begin[c + 1]):
                m = origin[k]
                mass += factor[k] * old[0, m]
                if factor[k] * old_best[0, m] > likely:
                    likely, source = factor[k] * old_best[0, m], 2 * m
                if token[m] != v:
                    mass += factor[k] * old[1, m]
                    if factor[k] * old_best[1, m] > likely:
                        likely, source = factor[k] * old_best[1, m], 2 * m + 1
            p = np.exp(np.float64(row[v] - top)) if c else 0.0
            place_back = starts[t] + c - low
            back[1, place_back] = source
            back[0, place_back] = 2 * c + (1 if old_best[1, c] > old_best[0, c] else 0)
            new[1, c], new[0, c] = mass * p, (old[0, c] + old[1, c]) * blank
            new_best[1, c] = likely * p
            new_best[0, c] = max(old_best[0, c], old_best[1, c]) * blank
            total += new[0, c] + new[1, c]
            largest = max(largest, new_best[0, c], new_best[1, c])
        if total == 0.0 or largest == 0.0:
            return -np.inf, nothing
        log_scale += np.log(total) + top
        high = width
        while new[0, low] + new[1, low] <= cut * total:
            low += 1
        while new[0, high - 1] + new[1, high - 1] <= cut * total:
            high -= 1
        for c in range(lows[t], width):
            inside = low <= c < high
            for k in range(2):
                old[k, c] = old_best[k, c] = 0.0
                new[k, c] = new[k, c] / total if inside else 0.0
                new_best[k, c] = new_best[k, c] / largest if inside else 0.0
    total, likely, state = 0.0, 0.0, -1
    for c in range(low, high):
        for k in range(2):
            total += end[c] * sums[frames & 1, k, c]
            if end[c] * best[frames & 1, k, c] > likely:
                likely, state = end[c] * best[frames & 1, k, c], 2 * c + k
    if state < 0:
        return -np.inf, nothing
    return np.log(total) + log_scale, _trace_back(
        log_probs, token, place, back, lows, starts, state
    )


@njit
def _trace_back(
    log_probs: Any, token: Any, place: Any, back: Any, lows: Any, starts: Any, state: Any
) -> Any:
    """The tokens of the best alignment, which ends in `state` (2 · state + part); see trace."""
    found = np.zeros((5, len(token)), np.int32)
    u = len(token)
    before = -1
    for t in range(len(lows) - 1, -1, -1):
        c = state >> 1
        if state & 1:
            if c != before:
                u -= 1
                found[0, u], found[1, u], found[3, u], found[4, u] = token[c], place[c], t + 1, t
                before = c
            found[2, u] = t
            if log_probs[t, token[c]] > log_probs[found[4, u], token[c]]:
                found[4, u] = t
        state = back[state & 1, starts[t] + c - lows[t]]
    return found[:, u:].copy()
