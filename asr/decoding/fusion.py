"""Shallow fusion: the language models' part of a hypothesis' score, token by token.

    fusion(tokens) = Σ_i w_i · log p_i(tokens) + bonus · length + unk · unknown + hot words

A language model of tokens scores every token. One of words scores a word when it is complete: at a
boundary (the token `|`, " " or "▁"), at a piece that begins with "▁", or at the end; until then the
hypothesis carries the hash of the word's letters. Boundaries without letters between them complete
nothing. The end of the sentence is scored by both. `length` counts words, or tokens where every
language model is of tokens; `unknown` the letters of words that the one of words does not know: to
it all of them are one word, however long, and without `unk` words would run together. The same
functions serve the CTC search (inside its compiled loop) and the LAS search (over arrays of
hypotheses): `fusion_steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.fusion_steps import (
    FusionArrays,
    Hashes,
    Ints,
    Prefixes,
    complete_word,
    extend,
    finish,
    look_ahead,
    slot_of,
    spell,
    weigh,
)
from asr.decoding.hotwords import NO_HOT_WORDS, HotWords
from asr.decoding.inventory import Inventory
from asr.decoding.options import SearchOptions
from asr.errors import InputError
from asr.hypothesis import Weights, check_finite, length_unit
from asr.kernels import njit_lean
from asr.lm.lexicon import spelling_by_letters
from asr.lm.ngram import FNV_START, RESERVED, NGram, NGramArrays, advance, fnv
from asr.text.pieces import SPECIAL, is_boundary, letters

Floats = NDArray[np.float64]


class States(NamedTuple):
    """Fusion states of N hypotheses, each array (N,)."""

    token: Ints  # state of the token LM
    word: Ints  # state of the word LM
    hash: Hashes  # hash of the letters since the last boundary


class Increments(NamedTuple):
    """What one step added to the scores of N hypotheses, each array (N,)."""

    token: Floats  # raw natural log of the token LM
    word: Floats  # raw natural log of the word LM
    length: NDArray[np.int64]  # words, or tokens where every LM is of tokens
    unknown: NDArray[np.int64]  # letters of unknown words
    weighted: Floats  # Σ w·lm + bonus·length + unk·unknown


@njit_lean
def _hash_prefixes(text: Any, logprob: Any, hashes: Any, best: Any, letters: Any) -> None:
    """For each byte of a text of words, one a line: the hash of the word so far, the word's log
    probability, and how many letters it has so far."""
    h, word, count = FNV_START, 0, 0
    for i in range(len(text)):
        if text[i] == 10:
            h, word, count = FNV_START, word + 1, 0
            hashes[i] = 0
            continue
        h = fnv(h, text[i])
        count += 1 if text[i] & 0xC0 != 0x80 else 0
        hashes[i], best[i], letters[i] = h, logprob[word], count


@njit_lean
def _slots(hashes: Any, keys: Any, slots: Any) -> None:
    """Put hashes into an empty table `keys`, and where into `slots`."""
    for i in range(len(hashes)):
        slots[i] = slot_of(keys, hashes[i])
        keys[slots[i]] = hashes[i]


@njit_lean
def _take(a: Any, ts: Any, ws: Any, wh: Any, tokens: Any, scores: Any, counts: Any) -> None:
    for n in range(len(tokens)):
        token_score, word_score, words, unknown, ts[n], ws[n], wh[n] = extend(
            a, ts[n], ws[n], wh[n], tokens[n]
        )
        counts[0, n], counts[1, n] = words, unknown
        scores[0, n], scores[1, n] = token_score, word_score
        scores[2, n] = weigh(a, token_score, word_score, words, unknown, 1)


@njit_lean
def _finish_all(a: Any, ts: Any, ws: Any, wh: Any, scores: Any, counts: Any) -> None:
    for n in range(len(ts)):
        token_score, word_score, words, unknown = finish(a, ts[n], ws[n], wh[n])
        counts[0, n], counts[1, n] = words, unknown
        scores[0, n], scores[1, n] = token_score, word_score
        scores[2, n] = weigh(a, token_score, word_score, words, unknown, 0)


@njit_lean
def _score_all(a: Any, ts: Any, ws: Any, wh: Any, out: Any, ahead: Any) -> None:
    for n in range(len(ts)):
        # The word that a boundary completes is the same whichever token brings the boundary.
        completed = 0.0
        if wh[n] != FNV_START:
            word_score, unknown, _ = complete_word(a, ws[n], wh[n])
            completed = a.word_weight * word_score + a.word_bonus + a.unk * unknown
        for v in range(1, out.shape[1]):
            if not a.allowed[v]:
                out[n, v] = -np.inf
                continue
            score = a.token_bonus
            if a.has_token:
                logp, _, _ = advance(a.token_lm, ts[n], a.token_ids[v])
                score += a.token_weight * logp
            after, unknown = wh[n], 0
            if a.boundary[v]:
                after, score = FNV_START, score + completed
            for i in range(a.letters_begin[v], a.letters_begin[v + 1]):
                after, letters = spell(a.prefixes, after, a.letters[i])
                unknown += letters
            out[n, v] = score + a.unk * unknown
            ahead[n, v] = look_ahead(a, after)


class Fusion:
    """The language models of a search, over the token inventory `tokens` (id 0: blank or end).

    `lms` holds at most one language model of tokens and one of words; `weights.lm` their weights.
    An unknown word scores the LM's <unk>, and `weights.unk` (a natural log) for each letter.
    hotwords: the CTC search knows them.
    Raises InputError for an LM of another unit than it says or of no word to output, and for
    numbers that are not finite.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        lms: Mapping[str, NGram] | None = None,
        weights: Weights | None = None,
        hotwords: HotWords | None = None,
    ) -> None:
        lms, self.tokens = dict(lms or {}), list(tokens)
        self.inventory = Inventory(self.tokens)
        self.weights = weights or Weights(ctc=1.0)
        check_finite(self.weights)
        names: dict[str, str] = {}
        for name, lm in lms.items():
            if lm.unit in names:
                what = f"{names[lm.unit]} and {name} are both language models of {lm.unit}s"
                raise InputError(what, None, "A search takes one of each unit; rescore with more.")
            names[lm.unit] = name
            lm.check_unit(self.tokens)
        self.token_name, self.word_name = names.get("token"), names.get("word")
        self.length_unit = length_unit(names)
        self.lms, self.hotwords = lms, hotwords
        if hotwords:
            hotwords.check(self.can_spell())
        if self.word_name:
            self._check_words(lms[self.word_name])
        self.arrays = self._arrays()
        # What the CTC search reads: states of an LM without effect would keep prefixes apart that
        # can go on alike.
        a = self.arrays
        has_word = a.has_word and (a.word_weight > 0 or a.unk < 0)
        self.search_arrays = a._replace(
            has_token=a.token_weight > 0,
            has_word=has_word,
            prefixes=a.prefixes if has_word else _NO_PREFIXES,
        )
        first = self.begin(1)
        self.start = first.token[0], first.word[0], first.hash[0]  # of an empty hypothesis
        self._spare: list[tuple[Any, Any]] = []
        self.usable = self.arrays.allowed | (np.arange(len(self.tokens)) == 0)  # blank too

    def threshold(self, options: SearchOptions) -> float:
        """The beam threshold; wider where a language model weighs more than twice the network.

        What such a model charges for a word begun, it takes from all the others later on.
        """
        network = self.weights.ctc + self.weights.att
        heaviest = max(self.weights.lm.values(), default=0.0)
        return options.beam_threshold * max(1.0, heaviest / (2 * network))

    def can_spell(self) -> Callable[[str], bool]:
        """Can a word be output?"""
        return spelling_by_letters(self.tokens)

    def _check_words(self, lm: NGram) -> None:
        words = lm.vocabulary[len(RESERVED) :]
        if not any(map(self.can_spell(), words)):
            shown = ", ".join([*words[:3], "..."])
            what = f"none of its {len(words)} words ({shown}) can be output"
            remedy = "Make it of text in the case and with the normaliser of the tokens."
            raise InputError(what, lm.path, remedy)

    def _weight(self, name: str | None) -> float:
        weight = self.weights.lm.get(name, 0.0) if name else 0.0
        if weight < 0:
            what = f"the weight of the language model {name} is {weight}"
            raise InputError(what, "lm-weight", "It must not be negative.")
        return float(weight)

    def _arrays(self) -> FusionArrays:
        token_lm = self.lms[self.token_name] if self.token_name else None
        word_lm = self.lms[self.word_name] if self.word_name else None
        spelling = [letters(t).encode() for t in ["", *self.tokens[1:]]]
        ids = {w: i for i, w in enumerate(token_lm.vocabulary)} if token_lm else {}
        token_ids = [ids.get(t, ids.get("|", 0) if t == " " else 0) for t in self.tokens]
        bonus = float(self.weights.bonus)
        hot = self.hotwords.arrays if self.hotwords else NO_HOT_WORDS
        rise = (hot.earned + hot.ahead)[hot.next] - hot.ahead[:, None]
        per_token = self.length_unit == "tokens"
        return FusionArrays(
            token_lm=_readonly(token_lm.arrays if token_lm else _NOTHING),
            word_lm=_readonly(word_lm.arrays if word_lm else _NOTHING),
            has_token=token_lm is not None,
            has_word=word_lm is not None,
            token_weight=self._weight(self.token_name),
            word_weight=self._weight(self.word_name),
            word_bonus=0.0 if per_token else bonus,
            token_bonus=bonus if per_token else 0.0,
            unk=float(self.weights.unk),
            token_ids=np.array(token_ids, np.int32),
            boundary=np.array([is_boundary(t) for t in self.tokens], bool),
            allowed=np.array([i > 0 and t not in SPECIAL for i, t in enumerate(self.tokens)], bool),
            letters=np.frombuffer(b"".join(spelling) or b"\0", np.uint8).copy(),
            letters_begin=np.cumsum([0, *map(len, spelling)]).astype(np.int32),
            prefixes=_prefixes(word_lm) if word_lm else _NO_PREFIXES,
            unknown=float(word_lm.arrays.logprob[0]) if word_lm else 0.0,
            has_hot=self.hotwords is not None,
            hot=hot,
            hot_gain=float(max(rise.max(), 0.0)) * (max(map(len, spelling)) + 1),
        )

    def keep(self, made_for: Any, arrays: Any) -> None:
        """A search is over: another one with the same fusion may have its arrays."""
        self._spare.append((made_for, arrays))

    def spare(self, made_for: Any) -> Any:
        """Arrays of a search that is over, made for the same, or None. They have room enough for
        most utterances, and making them takes longer than many frames."""
        try:  # another thread may be faster
            kept_for, arrays = self._spare.pop()
        except IndexError:
            return None
        return arrays if kept_for == made_for else None

    def begin(self, n: int) -> States:
        """States of `n` empty hypotheses."""
        ts = self.lms[self.token_name].start() if self.token_name else 0
        ws = self.lms[self.word_name].start() if self.word_name else 0
        return States(
            np.full(n, ts, np.int32), np.full(n, ws, np.int32), np.full(n, FNV_START, np.uint64)
        )

    def score_all(self, ts: Ints, ws: Ints, wh: Hashes) -> NDArray[np.float64]:
        """Of every token (2, N, V): its weighted increment, bonus included; the look-ahead after.

        Tokens that are never output get -inf; column 0 (blank, end) is 0: `finish_all` has the end.
        """
        out = np.zeros((2, len(ts), len(self.tokens)))
        _score_all(self.arrays, ts, ws, wh, out[0], out[1])
        return out

    def take(
        self, ts: Ints, ws: Ints, wh: Hashes, tokens: NDArray[np.integer[Any]]
    ) -> tuple[States, Increments]:
        """Append one token (N,) to each hypothesis: its new states and what that added."""
        after = States(ts.copy(), ws.copy(), wh.copy())
        scores, counts = np.zeros((3, len(ts))), np.zeros((2, len(ts)), np.int64)
        _take(self.arrays, *after, np.asarray(tokens, np.int64), scores, counts)
        if self.length_unit == "tokens":
            counts[0] = 1
        return after, Increments(scores[0], scores[1], counts[0], counts[1], scores[2])

    def finish_all(self, ts: Ints, ws: Ints, wh: Hashes) -> Increments:
        """What ending the sentence now adds to each hypothesis: last word and end."""
        scores, counts = np.zeros((3, len(ts))), np.zeros((2, len(ts)), np.int64)
        _finish_all(self.arrays, ts, ws, wh, scores, counts)
        if self.length_unit == "tokens":
            counts[0] = 0
        return Increments(scores[0], scores[1], counts[0], counts[1], scores[2])


