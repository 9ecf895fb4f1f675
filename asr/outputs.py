"""Saved outputs of a CTC network: an .npz of log-probabilities (T, V) under the utterance ids."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import cannot_read, whole_file

Floats = NDArray[np.float32]


@contextmanager
def written_outputs(path: Path | None) -> Iterator[Callable[[str, Floats], None]]:
    """A function that adds an utterance's log-probabilities (T, V) to a file, one by one so that
    they need not fit into memory; without a path it does nothing."""
    if path is None:
        yield lambda name, log_probs: None
        return
    with whole_file(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:

        def add(name: str, log_probs: Floats) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, np.ascontiguousarray(log_probs, np.float32))

        yield add


def write_tokens(path: Path, pieces: Sequence[str]) -> None:
    """One token a line, line 0 the blank."""
    with whole_file(path) as file:
        file.writelines(f"{piece}\n" for piece in pieces)


class Outputs:
    """The arrays of an .npz file, each read when it is asked for, from any thread.

    Raises InputError where the file is none, or holds none.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._one_at_a_time = path, Lock()
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
                member = f"{name}.npy"  # told from an array that is itself called so
                array = self._file[member if member in self._file.zip.namelist() else name]
        except Exception as error:  # as above
            what = f"the array cannot be read ({error})"
            raise InputError(what, self.path, "Write the file again.") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            kind = getattr(array, "dtype", "no array")
            raise InputError(f"holds no real numbers ({kind})", self.path, "Give natural logs.")
        with np.errstate(over="ignore"):  # beyond float32 is -inf
            return np.ascontiguousarray(array, np.float32)
