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
SAFE = 26.0
SMALL = 1e-60  # when masses are less, all are scaled up


@njit_lean
def _leads(trie: Any, node: Any, after: Any) -> Any:
    """Is there an arc between the nodes?"""
    for a in range(trie.arcs[node], trie.arcs[node + 1]):  # noqa: SIM110 (compiled)
        if trie.arc[a] == after:
            return True
    return False


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
    if same:
        return 1.0 if _leads(trie, node, after) else 0.0
    if trie.between[node]:
        return 1.0 if trie.opens[START, after] else 0.0
    return _probability(trie, node, word) if trie.opens[AFTER, after] else 0.0


@njit_lean
def _connect(
    trie: Any, words: Any, node: Any, place: Any, begin: Any, origin: Any, factor: Any, end: Any
) -> Any:
    """Fill what states_of returns; how many steps between states there are."""
    edges, s, last = 0, 1, 0  # last: the first state of the word before
    for i in range(len(words) + 1):
        for of_word in range(2 if i < len(words) else 1):
            start, before = s, words[i - 1] if i else -1
            first, past = 0, len(trie.boundaries)
            if of_word:
                first, past = trie.paths[words[i]], trie.paths[words[i] + 1]
            for k in range(first, past):
                node[s], place[s] = (trie.path[k], i) if of_word else (trie.boundaries[k], -1)
                s += 1
            for c in range(start, s):
                begin[c] = edges
                for m in range(last, c if of_word else s):
                    f = _factor(trie, node[m], node[c], of_word and m >= start, before)
                    if f > 0.0:
                        origin[edges], factor[edges] = m, f
                        edges += 1
                end[c] = 1.0 if i == len(words) else 0.0
                if of_word and i == len(words) - 1:
                    end[c] = _probability(trie, node[c], words[i])
            if of_word:
                last = start
    begin[s] = edges
    return edges


@njit
def states_of(trie: Any, words: Any) -> Any:
    """(node (S,), place of its word, -1 for boundaries (S,)), state 0 the start; where the states
    that lead to each begin (S + 1,), these and their factors; the factor of ending in each (S,)."""
    count, longest = 1 + (len(words) + 1) * len(trie.boundaries), 0
    for w in words:
        count += trie.paths[w + 1] - trie.paths[w]
        longest = max(longest, trie.paths[w + 1] - trie.paths[w])
    node, place = np.zeros(count, np.int32), np.full(count, -1, np.int32)
    begin, end = np.zeros(count + 1, np.int32), np.ones(count)
    most = count * (2 * longest + len(trie.boundaries) + 1)
    origin, factor = np.empty(most, np.int32), np.empty(most)
    end[0] = 1.0 if len(words) == 0 else 0.0
    edges = _connect(trie, words, node, place, begin, origin, factor, end)
    return node, place, begin, origin[:edges], factor[:edges], end


