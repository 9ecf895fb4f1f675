"""The page of `asr check`: what the data is like, and what to listen to first."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.data.check import KINDS, Facts, shared
from asr.data.manifest import Utterance
from asr.errors import AudioError
from asr.lm.unknown import Unknown
from asr.pictures import bars, histogram
from asr.report.page import Number, Rows, Sound, Table, count, data_uri, now, sound_of, write_page

MEASURES = (  # columns of Facts.measures; the last two tell unlikely utterances
    ("duration", "seconds"),
    ("level", "dB of full scale, root mean square"),
    ("speaking rate", "characters a second"),
)
UNLIKELY = 2.5  # robust standard deviations from the median
LISTEN = 20  # utterances to listen to
MOST_BARS = 30
MOST_ROWS = 1000
PROBLEM = 10.0  # what a finding adds to an utterance's oddness


class Odd(NamedTuple):
    """An utterance to listen to, the oddest first."""

    oddness: float
    manifest: str
    utterance: Utterance
    reasons: str
    sound: Sound = Sound()


def named(all_facts: Sequence[Facts]) -> dict[str, Facts]:
    """By the manifests' names, or by their paths where a name comes twice."""
    names = [facts.manifest.path.name for facts in all_facts]
    if len(set(names)) < len(names):
        names = [str(facts.manifest.path) for facts in all_facts]
    return dict(zip(names, all_facts, strict=True))


def oddest(all_facts: Sequence[Facts]) -> list[Odd]:
    """Those with findings, then those whose level or speaking rate is far from their set's median.

    Distances in robust standard deviations, 1.4826 × median absolute deviation.
    """
    found: list[Odd] = []
    for manifest, facts in named(all_facts).items():
        oddness = np.zeros(len(facts.manifest))
        reasons: dict[int, list[str]] = {}
        lines = {}
        if facts.findings:
            lines = {id: line for line, id in enumerate(u.id for u in facts.manifest)}
        for kind, id, message in facts.findings:
            if kind != "audio":  # there is nothing to hear
                oddness[lines[id]] += PROBLEM
                reasons.setdefault(lines[id], []).append(f"{KINDS[kind]}: {message}")
        for column, (name, unit) in enumerate(MEASURES[1:], 1):
            values = facts.measures[:, column]
            centre, distances = deviations(values)
            for line in np.flatnonzero(distances > UNLIKELY).tolist():
                oddness[line] += distances[line]
                said = f"{name} {values[line]:.1f}, the median is {centre:.1f} {unit}"
                reasons.setdefault(line, []).append(said)
        for line in sorted(reasons, key=lambda line: -oddness[line])[:LISTEN]:
            why = "; ".join(reasons[line])
            found.append(Odd(float(oddness[line]), manifest, facts.manifest[line], why))
    return sorted(found, key=lambda one: -one.oddness)[:LISTEN]


