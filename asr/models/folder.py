"""The folder of a model: where it is, and a hash that tells it from others."""

from __future__ import annotations

import hashlib
from pathlib import Path

from asr.errors import InputError


def model_folder(path: Path | str) -> Path:
    """The model folder of `path`, which is one or is an experiment folder that holds one."""
    path = Path(path)
    if path.is_file():
        what = "is a file, and models are folders"
        raise InputError(what, path, "Give one of `asr train`; language models go behind --lm.")
    if not path.is_dir():
        raise InputError("no such model or experiment folder", path, "`asr train` makes them.")
    if (path / "config.json").exists() or not (path / "checkpoints").exists():
        return path
    if not (path / "model").is_dir():
        what = "the training has not finished, so there is no model yet"
        raise InputError(what, path, "Start the same `asr train` command again: it continues.")
    return path / "model"


def model_hash(folder: Path) -> str:
    """A short hash of the weights of a model folder."""
    with open(folder / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
