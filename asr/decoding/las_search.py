"""Beam search for attention models, all utterances and beams of a batch in one tensor.

    total = w_att·log p(tokens, end | x) + Σ_i w_i·lm_i + bonus·length + unk·unknown
            + w_ctc·log p_ctc(tokens | x)
            + coverage·|{states whose attention, summed over the tokens, is above 1/2}|

B utterances still open, K beams each, N = B·K rows, T states, V tokens. A step advances all rows by
one token; of the B·(K·V) sums the best K an utterance go on, and those of the best K that end the
sentence are finished. An utterance leaves when nothing open can enter its n-best list any more.

For pruning, an open hypothesis is credited with what its end will bring: the CTC score of all texts
that begin with it (joint decoding, Watanabe et al. 2017), and the best that the LM may give for its
unfinished word. Coverage (Chorowski & Jaitly 2017) pays for every state listened to, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.decoding.ctc_prefix import IMPOSSIBLE, CTCPrefix, Doubles, Ints, PrefixStates
from asr.decoding.fusion import Fusion, Increments, States
from asr.decoding.inventory import Inventory
from asr.decoding.options import SearchOptions
from asr.decoding.rescore import sort_nbest
from asr.decoding.trellis import align
from asr.errors import InputError
from asr.hypothesis import Hypothesis, Weights, Word
from asr.models.recognizer import Recognizer
from asr.models.speller import END, Memory, SpellerState

COVERED = 0.5  # a state with this much attention has been listened to
# With a bonus an open hypothesis can still gain on a finished one: so many words are waited for.
HOPED_WORDS = 5


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
    path: Tensor  # (2, N, U) tokens, and the state that each one attended to most
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
    in the search. The list of an utterance whose outputs are NaN is empty. Hypotheses have no words
    yet: where attention was, `attended_words` has them.
    Raises InputError for a model without a speller, or where att has no weight.
    """
    if recognizer.speller is None:
        raise InputError("the model has no speller (ctc_weight 1)", None, "Use --head ctc.")
    fusion = fusion or Fusion(pieces, weights=Weights(att=1.0))
    if fusion.weights.att <= 0:
        raise InputError("the attention score has no weight", "weights", "Set att above 0.")
    run = Search(recognizer, fusion, options, lengths.to(states.device), ctc_log_probs)
    beams, step = run.begin(states), 0
    while len(beams.owner):
        beams, step = run.step(beams, step), step + 1
    return [run.nbest(b) for b in range(len(lengths))]


