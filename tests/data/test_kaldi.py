"""Kaldi data folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import RATE, Run, sound

from asr.data.audio import load
from asr.data.corpora.kaldi import import_kaldi
from asr.data.manifest import Manifest
from asr.errors import InputError


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    folder = tmp_path / "kaldi"
    sound(folder / "r1.wav", 2.0)
    sound(tmp_path / "r2.flac", 1.0)
    for name, content in {
        "wav.scp": f"r1 r1.wav\nr2 flac -c -d -s {tmp_path}/r2.flac |\n",
        "segments": "u1 r1 0.50 1.25\nu2 r1 1.25 -1\nu3 r2 0 1.0\nu4 r9 0 1\nu5 r2 0.1 0.2\n",
        "text": "u1 one  two\nu2 three\nu3\nu4 x\nu9 y\n",
        "utt2spk": "u1 s1\nu2\ts1\nu3 s2\n",
    }.items():
        (folder / name).write_text(content)
    return folder


def test_kaldi(kaldi: Path, tmp_path: Path, run_asr: Run) -> None:
    done = run_asr("prepare", "kaldi", kaldi, "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "u4: recording 'r9' is not in wav.scp" in done.stderr
    assert "u5: not in text" in done.stderr
    assert "u9: a text without a recording" in done.stderr
    one, two, three = Manifest.open(tmp_path / "out/manifest.train.jsonl")
    assert (one.text, one.speaker, one.start, one.duration) == ("one  two", "s1", 0.5, 0.75)
    assert (two.speaker, two.start, two.duration) == ("s1", 1.25, 0.75)
    assert (three.text, three.speaker, three.audio) == ("", "s2", "../r2.flac")
    expected = soundfile.read(kaldi / "r1.wav", dtype="float32")[0][4000:10000]
    np.testing.assert_array_equal(load(one, RATE), expected)


def test_kaldi_without_segments(kaldi: Path) -> None:
    for name in ("segments", "text", "utt2spk"):
        (kaldi / name).unlink()
    got = list(import_kaldi(kaldi, []))
    assert [(u.id, u.text, u.speaker, u.duration) for u in got] == [
        ("r1", None, None, None),
        ("r2", None, None, None),
    ]


def test_kaldi_recordings_beside_the_data_folder(kaldi: Path, run_asr: Run) -> None:
    """As speechocean762 has them: WAVE/ beside train/ and test/."""
    sound(kaldi / "WAVE/a.wav")
    (kaldi / "train").mkdir()
    (kaldi / "train/wav.scp").write_text("a WAVE/a.wav\n")
    done = run_asr("prepare", "kaldi", kaldi / "train", "-o", kaldi / "out")
    assert done.returncode == 0, done.stderr
    assert Manifest.open(kaldi / "out/manifest.train.jsonl")[0].audio == "../WAVE/a.wav"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wav.scp", "r1 sph2pipe -f wav x.sph |\n", r"wav.scp:1: is a command.* Run it once"),
        ("wav.scp", "r1 a.wav\n\nr1 b.wav\n", r"wav.scp:3: 'r1' was in line 1 already"),
        ("wav.scp", "\n", "empty"),
        ("segments", "u1 r1 2.0 1.0\n", r"segments:1: not 'recording start end' in seconds"),
        ("segments", "u1 r1 zero 1.0\n", "not 'recording start end'"),
        ("segments", "u1 r1\n", "not 'recording start end'"),
    ],
)
def test_wrong_kaldi_folder(kaldi: Path, name: str, content: str, message: str) -> None:
    (kaldi / name).write_text(content)
    if name == "wav.scp":
        (kaldi / "segments").unlink()
        (kaldi / "text").unlink()
    with pytest.raises(InputError, match=message):
        list(import_kaldi(kaldi, []))
    (kaldi / "wav.scp").unlink()
    with pytest.raises(InputError, match=r"wav.scp: cannot be read"):
        list(import_kaldi(kaldi, []))
