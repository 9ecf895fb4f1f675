"""Front-ends: from samples to features, normalised over each utterance's own length.

B utterances, N samples, T frames, W samples a window, F channels, M masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.errors import InputError
from asr.models.common import Length, check_choice, check_ranges, inside

PAIRS = 2  # (cos, sin) pairs a learned channel: one pair would catch only a part of a wide band
LOWEST = 20.0  # Hz, lower edge of the first channel
FLOOR = 1e-6  # added to energies; samples have RMS 1, so this is 60 dB below white noise


@dataclass
class FrontendOptions:
    # "conv": learned filterbank over the samples; "sinc": one whose bands' edges alone are learned
    # (Ravanelli & Bengio 2018); "logmel": fixed
    type: str = "conv"
    channels: int = 80  # features a frame, 8 to 256; 64 are enough at 8 kHz
    window: float = 0.025  # seconds a frame sees
    shift: float = 0.010  # seconds between the beginnings of frames
    prior: float = 0.0  # seconds that a channel's learned mean and variance count for, 0 to 10


def mel_points(channels: int, sample_rate: int) -> Tensor:
    """Edges and centres (channels + 2,) in Hz, equally spaced on the mel scale (HTK's)."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (LOWEST, sample_rate / 2))
    mel = torch.linspace(low, high, channels + 2, dtype=torch.float64)
    points: Tensor = 700 * (10 ** (mel / 2595) - 1)
    return points


class Filterbank(nn.Module):
    """Learned filters over the samples, from a mel filterbank on (like Zeghidour et al. 2018).

    A channel is the energy of PAIRS neighbouring bands, each of a cosine and a sine under a Hann
    window as long as the bandwidth asks for (at most W samples): Σ (c² + s²) / PAIRS.
    """

    def __init__(self, channels: int, sample_rate: int, window: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        points = mel_points(channels, sample_rate)
        width = (points[2:] - points[:-2]) / 2  # full width of a triangle at half its height
        offsets = (torch.arange(PAIRS, dtype=torch.float64) + 0.5) / PAIRS - 0.5
        centres = (points[1:-1] + width * offsets[:, None]).flatten()  # (P·F,)
        duration = (2 * PAIRS / width).clamp(max=window / sample_rate).repeat(PAIRS)
        time = (torch.arange(window, dtype=torch.float64) - (window - 1) / 2)[:, None] / sample_rate
        hann = (0.5 + 0.5 * torch.cos(2 * math.pi * time / duration)) * (time.abs() < duration / 2)
        phase = 2 * math.pi * time * centres
        filters = torch.cat([hann * phase.cos(), hann * phase.sin()], 1)  # (W, 2·P·F)
        # RMS 1 and not norm 1: Adam's steps are absolute; a filterbank that moves fast is lost.
        self.filters = nn.Parameter((filters / filters.square().mean(0).sqrt()).float())

    def forward(self, samples: Tensor) -> Tensor:
        """samples (B, N) -> energies (B, T, F)."""
        return band_energies(samples, self.filters, self.shift)


class SincFilterbank(nn.Module):
    """Band-pass filters whose edges are learned (SincNet, Ravanelli & Bengio 2018).

        g[n] = 2·f2·sinc(2·f2·n) - 2·f1·sinc(2·f1·n) = 2·b·sinc(b·n)·cos(2π·m·n)

    with b = f2 - f1, m their middle; Σ of squares and PAIRS as in Filterbank. Hann and not the
    paper's Hamming window, through whose side lobes speech leaks into the lowest channels.
    """

    def __init__(self, channels: int, sample_rate: int, window: int, shift: int) -> None:
        super().__init__()
        self.shift, self.highest = shift, sample_rate / 2000  # kHz
        points = mel_points(channels, sample_rate) / 1000  # kHz: Adam moves edges by 1 Hz a step
        middles = (points[1:] + points[:-1]) / 2
        self.low = nn.Parameter(middles[:-1].float())
        self.width = nn.Parameter(middles.diff().float())
        time = (torch.arange(window, dtype=torch.float64) - (window - 1) / 2) * 1000 / sample_rate
        hann = 0.5 + 0.5 * torch.cos(math.pi * time / time[-1])
        parts = (torch.arange(PAIRS)[:, None] + 0.5) / PAIRS
        self.time = nn.Buffer(time[:, None].float(), persistent=False)  # ms (W, 1)
        self.hann = nn.Buffer(hann[:, None].float(), persistent=False)  # (W, 1)
        self.parts = nn.Buffer(parts, persistent=False)  # (P, 1)

    def edges(self) -> tuple[Tensor, Tensor]:
        """Lower and upper edges (F,), kHz."""
        low = self.low.abs().clamp(max=self.highest)
        return low, (low + self.width.abs()).clamp(max=self.highest)

    def forward(self, samples: Tensor) -> Tensor:
        """samples (B, N) -> energies (B, T, F)."""
        low, high = self.edges()
        width = (high - low) / PAIRS
        phase = 2 * math.pi * self.time * (low + self.parts * (high - low)).flatten()
        envelope = (self.hann * torch.sinc(self.time * width)).repeat(1, PAIRS)
        filters = torch.cat([envelope * phase.cos(), envelope * phase.sin()], 1)
        return band_energies(samples, filters / filters.square().mean(0).sqrt(), self.shift)


def band_energies(samples: Tensor, filters: Tensor, shift: int) -> Tensor:
    """samples (B, N), filters (W, 2·P·F) -> mean energies of P pairs (B, T, F)."""
    frames = samples.unfold(1, len(filters), shift)  # (B, T, W)
    waves = (frames @ filters).square()  # (B, T, 2·P·F)
    waves = waves.reshape(*waves.shape[:2], 2 * PAIRS, -1)  # (B, T, 2·P, F)
    return waves.sum(2) / (PAIRS * len(filters))


class MelSpectrogram(nn.Module):
    """torchaudio's mel spectrogram of the same frames as Filterbank's."""

    def __init__(self, channels: int, sample_rate: int, window: int, shift: int) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram as Transform

        bins = 2 ** math.ceil(math.log2(window))
        points = mel_points(channels, sample_rate)
        if float(points[2] - points[0]) < sample_rate / bins:
            what = f"{channels} channels are too many for a window of {window} samples"
            raise InputError(what, "model.frontend.channels", "Take fewer, or a longer window.")
        self.margin = (bins - window) // 2, bins - window - (bins - window) // 2
        fixed = {"f_min": LOWEST, "n_mels": channels, "center": False}
        self.spectrogram = Transform(sample_rate, bins, window, shift, **fixed)
        self.spectrogram.spectrogram.power = None  # complex: |z|² by its root is 4 times slower
        self.scale = 1 / float(self.spectrogram.spectrogram.window.square().sum())

    def forward(self, samples: Tensor) -> Tensor:
        """samples (B, N) -> energies (B, T, F)."""
        # The window stands in the middle of `bins` samples: padding puts frame 0 at sample 0.
        spectrum = self.spectrogram.spectrogram(functional.pad(samples, self.margin))
        power = spectrum.real.square() + spectrum.imag.square()
        energies: Tensor = self.spectrogram.mel_scale(power)
        return energies.transpose(1, 2) * self.scale  # (B, F, T) -> (B, T, F)


ENERGIES = {"conv": Filterbank, "sinc": SincFilterbank, "logmel": MelSpectrogram}


class Frontend(nn.Module):
    """Samples -> pre-emphasis and RMS 1 -> energies of F channels -> log -> instance norm -> masks.

    Instance norm: mean and variance of a channel over the utterance's own frames; with `prior` as
    if it had so many seconds more of the learned ones (those of half a second are its words').
    """

    def __init__(self, options: FrontendOptions, sample_rate: int) -> None:
        super().__init__()
        check_choice("model.frontend.type", options.type, list(ENERGIES))
        spans = {"channels": (8, 256), "prior": (0, 10), "window": (0.005, 0.1)}
        check_ranges("model.frontend", options, **spans, shift=(0.001, options.window))
        self.sample_rate, self.channels = sample_rate, options.channels
        self.window = round(options.window * sample_rate)
        self.shift = round(options.shift * sample_rate)
        self.prior = options.prior / options.shift  # frames
        if self.prior:
            self.mean = nn.Parameter(torch.full((options.channels,), -4.0))
            self.log_variance = nn.Parameter(torch.full((options.channels,), 1.5))
        kind = ENERGIES[options.type]
        self.energies = kind(options.channels, sample_rate, self.window, self.shift)

    def output_lengths(self, samples: Length) -> Length:
        """Frames of so many samples; only whole windows count, but at least one frame."""
        frames = 1 + (samples - self.window) // self.shift
        return frames.clamp(min=1) if isinstance(frames, Tensor) else max(frames, 1)

    def level(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Pre-emphasis (x[n] - 0.97 x[n-1]), mean 0 and RMS 1 within the length, 0 behind."""
        first = samples[:, :1] * 0.03
        samples = torch.cat([first, samples[:, 1:] - 0.97 * samples[:, :-1]], 1)
        mask, count = inside(lengths, samples.shape[1]), lengths.clamp(min=1)[:, None]
        samples = samples * mask
        samples = (samples - samples.sum(1, keepdim=True) / count) * mask
        power = samples.square().sum(1, keepdim=True) / count
        return samples / power.clamp(min=1e-12).sqrt()  # 1e-6: far below one step of 16 bits

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor,
        time_masks: Tensor | None = None,
        frequency_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """samples (B, N) in [-1, 1], lengths (B,) -> features (B, T, F), 0 behind the end; (B,).

        Masks (B, M, 2): start, end of times in seconds, of frequencies as a fraction of channels;
        frames and channels with their centre in it become 0, the mean. NaN or empty: no mask.
        """
        if samples.shape[1] < self.window:
            samples = functional.pad(samples, (0, self.window - samples.shape[1]))
        log = (self.energies(self.level(samples, lengths)) + FLOOR).log()  # (B, T, F)
        lengths = self.output_lengths(lengths)
        keep, count = inside(lengths, log.shape[1])[:, :, None], lengths[:, None, None] + self.prior
        log = log * keep
        mean = log.sum(1, keepdim=True) / count
        if self.prior:
            mean = mean + self.prior / count * self.mean
        log = (log - mean) * keep
        variance = log.square().sum(1, keepdim=True) / count
        if self.prior:
            variance = variance + self.prior / count * self.log_variance.exp()
        features = log / (variance + 1e-2).sqrt()  # deviations below 0.1 are not made large
        if time_masks is not None:
            frames = torch.arange(features.shape[1], device=features.device)
            seconds = (frames * self.shift + self.window / 2) / self.sample_rate
            features = features * ~covered(seconds, time_masks)[:, :, None]
        if frequency_masks is not None:
            centres = (torch.arange(self.channels, device=features.device) + 0.5) / self.channels
            features = features * ~covered(centres, frequency_masks)[:, None]
        return features, lengths


def covered(points: Tensor, spans: Tensor) -> Tensor:
    """points (P,), spans (B, M, 2) -> (B, P) bool: does any span hold the point?"""
    start, end = spans[:, :, :1], spans[:, :, 1:]  # (B, M, 1)
    return ((points >= start) & (points < end)).any(1)
