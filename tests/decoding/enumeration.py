"""What tests of the searches enumerate: random outputs, all alignments, all hot words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np


def emissions(frames: int, size: int, rng: np.random.Generator, scale: float = 1.5) -> np.ndarray:
    logits = rng.normal(scale=scale, size=(frames, size))
    return (logits - np.logaddexp.reduce(logits, 1, keepdims=True)).astype(np.float32)


@cache
def alignments(frames: int, size: int) -> tuple[np.ndarray, list[tuple[int, ...]], np.ndarray]:
    """All paths (P, T), the token sequences they collapse to, and which one each path has."""
    paths = np.array(list(itertools.product(range(size), repeat=frames)))
    collapsed = [tuple(k for k, _ in itertools.groupby(path) if k) for path in paths.tolist()]
    sequences = sorted(set(collapsed))
    place = {tokens: i for i, tokens in enumerate(sequences)}
    return paths, sequences, np.array([place[tokens] for tokens in collapsed])


def bonuses(phrases: dict[str, float], words: Sequence[str]) -> float:
    """Of every place where the words of a phrase stand."""
    total = 0.0
    for phrase, bonus in phrases.items():
        wanted = phrase.split()
        for i in range(len(words) - len(wanted) + 1):
            total += bonus if list(words[i : i + len(wanted)]) == wanted else 0.0
    return total
