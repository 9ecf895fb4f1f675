"""The compiled loops of the CTC search: one frame of a prefix beam search with language models.

A prefix's mass is kept in two parts, of alignments that end in blank (B) and in its last token (N)
(Graves 2012, "Sequence transduction", section 2.5; Hannun et al. 2014, arXiv:1408.2873). The
language models' part of the total is a factor g on the step from a prefix to a longer one:

    B'(q) = p(blank) · (B(q) + N(q))
    N'(q) = p(last q) · (N(q) + g(q) · (B(parent) + [last q ≠ last parent] · N(parent)))
    g(q)  = exp((increment of the language models and bonus + change of the look-ahead) / w_ctc)

so that B + N is exp(total / w_ctc), up to one scale for all, and candidates are compared without
logarithms. The prefixes themselves are in `prefix_tree`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding import fusion_steps as lm
from asr.decoding.fusion_steps import Ints
from asr.decoding.prefix_tree import (
    ACTIVE,
    ALL_BLANK,
    BLANK,
    BOTH,
    FRAME,
    LIMIT,
    NODE_COUNT,
    TINY,
    TOKEN,
    Doubles,
    Pruning,
    ask,
    child_of,
    restart,
    with_token,
)
from asr.kernels import njit_inline, njit_inner, njit_lean
from asr.lm.ngram import FNV_START

NEW = -1  # instead of the frames done: of an utterance that has not begun


@njit_lean
def kth_largest(values: Any, count: Any, k: Any) -> Any:
    """The k-th largest (k ≥ 1) of the first `count`; reorders them (quickselect, Hoare 1961)."""
    low, high, k = 0, count - 1, k - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit_inline
def _pick_tokens(s: Any, allowed: Any, limits: Any, row: Any) -> Any:
    """Fill s.picked with tokens worth trying, the best first; (how many, log p of the best)."""
    top = row[0]
    count: Any = np.int64(0)  # a plain 0 would compile kth_largest once more
    for v in range(1, len(row)):
        if allowed[v] and row[v] > top:
            top = row[v]
    least = max(top - limits.token_threshold, -1e30)
    for v in range(1, len(row)):
        if row[v] >= least and allowed[v]:
            s.picked[count] = v
            s.order[count] = row[v]
            count += 1
    if count > limits.tokens_per_frame:
        least = max(least, kth_largest(s.order, count, limits.tokens_per_frame))
        found, count = count, 0
        for k in range(found):
            if row[s.picked[k]] >= least and count < limits.tokens_per_frame:
                s.picked[count] = s.picked[k]
                count += 1
    best = 0
    for k in range(count):
        if row[s.picked[k]] > row[s.picked[best]]:
            best = k
    if count:
        s.picked[0], s.picked[best] = s.picked[best], s.picked[0]
    return count, top


@njit_inline
def _stay(s: Any, row: Any, top: Any) -> Any:
    """The first candidates: the prefixes of the beam one frame later; (most, least mass)."""
    p_blank = np.exp(np.float64(row[0] - top))
    best, worst = 0.0, np.inf
    for i in range(s.counts[ACTIVE]):
        node, mass = s.beam[i], 0.0
        if node > 0:
            parent, token = s.parent[node], s.token[node]
            mass = s.mass[i, TOKEN]
            j = s.slot[parent]
            if j >= 0:
                mass += s.factor[node] * s.mass[j, BLANK if s.token[parent] == token else BOTH]
            mass *= np.exp(np.float64(row[token] - top))
        blank = s.mass[i, BOTH] * p_blank
        s.new[i] = node
        s.new_mass[i, BLANK], s.new_mass[i, TOKEN], s.new_mass[i, BOTH] = blank, mass, blank + mass
        best, worst = max(best, blank + mass), min(worst, blank + mass)
    return best, worst


@njit_inline
def _extend(
    s: Any, fusion: Any, limits: Any, row: Any, top: Any, tokens: Any, best: Any, worst: Any
) -> Any:
    """More candidates: the beam's prefixes and one of the `tokens` picked; (how many in all, best).

    Log probabilities of language models are at most zero and look-aheads only fall within a word,
    so that most extensions below the cut are seen to be so without asking.
    """
    active = s.counts[ACTIVE]
    # Of a full beam at least `beam` candidates are as good as the worst that stays.
    worst = worst if active == limits.beam else 0.0
    token_gain = max(0.0, fusion.token_bonus) + fusion.hot_gain
    word_gain = max(0.0, fusion.word_bonus)
    inside = np.exp(min(token_gain / limits.ctc_weight, LIMIT))
    count = active
    for k in range(tokens):
        token = s.picked[k]
        p = np.exp(np.float64(row[token] - top))
        for i in range(active):
            node = s.beam[i]
            mass = p * s.mass[i, BLANK if s.token[node] == token else BOTH]
            cut = max(worst, best * limits.keep)
            if mass * inside < cut or mass == 0.0:
                if mass == 0.0 or not (fusion.boundary[token] or s.word_hash[node] == FNV_START):
                    continue
                gain = (token_gain + word_gain - s.ahead[node]) / limits.ctc_weight
                if mass * np.exp(min(gain, LIMIT)) < cut:
                    continue
            place = ask(s, fusion, limits, node, token)
            mass *= s.answer[place, 0]
            if mass < cut or mass < TINY:
                continue
            child = child_of(s, node, token, place)
            if s.slot[child] >= 0:
                continue  # in the beam: _stay has counted this mass
            s.new[count] = child
            s.new_mass[count, BLANK], s.new_mass[count, TOKEN] = 0.0, mass
            s.new_mass[count, BOTH] = mass
            best = max(best, mass)
            count += 1
    return count, best


@njit_inline
def _merge(s: Any, c: Any) -> None:
    """Of candidate c and an earlier one drop the worse if what can follow is the same for both.

    That is where states and last token are equal: the worse could win only by what its prefixes
    still give it. It is pruning like the others, and masses do not change.
    """
    node = s.new[c]
    mask, base = np.uint64(len(s.same) - 1), s.counts[FRAME] * len(s.same)
    place = with_token(s.state[node], s.token[node]) & mask
    while s.same[place] >= base:
        other = s.same[place] - base
        twin = s.new[other]
        if s.state[twin] == s.state[node] and s.token[twin] == s.token[node]:
            if s.new_mass[c, BOTH] <= s.new_mass[other, BOTH]:
                s.new_mass[c, BOTH] = 0.0
                return
            s.new_mass[other, BOTH] = 0.0
            break
        place = (place + np.uint64(1)) & mask
    s.same[place] = base + c


@njit_inline
def _select(s: Any, limits: Any, count: Any, best: Any) -> None:
    """Make the best of the candidates the beam; its largest mass becomes 1."""
    for i in range(s.counts[ACTIVE]):
        s.slot[s.beam[i]] = -1
    least, kept = max(best * limits.keep, TINY), np.int64(0)
    if limits.merge:
        for i in range(count):
            if s.new_mass[i, BOTH] >= least:
                _merge(s, i)
    for i in range(count):
        if s.new_mass[i, BOTH] >= least:
            s.order[kept] = s.new_mass[i, BOTH]
            kept += 1
    if kept > limits.beam:
        least = max(least, kth_largest(s.order, kept, limits.beam))
    active, scale = 0, 1.0 / best
    for i in range(count):
        if s.new_mass[i, BOTH] >= least and active < limits.beam:
            s.beam[active] = s.new[i]
            s.slot[s.new[i]] = active
            for k in range(3):
                s.mass[active, k] = s.new_mass[i, k] * scale
            active += 1
    s.counts[ACTIVE], s.counts[ALL_BLANK] = active, 0
    s.log_scale[0] += np.log(best)


@njit_inner
def advance(s: Any, fusion: Any, limits: Any, log_probs: Any) -> Any:
    """Consume frames (T, V); how many were done: fewer than T where the tree has no more room."""
    for t in range(len(log_probs)):
        row = log_probs[t]
        if row[0] > limits.log_skip:
            if s.counts[ALL_BLANK] == 0:
                s.counts[ALL_BLANK] = 1
                for i in range(s.counts[ACTIVE]):
                    s.mass[i, BLANK], s.mass[i, TOKEN] = s.mass[i, BOTH], 0.0
            s.log_scale[0] += row[0]
            continue
        tokens, top = _pick_tokens(s, fusion.allowed, limits, row)
        if s.counts[NODE_COUNT] + s.counts[ACTIVE] * tokens > len(s.parent):
            return t
        s.counts[FRAME] += 1
        best, worst = _stay(s, row, top)
        count, best = _extend(s, fusion, limits, row, top, tokens, best, worst)
        _select(s, limits, count, best)
        s.log_scale[0] += top
    return len(log_probs)


class Found(NamedTuple):
    """What the beams of U utterances hold when they end, E entries in all, best first.

    The n-th entry's tokens are tokens[begin[n] : begin[n + 1]].
    """

    counts: NDArray[np.int64]  # (U,) entries of each: how many are wanted; how many there are
    begin: NDArray[np.int64]  # (E + 1,)
    tokens: Ints
    totals: Doubles  # (K,) scratch: of each entry of the beam
    order: NDArray[np.int64]  # (K,) scratch: the best of them


def new_found(limits: Pruning, lengths: NDArray[np.int64], wanted: int) -> Found:
    """Room for `wanted` entries of each utterance; lengths: of their frames."""
    return Found(
        np.full(len(lengths), wanted),
        np.zeros(wanted * len(lengths) + 1, np.int64),
        np.empty(wanted * lengths.sum(), np.int32),  # a token has at least one frame
        np.empty(limits.beam),
        np.empty(limits.beam, np.int64),
    )


@njit_inner
def fill_best(s: Any, fusion: Any, limits: Any, found: Any, u: Any, place: Any) -> None:
    """Write down the entries with the highest totals, were the u-th utterance to end here; the
    first of them is the place-th of all. No look-ahead is in a total."""
    totals, order, begin, count = found.totals, found.order, found.begin, 0
    for i in range(s.counts[ACTIVE]):
        node = s.beam[i]
        token_score, word_score, words, unknown = lm.finish(
            fusion, s.token_state[node], s.word_state[node], s.word_hash[node]
        )
        end = lm.weigh(fusion, token_score, word_score, words, unknown, 0)
        end += lm.finish_hot(fusion, s.hot_state[node], s.word_hash[node])
        so_far = limits.ctc_weight * (np.log(s.mass[i, BOTH]) + s.log_scale[0])
        totals[i] = so_far - s.ahead[node] + end
        k = count
        if count < found.counts[u]:
            count += 1
        elif totals[i] > totals[order[count - 1]]:
            k -= 1
        else:
            continue
        while k > 0 and totals[order[k - 1]] < totals[i]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = i
    for n in range(count):
        node, first = s.beam[order[n]], begin[place + n]
        past = first
        while node > 0:
            past, node = past + 1, s.parent[node]
        begin[place + n + 1], node = past, s.beam[order[n]]
        for k in range(past - 1, first - 1, -1):
            found.tokens[k], node = s.token[node], s.parent[node]
    found.counts[u] = count


@njit_lean
def search_all(
    s: Any, fusion: Any, limits: Any, frames: Any, bounds: Any, start: Any, found: Any, at: Any
) -> Any:
    """Search utterance after utterance, frames[bounds[u] : bounds[u + 1]], and write down what
    found wants of each.

    at: (the utterance to go on with, its frames that are done or NEW); it returns where the tree
    has no more room, (U, 0) at the end.
    """
    place: Any = np.int64(0)  # a plain 0 would compile fill_best once more
    for u in range(len(found.counts)):
        if u >= at[0]:
            done = at[1] if u == at[0] else NEW
            if done == NEW:
                restart(s, start)
                done = 0
            chunk = frames[bounds[u] + done : bounds[u + 1]]
            count = advance(s, fusion, limits, chunk)
            if count < len(chunk):
                return u, done + count
            if found.counts[u] > 0:
                fill_best(s, fusion, limits, found, u, place)
        place += found.counts[u]
    return len(found.counts), 0
