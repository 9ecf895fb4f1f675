"""The search with a lexicon against brute force over all alignments, spellings and texts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from asr.decoding.ctc_search import search
from asr.decoding.hotwords import HotWords
from asr.decoding.lexicon_search import LexiconFusion
from asr.decoding.options import EXHAUSTIVE
from asr.hypothesis import Weights
from asr.lm.lexicon import Lexicon

Words = tuple[str, ...]
Spellings = dict[str, list[tuple[float, Words]]]  # () is by letters

INVENTORIES = {
    "|": ["<blank>", "|", "a", "b"],
    "space": ["<blank>", "b", " ", "a", "<unk>"],
    "subwords": ["<blank>", "▁a", "b", "▁", "ab"],  # "ab": `▁a b`, `▁ ab`, `ab` at the start
    "no bare boundary": ["<blank>", "<unk>", "▁a", "b", "▁b"],
    "phones": ["<blank>", "x", "y", "z"],
}
PURE = ("|", " ", "▁")


def emissions(frames: int, size: int, rng: np.random.Generator, scale: float = 1.5) -> np.ndarray:
    logits = rng.normal(scale=scale, size=(frames, size))
    return (logits - np.logaddexp.reduce(logits, 1, keepdims=True)).astype(np.float32)


@cache
def alignments(frames: int, size: int) -> tuple[np.ndarray, list[tuple[int, ...]], np.ndarray]:
    """All paths (P, T), the token sequences they collapse to, and which one each path has."""
    paths = np.array(list(itertools.product(range(size), repeat=frames)))
    collapsed = [tuple(k for k, _ in itertools.groupby(path) if k) for path in paths.tolist()]
    sequences = sorted(set(collapsed))
    place = {tokens: i for i, tokens in enumerate(sequences)}
    return paths, sequences, np.array([place[tokens] for tokens in collapsed])


def spellings(word: str, pieces: Sequence[str]) -> list[Words]:
    """All ways to write the letters; a boundary may be the first piece only."""
    found: list[Words] = []

    def go(rest: str, done: Words) -> None:
        if not rest:
            found.append(done)
        for piece in pieces[1:]:
            text = piece.removeprefix("▁") if not done else piece
            if piece not in (*PURE, "<unk>") and rest.startswith(text):
                go(rest[len(text) :], (*done, piece))

    go(word, ())
    return found


def random_lexicon(pieces: list[str], rng: np.random.Generator) -> Spellings:
    """Words with one to three spellings each, several with the same."""
    usable = [p for p in pieces[1:] if p not in (*PURE, "<unk>")]
    inner = [p for p in usable if p[0] != "▁"]
    begins = [p for p in usable if p[0] == "▁"] if "▁b" in pieces else usable
    lexicon: Spellings = {}
    for word in rng.choice(["a", "b", "ab", "ba", "bb", "abb"], rng.integers(2, 6), False).tolist():
        units: set[Words] = set()
        if rng.random() < 0.5 and spellings(word, pieces):
            units.add(())
        while not units or rng.random() < 0.4:
            units.add((str(rng.choice(begins)), *rng.choice(inner, rng.integers(0, 2)).tolist()))
        weights = rng.uniform(0.1, 1, len(units))
        lexicon[word] = list(zip(weights.tolist(), sorted(units), strict=True))
    return lexicon


def readings(spelt: Words, pieces: list[str], lexicon: Spellings) -> dict[Words, float]:
    """The word sequences that a token sequence can mean, and with which probability."""
    if not any(p in PURE or p[0] == "▁" for p in pieces):  # words follow each other directly
        found = {(): 1.0} if not spelt else {}
        for word, ways in lexicon.items():
            for probability, units in ways:
                if spelt[: len(units)] == units:
                    for rest, p in readings(spelt[len(units) :], pieces, lexicon).items():
                        found[word, *rest] = found.get((word, *rest), 0.0) + probability * p
        return found
    groups: list[Words] = []
    open_word = False
    for piece in spelt:
        if piece in PURE:
            open_word = False
        elif open_word and piece[0] != "▁":
            groups[-1] += (piece,)
        else:
            groups.append((piece,))
            open_word = True
    found = {(): 1.0}
    for group in groups:
        longer: dict[Words, float] = {}
        for word, ways in lexicon.items():
            each = [
                p
                for p, u in ways
                for way in ([u] if u else spellings(word, pieces))
                if way == group
            ]
            for words, p in found.items():
                if each:
                    longer[*words, word] = p * sum(each)
        found = longer
    return found


def bonuses(phrases: dict[str, float], words: Sequence[str]) -> float:
    """Of every place where the words of a phrase stand."""
    total = 0.0
    for phrase, bonus in phrases.items():
        wanted = phrase.split()
        for i in range(len(words) - len(wanted) + 1):
            total += bonus if list(words[i : i + len(wanted)]) == wanted else 0.0
    return total


def brute_force(log_probs: np.ndarray, pieces: list[str], lexicon: Spellings) -> dict[str, float]:
    """log Σ over all alignments and spellings of every text of the lexicon's words."""
    paths, sequences, place = alignments(*log_probs.shape)
    each = log_probs.astype(np.float64)[np.arange(len(log_probs)), paths].sum(1)
    sums: dict[str, float] = {}
    for tokens, p in zip(sequences, np.bincount(place, np.exp(each)).tolist(), strict=True):
        for words, q in readings(tuple(pieces[t] for t in tokens), pieces, lexicon).items():
            sums[" ".join(words)] = sums.get(" ".join(words), 0.0) + p * q
    return {text: math.log(p) for text, p in sums.items()}