def _prefixes(lm: NGram) -> Prefixes:
    text = np.frombuffer("\n".join(lm.vocabulary[len(RESERVED) :]).encode(), np.uint8)
    hashes, best = np.zeros(len(text), np.uint64), np.zeros(len(text), np.float32)
    letters = np.zeros(len(text), np.int32)
    _hash_prefixes(text, lm.arrays.logprob[len(RESERVED) :], hashes, best, letters)
    order = np.argsort(hashes)
    distinct, first = np.unique(hashes[order], return_index=True)
    keys = np.zeros(1 << (2 * len(distinct)).bit_length(), np.uint64)
    values, counts = np.zeros(len(keys), np.float32), np.zeros(len(keys), np.int32)
    if len(distinct):
        slots = np.empty(len(distinct), np.int64)
        _slots(distinct, keys, slots)
        values[slots] = np.maximum.reduceat(best[order], first)
        counts[slots] = letters[order][first]
    return Prefixes(keys, values, counts)


def _readonly(arrays: NGramArrays) -> NGramArrays:
    """The same arrays as plain read-only views: one type, so one compilation, for every LM."""
    views = [np.asarray(array).view(np.ndarray) for array in arrays]
    for view in views:
        view.flags.writeable = False
    return NGramArrays(*views)


_NO_PREFIXES = Prefixes(np.zeros(1, np.uint64), np.zeros(1, np.float32), np.zeros(1, np.int32))
_NOTHING = NGramArrays(
    word=np.zeros(1, np.int32),
    logprob=np.zeros(1, np.float32),
    next=np.zeros(1, np.int32),
    begin=np.zeros(2, np.int32),
    backoff=np.zeros(1, np.float32),
    backoff_state=np.zeros(1, np.int32),
    hash_keys=np.zeros(1, np.uint64),
    hash_ids=np.zeros(1, np.int32),
    level=np.zeros(1, np.int32),
)
