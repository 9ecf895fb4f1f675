"""What n-best files of the same test set are worth: error rates of all, of parts, of pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from asr.data.manifest import Manifest, Utterance
from asr.errors import InputError
from asr.hypothesis import read_nbest
from asr.report.page import Number, Rows, Table, alignment, count, distinct
from asr.scoring import (
    References,
    System,
    Transcripts,
    choose_normalizer,
    confusions,
    read_transcripts,
    score_system,
)
from asr.scoring_report import interval, percent
from asr.wer import Bootstrap, Counts
from asr.wer import Table as ErrorTable

SECONDS = (0, 1, 2, 3, 5, 8, 12, 20, 30)
WORDS = (0, 1, 3, 5, 8, 12, 20, 40)
MOST_GROUPS = 12  # values of a key that makes groups
MOST_ROWS = 500
MOST_CONFUSIONS = 100


@dataclass(slots=True)
class TestSet:
    """A manifest and the systems that decoded it, that with the fewest errors first.

    lists: their n-best files in the same order; utterances: those with a reference, as in
    `references`.
    """

    manifest: Manifest
    utterances: list[Utterance]
    references: References
    systems: list[System]
    lists: list[Transcripts]
    lengths: NDArray[np.int64]  # words of each reference, (N,)

    @property
    def leader(self) -> System:
        return self.systems[0]


def find_lists(folders: Sequence[Path], hashes: Sequence[str | None]) -> Iterator[Path]:
    """The n-best files in the folders, and those beside an experiment that are of its model."""
    for folder in folders:
        around = sorted(folder.resolve().parent.glob("*.jsonl"))
        for path in [*sorted(folder.glob("*.jsonl")), *around]:
            try:
                meta, _ = read_nbest(path)
            except InputError:  # another file
                continue
            if path not in around or meta.get("model_hash", "") in hashes:
                yield path


def group_by_set(
    paths: Sequence[Path], manifests: Sequence[Manifest]
) -> tuple[list[TestSet], list[tuple[str, str]]]:
    """One TestSet a manifest, test sets before others, and the files that have none with why."""
    skipped: list[tuple[str, str]] = []
    sets: dict[str, tuple[Manifest, list[Transcripts]]] = {}
    for path in paths:
        found = read_transcripts(path, "nbest")
        try:
            manifest = find_manifest(found, manifests)
            sets.setdefault(manifest.hash, (manifest, []))[1].append(found)
        except InputError as error:
            skipped.append((str(path), str(error)))
    scored = [_score(manifest, lists) for manifest, lists in sets.values()]
    return sorted(scored, key=lambda one: one.manifest.split != "test"), skipped


def find_manifest(found: Transcripts, given: Sequence[Manifest]) -> Manifest:
    """That of an n-best file: among the given ones, or where it was when the file was made.

    A relative path leads from here, or from any folder above the file. Raises InputError.
    """
    named = found.meta.get("manifest") or {}
    for manifest in given:
        if manifest.hash == named.get("hash") or (not named and len(given) == 1):
            return manifest
    if not named:
        raise InputError("does not say its manifest", found.path, "Give the one with --ref.")
    for folder in (Path(), *found.path.resolve().parents):
        path = folder / named["path"]
        if path.is_file() and (manifest := Manifest.open(path)).hash == named["hash"]:
            return manifest
    what = f"its manifest {named['path']} is not there, or has changed"
    raise InputError(what, found.path, "Give the right one with --ref.")


def _score(manifest: Manifest, lists: list[Transcripts]) -> TestSet:
    normalizer = choose_normalizer(None, lists)
    references = References.of(read_transcripts(manifest.path, "manifest"), normalizer)
    paths = [found.path for found in lists]
    named = zip(distinct([path.stem for path in paths], paths), lists, strict=True)
    scored = [(score_system(name, one, references, normalizer), one) for name, one in named]
    scored.sort(key=lambda pair: int(pair[0].errors.sum()))
    utterances = [utterance for utterance in manifest if utterance.text is not None]
    systems, lists = [system for system, _ in scored], [one for _, one in scored]
    lengths = systems[0].words[:, :3].sum(axis=1)
    return TestSet(manifest, utterances, references, systems, lists, lengths)


def rate_cell(words: ErrorTable, bootstrap: Bootstrap) -> Number | None:
    """WER in per cent and its interval, from the counts (N, 4)."""
    counts = Counts.of(words)
    if not counts.length:
        return None
    bounds = bootstrap.interval(words[:, 1:].sum(axis=1), words[:, :3].sum(axis=1))
    text = Markup("{} <small>{}</small>").format(percent(counts.rate), interval(bounds))
    return Number(counts.rate, text)


def systems_table(test: TestSet) -> Table:
    header = ["system", "WER %, 95 % interval", "S", "D", "I", "SER %", "CER %", "RTF"]
    header += ["model", "head", "language models"]
    rows: Rows = []
    for system, found in zip(test.systems, test.lists, strict=True):
        figures, factor = system.figures, system.figures["real_time_factor"]
        rows.append([system.label, rate_cell(system.words, test.references.bootstrap)])
        rows[-1] += [count(figures["wer"][k]) for k in ("substitutions", "deletions", "insertions")]
        rows[-1] += [
            Number(figures[k]["rate"], percent(figures[k]["rate"])) for k in ("ser", "cer")
        ]
        rows[-1] += [None if factor is None else Number(factor, f"{factor:.3f}")]
        model = f"{found.meta.get('model', 'outputs')} {found.meta.get('model_hash', '')}"
        rows[-1] += [model.strip(), found.meta.get("head", ""), _lms(found.meta)]
    note = f"Intervals: bootstrap over {test.references.bootstrap.units}, 10,000 resamples."
    return Table("Systems", header, rows, note)


def _lms(meta: dict[str, Any]) -> str:
    """ "word 0.8 (82410ecf031e), bonus 1.3 a word, unknown words -0.5 a letter"; "none"."""
    weights, lms = meta.get("weights") or {}, meta.get("lms") or {}
    given = weights.get("lm", {})
    parts = [f"{name} {given.get(name, 0):g} ({lm['hash']})" for name, lm in lms.items()]
    if lms:
        parts.append(f"bonus {weights.get('bonus', 0):g} a {str(meta.get('length', 's'))[:-1]}")
    if any(lm.get("unit") == "word" for lm in lms.values()):
        parts.append(f"unknown words {weights.get('unk', 0):g} a letter")
    return ", ".join(parts) or "none"


def comparison_table(test: TestSet) -> Table:
    """The paired test of all pairs."""
    rows: Rows = []
    for better, worse in itertools.combinations(test.systems, 2):
        pair = test.references.bootstrap.compare(better.errors, worse.errors, test.lengths)
        low, high = (100 * bound for bound in pair.interval)
        verdict = pair.verdict(better.label, worse.label, "this set")
        change = f"{100 * pair.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
        p = "< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}"
        numbers = Number(pair.difference, change), Number(pair.p, p)
        rows.append([better.label, worse.label, verdict, *numbers])
    note = "Paired bootstrap on the same resamples; two-sided p."
    header = ["A", "B", "verdict", "WER of B - A, points", "p"]
    return Table("Comparison of the systems", header, rows, note)


def group_tables(test: TestSet) -> Iterator[Table]:
    """WER of the parts of the set: by speaker, length, and every key that makes groups."""
    header = [*(system.label for system in test.systems), "utterances", "words"]
    for title, groups in groupings(test).items():
        rows: Rows = []
        for group in sorted(set(groups)):
            members = [row for row, own in enumerate(groups) if own == group]
            bootstrap = Bootstrap([test.references.speakers[row] for row in members])
            rates = [rate_cell(system.words[members], bootstrap) for system in test.systems]
            sizes = count(len(members)), count(int(test.lengths[members].sum()))
            rows.append([group[1], *rates, *sizes])
        yield Table(f"WER % by {title}", [title, *header], rows, "With 95 % intervals.")


def groupings(test: TestSet) -> dict[str, list[tuple[float, str]]]:
    """{what: the group of each utterance, as (place in the order, name)}."""
    found: dict[str, list[tuple[float, str]]] = {}
    if None not in test.references.speakers:
        found["speaker"] = [(0.0, str(speaker)) for speaker in test.references.speakers]
    seconds = [utterance.duration for utterance in test.utterances]
    if None not in seconds:
        found["length, seconds"] = _binned(seconds, SECONDS)
    found["length, words"] = _binned(test.lengths, WORDS)
    records = [{"lang": utterance.lang} | utterance.extra for utterance in test.utterances]
    for key in dict.fromkeys(key for record in records for key in record):
        values = [record.get(key) for record in records]
        if len({str(value) for value in values}) <= MOST_GROUPS:
            found[key] = [
                (float(v) if isinstance(v, int | float) else 0.0, "none" if v is None else str(v))
                for v in values
            ]
    return {what: groups for what, groups in found.items() if len(set(groups)) > 1}


def _binned(values: Any, edges: Sequence[int]) -> list[tuple[float, str]]:
    """ "3 to 5" of [3, 5), the last one "30 and more"."""
    names = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    names.append(f"{edges[-1]} and more")
    places = np.searchsorted(edges, values, side="right") - 1
    return [(float(place), names[place]) for place in places.tolist()]


def confusion_table(test: TestSet) -> Table:
    """The most frequent of all systems together, with the count in each."""
    counts: dict[tuple[str, str], list[int]] = {}
    for number, system in enumerate(test.systems):
        for kind, found in confusions(test.references.texts, system.texts, most=None).items():
            for what, times in found:
                row = counts.setdefault((kind[:-1], what), [0] * len(test.systems))
                row[number] = times
    ranked = sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0]))
    rows: Rows = [[*key, *map(count, row)] for key, row in ranked[:MOST_CONFUSIONS]]
    header = ["kind", "word", *(system.label for system in test.systems)]
    rest = len(ranked) - len(rows)
    return Table("Confusions", header, rows, f"And {rest:,} rarer ones." if rest else "")


def utterance_table(test: TestSet) -> Table:
    """Every utterance as the leader heard it, those with most errors first."""
    rows: Rows = []
    errors, said = test.leader.errors, test.references
    for row in np.argsort(-errors, kind="stable")[:MOST_ROWS].tolist():
        numbers = count(int(errors[row])), count(int(test.lengths[row]))
        words = alignment(said.texts[row], test.leader.texts[row])
        rows.append([said.ids[row], said.speakers[row], *numbers, words])
    rest = f"; the {MOST_ROWS} with most errors" if len(errors) > len(rows) else ""
    note = f"As heard by {test.leader.label}{rest}."
    return Table("Utterances", ["id", "speaker", "errors", "words", "alignment"], rows, note)


def warnings(test: TestSet) -> Iterator[str]:
    tuned = "the weights were tuned on this very set: its error rate says nothing about other"
    lost = "utterances have no hypothesis; all their words are deletions"
    for system in test.systems:
        if system.figures["tuned_on_this_set"]:
            yield f"{system.label}: {tuned} recordings."
        if missing := len(system.figures["missing"]):
            yield f"{system.label}: {missing} {lost}."
        if failed := system.figures["failed"]:
            yield f"{system.label}: {failed} utterances failed in decoding."
