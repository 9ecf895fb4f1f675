"""Several processes train and decode as one does; none waits for one that has died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from asr.commands.decode import command as decode
from asr.commands.train import command as train
from asr.commands.transcribe import command as transcribe
from asr.hypothesis import read_nbest

Experiment = Callable[..., Path]
Processes = Callable[..., "subprocess.Popen[str]"]


def given(config: Path, folder: Path, *changes: str) -> list[str]:
    return ["train", str(config), "-o", str(folder), *(f"--set={change}" for change in changes)]


def losses(folder: Path) -> list[dict[str, float]]:
    """Of every step and epoch, the dev set's too."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if "loss" in k or "wer" in k} for r in lines]


def check_close(a: Path, b: Path, tolerance: float) -> None:
    first, second = losses(a), losses(b)
    assert len(first) == len(second) > 50
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert np.allclose([*one.values()], [*other.values()], rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("model", "count", "precision", "tolerance"),
    [
        ("las", 2, "float64", 1e-9),
        pytest.param("las", 4, "float64", 1e-9, marks=pytest.mark.slow),
        pytest.param("ctc", 4, "float64", 1e-9, marks=pytest.mark.slow),
        pytest.param("ctc", 2, "float32", 1e-4, marks=pytest.mark.slow),
        pytest.param("las", 4, "float32", 1e-4, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_processes_has_the_same_losses(
    model: str,
    count: int,
    precision: str,
    tolerance: float,
    experiment: Experiment,
    processes: Processes,
    tmp_path: Path,
) -> None:
    """Over 50 steps without dropout. There are batches of one utterance, of which all processes but
    one get nothing, and audio that only one of them finds unreadable."""
    config = experiment(model, still=True, log_steps=1, epochs=10)
    (tmp_path / "train3.wav").unlink()
    changes = ["data.batch_utterances=3", f"train.precision={precision}", "data.workers=0"]
    changes += ["tokenizer.normalizer=english"]  # one that is more than named functions
    with pytest.raises(SystemExit) as leaving:
        train.main(given(config, tmp_path / "one", *changes)[1:], standalone_mode=False)
    assert leaving.value.code == 3
    run = processes(count, *given(config, tmp_path / "more", *changes))
    said = run.communicate()[1]
    assert "skipped 1 of 17 utterances" in said
    assert said.count("epoch 10/10: step") == 1
    check_close(tmp_path / "one", tmp_path / "more", tolerance)


def kill(run: subprocess.Popen[str], rank: int, folder: Path, step: int) -> None:
    """SIGKILL to a rank of torchrun once the checkpoint of `step` is there."""
    while not any(int(p.stem[5:]) >= step for p in folder.glob("checkpoints/step-*.pt")):
        assert run.poll() is None, run.stderr and run.stderr.read()
        time.sleep(0.01)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == run.pid and f"\0RANK={rank}\0" in (process / "environ").read_text():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # it has ended meanwhile
            continue


def test_a_rank_that_dies(experiment: Experiment, processes: Processes, tmp_path: Path) -> None:
    """Ends the others with one message; with restarts, torchrun continues by itself: to the same
    weights, bit for bit."""
    arguments = experiment("ctc", checkpoint_minutes=0, epochs=8), tmp_path / "broken"
    run = processes(2, *given(*arguments))
    kill(run, 1, arguments[1], 4)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: another process of the group has died. The same command continues; "
        "`torchrun --max-restarts` gives it by itself."
    ]
    run = processes(2, *given(*arguments), restarts=1)
    kill(run, 0, arguments[1], 12)
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    assert said.count("continuing after step") == 2
    whole = processes(2, *given(arguments[0], tmp_path / "whole"))
    said = whole.communicate()[1]
    assert whole.returncode == 0, said
    models = [
        load_file(folder / "model" / "model.safetensors")
        for folder in (tmp_path / "whole", arguments[1])
    ]
    assert all((models[0][name] == weight).all() for name, weight in models[1].items())


def test_a_mistake_is_told_once(
    experiment: Experiment, processes: Processes, tmp_path: Path
) -> None:
    run = processes(2, *given(experiment("ctc"), tmp_path / "exp", "train.epoch=3"))
    said = run.communicate(timeout=60)[1]
    assert said.count("error: ") == 1
    assert "Did you mean 'train.epochs'?" in said


def test_decoding_in_processes_is_complete_and_in_order(
    experiment: Experiment, processes: Processes, tmp_path: Path
) -> None:
    config = experiment("ctc", epochs=1)
    (tmp_path / "train5.wav").write_text("no audio")
    with pytest.raises(SystemExit):
        train.main([str(config), "-o", str(tmp_path / "exp")], standalone_mode=False)
    arguments = [tmp_path / "exp", tmp_path / "manifest.train.jsonl", "--beam", 1, "-o"]
    with pytest.raises(SystemExit):
        decode.main([*map(str, arguments), str(tmp_path / "one.jsonl")], standalone_mode=False)
    said = processes(3, "decode", *arguments, tmp_path / "three.jsonl").communicate()[1]
    assert "skipped 1 of 14 utterances" in said
    assert said.count("utterances decoded in") == 1
    found: list[Any] = []
    for name in ("one", "three"):
        meta, results = read_nbest(tmp_path / f"{name}.jsonl")
        times = [meta.pop(key) for key in ("decode_seconds", "audio_seconds", "threads")]
        found.append((meta, [(r.id, r.error, r.text) for r in results], round(times[1], 6)))
    assert found[0] == found[1]
    assert not list(tmp_path.glob(".*.part"))

    waves = [str(tmp_path / f"train{i}.wav") for i in (0, 5, 1, 2)]
    arguments = [tmp_path / "exp", *waves, "--beam", 1, "-o"]
    with pytest.raises(SystemExit):
        transcribe.main([*map(str, arguments), str(tmp_path / "a")], standalone_mode=False)
    said = processes(2, "transcribe", *arguments, tmp_path / "b").communicate()[1]
    assert "skipped 1 of 4 files" in said
    texts = [{p.name: p.read_text() for p in (tmp_path / n).iterdir()} for n in ("a", "b")]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 3
