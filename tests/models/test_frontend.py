"""Front-ends against librosa; gain, masks, short and silent utterances."""

from __future__ import annotations

import math
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from asr.errors import InputError
from asr.models.frontend import FLOOR, Frontend, FrontendOptions, SincFilterbank, covered

RATE, WINDOW, SHIFT = 16000, 400, 160


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """Two seconds with the structure of speech: gliding harmonics, noise, pauses (1, N)."""
    time = torch.arange(2 * RATE, dtype=torch.float64) / RATE
    generator = torch.Generator().manual_seed(0)
    phase = 2 * math.pi * (120 * time + 15 * (3 * time).sin())
    voiced = sum((harmonic * phase).sin() / harmonic for harmonic in range(1, 40))
    noise = torch.randn(len(time), generator=generator, dtype=torch.float64)
    syllables = (2 * math.pi * 4 * time).sin().clamp(min=0) * voiced
    hiss = (2 * math.pi * 4 * time + 2).sin().clamp(min=0) * noise.diff(prepend=noise[:1])
    return (0.1 * syllables + 0.02 * hiss + 1e-4 * noise).float()[None]


def reference(samples: np.ndarray, channels: int, window: int, bins: int) -> np.ndarray:
    """log mel energies (T, F) by librosa, of levelled samples, the window at each frame's start."""
    samples = np.append(samples[0] * 0.03, samples[1:] - 0.97 * samples[:-1]).astype(np.float64)
    samples = samples - samples.mean()
    samples = samples / np.sqrt(np.mean(samples**2))
    padded = np.pad(samples, ((bins - window) // 2, bins - window - (bins - window) // 2))
    power = librosa.feature.melspectrogram(
        y=padded, sr=RATE, n_fft=bins, win_length=window, hop_length=SHIFT, window="hann",
        center=False, power=2.0, n_mels=channels, fmin=20.0, htk=True, norm=None,
    )  # fmt: skip
    window_power = np.sum(librosa.filters.get_window("hann", window) ** 2)
    return np.log(power.T / window_power + FLOOR)


def normalise(log: np.ndarray) -> np.ndarray:
    return (log - log.mean(0)) / np.sqrt(log.var(0) + 1e-2)


def test_logmel_is_librosas(speech: Tensor) -> None:
    frontend = Frontend(FrontendOptions("logmel", channels=40), RATE)
    features, lengths = frontend(speech, torch.tensor([speech.shape[1]]))
    expected = normalise(reference(speech[0].numpy(), 40, WINDOW, 512))
    assert features[0].shape == expected.shape == (int(lengths), 40)
    np.testing.assert_allclose(features[0].numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("channels", [40, 64, 80])
@pytest.mark.parametrize("kind", ["conv", "sinc"])
def test_learned_ones_begin_as_a_mel_filterbank(speech: Tensor, channels: int, kind: str) -> None:
    frontend = Frontend(FrontendOptions(kind, channels=channels), RATE)
    with torch.no_grad():
        features, _ = frontend(speech, torch.tensor([speech.shape[1]]))
    # 2048 bins: the reference's lowest channels are narrower than a bin of 512
    expected = normalise(reference(speech[0].numpy(), channels, WINDOW, 2048))
    correlation = (
        (features[0].numpy() * expected).mean(0) / expected.std(0) / features[0].numpy().std(0)
    )
    assert correlation.mean() > 0.95
    assert correlation.min() > 0.8


@pytest.mark.parametrize("kind", ["conv", "sinc"])
def test_learned_ones_on_real_speech(asr_data: Path, kind: str) -> None:
    path = sorted(asr_data.glob("arctic-kathleen/*/*.flac"))[0]
    samples, _ = soundfile.read(path, dtype="float32")  # 16 kHz
    frontend = Frontend(FrontendOptions(kind), RATE)
    with torch.no_grad():
        features, _ = frontend(torch.tensor(samples)[None], torch.tensor([len(samples)]))
    expected = normalise(reference(samples, 80, WINDOW, 2048))
    correlation = (features[0].numpy() * expected).mean(0)
    assert correlation.mean() > 0.97
    assert correlation.min() > 0.9


@pytest.mark.parametrize("kind", ["conv", "sinc"])
def test_filters_are_learned(speech: Tensor, kind: str) -> None:
    frontend = Frontend(FrontendOptions(kind), RATE)
    features, _ = frontend(speech, torch.tensor([speech.shape[1]]))
    features.pow(3).sum().backward()
    for filters in frontend.parameters():
        assert filters.grad is not None
        assert (filters.grad.abs().sum(dim=0) > 0).all()


def test_sinc_passes_its_band_and_nothing_else() -> None:
    """Edges wherever they were moved to; energy of sines in, near and far from the band."""
    bank = SincFilterbank(8, RATE, WINDOW, SHIFT)
    with torch.no_grad():
        bank.low[:3] = torch.tensor([-1.0, 7.9, 2.0])  # kHz
        bank.width[:3] = torch.tensor([0.5, 3.0, -1.0])
        low, high = (1000 * edge for edge in bank.edges())
        assert low[:3].tolist() == pytest.approx([1000, 7900, 2000])
        assert high[:3].tolist() == pytest.approx([1500, 8000, 3000])
        frequencies = torch.arange(100, 8000, 50)
        time = torch.arange(RATE // 4) / RATE
        sines = (2 * math.pi * frequencies[:, None] * time).sin()
        energy = bank(sines).mean(1)  # (sines, channels)
        for channel in (0, 2):
            band = energy[:, channel] / energy[:, channel].max()
            inside_ = (frequencies > low[channel] + 60) & (frequencies < high[channel] - 60)
            outside = (frequencies < low[channel] - 150) | (frequencies > high[channel] + 150)
            assert band[inside_].min() > 0.3
            assert band[outside].max() < 0.02


@pytest.mark.parametrize("kind", ["conv", "sinc", "logmel"])
def test_gain_and_offset_do_not_matter(speech: Tensor, kind: str) -> None:
    frontend = Frontend(FrontendOptions(kind), RATE).double()
    lengths = torch.tensor([speech.shape[1]])
    with torch.no_grad():
        loud, _ = frontend(speech.double(), lengths)
        quiet, _ = frontend(speech.double() * 0.01 + 0.001, lengths)
    torch.testing.assert_close(quiet, loud, atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["conv", "sinc", "logmel"])
def test_features_have_mean_0_and_variance_1(speech: Tensor, kind: str) -> None:
    frontend = Frontend(FrontendOptions(kind), RATE)
    length = 20000
    with torch.no_grad():
        features, lengths = frontend(speech, torch.tensor([length]))
    own = features[0, : int(lengths)]
    assert int(lengths) == 1 + (length - WINDOW) // SHIFT
    assert features[0, int(lengths) :].abs().max() == 0
    torch.testing.assert_close(own.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(own.var(0, correction=0), torch.ones(80), atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", ["conv", "sinc", "logmel"])
def test_silence_and_no_samples_are_zeros(kind: str) -> None:
    frontend = Frontend(FrontendOptions(kind), RATE)
    with torch.no_grad():
        features, lengths = frontend(torch.zeros(2, 3000), torch.tensor([3000, 0]))
        assert lengths.tolist() == [17, 1]
        assert features.abs().max() < 1e-4
        features, lengths = frontend(torch.randn(1, 7), torch.tensor([7]))
    assert lengths.tolist() == [1]
    assert features.shape == (1, 1, 80)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("kind", ["conv", "sinc", "logmel"])
def test_output_lengths_of_ints_and_tensors(kind: str) -> None:
    frontend = Frontend(FrontendOptions(kind), RATE)
    for samples in [0, 1, 399, 400, 401, 559, 560, 561, 16000]:
        frames = frontend.output_lengths(samples)
        assert frames == int(frontend.output_lengths(torch.tensor(samples)))
        with torch.no_grad():
            assert frontend(torch.ones(1, samples), torch.tensor([samples]))[0].shape[1] == frames


def test_masks(speech: Tensor) -> None:
    frontend = Frontend(FrontendOptions("conv", channels=40), RATE)
    both, lengths = speech.repeat(2, 1), torch.tensor([speech.shape[1]] * 2)
    nan = math.nan
    time_masks = torch.tensor([[[0.5, 0.7], [nan, nan]], [[1.0, 1.0], [0.9, 0.8]]])
    frequency_masks = torch.tensor([[[0.25, 0.5]], [[nan, nan]]])
    with torch.no_grad():
        plain, _ = frontend(both, lengths)
        masked, _ = frontend(both, lengths, time_masks, frequency_masks)
    centres = torch.arange(plain.shape[1]) * 0.01 + 0.0125
    expected = plain.clone()
    expected[0, (centres >= 0.5) & (centres < 0.7)] = 0
    expected[0, :, 10:20] = 0
    assert (expected[0] == 0).any()
    torch.testing.assert_close(masked, expected, atol=0, rtol=0)


def test_covered_half_open() -> None:
    points = torch.tensor([0.0, 0.5, 1.0])
    assert covered(points, torch.tensor([[[0.0, 1.0]]])).tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    ("options", "where", "says"),
    [
        (FrontendOptions(type="logmell"), "model.frontend.type", "Did you mean 'logmel'?"),
        (FrontendOptions(channels=3), "model.frontend.channels", "between 8 and 256"),
        (FrontendOptions(shift=0.03), "model.frontend.shift", "between 0.001 and 0.025"),
        (FrontendOptions(window=math.nan), "model.frontend.window", "nan is impossible"),
        (FrontendOptions("logmel", channels=256), "model.frontend.channels", "too many"),
    ],
)
def test_impossible_options(options: FrontendOptions, where: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Frontend(options, RATE)
    assert caught.value.where == where
    assert says in str(caught.value)


def test_prior_counts_as_seconds_of_the_learned_statistics(speech: Tensor) -> None:
    """Nothing of it: instance norm; much of it: the learned mean and variance alone; padding and
    loudness never matter."""
    torch.manual_seed(1)
    plain = Frontend(FrontendOptions("conv", 20), RATE).double()
    short = Frontend(FrontendOptions("conv", 20, prior=0.5), RATE).double()
    short.load_state_dict(plain.state_dict(), strict=False)
    samples, lengths = speech[:, :8000].double(), torch.tensor([8000])
    expected, _ = plain(samples, lengths)
    for prior, wanted in ((1e-9, expected), (0.5, None), (1e9, None)):
        short.prior = prior / 0.01
        found, frames = short(samples, lengths)
        if wanted is not None:
            assert torch.allclose(found, wanted, atol=1e-6)
        padded, _ = short(torch.cat([samples, torch.ones(1, 5000)], 1), lengths)
        assert torch.allclose(padded[:, : int(frames)], found, atol=1e-9)
        assert torch.allclose(short(samples * 0.1, lengths)[0], found, atol=1e-6)
    log = (short.energies(short.level(samples, lengths)) + FLOOR).log()
    wanted = (log - short.mean) / (short.log_variance.exp() + 1e-2).sqrt()
    assert torch.allclose(found, wanted, atol=1e-4)
