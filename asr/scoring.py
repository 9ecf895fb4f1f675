"""Reading transcripts of any format, pairing them by id, and the scores of a system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.confidence import matches, normalised_cross_entropy, reliability
from asr.data.manifest import Manifest
from asr.errors import InputError
from asr.files import cannot_read
from asr.formats import read_kaldi, read_trn
from asr.hypothesis import read_nbest
from asr.text.normalize import Normalizer, get_normalizer
from asr.wer import Bootstrap, Counts, Table, count_errors, edits

MOST_CONFUSIONS = 10
# no Kaldi text, as which they would be read where nothing else is said
OTHERS = {".json", ".ctm", ".srt", ".vtt", ".tsv", ".csv", ".html", ".npz", ".lm", ".gz", ".yaml"}


@dataclass(slots=True)
class Transcripts:
    """The texts of a file by id; of an n-best file each utterance's best."""

    path: Path
    texts: dict[str, str] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # id and why it has no text
    failed: int = 0  # utterances whose decoding failed, empty texts
    meta: dict[str, Any] = field(default_factory=dict)  # of an n-best file
    hash: str | None = None  # of a manifest
    confidences: dict[str, list[float]] = field(default_factory=dict)  # of an n-best file's words


def read_transcripts(path: Path, format: str | None = None) -> Transcripts:
    """Read trn, kaldi, manifest or nbest; the suffixes .trn and .jsonl decide for themselves.

    Raises InputError for a file that cannot be read or is none, and for an id that comes twice.
    """
    if format is None and path.suffix in OTHERS:
        what = "holds no transcripts by id"
        raise InputError(what, path, "Give .jsonl, .trn or a Kaldi text file.")
    if path.suffix == ".trn":
        format = "trn"
    elif path.suffix == ".jsonl":
        format = "nbest" if _is_nbest(path) else "manifest"
    found = Transcripts(path)
    readers = {
        "trn": lambda: read_trn(path),
        "kaldi": lambda: read_kaldi(path),
        "manifest": lambda: _manifest_texts(found),
        "nbest": lambda: _nbest_texts(found),
    }
    for id, text in readers[format or "kaldi"]():
        if id in found.texts:
            raise InputError(f"the id '{id}' comes twice", path, "Keep one of the two lines.")
        found.texts[id] = text
    return found


