"""Saved outputs of a CTC network: an .npz of log-probabilities (T, V) under the utterance ids."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import cannot_read, whole_file

Floats = NDArray[np.float32]


class OutputsWriter:
    """Writes arrays one by one, so that they need not fit into memory; without a path, nothing.

    The file appears under its name only when the block ends without error; numpy.load opens it.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None

    def __enter__(self) -> OutputsWriter:
        self._open = ExitStack()
        if self.path is not None:
            file = self._open.enter_context(whole_file(self.path, "wb"))
            self._zip = self._open.enter_context(zipfile.ZipFile(file, "w"))
        return self

    def add(self, name: str, log_probs: Floats) -> None:
        """log_probs (T, V), natural logs."""
        if self._zip is not None:
            with self._zip.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.save(file, np.ascontiguousarray(log_probs, np.float32))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)


def write_tokens(path: Path, pieces: Sequence[str]) -> None:
    """One token a line, line 0 the blank."""
    with whole_file(path) as file:
        file.writelines(f"{piece}\n" for piece in pieces)


class Outputs:
    """The arrays of an .npz file, each read when it is asked for, from any thread.

    Raises InputError where the file is none, or holds none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._one_at_a_time = Lock()
        try:
            self._file = np.load(path)
            self.ids: list[str] = list(self._file.files)
        except OSError as error:
            raise cannot_read(path, error) from error
        except Exception as error:  # what the zip and npy formats raise for damage is not told
            raise InputError("is not an .npz file", path, "numpy.savez writes them.") from error
        if not self.ids:
            raise InputError("holds no arrays", path, "One array (T, V) an utterance id.")

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, name: str) -> Floats:
        """One array, (T, V) if it is what it should be. InputError: damaged, or no real numbers."""
        try:
            with self._one_at_a_time:
                array = self._file[name]
        except Exception as error:  # as above
            what = f"the array cannot be read ({error})"
            raise InputError(what, self.path, "Write the file again.") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            kind = getattr(array, "dtype", "no array")
            raise InputError(f"holds no real numbers ({kind})", self.path, "Give natural logs.")
        return np.ascontiguousarray(array, np.float32)
