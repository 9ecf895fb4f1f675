"""CTC prefix beam search with language models: begin, step (a chunk of frames), finish.

It maximises over token sequences

    total(tokens) = w_ctc · log Σ_{alignments} Π_t p_t + Σ_i w_i · log p_i(tokens) + bonus · length
                    + unk · unknown

The scores of what is returned are summed anew over all alignments, those that the beam lost
included. The loops are in `prefix_beam`, the language models' part of the total in `fusion`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, pairwise
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import fusion_steps as lm
from asr.decoding import prefix_beam, prefix_tree
from asr.decoding.fusion import Fusion
from asr.decoding.lexicon_search import LexiconFusion, LexiconSearch
from asr.decoding.options import SearchOptions
from asr.decoding.trellis import align_all, exponentials
from asr.errors import InputError
from asr.hypothesis import Hypothesis
from asr.kernels import njit_inline, njit_lean, njit_short

LogProbs = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

TOLERANCE = 0.01  # of the sum of a frame's probabilities (half precision gives 1e-3)
GROUP = 16  # utterances that a thread searches at once, at most
LARGE = 1 << 18  # log probabilities of which no further utterance is added to them
NOTHING = 1e-45  # what a float32 cannot hold


@dataclass(slots=True)
class Search:
    """A search under way. Its memory grows with the frames."""

    fusion: Fusion
    nbest: int
    limits: prefix_tree.Pruning
    arrays: prefix_tree.Arrays
    chunks: list[Floats] = field(default_factory=list)

    def run(self, frames: Floats, bounds: Longs, found: prefix_beam.Found) -> None:
        """Search frames[bounds[u] : bounds[u + 1]] of each utterance; the first one's are the next
        after those in `chunks`."""
        fusion, run = self.fusion, prefix_beam.search_all
        start = (*fusion.start, np.int32(fusion.arrays.hot.start))
        models, at = fusion.search_arrays, (0, 0 if self.chunks else prefix_beam.NEW)
        while True:
            at = run(self.arrays, models, self.limits, frames, bounds, start, found, at)
            if at[0] == len(found.counts):
                return
            self.arrays = prefix_tree.with_more_room(self.arrays)

    def found(self, lengths: Sequence[int]) -> prefix_beam.Found:
        """Room for what is wanted of utterances of so many frames."""
        wanted = 1 if self.nbest == 1 else self.limits.beam  # several of them may have one text
        return prefix_beam.new_found(self.limits, np.array(lengths), wanted)


def check_weights(fusion: Fusion) -> None:
    """InputError where no search is possible."""
    if not 0 < fusion.weights.ctc < float("inf"):
        what = f"the weight of the CTC score is {fusion.weights.ctc}"
        raise InputError(what, "ctc-weight", "It must be above 0 and finite.")


def begin(fusion: Fusion, options: SearchOptions) -> Search | LexiconSearch:
    """Start a search: one hypothesis, the empty text."""
    check_weights(fusion)
    if isinstance(fusion, LexiconFusion):
        return LexiconSearch(fusion, options)
    return _begin(fusion, options)


def _begin(fusion: Fusion, options: SearchOptions) -> Search:
    limits = prefix_tree.pruning(options, fusion)
    return Search(fusion, options.nbest, limits, prefix_tree.room(limits, fusion))


def step(search: Search | LexiconSearch, log_probs: LogProbs) -> None:
    """Consume the next frames, (T, V) natural log probabilities, T ≥ 0.

    Raises InputError: wrong shape, NaN, +inf, probabilities of a frame that do not sum to one.
    """
    frames = as_frames(log_probs, search.fusion)
    probs = checked(frames, search.fusion)
    if isinstance(search, LexiconSearch):
        search.step(probs)
        return
    nothing = prefix_beam.new_found(search.limits, np.array([len(frames)]), 0)
    search.run(frames, np.array([0, len(frames)]), nothing)
    search.chunks.append(frames.copy())  # the caller may fill the same array again


def finish(search: Search | LexiconSearch, frame_shift: float | None = None) -> list[Hypothesis]:
    """The n best hypotheses of distinct texts, best first; the search may go on afterwards.

    Scores are those of the module's formula, `ctc` summed over all alignments. With `frame_shift`
    (seconds; 1 for times in frames) hypotheses have words with their times.
    """
    if isinstance(search, LexiconSearch):
        return search.finish(frame_shift)
    fusion = search.fusion
    frames = _joined(search.chunks or [np.empty((0, len(fusion.tokens)), np.float32)])
    found = search.found([len(frames)])
    search.run(frames[:0], np.array([0, 0]), found)
    texts = distinct_texts(found, fusion, search.nbest)
    return describe(frames, np.array([0, len(frames)]), fusion, texts, frame_shift)[0]


def _joined(parts: Sequence[Floats]) -> Floats:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def distinct_texts(found: prefix_beam.Found, fusion: Fusion, nbest: int) -> list[dict[str, Ints]]:
    """Of each utterance the `nbest` best texts and their tokens."""
    entries = pairwise(found.begin.tolist())
    everyone = []
    for count in found.counts.tolist():
        texts: dict[str, Ints] = {}
        for first, past in islice(entries, count):
            if len(texts) < nbest:
                tokens = found.tokens[first:past]
                texts.setdefault(fusion.inventory.text(tokens.tolist()), tokens)
        everyone.append(texts)
    return everyone


def as_frames(log_probs: LogProbs, fusion: Fusion) -> Floats:
    """(T, V) float32, in one piece. Raises InputError where it is something else."""
    try:
        frames = np.require(log_probs, np.float32, ["C", "A", "W"])
    except (TypeError, ValueError, RuntimeError) as error:  # the last of torch
        what = f"is no array of log-probabilities ({error})"
        raise InputError(what, "log_probs", "Give a numpy array (frames, tokens).") from error
    size = len(fusion.tokens)
    if frames.ndim != 2 or frames.shape[1] != size:
        what = f"log-probabilities of the shape {frames.shape}, not (frames, {size} tokens)"
        raise InputError(what, "log_probs", "The tokens must be those of the network.")
    return frames


def checked(frames: Floats, fusion: Fusion) -> Doubles:
    """Their probabilities, (T, V) float64. InputError says what is wrong with which frame."""
    probs: Doubles = exponentials(frames.ravel()).reshape(frames.shape)
    wrong, dead = _wrong_frames(probs, fusion.usable)
    if wrong < len(frames):
        t = int(wrong)
        if np.isnan(frames[t]).any() or np.isposinf(frames[t]).any():
            what = "the network's outputs hold NaN or infinity"
            raise InputError(what, f"frame {t}", "Train or export it again.")
        what = f"the probabilities sum to {probs[t].sum():.4g}, not to 1"
        raise InputError(what, f"frame {t}", "Give natural logs of a softmax.")
    if dead < len(frames):
        what = "all probability is on tokens that are never output"
        remedy = "The tokens must be those of the network, in its order."
        raise InputError(what, f"frame {dead}", remedy)
    return probs


@njit_lean
def _wrong_frames(probs: Any, usable: Any) -> Any:
    """The first of T frames whose sum is not one, and the first with nothing for usable tokens; T
    where there is none."""
    wrong = dead = len(probs)
    for t in range(len(probs) - 1, -1, -1):
        total, most = 0.0, 0.0
        for v in range(len(usable)):
            total += probs[t, v]
            if usable[v]:
                most = max(most, probs[t, v])
        if not abs(total - 1.0) < TOLERANCE:
            wrong = t
        if not most > NOTHING:
            dead = t
    return wrong, dead


@njit_inline
def _add(raw: Any, token_lm: Any, word_lm: Any, words: Any, unknown: Any, hot: Any) -> None:
    raw[0] += token_lm
    raw[1] += word_lm
    raw[2] += words
    raw[3] += unknown
    raw[4] += hot


@njit_short
def _add_raw(fusion: Any, texts: Any, begin: Any, ts: Any, ws: Any, wh: Any, raw: Any) -> None:
    """Add the raw scores of each text to raw (N, 5): token LM, word LM, words, unknown letters, hot
    words; ts, ws, wh: the fusion's states before it."""
    for n in range(len(raw)):
        t, w, h, hs = ts, ws, wh, np.int32(fusion.hot.start)
        for token in texts[begin[n] : begin[n + 1]]:
            hot, hs = lm.extend_hot(fusion, hs, h, token)
            token_lm, word_lm, words, unknown, t, w, h = lm.extend(fusion, t, w, h, token)
            _add(raw[n], token_lm, word_lm, words, unknown, hot)
        token_lm, word_lm, words, unknown = lm.finish(fusion, t, w, h)
        _add(raw[n], token_lm, word_lm, words, unknown, lm.finish_hot(fusion, hs, h))


