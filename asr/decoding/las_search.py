"""Beam search for attention models, all utterances and beams of a batch in one tensor.

    total = w_att·log p(tokens, end | x) + Σ_i w_i·lm_i + bonus·length + unk·unknown
            + w_ctc·log p_ctc(tokens | x)
            + coverage·|{states whose attention, summed over the tokens, is above 1/2}|

B utterances still open, K beams each, N = B·K rows, T states, V tokens. A step advances all rows by
one token; of the B·(K·V) sums the best K an utterance go on, and those of the best K that end the
sentence are finished. An utterance leaves when nothing open can enter its n-best list any more.

For pruning, an open hypothesis is credited with what its end will bring: the CTC score of all texts
that begin with it (joint decoding, Watanabe et al. 2017), and the best that the LM may give for its
unfinished word. At the end the first has become the CTC score itself, the second nothing.

Coverage (Chorowski & Jaitly 2017) pays for every state that was listened to, once: neither skipping
a part of the utterance nor going over one again is worth it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.decoding.ctc_prefix import IMPOSSIBLE, CTCPrefix, PrefixStates
from asr.decoding.fusion import Fusion, Increments, States
from asr.decoding.options import SearchOptions
from asr.decoding.rescore import sort_nbest
from asr.decoding.trellis import align
from asr.errors import InputError
from asr.hypothesis import Hypothesis, Weights
from asr.models.recognizer import Recognizer
from asr.models.speller import END, Memory, SpellerState

COVERED = 0.5  # a state with this much attention has been listened to
# With a bonus an open hypothesis can still gain on a finished one: so many words are waited for.
HOPED_WORDS = 5


class Finished(NamedTuple):
    """A finished hypothesis; `frames`: the state that each token attended to most."""

    total: float
    raw: list[float]  # att, token LM, word LM, length, unknown letters, coverage
    tokens: list[int]
    frames: list[int]


@dataclass(slots=True)
class Beams:
    """The open hypotheses, U tokens long. A row without hypothesis has the total -inf."""

    owner: Tensor  # (B,) the utterance's place in the batch
    memory: Memory  # rows (B, ...)
    state: SpellerState  # rows (N, ...)
    lm: States  # (N,) each
    prefix: PrefixStates | None  # where the CTC score takes part in the search
    total: Tensor  # (N,) float64, without what is credited
    raw: Tensor  # (N, 6) float64: att, token LM, word LM, length, unknown letters, coverage
    attention: Tensor  # (N, T) summed over the tokens so far, for coverage
    tokens: Tensor  # (N, U)
    frames: Tensor  # (N, U)
    finished: Tensor  # (B, n) the best totals finished so far, best first; -inf: none yet


@torch.inference_mode()
def search(
    recognizer: Recognizer,
    states: Tensor,
    lengths: Tensor,
    fusion: Fusion | None,
    options: SearchOptions,
    pieces: Sequence[str],
    ctc_log_probs: Tensor | None = None,
) -> list[list[Hypothesis]]:
    """n-best lists, best first, of states (B, T, D) and lengths (B,); beam 1 without LM is greedy.

    fusion: LMs and the weights of all scores; None: the attention model alone.
    ctc_log_probs: (B, T, V); if given, hypotheses have the score "ctc"; with a weight it takes part
    in the search. The list of an utterance whose outputs are NaN is empty.
    Raises InputError for a model without a speller, or where att has no weight.
    """
    if recognizer.speller is None:
        raise InputError("the model has no speller (ctc_weight 1)", None, "Use --head ctc.")
    fusion = fusion or Fusion(pieces, weights=Weights(att=1.0))
    if fusion.weights.att <= 0:
        raise InputError("the attention score has no weight", "weights", "Set att above 0.")
    lengths = lengths.to(states.device)
    done: list[list[Finished]] = [[] for _ in lengths]
    run = Search(recognizer, fusion, options, lengths, ctc_log_probs)
    beams = run.begin(states)
    step = 0
    while len(beams.owner):
        beams = run.step(beams, step, done)
        step += 1
    results = []
    for b, finished in enumerate(done):
        nbest = run.hypotheses(finished, recognizer.frame_shift)
        if ctc_log_probs is not None and nbest:
            add_ctc(nbest, ctc_log_probs[b, : int(lengths[b])])
        best: dict[str, Hypothesis] = {}  # of equal texts the best is kept
        for hypothesis in sort_nbest(nbest, fusion.weights):
            best.setdefault(hypothesis.text, hypothesis)
        results.append(list(best.values())[: options.nbest])
    return results


class Search:
    """The steps of the search above; holds what stays the same from step to step."""

    def __init__(
        self,
        recognizer: Recognizer,
        fusion: Fusion,
        options: SearchOptions,
        lengths: Tensor,
        ctc_log_probs: Tensor | None,
    ) -> None:
        assert recognizer.speller is not None
        self.speller, self.fusion, self.options = recognizer.speller, fusion, options
        self.lengths = lengths
        self.beam, self.threshold = max(options.beam, options.nbest), fusion.threshold(options)
        self.wanted = options.nbest  # finished hypotheses of an utterance that are sought
        self.ctc = None
        if ctc_log_probs is not None and fusion.weights.ctc > 0:
            self.ctc = CTCPrefix(ctc_log_probs.cpu().numpy(), lengths.cpu().numpy())
        self.margin = options.attention_margin / recognizer.frame_shift  # states
        self.hope = HOPED_WORDS * max(fusion.weights.bonus, 0.0)
        self.limit = (lengths * options.length_ratio).ceil()  # (B,) most tokens

    def begin(self, states: Tensor) -> Beams:
        """The empty hypothesis of every utterance that has states, in the first of K rows."""
        owner = self.lengths.nonzero()[:, 0]
        rows = owner.repeat_interleave(self.beam)
        memory, state = self.speller.begin(states[owner], self.lengths[owner])
        index = torch.arange(len(owner), device=states.device).repeat_interleave(self.beam)
        total = torch.full((len(owner), self.beam), -torch.inf, dtype=torch.float64)
        total[:, 0] = 0.0
        empty = torch.zeros(len(rows), 0, dtype=torch.long, device=states.device)
        return Beams(
            owner,
            memory,
            state.select(index),
            self.fusion.begin(len(rows)),
            self.ctc.begin(rows.cpu().numpy()) if self.ctc else None,
            total.flatten().to(states.device),
            torch.zeros(len(rows), 6, dtype=torch.float64, device=states.device),
            states.new_zeros(len(rows), states.shape[1]),
            empty,
            empty,
            total.new_full((len(owner), self.wanted), -torch.inf).to(states.device),
        )

    def step(self, beams: Beams, step: int, done: list[list[Finished]]) -> Beams:
        """All hypotheses one token on; those that end go to `done`, utterances may leave."""
        previous = beams.tokens[:, -1] if step else beams.tokens.new_full((len(beams.total),), END)
        if self.ctc and beams.prefix:
            prefix, reach = self.ctc.score_all(beams.prefix)
            log_probs, state, alignment = self.step_within(beams, previous, self.tensor(reach))
        else:
            prefix = None
            log_probs, state, alignment = self.speller.step(beams.memory, beams.state, previous)
        log_probs = log_probs.double()
        if self.options.coverage:
            self.cover(beams, alignment)
        ending = self.fusion.finish_all(*beams.lm)
        scores, credit = self.sums(beams, log_probs, ending.weighted, prefix, step)  # (N, V)
        vocabulary = scores.shape[1]
        best, index = (scores + credit).view(len(beams.owner), -1).topk(2 * self.beam)  # (B, 2K)
        floor = torch.maximum(best[:, :1], beams.finished[:, :1]) - self.threshold
        best = best.masked_fill(best < floor, -torch.inf)
        first = torch.arange(len(beams.owner), device=best.device)[:, None] * self.beam
        parent, token = first + index // vocabulary, index % vocabulary  # (B, 2K)

        # 1. Ends among the best K are finished.
        ends = (token == END) & best.isfinite()
        ends[:, self.beam :] = False
        raw = beams.raw + self.added(log_probs[:, 0], ending)  # (N, 6)
        self.finish(beams, raw, parent[ends], best[ends], done)
        totals = torch.cat([beams.finished, best.masked_fill(~ends, -torch.inf)], 1)
        finished = totals.topk(self.wanted).values  # (B, n)

        # 2. The best K of the others go on, in utterances that can still improve their list.
        order = (token == END).byte().sort(dim=1, stable=True).indices[:, : self.beam]
        best = best.gather(1, order)
        parent = parent.gather(1, order)
        uncovered = self.options.coverage * self.lengths[beams.owner, None] - beams.raw[parent, -1]
        hoped = (best + uncovered).amax(1) + self.hope
        stay = (best[:, 0] > -torch.inf) & (hoped > finished[:, -1])
        rows = parent[stay].flatten()
        chosen = token.gather(1, order)[stay].flatten()
        return self.advance(
            beams,
            state,
            torch.stack([rows, chosen, alignment.argmax(1)[rows]]),
            log_probs[rows, chosen],
            scores[rows, chosen].where(best[stay].flatten().isfinite(), -torch.inf),
            stay,
            finished[stay],
        )

    def cover(self, beams: Beams, alignment: Tensor) -> None:
        """Pay the beams for the states that the alignment (N, T) of this step adds."""
        beams.attention = beams.attention + alignment
        covered = self.options.coverage * (beams.attention > COVERED).sum(1).double()  # (N,)
        beams.total = beams.total + covered - beams.raw[:, -1]
        beams.raw = torch.cat([beams.raw[:, :-1], covered[:, None]], 1)

    def added(self, log_probs: Tensor, scores: Increments) -> Tensor:
        """What a token adds to the raw scores: (n, 6); its log_probs (n,) and scores of the LMs."""
        parts = (scores.token, scores.word, scores.length, scores.unknown)
        lm = [self.tensor(part) for part in parts]
        return torch.stack([log_probs, *lm, torch.zeros_like(log_probs)], 1)

    def step_within(
        self, beams: Beams, previous: Tensor, reach: Tensor
    ) -> tuple[Tensor, SpellerState, Tensor]:
        """Speller.step with attention near the states (first, last) where CTC awaits the next
        token, reach (N, 2): else it loses its place in utterances longer than those of training.

        Computed over one window an utterance, as wide as the widest of the batch: what its live
        hypotheses may attend to, and beside it what the location filters read. Rows without a
        hypothesis may attend to all of it, lest they become NaN.
        """
        memory, state, beside = beams.memory, beams.state, self.speller.reach
        frames, alive = memory.outside.shape[1], beams.total.isfinite()
        low, high = reach[:, 0] - self.margin, reach[:, 1] + self.margin
        first = low.where(alive, torch.inf).view(-1, self.beam).amin(1)  # (B,)
        last = high.where(alive, -torch.inf).view(-1, self.beam).amax(1).clamp(max=frames - 1)
        first = (first - beside).clamp(min=0).floor().long()
        width = min(int((last.long() + beside + 1 - first).amax()), frames)
        place = first.clamp(max=frames - width)[:, None] + torch.arange(width, device=first.device)
        utterance = torch.arange(len(place), device=first.device)[:, None]
        near = memory if width == frames else Memory(*(part[utterance, place] for part in memory))
        place = place.repeat_interleave(self.beam, 0)  # (N, W)
        far = (place < low[:, None]) | (place > high[:, None])
        outside = near.outside.repeat_interleave(self.beam, 0) | (far & alive[:, None])
        log_probs, after, alignment = self.speller.step(
            near._replace(outside=outside),
            state._replace(attended=state.attended.gather(1, place)),
            previous,
        )
        alignment = torch.zeros_like(state.attended).scatter(1, place, alignment)
        return log_probs, after._replace(attended=state.attended + alignment), alignment

    def sums(
        self,
        beams: Beams,
        log_probs: Tensor,
        ending: NDArray[np.float64],
        prefix: NDArray[np.float64] | None,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """Totals after each possible next token, END included, -inf where forbidden; the credit.

        Both are (N, V). END may only come where attention and CTC find it nearly the best (Hannun
        et al. 2019), else a language model that likes short sentences cuts them off. It must come
        at the bound of the length, and where no token fits into the frames that are left.
        """
        increments, credit = self.tensor(self.fusion.score_all(*beams.lm))
        increments[:, END] = self.tensor(ending)
        weights = self.fusion.weights
        heard = weights.att * log_probs
        last = (step >= self.limit[beams.owner]).repeat_interleave(self.beam)[:, None]  # (N, 1)
        last = last.repeat(1, log_probs.shape[1] - 1)
        if prefix is not None:
            by_ctc = self.tensor(prefix)
            credit += weights.ctc * by_ctc
            last |= by_ctc[:, END + 1 :] <= IMPOSSIBLE
            heard += weights.ctc * by_ctc
        margin = self.options.end_margin * (weights.att + (weights.ctc if self.ctc else 0.0))
        least = heard[:, END + 1 :].masked_fill(last, -torch.inf).amax(1) - margin
        scores = beams.total[:, None] + weights.att * log_probs + increments
        scores[:, END].masked_fill_(heard[:, END] < least, -torch.inf)
        scores[:, END + 1 :].masked_fill_(last, -torch.inf)
        return scores, credit

    def finish(
        self, beams: Beams, raw: Tensor, rows: Tensor, totals: Tensor, done: list[list[Finished]]
    ) -> None:
        """Put the hypotheses `rows` (n,), which end now with `totals` (n,), into `done`."""
        owners = beams.owner[rows // self.beam].tolist()
        columns = (totals, raw[rows], beams.tokens[rows], beams.frames[rows])
        for owner, *parts in zip(owners, *(c.tolist() for c in columns), strict=True):
            done[owner].append(Finished(*parts))

    def advance(
        self,
        beams: Beams,
        state: SpellerState,
        moves: Tensor,
        log_probs: Tensor,
        total: Tensor,
        stay: Tensor,
        finished: Tensor,
    ) -> Beams:
        """The beams after the moves (3, n): row extended, its new token, the frame attended to.

        log_probs, total (n,) of the moves; stay (B,) marks the utterances that go on.
        """
        rows, tokens, frames = moves
        parents = rows.cpu().numpy()
        chosen = tokens.cpu().numpy()
        before = States(*(part[parents] for part in beams.lm))
        lm, added = self.fusion.take(*before, chosen)
        ctc = None
        if self.ctc and beams.prefix:
            ctc = self.ctc.take(beams.prefix, parents, chosen)
        memory = beams.memory
        if not bool(stay.all()):
            memory = memory.select(stay)
        return Beams(
            beams.owner[stay],
            memory,
            state.select(rows),
            lm,
            ctc,
            total,
            beams.raw[rows] + self.added(log_probs, added),
            beams.attention[rows],
            torch.cat([beams.tokens[rows], tokens[:, None]], 1),
            torch.cat([beams.frames[rows], frames[:, None]], 1),
            finished,
        )

    def hypotheses(self, finished: list[Finished], frame_shift: float) -> list[Hypothesis]:
        """The finished hypotheses, the best 2·K at most, with their raw scores."""
        nbest = []
        for total, raw, tokens, frames in sorted(finished, key=lambda f: -f.total)[: 2 * self.beam]:
            lm = {self.fusion.token_name: raw[1], self.fusion.word_name: raw[2]}
            scores = {
                "att": raw[0],
                "lm": {name: score for name, score in lm.items() if name},
                "length": int(raw[3]),
                "total": total,
            }
            if self.fusion.word_name:
                scores["unknown"] = int(raw[4])
            if self.options.coverage:
                scores["coverage"] = raw[5]
            attended = np.maximum.accumulate(np.array(frames, np.int64))
            words = self.fusion.inventory.words(tokens, attended, attended + 1, frame_shift)
            text = self.fusion.inventory.text(tokens)
            nbest.append(Hypothesis(text, tokens, scores, words, frames))
        return nbest

    def tensor(self, array: NDArray[np.float64] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.lengths.device, torch.float64)


def add_ctc(nbest: Sequence[Hypothesis], log_probs: Tensor) -> None:
    """Give each hypothesis its score "ctc": log Σ over alignments, from log_probs (T, V)."""
    texts = [np.array(hypothesis.tokens, np.int32) for hypothesis in nbest]
    bounds = np.cumsum([0, *map(len, texts)])
    _, _, sums = align(log_probs.float().cpu().numpy(), np.concatenate(texts), bounds)
    for hypothesis, score in zip(nbest, sums.tolist(), strict=True):
        hypothesis.scores["ctc"] = max(score, IMPOSSIBLE)
