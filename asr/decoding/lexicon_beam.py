"""The compiled loops of the CTC search with a closed vocabulary: one frame of a beam search.

A hypothesis of the beam is a history h (a word sequence) and a node n of the lexicon's trie. Its
mass is kept in two parts, of alignments that end in blank (B) and in the node's token (N), as in
`prefix_beam`, but summed over all spellings that lead there, and with everything else that counts
multiplied in, so that masses are compared without a logarithm:

    mass(h, n) = Σ_{spellings, alignments} p · (F(h) · ahead(n))^(1 / w_ctc)
    F(h) = exp(Σ_{words of h} w_lm · log p(word | words before) + bonus + hot words)

`ahead` is what the word under way will bring at best (LM look-ahead: its largest unigram, bonus and
pronunciation included); a word that is complete leaves it behind. Hypotheses with different word
sequences are never merged, so that, but for pruning, the search maximises `total` as it is defined.

Where a word is said that the lexicon lacks, hypotheses that have paid for it are far behind others
that follow its letters until no word goes on so; elsewhere the one that wins is seldom far behind.
So the search is narrow, but remembers its last beams; when the best hypothesis fits the frames much
worse than a while ago, it goes back to then and looks a second time, wider.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.decoding.fusion import END
from asr.decoding.hotwords import read_word
from asr.decoding.lexicon_tree import (
    ALL_BLANK,
    BLANK,
    CANDIDATES,
    ENTRIES,
    FALL,
    FRAME,
    HISTORIES,
    KEPT,
    LOOK_BACK,
    STAMP,
    TOKEN,
    WIDE,
    hash_pair,
    lm_score,
    longer_history,
)
from asr.decoding.prefix_beam import kth_largest
from asr.kernels import njit, njit_lean
from asr.lm.lexicon import AFTER, START
from asr.lm.ngram import advance as lm_advance

SMALL = 1e-60  # when the best mass is less, all are scaled up


@njit_lean
def _push(s: Any, history: Any, node: Any, mass: Any) -> Any:
    """Add to N of a candidate, a new one where there is none; its whole mass."""
    mask = np.uint64(len(s.places) - 1)
    stamp = s.counts[STAMP]
    place = hash_pair(history, node) & mask
    while True:
        i = s.places[place] - stamp
        if i < 0:
            i = s.counts[CANDIDATES]
            s.counts[CANDIDATES] = i + 1
            s.places[place] = stamp + i
            s.new_history[i], s.new_node[i] = history, node
            s.new_mass[i, BLANK], s.new_mass[i, TOKEN] = 0.0, mass
            return mass
        if s.new_node[i] == node and s.new_history[i] == history:
            s.new_mass[i, TOKEN] += mass
            return s.new_mass[i, BLANK] + s.new_mass[i, TOKEN]
        place = (place + np.uint64(1)) & mask


@njit_lean
def _clear(s: Any) -> None:
    """No candidates."""
    s.counts[STAMP] += len(s.new_node)
    s.counts[CANDIDATES] = 0


@njit_lean
def _pick_tokens(s: Any, model: Any, limits: Any, row: Any) -> Any:
    """Fill s.p with the probabilities of the tokens worth trying: (how many, the largest)."""
    top = row[0]
    for v in model.tokens:
        top = max(top, row[v])
    least, count, best = max(top * limits.token_cut, 1e-300), 0, 0.0
    for v in model.tokens:
        p = row[v]
        if p >= least:
            s.order[count] = p
            count += 1
            best = max(best, p)
        else:
            p = 0.0
        s.p[v] = p
    if count > limits.tokens_per_frame:
        least = kth_largest(s.order, count, limits.tokens_per_frame)
        for v in model.tokens:
            if s.p[v] < least:
                s.p[v] = 0.0
    return count, best


@njit_lean
def _room_needed(s: Any, trie: Any, count: Any) -> Any:
    """At most so many candidates, and histories, will a frame with `count` tokens make."""
    after = max(1, min(count, trie.arcs[AFTER + 1] - trie.arcs[AFTER]))
    needed = s.counts[ENTRIES]
    for i in range(s.counts[ENTRIES]):
        n = s.node[i]
        needed += trie.arcs[n + 1] - trie.arcs[n] + after * (trie.ends[n + 1] - trie.ends[n])
    return needed


@njit_lean
def _stay(s: Any, trie: Any, row: Any) -> Any:
    """The first candidates: the beam one frame later; the largest mass."""
    _clear(s)
    best = 0.0
    blank = row[0]
    for i in range(s.counts[ENTRIES]):
        n = s.node[i]
        b, t = (s.mass[i, BLANK] + s.mass[i, TOKEN]) * blank, s.mass[i, TOKEN] * row[trie.token[n]]
        best = max(best, _push(s, s.history[i], n, t) + b)
        s.new_mass[i, BLANK] = b
    return best


@njit_lean
def _extend(s: Any, model: Any, limits: Any, best: Any, p_best: Any) -> Any:
    """More candidates: the beam's hypotheses and one token more; the largest mass of all."""
    trie = model.trie
    for i in range(s.counts[ENTRIES]):
        n, history = s.node[i], s.history[i]
        blank, both = s.mass[i, BLANK], s.mass[i, BLANK] + s.mass[i, TOKEN]
        last = trie.token[n]
        cut = best * limits.beam_cut
        if both * p_best > cut:
            for a in range(trie.arcs[n], trie.arcs[n + 1]):
                v = trie.arc_token[a]
                if s.p[v] > 0.0:
                    mass = (blank if v == last else both) * s.p[v] * model.arc_gain[a]
                    if mass > cut:
                        best = max(best, _push(s, history, trie.arc[a], mass))
        for e in range(trie.ends[n], trie.ends[n + 1]):
            out = trie.prob[e] / model.ahead[n]
            for a in range(trie.arcs[AFTER], trie.arcs[AFTER + 1]):
                v = trie.arc_token[a]
                if s.p[v] > 0.0:
                    mass = (blank if v == last else both) * s.p[v] * out * model.arc_gain[a]
                    if mass * model.most_gain > cut:
                        longer = longer_history(s, model, history, trie.word[e])
                        mass *= s.gain[longer]
                        if mass > cut:
                            best = max(best, _push(s, longer, trie.arc[a], mass))
    return best


