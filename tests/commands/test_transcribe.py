"""Long recordings, every output read by another program, what input may be, and continuing."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
import torch

import asr
from asr.cli import cli
from asr.data.corpora.folder import import_folder
from asr.data.segment import segments
from asr.decoding.recording import Event, Recording
from asr.errors import AudioError, InputError
from asr.formats import WRITERS
from asr.hypothesis import Hypothesis, join_words, split_words
from asr.models.encoder import EncoderOptions
from asr.models.frontend import FrontendOptions
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.text.tokenizer import Tokenizer
from asr.transcriber import Transcriber

RATE = 8000
TEXTS = {"latin": ["one two", "two one", "it's on"], "chinese": ["一会儿", "中文和水", "你好吗"]}


def bursts(count: int, seed: int) -> np.ndarray:
    """Noise of changing colour, as changing as speech, with pauses of up to 1.5 s."""
    draw = np.random.default_rng(seed)
    parts = [np.zeros(400)]
    for _ in range(count):
        noise = draw.standard_normal(draw.integers(2000, 16000))
        colour = np.convolve(noise, draw.standard_normal(12), "same")
        parts += [0.2 * colour / np.abs(colour).max(), np.zeros(draw.integers(800, 12000))]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models of Latin and of Chinese characters, and a recording of two minutes."""
    folder = tmp_path_factory.mktemp("transcribe")
    for name, texts in TEXTS.items():
        torch.manual_seed(3)
        tokenizer = Tokenizer.train("char", texts)
        options = RecognizerOptions(
            sample_rate=RATE,
            frontend=FrontendOptions(channels=16),
            encoder=EncoderOptions(layers=1, size=16),
        )
        recognizer = Recognizer(options, tokenizer.size)
        recognizer.save(folder / name)
        tokenizer.save(folder / name)
    soundfile.write(folder / "talk.wav", bursts(80, 1), RATE)
    return folder


def run(*arguments: object) -> int:
    """Exit status of `asr transcribe` in this process."""
    try:
        given = [*map(str, arguments), "--beam", "1", "--threads", "1"]
        cli.main(["transcribe", *given], standalone_mode=False)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.mark.parametrize("language", list(TEXTS))
