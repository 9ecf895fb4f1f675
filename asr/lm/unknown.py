"""Out-of-vocabulary words of a language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from asr.errors import InputError
from asr.lm.ngram import NGram, is_arpa
from asr.text.normalize import get_normalizer


class Unknown(NamedTuple):
    """The words of a text that a model lacks, with their counts, of so many running words."""

    lm: str
    text: str
    words: Counter[str]
    total: int

    @property
    def share(self) -> float:
        return self.words.total() / max(self.total, 1)

    def __str__(self) -> str:
        return f"{self.lm} lacks {self.share:.2%} of the {self.total:,} words of {self.text}"


def open_word_lm(path: Path) -> NGram:
    """Raises InputError for a model of tokens: it has every word."""
    lm = NGram.open(path, "word" if is_arpa(path) else None)
    if lm.unit != "word":
        raise InputError("is a language model of tokens", path, "Give one of words.")
    return lm


def unknown_words(text: str, words: Mapping[str, int], lm: NGram) -> Unknown:
    """Of words as written, {word: count}, after the model's own normaliser ("basic" for ARPA)."""
    normalize = lm.normalizer or get_normalizer("basic")
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for part in normalize(word).split():
            counts[part] += count
    lacking = {word: count for word, count in counts.items() if lm.id(word) == 0}
    return Unknown(lm.path.name, text, Counter(lacking), counts.total())
