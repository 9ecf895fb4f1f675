"""CSV and TSV files."""

from __future__ import annotations

from pathlib import Path

import pytest
from sounds import Run, rows, sound

from asr.data.corpora.table import import_table
from asr.data.manifest import Manifest, Utterance
from asr.errors import InputError


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
