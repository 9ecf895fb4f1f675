"""The language models of a decoding, opened and weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.confidence import UNCALIBRATED, Calibration
from asr.decoding.options import DEFAULT_UNK, DEFAULT_WEIGHT
from asr.decoding.weights import (
    calibration_from,
    check_alone,
    check_lms,
    check_names,
    load_weights,
)
from asr.errors import InputError
from asr.hypothesis import Weights
from asr.lm.ngram import NGram, is_arpa


@dataclass(slots=True)
class LanguageModels:
    """Language models under their names, and their weights."""

    models: dict[str, NGram]
    weights: Weights
    tuned_on: dict[str, Any] | None = None
    calibration: Calibration = UNCALIBRATED


def each_unit(paths: Sequence[Path | str], units: Sequence[str]) -> list[str | None]:
    """The unit of each language model, of which one may be said for all; None where none is."""
    if len(units) not in (0, 1, len(paths)):
        what = f"{len(units)} units for {len(paths)} language models"
        raise InputError(what, "--lm-unit", "Give one for all, or one for each --lm.")
    return [*units] * len(paths) if len(units) == 1 else [*units] or [None] * len(paths)


def open_lms(
    paths: Sequence[Path | str],
    *,
    units: Sequence[str] = (),
    lm_weights: Sequence[float] = (),
    bonus: float = 0.0,
    unk_penalty: float | None = None,
    weights_file: Path | str | None = None,
) -> LanguageModels:
    """Open language models and give each its weight: from a weights file, or one by one.

    units: as `each_unit`; ARPA files, which do not tell, are of words by default. unk_penalty: for
    each letter of an unknown word (None: DEFAULT_UNK). Weights of the heads stay zero unless the
    file has them. Raises InputError where a model is of another unit,
    and where the file is for other language models than are given.
    """
    models: dict[str, NGram] = {}
    for path, unit in zip(paths, each_unit(paths, units), strict=True):
        lm = NGram.open(path, unit or ("word" if is_arpa(path) else None))
        if lm.name in models:
            raise InputError(f"two language models are named '{lm.name}'", path, "Rename one.")
        models[lm.name] = lm
    if weights_file is not None:
        check_alone(weights_file, lm_weights, bonus, unk_penalty is not None)
        weights, record = load_weights(weights_file)
        check_names(weights, models, weights_file)
        lms = {name: {"hash": lm.hash, "unit": lm.unit} for name, lm in models.items()}
        check_lms(record, lms, weights_file)
        return LanguageModels(models, weights, record.get("tuned_on"), calibration_from(record))
    given = list(lm_weights) or [DEFAULT_WEIGHT] * len(models)
    if len(given) != len(models):
        what = f"{len(given)} weights for {len(models)} language models"
        raise InputError(what, "--lm-weight", "Give one for each --lm, in their order.")
    unk = DEFAULT_UNK if unk_penalty is None else unk_penalty
    weights = Weights(lm=dict(zip(models, given, strict=True)), bonus=bonus, unk=unk)
    return LanguageModels(models, weights)