def deviations(values: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """The median, and each value's robust distance from it; 0 where there is no value."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, np.zeros(len(values))
    centre = float(np.median(known))
    spread = max(1.4826 * float(np.median(np.abs(known - centre))), 1e-6)
    return centre, np.nan_to_num(np.abs(values - centre) / spread)


def with_sound(odd: Odd) -> Odd:
    try:
        return odd._replace(sound=sound_of(odd.utterance))
    except AudioError as error:  # cannot be used, as the findings say
        return odd._replace(sound=Sound(error=str(error)))


def pictures(all_facts: Sequence[Facts]) -> Iterator[tuple[str, str]]:
    """(name, picture): histograms of what is measured, bars of sample rates and characters."""
    for column, (name, unit) in enumerate(MEASURES):
        values = {key: facts.measures[:, column] for key, facts in named(all_facts).items()}
        finite = {key: own[np.isfinite(own)] for key, own in values.items()}
        yield f"Histogram: {name}, {unit}", data_uri(histogram(name, finite, unit))
    rates = {key: Counter[str]() for key in named(all_facts)}
    for key, facts in named(all_facts).items():
        for (rate, _), number in facts.formats.items():
            rates[key][f"{rate} Hz"] += number
    yield "Sample rates", data_uri(share_bars("sample rates, % of utterances", rates))
    title = "characters, % of all"
    yield "Characters", data_uri(share_bars(title, characters(all_facts)))


def share_bars(title: str, counts: Mapping[str, Counter[str]]) -> bytes:
    total = sum(counts.values(), Counter[str]())
    names = [name for name, _ in total.most_common(MOST_BARS)]
    shares = {
        key: [100 * own[name] / max(own.total(), 1) for name in names]
        for key, own in counts.items()
    }
    return bars(title, shares, names)


def characters(all_facts: Sequence[Facts]) -> dict[str, Counter[str]]:
    """Of the texts as written, without spaces, by manifest."""
    found = {}
    for key, facts in named(all_facts).items():
        counts: Counter[str] = Counter()
        for word, times in facts.words.items():
            for character in word:
                counts[character] += times
        found[key] = counts
    return found


def tables(all_facts: Sequence[Facts], unknown: Sequence[Unknown]) -> dict[str, Table]:
    sets: Rows = [
        [
            str(facts.manifest.path),
            count(len(facts.bad)),
            count(len(facts.manifest)),
            Number(facts.seconds, f"{facts.seconds / 3600:.2f}"),
            count(len(facts.speakers)),
            facts.audio,
            facts.manifest.hash,
        ]
        for facts in all_facts
    ]
    head = ["manifest", "problems", "utterances", "hours", "speakers", "audio", "hash"]
    counts = characters(all_facts)
    used = sum(counts.values(), Counter[str]())
    letters: Rows = [
        [
            c,
            f"U+{ord(c):04X} {unicodedata.name(c, '')}",
            *(count(own[c]) for own in counts.values()),
        ]
        for c, _ in used.most_common(MOST_ROWS)
    ]
    overlaps: Rows = [
        [
            both.a.manifest.path.name,
            both.b.manifest.path.name,
            both.what,
            count(len(both.examples)),
            "; ".join(both.examples[:20]),
        ]
        for both in shared(all_facts)
    ]
    lacking: Rows = [
        [one.lm, one.text, count(one.words.total()), Number(one.share, f"{one.share:.2%}")]
        for one in unknown
    ]
    words: Rows = [
        [one.lm, one.text, word, count(times)]
        for one in unknown
        for word, times in one.words.most_common(MOST_ROWS // len(unknown))
    ]
    findings: Rows = [
        [KINDS[kind], manifest, id, message]
        for manifest, facts in named(all_facts).items()
        for kind, id, message in facts.findings
    ]
    rest = f"{MOST_ROWS} of {len(findings):,}." if len(findings) > MOST_ROWS else ""
    return {
        "sets": Table("Recordings and speakers", head, sets),
        "characters": Table("Characters", ["", "name", *counts], letters),
        "overlaps": Table("In two sets", ["A", "B", "what", "number", "examples"], overlaps),
        "lacking": Table("Unknown words", ["LM", "text", "unknown", "of all words"], lacking),
        "words": Table("Most frequent unknown words", ["LM", "text", "word", "times"], words),
        "findings": Table(
            "Findings", ["what", "manifest", "id", "message"], findings[:MOST_ROWS], rest
        ),
    }


def write_check(path: Path, all_facts: Sequence[Facts], unknown: Sequence[Unknown]) -> None:
    """Raises InputError where the page cannot be written."""
    write_page(
        path,
        "check.html",
        title=f"Data: {', '.join(named(all_facts))}",
        made=now(),
        sections=[
            ("sets", "Sets"),
            ("listen", "Listen first"),
            ("findings", "Findings"),
            ("histograms", "Histograms"),
            ("overlap", "Overlap"),
            ("vocabulary", "Words"),
        ],
        odd=[with_sound(one) for one in oddest(all_facts)],
        pictures=list(pictures(all_facts)),
        **tables(all_facts, unknown),
    )
