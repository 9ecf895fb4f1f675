"""What an experiment folder says of itself: curves, configuration, hashes, hardware."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
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

    def hashes(self) -> dict[str, str]:
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
        lines, most = {}, 1.0 if key == "waiting" else math.inf  # a clock may say more at first
        for one in experiments:
            own = [r for r in one.records if r["kind"] == kind and r.get(key) is not None]
            if own := [r for r in own if math.isfinite(r[key])]:
                values = [factor * min(r[key], most) for r in own]
                lines[one.name] = [r["step"] for r in own], values
        if lines:
            svg = curves(title, lines, "step", scale)
            yield f"{title} by step: {', '.join(lines)}", data_uri(svg)


def tables(experiments: Sequence[Experiment]) -> dict[str, Table]:
    """The options of the trainings, the hashes of what they read, their machines."""
    found, header = {}, ["", *(one.name for one in experiments)]
    for part, title, columns in (
        ("configuration", "Options", [one.config for one in experiments]),
        ("hashes", "Hashes", [one.hashes() for one in experiments]),
        ("hardware", "Hardware", [one.machine for one in experiments]),
    ):
        rows: Rows = []
        for key in dict.fromkeys(key for column in columns for key in column):
            rows.append([key, *(str(own[key]) if key in own else None for own in columns)])
        found[part] = Table(title, header, rows)
    return found
