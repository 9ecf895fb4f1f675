"""CTC search with a closed vocabulary: what `ctc_search` does where there is a lexicon.

It maximises over word sequences

    total(words) = w_ctc · log Σ_{spellings} p(spelling | words) Σ_{alignments} Π_t p_t
                   + w_lm · log p(words) + bonus · length + unk · unknown + hot words

The loops are in `lexicon_beam`; scores of what is returned are summed anew (`lexicon_align`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import lexicon_beam, lexicon_tree
from asr.decoding.align import Pauses
from asr.decoding.fusion import Fusion
from asr.decoding.hotwords import NO_HOT_WORDS, HotWords, Phrases
from asr.decoding.lexicon_align import SAFE, trace
from asr.decoding.lexicon_tree import ARC, END, NODE, Arrays, Model
from asr.decoding.options import SearchOptions
from asr.decoding.prefix_tree import LIMIT
from asr.errors import InputError
from asr.hypothesis import Hypothesis, Weights, Word
from asr.lm.lexicon import AFTER, START, Lexicon, Trie, Words
from asr.lm.ngram import RESERVED, NGram

Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]


class LexiconFusion(Fusion):
    """Language models and weights of a search for the words of a lexicon; at most one LM, of words.

    An LM of tokens would tell spellings apart that are summed here: rescore with it.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        tokens: Sequence[str],
        lms: Mapping[str, NGram] | None = None,
        weights: Weights | None = None,
        hotwords: HotWords | None = None,
    ) -> None:
        self.lexicon = lexicon
        super().__init__(tokens, lms, weights, hotwords)
        if self.token_name:
            raise InputError(
                f"the search with a lexicon takes no language model of tokens ({self.token_name})",
                lexicon.path,
                "Rescore with it.",
            )
        self.model = self._model()

    def can_spell(self) -> Callable[[str], bool]:
        return self.lexicon.known.__contains__

    def missing(self) -> list[str]:
        """The words of the language model that the lexicon lacks: they are never output."""
        lm = self.lms[self.word_name] if self.word_name else None
        return sorted({*lm.vocabulary[len(RESERVED) :]} - self.lexicon.known) if lm else []

    def _model(self) -> Model:
        trie, a = self.lexicon.trie, self.arrays
        sharpness = 1 / self.weights.ctc if self.weights.ctc > 0 else 0.0  # the search refuses 0
        lm = self.lms[self.word_name] if self.word_name else None
        ids = np.array([lm.id(word) if lm else 0 for word in self.lexicon.words], np.int32)
        words = self.lexicon.words
        # of each word its letters, if the language model does not know it
        self.letters = np.array(list(map(len, words))) * (ids == 0) * a.has_word
        bonus = a.word_bonus + a.unk * self.letters
        best = bonus + (a.word_weight * lm.arrays.logprob[ids] if lm else 0.0)
        gains = self.hotwords.gains() if self.hotwords else {}
        if gains:
            best += [gains.get(word, 0.0) for word in words]
        spelling = [word.encode() for word in words]
        ahead = np.exp(np.clip(_best_below(trie, sharpness * best), -LIMIT, LIMIT))
        most_gain = max(0.0, a.word_bonus) + max(gains.values(), default=0.0)
        nodes, arcs, ends = _records(trie, ahead)
        opens = trie.arc_token[trie.arcs[START] : trie.arcs[START + 1]]
        return Model(
            nodes=nodes,
            arcs=arcs,
            ends=ends,
            opening=np.searchsorted(opens, np.arange(len(self.tokens) + 1)).astype(np.int32),
            word_lm=a.word_lm,
            has_lm=a.has_word,
            lm_start=lm.start() if lm else 0,
            lm_weight=a.word_weight,
            bonus=bonus,
            hot=self.hotwords.arrays if self.hotwords else NO_HOT_WORDS,
            letters=np.frombuffer(b"".join(spelling), np.uint8).copy(),
            letters_begin=np.cumsum([0, *map(len, spelling)]).astype(np.int32),
            lm_word=ids,
            tokens=np.unique(trie.arc_token),
            sharpness=sharpness,
            most_gain=float(np.exp(min(sharpness * most_gain, LIMIT))),
        )


def make_fusion(
    tokens: Sequence[str],
    lms: Mapping[str, NGram],
    weights: Weights,
    *,
    lexicon: Words | None = None,
    hotwords: Phrases | None = None,
    normalize: Callable[[str], str] = str,
) -> Fusion:
    """What the search adds to the outputs of the network; with a lexicon it knows no other words.

    lexicon, hotwords: see Lexicon and HotWords; normalize: applied to their words.
    """
    hot = HotWords(hotwords, normalize) if hotwords else None
    if lexicon is None:
        return Fusion(tokens, lms, weights, hot)
    return LexiconFusion(Lexicon(lexicon, tokens, normalize), tokens, lms, weights, hot)


def place_words(hypothesis: Hypothesis, frame_shift: float, pauses: Pauses) -> None:
    """Move the times of a hypothesis' words to the pauses beside them."""
    times = frame_shift * np.array(hypothesis.frames, np.float64)
    ends = np.array([word.end for word in hypothesis.words]) - frame_shift / 2
    last = times[np.searchsorted(times, ends) - 1]  # tokens of boundaries come after the ends
    pauses.place(hypothesis.words, last.tolist())


