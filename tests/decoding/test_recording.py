"""Recordings whose words can be read off the samples exactly, and off nothing but whole words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from asr.data import segment
from asr.data.segment import LONGEST, Samples, Stretch, divided, segments
from asr.decoding.recording import (
    Event,
    Journal,
    Part,
    Recording,
    Transcript,
    best_reading,
    decode_recordings,
    part_from,
    stitched_outputs,
)
from asr.errors import AudioError
from asr.hypothesis import Hypothesis, Word

RATE = 1000
SCALE = 20_000  # word n is a square wave of the height (n + 2000) / SCALE


def spoken(words: int, gap: tuple[float, float] | list[float], seed: int) -> Samples:
    """Word 0, 1, 2, ..., each 0.2 to 0.6 s long, with gaps of so many seconds between them: drawn
    between two numbers, or those of a list, again and again."""
    draw = np.random.default_rng(seed)
    parts = [np.zeros(0)]
    for word in range(words):
        square = np.tile([1.0, -1.0], draw.integers(100, 300)) * (word + 2000) / SCALE
        pause = gap[word % len(gap)] if isinstance(gap, list) else draw.uniform(*gap)
        hiss = 1e-3 * draw.standard_normal(int(pause * RATE))
        parts += [square, hiss]
    return np.concatenate(parts).astype(np.float32)


def decode(waveforms: Sequence[Samples]) -> list[list[Hypothesis]]:
    """Reads such a recording; of a word that is cut off it knows a wrong one."""
    found = []
    for samples in waveforms:
        codes = np.where(np.abs(samples) > 0.05, np.round(np.abs(samples) * SCALE - 2000), -1)
        edges = np.flatnonzero(np.diff(codes, prepend=-2, append=-2))
        words = []
        for start, end in pairwise(edges):
            if codes[start] >= 0:
                whole = start > 0 and end < len(samples)
                words.append(
                    Word(str(int(codes[start])) if whole else "?", start / RATE, end / RATE)
                )
        scores = {"ctc": -1.0, "lm": {"word": -2.0}, "length": len(words), "total": -3.0}
        found.append([Hypothesis(" ".join(w.word for w in words), scores=scores, words=words)])
    return found


def transcripts(recordings: Sequence[Samples]) -> list[Transcript]:
    given = [Recording(lambda begin, r=r: [r[begin:]]) for r in recordings]
    found = [Transcript() for _ in recordings]
    ended = []
    for event in decode_recordings(given, decode, RATE):
        if event.part is None:
            ended.append(event.number)
        else:
            assert event.number == len(ended)
            found[event.number].parts.append(event.part)
    assert ended == list(range(len(recordings)))
    return found


@pytest.mark.parametrize("gap", [(0.02, 0.03), (0.02, 0.06), (0.02, 0.5), (0.02, 3.0)])
def test_every_word_once(gap: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no pause is long enough for a border."""
    monkeypatch.setattr(segment, "STEADY", np.inf)  # words of one level are as steady as noise
    samples = spoken(1500, gap, seed=1)
    [transcript] = transcripts([samples])
    if gap[1] < 0.1:
        assert sum(part.overlaps for part in transcript.parts) > 0.8 * len(samples) / RATE / LONGEST
    hypothesis = transcript.hypothesis()
    wrong = {"?"} & set(hypothesis.text.split()[1:-1])  # the file begins and ends within a word
    assert not wrong
    assert hypothesis.text.split()[1:-1] == [str(n) for n in range(1, 1499)]
    for word in hypothesis.words[1:-1]:
        middle = round((word.start + word.end) / 2 * RATE)
        assert round(abs(samples[middle]) * SCALE - 2000) == int(word.word)
    parts = len(transcript.parts)
    assert hypothesis.scores["lm"] == {"word": -2.0 * parts}
    assert hypothesis.scores["total"] == -3.0 * parts


def test_batches_across_recordings() -> None:
    recordings = [spoken(draw, (0.05, 1.0), seed=draw) for draw in (1, 3, 200, 2, 0, 50)] * 30
    for transcript, samples in zip(transcripts(recordings), recordings, strict=True):
        [alone] = transcripts([samples])
        assert transcript.hypothesis() == alone.hypothesis()


