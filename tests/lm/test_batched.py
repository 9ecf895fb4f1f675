from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.lm import ngram
from asr.lm.batched import BatchedNGram
from asr.lm.ngram import NGram

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU"))]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_equals_the_loops(tmp_path: Path, random_arpa: Callable, device: str) -> None:
    """Every word after every state of 60 random models, and numbers that are none."""
    rng = np.random.default_rng(11)
    path = tmp_path / "random.arpa"
    for _ in range(60):
        order = int(rng.integers(1, 7))
        model = NGram.open(random_arpa(rng, order, bool(rng.integers(2))).write(path), "word")
        batched = BatchedNGram(model, device)
        a = model.arrays
        states = torch.arange(-2, len(a.backoff) + 2, device=device)
        words = torch.arange(-2, batched.words + 2, device=device)
        logprob, following = batched.advance(states[:, None], words)
        ends = batched.final(states)
        for i, state in enumerate(states.tolist()):
            expected = [ngram.advance(a, state, word)[:2] for word in words.tolist()]
            assert logprob[i].tolist() == [p for p, _ in expected]
            assert following[i].tolist() == [after for _, after in expected]
            assert ends[i].item() == model.final(state)
        assert batched.start == model.start()
