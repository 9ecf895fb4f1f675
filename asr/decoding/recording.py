"""Recordings of any length: segments, decoded in batches across recordings, and stitched.

Two segments overlap where no pause was found between them. Their words are joined in the middle of
the widest gap that the words of both leave: there CTC says blank on either side, and no word is
lost or doubled. A `Journal` keeps on disk what is decoded: a run that was stopped continues.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asr.data.segment import OVERLAP, VAD, Place, Segment, Stretch, beginning, segments
from asr.errors import AudioError
from asr.files import cannot_write
from asr.hypothesis import Hypothesis, Word, hypothesis_from, join_words

Samples = NDArray[np.float32]
Decode: TypeAlias = Callable[[Sequence[Samples]], list[list[Hypothesis]]]
Network: TypeAlias = Callable[[Sequence[Samples]], Sequence[Samples]]

WINDOW_SECONDS = 240.0  # of segments decoded together, sorted by length
WINDOW_SIZE = 1000  # segments and ends of recordings at most
EDGE = 0.5  # seconds at both ends of an overlap where a word may be cut into
NO_SPEECH = -20.0  # log-probability of every token in a pause


class Recording(NamedTuple):
    """Something to transcribe."""

    read: Callable[[int], Iterable[Samples]]  # blocks (N,) from a sample on; raises AudioError
    place: Place = Place()  # where to begin


@dataclass(slots=True)
class Part:
    """A decoded segment; times in seconds from the beginning of the recording."""

    start: float
    end: float
    overlaps: bool  # begins before the end of the part before it
    after: Place  # where the next segment is to be looked for
    hypothesis: Hypothesis  # its word times too


def part_from(record: dict[str, Any]) -> Part:
    """A Part from its JSON record."""
    hypothesis = hypothesis_from(record["hypothesis"])
    return Part(**{**record, "after": Place(*record["after"]), "hypothesis": hypothesis})


class Event(NamedTuple):
    """A part of the recording with this number; without one the recording has ended."""

    number: int
    part: Part | None = None
    error: AudioError | None = None  # why it has ended early


@dataclass(slots=True)
class Transcript:
    """The parts of a recording so far."""

    parts: list[Part] = field(default_factory=list)

    @property
    def place(self) -> Place:
        return self.parts[-1].after if self.parts else Place()

    def hypothesis(self) -> Hypothesis:
        """All parts as one: words, tokens and the sums of the scores."""
        words, end = list[Word](), 0.0
        for part in self.parts:
            found = part.hypothesis.words
            if part.overlaps:
                cut = joint(words, found, part.start, end)
                while words and words[-1].start + words[-1].end >= 2 * cut:
                    words.pop()
                found = [word for word in found if word.start + word.end >= 2 * cut]
            words += found
            end = part.end
        return together([part.hypothesis for part in self.parts], words)


def together(hypotheses: Sequence[Hypothesis], words: list[Word]) -> Hypothesis:
    """Hypotheses that follow each other as one with these words; their scores are added."""
    tokens = [token for hypothesis in hypotheses for token in hypothesis.tokens]
    scores = reduce(add, (hypothesis.scores for hypothesis in hypotheses), dict[str, Any]())
    return Hypothesis(join_words([word.word for word in words]), tokens, scores, words)


def add(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """The sums of scores, those of each language model too."""
    sums = {
        name: add(one[name], two[name]) if isinstance(one[name], dict) else one[name] + two[name]
        for name in one.keys() & two.keys()
    }
    return {**one, **two, **sums}


def joint(left: Sequence[Word], right: Sequence[Word], start: float, end: float) -> float:
    """The middle of the widest gap in the words of both sides within the overlap [start, end], away
    from its ends; where there is none, the middle of the overlap."""
    words = sorted((word.start, word.end) for word in (*left[-100:], *right[:100]))
    start, end = min(start + EDGE, end), max(end - EDGE, start)
    best, reached = (0.0, (start + end) / 2), start
    for word_start, word_end in [*words, (end, end)]:
        limit = min(word_start, end)
        best = max(best, (limit - reached, (limit + reached) / 2))
        reached = max(reached, word_end)
    return best[1]


def decode_recordings(
    recordings: Iterable[Recording],
    decode: Decode,
    rate: int,
    overlap: float = OVERLAP,
    vad: VAD | None = None,
) -> Iterator[Event]:
    """The parts of all recordings in order, each recording followed by an Event of its end.

    decode: n-best lists of waveforms, empty where outputs are not numbers, which fails the
    recording; words without times get a share of their segment's. vad: see `segments`.
    """
    window: list[tuple[Event, Segment | None]] = []
    failed: set[int] = set()  # recordings with a segment that cannot be decoded

    def decoded() -> Iterator[Event]:
        parts = [segment for _, segment in window if segment is not None]
        found = iter(decode([p.samples[s.begin : s.end] for p in parts for s in p.stretch.all()]))
        for event, segment in window:
            if segment is None:
                wrong = AudioError("the network's outputs are not numbers", None, "Leave it out.")
                error = event.error or (wrong if event.number in failed else None)
                yield event._replace(error=error)
                continue
            hypothesis = best_reading(segment.stretch, segment.start, found, rate)
            if hypothesis is None:
                failed.add(event.number)
            elif event.number not in failed:
                start, end = ((segment.start + n) / rate for n in (0, len(segment.samples)))
                part = Part(start, end, segment.overlaps, segment.after, hypothesis)
                yield event._replace(part=part)
        window.clear()

    size = 0.0
    for number, (read, place) in enumerate(recordings):
        end = Event(number)
        try:
            for segment in segments(read(beginning(place, rate)), rate, overlap, place, vad):
                window.append((Event(number), segment))
                size += len(segment.samples) / rate
                if size > WINDOW_SECONDS or len(window) >= WINDOW_SIZE:
                    yield from decoded()
                    size = 0.0
        except AudioError as error:
            end = Event(number, error=error)
        window.append((end, None))
    yield from decoded()


def best_reading(
    stretch: Stretch, offset: int, found: Iterator[list[Hypothesis]], rate: int
) -> Hypothesis | None:
    """The text with the highest total, of the whole stretch or of its halves read by themselves: so
    a language model ends a sentence only at those short pauses where sentences end. found: n-best
    lists of `stretch.all()`, empty where outputs are not numbers; offset: the segment's sample."""
    start, end = ((offset + n) / rate for n in (stretch.begin, stretch.end))
    nbest = next(found)
    halves = [best_reading(half, offset, found, rate) for half in stretch.halves]
    if not nbest:
        return None
    whole, known = nbest[0], [half for half in halves if half is not None]
    for word in whole.words:
        word.start, word.end = round(start + word.start, 4), round(start + word.end, 4)
    if not whole.words:  # each gets its share
        said = whole.text.split()
        edges = [round(edge, 4) for edge in np.linspace(start, end, len(said) + 1).tolist()]
        whole.words = [Word(*one) for one in zip(said, edges[:-1], edges[1:], strict=True)]
    if len(known) < 2 or sum(half.total for half in known) <= whole.total:
        return whole
    return together(known, [word for half in known for word in half.words])


