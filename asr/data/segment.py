"""Long recordings cut into segments at pauses, while they are read: memory constant in the length.

A frame of 10 ms is speech where its level (dB, after pre-emphasis, smoothed) is above

    max(floor + RISE · (top - floor), top - DEPTH)

but at least floor + STEP and at most the loudest - STEP.

`top` is the highest level within NEAR seconds, so that a quiet speaker beside a loud one counts;
`floor` the level that a tenth of the frames of about half a minute is below. A part of a recording
is looked at together with what came before it: alone, the noise behind the last word is the loudest
that there is. Where STEADY seconds or more vary by less than STEP there is no speech at all; of
what is shorter than BRIEF everything is speech, for there is no noise to tell it from.
The longer a segment has become, the shorter a pause ends it; at its longest short pauses it may be
divided further, which `asr.decoding.recording` decides. Where there is no pause for LONGEST
seconds, segments overlap, and their words are joined there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.data.audio import Samples
from asr.errors import AudioError, InputError

Levels = NDArray[np.float32]
Mask = NDArray[np.bool_]
Bounds = tuple[int, int, int, int]
VAD = Callable[[Samples, int], Mask]  # samples, rate -> which frames are speech

FRAME = 0.01  # seconds
RISE, DEPTH, STEP = 0.25, 40.0, 6.0  # of the threshold, see above; the latter two in dB
NEAR = 1.5  # seconds
STEADY, BRIEF = 3.0, 0.5  # seconds
BEFORE = 10.0  # seconds
SILENCE = -75.0  # dB below full scale: never speech
CLICK = 0.08  # seconds; what is shorter is no speech
MARGIN = 0.2  # seconds of a pause that stay with the speech before and after it
FIRST_PAUSE, LAST_PAUSE = 0.4, 0.1  # seconds that end a segment of no length, of LONGEST
DROP = 14.0  # dB below the floor: recordings were joined here, or the gap was made silent
SPLICE = 0.15  # seconds of that end a segment of any length
SHORT_PAUSE = 0.1  # seconds of a pause within a segment that may be the end of a sentence
SHORT_PAUSES = 5  # of a segment at most, the longest
LONGEST = 20.0  # seconds of a segment
OVERLAP = 3.0  # seconds, where no pause was found


class Place(NamedTuple):
    """Where to go on."""

    sample: int = 0
    overlaps: bool = False  # the segment that begins here begins within the one before


class Stretch(NamedTuple):
    """Samples of a segment, from `begin` to `end`."""

    begin: int
    end: int
    halves: tuple[Stretch, ...] = ()  # before and after its longest short pause

    def all(self) -> Iterator[Stretch]:
        """This one and all that it is divided into, each before its own halves."""
        yield self
        for half in self.halves:
            yield from half.all()


class Segment(NamedTuple):
    """A part of a recording."""

    start: int  # first sample, counted from the recording's
    samples: Samples  # (N,)
    overlaps: bool
    after: Place
    stretch: Stretch  # all of it, and how it may be divided


def beginning(place: Place, rate: int) -> int:
    """The first sample that finding segments from `place` on has to see."""
    return max(0, place.sample - round(BEFORE * rate))


def segments(
    blocks: Iterable[Samples],
    rate: int,
    overlap: float = OVERLAP,
    place: Place | None = None,
    vad: VAD | None = None,
) -> Iterator[Segment]:
    """The parts with speech of a recording that comes in blocks (N,) of any lengths. blocks start
    at `beginning(place)`; place: by default the recording's first sample. Without overlap a segment
    that no pause ends is cut where it is quietest. vad: what tells speech; by default levels do.
    AudioError of the blocks is raised behind the last segment."""
    hop = round(FRAME * rate)
    look = round((LONGEST + 2 * NEAR) / FRAME) * hop  # samples that a decision looks at
    held, place = np.empty(0, np.float32), place or Place()
    past = place.sample - beginning(place, rate)  # samples of `held` that are done
    blocks, ended, fault = iter(blocks), False, None
    while not ended:
        try:
            held = np.concatenate([held, next(blocks)])
        except (StopIteration, AudioError) as error:  # what was read before it counts
            ended, fault = True, error
        while len(held) - past > (0 if ended else look):
            seen, rest = held[past % hop : past + look], held[past:]
            level = levels(seen, hop)
            speech = find_speech(level) if vad is None else vad(seen, rate) & (level > SILENCE)
            level, speech = level[past // hop :], speech[past // hop :]
            (begin, first, last, end), cut = first_segment(level, speech, len(rest) <= look)
            if cut and not overlap:
                late = end - round(OVERLAP / FRAME)
                end = late + int(level[late:end].argmin())
            used = min(len(rest), end * hop) - (round(overlap * rate) if cut else 0)
            after = Place(place.sample + used, cut and overlap > 0)
            if end > begin:
                own = float(np.percentile(level[first:last], 10))
                least = min(own, noise_floor(level)) - DROP
                lead, samples = trimmed(rest[begin * hop : end * hop], least, hop)
                pauses = {hop * t - lead: n for t, n in short_pauses(speech[begin:end]).items()}
                stretch = divided(0, len(samples), pauses)
                start = place.sample + begin * hop + lead
                yield Segment(start, samples, place.overlaps, after, stretch)
            held = held[beginning(after, rate) - beginning(place, rate) :]
            place, past = after, after.sample - beginning(after, rate)
    if isinstance(fault, AudioError):
        raise fault


def levels(samples: Samples, hop: int) -> Levels:
    """Level of each frame of `hop` samples in dB below full scale."""
    frames = -(-len(samples) // hop)
    emphasised = np.zeros(frames * hop, np.float32)
    emphasised[1 : len(samples)] = samples[1:] - 0.97 * samples[:-1]
    power = np.square(emphasised.reshape(frames, hop)).mean(1)
    return np.asarray(10 * np.log10(power + 1e-10), np.float32)


def find_speech(level: Levels) -> Mask:
    """Which frames are speech, (T,) of levels (T,)."""
    none = np.zeros(len(level), np.bool_)
    if level.max(initial=SILENCE) <= SILENCE:
        return none
    floor = max(float(np.percentile(level, 10)), SILENCE)
    smooth = 10 * np.log10(np.convolve(10 ** (level / 10), np.full(5, 0.2))[2:-2])
    if len(level) >= STEADY / FRAME and smooth.max() < floor + STEP:
        return none
    reach = round(NEAR / FRAME)
    around = np.pad(smooth, reach, mode="edge")
    top = np.lib.stride_tricks.sliding_window_view(around, 2 * reach + 1).max(1)
    threshold = np.maximum(floor + RISE * (top - floor), top - DEPTH)
    threshold = np.minimum(np.maximum(threshold, floor + STEP), smooth.max() - STEP)
    brief = len(level) < BRIEF / FRAME
    speech: Mask = smooth > np.maximum(SILENCE if brief else threshold, SILENCE)
    for begin, end in runs(speech):
        speech[begin:end] = end - begin >= CLICK / FRAME
    return speech


class SileroVAD:
    """Speech found by a network (github.com/snakers4/silero-vad), in the place of `find_speech`,
    where noise is as loud as speech. Raises InputError where its package is not installed."""

    WINDOWS: ClassVar = {8000: 256, 16000: 512}  # samples that the network judges at once
    PROBABLE = 0.5  # a window is speech above it

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # how it loads its weights is its own business
                import silero_vad

                self.network = silero_vad.load_silero_vad()
        except ImportError as error:
            what = "the package silero-vad is not installed"
            raise InputError(what, "--vad", "Install it: pip install silero-vad.") from error
        torch.set_num_threads(threads)  # importing it sets 1

    def __call__(self, samples: Samples, rate: int) -> Mask:
        """(T,) for the frames of 10 ms of samples (N,)."""
        import soxr
        import torch

        frames = -(-len(samples) // round(FRAME * rate))
        if rate not in self.WINDOWS:
            samples, rate = soxr.resample(samples, rate, 16000), 16000
        size = self.WINDOWS[rate]
        windows = torch.from_numpy(np.pad(samples, (0, -len(samples) % size)).reshape(-1, size))
        self.network.reset_states()
        with torch.inference_mode():
            judged = [float(self.network(window, rate)) > self.PROBABLE for window in windows]
        place = (np.arange(frames) * (FRAME * rate / size)).astype(int)
        speech: Mask = np.array(judged)[np.minimum(place, len(judged) - 1)]
        return speech


def trimmed(samples: Samples, least: float, hop: int) -> tuple[int, Samples]:
    """A segment without edges below `least` dB, and how many samples that takes from its beginning:
    digital silence is nothing that a model was trained on. To the sample, so that what stands amid
    digital silence is the same segment wherever it stands in a recording."""
    loud = np.flatnonzero(levels(samples, hop) > least)
    # 6 dB: pre-emphasis may double a sample, so that what is loud by its level is found here
    begin, end = max(0, int(loud[0]) - 1) * hop, min(len(samples), (int(loud[-1]) + 2) * hop)
    sound = np.flatnonzero(np.abs(samples[begin:end]) > 10 ** ((min(least, SILENCE) - 6) / 20))
    begin, end = begin + int(sound[0]), begin + int(sound[-1]) + 1
    return begin, samples[begin:end]


def noise_floor(level: Levels) -> float:
    """The level of the recording's own noise (not of stretches of digital silence), dB."""
    return float(np.percentile(level[level > SILENCE], 10))