@njit_lean
def _merge(s: Any, c: Any) -> None:
    """Of candidate c and an earlier one drop the worse if what can follow is the same for both.

    That is where node and states are equal: the worse could win only by what shorter hypotheses of
    its words still give it. It is pruning like the others, and masses do not change.
    """
    h, n = s.new_history[c], s.new_node[c]
    mask, stamp = np.uint64(len(s.alike) - 1), s.counts[STAMP]
    key = np.uint64(s.state[h]) + (np.uint64(s.hot[h]) << np.uint64(32))
    place = hash_pair(key, n) & mask
    while s.alike[place] >= stamp:
        other = s.alike[place] - stamp
        g = s.new_history[other]
        if s.new_node[other] == n and s.state[g] == s.state[h] and s.hot[g] == s.hot[h]:
            worse = c
            mass = s.new_mass[c, BLANK] + s.new_mass[c, TOKEN]
            if mass > s.new_mass[other, BLANK] + s.new_mass[other, TOKEN]:
                s.alike[place], worse = stamp + c, other
            s.new_mass[worse, BLANK] = s.new_mass[worse, TOKEN] = 0.0
            return
        place = (place + np.uint64(1)) & mask
    s.alike[place] = stamp + c


@njit_lean
def _select(s: Any, limits: Any, best: Any, scale: Any) -> None:
    """Make the best of the candidates the beam, the very best first; masses are multiplied by
    `scale`."""
    least, kept = max(best * limits.beam_cut, 1e-300), 0
    count = s.counts[CANDIDATES]
    if limits.merge:
        for i in range(count):
            if s.new_mass[i, BLANK] + s.new_mass[i, TOKEN] >= least:
                _merge(s, i)
    for i in range(count):
        mass = s.new_mass[i, BLANK] + s.new_mass[i, TOKEN]
        if mass >= least:
            s.order[kept] = mass
            kept += 1
    if kept > limits.beam:
        least = kth_largest(s.order, kept, limits.beam)
    if best * scale < SMALL:
        s.log_scale[0] += np.log(best * scale)
        scale = 1.0 / best
    active, first, top = 0, 0, 0.0
    for i in range(count):
        mass = s.new_mass[i, BLANK] + s.new_mass[i, TOKEN]
        if mass >= least and active < limits.beam:
            if mass > top:
                top, first = mass, active
            s.history[active], s.node[active] = s.new_history[i], s.new_node[i]
            s.mass[active, BLANK] = s.new_mass[i, BLANK] * scale
            s.mass[active, TOKEN] = s.new_mass[i, TOKEN] * scale
            active += 1
    for array in (s.history, s.node):
        array[0], array[first] = array[first], array[0]
    for k in range(2):
        s.mass[0, k], s.mass[first, k] = s.mass[first, k], s.mass[0, k]
    s.counts[ENTRIES] = active


