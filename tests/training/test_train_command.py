"""`asr train` as a user meets it: what it writes, what it skips, what it refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console
from rich.progress import Progress
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asr.commands.train import check_folder, command, prepare, window_of
from asr.config import load_experiment
from asr.console import progress
from asr.data.loader import Batch
from asr.errors import InputError
from asr.files import locked
from asr.models.folder import model_folder
from asr.models.recognizer import Recognizer
from asr.text.tokenizer import Tokenizer
from asr.training.checkpoint import read
from asr.training.distributed import Group
from asr.training.update import Outcome

Experiment = Callable[..., Path]


def train(config: Path, folder: Path, *more: str) -> int:
    """Exit status of `asr train` in this process, without workers."""
    given = [str(config), "-o", str(folder), "--set", "data.workers=0", *more]
    try:
        command.main(given, standalone_mode=False)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_what_an_experiment_folder_holds(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = experiment("las", epochs=2)
    with open(tmp_path / "manifest.train.jsonl", "a") as file:
        file.write('{"id": "long", "audio": "train0.wav", "duration": 99, "text": "ab"}\n')
    folder = tmp_path / "exp"
    assert train(config, folder) == 0
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if line.startswith("epoch 2/2: step")]
    assert "left out 1 utterance, listed in" in said
    assert "warning: it recognises next to nothing." in said
    assert re.search(r"warning: \d+ steps in all, the first 200 to warm up, are few", said)
    assert json.loads((folder / "skipped.jsonl").read_text())["id"] == "long"
    assert load_experiment(folder / "config.yaml").train.epochs == 2
    lines = [json.loads(s) for s in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["waiting"] <= 1 for line in lines if "waiting" in line)
    kinds = [line["kind"] for line in lines]
    assert kinds.count("epoch") == 2
    assert kinds[-1] == "end"
    assert "train" in kinds
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    shown = {
        (tag, event.step): event.value
        for tag in board.Tags()["scalars"]
        for event in board.Scalars(tag)
    }
    written = {
        (f"{line['kind']}/{name}", line["step"]): value
        for line in lines
        for name, value in line.items()
        if name not in ("kind", "step")
    }
    assert shown == pytest.approx(written, rel=1e-6)  # single precision
    model = Recognizer.load(folder / "model")
    assert model.has_ctc
    assert model.has_speller
    assert model.vocabulary == Tokenizer.load(folder / "model").size
    assert model.window == 2.0  # the shortest; these utterances last a second
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(
    ("figures", "average", "best"),
    [
        ([(0.9, 1), (0.3, 5), (0.7, 2), (0.2, 6), (0.5, 3)], 2, [2, 4]),
        ([(0.6, 2), (0.5, 9), (0.6, 1), (0.6, 3), (0.9, 0)], 2, [2, 3]),  # then the loss decides
        ([(0.6, 2), (0.5, 9), (0.6, 1)], 9, [1, 2, 3]),
        ([(0.9, 3), (1.2, 1), (1.1, 2), (1.3, 0)], 3, [1, 2, 4]),  # above 100 % all are equal
        ([(1.0, 3), (1.5, 1), (1.2, 2)], 2, [2]),  # nothing is recognised: one
    ],
)
def test_the_model_is_the_average_of_the_best_epochs(
    figures: list[tuple[float, float]],
    average: int,
    best: list[int],
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real training, but WER and loss on the dev set are given."""
    config = experiment("ctc", epochs=len(figures), average=average, learning_rate=0.01, warmup=0)
    trainer = prepare(load_experiment(config, ("data.workers=0",)), tmp_path / "exp", Group())
    epochs: list[dict[str, torch.Tensor]] = []

    def given(_: object) -> dict[str, float]:
        epochs.append({name: w.clone() for name, w in trainer.model.state_dict().items()})
        wer, loss = [*figures, figures[-1]][len(epochs) - 1]
        return {"wer": wer, "wer_ctc": wer, "loss": loss}

    monkeypatch.setattr(trainer, "_evaluate", given)
    trainer.run()
    assert len(epochs) == len(figures) + 1  # the model itself at the end
    for name, weight in Recognizer.load(tmp_path / "exp" / "model").state_dict().items():
        mean = torch.stack([epochs[epoch - 1][name].double() for epoch in best]).mean(0)
        torch.testing.assert_close(weight.double(), mean, rtol=1e-6, atol=1e-7)


