"""The search with a lexicon against brute force over all alignments, spellings and texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from enumeration import alignments, bonuses, emissions

from asr.decoding import lexicon_tree
from asr.decoding.align import Pauses
from asr.decoding.ctc_search import begin, finish, search, search_batch, step
from asr.decoding.hotwords import HotWords
from asr.decoding.lexicon_search import LexiconFusion, place_words
from asr.decoding.options import EXHAUSTIVE, SearchOptions
from asr.errors import InputError
from asr.hypothesis import Hypothesis, Weights
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
            -rng.uniform(0, 1.5),
        )
        lms = {"w": model.lm} if model else {}
        known = list(lexicon)
        phrases = {
            " ".join(rng.choice(known, rng.integers(1, 4))): rng.uniform(-1, 3) for _ in range(3)
        }
        hot = HotWords(phrases) if rng.random() < 0.5 else None
        fusion = LexiconFusion(Lexicon(lexicon, pieces), pieces, lms, weights, hot)
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
                    lm, unknown = model.score(words), model.unknown(words)
                    assert h.scores["lm"]["w"] == pytest.approx(lm, abs=2e-5)
                    assert h.scores["unknown"] == unknown
                    total += weights.lm["w"] * lm + weights.unk * unknown
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


@pytest.fixture
def spoken(random_lm) -> tuple[list[np.ndarray], LexiconFusion]:
    """Utterances of 40 to 200 frames, words with several spellings, an LM and hot words."""
    rng = np.random.default_rng(3)
    tokens = ["<blank>", "|", *"abcdefgh"]
    lexicon: Spellings = {}
    for _ in range(60):
        word = "".join(rng.choice(tokens[2:], rng.integers(1, 5)))
        other = tuple(rng.choice(tokens[2:], 2).tolist())
        lexicon[word] = [(0.7, ()), (0.3, other)] if rng.random() < 0.3 else [(1.0, ())]
    words = list(lexicon)
    lms = {"w": random_lm(words[5:], "word", rng, 4).lm}
    weights = Weights(ctc=1.0, lm={"w": 0.4}, bonus=0.5, unk=-0.2)
    hot = HotWords({words[0]: 2.0, f"{words[1]} {words[2]}": 3.0})
    fusion = LexiconFusion(Lexicon(lexicon, tokens), tokens, lms, weights, hot)
    return [emissions(int(n), len(tokens), rng, 3.0) for n in rng.integers(40, 200, 8)], fusion


def same(a: Sequence[Hypothesis], b: Sequence[Hypothesis]) -> bool:
    return [(h.text, h.tokens, h.scores, h.frames) for h in a] == [
        (h.text, h.tokens, h.scores, h.frames) for h in b
    ]


@pytest.mark.parametrize("nbest", [1, 5])
def test_chunks_threads_and_growing_change_nothing(spoken, nbest: int, monkeypatch) -> None:
    batch, fusion = spoken
    rng, options = np.random.default_rng(0), SearchOptions(nbest=nbest)
    expected = search_batch(batch, fusion, options, 1)
    assert all(map(same, search_batch(batch, fusion, options, 4), expected))
    monkeypatch.setattr(lexicon_tree, "ROOM", 2)
    monkeypatch.setattr(lexicon_tree, "HISTORIES_ROOM", 2)
    for log_probs, whole in zip(batch, expected, strict=True):
        running = begin(fusion, options)
        for chunk in np.split(log_probs, np.sort(rng.integers(0, len(log_probs), 6))):
            step(running, chunk)
            finish(running)  # a look at the hypotheses so far disturbs nothing
        assert same(finish(running), whole)


@pytest.mark.parametrize("nbest", [1, 5])
def test_searches_with_arrays_of_others_equal_those_with_new_ones(
    spoken, nbest: int, monkeypatch
) -> None:
    batch, fusion = spoken
    options = SearchOptions(nbest=nbest, beam=20, beam_threshold=6.0)
    expected = []
    for log_probs in batch:
        fusion._spare.clear()
        expected.append(search(log_probs, fusion, options))
    monkeypatch.setattr(lexicon_tree, "HISTORIES_ROOM", 16)  # outgrown, and kept as they are then
    fusion._spare.clear()
    for number in np.random.default_rng(nbest).integers(0, len(batch), 60):
        assert same(search(batch[number], fusion, options), expected[number])
        search(batch[number], fusion, SearchOptions(beam=5))  # leaves arrays of another size
        assert same(search(batch[number], fusion, options), expected[number])
    assert len(fusion._spare[0][1].word) > 16


def test_weight_zero_equals_no_lm_and_the_order_of_tokens_does_not_matter(spoken) -> None:
    batch, full = spoken
    lexicon: Spellings = {word: [(1.0, ())] for word in full.lexicon.words}
    order = np.concatenate([[0], 1 + np.random.default_rng(5).permutation(9)])
    shuffled = [full.tokens[i] for i in order]
    weights = Weights(ctc=1.0, lm={"w": 0.0}, bonus=0.5)
    without, silent, moved = (
        LexiconFusion(Lexicon(lexicon, tokens), tokens, lms, weights)
        for tokens, lms in ((full.tokens, {}), (full.tokens, full.lms), (shuffled, {}))
    )
    for log_probs in batch:
        a = search(log_probs, without, SearchOptions(nbest=5))
        b = search(log_probs, silent, SearchOptions(nbest=5))
        c = search(log_probs[:, order], moved, SearchOptions(nbest=5))
        assert [(h.text, h.total) for h in a] == [(h.text, h.total) for h in b]
        assert [h.text for h in a] == [h.text for h in c]
        assert [h.total for h in a] == pytest.approx([h.total for h in c], abs=1e-9)
        merged = [search(log_probs, f, SearchOptions(beam=4)) for f in (without, silent)]
        assert len({(found[0].text, found[0].total) for found in merged}) == 1
        score = full.lms["w"].score(merged[1][0].text.split())
        assert merged[1][0].scores["lm"]["w"] == pytest.approx(score)


def test_look_ahead_prunes_only_and_thresholds_lose_little(spoken) -> None:
    batch, fusion = spoken
    nodes, arcs, ends = (records.copy() for records in fusion.model[:3])
    nodes["ahead"], arcs["gain"], ends["gain"] = 1.0, 1.0, fusion.lexicon.trie.prob
    flat = fusion.model._replace(nodes=nodes, arcs=arcs, ends=ends)
    wide = SearchOptions(beam=1000, beam_threshold=50, token_threshold=50)
    all_texts = replace(EXHAUSTIVE, nbest=100)
    for log_probs in batch:
        short = search(log_probs[:3], fusion, all_texts)
        model, fusion.model = fusion.model, flat
        assert same(search(log_probs[:3], fusion, all_texts), short)
        fusion.model = model
        best = search(log_probs, fusion, wide)[0].total
        total = search(log_probs, fusion, SearchOptions(beam=100))[0].total
        assert best - 0.02 * abs(best) <= total


def test_a_heavy_language_model_loses_less_by_its_wider_threshold(spoken, monkeypatch) -> None:
    batch, light = spoken
    heavy = Weights(ctc=1.0, lm={"w": 6.0}, bonus=0.5)
    fusion = LexiconFusion(light.lexicon, light.tokens, light.lms, heavy)
    wide = SearchOptions(beam=1000, beam_threshold=1e9, token_threshold=50)
    best = sum(search(log_probs, fusion, wide)[0].total for log_probs in batch)
    lost = best - sum(search(log_probs, fusion, SearchOptions())[0].total for log_probs in batch)
    monkeypatch.setattr(LexiconFusion, "threshold", lambda self, options: options.beam_threshold)
    plain = best - sum(search(log_probs, fusion, SearchOptions())[0].total for log_probs in batch)
    assert 0 <= lost < 0.5 * plain


def test_words_that_the_lexicon_lacks_are_looked_at_twice() -> None:
    tokens = ["<blank>", "|", *"abcdefgh"]
    rng = np.random.default_rng(0)
    said = ["".join(rng.choice(tokens[2:], rng.integers(3, 7))) for _ in range(200)]
    lexicon: Spellings = {word: [(1.0, ())] for word in said[20:]}
    fusion = LexiconFusion(Lexicon(lexicon, tokens), tokens)
    narrow = SearchOptions(beam=8, beam_threshold=4.0, token_threshold=5.0)
    wide = SearchOptions(beam=1000, beam_threshold=1e9, token_threshold=1e9, blank_skip=1.0)
    lost = {False: 0.0, True: 0.0}
    for number in range(20):
        words = [*rng.choice(said[20:], 4).tolist(), said[number]]
        spelt = [tokens.index(letter) for letter in "|".join(rng.permutation(words).tolist())]
        peaks = np.zeros((len(spelt), 2, len(tokens)))
        peaks[np.arange(len(spelt)), 0, spelt] = peaks[:, 1, 0] = 8
        logits = peaks.reshape(-1, len(tokens)) + rng.normal(size=(2 * len(spelt), len(tokens)))
        log_probs = (logits - np.logaddexp.reduce(logits, 1, keepdims=True)).astype(np.float32)
        best = search(log_probs, fusion, wide)[0].total
        for second in lost:
            running = begin(fusion, narrow)
            if not second:
                running.looks = (running.looks[0],) * 2
                running.arrays = lexicon_tree.new_arrays(running.looks, fusion)
            step(running, log_probs)
            lost[second] += best - finish(running)[0].total
    assert lost[True] < 0.1 * lost[False]


def test_words_have_times_and_the_last_needs_no_boundary() -> None:
    tokens = ["<blank>", "|", "a", "b"]
    log_probs = np.full((8, 4), 1e-3, np.float32)
    log_probs[np.arange(8), [2, 2, 3, 0, 1, 3, 3, 0]] = 1 - 3e-3
    lexicon: Spellings = {"ab": [(1.0, ())], "bee": [(1.0, ("b",))]}
    fusion = LexiconFusion(Lexicon(lexicon, tokens), tokens)
    (h,) = search(np.log(log_probs), fusion, SearchOptions(), 0.5)
    assert (h.text, h.tokens, h.scores["length"]) == ("ab bee", [2, 3, 1, 3], 2)
    assert [(w.word, w.start, w.end) for w in h.words] == [("ab", 0, 1.5), ("bee", 2.5, 3.5)]
    (empty,) = search(np.zeros((0, 4)), fusion, SearchOptions(), 0.5)
    assert (empty.text, empty.tokens, empty.scores["ctc"]) == ("", [], 0.0)
    recorded = Pauses(np.zeros(8 * 800, np.float32), 1600)
    recorded.known = {(0.0, 1.0): None, (1.5, 3.0): (1.7, 2.4), (3.5, 4.0): (3.6, 4.0)}
    place_words(h, 0.5, recorded)  # asked for the gaps up to each word's last token
    assert [(w.start, w.end) for w in h.words] == [(0, 1.7), (2.4, 3.6)]
    log_probs[:2, [0, 1, 3]] = 1e-30
    cut_off = search(np.log(log_probs[:2]), fusion, SearchOptions())
    assert [h.text for h in cut_off] == [""]  # "a" is no word


@pytest.mark.parametrize("bonus", [300.0, 1e4])
def test_bonuses_beyond_what_numbers_hold(spoken, bonus: float) -> None:
    """The most words that fit, or the hot word wherever it fits, are better than all else."""
    batch, full = spoken
    lexicon = full.lexicon
    few = LexiconFusion(lexicon, full.tokens, full.lms, Weights(lm={"w": 0.4}, ctc=1.0))
    many = LexiconFusion(lexicon, full.tokens, full.lms, replace(full.weights, bonus=bonus))
    word = max(lexicon.words, key=len)
    hot = LexiconFusion(lexicon, full.tokens, full.lms, full.weights, HotWords({word: bonus}))
    for log_probs in batch:
        found = [search(log_probs, f, SearchOptions())[0] for f in (few, many, hot)]
        assert len(found[1].text.split()) > len(found[0].text.split())
        assert word in found[2].text.split()
        assert all(np.isfinite(h.total) for h in found)


def test_what_cannot_be_spelt_is_named(tmp_path, random_lm) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text("ab\nba b a\nax\nbb 0.5 b b |\nq a q\n", encoding="utf-8")
    tokens = ["<blank>", "|", "a", "b"]
    with pytest.raises(InputError, match=rf"2 of its spellings.*{path}:3: ax; {path}:5: q a q"):
        Lexicon(path, tokens)
    path.write_text("ab\nba b a\nbb 0.5 b b |\n", encoding="utf-8")
    lexicon = Lexicon(path, tokens)
    assert lexicon.words == ["ab", "ba", "bb"]
    lm = random_lm(["ab", "zz", "bb", "yy"], "word", np.random.default_rng(0)).lm
    fusion = LexiconFusion(lexicon, tokens, {"w": lm}, Weights(ctc=1.0, lm={"w": 1.0}))
    assert fusion.missing() == ["yy", "zz"]
    with pytest.raises(InputError, match="cannot be made of the tokens"):
        Lexicon({"ab": [(1.0, ("a", "b"))]}, ["<blank>", "▁a", "b", "a"])  # no boundary before it
    twice = Lexicon({"ab": [(0.3, ("a", "b")), (0.7, ("a", "b"))]}, tokens)
    assert twice.trie.prob.tolist() == [0.7]
    path.write_text("\ufeffab\n", encoding="utf-8")
    assert Lexicon(path, tokens).words == ["ab"]
    with pytest.raises(InputError, match="no words"):
        Lexicon({}, tokens)
    with pytest.raises(InputError, match="probability 0 is not in"):
        Lexicon({"a": [(0.0, ())]}, tokens)
    token_lm = random_lm(["|", "a"], "token", np.random.default_rng(0)).lm
    with pytest.raises(InputError, match="no language model of tokens"):
        LexiconFusion(lexicon, tokens, {"t": token_lm})
    with pytest.raises(InputError, match="beam"):
        SearchOptions(beam=0)
