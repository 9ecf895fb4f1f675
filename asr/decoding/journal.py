"""What is decoded of recordings, kept on disk while they are: a run that was stopped continues."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from asr.decoding.recording import Part, Transcript, part_from
from asr.files import cannot_write


class Journal:
    """JSON lines, a part or the end of a file each, in a folder, of one command.

    Without a folder only in memory. The block's end without exception removes the file. Of a source
    file that has changed nothing is taken.
    """

    def __init__(self, folder: Path | None, command: object) -> None:
        """command: everything that the results depend on but the files' contents (JSON, or str)."""
        self._parts: dict[str, Transcript] = {}
        self._done: set[str] = set()
        self._file: IO[bytes] | None = None
        self.path: Path | None = None
        if folder is not None:
            content = json.dumps(command, sort_keys=True, default=str)
            name = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:12]
            self.path = folder / f".transcribe-{name}.jsonl"
            with suppress(FileNotFoundError):
                self._read(self.path)

    def _read(self, path: Path) -> None:
        with open(path, "r+b") as file:
            whole = 0
            for line in file:
                try:
                    record = json.loads(line)
                    file_name, state, part = (record[key] for key in ("file", "state", "part"))
                    if state == _state(Path(file_name)):
                        self._take(file_name, part and part_from(part))
                except (ValueError, KeyError, TypeError):
                    break  # stopped while this was written
                whole += len(line)
            file.truncate(whole)

    def _take(self, name: str, part: Part | None) -> None:
        if part is not None:
            self._parts.setdefault(name, Transcript()).parts.append(part)
        else:
            self._parts.pop(name, None)
            self._done.add(name)

    def __getitem__(self, file: Path) -> Transcript:
        """The parts of a file that is not done."""
        return self._parts.get(str(file), Transcript())

    def is_done(self, file: Path) -> bool:
        return str(file) in self._done

    def add(self, file: Path, part: Part | None) -> None:
        """A decoded part; None: the file is done, its results written."""
        self._take(str(file), part)
        state = _state(file)
        if self.path is None or not state:  # standard input is another one each time
            return
        record: dict[str, Any] = {"file": str(file), "state": state}
        record["part"] = part and part.to_dict()
        try:
            self._file = self._file or open(self.path, "ab", buffering=0)
            self._file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()
        if self.path and error is None:
            self.path.unlink(missing_ok=True)


def _state(file: Path) -> list[int]:
    try:
        status = os.stat(file)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
