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

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from asr.commands.train import command
from asr.errors import InputError
from asr.training.checkpoint import Checkpoints

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
    """The same record, weights, optimiser and averages, bit for bit; no more checkpoints than are
    kept, and nothing half-written."""
    assert records(broken) == records(whole)
    expected, got = (load_file(f / "model" / "model.safetensors") for f in (whole, broken))
    assert expected.keys() == got.keys()
    assert all((expected[name] == got[name]).all() for name in expected)
    assert len(steps(broken)) <= 4  # the last two and the two best
    assert not list((broken / "checkpoints").glob(".*"))
    states = [Checkpoints(folder / "checkpoints").last() for folder in (whole, broken)]
    for state in states:
        assert state is not None
        del state["metrics_size"]  # the record holds times
    assert same(*states)


def same(a: Any, b: Any) -> bool:
    """Tensors and plain values in dicts and lists, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.fixture
def never_stopped(tmp_path: Path) -> Callable[[Path], Path]:
    """Trains in this process and without workers, which must change nothing either."""

    def train(config: Path) -> Path:
        given = [str(config), "-o", str(tmp_path / "whole"), "--set", "data.workers=0"]
        command.main(given, standalone_mode=False)
        return tmp_path / "whole"

    return train


def kill(run: subprocess.Popen[str], folder: Path, random: np.random.Generator) -> bool:
    """SIGKILL after some time, after some steps, or while a checkpoint is written; whether it hit.

    Soon enough that a run may be hit many times; it may be within an epoch or the dev set, too.
    """
    how = random.choice(["time", "steps", "writing", "writing"])
    begin = max(steps(folder), default=0)
    wait, further = random.uniform(0, 4), random.integers(1, 7)
    deadline = time.monotonic() + (wait if how == "time" else 600)
    while time.monotonic() < deadline and run.poll() is None:
        if max(steps(folder), default=0) >= begin + further:
            if how == "steps":
                time.sleep(random.uniform(0, 0.05))
                break
            if how == "writing" and list(folder.glob("checkpoints/.*.part")):
                break
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    return run.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("model", "kills"),
    [
        ("ctc", 1),
        ("las", 3),
        pytest.param("ctc", 20, marks=pytest.mark.slow),
        pytest.param("las", 20, marks=pytest.mark.slow),
    ],
)
def test_killed_and_continued_equals_never_stopped(
    model: str,
    kills: int,
    experiment: Experiment,
    tmp_path: Path,
    never_stopped: Callable[[Path], Path],
) -> None:
    """At random moments; augmentation, dropout, threads that read and the moving average are on."""
    config = experiment(model, checkpoint_minutes=0, epochs=3 + 2 * kills, ema=0.9)
    folder, random = tmp_path / "broken", np.random.default_rng(kills)
    hits = partial = 0
    while hits < kills:
        hits += kill(start(config, folder), folder, random)
        partial += bool(list(folder.glob("checkpoints/.*.part")))
        assert not (folder / "model").exists(), f"ended after {hits} kills"
    print(f"{model}: {hits} kills, {partial} of them while a checkpoint was being written")
    finish(start(config, folder))
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


def test_number_of_epochs_changed_on_the_way(
    experiment: Experiment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An interrupted run ends at once where fewer are asked for than are behind it, else later; a
    finished one does neither."""
    config, folder = experiment("ctc", checkpoint_minutes=0, epochs=500), tmp_path / "exp"
    run = start(config, folder)
    assert "with --set train.epochs=" in send_after(run, folder, 12, signal.SIGINT)
    behind = max(steps(folder))
    changed = [str(config), "-o", str(folder), "--set", "data.workers=0", "--set"]
    command.main([*changed, "train.epochs=1"], standalone_mode=False)
    said = capfd.readouterr().err
    assert "train.epochs: 500 -> 1; the learning rate falls" in said
    assert "\nepoch" not in said
    assert max(steps(folder)) == behind
    assert records(folder)[-1]["kind"] == "end"
    with pytest.raises(InputError, match=rf"epochs: 1 -> 3.*with --init {folder}"):
        command.main([*changed, "train.epochs=3"], standalone_mode=False)


def test_continued_without_what_it_began_from_and_on_other_data(
    experiment: Experiment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The model of --init may be gone by then; a manifest that has changed is named."""
    config = experiment("ctc", checkpoint_minutes=0, epochs=1)
    given = ["--set", "data.workers=0", "--set", "train.warmup=0"]
    command.main([str(config), "-o", str(tmp_path / "first"), *given], standalone_mode=False)
    more = [str(config), "-o", str(tmp_path / "exp"), *given, "--init", str(tmp_path / "first")]
    command.main(more, standalone_mode=False)
    for name in ("exp/model", "first"):
        (tmp_path / name).rename(tmp_path / f"{name}.gone")
    with open(tmp_path / "manifest.dev.jsonl", "a") as file:
        file.write("\n")
    capfd.readouterr()
    command.main(more, standalone_mode=False)
    said = capfd.readouterr().err
    assert f"warning: {tmp_path / 'manifest.dev.jsonl'} changed since: epochs" in said
    assert "manifest.train.jsonl changed" not in said
    folders = [tmp_path / "exp" / name for name in ("model", "model.gone")]
    ends = [load_file(folder / "model.safetensors") for folder in folders]
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])
    assert len({(folder / "config.json").read_text() for folder in folders}) == 1


def test_checkpoints_of_an_older_version(experiment: Experiment, tmp_path: Path) -> None:
    given = [str(experiment("ctc", epochs=1)), "-o", str(tmp_path / "exp")]
    given += ["--set", "data.workers=0"]
    command.main(given, standalone_mode=False)
    (tmp_path / "exp" / "model").rename(tmp_path / "gone")
    checkpoints = Checkpoints(tmp_path / "exp" / "checkpoints")
    state = checkpoints.last()
    assert state
    for key in ("sets", "window", "splits"):
        checkpoints.save({name: part for name, part in state.items() if name != key}, set())
        with pytest.raises(InputError, match=rf"older version \(they lack '{key}'\)\. Start"):
            command.main(given, standalone_mode=False)
