"""CTC prefix beam search with language models: begin, step (a chunk of frames), finish.

It maximises over token sequences

    total(tokens) = w_ctc · log Σ_{alignments} Π_t p_t + Σ_i w_i · log p_i(tokens) + bonus · length

A prefix's mass is kept in two parts, of alignments that end in blank (B) and in its last token (N)
(Graves 2012, "Sequence transduction", section 2.5; Hannun et al. 2014, arXiv:1408.2873):

    B'(q) = p(blank) · (B(q) + N(q))
    N'(q) = p(last q) · (N(q) + B(parent) + [last q ≠ last parent] · N(parent))

Masses are probabilities with one common scale, so that the loop needs a logarithm only to compare
totals. Prefixes are nodes of a tree in flat arrays; a hash table (node, token) -> child finds them
again, with their language model states and scores, when they come back into the beam. The scores
of what is returned are summed anew over all alignments, those that the beam lost included.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding import fusion as lm
from asr.decoding.align import align, forward, group_words
from asr.decoding.fusion import Fusion, FusionArrays
from asr.decoding.options import SearchOptions
from asr.errors import InputError
from asr.hypothesis import Hypothesis
from asr.kernels import njit, njit_lean
from asr.lm.ngram import FNV_START

LogProbs = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]

NODES = 8192  # prefixes that a new search has room for
TOLERANCE = 0.01  # of the sum of a frame's probabilities (half precision gives 1e-3)


class Tree(NamedTuple):
    """Prefixes, each array (capacity,); node 0 is the empty one, parents come before children."""

    parent: Ints
    token: Ints  # last token
    token_state: Ints  # fusion states
    word_state: Ints
    word_hash: NDArray[np.uint64]
    score: Doubles  # weighted language model scores and bonus
    ahead: Doubles  # what the unfinished word is expected to add: for pruning only
    slot: Ints  # place in the beam, or -1
    table: Ints  # (power of two,) open addressing, 0 is empty


class Beam(NamedTuple):
    """The hypotheses, each array (beam,)."""

    node: Ints
    blank: Doubles  # B and N above, relative to the scale
    token: Doubles
    mass: Doubles  # B + N


class Candidates(NamedTuple):
    """What a frame makes of the beam, each array (beam · (1 + tokens a frame),)."""

    node: Ints
    blank: Doubles
    token: Doubles
    score: Doubles
    order: Doubles  # scratch of the selections, at least (V,)
    picked: Ints  # (V,) the frame's tokens worth trying


class Counters(NamedTuple):
    """The scalars that a step changes."""

    counts: NDArray[np.int64]  # nodes, hypotheses, 1 where all mass is in `blank`
    log_scale: Doubles  # (1,)


class Pruning(NamedTuple):
    beam: int
    beam_threshold: float
    token_threshold: float
    tokens_per_frame: int
    log_skip: float
    ctc_weight: float


@njit_lean
def _kth_largest(values: Any, k: Any) -> Any:
    """The k-th largest value (k ≥ 1); reorders `values` (quickselect, Hoare 1961)."""
    low, high, k = 0, len(values) - 1, k - 1
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
def _pick_tokens(row: Any, allowed: Any, pruning: Any, picked: Any, scratch: Any) -> Any:
    """Fill `picked` with the tokens worth trying, the best first; (how many, log p of the best)."""
    top, count = row[0], 0
    for v in range(1, len(row)):
        if allowed[v] and row[v] > top:
            top = row[v]
    least = max(top - pruning.token_threshold, -1e30)
    for v in range(1, len(row)):
        if allowed[v] and row[v] >= least:
            scratch[count] = row[v]
            count += 1
    if count > pruning.tokens_per_frame:
        least = max(least, _kth_largest(scratch[:count], pruning.tokens_per_frame))
    count, best = 0, 0
    for v in range(1, len(row)):
        if allowed[v] and row[v] >= least and count < pruning.tokens_per_frame:
            picked[count] = v
            if row[v] > row[picked[best]]:
                best = count
            count += 1
    if count:
        picked[0], picked[best] = picked[best], picked[0]
    return count, top


@njit_lean
def _find(tree: Any, node: Any, token: Any) -> Any:
    """(child or 0, its place in the table) of a prefix and a token."""
    mask = np.uint64(len(tree.table) - 1)
    key = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    place = (key ^ (key >> np.uint64(29))) & mask
    while True:
        child = tree.table[place]
        if child == 0 or (tree.parent[child] == node and tree.token[child] == token):
            return child, place
        place = (place + np.uint64(1)) & mask


@njit_lean
def _child(tree: Any, counters: Any, fusion: Any, node: Any, token: Any) -> Any:
    """The node of a prefix extended by a token, made with its language model scores if new."""
    child, place = _find(tree, node, token)
    if child == 0:
        child = np.int32(counters.counts[0])
        counters.counts[0] += 1
        token_score, word_score, words, ts, ws, wh = lm.extend(
            fusion, tree.token_state[node], tree.word_state[node], tree.word_hash[node], token
        )
        tree.parent[child], tree.token[child] = node, token
        tree.token_state[child], tree.word_state[child], tree.word_hash[child] = ts, ws, wh
        gain = lm.weigh(fusion, token_score, word_score, words, 1)
        tree.score[child] = tree.score[node] + gain
        tree.ahead[child] = lm.look_ahead(fusion, wh)
        tree.slot[child] = -1
        tree.table[place] = child
    return child


@njit_lean
def _stay(tree: Any, beam: Any, active: Any, row: Any, top: Any, weight: Any, out: Any) -> None:
    """Candidates 0..active: the prefixes of the beam one frame later."""
    p_blank = np.exp(np.float64(row[0] - top))
    for i in range(active):
        node = beam.node[i]
        blank, token = beam.mass[i] * p_blank, 0.0
        if node > 0:
            last, parent = tree.token[node], tree.parent[node]
            token = beam.token[i]
            j = tree.slot[parent]
            if j >= 0:
                token += beam.blank[j] if tree.token[parent] == last else beam.mass[j]
            token *= np.exp(np.float64(row[last] - top))
        out.node[i], out.blank[i], out.token[i] = node, blank, token
        out.score[i] = weight * np.log(blank + token) + tree.score[node] + tree.ahead[node]


@njit_lean
def _grow(
    tree: Any, beam: Any, counters: Any, fusion: Any, pruning: Any, row: Any, top: Any,
    tokens: Any, out: Any,
) -> Any:  # fmt: skip
    """Candidates after the first `active`: the beam's prefixes and one more of the first `tokens`
    of out.picked; the total count.

    Log probabilities of language models are at most zero and look-aheads only fall within a word,
    so a prefix whose total without the new ones is below the cut needs no look-up.
    """
    active = counters.counts[1]
    best, worst = -np.inf, np.inf
    for i in range(active):
        best, worst = max(best, out.score[i]), min(worst, out.score[i])
    # Of a full beam at least `beam` candidates are as good as the worst that stays.
    worst = worst if active == pruning.beam else -np.inf
    token_gain = max(0.0, fusion.token_bonus)
    word_gain = max(0.0, fusion.word_bonus + fusion.word_weight * max(0.0, fusion.unk_penalty))
    count = active
    for k in range(tokens):
        token = out.picked[k]
        p = np.exp(np.float64(row[token] - top))
        for i in range(active):
            node = beam.node[i]
            mass = p * (beam.blank[i] if tree.token[node] == token else beam.mass[i])
            if mass == 0.0:
                continue
            ctc = pruning.ctc_weight * np.log(mass)
            most = ctc + tree.score[node] + token_gain
            if fusion.boundary[token] or tree.word_hash[node] == FNV_START:
                most += word_gain
            else:
                most += tree.ahead[node]
            if most < max(worst, best - pruning.beam_threshold):
                continue
            child = _child(tree, counters, fusion, node, token)
            if tree.slot[child] >= 0:
                continue  # in the beam: _stay has counted this mass
            score = ctc + tree.score[child] + tree.ahead[child]
            out.node[count], out.blank[count], out.token[count] = child, 0.0, mass
            out.score[count] = score
            count += 1
            best = max(best, score)
    return count


@njit_lean
def _select(tree: Any, beam: Any, counters: Any, pruning: Any, count: Any, out: Any) -> None:
    """Make the best of the candidates the beam; its largest mass becomes 1."""
    best = -np.inf
    for i in range(count):
        best = max(best, out.score[i])
    least = max(best - pruning.beam_threshold, -1e300)
    kept = 0
    for i in range(count):
        if out.score[i] >= least:
            out.order[kept] = out.score[i]
            kept += 1
    if kept > pruning.beam:
        least = max(least, _kth_largest(out.order[:kept], pruning.beam))
    for i in range(counters.counts[1]):
        tree.slot[beam.node[i]] = -1
    active, top = 0, 0.0
    for i in range(count):
        if out.score[i] >= least and active < pruning.beam:
            beam.node[active], beam.blank[active] = out.node[i], out.blank[i]
            beam.token[active], beam.mass[active] = out.token[i], out.blank[i] + out.token[i]
            tree.slot[out.node[i]] = active
            top = max(top, beam.mass[active])
            active += 1
    for i in range(active):
        beam.blank[i] /= top
        beam.token[i] /= top
        beam.mass[i] /= top
    counters.counts[1], counters.counts[2] = active, 0
    counters.log_scale[0] += np.log(top)


@njit_lean
def _advance(
    log_probs: Any, tree: Any, beam: Any, counters: Any, fusion: Any, pruning: Any, out: Any
) -> Any:
    """Consume frames; how many were done: fewer than given where the tree has no more room."""
    count = counters.counts
    for t in range(len(log_probs)):
        row = log_probs[t]
        if row[0] > pruning.log_skip:
            if count[2] == 0:
                count[2] = 1
                for i in range(count[1]):
                    beam.blank[i], beam.token[i] = beam.mass[i], 0.0
            counters.log_scale[0] += row[0]
            continue
        tokens, top = _pick_tokens(row, fusion.allowed, pruning, out.picked, out.order)
        if count[0] + count[1] * tokens > len(tree.parent):
            return t
        _stay(tree, beam, count[1], row, top, pruning.ctc_weight, out)
        total = _grow(tree, beam, counters, fusion, pruning, row, top, tokens, out)
        _select(tree, beam, counters, pruning, total, out)
        counters.log_scale[0] += top
    return len(log_probs)


@njit
def _needed(tree: Any, beam: Any, count: Any) -> Any:
    """new (nodes,): the number each node on the way to a hypothesis gets in a tree of only those,
    -1 for all others; and how many there are."""
    new = np.full(count[0], -1, np.int32)
    new[0] = 0
    for i in range(count[1]):
        node = beam.node[i]
        while new[node] < 0:
            new[node] = 0
            node = tree.parent[node]
    nodes = 0
    for node in range(count[0]):
        if new[node] == 0:
            new[node] = nodes
            nodes += 1
    return new, nodes


@njit_lean
def _move(tree: Any, beam: Any, count: Any, new: Any, nodes: Any, to: Any) -> None:
    """Copy the needed nodes into another tree."""
    for node in range(count[0]):
        n = new[node]
        if n < 0:
            continue
        to.token[n], to.score[n], to.slot[n] = tree.token[node], tree.score[node], tree.slot[node]
        to.token_state[n], to.word_state[n] = tree.token_state[node], tree.word_state[node]
        to.word_hash[n], to.ahead[n] = tree.word_hash[node], tree.ahead[node]
        to.parent[n] = new[tree.parent[node]] if node else -1
        if node:
            to.table[_find(to, to.parent[n], to.token[n])[1]] = n
    for i in range(count[1]):
        beam.node[i] = new[beam.node[i]]
    count[0] = nodes


@njit
def _totals(tree: Any, beam: Any, counters: Any, fusion: Any, ctc_weight: Any) -> Any:
    """Total of each hypothesis of the beam, were the sentence to end here."""
    totals = np.empty(counters.counts[1])
    for i in range(len(totals)):
        node = beam.node[i]
        token_score, word_score, words = lm.finish(
            fusion, tree.token_state[node], tree.word_state[node], tree.word_hash[node]
        )
        ctc = np.log(beam.mass[i]) + counters.log_scale[0]
        end = lm.weigh(fusion, token_score, word_score, words, 0)
        totals[i] = ctc_weight * ctc + tree.score[node] + end
    return totals


@njit
def _tokens(tree: Any, node: Any) -> Any:
    """The token sequence of a prefix."""
    length, n = 0, node
    while n > 0:
        length += 1
        n = tree.parent[n]
    tokens = np.empty(length, np.int32)
    for i in range(length - 1, -1, -1):
        tokens[i] = tree.token[node]
        node = tree.parent[node]
    return tokens


@njit
def _fusion_scores(fusion: Any, tokens: Any, ts: Any, ws: Any, wh: Any) -> Any:
    """Raw scores of a whole text: (token LM, word LM, words)."""
    token_total, word_total, count = 0.0, 0.0, 0
    for token in tokens:
        token_score, word_score, words, ts, ws, wh = lm.extend(fusion, ts, ws, wh, token)
        token_total, word_total = token_total + token_score, word_total + word_score
        count += words
    token_score, word_score, words = lm.finish(fusion, ts, ws, wh)
    return token_total + token_score, word_total + word_score, count + words


@dataclass(slots=True)
class Search:
    """A search under way. Memory grows with the frames and the branching of the hypotheses."""

    fusion: Fusion
    options: SearchOptions
    pruning: Pruning
    tree: Tree
    beam: Beam
    out: Candidates
    counters: Counters
    chunks: list[Floats] = field(default_factory=list)


def _new_tree(nodes: int) -> Tree:
    return Tree(
        parent=np.empty(nodes, np.int32),
        token=np.empty(nodes, np.int32),
        token_state=np.empty(nodes, np.int32),
        word_state=np.empty(nodes, np.int32),
        word_hash=np.empty(nodes, np.uint64),
        score=np.empty(nodes),
        ahead=np.empty(nodes),
        slot=np.empty(nodes, np.int32),
        table=np.zeros(2 * nodes, np.int32),
    )


def begin(fusion: Fusion, options: SearchOptions) -> Search:
    """Start a search: one hypothesis, the empty text."""
    weight = fusion.weights.ctc
    if not 0 < weight < float("inf"):
        raise InputError(f"the weight of the CTC score is {weight}", "ctc-weight")
    size = max(options.beam, options.nbest)
    most = min(options.tokens_per_frame, len(fusion.tokens))
    pruning = Pruning(
        size,
        float(options.beam_threshold),
        float(options.token_threshold),
        most,
        float(np.log(options.blank_skip)),
        float(weight),
    )
    tree = _new_tree(NODES)
    tree.parent[0], tree.token[0], tree.slot[0] = -1, -1, 0
    tree.score[0] = tree.ahead[0] = 0.0
    ts, ws, wh = fusion.begin(1)
    tree.token_state[0], tree.word_state[0], tree.word_hash[0] = ts[0], ws[0], wh[0]
    beam = Beam(np.zeros(size, np.int32), *(np.zeros(size) for _ in range(3)))
    beam.blank[0] = beam.mass[0] = 1.0
    width = size * (1 + most)
    out = Candidates(
        node=np.empty(width, np.int32),
        blank=np.empty(width),
        token=np.empty(width),
        score=np.empty(width),
        order=np.empty(max(width, len(fusion.tokens))),
        picked=np.empty(len(fusion.tokens), np.int32),
    )
    counters = Counters(np.array([1, 1, 0], np.int64), np.zeros(1))
    return Search(fusion, options, pruning, tree, beam, out, counters)


def check(log_probs: LogProbs, arrays: FusionArrays) -> Floats:
    """The frames as the kernels want them, (T, V) float32; InputError says what is wrong."""
    frames = np.ascontiguousarray(log_probs, np.float32)
    size = len(arrays.allowed)
    if frames.ndim != 2 or frames.shape[1] != size:
        what = f"log-probabilities of the shape {frames.shape}, not (frames, {size} tokens)"
        raise InputError(what, "log_probs", "The tokens must be those of the network.")
    with np.errstate(over="ignore"):
        probs = np.exp(frames)
    sums = probs.sum(1)
    wrong = np.flatnonzero(~(np.abs(sums - 1) < TOLERANCE))
    if wrong.size:
        t = int(wrong[0])
        if np.isnan(frames[t]).any() or np.isposinf(frames[t]).any():
            raise InputError("the network's outputs hold NaN or infinity", f"frame {t}")
        what = f"the probabilities sum to {sums[t]:.4g}, not to 1"
        raise InputError(what, f"frame {t}", "Give natural logs of a softmax.")
    usable = arrays.allowed.copy()
    usable[0] = True
    if not usable.all() and not (alive := probs[:, usable].any(1)).all():
        what = "all probability is on tokens that are never output"
        raise InputError(what, f"frame {int(np.argmin(alive))}")
    return frames


def step(search: Search, log_probs: LogProbs) -> None:
    """Consume the next frames, (T, V) natural log probabilities, T ≥ 0.

    Raises InputError: wrong shape, NaN, +inf, probabilities of a frame that do not sum to one.
    """
    frames = check(log_probs, search.fusion.arrays)
    search.chunks.append(frames)
    done = 0
    while done < len(frames):
        done += int(
            _advance(
                frames[done:],
                search.tree,
                search.beam,
                search.counters,
                search.fusion.arrays,
                search.pruning,
                search.out,
            )
        )
        if done < len(frames):
            _make_room(search)


def _make_room(search: Search) -> None:
    """Drop the prefixes that no hypothesis needs; a larger tree where that frees too little."""
    count = search.counters.counts
    new, nodes = _needed(search.tree, search.beam, count)
    least = 2 * (int(nodes) + int(count[1]) * search.pruning.tokens_per_frame)
    size = len(search.tree.parent)
    tree = _new_tree(max(size, 1 << least.bit_length()))
    _move(search.tree, search.beam, count, new, nodes, tree)
    search.tree = tree


def finish(search: Search, frame_shift: float | None = None) -> list[Hypothesis]:
    """The n best hypotheses of distinct texts, best first; the search may go on afterwards.

    Scores are those of the module's formula, `ctc` summed over all alignments. With `frame_shift`
    (seconds; 1 for times in frames) hypotheses have words with their times.
    """
    fusion = search.fusion
    weight = search.pruning.ctc_weight
    totals = _totals(search.tree, search.beam, search.counters, fusion.arrays, weight)
    found: dict[str, Ints] = {}
    for i in np.argsort(-totals, kind="stable"):
        if len(found) == search.options.nbest:
            break
        tokens = _tokens(search.tree, search.beam.node[i])
        found.setdefault(fusion.text(tokens.tolist()), tokens)
    frames = np.concatenate([np.empty((0, len(fusion.tokens)), np.float32), *search.chunks])
    return describe(frames, fusion, found, frame_shift)


def describe(
    log_probs: Floats, fusion: Fusion, texts: dict[str, Ints], frame_shift: float | None
) -> list[Hypothesis]:
    """Hypotheses, best first, of texts and their tokens, exactly scored; log_probs (T, V)."""
    flat = np.concatenate([np.empty(0, np.int32), *texts.values()])
    bounds = np.cumsum([0, *map(len, texts.values())])
    ctc = forward(log_probs, flat, bounds)
    (start, end, peak), _ = align(log_probs, flat, bounds)
    state = [array[0] for array in fusion.begin(1)]
    hypotheses = []
    for n, (text, tokens) in enumerate(texts.items()):
        token_score, word_score, words = _fusion_scores(fusion.arrays, tokens, *state)
        raw = {fusion.token_name: float(token_score), fusion.word_name: float(word_score)}
        ids, part = tokens.tolist(), slice(bounds[n], bounds[n + 1])
        scores = {
            "ctc": float(ctc[n]),
            "lm": {name: score for name, score in raw.items() if name},
            "length": len(ids) if fusion.length_unit == "tokens" else int(words),
        }
        hypothesis = Hypothesis(text, ids, scores, frames=peak[part].tolist())
        hypothesis.scores["total"] = hypothesis.rate(fusion.weights)
        if frame_shift:
            pieces = [fusion.tokens[t] for t in ids]
            hypothesis.words = group_words(pieces, start[part], end[part], frame_shift)
        hypotheses.append(hypothesis)
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.total)


def greedy(log_probs: LogProbs, fusion: Fusion, frame_shift: float | None = None) -> Hypothesis:
    """The most probable token of each frame, (T, V), repeats and blanks removed; exact scores."""
    frames = check(log_probs, fusion.arrays)
    usable = np.concatenate([[True], fusion.arrays.allowed[1:]])
    best = np.where(usable, frames, -np.inf).argmax(1)
    tokens = best[np.diff(best, prepend=0) != 0]
    tokens = tokens[tokens > 0].astype(np.int32)
    return describe(frames, fusion, {fusion.text(tokens.tolist()): tokens}, frame_shift)[0]


def search(
    log_probs: LogProbs,
    fusion: Fusion,
    options: SearchOptions,
    frame_shift: float | None = None,
) -> list[Hypothesis]:
    """The n best hypotheses of one utterance: `begin`, `step` and `finish` at once.

    A beam of 1 where only the CTC score counts is `greedy`.
    """
    weights = fusion.weights
    if options.beam == options.nbest == 1 and not weights.bonus and not any(weights.lm.values()):
        return [greedy(log_probs, fusion, frame_shift)]
    running = begin(fusion, options)
    step(running, log_probs)
    return finish(running, frame_shift)


def search_batch(
    batch: Iterable[LogProbs],
    fusion: Fusion,
    options: SearchOptions,
    threads: int | None = None,
    frame_shift: float | None = None,
) -> list[list[Hypothesis]]:
    """`search` of each utterance, several at once in threads (the kernels hold no lock).

    threads: None is one a core. InputError names the utterance by its place.
    """
    if threads is not None and threads < 1:
        raise InputError(f"is {threads}; it must be at least 1", "threads")

    def one(index: int, log_probs: LogProbs) -> list[Hypothesis]:
        try:
            return search(log_probs, fusion, options, frame_shift)
        except InputError as error:
            raise InputError(
                error.what, f"utterance {index}, {error.where}", error.remedy
            ) from None

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(one, count(), batch))
