"""Encoders against PackedSequence, and their lengths."""

from __future__ import annotations

import pytest
import torch
import torchaudio
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr.errors import InputError
from asr.models.common import LockedDropout
from asr.models.conformer import Attention, Conformer, rotate
from asr.models.encoder import (
    BLSTM,
    Encoder,
    EncoderOptions,
    Halve,
    Stack,
    make_lstm,
    mirror_index,
    reverse,
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


def test_reversal_within_each_length() -> None:
    x = torch.arange(10, dtype=torch.float64).reshape(2, 5, 1).requires_grad_()
    mirror = mirror_index(torch.tensor([3, 5]), 5)
    assert reverse(x, mirror)[:, :, 0].tolist() == [[2, 1, 0, 3, 4], [9, 8, 7, 6, 5]]
    assert torch.autograd.gradcheck(reverse, (x, mirror))


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
    ("kind", "factor"),
    [(kind, f) for kind in ("blstm", "conformer") for f in (2, 3, 4)]
    + [("pyramid", f) for f in (2, 4, 8)],
)
def test_lengths(kind: str, factor: int) -> None:
    encoder = Encoder(EncoderOptions(kind, size=4, subsampling=factor, heads=2), 6).eval()
    for frames in range(1, 40):
        states, lengths = encoder(torch.randn(1, frames, 6), torch.tensor([frames]))
        assert encoder.output_lengths(frames) == -(-frames // factor)
        assert states.shape == (1, int(lengths), encoder.size)
        assert encoder.output_lengths(torch.tensor([frames])).tolist() == lengths.tolist()
        assert int(lengths) == encoder.output_lengths(frames)


@pytest.mark.parametrize(("kind", "factor"), [("blstm", 2), ("conformer", 3), ("conformer", 4)])
def test_receptive_frames_are_those_with_a_gradient(kind: str, factor: int) -> None:
    encoder = Encoder(EncoderOptions(kind, size=8, subsampling=factor), 6)
    x = y = torch.randn(1, 60, 6, requires_grad=True)
    lengths = torch.tensor([60])
    for step in encoder.steps:
        if isinstance(step, Stack):
            y, lengths = step(y, lengths)
    y[0, 7].sum().backward()
    assert x.grad is not None
    assert int((x.grad[0].abs().sum(1) > 0).sum()) == encoder.receptive_frames


def test_attention_is_the_formula() -> None:
    """One head against sums over pairs of states; what is behind the end is not looked at."""
    torch.manual_seed(0)
    layer = Attention(6, 1).double()
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    query, key, value = layer.project(layer.norm(x))[0, :4].chunk(3, 1)

    def turned(row: torch.Tensor, place: int) -> torch.Tensor:
        pairs = torch.complex(row[:3], row[3:])
        return pairs * torch.exp(1j * place * 10000 ** -(torch.arange(3).double() / 3))

    rows = []
    for i in range(4):
        scores = [(turned(query[i], i) * turned(key[j], j).conj()).sum().real for j in range(4)]
        rows.append((torch.stack(scores) / 6**0.5).softmax(0) @ value)
    found = layer(x, inside(torch.tensor([4]), 5))[0, :4]
    torch.testing.assert_close(found, layer.output(torch.stack(rows)), atol=1e-12, rtol=0)


def test_products_of_rotated_tell_distances() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 8, dtype=torch.float64)
    left, right = rotate(a.expand(3000, 8)), rotate(b.expand(3000, 8))
    products = (left[7:] * right[:-7]).sum(1)
    torch.testing.assert_close(products, products[:1].expand(2993), atol=1e-9, rtol=0)
    assert (left * right).sum(1)[0] != pytest.approx(float(products[0]), abs=1e-3)


def test_conformer_is_the_library_s_but_for_positions() -> None:
    """torchaudio's layer with one state (no positions), GroupNorm in the place of BatchNorm."""
    theirs = torchaudio.models.conformer.ConformerLayer(
        8, 32, 2, 5, dropout=0.0, use_group_norm=True
    ).double()
    ours = Conformer(8, 2, 5, 0.0).double()
    pairs = [
        (ours.before[0], theirs.ffn1.sequential[0]), (ours.before[1], theirs.ffn1.sequential[1]),
        (ours.before[4], theirs.ffn1.sequential[4]), (ours.after[0], theirs.ffn2.sequential[0]),
        (ours.after[1], theirs.ffn2.sequential[1]), (ours.after[4], theirs.ffn2.sequential[4]),
        (ours.attention.norm, theirs.self_attn_layer_norm),
        (ours.attention.output, theirs.self_attn.out_proj),
        (ours.convolution.norm, theirs.conv_module.layer_norm),
        (ours.convolution.depthwise, theirs.conv_module.sequential[2]),
        (ours.convolution.middle, theirs.conv_module.sequential[3]),
        (ours.norm, theirs.final_layer_norm),
    ]  # fmt: skip
    for own, other in pairs:
        torch.nn.init.normal_(other.weight)
        own.load_state_dict(other.state_dict())
    for own, other in (
        (ours.convolution.enter, theirs.conv_module.sequential[0]),
        (ours.convolution.leave, theirs.conv_module.sequential[5]),
    ):
        own.weight.data.copy_(other.weight.data[:, :, 0])  # 1 x 1 convolutions
        own.bias.data.copy_(other.bias.data)
    ours.attention.project.weight.data.copy_(theirs.self_attn.in_proj_weight.data)
    ours.attention.project.bias.data.copy_(theirs.self_attn.in_proj_bias.data)
    x = torch.randn(3, 1, 8, dtype=torch.float64)
    expected = theirs(x.transpose(0, 1), None).transpose(0, 1)
    found = ours(x, torch.ones(3, 1, dtype=torch.bool))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


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
        (EncoderOptions("conformer", size=20), "model.encoder.size", "multiple of 8"),
        (EncoderOptions("conformer", heads=0), "model.encoder.heads", "between 1"),
        (EncoderOptions("conformer", kernel=4), "model.encoder.kernel", "odd"),
    ],
)
def test_impossible_options(options: EncoderOptions, where: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Encoder(options, 80)
    assert caught.value.where == where
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "factor"), [("blstm", 2), ("blstm", 3), ("blstm", 4), ("pyramid", 2), ("pyramid", 8)]
)
def test_windows_of_layers_without_memory_are_the_whole(kind: str, factor: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderOptions(kind, size=4, subsampling=factor), 6).double().eval()
    for layer in encoder.modules():
        if isinstance(layer, nn.LSTM):  # remembers nothing: a state is that of its frames alone
            layer.weight_hh_l0.data.zero_()
            layer.bias_ih_l0.data[4:8] = -1000.0
    for totals in ((160, 97, 61, 60, 1), (121,), (60, 30), (173, 174, 175, 176, 177)):
        lengths = torch.tensor(totals)
        x = torch.randn(len(totals), max(totals), 6, dtype=torch.float64)
        x = x * inside(lengths, max(totals))[:, :, None]
        whole, counts = encoder(x, lengths)
        parts, same = encoder.in_windows(x, lengths, 30)
        assert same.tolist() == counts.tolist()
        torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
