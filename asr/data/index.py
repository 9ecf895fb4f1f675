"""The index of a manifest: where each line begins, how long its audio is, where an id stands.

One file beside the manifest (`.manifest.test.jsonl.index`), or in the user's cache where the
folder cannot be written, valid for one size and modification time of the manifest:

    a JSON line padded to HEADER bytes, then offsets int64 (n,) | hashes uint64 (n,), sorted |
    durations float32 (n,) | order uint32 (n,): the line of each hash

It is mapped, not read: ten million lines open at once and hold no memory of their own.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import whole_file

HEADER = 256  # bytes
FIELDS = {"offsets": "<i8", "hashes": "<u8", "durations": "<f4", "order": "<u4"}
CLOCK = 0.03  # seconds: two writes closer than this may bear the same modification time


@dataclass(frozen=True)
class Index:
    """Arrays of one manifest of n utterances and `size` bytes; see the file's layout above."""

    size: int
    content_hash: str
    offsets: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    durations: NDArray[np.float32]
    order: NDArray[np.uint32]

    def span(self, index: int) -> tuple[int, int]:
        """First byte of a line, and the byte after its end."""
        last = index + 1 == len(self.offsets)
        return int(self.offsets[index]), self.size if last else int(self.offsets[index + 1])

    def candidates(self, hash: int) -> list[int]:
        """Lines whose id has this hash."""
        key = np.uint64(hash)
        begin, end = (int(np.searchsorted(self.hashes, key, side=s)) for s in ("left", "right"))
        return [int(line) for line in self.order[begin:end]]


def id_hash(id: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")


def open_index(path: Path, file: int, parse_line: Callable[[bytes, Path], Any]) -> Index:
    """The stored index of the manifest `path` (open as `file`), built and stored if not there.

    `parse_line(line, folder)` gives an object with `id` and `duration`, or raises ValueError.
    Raises InputError: the first wrong line, a duplicate id, no line at all.
    """
    status = os.fstat(file)
    age = time.time() - status.st_mtime
    if 0 <= age < CLOCK:  # a later write must differ in time
        time.sleep(CLOCK - age)
        status = os.fstat(file)
    key = {"version": 1, "size": status.st_size, "mtime": status.st_mtime_ns}
    for place in _places(path):
        index = _read(place, key)
        if index is not None:
            return index
    index = _build(path, file, status.st_size, parse_line)
    for place in _places(path):
        try:
            _write(place, key, index)
        except InputError:  # read-only or full: the next place, or memory only
            continue
        return _read(place, key) or index
    return index


def _places(path: Path) -> list[Path]:
    """Where an index may be, best first. A folder that nobody may write is left alone: root,
    as in most containers, would be let in."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    in_cache = Path(cache) / "asr" / f"{name}.index"
    writable = path.parent.stat().st_mode & 0o222
    return [path.with_name(f".{path.name}.index"), in_cache] if writable else [in_cache]


def _read(place: Path, key: dict[str, int]) -> Index | None:
    """None where there is none, or one of another state of the manifest, or not a whole one."""
    try:
        with open(place, "rb") as file:
            head = json.loads(file.read(HEADER))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count, content_hash = int(head.pop("count")), str(head.pop("hash"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    begin, arrays = HEADER, {}
    if head != key or len(data) != HEADER + count * sum(map(_width, FIELDS.values())):
        return None
    for name, kind in FIELDS.items():
        arrays[name] = np.frombuffer(data, kind, count, begin)
        begin += count * _width(kind)
    return Index(key["size"], content_hash, **arrays)


def _width(kind: str) -> int:
    return np.dtype(kind).itemsize


def _write(place: Path, key: dict[str, int], index: Index) -> None:
    head = key | {"count": len(index.offsets), "hash": index.content_hash}
    with whole_file(place, "wb") as file:
        file.write(json.dumps(head).encode().ljust(HEADER))
        for name in FIELDS:
            file.write(getattr(index, name).data)


class NoManifest(ValueError):
    """The file is of another kind."""


def _build(path: Path, file: int, size: int, parse_line: Callable[[bytes, Path], Any]) -> Index:
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
                    other = "not text, therefore no manifest" if b"\0" in line else str(error)
                    if b"\0" in line or isinstance(error, NoManifest):
                        raise InputError(other, path, "asr prepare makes manifests") from None
                    shown = line.decode(errors="replace").strip()
                    shown = shown if len(shown) <= 200 else shown[:200] + " ..."
                    raise InputError(
                        f"{error}: {shown}", f"{path}:{number}", "Mend or remove this line"
                    ) from None
                offsets.append(offset)
                hashes.append(id_hash(utterance.id))
                known = utterance.duration is not None
                durations.append(utterance.duration if known else float("nan"))
            offset += len(line)
    if not offsets:
        raise InputError("no utterance in this manifest", path, "asr prepare makes manifests")
    hashed = np.frombuffer(hashes, np.uint64)
    order = np.argsort(hashed, kind="stable").astype(np.uint32)
    index = Index(
        size=size,
        content_hash=content.hexdigest()[:16],
        offsets=np.frombuffer(offsets, np.int64),
        hashes=hashed[order],
        durations=np.frombuffer(durations, np.float32),
        order=order,
    )
    _refuse_duplicates(path, file, index, parse_line)
    return index


def _refuse_duplicates(
    path: Path, file: int, index: Index, parse_line: Callable[[bytes, Path], Any]
) -> None:
    """Equal hashes are only a hint: the ids themselves are read again and compared."""
    first: dict[str, int] = {}
    equal = index.hashes[1:] == index.hashes[:-1]
    for line in np.unique(np.concatenate([index.order[1:][equal], index.order[:-1][equal]])):
        begin, end = index.span(int(line))
        id = parse_line(os.pread(file, end - begin, begin), path.parent).id
        if id in first:
            numbers = [
                os.pread(file, int(index.offsets[i]), 0).count(b"\n") + 1
                for i in (first[id], int(line))
            ]
            raise InputError(
                f"duplicate id '{id}' (first in line {numbers[0]})",
                f"{path}:{numbers[1]}",
                "Give every utterance an id of its own",
            )
        first[id] = int(line)
