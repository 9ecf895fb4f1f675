"""Rescoring: language models' raw scores join those of every hypothesis of an n-best list.

    total = w_ctc·ctc + w_att·att + Σ_i w_i·lm_i + bonus·length + unk·unknown

Only order and confidences change; hypotheses are neither made nor dropped. References, where given,
yield the word errors of each hypothesis, from which the oracle WER and the tuning follow.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from asr.confidence import UNCALIBRATED, Calibration, annotate
from asr.decoding.language_models import each_unit
from asr.decoding.weights import calibration_from, check_names, weights_from
from asr.errors import InputError
from asr.files import cannot_read
from asr.hypothesis import Hypothesis, NBest, Weights, check_finite, length_unit
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
        self.path = path
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
        raise cannot_read(path, error) from error
    return KenLM(path, unit) if is_kenlm else NGram.open(path, unit)


def open_scorers(
    paths: Sequence[Path], units: Sequence[str] = (), names: Sequence[str] = ()
) -> dict[str, Scorer]:
    """{name: LM}, the name by default that of its file; units: as `each_unit`.

    Raises InputError as `open_scorer`, where numbers differ and where two names are the same.
    """
    if names and len(names) != len(paths):
        what = f"{len(names)} names for {len(paths)} language models"
        raise InputError(what, "--name", "Give one for each --lm, in their order.")
    scorers: dict[str, Scorer] = {}
    for index, (path, unit) in enumerate(zip(paths, each_unit(paths, units), strict=True)):
        scorer = open_scorer(path, unit)
        name = names[index] if names else scorer.name
        if name in scorers:
            raise InputError(f"two LMs are called '{name}'", path, "Name them by --name.")
        scorers[name] = scorer
    return scorers


@dataclass(slots=True)
class Rescorer:
    """Adds raw scores of `lms` {name: LM}, counts lengths in `length_unit` and letters of unknown
    words, and sorts by total.

    lms: none of them only re-weights the scores that are there.
    pieces: the text of token ids, for LMs of tokens.
    units, unknown: of the best hypotheses, by LM.
    """

    weights: Weights
    length_unit: str
    lms: Mapping[str, Scorer] = field(default_factory=dict)
    pieces: Sequence[str] = ()
    calibration: Calibration = UNCALIBRATED
    units: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    def __call__(self, utterances: Iterable[NBest]) -> Iterator[NBest]:
        """The utterances with new scores, order and confidences; raises as `score` does."""
        for utterance in self.score(utterances):
            nbest = sort_nbest(utterance.nbest, self.weights)
            if len(nbest) > 1:
                annotate(nbest, self.calibration)
            yield NBest(utterance.id, nbest, utterance.error)

    def score(self, utterances: Iterable[NBest]) -> Iterator[NBest]:
        """The utterances with new scores, totals and order as they were.

        Raises InputError at the end if an LM knows hardly any of the words or tokens.
        """
        for utterance in utterances:
            for rank, hypothesis in enumerate(utterance.nbest):
                words = self.length_unit == "words"
                length = len(hypothesis.text.split() if words else hypothesis.tokens)
                hypothesis.scores["length"] = length
                for name in self.lms:
                    self.add_score(name, hypothesis, best=rank == 0)
            yield utterance
        for name in self.lms:
            self.check_coverage(name)

    def split(self, hypothesis: Hypothesis, unit: str) -> list[str]:
        """The words or tokens of a hypothesis, as LMs call them."""
        if unit == "word":
            return hypothesis.text.split()
        pieces = [self.pieces[token] for token in hypothesis.tokens]
        return ["|" if piece == " " else piece for piece in pieces]

    def add_score(self, name: str, hypothesis: Hypothesis, best: bool) -> None:
        """What the LM knows is counted in the best ones: lists are full of words that are none."""
        lm = self.lms[name]
        words = self.split(hypothesis, lm.unit)
        entries = lm.full_scores(words)
        unknown = sum(oov for _, _, oov in entries)
        if best:
            self.units[name] += len(entries) - 1  # the last is the sentence end
            self.unknown[name] += unknown
        score = sum(logprob for logprob, _, _ in entries)
        hypothesis.scores["lm"] = {**hypothesis.scores.get("lm", {}), name: score}
        if lm.unit == "word":  # of several each counts what it does not know
            letters = sum(len(w) for w, (_, _, oov) in zip(words, entries, strict=False) if oov)
            hypothesis.scores["unknown"] = hypothesis.scores.get("unknown", 0) + letters

    def check_coverage(self, name: str) -> None:
        """An LM of the wrong unit or normaliser is seen by what it does not know."""
        units, unknown, unit = self.units[name], self.unknown[name], self.lms[name].unit
        if units and unknown / units > MOST_UNKNOWN[unit]:
            raise InputError(
                f"the LM knows {units - unknown} of the {units} {unit}s of the best hypotheses",
                name,
                "Its unit (--lm-unit), tokenizer or normaliser is another one than the model's.",
            )


def sort_nbest(nbest: Iterable[Hypothesis], weights: Weights) -> list[Hypothesis]:
    """The hypotheses with `total` by `weights`, best first; equal totals keep their order."""
    nbest = list(nbest)
    for hypothesis in nbest:
        hypothesis.scores["total"] = hypothesis.rate(weights)
    return sorted(nbest, key=lambda hypothesis: -hypothesis.total)


def plan(meta: Mapping[str, Any], scorers: Mapping[str, Scorer]) -> tuple[Rescorer, dict[str, Any]]:
    """A Rescorer with the list's own weights (0 for the new LMs), and the new list's meta.

    Raises InputError if a name is taken or an LM does not fit the list: another normaliser or
    tokenizer; and where a number is not finite.
    """
    weights = weights_from(meta.get("weights", {}))
    lms = dict(meta.get("lms", {}))
    for name, lm in scorers.items():
        if name in lms:
            raise InputError(
                f"the list already has an LM called '{name}'", lm.path, "Choose another by --name."
            )
        check_fits(lm, meta, lm.path)
        lms[name] = {"path": str(lm.path), "hash": lm.hash, "unit": lm.unit}
        weights.lm[name] = 0.0
    check_finite(weights)
    length = length_unit(entry.get("unit") for entry in lms.values())
    pieces = meta.get("tokens", [])
    rescorer = Rescorer(weights, length, scorers, pieces, calibration_from(meta))
    return rescorer, {**meta, "length": length, "lms": lms}


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
    lm_weights: Sequence[float] = (),
    bonus: float | None = None,
    unk_penalty: float | None = None,
) -> None:
    """Set the weights: all of them by `given` (a weights file), or the new LMs', the bonus and what
    letters of unknown words cost.

    Raises InputError if numbers differ or are not finite, if `given` speaks of LMs that are not in
    the list, or if the list's bonus counts another unit than the new `length`.
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
    if lm_weights and len(lm_weights) != len(rescorer.lms):
        what = f"{len(lm_weights)} weights for {len(rescorer.lms)} language models"
        raise InputError(what, "--lm-weight", "Give one for each --lm, in their order.")
    weights.lm |= dict(zip(rescorer.lms, lm_weights, strict=False))
    if bonus is not None:
        weights.bonus = bonus
    if unk_penalty is not None:
        weights.unk = unk_penalty
    check_finite(weights)
    rescorer.weights = weights
    meta["weights"] = asdict(weights)


def word_errors(reference: str, texts: Sequence[str]) -> NDArray[np.int32]:
    """Word errors of every text of an n-best list, (H,)."""
    said = split(reference)
    return np.array([Levenshtein.distance(said, split(text)) for text in texts], dtype=np.int32)
