"""The CTC search against brute force over all alignments and texts, with KenLM's scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from enumeration import alignments, emissions

from asr.decoding import ctc_search, prefix_beam, prefix_tree
from asr.decoding.ctc_search import begin, finish, greedy, search, search_batch, step
from asr.decoding.fusion import Fusion
from asr.decoding.fusion_steps import look_ahead
from asr.decoding.options import EXHAUSTIVE, SearchOptions
from asr.errors import InputError
from asr.hypothesis import Hypothesis, Weights
from asr.lm.ngram import NGram

CHARACTERS = ["<blank>", "|", "a", "b"]
SUBWORDS = ["<blank>", "<unk>", "▁a", "b", "▁", "a"]  # "▁a" and "▁", "a" spell the same
NO_UNK_AT_1 = ["<blank>", "b", " ", "a", "<unk>"]
WORDS = ["a", "b", "ab", "ba", "abb"]


def words_of(pieces: Sequence[str]) -> list[str]:
    return "".join(pieces).replace("|", " ").replace("▁", " ").split()


def sums(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """log Σ over all alignments of every token sequence."""
    paths, sequences, place = alignments(*log_probs.shape)
    each = log_probs.astype(np.float64)[np.arange(len(log_probs)), paths].sum(1)
    return dict(zip(sequences, np.log(np.bincount(place, np.exp(each))), strict=True))


def brute_force(
    log_probs: np.ndarray, pieces: list[str], score: Callable[[list[str]], dict[str, float]]
) -> list[tuple[str, dict[str, float]]]:
    """(text, scores) of the best token sequence of every text, best first."""
    best: dict[str, dict[str, float]] = {}
    for tokens, logp in sums(log_probs).items():
        spelt = [pieces[t] for t in tokens]
        if "<unk>" in spelt:
            continue
        scores = {"ctc": logp, **score(spelt)}
        scores["total"] += scores["w_ctc"] * logp
        text = " ".join(words_of(spelt))
        if text not in best or scores["total"] > best[text]["total"]:
            best[text] = scores
    return sorted(best.items(), key=lambda item: -item[1]["total"])


@pytest.mark.parametrize("kinds", [(), ("token",), ("word",), ("token", "word")], ids=str)
@pytest.mark.parametrize("pieces", [CHARACTERS, SUBWORDS, NO_UNK_AT_1], ids=["|", "▁", "space"])
def test_equals_brute_force(pieces, kinds, random_lm) -> None:
    rng = np.random.default_rng(len(pieces) + 10 * len(kinds))
    spelt = [p.replace(" ", "|") for p in pieces if p[0] != "<"]
    for case in range(30):
        frames = int(rng.integers(1, 5 if len(pieces) > 4 else 6))
        log_probs = emissions(frames, len(pieces), rng)
        inventory = {"token": spelt[case % 2 :], "word": WORDS[case % 3 :]}  # some are unknown
        models = {kind: random_lm(inventory[kind], kind, rng) for kind in kinds}
        weights = Weights(
            ctc=rng.uniform(0.5, 1.5),
            lm={kind: rng.uniform(0, 1.5) for kind in kinds},
            bonus=rng.uniform(-1, 2),
            unk=-rng.uniform(0, 1.5),
        )

        def score(text: list[str], models=models, weights=weights) -> dict:
            words, raw = words_of(text), {"w_ctc": weights.ctc}
            if "token" in models:
                raw["token"] = models["token"].score([p.replace(" ", "|") for p in text])
            if "word" in models:
                raw["word"] = models["word"].score(words)
                raw["unknown"] = models["word"].unknown(words)
            raw["length"] = len(text) if set(models) == {"token"} else len(words)
            raw["total"] = weights.bonus * raw["length"] + weights.unk * raw.get("unknown", 0)
            raw["total"] += sum(weights.lm[kind] * raw[kind] for kind in models)
            return raw

        fusion = Fusion(pieces, {k: m.lm for k, m in models.items()}, weights)
        expected = brute_force(log_probs, pieces, score)
        found = search(log_probs, fusion, replace(EXHAUSTIVE, nbest=len(expected)))
        assert len({h.text for h in found}) == len(found) == len(expected)
        for hypothesis, (_, scores) in zip(found, expected, strict=True):
            assert hypothesis.total == pytest.approx(scores["total"], abs=2e-5)
            assert hypothesis.rate(weights) == hypothesis.total
        by_text = dict(expected)
        for hypothesis in found:  # near-ties may change places, so by text
            scores = by_text[hypothesis.text]
            assert hypothesis.total == pytest.approx(scores["total"], abs=2e-5)
            spelling = [pieces[t] for t in hypothesis.tokens]
            own = score(spelling)
            assert hypothesis.scores["length"] == own["length"]
            assert hypothesis.scores.get("unknown") == own.get("unknown")
            for kind in kinds:
                assert hypothesis.scores["lm"][kind] == pytest.approx(own[kind], abs=2e-5)


def test_scores_are_sums_over_all_alignments_in_a_narrow_beam() -> None:
    rng = np.random.default_rng(1)
    fusion = Fusion(CHARACTERS)
    for _ in range(50):
        log_probs = emissions(5, 4, rng)
        expected = sums(log_probs)
        for hypothesis in search(log_probs, fusion, SearchOptions(beam=3, nbest=3)):
            exact = expected[tuple(hypothesis.tokens)]
            assert hypothesis.scores["ctc"] == pytest.approx(exact, abs=1e-6)


def plain_search(log_probs: np.ndarray, fusion: Fusion, beam: int) -> float:
    """Prefix beam search with dictionaries and logarithms: the best total, by its definition."""
    states = {(): fusion.begin(1)}
    score = {(): 0.0}
    hypotheses = {(): (0.0, -math.inf)}
    for row in log_probs.astype(float):
        new: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, token) in hypotheses.items():
            both = np.logaddexp(blank, token)
            entry = new.setdefault(prefix, [-math.inf, -math.inf])
            entry[0] = np.logaddexp(entry[0], both + row[0])
            if prefix:
                entry[1] = np.logaddexp(entry[1], token + row[prefix[-1]])
            for v in np.flatnonzero(fusion.arrays.allowed):
                longer = (*prefix, int(v))
                if longer not in states:
                    states[longer], gain = fusion.take(*states[prefix], np.array([v]))
                    score[longer] = score[prefix] + gain.weighted[0]
                entry = new.setdefault(longer, [-math.inf, -math.inf])
                mass = blank if prefix and prefix[-1] == v else both
                entry[1] = np.logaddexp(entry[1], mass + row[v])

        def rate(prefix: tuple[int, ...], new=new) -> float:
            ahead = look_ahead(fusion.arrays, states[prefix].hash[0])
            return fusion.weights.ctc * np.logaddexp(*new[prefix]) + score[prefix] + ahead

        best = sorted(new, key=rate, reverse=True)[:beam]
        hypotheses = {prefix: (new[prefix][0], new[prefix][1]) for prefix in best}
    return max(
        fusion.weights.ctc * np.logaddexp(*mass)
        + score[prefix]
        + fusion.finish_all(*states[prefix]).weighted[0]
        for prefix, mass in hypotheses.items()
    )


@pytest.mark.parametrize("beam", [2, 5, 12])
def test_pruning_by_the_beam_is_exact(beam, random_lm) -> None:
    """Skipping look-ups of what cannot enter the beam changes nothing."""
    rng = np.random.default_rng(beam)
    options = replace(EXHAUSTIVE, beam=beam)
    for bonus in (-0.5, 0.0, 1.0, 2.0):
        lms = {
            "token": random_lm(CHARACTERS[1:], "token", rng).lm,
            "word": random_lm(WORDS, "word", rng).lm,
        }
        weights = Weights(ctc=1.0, lm={"token": 0.5, "word": 0.7}, bonus=bonus, unk=-0.4)
        fusion = Fusion(CHARACTERS, lms, weights)
        for _ in range(5):
            log_probs = emissions(25, 4, rng)
            running = begin(fusion, options)
            step(running, log_probs)
            found = prefix_beam.new_found(running.limits, np.array([25]), beam)
            running.run(np.zeros((0, 4), np.float32), np.array([0, 0]), found)
            totals = found.totals[found.order[: found.counts[0]]]
            assert (np.diff(totals) <= 0).all()
            assert totals[0] == pytest.approx(plain_search(log_probs, fusion, beam), abs=1e-6)


def alphabet(size: int = 10) -> list[str]:
    return ["<blank>", "|", *(chr(ord("a") + i) for i in range(size - 2))]


@pytest.fixture
def spoken(random_lm) -> tuple[list[np.ndarray], Fusion]:
    """Utterances of 40 to 200 frames, and both language models."""
    rng = np.random.default_rng(3)
    tokens = alphabet()
    words = ["".join(rng.choice(tokens[2:], rng.integers(1, 5))) for _ in range(30)]
    lms = {
        "token": random_lm(tokens[1:], "token", rng).lm,
        "word": random_lm(words, "word", rng).lm,
    }
    weights = Weights(ctc=1.0, lm={"token": 0.4, "word": 0.3}, bonus=0.5, unk=-0.2)
    fusion = Fusion(tokens, lms, weights)
    return [emissions(int(n), len(tokens), rng, 3.0) for n in rng.integers(40, 200, 8)], fusion


def same(a: Sequence[Hypothesis], b: Sequence[Hypothesis]) -> bool:
    return [(h.text, h.tokens, h.scores, h.frames) for h in a] == [
        (h.text, h.tokens, h.scores, h.frames) for h in b
    ]


def test_chunks_equal_the_whole(spoken) -> None:
    batch, fusion = spoken
    rng = np.random.default_rng(0)
    options = SearchOptions(nbest=5)
    for log_probs in (log_probs.astype(np.float32) for log_probs in batch):
        running, whole = begin(fusion, options), search(log_probs, fusion, options)
        for chunk in np.split(log_probs, np.sort(rng.integers(0, len(log_probs), 6))):
            step(running, chunk)
            chunk[:] = np.nan  # the array is the caller's, who may fill it again
            finish(running)  # a look at the hypotheses so far disturbs nothing
        assert same(finish(running), whole)


def test_growing_the_tree_changes_nothing(spoken, monkeypatch) -> None:
    batch, fusion = spoken
    options = SearchOptions(beam=10, nbest=5, beam_threshold=math.inf, token_threshold=math.inf)
    expected = [search(log_probs, fusion, options) for log_probs in batch]
    monkeypatch.setattr(prefix_tree, "NODES", 2)
    fresh = Fusion(fusion.tokens, fusion.lms, fusion.weights)  # without arrays of a search before
    for log_probs, nbest in zip(batch, expected, strict=True):
        running = begin(fresh, options)
        assert len(running.arrays.parent) == 2
        step(running, log_probs)
        assert len(running.arrays.parent) > 500
        assert same(finish(running), nbest)


@pytest.mark.parametrize("nbest", [1, 3])
@pytest.mark.parametrize("nodes", [2, 4096])
def test_threads_and_groups_equal_one(spoken, monkeypatch, nbest, nodes) -> None:
    """Also where the tree has to grow amid a group, and where large utterances make it small."""
    batch, fusion = spoken[0] * 4, spoken[1]
    options = SearchOptions(nbest=nbest)
    one = [search(log_probs, fusion, options) for log_probs in batch]
    monkeypatch.setattr(prefix_tree, "NODES", nodes)
    for given, threads in ((batch, 1), (batch, 4), (iter(batch), 1), (iter(batch), 4)):
        fresh = Fusion(fusion.tokens, fusion.lms, fusion.weights)
        found = search_batch(given, fresh, options, threads)
        assert all(same(a, b) for a, b in zip(found, one, strict=True))
    for most in (1, 3000, 10**9):  # of an utterance 400 to 2000 values
        monkeypatch.setattr(ctc_search, "LARGE", most)
        numbered, found = enumerate(batch), []
        while group := ctc_search._take(numbered, 5):
            fresh = Fusion(fusion.tokens, fusion.lms, fusion.weights)
            found += ctc_search.search_group([*group.values()], fresh, options, None)
            assert most > 1 or len(group) == 1
        assert all(same(a, b) for a, b in zip(found, one, strict=True))


def test_weight_zero_equals_no_language_model(spoken) -> None:
    batch, fusion = spoken
    without = Fusion(fusion.tokens, weights=Weights(ctc=1.0, bonus=0.5))
    zero = Weights(ctc=1.0, lm={"token": 0.0, "word": 0.0}, bonus=0.5)
    silent = Fusion(fusion.tokens, fusion.lms, zero)
    for log_probs, options in product(batch, (SearchOptions(beam=4), SearchOptions(nbest=5))):
        a, b = (search(log_probs, f, options) for f in (without, silent))
        assert [(h.text, h.total) for h in a] == [(h.text, h.total) for h in b]
        expected = fusion.lms["word"].score(b[0].text.split())
        assert b[0].scores["lm"]["word"] == pytest.approx(expected)


def test_order_of_tokens_does_not_matter(spoken) -> None:
    batch, fusion = spoken
    order = np.concatenate([[0], 1 + np.random.default_rng(5).permutation(9)])
    shuffled = Fusion([fusion.tokens[i] for i in order], fusion.lms, fusion.weights)
    for log_probs in batch:
        a = search(log_probs, fusion, SearchOptions(nbest=5))
        b = search(log_probs[:, order], shuffled, SearchOptions(nbest=5))
        assert [h.text for h in a] == [h.text for h in b]
        assert [h.total for h in a] == pytest.approx([h.total for h in b], abs=1e-9)


def test_default_thresholds_lose_little(spoken) -> None:
    batch, fusion = spoken
    wide = replace(EXHAUSTIVE, beam=5000)
    for log_probs in batch:
        total = search(log_probs, fusion, SearchOptions())[0].total
        best = search(log_probs, fusion, wide)[0].total
        assert best - 0.02 * abs(best) <= total <= best + 1e-9


def test_prefixes_that_go_on_alike_are_merged(spoken) -> None:
    """The beam of one text sees further than that of several, and what it finds is no worse."""
    batch, fusion = spoken
    narrow = SearchOptions(beam=4)
    one = [search(log_probs, fusion, narrow)[0].total for log_probs in batch]
    many = [search(log_probs, fusion, replace(narrow, nbest=2))[0].total for log_probs in batch]
    assert sum(one) > sum(many)


def test_blank_frames_are_skipped_without_changing_the_text(spoken) -> None:
    batch, fusion = spoken
    blank = np.full((1, 10), np.log(1e-6 / 9), np.float32)
    blank[0, 0] = np.log1p(-1e-6)
    for log_probs in batch:
        padded = np.insert(log_probs, np.repeat([5, 20], 50), blank, axis=0)
        skipping = search(padded, fusion, SearchOptions())[0]
        working = search(padded, fusion, SearchOptions(blank_skip=1.0))[0]
        assert (skipping.text, skipping.scores) == (working.text, working.scores)


def test_greedy_and_beam_one() -> None:
    fusion = Fusion(["<blank>", "<unk>", "a", "|", "b"])
    best = [2, 2, 0, 2, 3, 4, 4, 1, 0]  # the frame of <unk> has "b" as its second
    log_probs = np.full((9, 5), 0.05, np.float32)
    log_probs[np.arange(9), best] = 0.8
    log_probs[7] = [0.05, 0.5, 0.05, 0.05, 0.35]
    log_probs = np.log(log_probs / log_probs.sum(1, keepdims=True))
    hypothesis = greedy(log_probs, fusion, frame_shift=0.5)
    assert hypothesis.text == "aa b"
    assert [(w.word, w.start, w.end) for w in hypothesis.words] == [("aa", 0, 2), ("b", 2.5, 4)]
    assert search(log_probs, fusion, SearchOptions(beam=1), 0.5) == [hypothesis]


@pytest.mark.parametrize("word", WORDS)
def test_a_heavy_language_model_does_not_mislead(tmp_path, word) -> None:
    """What it charges for the first letter of a word is more than the threshold."""
    lines = ["\\data\\", f"ngram 1={len(WORDS) + 3}", f"ngram 2={2 * len(WORDS)}", "", "\\1-grams:"]
    lines += ["-5\t<unk>", "-99\t<s>\t0", "-5\t</s>", *(f"-1\t{w}\t0" for w in WORDS)]
    lines += ["", "\\2-grams:", *(f"-0.7\t<s> {w}" for w in WORDS)]
    lines += [*(f"-0.01\t{w} </s>" for w in WORDS), "", "\\end\\", ""]
    path = tmp_path / "one.arpa"
    path.write_text("\n".join(lines))
    fusion = Fusion(CHARACTERS, {"w": NGram.open(path, "word")}, Weights(ctc=1.0, lm={"w": 12.0}))
    probs = np.full((2 * len(word), 4), 1e-4)
    probs[::2, 0] = 0.9997
    probs[np.arange(1, len(probs), 2), [CHARACTERS.index(letter) for letter in word]] = 0.9997
    found = search(np.log(probs), fusion, SearchOptions())[0]
    best = search(np.log(probs), fusion, EXHAUSTIVE)[0]
    assert (found.text, best.text, found.total) == (word, word, pytest.approx(best.total))


def test_no_frames_give_the_empty_text(random_lm) -> None:
    model = random_lm(WORDS, "word", np.random.default_rng(0))
    fusion = Fusion(CHARACTERS, {"w": model.lm}, Weights(ctc=1.0, lm={"w": 2.0}))
    (hypothesis,) = search(np.zeros((0, 4)), fusion, SearchOptions(nbest=3))
    assert (hypothesis.text, hypothesis.tokens, hypothesis.scores["length"]) == ("", [], 0)
    assert hypothesis.scores["lm"]["w"] == pytest.approx(model.score([]), abs=1e-5)
    assert search(np.zeros((0, 4)), Fusion(CHARACTERS), SearchOptions(beam=1))[0].text == ""


def test_impossible_tokens_do_not_harm() -> None:
    log_probs = np.full((4, 4), -np.inf, np.float32)
    log_probs[[0, 1, 2, 3], [2, 2, 0, 2]] = 0.0
    (hypothesis,) = search(log_probs, Fusion(CHARACTERS), SearchOptions(nbest=2))
    assert (hypothesis.text, hypothesis.scores["ctc"]) == ("aa", 0.0)


BAD = {
    "sum": (np.log(np.full((3, 4), 0.2)), "sum to 0.8"),
    "nan": (np.full((3, 4), np.nan), "NaN or infinity"),
    "inf": (np.full((3, 4), np.inf), "NaN or infinity"),
    "logits": (np.full((3, 4), 700.0), "sum to 1.509e"),
    "shape": (np.log(np.full((3, 5), 0.2)), "4 tokens"),
    "one dimension": (np.log(np.full(4, 0.25)), "shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_outputs_are_named(name) -> None:
    log_probs, message = BAD[name]
    good = np.log(np.full((3, 4), 0.25))
    with pytest.raises(InputError, match=message):
        search(log_probs, Fusion(CHARACTERS), SearchOptions())
    with pytest.raises(InputError, match=f"utterance 1.*{message}"):
        search_batch([good, log_probs], Fusion(CHARACTERS), SearchOptions())


def test_a_bad_frame_is_named() -> None:
    log_probs = np.log(np.full((9, 4), 0.25))
    log_probs[6, 2] = np.nan
    with pytest.raises(InputError, match="frame 6"):
        search(log_probs, Fusion(CHARACTERS), SearchOptions())


def test_a_frame_of_nothing_but_unknown_is_named() -> None:
    log_probs = np.full((2, 3), -np.inf)
    log_probs[:, 1] = 0.0
    with pytest.raises(InputError, match=r"frame 0.*never output"):
        search(log_probs, Fusion(["<blank>", "<unk>", "a"]), SearchOptions())


@pytest.mark.parametrize(
    "settings",
    [{"beam": 0}, {"nbest": 0}, {"tokens_per_frame": 0}, {"beam_threshold": math.nan}],
    ids=str,
)
def test_impossible_options_are_refused(settings) -> None:
    with pytest.raises(InputError, match="must be"):
        SearchOptions(**settings)


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(InputError, match="weight of the CTC score"):
        begin(Fusion(CHARACTERS, weights=Weights(att=1.0)), SearchOptions())
    with pytest.raises(InputError, match="threads"):
        search_batch([], Fusion(CHARACTERS), SearchOptions(), 0)
