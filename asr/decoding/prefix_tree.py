"""What a CTC prefix beam search keeps: a tree of prefixes, its beam, the language models' answers.

Prefixes are nodes in flat arrays; a hash table (node, token) -> child finds them again when they
come back into the beam. Language models are asked once for each state and token: a second table
remembers the answers, over the utterances too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding import fusion_steps as lm
from asr.decoding.fusion import Fusion
from asr.decoding.fusion_steps import Hashes, Ints
from asr.decoding.options import SearchOptions
from asr.kernels import njit_inline, njit_inner, njit_lean

Doubles = NDArray[np.float64]

NODES = 4096  # prefixes that a new search has room for
ANSWERS = 1 << 16  # of the language models remembered, 40 bytes each
SPARE = 1 << 18  # nodes of room that are kept for the next utterance
LIMIT = 600.0  # of the logarithm of a factor; doubles reach to 709
TINY = 1e-300  # less is nothing

BLANK, TOKEN, BOTH = 0, 1, 2  # columns of masses: B, N, B + N
NODE_COUNT, ACTIVE, ALL_BLANK, FRAME = 0, 1, 2, 3  # counts


class Arrays(NamedTuple):
    """All that a search changes: R nodes of room, K beam, V tokens, W = K · (1 + tokens a frame).

    Node 0 is the empty prefix. (Arrays of records would be shorter, but numba reads them slowly.)
    """

    parent: Ints  # (R,)
    token: Ints  # (R,) last token
    slot: Ints  # (R,) place in the beam, or -1
    token_state: Ints  # (R,) fusion states
    word_state: Ints
    hot_state: Ints
    word_hash: Hashes
    state: Hashes  # (R,) hash of the four
    factor: Doubles  # (R,) g
    ahead: Doubles  # (R,) what the unfinished word is expected to add: for pruning only
    table: Ints  # (2R,) children by open addressing; 0 is empty
    beam: Ints  # (K,) nodes
    mass: Doubles  # (K, 3) relative to the scale
    new: Ints  # (W,) what a frame makes of the beam: nodes
    new_mass: Doubles  # (W, 3)
    order: Doubles  # (max(V, W),) scratch of the selections
    picked: Ints  # (V,) the frame's tokens worth trying
    same: NDArray[np.int64]  # (a power of two ≥ 2W,) candidates by what decides their future
    answer_key: Hashes  # (ANSWERS, 2) hash of state and token; word hash after the token
    answer_state: Ints  # (ANSWERS, 3) token, word and hot state after it
    answer: Doubles  # (ANSWERS, 2) g, look-ahead after it
    counts: NDArray[np.int64]  # (4,) nodes; entries of the beam; 1 if all mass is in BLANK; frame
    log_scale: Doubles  # (1,)


PER_NODE = Arrays._fields[:10]


class Pruning(NamedTuple):
    """SearchOptions as the loops need them."""

    beam: int
    keep: float  # exp(-beam threshold / w_ctc)
    token_threshold: float
    tokens_per_frame: int
    log_skip: float
    ctc_weight: float
    merge: bool  # of prefixes that can go on alike only the best is kept


def pruning(options: SearchOptions, fusion: Fusion) -> Pruning:
    """The options with the weight of the CTC score."""
    return Pruning(
        max(options.beam, options.nbest),
        float(np.exp(-fusion.threshold(options) / fusion.weights.ctc)),
        float(options.token_threshold),
        min(options.tokens_per_frame, len(fusion.tokens)),
        float(np.log(options.blank_skip)),
        float(fusion.weights.ctc),
        options.nbest == 1 and np.isfinite(options.beam_threshold),
    )


def room(limits: Pruning, fusion: Fusion) -> Arrays:
    """Arrays for a search that has not begun, those of one that is over if there are any."""
    s: Arrays = fusion.spare(limits) or _allocate(limits, fusion)
    return s


def give_back(s: Arrays, limits: Pruning, fusion: Fusion) -> None:
    """The search is over: another one of this fusion may have its arrays, answers included."""
    if len(s.parent) <= SPARE:
        fusion.keep(limits, s)


def _allocate(limits: Pruning, fusion: Fusion) -> Arrays:
    size, width = len(fusion.tokens), limits.beam * (1 + limits.tokens_per_frame)
    integers: dict[str, Any] = {name: np.zeros(NODES, np.int32) for name in PER_NODE[:6]}
    return Arrays(
        **integers,
        word_hash=np.zeros(NODES, np.uint64),
        state=np.zeros(NODES, np.uint64),
        factor=np.zeros(NODES),
        ahead=np.zeros(NODES),
        table=np.zeros(2 * NODES, np.int32),
        beam=np.zeros(limits.beam, np.int32),
        mass=np.zeros((limits.beam, 3)),
        new=np.empty(width, np.int32),
        new_mass=np.empty((width, 3)),
        order=np.empty(max(width, size)),
        picked=np.empty(size, np.int32),
        same=np.zeros(1 << (2 * width).bit_length(), np.int64),
        answer_key=np.zeros((ANSWERS, 2), np.uint64),
        answer_state=np.zeros((ANSWERS, 3), np.int32),
        answer=np.zeros((ANSWERS, 2)),
        counts=np.zeros(4, np.int64),
        log_scale=np.zeros(1),
    )


@njit_inline
def restart(s: Any, start: Any) -> None:
    """The empty prefix, with all mass; start: states of token LM, word LM, word and hot words."""
    ts, ws, wh, hs = start
    s.table[:] = 0
    s.parent[0], s.token[0], s.slot[0] = -1, -1, 0
    s.token_state[0], s.word_state[0], s.hot_state[0], s.word_hash[0] = ts, ws, hs, wh
    s.state[0], s.factor[0], s.ahead[0] = _state(ts, ws, hs, wh), 1.0, 0.0
    s.beam[0], s.log_scale[0] = 0, 0.0
    s.mass[0, BLANK], s.mass[0, TOKEN], s.mass[0, BOTH] = 1.0, 0.0, 1.0
    s.counts[NODE_COUNT], s.counts[ACTIVE], s.counts[ALL_BLANK] = 1, 1, 0


def with_more_room(s: Arrays) -> Arrays:
    """The same search with room for twice as many prefixes."""
    wider: dict[str, Any] = {name: np.concatenate([getattr(s, name)] * 2) for name in PER_NODE}
    grown = s._replace(**wider, table=np.zeros(2 * len(s.table), np.int32))
    _fill_table(grown)
    return grown


@njit_inline
def _mix(key: Any) -> Any:
    key = (key ^ (key >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return key ^ (key >> np.uint64(32))


@njit_inner
def _state(ts: Any, ws: Any, hs: Any, wh: Any) -> Any:
    key = np.uint64(ts) * np.uint64(0x9E3779B97F4A7C15) + wh
    key += np.uint64(hs) * np.uint64(0xD6E8FEB86659FD93)
    return _mix(key + np.uint64(ws) * np.uint64(0xC2B2AE3D27D4EB4F))


@njit_inline
def with_token(state: Any, token: Any) -> Any:
    return _mix(state + np.uint64(token) * np.uint64(0x9E3779B97F4A7C15))


@njit_inline
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
    for n in range(1, s.counts[NODE_COUNT]):
        s.table[_find(s, s.parent[n], s.token[n])[1]] = n


@njit_inline
def ask(s: Any, fusion: Any, limits: Any, node: Any, token: Any) -> Any:
    """Where the language models' answer for a prefix and a token stands."""
    key = with_token(s.state[node], token)
    place = key & np.uint64(ANSWERS - 1)
    if s.answer_key[place, 0] != key:
        _learn(s, fusion, limits, node, token, place)
        s.answer_key[place, 0] = key
    return place


