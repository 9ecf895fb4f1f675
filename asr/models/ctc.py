"""The CTC head and its loss (Graves et al. 2006). B utterances, T states, V tokens; blank is 0."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.common import inside


class CTCHead(nn.Module):
    def __init__(self, inputs: int, vocabulary: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, vocabulary)

    def forward(self, states: Tensor) -> Tensor:
        """states (B, T, D) -> natural log-probabilities (B, T, V)."""
        return torch.log_softmax(self.linear(states), 2)


def min_frames(tokens: Sequence[int]) -> int:
    """States CTC needs for the tokens: one each, and a blank between equal neighbours."""
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))


def ctc_loss(log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """-log Σ over alignments of Π p, an utterance (B,): log_probs (B, T, V), tokens (B, U).

    With fewer states than `min_frames` the loss is inf, its gradient 0 (torch's would be NaN).
    """
    given = (log_probs.transpose(0, 1), tokens, lengths, token_lengths)  # (T, B, V), ...
    loss = functional.ctc_loss(*given, reduction="none", zero_infinity=True)
    equal = (tokens[:, 1:] == tokens[:, :-1]) & inside(token_lengths, tokens.shape[1])[:, 1:]
    return loss.masked_fill(lengths < token_lengths + equal.sum(1), torch.inf)


def greedy(log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
    """The best token at each state, repeats merged, blanks dropped; 1 (unknown) never wins."""
    best = log_probs.index_fill(2, torch.tensor(1, device=log_probs.device), -torch.inf).argmax(2)
    rows = zip(best.cpu(), lengths.tolist(), strict=True)
    merged = (torch.unique_consecutive(row[:length]) for row, length in rows)
    return [row[row != 0].tolist() for row in merged]
