"""Encoders against PackedSequence, and their lengths."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr.errors import InputError
from asr.models.encoder import (
    BLSTM,
    Encoder,
    EncoderOptions,
    Halve,
    LockedDropout,
    Stack,
    make_lstm,
    mirror_index,
)
from asr.models.frontend import inside


def test_blstm_is_the_packed_one() -> None:
    torch.manual_seed(0)
    layer = BLSTM(5, 7).double()
    packed = nn.LSTM(5, 7, batch_first=True, bidirectional=True).double()
    theirs = dict(packed.named_parameters())
    for suffix, lstm in (("", layer.ahead), ("_reverse", layer.back)):
        for name, parameter in lstm.named_parameters():
            theirs[name + suffix].data.copy_(parameter.data)
    x, lengths = torch.randn(4, 11, 5, dtype=torch.float64), torch.tensor([11, 8, 1, 5])
    y = layer(x, mirror_index(lengths, 11)) * inside(lengths, 11)[:, :, None]
    sequence = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(packed(sequence)[0], batch_first=True)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    y.square().sum().backward()
    expected.square().sum().backward()
    for suffix, lstm in (("", layer.ahead), ("_reverse", layer.back)):
        for name, parameter in lstm.named_parameters():
            torch.testing.assert_close(parameter.grad, theirs[name + suffix].grad)


def test_stack_is_a_convolution() -> None:
    torch.manual_seed(0)
    for stride in (1, 2, 3):
        stack = Stack(4, 6, stride)
        weight = stack.linear.weight.reshape(6, 4, stack.kernel)  # a frame's neighbours are last
        x = torch.randn(2, 13, 4)
        y = nn.functional.conv1d(
            x.transpose(1, 2), weight, stack.linear.bias, stride, padding=stack.kernel // 2
        )
        expected = nn.functional.gelu(stack.norm(y.transpose(1, 2)))
        torch.testing.assert_close(stack(x, torch.tensor([13, 13]))[0], expected)


def test_halve_concatenates_neighbours() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    y, lengths = Halve()(x, torch.tensor([3]))
    assert y.tolist() == [[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 0.0, 0.0]]]
    assert lengths.tolist() == [2]


@pytest.mark.parametrize(
    ("kind", "factor"), [("blstm", f) for f in (2, 3, 4)] + [("pyramid", f) for f in (2, 4, 8)]
)
def test_lengths(kind: str, factor: int) -> None:
    encoder = Encoder(EncoderOptions(kind, size=4, subsampling=factor), 6).eval()
    for frames in range(1, 40):
        states, lengths = encoder(torch.randn(1, frames, 6), torch.tensor([frames]))
        assert encoder.output_lengths(frames) == -(-frames // factor)
        assert states.shape == (1, int(lengths), 8)
        assert encoder.output_lengths(torch.tensor([frames])).tolist() == lengths.tolist()
        assert int(lengths) == encoder.output_lengths(frames)


def test_forget_gates_begin_open() -> None:
    lstm = make_lstm(3, 5)
    bias = lstm.bias_ih_l0 + lstm.bias_hh_l0
    assert bias.tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10


def test_locked_dropout() -> None:
    torch.manual_seed(0)
    dropout = LockedDropout(0.25)
    x = torch.ones(50, 3, 80)
    y = dropout(x)
    assert (y == y[:, :1]).all()  # the same at all frames
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert (dropout.eval()(x) == x).all()


@pytest.mark.parametrize(
    ("options", "where", "says"),
    [
        (EncoderOptions(type="blstn"), "model.encoder.type", "Did you mean 'blstm'?"),
        (EncoderOptions(subsampling=5), "model.encoder.subsampling", "Known: 2, 3, 4"),
        (EncoderOptions("pyramid", subsampling=3), "model.encoder.subsampling", "Known: 2, 4, 8"),
        (EncoderOptions("pyramid", layers=2, subsampling=8), "model.encoder.layers", "between 3"),
        (EncoderOptions(dropout=1.0), "model.encoder.dropout", "between 0 and 0.9"),
        (EncoderOptions(size=0), "model.encoder.size", "between 1"),
    ],
)
def test_impossible_options(options: EncoderOptions, where: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Encoder(options, 80)
    assert caught.value.where == where
    assert says in str(caught.value)