def test_a_fault_ends_its_recording_only() -> None:
    def broken(begin: int) -> list[Samples]:
        raise AudioError("broken", "x.wav")

    good = spoken(20, (0.1, 0.5), seed=3)
    given = [Recording(lambda begin: [good]), Recording(broken), Recording(lambda begin: [good])]
    events = list(decode_recordings(given, decode, RATE))
    assert [event.number for event in events if event.error] == [1]
    assert [event.number for event in events if event.part is None] == [0, 1, 2]


def test_outputs_that_are_no_numbers_end_their_recording_only() -> None:
    good, bad = spoken(20, (0.1, 0.5), seed=3), spoken(100, (0.1, 0.5), seed=4)

    def sometimes(waveforms: Sequence[Samples]) -> list[list[Hypothesis]]:
        return [[] if any(w.word == "50" for w in h.words) else [h] for [h] in decode(waveforms)]

    given = [Recording(lambda begin, r=r: [r]) for r in (good, bad, good)]
    events = list(decode_recordings(given, sometimes, RATE))
    assert [event.number for event in events if event.part is None] == [0, 1, 2]
    [failed] = [event for event in events if event.error]
    assert (failed.number, failed.error.what) == (1, "the network's outputs are not numbers")
    reached = [event.part.end for event in events if event.number == 1 and event.part]
    assert 0 < max(reached) < len(bad) / RATE / 2 + LONGEST  # nothing after the failure is kept


def stopped(folder: Path, file: Path, parts: Sequence[Part | None]) -> None:
    """A command that is stopped after these parts."""
    with suppress(KeyboardInterrupt), Journal(folder, "command", [file]) as journal:
        for part in parts:
            journal.add(file, part)
        raise KeyboardInterrupt


def test_journal_of_other_files_stays(tmp_path: Path) -> None:
    """A command with other files and the same options ends in between."""
    one, two = tmp_path / "one.wav", tmp_path / "two.wav"
    for file in (one, two):
        file.write_bytes(b"audio")
    [whole] = transcripts([spoken(30, (0.02, 0.6), seed=4)])
    stopped(tmp_path, one, whole.parts[:1])
    with Journal(tmp_path, "command", [two]) as journal:
        journal.add(two, None)
    with Journal(tmp_path, "command", [one]) as journal:
        assert journal[one].parts == whole.parts[:1]
        assert not journal.is_done(two)
    assert not list(tmp_path.glob(".*.jsonl"))


def test_journal_continues(tmp_path: Path) -> None:
    """Stopped after any part, and within the writing of a line: the same transcript."""
    samples = spoken(300, (0.02, 0.6), seed=4)
    file = tmp_path / "x.wav"
    file.write_bytes(samples.tobytes())
    [whole] = transcripts([samples])
    for stop in range(0, len(whole.parts), 3):
        stopped(tmp_path, file, whole.parts[:stop])
        for journal in tmp_path.glob(".*.jsonl"):
            with open(journal, "ab") as lines:
                lines.write(b'{"file": "x')
        with Journal(tmp_path, "another command", [file]) as other:
            assert other[file].parts == []
        with Journal(tmp_path, "command", [file]) as journal:
            assert journal[file].parts == whole.parts[:stop]
            place = journal[file].place
            rest = Recording(lambda begin: [samples[begin:]], place)
            for event in decode_recordings([rest], decode, RATE):
                if event.part is not None:
                    journal.add(file, event.part)
            assert journal[file].hypothesis() == whole.hypothesis()
            journal.add(file, None)
            assert journal.is_done(file)
        assert sorted(tmp_path.iterdir()) == [file]


