"""Pronunciation lexicons and spellings: the units of each word."""

from __future__ import annotations

import re
from pathlib import Path

from asr.errors import InputError

_variant = re.compile(r"\(\d+\)$")
_probability = re.compile(r"\d*\.\d+(e-?\d+)?")


def read_lexicon(path: Path | str) -> dict[str, list[tuple[float, tuple[str, ...]]]]:
    """Read `word[(n)] [probability] unit...` lines: word -> [(probability, units)].

    `(n)` marks a further pronunciation (as cmudict). A probability is written with a decimal point
    and lies in (0, 1]; a word without any gives each pronunciation the same. Lines that begin with
    `;;;` and what follows ` #` are comments. Units are kept as they are (stress digits too).
    Raises InputError with file and line.
    """
    given: dict[str, dict[tuple[str, ...], float | None]] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.startswith(";;;") or not line.strip():
                    continue
                word, probability, units = _entry(line, f"{path}:{number}")
                given.setdefault(word, {}).setdefault(units, probability)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", path) from error
    if not given:
        raise InputError("has no words", path, "A line is `word unit unit ...`.")
    return {
        word: [(1 / len(entries) if p is None else p, units) for units, p in entries.items()]
        for word, entries in given.items()
    }


def _entry(line: str, where: str) -> tuple[str, float | None, tuple[str, ...]]:
    word, *fields = line.split(" #")[0].split()
    probability = None
    if len(fields) > 1 and _probability.fullmatch(fields[0]):
        probability = float(fields.pop(0))
    if not fields:
        raise InputError(f"'{line.strip()}' has no units", where, "A line is `word unit unit ...`.")
    if probability is not None and not 0 < probability <= 1:
        raise InputError(f"probability {probability:g} is not in (0, 1]", where)
    return _variant.sub("", word), probability, tuple(fields)
