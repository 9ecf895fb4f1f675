"""Recurrent encoders (listeners): features to states at a lower rate. B utterances, T frames.

No PackedSequence: on CPU its backward pass is quadratic in time. A bidirectional layer is a forward
LSTM on the padded batch and another one on the batch with each utterance reversed within its own
length: exact, and as fast as the dense LSTM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.frontend import Length, inside
from asr.models.options import check_choice, check_range


@dataclass
class EncoderOptions:
    type: str = "blstm"  # "blstm": convolutions, then BLSTM; "pyramid": Chan et al. 2016
    layers: int = 3  # bidirectional LSTM layers; pyramid: the first log2(subsampling) halve time
    size: int = 192  # LSTM units a direction; states have twice as many numbers
    dropout: float = 0.2  # on the input of every layer but the first, and on the states; 0 to 0.9
    subsampling: int = 4  # frames a state; blstm 2, 3 or 4; pyramid 2, 4 or 8


STRIDES = {2: (2, 1), 3: (3, 1), 4: (2, 2)}  # of the two convolutions of `blstm`
HALVINGS = {2: 1, 4: 2, 8: 3}  # layers of `pyramid` that halve time


class LockedDropout(nn.Module):
    """Dropout with one mask an utterance for all frames (Gal & Ghahramani 2016).

    Better than a mask a frame between recurrent layers, and cheap: random numbers are drawn
    serially on CPU, here B·D of them instead of B·T·D.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        if not self.training or self.rate == 0:
            return x
        mask = torch.empty_like(x[:, :1]).bernoulli_(1 - self.rate) / (1 - self.rate)
        return x * mask


def make_lstm(inputs: int, size: int, layers: int = 1) -> nn.LSTM:
    """An LSTM whose forget gates begin with bias 1 (Jozefowicz et al. 2015)."""
    lstm = nn.LSTM(inputs, size, layers, batch_first=True)
    for name, parameter in lstm.named_parameters():
        if "bias" in name:  # gates stand in the order input, forget, cell, output
            nn.init.zeros_(parameter)
            nn.init.constant_(parameter.data[size : 2 * size], 0.5)  # there are two biases
    return lstm


class BLSTM(nn.Module):
    """One bidirectional LSTM layer."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.ahead = make_lstm(inputs, size)
        self.back = make_lstm(inputs, size)

    def forward(self, x: Tensor, mirror: Tensor) -> Tensor:
        """x (B, T, D), mirror (B, T) of `mirror_index` -> (B, T, 2·size)."""
        ahead, _ = self.ahead(x)
        back, _ = self.back(reverse(x, mirror))
        return torch.cat([ahead, reverse(back, mirror)], 2)


def mirror_index(lengths: Tensor, total: int) -> Tensor:
    """lengths (B,) -> (B, total): the position that changes places with each one."""
    position = torch.arange(total, device=lengths.device)
    return torch.where(inside(lengths, total), lengths[:, None] - 1 - position, position)


def reverse(x: Tensor, mirror: Tensor) -> Tensor:
    """x (B, T, D) with each utterance reversed within its own length."""
    return x.gather(1, mirror[:, :, None].expand_as(x))


class Stack(nn.Module):
    """Convolution over time with `stride` (frame stacking and a matrix), LayerNorm, GELU."""

    def __init__(self, inputs: int, size: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.kernel = max(3, 2 * stride - 1)
        self.linear = nn.Linear(inputs * self.kernel, size)
        self.norm = nn.LayerNorm(size)

    def output_lengths(self, frames: Length) -> Length:
        return (frames - 1) // self.stride + 1

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D), 0 behind the end -> (B, T / stride, size), 0 behind the end; (B,)."""
        side = self.kernel // 2
        x = functional.pad(x, (0, 0, side, side)).unfold(1, self.kernel, self.stride)
        x = functional.gelu(self.norm(self.linear(x.flatten(2))))
        lengths = self.output_lengths(lengths)
        return x * inside(lengths, x.shape[1])[:, :, None], lengths


class Halve(nn.Module):
    """Concatenate neighbour frames; an odd last one gets zeros."""

    def output_lengths(self, frames: Length) -> Length:
        return (frames + 1) // 2

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D), 0 behind the end -> (B, T / 2, 2·D), 0 behind the end; (B,)."""
        x = functional.pad(x, (0, 0, 0, x.shape[1] % 2))
        return x.reshape(len(x), -1, 2 * x.shape[2]), self.output_lengths(lengths)


class Encoder(nn.Module):
    """Steps that lower the rate, and BLSTM layers, in the order of the type.

    blstm: two strided convolutions, then the layers. pyramid: the first log2(subsampling) layers
    each halve time by concatenating neighbour frames of their input (Listen, Attend and Spell).
    """

    def __init__(self, options: EncoderOptions, channels: int) -> None:
        super().__init__()
        check_choice("model.encoder.type", options.type, ["blstm", "pyramid"])
        check_range("model.encoder.size", options.size, 1, 4096)
        check_range("model.encoder.dropout", options.dropout, 0, 0.9)
        factors = STRIDES if options.type == "blstm" else HALVINGS
        check_choice("model.encoder.subsampling", str(options.subsampling), map(str, factors))
        self.size = 2 * options.size
        self.subsampling = options.subsampling
        self.dropout = LockedDropout(options.dropout)
        self.steps = nn.ModuleList()
        inputs = channels
        if options.type == "blstm":
            check_range("model.encoder.layers", options.layers, 1, 32)
            for stride in STRIDES[options.subsampling]:
                self.steps.append(Stack(inputs, options.size, stride))
                inputs = options.size
        halvings = HALVINGS[options.subsampling] if options.type == "pyramid" else 0
        check_range("model.encoder.layers", options.layers, max(1, halvings), 32)
        for layer in range(options.layers):
            if layer < halvings:
                self.steps.append(Halve())
                inputs *= 2
            self.steps.append(BLSTM(inputs, options.size))
            inputs = self.size

    def output_lengths(self, frames: Length) -> Length:
        """States of so many frames."""
        for step in self.steps:
            if isinstance(step, (Stack, Halve)):
                frames = step.output_lengths(frames)
        return frames

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, T, F), 0 behind the end -> states (B, T', 2·size), likewise; (B,)."""
        for step in self.steps:
            if isinstance(step, BLSTM):
                x = step(x, mirror_index(lengths, x.shape[1]))
                x = self.dropout(x * inside(lengths, x.shape[1])[:, :, None])
            else:
                x, lengths = step(x, lengths)
        return x, lengths