def test_the_live_line_tells_the_loss_the_speed_and_the_waiting(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real training by a clock on which a batch comes after 3 s and a step takes 1 s."""
    clock, behind = 0.0, list[Outcome]()
    monkeypatch.setattr("asr.training.loop.time", SimpleNamespace(monotonic=lambda: clock))
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    monkeypatch.setattr("asr.console.stderr", terminal)

    def at_once() -> Progress:
        bar = progress()
        monkeypatch.setattr(bar, "update", partial(bar.update, refresh=True))
        return bar

    monkeypatch.setattr("asr.training.loop.progress", at_once)
    plain = ("data.workers=0", "data.speed=[1.0]", "data.silence.share=0")
    config = load_experiment(experiment("las", epochs=1), plain)
    trainer = prepare(config, tmp_path / "exp", Group())
    batches, update = trainer.train.batches, trainer.updater.update

    def late(*given: Any) -> Iterator[Batch]:
        nonlocal clock
        for batch in batches(*given):
            clock += 3
            yield batch

    def slow(*given: Any) -> Outcome:
        nonlocal clock
        clock += 1
        behind.append(update(*given))
        return behind[-1]

    monkeypatch.setattr(trainer.train, "batches", late)
    monkeypatch.setattr(trainer.updater, "update", slow)
    trainer.run()
    rows = [json.loads(s) for s in (tmp_path / "manifest.train.jsonl").read_text().splitlines()]
    audio = [one.seconds for one in behind]
    assert sum(audio) == pytest.approx(sum(row["duration"] for row in rows), rel=1e-4)
    lines = terminal.file.getvalue().replace("\r", "\n").splitlines()  # type: ignore[attr-defined]
    for n in range(1, len(behind) + 1):
        total, count = (sum(o.sums[key] for o in behind[:n]) for key in ("total", "utterances"))
        speed = f"{sum(audio[:n]) / (4 * n):.0f} s audio/s, 75% waiting for data"
        note = f"loss {total / count:.2f}, {speed}"
        assert any(
            "epoch 1/1 " in line and f" {n}/{len(behind)} " in line and note in line
            for line in lines
        )
    assert any(f"epoch 1/1: step {n}, {note}; dev loss " in line for line in lines)


def test_recordings_of_a_lower_rate_are_told(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, hint = experiment("ctc", epochs=1), "hint: the recordings are of 8000 Hz"
    for rate, told in ((16000, True), (8000, False)):
        assert train(config, tmp_path / str(rate), "--set", f"model.sample_rate={rate}") == 0
        assert (hint in capsys.readouterr().err) == told
    again = "--set", "model.sample_rate=16000", "--init"
    assert train(config, tmp_path / "more", *again, str(tmp_path / "16000")) == 0
    assert hint not in capsys.readouterr().err  # the model that it starts from has a rate
    with pytest.raises(InputError, match="gone: no such model or experiment folder"):
        train(config, tmp_path / "none", *again, str(tmp_path / "gone"))


def test_window_of_a_model() -> None:
    durations = np.arange(11, dtype=np.float32)[::-1]
    assert window_of(durations, None) == window_of(durations, 8.5) == 9.0
    assert window_of(durations, 12.0) == 12.0
    assert window_of(durations / 10, None) == 2.0


def test_loss_falls(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Utterances of one token sequence each are learnt by heart."""
    config = experiment("ctc", epochs=25, learning_rate=0.01, warmup=5)
    assert train(config, tmp_path / "exp", "--set", "data.speed=[1.0]") == 0
    assert "to warm up" not in capsys.readouterr().err
    lines = (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()
    losses = [r["loss"] for r in map(json.loads, lines) if r["kind"] == "epoch"]
    assert losses[-1] < 0.6 * losses[0]


def test_broken_audio_is_listed_and_the_status_is_3(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = experiment("ctc", epochs=1)
    soundfile.write(tmp_path / "train3.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    (tmp_path / "train4.wav").unlink()
    (tmp_path / "dev1.wav").write_text("no audio")
    assert train(config, tmp_path / "exp") == 3
    said = capsys.readouterr().err
    assert "skipped 3 of 17 utterances" in said
    assert all(f"  {name}: " in said for name in ("train3", "train4", "dev1"))
    assert (tmp_path / "exp" / "model" / "config.json").exists()
    listed = (tmp_path / "exp" / "skipped.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in listed) == ["dev1", "train3", "train4"]


@pytest.mark.parametrize("name", ["train", "dev"])
def test_no_usable_audio_at_all(name: str, experiment: Experiment, tmp_path: Path) -> None:
    config = experiment("ctc", epochs=1)
    for wave in tmp_path.glob(f"{name}*.wav"):
        soundfile.write(wave, np.full(8000, np.nan), 8000, subtype="FLOAT")
    message = rf"manifest\.{name}\.jsonl: no audio can be used \(first: {name}\d"
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "exp")
    assert not (tmp_path / "exp").exists()


def test_folders_that_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    config = experiment("ctc")
    given = load_experiment(config)
    folder = tmp_path / "exp"
    folder.mkdir()
    assert check_folder(folder, given) is None
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="neither empty nor an experiment"):
        check_folder(folder, given)
    with pytest.raises(InputError, match="is not a folder"):
        train(config, folder / "notes.txt")
    shutil.rmtree(folder)
    with locked(folder), pytest.raises(InputError, match="another process is at work in it"):
        train(config, folder)
    assert train(config, folder, "--set", "train.epochs=1") == 0
    saved = (folder / "config.yaml").read_text()
    for damaged in ("a: [", "", "- 1"):
        (folder / "config.yaml").write_text(damaged)
        with pytest.raises(InputError, match=r"config\.yaml: is damaged"):
            train(config, folder)
    (folder / "config.yaml").write_text(saved)
    with pytest.raises(InputError, match=r"another configuration \(train\.epochs: 1 -> 6\)"):
        train(config, folder)


def test_a_model_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match=r"has not ended, .* Start the same `asr train` command"):
        model_folder(tmp_path)
    with locked(tmp_path), pytest.raises(InputError, match=r"It still runs: wait for it\."):
        model_folder(tmp_path)


def test_impossible_options_of_the_model_leave_nothing(
    experiment: Experiment, tmp_path: Path
) -> None:
    config = experiment("ctc")
    for change, message in (
        ("model.encoder.type=lstm", "model.encoder.type"),
        ("model.encoder.dropout=7", "model.encoder.dropout"),
        ("train.device=tpu9", "device 'tpu9' cannot be used"),
        ("train.device=meta", "device 'meta' cannot be used"),
        ("tokenizer.type=bpe", "need a size"),
        ("tokenizer.normalizer=engish", "Did you mean 'english'"),
    ):
        with pytest.raises(InputError, match=message):
            train(config, tmp_path / "exp", "--set", change)
    assert not (tmp_path / "exp").exists()


def test_init_takes_weights_that_fit(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = experiment("ctc", epochs=1)
    first = tmp_path / "first"
    assert train(config, first) == 0
    source = Recognizer.load(first / "model").state_dict()
    still = ("--set", "train.learning_rate=1e-12", "--init", str(first))
    assert train(config, tmp_path / "second", *still) == 0
    got = Recognizer.load(tmp_path / "second" / "model").state_dict()
    assert all(torch.allclose(got[n], w, atol=1e-6) for n, w in source.items())
    capsys.readouterr()
    bigger = ("--set", "tokenizer.type=bpe", "--set", "tokenizer.size=12")
    assert train(config, tmp_path / "third", *still, *bigger) == 0
    said = capsys.readouterr().err
    got = Recognizer.load(tmp_path / "third" / "model").state_dict()
    others = [n for n in source if not n.startswith("ctc.")]
    assert all(torch.allclose(got[n], source[n], atol=1e-6) for n in others)
    old, new = (Tokenizer.load(f / "model").pieces for f in (first, tmp_path / "third"))
    known = set(old) & set(new)
    assert 2 < len(known) < len(new) != len(old)
    assert f"{len(known)} of {len(new)} tokens are known to {first / 'model'}" in said
    for name in ("ctc.linear.weight", "ctc.linear.bias"):
        for piece in new:
            same = piece in known and torch.allclose(
                got[name][new.index(piece)], source[name][old.index(piece)], atol=1e-6
            )
            assert same == (piece in known)
    with pytest.raises(InputError, match=r"its sample rate is 8000 Hz, not 16000"):
        train(config, tmp_path / "fourth", *still, "--set", "model.sample_rate=16000")
    other = ("--set", "model.encoder.size=24", "--set", "model.frontend.channels=16")
    with pytest.raises(InputError, match=r"another model.*Copy `model:`"):
        train(config, tmp_path / "fourth", *still, *other)


def test_divergence_is_told_with_the_last_good_weights(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight becomes NaN in the tenth step. What was good before can be trained on."""
    folder = tmp_path / "exp"
    config = load_experiment(experiment("las", checkpoint_minutes=0), ("data.workers=0",))
    trainer = prepare(config, folder, Group())
    calls = 0

    def spoilt(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 10:
            trainer.updater.parameters[-1].data.fill_(torch.nan)
        return trainer.model.losses(**tensors)

    trainer.updater.losses = spoilt
    with pytest.raises(InputError, match="20 steps in a row were left out") as told:
        trainer.run()
    assert "step 10: the loss or its gradient is not finite; left out: train" in (
        capsys.readouterr().err
    )
    assert f"--init {folder / 'last_good'}" in str(told.value)
    state = read(trainer.checkpoints.path(9))
    assert state is not None
    good = Recognizer.load(folder / "last_good").state_dict()
    assert all(torch.equal(good[name], weight) for name, weight in state["model"].items())
    assert not (folder / "model").exists()


def test_divergence_without_a_checkpoint(experiment: Experiment, tmp_path: Path) -> None:
    config = experiment("ctc", learning_rate=1e30, warmup=0)
    with pytest.raises(InputError, match="training has diverged: 20 steps") as told:
        train(config, tmp_path / "exp")
    assert "last_good" not in str(told.value)


SCRIPT = """
mkdir "$2/disk" && mount -t tmpfs -o size=600k tmpfs "$2/disk" || exit 99
"$0" -m asr train "$1" -o "$2/disk/exp"; echo "status $?"
find "$2/disk" -name '*.part'
mount -o remount,size=50m "$2/disk"
"$0" -m asr train "$1" -o "$2/disk/exp"; echo "status $?"
ls "$2/disk/exp/model"
"""


def test_full_disk(experiment: Experiment, tmp_path: Path, namespace: list[str]) -> None:
    """A tmpfs in a mount namespace of its own holds two checkpoints, not three."""
    arguments = [sys.executable, str(experiment("ctc")), str(tmp_path)]
    done = subprocess.run(
        [*namespace, "sh", "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    shown = done.stdout.splitlines()
    assert shown[:2] == ["status 2", "status 0"], done.stderr
    assert "model.safetensors" in shown
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "No space left on device. The last checkpoint, " in errors[0]
    again = f"asr train {arguments[1]} -o {tmp_path}/disk/exp"
    assert errors[0].endswith(f"is whole. Make room, then continue with: {again}")
    assert "continuing after step" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_epoch_in_which_no_audio_can_be_read_ends_training(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a network drive that is gone: else the epochs left would pass without a step."""
    config = experiment("ctc", epochs=4)
    trainer = prepare(load_experiment(config, ("data.cache_mb=0",)), tmp_path / "exp", Group())
    save, away = trainer.save, tmp_path / "away"
    away.mkdir()

    def gone_after_the_second_epoch() -> None:
        save()
        if trainer.epoch == 2:
            for file in tmp_path.glob("train*.wav"):
                file.rename(away / file.name)

    monkeypatch.setattr(trainer, "save", gone_after_the_second_epoch)
    with pytest.raises(InputError, match="no audio of the training set can be used any more") as e:
        trainer.run()
    assert "is not there" in str(e.value) or "cannot be" in str(e.value)
    for file in away.iterdir():
        file.rename(tmp_path / file.name)
    again = prepare(load_experiment(config, ("data.cache_mb=0",)), tmp_path / "exp", Group())
    again.run()
    assert [entry["step"] for entry in again.history] == sorted({e["step"] for e in again.history})
    assert (tmp_path / "exp" / "model").is_dir()