def test_journal_of_a_changed_file_is_void(tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    file.write_bytes(b"1")
    stopped(tmp_path, file, [None])
    assert Journal(tmp_path, "command", [file]).is_done(file)
    file.write_bytes(b"12")
    assert not Journal(tmp_path, "command", [file]).is_done(file)
    stopped(tmp_path, tmp_path / "-", [None])
    assert not Journal(tmp_path, "command", [file]).is_done(tmp_path / "-")


def test_parts_as_json() -> None:
    [transcript] = transcripts([spoken(30, (0.1, 1.0), seed=5)])
    for part in transcript.parts:
        assert part_from(json.loads(json.dumps(asdict(part)))) == part


def test_words_without_times_share_their_segment() -> None:
    samples = spoken(4, (0.01, 0.02), seed=6)

    def untimed(waveforms: Sequence[Samples]) -> list[list[Hypothesis]]:
        return [[Hypothesis("a b")] for _ in waveforms]

    events: list[Event] = list(decode_recordings([Recording(lambda b: [samples])], untimed, RATE))
    assert events[0].part is not None
    a, b = events[0].part.hypothesis.words
    assert (a.word, b.word) == ("a", "b")
    assert a.start < a.end == b.start < b.end == pytest.approx(len(samples) / RATE, abs=0.03)


def readings(stretch: Stretch) -> list[list[tuple[int, int]]]:
    """All ways to read a stretch."""
    whole = [[(stretch.begin, stretch.end)]]
    if not stretch.halves:
        return whole
    left, right = map(readings, stretch.halves)
    return whole + [one + other for one in left for other in right]


def test_the_reading_with_the_highest_total() -> None:
    draw = np.random.default_rng(8)
    several = 0
    for _ in range(300):
        places = draw.choice(np.arange(1, 100), draw.integers(0, 6), replace=False).tolist()
        stretch = divided(0, 100, {place: int(draw.integers(1, 4)) for place in places})
        stretches = list(stretch.all())
        assert len(stretches) == 2 * len(places) + 1
        texts = {(s.begin, s.end): f"{s.begin} {s.end}" for s in stretches}
        totals = {key: -(key[1] - key[0]) * draw.uniform(0.8, 1.2) for key in texts}
        found = [
            [Hypothesis(text, [k], {"total": totals[key]})]
            for k, (key, text) in enumerate(texts.items())
        ]
        best = best_reading(stretch, 0, iter(found), 100)
        assert best is not None
        expected = max(readings(stretch), key=lambda parts: sum(totals[key] for key in parts))
        assert best.text == " ".join(texts[key] for key in expected)
        assert best.total == pytest.approx(sum(totals[key] for key in expected))
        times = [time for word in best.words for time in (word.start, word.end)]
        assert times == sorted(times)
        several += len(expected) > 1
    assert 50 < several < 250
    assert best_reading(Stretch(0, 9), 0, iter([[]]), 100) is None


def test_short_pauses_may_end_sentences() -> None:
    """A decoder that can read three words at most is given each three of six sentences by
    themselves, where one that can read all is given all at once."""
    pauses = [1.0, *([0.02, 0.03, 0.2] * 6)[:-1]]
    samples = spoken(181, pauses, seed=3)

    def three(waveforms: Sequence[Samples]) -> list[list[Hypothesis]]:
        found = decode(waveforms)
        for (best,) in found:
            best.scores["total"] = -float(max(0, len(best.words) - 3))
            best.words = best.words[:3]
        return found

    for decoder, stretches in ((three, 61), (decode, 11)):
        events = decode_recordings([Recording(lambda begin: [samples[begin:]])], decoder, RATE)
        whole = Transcript([event.part for event in events if event.part]).hypothesis()
        assert whole.text.split()[1:] == [str(word) for word in range(1, 181)]
        assert whole.scores["ctc"] == -stretches


def test_outputs_of_segments_at_their_places() -> None:
    hop = 40

    def network(waveforms: Sequence[Samples]) -> list[Samples]:
        """Of a frame its own samples only."""
        frames = [np.resize(w, (-(-len(w) // hop), hop)) for w in waveforms]
        return [np.stack([f.mean(1), f.max(1)], 1).astype(np.float32) for f in frames]

    samples = np.concatenate(
        [spoken(20, (0.02, 0.05), 1), np.zeros(3000), spoken(90, (0.02, 2.0), 2)]
    )
    samples = samples.astype(np.float32)
    outputs, whole = stitched_outputs(samples, RATE, hop, network), network([samples])[0]
    same = (outputs == whole[: len(outputs)]).all(1)
    blank = (outputs == [0.0, -20.0]).all(1)
    assert (same | blank).mean() > 0.98  # but where segments end within a frame
    assert 0.2 < blank.mean() < 0.8
    full = len(samples) // hop
    loud = np.abs(samples[: full * hop]).reshape(-1, hop).min(1) > 0.05
    assert same[:full][loud].all()
    brief = samples[:2000]
    assert len(list(segments([brief], RATE))) == 1
    assert np.array_equal(stitched_outputs(brief, RATE, hop, network), network([brief])[0])
