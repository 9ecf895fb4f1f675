"""CTC prefix scores against the enumeration of all alignments."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from asr.decoding.ctc_prefix import IMPOSSIBLE, CTCPrefix


def enumerated(log_probs: np.ndarray, prefix: tuple[int, ...], whole: bool) -> float:
    """log Σ over the alignments whose text is `prefix`, or begins with it; log_probs (T, V)."""
    total = -math.inf
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = tuple(token for token, _ in itertools.groupby(path) if token)
        if (text if whole else text[: len(prefix)]) == prefix:
            total = np.logaddexp(total, log_probs[np.arange(len(path)), list(path)].sum())
    return max(total, IMPOSSIBLE)


@pytest.mark.parametrize("seed", range(8))
def test_equals_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = np.array([5, 3, 1])
    probs = rng.dirichlet(np.full(4, 0.5), (3, 5)) + 1e-6
    log_probs = np.log(probs / probs.sum(2, keepdims=True))
    scorer = CTCPrefix(log_probs, lengths)
    states = scorer.begin(np.arange(3))
    prefixes: list[tuple[int, ...]] = [(), (), ()]
    for _ in range(4):
        scores, _ = scorer.score_all(states)
        for b, prefix in enumerate(prefixes):
            frames = log_probs[b, : lengths[b]]
            expected = [enumerated(frames, prefix, True)]
            expected += [enumerated(frames, (*prefix, token), False) for token in range(1, 4)]
            assert scores[b] == pytest.approx(expected, abs=1e-9)
        rows, tokens = rng.permutation(3), rng.integers(1, 4, 3)
        states = scorer.take(states, rows, tokens)
        prefixes = [(*prefixes[row], int(t)) for row, t in zip(rows, tokens, strict=True)]
        order = np.argsort(rows)  # utterances back in their places
        states = type(states)(*(part[order] for part in states))
        prefixes = [prefixes[i] for i in order]


def test_reach_is_where_the_next_token_may_begin() -> None:
    """Token 1 is said in frames 10-11, token 2 in frame 30; between them there is blank."""
    probs = np.full((40, 3), 1e-6)
    probs[:, 0] = 1.0
    probs[10:12] = [1e-6, 1.0, 1e-6]
    probs[30] = [1e-6, 1e-6, 1.0]
    log_probs = np.log(probs / probs.sum(1, keepdims=True))[None]
    scorer = CTCPrefix(log_probs, np.array([40]))
    states = scorer.begin(np.array([0]))
    _, reach = scorer.score_all(states)
    assert reach.tolist() == [[0, 10]]
    states = scorer.take(states, np.array([0]), np.array([1]))
    assert scorer.score_all(states)[1].tolist() == [[11, 30]]