@pytest.mark.parametrize("order", [0, 2, 4], ids=["no LM", "bigrams", "4-grams"])
@pytest.mark.parametrize("name", INVENTORIES)
def test_lexicon_search_equals_brute_force(name: str, order: int, random_lm) -> None:
    rng = np.random.default_rng(order + 10 * len(name))
    pieces = INVENTORIES[name]
    for _ in range(40):
        lexicon = random_lexicon(pieces, rng)
        model = random_lm([*list(lexicon)[1:], "c"], "word", rng, order) if order else None
        weights = Weights(
            rng.uniform(0.5, 1.5),
            0.0,
            {"w": rng.uniform(0, 1.5)} if model else {},
            rng.uniform(-1, 2),
        )
        penalty = -rng.uniform(0, 3)
        lms = {"w": model.lm} if model else {}
        known = list(lexicon)
        phrases = {
            " ".join(rng.choice(known, rng.integers(1, 4))): rng.uniform(-1, 3) for _ in range(3)
        }
        hot = HotWords(phrases) if rng.random() < 0.5 else None
        fusion = LexiconFusion(Lexicon(lexicon, pieces), pieces, lms, weights, penalty, hot)
        for frames in (1, 2, 3, 4):
            log_probs = emissions(frames, len(pieces), rng)
            expected = brute_force(log_probs, pieces, lexicon)
            found = search(log_probs, fusion, replace(EXHAUSTIVE, nbest=len(expected) + 1))
            assert {h.text for h in found} == set(expected)
            assert len(found) == len(expected)
            totals = []
            for h in found:
                words = h.text.split()
                total = weights.ctc * expected[h.text] + weights.bonus * len(words)
                if model:
                    lm = model.score(words, penalty)
                    assert h.scores["lm"]["w"] == pytest.approx(lm, abs=2e-5)
                    total += weights.lm["w"] * lm
                if hot:
                    assert h.scores["hotwords"] == pytest.approx(bonuses(phrases, words))
                    total += bonuses(phrases, words)
                assert h.scores["ctc"] == pytest.approx(expected[h.text], abs=1e-6)
                assert h.total == pytest.approx(total, abs=2e-5)
                assert h.rate(weights) == h.total
                spelt = tuple(pieces[t] for t in h.tokens)
                assert tuple(words) in readings(spelt, pieces, lexicon)
                totals.append(total)
            (best,) = search(log_probs, fusion, EXHAUSTIVE)
            assert best.total == pytest.approx(max(totals), abs=2e-5)
