"""Encoders (listeners): features to states at a lower rate. B utterances, T frames.

No PackedSequence: on CPU its backward pass is quadratic in time. A bidirectional layer is a forward
LSTM on the padded batch and one on each utterance reversed within its own length: exact, and fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from asr.errors import InputError
from asr.models.common import Length, LockedDropout, check_choice, check_ranges, inside
from asr.models.conformer import Conformer


@dataclass
class EncoderOptions:
    # "blstm" and "conformer" (Gulati et al. 2020): two convolutions that lower the rate, then
    # layers of it; "pyramid": BLSTM layers that lower the rate (Chan et al. 2016)
    type: str = "blstm"
    layers: int = 3  # pyramid: the first log2(subsampling) of them halve time
    size: int = 192  # LSTM units a direction, half the numbers of a state; conformer: all of them
    dropout: float = 0.2  # on what every layer (conformer: every part of one) gives; 0 to 0.9
    subsampling: int = 4  # frames a state; blstm and conformer 2, 3 or 4; pyramid 2, 4 or 8
    heads: int = 4  # conformer: of its attention; size is a multiple of twice as many
    kernel: int = 15  # conformer: states that a convolution sees, odd


STRIDES = {2: (2, 1), 3: (3, 1), 4: (2, 2)}  # of the two convolutions of all but `pyramid`


def make_lstm(inputs: int, size: int, layers: int = 1) -> nn.LSTM:
    """An LSTM whose forget gates begin with bias 1 (Jozefowicz et al. 2015)."""
    lstm = nn.LSTM(inputs, size, layers, batch_first=True)
    for name, parameter in lstm.named_parameters():
        if "bias" in name:  # gates stand in the order input, forget, cell, output
            nn.init.zeros_(parameter)
            nn.init.constant_(parameter.data[size : 2 * size], 0.5)  # there are two biases
    return lstm


class Reversal(torch.autograd.Function):
    """A permutation of rows that is its own inverse and gradient; `gather` is 14 times slower."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mirror: Tensor) -> Tensor:
        ctx.save_for_backward(mirror)
        return x.flatten(0, 1).index_select(0, mirror).view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mirror,) = ctx.saved_tensors
        return reverse(gradients[0], mirror), None


def reverse(x: Tensor, mirror: Tensor) -> Tensor:
    """x (B, T, D), mirror (B·T,) of `mirror_index` -> each utterance reversed within its length."""
    result: Tensor = Reversal.apply(x, mirror)  # type: ignore[no-untyped-call]
    return result


def mirror_index(lengths: Tensor, total: int) -> Tensor:
    """lengths (B,) -> (B·total,): the row of a flattened batch that changes places with each."""
    position = torch.arange(total, device=lengths.device)
    mirror = torch.where(inside(lengths, total), lengths[:, None] - 1 - position, position)
    return (mirror + total * torch.arange(len(lengths), device=lengths.device)[:, None]).flatten()


class BLSTM(nn.Module):
    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.ahead, self.back = make_lstm(inputs, size), make_lstm(inputs, size)

    def forward(self, x: Tensor, mirror: Tensor) -> Tensor:
        """x (B, T, D), mirror (B·T,) of `mirror_index` -> (B, T, 2·size)."""
        with torch.autocast("cuda", enabled=False):  # it runs cuDNN's LSTM in float16, always
            x = x.to(next(self.parameters()).dtype)
            ahead, _ = self.ahead(x)
            back, _ = self.back(reverse(x, mirror))
        return torch.cat([ahead, reverse(back, mirror)], 2)


