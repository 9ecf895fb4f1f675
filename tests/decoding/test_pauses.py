"""Pauses: made ones to the step, and the ones between joined recordings of real speech."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from asr.data.audio import load
from asr.data.manifest import Manifest
from asr.decoding.align import Pauses
from asr.hypothesis import Word

RATE = 8000
Run = Callable[..., subprocess.CompletedProcess[str]]


def sound(*spans: tuple[float, float], seconds: float = 3.0) -> np.ndarray:
    """Quiet noise, loud in `spans`."""
    samples = np.random.default_rng(0).normal(0, 0.001, round(seconds * RATE))
    for start, end in spans:
        samples[round(start * RATE) : round(end * RATE)] *= 100
    return samples.astype(np.float32)


def test_words_move_to_the_pauses() -> None:
    pauses = Pauses(sound((0.5, 1.0), (1.4, 2.2)), RATE)
    words = [Word("one", 0.0, 0.95), Word("two", 0.96, 2.1)]
    pauses.place(words, [0.8, 1.7])  # "two" begins long before it is said
    times = [time for word in words for time in (word.start, word.end)]
    assert times == pytest.approx([0.5, 1.0, 1.4, 2.2], abs=0.011)


@pytest.mark.parametrize(
    "spans",
    [
        [(0.0, 3.0)],  # no pause at all
        [(0.0, 1.2), (1.26, 3.0)],  # as short as a closure
        [],  # noise only
    ],
)
def test_without_a_pause_the_times_remain(spans: list[tuple[float, float]]) -> None:
    words = [Word("one", 0.1, 1.1), Word("two", 1.2, 2.9)]
    Pauses(sound(*spans), RATE).place(words, [0.9, 2.0])
    assert words == [Word("one", 0.1, 1.1), Word("two", 1.2, 2.9)]


def test_shorter_than_a_step_or_without_words() -> None:
    pauses = Pauses(np.zeros(10, np.float32), RATE)
    assert pauses.between(0.0, 1.0) is None
    pauses.place([], [])


def test_real_digits(asr_data: Path, tmp_path: Path, run_asr: Run) -> None:
    """Times as CTC gives them, starts right after the word before, become those of the joins."""
    counts = ("--count", "train=40", "--count", "dev=4", "--count", "test=4", "--count", "unseen=4")
    done = run_asr("prepare", "fsdd", asr_data / "fsdd", "-o", tmp_path, "--strings", "4", *counts)
    assert done.returncode == 0, done.stderr
    starts, ends, before = [], [], []
    for utterance in Manifest.open(tmp_path / "manifest.train-strings.jsonl"):
        truth = utterance.extra["parts"]
        limits = [0.0, *(0.2 * part["start"] + 0.8 * part["end"] for part in truth)]
        words = [
            Word(part["word"], *span) for part, span in zip(truth, pairwise(limits), strict=True)
        ]
        before += [word.start - part["start"] for word, part in zip(words, truth, strict=True)]
        Pauses(load(utterance, RATE), RATE).place(
            words, [0.4 * part["start"] + 0.6 * part["end"] for part in truth]
        )
        starts += [word.start - part["start"] for word, part in zip(words, truth, strict=True)]
        ends += [word.end - part["end"] for word, part in zip(words, truth, strict=True)]
    assert np.median(np.abs(before)) > 0.1
    assert np.median(np.abs(starts)) <= 0.04
    assert np.median(np.abs(ends)) <= 0.08
