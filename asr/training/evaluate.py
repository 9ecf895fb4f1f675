"""Greedy decoding of a dev set and its word error rate, for both heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

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
    steps = [previous]
    for step in range(int(longest.max())):
        log_probs, state, _ = speller.step(memory, state, previous)
        previous = log_probs.argmax(1).masked_fill(~running | (step >= longest), END)
        running = running & (previous != END)
        if not running.any():
            break
        steps.append(previous)
    return [[token for token in row if token != END] for row in torch.stack(steps, 1).tolist()]


@torch.inference_mode()
def evaluate(
    model: Recognizer,
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    texts: Mapping[str, str],
    stopped: Callable[[], bool],
    group: Group,
) -> dict[str, float]:
    """Dev set figures: "loss" (mean an utterance), "wer_ctc", "wer_las" (of a lexicon's units) and
    "wer", the last of them, which chooses checkpoints; {} if `stopped()` in any process.

    batches: this process's share; texts: id -> reference, of all: without audio nothing is heard.
    """
    weight = next(model.parameters())
    decoded: dict[str, dict[str, str]] = {head: {} for head in model.heads}  # by utterance id
    total, count, stop = 0.0, 0, False  # of losses that are finite (inf: too short for CTC)
    model.eval()
    for batch in batches:
        if stop := stopped():
            break
        if not batch.ids:
            continue
        tensors = batch.tensors(weight.device, weight.dtype)
        losses = model.losses(**tensors)["total"]
        finite = losses.isfinite()
        total, count = total + float(losses[finite].sum()), count + int(finite.sum())
        states, lengths = model.encode(tensors["samples"], tensors["lengths"])
        for head, found in decoded.items():
            if head == "ctc":
                rows = ctc.greedy(model.ctc_log_probs(states), lengths)
            elif model.speller:
                rows = speller_greedy(model.speller, states, lengths, model.frame_shift)
            found.update(zip(batch.ids, map(tokenizer.decode, rows), strict=True))
    parts = group.gather((decoded, total, count, stop))
    if any(part[3] for part in parts):
        return {}
    references = list(map(tokenizer.normalizer, texts.values()))
    if tokenizer.type == "lexicon":
        references = [tokenizer.decode(tokenizer.encode(text)) for text in texts.values()]
    total, count = sum(part[1] for part in parts), sum(part[2] for part in parts)
    figures = {"loss": total / count if count else math.inf}
    for head in model.heads:
        found = {id: text for part in parts for id, text in part[0][head].items()}
        figures[f"wer_{head}"] = figures["wer"] = wer(references, [found.get(i, "") for i in texts])
    return figures
