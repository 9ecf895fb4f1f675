"""The Free Spoken Digit Dataset: its sets, strings of digits, the download."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sounds import RATE, Run, sound

from asr.data.audio import load
from asr.data.corpora import fsdd
from asr.data.manifest import Manifest, Utterance
from asr.errors import InputError


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


def test_fsdd_with_a_set_missing(clone: Path) -> None:
    for path in (clone / "recordings").glob("*yweweler*"):
        path.unlink()
    with pytest.raises(InputError, match="no recording for 'unseen'"):
        fsdd.import_fsdd(clone)
    shutil.rmtree(clone / "recordings")
    with pytest.raises(InputError, match="no recording for 'train'"):
        fsdd.import_fsdd(clone)


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
