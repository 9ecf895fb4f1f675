"""Rescoring: language models' raw scores join those of every hypothesis of an n-best list.

Only order and confidences change; hypotheses are neither made nor dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from asr.confidence import Calibration, annotate
from asr.decoding.weights import calibration_from, check_each, check_names, each_unit, weights_from
from asr.errors import InputError
from asr.files import cannot_read
from asr.hypothesis import Hypothesis, NBest, Weights, check_finite, length_unit
from asr.lm.ngram import NGram
from asr.text.normalize import Normalizer, check_same, get_normalizer

KENLM_MAGIC = b"mmap lm http://kheafield.com/code"
# An LM that knows fewer of the words (tokens) is of another unit, language or spelling.
MOST_UNKNOWN = {"word": 0.8, "token": 0.5}


class KenLM:
    """A KenLM binary, which stands beside NGram here. Raises InputError if it cannot be read."""

    normalizer: Normalizer | None = None  # the file does not tell
    tokenizer_hash: str | None = None

    def __init__(self, path: Path, unit: str | None) -> None:
        if unit is None:
            remedy = "Give --lm-unit word or token."
            raise InputError("a KenLM file does not say its unit", path, remedy)
        try:
            import kenlm

            self.model = kenlm.Model(str(path))
        except ImportError as error:
            remedy = "Install it with `pip install kenlm`, or give the ARPA file."
            what = "is a KenLM binary, but `kenlm` is not installed"
            raise InputError(what, path, remedy) from error
        except (OSError, RuntimeError) as error:
            raise InputError("KenLM cannot read it", path, "Build it again.") from error
        self.unit, self.path, self.name = unit, path, path.stem
        self.hash = hashlib.sha256(np.memmap(path, mode="r").data).hexdigest()[:16]

    def full_scores(self, words: Sequence[str]) -> list[tuple[float, int, bool]]:
        """(natural log, n-gram length, unknown) of every word and the sentence end."""
        scores = self.model.full_scores(" ".join(words))
        return [(score * math.log(10), length, unknown) for score, length, unknown in scores]


Scorer: TypeAlias = NGram | KenLM


def open_scorer(path: Path | str, unit: str | None = None) -> Scorer:
    """Our file, .arpa, .arpa.gz or a KenLM binary; the last three need `unit`. Raises InputError if
    it cannot be read, or if `unit` contradicts the file."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            is_kenlm = file.read(len(KENLM_MAGIC)) == KENLM_MAGIC
    except OSError as error:
        raise cannot_read(path, error) from error
    return KenLM(path, unit) if is_kenlm else NGram.open(path, unit)


def open_scorers(
    paths: Sequence[Path], units: Sequence[str] = (), names: Sequence[str] = ()
) -> dict[str, Scorer]:
    """{name: LM}, the name by default that of its file; units: as `each_unit`. Raises InputError as
    `open_scorer`, where numbers differ and where two names are the same."""
    check_each(names or paths, paths, "names", "--name")
    opened = list(map(open_scorer, paths, each_unit(paths, units)))
    scorers: dict[str, Scorer] = {}
    for name, scorer in zip(names or [lm.name for lm in opened], opened, strict=True):
        if name in scorers:
            raise InputError(f"two LMs are called '{name}'", scorer.path, "Name them by --name.")
        scorers[name] = scorer
    return scorers


@dataclass(slots=True)
class Rescorer:
    """Adds raw scores of `lms` {name: LM}, counts lengths in `length_unit` and letters of unknown
    words, and sorts by total."""

    weights: Weights
    length_unit: str
    lms: Mapping[str, Scorer]
    pieces: Sequence[str]  # the text of token ids, for LMs of tokens
    calibration: Calibration
    # of the best hypotheses, by LM; the others are full of words that are none
    units: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    def __call__(self, utterances: Iterable[NBest]) -> Iterator[NBest]:
        """The utterances with new scores, order and confidences; raises as `score`."""
        for utterance in self.score(utterances):
            utterance.nbest = sort_nbest(utterance.nbest, self.weights)
            if len(utterance.nbest) > 1:
                annotate(utterance.nbest, self.calibration)
            yield utterance

    def score(self, utterances: Iterable[NBest]) -> Iterator[NBest]:
        """The utterances with new scores, totals and order as they were. Raises InputError at the
        end if an LM knows hardly any of the words or tokens."""
        for utterance in utterances:
            for rank, hypothesis in enumerate(utterance.nbest):
                words = hypothesis.text.split()
                counted = words if self.length_unit == "words" else hypothesis.tokens
                hypothesis.scores["length"] = len(counted)
                for name in self.lms:
                    self.add_score(name, hypothesis, words, best=rank == 0)
            yield utterance
        for name, lm in self.lms.items():
            units, unknown = self.units[name], self.unknown[name]
            if units and unknown / units > MOST_UNKNOWN[lm.unit]:
                known = f"{units - unknown} of the {units} {lm.unit}s of the best hypotheses"
                remedy = "Its unit (--lm-unit), tokenizer or normaliser is another one than the"
                raise InputError(f"the LM knows {known}", name, f"{remedy} model's.")

    def add_score(self, name: str, hypothesis: Hypothesis, words: list[str], best: bool) -> None:
        lm, scores = self.lms[name], hypothesis.scores
        if lm.unit == "token":
            for token in hypothesis.tokens:
                if not 0 <= token < len(self.pieces):
                    what = f"token {token} is none of the list's {len(self.pieces)}"
                    raise InputError(what, name, "Decode again.")
            pieces = [self.pieces[token] for token in hypothesis.tokens]
            words = ["|" if piece == " " else piece for piece in pieces]
        found, _, unknown = zip(*lm.full_scores(words), strict=True)  # the last: sentence end
        if best:
            self.units[name] += len(words)
            self.unknown[name] += sum(unknown)
        scores["lm"] = {**scores.get("lm", {}), name: sum(found)}
        if lm.unit == "word":  # of several each counts what it does not know
            letters = sum(map(len, compress(words, unknown)))
            scores["unknown"] = scores.get("unknown", 0) + letters


