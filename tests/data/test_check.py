"""`asr check`: everything that can be wrong, and nothing where nothing is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr.config import load_experiment
from asr.data.check import Facts, Fit, examine_all
from asr.data.manifest import Manifest, Utterance, write_manifest
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.text.normalize import get_normalizer
from asr.text.tokenizer import Tokenizer

RATE = 16000
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def good(tmp_path: Path) -> list[Utterance]:
    """Three utterances in which nothing is wrong."""
    rng = np.random.default_rng(1)
    utterances = []
    for name, text in (("a", "good morning"), ("b", "good night"), ("c", "see you")):
        samples = (rng.standard_normal(RATE) * 0.1).astype(np.float32)
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
        utterances.append(Utterance(name, f"{name}.wav", tmp_path, 0.0, 1.0, text, f"s{name}"))
    return utterances


def findings(tmp_path: Path, utterances: list[Utterance], fit: Fit | None = None) -> list[Any]:
    write_manifest(tmp_path / "m.jsonl", utterances)
    manifest, fit = Manifest.open(tmp_path / "m.jsonl"), fit or Fit()
    return Facts.gather(manifest, "m", examine_all(manifest, fit), fit).findings


def one(tmp_path: Path, samples: np.ndarray, **values: Any) -> Utterance:
    soundfile.write(tmp_path / "x.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
    values = {"text": "said", "duration": len(samples) / RATE} | values
    return Utterance("x", "x.wav", tmp_path, **values)


def test_nothing_is_wrong(good: list[Utterance], tmp_path: Path, run_asr: Run) -> None:
    write_manifest(tmp_path / "manifest.train.jsonl", good)
    done = run_asr("check", tmp_path / "manifest.train.jsonl")
    assert done.returncode == 0, done.stderr
    head, row, *rest = done.stdout.splitlines()
    assert head.split() == ["manifest", "utterances", "hours", "speakers", "problems", "audio"]
    assert row.split()[1:] == ["3", "0.00", "3", "0", "16000", "Hz:", "3"]
    assert rest == []


@pytest.mark.parametrize(
    ("samples", "values", "kind", "message"),
    [
        (np.full(RATE, np.nan), {}, "audio", "NaN"),
        (np.full(RATE, 0.1), {"duration": 2.0}, "audio", "lasts 1.00 s, but its cut is"),
        (np.full(RATE, 0.1), {"duration": 0.5}, "duration", "0.50 s in the manifest, 1.00 s in"),
        (np.full(RATE, 0.0009), {}, "silence", "0.00090"),
        (np.full(RATE, 0.1), {"text": None}, "text", "no text"),
        (np.full(RATE, 0.1), {"text": "  "}, "text", "nothing is left of '  '"),
        (np.where(np.arange(RATE) % 500 < 1, 1.0, 0.1), {}, "clipping", "0.2%"),
        (np.full((RATE, 3), 0.1), {"audio": "gone.wav"}, "audio", "No such file"),
    ],
)
def test_single_findings(
    tmp_path: Path, samples: np.ndarray, values: dict[str, Any], kind: str, message: str
) -> None:
    utterance = one(tmp_path, samples, **{k: v for k, v in values.items() if k != "audio"})
    if "audio" in values:
        (tmp_path / "x.wav").rename(tmp_path / "other.wav")
    ((found, id, said),) = findings(tmp_path, [utterance])
    assert (found, id) == (kind, "x")
    assert message in said


def test_one_loud_sample_and_quiet_speech_are_no_findings(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal(RATE) * 0.002  # -54 dB
    samples[100] = 1.0
    assert findings(tmp_path, [one(tmp_path, samples)]) == []


def test_cuts_of_a_shared_file_do_not_contradict_it(tmp_path: Path) -> None:
    first = one(tmp_path, np.full(RATE, 0.1), duration=0.5)
    second = Utterance("y", "x.wav", tmp_path, 0.5, 0.5, "more")
    assert findings(tmp_path, [first, second]) == []


def test_two_lines_with_one_cut_of_a_file_contradict_it(tmp_path: Path) -> None:
    first = one(tmp_path, np.full(RATE, 0.1), duration=0.5)
    second = Utterance("y", "x.wav", tmp_path, 0.0, 0.5, "more")
    found = findings(tmp_path, [first, second])
    assert [(kind, id) for kind, id, _ in found] == [("duration", "x"), ("duration", "y")]


def test_report_and_status(good: list[Utterance], tmp_path: Path, run_asr: Run) -> None:
    missing = [Utterance(f"m{i}", f"m{i}.wav", tmp_path, text="said") for i in range(12)]
    soundfile.write(tmp_path / "stereo.wav", np.full((8000, 2), 0.1), 8000)
    stereo = Utterance("stereo", "stereo.wav", tmp_path, text="", speaker="sa")
    write_manifest(tmp_path / "manifest.train.jsonl", good)
    write_manifest(tmp_path / "manifest.test.jsonl", [*missing, stereo, good[1]])
    paths = [tmp_path / f"manifest.{name}.jsonl" for name in ("train", "test")]
    done = run_asr("check", *paths)
    assert done.returncode == 3
    row = " ".join(done.stdout.splitlines()[2].split()[1:])
    assert row == "14 0.00 2 13 8000 Hz 2 channels: 1, 16000 Hz: 1"
    assert "audio that cannot be used (12)" in done.stdout
    assert "manifest.test.jsonl m9: " in done.stdout
    assert "m10: " not in done.stdout
    assert "... and 2 more (--all shows them)" in done.stdout
    assert "no text (1)\n  manifest.test.jsonl stereo: no text" in done.stdout
    names = "manifest.train.jsonl and manifest.test.jsonl share"
    assert f"warning: {names} 2 speakers: sa; sb\n" in done.stdout
    assert f"warning: {names} 1 text: good night\n" in done.stdout
    assert "m10: " in run_asr("check", *paths, "--all").stdout
    write_manifest(paths[1], missing)
    done = run_asr("check", paths[1], "--html", tmp_path / "page.html")
    assert done.returncode == 2
    assert "no audio can be used" in done.stderr
    assert (tmp_path / "page.html").exists()


def test_files_of_one_split_may_share(good: list[Utterance], tmp_path: Path, run_asr: Run) -> None:
    for name in ("a.train", "b.train"):
        write_manifest(tmp_path / f"{name}.jsonl", good)
    done = run_asr("check", tmp_path / "a.train.jsonl", tmp_path / "b.train.jsonl")
    assert (done.returncode, done.stdout.count("warning")) == (0, 0)
    (tmp_path / "b.train.jsonl").rename(tmp_path / "b.dev.jsonl")
    done = run_asr("check", tmp_path / "a.train.jsonl", tmp_path / "b.dev.jsonl")
    shared = f"a.train.jsonl and b.dev.jsonl share {len(good)} recordings: {good[0].id}"
    assert f"warning: {shared}" in done.stdout


def test_structure_is_a_mistake(good: list[Utterance], tmp_path: Path, run_asr: Run) -> None:
    (tmp_path / "m.jsonl").write_text('{"id": "a", "audio": "a.wav"}\n{"id": "b"}\n')
    done = run_asr("check", tmp_path / "m.jsonl")
    assert done.returncode == 2
    assert done.stderr == (
        f'error: {tmp_path}/m.jsonl:2: no key \'audio\': {{"id": "b"}}. Mend or remove this line\n'
    )
    assert done.stdout == ""


def test_tokenizer_and_model(good: list[Utterance], tmp_path: Path, run_asr: Run) -> None:
    texts = [u.text or "" for u in good]
    tokenizer = Tokenizer.train("char", texts, normalizer=get_normalizer("basic"))
    torch.manual_seed(0)
    model = Recognizer(RecognizerOptions(), tokenizer.size)
    model.save(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    soundfile.write(tmp_path / "short.wav", np.full(RATE // 5, 0.1), RATE)
    short = Utterance("short", "short.wav", tmp_path, text="Good morning, good night!")
    odd = Utterance("odd", "a.wav", tmp_path, text="good MÜRNING, Ж")
    path = tmp_path / "manifest.train.jsonl"
    write_manifest(path, good)
    assert run_asr("check", path, "--model", tmp_path / "model").returncode == 0
    write_manifest(path, [*good, short, odd])
    done = run_asr("check", path, "--model", tmp_path / "model")
    assert done.returncode == 3
    assert "characters outside the tokenizer (1)\n  odd: ü ж in: good MÜRNING, Ж" in done.stdout
    frames = model.output_lengths(RATE // 5)
    needed = len("good morning good night") + 2  # "oo" twice: a blank between
    assert f"  short: {frames} frames available, {needed} needed: Good morn" in done.stdout
    # of a configuration the tokenizer is that of its own training texts
    config = tmp_path / "my.yaml"
    sets = "{train: [manifest.train.jsonl], dev: [manifest.train.jsonl]}"
    config.write_text(f"data: {sets}\nmodel: {{encoder: {{subsampling: 2}}}}\n")
    done = run_asr("check", path, "--config", config)
    finer = Recognizer(load_experiment(config).model, 10).output_lengths(RATE // 5)
    assert finer > frames
    assert f"  short: {finer} frames available, {needed} needed: Good morn" in done.stdout
    assert "odd: " not in done.stdout
    assert "exclude" in run_asr("check", path, "--config", config, "--model", config).stderr


def test_real_recordings_are_sound(asr_data: Path, run_asr: Run) -> None:
    done = run_asr("check", *sorted((asr_data / "yesno").glob("manifest.*.jsonl")))
    assert done.returncode == 0, done.stdout
