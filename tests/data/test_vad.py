"""Speech in loud noise, found by the network."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from asr.data.audio import load
from asr.data.manifest import Manifest
from asr.data.segment import SileroVAD, segments
from asr.errors import InputError


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_real_speech_in_noise(asr_data: Path, rate: int) -> None:
    """A tenth as strong as the speech: the segments are the recordings, each with its margins."""
    manifest = Manifest.open(asr_data / "arctic-kathleen" / "manifest.test.jsonl")
    recordings = [load(manifest[i], rate) for i in range(5)]
    pause = np.zeros(2 * rate, np.float32)
    joined = np.concatenate([pause, *(part for one in recordings for part in (one, pause))])
    level = np.sqrt(np.mean(np.concatenate(recordings) ** 2) / 10)
    joined += np.float32(level) * np.random.default_rng(1).standard_normal(len(joined), np.float32)
    speech = np.zeros(len(joined), bool)
    for segment in segments([joined], rate, vad=SileroVAD()):
        speech[segment.start : segment.start + len(segment.samples)] = True
    now = len(pause)
    for one in recordings:
        assert speech[now + rate // 2 : now + len(one) - rate // 2].mean() > 0.9
        now += len(one)
        assert not speech[now + rate // 2 : now + len(pause) - rate // 2].any()
        now += len(pause)


def test_noise_is_no_speech() -> None:
    noise = 0.1 * np.random.default_rng(2).standard_normal(30 * 16000, np.float32)
    noise[::16000] = 1.0  # not so steady as to be none by its level
    vad = SileroVAD()
    assert list(segments([noise], 16000, vad=vad)) == []
    assert len(vad(noise[:12345], 16000)) == 78


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(InputError, match="pip install silero-vad"):
        SileroVAD()
