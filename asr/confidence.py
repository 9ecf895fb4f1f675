"""Confidence of words from the posterior of the n-best list.

    P(h) = exp(total_h / T) / Σ_h' exp(total_h' / T)
    confidence(word) = known · Σ_{h with the word at its place} P(h)

Which hypotheses have a word of the best one at its place is read off the minimal edit alignment of
the two texts; times are not compared (Wessel et al. 2001, "Confidence measures for large vocabulary
continuous speech recognition", section III, with text in place of time). The temperature T makes
up for scores of frames that are not independent; `known` is the part of what was said that such
lists hold at all. Both are fitted on a dev set by `asr tune`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.hypothesis import Hypothesis, split_words
from asr.wer import edits

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ENOUGH = 20  # hypotheses of a list that a posterior is taken of, where fewer are asked for
TEMPERATURES = np.geomspace(0.1, 30, 58)
LOGITS = np.linspace(-3, 7, 51)  # of `known`
BINS = 10  # of the reliability curve


@dataclass(frozen=True, slots=True)
class Calibration:
    """How posteriors become confidences; the defaults are for models that have no dev set."""

    temperature: float = 1.0
    known: float = 0.99


UNCALIBRATED = Calibration()


def matches(words: Sequence[str], texts: Iterable[str]) -> Flags:
    """Which of `texts` have which of the `words` at their place: (H, W)."""
    characters = all(len(split_words(word)) == 1 for word in words)  # in scripts without spaces
    units = [split_words(text) if characters else text.split() for text in texts]
    found = np.ones((len(units), len(words)), np.bool_)
    for row, others in zip(found, units, strict=True):
        row[[i for tag, i, _ in edits(words, others) if tag != "insert"]] = False
    return found


def posterior(totals: Floats, temperature: float) -> Floats:
    """P(h) of a list's totals (H,), natural logs."""
    scaled = np.exp((totals - totals.max()) / temperature)
    shares: Floats = scaled / scaled.sum()
    return shares


def enough(nbest: int, beam: int) -> int:
    """Hypotheses to search for where `nbest` are asked for."""
    return max(nbest, min(beam, ENOUGH))


def annotate(nbest: Sequence[Hypothesis], calibration: Calibration) -> None:
    """Give the words of the best hypothesis their confidence, and take it from those of others."""
    for word in (word for other in nbest for word in other.words):
        word.confidence = None
    if not nbest or not (words := nbest[0].words):
        return
    totals = np.array([hypothesis.total for hypothesis in nbest])
    found = matches([word.word for word in words], (other.text for other in nbest))
    shares = calibration.known * (posterior(totals, calibration.temperature) @ found)
    for word, share in zip(words, shares.tolist(), strict=True):
        word.confidence = round(share, 4)


def fit(lists: Sequence[tuple[Floats, Flags, Flags]]) -> Calibration:
    """The calibration with the smallest cross-entropy, over a grid of both numbers.

    lists: of each utterance the totals (H,), the `matches` (H, W) of its best hypothesis' words,
    and which of these are correct (W,). Without any word the default.
    """
    correct = np.concatenate([np.empty(0, np.bool_), *(right for _, _, right in lists)])
    if not len(correct):
        return UNCALIBRATED
    # No finite set shows that all words are known (the rule of succession).
    known = np.minimum(1 / (1 + np.exp(-LOGITS)), (len(correct) + 1) / (len(correct) + 2))
    costs = []
    for temperature in TEMPERATURES:
        shares = np.concatenate([posterior(t, temperature) @ found for t, found, _ in lists])
        costs.append([cross_entropy(share * shares, correct) for share in known])
    t, k = np.unravel_index(np.argmin(costs), (len(TEMPERATURES), len(known)))
    return Calibration(round(float(TEMPERATURES[t]), 4), round(float(known[k]), 4))


def cross_entropy(confidences: Floats, correct: Flags) -> float:
    """Mean of -log2 of what was said of each word (W,), in bits."""
    said = np.where(correct, confidences, 1 - confidences).clip(1e-7, 1)
    return float(-np.log2(said).mean())


def normalised_cross_entropy(confidences: Floats, correct: Flags) -> float | None:
    """(H - H_conf) / H, H the entropy of the share of correct words: 1 perfect, 0 no better than
    one number for all words, negative misleading (NIST; Siu and Gish 1999). None where all words
    are correct, or none."""
    if not 0 < correct.sum() < len(correct):
        return None
    share = np.full(len(correct), correct.mean())
    return 1 - cross_entropy(confidences, correct) / cross_entropy(share, correct)


def reliability(confidences: Floats, correct: Flags) -> list[tuple[float, float, int]]:
    """(mean confidence, share correct, words) of the words in each tenth of the confidences."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    chosen = [bins == b for b in np.unique(bins)]
    return [(float(confidences[c].mean()), float(correct[c].mean()), int(c.sum())) for c in chosen]
