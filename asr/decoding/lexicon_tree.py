"""What a search with a lexicon reads and changes: its arrays, and the tree of its histories.

A history is a word sequence, a node of a tree in flat arrays; a hash table (history, word) -> child
finds it again, with its language model state, when its last word is completed once more.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.fusion import Fusion
from asr.decoding.hotwords import HotArrays, read_word
from asr.decoding.options import SearchOptions
from asr.decoding.prefix_tree import LIMIT
from asr.kernels import njit_lean
from asr.lm.ngram import NGramArrays, advance

Ints = NDArray[np.int32]
Doubles = NDArray[np.float64]

ROOM, HISTORIES_ROOM = 512, 4096  # candidates of a frame, histories: a new search's room
SPARE = 65536  # most histories of arrays that are kept for the next search
BLANK, TOKEN = 0, 1  # columns of masses: B, N
# Places of counts. FRAME: the next one; BEAMS: so far, one a frame that was not skipped, 0 before
# the search begins; WIDE: up to how many of them a second look goes on; PICKED: tokens.
HISTORIES, ALL_BLANK, CANDIDATES, STAMP, FRAME, BEAMS, WIDE, PICKED = range(8)

# The second look, see lexicon_beam: it begins so many frames back (skipped ones do not count), goes
# on for half as many after the one where the best hypothesis has become less likely by FALL
# (natural log), and is so wide.
LOOK_BACK, FALL = 20, 4.0
SECOND = {"beam": 150, "beam_threshold": 16.0, "token_threshold": 10.0}


# What a search reads of a trie, side by side in memory: where it looks next is seldom in a cache.
NODE = np.dtype(
    [("token", "i4"), ("arcs", "i4"), ("ends", "i4"), ("between", "i4"), ("ahead", "f8")]
)
ARC = np.dtype([("token", "i4"), ("node", "i4"), ("gain", "f8")])
END = np.dtype([("gain", "f8"), ("word", "i8")])


class Model(NamedTuple):
    """What a search reads: N nodes, A arcs, E ends of words, W words, V tokens; see Trie."""

    nodes: NDArray[np.void]  # (N + 1,) NODE: the last but for where arcs and ends end
    arcs: NDArray[np.void]  # (A,) ARC; gain: ahead of the arc's end / ahead of its beginning
    ends: NDArray[np.void]  # (E,) END; gain: probability of the spelling / ahead of the node
    opening: Ints  # (V + 1,) of a node between words, token v has the arcs opening[v] ..
    word_lm: NGramArrays
    has_lm: bool
    lm_start: int  # the state before the first word
    lm_weight: float
    bonus: Doubles  # (W,) of the words, less what the letters of those cost that the LM lacks
    hot: HotArrays
    letters: NDArray[np.uint8]  # UTF-8 bytes of all words
    letters_begin: Ints  # (W + 1,)
    lm_word: Ints  # (W,) the words' ids in the word LM
    tokens: Ints  # those that occur in the trie
    sharpness: float  # 1 / w_ctc
    most_gain: float  # a completed word multiplies a mass by at most this


class Arrays(NamedTuple):
    """All that a search changes: R histories and C candidates of room, K beam, V tokens, P beams
    of the last frames, by turns.

    History 0 has no words.
    """

    before: Ints  # (R,) the history without its last word
    word: Ints  # (R,) its last word
    state: Ints  # (R,) of the word LM
    hot: Ints  # (R,) of the hot words
    gain: Doubles  # (R,) what the last word multiplied the mass by
    total: Doubles  # (R,) natural log of what all its words did
    table: Ints  # (2R,) histories by open addressing; 0 is empty
    history: Ints  # (P, K) the beams
    node: Ints  # (P, K)
    mass: Doubles  # (P, K, 2) relative to the scale
    entries: NDArray[np.int64]  # (P,) how many there are
    frame: NDArray[np.int64]  # (P,) after which they are
    scale: Doubles  # (P,) log_scale then
    fit: Doubles  # (P,) of the best hypothesis
    new_history: Ints  # (C,) what a frame makes of it
    new_node: Ints  # (C,)
    new_mass: Doubles  # (C, 2)
    places: NDArray[np.int64]  # (2C,) stamp + candidate by open addressing; less than stamp: empty
    alike: NDArray[np.int64]  # (2C,) the same, by what decides a candidate's future
    order: Doubles  # (max(C, V),) scratch of the selections
    p: Doubles  # (V,) probabilities of the tokens worth trying, else 0
    picked: Ints  # (V,) those tokens
    counts: NDArray[np.int64]  # (8,)
    log_scale: Doubles  # (1,)


PER_HISTORY = Arrays._fields[:6]


class Pruning(NamedTuple):
    """SearchOptions as the loops need them."""

    beam: int
    beam_cut: float  # ratios of masses
    token_cut: float
    tokens_per_frame: int
    skip: float
    merge: bool  # of candidates that can go on alike only the best is kept


def pruning(options: SearchOptions, sharpness: float) -> Pruning:
    """The options in terms of masses."""
    return Pruning(
        max(options.beam, options.nbest),
        float(np.exp(-options.beam_threshold * sharpness)),
        float(np.exp(-options.token_threshold)),
        options.tokens_per_frame,
        float(options.blank_skip),
        options.nbest == 1 and bool(np.isfinite(options.beam_threshold)),
    )


@functools.lru_cache
def two_looks(
    options: SearchOptions, threshold: float, sharpness: float
) -> tuple[Pruning, Pruning]:
    """The options, with this beam threshold, in terms of masses, and the same at a second look;
    equal where the first is as wide already."""
    options = replace(options, beam_threshold=threshold)
    wider: dict[str, Any] = {
        name: max(value, getattr(options, name)) for name, value in SECOND.items()
    }
    return pruning(options, sharpness), pruning(replace(options, **wider), sharpness)


def new_arrays(looks: tuple[Pruning, Pruning], fusion: Fusion) -> Arrays:
    """Those of a search that begins; of one that is over, if there are any."""
    s: Arrays = fusion.spare(looks) or _allocate(*looks, len(fusion.tokens))
    s.counts[BEAMS] = 0
    return s


def give_back(s: Arrays, looks: tuple[Pruning, Pruning], fusion: Fusion) -> None:
    """The search is over: another one of this fusion may have its arrays."""
    if len(s.word) <= SPARE:
        fusion.keep(looks, s)


def _allocate(limits: Pruning, second: Pruning, tokens: int) -> Arrays:
    beam, past = second.beam, 1 if second == limits else LOOK_BACK + 1
    return Arrays(
        before=np.zeros(HISTORIES_ROOM, np.int32),
        word=np.zeros(HISTORIES_ROOM, np.int32),
        state=np.zeros(HISTORIES_ROOM, np.int32),
        hot=np.zeros(HISTORIES_ROOM, np.int32),
        gain=np.ones(HISTORIES_ROOM),
        total=np.zeros(HISTORIES_ROOM),
        table=np.zeros(2 * HISTORIES_ROOM, np.int32),
        history=np.zeros((past, beam), np.int32),
        node=np.zeros((past, beam), np.int32),
        mass=np.zeros((past, beam, 2)),
        entries=np.zeros(past, np.int64),
        frame=np.zeros(past, np.int64),
        scale=np.zeros(past),
        fit=np.zeros(past),
        new_history=np.empty(ROOM, np.int32),
        new_node=np.empty(ROOM, np.int32),
        new_mass=np.empty((ROOM, 2)),
        places=np.zeros(2 * ROOM, np.int64),
        alike=np.zeros(2 * ROOM, np.int64),
        order=np.empty(max(ROOM, tokens)),
        p=np.zeros(tokens),
        picked=np.zeros(tokens, np.int32),
        counts=np.zeros(8, np.int64),
        log_scale=np.zeros(1),
    )


def with_more_room(s: Arrays) -> Arrays:
    """The same search with room for twice as many histories and candidates."""
    wider: dict[str, Any] = {name: np.concatenate([getattr(s, name)] * 2) for name in PER_HISTORY}
    room = 2 * len(s.new_node)
    grown = s._replace(
        **wider,
        table=np.zeros(2 * len(s.table), np.int32),
        new_history=np.empty(room, np.int32),
        new_node=np.empty(room, np.int32),
        new_mass=np.empty((room, 2)),
        places=np.zeros(2 * room, np.int64),
        alike=np.zeros(2 * room, np.int64),
        order=np.empty(max(room, len(s.p))),
    )
    s.counts[STAMP] = 0
    _fill_table(grown)
    return grown


@njit_lean
def hash_pair(a: Any, b: Any) -> Any:
    key = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b) * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    return key ^ (key >> np.uint64(32))


@njit_lean
def _find(s: Any, history: Any, word: Any) -> Any:
    """(history with one more word or 0, its place in the table)."""
    mask = np.uint64(len(s.table) - 1)
    place = hash_pair(history, word) & mask
    while True:
        h = s.table[place]
        if h == 0 or (s.before[h] == history and s.word[h] == word):
            return h, place
        place = (place + np.uint64(1)) & mask


@njit_lean
def _fill_table(s: Any) -> None:
    """Put all histories into an empty table."""
    for h in range(1, s.counts[HISTORIES]):
        s.table[_find(s, s.before[h], s.word[h])[1]] = h


@njit_lean
def lm_score(model: Any, state: Any, word: Any) -> Any:
    """(raw log probability, next state) of a word of the lexicon."""
    w = model.lm_word[word]
    logp, after, _ = advance(model.word_lm, state, w)
    return logp + 0.0, np.int32(after)


@njit_lean
def longer_history(s: Any, model: Any, history: Any, word: Any) -> Any:
    """The history with one more word, made with its language model score if new."""
    h, place = _find(s, history, word)
    if h == 0:
        h = np.int32(s.counts[HISTORIES])
        s.counts[HISTORIES] += 1
        s.table[place] = h
        score, state = model.bonus[word], s.state[history]
        if model.lm_weight > 0.0:  # states of no weight would keep apart what can go on alike
            logp, state = lm_score(model, state, word)
            score += model.lm_weight * logp
        hot = s.hot[history]
        if len(model.hot.earned) > 1:
            begin, end = model.letters_begin[word], model.letters_begin[word + 1]
            earned, after = read_word(model.hot, hot, model.letters, begin, end)
            score += earned + model.hot.ahead[after] - model.hot.ahead[hot]
            hot = np.int32(after)
        s.before[h], s.word[h], s.state[h], s.hot[h] = history, word, state, hot
        score = min(model.sharpness * score, LIMIT)
        s.gain[h] = np.exp(score)
        s.total[h] = s.total[history] + score
    return h
