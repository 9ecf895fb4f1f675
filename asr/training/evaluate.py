"""Greedy decoding of a dev set and its word error rate, for both heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from asr.data.loader import Batch
from asr.models import ctc
from asr.models.recognizer import Recognizer
from asr.models.speller import END, Speller
from asr.text.tokenizer import Tokenizer
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


@torch.inference_mode()
def evaluate(
    model: Recognizer,
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    texts: Mapping[str, str],
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Dev set figures: "loss" (mean an utterance), "wer_ctc" and "wer_las" where there is the head,
    and "wer", the one that chooses checkpoints: the speller's if there is one.

    texts: id -> reference. An utterance without audio counts as an empty hypothesis. With units of
    a lexicon, words are units. Returns {} if `stopped()` became true.
    """
    device = next(model.parameters()).device
    heads = [n for n, there in (("ctc", model.has_ctc), ("las", model.has_speller)) if there]
    found: dict[str, dict[str, str]] = {head: {} for head in heads}
    total, count = 0.0, 0
    model.eval()
    for batch in batches:
        if stopped():
            return {}
        if not batch.ids:
            continue
        tensors = batch.tensors(device)
        losses = model.losses(**tensors)["total"]
        finite = losses.isfinite()  # inf: too short for CTC
        total, count = total + float(losses[finite].sum()), count + int(finite.sum())
        states, lengths = model.encode(tensors["samples"], tensors["lengths"])
        for head in heads:
            rows = (
                ctc.greedy(model.ctc_log_probs(states), lengths)
                if head == "ctc"
                else speller_greedy(model.speller, states, lengths, model.frame_shift)  # type: ignore[arg-type]
            )
            found[head].update(zip(batch.ids, map(tokenizer.decode, rows), strict=True))
    decoded_units = tokenizer.type == "lexicon"
    references = [
        tokenizer.decode(tokenizer.encode(text)) if decoded_units else tokenizer.normalizer(text)
        for text in texts.values()
    ]
    figures = {"loss": total / max(count, 1)}
    for head in heads:
        figures[f"wer_{head}"] = wer(references, [found[head].get(id, "") for id in texts])
    figures["wer"] = figures[f"wer_{heads[-1]}"]
    return figures
