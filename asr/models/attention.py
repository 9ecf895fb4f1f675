"""Attention's energies in one compiled pass, for a search on a CPU: there each product, sum and σ
of `Speller.energies` goes through memory, for all hypotheses and states, and that takes most time.

    e_t = v·tanh((k_t + q + U f_t) / 2)         f = convolution of the alignments so far

Keys, queries and U are doubled as there. N hypotheses (of B utterances, neighbours), T states, A
attention size, F filters over J states each. States that are not to be looked at cost nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from asr.kernels import njit_inline, njit_lean

AT_ONCE = 4  # filters in one pass over A numbers


def energies(
    keys: Tensor,
    query: Tensor,
    attended: Tensor,
    outside: Tensor,
    filters: Tensor,
    location: Tensor,
    energy: Tensor,
) -> Tensor:
    """keys (B, T, A), query (N, A), attended (N, T + J - 1), outside (B or N, T) bool, filters
    (F, J), location (F, A), energy (A,), all in single precision -> (N, T), -inf outside."""
    more = -len(filters) % AT_ONCE  # filters of zeros
    filters, location = (functional.pad(part, (0, 0, 0, more)) for part in (filters, location))
    heard, compared = keys.new_empty(len(filters), keys.shape[1]), keys.new_empty(keys.shape[2])
    found = keys.new_empty(len(query), keys.shape[1])
    given = keys, query, attended, outside, filters, location, energy, heard, compared, found
    _energies(*(tensor.detach().contiguous().numpy() for tensor in given))
    return found


@njit_inline
def _tanh_half(z: Any) -> Any:
    """tanh(z / 2) as z·P(z²)/Q(z²), fitted for the least largest error: 4e-7, rounding included."""
    z = min(max(z, np.float32(-17)), np.float32(17))  # beyond it is 1
    y = z * z
    p = np.float32(2.75376357e-11) * y + np.float32(1.65012365e-07)
    p = (p * y + np.float32(0.000110181867)) * y + np.float32(0.0167577579)
    p = p * y + np.float32(0.499999973)
    q = np.float32(3.15376076e-09) * y + np.float32(5.21201765e-06)
    q = (q * y + np.float32(0.00162444607)) * y + np.float32(0.116848794)
    return z * p / (q * y + np.float32(1))


# Sums in any order: vectors of numbers at once.
@partial(njit_lean, fastmath={"reassoc", "contract", "nsz", "arcp"})
def _energies(
    keys: Any,
    query: Any,
    attended: Any,
    outside: Any,
    filters: Any,
    location: Any,
    energy: Any,
    heard: Any,
    compared: Any,
    found: Any,
) -> None:
    found[:] = -np.inf
    for n in range(len(found)):
        b, o = n * len(keys) // len(found), n * len(outside) // len(found)
        first, last = 0, heard.shape[1]
        while first < last and outside[o, first]:
            first += 1
        while first < last and outside[o, last - 1]:
            last -= 1
        for f in range(len(filters)):
            near = heard[f, first:last]
            near[:] = 0
            for j in range(filters.shape[1]):
                weight, seen = filters[f, j], attended[n, first + j :]
                for t in range(len(near)):
                    near[t] += weight * seen[t]
        for t in range(first, last):
            if outside[o, t]:
                continue
            for a in range(len(compared)):
                compared[a] = keys[b, t, a] + query[n, a]
            for f in range(0, len(filters), AT_ONCE):
                w, x, y, z = heard[f, t], heard[f + 1, t], heard[f + 2, t], heard[f + 3, t]
                for a in range(len(compared)):
                    two = w * location[f, a] + x * location[f + 1, a]
                    compared[a] += two + y * location[f + 2, a] + z * location[f + 3, a]
            total = np.float32(0)
            for a in range(len(compared)):
                total += energy[a] * _tanh_half(compared[a])
            found[n, t] = total
