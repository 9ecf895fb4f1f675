"""Audio of every kind: rates, channels, cuts, archives, and files that are broken."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from asr.data import audio
from asr.data.audio import Samples, audio_info, load, read_audio, read_blocks, seconds_to_samples
from asr.data.manifest import Manifest, Utterance
from asr.errors import AudioError

RATE = 16000


@pytest.fixture
def noise() -> Samples:
    return (np.random.default_rng(1).standard_normal(RATE) * 0.1).astype(np.float32)


def tone(rate: int, seconds: float = 1.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype("f4")


def test_samples_are_those_of_the_file(tmp_path: Path, noise: Samples) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise, RATE, subtype="PCM_16")
    with wave.open(str(path)) as reference:
        expected = np.frombuffer(reference.readframes(RATE), "<i2") / 32768
    got = read_audio(path, RATE)
    assert got.dtype == np.float32
    assert got.shape == (RATE,)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3", "x.aiff", "x.w64", "x.au"])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_any_format_rate_and_channel_count(tmp_path: Path, name: str, rate: int) -> None:
    left, right = tone(rate), np.zeros(rate, np.float32)
    soundfile.write(tmp_path / name, np.stack([left, right], 1), rate)
    got = read_audio(name, RATE, folder=tmp_path)
    assert abs(len(got) - RATE) <= 1
    middle = slice(RATE // 4, 3 * RATE // 4)
    error = got[middle] - tone(RATE)[middle] / 2  # channels averaged
    assert np.sqrt(np.mean(error**2)) < 0.01
    assert audio_info(Utterance("x", name, tmp_path)) == (rate, 2, pytest.approx(1.0))


def test_resampling_agrees_with_librosa(tmp_path: Path, noise: Samples) -> None:
    soundfile.write(tmp_path / "x.wav", noise, RATE, subtype="FLOAT")
    expected = librosa.resample(noise, orig_sr=RATE, target_sr=8000, res_type="soxr_hq")
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav", 8000), expected, atol=1e-5)


def test_rounding_rule() -> None:
    assert [seconds_to_samples(s, 10) for s in (0.0, 0.04, 0.05, 0.149, 1.05)] == [0, 0, 1, 1, 11]


def test_adjoining_cuts_make_the_whole(tmp_path: Path, noise: Samples) -> None:
    path = tmp_path / "x.flac"
    soundfile.write(path, noise, RATE, subtype="PCM_16")
    edges = np.sort(np.random.default_rng(2).uniform(0, 1, 9)).round(4)
    edges = [0.0, *edges.tolist(), 1.0]
    spans = itertools.pairwise(edges)
    cuts = [read_audio(path, RATE, start, end - start) for start, end in spans]
    np.testing.assert_array_equal(np.concatenate(cuts), read_audio(path, RATE))
    np.testing.assert_array_equal(
        read_audio(path, RATE, start=0.75), read_audio(path, RATE)[12000:]
    )


def test_a_cut_does_not_decode_the_whole_file(
    tmp_path: Path, noise: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "x.flac", np.tile(noise, 60), RATE)
    decoded = []
    read = soundfile.SoundFile.read

    def counted(self: soundfile.SoundFile, frames: int, **options: object) -> Samples:
        decoded.append(frames)
        samples: Samples = read(self, frames, **options)
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert len(read_audio(tmp_path / "x.flac", RATE, 30.0, 0.5)) == sum(decoded) == 8000


def archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def flac(samples: Samples, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def test_archive_members(tmp_path: Path, noise: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / "a.tar", {"./one.flac": flac(noise), "d/two.flac": flac(-noise)})
    opened = []
    scan = tarfile.open

    def counted(*arguments: object) -> tarfile.TarFile:
        opened.append(arguments)
        return scan(*arguments)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(tarfile, "open", counted)
    one = read_audio("a.tar#one.flac", RATE, folder=tmp_path)
    two = read_audio("a.tar#d/two.flac", RATE, 0.25, 0.5, folder=tmp_path)
    np.testing.assert_allclose(one, noise, atol=2**-15)
    np.testing.assert_allclose(two, -noise[4000:12000], atol=2**-15)
    assert len(opened) == 1  # offsets are kept
    archive(tmp_path / "a.tar", {"one.flac": flac(noise[:5000])})  # another state of the archive
    assert len(read_audio("a.tar#one.flac", RATE, folder=tmp_path)) == 5000
    with pytest.raises(AudioError, match=r"a.tar#three.flac: no such member"):
        read_audio("a.tar#three.flac", RATE, folder=tmp_path)


def test_broken_archives(tmp_path: Path, noise: Samples) -> None:
    archive(tmp_path / "a.tar", {"one.flac": flac(noise), "two.flac": flac(noise)})
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(flac(noise)) + 3000])
    assert len(read_audio(f"{tmp_path}/cut.tar#one.flac", RATE)) == RATE
    with pytest.raises(AudioError, match=r"truncated|no such member"):
        read_audio(f"{tmp_path}/cut.tar#two.flac", RATE)
    (tmp_path / "text.tar").write_text("no archive\n" * 100)
    with pytest.raises(AudioError, match="not a plain tar archive"):
        read_audio(f"{tmp_path}/text.tar#one.flac", RATE)
    with pytest.raises(AudioError, match="No such file"):
        read_audio(f"{tmp_path}/none.tar#one.flac", RATE)


def test_missing_empty_and_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), RATE)
    (tmp_path / "text.wav").write_text("not audio at all\n" * 50)
    (tmp_path / "list.wav").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.wav\n")
    for path in (os.environ["PATH"], ""):  # with ffmpeg, where it is installed, and without
        monkeypatch.setenv("PATH", path)
        for name, message in {
            ".": "is a folder",
            "pipe.wav": "no file",  # and nobody waits for what may never come
            "gone.wav": r"cannot be opened \(No such file or directory\)",
            "empty.wav": "empty file",
            "none.wav": "no samples",
            "text.wav": "not audio",
            "list.wav": "not audio",
        }.items():
            with pytest.raises(AudioError, match=message) as caught:
                read_audio(name, RATE, folder=tmp_path)
            assert caught.value.where == str(tmp_path / name)
    assert "Install ffmpeg" in str(caught.value)


@pytest.mark.parametrize("name", ["x.wav", "f.wav", "x.flac", "x.aiff", "x.ogg", "x.mp3"])
@pytest.mark.parametrize("share", [0.95, 0.5, 0.02])
def test_truncated(tmp_path: Path, noise: Samples, name: str, share: float) -> None:
    path = tmp_path / name
    soundfile.write(path, noise, RATE, subtype="FLOAT" if name == "f.wav" else None)
    assert len(read_audio(path, RATE)) == RATE
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AudioError) as caught:
        # an OGG stream has no length at its beginning: only the manifest can tell
        read_audio(path, RATE, duration=1.0 if name == "x.ogg" else None)
    assert caught.value.remedy
    assert not caught.value.what.startswith("not audio") or share == 0.02


def test_the_part_before_the_break_is_usable(tmp_path: Path, noise: Samples) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise, RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:16044])
    np.testing.assert_allclose(read_audio(path, RATE, 0.1, 0.3), noise[1600:6400], atol=2**-15)
    with pytest.raises(AudioError, match=r"truncated: breaks off at 0.50 s"):
        read_audio(path, RATE, 0.1, 0.6)


def test_wav_from_a_pipe_promises_nothing(tmp_path: Path, noise: Samples) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise, RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path, RATE)) == RATE


def test_times_beyond_the_end(tmp_path: Path, noise: Samples) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise, RATE)
    assert len(read_audio(path, RATE, 0.5, 0.5 + audio.TOLERANCE - 0.001)) == 8000
    with pytest.raises(AudioError, match=r"lasts 1.00 s, but its cut is from 0.5 s to 1.06 s"):
        read_audio(path, RATE, 0.5, 0.56)
    with pytest.raises(AudioError, match=r"lasts 1.00 s, but its cut is from 1.2 s\. Correct"):
        read_audio(path, RATE, start=1.2)
    with pytest.raises(AudioError, match=r"its cut is from 0.5 s to 0.5 s\. Correct 'start'"):
        read_audio(path, RATE, 0.5, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, noise: Samples, value: float) -> None:
    noise[-3] = value
    soundfile.write(tmp_path / "x.wav", noise, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"not numbers \(NaN or infinite\)"):
        read_audio(tmp_path / "x.wav", RATE)
    assert len(read_audio(tmp_path / "x.wav", RATE, 0, 0.5)) == 8000


def test_times_of_a_track_are_those_of_its_video(
    tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    """A sound track that begins a second late, also where the times of all tracks begin later; a
    WAV whose recorder crashed before it wrote how long it is."""
    tone = 0.5 * np.sin(np.arange(RATE) * 0.2)
    soundfile.write(tmp_path / "x.wav", tone, RATE)
    command = [need_tool("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:r=5"]
    command += ["-itsoffset", "1", "-i", "x.wav", "-t", "2", "-c:v", "mpeg2video", "-r", "25"]
    for name, codec in {"mkv": "pcm_s16le", "ts": "mp2", "m2ts": "ac3", "mpg": "mp2"}.items():
        late = tmp_path / f"late.{name}"
        subprocess.run([*command, "-c:a", codec, late], check=True, cwd=tmp_path)
        for samples in (read_audio(late, RATE), np.concatenate([*read_blocks(late, RATE, 0)])):
            assert len(samples) == pytest.approx(2 * RATE, abs=RATE // 20)
            assert np.flatnonzero(np.abs(samples) > 0.1)[0] == pytest.approx(RATE, abs=RATE // 20)
    subprocess.run([*command[:3], "-i", "x.wav", "only.ts"], check=True, cwd=tmp_path)
    assert len(read_audio(tmp_path / "only.ts", RATE)) == pytest.approx(RATE, abs=RATE // 20)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = bytes(4)
    (tmp_path / "crashed.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "crashed.wav", RATE)) == RATE
    assert sum(map(len, read_blocks(tmp_path / "crashed.wav", RATE, 0))) == RATE


def test_ffmpeg_reads_what_soundfile_cannot(
    tmp_path: Path, need_tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ffmpeg = need_tool("ffmpeg")
    soundfile.write(tmp_path / "x.wav", tone(44100), 44100)
    for name in ("x.m4a", "pipe.flac"):  # a FLAC of unknown length
        output = ["-f", "flac", "pipe:1"] if name == "pipe.flac" else [str(tmp_path / name)]
        done = subprocess.run(
            [ffmpeg, "-v", "error", "-i", str(tmp_path / "x.wav"), *output],
            capture_output=True,
            check=True,
        )
        if done.stdout:
            (tmp_path / name).write_bytes(done.stdout)
        got = read_audio(tmp_path / name, RATE, 0.25, 0.5)
        assert np.sqrt(np.mean((got - tone(RATE)[4000:12000]) ** 2)) < 0.03
        archive(tmp_path / "a.tar", {name: (tmp_path / name).read_bytes()})
        np.testing.assert_array_equal(read_audio(f"{tmp_path}/a.tar#{name}", RATE, 0.25, 0.5), got)
        with monkeypatch.context() as without:
            without.setenv("PATH", "")
            with pytest.raises(AudioError, match="Install ffmpeg"):
                read_audio(tmp_path / name, RATE)


def test_real_recordings(asr_data: Path) -> None:
    for corpus in ("fsdd/manifest.train.jsonl", "yesno/manifest.test.jsonl"):
        manifest = Manifest.open(asr_data / corpus)
        for utterance in manifest[:: len(manifest) // 10]:
            samples = load(utterance, RATE)
            assert utterance.duration is not None
            assert len(samples) / RATE == pytest.approx(utterance.duration, abs=1e-3)
            assert 0.001 < np.abs(samples).max() <= 1.1