def _is_nbest(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b'"meta"' in file.readline(1000)[:20]
    except OSError as error:
        raise cannot_read(path, error) from None


def _manifest_texts(found: Transcripts) -> Iterator[tuple[str, str]]:
    manifest = Manifest.open(found.path)
    found.hash = manifest.hash
    for utterance in manifest:
        if utterance.speaker is not None:
            found.speakers[utterance.id] = utterance.speaker
        if utterance.text is None:
            found.skipped.append((utterance.id, "no text in the manifest"))
        else:
            yield utterance.id, utterance.text


def _nbest_texts(found: Transcripts) -> Iterator[tuple[str, str]]:
    found.meta, utterances = read_nbest(found.path)
    for utterance in utterances:
        found.failed += utterance.error is not None
        words = utterance.nbest[0].words if utterance.nbest else []
        known = [word.confidence for word in words if word.confidence is not None]
        if words and len(known) == len(words):
            found.confidences[utterance.id] = known
        yield utterance.id, utterance.text


def choose_normalizer(name: str | None, hypotheses: Sequence[Transcripts]) -> Normalizer:
    """The one of `name`, else the one that the n-best files name, else "none".

    Raises InputError where n-best files name different ones.
    """
    if name is not None:
        return get_normalizer(name)
    chosen: dict[tuple[str, ...], Path] = {}
    for transcripts in hypotheses:
        named = transcripts.meta.get("normalizer")
        if named is not None:
            rules = named["rules"] if isinstance(named, dict) else named
            chosen[get_normalizer(rules).rules] = transcripts.path
    if len(chosen) > 1:
        raise InputError(
            f"{' and '.join(map(str, chosen.values()))} name different normalisers",
            remedy="Choose the one for all with --normalizer NAME.",
        )
    return get_normalizer(next(iter(chosen), "none"))


@dataclass(slots=True)
class References:
    """The reference side, normalised, in the order of its file."""

    ids: list[str]
    texts: list[str]
    speakers: list[str | None]
    hash: str | None
    bootstrap: Bootstrap

    @classmethod
    def of(cls, transcripts: Transcripts, normalizer: Normalizer) -> References:
        if not transcripts.texts:
            raise InputError("has no transcripts", transcripts.path, "Give references with text.")
        ids = list(transcripts.texts)
        texts = [normalizer(text) for text in transcripts.texts.values()]
        speakers = [transcripts.speakers.get(id) for id in ids]
        return cls(ids, texts, speakers, transcripts.hash, Bootstrap(speakers))

    def rows_by_speaker(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, speaker in enumerate(self.speakers):
            if speaker is not None:
                rows.setdefault(speaker, []).append(row)
        return rows


@dataclass(slots=True)
class System:
    """One system's hypotheses in the order of the references, and its `figures` as in --json.

    Rates and interval bounds are fractions of 1. Ids that are `missing` count as deletions of
    all their words; those that are `surplus` are not scored.
    """

    label: str
    texts: list[str]
    words: Table
    figures: dict[str, Any]

    @property
    def errors(self) -> NDArray[np.int64]:
        """Word errors of each utterance, (N,)."""
        errors: NDArray[np.int64] = self.words[:, 1:].sum(axis=1)
        return errors


def score_system(
    label: str,
    transcripts: Transcripts,
    references: References,
    normalizer: Normalizer,
    nist: bool = False,
) -> System:
    """Pair by id and count. Raises InputError where no id is common."""
    known, meta = transcripts.texts, transcripts.meta
    missing = [id for id in references.ids if id not in known]
    if len(missing) == len(references.ids):
        example = next(iter(known), None)
        raise InputError(
            "has no id in common with the references"
            f" (theirs: '{references.ids[0]}', here: {example!r})",
            transcripts.path,
            "Give the hypotheses of the same set.",
        )
    ids = set(references.ids)
    texts = [normalizer(known.get(id, "")) for id in references.ids]
    words = count_errors(references.texts, texts, nist=nist)
    characters = count_errors(references.texts, texts, "char")
    wrong: NDArray[np.bool_] = words[:, 1:].sum(axis=1) > 0
    audio, seconds = meta.get("audio_seconds"), meta.get("decode_seconds")
    tuned_on = (meta.get("tuned_on") or {}).get("hash")
    figures = {
        "label": label,
        "wer": _rates(words, "words", references.bootstrap),
        "cer": _rates(characters, "characters", references.bootstrap),
        "ser": {
            "utterances": len(wrong),
            "wrong": int(wrong.sum()),
            "rate": float(wrong.mean()),
            "interval": references.bootstrap.interval(wrong, np.ones(len(wrong))),
        },
        "real_time_factor": seconds / audio if audio and seconds is not None else None,
        "missing": missing,
        "surplus": [id for id in known if id not in ids],
        "failed": transcripts.failed,
        "tuned_on_this_set": tuned_on is not None
        and tuned_on in (references.hash, (meta.get("manifest") or {}).get("hash")),
        "speakers": {
            speaker: {
                "utterances": len(rows),
                "wer": _rates(words[rows], "words"),
                "cer": _rates(characters[rows], "characters"),
            }
            for speaker, rows in references.rows_by_speaker().items()
        },
        "confusions": confusions(references.texts, texts, nist),
        "confidence": _confidence(references, texts, transcripts.confidences),
    }
    return System(label, texts, words, figures)


def _confidence(
    references: References, texts: Sequence[str], known: Mapping[str, list[float]]
) -> dict[str, Any] | None:
    """What the confidences of the words are worth; None where there are none.

    Utterances whose number of words the normaliser changes are left out.
    """
    said: list[float] = []
    right: list[bool] = []
    for id, reference, text in zip(references.ids, references.texts, texts, strict=True):
        words = text.split()
        if words and len(known.get(id, [])) == len(words):
            said += known[id]
            right += matches(words, [reference])[0].tolist()
    if not said:
        return None
    confidences, correct = np.array(said), np.array(right)
    return {
        "words": len(said),
        "normalised_cross_entropy": normalised_cross_entropy(confidences, correct),
        "reliability": reliability(confidences, correct),
    }


def _rates(table: Table, unit: str, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    counts = Counts.of(table)
    rates: dict[str, Any] = {
        unit: counts.length,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "rate": counts.rate,
    }
    if bootstrap is not None:
        rates["interval"] = bootstrap.interval(table[:, 1:].sum(axis=1), table[:, :3].sum(axis=1))
    return rates


def confusions(
    references: Sequence[str],
    hypotheses: Sequence[str],
    nist: bool = False,
    most: int | None = MOST_CONFUSIONS,
) -> dict[str, list[tuple[str, int]]]:
    """The most frequent substitutions ("a → b"), deletions and insertions with their counts."""
    kinds = {"replace": "substitutions", "delete": "deletions", "insert": "insertions"}
    counters: dict[str, Counter[str]] = {tag: Counter() for tag in kinds}
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if reference == hypothesis:
            continue
        said, heard = reference.split(), hypothesis.split()
        for tag, i, j in edits(said, heard, nist):
            named = heard[j] if tag == "insert" else said[i]
            counters[tag][f"{named} → {heard[j]}" if tag == "replace" else named] += 1
    return {
        kinds[tag]: sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:most]
        for tag, counter in counters.items()
    }
