"""The speller: an LSTM decoder with location-aware attention (Chorowski et al. 2015).

B utterances, K hypotheses of each (1 in training), N = B·K rows, T states, U tokens, V vocabulary,
D state size, A attention size. Token 0 begins and ends a sentence; 1 (unknown) is never output.

    s_u = LSTM(s_{u-1}, [y_{u-1}, c_{u-1}])     k_t = W_k h_t
    α_u = softmax_t v·tanh(k_t + W s_u + U f_t)    f = convolution of Σ_{i<u} α_i over time
    c_u = Σ_t α_{u,t} h_t
    p(y_u) = softmax(W_o LSTM*(s_u, c_u))        LSTM*: the layers above the first, if any

tanh(z) = 2·σ(2z) - 1, and softmax does not feel the 1; torch's σ is six times as fast as its tanh
on a CPU. In training what is above the first layer runs on all tokens at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.attention import energies
from asr.models.common import LockedDropout, check_ranges, inside, random
from asr.models.encoder import make_lstm

END, UNKNOWN = 0, 1  # END is the start token too


@dataclass
class SpellerOptions:
    layers: int = 1  # LSTM layers
    size: int = 256  # LSTM units
    embedding: int = 128  # numbers a token
    attention: int = 128  # size of the space in which states and queries are compared
    filters: int = 16  # convolution filters over the alignment so far
    reach: int = 15  # states that a filter sees to either side
    dropout: float = 0.2  # on embeddings and on what the output layer sees; 0 to 0.9
    label_smoothing: float = 0.1  # probability given to all tokens alike; 0 to 0.9
    sampling: float = 0.0  # share of tokens before that training takes from the model; 0 to 0.9


class Memory(NamedTuple):
    """What the attention looks at, once for all hypotheses of an utterance."""

    states: Tensor  # (B, T, D)
    keys: Tensor  # (B, T, A), doubled for σ in the place of tanh, as queries and kernel are
    outside: Tensor  # (B, T) or (N, T) bool: not to be looked at, as behind the utterance's end

    def select(self, index: Tensor) -> Memory:
        return Memory(*(tensor[index] for tensor in self))


class SpellerState(NamedTuple):
    """What a hypothesis carries from token to token; those of an utterance are neighbours."""

    hidden: Tensor  # (N, H) of the first layer
    cell: Tensor  # (N, H)
    context: Tensor  # (N, D)
    attended: Tensor  # (N, T), sum of the alignments so far
    upper_hidden: Tensor  # (N, layers - 1, H)
    upper_cell: Tensor  # (N, layers - 1, H)

    def select(self, index: Tensor) -> SpellerState:
        return SpellerState(*(tensor[index] for tensor in self))


class Deferred(torch.autograd.Function):
    """Products x_u @ matrix of a loop over u, whose gradient by the matrix is taken once for all u:
    Σ_u x_uᵀ · gradient of row u.

    The loop adds x_u @ matrix.detach() to row u of the result (bias itself) and appends x_u to
    `inputs`, detached: with its history it would hold this node, which holds it, for ever.
    """

    @staticmethod
    def forward(ctx: Any, bias: Tensor, matrix: Tensor, inputs: list[Tensor]) -> Tensor:
        """bias (B, U, N), matrix (K, N) or (B, K, N), inputs: U of (B, K) when all is done."""
        ctx.inputs, ctx.shared = inputs, matrix.dim() == 2
        return bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient = gradients[0]
        inputs = torch.stack(ctx.inputs[: gradient.shape[1]], 1).to(gradient.dtype)
        if ctx.shared:
            return gradient, inputs.flatten(0, 1).T @ gradient.flatten(0, 1), None
        return gradient, inputs.transpose(1, 2) @ gradient, None


def deferred(bias: Tensor, matrix: Tensor, inputs: list[Tensor]) -> Tensor:
    result: Tensor = Deferred.apply(bias, matrix, inputs)  # type: ignore[no-untyped-call]
    return result


class Speller(nn.Module):
    def __init__(self, options: SpellerOptions, inputs: int, vocabulary: int) -> None:
        super().__init__()
        counts = dict.fromkeys(("size", "embedding", "attention", "filters"), (1, 4096))
        shares = dict.fromkeys(("dropout", "label_smoothing", "sampling"), (0, 0.9))
        check_ranges("model.speller", options, layers=(1, 16), reach=(0, 1000), **counts, **shares)
        size, self.size, self.reach = options.size, options.size, options.reach
        self.smoothing, self.sampling = options.label_smoothing, options.sampling
        self.dropout = LockedDropout(options.dropout)
        self.embedding = nn.Embedding(vocabulary, options.embedding)
        self.token = nn.Linear(options.embedding, 4 * size)  # what a token adds to the gates
        self.recur = nn.Parameter(torch.empty(inputs + size, 4 * size))  # what [c, s] adds to them
        nn.init.uniform_(self.recur, -(size**-0.5), size**-0.5)
        nn.init.zeros_(self.token.bias)
        nn.init.ones_(self.token.bias.data[size : 2 * size])  # the forget gates'
        above = options.layers - 1
        self.upper = make_lstm(size + inputs, size, above) if above else None
        self.query = nn.Linear(size, options.attention, bias=False)
        self.key = nn.Linear(inputs, options.attention)
        self.filters = nn.Linear(2 * options.reach + 1, options.filters, bias=False)
        self.location = nn.Linear(options.filters, options.attention, bias=False)
        self.energy = nn.Linear(options.attention, 1, bias=False)
        self.output = nn.Linear(size + (0 if self.upper else inputs), vocabulary)

    def begin(self, states: Tensor, lengths: Tensor) -> tuple[Memory, SpellerState]:
        """states (B, T, D), lengths (B,) -> memory and the state before the first token."""
        rows, frames, inputs = states.shape
        memory = Memory(states, 2 * self.key(states), ~inside(lengths, frames))
        layers = self.upper.num_layers if self.upper else 0
        shapes = [(self.size,)] * 2 + [(inputs,), (frames,)] + [(layers, self.size)] * 2
        return memory, SpellerState(*(states.new_zeros(rows, *shape) for shape in shapes))

    def step(
        self, memory: Memory, state: SpellerState, previous: Tensor
    ) -> tuple[Tensor, SpellerState, Tensor]:
        """One token on: previous (N,) -> log-probabilities (N, V), state, alignment (N, T)."""
        gates = self.token(self.embedding(previous))
        state, alignment = self.attend(memory, state, gates, self.recur)
        top = torch.cat([state.context, state.hidden], 1)  # (N, D + H)
        if self.upper:
            above = tuple(x.transpose(0, 1).contiguous() for x in state[4:])
            out, above = self.upper(top[:, None], above)
            top, state = out[:, 0], SpellerState(*state[:4], *(x.transpose(0, 1) for x in above))
        log_probs = torch.log_softmax(self.output(top), 1)
        unknown = torch.tensor(UNKNOWN, device=log_probs.device)
        return log_probs.index_fill(1, unknown, -torch.inf), state, alignment

    def kernel(self) -> Tensor:
        """The location filters and their projection as one matrix (2·reach + 1, A), doubled."""
        return 2 * (self.filters.weight.T @ self.location.weight.T)

    def attend(
        self,
        memory: Memory,
        state: SpellerState,
        gates: Tensor,
        recur: Tensor,
        kernel: Tensor | None = None,
    ) -> tuple[SpellerState, Tensor]:
        """The serial part of a step: gates (N, 4·H) of the token -> state, alignment (N, T).
        kernel: in training, once for all tokens; without it, of a search."""
        gates = gates + torch.cat([state.context, state.hidden], 1) @ recur
        into, forget, new, out = gates.chunk(4, 1)
        cell = forget.sigmoid() * state.cell + into.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        padded = functional.pad(state.attended, (self.reach, self.reach))
        query = 2 * self.query(hidden)
        plain = query.device.type == "cpu" and query.dtype == torch.float32
        if kernel is None and plain and not torch.is_grad_enabled():
            place = self.filters.weight, 2 * self.location.weight.T, self.energy.weight[0]
            energy = energies(memory.keys, query, padded, memory.outside, *place)
        else:
            kernel = self.kernel() if kernel is None else kernel
            energy = self.energies(memory, query, padded, kernel)
        alignment = energy.softmax(1)  # (N, T)
        rows, frames, _ = memory.states.shape
        shared = alignment.view(rows, len(alignment) // max(rows, 1), frames)  # (B, K, T)
        context = (shared @ memory.states).flatten(0, 1)  # (N, D)
        attended = state.attended + alignment
        return SpellerState(hidden, cell, context, attended, *state[4:]), alignment

    def energies(self, memory: Memory, query: Tensor, padded: Tensor, kernel: Tensor) -> Tensor:
        """(N, T), -inf outside, of queries (N, A) and alignments so far (N, T + 2·reach)."""
        rows, frames, size = memory.keys.shape
        count = len(query) // max(rows, 1)  # K
        heard = padded.view(rows, count, padded.shape[1]).unfold(2, 2 * self.reach + 1, 1)
        # In place on a product; on a view of one autograd would copy every gradient.
        compared = (heard @ kernel).add_(memory.keys[:, None])  # heard (B, K, T, ·)
        compared.add_(query.view(rows, count, 1, size))  # (B, K, T, A)
        energy: Tensor = 2 * self.energy(compared.sigmoid_())[..., 0]  # (B, K, T)
        outside = memory.outside.view(rows, len(memory.outside) // max(rows, 1), frames)
        return energy.masked_fill(outside, -torch.inf).flatten(0, 1)

    def teach(self, states: Tensor, lengths: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """All steps after the start token and the true tokens (B, U) -> log-probabilities
        (B, U + 1, V) of tokens and end, alignments (B, U + 1, T)."""
        memory, state = self.begin(states, lengths)
        embedded = self.dropout(self.embedding(functional.pad(tokens, (1, 0), value=END)))
        tops, alignments = list[Tensor](), list[Tensor]()
        seen = [torch.cat([state.context, state.hidden], 1)]  # tops, detached, each a step later
        attended: list[Tensor] = []  # alignments, detached
        gates = deferred(self.token(embedded), self.recur, seen)  # (B, U + 1, 4·H)
        zeros = states.new_zeros(*gates.shape[:2], states.shape[2])  # (B, U + 1, D)
        contexts = deferred(zeros, states, attended)
        memory = memory._replace(states=states.detach())
        recur, kernel = self.recur.detach(), self.kernel()
        for gate, context in zip(gates.unbind(1), contexts.unbind(1), strict=True):
            state, alignment = self.attend(memory, state, gate, recur, kernel)
            state = state._replace(context=state.context + context)
            tops.append(torch.cat([state.context, state.hidden], 1))
            alignments.append(alignment)
            seen.append(tops[-1].detach())
            attended.append(alignment.detach())
        top = torch.stack(tops, 1)  # (B, U + 1, D + H)
        if self.upper:
            with torch.autocast("cuda", enabled=False):  # as in BLSTM
                top, _ = self.upper(self.dropout(top).to(self.recur.dtype))
        return torch.log_softmax(self.output(self.dropout(top)), 2), torch.stack(alignments, 1)

    def forward(self, states: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """states (B, T, D), lengths (B,), tokens (B, U) -> log-probabilities (B, U + 1, V)."""
        if self.training and self.sampling:
            tokens = self.sample(states, lengths, tokens)
        return self.teach(states, lengths, tokens)[0]

    @torch.no_grad()
    def sample(self, states: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """tokens (B, U), a share `sampling` of them the model's own: scheduled sampling (Bengio et
        al. 2015) at a constant rate (Chan et al. 2016) and in parallel (Duckworth et al. 2019),
        drawn after the true tokens before them. End and unknown are not taken."""
        log_probs = self.teach(states, lengths, tokens)[0][:, :-1]  # (B, U, V)
        torch.clear_autocast_cache()  # of weights without history
        source = random.get()
        drawn = log_probs.exp().flatten(0, 1).multinomial(1, generator=source).view_as(tokens)
        own = torch.empty(drawn.shape, device=drawn.device)
        own = own.bernoulli_(self.sampling, generator=source).bool()
        return torch.where(own & (drawn > UNKNOWN), drawn, tokens)

    def score(self, log_probs: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        """Σ_u log p(y_u), end included, an utterance (B,)."""
        inside_text = inside(token_lengths, tokens.shape[1] + 1)  # the end is outside
        targets = functional.pad(tokens, (0, 1), value=END) * inside_text
        true = log_probs.gather(2, targets[:, :, None])[:, :, 0]  # (B, U + 1)
        return (true * inside(token_lengths + 1, true.shape[1])).sum(1)

    def loss(self, log_probs: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        """-score, smoothed (Szegedy et al. 2016), an utterance (B,)."""
        uniform = (log_probs.mean(2) * inside(token_lengths + 1, log_probs.shape[1])).sum(1)
        true = self.score(log_probs, tokens, token_lengths)
        return -(1 - self.smoothing) * true - self.smoothing * uniform
