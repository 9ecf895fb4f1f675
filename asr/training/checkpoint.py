"""Checkpoints: atomic, verified when read, the last two and the k best kept; their average.

A file is what `torch.save` writes of tensors and plain Python values, and the SHA-256 of that.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from asr.console import say
from asr.errors import InputError
from asr.files import whole_file

State = dict[str, Any]
DIGEST = hashlib.sha256().digest_size  # bytes at the end of a file


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
        """Write `state` as the checkpoint of `state["step"]`. Older ones go, except the one before
        and the steps in `keep`. Raises InputError, nothing half-written, if the disk is full."""
        path, content = self.path(state["step"]), io.BytesIO()
        torch.save(state, content)  # to a file it would hide the reason of a failed write
        with whole_file(path, "wb") as file:
            file.write(content.getbuffer())
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.flush()
            os.fsync(file.fileno())
        old = set(self.all()[:-2]) - {self.path(step) for step in keep}
        for gone in [*old, *self.folder.glob(".*.part")]:
            gone.unlink()
        return path

    def last(self) -> State | None:
        """The newest that is whole, None if there are none. Damaged ones are named and renamed, to
        not count among the last two. Raises InputError if all are."""
        paths, damaged, state = self.all(), list[Path](), None
        while paths and not (state := read(paths[-1])):
            say(f"{paths[-1]} is damaged")
            damaged.append(paths.pop())
        if damaged and not state:
            remedy = "Remove the folder to start again."
            raise InputError("every checkpoint is damaged", self.folder, remedy)
        for path in damaged:
            path.rename(f"{path}.damaged")
        return state

    def average(self, steps: list[int]) -> dict[str, torch.Tensor]:
        """The mean weights of these steps, damaged ones left out; what is not floating is the
        first's. Raises InputError if all are damaged."""
        models = []
        for path in map(self.path, steps):
            if state := read(path):
                models.append(weights_of(state))
            else:
                say(f"{path} is damaged; left out of the average")
        if not models:
            raise InputError("the best checkpoints are damaged", self.folder)
        means = dict(models[0])
        for name, first in models[0].items():
            if first.is_floating_point():
                every = torch.stack([model[name].double() for model in models])
                means[name] = every.mean(0).to(first.dtype)
        return means


def weights_of(state: State) -> dict[str, torch.Tensor]:
    """Of the model: their moving average where there is one."""
    weights: dict[str, torch.Tensor] = state.get("ema") or state["model"]
    return weights


def read(path: Path) -> State | None:
    """Tensors on the CPU and plain values, None if the file is damaged; runs no code of its own."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
        return None
    state: State = torch.load(io.BytesIO(content[:-DIGEST]), "cpu", weights_only=True)
    return state
