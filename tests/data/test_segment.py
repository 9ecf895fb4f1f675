"""Segments of recordings made of bursts of noise, whose pauses are known, and of real ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from asr.data.audio import read_blocks
from asr.data.manifest import Manifest
from asr.data.segment import (
    LONGEST,
    MARGIN,
    OVERLAP,
    Place,
    Samples,
    Segment,
    beginning,
    segments,
)

RATE = 8000


def recording(seed: int, bursts: int, noise: float) -> tuple[Samples, list[tuple[int, int]]]:
    """Bursts of 0.2 to 3 s at levels 30 dB apart, pauses of 0.02 to 4 s, and where they are."""
    draw = np.random.default_rng(seed)
    parts, spans, now = [], [], 0
    for _ in range(bursts):
        pause, size = draw.integers(160, 4 * RATE), draw.integers(1600, 3 * RATE)
        level = 10 ** draw.uniform(-2.5, -1)
        parts += [np.zeros(pause), level * draw.standard_normal(size)]
        spans.append((now + pause, now + pause + size))
        now += pause + size
    samples = np.concatenate([*parts, np.zeros(RATE)])
    samples += noise * draw.standard_normal(len(samples))
    return samples.astype(np.float32), spans


def test_digital_silence_is_no_speech_whatever_a_detector_says() -> None:
    def everything(samples: Samples, rate: int) -> NDArray[np.bool_]:
        return np.ones(-(-len(samples) // (rate // 100)), np.bool_)

    assert not list(segments([np.zeros(30 * RATE, np.float32)], RATE, vad=everything))


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_amid_digital_silence_a_recording_is_the_same_segment_wherever_it_stands(
    noise: float,
) -> None:
    """Else the model's frames fall elsewhere, and with them the text."""
    draw = np.random.default_rng(8)
    alone, parts, begins, now = list[Segment](), list[Samples](), list[int](), 0
    for _ in range(100):
        size = int(draw.integers(RATE // 2, 3 * RATE))
        edge = int(draw.integers(1, RATE // 100))  # of loudening and fading
        swell = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / edge)
        voiced = draw.standard_normal(size) * swell * 10 ** draw.uniform(-1.5, -1)
        samples = (voiced + noise * draw.standard_normal(size)).astype(np.float32)
        alone += segments([samples], RATE)
        pause = np.zeros(int(draw.uniform(0.2, 2) * RATE), np.float32)
        parts, begins = [*parts, samples, pause], [*begins, now]
        now += len(samples) + len(pause)
    assert len(alone) == len(begins)
    joined = list(segments([np.concatenate(parts)], RATE))
    assert [one.start for one in joined] == [
        begin + one.start for begin, one in zip(begins, alone, strict=True)
    ]
    for one, other in zip(alone, joined, strict=True):
        assert np.array_equal(one.samples, other.samples)


@pytest.mark.parametrize("noise", [0.0, 1e-5, 3e-4])
def test_all_speech_is_in_exactly_one_segment(noise: float) -> None:
    samples, spans = recording(1, 300, noise)
    found = list(segments([samples], RATE))
    for segment in found:
        assert np.array_equal(segment.samples, samples[segment.start :][: len(segment.samples)])
        assert len(segment.samples) <= (LONGEST + MARGIN) * RATE
    edges = [(one.start, one.start + len(one.samples), one.overlaps) for one in found]
    for (_, end, _), (start, _, overlaps) in pairwise(edges):
        assert start >= end - (OVERLAP * RATE if overlaps else 0)
    covered = np.zeros(len(samples), int)
    for start, end, _ in edges:
        covered[start:end] += 1
    for start, end in spans:
        assert covered[start + 160 : end - 160].min() >= 1  # frames of 10 ms blur the edges
    cut = sum(b.start - a.start - len(a.samples) > 0 for a, b in pairwise(found))
    assert cut > 100  # long pauses are left out


def test_blocks_and_places_change_nothing() -> None:
    samples, _ = recording(2, 60, 1e-4)
    whole = list(segments([samples], RATE))
    draw = np.random.default_rng(0)
    blocks = np.split(samples, np.sort(draw.integers(0, len(samples), 50)))
    assert same(list(segments(blocks, RATE)), whole)
    for number in (0, 7, len(whole) - 1):
        place = whole[number].after
        rest = segments([samples[beginning(place, RATE) :]], RATE, place=place)
        assert same(list(rest), whole[number + 1 :])


def test_steady_noise_is_no_speech_however_long() -> None:
    draw = np.random.default_rng(5)
    samples = 1e-3 * draw.standard_normal(200 * RATE)
    assert not list(segments([samples.astype(np.float32)], RATE))
    samples[100 * RATE : 101 * RATE] += 0.05 * draw.standard_normal(RATE)
    (found,) = segments([samples.astype(np.float32)], RATE)
    assert abs(found.start - (100 - MARGIN) * RATE) < 0.04 * RATE
    assert len(found.samples) == pytest.approx((1 + 2 * MARGIN) * RATE, abs=0.08 * RATE)


def test_noise_behind_the_last_word_is_no_speech() -> None:
    draw = np.random.default_rng(4)
    for _ in range(50):
        before, size, after = (int(RATE * s) for s in draw.uniform([0, 0.3, 0.2], [2, 2, 9]))
        samples = draw.standard_normal(before + size + after) * 10 ** draw.uniform(-3.7, -2.5)
        samples[before : before + size] += 0.05 * draw.standard_normal(size)
        (found,) = segments([samples.astype(np.float32)], RATE)
        assert abs(found.start - max(0, before - MARGIN * RATE)) <= 0.04 * RATE
        end = min(len(samples), before + size + MARGIN * RATE)
        assert abs(found.start + len(found.samples) - end) <= 0.04 * RATE


def same(one: list[Segment], other: list[Segment]) -> bool:
    def plain(found: list[Segment]) -> list[tuple[int, bool, Place, bytes]]:
        return [(s.start, s.overlaps, s.after, s.samples.tobytes()) for s in found]

    return plain(one) == plain(other)


def test_without_a_pause() -> None:
    """Segments overlap, or without overlap meet where it is quietest."""
    samples = np.random.default_rng(3).standard_normal(100 * RATE).astype(np.float32) * 0.1
    samples *= 10 ** (0.5 * np.sin(np.arange(len(samples)) * (2 * np.pi * 5 / RATE)))  # syllables
    found = list(segments([samples], RATE))
    assert [one.overlaps for one in found] == [False] + [True] * (len(found) - 1)
    for left, right in pairwise(found):
        overlap = left.start + len(left.samples) - right.start
        assert overlap == pytest.approx(OVERLAP * RATE, abs=5)  # edges may be trimmed
    quiet = slice(18 * RATE + 200, 18 * RATE + 600)  # where a syllable is loudest
    samples[quiet] *= 0.05
    found = list(segments([samples], RATE, overlap=0))
    assert quiet.start <= len(found[0].samples) <= quiet.stop
    assert sum(len(one.samples) for one in found) == pytest.approx(len(samples), abs=5 * len(found))


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(3), np.zeros(99_999)])
def test_silence(samples: Samples) -> None:
    assert list(segments([samples.astype(np.float32)], RATE)) == []


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_brief_recording_is_all_speech(noise: float) -> None:
    draw = np.random.default_rng(4)
    samples = (noise * draw.standard_normal(round(0.3 * RATE))).astype(np.float32)
    found = list(segments([samples], RATE))
    assert [len(one.samples) for one in found] == [len(samples)] * (noise > 0)


def test_real_recordings_are_parted(asr_data: Path) -> None:
    """Each recording in a segment or several of its own, where zeros lie between them."""
    manifest = Manifest.open(asr_data / "arctic-kathleen" / "manifest.test.jsonl")
    now, blocks, borders = 0, [], []
    for number in range(40):
        utterance = manifest[number]
        path = utterance.folder / utterance.audio
        samples = np.concatenate([*read_blocks(path, RATE, 0), np.zeros(RATE // 2)])
        blocks.append(samples.astype(np.float32))
        now += len(samples)
        borders.append(now - RATE // 4)
    found = list(segments(blocks, RATE))
    assert 40 <= len(found) <= 70
    for one in found:
        middle = one.start + len(one.samples) / 2
        begin = max([0, *(border for border in borders if border < middle)])
        end = min(border for border in borders if border > middle)
        assert begin <= one.start
        assert one.start + len(one.samples) <= end
