"""The speller: teacher forcing against stepping, gradients, beams, the loss by hand."""

from __future__ import annotations

import gc
import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.errors import InputError
from asr.models import attention
from asr.models.speller import END, UNKNOWN, Speller, SpellerOptions

VOCABULARY = 6


def make(layers: int = 1, smoothing: float = 0.1) -> Speller:
    torch.manual_seed(1)
    options = SpellerOptions(
        layers, 7, 4, 5, filters=3, reach=2, dropout=0.0, label_smoothing=smoothing
    )
    speller = Speller(options, inputs=6, vocabulary=VOCABULARY).double().eval()
    for parameter in speller.parameters():
        nn.init.normal_(parameter, std=0.6)
    return speller


@pytest.fixture
def states() -> tuple[Tensor, Tensor]:
    """(3, 8, 6), lengths (3,); zeros behind the end."""
    torch.manual_seed(2)
    lengths = torch.tensor([8, 5, 1])
    states = torch.randn(3, 8, 6, dtype=torch.float64)
    return states * (torch.arange(8) < lengths[:, None])[:, :, None], lengths


TOKENS = torch.tensor([[2, 3, 3, 5], [4, 2, 0, 0], [5, 0, 0, 0]])
TOKEN_LENGTHS = torch.tensor([4, 2, 1])


@pytest.mark.parametrize("layers", [1, 3])
def test_stepping_equals_teacher_forcing(states: tuple[Tensor, Tensor], layers: int) -> None:
    speller = make(layers)
    log_probs, alignments = speller.teach(*states, TOKENS)
    memory, state = speller.begin(*states)
    previous = torch.full((3,), END)
    for u in range(5):
        step, state, alignment = speller.step(memory, state, previous)
        assert (step[:, UNKNOWN] == -torch.inf).all()
        others = [token for token in range(VOCABULARY) if token != UNKNOWN]
        torch.testing.assert_close(step[:, others], log_probs[:, u, others], atol=1e-12, rtol=0)
        torch.testing.assert_close(alignment, alignments[:, u], atol=1e-12, rtol=0)
        previous = TOKENS[:, min(u, 3)]


@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_are_the_numerical_ones(states: tuple[Tensor, Tensor], layers: int) -> None:
    speller = make(layers)
    names = [name for name, _ in speller.named_parameters()]

    def loss(inputs: Tensor, *values: Tensor) -> Tensor:
        weights = dict(zip(names, values, strict=True))
        log_probs = torch.func.functional_call(speller, weights, (inputs, states[1], TOKENS))
        return speller.loss(log_probs, TOKENS, TOKEN_LENGTHS)

    values = [p.detach().clone().requires_grad_() for p in speller.parameters()]
    assert torch.autograd.gradcheck(
        loss, (states[0].clone().requires_grad_(), *values), fast_mode=True
    )


def test_alignments_stay_within_the_utterance(states: tuple[Tensor, Tensor]) -> None:
    _, alignments = make().teach(*states, TOKENS)
    torch.testing.assert_close(alignments.sum(2), torch.ones(3, 5, dtype=torch.float64))
    assert alignments[1, :, 5:].abs().max() == 0
    assert alignments[2, :, 1:].abs().max() == 0


def test_attention_sees_where_it_was(states: tuple[Tensor, Tensor]) -> None:
    """Equal states everywhere: only the location can make a later alignment uneven."""
    speller = make()
    even = torch.ones(1, 8, 6, dtype=torch.float64)
    _, alignments = speller.teach(even, torch.tensor([8]), TOKENS[:1])
    torch.testing.assert_close(alignments[0, 0], torch.full((8,), 0.125, dtype=torch.float64))
    assert (alignments[0, 1] - 0.125).abs().max() > 1e-3  # the edges differ
    nn.init.zeros_(speller.location.weight)
    _, alignments = speller.teach(even, torch.tensor([8]), TOKENS[:1])
    torch.testing.assert_close(alignments, torch.full_like(alignments, 0.125))


