"""The weights file: what `asr tune` writes and decode, rescore and transcribe read.

{"weights": {"ctc", "att", "lm": {name: w}, "bonus"}, "unk_penalty", "length": "words"|"tokens",
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
from asr.errors import InputError, nearest
from asr.files import whole_file
from asr.hypothesis import Weights

REMEDY = "`asr tune` writes such files."


def load_weights(path: Path | str) -> tuple[Weights, float, dict[str, Any]]:
    """The weights, the unknown-word penalty and the whole record of a weights file.

    Raises InputError if the file cannot be read or a number is missing or not finite.
    """
    try:
        record = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, REMEDY) from error
    except ValueError as error:
        raise InputError("is not a weights file (broken JSON)", path, REMEDY) from error
    try:
        weights = weights_from(record["weights"])
        unk_penalty = float(record.get("unk_penalty", 0.0))
        calibration = calibration_from(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"is not a weights file ({error!r})", path, REMEDY) from error
    if not all(math.isfinite(w) for w in (*numbers(weights), unk_penalty)):
        raise InputError("has a weight that is not a finite number", path, REMEDY)
    if not (0 < calibration.temperature < math.inf and 0 < calibration.known <= 1):
        raise InputError("has a calibration of confidence out of range", path, REMEDY)
    return weights, unk_penalty, record


def save_weights(
    path: Path | str, weights: Weights, unk_penalty: float, meta: Mapping[str, Any]
) -> None:
    """Write a weights file, whole or not at all; `meta` holds the keys besides the numbers."""
    record = {"weights": asdict(weights), "unk_penalty": unk_penalty, **meta}
    with whole_file(Path(path)) as file:
        file.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def weights_from(record: Mapping[str, Any]) -> Weights:
    """Weights from a JSON record, of a weights file or of an n-best file's meta."""
    return Weights(
        ctc=float(record.get("ctc", 0.0)),
        att=float(record.get("att", 0.0)),
        lm={name: float(weight) for name, weight in record.get("lm", {}).items()},
        bonus=float(record.get("bonus", 0.0)),
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


def numbers(weights: Weights) -> list[float]:
    return [weights.ctc, weights.att, *weights.lm.values(), weights.bonus]
