"""metrics.jsonl, the one record of a training run, and TensorBoard as a rendering of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """Appends records to `metrics.jsonl` and to `tensorboard/` in an experiment folder.

    size: bytes of the record that belong to the checkpoint which is continued; what a killed run
    wrote after it is cut off. `step` is that checkpoint's. Raises OSError if the disk is full.
    """

    def __init__(self, folder: Path, size: int, step: int) -> None:
        path = folder / "metrics.jsonl"
        self._file = open(path, "ab")
        self._file.truncate(min(size, path.stat().st_size))
        self._file.seek(0, 2)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One record: kind ("train" every few steps, "epoch", "end"), step and values."""
        line = json.dumps({"kind": kind, "step": step, **values}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        if kind != "train":
            self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()
