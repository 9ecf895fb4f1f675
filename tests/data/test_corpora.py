"""Importers through `asr prepare`, where messages and exit status count: folders, sets."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from sounds import RATE, Run, rows, sound

from asr.data.audio import load
from asr.data.corpora import common
from asr.data.corpora.folder import import_folder
from asr.data.manifest import Manifest, Utterance
from asr.errors import InputError


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
    assert "warning: too few speakers, so that sets share some: " in done.stderr
    assert "Name the speakers" not in done.stderr  # they have names
    for speaker in ("ann", "bob"):
        for file in (tmp_path / "in" / speaker).iterdir():
            file.rename(tmp_path / "in" / f"{speaker}{file.name}")
    done = run_asr("prepare", "folder", tmp_path / "in", "-o", tmp_path / "out", "--dev", "0.5")
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


def test_a_share_is_a_number(recordings: Path, tmp_path: Path, run_asr: Run) -> None:
    done = run_asr("prepare", "folder", recordings, "-o", tmp_path / "out", "--dev", "nan")
    assert done.returncode == 2
    assert "--dev, --test: not a number" in done.stderr


@pytest.mark.parametrize("name", ["dev", "", "../up"])
def test_names_that_are_no_sets(name: str, recordings: Path, tmp_path: Path, run_asr: Run) -> None:
    out = tmp_path / "out"
    given = ("--name", name, "--dev", "0.2")
    done = run_asr("prepare", "folder", recordings, "-o", out, *given)
    assert (done.returncode, out.exists()) == (2, False)
    assert f"--name: '{name}' is no name of a set beside dev" in done.stderr
