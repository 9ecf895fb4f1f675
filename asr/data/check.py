"""What is wrong with the data, before any training: problems of single utterances, and warnings."""

from __future__ import annotations

import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.console import count
from asr.data.audio import TOLERANCE, audio_path, read_native
from asr.data.manifest import Manifest, Utterance, id_hash
from asr.errors import AudioError

SILENT = 1e-3  # peak, full scale 1.0 (-60 dB): nothing can be heard
FULL_SCALE = 0.999
CLIPPED = 1e-3  # share of samples at full scale; speech that is not clipped has almost none
TOGETHER = 256  # utterances handed to the threads at once

KINDS = {  # in the order shown
    "audio": "audio that cannot be used",
    "duration": "duration contradicts the file",
    "silence": "silent",
    "text": "no text",
    "characters": "characters outside the tokenizer",
    "alignment": "too short for CTC to align with the text",
    "clipping": "clipped",
}
WARNINGS = ("clipping",)  # all others are problems


@dataclass(frozen=True)
class Fit:
    """What a tokenizer and a model ask of an utterance."""

    normalize: Callable[[str], str] = str.strip
    unknown: Callable[[str], list[str]] = lambda text: []  # what the tokenizer lacks of a text
    needed: Callable[[str], int] = lambda text: 0  # frames CTC needs for a text
    frames: Callable[[float], int] = lambda seconds: 0  # frames of so many seconds


class Examined(NamedTuple):
    """What was found in one utterance: (kind, message), and its audio in seconds and Hz."""

    findings: list[tuple[str, str]]
    seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    level: float = math.nan  # root mean square, dB of full scale
    longer: str | None = None  # the file goes on after the utterance: what to say of it


Found = Iterator[tuple[Utterance, Examined]]


def examine(u: Utterance, fit: Fit) -> Examined:
    """Read one utterance."""
    text, findings = u.text or "", []
    if not fit.normalize(text):
        findings.append(("text", f"nothing is left of '{text}'" if text else "no text"))
    elif unknown := fit.unknown(text):
        findings.append(("characters", f"{' '.join(unknown)} in: {text}"))
    try:
        samples, rate, file_seconds = read_native(u)
    except AudioError as error:
        return Examined([*findings, ("audio", str(error))])
    seconds, loud = len(samples) / rate, np.abs(samples)
    if (peak := float(loud.max())) < SILENT:
        findings.append(("silence", f"the loudest sample is {peak:.5f} of full scale"))
    if (share := float((loud >= FULL_SCALE).mean())) > CLIPPED:
        findings.append(("clipping", f"{share:.1%} of the samples are at full scale"))
    frames, needed = fit.frames(seconds), fit.needed(text)
    if frames < needed:
        findings.append(("alignment", f"{frames} frames available, {needed} needed: {u.text}"))
    longer = None
    if u.duration is not None and not u.start and u.duration < file_seconds - TOLERANCE:
        longer = f"{u.duration:.2f} s in the manifest, {file_seconds:.2f} s in the file"
    level = 10 * math.log10(float(np.square(samples, dtype=np.float64).mean()) + 1e-10)
    return Examined(findings, seconds, rate, samples.shape[1], level, longer)


def examine_all(manifest: Manifest, fit: Fit, threads: int | None = None) -> Found:
    """In the order of the manifest, on all cores or `threads`."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for begin in range(0, len(manifest), TOGETHER):
            together = manifest[begin : begin + TOGETHER]
            yield from zip(together, pool.map(lambda u: examine(u, fit), together), strict=True)


@dataclass
class Facts:
    """Of one manifest, added up."""

    manifest: Manifest
    name: str  # of the manifest, among those shown with it
    usable: int = 0  # utterances whose audio can be read
    seconds: float = 0.0
    formats: Counter[tuple[int, int]] = field(default_factory=Counter)  # (Hz, channels)
    findings: list[tuple[str, str, str]] = field(default_factory=list)  # (kind, id, message)
    bad: set[str] = field(default_factory=set)  # ids with a problem
    speakers: set[str] = field(default_factory=set)
    texts: dict[int, int] = field(default_factory=dict)  # hash -> first line with this text
    recordings: dict[int, int] = field(default_factory=dict)  # hash of file and start -> line
    words: Counter[str] = field(default_factory=Counter)  # between spaces, as written
    _measures: array[float] = field(default_factory=lambda: array("f"))

    @property
    def measures(self) -> NDArray[np.float32]:
        """(N, 3): seconds, level in dB, characters a second; NaN where it cannot be said."""
        return np.array(self._measures, np.float32).reshape(-1, 3)

    @property
    def audio(self) -> str:
        """ "8000 Hz 2 channels: 1, 16000 Hz: 7"."""
        return ", ".join(
            f"{rate} Hz" + (f" {channels} channels" if channels > 1 else "") + f": {count}"
            for (rate, channels), count in self.formats.most_common()
        )

    @classmethod
    def gather(cls, manifest: Manifest, name: str, examined: Found, fit: Fit) -> Facts:
        facts = cls(manifest, name)
        later: set[int] = set()  # audio files of which a later part is used, by hash
        longer: list[tuple[Utterance, str]] = []
        for line, (u, found) in enumerate(examined):
            facts.findings += [(kind, u.id, message) for kind, message in found.findings]
            if u.start > 0:
                later.add(id_hash(u.audio))
            place = os.path.abspath(audio_path(u.audio, u.folder))
            facts.recordings.setdefault(id_hash(f"{place} {u.start}"), line)
            if found.sample_rate:
                facts.usable += 1
                facts.seconds += found.seconds
                facts.formats[found.sample_rate, found.channels] += 1
            if found.longer:
                longer.append((u, found.longer))
            if u.speaker:
                facts.speakers.add(u.speaker)
            if text := fit.normalize(u.text or ""):
                facts.texts.setdefault(id_hash(text), line)
                facts.words.update((u.text or "").split())
            heard = found.seconds or math.nan
            facts._measures.extend((heard, found.level, len(text) / heard if text else math.nan))
        # no contradiction where others use the rest of the file
        alone = ((u.id, message) for u, message in longer if id_hash(u.audio) not in later)
        facts.findings += [("duration", id, message) for id, message in alone]
        facts.bad = {id for kind, id, _ in facts.findings if kind not in WARNINGS}
        return facts


class Shared(NamedTuple):
    """What two sets have in common: `what` is "recordings", "speakers" or "texts"."""

    a: Facts
    b: Facts
    what: str
    examples: list[str]

    def __str__(self) -> str:
        return f"{self.a.name} and {self.b.name} share {count(len(self.examples), self.what[:-1])}"


def shared(all_facts: Sequence[Facts]) -> Iterator[Shared]:
    """Recordings, speakers and texts in two sets. Files of one split are one set."""
    for a, b in combinations(all_facts, 2):
        if a.manifest.split == b.manifest.split is not None:
            continue
        lines = sorted(a.recordings[key] for key in a.recordings.keys() & b.recordings.keys())
        said = sorted(a.texts[key] for key in a.texts.keys() & b.texts.keys())
        both = {
            "recordings": [a.manifest[line].id for line in lines],
            "speakers": sorted(a.speakers & b.speakers),
            "texts": [a.manifest[line].text or "" for line in said],
        }
        yield from (Shared(a, b, what, found) for what, found in both.items() if found)
