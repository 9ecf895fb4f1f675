"""The language models of a decoding, opened and weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.confidence import UNCALIBRATED, Calibration
from asr.decoding.weights import calibration_from, check_names, load_weights
from asr.errors import InputError
from asr.hypothesis import Weights
from asr.lm.ngram import NGram

DEFAULT_WEIGHT = 0.5


@dataclass(slots=True)
class LanguageModels:
    """Language models under their names, their weights, and what unknown words cost."""

    models: dict[str, NGram]
    weights: Weights
    unk_penalty: float = 0.0
    tuned_on: dict[str, Any] | None = None
    calibration: Calibration = UNCALIBRATED


def open_lms(
    paths: Sequence[Path | str],
    *,
    unit: str = "word",
    lm_weights: Sequence[float] = (),
    bonus: float = 0.0,
    unk_penalty: float = 0.0,
    weights_file: Path | str | None = None,
) -> LanguageModels:
    """Open language models and give each its weight: from a weights file, or one by one.

    `unit` is that of ARPA files, which do not tell. Weights of the heads stay zero unless the file
    has them. Raises InputError where the file names other language models than are given.
    """
    models: dict[str, NGram] = {}
    for path in paths:
        lm = NGram.open(path, unit if ".arpa" in Path(path).suffixes else None)
        if lm.name in models:
            raise InputError(f"two language models are named '{lm.name}'", path, "Rename one.")
        models[lm.name] = lm
    if weights_file is not None:
        weights, penalty, record = load_weights(weights_file)
        check_names(weights, models, weights_file)
        return LanguageModels(
            models, weights, penalty, record.get("tuned_on"), calibration_from(record)
        )
    given = list(lm_weights) or [DEFAULT_WEIGHT] * len(models)
    if len(given) != len(models):
        raise InputError(f"{len(given)} weights for {len(models)} language models", "--lm-weight")
    weights = Weights(lm=dict(zip(models, given, strict=True)), bonus=bonus)
    return LanguageModels(models, weights, unk_penalty)
