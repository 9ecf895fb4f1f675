"""What an experiment folder says of itself: curves, configuration, hashes, hardware."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import OmegaConf

from asr.config import flat
from asr.data.manifest import Manifest
from asr.errors import InputError
from asr.files import cannot_read
from asr.models.folder import model_hash
from asr.models.recognizer import read_config
from asr.pictures import curves
from asr.report.page import Cell, Rows, Table, data_uri

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
MACHINE = "machine.json"


@dataclass(slots=True)
class Experiment:
    """config: options by name; records: the lines of metrics.jsonl; hash: the model's, if any."""

    folder: Path
    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]
    machine: dict[str, str]
    hash: str | None

    @classmethod
    def read(cls, folder: Path) -> Experiment:
        """Raises InputError where a file is missing or damaged."""
        machine = folder / MACHINE  # absent in experiments of earlier versions
        try:
            config = dict(flat(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))))
            whole_lines = (folder / "metrics.jsonl").read_text("utf-8").rpartition("\n")[0]
            records = [json.loads(line) for line in whole_lines.splitlines()]
            described = json.loads(machine.read_text("utf-8")) if machine.exists() else {}
        except (OSError, ValueError) as error:
            raise cannot_read(folder, error, "Give a folder of `asr train`.") from error
        whole = (folder / "model" / "model.safetensors").exists()
        hash = model_hash(folder / "model") if whole else None
        return cls(folder, folder.name, config, records, described, hash)

    def values(self, kind: str, key: str) -> tuple[list[int], list[float]]:
        """Steps and finite values of one quantity; a share of time is at most 1, whatever a clock
        said that had just started."""
        own = [record for record in self.records if record["kind"] == kind]
        kept = [r for r in own if r.get(key) is not None and math.isfinite(r[key])]
        most = 1.0 if key == "waiting" else math.inf
        return [r["step"] for r in kept], [min(r[key], most) for r in kept]


def find_experiments(folders: Sequence[Path]) -> list[Experiment]:
    """Those that the folders are, or hold one level down; with names of their own.

    Raises InputError for a folder without one.
    """
    found: list[Experiment] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError("is not a folder", folder, "Give one of `asr train`.")
        places = [folder, *sorted(folder.iterdir())]
        own = [place for place in places if (place / "metrics.jsonl").exists()]
        if not own:
            raise InputError("holds no experiment", folder, "`asr train` makes them.")
        found += [Experiment.read(place) for place in own]
    if len({one.name for one in found}) < len(found):
        for one in found:
            one.name = str(one.folder)
    return found


def draw_curves(experiments: Sequence[Experiment]) -> list[tuple[str, str]]:
    """(title, picture) of each quantity that was recorded, a line an experiment."""
    pictures = []
    for title, kind, key, factor, scale in CURVES:
        lines = {}
        for one in experiments:
            steps, values = one.values(kind, key)
            if steps:
                lines[one.name] = steps, [factor * value for value in values]
        if lines:
            svg = curves(title, lines, "step", scale)
            pictures.append((f"{title} by step: {', '.join(lines)}", data_uri(svg)))
    return pictures


def side_by_side(title: str, columns: dict[str, dict[str, Any]], note: str = "") -> Table:
    """One row a key of any column."""
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))

    def cell(column: dict[str, Any], key: str) -> Cell:
        return str(column[key]) if key in column else None

    rows: Rows = [[key, *(cell(column, key) for column in columns.values())] for key in keys]
    return Table(title, ["", *columns], rows, note)


def tables(experiments: Sequence[Experiment]) -> dict[str, Table]:
    """What came of the trainings, their options, the hashes of what they read, their machines."""
    columns = {
        "facts": {one.name: _facts(one) for one in experiments},
        "configuration": {one.name: one.config for one in experiments},
        "hashes": {one.name: _hashes(one) for one in experiments},
        "hardware": {one.name: one.machine for one in experiments},
    }
    titles = {"facts": "Results", "hashes": "Hashes", "hardware": "Hardware"}
    return {
        name: side_by_side(titles.get(name, "Options"), column) for name, column in columns.items()
    }


def _facts(one: Experiment) -> dict[str, str]:
    facts = {"state": "finished" if one.hash else "not finished"}
    if one.records:
        facts["steps"] = f"{one.records[-1]['step']:,}"
        facts["epochs"] = str(max((r.get("epoch", 0) for r in one.records), default=0))
    epochs, wers = one.values("epoch", "dev_wer")
    if epochs:
        best = min(range(len(epochs)), key=lambda i: wers[i])
        facts["best dev WER of an epoch"] = f"{wers[best]:.2%} at step {epochs[best]:,}"
    if averaged := one.values("end", "dev_wer")[1]:
        facts["dev WER of the model"] = f"{averaged[-1]:.2%}"
    for title, key, form in (
        ("time spent waiting for data", "waiting", "{:.1%}"),
        ("seconds of audio a second", "audio_per_second", "{:.0f}"),
    ):
        if values := one.values("train", key)[1]:
            facts[title] = form.format(median(values))
    return facts


def _hashes(one: Experiment) -> dict[str, str]:
    hashes = {"model": one.hash or "none yet"}
    if one.hash:
        hashes["tokenizer"] = read_config(one.folder / "model" / "config.json")["tokenizer_hash"]
    for key in ("data.train", "data.dev"):
        for path in one.config.get(key) or []:
            try:
                hashes[f"{key}: {path}"] = f"{Manifest.open(path).hash} (as it is now)"
            except InputError as error:
                hashes[f"{key}: {path}"] = error.what
    return hashes
