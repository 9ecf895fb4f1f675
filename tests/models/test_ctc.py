"""The CTC loss against enumeration of all alignments."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from asr.models.ctc import CTCHead, ctc_loss, greedy, min_frames


def collapse(path: tuple[int, ...]) -> list[int]:
    """Repeats merged, blanks dropped."""
    return [token for token, _ in itertools.groupby(path) if token != 0]


def enumerated(log_probs: Tensor, tokens: list[int]) -> Tensor:
    """-log of the sum over all alignments (T, V) whose collapse is `tokens`."""
    frames, vocabulary = log_probs.shape
    paths = [
        sum(log_probs[t, token] for t, token in enumerate(path))
        for path in itertools.product(range(vocabulary), repeat=frames)
        if collapse(path) == tokens
    ]
    return -torch.logsumexp(torch.stack(paths), 0) if paths else torch.tensor(torch.inf)


def test_loss_is_the_sum_over_alignments() -> None:
    torch.manual_seed(0)
    cases = [
        ([2, 1], 4),
        ([2, 2], 5),
        ([1], 1),
        ([], 3),
        ([3, 3], 2),
        ([1, 2, 1], 3),
        ([2, 2, 2], 4),
    ]
    lengths = torch.tensor([frames for _, frames in cases])
    log_probs = torch.randn(len(cases), 5, 4, dtype=torch.float64).log_softmax(2)
    tokens = torch.zeros(len(cases), 3, dtype=torch.long)
    for row, (sequence, _) in enumerate(cases):
        tokens[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
    token_lengths = torch.tensor([len(sequence) for sequence, _ in cases])
    loss = ctc_loss(log_probs, lengths, tokens, token_lengths)
    for row, (sequence, frames) in enumerate(cases):
        expected = enumerated(log_probs[row, :frames], sequence).double()
        torch.testing.assert_close(loss[row], expected, atol=1e-12, rtol=0)
        assert torch.isfinite(loss[row]) == (min_frames(sequence) <= frames)


def test_gradient_is_the_numerical_one() -> None:
    torch.manual_seed(1)
    scores = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    lengths, token_lengths = torch.tensor([5, 4, 2]), torch.tensor([2, 3, 1])
    tokens = torch.tensor([[2, 2, 0], [1, 3, 2], [3, 0, 0]])

    def loss(scores: Tensor) -> Tensor:
        return ctc_loss(scores.log_softmax(2), lengths, tokens, token_lengths)

    assert torch.autograd.gradcheck(loss, (scores,))


def test_an_impossible_utterance_is_inf_and_harmless() -> None:
    torch.manual_seed(2)
    scores = torch.randn(2, 3, 4, requires_grad=True)
    tokens, token_lengths = torch.tensor([[2, 2], [2, 3]]), torch.tensor([2, 2])
    loss = ctc_loss(scores.log_softmax(2), torch.tensor([2, 3]), tokens, token_lengths)
    assert loss[0] == torch.inf
    loss.sum().backward()
    assert scores.grad is not None
    assert scores.grad[0].abs().max() == 0
    assert scores.grad[1].abs().max() > 0
    assert torch.isfinite(scores.grad).all()


def test_padding_has_no_gradient() -> None:
    torch.manual_seed(3)
    scores = torch.randn(1, 6, 4, requires_grad=True)
    ctc_loss(
        scores.log_softmax(2), torch.tensor([4]), torch.tensor([[2, 3, 0]]), torch.tensor([2])
    ).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 4:].abs().max() == 0


def test_min_frames_is_the_least_that_has_an_alignment() -> None:
    for length in range(4):
        for tokens in itertools.product([1, 2], repeat=length):
            least = next(
                frames
                for frames in range(8)
                if any(
                    collapse(path) == list(tokens)
                    for path in itertools.product(range(3), repeat=frames)
                )
            )
            assert min_frames(list(tokens)) == least


def test_greedy_collapses_the_best_path() -> None:
    torch.manual_seed(4)
    log_probs = torch.randn(5, 30, 4).log_softmax(2)
    lengths = torch.tensor([30, 17, 1, 2, 29])
    rows = greedy(log_probs, lengths)
    for row, length, result in zip(log_probs, lengths.tolist(), rows, strict=True):
        allowed = row[:length].clone()
        allowed[:, 1] = -torch.inf
        assert result == collapse(tuple(allowed.argmax(1).tolist()))


def test_head_is_a_distribution() -> None:
    head = CTCHead(3, 5)
    log_probs = head(torch.randn(2, 4, 3))
    torch.testing.assert_close(log_probs.exp().sum(2), torch.ones(2, 4))


@pytest.mark.parametrize("vocabulary", [2, 3])
def test_all_texts_together_have_probability_1(vocabulary: int) -> None:
    torch.manual_seed(5)
    log_probs = torch.randn(1, 4, vocabulary, dtype=torch.float64).log_softmax(2)
    total = 0.0
    for length in range(5):
        for tokens in itertools.product(range(1, vocabulary), repeat=length):
            loss = ctc_loss(
                log_probs, torch.tensor([4]), torch.tensor([tokens]).long(), torch.tensor([length])
            )
            total += float(torch.exp(-loss))
    assert total == pytest.approx(1.0, abs=1e-12)
