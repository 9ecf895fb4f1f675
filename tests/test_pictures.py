"""What can be read off a picture's pixels."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.image import imread

from asr.pictures import spectrogram


def test_silence_is_light_and_a_tone_dark_at_its_frequency() -> None:
    rate = 8000
    second = np.arange(rate) / rate
    tone = 0.1 * np.sin(2 * np.pi * 1000 * second)
    silence = np.zeros(rate)
    samples = np.concatenate([tone, silence]).astype(np.float32)
    light = imread(io.BytesIO(spectrogram(samples, rate)))[:, :, :3].mean(2)  # row 0: the highest
    assert light[:, -50:].min() > 0.9
    darkest = light[:, :50].mean(1).argmin()
    assert abs((1 - darkest / (len(light) - 1)) * rate / 2 - 1000) < 60
    nothing = imread(io.BytesIO(spectrogram(silence.astype(np.float32), rate)))[:, :, :3]
    assert nothing.min() > 0.7