@njit_lean
def _fit(s: Any, history: Any, mass: Any) -> Any:
    """log of a hypothesis' CTC score relative to the most probable token of each frame; mass
    without `ahead`."""
    return np.log(mass) + s.log_scale[0] - s.total[history]


@njit_lean
def _keep(s: Any, model: Any, frame: Any) -> None:
    """Remember the beam after a frame."""
    place = s.counts[KEPT] % len(s.fit)
    s.counts[KEPT] += 1
    s.past_frame[place], s.past_count[place] = frame, s.counts[ENTRIES]
    s.past_scale[place] = s.log_scale[0]
    for i in range(s.counts[ENTRIES]):
        s.past_history[place, i], s.past_node[place, i] = s.history[i], s.node[i]
        for k in range(2):
            s.past_mass[place, i, k] = s.mass[i, k]
    mass = (s.mass[0, BLANK] + s.mass[0, TOKEN]) / model.ahead[s.node[0]]
    s.fit[place] = _fit(s, s.history[0], mass)


@njit_lean
def _begin_again(s: Any) -> Any:
    """Which of the beams kept a second look begins with."""
    return max(s.counts[KEPT] - LOOK_BACK, s.counts[WIDE], 1) - 1


@njit_lean
def has_fallen(s: Any, fit: Any) -> Any:
    """Is a best hypothesis of this fit in want of a second look?"""
    if len(s.fit) == 1 or s.counts[KEPT] < s.counts[WIDE]:
        return False
    return s.fit[_begin_again(s) % len(s.fit)] - fit > FALL


@njit_lean
def go_back(s: Any) -> None:
    """Begin a second look."""
    first = _begin_again(s)
    place = first % len(s.fit)
    s.counts[WIDE] = s.counts[KEPT] + LOOK_BACK // 2
    s.counts[KEPT], s.counts[ALL_BLANK] = first + 1, 0
    s.counts[FRAME], s.counts[ENTRIES] = s.past_frame[place] + 1, s.past_count[place]
    s.log_scale[0] = s.past_scale[place]
    for i in range(s.counts[ENTRIES]):
        s.history[i], s.node[i] = s.past_history[place, i], s.past_node[place, i]
        for k in range(2):
            s.mass[i, k] = s.past_mass[place, i, k]


@njit_lean
def advance(s: Any, model: Any, first: Any, second: Any, probs: Any) -> Any:
    """Consume the frames that are not yet, of all so far (T, V), probabilities; False where the
    arrays have no more room. A frame in which every hypothesis is impossible is passed over."""
    while s.counts[FRAME] < len(probs):
        t = s.counts[FRAME]
        row = probs[t]
        limits = second if s.counts[KEPT] < s.counts[WIDE] else first
        if row[0] > limits.skip:
            if s.counts[ALL_BLANK] == 0:
                s.counts[ALL_BLANK] = 1
                for i in range(s.counts[ENTRIES]):
                    s.mass[i, BLANK] += s.mass[i, TOKEN]
                    s.mass[i, TOKEN] = 0.0
            s.counts[FRAME] = t + 1
            continue
        count, p_best = _pick_tokens(s, model, limits, row)
        room = min(len(s.new_node), len(s.word) - s.counts[HISTORIES])
        if _room_needed(s, model.trie, count) > room:
            return False
        s.counts[FRAME] = t + 1
        best = _stay(s, model.trie, row)
        best = _extend(s, model, limits, best, p_best)
        if best > 1e-300:
            _select(s, limits, best, 1.0 / max(row[0], p_best))
            s.counts[ALL_BLANK] = 0
            if len(s.fit) > 1:
                _keep(s, model, t)
                if has_fallen(s, s.fit[(s.counts[KEPT] - 1) % len(s.fit)]):
                    go_back(s)
    return True


