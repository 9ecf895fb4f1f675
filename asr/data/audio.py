"""Samples of audio files: any rate and channel count, cuts, members of tar archives; whole, or in
blocks of a recording of any length (memory constant in the length).

soundfile (libsndfile) reads WAV, FLAC, OGG, MP3 and more; what it cannot read, videos too, goes
through the program ffmpeg where that is installed. Channels are averaged; soxr changes the rate.
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
from contextlib import contextmanager, suppress
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
BLOCK = 10.0  # seconds that `read_blocks` reads at once
AGAIN = "Copy or convert the file again"
# of ffmpeg: silence where a track begins late or has a gap, so that times are those of the video
IN_TIME = "aresample=async=1:first_pts=0"
# of MPEG streams: ffmpeg counts their times from the first of the tracks that it reads
WITH_PICTURE = ["-map", "0:v:0?", "-c", "copy", "-f", "null", "-"]
HEADER = 1024  # bytes; what is longer holds samples


class AudioInfo(NamedTuple):
    """Of the whole file, whatever cut of it the utterance is."""

    sample_rate: int
    channels: int
    seconds: float


def seconds_to_samples(seconds: float, rate: int) -> int:
    """The one rounding rule: to the nearest sample, halves up. Adjoining cuts never overlap,
    since a cut ends at the rounding of its end, not of its length."""
    return math.floor(seconds * rate + 0.5)


def read_audio(
    audio: str | Path,
    sample_rate: int,
    start: float = 0.0,
    duration: float | None = None,
    folder: Path | None = None,
) -> Samples:
    """As `load`; `start` and `duration` in seconds."""
    return load(Utterance("", str(audio), folder or Path(), start, duration), sample_rate)


def load(utterance: Utterance, sample_rate: int) -> Samples:
    """Mono samples (N,) of an utterance, full scale 1.0, at `sample_rate` Hz. Raises AudioError:
    missing, empty, not audio, truncated, too short, NaN samples."""
    samples, rate, _ = read_native(utterance)
    mono: Samples = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return mono


def read_native(u: Utterance) -> tuple[Samples, int, float]:
    """Samples (N, channels) as stored, their rate, seconds of the whole file; errors as `load`."""
    where, stop = audio_path(u.audio, u.folder), u.start + (u.duration or 0.0)
    with opened(where) as file:
        rate, frames = file.samplerate, promised_frames(file)
        begin, slack = seconds_to_samples(u.start, rate), seconds_to_samples(TOLERANCE, rate)
        end = frames if u.duration is None else seconds_to_samples(stop, rate)
        if end > frames + slack or (frames and begin >= min(end, frames)):
            to = "" if u.duration is None else f" to {stop:g} s"
            what = f"lasts {frames / rate:.2f} s, but its cut is from {u.start:g} s{to}"
            raise AudioError(what, where, "Correct 'start' and 'duration' in the manifest")
        end = min(end, frames)
        try:
            file.seek(min(begin, file.frames))
            samples: Samples = file.read(end - begin, dtype="float32", always_2d=True)
        except soundfile.SoundFileError:  # a FLAC that breaks off
            what = "truncated or damaged: cannot be decoded to its end"
            raise AudioError(what, where, AGAIN) from None
        reached = begin + len(samples)
        if reached < end - (slack if u.duration is not None or file.format == "MP3" else 0):
            raise AudioError(f"truncated: breaks off at {reached / rate:.2f} s", where, AGAIN)
    if not samples.size:
        raise AudioError("empty: no samples", where, "Remove it")
    return _finite(samples, where), rate, frames / rate


def _finite(samples: Samples, where: str) -> Samples:
    if not np.isfinite(samples).all():
        raise AudioError("has samples that are not numbers (NaN or infinite)", where, AGAIN)
    return samples


def audio_info(utterance: Utterance) -> AudioInfo:
    """Read from the file's header. Raises AudioError: missing, empty file, not audio."""
    with opened(audio_path(utterance.audio, utterance.folder)) as file:
        rate = file.samplerate
        return AudioInfo(rate, file.channels, promised_frames(file) / rate)