@njit
def trace(probs: Any, trie: Any, words: Any, cut: Any) -> Any:
    """log Σ over all spellings and alignments of a word sequence, and the best of them.

    probs (T, V); states whose part is less than `cut` of all are dropped. Returns the score, of
    each token of the best spelling (2, U) token and frame of the most probable emission, and of
    each word (2, W) first frame, last frame + 1; -inf and nothing where there is no alignment.
    """
    node, place, begin, origin, factor, end = states_of(trie, words)
    count, frames = len(node), len(probs)
    token = trie.token[node]
    same = np.empty(len(origin), np.bool_)  # only a blank can part the two
    reach = 1  # states ahead that a frame can lead to
    for c in range(count):
        for k in range(begin[c], begin[c + 1]):
            same[k] = token[origin[k]] == token[c]
            reach = max(reach, c - origin[k])
    # Turn, state: B, N, and of the best alignment B, N. Beside low .. high as far as steps reach
    # all is 0.
    parts = np.zeros((2, count, 4))
    parts[0, 0, 0] = parts[0, 0, 2] = 1.0
    low, high, log_scale = 0, 1, 0.0
    lows, starts = np.empty(frames, np.int32), np.empty(frames + 1, np.int64)
    back = np.empty((32 * (frames + 1), 2), np.int32)  # 2 · state + part, for blank and for token
    starts[0] = 0
    nothing = np.empty((2, 0), np.int32)
    for t in range(frames):
        old, new = t & 1, (t + 1) & 1
        width = min(count, high + reach)
        while width > high and origin[begin[width - 1]] >= high:  # it has no other way than later
            width -= 1
        lows[t], starts[t + 1] = low, starts[t] + width - low
        while starts[t + 1] > len(back):
            back = np.concatenate((back, np.empty_like(back)))
        at, blank = starts[t], probs[t, 0]
        total, largest = 0.0, 0.0
        for c in range(low, width):
            mass, likely, source = parts[old, c, 1], parts[old, c, 3], 2 * c + 1
            both, likely_blank, source_blank = parts[old, c, 0] + mass, parts[old, c, 2], 2 * c
            if likely > likely_blank:
                likely_blank, source_blank = likely, source
            for k in range(begin[c], begin[c + 1]):
                m, f = origin[k], factor[k]
                came, x, part = parts[old, m, 0], parts[old, m, 2], 0
                if not same[k]:
                    came += parts[old, m, 1]
                    if parts[old, m, 3] > x:
                        x, part = parts[old, m, 3], 1
                mass += f * came
                if f * x > likely:
                    likely, source = f * x, 2 * m + part
            p = probs[t, token[c]]
            back[at, 0], back[at, 1] = source_blank, source
            at += 1
            b, n, likely_blank, likely = both * blank, mass * p, likely_blank * blank, likely * p
            parts[new, c, 0], parts[new, c, 1] = b, n
            parts[new, c, 2], parts[new, c, 3] = likely_blank, likely
            total += b + n
            largest = max(largest, max(likely_blank, likely))
        if total == 0.0 or largest == 0.0:
            return -np.inf, nothing, nothing
        high = width
        while parts[new, low, 0] + parts[new, low, 1] <= cut * total:
            low += 1
        while parts[new, high - 1, 0] + parts[new, high - 1, 1] <= cut * total:
            high -= 1
        if total < SMALL:
            log_scale += np.log(total)
            parts[new, low:high, :2] /= total
        if largest < SMALL:
            parts[new, low:high, 2:] /= largest
        parts[new, max(0, low - reach) : low] = 0.0
        parts[new, high : high + 2 * reach] = 0.0
    total, likely, state = 0.0, 0.0, -1
    for c in range(low, high):
        total += end[c] * (parts[frames & 1, c, 0] + parts[frames & 1, c, 1])
        for k in range(2):
            if end[c] * parts[frames & 1, c, 2 + k] > likely:
                likely, state = end[c] * parts[frames & 1, c, 2 + k], 2 * c + k
    if state < 0:
        return -np.inf, nothing, nothing
    spans = np.empty((2, len(words)), np.int32)
    found = _trace_back(probs, token, place, back, lows, starts, state, spans)
    return np.log(total) + log_scale, found, spans


@njit
def _trace_back(
    probs: Any,
    token: Any,
    place: Any,
    back: Any,
    lows: Any,
    starts: Any,
    state: Any,
    spans: Any,
) -> Any:
    """The tokens of the best alignment, which ends in `state` (2 · state + part), and the words'
    spans; see trace. The last word needs no boundary after it: that is not a token."""
    found = np.zeros((2, len(token)), np.int32)
    past = u = len(token)
    before = -1
    for t in range(len(lows) - 1, -1, -1):
        c = state >> 1
        if state & 1:
            w = place[c]
            if c != before:
                u -= 1
                found[0, u], found[1, u] = token[c], t
                if w >= 0 and (before < 0 or place[before] != w):
                    spans[1, w] = t + 1
                if w < 0 and before < 0:
                    past = u
                before = c
            if w >= 0:
                spans[0, w] = t
            if probs[t, token[c]] > probs[found[1, u], token[c]]:
                found[1, u] = t
        state = back[starts[t] + c - lows[t], state & 1]
    return found[:, u:past].copy()