def describe(
    log_probs: Floats,
    bounds: Longs,
    fusion: Fusion,
    texts: Sequence[dict[str, Ints]],
    frame_shift: float | None,
) -> list[list[Hypothesis]]:
    """Hypotheses, best first, of utterances log_probs[bounds[u] : bounds[u + 1]] (T, V) and of the
    texts of each with their tokens, exactly scored."""
    everything = [(text, tokens) for found in texts for text, tokens in found.items()]
    flat = np.concatenate([np.empty(0, np.int32), *(tokens for _, tokens in everything)])
    begin = np.cumsum([0, *(len(tokens) for _, tokens in everything)])
    counts = np.cumsum([0, *map(len, texts)])
    (start, end, peak), _, ctc = align_all(log_probs, bounds, flat, begin, counts)
    raw = np.zeros((len(everything), 5))
    _add_raw(fusion.arrays, flat, begin, *fusion.start, raw)
    scored = zip(ctc.tolist(), raw.tolist(), strict=True)
    hypotheses = []
    for n, ((text, tokens), (ctc_score, row)) in enumerate(zip(everything, scored, strict=True)):
        token_score, word_score, words, unknown, hot = row
        lms = {fusion.token_name: token_score, fusion.word_name: word_score}
        ids, part = tokens.tolist(), slice(begin[n], begin[n + 1])
        scores = {
            "ctc": ctc_score,
            "lm": {name: score for name, score in lms.items() if name},
            "length": len(ids) if fusion.length_unit == "tokens" else int(words),
        }
        if fusion.word_name:
            scores["unknown"] = int(unknown)
        if fusion.hotwords:
            scores["hotwords"] = hot
        hypothesis = Hypothesis(text, ids, scores, frames=peak[part].tolist())
        hypothesis.scores["total"] = hypothesis.rate(fusion.weights)
        if frame_shift:
            hypothesis.words = fusion.inventory.words(ids, start[part], end[part], frame_shift)
        hypotheses.append(hypothesis)
    lists = [hypotheses[first:past] for first, past in pairwise(counts.tolist())]
    return [sorted(nbest, key=lambda hypothesis: -hypothesis.total) for nbest in lists]