def sort_nbest(nbest: Iterable[Hypothesis], weights: Weights) -> list[Hypothesis]:
    """The hypotheses with `total` by `weights`, best first; equal totals keep their order."""
    nbest = list(nbest)
    for hypothesis in nbest:
        hypothesis.scores["total"] = hypothesis.rate(weights)
    return sorted(nbest, key=lambda hypothesis: -hypothesis.total)


def plan(meta: Mapping[str, Any], scorers: Mapping[str, Scorer]) -> tuple[Rescorer, dict[str, Any]]:
    """A Rescorer with the list's own weights (0 for the new LMs), and the new list's meta. Raises
    InputError if a name is taken, if an LM is of another normaliser or tokenizer than the list, and
    where a number is not finite."""
    weights, lms = weights_from(meta.get("weights", {})), dict(meta.get("lms", {}))
    pieces, ours = meta.get("tokens", []), meta.get("tokenizer_hash")
    for name, lm in scorers.items():
        if name in lms:
            what = f"the list already has an LM called '{name}'"
            raise InputError(what, lm.path, "Choose another by --name.")
        if lm.normalizer is not None and meta.get("normalizer"):
            check_same(lm.normalizer, normalizer_of(meta), f"the LM {lm.path}", "the n-best list")
        if lm.unit == "token" and not pieces:
            what = "the n-best list has no tokens, which this token LM needs"
            raise InputError(what, lm.path, "Use a word LM.")
        if lm.unit == "token" and ours and lm.tokenizer_hash not in (None, ours):
            what = "was trained with another tokenizer than the model's"
            remedy = "Train it with `asr lm train --unit token --tokenizer MODEL`."
            raise InputError(what, lm.path, remedy)
        lms[name] = {"path": str(lm.path), "hash": lm.hash, "unit": lm.unit, "rescored": True}
        weights.lm[name] = 0.0
    check_finite(weights)
    length = length_unit(entry.get("unit") for entry in lms.values())
    rescorer = Rescorer(weights, length, scorers, pieces, calibration_from(meta))
    return rescorer, {**meta, "length": length, "lms": lms}


def normalizer_of(meta: Mapping[str, Any]) -> Normalizer:
    """The normaliser that an n-best file names, as `asr score` uses it; else "none"."""
    named = meta.get("normalizer") or "none"
    return get_normalizer(named["rules"] if isinstance(named, dict) else named)


def reweight(
    rescorer: Rescorer,
    meta: dict[str, Any],
    old_length: str | None,
    given: Weights | None,
    lm_weights: Sequence[float],
    bonus: float | None,
    unk_penalty: float | None,
) -> None:
    """Set the weights: all of them by `given` (a weights file), or the new LMs', the bonus and what
    letters of unknown words cost. Raises InputError if numbers differ or are not finite, if `given`
    is of other LMs or heads, or if the list's bonus counts another unit than the new `length`."""
    weights, unit = rescorer.weights, rescorer.length_unit
    if given is not None:
        if (weights.ctc or weights.att) and not (weights.ctc * given.ctc + weights.att * given.att):
            what = "has no weight for the score of this list's model (ctc or att)"
            remedy = "It was tuned on another kind of model: tune on a list of this one."
            raise InputError(what, "--weights", remedy)
        check_names(given, meta["lms"], "--weights")
        weights = given
    elif old_length not in (None, unit) and weights.bonus and bonus is None:
        what = f"the length bonus {weights.bonus:g} of this list counts {old_length}, but with this"
        raise InputError(f"{what} LM it counts {unit}", "--length-bonus", "Give a new one.")
    check_each(lm_weights or rescorer.lms, rescorer.lms, "weights", "--lm-weight")
    weights.lm |= dict(zip(rescorer.lms, lm_weights, strict=False))
    weights.bonus = weights.bonus if bonus is None else bonus
    weights.unk = weights.unk if unk_penalty is None else unk_penalty
    check_finite(weights)
    rescorer.weights, meta["weights"] = weights, asdict(weights)
