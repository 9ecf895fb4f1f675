"""Samples of audio files: any rate and channel count, cuts, members of tar archives.

soundfile (libsndfile) reads WAV, FLAC, OGG, MP3 and more; what it cannot read goes through the
program ffmpeg where that is installed. Channels are averaged; soxr changes the rate.
"""

from __future__ import annotations

import functools
import io
import math
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from asr.data.manifest import Utterance, split_audio
from asr.errors import AudioError

Samples: TypeAlias = NDArray[np.float32]

TOLERANCE = 0.05  # seconds by which times in a manifest may miss the end of the file
STREAM_BYTES = 0x7FFF0000  # programs that write WAV to a pipe promise at least this much
UNKNOWN_FRAMES = 2**60  # libsndfile's count for a FLAC of unknown length is above this
AGAIN = "Copy or convert the file again"


class AudioInfo(NamedTuple):
    """Of the whole file, whatever cut of it the utterance is."""

    sample_rate: int
    channels: int
    seconds: float


class Recording(NamedTuple):
    """Samples (N, channels) of an utterance, and how long the whole file is."""

    samples: Samples
    sample_rate: int
    file_seconds: float


def seconds_to_samples(seconds: float, rate: int) -> int:
    """The one rounding rule: to the nearest sample, halves up. Adjoining cuts never overlap,
    since a cut ends at the rounding of its end, not of its length."""
    return math.floor(seconds * rate + 0.5)


def load(utterance: Utterance, sample_rate: int) -> Samples:
    """Samples (N,) of an utterance. Raises AudioError."""
    u = utterance
    return read_audio(u.audio, sample_rate, u.start, u.duration, u.folder)


def read_audio(
    audio: str | Path,
    sample_rate: int,
    start: float = 0.0,
    duration: float | None = None,
    folder: Path | None = None,
) -> Samples:
    """Mono samples (N,) float32, full scale 1.0, at `sample_rate` Hz; `start` and `duration` in
    seconds. Raises AudioError: missing, empty, not audio, truncated, too short, NaN samples."""
    samples, rate, _ = read_native(audio, start, duration, folder)
    mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if rate == sample_rate:
        return mono
    resampled: Samples = soxr.resample(mono, rate, sample_rate)
    return resampled


def read_native(
    audio: str | Path,
    start: float = 0.0,
    duration: float | None = None,
    folder: Path | None = None,
) -> Recording:
    """As stored; arguments and errors as `read_audio`."""
    where = audio_path(audio, folder)
    with opened(where) as file:
        rate, frames = file.samplerate, promised_frames(file)
        begin = seconds_to_samples(start, rate)
        end = frames if duration is None else seconds_to_samples(start + duration, rate)
        slack = seconds_to_samples(TOLERANCE, rate)
        if end > frames + slack or (frames and begin >= min(end, frames)):
            to = "" if duration is None else f" to {start + duration:g} s"
            what = f"lasts {frames / rate:.2f} s, but its cut is from {start:g} s{to}"
            raise AudioError(what, where, "Correct 'start' and 'duration' in the manifest")
        end = min(end, frames)
        samples = _read_frames(file, begin, end, where)
        estimated = duration is not None or file.format == "MP3"
    if len(samples) < end - begin - (slack if estimated else 0):
        raise AudioError(
            f"truncated: breaks off at {(begin + len(samples)) / rate:.2f} s", where, AGAIN
        )
    if not samples.size:
        raise AudioError("empty: no samples", where, "Remove it")
    if not np.isfinite(samples).all():
        raise AudioError("has samples that are not numbers (NaN or infinite)", where, AGAIN)
    return Recording(samples, rate, frames / rate)


def audio_info(utterance: Utterance) -> AudioInfo:
    """Read from the file's header. Raises AudioError: missing, empty file, not audio."""
    with opened(audio_path(utterance.audio, utterance.folder)) as file:
        seconds = promised_frames(file) / file.samplerate
        return AudioInfo(file.samplerate, file.channels, seconds)


def audio_path(audio: str | Path, folder: Path | None = None) -> str:
    """`audio` of a manifest in `folder`, as a path (`archive.tar#member` kept)."""
    return str(audio) if folder is None else str(folder / audio)


