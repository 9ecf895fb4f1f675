"""Manifests: JSON lines, one utterance a line, opened through an index.

    {"id": "s1-007", "audio": "wav/s1-007.flac", "duration": 2.5, "text": "good morning", ...}

Keys: `id`, `audio` (relative to the manifest, or `archive.tar#member`); optional `start` and
`duration` (seconds), `text`, `speaker`, `lang`, `split`; any others are kept in `extra`. Every
line is checked while the index is built (asr/data/index.py), so a manifest that opens is sound.
"""

from __future__ import annotations

import json
import operator
import os
import re
import stat
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from asr.data.index import Index, NoManifest, open_index
from asr.errors import InputError
from asr.files import whole_file

KEYS = ("id", "audio", "start", "duration", "text", "speaker", "lang")
LONGEST = 1e9  # seconds that `start` and `duration` may be


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a manifest; times in seconds."""

    id: str
    audio: str  # as written; see asr.data.audio.audio_path
    folder: Path  # the manifest's, to which `audio` is relative
    start: float = 0.0
    duration: float | None = None  # None: to the end of the file
    text: str | None = None
    speaker: str | None = None
    lang: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The line as written: keys without a value left out."""
        record = {key: getattr(self, key) for key in KEYS}
        if not self.start:
            del record["start"]
        return {key: value for key, value in record.items() if value is not None} | self.extra


def parse_line(line: bytes, folder: Path) -> Utterance:
    """One line as an utterance. Raises ValueError saying what is wrong with it."""
    try:
        record = json.loads(line.strip())
        if b"\\u" in line:  # an escape may hold half a character, which no file can store
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeError:
        raise ValueError("not valid UTF-8") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object {...}")
    if "nbest" in record or ("meta" in record and "id" not in record):
        raise NoManifest("is an n-best file, not a manifest")
    values = {key: record.pop(key, None) for key in KEYS}
    for key in ("id", "audio"):
        if values[key] is None:
            raise ValueError(f"no key '{key}'")
        if values[key] == "":
            raise ValueError(f"'{key}' is empty")
    for key in ("id", "audio", "text", "speaker", "lang"):
        if values[key] is not None and not isinstance(values[key], str):
            raise ValueError(f"'{key}' is not a string: {values[key]!r}")
    if "\0" in values["audio"]:
        raise ValueError("'audio' holds a null character, which no path has")
    for key in ("start", "duration"):
        value = values[key]
        if value is None:
            continue
        if type(value) not in (int, float) or not abs(value) <= LONGEST:  # nor NaN
            raise ValueError(f"'{key}' is not a number of seconds: {str(value)[:50]}")
        if value < 0:
            raise ValueError(f"'{key}' is negative: {value}")
    values["start"] = values["start"] or 0.0
    return Utterance(folder=folder, extra=record, **values)


class Utterances(Sequence[Utterance]):
    """Indexing, slices and iteration by `at`, the utterance of a position that exists."""

    def at(self, position: int) -> Utterance:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Utterance]: ...
    def __getitem__(self, index: int | slice) -> Utterance | Sequence[Utterance]:
        if isinstance(index, slice):
            return [self.at(i) for i in range(len(self))[index]]
        return self.at(range(len(self))[operator.index(index)])

    def __iter__(self) -> Iterator[Utterance]:
        return (self.at(i) for i in range(len(self)))