@njit_inner
def _learn(s: Any, fusion: Any, limits: Any, node: Any, token: Any, place: Any) -> None:
    """Write down the language models' answer."""
    token_score, word_score, words, unknown, ts, ws, wh = lm.extend(
        fusion, s.token_state[node], s.word_state[node], s.word_hash[node], token
    )
    gain = lm.weigh(fusion, token_score, word_score, words, unknown, 1)
    ahead = max(lm.look_ahead(fusion, wh), -1e30)
    hot = s.hot_state[node]
    if fusion.has_hot:
        earned, hot = lm.extend_hot(fusion, hot, s.word_hash[node], token)
        gain, ahead = gain + earned, ahead + fusion.hot.ahead[hot]
    gain = (max(gain, -1e30) + ahead - s.ahead[node]) / limits.ctc_weight
    s.answer_key[place, 1] = wh
    s.answer_state[place, 0], s.answer_state[place, 1] = ts, ws
    s.answer_state[place, 2] = hot
    s.answer[place, 0] = np.exp(min(max(gain, -LIMIT), LIMIT))
    s.answer[place, 1] = ahead


@njit_inline
def child_of(s: Any, node: Any, token: Any, place: Any) -> Any:
    """The node of a prefix extended by a token; `place` has the language models' answer."""
    child, free = _find(s, node, token)
    if child == 0:
        child = np.int32(s.counts[NODE_COUNT])
        s.counts[NODE_COUNT] += 1
        s.table[free] = child
        ts, ws = s.answer_state[place, 0], s.answer_state[place, 1]
        hs, wh = s.answer_state[place, 2], s.answer_key[place, 1]
        s.parent[child], s.token[child], s.slot[child] = node, token, -1
        s.token_state[child], s.word_state[child], s.hot_state[child] = ts, ws, hs
        s.word_hash[child], s.state[child] = wh, _state(ts, ws, hs, wh)
        s.factor[child], s.ahead[child] = s.answer[place, 0], s.answer[place, 1]
    return child
