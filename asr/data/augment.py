"""Augmentation of waveforms and the masks of SpecAugment, drawn from (seed, epoch, utterance id) by
a hash: the same whatever the number of threads, and after a continued run."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
from numpy.typing import NDArray

from asr.console import say
from asr.data.audio import Samples, audio_info, read_audio
from asr.data.manifest import Utterance
from asr.errors import AudioError, InputError

if TYPE_CHECKING:
    from asr.data.loader import DataOptions

Random = np.random.Generator
Fits = Callable[[int], bool]

Masks = tuple[NDArray[np.float32], NDArray[np.float32]]  # over time, over frequency: (M, 2) each
SOUNDS = {".wav", ".flac", ".ogg", ".mp3"}  # what counts in a folder of noises or responses
FAINT = (30.0, 70.0)  # dB by which speech is above the noise in the silence around it
KNOTS = 6  # frequencies at which a channel's response is drawn
DIRECT = (0.0, 15.0)  # dB by which the direct sound in a synthetic room exceeds all of its echoes


@dataclass
class SpecAugment:
    """Masks over time and frequency (Park et al. 2019); the model applies them."""

    # time masks an utterance; 0: none
    time_masks: int = 2
    # longest time mask (seconds)
    time_width: float = 0.4
    # at most this share of an utterance under one time mask (0 to 1)
    time_share: float = 0.1
    # frequency masks an utterance; 0: none
    frequency_masks: int = 2
    # widest frequency mask (share of the channels, 0 to 1)
    frequency_width: float = 0.25

    def __post_init__(self) -> None:
        if min(self.time_masks, self.frequency_masks, self.time_width) < 0:
            raise InputError("data.specaugment: counts and widths must not be negative")
        if not (0 <= self.time_share <= 1 and 0 <= self.frequency_width <= 1):
            what = "data.specaugment: time_share and frequency_width must lie between 0 and 1"
            raise InputError(what)


@dataclass
class Noise:
    """Noise behind the speech: recordings, or synthetic of a random colour."""

    # share of utterances that get noise (0 to 1)
    share: float = 0.0
    # speech over noise, drawn between these two (dB)
    snr: list[float] = field(default_factory=lambda: [5.0, 40.0])
    # folder of recordings, used at random places; null: synthetic, from blue to brown (f to 1/f²)
    folder: str | None = None

    def __post_init__(self) -> None:
        _check("noise", self.share, self.folder)
        if len(self.snr) != 2 or not -20 <= self.snr[0] <= self.snr[1] <= 100:
            raise InputError("data.noise.snr needs the lowest and the highest, from -20 to 100 dB")


@dataclass
class Reverb:
    """Rooms: recorded impulse responses, or synthetic ones (Polack 1988: decaying white noise)."""

    # share of utterances put into a room (0 to 1)
    share: float = 0.0
    # time in which a synthetic room's echo falls by 60 dB, drawn between these two (seconds)
    decay: list[float] = field(default_factory=lambda: [0.1, 0.6])
    # folder of recorded impulse responses; null: synthetic
    folder: str | None = None

    def __post_init__(self) -> None:
        _check("reverb", self.share, self.folder)
        if len(self.decay) != 2 or not 0 < self.decay[0] <= self.decay[1] <= 10:
            raise InputError("data.reverb.decay needs the shortest and the longest, up to 10 s")


@dataclass
class Silence:
    """Silence around the speech. Who trains on closely cut recordings transcribes others."""

    # share of utterances that get it (0 to 1)
    share: float = 0.5
    # before and after the speech, each drawn from 0 to this (seconds): faint noise of any colour
    seconds: float = 0.3

    def __post_init__(self) -> None:
        _check("silence", self.share)
        if not 0 <= self.seconds <= 10:
            raise InputError(f"data.silence.seconds={self.seconds:g} is outside 0 to 10")


def _check(name: str, share: float, folder: str | None = None) -> None:
    if not 0 <= share <= 1:
        raise InputError(f"data.{name}.share={share:g} must lie between 0 and 1")
    where = f"data.{name}.folder={folder}"
    if folder is not None and not share:
        raise InputError(f"is without effect: data.{name}.share is 0", where, "Set it, up to 1.")
    if folder is not None and not sounds(folder):
        raise InputError("holds no usable audio file", where, "Correct the path.")


@functools.lru_cache(maxsize=8)
def sounds(folder: str) -> list[str]:
    """The audio files below a folder, sorted; those that cannot be read are named."""
    found = []
    for path in sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in SOUNDS):
        try:
            audio_info(Utterance("", path, Path()))
            found.append(path)
        except AudioError as error:
            say(f"warning: {error}; it is not used")
    return found


def draw_sound(folder: str, random: Random) -> str:
    return sounds(folder)[random.integers(len(sounds(folder)))]


def generator(seed: int, epoch: int, utterance: str) -> np.random.Generator:
    """The random generator that belongs to this utterance in this epoch."""
    digest = hashlib.blake2b(f"{seed} {epoch} {utterance}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def change_speed(samples: Samples, factor: float) -> Samples:
    """The recording played `factor` times as fast, by resampling: (N,) -> (N / factor,)."""
    return soxr.resample(samples, factor, 1.0, quality="MQ") if factor != 1 else samples


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


def fast_size(count: int) -> int:
    """The power of two from `count` on: FFTs of other sizes take several times as long."""
    return 1 << (count - 1).bit_length()


def filtered(samples: Samples, response: NDArray[np.inexact], size: int) -> Samples:
    """(N,) by the spectrum of a response, `size` // 2 + 1 frequencies: (N,) again."""
    whole = np.fft.irfft(np.fft.rfft(samples, size) * response, size)
    return whole[: len(samples)].astype(np.float32)


