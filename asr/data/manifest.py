"""Manifests: JSON lines, one utterance a line, opened through an index.

    {"id": "s1-007", "audio": "wav/s1-007.flac", "duration": 2.5, "text": "good morning", ...}

Keys: `id`, `audio` (relative to the manifest, or `archive.tar#member`); optional `start` and
`duration` (seconds), `text`, `speaker`, `lang`, `split`; any others are kept in `extra`. Every
line is checked while the index is built, so a manifest that opens is sound.

The index is a file beside the manifest (`.manifest.test.jsonl.index`), or in the user's cache where
the folder cannot be written, valid for one size and modification time of the manifest:

    a JSON line padded to HEADER bytes, then offsets int64 (n,) | hashes uint64 (n,), sorted |
    durations float32 (n,) | order uint32 (n,): the line of each hash

It is mapped, not read: ten million lines open at once and hold no memory of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import time
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import whole_file

KEYS = ("id", "audio", "start", "duration", "text", "speaker", "lang")
LONGEST = 1e9  # seconds that `start` and `duration` may be
HEADER = 256  # bytes
KINDS = ("<i8", "<u8", "<f4", "<u4")  # of the index's arrays: 24 bytes an utterance
CLOCK = 0.03  # seconds: two writes closer than this may bear the same modification time
MAKES = "asr prepare makes manifests"


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
        record = {key: getattr(self, key) for key in KEYS if key != "start" or self.start}
        return {key: value for key, value in record.items() if value is not None} | self.extra


class NoManifest(ValueError):
    """The file is of another kind."""


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
        if not values[key] and values[key] in (None, ""):
            raise ValueError(f"no key '{key}'" if values[key] is None else f"'{key}' is empty")
    for key in ("id", "audio", "text", "speaker", "lang"):
        if values[key] is not None and not isinstance(values[key], str):
            raise ValueError(f"'{key}' is not a string: {values[key]!r}")
    if "\0" in values["audio"]:
        raise ValueError("'audio' holds a null character, which no path has")
    for key in ("start", "duration"):
        if (value := values[key]) is None:
            continue
        if type(value) not in (int, float) or not abs(value) <= LONGEST:  # nor NaN
            raise ValueError(f"'{key}' is not a number of seconds: {str(value)[:50]}")
        if value < 0:
            raise ValueError(f"'{key}' is negative: {value}")
    values["start"] = values["start"] or 0.0
    return Utterance(folder=folder, extra=record, **values)


class Index(NamedTuple):
    """Of a manifest of n utterances and `size` bytes; see the file's layout above."""

    size: int
    content_hash: str
    offsets: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    durations: NDArray[np.float32]
    order: NDArray[np.uint32]

    def span(self, line: int) -> tuple[int, int]:
        """How many bytes a line has, and the first of them."""
        begin, last = int(self.offsets[line]), line + 1 == len(self.offsets)
        return (self.size if last else int(self.offsets[line + 1])) - begin, begin


