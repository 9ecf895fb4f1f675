"""Augmentation of waveforms and the masks of SpecAugment.

Everything is drawn from (seed, epoch, utterance id) by a hash, never from a generator's running
state: the same whatever the number of worker processes, and after a continued run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from asr.errors import InputError

Samples = NDArray[np.float32]


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
        if min(self.time_masks, self.frequency_masks) < 0 or self.time_width < 0:
            raise InputError("data.specaugment: counts and widths must not be negative")
        if not (0 <= self.time_share <= 1 and 0 <= self.frequency_width <= 1):
            raise InputError(
                "data.specaugment: time_share and frequency_width must lie between 0 and 1"
            )


def generator(seed: int, epoch: int, utterance: str) -> np.random.Generator:
    """The random generator that belongs to this utterance in this epoch."""
    digest = hashlib.blake2b(f"{seed} {epoch} {utterance}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def change_speed(samples: Samples, factor: float) -> Samples:
    """The recording played `factor` times as fast, by resampling: (N,) -> (N / factor,)."""
    if factor == 1:
        return samples
    changed: Samples = soxr.resample(samples, factor, 1.0, quality="MQ")
    return changed


def augment(
    samples: Samples,
    speeds: Sequence[float],
    gain: float,
    random: np.random.Generator,
    fits: Callable[[int], bool],
) -> Samples:
    """Samples (N,) at one of `speeds` (Ko et al. 2015; pitch changes too), louder or softer by up
    to `gain` dB. Only speeds are drawn at which `fits(number of samples)` is still true, so that
    CTC keeps enough frames for the tokens; if there are none the speed stays."""
    speeds = [factor for factor in speeds if fits(int(len(samples) / factor))] or [1.0]
    samples = change_speed(samples, speeds[random.integers(len(speeds))])
    decibels = random.uniform(-gain, gain)
    return (samples * np.float32(10 ** (decibels / 20))).astype(np.float32, copy=False)


def draw_masks(
    seconds: float, options: SpecAugment, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Time masks (M, 2): start and end in seconds; frequency masks (M, 2): start and end as shares
    of the channels. Widths are uniform from 0 to the widest, then places uniform."""

    def draw(count: int, widest: float, whole: float) -> NDArray[np.float32]:
        width = random.uniform(0, widest, count)
        start = random.uniform(0, 1, count) * (whole - width)
        return np.stack([start, start + width], axis=1).astype(np.float32)

    longest = min(options.time_width, options.time_share * seconds)
    time = draw(options.time_masks, longest, seconds)
    return time, draw(options.frequency_masks, options.frequency_width, 1.0)
