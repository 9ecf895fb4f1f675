"""What tests of the searches enumerate: random outputs, all alignments, all hot words; tiny LMs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np

WORD_ARPA = r"""\data\
ngram 1=5
ngram 2=4

\1-grams:
-1.5	<unk>	0
-99	<s>	-0.4
-0.7	</s>	0
-0.5	a	-0.3
-0.9	ab	-0.1

\2-grams:
-0.2	<s> a
-0.6	a ab
-0.8	ab </s>
-1.1	a a

\end\
"""
TOKEN_ARPA = r"""\data\
ngram 1=6
ngram 2=3

\1-grams:
-2.0	<unk>	0
-99	<s>	-0.2
-0.6	</s>	0
-0.5	a	-0.3
-0.8	b	-0.1
-0.7	|	-0.2

\2-grams:
-0.3	<s> b
-0.2	b |
-0.9	a a

\end\
"""


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
