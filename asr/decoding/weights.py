"""The weights file: what `asr tune` writes and decode, rescore and transcribe read.

{"weights": {"ctc", "att", "lm": {name: w}, "bonus", "unk"}, "length": "words"|"tokens",
 "lms": {name: {"path", "hash", "unit"}}, "tuned_on": {"path", "hash", "split"}, "wer": {...},
 "confidence": {"temperature", "known"}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asr.confidence import Calibration
from asr.console import say
from asr.errors import InputError, nearest
from asr.files import whole_file
from asr.hypothesis import Weights, check_finite, check_kinds, length_unit

REMEDY = "`asr tune` writes such files."


def check_alone(path: Path | str, *given: object) -> None:
    """A weights file sets all numbers: raise InputError where some are given beside it."""
    if any(given):
        raise InputError("sets all weights", path, "Leave the single ones out.")


def load_weights(path: Path | str) -> tuple[Weights, dict[str, Any]]:
    """The weights and the whole record of a weights file.

    Raises InputError if the file cannot be read, a value is of the wrong type, or a number is
    missing or not finite.
    """
    try:
        record = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, REMEDY) from error
    except ValueError as error:
        raise InputError("is not a weights file (broken JSON)", path, REMEDY) from error
    try:
        check_kinds(record)
        weights = weights_from(record["weights"])
        calibration = calibration_from(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"is not a weights file ({error!r})", path, REMEDY) from error
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
    return Weights(
        ctc=float(record.get("ctc", 0.0)),
        att=float(record.get("att", 0.0)),
        lm={name: float(weight) for name, weight in record.get("lm", {}).items()},
        bonus=float(record.get("bonus", 0.0)),
        unk=float(record.get("unk", 0.0)),
    )


def calibration_from(record: Mapping[str, Any]) -> Calibration:
    """The calibration that a weights file or the meta of an n-best file names, else the default."""
    return Calibration(**record.get("confidence", {}))


def check_names(weights: Weights, names: Collection[str], where: object) -> None:
    """Raises InputError unless the weights are for exactly the LMs called `names`."""
    for name in weights.lm:
        if name not in names:
            known = nearest(name, names) if names else "Give that LM too."
            raise InputError(f"has a weight for the LM '{name}', which is not there", where, known)
    for name in names:
        if name not in weights.lm:
            raise InputError(f"has no weight for the LM '{name}'", where, "Tune with that LM.")


def check_lms(
    record: Mapping[str, Any], lms: Mapping[str, Mapping[str, Any]], where: object
) -> None:
    """Raises InputError where the bonus of a weights file counts another unit than with `lms`,
    {name: {"hash", "unit"}}; warns of an LM that is not the one it was tuned with."""
    unit = length_unit(lm.get("unit") for lm in lms.values())
    if (tuned := record.get("length", unit)) != unit:
        what = f"its length bonus counts {tuned}, but with these LMs it counts {unit}"
        raise InputError(what, where, "Tune with these LMs.")
    for name, lm in lms.items():
        if record.get("lms", {}).get(name, lm).get("hash") != lm.get("hash"):
            say(f"warning: {where} was tuned with another LM than this '{name}'")