def promised_frames(file: soundfile.SoundFile) -> int:
    """Frames by the header. libsndfile reports those that are there of a truncated WAV or AIFF,
    but notes in its log `data : 32000 (should be 15978)`: promised and present bytes."""
    frames: int = file.frames
    found = re.search(r"\b(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", file.extra_info)
    promised, present = (int(found[1]), int(found[2])) if found else (0, 0)
    if present < promised < STREAM_BYTES:
        return max(frames + 1, frames * promised // max(present, 1))
    return frames


def _read_frames(file: soundfile.SoundFile, begin: int, end: int, where: str) -> Samples:
    """Frames (N, channels) of [begin, end), fewer where the file ends before."""
    try:
        file.seek(min(begin, file.frames))
        samples: Samples = file.read(end - begin, dtype="float32", always_2d=True)
    except soundfile.SoundFileError:  # a FLAC that breaks off
        raise AudioError(
            "truncated or damaged: cannot be decoded to its end", where, AGAIN
        ) from None
    return samples


@contextmanager
def opened(where: str) -> Iterator[soundfile.SoundFile]:
    """The file open in soundfile, through ffmpeg if need be. Raises AudioError."""
    path, member = split_audio(where)
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would block
    except OSError as error:
        raise AudioError(
            f"cannot be opened ({error.strerror})", where, "Correct the path"
        ) from None
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise AudioError("is a folder or a device, no file", where, "Give files")
        stored = None if member is None else io.BytesIO(_member(path, source, member))
        file = open_soundfile(stored or source)
        if file is None:
            file = soundfile.SoundFile(_through_ffmpeg(path, stored, where))
        with file:
            yield file
    except OSError as error:
        raise AudioError(f"cannot be read ({error.strerror})", where) from None
    finally:
        os.close(source)


def open_soundfile(source: int | io.BytesIO) -> soundfile.SoundFile | None:
    """The file in soundfile; None where that cannot read it."""
    try:
        file = soundfile.SoundFile(source, closefd=False)
    except soundfile.SoundFileError:
        return None
    if file.frames > UNKNOWN_FRAMES:  # soundfile cannot read those
        file.close()
        return None
    return file


def _member(archive: str, source: int, member: str) -> bytes:
    """The bytes of a member of the tar archive open as `source`. Raises AudioError."""
    status = os.fstat(source)
    where = f"{archive}#{member}"
    try:
        offset, size = _members(archive, status.st_size, status.st_mtime_ns)[_plain(member)]
    except KeyError:
        raise AudioError("no such member in the archive", where) from None
    content = os.pread(source, size, offset)
    if len(content) < size:
        raise AudioError("truncated: the archive ends before it", where, AGAIN)
    return content


def _plain(member: str) -> str:
    return os.path.normpath(member).lstrip("/")


@functools.lru_cache(maxsize=256)
def _members(archive: str, size: int, mtime: int) -> dict[str, tuple[int, int]]:
    """{name: (offset, bytes)} of one state of an archive; of a truncated one, what is there."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                if entry.isreg():
                    members[_plain(entry.name)] = (entry.offset_data, entry.size)
    except tarfile.TarError:
        if not members:
            raise AudioError("not a plain tar archive", archive, "Unpack it first") from None
    return members


def _through_ffmpeg(path: str, stored: io.BytesIO | None, where: str) -> io.BytesIO:
    """A WAV made by ffmpeg of a file, or of a member's bytes. Raises AudioError."""
    if os.path.getsize(path) == 0 or (stored and not stored.getbuffer().nbytes):
        raise AudioError("empty file", where, "Remove it")
    with tempfile.NamedTemporaryFile(suffix=".audio") as copy:  # some formats need to seek
        if stored:
            copy.write(stored.getbuffer())
            copy.flush()
        command = ffmpeg_command(copy.name if stored else path, where)
        command += ["-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise not_audio(done.stderr, where)
    return io.BytesIO(done.stdout)


def not_audio(told: bytes, where: str) -> AudioError:
    """What to raise where ffmpeg gave nothing but these messages."""
    if b"matches no streams" in told:
        return AudioError("has no audio track", where, "Leave it out")
    return AudioError("not audio that soundfile or ffmpeg can read", where, AGAIN)


def ffmpeg_command(path: str, where: str) -> list[str]:
    """What makes ffmpeg read the first audio track of a file. Raises AudioError without ffmpeg."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            "not audio that soundfile can read", where, "Install ffmpeg, or convert to WAV or FLAC"
        )
    # the whitelist: a playlist named .wav must not make ffmpeg open addresses
    command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe"]
    return [*command, "-i", f"file:{path}", "-map", "0:a:0"]