def change_channel(samples: Samples, decibels: float, random: Random) -> Samples:
    """(N,) through a filter without delay: gains of up to ±`decibels` at KNOTS frequencies equally
    far apart on the mel scale, linear between them."""
    size = fast_size(len(samples) + len(samples) // 4)  # room for the filter to ring in
    place = np.log1p(np.linspace(0, 1, size // 2 + 1) * 5) / np.log(6)  # mel at 8 kHz, 0 to 1
    gains = random.uniform(-decibels, decibels, KNOTS)
    response = 10 ** (np.interp(place, np.linspace(0, 1, KNOTS), gains) / 20)
    return filtered(samples, response.astype(np.float32), size)


def draw_noise(count: int, rate: int, folder: str | None, random: Random) -> Samples:
    """(count,) of noise at any level: a cut of a recording (repeated if short), or noise whose
    power goes as f^a, a from -2 to 1. Raises AudioError for a broken recording."""
    if folder is None:
        size = fast_size(count)
        shape = np.arange(1, size // 2 + 2, dtype=np.float32) ** (random.uniform(-2, 1) / 2)
        phase = random.standard_normal((2, len(shape)), np.float32)
        return np.fft.irfft((phase[0] + 1j * phase[1]) * shape, size)[:count].astype(np.float32)
    path, needed = draw_sound(folder, random), count / rate
    seconds = audio_info(Utterance("", path, Path())).seconds
    start = random.uniform(0, max(0.0, seconds - needed))
    return np.resize(read_audio(path, rate, start, min(needed, seconds)), count)


def draw_room(rate: int, options: Reverb, random: Random) -> Samples:
    """An impulse response (K,) that begins with the direct sound; a recorded one that is silent is
    no room. Raises AudioError."""
    if options.folder is not None:
        response = read_audio(draw_sound(options.folder, random), rate)
        return response[np.abs(response).argmax() :] if response.any() else np.ones(1, np.float32)
    decay = random.uniform(options.decay[0], options.decay[1])
    time = np.arange(1, max(2, int(decay * rate))) / rate
    echo = random.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    echo *= 10 ** (-random.uniform(*DIRECT) / 20) / np.sqrt(np.square(echo).sum())
    return np.concatenate([[1.0], echo]).astype(np.float32)


def add_noise(samples: Samples, noise: Samples, below: float, loud: float) -> Samples:
    """(N,) and noise (N,), brought to so many dB below the RMS `loud`."""
    return samples + noise * np.float32(loud * 10 ** (-below / 20) / max(rms(noise), 1e-9))


def surround(samples: Samples, rate: int, seconds: float, random: Random) -> Samples:
    """(N,) with up to `seconds` before and after it, and one faint noise in and between them."""
    around = (random.uniform(0, seconds, 2) * rate).astype(int)
    below, loud = random.uniform(*FAINT), rms(samples)
    samples = np.pad(samples - samples.mean(), around)  # an offset would end in a click
    return add_noise(samples, draw_noise(len(samples), rate, None, random), below, loud)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """(N,) convolved with a response (K,): as long and as loud as before."""
    size = fast_size(len(samples) + len(response) - 1)
    echoed = filtered(samples, np.fft.rfft(response, size), size)
    return echoed * np.float32(rms(samples) / max(rms(echoed), 1e-9))


def augment(wave: Samples, rate: int, options: DataOptions, random: Random, fits: Fits) -> Samples:
    """wave (N,) at another speed (pitch and formants change too), amid silence, in a room, with
    noise, through a microphone, louder or softer. Only speeds are drawn at which `fits(number of
    samples)` is still true, so that CTC keeps enough frames for the tokens; if there are none the
    speed stays. Raises AudioError where a recorded noise or response is broken."""
    silence, reverb, noise = options.silence, options.reverb, options.noise
    speeds = [factor for factor in options.speed if fits(int(len(wave) / factor))] or [1.0]
    wave = change_speed(wave, speeds[random.integers(len(speeds))])
    # share 0 draws nothing: what comes after it is then the same as before there was silence
    if silence.share and random.random() < silence.share:
        wave = surround(wave, rate, silence.seconds, random)
    if random.random() < reverb.share:
        wave = reverberate(wave, draw_room(rate, reverb, random))
    if random.random() < noise.share:
        behind = draw_noise(len(wave), rate, noise.folder, random)
        wave = add_noise(wave, behind, random.uniform(noise.snr[0], noise.snr[1]), rms(wave))
    if options.channel:
        wave = change_channel(wave, options.channel, random)
    decibels = random.uniform(-options.gain, options.gain)
    return (wave * np.float32(10 ** (decibels / 20))).astype(np.float32, copy=False)


def draw_masks(seconds: float, options: SpecAugment, random: Random) -> Masks:
    """Time masks (M, 2): start and end in seconds; frequency masks (M, 2): start and end as shares
    of the channels. Widths are uniform from 0 to the widest, then places uniform."""

    def draw(count: int, widest: float, whole: float) -> NDArray[np.float32]:
        width = random.uniform(0, widest, count)
        start = random.uniform(0, 1, count) * (whole - width)
        return np.stack([start, start + width], axis=1).astype(np.float32)

    longest = min(options.time_width, options.time_share * seconds)
    time = draw(options.time_masks, longest, seconds)
    return time, draw(options.frequency_masks, options.frequency_width, 1.0)
