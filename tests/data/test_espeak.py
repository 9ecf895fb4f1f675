"""The synthesised corpus: sets are disjoint, voices differ, a seed gives the same audio."""

from __future__ import annotations

import os
import re
import shlex
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.cli import cli
from asr.data.corpora.espeak import (
    VARIANTS,
    Espeak,
    Grammar,
    Voice,
    other_sentences,
    split_voices,
    synthesise,
)
from asr.data.manifest import Manifest
from asr.errors import InputError

GRAMMAR = Path(__file__).parents[2] / "recipes" / "quickstart" / "conf" / "grammar.txt"
pytest.importorskip("espeakng_loader", reason="needs the tool espeakng-loader")


def test_sentences_are_new_and_come_from_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "grammar.txt"
    path.write_text("# two by two\nsentence: a <b> |\n    c <b>\nb: x | y\n")
    sentences = list(Grammar(path).sentences("seed"))
    assert sorted(sentences) == ["a x", "a y", "c x", "c y"]
    path.write_text("sentence: x |\n")
    assert list(Grammar(path).sentences("seed")) == ["x"]  # nobody can speak the empty one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence: a <b>\n", "grammar.txt:1: <b> has no rule"),
        ("b: a\nnonsense\n", "grammar.txt:2: not a rule"),
        ("b: a\n", "no rule `sentence`"),
        ("sentence: x <a>, y\na: b\n", "grammar.txt:1: not a name: <a>,"),
        ("sentence: x | <a|y\na: b\n", "grammar.txt:1: not a name: <a. Write"),
        ("sentence: <sentence> a\n", "grammar.txt: a sentence without end"),
    ],
)
def test_broken_grammars_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "grammar.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        next(Grammar(path).sentences("seed"))


@pytest.mark.parametrize(
    "options",
    [
        "--train=-3",
        "--dev=0",
        "--lm-text=-5",
        "--sample-rate=0",
        "--sample-rate=12345678",
        "--seed=-1",
    ],
)
def test_numbers_that_make_no_corpus(tmp_path: Path, run_asr: Any, options: str) -> None:
    done = run_asr("prepare", "espeak", GRAMMAR, "-o", tmp_path / "out", options)
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    assert f"'{options.split('=')[0]}'" in done.stderr


def test_a_folder_that_cannot_be_written(tmp_path: Path, run_asr: Any) -> None:
    (tmp_path / "out").touch()
    done = run_asr("prepare", "espeak", GRAMMAR, "-o", tmp_path / "out", "--train", 1)
    assert done.returncode == 2
    assert "out/audio/test-00000.flac: cannot be written" in done.stderr


def test_quickstart_grammar_is_rich() -> None:
    sentences = list(islice(Grammar(GRAMMAR).sentences("1"), 5000))
    words = {word for sentence in sentences for word in sentence.split()}
    assert len(set(sentences)) == 5000
    assert len(words) >= 500
    assert {"see", "sea", "night", "knight", "two", "to", "too", "meet", "meat"} <= words


def test_quickstart_corpus_is_large_and_its_sets_are_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that its command writes, but a moment of a tone instead of speech."""
    tone = np.sin(np.arange(64, dtype=np.float32))
    monkeypatch.setattr(Espeak, "speak", lambda *_: tone)
    monkeypatch.setattr("asr.data.corpora.espeak.write_flac", lambda *_: None)
    script = GRAMMAR.parents[1] / "run.sh"
    [line] = re.findall(r"^ *asr (prepare espeak .*)$", script.read_text(), re.MULTILINE)
    monkeypatch.setenv("seed", "1")
    monkeypatch.chdir(script.parent)
    given = shlex.split(os.path.expandvars(line))
    given[given.index("-o") + 1] = str(tmp_path)
    cli.main(given, standalone_mode=False)
    sets = {
        name: [*Manifest.open(tmp_path / f"manifest.{name}.jsonl")]
        for name in ("train", "dev", "test")
    }
    texts = {name: {u.text for u in rows} for name, rows in sets.items()}
    voices = {name: {u.speaker for u in rows} for name, rows in sets.items()}
    every = [(u.speaker, u.extra["pitch"], u.extra["rate"]) for rows in sets.values() for u in rows]
    assert len(set(every)) >= 40
    assert all(len(set(values)) > 1 for values in zip(*every, strict=True))
    assert len(voices["test"] - voices["train"] - voices["dev"]) >= 8
    assert not voices["test"] & (voices["train"] | voices["dev"])
    assert len(texts["test"]) == len(sets["test"]) >= 200
    assert sum(len(str(text).split()) for text in texts["test"]) >= 1500
    lm_text = set((tmp_path / "lm.txt").read_text().splitlines())
    assert len(lm_text) == 40_000
    assert not texts["test"] & (texts["train"] | texts["dev"] | lm_text)
    assert not texts["dev"] & (texts["train"] | lm_text)


def test_sets_share_neither_voices_nor_sentences(tmp_path: Path) -> None:
    grammar = Grammar(GRAMMAR)
    counts = {"train": 30, "dev": 12, "test": 20}
    rows = list(synthesise(grammar, counts, tmp_path, seed=1, sample_rate=16000))
    texts = {split: {str(r["text"]) for s, r in rows if s == split} for split in counts}
    voices = {split: {str(r["speaker"]) for s, r in rows if s == split} for split in counts}
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not texts[a] & texts[b]
        assert not voices[a] & voices[b]
    held_out = texts["dev"] | texts["test"]
    text = set(other_sentences(grammar, 3000, seed=1, without=held_out))
    assert len(text) == 3000
    assert not text & held_out
    for _, row in rows:
        info = soundfile.info(tmp_path / str(row["audio"]))
        assert info.samplerate == 16000
        assert info.frames / 16000 == pytest.approx(float(str(row["duration"])), abs=1e-4)


def test_voices_speak_and_differ() -> None:
    espeak = Espeak()
    spoken = [espeak.speak("the night train", Voice(v, 50, 160)) for v in VARIANTS]
    assert all(0.4 < len(samples) / espeak.sample_rate < 3 for samples in spoken)
    assert len({samples.tobytes() for samples in spoken}) == len(VARIANTS)
    assert sum(map(len, split_voices(1).values())) == len(VARIANTS)


def test_the_command_repeats_itself(tmp_path: Path, run_asr: Any) -> None:
    small = ["--train", "12", "--dev", "3", "--test", "3", "--lm-text", "50"]
    for name in ("a", "b"):
        done = run_asr("prepare", "espeak", str(GRAMMAR), "-o", str(tmp_path / name), *small)
        assert done.returncode == 0, done.stderr
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len([f for f in files if f.suffix == ".flac"]) == 18
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
