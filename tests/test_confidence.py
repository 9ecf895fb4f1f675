"""Confidences against enumeration, jiwer's alignment and the exact formulas."""

from __future__ import annotations

import math

import jiwer
import numpy as np
import pytest

from asr.confidence import (
    Calibration,
    annotate,
    fit,
    matches,
    normalised_cross_entropy,
    posterior,
    reliability,
)
from asr.hypothesis import Hypothesis, Word

WORDS = ["one", "two", "three"]


def random_list(rng: np.random.Generator, size: int) -> list[Hypothesis]:
    hypotheses = []
    for _ in range(size):
        words = rng.choice(WORDS, rng.integers(1, 6)).tolist()
        timed = [Word(word, i, i + 1.0, 0.5) for i, word in enumerate(words)]
        scores = {"total": float(rng.normal(0, 3))}
        hypotheses.append(Hypothesis(" ".join(words), [], scores, timed))
    return sorted(hypotheses, key=lambda h: -h.total)


def test_confidence_is_the_mass_of_the_hypotheses_with_the_word() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        nbest = random_list(rng, int(rng.integers(1, 8)))
        annotate(nbest, Calibration(temperature=1.7, known=0.9))
        mass = [math.exp(h.total / 1.7) for h in nbest]
        for i, word in enumerate(nbest[0].words):
            having = 0.0
            for share, other in zip(mass, nbest, strict=True):
                [chunks] = jiwer.process_words(nbest[0].text, other.text).alignments
                having += share * any(
                    c.type == "equal" and c.ref_start_idx <= i < c.ref_end_idx for c in chunks
                )
            assert word.confidence == pytest.approx(0.9 * having / sum(mass), abs=1e-4)
        assert all(word.confidence is None for other in nbest[1:] for word in other.words)


def test_a_list_far_below_zero_has_a_posterior() -> None:
    shares = posterior(np.array([-9000.0, -9001.0, -30000.0]), 1.0)
    assert shares == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0])


def test_normalised_cross_entropy_is_that_of_nist() -> None:
    said = [0.9, 0.8, 0.3, 0.6]
    right = [True, True, False, False]
    base = -(2 * math.log2(2 / 4) + 2 * math.log2(1 - 2 / 4))
    own = -(math.log2(0.9) + math.log2(0.8) + math.log2(1 - 0.3) + math.log2(1 - 0.6))
    found = normalised_cross_entropy(np.array(said), np.array(right))
    assert found == pytest.approx((base - own) / base)
    mean = np.full(5, 0.4)
    assert normalised_cross_entropy(mean, np.array([1, 0, 0, 1, 0], bool)) == pytest.approx(0)
    assert normalised_cross_entropy(mean, np.ones(5, bool)) is None
    assert normalised_cross_entropy(np.ones(4), np.array(right)) < -5  # sure, and wrong: finite


def planted(
    rng: np.random.Generator, count: int, temperature: float, known: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lists whose truth is drawn from the posterior, or, seldom, lies outside of the list."""
    lists = []
    for _ in range(count):
        totals = np.sort(rng.normal(0, 6, 8))[::-1]
        texts = [" ".join(rng.choice(WORDS, 4)) for _ in totals]
        said = texts[rng.choice(8, p=posterior(totals, temperature))]
        right = matches(texts[0].split(), [said])[0] & (rng.random(4) < known)
        lists.append((totals, matches(texts[0].split(), texts), right))
    return lists


def test_planted_calibration_is_found_and_is_worth_something() -> None:
    rng = np.random.default_rng(3)
    found = fit(planted(rng, 1500, temperature=4.0, known=0.9))
    assert found.temperature == pytest.approx(4.0, rel=0.15)
    assert found.known == pytest.approx(0.9, abs=0.02)
    others = planted(rng, 500, temperature=4.0, known=0.9)

    def worth(temperature: float, known: float) -> float:
        said = [known * (posterior(t, temperature) @ has) for t, has, _ in others]
        right = np.concatenate([right for _, _, right in others])
        return normalised_cross_entropy(np.concatenate(said), right) or 0.0

    assert worth(found.temperature, found.known) > max(0.05, worth(1.0, 0.99))
    said = np.concatenate([found.known * (posterior(t, 4.0) @ has) for t, has, _ in others])
    curve = reliability(said, np.concatenate([right for _, _, right in others]))
    assert sum(words for _, _, words in curve) == 2000
    for confidence, correct, words in curve:
        assert correct == pytest.approx(confidence, abs=3.5 * 0.5 / math.sqrt(words))


def test_nothing_to_fit() -> None:
    assert fit([]) == Calibration()
    sure = [(np.zeros(1), np.ones((1, 3), bool), np.ones(3, bool))]
    assert fit(sure).known <= 4 / 5  # three correct words do not prove that all are