class Manifest(Utterances):
    """The utterances of one file, each read when asked for; the file is kept open.

    `durations` float32 (n,): seconds, NaN where unknown. Its index is mapped, 24 bytes an
    utterance. Safe to use from threads and forked processes (positioned reads).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = self.path.parent
        self._file = open_file(self.path)
        weakref.finalize(self, os.close, self._file)
        self._index: Index = open_index(self.path, self._file, parse_line)
        self.durations: NDArray[np.float32] = self._index.durations
        self.hash: str = self._index.content_hash
        """Of the file's content."""

    @classmethod
    def open(cls, path: str | Path) -> Manifest:
        """Raises InputError: no such file, no utterance in it, or the first wrong line."""
        return cls(path)

    def __len__(self) -> int:
        return len(self._index.offsets)

    def at(self, position: int) -> Utterance:
        begin, end = self._index.span(position)
        try:
            return parse_line(os.pread(self._file, end - begin, begin), self.folder)
        except ValueError as error:
            raise InputError(
                f"changed while in use: {error}", self.path, "Start again with the new file"
            ) from None

    @property
    def ids(self) -> Iterator[str]:
        """In the order of the file."""
        return (utterance.id for utterance in self)

    def shares_ids(self, other: Manifest) -> bool:
        """Whether some id is in both, which are not the same."""
        one, two = self._index, other._index
        return self.hash != other.hash and any(
            self[line].id == other[there].id
            for hash in np.intersect1d(one.hashes, two.hashes, assume_unique=True).tolist()
            for line, there in product(one.candidates(hash), two.candidates(hash))
        )

    @property
    def split(self) -> str | None:
        """ "test" of `manifest.test.jsonl`, or the first line's key `split`."""
        marked = self[0].extra.get("split")
        named = re.search(r"\.([^.]+)\.jsonl$", self.path.name)
        return str(marked) if marked else named[1] if named else None


class Manifests(Utterances):
    """Several manifests one after the other; `durations` (n,) as in Manifest.

    Where two of them have an id in common, the manifest's path stands before every id.
    """

    def __init__(self, parts: Sequence[Manifest]) -> None:
        self.parts = parts
        self.durations: NDArray[np.float32] = (
            parts[0].durations if len(parts) == 1 else np.concatenate([p.durations for p in parts])
        )
        self._ends = np.cumsum([len(part) for part in parts])
        self._named = any(one.shares_ids(two) for one, two in combinations(parts, 2))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def at(self, position: int) -> Utterance:
        part = int(np.searchsorted(self._ends, position, side="right"))
        utterance = self.parts[part][position - int(self._ends[part])]
        if self._named:
            utterance = replace(utterance, id=f"{self.parts[part].path}:{utterance.id}")
        return utterance


class Share(Utterances):
    """Every `size`-th of `whole` from `rank` on."""

    def __init__(self, whole: Sequence[Utterance], rank: int, size: int) -> None:
        self.whole, self.positions = whole, range(rank, len(whole), size)

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, position: int) -> Utterance:
        return self.whole[self.positions[position]]


def open_manifests(paths: Iterable[str | Path]) -> Manifests:
    """Raises InputError as Manifest.open, and where `paths` is empty."""
    parts = [Manifest.open(path) for path in paths]
    if not parts:
        raise InputError("no manifest given", None, "Name at least one manifest.jsonl")
    return Manifests(parts)


def open_file(path: Path) -> int:
    """A descriptor for reading. Raises InputError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"cannot be opened ({error.strerror})", path, "Give a manifest: asr prepare makes one"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        what = "is a folder, not a manifest" if path.is_dir() else "not a regular file"
        remedy = "Give a manifest (behind the model): asr prepare makes one"
        raise InputError(what, path, remedy)
    return descriptor


def split_audio(audio: str) -> tuple[str, str | None]:
    """`archive.tar#member` -> (archive, member), any other file -> (file, None)."""
    archive, mark, member = audio.partition(".tar#")
    return (archive + ".tar", member) if mark else (audio, None)


def relative_audio(audio: str, folder: Path, target: Path) -> str:
    """`audio` as written in a manifest in `folder`, rewritten for a manifest in `target`."""
    file, member = split_audio(audio)
    place, name = os.path.split(folder / file)
    # `..` leads out of where a link points to, not of where it stands
    path = os.path.relpath(os.path.join(os.path.realpath(place), name), os.path.realpath(target))
    return path if member is None else f"{path}#{member}"


def write_manifest(path: str | Path, rows: Iterable[Utterance | Mapping[str, Any]]) -> None:
    """Write all of `rows`, then put the file in place.

    An Utterance's audio is made relative to the new place; a mapping is written as it is.
    """
    path = Path(path)
    with whole_file(path) as file:
        for row in rows:
            record = row
            if isinstance(row, Utterance):
                audio = relative_audio(row.audio, row.folder, path.parent)
                record = row.to_dict() | {"audio": audio}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
