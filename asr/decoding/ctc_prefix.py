"""CTC prefix scores: how probable it is that the utterance begins with the given tokens.

    ψ(g) = log Σ over the alignments of all texts that begin with g
    ψ(g·c) = log Σ_t φ_t · p_t(c)       φ_t: g is complete before frame t, and c may follow there

φ_t is the mass of g's alignments of the first t frames; of those that end in blank only, where c
repeats g's last token (Watanabe et al. 2017, "Hybrid CTC/attention", algorithm 2). One product
gives ψ of all next tokens; the recursion over frames runs for the hypotheses that are kept only.
N hypotheses of B utterances, T frames, V tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.kernels import njit_lean

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

IMPOSSIBLE = -1e4  # least score: of more tokens than frames can hold (JSON has no infinity)
NEGLIGIBLE = 1e-3  # of the largest φ_t: such frames do not count as places of the next token


class PrefixStates(NamedTuple):
    """N hypotheses."""

    owner: Ints  # (N,) the utterance's place in the batch
    last: Ints  # (N,) last token, -1 for none
    mass: Doubles  # (N, 2, T) log mass of alignments of t + 1 frames: that end in blank; all


class CTCPrefix:
    """Scores hypotheses of a batch: log_probs (B, T, V) natural logs, lengths (B,)."""

    def __init__(self, log_probs: NDArray[Any], lengths: Ints) -> None:
        self.log_probs, self.lengths = np.ascontiguousarray(log_probs, np.float64), lengths
        self.probs = np.exp(self.log_probs)

    def begin(self, owner: Ints) -> PrefixStates:
        """The empty hypothesis of each of the utterances `owner` (N,)."""
        blank = self.log_probs[owner, :, 0].cumsum(1)  # (N, T)
        return PrefixStates(owner, np.full(len(owner), -1), np.stack([blank, blank], 1))

    def score_all(self, states: PrefixStates) -> tuple[Doubles, Ints]:
        """ψ after each next token (N, V), in column 0 after the end; first and last frame (N, 2)
        where the next token may begin."""
        scores = np.empty((len(states.owner), self.probs.shape[2]))
        reach = np.zeros((len(states.owner), 2), np.int64)
        _score_all(self.probs, self.lengths, states, scores, reach)
        return scores, reach

    def take(self, states: PrefixStates, rows: Ints, tokens: Ints) -> PrefixStates:
        """The hypotheses `rows` (n,), each extended by a token (n,)."""
        mass = np.empty((len(rows), *states.mass.shape[1:]))
        _take(self.log_probs, self.lengths, states, rows, tokens, mass)
        return PrefixStates(states.owner[rows], tokens, mass)


@njit_lean
def _add(a: Any, b: Any) -> Any:
    """log(exp a + exp b)"""
    if a < b:
        a, b = b, a
    if b < a - 40.0 or b == -np.inf:  # adds nothing in double precision
        return a
    return a + np.log1p(np.exp(b - a))


@njit_lean
def _score_all(probs: Any, lengths: Any, s: Any, scores: Any, reach: Any) -> None:
    for n in range(len(scores)):
        b, last, out = s.owner[n], s.last[n], scores[n]
        frames = lengths[b]
        top = 0.0 if last < 0 else -np.inf
        for t in range(1, frames):
            top = max(top, s.mass[n, 1, t - 1])
        out[:] = 0.0
        low = high = frames - 1  # where no token fits in, the end is awaited
        for t in range(frames if top > -np.inf else 0):
            phi, phi_repeat = np.exp(-top) if last < 0 else 0.0, 0.0
            if t > 0:
                phi = np.exp(s.mass[n, 1, t - 1] - top)
                phi_repeat = np.exp(s.mass[n, 0, t - 1] - top)
            if phi >= NEGLIGIBLE:
                low, high = min(low, t), t
            if phi < 1e-30:
                continue
            for v in range(1, len(out)):
                out[v] += (phi_repeat if v == last else phi) * probs[b, t, v]
        for v in range(1, len(out)):
            out[v] = max(np.log(out[v]) + top, IMPOSSIBLE) if out[v] > 0.0 else IMPOSSIBLE
        out[0] = max(s.mass[n, 1, frames - 1], IMPOSSIBLE)
        reach[n, 0], reach[n, 1] = low, high


@njit_lean
def _take(log_probs: Any, lengths: Any, s: Any, rows: Any, tokens: Any, mass: Any) -> None:
    for n in range(len(rows)):
        row, token = rows[n], tokens[n]
        b = s.owner[row]
        which = 0 if s.last[row] == token else 1
        begun = 0.0 if s.last[row] < 0 else -np.inf
        in_token, both = -np.inf, -np.inf
        for t in range(lengths[b]):
            phi = s.mass[row, which, t - 1] if t > 0 else begun
            in_blank = both + log_probs[b, t, 0]
            in_token = _add(in_token, phi) + log_probs[b, t, token]
            both = _add(in_token, in_blank)
            mass[n, 0, t], mass[n, 1, t] = in_blank, both
        mass[n, :, lengths[b] :] = -np.inf