@pytest.mark.parametrize("layers", [1, 2])
def test_beams_can_be_reordered(states: tuple[Tensor, Tensor], layers: int) -> None:
    speller = make(layers)
    memory, state = speller.begin(*states)
    _, state, _ = speller.step(memory, state, torch.zeros(3, dtype=torch.long))
    first, after, _ = speller.step(memory, state, torch.tensor([2, 3, 4]))
    index = torch.tensor([1, 1, 0, 2, 1])
    previous = torch.tensor([2, 3, 4])[index]
    beams, chosen, _ = speller.step(memory.select(index), state.select(index), previous)
    torch.testing.assert_close(beams, first[index])
    for one, other in zip(chosen, after.select(index), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layers", [1, 2])
def test_hypotheses_share_their_utterance(states: tuple[Tensor, Tensor], layers: int) -> None:
    """As if each had a memory of its own, also where they may look at different states."""
    speller = make(layers)
    memory, state = speller.begin(*states)
    rows = torch.arange(3).repeat_interleave(2)
    state = state.select(rows)
    outside = memory.outside[rows]
    outside[1, :2] = outside[4, 1:3] = True
    own = memory.select(rows)._replace(outside=outside)
    others = state
    for previous in ([0, 0, 0, 0, 0, 0], [2, 3, 4, 2, 3, 4], [5, 2, 2, 3, 4, 5]):
        tokens = torch.tensor(previous)
        shared, state, attended = speller.step(memory._replace(outside=outside), state, tokens)
        alone, others, alignment = speller.step(own, others, tokens)
        torch.testing.assert_close(shared, alone)
        torch.testing.assert_close(attended, alignment)
        assert (attended[outside] == 0).all()


def test_attention_is_that_of_the_formula(states: tuple[Tensor, Tensor]) -> None:
    """softmax of v·tanh(k_t + W s + U f_t), with the convolution as torch has it."""
    speller = make()
    memory, state = speller.begin(*states)
    _, state, first = speller.step(memory, state, torch.zeros(3, dtype=torch.long))
    _, after, second = speller.step(memory, state, torch.tensor([2, 3, 4]))
    torch.testing.assert_close(after.attended, first + second)
    filters = speller.filters.weight[:, None]  # (F, 1, 2·reach + 1)
    seen = functional.conv1d(first[:, None], filters, padding=speller.reach)
    place = speller.location(seen.transpose(1, 2))
    compared = torch.tanh(memory.keys / 2 + speller.query(after.hidden)[:, None] + place)
    energy = speller.energy(compared)[:, :, 0].masked_fill(memory.outside, -torch.inf)
    torch.testing.assert_close(second, energy.softmax(1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("filters", [1, 4, 7])
@pytest.mark.parametrize("size", [5, 64])
def test_compiled_energies_are_those_of_torch(size: int, filters: int) -> None:
    """Of two hypotheses an utterance, which may or may not look at the same states; energies so
    large that tanh is 1 too."""
    torch.manual_seed(filters)
    options = SpellerOptions(1, 7, 4, size, filters=filters, reach=2)
    speller = Speller(options, inputs=6, vocabulary=VOCABULARY)
    memory, _ = speller.begin(torch.randn(3, 40, 6), torch.tensor([40, 13, 1]))
    own = memory.outside.repeat_interleave(2, 0) | (torch.rand(6, 40) > 0.6)
    for scale, outside in itertools.product((0.1, 3.0, 100.0), (memory.outside, own)):
        query, padded = scale * torch.randn(6, size), torch.rand(6, 40 + 2 * 2)
        seen = memory._replace(outside=outside)
        expected = speller.energies(seen, query, padded, speller.kernel())
        place = speller.filters.weight, 2 * speller.location.weight.T, speller.energy.weight[0]
        found = attention.energies(memory.keys, query, padded, outside, *place)
        # softmax does not feel what is added to all, here v·1 (see the head of asr.models.speller)
        torch.testing.assert_close(found, expected - speller.energy.weight.sum(), atol=1e-5, rtol=0)
        assert torch.equal(found == -torch.inf, expected == -torch.inf)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_of_nothing(dtype: torch.dtype, grad: bool) -> None:
    speller, nothing = make().to(dtype), torch.zeros(0, dtype=torch.long)
    with torch.set_grad_enabled(grad):
        memory, state = speller.begin(torch.zeros(0, 8, 6, dtype=dtype), nothing)
        assert speller.step(memory, state, nothing)[0].shape == (0, VOCABULARY)
        found = speller(memory.states, nothing, nothing.view(0, 1))
    assert found.shape == (0, 2, VOCABULARY)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_step_without_gradients_is_that_with_gradients(beams: int) -> None:
    speller = make().float()
    torch.manual_seed(3)
    memory, start = speller.begin(torch.randn(3, 8, 6), torch.tensor([8, 5, 1]))
    rows = torch.arange(3).repeat_interleave(beams)
    tokens = torch.randint(2, VOCABULARY, (4, 3 * beams))
    states = [start.select(rows)] * 2
    for token in tokens:
        log_probs, states[0], alignment = speller.step(memory, states[0], token)
        with torch.no_grad():
            same, states[1], other = speller.step(memory, states[1], token)
        torch.testing.assert_close(other, alignment.detach(), atol=1e-6, rtol=0)
        torch.testing.assert_close(same[:, 2:], log_probs[:, 2:].detach(), atol=1e-5, rtol=0)


def test_probabilities_of_all_texts_sum_to_one(states: tuple[Tensor, Tensor]) -> None:
    """Σ over texts of at most 2 tokens, and over longer ones by their first 3: exactly 1."""
    speller = make(smoothing=0.0)
    inputs, lengths = states[0][1:2], states[1][1:2]
    total = 0.0
    for length in range(4):
        for tokens in itertools.product(range(1, VOCABULARY), repeat=length):
            log_probs = speller(inputs, lengths, torch.tensor([tokens]).long()).detach()
            path = log_probs[0, range(length), list(tokens)].sum()
            end = log_probs[0, length, END] if length < 3 else 0.0
            total += float((path + end).exp())
    assert total == pytest.approx(1.0, abs=1e-12)


def test_loss_by_hand(states: tuple[Tensor, Tensor]) -> None:
    speller = make(smoothing=0.2)
    log_probs = speller(*states, TOKENS)
    losses = speller.loss(log_probs, TOKENS, TOKEN_LENGTHS)
    for row in range(3):
        length = int(TOKEN_LENGTHS[row])
        target = [*TOKENS[row, :length].tolist(), END]
        expected = nn.functional.cross_entropy(
            log_probs[row, : length + 1], torch.tensor(target), reduction="sum", label_smoothing=0.2
        )
        torch.testing.assert_close(losses[row], expected)


def test_sampling_draws_from_the_model(states: tuple[Tensor, Tensor]) -> None:
    """In training only; frequencies are those of the model after the true tokens."""
    speller = make()
    speller.sampling = 0.4
    states = states[0].repeat(2000, 1, 1), states[1].repeat(2000)
    tokens = TOKENS.repeat(2000, 1)
    log_probs = speller(*states, tokens).detach()
    assert torch.equal(log_probs, speller.teach(*states, tokens)[0])  # eval mode
    torch.manual_seed(4)
    drawn = speller.sample(*states, tokens).reshape(2000, 3, 4)
    for row, place in ((0, 0), (0, 3), (1, 1)):
        expected = 0.4 * log_probs[row, place].exp()
        expected[TOKENS[row, place]] += 1 - float(expected[2:].sum())
        for token in range(2, VOCABULARY):
            share = float((drawn[:, row, place] == token).double().mean())
            assert share == pytest.approx(float(expected[token]), abs=0.03)
    torch.manual_seed(4)
    spelled = speller.train()(*states, tokens)
    assert (spelled - log_probs)[:3, 0].abs().max() < 1e-12  # the start token stands
    assert (spelled - log_probs)[:, 1:].abs().max() > 0.1
    assert (drawn[..., :] == UNKNOWN).sum() == 0


def test_no_tokens_at_all(states: tuple[Tensor, Tensor]) -> None:
    speller = make(smoothing=0.0)
    none = torch.zeros(3, 0, dtype=torch.long)
    log_probs = speller(*states, none)
    losses = speller.loss(log_probs, none, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(losses, -log_probs[:, 0, END])


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (SpellerOptions(layers=0), "model.speller.layers"),
        (SpellerOptions(filters=0), "model.speller.filters"),
        (SpellerOptions(label_smoothing=1.0), "model.speller.label_smoothing"),
        (SpellerOptions(sampling=1.0), "model.speller.sampling"),
    ],
)
def test_impossible_options(options: SpellerOptions, where: str) -> None:
    with pytest.raises(InputError) as caught:
        Speller(options, 6, VOCABULARY)
    assert caught.value.where == where


def test_a_step_leaves_nothing_behind() -> None:
    """The graph of a step is freed without the garbage collector; a cycle through it is a leak."""
    speller = make()
    states = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    lengths, tokens = torch.tensor([5, 4]), torch.tensor([[2, 3, 4], [5, 2, 0]])

    def tensors() -> int:
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    counts = []
    for _ in range(3):
        log_probs = speller(states, lengths, tokens)
        speller.loss(log_probs, tokens, torch.tensor([3, 2])).sum().backward()
        del log_probs
        counts.append(tensors())
    assert counts[0] == counts[1] == counts[2]
