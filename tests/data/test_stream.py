"""Blocks of a recording against the whole of it read at once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio import duration, read_audio, read_blocks
from asr.errors import AudioError


@pytest.fixture
def samples() -> np.ndarray:
    """25 s of noise and tones in two channels: several blocks."""
    draw = np.random.default_rng(0)
    tones = np.sin(np.arange(25 * 11025)[:, None] * [0.03, 0.05])
    return 0.1 * draw.standard_normal(tones.shape) + 0.3 * tones


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [11025, 16000, 8000])
def test_blocks_are_the_whole(tmp_path: Path, samples: np.ndarray, suffix: str, rate: int) -> None:
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, samples, 11025)
    whole = read_audio(path, rate)
    blocks = list(read_blocks(path, rate, 0))
    assert len(blocks) > 2
    found = np.concatenate(blocks)
    assert abs(len(found) - len(whole)) <= 1  # resampling rounds the length
    size = min(len(found), len(whole))
    assert np.abs(found[:size] - whole[:size]).max() < 1e-4
    for skip in (1, 12 * rate, len(found) - 1, len(found) + 5):
        rest = [np.empty(0, np.float32), *read_blocks(path, rate, skip)]
        assert np.array_equal(np.concatenate(rest), found[skip:])
    assert duration(path) == pytest.approx(25, abs=0.1)


def test_videos_come_through_a_pipe(
    tmp_path: Path, samples: np.ndarray, need_tool: Callable[[str], str]
) -> None:
    soundfile.write(tmp_path / "x.wav", samples, 11025)
    command = [need_tool("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:r=1:d=25"]
    command += ["-i", tmp_path / "x.wav", "-c:a", "pcm_s16le", tmp_path / "x.mkv"]
    subprocess.run(command, check=True)
    whole, found = (np.concatenate(list(read_blocks(tmp_path / n, 11025, 0)))
                    for n in ("x.wav", "x.mkv"))  # fmt: skip
    size = min(len(whole), len(found))
    assert size > 24 * 11025
    assert np.abs(whole[:size] - found[:size]).max() < 1e-4
    assert duration(tmp_path / "x.mkv") == pytest.approx(25, abs=1.1)


def test_videos_without_sound(tmp_path: Path, need_tool: Callable[[str], str]) -> None:
    video = tmp_path / "mute.mkv"
    command = [need_tool("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:r=1:d=2"]
    subprocess.run([*command, video], check=True)
    for read in (lambda: list(read_blocks(video, 16000, 0)), lambda: read_audio(video, 16000)):
        with pytest.raises(AudioError, match="has no audio track"):
            read()


def test_a_file_that_grows_is_read_as_it_was(tmp_path: Path, samples: np.ndarray) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, 11025)
    whole = np.concatenate(list(read_blocks(path, 11025, 0)))
    blocks = []
    for block in read_blocks(path, 11025, 0):
        blocks.append(block)
        with open(path, "ab") as file:
            file.write(bytes(40_000))
    assert np.array_equal(np.concatenate(blocks), whole)


def test_faults(tmp_path: Path, samples: np.ndarray) -> None:
    soundfile.write(tmp_path / "x.wav", samples, 11025)
    soundfile.write(tmp_path / "x.flac", samples, 11025)
    for suffix, message in (("wav", r"breaks off at 12\.\d\d s"), ("flac", "truncated")):
        content = (tmp_path / f"x.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
        with pytest.raises(AudioError, match=message):
            list(read_blocks(tmp_path / f"cut.{suffix}", 11025, 0))
    samples[20 * 11025] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 11025, subtype="FLOAT")
    with pytest.raises(AudioError, match="not numbers"):
        list(read_blocks(tmp_path / "nan.wav", 11025, 0))
    (tmp_path / "text.wav").write_text("this is no audio")
    with pytest.raises(AudioError, match="not audio"):
        list(read_blocks(tmp_path / "text.wav", 11025, 0))
    assert duration(tmp_path / "text.wav") is None
