"""What the language models charge for a token, a word or the end: one hypothesis, compiled.

The CTC search calls these functions inside its loop, `fusion` over arrays of hypotheses. A
hypothesis is known by the states of its language models and the hash of its last letters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.hotwords import SPACE, HotArrays
from asr.kernels import njit_inline, njit_inner, njit_lean
from asr.lm.ngram import EOS, FNV_START, NGramArrays, advance, fnv, lookup

END: Any = np.int32(EOS)  # of the type of other words: one compilation
# Hashes from here on are of letters with which no known word begins: nothing is looked up of them.
# (One in 2^40 beginnings of known words has such a hash by chance.)
UNKNOWN = np.uint64(0xFFFFFFFFFF000000)

Ints = NDArray[np.int32]
Hashes = NDArray[np.uint64]


class Prefixes(NamedTuple):
    """Hash table of every beginning of a known word, whole words too; without a language model of
    words it has one place, empty. P is a power of two."""

    keys: Hashes  # (P,) hashes of letters; 0 is empty
    best: NDArray[np.float32]  # (P,) the largest unigram log probability of words that begin so
    letters: Ints  # (P,) how many letters they are


class FusionArrays(NamedTuple):
    """What the compiled functions need. V tokens; a language model that is absent has no states."""

    token_lm: NGramArrays
    word_lm: NGramArrays
    has_token: bool
    has_word: bool
    token_weight: float
    word_weight: float
    word_bonus: float  # for every completed word
    token_bonus: float  # for every token; one of the two bonuses is zero
    unk: float  # weight of each letter of an unknown word, at most 0
    token_ids: Ints  # (V,) token -> word id in the token LM
    boundary: NDArray[np.bool_]  # (V,) does the token end the word before it?
    allowed: NDArray[np.bool_]  # (V,) may the token be output?
    letters: NDArray[np.uint8]  # UTF-8 bytes of all tokens without their boundary marks
    letters_begin: Ints  # (V + 1,)
    prefixes: Prefixes
    unknown: float  # raw score of an unknown word as unigram
    has_hot: bool
    hot: HotArrays
    hot_gain: float  # hot words' share and bonus rise with a token by at most this


@njit_inner
def complete_word(a: Any, ws: Any, wh: Any) -> Any:
    """The word whose hash is `wh` after the state `ws`: (raw log probability, its letters if it is
    unknown and they are not counted yet, next state)."""
    if not a.has_word:
        return 0.0, 0, ws
    word: Any = np.int32(0 if wh >= UNKNOWN else lookup(a.word_lm, wh))
    logp, after, _ = advance(a.word_lm, ws, word)
    counted = word != 0 or wh >= UNKNOWN
    return logp + 0.0, 0 if counted else letters_of(a.prefixes, wh), np.int32(after)


@njit_inner
def letters_of(prefixes: Any, wh: Any) -> Any:
    """How many letters have the hash `wh`, where a known word begins so; else 0."""
    slot = slot_of(prefixes.keys, wh)
    return np.int64(prefixes.letters[slot] if prefixes.keys[slot] == wh else 0)


@njit_inline
def spell(prefixes: Any, wh: Any, byte: Any) -> Any:
    """One more byte of a word: (hash, letters that are now known to be of an unknown word).

    They count as soon as no known word begins so: all so far, then each that follows. A word that
    is unknown though others begin like it is counted when it is complete.
    """
    after = fnv(wh, byte)
    letter = 1 if byte & 0xC0 != 0x80 else 0  # the first byte of a UTF-8 character
    if len(prefixes.keys) == 1:
        return after, 0
    if wh < UNKNOWN:
        if prefixes.keys[slot_of(prefixes.keys, after)] == after:
            return after, 0
        letter += letters_of(prefixes, wh)
    return after | UNKNOWN, letter


@njit_inline
def extend(a: Any, ts: Any, ws: Any, wh: Any, token: Any) -> Any:
    """Append `token`: (token LM, word LM, words completed (0 or 1), letters of unknown words, next
    ts, ws, wh); raw logs."""
    token_score, word_score, words, unknown = 0.0, 0.0, 0, 0
    if a.has_token:
        logp, after, _ = advance(a.token_lm, ts, a.token_ids[token])
        token_score, ts = logp + 0.0, np.int32(after)
    if a.boundary[token]:
        if wh != FNV_START:
            word_score, unknown, ws = complete_word(a, ws, wh)
            words = 1
        wh = FNV_START
    for i in range(a.letters_begin[token], a.letters_begin[token + 1]):
        wh, letters = spell(a.prefixes, wh, a.letters[i])
        unknown += letters
    return token_score, word_score, words, unknown, ts, ws, wh


@njit_inner
def finish(a: Any, ts: Any, ws: Any, wh: Any) -> Any:
    """Last word and end of the sentence: (token LM, word LM, words completed (0 or 1), letters of
    an unknown word); raw logs."""
    token_score, word_score, words, unknown = 0.0, 0.0, 0, 0
    if wh != FNV_START:
        word_score, unknown, ws = complete_word(a, ws, wh)
        words = 1
    if a.has_token:
        token_score = advance(a.token_lm, ts, END)[0] + 0.0
    if a.has_word:
        word_score += advance(a.word_lm, ws, END)[0]
    return token_score, word_score, words, unknown


@njit_inner
def extend_hot(a: Any, state: Any, wh: Any, token: Any) -> Any:
    """Append `token` to a text whose last letters have the hash `wh`: (hot words' bonus, state)."""
    earned = 0.0
    if a.boundary[token] and wh != FNV_START:
        state = a.hot.next[state, a.hot.column[SPACE]]
        earned += a.hot.earned[state]
    for i in range(a.letters_begin[token], a.letters_begin[token + 1]):
        state = a.hot.next[state, a.hot.column[a.letters[i]]]
        earned += a.hot.earned[state]
    return earned, np.int32(state)


@njit_inner
def finish_hot(a: Any, state: Any, wh: Any) -> Any:
    """The bonus of a hot word at the end of the text."""
    end = a.hot.next[state, a.hot.column[SPACE]]
    return a.hot.earned[end] if wh != FNV_START else 0.0


@njit_lean
def look_ahead(a: Any, wh: Any) -> Any:
    """Weighted score that the unfinished word will bring at best: what pruning adds to a total.

    Without it hypotheses that put off the end of a word would look better than all others. It is
    the best unigram among the words that begin so; never less than an unknown word.
    """
    if wh == FNV_START:
        return 0.0
    best = 0.0
    if a.has_word:
        best = a.word_weight * a.unknown
        slot = slot_of(a.prefixes.keys, wh) if wh < UNKNOWN else np.uint64(0)
        if a.prefixes.keys[slot] == wh:
            best += a.unk * a.prefixes.letters[slot]
            best = max(best, a.word_weight * a.prefixes.best[slot])
    return best + a.word_bonus


@njit_lean
def slot_of(keys: Any, key: Any) -> Any:
    """Where `key` stands, or the empty slot where it would; half are empty."""
    mask = np.uint64(len(keys) - 1)
    slot = key & mask
    while keys[slot] != key and keys[slot] != 0:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit_inline
def weigh(a: Any, token_score: Any, word_score: Any, words: Any, unknown: Any, tokens: Any) -> Any:
    """The weighted sum of increments; only words or tokens have a bonus."""
    score = a.token_weight * token_score + a.word_weight * word_score + a.unk * unknown
    return score + a.word_bonus * words + a.token_bonus * tokens
