"""Configurations: what is composed, where paths start, and one message for each mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import soundfile
import yaml

from asr.config import all_options, differences, load_experiment, save_experiment
from asr.errors import InputError

SMALL = "data: {train: [a.jsonl], dev: [b.jsonl]}\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        path = tmp_path / "conf.yaml"
        path.write_text(text)
        return path

    return to_file


def test_values_defaults_and_changes(write: Callable[[str], Path]) -> None:
    path = write(SMALL + "model: {encoder: {layers: 5}}\ntrain: {learning_rate: 2e-3}\n")
    experiment = load_experiment(path, ["model.encoder.size=32", "data.speed=[1.0]"])
    assert (experiment.model.encoder.layers, experiment.model.encoder.size) == (5, 32)
    assert experiment.train.learning_rate == 0.002
    assert experiment.data.speed == [1.0]
    assert experiment.model.speller.label_smoothing == 0.1


def test_paths_start_at_the_file_or_at_the_current_folder(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORPUS", "/corpus")
    path = write("data: {train: ['../a.jsonl', '${oc.env:CORPUS}/b.jsonl'], dev: /c.jsonl}\n")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    data = load_experiment(path).data
    assert data.train == [str(tmp_path.parent / "a.jsonl"), "/corpus/b.jsonl"]
    assert data.dev == ["/c.jsonl"]
    soundfile.write(here / "noise.wav", np.ones(9), 8000)
    changes = ["data.train=[x.jsonl]", "data.noise.folder=.", "data.noise.share=1"]
    data = load_experiment(path, changes).data
    assert (data.train, data.noise.folder) == ([str(here / "x.jsonl")], str(here))


def test_saved_as_it_ran(write: Callable[[str], Path], tmp_path: Path) -> None:
    path = write(SMALL)
    experiment = load_experiment(path, ["train.epochs=7"])
    save_experiment(experiment, tmp_path / "ran.yaml")
    assert load_experiment(tmp_path / "ran.yaml") == experiment
    other = load_experiment(path, ["train.epochs=8", "seed=3", "train.threads=2"])
    assert differences(tmp_path / "ran.yaml", other) == {"seed": "1 -> 3", "train.epochs": "7 -> 8"}


def test_all_options_are_a_configuration_with_a_comment_each(tmp_path: Path) -> None:
    text = all_options()
    assert all(line.endswith(":") or line.partition("# ")[2] for line in text.splitlines())
    path = tmp_path / "conf.yaml"
    path.write_text(text.replace("???", "[x.jsonl]"))
    given = load_experiment(path)
    path.write_text("data: {train: [x.jsonl], dev: [x.jsonl]}")
    assert given == load_experiment(path)
    assert yaml.safe_load(text)["train"]["precision"] == "auto"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {learning_rat: 1}", r"'train.learning_rat'\. Did you mean 'train.learning_rate'"),
        ("batch_seconds: 9", r"unknown option 'batch_seconds'\. Did you mean 'data.batch_seconds'"),
        ("train: {epochs: many}", "'train.epochs': Value 'many' .* converted to Integer"),
        ("train: {epochs: 1.5}", "'train.epochs': Value '1.5'"),
        ("model: {encoder: 3}", "'model.encoder' is a group of options, not 3"),
        ("train: 3", "'train' is a group of options, not 3"),
        ("data: {train: [a], dev: [b], speed: 1.0}", r"'data\.speed': must be a list"),
        ("train: {epochs: 0}", r"train\.epochs=0 must be above 0"),
        ("train: {warmup: -1}", r"train\.warmup=-1 must be a number from 0 on"),
        ("train: {clip: .inf}", r"train\.clip=inf must be above 0"),
        ("train: {precision: float23}", r"='float23' is unknown\. Did you mean 'float32'"),
        ("data: {train: [], dev: [b]}", "at least one manifest"),
        ("data: {dev: [b]}", r"'data\.train' is missing"),
        ("data: {train: ['${oc.env:NOT_THERE}/a'], dev: [b]}", "variable 'NOT_THERE' not found"),
        (
            "data: {train: [a], dev: [b], specaugment: {time_share: 2}}",
            "time_share and frequency_width",
        ),
        ("trian: {epochs: 2}", r"unknown option 'trian'\. Did you mean 'train'"),
        ("model: {encodr: {size: 2}}", r"'model.encodr'\. Did you mean 'model.encoder'"),
        ("data: {train: [a], dev: [b], gain: .nan}", r"data\.gain=nan is no number"),
        ("data: {train: [a], dev: [b], speed: [1.0, .nan]}", r"data\.speed=.* is no number"),
        ("tokenizer: {normalizer: [5]}", r"normalizer=\[5\] is no name or list of rules"),
        ("train: {threads: 100000}", r"threads=100000 is more than 1024"),
        ("mwer: {lm: [x.lm]}", r"mwer\.lm and mwer\.weights are without effect"),
        ("seed: [1", "is not YAML"),
        ("- seed", "is not a mapping"),
    ],
)
def test_a_mistake_is_one_message_that_names_file_and_key(
    text: str, message: str, write: Callable[[str], Path]
) -> None:
    path = write(text if "data" in text or text.startswith(("seed", "-")) else SMALL + text)
    with pytest.raises(InputError, match=message) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_mistakes_in_a_change_name_the_change(write: Callable[[str], Path]) -> None:
    for change, message in (("train.epoch=3", "'train.epochs'"), ("seed", "is not KEY=VALUE")):
        with pytest.raises(InputError, match=message) as caught:
            load_experiment(write(SMALL), [change])
        assert str(caught.value).startswith(f"--set {change}: ")
    with pytest.raises(InputError, match=r"^--set train\.epochs=0: train\.epochs=0 must"):
        load_experiment(write(SMALL), ["train.epochs=3", "train.epochs=0"])


def test_command_leaves_nothing_behind(
    run_asr: Callable[..., CompletedProcess[str]], write: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run_asr("train", write(SMALL + "model: {encoder: {layrs: 2}}"), "-o", tmp_path / "exp")
    assert done.returncode == 2
    assert "Did you mean 'model.encoder.layers'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "exp").exists()
