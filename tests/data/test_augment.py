"""Augmentation: what it does to a tone, and that it depends on seed, epoch and id alone."""

from __future__ import annotations

import numpy as np
import pytest

from asr.data.augment import SpecAugment, augment, change_speed, draw_masks, generator
from asr.errors import InputError

RATE = 16000


def pitch(samples: np.ndarray) -> float:
    """The strongest frequency (Hz)."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE / len(samples))


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_length_and_pitch_by_the_factor(factor: float) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    changed = change_speed(tone, factor)
    assert changed.dtype == np.float32
    assert len(changed) == pytest.approx(RATE / factor, abs=2)
    assert pitch(changed) == pytest.approx(1000 * factor, abs=2)


def test_draws_depend_on_seed_epoch_and_id_only() -> None:
    wave = np.random.default_rng(0).normal(size=4000).astype(np.float32)

    def draw(*key: object) -> np.ndarray:
        return augment(wave, [0.9, 1.0, 1.1], 6, generator(*key), lambda n: True)  # type: ignore[arg-type]

    assert (draw(1, 2, "a") == draw(1, 2, "a")).all()
    others = [draw(1, 2, "b"), draw(1, 3, "a"), draw(2, 2, "a")]
    assert all(len(o) != 4000 or not np.allclose(o, wave) for o in others)
    assert len({o.tobytes() for o in [draw(1, 2, "a"), *others]}) == 4


def test_gain_stays_within_its_decibels() -> None:
    wave = np.ones(10, np.float32)
    draws = [augment(wave, [1.0], 6, generator(1, e, "a"), lambda n: True)[0] for e in range(300)]
    decibels = 20 * np.log10(draws)
    assert -6 <= decibels.min() < -5
    assert 5 < decibels.max() <= 6


def test_only_speeds_that_leave_enough_samples_are_drawn() -> None:
    wave = np.zeros(1000, np.float32)
    lengths = {
        len(augment(wave, [0.9, 1.0, 1.1], 0, generator(1, e, "a"), lambda n: n >= 1000))
        for e in range(50)
    }
    assert lengths == {1000, 1111}
    assert len(augment(wave, [1.1], 0, generator(1, 0, "a"), lambda n: n >= 1000)) == 1000


def test_masks_lie_within_the_utterance_and_their_widths() -> None:
    options = SpecAugment(3, 0.4, 0.1, 2, 0.25)
    masks = [draw_masks(2.0, options, generator(1, e, "a")) for e in range(400)]
    time = np.stack([m[0] for m in masks])
    frequency = np.stack([m[1] for m in masks])
    assert time.shape == (400, 3, 2)
    assert frequency.shape == (400, 2, 2)
    for drawn, widest, whole in ((time, 0.2, 2.0), (frequency, 0.25, 1.0)):
        width = drawn[..., 1] - drawn[..., 0]
        assert drawn.min() >= 0
        assert drawn.max() <= whole + 1e-6
        assert 0 <= width.min() < 0.1 * widest
        assert 0.9 * widest < width.max() <= widest + 1e-6
    assert draw_masks(2.0, SpecAugment(0, frequency_masks=0), generator(1, 0, "a"))[0].size == 0


def test_impossible_values_are_the_users_mistake() -> None:
    with pytest.raises(InputError, match="time_share"):
        SpecAugment(time_share=1.5)
    with pytest.raises(InputError, match="negative"):
        SpecAugment(time_masks=-1)
