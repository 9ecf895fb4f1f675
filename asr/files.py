"""Files that appear under their name only when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from asr.errors import InputError


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write (text in UTF-8, or "wb"), put at `path` when the block ends without error.

    Safe against other processes that write the same file: the last to finish wins. Raises
    InputError where the file cannot be written (no permission, disk full).
    """
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", path) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
