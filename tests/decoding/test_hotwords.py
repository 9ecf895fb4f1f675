"""Hot words: occurrences counted by brute force, in the automaton and in the open search."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from enumeration import bonuses

import asr
from asr.decoding.ctc_search import search
from asr.decoding.fusion import Fusion
from asr.decoding.hotwords import DEFAULT_BONUS, HotWords, read_word
from asr.decoding.options import EXHAUSTIVE
from asr.decoding.trellis import align
from asr.errors import InputError
from asr.hypothesis import Weights

INVENTORIES = {"|": ["<blank>", "|", "a", "b"], "▁": ["<blank>", "▁a", "b", "▁", "a"]}


def random_phrases(rng: np.random.Generator) -> dict[str, float]:
    words = ["a", "b", "ab", "ba", "aab", "é"]
    return {
        " ".join(rng.choice(words[:5], rng.integers(1, 4))): float(rng.uniform(-1, 3))
        for _ in range(rng.integers(1, 6))
    }


def test_the_automaton_counts_every_occurrence() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        phrases = random_phrases(rng)
        a = HotWords(phrases).arrays
        text = rng.choice(["a", "b", "ab", "ba", "aab", "é"], rng.integers(0, 9)).tolist()
        state, total = a.start, 0.0
        for word in text:
            letters = np.frombuffer(word.encode(), np.uint8)
            earned, state = read_word(a, state, letters, 0, len(letters))
            total += earned
        assert total == pytest.approx(bonuses(phrases, text))


@pytest.mark.parametrize("name", INVENTORIES)
def test_open_search_with_hot_words_equals_brute_force(name: str, random_lm) -> None:
    rng = np.random.default_rng(len(name))
    pieces = INVENTORIES[name]
    sequences = [
        np.array(tokens, np.int32)
        for length in range(5)
        for tokens in itertools.product(range(1, len(pieces)), repeat=length)
    ]
    flat, begin = np.concatenate(sequences), np.cumsum([0, *map(len, sequences)])
    for case in range(40):
        model = random_lm(["a", "ab", "c"], "word", rng) if case % 2 else None
        phrases = random_phrases(rng)
        weights = Weights(
            rng.uniform(0.5, 1.5), 0.0, {"w": 0.5} if model else {}, rng.uniform(-1, 1), -0.3
        )
        lms = {"w": model.lm} if model else {}
        fusion = Fusion(pieces, lms, weights, HotWords(phrases))
        logits = rng.normal(scale=1.5, size=(4, len(pieces)))
        log_probs = (logits - np.logaddexp.reduce(logits, 1, keepdims=True)).astype(np.float32)
        best: dict[str, float] = {}
        for tokens, ctc in zip(sequences, align(log_probs, flat, begin)[2], strict=True):
            text = fusion.inventory.text(tokens.tolist())
            words = text.split()
            total = weights.ctc * ctc + weights.bonus * len(words) + bonuses(phrases, words)
            if model:
                total += 0.5 * model.score(words) - 0.3 * model.unknown(words)
            best[text] = max(best.get(text, -np.inf), float(total))
        possible = {text: total for text, total in best.items() if total > -np.inf}
        found = search(log_probs, fusion, replace(EXHAUSTIVE, nbest=len(possible)))
        assert {h.text for h in found} == set(possible)
        for h in found:
            assert h.scores["hotwords"] == pytest.approx(bonuses(phrases, h.text.split()))
            assert h.total == pytest.approx(possible[h.text], abs=2e-5)
            assert h.rate(weights) == h.total
        top = search(log_probs, fusion, EXHAUSTIVE)[0]
        assert top.total == pytest.approx(max(possible.values()), abs=2e-5)


def test_a_bonus_brings_a_phrase_out_and_half_of_it_nothing() -> None:
    tokens = ["<blank>", "|", "n", "e", "w", "y"]
    heard = ["n", "e", "w", "|", "y", "e", "w"]
    log_probs = np.full((2 * len(heard), 6), 0.01, np.float32)
    for i, letter in enumerate(heard):
        log_probs[2 * i, tokens.index(letter)] += 0.9
        log_probs[2 * i, 3 if letter == "w" else 4] += 0.05  # "nee yee" is possible too
        log_probs[2 * i + 1, 0] += 0.95
    log_probs = np.log(log_probs / log_probs.sum(1, keepdims=True))
    for phrase, text in (("yee", "new yee"), ("nee yee", "nee yee"), ("nee yew yee", "new yew")):
        decoder = asr.CTCDecoder(tokens, hotwords={phrase: 7.0})
        hypothesis = decoder.decode(log_probs)
        assert hypothesis.text == text
        assert hypothesis.scores["hotwords"] == (7.0 if phrase in text else 0.0)
        closed = asr.CTCDecoder(
            tokens, lexicon={w: [(1.0, [*w])] for w in ("new", "yew", "nee", "yee")},
            hotwords={phrase: 7.0},
        )  # fmt: skip
        assert closed.decode(log_probs).text == text


def test_files_and_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "hot.txt"
    path.write_text("\ufeffNew  York\nparis\t1\nparis\t2.5\n\n", encoding="utf-8")
    assert HotWords(path, str.lower).phrases == {"new york": DEFAULT_BONUS, "paris": 2.5}
    path.write_text("new york\nparis\ttwo\n")
    with pytest.raises(InputError, match="'two' is no number") as error:
        HotWords(path)
    assert error.value.where == f"{path}:2"
    path.write_text("\n")
    with pytest.raises(InputError, match="no phrases"):
        HotWords(path)
    with pytest.raises(InputError, match="cannot be read"):
        HotWords(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"1 of 2 hot words can never be output \('a c'\)"):
        asr.CTCDecoder(["<blank>", "|", "a"], hotwords={"a": 1.0, "a c": 1.0})
    with pytest.raises(InputError, match="Write them in the letters of the tokens"):
        asr.CTCDecoder(["<blank>", "|", "a"], hotwords=["A"])
    with pytest.raises(InputError, match=r"1 of 1 hot words can never be output \('aa'\)"):
        asr.CTCDecoder(["<blank>", "|", "a"], lexicon={"a": [(1.0, ())]}, hotwords={"aa": 1.0})
    with pytest.raises(InputError, match="bonus of 'a' is nan"):
        HotWords({"a": float("nan")})