def greedy(log_probs: LogProbs, fusion: Fusion, frame_shift: float | None = None) -> Hypothesis:
    """The most probable token of each frame, (T, V), repeats and blanks removed; exact scores."""
    frames = as_frames(log_probs, fusion)
    checked(frames, fusion)
    best = np.where(fusion.usable, frames, -np.inf).argmax(1)
    tokens = best[np.diff(best, prepend=0) != 0]
    tokens = tokens[tokens > 0].astype(np.int32)
    texts = [{fusion.inventory.text(tokens.tolist()): tokens}]
    return describe(frames, np.array([0, len(frames)]), fusion, texts, frame_shift)[0][0]


def search(
    log_probs: LogProbs,
    fusion: Fusion,
    options: SearchOptions,
    frame_shift: float | None = None,
) -> list[Hypothesis]:
    """The n best hypotheses of one utterance: `begin`, `step` and `finish` at once.

    A beam of 1 where only the CTC score counts is `greedy`.
    """
    return search_group([log_probs], fusion, options, frame_shift)[0]


def search_group(
    batch: Sequence[LogProbs], fusion: Fusion, options: SearchOptions, frame_shift: float | None
) -> list[list[Hypothesis]]:
    """`search` of each utterance, a call of each loop for all of them, so that a thread seldom
    waits for the interpreter's lock."""
    weights = fusion.weights
    only_ctc = not (weights.bonus or fusion.hotwords or any(weights.lm.values()))
    if isinstance(fusion, LexiconFusion):
        return [_search_lexicon(log_probs, fusion, options, frame_shift) for log_probs in batch]
    if options.beam == options.nbest == 1 and only_ctc:
        return [[greedy(log_probs, fusion, frame_shift)] for log_probs in batch]
    parts = [as_frames(log_probs, fusion) for log_probs in batch]
    frames, bounds = _joined(parts), np.cumsum([0, *map(len, parts)])
    checked(frames, fusion)
    check_weights(fusion)
    search = _begin(fusion, options)
    found = search.found([*map(len, parts)])
    search.run(frames, bounds, found)
    prefix_tree.give_back(search.arrays, search.limits, fusion)
    texts = distinct_texts(found, fusion, options.nbest)
    return describe(frames, bounds, fusion, texts, frame_shift)


