"""Error counts between transcripts, their alignment, intervals and the paired test. Text only.

rate = (substitutions + deletions + insertions) / reference units, a unit being a word or, for
CER, a character, the single space between two words included (as jiwer counts).
"""

import math
import sys
import types
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rapidfuzz.distance import Levenshtein

from asr.errors import InputError

Unit: TypeAlias = Literal["word", "char"]
Table: TypeAlias = NDArray[np.int64]  # (N, 4): hits, substitutions, deletions, insertions
Floats: TypeAlias = NDArray[np.float64]
Edit: TypeAlias = tuple[str, int, int]  # "replace", "delete" or "insert"; positions in both texts

RESAMPLES = 10_000
SEED = 2004  # Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR", ICASSP 2004
MOST_UNITS = 5_000  # more utterances than this are drawn in random groups
FEWEST_SPEAKERS = 10  # below it utterances are drawn instead of speakers


class Counts(NamedTuple):
    """Errors of one or many utterances."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @classmethod
    def of(cls, table: Table) -> Self:
        """The sum over the rows of a table (N, 4)."""
        return cls(*table.sum(axis=0).tolist())

    @property
    def length(self) -> int:
        """Words (or characters) of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return sum(self) - self.hits

    @property
    def rate(self) -> float:
        """Errors per reference word; with no word in the references the number of insertions."""
        return self.errors / max(self.length, 1)


def transcripts(given: str | Iterable[str]) -> list[str]:
    """One transcript or many as a list; raises InputError for anything else."""
    if isinstance(given, Mapping | Set) or not isinstance(given, Iterable):  # a set has no order
        what = f"{type(given).__name__} is neither a transcript nor a list of them"
        raise InputError(what, remedy="Give strings, in the same order on both sides.")
    texts = [given] if isinstance(given, str) else list(given)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            what = f"transcript {number} is {type(text).__name__}, no string"
            raise InputError(what, remedy="Give '' where nothing was said or recognised.")
    return texts


def wer(references: str | Iterable[str], hypotheses: str | Iterable[str]) -> float:
    """Word error rate of `hypotheses` against `references` (one transcript or many).

    Words are compared as they are: `asr score` makes them lower case without punctuation first.
    Raises InputError if the two differ in number, or hold something else than strings.

    >>> wer("the cat sat", "the cat sad")
    0.3333333333333333
    """
    return Counts.of(count_errors(transcripts(references), transcripts(hypotheses))).rate


def split(text: str, unit: Unit = "word") -> Sequence[str]:
    """The words of `text`, or its characters with one space between words."""
    words = text.split()
    return words if unit == "word" else " ".join(words)


def edits(reference: Sequence[str], hypothesis: Sequence[str], nist: bool = False) -> list[Edit]:
    """What turns the units of `reference` into `hypothesis`, in order: the minimal edit distance by
    the path of rapidfuzz (and so of jiwer); with `nist` sclite's weights and path (asr/nist.py)."""
    if not nist:
        found = Levenshtein.editops(reference, hypothesis)
        return [(op.tag, op.src_pos, op.dest_pos) for op in found]
    from asr import nist as kernel  # numba takes a while to import

    ids: dict[str, int] = {}
    said = np.array([ids.setdefault(unit, len(ids)) for unit in reference], np.int32)
    heard = np.array([ids.setdefault(unit, len(ids)) for unit in hypothesis], np.int32)
    path: list[Edit] = []
    i = j = 0
    for step in kernel.align(said, heard).tolist():
        if step != kernel.HIT:
            path.append((("replace", "delete", "insert")[step - 1], i, j))
        i += step != kernel.INSERTION
        j += step != kernel.DELETION
    return path


