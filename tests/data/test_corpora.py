"""Importers, through `asr prepare` where its messages and exit status count."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.data.audio import load
from asr.data.corpora import common, fsdd
from asr.data.corpora.folder import import_folder
from asr.data.corpora.kaldi import import_kaldi
from asr.data.corpora.table import import_table
from asr.data.manifest import Manifest, Utterance
from asr.errors import InputError

RATE = 8000
Run = Callable[..., subprocess.CompletedProcess[str]]


def sound(path: Path, seconds: float = 0.5, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).standard_normal(int(RATE * seconds)) * 0.05
    soundfile.write(path, samples.astype(np.float32), RATE)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two speakers with two recordings each, one without a speaker."""
    folder = tmp_path / "in"
    for name in ("anna/x.wav", "anna/y.flac", "bert/sub/x.wav", "bert/z.WAV", "alone.ogg"):
        sound(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"\ufeffSaid  in\n{name} ß\n", "utf-8")
    return folder


def test_folder(recordings: Path, tmp_path: Path, run_asr: Run) -> None:
    done = run_asr("prepare", "folder", recordings, "-o", tmp_path / "out")
    assert (done.returncode, done.stderr.count("skipped")) == (0, 0), done.stderr
    manifest = Manifest.open(tmp_path / "out/manifest.train.jsonl")
    assert {u.id: u.speaker for u in manifest} == {
        "alone": None,
        "anna/x": "anna",
        "anna/y": "anna",
        "bert/z": "bert",
        "bert/sub/x": "bert",
    }
    (said,) = (utterance for utterance in manifest if utterance.id == "anna/y")
    assert said.text == "Said in anna/y.flac ß"
    assert said.duration == 0.5
    assert all(len(load(u, RATE)) == RATE // 2 for u in manifest)
    assert "5 utterances, 2 speakers" in done.stdout


def test_of_recordings_of_one_name_the_wave_is_taken(
    recordings: Path, tmp_path: Path, run_asr: Run
) -> None:
    sound(recordings / "anna/y.wav")
    done = run_asr("prepare", "folder", recordings, "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "anna/y.flac: anna/y.wav has the same name" in done.stderr
    found = {u.id: u.audio for u in Manifest.open(tmp_path / "out/manifest.train.jsonl")}
    assert found["anna/y"].endswith("anna/y.wav")


def test_sets_from_before_that_hold_the_same_are_named(
    recordings: Path, tmp_path: Path, run_asr: Run
) -> None:
    """Else what was the test set yesterday is trained on today."""
    for share in ("0.4", "0"):
        done = run_asr("prepare", "folder", recordings, "-o", tmp_path / "out", "--test", share)
    old = tmp_path / "out/manifest.test.jsonl"
    number = len(Manifest.open(old))
    message = f"warning: {old}, from before, holds {number} of these utterances: remove it"
    assert (done.returncode, message in done.stderr) == (0, True), done.stderr
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{train: [{old}], dev: [{old}]}}\ntrain: {{epochs: 1, threads: 1}}\n")
    done = run_asr("train", config, "-o", tmp_path / "exp")
    assert f"warning: {old} is marked as a test set, and trained on" in done.stderr
    assert f"warning: {old} is in data.dev too" in done.stderr


def test_whole_speakers_are_more_than_was_asked_for(tmp_path: Path, run_asr: Run) -> None:
    for speaker, number in itertools.product("abcd", range(4)):
        sound(tmp_path / "in" / speaker / f"{number}.wav")
        (tmp_path / "in" / speaker / f"{number}.txt").write_text("said")
    done = run_asr("prepare", "folder", tmp_path / "in", "-o", tmp_path / "out", "--dev", "0.1")
    assert "warning: dev got 25%, not 10%: it takes whole speakers" in done.stderr
    assert done.returncode == 0
    assert "too few speakers" not in done.stderr


def test_speakers_too_few_for_sets_of_their_own(tmp_path: Path, run_asr: Run) -> None:
    for speaker, number in itertools.product(["ann", "bob"], range(10)):
        sound(tmp_path / "in" / speaker / f"{number}.wav")
        (tmp_path / "in" / speaker / f"{number}.txt").write_text("said")
    done = run_asr("prepare", "folder", tmp_path / "in", "-o", tmp_path / "out", "--dev", "0.5")
    sets = [Manifest.open(tmp_path / f"out/manifest.{name}.jsonl") for name in ("train", "dev")]
    assert all({u.speaker for u in one} == {"ann", "bob"} for one in sets)
    assert "warning: too few speakers, so that sets share some (" in done.stderr
    assert "  Name the speakers by a subfolder for each." in done.stderr.splitlines()


def test_folder_skips_and_lists_single_bad_items(
    recordings: Path, tmp_path: Path, run_asr: Run
) -> None:
    sound(recordings / "anna/untold.wav")
    sound(recordings / "anna/x.flac")
    (recordings / "bert/z.WAV").write_text("text, not audio")
    (recordings / "alone.txt").write_bytes(b"\xff\xfe")
    (recordings / "anna/y.txt").write_text(" \n")
    (recordings / "anna/lost.txt").write_text("no recording")
    (recordings / "anna/x.txt").rename(recordings / "anna/x.TXT")
    done = run_asr("prepare", "folder", recordings, "-o", tmp_path / "out")
    assert done.returncode == 3
    for line in (
        "skipped 6 of 8 utterances",
        "anna/untold.wav: no untold.txt beside it",
        "bert/z: ",
        "alone.ogg: ",
        "anna/x.flac: anna/x.wav has the same name",
        "anna/y.flac: y.txt is empty",
        "anna/lost.txt: no recording beside it",
    ):
        assert line in done.stderr
    assert [row["id"] for row in rows(tmp_path / "out/manifest.train.jsonl")] == [
        "anna/x",
        "bert/sub/x",
    ]


def test_nothing_usable_is_a_mistake(tmp_path: Path, run_asr: Run) -> None:
    (tmp_path / "in").mkdir()
    done = run_asr("prepare", "folder", tmp_path / "in", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "no recording with a text file. Put x.txt beside each x.wav" in done.stderr
    (tmp_path / "in/x.wav").write_text("no audio")
    (tmp_path / "in/x.txt").write_text("said")
    done = run_asr("prepare", "folder", tmp_path / "in", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "no usable utterance" in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="not a folder"):
        list(import_folder(tmp_path / "gone", []))


def utterances(speakers: dict[str | None, int]) -> list[Utterance]:
    return [
        Utterance(f"{speaker}-{i}", "a.wav", Path(), speaker=speaker)
        for speaker, count in speakers.items()
        for i in range(count)
    ]


def test_split_by_speaker() -> None:
    data = utterances({f"s{i}": 5 + i for i in range(20)})
    sets = common.split_utterances(data, {"dev": 0.1, "test": 0.2}, "train")
    assert sorted(u.id for rows in sets.values() for u in rows) == sorted(u.id for u in data)
    speakers = {name: {u.speaker for u in rows} for name, rows in sets.items()}
    assert not speakers["train"] & speakers["dev"]
    assert not speakers["train"] & speakers["test"]
    assert not speakers["dev"] & speakers["test"]
    assert 0.1 <= len(sets["dev"]) / len(data) < 0.2
    assert 0.2 <= len(sets["test"]) / len(data) < 0.3
    again = common.split_utterances(data[::-1], {"dev": 0.1, "test": 0.2}, "train")
    assert {u.id for u in again["test"]} == {u.id for u in sets["test"]}


@pytest.mark.parametrize("speakers", [{None: 100}, {"one": 100}, {"one": 50, "two": 50}])
def test_split_by_utterance(speakers: dict[str | None, int]) -> None:
    sets = common.split_utterances(utterances(speakers), {"dev": 0.1, "test": 0.25}, "train")
    assert {name: len(rows) for name, rows in sets.items()} == {"train": 65, "dev": 10, "test": 25}


def test_split_leaves_nothing() -> None:
    with pytest.raises(InputError, match="nothing is left for 'train'"):
        common.split_utterances(utterances({None: 2}), {"dev": 0.5, "test": 0.6}, "train")


def test_common_voice(tmp_path: Path, run_asr: Run) -> None:
    for name in ("a.mp3", "b.mp3"):
        sound(tmp_path / "cv/clips" / name)
    (tmp_path / "cv/dev.tsv").write_text(
        "client_id\tpath\tsentence\tup_votes\tage\tlocale\n"
        'c1\ta.mp3\t"Halt!" rief er, "bleib.\t2\t\tde\n'
        'c2\tb.mp3\t"""Ja"", sagte sie."\t3\ttwenties\tde\n',
        "utf-8",
    )
    out = tmp_path / "out"
    done = run_asr("prepare", "csv", tmp_path / "cv/dev.tsv", "-o", out, "--name", "dev")
    assert done.returncode == 0, done.stderr
    first, second = rows(out / "manifest.dev.jsonl")
    assert first.pop("duration") == pytest.approx(0.5, abs=0.1)
    assert first == {
        "id": "a",
        "audio": "../cv/clips/a.mp3",
        "text": '"Halt!" rief er, "bleib.',
        "speaker": "c1",
        "lang": "de",
        "up_votes": "2",
    }
    assert (second["text"], second["age"]) == ('"Ja", sagte sie.', "twenties")


def table(path: Path, content: str, **columns: str) -> list[Utterance]:
    path.write_text(content, encoding="utf-8")
    return list(import_table(path, [], columns))


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    got = table(path, '\ufeffwav,said,id\nx.wav,"one, two\nthree",7\n', text="said")
    assert [(u.id, u.audio, u.text) for u in got] == [("7", "x.wav", "one, two\nthree")]
    got = table(path, "audio;text\nx.wav;ja, nein\n\ny.wav\n")
    assert [(u.id, u.text, u.folder) for u in got] == [
        ("x", "ja, nein", tmp_path),
        ("y", "", tmp_path),
    ]
    cut, whole = table(path, "Path, Sentence,start,duration\nx.wav,a,0.5,1.25\ny.wav,b,,\n")
    assert (cut.text, cut.start, cut.duration) == ("a", 0.5, 1.25)
    assert (whole.text, whole.start, whole.duration) == ("b", 0.0, None)
    (whole,) = table(path, "path,text,duration\nx.wav,a,00:03\n")  # the file's: not read
    assert (whole.start, whole.duration) == (0.0, None)
    cut, rest = table(path, "path,text,start,end\nx.wav,a,0.25,0.75\ny.wav,b,0.5,\n")
    assert (cut.start, cut.duration, cut.extra) == (0.25, 0.5, {})
    assert (rest.start, rest.duration) == (0.5, None)
    (one,) = table(path, "path,text\nann/x.wav,a\n", id="text", speaker="path")
    assert (one.id, one.speaker, one.audio, one.text) == ("a", "ann/x.wav", "ann/x.wav", "a")
    skipped: list[tuple[str, str]] = []
    path.write_text("audio,text\n,no audio\n")
    assert list(import_table(path, skipped, {})) == []
    assert skipped == [(f"{path}:2", "no audio named")]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("audio,words\nx,y\n", {}, r"x.csv: no column for text. .*--text-column.*audio, words"),
        ("audio,words\nx,y\n", {"text": "word"}, "no column 'word'. Did you mean 'words'"),
        ("audio,text\nx,y\nx,a,b\n", {}, r"x.csv:3: 3 cells in a table of 2 columns"),
        ("audio,text\nx.wav,y\n\nx.wav,z\n", {}, r"x.csv:4: duplicate id 'x' \(first in line 2\)"),
        ('audio,text\nx.wav,"y"z\n', {}, r"x.csv:2: broken CSV"),
        ("audio,text,text\nx.wav,y,z\n", {}, r"x.csv: two columns 'text'\. Rename"),
        ("audio,text,start\nx.wav,y,-1\n", {}, r"x.csv:2: '-1' is no number of seconds"),
        ("audio,text,start,end\nx.wav,y,2,1\n", {}, r"x.csv:2: the end 1 is not after the start"),
    ],
)
def test_wrong_csv(tmp_path: Path, content: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        table(tmp_path / "x.csv", content, **columns)


def test_columns_that_manifests_do_not_keep(tmp_path: Path, run_asr: Run) -> None:
    """Else the test set would call itself train, and the manifest an n-best file."""
    for i in range(10):
        sound(tmp_path / f"{i}.wav")
    lines = "".join(f"{i}.wav,said,train,x,1\n" for i in range(10))
    (tmp_path / "all.csv").write_text(f"audio,text,split,nbest,take\n{lines}")
    shares = ("--dev", ".2", "--test", ".2")
    done = run_asr("prepare", "csv", tmp_path / "all.csv", "-o", tmp_path / "out", *shares)
    assert done.returncode == 0, done.stderr
    assert "Name the speakers by a column speaker or client_id, or --speaker-" in done.stderr
    for name in ("train", "dev", "test"):
        manifest = Manifest.open(tmp_path / f"out/manifest.{name}.jsonl")
        assert (manifest.split, manifest[0].extra) == (name, {"take": "1"})


def test_names_that_are_not_utf8(recordings: Path, tmp_path: Path, run_asr: Run) -> None:
    """One of many is skipped; where all would be, one clear message."""
    for suffix in (".flac", ".txt"):
        (recordings / "anna/y").with_suffix(suffix).rename(recordings / f"anna/caf\udce9{suffix}")
    done = run_asr("prepare", "folder", recordings, "-o", tmp_path / "out")
    assert (done.returncode, "caf\\udce9: its name is not UTF-8" in done.stderr) == (3, True)
    assert len(Manifest.open(tmp_path / "out/manifest.train.jsonl")) == 4
    latin = recordings.rename(tmp_path / "d\udce9")
    done = run_asr("prepare", "folder", latin, "-o", tmp_path / "new")
    assert done.returncode == 2
    assert "new/manifest.train.jsonl: cannot be written (not UTF-8: " in done.stderr
    assert not (tmp_path / "new").exists()
    done = run_asr("prepare", "folder", "bert", "-o", "own", cwd=latin)
    assert done.returncode == 0, done.stderr
    done = run_asr("check", "own/manifest.train.jsonl", cwd=latin)
    assert (done.returncode, done.stderr) == (0, "")


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


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small corpus under the names of FSDD's repository: two digits, ten indices and more."""
    for speaker in (*fsdd.SPEAKERS, fsdd.UNSEEN, "george"):
        for digit in (0, 7):
            for i in (0, 4, 5, 9, 10, 49):
                path = tmp_path / f"clone/recordings/{digit}_{speaker}_{i}.wav"
                sound(path, 0.2 + 0.01 * i, seed=i)
    return tmp_path / "clone"


def test_fsdd(clone: Path, tmp_path: Path, run_asr: Run) -> None:
    out = tmp_path / "out"
    options = ["--strings", "2-4", "--count", "train=12", "--count", "dev=5", "--count", "test=4"]
    done = run_asr("prepare", "fsdd", clone, "-o", out, *options, "--count", "unseen=3")
    assert done.returncode == 0, done.stderr
    indices = {"train": {10, 49}, "dev": {5, 9}, "test": {0, 4}, "unseen": {0, 4, 5, 9, 10, 49}}
    counts = {"train": 12, "dev": 5, "test": 4, "unseen": 3}
    for name, expected in indices.items():
        manifest = Manifest.open(out / f"manifest.{name}.jsonl")
        speakers = {fsdd.UNSEEN} if name == "unseen" else set(fsdd.SPEAKERS)
        assert {u.speaker for u in manifest} == speakers
        assert {u.extra["index"] for u in manifest} == expected
        assert {u.text for u in manifest} == {"zero", "seven"}
        assert manifest.split == {"unseen": "test"}.get(name, name)
        strings = Manifest.open(out / f"manifest.{name}-strings.jsonl")
        assert len(strings) == counts[name]
        assert strings.split == manifest.split
        assert {u.speaker for u in strings} <= speakers
        singles = [(u.speaker, u.text, load(u, RATE)) for u in manifest]
        for u in strings:
            check_string(u, [(text, s) for speaker, text, s in singles if speaker == u.speaker])


def check_string(utterance: Utterance, singles: list[tuple[str | None, np.ndarray]]) -> None:
    """At each part's place is one of the speaker's recordings of this set; around it, pauses."""
    samples = load(utterance, RATE)
    parts = utterance.extra["parts"]
    assert utterance.text == " ".join(part["word"] for part in parts)
    assert 2 <= len(parts) <= 4
    edges = [0.0, *(part[key] for part in parts for key in ("start", "end")), utterance.duration]
    pauses = np.diff(edges)[::2]
    assert ((pauses > 0.0499) & (pauses < 0.5001)).all()
    assert len(samples) == round(utterance.duration * RATE)  # type: ignore[operator]
    for part in parts:
        begin, end = (round(part[key] * RATE) for key in ("start", "end"))
        found = [s for text, s in singles if text == part["word"] and len(s) == end - begin]
        assert any(np.abs(samples[begin:end] - s).max() < 2**-14 for s in found)


def test_fsdd_is_the_same_for_a_seed(clone: Path, tmp_path: Path, run_asr: Run) -> None:
    def content(name: str, seed: int) -> dict[str, bytes]:
        out = tmp_path / name
        counts = [f"--count={split}=3" for split in ("train", "dev", "test", "unseen")]
        options = ["--strings", "3", "--seed", str(seed), *counts]
        assert run_asr("prepare", "fsdd", clone, "-o", out, *options).returncode == 0
        files = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".index"]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    first = content("a", 1)
    assert first == content("b", 1)
    assert len(first) == 8 + 12
    assert first.keys() == content("c", 2).keys()
    assert first != content("d", 2)


