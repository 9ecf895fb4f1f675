"""Runs that are killed, interrupted, or meet a full disk, and are started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from asr.commands.train import command

Experiment = Callable[..., Path]


def start(config: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "asr", "train", str(config), "-o", str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def steps(folder: Path) -> list[int]:
    return [int(p.stem.removeprefix("step-")) for p in (folder / "checkpoints").glob("step-*.pt")]


def send_after(run: subprocess.Popen[str], folder: Path, step: int, number: int) -> str:
    """Send a signal once the checkpoint of `step` is there; what was said on stderr."""
    while max(steps(folder), default=0) < step:
        assert run.poll() is None, run.stderr and run.stderr.read()
        time.sleep(0.005)
    os.killpg(run.pid, number)
    return run.communicate()[1]


def records(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("audio_per_second", "waiting")}
        for line in lines
    ]


def finish(run: subprocess.Popen[str]) -> str:
    said = run.communicate()[1]
    assert run.returncode == 0, said
    return said


def check_same(whole: Path, broken: Path) -> None:
    """The same record and the same weights, bit for bit; no more checkpoints than are kept."""
    assert records(broken) == records(whole)
    expected, got = (load_file(f / "model" / "model.safetensors") for f in (whole, broken))
    assert expected.keys() == got.keys()
    assert all((expected[name] == got[name]).all() for name in expected)
    assert len(steps(broken)) <= 4  # the last two and the two best


@pytest.fixture
def never_stopped(tmp_path: Path) -> Callable[[Path], Path]:
    """Trains in this process and without workers, which must change nothing either."""

    def train(config: Path) -> Path:
        given = [str(config), "-o", str(tmp_path / "whole"), "--set", "data.workers=0"]
        command.main(given, standalone_mode=False)
        return tmp_path / "whole"

    return train


@pytest.mark.parametrize("model", ["ctc", "las"])
def test_killed_and_continued_equals_never_stopped(
    model: str, experiment: Experiment, tmp_path: Path, never_stopped: Callable[[Path], Path]
) -> None:
    """In the second epoch; augmentation and dropout are on."""
    config, folder = experiment(model, checkpoint_minutes=0), tmp_path / "broken"
    run = start(config, folder)
    send_after(run, folder, 7, signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not (folder / "model").exists()
    assert "continuing after step" in finish(start(config, folder))
    check_same(never_stopped(config), folder)


def test_interrupted_and_damaged(
    experiment: Experiment,
    tmp_path: Path,
    never_stopped: Callable[[Path], Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C, then SIGTERM, then the last checkpoint is damaged; at last it is finished."""
    config, folder = experiment("ctc", checkpoint_minutes=0), tmp_path / "broken"
    for step, number in ((3, signal.SIGINT), (12, signal.SIGTERM)):
        run = start(config, folder)
        said = send_after(run, folder, step, number)
        assert run.returncode == 130
        assert said.splitlines()[-1].startswith("interrupted after step")
        assert "Traceback" not in said
    newest = sorted((folder / "checkpoints").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert f"{newest} is damaged" in finish(start(config, folder))
    check_same(never_stopped(config), folder)
    capfd.readouterr()
    never_stopped(config)
    assert "is finished" in capfd.readouterr().err
