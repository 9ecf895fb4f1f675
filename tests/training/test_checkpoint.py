"""Checkpoints: whole or not there, damage is found, old ones go, averages are means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from asr.errors import InputError
from asr.training.checkpoint import Checkpoints, read


def state(step: int, value: float) -> dict[str, object]:
    model = {"w": torch.full((3, 2), value), "n": torch.tensor(step)}
    return {"step": step, "model": model, "history": [{"wer": 0.5}]}


def test_keeps_the_last_two_and_those_asked_for(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.last() is None
    for step in range(1, 7):
        checkpoints.save(state(step, 0.0), {2, 3})
    assert [int(p.stem[-2:]) for p in checkpoints.all()] == [2, 3, 5, 6]
    last = checkpoints.last()
    assert last is not None
    assert last["step"] == 6


def test_every_damage_is_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Bits anywhere, lost ends, zeros: the file is named and the one before is used."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1, 1.0), set())
    path = checkpoints.save(state(2, 2.0), set())
    whole = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole), 50).tolist()
    flipped = [whole[:p] + bytes([whole[p] ^ 1]) + whole[p + 1 :] for p in (0, *places)]
    cut = [whole[:-30], whole[: len(whole) // 2], whole[:31], b"", bytes(len(whole)), whole + b"0"]
    for damaged in flipped + cut:
        path.write_bytes(damaged)
        last = checkpoints.last()
        assert last is not None
        assert last["step"] == 1
        assert f"{path} is damaged" in capfd.readouterr().err
    assert checkpoints.all() == [checkpoints.path(1)]
    checkpoints.path(1).write_bytes(b"")
    for _ in range(2):  # never as if there had been none
        with pytest.raises(InputError, match="every checkpoint is damaged"):
            checkpoints.last()


def test_average_is_the_mean(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, value in ((1, 1.0), (2, 2.0), (3, 6.0)):
        checkpoints.save(state(step, value), {1, 2, 3})
    mean = checkpoints.average([3, 1, 2])
    assert torch.equal(mean["w"], torch.full((3, 2), 3.0))
    assert mean["n"] == 3
    checkpoints.path(2).write_bytes(b"")
    assert torch.equal(checkpoints.average([3, 1, 2])["w"], torch.full((3, 2), 3.5))


def test_average_of_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1, 1.0), set()).write_bytes(b"")
    with pytest.raises(InputError, match="the best checkpoints are damaged"):
        checkpoints.average([1])


def test_reading_runs_no_code(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save({"step": 1, "evil": Path("x")}, set())
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        read(path)
