"""A tiny corpus and configurations that train in seconds."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

WORDS = ["ab", "ba", "cab", "abba", "bab"]
MODELS: dict[str, dict[str, Any]] = {
    "ctc": {"ctc_weight": 1.0, "encoder": {"type": "blstm", "layers": 2, "size": 12}},
    "las": {
        "ctc_weight": 0.3,
        "frontend": {"type": "logmel"},
        "encoder": {"type": "pyramid", "layers": 2, "size": 12},
        "speller": {"size": 16, "embedding": 8, "attention": 8, "filters": 4, "reach": 3},
    },
}


def write_corpus(folder: Path, count: int, name: str) -> Path:
    """`count` utterances of noise at 8 kHz with random words; path of the manifest."""
    random = np.random.default_rng(len(name))
    lines = []
    for i in range(count):
        seconds = float(random.uniform(0.6, 1.4))
        samples = random.normal(0, 0.1, int(8000 * seconds)).astype(np.float32)
        soundfile.write(folder / f"{name}{i}.wav", samples, 8000)
        text = " ".join(random.choice(WORDS, 2))
        lines.append({"id": f"{name}{i}", "audio": f"{name}{i}.wav", "text": text})
        lines[-1]["duration"] = len(samples) / 8000
    path = folder / f"manifest.{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def processes() -> Callable[..., subprocess.Popen[str]]:
    """processes(count, *arguments of asr, restarts=0): starts them by torchrun."""

    def start(count: int, *arguments: object, restarts: int = 0) -> subprocess.Popen[str]:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        options = [f"--nproc-per-node={count}", f"--max-restarts={restarts}"]
        return subprocess.Popen(
            [*torchrun, *options, "-m", "asr", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Path]:
    """experiment(model="ctc", still=False, **train options): a corpus and the YAML file that trains
    on it; `still`: without dropout."""

    def make(model: str = "ctc", still: bool = False, **train: object) -> Path:
        write_corpus(tmp_path, 14, "train")
        write_corpus(tmp_path, 3, "dev")
        options = copy.deepcopy(MODELS[model])
        for part in ("encoder", "speller") if still else ():
            options.setdefault(part, {})["dropout"] = 0.0
        frontend = {"channels": 12, **options.get("frontend", {})}
        config = {
            "data": {
                "train": ["manifest.train.jsonl"],
                "dev": ["manifest.dev.jsonl"],
                "batch_seconds": 4,
                "max_seconds": 3,
            },
            "model": {"sample_rate": 8000, **options, "frontend": frontend},
            "train": {"epochs": 6, "log_steps": 3, "average": 2, "threads": 1, **train},
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return make
