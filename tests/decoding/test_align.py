"""Forced alignment against all paths."""

from __future__ import annotations

import itertools
import resource
from pathlib import Path

import numpy as np
import pytest

from asr.decoding.align import viterbi, word_times
from asr.decoding.inventory import Inventory
from asr.decoding.trellis import align, exponentials, min_frames
from asr.errors import InputError


def emissions(frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    logits = rng.normal(scale=2, size=(frames, size))
    return (logits - np.logaddexp.reduce(logits, 1, keepdims=True)).astype(np.float32)


def paths_of(tokens: list[int], frames: int, size: int) -> list[tuple[int, ...]]:
    return [
        path
        for path in itertools.product(range(size), repeat=frames)
        if [k for k, _ in itertools.groupby(path) if k] == tokens
    ]


def spans(path: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last + 1 frame of each token of a path."""
    found, t = [], 0
    for token, run in itertools.groupby(path):
        length = len(list(run))
        if token:
            found.append((t, t + length))
        t += length
    return found


def test_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    checked = 0
    for _ in range(200):
        frames = int(rng.integers(1, 7))
        log_probs = emissions(frames, 3, rng)
        tokens = rng.integers(1, 3, rng.integers(0, 5)).tolist()
        paths = paths_of(tokens, frames, 3)
        ids, bounds = np.array(tokens, np.int32), np.array([0, len(tokens)])
        assert bool(paths) == (min_frames(ids) <= frames)
        if not paths:
            assert align(log_probs, ids, bounds)[2][0] == -np.inf
            with pytest.raises(InputError, match=f"need at least {min_frames(ids)} frames"):
                viterbi(log_probs, tokens)
            continue
        checked += 1
        scores = [sum(float(log_probs[t, v]) for t, v in enumerate(path)) for path in paths]
        exact = np.logaddexp.reduce(scores)
        assert align(log_probs, ids, bounds)[2][0] == pytest.approx(exact, abs=1e-6)
        best = paths[int(np.argmax(scores))]
        start, end = viterbi(log_probs, tokens)
        assert list(zip(start.tolist(), end.tolist(), strict=True)) == spans(best)
        (_, _, peak), total, _ = align(log_probs, ids, bounds)
        assert total[0] == pytest.approx(max(scores), abs=1e-5)
        for token, (a, b), t in zip(tokens, spans(best), peak.tolist(), strict=True):
            assert log_probs[t, token] == log_probs[a:b, token].max()
            assert a <= t < b
    assert checked > 80


def test_forward_of_many_texts_at_once() -> None:
    rng = np.random.default_rng(1)
    log_probs = emissions(60, 30, rng)
    texts = [rng.integers(1, 30, n).astype(np.int32) for n in (0, 1, 5, 20, 29)]
    bounds = np.cumsum([0, *map(len, texts)])
    together = align(log_probs, np.concatenate(texts), bounds)[2]
    for text, score in zip(texts, together, strict=True):
        assert align(log_probs, text, np.array([0, len(text)]))[2][0] == pytest.approx(score)


def test_long_texts_equal_logarithms_without_windows() -> None:
    """Sharp and dull outputs, texts near to them and far from them; several spots of doubt."""
    rng = np.random.default_rng(2)
    for case in range(40):
        logits = rng.normal(scale=(1, 4, 12, 40)[case % 4], size=(300, 8))
        log_probs = (logits - np.logaddexp.reduce(logits, 1, keepdims=True)).astype(np.float32)
        path = log_probs.argmax(1)
        ids = path[np.diff(path, prepend=0) != 0]
        ids = ids[ids > 0].astype(np.int32)
        ids = np.delete(ids, rng.integers(0, len(ids), (0, 1, 5, 40)[case // 4 % 4]))
        extended = np.zeros(2 * len(ids) + 1, int)
        extended[1::2] = ids
        skip = np.zeros(len(extended), bool)
        skip[3::2] = ids[1:] != ids[:-1]
        for reduce, found in ((np.logaddexp, 2), (np.maximum, 1)):
            alpha = np.full(len(extended), -np.inf)
            alpha[0] = 0.0
            for row in log_probs.astype(float):
                one = np.concatenate([[-np.inf], alpha[:-1]])
                two = np.where(skip, np.concatenate([[-np.inf] * 2, alpha[:-2]]), -np.inf)
                alpha = reduce(reduce(alpha, one), two) + row[extended]
            result = align(log_probs, ids, np.array([0, len(ids)]))
            assert result[found][0] == pytest.approx(reduce(*alpha[-2:]), abs=1e-9, rel=1e-12)
        said = sum(log_probs[a:b, v].sum() for v, a, b in zip(ids, *result[0][:2], strict=True))
        quiet = np.ones(300, bool)
        for a, b in zip(*result[0][:2], strict=True):
            quiet[a:b] = False
        assert said + log_probs[quiet, 0].sum() == pytest.approx(result[1][0], rel=1e-5)


def test_exponentials() -> None:
    x = np.concatenate([np.linspace(-700, 5, 4001), [0.0, -0.0]]).astype(np.float32)
    assert exponentials(x) == pytest.approx(np.exp(x.astype(float)), rel=5e-16)


def test_texts_that_the_network_rules_out_are_still_scored_exactly() -> None:
    """Their probabilities are below what float64 holds: 60 frames of e^-40 each."""
    log_probs = np.full((60, 3), -40.0, np.float32)
    log_probs[:, 0] = 0.0
    ids = np.array([1, 2] * 30, np.int32)
    assert align(log_probs, ids, np.array([0, 60]))[2][0] == pytest.approx(-2400.0)


def test_a_long_wrong_text_takes_little_memory() -> None:
    """A byte for each frame and state would be 16 MB."""
    log_probs = np.full((4000, 3), -40.0, np.float32)
    log_probs[:, 0] = 0.0
    ids = np.array([1, 2] * 1000, np.int32)
    viterbi(log_probs[:60], ids[:60])  # compiles
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 8_000_000, limits[1]))
    try:
        start, end = viterbi(log_probs, ids)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert (end - start == 1).all()  # a frame more of a token costs e^-40
    assert (start[1:] >= end[:-1]).all()


def test_words_exclude_the_boundary_and_take_its_place_in_pieces() -> None:
    pieces = Inventory(["<blank>", "|", "a", "b"])
    path = [1, 0, 2, 2, 0, 3, 0, 1, 1, 0, 3, 0]
    log_probs = np.full((12, 4), -5.0, np.float32)
    log_probs[np.arange(12), path] = -0.02
    words = word_times([1, 2, 3, 1, 3], pieces, log_probs, 0.04)
    assert [(w.word, w.start, w.end) for w in words] == [("ab", 0.08, 0.24), ("b", 0.4, 0.44)]
    words = word_times([1, 2, 3, 1, 3], Inventory(["<blank>", "x", "▁a", "▁"]), log_probs, 1.0)
    assert [(w.word, w.start, w.end) for w in words] == [("x", 0, 1), ("a", 2, 4), ("x", 7, 9)]
    assert word_times([], pieces, np.zeros((0, 4), np.float32), 1.0) == []


def test_no_alignment_of_positive_probability() -> None:
    log_probs = np.full((3, 2), -np.inf, np.float32)
    log_probs[:, 0] = 0.0
    with pytest.raises(InputError, match="probability above zero"):
        viterbi(log_probs, [1])


def test_characters_of_scripts_without_spaces_are_words() -> None:
    start, end = np.array([0, 2, 4, 5, 8]), np.array([2, 4, 5, 8, 9])
    words = Inventory(["一", "会儿", "|", "ok", "a"]).words(range(5), start, end, 0.5)
    assert [(w.word, w.start, w.end) for w in words] == [
        ("一", 0.0, 1.0),
        ("会", 1.0, 1.5),
        ("儿", 1.5, 2.0),
        ("oka", 2.5, 4.5),
    ]


@pytest.mark.parametrize("boundary", ["|", " ", "▁"])
def test_words_are_those_of_the_text(boundary) -> None:
    rng = np.random.default_rng(0)
    inventory = Inventory(["<blank>", boundary, "a", "bc", "▁d"])
    for _ in range(200):
        ids = rng.integers(1, 5, rng.integers(0, 12)).tolist()
        start = np.arange(len(ids)) * 3
        words = inventory.words(ids, start, start + 2, 1.0)
        assert [w.word for w in words] == inventory.text(ids).split()
        letters = [i for i, token in enumerate(ids) if token > 1]
        assert not words or (words[0].start, words[-1].end) == (3 * letters[0], 3 * letters[-1] + 2)
        assert all(a.end <= b.start for a, b in itertools.pairwise(words))
