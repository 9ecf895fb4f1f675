"""Samples of a recording of any length in blocks: memory constant in the length.

soundfile reads what it can; everything else, videos too, comes through a pipe from ffmpeg.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.data.audio import (
    AGAIN,
    Samples,
    ffmpeg_command,
    not_audio,
    open_soundfile,
    opened,
    promised_frames,
)
from asr.data.manifest import split_audio
from asr.errors import AudioError

BLOCK = 10.0  # seconds read at once


def read_blocks(audio: str | Path, sample_rate: int, skip: int) -> Iterator[Samples]:
    """Mono samples (N,) float32 at `sample_rate` Hz, block by block, but for the first `skip`.

    Raises AudioError as `asr.data.audio.read_audio`, where the fault is reached.
    """
    where = str(audio)
    stream = _from_ffmpeg if _needs_ffmpeg(where) else _from_soundfile
    for block in stream(where, sample_rate):
        if not np.isfinite(block).all():
            raise AudioError("has samples that are not numbers (NaN or infinite)", where, AGAIN)
        if skip < len(block):
            yield block[skip:]
        skip = max(0, skip - len(block))


def duration(audio: str | Path) -> float | None:
    """Seconds by the file's header; None where nothing says so."""
    with suppress(OSError, soundfile.SoundFileError):
        return float(soundfile.info(os.fsencode(audio)).duration)
    program = shutil.which("ffprobe")
    if program is None:
        return None
    command = [program, "-v", "error", "-protocol_whitelist", "file", "-show_entries"]
    command += ["format=duration", "-of", "csv=p=0", f"file:{audio}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    try:
        return float(done.stdout)
    except ValueError:
        return None


def _needs_ffmpeg(where: str) -> bool:
    """A file, no member of an archive, with something in it that soundfile cannot read."""
    path, member = split_audio(where)
    if member is not None or not (os.path.isfile(path) and os.path.getsize(path)):
        return False
    with suppress(OSError), open(path, "rb") as source:
        file = open_soundfile(source.fileno())
        if file is None:
            return True
        file.close()
    return False


def _from_soundfile(where: str, sample_rate: int) -> Iterator[Samples]:
    with opened(where) as file:
        rate, frames, done = file.samplerate, file.frames, 0
        if not promised_frames(file):
            raise AudioError("empty: no samples", where, "Remove it")
        resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        while done < frames:  # what is written meanwhile to a file that grows is not read
            try:
                block = file.read(int(BLOCK * rate), dtype="float32", always_2d=True)
            except soundfile.SoundFileError:  # a FLAC that breaks off
                block = np.empty((0, 1), np.float32)
            if not len(block) and file.format != "MP3":  # whose length is an estimate
                raise AudioError(f"truncated: breaks off at {done / rate:.2f} s", where, AGAIN)
            done = done + len(block) if len(block) else frames
            mono = block.mean(1) if len(block) else np.empty(0, np.float32)
            if rate != sample_rate:
                mono = resampler.resample_chunk(mono, last=done >= frames)
            yield mono
        if promised_frames(file) > frames:
            raise AudioError(f"truncated: breaks off at {frames / rate:.2f} s", where, AGAIN)


def _from_ffmpeg(where: str, sample_rate: int) -> Iterator[Samples]:
    size, done = 4 * int(BLOCK * sample_rate), 0
    command = ffmpeg_command(where, where)
    mono = f"aresample={sample_rate}:ochl=mono:rematrix_maxval=1"  # 1: the mean, not a sum
    command += ["-af", mono, "-f", "f32le", "pipe:1"]
    with (
        tempfile.TemporaryFile() as told,  # a second pipe, that nobody reads, could fill
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told) as process,
    ):
        assert process.stdout is not None
        try:
            while content := process.stdout.read(size):
                done += len(content)
                yield np.frombuffer(content[: len(content) // 4 * 4], np.float32)
            status = process.wait()
            told.seek(0)
            messages = told.read()
        finally:
            process.kill()
    if status and done:
        raise AudioError(f"damaged after {done / 4 / sample_rate:.2f} s", where, AGAIN)
    if not done:
        raise not_audio(messages, where)
