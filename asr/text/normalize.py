"""The one normaliser of manifests, LM text, lexicon and scoring.

A normaliser is a list of rules applied in order; its hash stands in the tokenizer, the LM and the
model, so that parts made with different ones do not mix.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from asr.errors import InputError, nearest

LETTERS = "keep:'abcdefghijklmnopqrstuvwxyz"
NAMED: dict[str, tuple[str, ...]] = {
    "none": ("nfc",),
    "basic": ("nfc", "lower", "strip-punctuation"),
    "english": ("nfc", "lower", "strip-punctuation", "strip-accents", LETTERS),
}


class _CharacterTable(dict[int, str]):
    """A table for str.translate that asks `rule` once for each character it meets."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self.rule(chr(code))
        return self[code]


_punctuation_to_space = _CharacterTable(
    lambda c: " " if unicodedata.category(c)[0] in "PS" and c != "'" else c
)
_outer_apostrophe = re.compile(r"(?<!\w)'|'(?!\w)")
_nfc = functools.partial(unicodedata.normalize, "NFC")


def _strip_punctuation(text: str) -> str:
    """Punctuation and symbols become spaces; an apostrophe within a word stays (don't)."""
    text = text.replace("’", "'").translate(_punctuation_to_space)
    return _outer_apostrophe.sub(" ", text)


def _strip_accents(text: str) -> str:
    letters = unicodedata.normalize("NFD", text)
    return _nfc("".join(c for c in letters if unicodedata.category(c) != "Mn"))


RULES: dict[str, Callable[[str], str]] = {
    "nfc": _nfc,
    "lower": str.lower,
    "strip-punctuation": _strip_punctuation,
    "strip-accents": _strip_accents,
}


@functools.cache
def _rule(name: str) -> Callable[[str], str]:
    """The function of a rule; `keep:CHARACTERS` leaves out all others but white space."""
    if name.startswith("keep:"):
        kept = set(name.removeprefix("keep:"))
        table = _CharacterTable(lambda c: c if c in kept or c.isspace() else "")
        return lambda text: text.translate(table)
    if name not in RULES:
        remedy = nearest(name, [*RULES, "keep:CHARACTERS"])
        raise InputError(f"no normaliser rule '{name}'", "normalizer", remedy)
    return RULES[name]


@dataclass(frozen=True)
class Normalizer:
    """Rules in the order of their use; white space is always collapsed and stripped at the end.
    Raises InputError for an unknown rule."""

    rules: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.rules:
            _rule(name)

    @property
    def name(self) -> str:
        named = (name for name, rules in NAMED.items() if rules == self.rules)
        return next(named, "+".join(self.rules))

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.rules).encode()).hexdigest()[:12]

    def __call__(self, text: str) -> str:
        for name in self.rules:
            text = _rule(name)(text)
        return " ".join(text.split())

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "rules": list(self.rules)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Normalizer:
        return cls(tuple(record["rules"]))


def get_normalizer(name: str | Iterable[str] = "basic") -> Normalizer:
    """The normaliser of a name in NAMED, or of a list of rules."""
    if not isinstance(name, str):
        return Normalizer(tuple(name))
    if name not in NAMED:
        raise InputError(f"no normaliser '{name}'", "normalizer", nearest(name, NAMED))
    return Normalizer(NAMED[name])


def check_same(a: Normalizer, b: Normalizer, what_a: str, what_b: str) -> None:
    """Raise InputError where two parts were made with different normalisers."""
    if a.rules != b.rules:
        what = f"{what_a} has the normaliser '{a.name}', but {what_b} has '{b.name}'"
        remedy = f"Make one of them again with the other's normaliser (--normalizer {b.name})."
        raise InputError(what, None, remedy)