def _search_lexicon(
    log_probs: LogProbs, fusion: LexiconFusion, options: SearchOptions, frame_shift: float | None
) -> list[Hypothesis]:
    check_weights(fusion)
    running = LexiconSearch(fusion, options)
    running.step(checked(as_frames(log_probs, fusion), fusion))
    found = running.finish(frame_shift)
    running.give_back()
    return found


def search_batch(
    batch: Iterable[LogProbs],
    fusion: Fusion,
    options: SearchOptions,
    threads: int | None = None,
    frame_shift: float | None = None,
) -> list[list[Hypothesis]]:
    """`search` of each utterance, several at once in threads (the long kernels hold no lock).

    threads: None is one a core. InputError names the utterance by its place.
    """
    if threads is not None and threads < 1:
        raise InputError(f"is {threads}; it must be at least 1", "threads", "None is all cores.")
    threads = threads or os.cpu_count() or 1
    numbered, lock = enumerate(batch), Lock()
    share = len(batch) // (8 * threads) if isinstance(batch, Sized) else 1
    size = max(1, min(GROUP, share)) if options.nbest == 1 else 1  # else there is enough to do
    found: dict[int, list[Hypothesis]] = {}

    def work() -> None:  # one task a thread: a task an utterance would cost a tenth of the time
        while True:
            with lock:
                group = _take(numbered, size)
            if not group:
                return
            try:
                lists = search_group([*group.values()], fusion, options, frame_shift)
            except InputError as error:
                raise _named(error, group, fusion) from None
            found.update(zip(group, lists, strict=True))

    with ThreadPoolExecutor(threads) as pool:
        for task in [pool.submit(work) for _ in range(threads)]:
            task.result()
    return [found[index] for index in sorted(found)]


def _take(numbered: Iterator[tuple[int, LogProbs]], size: int) -> dict[int, LogProbs]:
    """The next utterances, at most `size` and few where they are large."""
    group: dict[int, LogProbs] = {}
    values = 0
    for index, log_probs in numbered:
        group[index] = log_probs
        values += prod(getattr(log_probs, "shape", ()))
        if len(group) == size or values >= LARGE:
            break
    return group


def _named(error: InputError, group: Mapping[int, LogProbs], fusion: Fusion) -> InputError:
    """The error of one of the utterances with its place, and that of the frame in it."""
    for index, log_probs in group.items():
        try:
            checked(as_frames(log_probs, fusion), fusion)
        except InputError as own:
            return InputError(own.what, f"utterance {index}, {own.where}", own.remedy)
    return error
