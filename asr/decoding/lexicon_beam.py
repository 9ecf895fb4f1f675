"""The compiled loops of the CTC search with a closed vocabulary: one frame of a beam search.

A hypothesis of the beam is a history h (a word sequence) and a node n of the lexicon's trie. Its
mass is kept in two parts, of alignments that end in blank (B) and in the node's token (N), as in
`prefix_beam`, but summed over all spellings that lead there, and with everything else that counts
multiplied in, so that masses are compared without a logarithm:

    mass(h, n) = Σ_{spellings, alignments} p · (F(h) · ahead(n))^(1 / w_ctc)
    F(h) = exp(Σ_{words of h} w_lm · log p(word | words before) + bonus + unk · unknown + hot words)

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

from asr.decoding.fusion_steps import END
from asr.decoding.hotwords import read_word
from asr.decoding.lexicon_tree import (
    ALL_BLANK,
    BEAMS,
    BLANK,
    CANDIDATES,
    FALL,
    FRAME,
    HISTORIES,
    LOOK_BACK,
    PICKED,
    STAMP,
    TOKEN,
    WIDE,
    hash_pair,
    lm_score,
    longer_history,
)
from asr.decoding.prefix_beam import kth_largest
from asr.kernels import njit, njit_inline, njit_lean
from asr.lm.lexicon import AFTER, START
from asr.lm.ngram import advance as lm_advance

SMALL = 1e-60  # when the best mass is less, or more than 1 / SMALL, all are scaled
HUGE = 1e300  # no mass is larger


@njit_inline
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


@njit_inline
def _clear(s: Any) -> None:
    """No candidates."""
    s.counts[STAMP] += len(s.new_node)
    s.counts[CANDIDATES] = 0


@njit_inline
def _pick_tokens(s: Any, model: Any, limits: Any, row: Any) -> Any:
    """Fill s.picked, s.p with the tokens worth trying and their probabilities, which are 0 of the
    others: (how many, the largest, whether a word may end)."""
    top = row[0]
    if top < 0.6:  # else none is more probable
        for v in model.tokens:
            top = max(top, row[v])
    for k in range(s.counts[PICKED]):
        s.p[s.picked[k]] = 0.0
    least, count, best = max(top * limits.token_cut, 1e-300), 0, 0.0
    for v in model.tokens:
        if row[v] >= least:
            s.picked[count], s.order[count], s.p[v] = v, row[v], row[v]
            count += 1
            best = max(best, row[v])
    s.counts[PICKED] = count
    if count > limits.tokens_per_frame:
        least = kth_largest(s.order, count, limits.tokens_per_frame)
        for k in range(count):
            if s.p[s.picked[k]] < least:
                s.p[s.picked[k]] = 0.0
    may_end = False
    if count:
        for a in range(model.nodes[AFTER].arcs, model.nodes[AFTER + 1].arcs):
            may_end |= s.p[model.arcs[a].token] > 0.0
    return count, best, may_end


@njit_inline
def _has_room(s: Any, candidates: Any, histories: Any) -> Any:
    """Is there room for so many more?"""
    enough = s.counts[CANDIDATES] + candidates <= len(s.new_node)
    return enough and s.counts[HISTORIES] + histories <= len(s.word)


@njit_inline
def _stay(s: Any, model: Any, row: Any, at: Any, alone: Any) -> Any:
    """The first candidates: the beam one frame later; the largest mass. Where they stay alone
    nothing need find them."""
    _clear(s)
    best, blank = 0.0, row[0]
    for i in range(s.entries[at]):
        n, history = s.node[at, i], s.history[at, i]
        token = s.mass[at, i, TOKEN]
        b, t = (s.mass[at, i, BLANK] + token) * blank, token * row[model.nodes[n].token]
        best = max(best, b + t)
        if alone:
            s.new_history[i], s.new_node[i], s.new_mass[i, TOKEN] = history, n, t
        else:
            _push(s, history, n, t)
        s.new_mass[i, BLANK] = b
    s.counts[CANDIDATES] = s.entries[at]
    return best


@njit_inline
def _extend_within(
    s: Any, model: Any, history: Any, first: Any, past: Any, last: Any, b: Any, both: Any, cut: Any
) -> Any:
    """Candidates by the arcs first .. past - 1 from a hypothesis whose masses are b, both; the
    largest mass that came of it."""
    best = 0.0
    for a in range(first, past):
        v = model.arcs[a].token
        if s.p[v] > 0.0:
            mass = (b if v == last else both) * s.p[v] * model.arcs[a].gain
            if mass > cut:
                best = max(best, _push(s, history, model.arcs[a].node, mass))
    return best


@njit_inline
def _extend(
    s: Any, model: Any, limits: Any, at: Any, best: Any, count: Any, p_best: Any, may_end: Any
) -> Any:
    """More candidates: the beam's hypotheses and one token more; the largest mass of all, -1 where
    the arrays have no room."""
    after, past_after = model.nodes[AFTER].arcs, model.nodes[AFTER + 1].arcs
    for i in range(s.entries[at]):
        n, history = s.node[at, i], s.history[at, i]
        b, both = s.mass[at, i, BLANK], s.mass[at, i, BLANK] + s.mass[at, i, TOKEN]
        cut = best * limits.beam_cut
        if both * p_best > cut:
            first, past, last = model.nodes[n].arcs, model.nodes[n + 1].arcs, model.nodes[n].token
            if not _has_room(s, past - first, 0):
                return -1.0
            if model.nodes[n].between:  # many arcs, from all such nodes the same
                for k in range(count):
                    v = s.picked[k]
                    from_v, to_v = first + model.opening[v], first + model.opening[v + 1]
                    mass = _extend_within(s, model, history, from_v, to_v, last, b, both, cut)
                    best = max(best, mass)
            else:
                mass = _extend_within(s, model, history, first, past, last, b, both, cut)
                best = max(best, mass)
        if may_end:
            last, words = model.nodes[n].token, model.nodes[n + 1].ends - model.nodes[n].ends
            if not _has_room(s, words * (past_after - after), words):
                return -1.0
            for e in range(model.nodes[n].ends, model.nodes[n + 1].ends):
                out = model.ends[e].gain
                for a in range(after, past_after):
                    v = model.arcs[a].token
                    mass = (b if v == last else both) * s.p[v] * out * model.arcs[a].gain
                    if mass > 0.0 and mass * model.most_gain > cut:
                        longer = longer_history(s, model, history, model.ends[e].word)
                        mass = min(mass * s.gain[longer], HUGE)
                        if mass > cut:
                            best = max(best, _push(s, longer, model.arcs[a].node, mass))
    return best


@njit_inline
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


@njit_inline
def _select(s: Any, limits: Any, at: Any, old: Any, best: Any, scale: Any) -> None:
    """Make the best of the candidates, of which the first `old` are no new ones, the beam `at`,
    the very best first; masses are multiplied by `scale`."""
    least, count = max(best * limits.beam_cut, 1e-300), s.counts[CANDIDATES]
    if limits.merge and count > old:
        for i in range(count):
            if s.new_mass[i, BLANK] + s.new_mass[i, TOKEN] >= least:
                _merge(s, i)
    if count > limits.beam:
        kept = 0
        for i in range(count):
            mass = s.new_mass[i, BLANK] + s.new_mass[i, TOKEN]
            if mass >= least:
                s.order[kept] = mass
                kept += 1
        if kept > limits.beam:
            least = kth_largest(s.order, kept, limits.beam)
    if not SMALL < best * scale < 1 / SMALL:
        s.log_scale[0] += np.log(best * scale)
        scale = 1.0 / best
    active, first, top = 0, 0, 0.0
    for i in range(count):
        mass = s.new_mass[i, BLANK] + s.new_mass[i, TOKEN]
        if mass >= least and active < limits.beam:
            if mass > top:
                top, first = mass, active
            s.history[at, active], s.node[at, active] = s.new_history[i], s.new_node[i]
            s.mass[at, active, BLANK] = s.new_mass[i, BLANK] * scale
            s.mass[at, active, TOKEN] = s.new_mass[i, TOKEN] * scale
            active += 1
    for array in (s.history, s.node):
        array[at, 0], array[at, first] = array[at, first], array[at, 0]
    for k in range(2):
        s.mass[at, 0, k], s.mass[at, first, k] = s.mass[at, first, k], s.mass[at, 0, k]
    s.entries[at] = active


@njit_inline
def _fit(s: Any, history: Any, mass: Any) -> Any:
    """log of a hypothesis' CTC score relative to the most probable token of each frame; mass
    without `ahead`."""
    return np.log(mass) + s.log_scale[0] - s.total[history]


@njit_lean
def _begin_again(s: Any) -> Any:
    """Which of the beams so far a second look begins with."""
    return max(s.counts[BEAMS] - LOOK_BACK, s.counts[WIDE], 1) - 1


@njit_lean
def _has_fallen(s: Any, fit: Any) -> Any:
    """Is a best hypothesis of this fit in want of a second look?"""
    if len(s.fit) == 1 or s.counts[BEAMS] < s.counts[WIDE]:
        return False
    return s.fit[_begin_again(s) % len(s.fit)] - fit > FALL


@njit_lean
def go_back(s: Any) -> None:
    """Begin a second look."""
    first = _begin_again(s)
    s.counts[WIDE] = s.counts[BEAMS] + LOOK_BACK // 2
    s.counts[BEAMS], s.counts[ALL_BLANK] = first + 1, 0
    s.counts[FRAME] = s.frame[first % len(s.fit)] + 1
    s.log_scale[0] = s.scale[first % len(s.fit)]


@njit_inline
def _begin(s: Any, model: Any) -> None:
    """The first beam: nothing said yet, with all mass."""
    s.table[:] = 0
    s.before[0], s.word[0], s.state[0], s.hot[0] = 0, 0, model.lm_start, model.hot.start
    s.gain[0], s.total[0], s.log_scale[0] = 1.0, 0.0, 0.0
    s.history[0, 0], s.node[0, 0] = 0, START
    s.mass[0, 0, BLANK], s.mass[0, 0, TOKEN] = model.nodes[START].ahead, 0.0
    s.entries[0], s.frame[0], s.scale[0], s.fit[0] = 1, -1, 0.0, 0.0
    for place in (ALL_BLANK, CANDIDATES, FRAME, WIDE):  # STAMP goes on
        s.counts[place] = 0
    s.counts[HISTORIES] = s.counts[BEAMS] = 1


@njit_lean
def advance(s: Any, model: Any, first: Any, second: Any, probs: Any) -> Any:
    """Consume the frames that are not yet, of all so far (T, V), probabilities; False where the
    arrays have no more room. A frame in which every hypothesis is impossible is passed over."""
    if s.counts[BEAMS] == 0:
        _begin(s, model)
    while s.counts[FRAME] < len(probs):
        t = s.counts[FRAME]
        at, row = (s.counts[BEAMS] - 1) % len(s.fit), probs[t]
        limits = second if s.counts[BEAMS] < s.counts[WIDE] else first
        if row[0] > limits.skip:
            if s.counts[ALL_BLANK] == 0:
                s.counts[ALL_BLANK] = 1
                for i in range(s.entries[at]):
                    s.mass[at, i, BLANK] += s.mass[at, i, TOKEN]
                    s.mass[at, i, TOKEN] = 0.0
            s.counts[FRAME] = t + 1
            continue
        count, p_best, may_end = _pick_tokens(s, model, limits, row)
        if s.entries[at] > len(s.new_node):
            return False
        best = _stay(s, model, row, at, count == 0)
        if count:
            best = _extend(s, model, limits, at, best, count, p_best, may_end)
            if best < 0.0:
                return False
        s.counts[FRAME] = t + 1
        if best > 1e-300:
            old, scale = s.entries[at], 1.0 / max(row[0], p_best)
            at = s.counts[BEAMS] % len(s.fit)
            _select(s, limits, at, old, best, scale)
            s.counts[BEAMS] += 1
            s.counts[ALL_BLANK] = 0
            if len(s.fit) > 1:
                mass = s.mass[at, 0, BLANK] + s.mass[at, 0, TOKEN]
                mass /= model.nodes[s.node[at, 0]].ahead
                s.frame[at], s.scale[at] = t, s.log_scale[0]
                s.fit[at] = _fit(s, s.history[at, 0], mass)
                if _has_fallen(s, s.fit[at]):
                    go_back(s)
    return True


@njit_lean
def _finals(s: Any, model: Any) -> Any:
    """Make the candidates the word sequences that may end here, with their final masses in N;
    (False where the arrays have no room, the fit of the best). Where no word is complete, those
    before it."""
    at = (s.counts[BEAMS] - 1) % len(s.fit)
    _clear(s)
    for complete in (True, False):
        for i in range(s.entries[at]):
            n, history = s.node[at, i], s.history[at, i]
            mass = s.mass[at, i, BLANK] + s.mass[at, i, TOKEN]
            words = model.nodes[n + 1].ends - model.nodes[n].ends
            if not _has_room(s, 1 + words, words):
                return False, 0.0
            if model.nodes[n].between or not complete:
                _push(s, history, START, mass / model.nodes[n].ahead)
            for e in range(model.nodes[n].ends, model.nodes[n + 1].ends):
                longer = longer_history(s, model, history, model.ends[e].word)
                _push(s, longer, START, mass * model.ends[e].gain * s.gain[longer])
        if s.counts[CANDIDATES]:
            break
    top, fit = 0.0, -np.inf
    for i in range(s.counts[CANDIDATES]):
        h = s.new_history[i]
        end = -model.hot.ahead[s.hot[h]]  # phrases begun are not completed
        if model.lm_weight > 0.0:
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
    their raw scores (n, 2), and whether the best is in want of a second look; nothing begins where
    the arrays have no room."""
    enough, fit = _finals(s, model)
    if not enough:
        return np.empty(0, np.int32), np.empty(0, np.int64), np.empty((0, 2)), False
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
    return words, begin, scores, _has_fallen(s, fit)
