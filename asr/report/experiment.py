"""What an experiment folder says of itself: curves, configuration, hashes, hardware."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from asr.config import flat
from asr.data.manifest import Manifest
from asr.errors import InputError
from asr.files import cannot_read
from asr.models.folder import model_hash
from asr.models.recognizer import read_config
from asr.pictures import curves
from asr.report.page import Rows, Table, data_uri, distinct

# title, kind of record and key in metrics.jsonl, factor, scale of the axis
CURVES = (
    ("loss in training", "train", "loss", 1, "log"),
    ("loss on the dev set", "epoch", "dev_loss", 1, "linear"),
    ("WER on the dev set, %", "epoch", "dev_wer", 100, "linear"),
    ("time spent waiting for data, %", "train", "waiting", 100, "linear"),
    ("seconds of audio a second", "train", "audio_per_second", 1, "log"),
    ("gradient norm", "train", "gradient_norm", 1, "log"),
    ("learning rate", "train", "learning_rate", 1, "linear"),
)


class Experiment:
    """config: options by name; records: the lines of metrics.jsonl; hash: the model's, if any."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where a file is missing or damaged."""
        self.folder, self.name, model = folder, folder.name, folder / "model"
        machine = folder / "machine.json"  # absent in experiments of earlier versions
        try:
            config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
            whole_lines = (folder / "metrics.jsonl").read_text("utf-8").rpartition("\n")[0]
            self.records = [json.loads(line) for line in whole_lines.splitlines()]
            self.machine = json.loads(machine.read_text("utf-8")) if machine.exists() else {}
        except (OSError, ValueError) as error:
            raise cannot_read(folder, error, "Give a folder of `asr train`.") from error
        self.config: dict[str, Any] = dict(flat(config))
        self.hash = model_hash(model) if (model / "model.safetensors").exists() else None

    def values(self, kind: str, key: str) -> list[tuple[int, float]]:
        """Steps and finite values of one quantity; a share of time is at most 1, whatever a clock
        said that had just started."""
        own = [(r["step"], r[key]) for r in self.records if r["kind"] == kind and key in r]
        most = 1.0 if key == "waiting" else math.inf
        return [(s, min(v, most)) for s, v in own if v is not None and math.isfinite(v)]

    def hashes(self) -> dict[str, str]:
        """Of the model and of what it was made from."""
        hashes = {"model": self.hash or "none yet"}
        if self.hash:
            config = read_config(self.folder / "model" / "config.json")
            hashes["tokenizer"] = config["tokenizer_hash"]
        for key in ("data.train", "data.dev"):
            for path in self.config.get(key) or []:
                try:
                    hashes[f"{key}: {path}"] = f"{Manifest.open(path).hash} (as it is now)"
                except InputError as error:
                    hashes[f"{key}: {path}"] = error.what
        return hashes


def find_experiments(folders: Sequence[Path]) -> list[Experiment]:
    """Those that the folders are, or hold one level down. Raises InputError where there is none."""
    found: list[Experiment] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError("is not a folder", folder, "Give one of `asr train`.")
        places = [folder, *sorted(folder.iterdir())]
        own = [place for place in places if (place / "metrics.jsonl").exists()]
        if not own:
            raise InputError("holds no experiment", folder, "`asr train` makes them.")
        found += [Experiment(place) for place in own]
    names = distinct([one.name for one in found], [one.folder for one in found])
    for one, name in zip(found, names, strict=True):
        one.name = name
    return found


def draw_curves(experiments: Sequence[Experiment]) -> Iterator[tuple[str, str]]:
    """(title, picture) of each quantity that was recorded, a line an experiment."""
    for title, kind, key, factor, scale in CURVES:
        values = {one.name: one.values(kind, key) for one in experiments}
        lines = {
            name: ([step for step, _ in own], [factor * value for _, value in own])
            for name, own in values.items()
            if own
        }
        if lines:
            svg = curves(title, lines, "step", scale)
            yield f"{title} by step: {', '.join(lines)}", data_uri(svg)


def tables(experiments: Sequence[Experiment]) -> dict[str, Table]:
    """The options of the trainings, the hashes of what they read, their machines."""
    parts: dict[str, tuple[str, Callable[[Experiment], dict[str, Any]]]] = {
        "configuration": ("Options", lambda one: one.config),
        "hashes": ("Hashes", Experiment.hashes),
        "hardware": ("Hardware", lambda one: one.machine),
    }
    found = {}
    for part, (title, describe) in parts.items():
        columns = [describe(one) for one in experiments]
        keys = dict.fromkeys(key for column in columns for key in column)
        rows: Rows = [
            [key, *(str(column[key]) if key in column else None for column in columns)]
            for key in keys
        ]
        found[part] = Table(title, ["", *(one.name for one in experiments)], rows)
    return found