def test_fsdd_from_manifests(asr_data: Path) -> None:
    sets = fsdd.import_fsdd(asr_data / "fsdd")
    assert {name: len(us) for name, us in sets.items()} == {
        "train": 1600,
        "dev": 200,
        "test": 200,
        "unseen": 500,
    }
    assert all(u.speaker != "george" for us in sets.values() for u in us)


def test_fsdd_download(clone: Path, tmp_path: Path, run_asr: Run) -> None:
    archive = tmp_path / "master.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (clone / "recordings").iterdir():
            file.write(path, f"free-spoken-digit-dataset-master/recordings/{path.name}")
        file.writestr("../../recordings/../escaped.wav", "x")
        file.writestr("free-spoken-digit-dataset-master/README.md", "x")
    source, out = tmp_path / "new", tmp_path / "out"
    done = run_asr("prepare", "fsdd", source, "-o", out)
    assert done.returncode == 2
    assert f"{source}: no such folder. --download fetches" in done.stderr
    fetch = ["prepare", "fsdd", source, "-o", out, "--download", "--url"]
    (tmp_path / "text.zip").write_text("no archive")
    for url, message in (("text.zip", "not a zip archive"), ("gone.zip", "download failed")):
        done = run_asr(*fetch, (tmp_path / url).as_uri())
        assert done.returncode == 2
        assert message in done.stderr
        assert not list(source.glob("*zip*"))
    done = run_asr(*fetch, archive.as_uri())
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (source / "recordings").iterdir())
    assert names == sorted(os.listdir(clone / "recordings"))
    assert sorted(os.listdir(source)) == [".complete", "recordings"]
    archive.unlink()
    assert run_asr(*fetch, archive.as_uri()).returncode == 0  # nothing is fetched again


