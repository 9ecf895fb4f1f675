"""Rescoring: a language model's raw score joins those of every hypothesis of an n-best list.

    total = w_ctc·ctc + w_att·att + Σ_i w_i·lm_i + bonus·length

Only the order changes; hypotheses are neither made nor dropped. References, where given, yield the
word errors of each hypothesis, from which the oracle WER and the weights' tuning follow.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from asr.decoding.weights import check_names, weights_from
from asr.errors import InputError
from asr.hypothesis import Hypothesis, NBest, Weights
from asr.lm.ngram import NGram
from asr.text.normalize import Normalizer, check_same, get_normalizer
from asr.wer import split

KENLM_MAGIC = b"mmap lm http://kheafield.com/code"
# An LM that knows fewer of the words (tokens) is of another unit, language or spelling.
MOST_UNKNOWN = {"word": 0.8, "token": 0.5}


class KenLM:
    """A KenLM binary, read by the module `kenlm`; in rescoring it stands beside NGram.

    Raises InputError if the module is missing or cannot read the file.
    """

    normalizer: Normalizer | None = None  # the file does not tell
    tokenizer_hash: str | None = None

    def __init__(self, path: Path, unit: str | None) -> None:
        if unit is None:
            raise InputError(
                "a KenLM file does not say its unit", path, "Give --lm-unit word or token."
            )
        try:
            import kenlm

            self.model = kenlm.Model(str(path))
        except ImportError as error:
            raise InputError(
                "is a KenLM binary, but `kenlm` is not installed",
                path,
                "Install it with `pip install kenlm`, or give the ARPA file.",
            ) from error
        except (OSError, RuntimeError) as error:
            raise InputError("KenLM cannot read it", path, "Build it again.") from error
        self.unit = unit
        self.name = path.stem
        self.hash = hashlib.sha256(np.memmap(path, mode="r").data).hexdigest()[:16]

    def full_scores(self, words: Sequence[str]) -> list[tuple[float, int, bool]]:
        """(natural log, n-gram length, unknown) of every word and the sentence end."""
        scores = self.model.full_scores(" ".join(words))
        return [(score * math.log(10), length, unknown) for score, length, unknown in scores]


Scorer: TypeAlias = NGram | KenLM


def open_scorer(path: Path | str, unit: str | None = None) -> Scorer:
    """Our file, .arpa, .arpa.gz or a KenLM binary; the last three need `unit`.

    Raises InputError if it cannot be read, or if `unit` contradicts the file.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            is_kenlm = file.read(len(KENLM_MAGIC)) == KENLM_MAGIC
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error
    return KenLM(path, unit) if is_kenlm else NGram.open(path, unit)


@dataclass(slots=True)
class Rescorer:
    """Adds `lm`'s raw score under `name`, counts lengths in `length_unit` and sorts by total.

    lm: None only re-weights the scores that are there.
    unk_penalty: natural log added for every unknown word, as in the search.
    pieces: the text of token ids, for LMs of tokens.
    """

    weights: Weights
    length_unit: str
    lm: Scorer | None = None
    name: str = ""
    unk_penalty: float = 0.0
    pieces: Sequence[str] = ()
    units: int = 0
    unknown: int = 0

    def __call__(self, utterances: Iterable[NBest]) -> Iterator[NBest]:
        """The utterances with new scores and in the new order; raises as `score` does."""
        for utterance in self.score(utterances):
            yield NBest(utterance.id, sort_nbest(utterance.nbest, self.weights), utterance.error)

    def score(self, utterances: Iterable[NBest]) -> Iterator[NBest]:
        """The utterances with new scores, totals and order as they were.

        Raises InputError at the end if the LM knows hardly any of the words or tokens.
        """
        for utterance in utterances:
            for rank, hypothesis in enumerate(utterance.nbest):
                self.add_scores(hypothesis, best=rank == 0)
            yield utterance
        self.check_coverage()

    def add_scores(self, hypothesis: Hypothesis, best: bool) -> None:
        """What the LM knows is counted in the best ones: lists are full of words that are none."""
        scores = hypothesis.scores
        counted = hypothesis.tokens if self.length_unit == "tokens" else hypothesis.text.split()
        scores["length"] = len(counted)
        if self.lm is None:
            return
        if self.lm.unit == "token":
            pieces = [self.pieces[token] for token in hypothesis.tokens]
            words = ["|" if piece == " " else piece for piece in pieces]
        else:
            words = hypothesis.text.split()
        entries = self.lm.full_scores(words)
        unknown = sum(oov for _, _, oov in entries)
        if best:
            self.units += len(words)
            self.unknown += unknown
        score = sum(logprob for logprob, _, _ in entries)
        if self.lm.unit == "word":
            score += self.unk_penalty * unknown
        scores["lm"] = {**scores.get("lm", {}), self.name: score}

    def check_coverage(self) -> None:
        """An LM of the wrong unit or normaliser is seen by what it does not know."""
        if self.lm is None or not self.units:
            return
        if self.unknown / self.units > MOST_UNKNOWN[self.lm.unit]:
            raise InputError(
                f"the LM knows {self.units - self.unknown} of the {self.units} {self.lm.unit}s "
                "of the best hypotheses",
                self.name,
                "Its unit (--lm-unit), tokenizer or normaliser is another one than the model's.",
            )