def count_errors(
    references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word", nist: bool = False
) -> Table:
    """Counts of every pair, a Table (N, 4). Raises InputError if the two differ in number."""
    if len(references) != len(hypotheses):
        what = f"{len(references)} references but {len(hypotheses)} hypotheses"
        raise InputError(what, remedy="Give each reference one hypothesis, in the same order.")
    table = np.zeros((len(references), 4), dtype=np.int64)
    for row, reference, hypothesis in zip(table, references, hypotheses, strict=True):
        said, heard = split(reference, unit), split(hypothesis, unit)
        if said == heard:
            row[0] = len(said)
            continue
        tags = [tag for tag, _, _ in edits(said, heard, nist)]
        s, d = tags.count("replace"), tags.count("delete")
        row[:] = len(said) - s - d, s, d, len(tags) - s - d
    return table


def aligned(
    reference: Sequence[str], hypothesis: Sequence[str], nist: bool = False
) -> list[tuple[str | None, str | None]]:
    """Pairs (reference unit, hypothesis unit); None where one was inserted or deleted."""
    pairs: list[tuple[str | None, str | None]] = []
    begin_i = begin_j = 0
    for tag, i, j in edits(reference, hypothesis, nist):
        pairs += zip(reference[begin_i:i], hypothesis[begin_j:j], strict=True)
        said, heard = tag != "insert", tag != "delete"
        pairs.append((reference[i] if said else None, hypothesis[j] if heard else None))
        begin_i, begin_j = i + said, j + heard
    return [*pairs, *zip(reference[begin_i:], hypothesis[begin_j:], strict=True)]


class Comparison(NamedTuple):
    """System B against A on the same references."""

    difference: float  # rate of B minus rate of A
    interval: tuple[float, float]
    p: float  # two-sided

    def verdict(self, a: str, b: str, on: str) -> str:
        """In plain words, at the level of 5 %."""
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        if self.p >= 0.05:
            return f"no difference can be shown on {on}, {p}"
        return f"{b if self.difference < 0 else a} is better, {p}"


