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


@pytest.mark.parametrize("model", ["ctc", "las"])
def test_stopped_and_continued_equals_never_stopped(
    model: str, experiment: Experiment, tmp_path: Path
) -> None:
    """SIGKILL, Ctrl-C, SIGTERM and a damaged checkpoint; augmentation and dropout are on."""
    config = experiment(model, checkpoint_minutes=0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run = start(config, whole)
    assert (run.communicate()[1], run.returncode)[1] == 0

    run = start(config, broken)
    send_after(run, broken, 5, signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL

    run = start(config, broken)
    said = send_after(run, broken, 10, signal.SIGINT)
    assert run.returncode == 130
    assert "continuing after step" in said
    assert said.splitlines()[-1].startswith("interrupted after step")
    assert "Traceback" not in said

    newest = sorted((broken / "checkpoints").glob("*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    run = start(config, broken)
    said = send_after(run, broken, 15, signal.SIGTERM)
    assert run.returncode == 130
    assert f"{newest} is damaged" in said

    run = start(config, broken)
    assert (run.communicate()[1], run.returncode)[1] == 0
    assert records(broken) == records(whole)
    expected, got = (load_file(f / "model" / "model.safetensors") for f in (whole, broken))
    assert expected.keys() == got.keys()
    assert all((expected[name] == got[name]).all() for name in expected)
    assert len(steps(broken)) <= 4  # the last two and the two best

    run = start(config, broken)
    assert "is finished" in run.communicate()[1]
    assert run.returncode == 0
