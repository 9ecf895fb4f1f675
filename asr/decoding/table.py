"""N-best lists of a dev set as arrays: raw scores and word errors of every hypothesis.

What `asr tune` searches weights on, and `asr rescore` finds the oracle of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from asr.confidence import Flags, matches
from asr.data.manifest import Manifest
from asr.errors import InputError
from asr.hypothesis import NBest

Floats = NDArray[np.float32]

OWN_COLUMNS = ("ctc", "att", "length", "unknown", "bonuses")  # of a table; the others are LMs


@dataclass(slots=True)
class Table:
    """Raw scores and errors of U utterances with at most H hypotheses each.

    scores (U, H, K): columns as `columns`: "ctc", "att", the LMs' names, "length", where there are
    any "unknown" (letters of unknown words) and "bonuses" (hot words, coverage: their weight is 1).
    errors (U, H): word errors; valid (U, H): False where an utterance has fewer hypotheses.
    words: of the references.
    """

    columns: list[str]
    scores: Floats
    errors: NDArray[np.int32]
    valid: NDArray[np.bool_]
    words: int

    @property
    def lms(self) -> list[str]:
        return [name for name in self.columns if name not in OWN_COLUMNS]

    @property
    def oracle(self) -> int:
        """Errors if the best hypothesis of every list were chosen."""
        return int(np.where(self.valid, self.errors, np.iinfo(np.int32).max).min(axis=1).sum())

    @property
    def first(self) -> int:
        """Errors of the lists' first hypotheses."""
        return int(self.errors[:, 0].sum())


def references(path: Path | str) -> tuple[dict[str, str], Manifest]:
    """{id: text} of a manifest. Raises InputError if an utterance has no text."""
    manifest = Manifest.open(path)
    texts: dict[str, str] = {}
    for utterance in manifest:
        if utterance.text is None:
            what = f"utterance '{utterance.id}' has no text"
            raise InputError(what, path, "Give a manifest with transcripts.")
        texts[utterance.id] = utterance.text
    return texts, manifest


def word_errors(reference: str, texts: Sequence[str]) -> NDArray[np.int32]:
    """Word errors of every text of an n-best list, (H,)."""
    said = reference.split()
    return np.array([Levenshtein.distance(said, text.split()) for text in texts], dtype=np.int32)


def tabulate(
    utterances: Iterable[NBest], references: Mapping[str, str], normalize: Callable[[str], str]
) -> Table:
    """Scores and errors of the utterances that have a reference; both sides are normalised.

    A failure (no hypothesis) counts as an empty text.

    Raises InputError if there is none, or if some hypotheses lack a score that others have,
    and for an LM that is called as another score is.
    """
    lists = [utterance for utterance in utterances if utterance.id in references]
    hypotheses = [hypothesis for utterance in lists for hypothesis in utterance.nbest]
    if not lists:
        what = "no utterance of the n-best list is in the manifest"
        raise InputError(what, "--ref", "Give its own manifest.")
    if not hypotheses:
        raise InputError("the n-best list has no hypotheses", None, "Decode again.")
    kinds = {
        (*(key for key in ("ctc", "att") if key in h.scores), *sorted(h.scores.get("lm", {})))
        for h in hypotheses
    }
    if len(kinds) > 1:
        raise InputError("not all hypotheses have the same scores", None, "Decode again.")
    lms = hypotheses[0].scores.get("lm", {})
    for name in lms.keys() & {*OWN_COLUMNS, "bonus", "ratio"}:  # the latter are axes of a Space
        what = f"a language model is called '{name}', as one of the other scores is"
        raise InputError(what, None, "Decode again with its file renamed (rescored: with --name).")
    columns = [*kinds.pop(), "length"]
    columns += ["unknown"] * any(h.scores.get("unknown") for h in hypotheses)
    columns += ["bonuses"] * any(h.bonuses for h in hypotheses)
    shape = len(lists), max(len(utterance.nbest) for utterance in lists)
    scores, errors = np.zeros((*shape, len(columns)), np.float32), np.zeros(shape, np.int32)
    table = Table(columns, scores, errors, np.zeros(shape, np.bool_), words=0)
    for u, utterance in enumerate(lists):
        said, size = normalize(references[utterance.id]), len(utterance.nbest)
        texts = [normalize(hypothesis.text) for hypothesis in utterance.nbest]
        table.words += len(said.split())
        errors[u, : max(size, 1)] = word_errors(said, texts or [""])
        table.valid[u, : max(size, 1)] = True
        for h, hypothesis in enumerate(utterance.nbest):
            flat = {"unknown": 0, **hypothesis.scores, **hypothesis.scores.get("lm", {})}
            flat["bonuses"] = hypothesis.bonuses
            scores[u, h] = [flat[column] for column in columns]
    return table


def word_lists(
    utterances: Iterable[NBest],
    references: Mapping[str, str],
    normalize: Callable[[str], str],
    totals: Floats,
) -> list[tuple[NDArray[np.float64], Flags, Flags]]:
    """What `confidence.fit` takes, of the same lists as `tabulate`; totals (U, H)."""
    lists = []
    known = (utterance for utterance in utterances if utterance.id in references)
    for row, utterance in zip(totals, known, strict=True):
        if utterance.nbest:
            scores = row[: len(utterance.nbest)].astype(np.float64)
            texts = [normalize(hypothesis.text) for hypothesis in utterance.nbest]
            words = texts[int(scores.argmax())].split()
            [correct] = matches(words, [normalize(references[utterance.id])])
            lists.append((scores, matches(words, texts), correct))
    return lists


def errors_found(
    utterances: Iterable[NBest], references: Mapping[str, str], normalize: Callable[[str], str]
) -> int:
    """Word errors of the first hypotheses; a failure counts as an empty text."""
    known = ((normalize(references[u.id]), u.text) for u in utterances if u.id in references)
    return sum(int(word_errors(said, [normalize(text)])[0]) for said, text in known)


def first_errors(table: Table, points: Floats) -> NDArray[np.int64]:
    """Word errors of each utterance's best hypothesis by each weight vector: (P, K) -> (P, U)."""
    totals = points @ table.scores.reshape(-1, table.scores.shape[2]).T
    blocked = np.where(table.valid, 0.0, -np.inf).astype(np.float32)  # (U, H)
    best = (totals.reshape(-1, *table.valid.shape) + blocked).argmax(axis=2)  # (P, U)
    errors: NDArray[np.int64] = table.errors[np.arange(len(table.errors)), best]
    return errors


def count_errors(table: Table, points: Floats) -> NDArray[np.int64]:
    """Word errors of the set by each weight vector: points (P, K) -> (P,); in bounded memory."""
    size = max(1, 4_000_000 // max(table.valid.size, 1))
    blocks = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return np.concatenate([first_errors(table, block).sum(axis=1) for block in blocks])


def wer_report(rates: Mapping[str, float]) -> str:
    """ "WER first-best 20.00% -> rescored 15.00%, oracle 10.00%: 50% of the gap ..." """
    before, after, oracle = rates.values()
    first, second, third = (f"{name} {rate:.2%}" for name, rate in rates.items())
    closed = "the lists hold nothing better"
    if before > oracle:
        closed = f"{(before - after) / (before - oracle):.0%} of the gap to the oracle closed"
    return f"WER {first} -> {second}, {third}: {closed}"