def test_fsdd_with_a_set_all_broken(clone: Path, tmp_path: Path, run_asr: Run) -> None:
    for path in (clone / "recordings").glob("*yweweler*"):
        path.write_text("no audio")
    done = run_asr("prepare", "fsdd", clone, "-o", tmp_path / "out", "--strings", "2")
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    assert "clone: no usable recording for 'unseen' (0_yweweler_0: " in done.stderr


def test_a_share_is_a_number(recordings: Path, tmp_path: Path, run_asr: Run) -> None:
    done = run_asr("prepare", "folder", recordings, "-o", tmp_path / "out", "--dev", "nan")
    assert done.returncode == 2
    assert "--dev, --test: not a number" in done.stderr


def test_fsdd_with_a_set_missing(clone: Path) -> None:
    for path in (clone / "recordings").glob("*yweweler*"):
        path.unlink()
    with pytest.raises(InputError, match="no recording for 'unseen'"):
        fsdd.import_fsdd(clone)
    shutil.rmtree(clone / "recordings")
    with pytest.raises(InputError, match="no recording for 'train'"):
        fsdd.import_fsdd(clone)


@pytest.mark.parametrize("name", ["dev", "", "../up"])
def test_names_that_are_no_sets(name: str, recordings: Path, tmp_path: Path, run_asr: Run) -> None:
    out = tmp_path / "out"
    given = ("--name", name, "--dev", "0.2")
    done = run_asr("prepare", "folder", recordings, "-o", out, *given)
    assert (done.returncode, out.exists()) == (2, False)
    assert f"--name: '{name}' is no name of a set beside dev" in done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--strings=7-3", "the smaller number first"),
        ("--strings=x", "give a range, as in 3-7"),
        ("--strings=0", "at least one digit"),
        ("--count=tset=3", "SET one of train, dev, test, unseen"),
        ("--count=dev=0", "SET=NUMBER (1 or more)"),
        ("--seed=-1", "'--seed': -1 is not in the range"),
    ],
)
def test_wrong_options(tmp_path: Path, run_asr: Run, option: str, message: str) -> None:
    done = run_asr("prepare", "fsdd", tmp_path, "-o", tmp_path / "out", option)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