class Stack(nn.Module):
    """Convolution over time with `stride` (frame stacking and a matrix), LayerNorm, GELU."""

    def __init__(self, inputs: int, size: int, stride: int) -> None:
        super().__init__()
        self.stride, self.kernel = stride, max(3, 2 * stride - 1)
        self.linear, self.norm = nn.Linear(inputs * self.kernel, size), nn.LayerNorm(size)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D), 0 behind the end -> (B, T / stride, size), 0 behind the end; (B,)."""
        side = self.kernel // 2
        x = functional.pad(x, (0, 0, side, side)).unfold(1, self.kernel, self.stride)
        x = functional.gelu(self.norm(self.linear(x.flatten(2))))
        lengths = -(-lengths // self.stride)
        return x * inside(lengths, x.shape[1])[:, :, None], lengths


class Halve(nn.Module):
    """Concatenate neighbour frames; an odd last one gets zeros."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D), 0 behind the end -> (B, T / 2, 2·D), 0 behind the end; (B,)."""
        x = functional.pad(x, (0, 0, 0, x.shape[1] % 2))
        return x.reshape(len(x), -1, 2 * x.shape[2]), -(-lengths // 2)


class Encoder(nn.Module):
    """blstm, conformer: two strided convolutions, then the layers. pyramid (Listen, Attend and
    Spell): the first log2(subsampling) layers each halve time by concatenating neighbour frames."""

    def __init__(self, options: EncoderOptions, channels: int) -> None:
        super().__init__()
        check_choice("model.encoder.type", options.type, ["blstm", "conformer", "pyramid"])
        pyramid, conformer = options.type == "pyramid", options.type == "conformer"
        factors = (2, 4, 8) if pyramid else STRIDES
        check_choice("model.encoder.subsampling", str(options.subsampling), map(str, factors))
        halvings = int(math.log2(options.subsampling)) if pyramid else 0
        layers = (max(1, halvings), 32)
        check_ranges("model.encoder", options, size=(1, 4096), dropout=(0, 0.9), layers=layers)
        if conformer:
            check_ranges("model.encoder", options, heads=(1, 64), kernel=(1, 255))
            if options.size % (2 * options.heads):
                what = f"{options.size} is not a multiple of {2 * options.heads} (2 x heads)"
                raise InputError(what, "model.encoder.size", "Change size or model.encoder.heads.")
            if options.kernel % 2 == 0:
                what, remedy = f"{options.kernel} is even", "Take an odd one."
                raise InputError(what, "model.encoder.kernel", remedy)
        self.size = options.size if conformer else 2 * options.size
        self.subsampling = options.subsampling
        self.dropout = LockedDropout(options.dropout)
        self.steps = nn.ModuleList()
        # Frames that reach the first layer at one state; from there on it is the utterance.
        self.receptive_frames, spacing, inputs = 1 + pyramid, 1, channels
        for stride in () if pyramid else STRIDES[options.subsampling]:
            stack = Stack(inputs, options.size, stride)
            self.receptive_frames += (stack.kernel - 1) * spacing
            self.steps.append(stack)
            inputs, spacing = options.size, spacing * stride
        for layer in range(options.layers):
            if conformer:
                self.steps.append(Conformer(inputs, options.heads, options.kernel, options.dropout))
                continue
            if layer < halvings:
                self.steps.append(Halve())
                inputs *= 2
            self.steps.append(BLSTM(inputs, options.size))
            inputs = self.size

    def output_lengths(self, frames: Length) -> Length:
        """States of so many frames."""
        return -(-frames // self.subsampling)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, T, F), 0 behind the end -> states (B, T', size), likewise; (B,)."""
        for step in self.steps:
            keep = inside(lengths, x.shape[1])
            if isinstance(step, BLSTM):
                x = step(x, mirror_index(lengths, x.shape[1])) * keep[:, :, None]
                x = self.dropout(x)
            elif isinstance(step, Conformer):
                x = step(x, keep) * keep[:, :, None]
            else:
                x, lengths = step(x, lengths)
        return x, lengths

    def in_windows(self, x: Tensor, lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """As `forward`; more than twice `size` frames are encoded in windows of about `size`, a
        sixth at either side left away (overlapping inference, Chiu et al. 2019): layers that see
        the whole of an utterance lose their way in much longer ones than those of training."""
        if int(lengths.max()) <= 2 * size:
            return self.forward(x, lengths)
        unit = self.subsampling
        side = math.ceil(size / (6 * unit)) * unit
        windows, parts = [], []  # frames; the utterance, where its states begin, how many they are
        for row, total in enumerate(lengths.tolist()):
            count = 1 if total <= 2 * size else math.ceil(total / max(size - 2 * side, unit))
            step = math.ceil(total / (count * unit)) * unit
            for begin in range(0, total, step):
                low = max(0, begin - side)
                windows.append(x[row, low : min(begin + step + side, total)])
                parts.append((row, (begin - low) // unit, step // unit))
        frames = torch.tensor([len(window) for window in windows], device=x.device)
        states, counts = self.forward(pad_sequence(windows, batch_first=True), frames)
        pieces: list[list[Tensor]] = [[] for _ in lengths]
        for own, count, (row, begin, length) in zip(states, counts.tolist(), parts, strict=True):
            pieces[row].append(own[begin : min(begin + length, count)])
        whole = pad_sequence([torch.cat(row) for row in pieces], batch_first=True)
        return whole, self.output_lengths(lengths)
