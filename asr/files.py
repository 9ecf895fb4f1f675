"""Files that appear under their name only when complete."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from asr.errors import InputError


def cannot_read(path: object, error: Exception, remedy: str = "Correct the path.") -> InputError:
    """What to raise where `path` is missing, may not be read, or is damaged."""
    wrong = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
    reason = getattr(error, "strerror", None) or wrong
    return InputError(f"cannot be read ({reason})", path, remedy)


def cannot_write(path: Path, error: OSError) -> InputError:
    """What to raise where `path` cannot be written: no permission, disk full."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "Make room there, or choose another place." if full else "Choose another place."
    return InputError(f"cannot be written ({error.strerror or error})", path, remedy)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """`folder` and its parents; those that were missing go again if the block ends by an error."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):  # others have put something there
                place.rmdir()
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """`folder`, made if need be, is this process's alone within the block. Raises InputError where
    another process has it."""
    if folder.exists() and not folder.is_dir():
        raise InputError("is not a folder", folder, "Choose another place.")
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
            place = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise cannot_write(folder, error) from error
        stack.callback(os.close, place)
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "another process is at work in it"
            raise InputError(what, folder, "Wait for it, or choose another folder.") from None
        except OSError:  # a file system without locks
            pass
        yield


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write (text in UTF-8, or "wb"), put at `path` when the block ends without error; of
    processes that write the same one the last wins. Raises InputError where it cannot be written.
    """
    part = path.with_name(f".{path.name[:60]}.{os.urandom(4).hex()}.part")  # of 255 bytes at most
    try:
        with made_folder(path.parent):
            try:
                with open(part, mode, encoding=None if "b" in mode else "utf-8") as file:
                    yield file
                os.replace(part, path)
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 40) : error.end + 40]
        what = f"cannot be written (not UTF-8: {near!r})"
        raise InputError(what, path, "Rename the file or folder that this names.") from None
