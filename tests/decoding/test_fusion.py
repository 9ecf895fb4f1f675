"""Language model scores token by token against KenLM's of the whole sentence."""

from __future__ import annotations

import numpy as np
import pytest

from asr.decoding.fusion import FNV_START, Fusion
from asr.decoding.fusion_steps import look_ahead, spell
from asr.decoding.options import SearchOptions
from asr.errors import InputError
from asr.hypothesis import Weights

PIECES = {
    "|": ["<blank>", "<unk>", "|", "a", "b", "é"],
    "space": ["<blank>", " ", "a", "b", "é"],
    "▁": ["<blank>", "<unk>", "▁", "▁a", "a", "b", "é", "▁bé"],
}
WORDS = ["a", "b", "ab", "bé", "éa", "bab"]


def words_of(text: list[str]) -> list[str]:
    return "".join(text).replace("|", " ").replace("▁", " ").split()


@pytest.mark.parametrize("kind", PIECES)
def test_sentence_scores_equal_kenlm(kind, random_lm) -> None:
    rng = np.random.default_rng(len(kind))
    pieces = PIECES[kind]
    names = [p.replace(" ", "|") for p in pieces]
    token = random_lm([p for p in names if p[0] != "<"][1:], "token", rng)
    word = random_lm(WORDS, "word", rng)
    weights = Weights(lm={"t": 0.3, "w": 0.6}, bonus=0.7, unk=-2.5)
    fusion = Fusion(pieces, {"t": token.lm, "w": word.lm}, weights)
    usable = np.flatnonzero(fusion.arrays.allowed)
    count, length = 40, 7
    sentences = rng.choice(usable, (count, length))
    states = fusion.begin(count)
    raw = np.zeros((2, count))
    words, unknown, weighted = np.zeros(count, int), np.zeros(count, int), np.zeros(count)
    for column in sentences.T:
        every, ahead = fusion.score_all(*states)
        states, gain = fusion.take(*states, column)
        raw += [gain.token, gain.word]
        words += gain.length
        unknown += gain.unknown
        weighted += gain.weighted
        assert every[np.arange(count), column] == pytest.approx(gain.weighted, abs=1e-5)
        assert np.isneginf(every[:, ~fusion.arrays.allowed][:, 1:]).all()
        assert not every[:, 0].any()
        after = [look_ahead(fusion.arrays, h) for h in states.hash]
        assert ahead[np.arange(count), column] == pytest.approx(after)
    end = fusion.finish_all(*states)
    for n, sentence in enumerate(sentences):
        text = [pieces[t] for t in sentence]
        assert fusion.inventory.text(sentence.tolist()) == " ".join(words_of(text))
        in_tokens = token.score([names[t] for t in sentence])
        in_words, letters = word.score(words_of(text)), word.unknown(words_of(text))
        assert raw[0, n] + end.token[n] == pytest.approx(in_tokens, abs=1e-4)
        assert raw[1, n] + end.word[n] == pytest.approx(in_words, abs=1e-4)
        assert words[n] + end.length[n] == len(words_of(text))
        assert unknown[n] + end.unknown[n] == letters
        total = 0.3 * in_tokens + 0.6 * in_words + 0.7 * len(words_of(text)) - 2.5 * letters
        assert weighted[n] + end.weighted[n] == pytest.approx(total, abs=1e-4)


def test_length_counts_tokens_only_where_every_lm_is_of_tokens(random_lm) -> None:
    rng = np.random.default_rng(0)
    token = random_lm(["|", "a"], "token", rng).lm
    word = random_lm(["a"], "word", rng).lm
    pieces, sentence = ["<blank>", "|", "a"], [2, 1, 2, 2]
    for lms, expected in (
        ({}, 2),
        ({"t": token}, 4),
        ({"w": word}, 2),
        ({"t": token, "w": word}, 2),
    ):
        fusion = Fusion(pieces, lms, Weights(bonus=1.5))
        states, length, weighted = fusion.begin(1), 0, 0.0
        for t in sentence:
            states, gain = fusion.take(*states, np.array([t]))
            length, weighted = length + gain.length[0], weighted + gain.weighted[0]
        end = fusion.finish_all(*states)
        assert length + end.length[0] == expected
        assert weighted + end.weighted[0] == pytest.approx(1.5 * expected)


def test_look_ahead_is_the_best_word_with_that_beginning(random_lm) -> None:
    model = random_lm(WORDS, "word", np.random.default_rng(4))
    unigrams = {w: model.lm.arrays.logprob[model.lm.id(w)] for w in WORDS}
    unknown = 0.5 * model.lm.arrays.logprob[0]
    fusion = Fusion(PIECES["|"], {"w": model.lm}, Weights(lm={"w": 0.5}, bonus=2.0, unk=-0.2))
    assert look_ahead(fusion.arrays, FNV_START) == 0.0
    for beginning in ("a", "b", "ba", "bab", "é", "éa", "bb", "aba"):
        h, counted = FNV_START, 0
        for byte in beginning.encode():
            h, letters = spell(fusion.arrays.prefixes, np.uint64(h), np.uint8(byte))
            counted += letters
        best = [0.5 * p for w, p in unigrams.items() if w.startswith(beginning)]
        assert counted == (0 if best else len(beginning))
        expected = max([unknown - 0.2 * (len(beginning) - counted), *best]) + 2.0
        assert look_ahead(fusion.arrays, np.uint64(h)) == pytest.approx(expected, abs=1e-6)


def test_mistakes_are_named(random_lm) -> None:
    rng = np.random.default_rng(0)
    one, two = (random_lm(["a"], "word", rng).lm for _ in range(2))
    with pytest.raises(InputError, match="x and y are both language models of words"):
        Fusion(["<blank>", "a"], {"x": one, "y": two})
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=rf"x'? is {weight}"):
            Fusion(["<blank>", "a"], {"x": one}, Weights(lm={"x": weight}))
    with pytest.raises(InputError, match=r"none of its 1 words \(a, \.\.\.\) can be output.*case"):
        Fusion(["<blank>", "|", "A"], {"x": one})
    some = random_lm(["a", "A"], "word", rng).lm
    Fusion(["<blank>", "|", "A"], {"x": some})
    for number in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(InputError, match=f"length bonus is {number}"):
            Fusion(["<blank>", "a"], {"x": one}, Weights(bonus=number))
        with pytest.raises(InputError, match=f"penalty of unknown words is {number}"):
            Fusion(["<blank>", "a"], {"x": one}, Weights(unk=number))
    with pytest.raises(InputError, match=r"unknown words is 0\.5, above 0.*give 0 or less"):
        Fusion(["<blank>", "a"], {"x": one}, Weights(unk=0.5))


def test_the_threshold_widens_with_heavy_language_models_only() -> None:
    options = SearchOptions(beam_threshold=10.0)
    for weights, expected in (
        (Weights(ctc=1.0), 10.0),
        (Weights(ctc=0.3, att=0.7, lm={"w": 2.0}), 10.0),
        (Weights(ctc=0.3, att=0.7, lm={"t": 1.0, "w": 6.0}), 30.0),
        (Weights(ctc=0.5, lm={"w": 2.0}), 20.0),
    ):
        assert Fusion(["<blank>", "a"], weights=weights).threshold(options) == pytest.approx(
            expected
        )
