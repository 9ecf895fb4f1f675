"""Error counts between transcripts, their alignment, intervals and the paired test. Text only.

rate = (substitutions + deletions + insertions) / reference units, a unit being a word or, for
CER, a character, the single space between two words included (as jiwer counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from asr.errors import InputError

Unit: TypeAlias = Literal["word", "char"]
Table: TypeAlias = NDArray[np.int64]  # (N, 4): hits, substitutions, deletions, insertions


@dataclass(frozen=True, slots=True)
class Counts:
    """Errors of one or many utterances."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @classmethod
    def of(cls, table: Table) -> Counts:
        """The sum over the rows of a table (N, 4)."""
        return cls(*(int(count) for count in table.sum(axis=0)))

    @property
    def length(self) -> int:
        """Words (or characters) of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word; with no word in the references the number of insertions."""
        return self.errors / max(self.length, 1)


def wer(references: str | Sequence[str], hypotheses: str | Sequence[str]) -> float:
    """Word error rate of `hypotheses` against `references` (one transcript or many).

    Raises InputError if the two differ in number.
    """
    references = [references] if isinstance(references, str) else references
    hypotheses = [hypotheses] if isinstance(hypotheses, str) else hypotheses
    return Counts.of(count_errors(references, hypotheses)).rate


def split(text: str, unit: Unit = "word") -> Sequence[str]:
    """The words of `text`, or its characters with one space between words."""
    words = text.split()
    return words if unit == "word" else " ".join(words)


def count_errors(
    references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word"
) -> Table:
    """Counts of every pair by the minimal edit distance, (N, 4): hits, S, D, I.

    Raises InputError if the two differ in number.
    """
    check_same_number(references, hypotheses)
    table = np.zeros((len(references), 4), dtype=np.int64)
    for row, reference, hypothesis in zip(table, references, hypotheses, strict=True):
        said, heard = split(reference, unit), split(hypothesis, unit)
        tags = [tag for tag, _, _ in Levenshtein.editops(said, heard).as_list()]
        substitutions, deletions = tags.count("replace"), tags.count("delete")
        hits = len(said) - substitutions - deletions
        row[:] = hits, substitutions, deletions, len(tags) - substitutions - deletions
    return table


def check_same_number(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses):
        raise InputError(
            f"{len(references)} references but {len(hypotheses)} hypotheses",
            remedy="Give one hypothesis a reference, in the same order.",
        )
