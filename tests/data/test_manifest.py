"""Manifests: reading, the index, and every kind of wrong line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr.data import manifest as module
from asr.data.manifest import HEADER, Manifest, Utterance, open_manifests, write_manifest
from asr.errors import InputError

LINES = [
    {"id": "a", "audio": "a.wav", "duration": 1.5, "text": "grüß gott", "speaker": "s1", "x": [1]},
    {"id": "b", "audio": "t.tar#b.flac", "start": 0.25, "lang": "de"},
    {"id": "c", "audio": "/abs/c.wav", "duration": 0, "text": ""},
]


def lines(path: Path, *rows: Any, end: str = "\n") -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(texts) + end, encoding="utf-8")
    return path


def test_utterances_are_those_of_the_lines(tmp_path: Path) -> None:
    path = lines(tmp_path / "manifest.dev.jsonl", "", LINES[0], "  ", LINES[1], LINES[2], end="")
    for _ in range(2):  # built, then read back
        manifest = Manifest.open(path)
        assert len(manifest) == 3
        assert list(manifest) == [manifest[0], manifest[1], manifest[-1]] == manifest[:]
        assert manifest[0] == Utterance(
            "a", "a.wav", tmp_path, 0.0, 1.5, "grüß gott", "s1", None, {"x": [1]}
        )
        assert (manifest[1].start, manifest[1].lang, manifest[1].text) == (0.25, "de", None)
        np.testing.assert_array_equal(manifest.durations, np.float32([1.5, np.nan, 0]))
        assert [u.id for u in manifest] == ["a", "b", "c"]
        assert manifest.split == "dev"
        with pytest.raises(IndexError):
            manifest[3]


def test_split_key_goes_before_the_file_name(tmp_path: Path) -> None:
    row = {"id": "a", "audio": "a.wav"}
    assert Manifest.open(lines(tmp_path / "m.jsonl", row)).split is None
    path = lines(tmp_path / "manifest.dev.jsonl", row | {"split": "test"})
    assert Manifest.open(path).split == "test"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "q", "audio"', r"not valid JSON .*column 20\): \{\"id\": \"q\", \"audio\"\. "),
        ('["q"]', "not a JSON object"),
        ('{"id": "q"}', "no key 'audio'"),
        ('{"audio": "q.wav"}', "no key 'id'"),
        ('{"id": "", "audio": "q.wav"}', "'id' is empty"),
        ('{"id": 7, "audio": "q.wav"}', "'id' is not a string: 7"),
        ('{"id": "q", "audio": "q.wav", "text": ["a"]}', "'text' is not a string"),
        ('{"id": "q", "audio": "q.wav", "duration": -0.5}', "'duration' is negative: -0.5"),
        ('{"id": "q", "audio": "q.wav", "start": -1}', "'start' is negative"),
        ('{"id": "q", "audio": "q.wav", "duration": "2"}', "'duration' is not a number of seconds"),
        ('{"id": "q", "audio": "q.wav", "duration": NaN}', "'duration' is not a number of seconds"),
        ('{"id": "q", "audio": "q.wav", "start": true}', "'start' is not a number of seconds"),
        ('{"id": "q", "audio": "q.wav", "start": 1e300}', "'start' is not a number of seconds"),
        (f'{{"id": "q", "audio": "q.wav", "start": 1{"0" * 400}}}', "no.* seconds: 1000"),
        (r'{"id": "q", "audio": "q\u0000.wav"}', "'audio' holds a null character"),
        ('{"id": "q", "audio": "q.wav", "text": "\\ud800"}', "not valid UTF-8"),
        ("[" * 100000, "nested too deeply"),
        ('{"id": "a", "audio": "q.wav"}', r"duplicate id 'a' \(first in line 2\)"),
    ],
)
def test_wrong_line_is_named_and_shown(tmp_path: Path, line: str, message: str) -> None:
    path = lines(tmp_path / "m.jsonl", "", LINES[0], LINES[1], line, LINES[2])
    with pytest.raises(InputError, match=message) as caught:
        Manifest.open(path)
    assert caught.value.where == f"{path}:4"
    assert caught.value.remedy
    assert len(str(caught.value)) < 500
    assert os.listdir(tmp_path) == ["m.jsonl"]  # no index of a broken manifest


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes('{"id": "a", "audio": "ü.wav"}\n'.encode("latin-1"))
    with pytest.raises(InputError, match=r"m.jsonl:1: not valid UTF-8"):
        Manifest.open(path)
    path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")  # a recording in place of a manifest
    with pytest.raises(InputError, match=r"m.jsonl: not text, therefore no manifest\. asr"):
        Manifest.open(path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No such file.*asr prepare"):
        Manifest.open(tmp_path / "m.jsonl")
    with pytest.raises(InputError, match="is a folder, not a manifest"):
        Manifest.open(tmp_path)
    with pytest.raises(InputError, match="no utterance"):
        Manifest.open(lines(tmp_path / "e.jsonl", ""))
    with pytest.raises(InputError, match="no manifest given"):
        open_manifests([])


def test_stale_broken_or_foreign_index_is_rebuilt(tmp_path: Path) -> None:
    path, stored = tmp_path / "m.jsonl", tmp_path / ".m.jsonl.index"
    for name in "xyz":  # the same size each time
        lines(path, {"id": name, "audio": "a.wav"})
        assert Manifest.open(path)[0].id == name
    good = stored.read_bytes()
    others = (
        *(b"", b"{}", good[:-1], b"x" * len(good), good.replace(b"size", b"sise")),
        *(good[:HEADER] + offset + good[HEADER + 8 :] for offset in (b"\xff" * 8, b"\x7f" * 8)),
    )
    for content in others:
        stored.write_bytes(content)
        assert Manifest.open(path)[0].id == "z"
        assert stored.read_bytes() == good


def test_second_opening_reads_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "m.jsonl", *LINES)
    Manifest.open(path)

    def refuse(*arguments: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(module, "_build", refuse)
    assert len(Manifest.open(path)) == 3


def test_read_only_folder_has_its_index_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "data", tmp_path / "cache"
    folder.mkdir()
    path = lines(folder / "m.jsonl", *LINES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    folder.chmod(0o555)
    try:
        assert len(Manifest.open(path)) == 3
        assert os.listdir(folder) == ["m.jsonl"]
        assert len(os.listdir(cache / "asr")) == 1
        monkeypatch.setattr(module, "_build", None)
        assert Manifest.open(path)[0].id == "a"
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # nowhere to write at all
        assert Manifest.open(path)[1].id == "b"
    finally:
        folder.chmod(0o755)


def test_colliding_hashes_are_no_duplicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "id_hash", lambda id: len(id))
    path = lines(tmp_path / "m.jsonl", *LINES)
    one = Manifest.open(path)
    other = Manifest.open(lines(tmp_path / "o.jsonl", LINES[0] | {"id": "z"}))
    assert not one.shares_ids(other)
    assert one.shares_ids(Manifest.open(lines(tmp_path / "p.jsonl", LINES[2])))
    path = lines(tmp_path / "n.jsonl", *LINES, LINES[1])
    with pytest.raises(InputError, match=r"n.jsonl:4: duplicate id 'b' \(first in line 2\)"):
        Manifest.open(path)


def test_many_utterances_by_number_and_id(tmp_path: Path) -> None:
    rows = [{"id": f"é{i}", "audio": f"{i}.wav", "duration": i / 7} for i in range(3000)]
    random.Random(1).shuffle(rows)
    path = tmp_path / "m.jsonl"
    write_manifest(path, rows)
    manifest = Manifest.open(path)
    assert [u.id for u in manifest] == [row["id"] for row in rows]
    expected = np.array([row["duration"] for row in rows], np.float32)
    np.testing.assert_array_equal(manifest.durations, expected)


def test_many_processes_open_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, ({"id": str(i), "audio": "a.wav"} for i in range(500)))
    script = "import sys; from asr.data.manifest import Manifest; m = Manifest.open(sys.argv[1])"
    script += "; print(sum(1 for _ in m))"
    command = [sys.executable, "-c", script, str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in running] == ["500\n"] * 4
    assert sorted(os.listdir(tmp_path)) == [".m.jsonl.index", "m.jsonl"]


def test_changed_while_in_use(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", *LINES)
    manifest = Manifest.open(path)
    path.write_text("")  # in place
    with pytest.raises(InputError, match="changed while in use"):
        manifest[2]


def test_concatenation(tmp_path: Path) -> None:
    paths = [lines(tmp_path / f"{i}.jsonl", *LINES[: i + 1]) for i in range(3)]
    both = open_manifests(paths)
    names = [(0, "a"), (1, "a"), (1, "b"), (2, "a"), (2, "b"), (2, "c")]
    assert [u.id for u in both] == [f"{paths[i]}:{id}" for i, id in names]  # else two are alike
    assert both[-1] == both[5]
    assert [u.audio for u in both[1:3]] == [LINES[0]["audio"], LINES[1]["audio"]]
    other = lines(tmp_path / "other.jsonl", LINES[2])
    assert [u.id for u in open_manifests([paths[1], other])] == ["a", "b", "c"]
    assert [u.id for u in open_manifests([other, other])] == ["c", "c"]  # to weigh more
    np.testing.assert_array_equal(both.durations, np.float32([1.5, 1.5, np.nan, 1.5, np.nan, 0]))


def test_written_audio_is_relative_to_the_new_place(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "elsewhere/out"
    source.mkdir()
    (tmp_path / "link").symlink_to(target)
    target.mkdir(parents=True)
    manifest = Manifest.open(lines(source / "m.jsonl", *LINES))
    write_manifest(tmp_path / "link" / "new.jsonl", manifest)
    again = Manifest.open(tmp_path / "link" / "new.jsonl")
    assert [u.audio for u in again][:2] == ["../../in/a.wav", "../../in/t.tar#b.flac"]
    assert (tmp_path / "link" / again[2].audio).resolve() == Path("/abs/c.wav")
    assert [u.to_dict() | {"audio": 0} for u in again] == [row | {"audio": 0} for row in LINES]


def test_nothing_half_written(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", LINES[0])

    def rows() -> Any:
        yield LINES[1]
        raise RuntimeError("importer broke")

    with pytest.raises(RuntimeError):
        write_manifest(path, rows())
    assert os.listdir(tmp_path) == ["m.jsonl"]
    assert json.loads(path.read_text()) == LINES[0]


def test_an_opened_manifest_holds_at_most_16_bytes_an_utterance(tmp_path: Path) -> None:
    path, count = tmp_path / "m.jsonl", 20_000
    write_manifest(path, ({"id": str(i), "audio": "a.wav"} for i in range(count)))
    Manifest.open(path)
    tracemalloc.start()  # sees Python's and numpy's memory; mapped pages belong to the system
    try:
        manifest = Manifest.open(path)
        assert manifest[777].id == "777"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    files = (tmp_path / ".m.jsonl.index").stat().st_size
    assert peak < 16 * count
    assert files < 25 * count
