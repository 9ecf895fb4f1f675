"""Greedy decoding of a dev set and its word error rate, for both heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from asr.data.loader import Batch
from asr.models import ctc
from asr.models.recognizer import Recognizer
from asr.models.speller import END, Speller
from asr.text.tokenizer import Tokenizer
from asr.training.distributed import Group
from asr.wer import wer

TOKENS_PER_SECOND = 25  # nobody speaks faster; ends hypotheses of a speller that never does


def speller_greedy(
    speller: Speller, states: Tensor, lengths: Tensor, frame_shift: float
) -> list[list[int]]:
    """The most probable token at each step, for states (B, T, D), lengths (B,), until the end."""
    memory, state = speller.begin(states, lengths)
    longest = lengths * frame_shift * TOKENS_PER_SECOND + 5
    previous = torch.full((len(states),), END, device=states.device)
    running = torch.ones_like(previous, dtype=torch.bool)
    steps = []
    for step in range(int(longest.max())):
        log_probs, state, _ = speller.step(memory, state, previous)
        previous = log_probs.argmax(1).masked_fill(~running | (step >= longest), END)
        running = running & (previous != END)
        if not running.any():
            break
        steps.append(previous)
    rows = torch.stack(steps, 1).tolist() if steps else [[] for _ in states]
    return [[token for token in row if token != END] for row in rows]


class Recognised(NamedTuple):
    """Of some of a dev set's batches, or of all."""

    texts: dict[str, dict[str, str]]  # by head ("ctc", "las") and utterance id
    loss: float  # the sum of those that are finite (inf: too short for CTC)
    finite: int  # number of them
    stopped: bool


@torch.inference_mode()
def recognise(
    model: Recognizer,
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    stopped: Callable[[], bool],
) -> Recognised:
    """Losses and greedy texts of every head; ends early when `stopped()` becomes true."""
    weight = next(model.parameters())
    heads = [n for n, there in (("ctc", model.has_ctc), ("las", model.has_speller)) if there]
    texts: dict[str, dict[str, str]] = {head: {} for head in heads}
    total, count = 0.0, 0
    model.eval()
    for batch in batches:
        if stopped():
            return Recognised(texts, total, count, True)
        if not batch.ids:
            continue
        tensors = batch.tensors(weight.device, weight.dtype)
        losses = model.losses(**tensors)["total"]
        finite = losses.isfinite()
        total, count = total + float(losses[finite].sum()), count + int(finite.sum())
        states, lengths = model.encode(tensors["samples"], tensors["lengths"])
        for head in heads:
            rows = (
                ctc.greedy(model.ctc_log_probs(states), lengths)
                if head == "ctc"
                else speller_greedy(model.speller, states, lengths, model.frame_shift)  # type: ignore[arg-type]
            )
            texts[head].update(zip(batch.ids, map(tokenizer.decode, rows), strict=True))
    return Recognised(texts, total, count, False)


def evaluate(
    model: Recognizer,
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    texts: Mapping[str, str],
    stopped: Callable[[], bool],
    group: Group,
) -> dict[str, float]:
    """Dev set figures: "loss" (mean an utterance), "wer_ctc" and "wer_las" where there is the head,
    and "wer", the one that chooses checkpoints: the speller's if there is one.

    batches: this process's share of them; texts: id -> reference, of all. An utterance without
    audio counts as an empty hypothesis. With units of a lexicon, words are units. Returns {} if
    `stopped()` became true in any process.
    """
    parts = group.gather(recognise(model, tokenizer, batches, stopped))
    if any(part.stopped for part in parts):
        return {}
    decoded_units = tokenizer.type == "lexicon"
    references = [
        tokenizer.decode(tokenizer.encode(text)) if decoded_units else tokenizer.normalizer(text)
        for text in texts.values()
    ]
    finite = sum(part.finite for part in parts)
    figures = {"loss": sum(part.loss for part in parts) / finite if finite else math.inf}
    for head in parts[0].texts:
        found = {id: text for part in parts for id, text in part.texts[head].items()}
        figures[f"wer_{head}"] = figures["wer"] = wer(references, [found.get(i, "") for i in texts])
    return figures