def stitched_outputs(
    samples: Samples, rate: int, hop: int, log_probs: Network, vad: VAD | None = None
) -> Samples:
    """CTC outputs (T, V) of a recording (N,): `log_probs` of its segments, each at its place, and
    between them blank, whose log-probability is 0. hop: samples between outputs. What no pause
    divides is given to the network whole, as `decode` does."""
    parts = [(part, part.start // hop) for part in segments([samples], rate, vad=vad)]
    if len(parts) < 2:
        return log_probs([samples])[0]
    found = log_probs([samples[hop * b : p.start + len(p.samples)] for p, b in parts])
    frames = max(b + len(outputs) for (_, b), outputs in zip(parts, found, strict=True))
    whole = np.full((max(frames, len(samples) // hop), found[0].shape[1]), NO_SPEECH, np.float32)
    whole[:, 0] = 0.0
    for (part, begin), outputs in zip(parts, found, strict=True):
        known = round(OVERLAP / 2 * rate / hop) if part.overlaps else 0
        whole[begin + known : begin + len(outputs)] = outputs[known:]
    return whole


class Journal:
    """JSON lines, a part or the end of a file each, in a folder (None: in memory only).

    command: all that the results depend on but the files' contents (JSON, or str). A block without
    exception removes what it holds of `files` at its end. Of a source that has changed nothing is
    taken.
    """

    def __init__(self, folder: Path | None, command: object, files: Iterable[Path]) -> None:
        self.files = {*map(str, files)}
        self._parts: defaultdict[str, Transcript] = defaultdict(Transcript)
        self._done: set[str] = set()
        content = json.dumps(command, sort_keys=True, default=str)
        name = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        self.path = folder and folder / f".transcribe-{name}.jsonl"
        if not self.path or not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            whole = 0
            for line in file:
                try:
                    record = json.loads(line)
                    name, state, part = (record[key] for key in ("file", "state", "part"))
                    if state == _state(Path(name)):
                        self._take(name, part and part_from(part))
                except (ValueError, KeyError, TypeError, AttributeError):
                    break  # stopped while this was written
                whole += len(line)
            file.truncate(whole)

    def _take(self, name: str, part: Part | None) -> None:
        if part is not None:
            self._parts[name].parts.append(part)
        else:
            self._parts.pop(name, None)
            self._done.add(name)

    def __getitem__(self, file: Path) -> Transcript:
        """The parts of a file that is not done."""
        return self._parts.get(str(file), Transcript())

    def is_done(self, file: Path) -> bool:
        return str(file) in self._done

    def add(self, file: Path, part: Part | None) -> None:
        """A decoded part; None: the file is done, its results written."""
        self._take(str(file), part)
        state = _state(file)
        if self.path is None or not state:  # standard input is another one each time
            return
        record = {"file": str(file), "state": state, "part": part and asdict(part)}
        try:
            with open(self.path, "ab") as lines:
                lines.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.path and self.path.exists() and error is None:
            lines = self.path.read_bytes().splitlines(keepends=True)
            others = [one for one in lines if json.loads(one)["file"] not in self.files]
            self.path.write_bytes(b"".join(others))
            if not others:
                self.path.unlink()


def _state(file: Path) -> list[int]:
    try:
        status = file.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
