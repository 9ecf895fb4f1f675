"""Augmentation: what it does to a tone, and that it depends on seed, epoch and id alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.data.augment import (
    Noise,
    Reverb,
    Silence,
    SpecAugment,
    augment,
    change_channel,
    change_speed,
    draw_masks,
    draw_noise,
    draw_room,
    generator,
    reverberate,
    rms,
)
from asr.data.loader import DataOptions
from asr.errors import AudioError, InputError

RATE = 16000
SILENT = Silence(0)  # none
PLAIN: dict[str, Any] = {"speed": [1.0], "gain": 0.0, "silence": SILENT}


def options(**changed: Any) -> DataOptions:
    return DataOptions(["train"], ["dev"], **PLAIN | changed)


def tone(frequency: float, count: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(count) / RATE).astype(np.float32)


def pitch(samples: np.ndarray) -> float:
    """The strongest frequency (Hz)."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE / len(samples))


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_length_and_pitch_by_the_factor(factor: float) -> None:
    changed = change_speed(tone(1000), factor)
    assert changed.dtype == np.float32
    assert len(changed) == pytest.approx(RATE / factor, abs=2)
    assert pitch(changed) == pytest.approx(1000 * factor, abs=2)


def test_draws_depend_on_seed_epoch_and_id_only() -> None:
    wave = np.random.default_rng(0).normal(size=4000).astype(np.float32)

    given = options(
        speed=[0.9, 1.0, 1.1],
        channel=6,
        noise=Noise(0.5),
        reverb=Reverb(0.5),
        silence=Silence(0.5),
    )

    def draw(*key: object) -> np.ndarray:
        return augment(wave, RATE, given, generator(*key), lambda n: True)  # type: ignore[arg-type]

    assert (draw(1, 2, "a") == draw(1, 2, "a")).all()
    others = [draw(1, 2, "b"), draw(1, 3, "a"), draw(2, 2, "a")]
    assert all(len(o) != 4000 or not np.allclose(o, wave) for o in others)
    assert len({o.tobytes() for o in [draw(1, 2, "a"), *others]}) == 4


def test_gain_stays_within_its_decibels() -> None:
    wave = np.ones(10, np.float32)
    draws = [
        augment(wave, RATE, options(gain=6), generator(1, e, "a"), lambda n: True)[0]
        for e in range(300)
    ]
    decibels = 20 * np.log10(draws)
    assert -6 <= decibels.min() < -5
    assert 5 < decibels.max() <= 6


def test_only_speeds_that_leave_enough_samples_are_drawn() -> None:
    wave = np.zeros(1000, np.float32)

    def lengths(speeds: list[float]) -> set[int]:
        given = options(speed=speeds)
        draws = (generator(1, epoch, "a") for epoch in range(50))
        return {len(augment(wave, RATE, given, r, lambda n: n >= 1000)) for r in draws}

    assert lengths([0.9, 1.0, 1.1]) == {1000, 1111}
    assert lengths([1.1]) == {1000}