def _best_below(trie: Trie, word_value: Doubles) -> Doubles:
    """(N,) the largest value of a word that can be reached from each node, log p(spelling)
    included; where no word is under way, of the next."""
    value = np.full(len(trie.token), -np.inf)
    np.maximum.at(value, _owners(trie.ends), word_value[trie.word] + np.log(trie.prob))
    owner = _owners(trie.arcs)
    inside = ~trie.between[owner] & (owner != AFTER)
    parent, child = owner[inside], trie.arc[inside]
    while True:
        before = value.copy()
        np.maximum.at(value, parent, value[child])
        if np.array_equal(before, value):
            break
    value[trie.between] = value[trie.arc[trie.arcs[START] : trie.arcs[START + 1]]].max()
    value[AFTER] = value[START]
    return value


def _records(trie: Trie, ahead: Doubles) -> tuple[NDArray[np.void], ...]:
    """The nodes, arcs and ends of a Model."""
    nodes = np.zeros(len(ahead) + 1, NODE)
    nodes["arcs"], nodes["ends"] = trie.arcs, trie.ends
    for name, values in (("token", trie.token), ("between", trie.between), ("ahead", ahead)):
        nodes[name][:-1] = values
    arcs, ends = np.zeros(len(trie.arc), ARC), np.zeros(len(trie.word), END)
    before = ahead[_owners(trie.arcs)]
    before[trie.arcs[AFTER] : trie.arcs[AFTER + 1]] = 1.0  # a complete word leaves its own
    arcs["token"], arcs["node"], arcs["gain"] = trie.arc_token, trie.arc, ahead[trie.arc] / before
    ends["word"], ends["gain"] = trie.word, trie.prob / ahead[_owners(trie.ends)]
    return nodes, arcs, ends


def _owners(bounds: Ints) -> NDArray[np.int64]:
    """Of each item of a grouped list, its group."""
    return np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))


class LexiconSearch:
    """A search under way. Its memory grows with the frames."""

    def __init__(self, fusion: LexiconFusion, options: SearchOptions) -> None:
        self.fusion, self.model, self.nbest = fusion, fusion.model, options.nbest
        threshold, sharpness = fusion.threshold(options), fusion.model.sharpness
        self.looks = lexicon_tree.two_looks(options, threshold, sharpness)
        self.arrays = lexicon_tree.new_arrays(self.looks, fusion)
        self.probs = np.empty((0, len(fusion.tokens)))  # (≥ T, V)
        self.frames = 0  # T, all so far

    def give_back(self) -> None:
        """The search is over: another one may have its arrays."""
        lexicon_tree.give_back(self.arrays, self.looks, self.fusion)

    def step(self, probs: Doubles) -> None:
        """Consume the probabilities (T, V) of the next frames."""
        before, self.frames = self.frames, self.frames + len(probs)
        if before == 0:
            self.probs = probs
        else:
            if self.frames > len(self.probs):
                grown = np.empty((2 * self.frames, probs.shape[1]))
                grown[:before] = self.probs[:before]
                self.probs = grown
            self.probs[before : self.frames] = probs
        self._advance()

    def _advance(self) -> None:
        probs = self.probs[: self.frames]
        while not lexicon_beam.advance(self.arrays, self.model, *self.looks, probs):
            self.arrays = lexicon_tree.with_more_room(self.arrays)

    def _texts(self) -> tuple[Ints, Ints, Doubles, bool]:
        """See best_texts."""
        while True:
            found: tuple[Ints, Ints, Doubles, bool]
            found = lexicon_beam.best_texts(self.arrays, self.model, self.nbest)
            if len(found[1]):
                return found
            self.arrays = lexicon_tree.with_more_room(self.arrays)

    def finish(self, frame_shift: float | None) -> list[Hypothesis]:
        """The n best hypotheses, best first."""
        if not self.frames:
            self._advance()  # it makes the first beam
        words, begin, raw, fallen = self._texts()
        if fallen:  # to look again must not disturb what follows
            arrays, self.arrays = self.arrays, Arrays._make(np.array(a) for a in self.arrays)
            lexicon_beam.go_back(self.arrays)
            self._advance()
            words, begin, raw, _ = self._texts()
            self.arrays = arrays
        probs = self.probs[: self.frames]
        found = [
            self._describe(probs, words[first:past], lm, hot, frame_shift)
            for first, past, (lm, hot) in zip(
                begin.tolist(), begin[1:].tolist(), raw.tolist(), strict=False
            )
        ]
        return sorted(found, key=lambda hypothesis: -hypothesis.total)

    def _describe(
        self, probs: Doubles, words: Ints, lm: float, hot: float, frame_shift: float | None
    ) -> Hypothesis:
        fusion = self.fusion
        cut = self.looks[0].beam_cut * math.exp(-SAFE)
        ctc, (tokens, peak), spans = trace(probs, fusion.lexicon.trie, words, cut)
        if ctc == -np.inf:  # bonuses have chosen what the network all but rules out
            ctc, (tokens, peak), spans = trace(probs, fusion.lexicon.trie, words, 0.0)
        names = [fusion.lexicon.words[w] for w in words.tolist()]
        scores: dict[str, Any] = {
            "ctc": float(ctc),
            "lm": {fusion.word_name: lm} if fusion.word_name else {},
            "length": len(names),
        }
        if fusion.word_name:
            scores["unknown"] = int(fusion.letters[words].sum())
        if fusion.hotwords:
            scores["hotwords"] = hot
        hypothesis = Hypothesis(" ".join(names), tokens.tolist(), scores, frames=peak.tolist())
        scores["total"] = hypothesis.rate(fusion.weights)
        if frame_shift and ctc > -np.inf:
            starts, ends = np.round(spans * frame_shift, 4).tolist()
            hypothesis.words = list(map(Word, names, starts, ends))
        return hypothesis