def sort_nbest(nbest: Iterable[Hypothesis], weights: Weights) -> list[Hypothesis]:
    """The hypotheses with `total` by `weights`, best first; equal totals keep their order."""
    nbest = list(nbest)
    for hypothesis in nbest:
        hypothesis.scores["total"] = hypothesis.rate(weights)
    return sorted(nbest, key=lambda hypothesis: -hypothesis.total)


def plan(
    meta: Mapping[str, Any],
    lm: Scorer | None,
    *,
    name: str | None = None,
    path: Path | str | None = None,
    unk_penalty: float | None = None,
) -> tuple[Rescorer, dict[str, Any]]:
    """A Rescorer with the list's own weights (0 for the new LM), and the new list's meta.

    `lm` joins as `name` (default its own name). Raises InputError if the name is taken or the LM
    does not fit the list: another normaliser or tokenizer, another unknown-word penalty.
    """
    weights = weights_from(meta.get("weights", {}))
    lms = dict(meta.get("lms", {}))
    penalty = float(meta.get("unk_penalty", 0.0)) if unk_penalty is None else unk_penalty
    if lms and penalty != float(meta.get("unk_penalty", 0.0)):
        raise InputError(
            f"unknown words cost {meta.get('unk_penalty', 0.0):g} in this list, not {penalty:g}",
            "--unk-penalty",
            "All LMs of a list share one penalty: leave the option away, or decode again.",
        )
    name = name or (lm.name if lm else "")
    if lm is not None:
        if name in lms:
            raise InputError(
                f"the list already has an LM called '{name}'", path, "Choose another by --name."
            )
        check_fits(lm, meta, path or name)
        lms[name] = {"path": str(path or name), "hash": lm.hash, "unit": lm.unit}
        weights.lm[name] = 0.0
    units = {entry["unit"] for entry in lms.values()}
    length_unit = "tokens" if units == {"token"} else "words"
    pieces = meta.get("tokens", [])
    rescorer = Rescorer(weights, length_unit, lm, name, penalty, pieces)
    return rescorer, {**meta, "length": length_unit, "lms": lms, "unk_penalty": penalty}


def normalizer_of(meta: Mapping[str, Any]) -> Normalizer:
    """The normaliser that an n-best file names, as `asr score` uses it; else "none"."""
    named = meta.get("normalizer")
    return Normalizer.from_dict(named) if named else get_normalizer("none")


def check_fits(lm: Scorer, meta: Mapping[str, Any], where: Path | str) -> None:
    """Raises InputError if the LM was made with another normaliser or tokenizer than the list's."""
    if lm.normalizer is not None and meta.get("normalizer"):
        check_same(lm.normalizer, normalizer_of(meta), f"the LM {where}", "the n-best list")
    if lm.unit == "token":
        if not meta.get("tokens"):
            raise InputError(
                "the n-best list has no tokens, which this token LM needs", where, "Use a word LM."
            )
        ours = meta.get("tokenizer_hash")
        if lm.tokenizer_hash and ours and lm.tokenizer_hash != ours:
            raise InputError(
                "was trained with another tokenizer than the model's",
                where,
                "Train it with `asr lm train --unit token --tokenizer MODEL`.",
            )


def reweight(
    rescorer: Rescorer,
    meta: dict[str, Any],
    old_length: str | None,
    *,
    given: Weights | None = None,
    lm_weight: float | None = None,
    bonus: float | None = None,
) -> None:
    """Set the weights: all of them by `given` (a weights file), or the new LM's and the bonus.

    Raises InputError if `given` speaks of LMs that are not in the list, or if the list's bonus
    counts another unit than the new `length`.
    """
    weights = rescorer.weights
    if given is not None:
        if (weights.ctc or weights.att) and not (weights.ctc * given.ctc + weights.att * given.att):
            raise InputError(
                "has no weight for the score of this list's model (ctc or att)",
                "--weights",
                "It was tuned on another kind of model: tune on a list of this one.",
            )
        check_names(given, meta["lms"], "--weights")
        weights = given
    elif old_length not in (None, rescorer.length_unit) and weights.bonus and bonus is None:
        raise InputError(
            f"the length bonus {weights.bonus:g} of this list counts {old_length}, "
            f"but with this LM it counts {rescorer.length_unit}",
            "--length-bonus",
            "Give a new one.",
        )
    if rescorer.lm is not None and lm_weight is not None:
        weights.lm[rescorer.name] = lm_weight
    if bonus is not None:
        weights.bonus = bonus
    rescorer.weights = weights
    meta["weights"] = asdict(weights)


def word_errors(reference: str, texts: Sequence[str]) -> NDArray[np.int32]:
    """Word errors of every text of an n-best list, (H,)."""
    said = split(reference)
    return np.array([Levenshtein.distance(said, split(text)) for text in texts], dtype=np.int32)