class Bootstrap:
    """The same 10,000 draws of units, with replacement, for every figure and system.

    A unit is a speaker where all utterances have one and there are at least 10, else an
    utterance; more than 5,000 units are joined into 5,000 random groups, which leaves the
    variance of a sum as it is. `draws` (R, U) says how often a resample contains a unit.
    """

    def __init__(self, speakers: Sequence[str | None]) -> None:
        random, n = np.random.default_rng(SEED), len(speakers)
        names, self.group = np.unique([*map(str, speakers)], return_inverse=True)  # unit of each
        self.size, self.units = len(names), f"{n:,} utterance" + "s" * (n != 1)
        if None in speakers or self.size < FEWEST_SPEAKERS:
            self.group, self.size = np.arange(n), n
        else:
            self.units = f"{self.size:,} speakers ({self.units})"
        if self.size > MOST_UNITS:
            self.group = (random.permutation(self.size) % MOST_UNITS)[self.group]
            self.size = MOST_UNITS
            self.units += f", in {MOST_UNITS:,} random groups"
        self.draws = np.empty((RESAMPLES, self.size), np.uint8)  # a count above 255 can't happen
        block = max(1, 1_000_000 // max(self.size, 1))
        for begin in range(0, RESAMPLES if self.size else 0, block):
            rows = len(self.draws[begin : begin + block])
            drawn = random.integers(0, self.size, (rows, self.size), dtype=np.int64)
            drawn += np.arange(rows)[:, None] * self.size
            counts = np.bincount(drawn.ravel(), minlength=rows * self.size)
            self.draws[begin : begin + block] = counts.reshape(rows, self.size)

    def rates(self, counts: ArrayLike, lengths: ArrayLike) -> Floats:
        """Σ counts / Σ lengths of the utterances, whole numbers (N,), in every resample, (R,)."""
        units = [np.bincount(self.group, values, self.size) for values in (counts, lengths)]
        blocks = np.array_split(self.draws, max(1, self.draws.size // 1_000_000))
        sums = [block.astype(np.float64) @ np.stack(units, axis=1) for block in blocks]
        total, length = np.concatenate(sums).T
        rates: Floats = total / np.maximum(length, 1.0)
        return rates

    def interval(
        self, errors: ArrayLike, lengths: ArrayLike, most: float = math.inf
    ) -> tuple[float, float] | None:
        """95 % interval of Σ errors / Σ lengths, both (N,), a rate of at `most` so much; with no
        error, or no unit without one where that is 1, the exact binomial bound, where all resamples
        agree (a single utterance) that of a Poisson count. None: no length."""
        total, length = int(np.sum(errors)), int(np.sum(lengths))
        if length == 0:
            return None
        if total == 0:
            return 0.0, 1.0 - 0.025 ** (1.0 / length)
        if total == length * most:
            return 0.025 ** (1.0 / length), 1.0
        low, high = np.percentile(self.rates(errors, lengths), [2.5, 97.5]).tolist()
        if high - low > 1e-12:
            return low, high
        low, high = poisson_interval(total)
        return low / length, min(high / length, most)

    def compare(self, a: ArrayLike, b: ArrayLike, lengths: ArrayLike) -> Comparison:
        """Paired test of the errors of two systems, each (N,), with the common lengths (N,).

        p is twice the share of resamples in which the sign of the difference is turned; never
        below 2^(1-d) with d units that differ, the least that a test of signs can give. Where all
        resamples agree, the interval is that of the difference of two Poisson counts, one of them 0
        (Zou and Donner, "Construction of confidence limits about effect measures", 2008).
        """
        change = np.subtract(b, a, dtype=np.float64)
        rates = self.rates(change, lengths)
        tail = min(int((rates <= 0).sum()), int((rates >= 0).sum()))
        differing = np.count_nonzero(np.bincount(self.group, change, self.size))
        p = max(2 * (tail + 1) / (RESAMPLES + 1), 2.0 ** (1 - differing))
        low, high = np.percentile(rates, [2.5, 97.5]).tolist()
        length, net = max(float(np.sum(lengths)), 1.0), float(change.sum())
        if high - low < 1e-12:
            more, (least, most), zero = abs(net), poisson_interval(abs(net)), poisson_interval(0)[1]
            low, high = (more - math.hypot(more - least, zero)) / length, most / length
            low, high = (-high, -low) if net < 0 else (low, high)
        return Comparison(net / length, (low, high), float(min(p, 1.0)))


def poisson_interval(count: float) -> tuple[float, float]:
    """95 % interval of the mean of a Poisson count (Byar's approximation; of zero exactly)."""
    if not count:
        return 0.0, -math.log(0.025)
    low = count * (1 - 1 / (9 * count) - 1.96 / (3 * math.sqrt(count))) ** 3
    above = count + 1
    return low, above * (1 - 1 / (9 * above) + 1.96 / (3 * math.sqrt(above))) ** 3


def compare(
    references: str | Iterable[str],
    a: str | Iterable[str],
    b: str | Iterable[str],
    speakers: Iterable[str | None] | None = None,
) -> Comparison:
    """Is system b better than a? The paired bootstrap test of their word errors.

    speakers: of each utterance, where known: then speakers are drawn if there are at least 10.
    Raises InputError if they differ in number, or hold something else than strings.

    >>> result = compare(["one two"] * 9, ["one too"] * 9, ["one two"] * 8 + ["two two"])
    >>> result.difference, result.p < 0.05
    (-0.4444444444444444, True)
    """
    said, *heard = (transcripts(texts) for texts in (references, a, b))
    of_a, of_b = (count_errors(said, texts)[:, 1:].sum(axis=1) for texts in heard)
    known = [None] * len(said) if speakers is None else list(speakers)
    if not said:
        raise InputError("nothing to compare", remedy="Give texts.")
    if len(known) != len(said):
        what = f"{len(said)} references but {len(known)} speakers"
        raise InputError(what, remedy="Give each reference its speaker, or None.")
    lengths = [len(text.split()) for text in said]
    return Bootstrap(known).compare(of_a, of_b, lengths)


class _CallableModule(types.ModuleType):
    """`asr.wer(...)` works whether `asr.wer` is the function or, once imported, this module."""

    __call__ = staticmethod(wer)


sys.modules[__name__].__class__ = _CallableModule