def test_other_programs_read_the_outputs(
    language: str, place: Path, tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    ffmpeg, sctk = need_tool("ffmpeg"), need_tool("sctk")
    formats = "txt,srt,vtt,json,ctm,trn,tsv"
    assert run(place / language, place / "talk.wav", "-f", formats, "-o", tmp_path) == 0
    assert {path.suffix[1:] for path in tmp_path.iterdir()} == set(formats.split(","))
    lines = (tmp_path / "talk.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 5
    text = join_words(lines)
    assert len(split_words(text)) > 20
    if language == "chinese":
        assert " " not in text
    for suffix in ("srt", "vtt"):
        command = [ffmpeg, "-v", "error", "-i", tmp_path / f"talk.{suffix}", "-f", "srt", "-"]
        shown = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
        cues = [block.split("\n", 2)[1:] for block in shown.strip().split("\n\n")]
        assert split_words(" ".join(text for _, text in cues)) == split_words(text)
        if suffix == "srt":
            assert shown.strip() == (tmp_path / "talk.srt").read_text(encoding="utf-8").strip()
    with open(tmp_path / "talk.tsv", encoding="utf-8", newline="") as file:
        labels = list(csv.reader(file, "excel-tab"))
    assert split_words(" ".join(label for _, _, label in labels)) == split_words(text)
    assert all(0 <= float(start) < float(end) for start, end, _ in labels)
    record = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert record["text"] == text
    times = [word["start"] for word in record["words"]]
    assert times == sorted(times)
    assert max(times) > 60
    (tmp_path / "talk.wav").symlink_to(place / "talk.wav")
    [prepared] = import_folder(tmp_path, [])  # the lines joined again
    assert prepared.text == text
    # sclite finds every word of the CTM within the recording, and no other
    words = [word["word"] for word in record["words"]]
    (tmp_path / "ref.stm").write_text(f"talk 1 spk 0 1000 {' '.join(words)}\n", encoding="utf-8")
    (tmp_path / "ref.trn").write_text(f"{text} (talk-)\n", encoding="utf-8")
    for kind, reference in (("ctm", "ref.stm stm"), ("trn", "ref.trn trn -i swb")):
        command = [sctk, "sclite", "-e", "utf-8", "-r", *reference.split()]
        command += ["-h", f"talk.{kind}", kind, "-o", "rsum", "stdout"]
        shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True,
                               encoding="utf-8").stdout  # fmt: skip
        [total] = [line.split() for line in shown.splitlines() if "Sum" in line and "|" in line]
        counts = [int(field) for field in total if field.isdigit()]
        size = len(words) if kind == "ctm" else len(text.split())
        assert counts[1:7] == [size, size, 0, 0, 0, 0]
    _, minutes, seconds = cues[-1][0].split(" --> ")[1].replace(",", ".").split(":")
    assert 60 * int(minutes) + float(seconds) <= soundfile.info(place / "talk.wav").duration


def test_standard_input_and_video(
    place: Path, tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    video = tmp_path / "film.mkv"
    command = [need_tool("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:r=1"]
    command += ["-i", place / "talk.wav", "-shortest", "-c:a", "pcm_s16le", video]
    subprocess.run(command, check=True)
    assert run(place / "latin", video, place / "talk.wav", "-o", tmp_path) == 0
    expected = (tmp_path / "talk.txt").read_text()
    found = (tmp_path / "film.txt").read_text()
    assert found[:100] == expected[:100]
    command = [sys.executable, "-m", "asr", "transcribe", place / "latin", "-", "--beam", "1"]
    with open(video, "rb") as stream:
        shown = subprocess.run(command, stdin=stream, capture_output=True, encoding="utf-8")
    assert shown.stdout == f"-\t{' '.join(found.splitlines())}\n", shown.stderr


def test_names(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spaces, quotes, line breaks, Chinese, markup, bytes that are no text."""
    names = ["a b", 'it\'s "x"', "line\nbreak", "会 议", "<script>alert(1)", "-dash", "\udcff"]
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in names:
        (source / f"{name}.wav").symlink_to(place / "talk.wav")
    formats = "txt,srt,vtt,json,ctm,trn,tsv,kaldi"
    files = [source / f"{name}.wav" for name in names]
    assert run(place / "latin", *files, "-f", formats, "-o", out) == 0
    assert len(list(out.iterdir())) == len(names) * 8
    for name in names:
        record = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        assert record["id"] == "_".join(name.replace("\udcff", "\ufffd").split())
        [line] = (out / f"{name}.trn").read_text(encoding="utf-8").splitlines()
        assert line.endswith(")")
    assert run(place / "latin", *files) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(names)


def test_recordings_with_nothing_to_hear(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Silent, of three samples, of none, clipped, of other rates, a folder, a loop of links."""
    sounds = {"silent": np.zeros(99_000), "three": np.zeros(3), "clipped": 40 * bursts(3, 2)}
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples.clip(-1, 1), RATE)
    soundfile.write(tmp_path / "fast.wav", np.tile(bursts(9, 3), (2, 1)).T, 44_100)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    (tmp_path / "folder.wav").mkdir()
    out = tmp_path / "out"
    files = sorted(tmp_path.glob("*.wav"))
    assert run(place / "latin", *files, "-o", out, "-f", "txt,srt,json") == 3
    told = capsys.readouterr().err
    assert "skipped 3 of 7 files" in told
    assert f"{tmp_path / 'empty.wav'}: empty" in told
    assert "loop.wav: cannot be opened (Too many levels of symbolic links)" in told
    assert "folder.wav: " in told
    for name in ("silent", "three"):
        assert f"{tmp_path / name}.wav: no speech found" in told
        assert (out / f"{name}.txt").read_text() == "\n"
        assert (out / f"{name}.srt").read_text() == ""
    for name in ("clipped", "fast"):
        assert (out / f"{name}.txt").exists()
    assert not list(out.glob(".*"))
    for nothing in ("nowhere.wav", "empty.wav"):
        with pytest.raises(InputError, match=r"none of the files can be used: .*(Correct|Remove)"):
            run(place / "latin", tmp_path / nothing)
        assert "0 of 1" not in capsys.readouterr().err
    with pytest.raises(InputError, match=r"nowhere\.wav"):  # before the model is looked for
        run(place / "no model", tmp_path / "nowhere.wav")


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_recordings_that_break_off(
    kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was decoded of them is written, and where they end is said."""
    whole = tmp_path / f"whole.{kind}"
    soundfile.write(whole, soundfile.read(place / "talk.wav")[0], RATE)
    content = whole.read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) * 2 // 3])
    assert run(place / "latin", tmp_path / f"cut.{kind}", "-o", tmp_path, "-f", "json") == 3
    reason = r"truncated: breaks off at \d+\.\d\d s\. .* What comes before is transcribed"
    assert re.search(rf"skipped 1 of 1 file:\n  .*cut\.{kind}: {reason}", capsys.readouterr().err)
    assert run(place / "latin", whole, "-o", tmp_path, "-f", "json") == 0
    found, expected = (
        [word["word"] for word in json.loads((tmp_path / f"{name}.json").read_text())["words"]]
        for name in ("cut", "whole")
    )
    assert len(found) > len(expected) // 2
    assert found[:-9] == expected[: len(found) - 9]
    assert not list(tmp_path.glob(".*"))


def test_places_that_cannot_be_used(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, message in (
        (tmp_path / "file", r"file: is not a folder\. -o takes the folder"),
        (tmp_path / "file" / "below", r"cannot be written \(.*\)\. Choose another place"),
        (Path("/proc/none"), r"cannot be written \(.*\)\. Choose another place"),
    ):
        with pytest.raises(InputError, match=message):
            run(place / "latin", place / "talk.wav", "-o", folder)
    other = tmp_path / "talk.flac"
    other.write_bytes(b"")
    with pytest.raises(InputError, match=r"talk\.flac: would be written over .*talk\.wav"):
        run(place / "latin", place / "talk.wav", other, "-o", tmp_path / "out")
    for name in ("é" * 125, "x" * 249):
        soundfile.write(tmp_path / f"{name}.wav", bursts(2, 1), RATE)
    with pytest.raises(InputError, match=r"é\.wav: its name is too long for its outputs"):
        run(place / "latin", *tmp_path.glob("?" * 99 + "*.wav"), "-o", tmp_path / "long")
    assert run(place / "latin", tmp_path / f"{name}.wav", "-o", tmp_path, "-f", "kaldi") == 0
    soundfile.write(tmp_path / "own.wav", bursts(2, 1), RATE)
    (tmp_path / "own.txt").write_text("by hand")
    with pytest.raises(InputError, match=r"own\.txt: lies beside .*own\.wav and would be written"):
        run(place / "latin", tmp_path / "own.wav", "-o", tmp_path)
    assert (tmp_path / "own.txt").read_text() == "by hand"
    assert run(place / "latin", tmp_path / "own.wav", "-f", "srt", "-o", tmp_path) == 0


def test_stopped_and_started_again(place: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of the second file; the same command continues to the same result."""
    samples = np.concatenate([bursts(300, 4), bursts(300, 5)])
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
    out, whole = tmp_path / "out", tmp_path / "whole"
    files, options = [tmp_path / "a.wav", tmp_path / "b.wav"], ["-f", "json,txt"]
    assert run(place / "latin", *files, *options, "-o", whole) == 0
    command = [sys.executable, "-m", "asr", "transcribe", place / "latin", *files, *options]
    command += ["-o", out, "--beam", "1", "--threads", "2"]  # to be continued by one
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not any('b.wav", "state"' in path.read_text() for path in out.glob(".*.jsonl")):
        assert started.poll() is None, started.stderr and started.stderr.read()
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    told = started.communicate()[1]
    assert started.returncode == 130, told
    assert "the same command continues" in told
    assert (out / "a.txt").exists()
    if (out / "b.txt").exists():
        pytest.skip("it was faster than the signal")
    (out / "a.txt").unlink()  # made again, though it was done
    assert run(place / "latin", *files, *options, "-o", out) == 0
    assert not list(out.glob(".*"))
    for name in ("a", "b"):
        assert (out / f"{name}.txt").read_text() == (whole / f"{name}.txt").read_text()
        found, expected = (json.loads((f / f"{name}.json").read_text()) for f in (out, whole))
        assert found["words"] == expected["words"]  # scores depend on the batch by 1e-6


def test_stopped_before_and_after_the_first_part(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is decoded of a file is printed on Ctrl-C, and that it is nothing is said."""
    decode = Transcriber.decode_recordings
    whole = asr.load(place / "latin", beam=1).transcribe(place / "talk.wav").text

    def stopped(self: Transcriber, recordings: Iterable[Recording]) -> Iterator[Event]:
        yield from itertools.islice(decode(self, recordings), parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(Transcriber, "decode_recordings", stopped)
    for parts in (0, 5):
        with pytest.raises(click.Abort):  # which the entry point ends with status 130
            run(place / "latin", place / "talk.wav")
        shown = capsys.readouterr()
        assert ("nothing is decoded yet" in shown.err) == (parts == 0)
        text = shown.out.partition("\t")[2].strip()
        assert whole.startswith(text)
        assert bool(text) == (parts > 0)


def test_from_python(place: Path) -> None:
    transcriber = asr.load(place / "latin", beam=1)
    path = place / "talk.wav"
    samples = transcriber.read(path)
    whole = transcriber.transcribe(path).words
    assert whole[-1].end > 60
    for source in (str(path), samples):
        assert transcriber.transcribe(source).words == whole
    found = transcriber.transcribe([samples, path, samples[:0]])
    assert [one.words for one in found] == [whole, whole, []]
    lazily = transcriber.transcribe(iter([path, samples]))
    assert next(lazily).words == whole
    assert [one.words for one in lazily] == [whole]
    for wrong, message in (
        (np.full(999, np.nan, np.float32), "not numbers"),
        (np.zeros((2, 999), np.float32), r"of the shape \(2, 999\), not \(N,\)"),
        (np.zeros(999, np.int16), r"of the type int16, .* samples / 32768"),
        ((samples, 44_100), "tuple is neither a path nor a numpy array.* a list or a generator"),
        (samples[:9].tolist(), "float is neither a path"),
    ):
        with pytest.raises(AudioError, match=message):
            transcriber.transcribe(wrong)  # type: ignore[call-overload]


def test_align(place: Path) -> None:
    """The times of what was recognised are those that recognising gave, those of other texts what
    `asr align` writes; from a file and an array."""
    with pytest.raises(InputError, match="threads: is -1, not 1 or more"):
        asr.load(place / "latin", threads=-1)
    transcriber = asr.load(place / "latin", beam=np.int64(1))
    samples = transcriber.read(place / "talk.wav")[: 8 * RATE]
    part = max(segments([samples], RATE), key=lambda one: len(one.samples)).samples
    [[found]] = transcriber.decode([part])
    assert found.words
    assert transcriber.align(part, f" {found.text.upper()}!") == found.words
    soundfile.write(place / "short.wav", samples, RATE, subtype="FLOAT")
    record = {"id": "x", "audio": "short.wav", "text": "two one it's on"}
    (place / "x.jsonl").write_text(json.dumps(record))
    cli.main(
        ["align", str(place / "latin"), str(place / "x.jsonl"), "-o", str(place / "x.ctm")],
        standalone_mode=False,
    )
    (place / "x.jsonl").write_text(json.dumps(record | {"id": "../evil"}))
    names = ["-o", str(place / "y.ctm"), "--pictures", str(place / "pictures")]
    cli.main(["align", str(place / "latin"), str(place / "x.jsonl"), *names], standalone_mode=False)
    assert [path.name for path in (place / "pictures").iterdir()] == [".._evil.png"]
    words = transcriber.align(place / "short.wav", record["text"])
    assert WRITERS["ctm"](Hypothesis("", words=words), "x") == (place / "x.ctm").read_text()
    assert [word.word for word in words] == record["text"].split()
    with pytest.raises(InputError, match=r"tokens lack characters of the text: x z\. Write"):
        transcriber.align(samples, "one zx")
    with pytest.raises(InputError, match="has no text"):
        transcriber.align(samples, "?")
    with pytest.raises(InputError, match="the text is list, no string"):
        transcriber.align(samples, ["two"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="too short for its text"):
        transcriber.align(samples[:RATE], "one two " * 20)


def test_vad(place: Path, tmp_path: Path) -> None:
    """Bursts of noise are speech by their levels, and none to a network."""
    assert run(place / "latin", place / "talk.wav", "--vad", "silero", "-o", tmp_path) == 0
    assert (tmp_path / "talk.txt").read_text() == "\n"
    with pytest.raises(InputError, match="no detector 'loud'"):
        asr.load(place / "latin", vad="loud")


@pytest.mark.slow
def test_ten_thousand_files(place: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", bursts(1, 6)[:4000], RATE)
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(10_000):
        os.link(tmp_path / "x.wav", source / f"{number}.wav")
    assert run(place / "latin", *source.iterdir(), "-o", out) == 0
    assert len({path.read_text() for path in out.iterdir()}) == 1
    assert len(list(out.iterdir())) == 10_000
