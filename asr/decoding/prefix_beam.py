"""The compiled loops of the CTC search: one frame of a prefix beam search with language models.

A prefix's mass is kept in two parts, of alignments that end in blank (B) and in its last token (N)
(Graves 2012, "Sequence transduction", section 2.5; Hannun et al. 2014, arXiv:1408.2873):

    B'(q) = p(blank) · (B(q) + N(q))
    N'(q) = p(last q) · (N(q) + B(parent) + [last q ≠ last parent] · N(parent))

Masses are probabilities with one common scale, so that the loop needs a logarithm only to compare
totals. Prefixes are nodes of a tree in flat arrays; a hash table (node, token) -> child finds them
again, with their language model states and scores, when they come back into the beam.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding import fusion as lm
from asr.decoding.fusion import Fusion, Hashes, Ints
from asr.decoding.options import SearchOptions
from asr.kernels import njit, njit_lean
from asr.lm.ngram import FNV_START

Doubles = NDArray[np.float64]

NODES = 8192  # prefixes that a new search has room for


BLANK, TOKEN, BOTH, SCORE = 0, 1, 2, 3  # columns of masses: B, N, B + N; total with look-ahead


class Arrays(NamedTuple):
    """All that a search changes: R nodes of room, K beam, V tokens, W = K · (1 + tokens a frame).

    Node 0 is the empty prefix. (Arrays of records would be shorter, but numba reads them slowly.)
    """

    parent: Ints  # (R,)
    token: Ints  # (R,) last token
    slot: Ints  # (R,) place in the beam, or -1
    token_state: Ints  # (R,) fusion states
    word_state: Ints
    word_hash: Hashes
    score: Doubles  # (R,) weighted language model scores and bonus
    ahead: Doubles  # (R,) what the unfinished word is expected to add: for pruning only
    table: Ints  # (2R,) children by open addressing; 0 is empty
    beam: Ints  # (K,) nodes
    mass: Doubles  # (K, 3) relative to the scale
    new: Ints  # (W,) what a frame makes of the beam: nodes
    new_mass: Doubles  # (W, 4)
    order: Doubles  # (max(V, W),) scratch of the selections
    picked: Ints  # (V,) the frame's tokens worth trying
    counts: NDArray[np.int64]  # (3,) nodes, entries of the beam, 1 if all mass is in BLANK
    log_scale: Doubles  # (1,)


PER_NODE = Arrays._fields[:8]


class Pruning(NamedTuple):
    """SearchOptions as the loops need them."""

    beam: int
    beam_threshold: float
    token_threshold: float
    tokens_per_frame: int
    log_skip: float
    ctc_weight: float


def pruning(options: SearchOptions, fusion: Fusion) -> Pruning:
    """The options with the weight of the CTC score."""
    return Pruning(
        max(options.beam, options.nbest),
        float(options.beam_threshold),
        float(options.token_threshold),
        min(options.tokens_per_frame, len(fusion.tokens)),
        float(np.log(options.blank_skip)),
        float(fusion.weights.ctc),
    )


def new_arrays(limits: Pruning, fusion: Fusion) -> Arrays:
    """The empty prefix, with all mass."""
    size, width = len(fusion.tokens), limits.beam * (1 + limits.tokens_per_frame)
    integers: dict[str, Any] = {name: np.zeros(NODES, np.int32) for name in PER_NODE[:5]}
    s = Arrays(
        **integers,
        word_hash=np.zeros(NODES, np.uint64),
        score=np.zeros(NODES),
        ahead=np.zeros(NODES),
        table=np.zeros(2 * NODES, np.int32),
        beam=np.zeros(limits.beam, np.int32),
        mass=np.zeros((limits.beam, 3)),
        new=np.empty(width, np.int32),
        new_mass=np.empty((width, 4)),
        order=np.empty(max(width, size)),
        picked=np.empty(size, np.int32),
        counts=np.array([1, 1, 0], np.int64),
        log_scale=np.zeros(1),
    )
    s.parent[0] = s.token[0] = -1
    s.token_state[:1], s.word_state[:1], s.word_hash[:1] = fusion.begin(1)
    s.mass[0] = 1.0, 0.0, 1.0
    return s


def with_more_room(s: Arrays) -> Arrays:
    """The same search with room for twice as many prefixes."""
    wider: dict[str, Any] = {name: np.concatenate([getattr(s, name)] * 2) for name in PER_NODE}
    grown = s._replace(**wider, table=np.zeros(2 * len(s.table), np.int32))
    _fill_table(grown)
    return grown


@njit_lean
def _find(s: Any, node: Any, token: Any) -> Any:
    """(child or 0, its place in the table) of a prefix and a token."""
    mask = np.uint64(len(s.table) - 1)
    key = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15)
    key += np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F)
    place = (key ^ (key >> np.uint64(29))) & mask
    while True:
        child = s.table[place]
        if child == 0 or (s.parent[child] == node and s.token[child] == token):
            return child, place
        place = (place + np.uint64(1)) & mask


@njit_lean
def _fill_table(s: Any) -> None:
    """Put all nodes into an empty table."""
    for n in range(1, s.counts[0]):
        s.table[_find(s, s.parent[n], s.token[n])[1]] = n


@njit_lean
def _child(s: Any, fusion: Any, parent: Any, token: Any) -> Any:
    """The node of a prefix extended by a token, made with its language model scores if new."""
    child, place = _find(s, parent, token)
    if child == 0:
        child = np.int32(s.counts[0])
        s.counts[0] += 1
        s.table[place] = child
        token_score, word_score, words, ts, ws, wh = lm.extend(
            fusion, s.token_state[parent], s.word_state[parent], s.word_hash[parent], token
        )
        s.parent[child], s.token[child], s.slot[child] = parent, token, -1
        s.token_state[child], s.word_state[child], s.word_hash[child] = ts, ws, wh
        s.score[child] = s.score[parent] + lm.weigh(fusion, token_score, word_score, words, 1)
        s.ahead[child] = lm.look_ahead(fusion, wh)
    return child


@njit_lean
def _kth_largest(values: Any, count: Any, k: Any) -> Any:
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


@njit_lean
def _pick_tokens(s: Any, allowed: Any, limits: Any, row: Any) -> Any:
    """Fill s.picked with tokens worth trying, the best first; (how many, log p of the best)."""
    top, count = row[0], 0
    for v in range(1, len(row)):
        if allowed[v] and row[v] > top:
            top = row[v]
    least = max(top - limits.token_threshold, -1e30)
    for v in range(1, len(row)):
        if allowed[v] and row[v] >= least:
            s.order[count] = row[v]
            count += 1
    if count > limits.tokens_per_frame:
        least = max(least, _kth_largest(s.order, count, limits.tokens_per_frame))
    count, best = 0, 0
    for v in range(1, len(row)):
        if allowed[v] and row[v] >= least and count < limits.tokens_per_frame:
            s.picked[count] = v
            if row[v] > row[s.picked[best]]:
                best = count
            count += 1
    if count:
        s.picked[0], s.picked[best] = s.picked[best], s.picked[0]
    return count, top


@njit_lean
def _stay(s: Any, limits: Any, row: Any, top: Any) -> None:
    """The first candidates: the prefixes of the beam one frame later."""
    p_blank = np.exp(np.float64(row[0] - top))
    for i in range(s.counts[1]):
        node, mass = s.beam[i], 0.0
        if node > 0:
            parent, token = s.parent[node], s.token[node]
            mass = s.mass[i, TOKEN]
            if s.slot[parent] >= 0:
                mass += s.mass[s.slot[parent], BLANK if s.token[parent] == token else BOTH]
            mass *= np.exp(np.float64(row[token] - top))
        s.new[i] = node
        s.new_mass[i, BLANK], s.new_mass[i, TOKEN] = s.mass[i, BOTH] * p_blank, mass
        s.new_mass[i, BOTH] = s.new_mass[i, BLANK] + mass
        ctc = limits.ctc_weight * np.log(s.new_mass[i, BOTH])
        s.new_mass[i, SCORE] = ctc + s.score[node] + s.ahead[node]


@njit_lean
def _extend(s: Any, fusion: Any, limits: Any, row: Any, top: Any, tokens: Any) -> Any:
    """More candidates: the beam's prefixes and one of the `tokens` picked; how many in all.

    Log probabilities of language models are at most zero and look-aheads only fall within a word,
    so a prefix whose total without the new ones is below the cut needs no look-up.
    """
    active = s.counts[1]
    best, worst = -np.inf, np.inf
    for i in range(active):
        best, worst = max(best, s.new_mass[i, SCORE]), min(worst, s.new_mass[i, SCORE])
    # Of a full beam at least `beam` candidates are as good as the worst that stays.
    worst = worst if active == limits.beam else -np.inf
    token_gain = max(0.0, fusion.token_bonus)
    word_gain = max(0.0, fusion.word_bonus + fusion.word_weight * max(0.0, fusion.unk_penalty))
    count = active
    for k in range(tokens):
        token = s.picked[k]
        p = np.exp(np.float64(row[token] - top))
        for i in range(active):
            node = s.beam[i]
            mass = p * s.mass[i, BLANK if s.token[node] == token else BOTH]
            if mass == 0.0:
                continue
            ctc = limits.ctc_weight * np.log(mass)
            between_words = fusion.boundary[token] or s.word_hash[node] == FNV_START
            gain = token_gain + (word_gain if between_words else s.ahead[node])
            if ctc + s.score[node] + gain < max(worst, best - limits.beam_threshold):
                continue
            child = _child(s, fusion, node, token)
            if s.slot[child] >= 0:
                continue  # in the beam: _stay has counted this mass
            score = ctc + s.score[child] + s.ahead[child]
            s.new[count] = child
            s.new_mass[count, BLANK], s.new_mass[count, TOKEN] = 0.0, mass
            s.new_mass[count, BOTH], s.new_mass[count, SCORE] = mass, score
            best = max(best, score)
            count += 1
    return count


@njit_lean
def _select(s: Any, limits: Any, count: Any) -> None:
    """Make the best of the candidates the beam; its largest mass becomes 1."""
    best, kept = -np.inf, 0
    for i in range(count):
        best = max(best, s.new_mass[i, SCORE])
    least = max(best - limits.beam_threshold, -1e300)
    for i in range(count):
        if s.new_mass[i, SCORE] >= least:
            s.order[kept] = s.new_mass[i, SCORE]
            kept += 1
    if kept > limits.beam:
        least = max(least, _kth_largest(s.order, kept, limits.beam))
    for i in range(s.counts[1]):
        s.slot[s.beam[i]] = -1
    active, top = 0, 0.0
    for i in range(count):
        if s.new_mass[i, SCORE] >= least and active < limits.beam:
            s.beam[active] = s.new[i]
            s.slot[s.new[i]] = active
            for k in range(3):
                s.mass[active, k] = s.new_mass[i, k]
            top = max(top, s.mass[active, BOTH])
            active += 1
    for i in range(active):
        for k in range(3):
            s.mass[i, k] /= top
    s.counts[1], s.counts[2] = active, 0
    s.log_scale[0] += np.log(top)


@njit_lean
def advance(s: Any, fusion: Any, limits: Any, log_probs: Any) -> Any:
    """Consume frames (T, V); how many were done: fewer than T where the tree has no more room."""
    for t in range(len(log_probs)):
        row = log_probs[t]
        if row[0] > limits.log_skip:
            if s.counts[2] == 0:
                s.counts[2] = 1
                for i in range(s.counts[1]):
                    s.mass[i, BLANK], s.mass[i, TOKEN] = s.mass[i, BOTH], 0.0
            s.log_scale[0] += row[0]
            continue
        tokens, top = _pick_tokens(s, fusion.allowed, limits, row)
        if s.counts[0] + s.counts[1] * tokens > len(s.parent):
            return t
        _stay(s, limits, row, top)
        _select(s, limits, _extend(s, fusion, limits, row, top, tokens))
        s.log_scale[0] += top
    return len(log_probs)


@njit
def totals(s: Any, fusion: Any, limits: Any) -> Any:
    """Total of each entry of the beam, were the sentence to end here; no look-ahead."""
    found = np.empty(s.counts[1])
    for i in range(len(found)):
        node = s.beam[i]
        token_score, word_score, words = lm.finish(
            fusion, s.token_state[node], s.word_state[node], s.word_hash[node]
        )
        ctc = np.log(s.mass[i, BOTH]) + s.log_scale[0]
        end = lm.weigh(fusion, token_score, word_score, words, 0)
        found[i] = limits.ctc_weight * ctc + s.score[node] + end
    return found


@njit
def tokens_of(s: Any, node: Any) -> Any:
    """The token sequence of a prefix."""
    last, length = node, 0
    while node > 0:
        length, node = length + 1, s.parent[node]
    tokens = np.empty(length, np.int32)
    for i in range(length - 1, -1, -1):
        tokens[i], last = s.token[last], s.parent[last]
    return tokens
