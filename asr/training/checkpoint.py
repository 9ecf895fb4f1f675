"""Checkpoints: atomic, verified when read, the last two and the k best kept; their average.

A checkpoint is what `torch.save` writes (a zip with a checksum for each part) of tensors and plain
Python values only, so it loads with `weights_only=True` and damage is found without more files.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from asr.console import say
from asr.errors import InputError
from asr.files import whole_file

State = dict[str, Any]


class Checkpoints:
    """The folder `checkpoints/` of an experiment; files are named by their step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def all(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, state: State, keep: set[int]) -> Path:
        """Write `state` as the checkpoint of `state["step"]`; it appears only when it is whole.

        Older ones go, except the one before and the steps in `keep`. Raises InputError, with
        nothing half-written left, if the disk is full.
        """
        path = self.path(state["step"])
        content = io.BytesIO()  # torch.save itself would hide the reason of a failed write
        torch.save(state, content)
        with whole_file(path, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        for old in set(self.all()[:-2]) - {self.path(step) for step in keep}:
            old.unlink()
        return path

    def last(self) -> State | None:
        """The newest checkpoint that is whole; damaged ones are named. None if there are none.

        Raises InputError if all are damaged.
        """
        paths = self.all()
        for path in reversed(paths):
            if is_whole(path):
                return read(path)
            say(f"{path} is damaged; using the checkpoint before it")
        if paths:
            raise InputError(
                "every checkpoint is damaged", self.folder, "Remove the folder to start again."
            )
        return None

    def average(self, steps: list[int]) -> dict[str, torch.Tensor]:
        """The mean of the model weights of these steps, damaged ones left out; what is not
        floating is the first's."""
        paths = [self.path(step) for step in steps]
        for path in paths:
            if not is_whole(path):
                say(f"{path} is damaged; left out of the average")
        models = [read(path)["model"] for path in paths if is_whole(path)]
        return {
            name: torch.stack([model[name].double() for model in models]).mean(0).to(value.dtype)
            if value.is_floating_point()
            else value
            for name, value in models[0].items()
        }


def is_whole(path: Path) -> bool:
    """Whether every part of the file has its checksum."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: Path) -> State:
    """Tensors on the CPU and plain values; runs no code of the file's."""
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state