def id_hash(id: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(
        hashlib.blake2b(id.encode(errors="surrogatepass"), digest_size=8).digest(), "little"
    )


def open_index(path: Path, file: int) -> Index:
    """The stored index of the manifest `path` (open as `file`), built and stored if not there.
    Raises InputError: the first wrong line, a duplicate id, no line at all."""
    status = os.fstat(file)
    age = time.time() - status.st_mtime
    if 0 <= age < CLOCK:  # a later write must differ in time
        time.sleep(CLOCK - age)
        status = os.fstat(file)
    key = {"version": 1, "size": status.st_size, "mtime": status.st_mtime_ns}
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    places = [path.with_name(f".{path.name}.index"), Path(cache, "asr", f"{name}.index")]
    if not path.parent.stat().st_mode & 0o222:  # not even root shall write there
        del places[0]
    for place in places:
        if index := _read(place, key):
            return index
    index = _build(path, file, status.st_size)
    head = json.dumps(key | {"count": len(index.offsets), "hash": index.content_hash})
    for place in places:
        with suppress(InputError):  # read-only or full: the next place, or memory only
            with whole_file(place, "wb") as stream:
                stream.write(head.encode().ljust(HEADER))
                for values in index[2:]:
                    stream.write(values.data)
            return _read(place, key) or index
    return index


def _read(place: Path, key: dict[str, int]) -> Index | None:
    """None where there is none, or one of another state of the manifest, or not a whole one."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        data = np.asarray(np.memmap(place, np.uint8, "r"))
        head = json.loads(bytes(data[:HEADER]))
        count, content_hash = int(head.pop("count")), str(head.pop("hash"))
        if head == key and len(data) == HEADER + 24 * count:
            parts = np.split(data[HEADER:], np.multiply([8, 16, 20], count))
            arrays = (part.view(kind) for part, kind in zip(parts, KINDS, strict=True))
            index = Index(key["size"], content_hash, *arrays)
            if index.offsets[0] >= 0 and index.offsets[-1] < index.size:
                return index
    return None


def _build(path: Path, file: int, size: int) -> Index:
    content, offset = hashlib.sha256(), 0
    offsets, durations, hashes = array("q"), array("f"), array("Q")
    with open(os.dup(file), "rb") as lines:
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            content.update(line)
            if line.strip():
                try:
                    utterance = parse_line(line, path.parent)
                except ValueError as error:
                    raise _wrong_line(error, line, path, number) from None
                offsets.append(offset)
                hashes.append(id_hash(utterance.id))
                seconds = utterance.duration
                durations.append(math.nan if seconds is None else seconds)
            offset += len(line)
    if not offsets:
        raise InputError("no utterance in this manifest", path, MAKES)
    hashed, starts = np.frombuffer(hashes, np.uint64), np.frombuffer(offsets, np.int64)
    order = np.argsort(hashed, kind="stable").astype(np.uint32)
    lasting = np.frombuffer(durations, np.float32)
    index = Index(size, content.hexdigest()[:16], starts, hashed[order], lasting, order)
    # equal hashes are only a hint of duplicates: the ids themselves are read again and compared
    first: dict[str, int] = {}
    equal = index.hashes[1:] == index.hashes[:-1]
    for row in np.unique(np.concatenate([order[1:][equal], order[:-1][equal]])).tolist():
        id = parse_line(os.pread(file, *index.span(row)), path.parent).id
        if (other := first.setdefault(id, row)) != row:
            one, two = (os.pread(file, offsets[i], 0).count(b"\n") + 1 for i in (other, row))
            what = f"duplicate id '{id}' (first in line {one})"
            remedy = "Give every utterance an id of its own"
            raise InputError(what, f"{path}:{two}", remedy)
    return index


def _wrong_line(error: ValueError, line: bytes, path: Path, number: int) -> InputError:
    if b"\0" in line:
        return InputError("not text, therefore no manifest", path, MAKES)
    if isinstance(error, NoManifest):
        return InputError(str(error), path, MAKES)
    shown = line.decode(errors="replace").strip()
    what = f"{error}: {shown[:200]}" + (" ..." if len(shown) > 200 else "")
    return InputError(what, f"{path}:{number}", "Mend or remove this line")


@dataclass(eq=False)
class Utterances(Sequence[Utterance]):
    """Each made by `at(position)` when asked for."""

    at: Callable[[int], Utterance]
    positions: range
    durations: NDArray[np.float32]  # (n,) seconds, NaN where unknown
    parts: Sequence[Manifest] = ()  # those it is of

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...
    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        chosen = self.positions[index]
        return self.at(chosen) if isinstance(chosen, int) else [self.at(i) for i in chosen]

    def __iter__(self) -> Iterator[Utterance]:
        return map(self.at, self.positions)

    def share(self, rank: int, size: int) -> Utterances:
        """Every `size`-th from `rank` on."""
        own = slice(rank, None, size)
        return Utterances(self.at, self.positions[own], self.durations[own])


class Manifest(Utterances):
    """The utterances of one file, which is kept open; its index is mapped. Safe to use from threads
    and forked processes (positioned reads). `hash`: of the file's content."""

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            what = f"cannot be opened ({error.strerror})"
            raise InputError(what, path, "Give a manifest: asr prepare makes one") from None
        read = partial(os.pread, file)
        weakref.finalize(read, os.close, file)  # shares may be in use for longer than their whole
        if not stat.S_ISREG(os.fstat(file).st_mode):
            what = "is a folder, not a manifest" if path.is_dir() else "not a regular file"
            remedy = "Give a manifest: asr prepare makes one"
            raise InputError(what, path, remedy)
        index = self._index = open_index(path, file)
        self.hash = index.content_hash

        def at(position: int) -> Utterance:
            try:
                return parse_line(read(*index.span(position)), path.parent)
            except (ValueError, OSError) as error:
                what, remedy = f"changed while in use: {error}", "Start again with the new file"
                raise InputError(what, path, remedy) from None

        super().__init__(at, range(len(index.offsets)), index.durations)

    @classmethod
    def open(cls, path: str | Path) -> Manifest:
        """Raises InputError: no such file, no utterance in it, or the first wrong line."""
        return cls(path)

    def shares_ids(self, other: Manifest) -> bool:
        """Whether some id is in both, which are not the same."""
        if self.hash == other.hash:
            return False
        both = np.intersect1d(self._index.hashes, other._index.hashes, assume_unique=True).tolist()
        return any(self._ids(hash) & other._ids(hash) for hash in both)

    def _ids(self, hash: int) -> set[str]:
        key, hashes = np.uint64(hash), self._index.hashes
        begin, end = np.searchsorted(hashes, key), np.searchsorted(hashes, key, side="right")
        return {self[line].id for line in self._index.order[begin:end].tolist()}

    @property
    def split(self) -> str | None:
        """ "test" of `manifest.test.jsonl`, or the first line's key `split`."""
        marked = self[0].extra.get("split")
        named = re.search(r"\.([^.]+)\.jsonl$", self.path.name)
        return str(marked) if marked else named[1] if named else None


def open_manifests(paths: Iterable[str | Path]) -> Utterances:
    """Several manifests one after the other. Where two of them have an id in common, the manifest's
    path stands before every id. Raises InputError as Manifest.open, and where `paths` is empty."""
    parts = [Manifest.open(path) for path in paths]
    if not parts:
        raise InputError("no manifest given", None, "Name at least one manifest.jsonl")
    ends, durations = np.cumsum([len(part) for part in parts]), [part.durations for part in parts]
    named = any(one.shares_ids(two) for one, two in combinations(parts, 2))

    def at(position: int) -> Utterance:
        part = int(np.searchsorted(ends, position, side="right"))
        utterance, path = parts[part][position - int(ends[part])], parts[part].path
        return replace(utterance, id=f"{path}:{utterance.id}") if named else utterance

    whole = durations[0] if len(parts) == 1 else np.concatenate(durations)
    return Utterances(at, range(ends[-1]), whole, parts)


def split_audio(audio: str) -> tuple[str, str | None]:
    """`archive.tar#member` -> (archive, member), any other file -> (file, None)."""
    archive, mark, member = audio.partition(".tar#")
    return (archive + ".tar", member) if mark else (audio, None)


def write_manifest(path: str | Path, rows: Iterable[Utterance | Mapping[str, Any]]) -> None:
    """Write all of `rows`, then put the file in place. An Utterance's audio is made relative to the
    new place; a mapping is written as it is."""
    path = Path(path)
    with whole_file(path) as stream:
        for row in rows:
            record = row
            if isinstance(row, Utterance):
                file, member = split_audio(row.audio)
                place, name = os.path.split(row.folder / file)
                # `..` leads out of where a link points to, not of where it stands
                source = os.path.join(os.path.realpath(place), name)
                audio = os.path.relpath(source, os.path.realpath(path.parent))
                audio = audio if member is None else f"{audio}#{member}"
                record = row.to_dict() | {"audio": audio}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
