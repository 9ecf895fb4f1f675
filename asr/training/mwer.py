"""Training for the word error rate itself, with the language models of decoding attached.

    loss = (1 - λ)·Σ_i P_i·(W_i - W̄) + λ·original loss,    P_i = softmax_i(s·total_i)

W_i: word errors of hypothesis i of the search as it will be used, on the batch as it is trained on;
W̄: their mean, which takes variance off the gradient; `total`: the search's weighted sum, the heads'
scores computed anew, with gradients (CTC: of all alignments; speller: teacher forcing, without
dropout and label smoothing, which would disturb the comparison), the language models' constant.

Prabhavalkar et al., "Minimum Word Error Rate Training for Attention-Based Sequence-to-Sequence
Models", ICASSP 2018; Meng et al., "Minimum Word Error Rate Training with Language Model Fusion for
End-to-End Speech Recognition", Interspeech 2021. B utterances, N hypotheses, T states, U tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.console import say
from asr.data.loader import TrainingSet, pad
from asr.decoding import ctc_search, las_search
from asr.decoding.ctc_prefix import IMPOSSIBLE
from asr.decoding.fusion import Fusion
from asr.decoding.options import SearchOptions
from asr.decoding.weights import open_lms
from asr.errors import InputError
from asr.hypothesis import Hypothesis
from asr.lm.ngram import UNK, NGram
from asr.lm.train import Units
from asr.models.common import dropping, having
from asr.models.ctc import ctc_loss
from asr.models.recognizer import Recognizer
from asr.text.tokenizer import Tokenizer
from asr.wer import count_errors

SAMPLE = 128  # training utterances that are decoded to see what there is to learn
TOO_LITTLE = 0.01  # WER less oracle WER below which there is next to nothing
# Times the perplexity of the dev texts; an LM that finds the training texts easier knows them. That
# of words in recipes/sentences: 0.4 with these texts, 0.9 without. One of characters remembers too
# little to be found out (0.94 and 0.98).
SEEN = 0.6


@dataclass
class MWEROptions:
    """Training for the word error rate of a model that is trained already (`--init`)."""

    nbest: int = 0  # hypotheses an utterance, 4 to 16; 0: the original loss alone
    # language models of the search (ARPA: of words), made without the texts of data.train: else
    # they correct on the training set what they will not correct elsewhere
    lm: list[str] = field(default_factory=list)
    # weights file of `asr tune`; without it: LMs 0.5, heads as model.ctc_weight has them
    weights: str | None = None
    scale: float = 1.0  # of totals before the softmax; near 1 / confidence.temperature of `weights`
    interpolation: float = 0.01  # share λ of the original loss (hundreds of word errors), 0 to 1

    def __post_init__(self) -> None:
        if self.nbest < 0 or self.nbest == 1:
            raise InputError(f"mwer.nbest={self.nbest} must be 0 or at least 2")
        if not self.nbest and (self.lm or self.weights):
            raise InputError("mwer.lm and mwer.weights are without effect: mwer.nbest is 0")
        if not 0 < self.scale < math.inf:
            raise InputError(f"mwer.scale={self.scale} must be above 0 and finite")
        if not 0 <= self.interpolation < 1:
            raise InputError(f"mwer.interpolation={self.interpolation} is outside 0 to 1")


class MWER:
    """The loss of a model; raises InputError where language models or weights do not fit it."""

    def __init__(self, model: Recognizer, tokenizer: Tokenizer, options: MWEROptions) -> None:
        self.model, self.tokenizer, self.options = model, tokenizer, options
        lms = open_lms(options.lm, weights_file=options.weights)
        weights = lms.weights
        if not weights.ctc and not weights.att:
            ctc = model.options.ctc_weight
            weights = replace(weights, ctc=ctc, att=1 - ctc)
        for head, there in (("ctc", model.has_ctc), ("att", model.has_speller)):
            if getattr(weights, head) and not there:
                what = f"has a weight for the score '{head}', which this model lacks"
                raise InputError(what, options.weights, "Tune with n-best lists of this model.")
        for lm in lms.models.values():
            lm.check_fits(tokenizer)
        self.fusion = Fusion(tokenizer.pieces, lms.models, weights)
        self.search_options = SearchOptions(nbest=options.nbest)

    def losses(self, tokens: Tensor, token_lengths: Tensor, **audio: Tensor) -> dict[str, Tensor]:
        """As Recognizer.losses; "mwer" (B,) beside the others, and "total" with it (see above)."""
        states, frames = self.model.encode(**audio)
        losses = self.model.losses_of(states, frames, tokens, token_lengths)
        texts, share = self.texts(tokens, token_lengths), self.options.interpolation
        risk = self.risk(states, frames, self.search(states, frames), texts)
        losses["mwer"] = risk.to(losses["total"].dtype)
        losses["total"] = (1 - share) * losses["mwer"] + share * losses["total"]
        return losses

    def texts(self, tokens: Tensor, lengths: Tensor) -> list[str]:
        """The references that padded tokens (B, U) spell."""
        rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
        return [self.tokenizer.decode(row[:length]) for row, length in rows]

    @torch.no_grad()
    def search(self, states: Tensor, frames: Tensor) -> list[list[Hypothesis]]:
        """n-best lists, best first, of states (B, T, D), frames (B,); empty where they are NaN:
        the loss is NaN too, and the step is left out."""
        model, fusion, options = self.model, self.fusion, self.search_options
        if not states.isfinite().all():
            return [[] for _ in frames]
        with torch.autocast(states.device.type, enabled=False):  # else it keeps weights for later
            states = states.to(next(model.parameters()).dtype)
            ctc = model.ctc_log_probs(states).float().cpu() if model.has_ctc else None
            if ctc is not None and ctc.isnan().any():
                return [[] for _ in frames]
            if ctc is None or fusion.weights.att:
                pieces = self.tokenizer.pieces
                return las_search.search(model, states, frames, fusion, options, pieces, ctc)
            rows = zip(ctc, frames.tolist(), strict=True)
            outputs = [row[:length].numpy() for row, length in rows]
            return ctc_search.search_batch(outputs, fusion, options, torch.get_num_threads())

    def risk(
        self, states: Tensor, frames: Tensor, lists: list[list[Hypothesis]], references: list[str]
    ) -> Tensor:
        """Σ_i P_i·(W_i - W̄) an utterance (B,), float64; 0 with less than two hypotheses."""
        size = (len(lists), max(map(len, lists), default=0))
        totals = torch.full(size, -torch.inf, dtype=torch.float64, device=states.device)
        totals[[not nbest for nbest in lists]] = 0.0
        errors = np.zeros(size)
        for row, nbest, reference in zip(errors, lists, references, strict=True):
            found = self.word_errors(nbest, reference)
            row[: len(nbest)] = found - found.mean() if nbest else 0
        place = [(b, i) for b, nbest in enumerate(lists) for i in range(len(nbest))]
        if place:
            owner, rank = torch.tensor(place, device=states.device).T
            every = [hypothesis for nbest in lists for hypothesis in nbest]
            totals = totals.index_put((owner, rank), self.totals(states, frames, owner, every))
        posteriors = (self.options.scale * totals).softmax(1)
        return (posteriors * torch.from_numpy(errors).to(totals)).sum(1)

    def totals(
        self, states: Tensor, frames: Tensor, owner: Tensor, found: Sequence[Hypothesis]
    ) -> Tensor:
        """The totals (N,) of hypotheses of the utterances `owner` (N,), heads' scores anew."""
        weights, device = self.fusion.weights, states.device
        constant = [hypothesis.rate(replace(weights, ctc=0.0, att=0.0)) for hypothesis in found]
        totals = torch.tensor(constant, dtype=torch.float64, device=device)
        padded = pad([np.array(hypothesis.tokens, np.int64) for hypothesis in found], np.int64)
        tokens, lengths = (torch.from_numpy(array).to(device) for array in padded)
        if weights.ctc:
            log_probs = self.model.ctc_log_probs(states)[owner]
            loss = ctc_loss(log_probs, frames[owner], tokens, lengths)
            totals = totals - weights.ctc * loss.clamp(max=-IMPOSSIBLE)
        if weights.att and (speller := self.model.speller):
            with having(dropping, False):
                log_probs, _ = speller.teach(states[owner], frames[owner], tokens)
            totals = totals + weights.att * speller.score(log_probs, tokens, lengths)
        return totals

    def word_errors(self, nbest: Sequence[Hypothesis], reference: str) -> NDArray[np.int64]:
        """Word errors of each hypothesis; with a lexicon's tokens, words are its units."""
        texts = [self.tokenizer.decode(hypothesis.tokens) for hypothesis in nbest]
        errors: NDArray[np.int64] = count_errors([reference] * len(texts), texts)[:, 1:].sum(1)
        return errors

    @torch.no_grad()
    def introduce(self, train: TrainingSet, dev_texts: Sequence[str]) -> None:
        """Say what there is to learn on the training set, and warn where it is little, or where a
        language model knows the training texts."""
        chosen = np.random.default_rng(train.maker.seed).permutation(train.kept)[:SAMPLE]
        utterances = [train.utterances[i] for i in chosen.tolist()]
        epoch = train.maker.options.plain_epochs if train.maker.options else 0
        first = best = words = 0
        self.model.train()
        weight = next(self.model.parameters())
        for begin in range(0, len(utterances), 8):
            batch = train.maker.make((epoch, utterances[begin : begin + 8]))
            if not batch.ids:  # no audio of them can be read
                continue
            tensors = batch.tensors(weight.device, weight.dtype)
            references = self.texts(tensors.pop("tokens"), tensors.pop("token_lengths"))
            lists = self.search(*self.model.encode(**tensors))
            for nbest, reference in zip(lists, references, strict=True):
                count = len(reference.split())
                errors = self.word_errors(nbest, reference).tolist() or [count]
                first, best, words = first + errors[0], best + min(errors), words + count
        wer, oracle = first / max(words, 1), best / max(words, 1)
        said = (
            f"MWER: WER {wer:.1%} on {len(utterances)} training utterances as they are trained on"
        )
        say(f"{said}; oracle of the {self.options.nbest}-best lists {oracle:.1%}")
        if wer - oracle < TOO_LITTLE:
            say("warning: there is next to nothing to learn: no better texts in the n-best lists")
        for lm in self.fusion.lms.values():
            self.warn_if_seen(lm, [u.text or "" for u in utterances], dev_texts)

    def warn_if_seen(self, lm: NGram, train: Sequence[str], dev: Sequence[str]) -> None:
        on_train, on_dev = (perplexity(lm, self.tokenizer, texts) for texts in (train, dev))
        if on_train < SEEN * on_dev:
            say(
                f"warning: the language model {lm.name} seems to have seen the training texts "
                f"(perplexity {on_train:.0f}; of the dev texts {on_dev:.0f}): it will correct "
                "errors in training that it cannot correct elsewhere. Make one without data.train."
            )


def perplexity(lm: NGram, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Of the units that `lm` knows, sentence ends included; texts with reserved words left out."""
    units = Units(tokenizer.normalizer, tokenizer if lm.unit == "token" else None)
    known: list[float] = []
    for text in texts:
        with suppress(InputError):
            scores = lm.scores(units(text, lm.name))
            known += scores.logprob[scores.word != UNK].tolist()
    return math.exp(-sum(known) / len(known)) if known else math.nan
