"""Reading transcripts of any format, pairing them by id, and the scores of a system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asr.data.manifest import Manifest
from asr.errors import InputError
from asr.formats import read_kaldi, read_trn
from asr.hypothesis import read_nbest
from asr.text.normalize import Normalizer, get_normalizer
from asr.wer import Bootstrap, Counts, Table, count_errors, edits

FORMATS = ("trn", "kaldi", "manifest", "nbest")


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


def read_transcripts(path: Path, format: str | None = None) -> Transcripts:
    """Read a file of one of FORMATS; the suffixes .trn and .jsonl decide for themselves.

    Raises InputError for a file that cannot be read, and for an id that comes twice.
    """
    if path.suffix == ".trn":
        format = "trn"
    elif path.suffix == ".jsonl":
        format = "nbest" if _is_nbest(path) else "manifest"
    found = Transcripts(path)
    readers = {"trn": read_trn, "kaldi": read_kaldi}
    if format == "manifest":
        pairs = _manifest_texts(found)
    elif format == "nbest":
        pairs = _nbest_texts(found)
    else:
        pairs = readers[format or "kaldi"](path)
    for id, text in pairs:
        if id in found.texts:
            raise InputError(f"the id '{id}' comes twice", path, "Keep one of the two lines.")
        found.texts[id] = text
    return found


def _is_nbest(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b'"meta"' in file.readline(1000)[:20]
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from None


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


@dataclass(slots=True)
class System:
    """One file of hypotheses, scored; lists and tables are in the order of the references."""

    label: str
    texts: list[str]
    words: Table
    characters: Table
    missing: list[str]  # ids without hypothesis: all their words are deletions
    surplus: list[str]  # ids that the references lack: not scored
    failed: int
    real_time_factor: float | None  # decoding seconds a second of audio
    tuned_on_this: bool  # the weights were tuned on the set that is scored

    @property
    def errors(self) -> Any:
        """Word errors of each utterance, (N,)."""
        return self.words[:, 1:].sum(axis=1)


def score_system(
    label: str,
    transcripts: Transcripts,
    references: References,
    normalizer: Normalizer,
    nist: bool = False,
) -> System:
    """Pair by id and count. Raises InputError where no id is common."""
    known = transcripts.texts
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
    meta = transcripts.meta
    audio, seconds = meta.get("audio_seconds"), meta.get("decode_seconds")
    tuned_on = (meta.get("tuned_on") or {}).get("hash")
    scored = {references.hash, (meta.get("manifest") or {}).get("hash")}
    return System(
        label=label,
        texts=texts,
        words=count_errors(references.texts, texts, nist=nist),
        characters=count_errors(references.texts, texts, "char"),
        missing=missing,
        surplus=[id for id in known if id not in ids],
        failed=transcripts.failed,
        real_time_factor=seconds / audio if audio and seconds is not None else None,
        tuned_on_this=tuned_on is not None and tuned_on in scored,
    )


def by_speaker(references: References, system: System) -> dict[str, tuple[int, Counts, Counts]]:
    """Utterances, word and character counts of each speaker, most word errors per word first."""
    rows: dict[str, list[int]] = {}
    for row, speaker in enumerate(references.speakers):
        if speaker is not None:
            rows.setdefault(speaker, []).append(row)
    table = {
        speaker: (len(own), Counts.of(system.words[own]), Counts.of(system.characters[own]))
        for speaker, own in rows.items()
    }
    return dict(sorted(table.items(), key=lambda item: -item[1][1].rate))


def confusions(
    references: Sequence[str], hypotheses: Iterable[str], nist: bool = False
) -> dict[str, Counter[tuple[str, ...]]]:
    """How often each word was replaced by which, left out and put in."""
    found: dict[str, Counter[tuple[str, ...]]] = {
        "replace": Counter(),
        "delete": Counter(),
        "insert": Counter(),
    }
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if reference == hypothesis:
            continue
        said, heard = reference.split(), hypothesis.split()
        for tag, i, j in edits(said, heard, nist):
            pair = (said[i], heard[j]) if tag == "replace" else None
            found[tag][pair or ((said[i],) if tag == "delete" else (heard[j],))] += 1
    return found


def record(references: References, system: System) -> dict[str, Any]:
    """A system's scores as JSON; rates and interval bounds are fractions of 1."""
    bootstrap = references.bootstrap

    def rates(table: Table, unit: str) -> dict[str, Any]:
        counts = Counts.of(table)
        interval = bootstrap.interval(table[:, 1:].sum(axis=1), table[:, :3].sum(axis=1))
        return {**_counts(counts, unit), "interval": interval}

    wrong = system.errors > 0
    return {
        "label": system.label,
        "wer": rates(system.words, "words"),
        "cer": rates(system.characters, "characters"),
        "ser": {
            "utterances": len(wrong),
            "wrong": int(wrong.sum()),
            "rate": float(wrong.mean()),
            "interval": bootstrap.interval(wrong, np.ones(len(wrong))),
        },
        "speakers": {
            speaker: {"utterances": n, "wer": _counts(words, "words")}
            for speaker, (n, words, _) in by_speaker(references, system).items()
        },
        "real_time_factor": system.real_time_factor,
        "missing": system.missing,
        "surplus": system.surplus,
        "failed": system.failed,
        "tuned_on_this_set": system.tuned_on_this,
    }


def _counts(counts: Counts, unit: str) -> dict[str, Any]:
    return {
        unit: counts.length,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "rate": counts.rate,
    }