def audio_path(audio: str, folder: Path) -> str:
    """`audio` of a manifest in `folder`, as a path (`archive.tar#member` kept)."""
    return str(folder / audio)


def promised_frames(file: soundfile.SoundFile) -> int:
    """Frames by the header. libsndfile reports those that are there of a truncated WAV or AIFF,
    but notes in its log `data : 32000 (should be 15978)`: promised and present bytes."""
    frames: int = file.frames
    if found := re.search(r"\b(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", file.extra_info):
        promised, present = int(found[1]), int(found[2])
        if present < promised < STREAM_BYTES:
            return max(frames + 1, frames * promised // max(present, 1))
    return frames


class _NeedsFFmpeg(Exception):
    """A file, no member of an archive, with something in it that soundfile cannot read."""


@contextmanager
def opened(where: str, convert: bool = True) -> Iterator[soundfile.SoundFile]:
    """The file open in soundfile, through ffmpeg if need be and `convert`, else _NeedsFFmpeg is
    raised. Raises AudioError."""
    path, member = split_audio(where)
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would block
    except OSError as error:
        what = f"cannot be opened ({error.strerror})"
        raise AudioError(what, where, "Correct the path") from None
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise AudioError("is a folder or a device, no file", where, "Give files")
        stored = None if member is None else io.BytesIO(_member(path, source, member))
        file = None
        with suppress(soundfile.SoundFileError):
            file = soundfile.SoundFile(stored or source, closefd=False)
        crashed = file and file.format == "WAV" and not file.frames  # the recorder, perhaps
        crashed = crashed and not stored and os.fstat(source).st_size > HEADER
        if file is None or crashed or file.frames > UNKNOWN_FRAMES:  # too many for soundfile
            if stored is None and os.fstat(source).st_size and not convert:
                raise _NeedsFFmpeg
            file = soundfile.SoundFile(_through_ffmpeg(path, stored, where))
        with file:
            yield file
    except OSError as error:
        raise AudioError(f"cannot be read ({error.strerror})", where) from None
    finally:
        os.close(source)


def _member(archive: str, source: int, member: str) -> bytes:
    """The bytes of a member of the tar archive open as `source`. Raises AudioError."""
    status, where = os.fstat(source), f"{archive}#{member}"
    members = _members(archive, status.st_size, status.st_mtime_ns)
    offset, size = members.get(os.path.normpath(member).lstrip("/"), (0, -1))
    if size < 0:
        raise AudioError("no such member in the archive", where)
    content = os.pread(source, size, offset)
    if len(content) < size:
        raise AudioError("truncated: the archive ends before it", where, AGAIN)
    return content


@functools.lru_cache(maxsize=256)
def _members(archive: str, size: int, mtime: int) -> dict[str, tuple[int, int]]:
    """{name: (offset, bytes)} of one state of an archive; of a truncated one, what is there."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for entry in filter(tarfile.TarInfo.isreg, tar):
                name = os.path.normpath(entry.name).lstrip("/")
                members[name] = (entry.offset_data, entry.size)
    except tarfile.TarError:
        if not members:
            raise AudioError("not a plain tar archive", archive, "Unpack it first") from None
    return members


def _through_ffmpeg(path: str, stored: io.BytesIO | None, where: str) -> io.BytesIO:
    """A WAV made by ffmpeg of a file, or of a member's bytes. Raises AudioError."""
    if not (stored.getbuffer().nbytes if stored else os.path.getsize(path)):
        raise AudioError("empty file", where, "Remove it")
    with tempfile.NamedTemporaryFile(suffix=".audio") as copy:  # some formats need to seek
        if stored:
            copy.write(stored.getbuffer())
            copy.flush()
        command = _ffmpeg(copy.name if stored else path, where)
        command += ["-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise _not_audio(done.stderr, where)
    return io.BytesIO(done.stdout)


def _not_audio(told: bytes, where: str) -> AudioError:
    """What to raise where ffmpeg gave nothing but these messages."""
    if b"matches no streams" in told:
        return AudioError("has no audio track", where, "Leave it out")
    return AudioError("not audio that soundfile or ffmpeg can read", where, AGAIN)


def _ffmpeg(path: str, where: str, filters: str = IN_TIME) -> list[str]:
    """What makes ffmpeg read the first audio track of a file. Raises AudioError without ffmpeg."""
    program = shutil.which("ffmpeg")
    if program is None:
        remedy = "Install ffmpeg, or convert to WAV or FLAC"
        raise AudioError("not audio that soundfile can read", where, remedy)
    # the whitelist: a playlist named .wav must not make ffmpeg open addresses
    command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe"]
    command += ["-i", f"file:{path}"]
    with open(path, "rb") as file:
        head = file.read(5)
    if b"G" in (head[:1], head[4:]) or head[:4] == b"\0\0\1\xba":  # .ts, .m2ts, .mpg
        command += WITH_PICTURE
    return [*command, "-map", "0:a:0", "-af", filters]


def read_blocks(audio: str | Path, sample_rate: int, skip: int) -> Iterator[Samples]:
    """Mono samples (N,) at `sample_rate` Hz, block by block, but for the first `skip`. Raises
    AudioError as `load`, where the fault is reached."""
    for block in _blocks(str(audio), sample_rate):
        _finite(block, str(audio))
        if skip < len(block):
            yield block[skip:]
        skip = max(0, skip - len(block))


def _blocks(where: str, sample_rate: int) -> Iterator[Samples]:
    try:
        yield from _from_soundfile(where, sample_rate)
    except _NeedsFFmpeg:
        yield from _from_ffmpeg(where, sample_rate)


def duration(audio: str | Path) -> float | None:
    """Seconds by the file's header; None where nothing says so."""
    with suppress(OSError, soundfile.SoundFileError):
        return float(soundfile.info(os.fsencode(audio)).duration)
    if program := shutil.which("ffprobe"):
        command = [program, "-v", "error", "-protocol_whitelist", "file", "-show_entries"]
        command += ["format=duration", "-of", "csv=p=0", f"file:{audio}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        with suppress(ValueError):
            return float(done.stdout)
    return None


def _from_soundfile(where: str, sample_rate: int) -> Iterator[Samples]:
    with opened(where, convert=False) as file:
        rate, frames, done = file.samplerate, file.frames, 0
        if not (promised := promised_frames(file)):
            raise AudioError("empty: no samples", where, "Remove it")
        resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        while done < frames:  # what is written meanwhile to a file that grows is not read
            try:
                block = file.read(int(BLOCK * rate), dtype="float32", always_2d=True)
            except soundfile.SoundFileError:  # a FLAC that breaks off
                block = np.empty((0, 1), np.float32)
            if not len(block) and file.format != "MP3":  # whose length is an estimate
                break
            done = done + len(block) if len(block) else frames
            mono = block.mean(1)
            yield mono if rate == sample_rate else resampler.resample_chunk(mono, done >= frames)
        if done < promised:
            raise AudioError(f"truncated: breaks off at {done / rate:.2f} s", where, AGAIN)


def _from_ffmpeg(where: str, sample_rate: int) -> Iterator[Samples]:
    size, done = 4 * int(BLOCK * sample_rate), 0
    mono = f"{IN_TIME}:osr={sample_rate}:ochl=mono:rematrix_maxval=1"  # 1: the mean, not a sum
    command = [*_ffmpeg(where, where, mono), "-f", "f32le", "pipe:1"]
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
        raise _not_audio(messages, where)
