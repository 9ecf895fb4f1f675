"""The page of `asr check`: what the data is like, and what to listen to first."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from asr.data.check import KINDS, Facts, shared
from asr.lm.ngram import Unknown
from asr.pictures import bars, histogram
from asr.report.page import Number, Rows, Table, count, data_uri, sound_of, write_page

Named: TypeAlias = Mapping[str, Facts]

MEASURES = (  # columns of Facts.measures; the last two tell unlikely utterances
    ("duration", "seconds"),
    ("level", "dB of full scale, root mean square"),
    ("speaking rate", "characters a second"),
)
UNLIKELY = 2.5  # robust standard deviations from the median
LISTEN = 20  # utterances to listen to
MOST_BARS = 30
MOST_ROWS = 1000
FINDING = ("what", "manifest", "id", "message")


def oddest(named: Named) -> Iterator[dict[str, Any]]:
    """Those with findings, then those whose level or speaking rate is far from their set's median:
    in robust standard deviations, 1.4826 × median absolute deviation."""
    found: list[tuple[int, float, str, int, str]] = []
    for name, facts in named.items():
        oddness, reasons = np.zeros(len(facts.manifest)), defaultdict(list)
        problems = Counter[int]()
        listed = facts.manifest if facts.findings else []
        lines = {u.id: line for line, u in enumerate(listed)}
        for kind, id, message in facts.findings:
            if kind != "audio":  # there is nothing to hear
                problems[lines[id]] += 1
                reasons[lines[id]].append(f"{KINDS[kind]}: {message}")
        for values, (what, unit) in zip(facts.measures.T[1:], MEASURES[1:], strict=True):
            known = values[np.isfinite(values)]
            if not known.size:
                continue
            centre = float(np.median(known))
            spread = max(1.4826 * float(np.median(np.abs(known - centre))), 1e-6)
            distances = np.nan_to_num(np.abs(values - centre) / spread)
            for line in np.flatnonzero(distances > UNLIKELY).tolist():
                oddness[line] += distances[line]
                median = f"the median is {centre:.1f} {unit}"
                reasons[line].append(f"{what} {values[line]:.1f}, {median}")
        for line, said in reasons.items():
            found.append((problems[line], oddness[line], name, line, "; ".join(said)))
    found.sort(key=lambda one: one[:2], reverse=True)
    for *_, name, line, why in found[:LISTEN]:
        odd = named[name].manifest[line]
        yield {"manifest": name, "utterance": odd, "reasons": why, "sound": sound_of(odd)}


def pictures(named: Named) -> Iterator[tuple[str, str]]:
    """(name, picture): histograms of what is measured, bars of sample rates and characters."""
    for column, (name, unit) in enumerate(MEASURES):
        values = {key: facts.measures[:, column] for key, facts in named.items()}
        finite = {key: own[np.isfinite(own)] for key, own in values.items()}
        yield f"Histogram: {name}, {unit}", data_uri(histogram(name, finite, unit))
    rates = {key: Counter[str]() for key in named}
    for key, facts in named.items():
        for (rate, _), number in facts.formats.items():
            rates[key][f"{rate} Hz"] += number
    for name, title, counts in (
        ("Sample rates", "sample rates, % of utterances", rates),
        ("Characters", "characters, % of all", characters(named)),
    ):
        names = [name for name, _ in sum(counts.values(), Counter()).most_common(MOST_BARS)]
        shares = {
            key: [100 * own[name] / max(own.total(), 1) for name in names]
            for key, own in counts.items()
        }
        yield name, data_uri(bars(title, shares, names))


def characters(named: Named) -> dict[str, Counter[str]]:
    """Of the texts as written, without spaces, by manifest."""
    found = {key: Counter[str]() for key in named}
    for key, facts in named.items():
        for word, times in facts.words.items():
            found[key].update({character: times * word.count(character) for character in set(word)})
    return found


def tables(named: Named, unknown: Sequence[Unknown]) -> dict[str, Table]:
    sets: Rows = []
    for facts in named.values():
        sets.append([facts.name, count(len(facts.bad)), count(len(facts.manifest))])
        sets[-1] += [Number(facts.seconds, f"{facts.seconds / 3600:.2f}")]
        sets[-1] += [
            count(len(facts.speakers)) if facts.speakers else "unknown",
            facts.audio,
            facts.manifest.hash,
            str(facts.manifest.path),
        ]
    overlaps: Rows = []
    for a, b, what, examples in shared([*named.values()]):
        names = a.name, b.name
        overlaps.append([*names, what, count(len(examples)), "; ".join(examples[:20])])
    lacking: Rows = []
    words: Rows = []
    for one in unknown:
        share = Number(one.share, f"{one.share:.2%}")
        lacking.append([one.lm, one.text, count(one.words.total()), share])
        ranked = one.words.most_common(MOST_ROWS // len(unknown))
        words += [[one.lm, one.text, word, count(times)] for word, times in ranked]
    findings: Rows = []
    for name, facts in named.items():
        findings += [[KINDS[kind], name, id, what] for kind, id, what in facts.findings]
    counts = characters(named)
    letters: Rows = []
    for character, _ in sum(counts.values(), Counter[str]()).most_common(MOST_ROWS):
        letters.append([character, f"U+{ord(character):04X} {unicodedata.name(character, '')}"])
        letters[-1] += [count(own[character]) for own in counts.values()]
    note = f"{MOST_ROWS} of {len(findings):,}." if len(findings) > MOST_ROWS else ""
    head = ["manifest", "problems", "utterances", "hours", "speakers", "audio", "hash", "file"]
    return {
        "sets": Table("Recordings and speakers", head, sets),
        "overlaps": Table("In two sets", ["A", "B", "what", "number", "examples"], overlaps),
        "lacking": Table("Unknown words", ["LM", "text", "unknown", "of all words"], lacking),
        "words": Table("Most frequent unknown words", ["LM", "text", "word", "times"], words),
        "letters": Table("Characters", ["character", "name", *named], letters),
        "findings": Table("Findings", FINDING, findings[:MOST_ROWS], note),
    }


def write_check(path: Path, all_facts: Sequence[Facts], unknown: Sequence[Unknown]) -> None:
    """Raises InputError where the page cannot be written."""
    named = {facts.name: facts for facts in all_facts}
    content = {"odd": list(oddest(named)), "pictures": list(pictures(named))}
    content |= tables(named, unknown)
    write_page(path, "check.html", title=f"Data: {', '.join(named)}", **content)