def runs(mask: Mask) -> NDArray[np.int64]:
    """Where `mask` (T,) is true: first frame and last + 1 of each run, (R, 2)."""
    return np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)


def short_pauses(speech: Mask) -> dict[int, int]:
    """The longest pauses within speech (T,): the middle of each, and its length."""
    edges = pairwise(runs(speech).tolist())
    pauses = sorted((resumed - pause, (pause + resumed) // 2) for (_, pause), (resumed, _) in edges)
    longest = pauses[-SHORT_PAUSES:]
    return {middle: length for length, middle in longest if length >= SHORT_PAUSE / FRAME}


def divided(begin: int, end: int, pauses: Mapping[int, int]) -> Stretch:
    """The stretch from `begin` to `end`, divided at pauses (place: length), longest first."""
    inner = {place: length for place, length in pauses.items() if begin < place < end}
    if not inner:
        return Stretch(begin, end)
    middle = max(inner, key=lambda place: inner[place])
    return Stretch(begin, end, (divided(begin, middle, inner), divided(middle, end, inner)))


def first_segment(level: Levels, speech: Mask, ended: bool) -> tuple[Bounds, bool]:
    """Frames where the first segment begins, its speech begins and ends, it ends; and whether no
    pause ends it. The search goes on at its end; without speech all four are the same."""
    total, margin, longest = len(level), round(MARGIN / FRAME), round(LONGEST / FRAME)
    found = runs(speech).tolist()
    if not found:
        return (total if ended else total - margin,) * 4, False
    first = found[0][0]
    begin, dropped = max(0, first - margin), level < noise_floor(level) - DROP
    for (_, pause), (resumed, _) in pairwise(found):
        grown = (pause - begin) / longest
        if grown > 1:
            break
        needed = FIRST_PAUSE + (LAST_PAUSE - FIRST_PAUSE) * grown
        if (resumed - pause) * FRAME >= needed or dropped[pause:resumed].sum() * FRAME > SPLICE:
            return (begin, first, pause, min(pause + margin, (pause + resumed) // 2)), False
    pause = found[-1][1]
    if pause - begin <= longest and (ended or total - pause >= 2 * margin):
        return (begin, first, pause, min(total, pause + margin)), False
    return (begin, first, begin + longest, begin + longest), True