@pytest.mark.parametrize("recorded", [False, True])
def test_noise_stands_at_the_drawn_ratio_in_its_share_of_utterances(
    tmp_path: Path, recorded: bool
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, RATE // 4).astype(np.float32)
    soundfile.write(tmp_path / "short.wav", noise, RATE, subtype="FLOAT")  # repeated
    given = options(noise=Noise(0.5, [10, 20], str(tmp_path) if recorded else None))
    wave = tone(1000)
    ratios = []
    for epoch in range(200):
        made = augment(wave, RATE, given, generator(1, epoch, "a"), lambda n: True)
        if (made != wave).any():
            ratios.append(20 * np.log10(rms(wave) / rms(made - wave)))
            if recorded:
                part = (made - wave)[: len(noise)] / rms(made - wave) * rms(noise)
                np.testing.assert_allclose(part, noise, atol=1e-4)
    assert 70 < len(ratios) < 130
    assert 10 - 0.01 <= min(ratios) < 11 < 19 < max(ratios) <= 20 + 0.01


def test_silence_of_faint_noise_surrounds_its_share_of_utterances() -> None:
    wave = tone(1000, RATE // 4)
    given = options(silence=Silence(0.5, 0.3))
    around, below = [], []
    for epoch in range(300):
        made = augment(wave, RATE, given, generator(1, epoch, "a"), lambda n: True)
        if len(made) == len(wave):
            np.testing.assert_array_equal(made, wave)
            continue
        loud = np.flatnonzero(np.abs(made) > 0.5)  # of 16 samples a period the third is the first
        before = int(loud[0]) - int(np.flatnonzero(np.abs(wave) > 0.5)[0])
        after = len(made) - before - len(wave)
        around += [before / RATE, after / RATE]
        noise = made.copy()
        noise[before : before + len(wave)] -= wave
        below.append(20 * np.log10(rms(wave) / rms(noise)))
        parts = [rms(p) for p in np.split(noise, [before, before + len(wave)]) if len(p) > 800]
        assert max(parts) < 10 * min(parts)  # behind the speech as beside it
    assert 120 < len(below) < 180
    assert 0 <= min(around) < 0.01
    assert 0.29 < max(around) <= 0.3
    assert 30 - 0.01 <= min(below) < 32
    assert 68 < max(below) <= 70 + 0.01


def test_recorded_noise_comes_from_random_places(tmp_path: Path) -> None:
    ramp = np.linspace(-1, 1, 4 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", ramp, RATE, subtype="FLOAT")
    draws = [draw_noise(RATE, RATE, str(tmp_path), generator(1, e, "a")) for e in range(50)]
    assert {len(d) for d in draws} == {RATE}
    starts = [float(d[0]) for d in draws]
    assert -1 <= min(starts) < -0.8
    assert 0.3 < max(starts) <= 0.5
    (tmp_path / "a.wav").write_text("not audio")
    with pytest.raises(AudioError):
        draw_noise(RATE, RATE, str(tmp_path), generator(1, 0, "a"))


def test_synthetic_noise_is_of_colours_between_blue_and_brown() -> None:
    slopes = []
    for epoch in range(100):
        power = np.abs(np.fft.rfft(draw_noise(1 << 14, RATE, None, generator(1, epoch, "a")))) ** 2
        bands = [np.log2(power[1 << k : 2 << k].mean()) for k in range(4, 13)]
        slopes.append(np.polyfit(range(4, 13), bands, 1)[0])
    assert -2.3 < min(slopes) < -1.7
    assert 0.7 < max(slopes) < 1.3


def test_a_rooms_echo_falls_by_60_decibels_in_its_time() -> None:
    for epoch in range(20):
        room = draw_room(RATE, Reverb(1.0, [0.3, 0.3]), generator(1, epoch, "a"))
        assert room[0] == 1
        assert 0 < -10 * np.log10(np.square(room[1:]).sum()) < 15
        parts = np.square(room[1:4001]).reshape(5, -1).mean(1)  # of 50 ms
        assert np.polyfit(range(5), 10 * np.log10(parts), 1)[0] == pytest.approx(-10, abs=1)


def test_reverberation_is_a_convolution_that_keeps_level_and_length(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    soundfile.write(tmp_path / "room.wav", np.array([0.1, 0.8, 0, 0.4]), RATE, subtype="FLOAT")
    response = draw_room(RATE, Reverb(1.0, folder=str(tmp_path)), generator(1, 0, "a"))
    np.testing.assert_allclose(response, [0.8, 0, 0.4], atol=1e-6)  # from the direct sound on
    echoed = np.convolve(wave, response)[:2000]
    made = reverberate(wave, response)
    np.testing.assert_allclose(made, echoed * rms(wave) / rms(echoed), atol=1e-5)
    given = options(reverb=Reverb(1.0, folder=str(tmp_path)))
    np.testing.assert_array_equal(
        augment(wave, RATE, given, generator(1, 0, "a"), lambda n: True), made
    )


def test_a_channel_is_a_filter_within_its_decibels() -> None:
    impulse = np.zeros(4096, np.float32)
    impulse[2048] = 1
    waves = [change_channel(impulse, 8, generator(1, e, "a")) for e in range(100)]
    gains = 20 * np.log10(np.abs(np.fft.rfft(waves)))
    assert -8.5 < gains.min() < -7
    assert 7 < gains.max() < 8.5
    assert gains.std(0).min() > 2  # at every frequency
    assert np.abs(np.diff(gains, axis=1)).max() < 1  # smooth
    assert {int(np.argmax(np.abs(w))) for w in waves} == {2048}  # no delay


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
    with pytest.raises(InputError, match="share=2"):
        Noise(2)
    with pytest.raises(InputError, match=r"silence\.share=-1"):
        Silence(-1)
    with pytest.raises(InputError, match=r"silence\.seconds=11"):
        Silence(1, 11)
    with pytest.raises(InputError, match="lowest and the highest"):
        Noise(snr=[20, 10])
    with pytest.raises(InputError, match="shortest and the longest"):
        Reverb(decay=[0.0, 1.0])
    with pytest.raises(InputError, match=r"reverb\.folder=nowhere: holds no usable audio file"):
        Reverb(0.5, folder="nowhere")
    with pytest.raises(InputError, match=r"noise\.folder=nowhere: is without effect: data\.noise"):
        Noise(folder="nowhere")


def test_broken_sounds_in_a_folder_are_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), RATE)
    (tmp_path / "broken.wav").write_text("no audio")
    given = Reverb(1.0, folder=str(tmp_path))
    assert capsys.readouterr().err.count("broken.wav: ") == 1
    for name in "abcdef":
        assert draw_room(RATE, given, generator(1, 0, name)).tolist() == [1.0]
    (tmp_path / "only").mkdir()
    (tmp_path / "broken.wav").rename(tmp_path / "only" / "broken.wav")
    with pytest.raises(InputError, match="holds no usable audio file"):
        Noise(0.5, folder=str(tmp_path / "only"))
    with pytest.raises(InputError, match="channel"):
        options(channel=-1)
