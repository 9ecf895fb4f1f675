"""Batches of waveforms: the same from any number of workers; filters; broken audio."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr.data import cache, loader
from asr.data.augment import Silence
from asr.data.cache import AudioCache
from asr.data.loader import Batch, BatchMaker, DataOptions, DevSet, Fit, TrainingSet
from asr.data.manifest import Manifest
from asr.errors import InputError
from asr.text.normalize import get_normalizer
from asr.text.tokenizer import Tokenizer

RATE = 8000
TOKENIZER = Tokenizer.train("char", ["ab c"], normalizer=get_normalizer())
FIT = Fit(lambda samples: samples // 800, len)  # ten frames a second


def manifest(folder: Path, rows: list[tuple[str, float, str]], stated: bool = True) -> Manifest:
    """Rows of (id, seconds of noise, text); durations are in the manifest if `stated`."""
    random = np.random.default_rng(0)
    lines = []
    for name, seconds, text in rows:
        samples = random.normal(0, 0.1, int(RATE * seconds)).astype(np.float32)
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
        lines.append({"id": name, "audio": f"{name}.wav", "text": text})
        if stated:
            lines[-1]["duration"] = seconds  # type: ignore[assignment]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Manifest.open(path)


def options(workers: int = 0, batch_seconds: float | None = 6) -> DataOptions:
    return DataOptions(["train"], ["dev"], batch_seconds, max_seconds=3, workers=workers)


def training_set(utterances: Manifest, given: DataOptions, seed: int = 1) -> TrainingSet:
    maker = BatchMaker(TOKENIZER, AudioCache(RATE, given.cache_mb), seed, FIT, given)
    return TrainingSet(utterances, maker, utterances.durations)


MIXED = [(f"u{i}", 0.5 + 0.2 * (i % 7), "ab c"[: 1 + i % 4]) for i in range(25)]


@pytest.mark.parametrize(("hours", "seconds"), [(0.01, 10.0), (3.0, 21.6), (100.0, 120.0)])
def test_batches_suit_the_amount_of_speech_unless_they_are_given(
    hours: float, seconds: float, tmp_path: Path
) -> None:
    utterances = manifest(tmp_path, MIXED)
    maker = BatchMaker(TOKENIZER, AudioCache(RATE, 0), 1, FIT, options(0, None))
    given = np.full(len(MIXED), 3600 * hours / len(MIXED), np.float32)
    maker.options.max_seconds = 1e6
    assert TrainingSet(utterances, maker, given).sampler.batch_seconds == pytest.approx(seconds)
    assert training_set(utterances, options()).sampler.batch_seconds == 6.0
    dev = DevSet(utterances, maker, given, options(0, None), 0)
    assert dev.sampler.batch_seconds == 120.0


@pytest.mark.parametrize("turns", [False, True])
def test_workers_and_position_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: bool
) -> None:
    monkeypatch.setattr(loader, "takes_turns", lambda _: turns)
    utterances = manifest(tmp_path, MIXED)
    runs = [list(training_set(utterances, options(w)).batches(0, 0, 2)) for w in (0, 1, 3)]
    first = len(training_set(utterances, options()).sampler.batches(0))
    runs.append(runs[0][: first + 2] + list(training_set(utterances, options(1)).batches(1, 2, 2)))
    for run in runs[1:]:
        assert [b.ids for b in run] == [b.ids for b in runs[0]]
        for a, b in zip(run, runs[0], strict=True):
            for name in ("samples", "tokens", "lengths", "time_masks", "frequency_masks"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    other = list(training_set(utterances, options(), seed=2).batches(0, 0, 2))
    assert [b.ids for b in other] != [b.ids for b in runs[0]]


def test_reading_takes_turns_with_training_where_no_processor_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing is read between two steps; with processors to spare the next batches are."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    threads = torch.get_num_threads()
    given = training_set(manifest(tmp_path, MIXED), options(2))
    make, made = given.maker.make, list[str]()

    def noted(item: Any) -> Batch:
        batch = make(item)
        made.append(batch.ids[0])
        return batch

    monkeypatch.setattr(given.maker, "make", noted)
    for spare in (1, 2):
        monkeypatch.setattr(os, "cpu_count", lambda spare=spare: threads + spare)
        made.clear()
        batches = given.batches(0, 0, 40)
        next(batches)
        at_once = loader.AHEAD * (2 if spare == 2 else max(2, threads))
        next(batches)
        deadline = time.monotonic() + (0.3 if spare == 1 else 30)
        while len(made) <= at_once and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(made) > at_once if spare == 2 else len(made) == at_once
        batches.close()  # type: ignore[attr-defined]


def test_padding_and_tokens(tmp_path: Path) -> None:
    utterances = manifest(tmp_path, MIXED)
    texts = {utterance.id: utterance.text for utterance in utterances}
    batch = next(training_set(utterances, options()).batches(0, 0, 1))
    assert batch.samples.dtype == np.float32
    assert batch.samples.shape == (len(batch.ids), batch.lengths.max())
    assert batch.seconds == pytest.approx(batch.lengths.sum() / RATE)
    for i, name in enumerate(batch.ids):
        text = texts[name] or ""
        assert not batch.samples[i, batch.lengths[i] :].any()
        assert batch.samples[i, batch.lengths[i] - 50 : batch.lengths[i]].any()
        assert batch.tokens[i, : batch.token_lengths[i]].tolist() == TOKENIZER.encode(text)
        assert not batch.tokens[i, batch.token_lengths[i] :].any()


@pytest.mark.parametrize("stated", [True, False])
def test_filters_name_what_they_leave_out(tmp_path: Path, stated: bool) -> None:
    rows = [("good", 1.0, "ab"), ("long", 3.5, "ab"), ("short", 0.2, "abc"), ("mute", 1.0, "")]
    train = training_set(manifest(tmp_path, rows, stated), options())
    assert dict(train.left_out) == {
        "long": "3.5 s is longer than data.max_seconds=3",
        "short": "too short: 2 frames, the text needs 3",
        "mute": "no text",
    }
    assert [b.ids for b in train.batches(0, 0, 1)] == [["good"]]


def test_of_many_utterances_texts_are_looked_at_in_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*MIXED, ("long", 3.5, "ab"), ("short", 0.2, "abc"), ("mute", 1.0, "")]
    utterances = manifest(tmp_path, rows)
    first = list(training_set(utterances, options()).batches(0, 0, 1))
    monkeypatch.setattr("asr.data.loader.SEEN_FIRST", 0)
    train = training_set(utterances, options())
    assert dict(train.left_out) == {"long": "3.5 s is longer than data.max_seconds=3"}
    batches = list(train.batches(0, 0, 1))
    assert dict(item for b in batches for item in b.unreadable) == {
        "short": "too short: 2 frames, the text needs 3",
        "mute": "no text",
    }
    assert {i for b in batches for i in b.ids} == {i for b in first for i in b.ids}


def test_nothing_left_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 1 utterances .*short: too short"):
        training_set(manifest(tmp_path, [("short", 0.2, "abc")]), options())


def test_broken_audio_is_skipped_with_its_reason(tmp_path: Path) -> None:
    utterances = manifest(tmp_path, MIXED)
    (tmp_path / "u3.wav").write_text("not audio")
    (tmp_path / "u4.wav").unlink()
    soundfile.write(tmp_path / "u5.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "u6.wav", np.zeros(0), RATE)
    batches = list(training_set(utterances, options(1)).batches(0, 0, 1))
    skipped = dict(item for b in batches for item in b.unreadable)
    assert skipped.keys() == {"u3", "u4", "u5", "u6"}
    assert all(skipped.values())
    read = [name for b in batches for name in b.ids]
    assert sorted([*read, *skipped]) == sorted(name for name, _, _ in MIXED)


def test_headers_that_cannot_be_read_are_skipped_too(tmp_path: Path) -> None:
    utterances = manifest(tmp_path, MIXED, stated=False)
    (tmp_path / "u3.wav").write_text("not audio")
    train = training_set(utterances, options())
    assert [name for name, _ in train.unreadable] == ["u3"]
    assert len(train.kept) == len(MIXED) - 1


def test_no_variation_makes_a_batch_longer_than_the_largest(tmp_path: Path) -> None:
    rows = [(f"u{i}", 1.0, "ab") for i in range(6)]  # one batch
    given = options()
    given.speed, given.silence = [0.8, 1.25], Silence(0.5, 0.4)
    train = training_set(manifest(tmp_path, rows), given)
    (largest,) = train.largest()
    assert largest.samples.shape == (6, largest.lengths.max()) == (6, (1 / 0.8 + 0.8) * RATE)
    lengths = [int(batch.lengths.max()) for batch in train.batches(0, 0, 40)]
    assert 0.8 * largest.lengths.max() < max(lengths) <= largest.lengths.max()


def test_the_largest_batches_are_that_of_most_audio_and_that_of_most_attention(
    tmp_path: Path,
) -> None:
    """Padded, six short ones are longer than two long ones, but have fewer frames times tokens."""
    rows = [(f"s{i}", 1.0, "ab") for i in range(6)] + [(f"l{i}", 2.9, "ab") for i in range(2)]
    given = options()
    given.speed, given.silence = [1.0], Silence(0.0, 0.0)
    shapes = [
        batch.samples.shape for batch in training_set(manifest(tmp_path, rows), given).largest()
    ]
    assert sorted(shapes) == [(2, 2.9 * RATE), (6, RATE)]


def test_dev_set_is_complete_and_unchanged(tmp_path: Path) -> None:
    utterances = manifest(tmp_path, [*MIXED, ("long", 9.0, "ab"), ("short", 0.2, "abc")])
    maker = BatchMaker(TOKENIZER, AudioCache(RATE, 0), 1, FIT)
    dev = DevSet(utterances, maker, utterances.durations, options(), most_seconds=0)
    batches = list(dev.batches())
    assert sorted(name for b in batches for name in b.ids) == sorted(u.id for u in utterances)
    assert all(b.time_masks is None for b in batches)
    wave, _ = soundfile.read(tmp_path / "u7.wav", dtype="float32")
    rows = [b.samples[b.ids.index("u7")] for b in batches if "u7" in b.ids]
    np.testing.assert_array_equal(rows[0][: len(wave)], wave)
    part = DevSet(utterances, maker, utterances.durations, options(), most_seconds=10)
    assert 5 < sum(u.duration or 0 for u in utterances if u.id in part.texts) <= 10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": []}, "at least one manifest"),
        ({"max_seconds": 9}, r"at most data.batch_seconds=6\. Lower data.max_seconds, or raise"),
        ({"max_seconds": 0, "batch_seconds": None}, "max_seconds=0 must be above 0$"),
        ({"speed": [3.0]}, r"speed needs .* 0\.5 to 2"),
        ({"gain": -1}, "gain=-1"),
        ({"workers": -1}, "from 0 on"),
        ({"cache_mb": float("inf")}, "from 0 on"),
        ({"cache_mb": float("nan")}, "from 0 on"),
    ],
)
def test_impossible_options(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataOptions(**{**vars(options()), **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("megabytes", [0, 0.05, 10])
def test_epochs_read_from_memory_are_those_read_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: float
) -> None:
    """16-bit, float and cut recordings, a cache with room for none, for some, for all of them."""
    utterances = manifest(tmp_path, MIXED)
    random = np.random.default_rng(1)
    soundfile.write(tmp_path / "u0.wav", random.normal(0, 0.5, RATE), RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "u1.wav", [1.0, -1.0, 0.0] * RATE, RATE * 2, subtype="PCM_24")
    given = options(workers=2)
    batches = [list(training_set(utterances, given).batches(e, 0, e + 1)) for e in (0, 1)]
    given.cache_mb = megabytes
    cached, reads = training_set(utterances, given), []
    read = cache.load
    monkeypatch.setattr(cache, "load", lambda u, rate: reads.append(u.id) or read(u, rate))
    for epoch in (0, 1):
        for a, b in zip(cached.batches(epoch, 0, epoch + 1), batches[epoch], strict=True):
            np.testing.assert_array_equal(a.samples, b.samples)
    held = sum(kept.nbytes for kept in cached.maker.audio.held.values())
    assert held <= megabytes * 2**20
    again = len(reads) - len(MIXED)
    assert {0: again == len(MIXED), 0.05: 0 < again < len(MIXED), 10: again <= 0}[megabytes]