@dataclass
class Search:
    """The steps of the search above; holds what stays the same from step to step."""

    recognizer: Recognizer
    fusion: Fusion
    options: SearchOptions
    lengths: Tensor  # (B,)
    ctc_log_probs: Tensor | None  # (B, T, V)

    def __post_init__(self) -> None:
        options, weights = self.options, self.fusion.weights
        assert self.recognizer.speller is not None
        self.speller = self.recognizer.speller
        self.beam, self.threshold = max(options.beam, options.nbest), self.fusion.threshold(options)
        self.ctc = None
        if self.ctc_log_probs is not None and weights.ctc > 0:
            self.ctc = CTCPrefix(self.ctc_log_probs.cpu().numpy(), self.lengths.cpu().numpy())
        self.margin = options.attention_margin / self.recognizer.frame_shift  # states
        self.hope = HOPED_WORDS * max(weights.bonus, 0.0)
        self.limit = (self.lengths * options.length_ratio).ceil()  # (B,) most tokens
        self.done: list[list[Any]] = [[] for _ in self.lengths]  # total, raw, tokens, frames

    def begin(self, states: Tensor) -> Beams:
        """The empty hypothesis of every utterance that has states, in the first of K rows."""
        owner = self.lengths.nonzero()[:, 0]
        index = torch.arange(len(owner), device=states.device).repeat_interleave(self.beam)
        memory, state = self.speller.begin(states[owner], self.lengths[owner])
        prefix = self.ctc.begin(owner[index].cpu().numpy()) if self.ctc else None
        kept = owner, memory, state.select(index), self.fusion.begin(len(index)), prefix
        total = torch.zeros(len(owner), self.beam, dtype=torch.float64, device=states.device)
        total[:, 1:] = -torch.inf
        raw, path = total.new_zeros(len(index), 6), owner.new_zeros(2, len(index), 0)
        attention = states.new_zeros(len(index), states.shape[1])
        finished = total.new_full((len(owner), self.options.nbest), -torch.inf)
        return Beams(*kept, total.flatten(), raw, attention, path, finished)

    def step(self, beams: Beams, step: int) -> Beams:
        """All hypotheses one token on; those that end go to `done`, utterances may leave."""
        previous = beams.path[0, :, -1] if step else beams.path.new_full((len(beams.total),), END)
        prefix = None
        if self.ctc and beams.prefix:
            prefix, reach = self.ctc.score_all(beams.prefix)
            log_probs, state, alignment = self.step_within(beams, previous, self.tensor(reach))
        else:
            log_probs, state, alignment = self.speller.step(beams.memory, beams.state, previous)
        if self.options.coverage:
            beams.attention = beams.attention + alignment
            covered = self.options.coverage * (beams.attention > COVERED).sum(1).double()  # (N,)
            beams.total = beams.total + covered - beams.raw[:, -1]
            beams.raw = torch.cat([beams.raw[:, :-1], covered[:, None]], 1)
        log_probs, ending = log_probs.double(), self.fusion.finish_all(*beams.lm)
        scores, credit = self.sums(beams, log_probs, ending.weighted, prefix, step)  # (N, V)
        best, index = (scores + credit).view(len(beams.owner), -1).topk(2 * self.beam)  # (B, 2K)
        floor = torch.maximum(best[:, :1], beams.finished[:, :1]) - self.threshold
        best = best.masked_fill(best < floor, -torch.inf)
        first = torch.arange(len(beams.owner), device=best.device)[:, None] * self.beam
        parent, token = first + index // scores.shape[1], index % scores.shape[1]  # (B, 2K)
        # 1. Ends among the best K are finished.
        ends = (token == END) & best.isfinite()
        ends[:, self.beam :] = False
        rows, raw = parent[ends], beams.raw + self.added(log_probs[:, 0], ending)  # raw (N, 6)
        columns = best[ends], raw[rows], *beams.path[:, rows]
        owners = beams.owner[rows // self.beam].tolist()
        for owner, *parts in zip(owners, *(column.tolist() for column in columns), strict=True):
            self.done[owner].append(parts)
        totals = torch.cat([beams.finished, best.masked_fill(~ends, -torch.inf)], 1)
        finished = totals.topk(self.options.nbest).values  # (B, n)
        # 2. The best K of the others go on, in utterances that can still improve their list.
        order = (token == END).byte().sort(dim=1, stable=True).indices[:, : self.beam]
        best, parent, token = (part.gather(1, order) for part in (best, parent, token))
        uncovered = self.options.coverage * self.lengths[beams.owner, None] - beams.raw[parent, -1]
        hoped = (best + uncovered).amax(1) + self.hope
        stay = (best[:, 0] > -torch.inf) & (hoped > finished[:, -1])
        rows, tokens = parent[stay].flatten(), token[stay].flatten()
        parents, chosen = rows.cpu().numpy(), tokens.cpu().numpy()
        lm, added = self.fusion.take(*States(*(part[parents] for part in beams.lm)), chosen)
        later = self.ctc.take(beams.prefix, parents, chosen) if self.ctc and beams.prefix else None
        memory = beams.memory if bool(stay.all()) else beams.memory.select(stay)
        kept = beams.owner[stay], memory, state.select(rows), lm, later
        total = scores[rows, tokens].where(best[stay].flatten().isfinite(), -torch.inf)
        raw = beams.raw[rows] + self.added(log_probs[rows, tokens], added)
        longer = torch.stack([tokens, alignment.argmax(1)[rows]])[..., None]
        path = torch.cat([beams.path[:, rows], longer], 2)
        return Beams(*kept, total, raw, beams.attention[rows], path, finished[stay])

    def added(self, log_probs: Tensor, scores: Increments) -> Tensor:
        """What a token adds to the raw scores, (n, 6): its log_probs (n,) and scores of the LMs."""
        lm = [self.tensor(part) for part in scores[:4]]
        return torch.stack([log_probs, *lm, torch.zeros_like(log_probs)], 1)

    def step_within(
        self, beams: Beams, previous: Tensor, reach: Tensor
    ) -> tuple[Tensor, SpellerState, Tensor]:
        """Speller.step with attention near the states (first, last) where CTC awaits the next
        token, reach (N, 2): else it loses its place in utterances longer than those of training.

        Rows without a hypothesis attend to all states, lest they become NaN.
        """
        place = torch.arange(beams.attention.shape[1], device=reach.device)
        far = (place < reach[:, :1] - self.margin) | (place > reach[:, 1:] + self.margin)  # (N, T)
        outside = beams.memory.outside.repeat_interleave(self.beam, 0)
        outside = outside | (far & beams.total.isfinite()[:, None])
        return self.speller.step(beams.memory._replace(outside=outside), beams.state, previous)

    def sums(
        self, beams: Beams, log_probs: Tensor, ending: Doubles, prefix: Doubles | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """Totals after each possible next token, -inf where forbidden, and the credit: (N, V).

        END may only come where attention and CTC find it nearly the best (Hannun et al. 2019): a
        language model that likes short sentences cuts them off. It must at the bound of the length.
        """
        increments, credit = self.tensor(self.fusion.score_all(*beams.lm))
        increments[:, END] = self.tensor(ending)
        weights = self.fusion.weights
        heard = weights.att * log_probs
        scores = beams.total[:, None] + heard + increments
        last = (step >= self.limit[beams.owner]).repeat_interleave(self.beam)[:, None]  # (N, 1)
        if prefix is not None:
            by_ctc = self.tensor(prefix)
            credit += weights.ctc * by_ctc
            heard += weights.ctc * by_ctc
            last = last | (by_ctc[:, END + 1 :] <= IMPOSSIBLE)  # (N, V - 1)
        margin = self.options.end_margin * (weights.att + (weights.ctc if self.ctc else 0.0))
        least = heard[:, END + 1 :].masked_fill(last, -torch.inf).amax(1) - margin
        scores[:, END].masked_fill_(heard[:, END] < least, -torch.inf)
        scores[:, END + 1 :].masked_fill_(last, -torch.inf)
        return scores, credit

    def nbest(self, b: int) -> list[Hypothesis]:
        """The finished hypotheses of an utterance, raw scores and all; of equal texts the best."""
        nbest = []
        done = sorted(self.done[b], key=lambda finished: -finished[0])[: 2 * self.beam]
        for total, (att, *lm, length, unknown, coverage), tokens, frames in done:
            names = zip((self.fusion.token_name, self.fusion.word_name), lm, strict=True)
            scores = {"att": att, "lm": {name: score for name, score in names if name}}
            scores |= {"length": int(length), "total": total}
            if self.fusion.word_name:
                scores["unknown"] = int(unknown)
            if self.options.coverage:
                scores["coverage"] = coverage
            text = self.fusion.inventory.text(tokens)
            nbest.append(Hypothesis(text, tokens, scores, frames=frames))
        if self.ctc_log_probs is not None and nbest:
            log_probs = self.ctc_log_probs[b, : int(self.lengths[b])].float().cpu().numpy()
            texts = [np.array(hypothesis.tokens, np.int32) for hypothesis in nbest]
            bounds = np.cumsum([0, *map(len, texts)])
            _, _, sums = align(log_probs, np.concatenate(texts), bounds)  # over all alignments
            for hypothesis, score in zip(nbest, sums.tolist(), strict=True):
                hypothesis.scores["ctc"] = max(score, IMPOSSIBLE)
        best: dict[str, Hypothesis] = {}
        for hypothesis in sort_nbest(nbest, self.fusion.weights):
            best.setdefault(hypothesis.text, hypothesis)
        return list(best.values())[: self.options.nbest]

    def tensor(self, array: Doubles | Ints) -> Tensor:
        return torch.from_numpy(array).to(self.lengths.device, torch.float64)


def attended_words(hypothesis: Hypothesis, inventory: Inventory, frame_shift: float) -> list[Word]:
    """Its words, each where attention was during its tokens (it never goes back)."""
    attended = np.maximum.accumulate(np.array(hypothesis.frames, np.int64))
    return inventory.words(hypothesis.tokens, attended, attended + 1, frame_shift)