@njit_lean
def _finals(s: Any, model: Any) -> Any:
    """Make the candidates the word sequences that may end here, with their final masses in N;
    (False where the arrays have no room, the fit of the best). Where no word is complete, those
    before it."""
    trie = model.trie
    room = min(len(s.new_node), len(s.word) - s.counts[HISTORIES])
    if _room_needed(s, trie, 1) > room:
        return False, 0.0
    _clear(s)
    for complete in (True, False):
        for i in range(s.counts[ENTRIES]):
            n, history = s.node[i], s.history[i]
            mass = (s.mass[i, BLANK] + s.mass[i, TOKEN]) / model.ahead[n]
            if trie.between[n] or not complete:
                _push(s, history, START, mass)
            for e in range(trie.ends[n], trie.ends[n + 1]):
                longer = longer_history(s, model, history, trie.word[e])
                _push(s, longer, START, mass * trie.prob[e] * s.gain[longer])
        if s.counts[CANDIDATES]:
            break
    top, fit = 0.0, -np.inf
    for i in range(s.counts[CANDIDATES]):
        h = s.new_history[i]
        end = -model.hot.ahead[s.hot[h]]  # phrases begun are not completed
        if model.has_lm:
            end += model.lm_weight * lm_advance(model.word_lm, s.state[h], END)[0]
        mass = s.new_mass[i, TOKEN]
        s.new_mass[i, TOKEN] *= np.exp(model.sharpness * end)
        if s.new_mass[i, TOKEN] > top and complete:
            top, fit = s.new_mass[i, TOKEN], _fit(s, h, mass)
    return True, fit


@njit_lean
def _raw_scores(s: Any, model: Any, words: Any, scores: Any) -> None:
    """Fill scores with the raw word LM's score, its end included, and the hot words' bonuses."""
    lm, hot, state, at = 0.0, 0.0, s.state[0], s.hot[0]
    for word in words:
        if model.has_lm:
            logp, state = lm_score(model, state, word)
            lm += logp
        begin, end = model.letters_begin[word], model.letters_begin[word + 1]
        earned, after = read_word(model.hot, at, model.letters, begin, end)
        hot, at = hot + earned, np.int32(after)
    if model.has_lm:
        lm += lm_advance(model.word_lm, state, END)[0]
    scores[0], scores[1] = lm, hot


@njit
def best_texts(s: Any, model: Any, nbest: Any) -> Any:
    """The word sequences of the best `nbest` hypotheses, one after the other, where each begins,
    their raw scores (n, 2), and the fit of the best; nothing begins where the arrays have no
    room."""
    enough, fit = _finals(s, model)
    if not enough:
        return np.empty(0, np.int32), np.empty(0, np.int64), np.empty((0, 2)), fit
    order = np.argsort(-s.new_mass[: s.counts[CANDIDATES], TOKEN], kind="mergesort")[:nbest]
    begin, scores = np.zeros(len(order) + 1, np.int64), np.empty((len(order), 2))
    for k in range(len(order)):
        begin[k + 1], h = begin[k], s.new_history[order[k]]
        while h > 0:
            begin[k + 1], h = begin[k + 1] + 1, s.before[h]
    words = np.empty(begin[-1], np.int32)
    for k in range(len(order)):
        h = s.new_history[order[k]]
        for i in range(begin[k + 1] - 1, begin[k] - 1, -1):
            words[i], h = s.word[h], s.before[h]
        _raw_scores(s, model, words[begin[k] : begin[k + 1]], scores[k])
    return words, begin, scores, fit
