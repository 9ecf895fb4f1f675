"""Greedy decoding against teacher forcing, dev figures against jiwer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jiwer
import pytest
import torch

from asr.commands.train import open_sets
from asr.config import load_experiment
from asr.data.manifest import open_manifests
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.models.speller import SpellerOptions
from asr.text.tokenizer import Tokenizer
from asr.training.distributed import Group
from asr.training.evaluate import TOKENS_PER_SECOND, evaluate, speller_greedy


@pytest.fixture
def recognizer() -> Recognizer:
    torch.manual_seed(2)
    options = RecognizerOptions(8000, 0.5, speller=SpellerOptions(size=24, embedding=12))
    options.frontend.channels, options.encoder.size, options.encoder.layers = 12, 8, 1
    model = Recognizer(options, 6).eval()
    assert model.speller is not None
    model.speller.output.weight.data *= 20  # decided, and different from step to step
    return model


def test_speller_greedy_is_the_best_token_after_its_own_tokens(recognizer: Recognizer) -> None:
    speller = recognizer.speller
    assert speller is not None
    lengths = torch.tensor([40, 25, 33, 12])
    states = torch.randn(4, 40, recognizer.encoder.size, generator=torch.manual_seed(0))
    rows = speller_greedy(speller, states, lengths, 0.04)
    ended = 0
    for row, memory, length in zip(rows, states, lengths.tolist(), strict=True):
        tokens = torch.tensor([row], dtype=torch.long)
        scores = speller(memory[None, :length], torch.tensor([length]), tokens)[0]
        scores[:, 1] = -torch.inf  # unknown is never output
        best = scores.argmax(1).tolist()
        assert best[: len(row)] == row
        if best[len(row)] == 0:
            ended += 1
        else:
            assert len(row) >= length * 0.04 * TOKENS_PER_SECOND
    assert ended
    assert len({tuple(row) for row in rows}) > 1


def test_figures_equal_jiwers(experiment: Callable[..., Path], recognizer: Recognizer) -> None:
    given = load_experiment(experiment("las", epochs=1), ["data.workers=0"])
    texts = [u.text or "" for u in open_manifests(given.data.train)]
    tokenizer = Tokenizer.train("char", texts)
    _, dev, _ = open_sets(given, tokenizer, recognizer)
    figures = evaluate(recognizer, tokenizer, dev.batches(), dev.texts, lambda: False, Group())
    assert figures["wer"] == figures["wer_las"]
    batch = next(dev.batches())
    states, lengths = recognizer.encode(torch.tensor(batch.samples), torch.tensor(batch.lengths))
    rows = recognizer.ctc_log_probs(states).argmax(2).tolist()
    heard = {}
    for name, row, length in zip(batch.ids, rows, lengths.tolist(), strict=True):
        path = [a for a, b in zip(row[:length], [None, *row], strict=False) if a != b]
        heard[name] = tokenizer.decode(path)
    expected = jiwer.wer([dev.texts[i] for i in batch.ids], [heard[i] for i in batch.ids])
    assert len(batch.ids) == len(dev.texts)
    assert figures["wer_ctc"] == pytest.approx(expected)


def test_stop_and_missing_audio(experiment: Callable[..., Path], recognizer: Recognizer) -> None:
    config = experiment("las", epochs=1)
    given = load_experiment(config, ["data.workers=0"])
    tokenizer = Tokenizer.train("char", ["abc"])
    _, dev, _ = open_sets(given, tokenizer, recognizer)
    assert not evaluate(recognizer, tokenizer, dev.batches(), dev.texts, lambda: True, Group())
    for wave in config.parent.glob("dev*.wav"):
        wave.unlink()
    figures = evaluate(recognizer, tokenizer, dev.batches(), dev.texts, lambda: False, Group())
    assert figures["wer"] == 1.0  # nothing heard: all words deleted, none forgotten
