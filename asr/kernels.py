"""The one way in which loops are compiled: numba, cached on disk, without the interpreter's lock.

Numba's own cache looks only at the file of the compiled function, not at those of the functions it
calls; therefore the cache folder is named by a hash of every file that holds kernels, this one too.
"""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import config

settings: Any = config  # its attributes are made when numba is imported
Function = TypeVar("Function", bound=Callable[..., Any])


def _cache_folder() -> Path | None:
    """The folder of this version's compiled kernels; None where nothing can be written."""
    sources = (file.read_bytes() for file in sorted(Path(__file__).parent.rglob("*.py")))
    kernels = b"".join(each for each in sources if b"njit" in each)
    base = settings.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = f"kernels-{hashlib.sha256(kernels).hexdigest()[:12]}"
    try:
        folder = Path(base).expanduser() / "asr" / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only or missing home
        return None
    return folder if os.access(folder, os.W_OK) else None


CACHE_FOLDER = _cache_folder()
# Nothing calls kernels from C.
FLAGS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}


def njit(function: Function, **flags: Any) -> Function:
    """Decorator: compile at the first call for each set of argument types; cached, no GIL.

    Division by zero gives inf or nan as in numpy. Array indices are not checked.
    """
    saved = settings.CACHE_DIR
    try:  # numba chooses the folder while it decorates; other packages keep their own
        settings.CACHE_DIR = str(CACHE_FOLDER or saved)
        decorate: Any = numba.njit(cache=bool(CACHE_FOLDER), **(FLAGS | flags))
        compiled: Function = decorate(function)
    finally:
        settings.CACHE_DIR = saved
    return compiled


# `njit` for functions that make no arrays, neither themselves nor in what they call: without
# counting references, which in loops over tuples of many arrays costs more than the work.
njit_lean = partial(njit, _nrt=False)
# `njit_lean` for what only kernels call: without the wrapper for calls from Python, which for
# tuples of many arrays takes as long to compile as the function. (Such a call would crash.)
njit_inner = partial(njit, _nrt=False, no_cpython_wrapper=True)
# `njit_lean` for what a loop calls with such tuples: no call, so no copying of them.
njit_inline = partial(njit, _nrt=False, inline="always")
# `njit_lean` for microseconds of work: giving up the interpreter's lock would cost more.
njit_short = partial(njit, _nrt=False, nogil=False)
