"""A Conformer block (Gulati et al. 2020). B utterances, T states, D numbers a state, H heads.

    x = x + ½ FF(x);  x = x + Attention(x);  x = x + Convolution(x);  x = x + ½ FF(x);  LayerNorm

Unlike the paper's it has LayerNorm for BatchNorm, which depends on the batch, and positions that
turn queries and keys (RoFormer, Su et al. 2021) for Transformer-XL's second attention matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.common import LockedDropout

LONGEST = 10000.0  # states in 2π turns of the slowest pair of numbers (Vaswani et al. 2017)


def feed_forward(size: int, dropout: float) -> nn.Sequential:
    enter, leave = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
    return nn.Sequential(nn.LayerNorm(size), enter, nn.SiLU(), LockedDropout(dropout), leave)


class Attention(nn.Module):
    """Every state looks at every one of its utterance, in H heads of D / H numbers."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(size)
        self.project = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x (B, T, D), keep (B, T) bool: within the utterance -> (B, T, D)."""
        split = self.project(self.norm(x)).unflatten(2, (3, self.heads, -1))  # (B, T, 3, H, D / H)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        query, key, keep = rotate(query), rotate(key), keep[:, None, None]
        x = functional.scaled_dot_product_attention(query, key, value, keep)
        mixed: Tensor = self.output(x.transpose(1, 2).flatten(2))
        return mixed


def rotate(x: Tensor) -> Tensor:
    """x (..., T, 2·P), the pair of numbers (p, P + p) at state t turned by t·LONGEST^(-p / P)."""
    states, pairs = x.shape[-2], x.shape[-1] // 2
    # Angles in float64: at state 1000 those of float32 would be wrong by 1e-4.
    place = torch.arange(states, dtype=torch.float64, device=x.device)
    speed = LONGEST ** -(torch.arange(pairs, dtype=torch.float64, device=x.device) / pairs)
    angle = place[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Convolution(nn.Module):
    """LayerNorm, D -> 2·D, gate, each number convolved over time, LayerNorm, swish, D -> D."""

    def __init__(self, size: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.enter = nn.Linear(size, 2 * size)
        self.depthwise = nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=size)
        self.middle = nn.LayerNorm(size)
        self.leave = nn.Linear(size, size)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x (B, T, D), keep (B, T) bool: within the utterance -> (B, T, D)."""
        x = functional.glu(self.enter(self.norm(x)), 2) * keep[:, :, None]
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = self.leave(functional.silu(self.middle(x)))
        return mixed


class Conformer(nn.Module):
    def __init__(self, size: int, heads: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.before = feed_forward(size, dropout)
        self.attention = Attention(size, heads)
        self.convolution = Convolution(size, kernel)
        self.after = feed_forward(size, dropout)
        self.norm = nn.LayerNorm(size)
        self.dropout = LockedDropout(dropout)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x (B, T, D), keep (B, T) bool: within the utterance -> (B, T, D)."""
        x = x + 0.5 * self.dropout(self.before(x))
        x = x + self.dropout(self.attention(x, keep))
        x = x + self.dropout(self.convolution(x, keep))
        x = self.norm(x + 0.5 * self.dropout(self.after(x)))
        return x
