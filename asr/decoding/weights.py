"""Language models of a decoding and their weights; the weights file (docs/formats.md), which `asr
tune` writes, and decode, rescore and transcribe read."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr.confidence import UNCALIBRATED, Calibration
from asr.console import say
from asr.decoding.options import DEFAULT_BEAM, DEFAULT_UNK, DEFAULT_WEIGHT
from asr.errors import InputError, nearest
from asr.files import cannot_read, whole_file
from asr.hypothesis import Weights, check_finite, check_kinds, length_unit
from asr.lm.ngram import NGram, is_arpa

REMEDY = "`asr tune` writes such files."


@dataclass(slots=True)
class LanguageModels:
    """Language models under their names, their weights, and the beam to search with: that of the
    lists that a weights file was tuned on, where it is wider than the default."""

    models: dict[str, NGram]
    weights: Weights
    tuned_on: dict[str, Any] | None = None
    calibration: Calibration = UNCALIBRATED
    beam: int = DEFAULT_BEAM


def load_weights(path: Path | str, *beside: object) -> tuple[Weights, dict[str, Any]]:
    """The weights and the whole record of a weights file. Raises InputError if any are given beside
    it, if it cannot be read, or holds a value of the wrong type or a number that is not finite."""
    if any(beside):
        raise InputError("sets all weights", path, "Leave the single ones out.")
    try:
        record = json.loads(Path(path).read_bytes())
        check_kinds(record)
        weights, calibration = weights_from(record["weights"]), calibration_from(record)
    except OSError as error:
        raise cannot_read(path, error, REMEDY) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        garbled = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
        what = "no JSON" if garbled else repr(error)
        raise InputError(f"is not a weights file ({what})", path, REMEDY) from error
    check_finite(weights, path)
    if not (0 < calibration.temperature < math.inf and 0 < calibration.known <= 1):
        raise InputError("has a calibration of confidence out of range", path, REMEDY)
    return weights, record


def save_weights(path: Path | str, weights: Weights, meta: Mapping[str, Any]) -> None:
    """Write a weights file, whole or not at all; `meta` holds the keys besides the numbers."""
    record = {"weights": asdict(weights), **meta}
    with whole_file(Path(path)) as file:
        file.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def weights_from(record: Mapping[str, Any]) -> Weights:
    """Weights from a JSON record, of a weights file or of an n-best file's meta."""
    numbers = {name: float(record.get(name, 0.0)) for name in ("ctc", "att", "bonus", "unk")}
    lm = {name: float(weight) for name, weight in record.get("lm", {}).items()}
    return Weights(lm=lm, **numbers)


def calibration_from(record: Mapping[str, Any]) -> Calibration:
    """The calibration that a weights file or the meta of an n-best file names, else the default."""
    return Calibration(**record.get("confidence", {}))


def check_names(weights: Weights, names: Collection[str], where: object) -> None:
    """Raises InputError unless the weights are for exactly the LMs called `names`."""
    for name in weights.lm:
        if name not in names:
            known = nearest(name, names) if names else ""
            remedy = f"Give the LM of that name, {name}.lm. {known}".rstrip()
            what = f"has a weight for the LM '{name}', which is not there"
            raise InputError(what, where, remedy)
    for name in (name for name in names if name not in weights.lm):
        raise InputError(f"has no weight for the LM '{name}'", where, "Tune with that LM.")


def check_lms(
    record: Mapping[str, Any], lms: Mapping[str, Mapping[str, Any]], where: object
) -> None:
    """Raises InputError where a weights file's bonus counts another unit than with `lms`, {name:
    {"hash", "unit"}}; warns of an LM that is not the one it was tuned with."""
    unit = length_unit(lm.get("unit") for lm in lms.values())
    if (tuned := record.get("length", unit)) != unit:
        what = f"its length bonus counts {tuned}, but with these LMs it counts {unit}"
        raise InputError(what, where, "Tune with these LMs.")
    for name, lm in lms.items():
        if record.get("lms", {}).get(name, lm).get("hash") != lm.get("hash"):
            say(f"warning: {where} was tuned with another LM than this '{name}'")


def check_each(given: Collection[object], lms: Collection[object], what: str, option: str) -> None:
    """Raises InputError unless as many are given as there are language models."""
    if len(given) != len(lms):
        what = f"{len(given)} {what} for {len(lms)} language models"
        raise InputError(what, option, "Give one for each --lm, in their order.")


def each_unit(paths: Sequence[Path | str], units: Sequence[str]) -> list[str | None]:
    """The unit of each language model, of which one may be said for all; None where none is."""
    given: Sequence[str | None] = units or [None]
    each = [*given] * (len(paths) if len(given) == 1 else 1)
    check_each(each, paths, "units", "--lm-unit")
    return each


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

    units: as `each_unit`; ARPA files are of words by default. unk_penalty: for each letter of an
    unknown word. Raises InputError where a model is of another unit, or the file for others.
    """
    models: dict[str, NGram] = {}
    for path, unit in zip(paths, each_unit(paths, units), strict=True):
        lm = NGram.open(path, unit or ("word" if is_arpa(path) else None))
        if lm.name in models:
            raise InputError(f"two language models are named '{lm.name}'", path, "Rename one.")
        models[lm.name] = lm
    if weights_file is not None:
        weights, record = load_weights(weights_file, lm_weights, bonus, unk_penalty is not None)
        check_names(weights, models, weights_file)
        lms = {name: {"hash": lm.hash, "unit": lm.unit} for name, lm in models.items()}
        check_lms(record, lms, weights_file)
        calibration, beam = calibration_from(record), max(DEFAULT_BEAM, record.get("beam", 0))
        return LanguageModels(models, weights, record.get("tuned_on"), calibration, beam)
    given = list(lm_weights) or [DEFAULT_WEIGHT] * len(models)
    check_each(given, models, "weights", "--lm-weight")
    unk = DEFAULT_UNK if unk_penalty is None else unk_penalty
    weights = Weights(lm=dict(zip(models, given, strict=True)), bonus=bonus, unk=unk)
    return LanguageModels(models, weights)
