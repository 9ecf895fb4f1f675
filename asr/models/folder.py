"""The folder of a model: where it is, and a hash that tells it from others."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from asr.errors import InputError
from asr.files import locked


def model_folder(path: Path | str) -> Path:
    """The model folder of `path`, which is one or is an experiment folder that holds one."""
    path = Path(path)
    if path.is_file():
        what = "is a file, and models are folders"
        raise InputError(what, path, "Give one of `asr train`; language models go behind --lm.")
    if not path.is_dir():
        raise InputError("no such model or experiment folder", path, "`asr train` makes them.")
    begun = (path / "config.yaml").exists() or (path / "checkpoints").exists()
    if (path / "config.json").exists() or not begun:
        return path
    if not (path / "model").is_dir():
        remedy = "It still runs: wait for it."
        with suppress(InputError), locked(path):
            remedy = "Start the same `asr train` command again: it continues."
        raise InputError("its training has not ended, so there is no model yet", path, remedy)
    return path / "model"


def model_hash(folder: Path) -> str:
    """A short hash of the weights of a model folder."""
    with open(folder / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
